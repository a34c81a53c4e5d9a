//! A tunnel of WebSocket frames in which the gateway asks a silent side whether it is still there.
//!
//! Bytes pass as in any tunnel. Of the frames only the heads are followed, so that a ping stands between two of them;
//! the pong goes on to the other side, which may get one unasked (RFC 6455 section 5.5.3).

use std::cell::Cell;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::super::nap::Sleeper;
use super::{Broken, Ended, Ending, Life, Side, Sink, Source, Times, both, ends, pass_on};
use crate::net::duplex::Duplex;
use crate::net::io::{Io, ReadHalf, WriteHalf};
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::proto::websocket::{self, Frames};
use crate::snapshot::PingRules;
use crate::sys::buf::Buf;

/// What the other side is told of a silent one (RFC 6455 section 7.4.1: 1011 is a server that cannot go on).
const CLOSE: (u16, &str) = (1011, "the other side does not answer pings");

/// As [`super::relay`], with pings.
pub(super) async fn relay<C: Io, U: Io>(
    client: Duplex<C>,
    upstream: Duplex<U>,
    times: Times,
    rules: PingRules,
    timers: &Rc<Timers>,
    passed: &dyn Fn(Side, usize),
) -> Ending {
    let life = Life::new(timers, client.interrupt.clone(), upstream.interrupt.clone(), times);
    let (client_control, upstream_control) = (client.interrupt.clone(), upstream.interrupt.clone());
    let (client_in, client_out) = ends(Side::Client, client, times.client_timeout_ms);
    let (upstream_in, upstream_out) = ends(Side::Upstream, upstream, times.upstream_timeout_ms);
    let (near, far) = (Watch::new(timers, rules), Watch::new(timers, rules));
    let up = pin!(carry(client_in, upstream_out, &life, &near, &far, passed));
    let down = pin!(carry(upstream_in, client_out, &life, &far, &near, passed));
    let (up, down) = both(up, down, &*client_control, &*upstream_control).await;
    let ending = life.ending(up, down);
    pass_on(ending, &*client_control, &*upstream_control);
    ending
}

/// Watches whether a side is heard of.
struct Watch<'t> {
    timers: &'t Timers,
    rules: PingRules,
    sleeper: Rc<Sleeper>,
    deadline: Deadline,
    /// It was sent a ping, and has been silent since.
    asked: Cell<bool>,
    /// It did not answer.
    is_dead: Cell<bool>,
}

impl<'t> Watch<'t> {
    fn new(timers: &'t Rc<Timers>, rules: PingRules) -> Self {
        let sleeper = Rc::<Sleeper>::default();
        let deadline = timers.deadline(sleeper.clone());
        let watch = Self { timers, rules, sleeper, deadline, asked: Cell::new(false), is_dead: Cell::new(false) };
        watch.heard();
        watch
    }

    /// Something has come from it.
    fn heard(&self) {
        self.asked.set(false);
        self.look_again_in(self.rules.interval_ms);
    }

    fn look_again_in(&self, ms: u64) {
        self.sleeper.begin_anew();
        self.deadline.arm(self.timers.known_now().plus_ms(ms), OnExpiry::ShutBoth);
    }

    /// It sends nothing more, and has said so.
    fn stop(&self) {
        self.sleeper.begin_anew();
        self.deadline.disarm();
    }

    /// Whether it is time to look after it.
    fn poll_due(&self, cx: &Context<'_>) -> Poll<()> {
        self.sleeper.poll_over(cx)
    }

    /// A mask for what goes to a server. Its payload is known to everybody, so there is nothing to hide.
    fn mask(&self, side: Side) -> Option<[u8; 4]> {
        (side == Side::Upstream).then(|| (self.timers.known_now().0 as u32).to_be_bytes())
    }
}

/// Carries one direction to its end, and passes the end on. `source` is who sends, `sink` is who is asked here.
async fn carry<R: ReadHalf, W: WriteHalf>(
    mut from: Source<R>,
    mut to: Sink<W>,
    life: &Life<'_>,
    source: &Watch<'_>,
    sink: &Watch<'_>,
    passed: &dyn Fn(Side, usize),
) -> Ended {
    let mut frames = Frames::default();
    let mut buf = std::mem::take(&mut from.early);
    loop {
        frames.pass(buf.as_slice());
        while !buf.is_empty() {
            let count;
            (count, buf) = to.send(buf).await?;
            life.touch();
            passed(to.side, count);
        }
        let received = {
            let mut receiving = pin!(from.next(buf));
            loop {
                // Nothing is sent meanwhile, and what was sent ended in a whole frame or did not.
                let received = poll_fn(|cx| match receiving.as_mut().poll(cx) {
                    Poll::Ready(received) => Poll::Ready(Some(received)),
                    Poll::Pending => sink.poll_due(cx).map(|()| None),
                });
                match received.await {
                    Some(received) => break received,
                    None => ask(&mut to, sink, &frames).await?,
                }
            }
        };
        match received.map_err(|_| Broken::Receiving(from.side))? {
            Some(more) => buf = more,
            None => break,
        }
        source.heard();
        life.touch();
    }
    source.stop();
    if source.is_dead.get() && frames.is_between() {
        let (status, reason) = CLOSE;
        // Who cannot be told sees the end.
        let close = websocket::close(status, reason, sink.mask(to.side));
        let _ = say(&mut to, &close).await;
    }
    let _ = to.write.finish().await;
    to.control.shutdown(Shutdown::Write);
    Ok(())
}

/// Looks after a silent side: it is sent a ping, or given up.
async fn ask<W: WriteHalf>(to: &mut Sink<W>, watch: &Watch<'_>, frames: &Frames) -> Ended {
    if watch.asked.get() {
        watch.is_dead.set(true);
        watch.stop();
        // The direction that reads from it ends, and tells the other side why.
        to.control.shutdown(Shutdown::Both);
        return Err(Broken::Silent(to.side));
    }
    if !frames.is_between() {
        watch.look_again_in(watch.rules.interval_ms);
        return Ok(());
    }
    // Before it is sent, as the answer may be there before the sending has ended.
    watch.asked.set(true);
    watch.look_again_in(watch.rules.timeout_ms);
    say(to, &websocket::ping(watch.mask(to.side))).await
}

/// Sends a frame of the gateway's own. It counts as nothing that passes.
async fn say<W: WriteHalf>(to: &mut Sink<W>, frame: &[u8]) -> Ended {
    let mut buf = Buf::copy_of(frame);
    while !buf.is_empty() {
        (_, buf) = to.send(buf).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TIMES, run_with, text, torn};
    use super::*;
    use crate::net::mem::splitmix;

    /// Frames of all kinds and sizes, whose payloads look like anything.
    fn frames(seed: u64, masked: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in 0..12 {
            let draw = splitmix(seed ^ at);
            let size = [0, 1, 20, 125, 126, 300][draw as usize % 6];
            let mask = if masked { 0x80 } else { 0 };
            bytes.push([0x81, 0x02, 0x80, 0x8a][(draw >> 8) as usize % 4]);
            match size {
                0..126 => bytes.push(mask | size as u8),
                _ => {
                    bytes.push(mask | 126);
                    bytes.extend((size as u16).to_be_bytes());
                }
            }
            bytes.extend(text(draw, if masked { 4 } else { 0 } + size));
        }
        bytes
    }

    /// What is left without pings, and how many there were. The frames are read as a peer reads them.
    fn without_pings(mut bytes: &[u8]) -> (Vec<u8>, usize) {
        let (mut rest, mut pings) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let short = usize::from(bytes[1] & 0x7f);
            let (head, payload) = match short {
                126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                short => (2, short),
            };
            let mask = if bytes[1] & 0x80 != 0 { 4 } else { 0 };
            let (frame, more) = bytes.split_at(head + mask + payload);
            if frame[0] == 0x89 {
                pings += 1;
            } else {
                rest.extend_from_slice(frame);
            }
            bytes = more;
        }
        (rest, pings)
    }

    #[test]
    fn pings_stand_between_frames_whatever_tears_them() {
        let ping = Some(PingRules { interval_ms: 30, timeout_ms: 100_000_000 });
        let times = Times { ping, idle_timeout_ms: 100_000_000, duration_ms_max: 100_000_000, ..TIMES };
        let mut sent = (0, 0);
        for seed in 0..60 {
            let (up, down) = (frames(seed, true), frames(!seed, false));
            let faults = [0, 1, 2, 3].map(|side| torn(seed * 4 + side));
            let run = run_with(times, &up, &down, b"", faults);
            assert_eq!(run.ending, Ending::Closed, "seed {seed}");
            let (at_upstream, far_pings) = without_pings(&run.at_upstream.0);
            let (at_client, near_pings) = without_pings(&run.at_client.0);
            assert!(at_upstream == up && at_client == down, "seed {seed}");
            sent = (sent.0 + near_pings, sent.1 + far_pings);
        }
        assert!(sent.0 > 0 && sent.1 > 0, "there were some: {sent:?}");
    }
}
