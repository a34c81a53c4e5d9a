//! Endpoints that speak HTTP/1 behind HTTP/2 clients: they answer one request after another with its body, chunked.

use std::rc::Rc;

use ringway::net::io::{Io, ReadHalf, send_all};
use ringway::net::mem::Mem;
use ringway::sys::buf::Buf;

use crate::exec::Handle;
use crate::http2::Ledger;

/// Serves one connection.
pub async fn echo(io: Mem, handle: Handle, slow: bool, ledger: Rc<Ledger>) {
    let (mut read, mut write, _control) = io.split();
    let (mut bytes, mut reading) = (Vec::new(), Reading::default());
    loop {
        if !reading.go_on(&mut bytes) {
            let (count, buf) = read.recv(Buf::large()).await;
            if !matches!(count, Ok(1..)) {
                return;
            }
            bytes.extend_from_slice(buf.as_slice());
            continue;
        }
        let Reading { head, body, .. } = std::mem::take(&mut reading);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let asked = head.split_once("\r\nx-asked: ").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
        ledger.deliver(path);
        if slow {
            handle.sleep(300).await;
        }
        let head =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Path: {path}\r\nX-Seen: {asked}\r\n\r\n");
        let mut answer = Buf::with_room(head.len() + body.len() + 1_000);
        answer.extend(head.as_bytes());
        for part in body.chunks(7_000) {
            answer.extend(format!("{:x}\r\n", part.len()).as_bytes());
            answer.extend(part);
            answer.extend(b"\r\n");
        }
        answer.extend(b"0\r\nX-Sum: 1\r\n\r\n");
        if send_all(&mut write, answer).await.is_err() {
            return;
        }
    }
}

/// What is still to come of a request's body.
#[derive(Default)]
enum Left {
    #[default]
    Head,
    /// Bytes, with the line end behind a chunk.
    Bytes(usize),
    ChunkLine,
    Chunk(usize),
    LastLine,
    Nothing,
}

/// A message, as far as it has come.
#[derive(Default)]
pub struct Reading {
    pub head: String,
    pub body: Vec<u8>,
    left: Left,
}

/// Takes the front of `bytes` up to a line end, which is not a part of it.
fn line(bytes: &mut Vec<u8>, end: &[u8]) -> Option<String> {
    let at = bytes.windows(end.len()).position(|window| window == end)?;
    let text = String::from_utf8_lossy(&bytes[..at]).into_owned();
    bytes.drain(..at + end.len());
    Some(text)
}

impl Reading {
    /// Takes what it can off `bytes`. Returns whether the message is whole.
    pub fn go_on(&mut self, bytes: &mut Vec<u8>) -> bool {
        loop {
            self.left = match self.left {
                Left::Nothing => return true,
                Left::Head => {
                    let Some(head) = line(bytes, b"\r\n\r\n") else { return false };
                    self.head = head.replace("X-Asked", "x-asked");
                    let lower = head.to_ascii_lowercase();
                    let length = lower.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
                    match length {
                        Some(length) => Left::Bytes(length.trim().parse().expect("a length")),
                        None if lower.contains("transfer-encoding") => Left::ChunkLine,
                        None => Left::Nothing,
                    }
                }
                Left::Bytes(0) => Left::Nothing,
                Left::ChunkLine => {
                    let Some(size) = line(bytes, b"\r\n") else { return false };
                    match usize::from_str_radix(&size, 16).expect("a size") {
                        0 => Left::LastLine,
                        size => Left::Chunk(size),
                    }
                }
                Left::LastLine => match line(bytes, b"\r\n") {
                    Some(trailer) if !trailer.is_empty() => Left::LastLine,
                    Some(_) => Left::Nothing,
                    None => return false,
                },
                Left::Chunk(0) => match line(bytes, b"\r\n") {
                    Some(_) => Left::ChunkLine,
                    None => return false,
                },
                Left::Bytes(left) | Left::Chunk(left) => {
                    if bytes.is_empty() {
                        return false;
                    }
                    let count = left.min(bytes.len());
                    self.body.extend(bytes.drain(..count));
                    match self.left {
                        Left::Bytes(_) => Left::Bytes(left - count),
                        _ => Left::Chunk(left - count),
                    }
                }
            };
        }
    }
}
