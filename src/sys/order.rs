//! Which of two operations on one connection ended first, by the order in which the system tells of their ends.
//!
//! A ring tells of ends in the order in which they came to pass. The runtime hands them on in that order, by waking who
//! waits; but tasks run later, when all are there, and then nothing tells the order any more. So it is noted by the
//! wakers themselves.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::thread::ThreadId;

/// The order of a read and a send that are under way together. Of one thread, as all that it waits for.
pub struct Order {
    task: RefCell<Option<Waker>>,
    is_sent: Cell<bool>,
    read_was_first: Cell<bool>,
    owner: ThreadId,
}

impl Default for Order {
    fn default() -> Self {
        let (is_sent, read_was_first) = (Cell::new(false), Cell::new(false));
        Self { task: RefCell::new(None), is_sent, read_was_first, owner: std::thread::current().id() }
    }
}

impl Order {
    /// Another read and another send begin.
    pub fn begin(&self) {
        self.is_sent.set(false);
        self.read_was_first.set(false);
    }

    /// Polls the read for the task of `cx`.
    #[inline]
    pub fn poll_read<F: Future>(self: &Rc<Self>, read: Pin<&mut F>, cx: &Context<'_>) -> Poll<F::Output> {
        let known = self.task.borrow().as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !known {
            self.task.replace(Some(cx.waker().clone()));
        }
        let waker = self.waker(&READ);
        read.poll(&mut Context::from_waker(&waker))
    }

    /// Polls the send once. Nobody is woken by its end.
    #[inline]
    pub fn poll_send<F: Future>(self: &Rc<Self>, send: Pin<&mut F>) -> Poll<F::Output> {
        let waker = self.waker(&SEND);
        let polled = send.poll(&mut Context::from_waker(&waker));
        self.is_sent.set(self.is_sent.get() || polled.is_ready());
        polled
    }

    /// Whether the read had something before the send was done.
    pub fn read_was_first(&self) -> bool {
        self.read_was_first.get()
    }

    fn waker(self: &Rc<Self>, table: &'static RawWakerVTable) -> Waker {
        let data = Rc::into_raw(self.clone()).cast();
        // SAFETY: the functions of both tables take such a pointer, which holds a count of its own. They are not safe
        // to be called by another thread: the wakers go to operations of this thread alone, which its driver and its
        // timers keep, and neither hands them out. Debug builds check it.
        unsafe { Waker::from_raw(RawWaker::new(data, table)) }
    }

    /// The order behind a waker's pointer, without its count.
    ///
    /// # Safety
    /// The pointer is one of [`Self::waker`], and the caller's own count of it is not given up meanwhile.
    unsafe fn of(data: *const ()) -> ManuallyDrop<Rc<Self>> {
        // SAFETY: as the caller promises; ManuallyDrop leaves the count as it is.
        let order = ManuallyDrop::new(unsafe { Rc::from_raw(data.cast::<Self>()) });
        debug_assert_eq!(order.owner, std::thread::current().id(), "wakers stay on their thread");
        order
    }

    /// One of the two has an end.
    fn note(&self, is_send: bool) {
        if is_send {
            self.is_sent.set(true);
            return;
        }
        if !self.is_sent.get() {
            self.read_was_first.set(true);
        }
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

static READ: RawWakerVTable = RawWakerVTable::new(cloned::<false>, wake::<false>, wake_by_ref::<false>, release);
static SEND: RawWakerVTable = RawWakerVTable::new(cloned::<true>, wake::<true>, wake_by_ref::<true>, release);

/// # Safety
/// As [`Order::of`].
unsafe fn cloned<const IS_SEND: bool>(data: *const ()) -> RawWaker {
    // SAFETY: as the caller promises.
    let order = unsafe { Order::of(data) };
    let table = if IS_SEND { &SEND } else { &READ };
    RawWaker::new(Rc::into_raw(Rc::clone(&order)).cast(), table)
}

/// # Safety
/// As [`Order::of`]; the count is given up here.
unsafe fn wake<const IS_SEND: bool>(data: *const ()) {
    // SAFETY: as the caller promises; the count is given up once, at the end.
    unsafe {
        Order::of(data).note(IS_SEND);
        release(data);
    }
}

/// # Safety
/// As [`Order::of`].
unsafe fn wake_by_ref<const IS_SEND: bool>(data: *const ()) {
    // SAFETY: as the caller promises.
    unsafe { Order::of(data) }.note(IS_SEND);
}

/// # Safety
/// As [`Order::of`]; the count is given up here.
unsafe fn release(data: *const ()) {
    // SAFETY: as the caller promises.
    drop(ManuallyDrop::into_inner(unsafe { Order::of(data) }));
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;

    use super::*;
    use crate::sys::buf::Buf;
    use crate::sys::ring::{Driver, WorkerRuntime};
    use crate::sys::stream::SharedStream;

    fn connected() -> (Rc<SharedStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (near, _) = listener.accept().expect("accepted");
        near.set_nonblocking(monoio::utils::is_legacy()).expect("set");
        far.set_nodelay(true).expect("set");
        (SharedStream::new(monoio::net::TcpStream::from_std(near).expect("adopted")), far)
    }

    /// Begins a read, then a send, as for a request on a kept connection; whether the read was first.
    async fn exchange(stream: &SharedStream, order: &Rc<Order>, request: &[u8]) -> bool {
        // On epoll the runtime must have heard that there is room, or the first poll of a send does nothing.
        stream.writable().await.expect("room");
        order.begin();
        let mut read = pin!(stream.recv(Buf::small()));
        let mut send = pin!(stream.send(Buf::copy_of(request)));
        let mut begun = false;
        let (count, _) = std::future::poll_fn(|cx| {
            let polled = order.poll_read(read.as_mut(), cx);
            if !begun {
                begun = true;
                if polled.is_ready() {
                    order.read_was_first.set(true);
                    return polled;
                }
                let _ = order.poll_send(send.as_mut());
            }
            polled
        })
        .await;
        assert!(count.expect("read") > 0);
        order.read_was_first()
    }

    fn on_each_driver(test: impl AsyncFn() + Copy + Send + 'static) {
        for first in [Driver::RingDeferTaskrun, Driver::Ring, Driver::Epoll] {
            let thread = std::thread::spawn(move || {
                let (mut runtime, ..) = WorkerRuntime::build(first, 64).expect("a runtime");
                runtime.block_on(test());
            });
            thread.join().expect("the thread ends well");
        }
    }

    #[test]
    fn what_lies_there_before_a_send_is_seen_to_be_first() {
        on_each_driver(async || {
            for _ in 0..100 {
                let (stream, mut far) = connected();
                far.write_all(b"unasked").expect("sent");
                while stream.is_quiet() {
                    std::thread::yield_now();
                }
                // On epoll the runtime must have heard of it.
                stream.readable().await.expect("readable");
                assert!(exchange(&stream, &Rc::default(), b"request").await);
            }
        });
    }

    #[test]
    fn an_answer_is_never_first_however_fast_it_comes() {
        on_each_driver(async || {
            let (stream, mut far) = connected();
            let echo = std::thread::spawn(move || {
                let mut request = [0; 1024];
                while let Ok(count @ 1..) = far.read(&mut request) {
                    far.write_all(&request[..count]).expect("sent");
                }
            });
            let order = Rc::default();
            for round in 0..300 {
                assert!(!exchange(&stream, &order, b"request").await, "round {round}");
            }
            stream.shutdown(std::net::Shutdown::Both);
            echo.join().expect("the far end ends well");
            assert_eq!(Rc::strong_count(&order), 1, "every waker was given back");
        });
    }

    #[test]
    fn wakers_are_counted() {
        let order = Rc::<Order>::default();
        order.begin();
        let (read, send) = (order.waker(&READ), order.waker(&SEND));
        let again = read.clone();
        assert!(read.will_wake(&again) && !read.will_wake(&send));
        read.wake();
        assert!(order.read_was_first());
        order.begin();
        send.wake_by_ref();
        again.wake_by_ref();
        assert!(!order.read_was_first());
        drop((again, send));
        assert_eq!(Rc::strong_count(&order), 1);
    }
}
