//! Whose handshake is computed next: one in each turn of the worker's loop.
//!
//! A signature with an RSA key takes as long as a hundred small requests. Of the handshakes that are ready together one is
//! computed, then whatever else has come meanwhile is served, then the next: others wait for one of them and not for all.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// How often one whose turn it is lets others go first. The runtime looks for what has come after twice as many polls as
/// tasks were ready, and one: with nothing else ready, after three.
const YIELDS: u32 = 4;

/// Those that wait, in order; the first one is at work.
#[derive(Default)]
pub struct Turns {
    queue: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

/// A place in the order, until dropped.
pub struct Turn<'t> {
    turns: &'t Turns,
    number: u64,
}

impl Turns {
    /// Waits until nobody else is at work, and the loop has turned.
    pub async fn take(&self) -> Turn<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.queue.borrow_mut().push_back((number, None));
        let turn = Turn { turns: self, number };
        let mut yields = 0;
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            let Ok(at) = queue.binary_search_by_key(&number, |(other, _)| *other) else { return Poll::Ready(()) };
            if at > 0 {
                queue[at].1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if yields == YIELDS {
                return Poll::Ready(());
            }
            yields += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.borrow_mut();
        let Ok(at) = queue.binary_search_by_key(&self.number, |(other, _)| *other) else { return };
        queue.remove(at);
        let next = queue.front_mut().filter(|_| at == 0).and_then(|(_, waker)| waker.take());
        if queue.is_empty() {
            // A burst is over.
            queue.shrink_to(16);
        }
        drop(queue);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }

        /// Polls as long as it wants. Returns the turn, if it has come.
        fn run<'t>(self: &Arc<Self>, mut taking: Pin<&mut impl Future<Output = Turn<'t>>>) -> (Option<Turn<'t>>, u32) {
            let waker = Waker::from(self.clone());
            for polls in 1.. {
                if let Poll::Ready(turn) = taking.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return (Some(turn), polls);
                }
                if self.take() == 0 {
                    return (None, polls);
                }
            }
            unreachable!()
        }
    }

    #[test]
    fn one_at_a_time_in_order_and_others_in_between() {
        let turns = Turns::default();
        let (mut a, mut b, mut c, mut d) =
            (pin!(turns.take()), pin!(turns.take()), pin!(turns.take()), Box::pin(turns.take()));
        let all = [(); 4].map(|()| Arc::<Count>::default());
        let (first, polls) = all[0].run(a.as_mut());
        assert!(first.is_some() && polls == YIELDS + 1, "the loop turns before the first, too");
        assert!(all[1].run(b.as_mut()).0.is_none());
        assert!(all[3].run(d.as_mut()).0.is_none());
        assert!(all[2].run(c.as_mut()).0.is_none());
        drop(first);
        assert_eq!([&all[1], &all[2], &all[3]].map(|one| one.take()), [1, 0, 0], "one is woken");
        let (second, polls) = all[1].run(b.as_mut());
        assert!(second.is_some() && polls == YIELDS + 1);
        // Who leaves the queue keeps nobody else waiting.
        drop(d);
        assert_eq!(all[2].take(), 0, "it was not at work");
        drop(second);
        assert_eq!(all[2].take(), 1);
        assert!(all[2].run(c.as_mut()).0.is_some());
    }

    #[test]
    fn one_that_is_given_up_in_its_turn_passes_it_on() {
        let turns = Turns::default();
        let (mut a, mut b) = (Box::pin(turns.take()), pin!(turns.take()));
        let (one, two) = (Arc::<Count>::default(), Arc::<Count>::default());
        assert!(a.as_mut().poll(&mut Context::from_waker(&Waker::from(one))).is_pending());
        assert!(two.run(b.as_mut()).0.is_none());
        drop(a);
        assert_eq!(two.take(), 1);
        assert!(two.run(b.as_mut()).0.is_some());
        assert!(turns.queue.borrow().is_empty());
    }
}
