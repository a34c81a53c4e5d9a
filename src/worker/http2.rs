//! One HTTP/2 connection: its reader, its writer and its streams in one task.
//!
//! In each turn of the task what has come is read, every stream that can go on does, and what they have written leaves
//! together. Streams that cannot go on are not looked at.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::conn::{Active, ConnectionOrigin};
use crate::net::duplex::Duplex;
use crate::net::io::{Connect, Interrupt, Io};
use crate::pipeline::drive;
use crate::pipeline::env::{Env, Request, Strain};
use crate::proto::h2::ready::Ready;
use crate::proto::h2::server::{Arrived, Link, Stream, read_all, write_all};
use crate::snapshot::Listener;

/// The futures of a connection's streams, each in the place that its stream has in the table. A place that is left is
/// used again without an allocation.
struct Rooms<F>(Vec<Option<Room<F>>>);

struct Room<F> {
    future: Pin<Box<Option<F>>>,
    waker: Waker,
}

impl<F: Future<Output = ()>> Rooms<F> {
    fn enter(&mut self, at: usize, ready: &Arc<Ready>, future: F) {
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        match &mut self.0[at] {
            Some(room) => room.future.as_mut().set(Some(future)),
            room => *room = Some(Room { future: Box::pin(Some(future)), waker: ready.waker(at) }),
        }
    }

    /// Polls those that want it.
    fn poll(&mut self, marks: [u64; 2]) {
        for (half, mut bits) in marks.into_iter().enumerate() {
            while bits != 0 {
                let at = half * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(Some(room)) = self.0.get_mut(at) else { continue };
                let Some(future) = room.future.as_mut().as_pin_mut() else { continue };
                if future.poll(&mut Context::from_waker(&room.waker)).is_ready() {
                    room.future.as_mut().set(None);
                }
            }
        }
    }
}

/// Rounds over the streams in one turn: what one writes or takes may let another go on.
const ROUNDS_MAX: usize = 8;

/// Serves HTTP/2 on a connection until it ends. `listener` gives the present settings of where it came in. No async
/// function, as those keep each argument twice.
pub fn serve_http2<'e, I: Io, C: Connect>(
    env: &'e Env<C>,
    duplex: Duplex<I>,
    origin: ConnectionOrigin,
    listener: impl Fn() -> Rc<Listener> + 'e,
) -> impl Future<Output = ()> + 'e {
    let Duplex { mut read, mut write, interrupt, early, read_deadline, write_deadline } = duplex;
    let link = Link::new(read_deadline, write_deadline, &env.timers, listener().rules.clone());
    async move {
        let open = Open::new(env, &link);
        let arrivals = RefCell::new(VecDeque::new());
        let mut rooms = Rooms(Vec::new());
        let new = || {
            let mut request = env.take_request();
            origin.enter(&mut request.x);
            request
        };
        let mut reading = pin!(read_all(&mut read, &link, early, &arrivals, new, |request| &mut request.x));
        let mut writing = pin!(write_all(&mut write, &link));
        let mut closing = Closing::No;
        let (mut gone, mut stuck) = (false, false);
        poll_fn(|cx| {
            link.ready.register(cx.waker());
            if !gone && reading.as_mut().poll(cx).is_ready() {
                gone = true;
                link.end_streams();
                if link.is_flooded() {
                    // For what has come with a flood nothing was done yet, and nothing is.
                    arrivals.take().into_iter().for_each(|arrived| env.give_request(arrived.item));
                }
            }
            if link.take_released() {
                // Before a request enters that has come since.
                rooms.0 = Vec::new();
                arrivals.borrow_mut().shrink_to_fit();
            }
            for _ in 0..ROUNDS_MAX {
                while let Some(arrived) = next(env, &link, &arrivals) {
                    let at = arrived.key.slot as usize;
                    link.set_rules(&listener().rules);
                    rooms.enter(at, &link.ready, serve_stream(env, link.clone(), arrived, listener()));
                }
                match link.ready.take() {
                    [0, 0] => break,
                    marks => rooms.poll(marks),
                }
            }
            if closing == Closing::No && link.end_turn(env.draining.get() || listener().is_closed) {
                closing = Closing::Flush;
                link.end_streams();
                rooms.poll(link.ready.take());
            }
            if !stuck && writing.as_mut().poll(cx).is_ready() {
                stuck = true;
                link.end_streams();
                rooms.poll(link.ready.take());
            }
            open.count();
            if let Some(end) = end(&link, &*interrupt, (gone, stuck), &mut closing, cx) {
                return end;
            }
            if link.ready.any() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }
}

/// What the end of a connection has come to, if it has begun. `gone` says that nothing is read any more, `stuck` that
/// nothing is sent.
fn end(
    link: &Link,
    interrupt: &dyn Interrupt,
    (gone, stuck): (bool, bool),
    closing: &mut Closing,
    cx: &Context<'_>,
) -> Option<Poll<()>> {
    let is_flooded = link.is_flooded();
    if is_flooded && !stuck && !end_flood(link, interrupt, gone, closing) {
        return Some(Poll::Pending);
    }
    if gone || stuck || is_flooded {
        return Some(end_of_tunnels(link, interrupt, gone, cx));
    }
    if *closing == Closing::Flush && link.is_flushed() {
        // The client is to read why, and not to have it destroyed by a reset.
        *closing = Closing::Linger;
        interrupt.shutdown(Shutdown::Write);
        link.linger();
    }
    None
}

/// Ends a connection whose client has overdone it: it is told why, as far as the socket takes that at once, and closed.
/// What it has sent meanwhile makes of that a reset, so that its further bytes are the kernel's to refuse. Returns
/// whether that is done; else a send is under way, which has its time.
fn end_flood(link: &Link, interrupt: &dyn Interrupt, has_read: bool, closing: &mut Closing) -> bool {
    if !link.last_words(interrupt) {
        if *closing != Closing::Linger {
            *closing = Closing::Linger;
            link.linger();
        }
        return false;
    }
    if has_read {
        interrupt.spend();
    } else {
        interrupt.shutdown(Shutdown::Both);
    }
    true
}

/// A connection that has broken is over when its tunnels have told their endpoints, and written their log lines.
fn end_of_tunnels(link: &Link, interrupt: &dyn Interrupt, gone: bool, cx: &Context<'_>) -> Poll<()> {
    if link.tunnels() == 0 {
        return Poll::Ready(());
    }
    if !gone {
        interrupt.shutdown(Shutdown::Both);
    }
    if link.ready.any() {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// It has not begun.
    No,
    /// What was written last is to be sent.
    Flush,
    /// Nothing is sent any more; what the client still sends is dropped.
    Linger,
}

type Arrivals = RefCell<VecDeque<Arrived<Box<Request>>>>;

/// The next request that is to be served: one that came with its own reset is not.
fn next<C: Connect>(env: &Env<C>, link: &Link, arrivals: &Arrivals) -> Option<Arrived<Box<Request>>> {
    loop {
        let arrived = arrivals.borrow_mut().pop_front()?;
        if !link.forget_withdrawn(arrived.key) {
            return Some(arrived);
        }
        env.give_request(arrived.item);
    }
}

/// Serves one request.
async fn serve_stream<C: Connect>(
    env: &Env<C>,
    link: Rc<Link>,
    arrived: Arrived<Box<Request>>,
    listener: Rc<Listener>,
) {
    let Arrived { key, item: mut request, refused, malformed, end } = arrived;
    let active = Active::new(&env.active);
    env.stirred.set(true);
    let mut down = Stream::new(&link, key, end, malformed);
    #[cfg(any(debug_assertions, feature = "faults"))]
    super::faults::strike(request.x.request.path());
    let refused = match refused {
        None if env.strain.get() == Strain::Refuse => Some(crate::error::Reason::MemoryShort.into()),
        refused => refused,
    };
    match refused {
        Some(failure) => Box::pin(drive::refuse(&mut down, env, &listener, &mut request, failure)).await,
        None => {
            let gone = poll_fn(|_| link.gone(key).map_or(Poll::Pending, Poll::Ready));
            if let Some(tunnel) = drive::drive_until(&mut down, env, &listener, &mut request, gone).await {
                // Nothing of the request is left, as over HTTP/1.
                drop((active, listener));
                env.give_request(request);
                return tunnel.run_boxed(env, down.into_duplex(&env.timers)).await;
            }
        }
    }
    down.finish();
    drop(active);
    env.give_request(request);
}

/// An open connection, counted until dropped.
struct Open<'e, C: Connect> {
    env: &'e Env<C>,
    link: Rc<Link>,
    /// Its end was counted.
    ended: Cell<bool>,
}

impl<'e, C: Connect> Open<'e, C> {
    fn new(env: &'e Env<C>, link: &Rc<Link>) -> Self {
        env.metrics.borrow().own.h2_connections.inc();
        Self { env, link: link.clone(), ended: Cell::new(false) }
    }

    fn count(&self) {
        if !self.ended.get()
            && let Some(fatal) = self.link.fatal()
        {
            self.ended.set(true);
            self.env.metrics.borrow().own.went_away(fatal.label());
        }
        let Some(counts) = self.link.take_counts() else { return };
        let metrics = self.env.metrics.borrow();
        metrics.own.h2_streams.add(counts.streams as i64);
        metrics.own.h2_resets.add(counts.resets as i64);
        metrics.own.h2_stream_errors.add(counts.resets_made as i64);
    }
}

impl<C: Connect> Drop for Open<'_, C> {
    fn drop(&mut self) {
        self.count();
        self.env.metrics.borrow().own.h2_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::h2::code::{Code, Fatal};
    use crate::telemetry::metrics::instruments::GoAway;

    #[test]
    fn every_end_has_its_label() {
        for &code in Code::ALL {
            assert!(GoAway::WORDS.contains(&Fatal::new(code, "").label()), "{code:?}");
        }
        for why in ["too many resets", "too many tiny DATA frames", "header timeout"] {
            assert_ne!(Fatal::flood(why).label(), "other");
        }
    }
}
