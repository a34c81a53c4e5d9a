//! The task of a connection: it reads and writes for all streams, until the connection ends.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use super::link::{Link, Rules};
use crate::error::{Failure, Reason};
use crate::net::io::{Io, ReadHalf, WriteHalf};
use crate::net::timer::{OnExpiry, Timers};
use crate::proto::h2::input::Input;
use crate::sys::buf::Buf;

/// Takes over a connected stream. Returns the connection, and the task that must run for it. `on_room` is called
/// whenever there may be room for another stream, or never more.
pub fn start<I: Io>(
    io: I,
    timers: &Rc<Timers>,
    rules: Rules,
    on_room: Box<dyn Fn()>,
) -> (Rc<Link>, Pin<Box<dyn Future<Output = ()>>>) {
    let (read, write, interrupt) = io.split();
    let link = Rc::new(Link::new(interrupt, timers, rules, on_room));
    let task = Box::pin(guarded(link.clone(), read, write));
    (link, task)
}

/// A panic costs this connection only.
async fn guarded<R: ReadHalf, W: WriteHalf>(link: Rc<Link>, read: R, write: W) {
    let mut running = pin!(run(&link, read, write));
    let ended = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(())),
    });
    if ended.await.is_err() {
        link.read_deadline.expire();
        link.die(Reason::Internal.into());
    }
}

/// Both directions. The one that ends first ends the other, which is awaited: no read in flight is dropped.
async fn run<R: ReadHalf, W: WriteHalf>(link: &Link, mut read: R, mut write: W) {
    let mut reading = pin!(read_all(&mut read, link));
    let mut writing = pin!(write_all(&mut write, link));
    let (mut is_read, mut is_written) = (false, false);
    poll_fn(|cx| {
        if !is_read && reading.as_mut().poll(cx).is_ready() {
            is_read = true;
        }
        if !is_written && writing.as_mut().poll(cx).is_ready() {
            is_written = true;
            link.read_deadline.target().shutdown(Shutdown::Both);
            if !is_read && reading.as_mut().poll(cx).is_ready() {
                is_read = true;
            }
        }
        if is_read && is_written { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    link.die(Reason::UpstreamClosed.into());
}

async fn read_all<R: ReadHalf>(read: &mut R, link: &Link) {
    let mut input = Input::new(Buf::empty());
    loop {
        let (count, back) = read.recv_idle(input.lend(link.wanted_bytes())).await;
        input.buf = back;
        match count {
            Ok(0) => return link.die(Reason::UpstreamClosed.into()),
            Ok(count) => input.filled(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                if input.buf.is_empty() && link.is_idle() {
                    // Idle: no buffer until there is something to read.
                    input.buf = Buf::empty();
                    link.stay_on_wheel();
                    if read.readable().await.is_err() {
                        return link.die(Reason::UpstreamReset.into());
                    }
                }
                continue;
            }
            Err(_) => return link.die(Reason::UpstreamReset.into()),
        }
        if !link.take_input(&mut input.buf) {
            return;
        }
    }
}

async fn write_all<W: WriteHalf>(write: &mut W, link: &Link) {
    let deadline = &link.write_deadline;
    while let Some(mut buf) = poll_fn(|cx| link.poll_output(cx)).await {
        while !buf.is_empty() {
            deadline.arm_in(link.send_timeout_ms(), OnExpiry::ShutBoth);
            let (sent, back) = write.send(buf).await;
            buf = back;
            match sent {
                Ok(count) if count > 0 => buf.consume(count),
                Err(error) if error.kind() == ErrorKind::Interrupted && !deadline.fired() => {}
                _ if deadline.fired() => {
                    return link.die(Failure::with(Reason::UpstreamTimeout, "endpoint does not read"));
                }
                _ => return link.die(Failure::with(Reason::UpstreamReset, "sending failed")),
            }
        }
        deadline.disarm();
    }
}
