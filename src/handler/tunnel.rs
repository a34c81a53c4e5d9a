//! The copy loop of a tunnel: two connections whose bytes mean nothing to the gateway, each direction with
//! back-pressure and an end of its own. Used behind a 101, and by whatever passes bytes through later.
//!
//! ```text
//! client ──recv──► one buffer ──send──► upstream      a direction that has waited for a second gives its buffer back
//! client ◄──send── one buffer ◄──recv── upstream      an end on one side ends the other side's receiving direction
//! ```

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES, IDLE_RELEASE_MS};
use crate::net::duplex::Duplex;
use crate::net::io::{Interrupt, Io, ReadHalf, WriteHalf};
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::snapshot::PingRules;
use crate::sys::buf::Buf;
use crate::time::Now;

mod ping;

/// The times of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Without a byte in either direction, in milliseconds.
    pub idle_timeout_ms: u64,
    /// From its opening to its end, in milliseconds.
    pub duration_ms_max: u64,
    /// Pause of a client that does not read, in milliseconds.
    pub client_timeout_ms: u64,
    /// Pause of an endpoint that does not read, in milliseconds.
    pub upstream_timeout_ms: u64,
    /// Pings to a silent side, where the bytes are those of a WebSocket.
    pub ping: Option<PingRules>,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asked for the tunnel.
    Client,
    /// Where it leads.
    Upstream,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions came to their end.
    Closed,
    /// A side broke the connection off.
    Reset(Side),
    /// A side did not read for too long.
    Stalled(Side),
    /// A side did not answer a ping.
    Silent(Side),
    /// No byte passed for too long.
    Idle,
    /// It was open for too long.
    TooLong,
    /// The gateway stops, and the time to drain is over.
    Stopped,
}

/// Carries bytes both ways until both directions have ended, or one breaks. `passed` is told of every piece that left
/// towards a side, with its length in bytes.
pub async fn relay<C: Io, U: Io>(
    client: Duplex<C>,
    upstream: Duplex<U>,
    times: Times,
    timers: &Rc<Timers>,
    passed: &dyn Fn(Side, usize),
) -> Ending {
    if let Some(rules) = times.ping {
        // Boxed: other tunnels have no room for it.
        return Box::pin(ping::relay(client, upstream, times, rules, timers, passed)).await;
    }
    let life = Life::new(timers, client.interrupt.clone(), upstream.interrupt.clone(), times);
    let (client_control, upstream_control) = (client.interrupt.clone(), upstream.interrupt.clone());
    let (client_in, client_out) = ends(Side::Client, client, times.client_timeout_ms);
    let (upstream_in, upstream_out) = ends(Side::Upstream, upstream, times.upstream_timeout_ms);
    let up = pin!(carry(client_in, upstream_out, &life, passed));
    let down = pin!(carry(upstream_in, client_out, &life, passed));
    let (up, down) = both(up, down, &*client_control, &*upstream_control).await;
    let ending = life.ending(up, down);
    pass_on(ending, &*client_control, &*upstream_control);
    ending
}

/// Runs both directions to their ends.
async fn both(
    mut up: Pin<&mut impl Future<Output = Ended>>,
    mut down: Pin<&mut impl Future<Output = Ended>>,
    client: &dyn Interrupt,
    upstream: &dyn Interrupt,
) -> (Ended, Ended) {
    let (mut up_ended, mut down_ended) = (None, None);
    poll_fn(|cx| {
        // A side that is gone sends nothing more for the other one to wait for.
        if up_ended.is_none()
            && let Poll::Ready(ended) = up.as_mut().poll(cx)
        {
            end_other(&ended, upstream);
            up_ended = Some(ended);
        }
        if down_ended.is_none()
            && let Poll::Ready(ended) = down.as_mut().poll(cx)
        {
            end_other(&ended, client);
            down_ended = Some(ended);
        }
        match (up_ended, down_ended) {
            (Some(up), Some(down)) => Poll::Ready((up, down)),
            _ => Poll::Pending,
        }
    })
    .await
}

/// What broke on one side is a break on the other one, too.
fn pass_on(ending: Ending, client: &dyn Interrupt, upstream: &dyn Interrupt) {
    match ending {
        Ending::Reset(Side::Client) | Ending::Stalled(Side::Client) => upstream.reset(),
        Ending::Reset(Side::Upstream) | Ending::Stalled(Side::Upstream) => client.reset(),
        Ending::Silent(Side::Client) => client.reset(),
        Ending::Silent(Side::Upstream) => upstream.reset(),
        _ => {}
    }
}

/// How one direction ended.
type Ended = Result<(), Broken>;

/// What broke a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Receiving from this side failed: it sends nothing more, and will take nothing more.
    Receiving(Side),
    /// Sending to this side failed. What it has sent before may still be on its way to the other.
    Sending(Side),
    /// This side did not read for too long.
    Stalled(Side),
    /// This side did not answer a ping.
    Silent(Side),
}

/// Where the sender of a broken direction is gone, the other direction has nobody left to send to.
fn end_other(ended: &Ended, receiver: &dyn Interrupt) {
    if matches!(ended, Err(Broken::Receiving(_))) {
        // Only its reading, so that a reset can follow.
        receiver.shutdown(Shutdown::Read);
    }
}

/// The times of a tunnel, on one entry of the wheel.
struct Life<'t> {
    deadline: Deadline,
    timers: &'t Timers,
    idle_timeout_ms: u64,
    due: Cell<Now>,
    end: Now,
}

/// Both sides, to be shut together.
struct Both(Rc<dyn Interrupt>, Rc<dyn Interrupt>);

impl Interrupt for Both {
    fn shutdown(&self, how: Shutdown) {
        self.0.shutdown(how);
        self.1.shutdown(how);
    }

    fn release(&self) {
        self.0.release();
        self.1.release();
    }

    fn is_quiet(&self) -> bool {
        self.0.is_quiet() && self.1.is_quiet()
    }

    fn has_left(&self) -> bool {
        self.0.has_left() || self.1.has_left()
    }
}

impl<'t> Life<'t> {
    fn new(timers: &'t Rc<Timers>, one: Rc<dyn Interrupt>, other: Rc<dyn Interrupt>, times: Times) -> Self {
        let deadline = timers.deadline(Rc::new(Both(one, other)));
        let now = timers.now();
        let end = now.plus_ms(times.duration_ms_max);
        let life = Self { deadline, timers, idle_timeout_ms: times.idle_timeout_ms, due: Cell::new(now), end };
        life.touch();
        life
    }

    /// Bytes have passed.
    fn touch(&self) {
        if self.deadline.fired() {
            return;
        }
        let due = self.timers.known_now().plus_ms(self.idle_timeout_ms).min(self.end);
        self.due.set(due);
        self.deadline.arm(due, OnExpiry::EndTunnel);
    }

    fn ending(&self, up: Ended, down: Ended) -> Ending {
        let now = self.timers.known_now();
        if self.deadline.fired() {
            return match () {
                () if now >= self.end => Ending::TooLong,
                () if now >= self.due.get() => Ending::Idle,
                () => Ending::Stopped,
            };
        }
        if let (Err(Broken::Silent(side)), _) | (_, Err(Broken::Silent(side))) = (up, down) {
            return Ending::Silent(side);
        }
        match up.and(down) {
            Ok(()) => Ending::Closed,
            Err(Broken::Receiving(side) | Broken::Sending(side)) => Ending::Reset(side),
            Err(Broken::Silent(side)) => Ending::Silent(side),
            Err(Broken::Stalled(side)) => Ending::Stalled(side),
        }
    }
}

/// Where one direction comes from.
struct Source<R> {
    side: Side,
    read: R,
    deadline: Deadline,
    early: Buf,
    /// The last read filled a small buffer: the next one gets a large one.
    large: bool,
}

/// Where one direction goes to.
struct Sink<W> {
    side: Side,
    write: W,
    deadline: Deadline,
    timeout_ms: u64,
    control: Rc<dyn Interrupt>,
}

fn ends<I: Io>(side: Side, duplex: Duplex<I>, timeout_ms: u64) -> (Source<I::Read>, Sink<I::Write>) {
    let Duplex { read, write, interrupt, read_deadline, write_deadline, early } = duplex;
    let source = Source { side, read, deadline: read_deadline, early, large: false };
    (source, Sink { side, write, deadline: write_deadline, timeout_ms, control: interrupt })
}

/// Carries one direction to its end, and passes the end on.
async fn carry<R: ReadHalf, W: WriteHalf>(
    mut from: Source<R>,
    mut to: Sink<W>,
    life: &Life<'_>,
    passed: &dyn Fn(Side, usize),
) -> Ended {
    let mut buf = std::mem::take(&mut from.early);
    loop {
        while !buf.is_empty() {
            let count;
            (count, buf) = to.send(buf).await?;
            life.touch();
            passed(to.side, count);
        }
        let received = from.next(buf).await;
        match received.map_err(|_| Broken::Receiving(from.side))? {
            Some(more) => buf = more,
            None => break,
        }
        life.touch();
    }
    // A wire with a word for the end says it first; what is wrong with the connection is nothing to act on now.
    let _ = to.write.finish().await;
    to.control.shutdown(Shutdown::Write);
    Ok(())
}

impl<R: ReadHalf> Source<R> {
    /// The next piece; None at the end. A wait of more than [`IDLE_RELEASE_MS`] goes on without a buffer.
    async fn next(&mut self, mut buf: Buf) -> io::Result<Option<Buf>> {
        buf.clear();
        let fits = buf.has_storage() && (!self.large || buf.spare() >= BUF_LARGE_BYTES);
        let buf = if fits { buf } else { self.room() };
        self.deadline.arm_in(IDLE_RELEASE_MS, OnExpiry::Release);
        let (mut count, mut buf) = self.read.recv_idle(buf).await;
        self.deadline.disarm();
        if matches!(&count, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
            drop(buf);
            self.large = false;
            self.read.readable().await?;
            (count, buf) = self.read.recv(self.room()).await;
        }
        let count = count?;
        self.large = count >= BUF_SMALL_BYTES;
        Ok((count > 0).then_some(buf))
    }

    fn room(&self) -> Buf {
        if self.large { Buf::large() } else { Buf::small() }
    }
}

impl<W: WriteHalf> Sink<W> {
    /// Sends a part of the window. Returns how much, and the rest.
    async fn send(&mut self, buf: Buf) -> Result<(usize, Buf), Broken> {
        let mut buf = buf;
        self.deadline.arm_in(self.timeout_ms, OnExpiry::ShutBoth);
        loop {
            let (sent, back) = self.write.send(buf).await;
            buf = back;
            match sent {
                Ok(count) if count > 0 => {
                    self.deadline.disarm();
                    buf.consume(count);
                    return Ok((count, buf));
                }
                // Nothing was sent, and nothing is wrong: the other direction's idle read on this connection was ended.
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !self.deadline.fired() => {}
                _ if self.deadline.fired() => return Err(Broken::Stalled(self.side)),
                _ => return Err(Broken::Sending(self.side)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::task::{Context, Waker};

    use super::*;
    use crate::net::io::send_all;
    use crate::net::mem::{Faults, Mem, pair_with, splitmix};
    use crate::time::Clock;

    pub(super) const TIMES: Times = Times {
        idle_timeout_ms: 60_000,
        duration_ms_max: 600_000,
        client_timeout_ms: 30_000,
        upstream_timeout_ms: 30_000,
        ping: None,
    };

    fn duplex(io: Mem, early: &[u8], timers: &Rc<Timers>) -> Duplex<Mem> {
        let (read, write, interrupt) = io.split();
        let early = if early.is_empty() { Buf::empty() } else { Buf::copy_of(early) };
        Duplex::new(read, write, interrupt, early, timers)
    }

    pub(super) fn text(seed: u64, length: usize) -> Vec<u8> {
        (0..length as u64).map(|at| splitmix(seed ^ at) as u8).collect()
    }

    /// Sends all, ends its direction, and reads to the end: what came, and whether that was an orderly end.
    async fn talk(io: Mem, says: Vec<u8>) -> (Vec<u8>, bool) {
        let (mut read, mut write, _control) = io.split();
        let sending = async move {
            let _ = send_all(&mut write, Buf::copy_of(&says)).await;
        };
        let receiving = async {
            let mut got = Vec::new();
            loop {
                let (count, buf) = read.recv(Buf::small()).await;
                match count {
                    Ok(0) => return (got, true),
                    Ok(_) => got.extend_from_slice(buf.as_slice()),
                    Err(_) => return (got, false),
                }
            }
        };
        let (mut sending, mut receiving) = (Box::pin(sending), Box::pin(receiving));
        let (mut sent, mut got) = (false, None);
        poll_fn(move |cx| {
            // Its end drops its half, which is the end of its direction.
            sent = sent || sending.as_mut().poll(cx).is_ready();
            if got.is_none()
                && let Poll::Ready(all) = receiving.as_mut().poll(cx)
            {
                got = Some(all);
            }
            if sent { got.take().map_or(Poll::Pending, Poll::Ready) } else { Poll::Pending }
        })
        .await
    }

    pub(super) struct Run {
        pub(super) ending: Ending,
        pub(super) at_client: (Vec<u8>, bool),
        pub(super) at_upstream: (Vec<u8>, bool),
        passed: (usize, usize),
    }

    /// A tunnel between two talkers, on a clock that goes on by 10 ms whenever all wait.
    fn run(client_says: &[u8], upstream_says: &[u8], early: &[u8], faults: [Faults; 4]) -> Run {
        run_with(TIMES, client_says, upstream_says, early, faults)
    }

    pub(super) fn run_with(
        times: Times,
        client_says: &[u8],
        upstream_says: &[u8],
        early: &[u8],
        faults: [Faults; 4],
    ) -> Run {
        let now = Rc::new(Cell::new(Now::from_ms(1)));
        let timers = Timers::new(Clock::Virtual(now.clone()));
        let [to_gateway, to_client, from_upstream, to_upstream] = faults;
        let (client, near) = pair_with(64, to_client, to_gateway);
        let (far, upstream) = pair_with(64, from_upstream, to_upstream);
        let passed = RefCell::new((0, 0));
        let count = |to, bytes| match to {
            Side::Upstream => passed.borrow_mut().0 += bytes,
            Side::Client => passed.borrow_mut().1 += bytes,
        };
        let (near, far) = (duplex(near, early, &timers), duplex(far, b"", &timers));
        let mut tunnel = Box::pin(relay(near, far, times, &timers, &count));
        let mut client = Box::pin(talk(client, client_says.to_vec()));
        let mut upstream = Box::pin(talk(upstream, upstream_says.to_vec()));
        let (mut ending, mut at_client, mut at_upstream) = (None, None, None);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..200_000 {
            if ending.is_none()
                && let Poll::Ready(how) = tunnel.as_mut().poll(&mut cx)
            {
                ending = Some(how);
                tunnel = Box::pin(relay(
                    duplex(pair_with(1, Faults::NONE, Faults::NONE).0, b"", &timers),
                    duplex(pair_with(1, Faults::NONE, Faults::NONE).0, b"", &timers),
                    times,
                    &timers,
                    &count,
                ));
            }
            if at_client.is_none()
                && let Poll::Ready(got) = client.as_mut().poll(&mut cx)
            {
                at_client = Some(got);
            }
            if at_upstream.is_none()
                && let Poll::Ready(got) = upstream.as_mut().poll(&mut cx)
            {
                at_upstream = Some(got);
            }
            if ending.is_some() && at_client.is_some() && at_upstream.is_some() {
                break;
            }
            now.set(now.get().plus_ms(10));
            timers.advance(now.get());
        }
        let passed = *passed.borrow();
        let whole = |got: Option<_>| got.expect("everything ends");
        Run {
            ending: ending.expect("the tunnel ends"),
            at_client: whole(at_client),
            at_upstream: whole(at_upstream),
            passed,
        }
    }

    pub(super) fn torn(seed: u64) -> Faults {
        Faults { seed: splitmix(seed), read_bytes_max: 7, write_bytes_max: 5, delay_one_in: 3, reset_after_bytes: None }
    }

    #[test]
    fn every_byte_arrives_in_order_whatever_tears_it() {
        for seed in 0..60 {
            let (up, down) = (text(seed, 900), text(!seed, 1300));
            let faults = [0, 1, 2, 3].map(|side| torn(seed * 4 + side));
            let run = run(&up, &down, b"early", faults);
            assert_eq!(run.ending, Ending::Closed, "seed {seed}");
            assert_eq!(run.at_upstream, ([&b"early"[..], &up].concat(), true), "seed {seed}");
            assert_eq!(run.at_client, (down, true), "seed {seed}");
            assert_eq!(run.passed, (905, 1300));
        }
    }

    #[test]
    fn a_reset_at_any_byte_ends_both_sides() {
        let (up, down) = (text(1, 200), text(2, 200));
        for at in 0..200 {
            let reset = Faults { reset_after_bytes: Some(at), ..torn(at as u64) };
            let by_client = run(&up, &down, b"", [reset.clone(), torn(1), torn(2), torn(3)]);
            assert_eq!(by_client.ending, Ending::Reset(Side::Client), "at {at}");
            // The last read before the reset brings up to seven bytes.
            assert!(up.starts_with(&by_client.at_upstream.0) && by_client.at_upstream.0.len() < at + 7);
            let by_upstream = run(&up, &down, b"", [torn(1), torn(2), reset, torn(3)]);
            assert_eq!(by_upstream.ending, Ending::Reset(Side::Upstream), "at {at}");
            assert!(down.starts_with(&by_upstream.at_client.0) && by_upstream.at_client.0.len() < at + 7);
        }
    }
}
