//! A request body that is held while it is passed on, so that it can be sent again (C50): within its bound, or not at
//! all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::error::Failure;
use crate::http::body::Chunk;
use crate::http::downstream::{RequestBody, Rest};
use crate::http::exchange::Exchange;
use crate::http::fields::Fields;
use crate::limits::BUF_SMALL_BYTES;
use crate::net::splice::End;
use crate::sys::buf::Buf;

/// Takes a copy of a body that was passed on, once: all of it, or nothing where it is longer than the bound or has
/// trailers. What is dropped untold never came to its end.
pub struct Tap {
    /// The longest body that is told, in bytes.
    pub bytes_max: usize,
    told: Cell<Option<Box<Told>>>,
}

/// What is done with a copy.
type Told = dyn FnOnce(Option<Vec<u8>>);

impl Tap {
    /// Tells `told`.
    pub fn new(bytes_max: usize, told: impl FnOnce(Option<Vec<u8>>) + 'static) -> Self {
        Self { bytes_max, told: Cell::new(Some(Box::new(told))) }
    }

    /// The whole body, or nothing where there is no copy.
    pub fn tell(&self, body: Option<&[u8]>) {
        if let Some(told) = self.told.take() {
            told(body.filter(|body| body.len() <= self.bytes_max).map(<[u8]>::to_vec));
        }
    }
}

/// What was passed on of a body.
#[derive(Default)]
pub struct Held {
    bytes: RefCell<Vec<u8>>,
    trailers: RefCell<Option<Box<Fields>>>,
    bytes_max: usize,
    /// More came than may be held, or something that cannot be.
    is_over: Cell<bool>,
    /// The end was passed on.
    ended: Cell<bool>,
    /// From where on it is still to be sent again.
    again_from: Cell<Option<usize>>,
    /// Who gets a copy.
    tap: Option<Rc<Tap>>,
}

impl Held {
    /// Nothing yet; so much may be held.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// The same with somebody who gets a copy.
    pub fn tapped(self, tap: Option<&Rc<Tap>>) -> Self {
        let bytes_max = tap.map_or(0, |tap| tap.bytes_max).max(self.bytes_max);
        Self { bytes_max, tap: tap.cloned(), ..self }
    }

    /// Whether all of the body is here: it has ended, and was not too long.
    pub fn is_whole(&self) -> bool {
        self.ended.get() && !self.is_over.get()
    }

    /// Whether it may still become whole.
    pub fn is_within(&self) -> bool {
        !self.is_over.get()
    }

    /// The same as `on_head`, which sees that a response is taken. What was held is let go then: nothing is sent again
    /// once a client sees an answer.
    pub fn until_answered<'h>(&'h self, on_head: &'h mut dyn FnMut(&mut Exchange)) -> impl FnMut(&mut Exchange) + 'h {
        move |x| {
            self.let_go();
            on_head(x);
        }
    }

    /// Holds nothing any more, but for who gets a copy, and for what is being sent again at the moment.
    fn let_go(&self) {
        if self.tap.is_none() && self.again_from.get().is_none() {
            self.drop_all();
        }
    }

    fn drop_all(&self) {
        self.is_over.set(true);
        drop((self.bytes.take(), self.trailers.take()));
    }

    /// Whether something was passed on.
    pub fn has_begun(&self) -> bool {
        self.ended.get() || !self.bytes.borrow().is_empty()
    }

    /// Sends what is held again.
    pub fn rewind(&self) {
        if self.has_begun() {
            self.again_from.set(Some(0));
        }
    }

    /// Nothing of it is to be sent again, unless that is asked for.
    pub fn is_sent(&self) {
        self.again_from.set(None);
    }

    fn keep(&self, chunk: &Chunk) {
        if self.is_over.get() || self.bytes.borrow().len() + chunk.data.len() > self.bytes_max {
            self.drop_all();
            self.tap.iter().for_each(|tap| tap.tell(None));
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        bytes.extend_from_slice(chunk.data.as_slice());
        // Their bound is that of every section.
        let trailers = chunk.trailers.as_deref().filter(|trailers| !trailers.is_empty());
        self.trailers.replace(trailers.map(|trailers| Box::new(trailers.copy())));
        self.ended.set(self.ended.get() || chunk.end);
        if self.ended.get() {
            // A copy has no room for trailers.
            self.tap.iter().for_each(|tap| tap.tell(trailers.is_none().then_some(&bytes)));
        }
    }

    /// The next piece that was held; None when all of it was sent again.
    fn again(&self) -> Option<Chunk> {
        self.next_of(&self.again_from)
    }

    /// All pieces of what is held, for one more of those who are sent it.
    pub fn pieces(&self) -> impl Iterator<Item = Chunk> {
        let from = Cell::new(Some(0));
        std::iter::from_fn(move || self.next_of(&from))
    }

    fn next_of(&self, next: &Cell<Option<usize>>) -> Option<Chunk> {
        let from = next.take()?;
        let bytes = self.bytes.borrow();
        let to = bytes.len().min(from + BUF_SMALL_BYTES);
        let last = to == bytes.len();
        if !last {
            next.set(Some(to));
        } else if from == to && !self.ended.get() {
            return None;
        }
        let end = last && self.ended.get();
        let trailers = self.trailers.borrow();
        let trailers = trailers.as_ref().filter(|_| end).map(|trailers| Box::new(trailers.copy()));
        Some(Chunk { data: Buf::copy_of(&bytes[from..to]), end, trailers })
    }
}

/// The body of one attempt: first what is held, then what still comes.
pub struct Replayed<'a, B> {
    body: &'a mut B,
    held: &'a Held,
    raw: Cell<bool>,
}

impl<'a, B: RequestBody> Replayed<'a, B> {
    /// The body of an attempt.
    pub fn new(body: &'a mut B, held: &'a Held) -> Self {
        Self { body, held, raw: Cell::new(false) }
    }
}

impl<B: RequestBody> RequestBody for Replayed<'_, B> {
    fn ready(&mut self) -> Result<Option<Chunk>, Failure> {
        // What is sent again goes behind the head, while the response is read: an endpoint may answer before it reads.
        if self.held.again_from.get().is_some() || self.body.is_done() {
            return Ok(None);
        }
        let chunk = self.body.ready()?;
        if let Some(chunk) = &chunk {
            self.held.keep(chunk);
        }
        Ok(chunk)
    }

    async fn next(&mut self) -> Result<Chunk, Failure> {
        if let Some(chunk) = self.held.again() {
            return Ok(chunk);
        }
        let chunk = self.body.next().await?;
        self.held.keep(&chunk);
        Ok(chunk)
    }

    fn raw(&self) -> Option<(End<'_>, u64)> {
        // What the kernel passes on is not held.
        let raw = if self.held.is_over.get() { self.body.raw() } else { None };
        self.raw.set(raw.is_some());
        raw
    }

    fn raw_taken(&mut self, bytes: u64) {
        if self.raw.get() {
            self.body.raw_taken(bytes);
        }
    }

    fn raw_failed(&self) -> Failure {
        self.body.raw_failed()
    }

    fn is_done(&self) -> bool {
        self.held.again_from.get().is_none() && self.body.is_done()
    }

    fn begin_drain(&mut self) {
        self.body.begin_drain();
    }

    fn stopper(&self) -> Box<dyn Fn(Rest)> {
        self.body.stopper()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &[u8], end: bool) -> Chunk {
        Chunk { data: Buf::copy_of(text), end, trailers: None }
    }

    fn replayed(held: &Held) -> (Vec<u8>, bool) {
        held.rewind();
        let (mut bytes, mut end) = (Vec::new(), false);
        while let Some(chunk) = held.again() {
            assert!(!end, "nothing behind the end");
            bytes.extend_from_slice(chunk.data.as_slice());
            end = chunk.end;
        }
        (bytes, end)
    }

    #[test]
    fn what_was_passed_on_comes_again_as_often_as_it_is_asked_for() {
        let held = Held::new(100_000);
        let long = vec![b'x'; 40_000];
        held.keep(&chunk(b"begin", false));
        assert!(held.is_within() && !held.is_whole());
        held.keep(&chunk(&long, false));
        held.keep(&chunk(b"end", true));
        assert!(held.is_whole());
        for _ in 0..2 {
            assert_eq!(replayed(&held), ([b"begin", &long[..], b"end"].concat(), true));
        }
    }

    #[test]
    fn trailers_come_again() {
        let trailers = || {
            let mut fields = Box::<Fields>::default();
            fields.append(b"x-sum", b"1").expect("legal");
            Some(fields)
        };
        let told = Rc::new(Cell::new(None));
        let copy = told.clone();
        let tap = Rc::new(Tap::new(100, move |body| copy.set(Some(body.is_some()))));
        let held = Held::new(100).tapped(Some(&tap));
        held.keep(&chunk(&[b'x'; 94], false));
        held.keep(&Chunk { trailers: trailers(), ..chunk(b"", true) });
        assert!(held.is_whole());
        assert_eq!(told.get(), Some(false), "a copy has none");
        for _ in 0..2 {
            held.rewind();
            let last = held.again().expect("all in one");
            let again = last.trailers.expect("trailers");
            let line = again.lines().next().expect("a line");
            assert_eq!((again.text(line.name), again.text(line.value)), (&b"x-sum"[..], &b"1"[..]));
            assert!(last.end && held.again().is_none());
        }
    }

    #[test]
    fn what_is_held_is_let_go_with_the_head_of_the_answer() {
        let held = Held::new(100);
        held.keep(&chunk(b"begin", false));
        let mut heads = 0;
        let mut on_head = |_: &mut Exchange| heads += 1;
        held.until_answered(&mut on_head)(&mut Exchange::default());
        assert_eq!((heads, held.bytes.borrow().capacity(), held.is_within()), (1, 0, false));
        held.keep(&chunk(b"the rest", true));
        assert_eq!((held.bytes.borrow().capacity(), held.is_whole()), (0, false));
        // An early answer while it is sent for the second time: the endpoint still gets the rest.
        let again = Held::new(100_000);
        again.keep(&chunk(&[b'x'; 40_000], true));
        again.rewind();
        let first = again.again().expect("a piece").data.len();
        again.let_go();
        let rest: usize = std::iter::from_fn(|| again.again()).map(|chunk| chunk.data.len()).sum();
        assert_eq!(first + rest, 40_000);
        // Who gets a copy gets all of it.
        let told = Rc::new(Cell::new(0));
        let copy = told.clone();
        let tap = Rc::new(Tap::new(100, move |body| copy.set(body.expect("whole").len())));
        let tapped = Held::new(100).tapped(Some(&tap));
        tapped.keep(&chunk(b"begin", false));
        tapped.let_go();
        tapped.keep(&chunk(b"end", true));
        assert_eq!(told.get(), 8);
    }

    #[test]
    fn a_body_over_the_bound_is_not_held() {
        let held = Held::new(4);
        held.keep(&chunk(b"1234", false));
        assert_eq!(replayed(&held), (b"1234".to_vec(), false));
        held.keep(&chunk(b"5", true));
        assert!(!held.is_whole() && !held.is_within() && held.bytes.borrow().capacity() == 0);
        let empty = Held::new(4);
        empty.keep(&chunk(b"", true));
        assert_eq!(replayed(&empty), (Vec::new(), true));
    }
}
