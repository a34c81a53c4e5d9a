//! One side of a tunnel: a connection that its wire has given up, with the bytes that came behind the last message.

use std::rc::Rc;

use super::io::{Interrupt, Io};
use super::timer::{Deadline, Timers};
use crate::sys::buf::Buf;

/// A connection whose bytes mean nothing to the gateway from here on.
pub struct Duplex<I: Io> {
    /// Its reading half.
    pub read: I::Read,
    /// Its writing half.
    pub write: I::Write,
    /// Ends what waits on either half.
    pub interrupt: Rc<dyn Interrupt>,
    /// Of the reading half.
    pub read_deadline: Deadline,
    /// Of the writing half.
    pub write_deadline: Deadline,
    /// Bytes that have been read and go first.
    pub early: Buf,
}

impl<I: Io> Duplex<I> {
    /// Takes the parts of a connection over. Deadlines that its wire had are to be dropped.
    pub fn new(read: I::Read, write: I::Write, interrupt: Rc<dyn Interrupt>, early: Buf, timers: &Rc<Timers>) -> Self {
        let (read_deadline, write_deadline) = (timers.deadline(interrupt.clone()), timers.deadline(interrupt.clone()));
        Self { read, write, interrupt, read_deadline, write_deadline, early }
    }
}
