//! The two ends of a connection that touch its socket.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::Poll;

use super::link::{Arrived, Inner, Link, RESET_BY_CLIENT};
use crate::error::{Failure, Reason};
use crate::http::exchange::Exchange;
use crate::limits::DRAIN_BODY_BYTES_MAX;
use crate::net::io::{ReadHalf, WriteHalf};
use crate::net::pace::Pace;
use crate::proto::h2::code::Code;
use crate::proto::h2::core::{Event, Key};
use crate::proto::h2::head::{self, Refusal};
use crate::proto::h2::hpack::decode::Fault;
use crate::proto::h2::input::Input;
use crate::sys::buf::Buf;

/// How reading or writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed.
    Closed,
    /// The client broke the rules of the wire; GOAWAY is ready to be sent.
    Broken,
    /// The client does not take what is sent.
    Stalled,
}

/// Where new requests go.
pub type Arrivals<T> = RefCell<VecDeque<Arrived<T>>>;

/// Reads until the connection ends, or the client has overdone it: what it still sends then is not looked at. `early`
/// has been read already. `new` makes what is kept for a request, `exchange` finds its exchange.
pub async fn read_all<R: ReadHalf, T>(
    read: &mut R,
    link: &Link,
    early: Buf,
    arrivals: &Arrivals<T>,
    new: impl Fn() -> T,
    exchange: impl Fn(&mut T) -> &mut Exchange,
) -> End {
    let mut input = Input::new(early);
    let mut dropped = None;
    loop {
        if !input.buf.is_empty() {
            match &mut dropped {
                None if take_events(link, &mut input.buf, arrivals, &new, &exchange).is_ok() => {}
                None if link.is_flooded() => return End::Broken,
                // It is over: what still comes is dropped, so that the client can read why.
                None => dropped = Some(0),
                Some(bytes) if *bytes > DRAIN_BODY_BYTES_MAX => return End::Broken,
                Some(bytes) => *bytes += input.buf.len() as u64,
            }
            if dropped.is_some() {
                input.buf.clear();
            }
        }
        link.look_after_tunnels();
        let wanted = link.inner.borrow().core.wanted_bytes();
        let (count, back) = read.recv_idle(input.lend(wanted)).await;
        input.buf = back;
        match count {
            Ok(0) => return End::Closed,
            Ok(count) => input.filled(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                if input.buf.is_empty() && link.is_quiet() {
                    // Idle: no buffer until there is something to read.
                    input.buf = Buf::empty();
                    link.set_released();
                    if read.readable().await.is_err() {
                        return End::Closed;
                    }
                }
            }
            Err(_) => return End::Closed,
        }
        link.timers.now();
    }
}

fn take_events<T>(
    link: &Link,
    input: &mut Buf,
    arrivals: &Arrivals<T>,
    new: &impl Fn() -> T,
    exchange: &impl Fn(&mut T) -> &mut Exchange,
) -> Result<(), ()> {
    let now = link.timers.known_now();
    loop {
        let received = link.inner.borrow_mut().core.receive(input, now);
        let event = match received {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(fatal) => {
                link.inner.borrow_mut().give_up(fatal);
                return Err(());
            }
        };
        match event {
            Event::Head { key, end, fault } => {
                let arrived = arrive(link, key, end, fault, new, exchange);
                arrivals.borrow_mut().push_back(arrived);
            }
            Event::Trailers { key, fault } => trailers(link, key, fault)?,
            Event::Data { key, data, end } => link.push_body(key, data, end, None),
            Event::Reset { key, code, by_peer } => reset(link, key, code, by_peer),
            Event::Window(key) => link.windows_widened(key),
            Event::Connected => link.connected(),
            Event::Pong(payload) => link.ponged(payload),
            // The client will open no more; what it has opened is served.
            Event::GoAway { .. } => {}
        }
    }
    link.set_in_block(!input.is_empty() || link.inner.borrow().core.is_in_block());
    Ok(())
}

fn arrive<T>(
    link: &Link,
    key: Key,
    end: bool,
    fault: Option<Fault>,
    new: &impl Fn() -> T,
    exchange: &impl Fn(&mut T) -> &mut Exchange,
) -> Arrived<T> {
    let rules = link.rules();
    let mut item = new();
    let x = exchange(&mut item);
    x.started = link.timers.known_now();
    x.peer_is_trusted = rules.trusts(x.peer.ip());
    let mut inner = link.inner.borrow_mut();
    let taken = head::request(inner.core.section(), fault, end, rules.path_policy, rules.head.target_bytes_max, x);
    if let crate::http::message::BodyLength::Known(bytes) = x.request.body
        && !end
    {
        inner.core.expect_bytes(key, bytes);
    }
    drop(inner);
    link.begin_stream(key, end, x.request.upgrade.is_some());
    let malformed = matches!(taken, Err(Refusal::Malformed(_)));
    Arrived { key, item, refused: taken.err().map(Refusal::failure), malformed, end }
}

fn trailers(link: &Link, key: Key, fault: Option<Fault>) -> Result<(), ()> {
    let is_tunnel = link.is_tunnel(key);
    let mut inner = link.inner.borrow_mut();
    let taken = head::trailers(inner.core.section(), fault);
    match taken {
        // RFC 9113 section 8.5.
        _ if is_tunnel => refuse(link, inner, key, "fields in a tunnel"),
        Ok(trailers) => {
            drop(inner);
            link.push_body(key, Buf::empty(), true, trailers);
            Ok(())
        }
        Err(what) => refuse(link, inner, key, what),
    }
}

/// Resets a stream whose message is malformed.
fn refuse(link: &Link, mut inner: RefMut<'_, Inner>, key: Key, what: &'static str) -> Result<(), ()> {
    inner.counts.resets_made += 1;
    let refused = inner.core.refuse(key, Code::Protocol, link.timers.known_now());
    if let Err(fatal) = refused {
        inner.give_up(fatal);
        return Err(());
    }
    drop(inner);
    link.set_gone(key, Failure::with(Reason::BadHeader, what));
    Ok(())
}

fn reset(link: &Link, key: Key, code: Code, by_peer: bool) {
    {
        let counts = &mut link.inner.borrow_mut().counts;
        let count = if by_peer { &mut counts.resets } else { &mut counts.resets_made };
        *count += 1;
    }
    let detail = if by_peer { RESET_BY_CLIENT } else { "stream error" };
    let reason = if by_peer || code != Code::Protocol { Reason::ClientClosed } else { Reason::BadFraming };
    link.set_gone(key, Failure::with(reason, detail));
}

/// Sends what is ready, in each turn of the connection. It never ends but by an error.
pub async fn write_all<W: WriteHalf>(write: &mut W, link: &Link) -> End {
    let rules = link.rules();
    let mut pace = Pace::new(rules.write_rate.bytes_per_s, rules.write_rate.grace_ms);
    let deadline = &link.write_deadline;
    loop {
        // Nobody wakes this: it is polled behind all that write.
        let mut buf = poll_fn(|_| link.take_output().map_or(Poll::Pending, Poll::Ready)).await;
        link.sending.set(true);
        while !buf.is_empty() {
            deadline.arm_watched(rules.first_look_ms());
            let asked = deadline.known_now();
            let (sent, back) = write.send(buf).await;
            buf = back;
            match sent {
                Ok(count) if count > 0 => {
                    buf.consume(count);
                    let waited_ns = deadline.known_now().since_ns(asked);
                    if !pace.keeps_up(waited_ns, count) && !buf.is_empty() {
                        return End::Stalled;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ if deadline.fired() => return End::Stalled,
                _ => return End::Closed,
            }
        }
        deadline.disarm();
        link.sending.set(false);
    }
}
