//! HTTP/2 by prior knowledge: a connection whose first bytes are its preface (RFC 9113 section 3.3).

use super::Connection;
use crate::net::io::{Io, ReadHalf};
use crate::net::timer::OnExpiry;
use crate::proto::h2::frame::PREFACE;

/// So many bytes tell the preface from every request of HTTP/1: PRI is no method (RFC 9113 section 11.7).
const TELLING_BYTES: usize = 4;

impl<I: Io> Connection<I> {
    /// Whether what has come may be HTTP/2, where that is spoken without TLS.
    #[inline]
    pub fn may_speak_h2(&self) -> bool {
        self.rules.h2c && self.requests == 0 && self.carry.as_slice().first() == PREFACE.first()
    }

    /// Whether it is. Few bytes may not tell it: then more are read.
    pub async fn speaks_h2(&mut self) -> bool {
        loop {
            let known = self.carry.len().min(TELLING_BYTES);
            if self.carry.as_slice()[..known] != PREFACE[..known] {
                return false;
            }
            if known == TELLING_BYTES {
                return true;
            }
            self.read_deadline.arm_in(self.rules.header_timeout_ms, OnExpiry::ShutRead);
            let (count, back) = self.read.recv(std::mem::take(&mut self.carry)).await;
            self.carry = back;
            self.read_deadline.disarm();
            if !matches!(count, Ok(1..)) {
                return false;
            }
        }
    }
}
