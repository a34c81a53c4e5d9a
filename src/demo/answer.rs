//! The answers off the fast path.

use std::io;

use super::conn::{After, Connection};
use super::fast::Fixed;
use super::json;
use super::paths::Target;
use super::request::Request;
use super::{Kind, STREAM_MS_MAX, STREAM_PAUSE_MS};
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::decimal::Decimal;
use crate::http::message::BodyLength;
use crate::http::name::Name;
use crate::net::io::send_all;
use crate::proto::h1::body::BodyError;
use crate::proto::h1::serialise;
use crate::sys::buf::Buf;
use crate::time::Now;

const JSON: &[u8] = b"Content-Type: application/json\r\n";
const TEXT: &[u8] = b"Content-Type: text/plain\r\n";
const BYTES: &[u8] = b"Content-Type: application/octet-stream\r\n";
/// What `/headers` brings: fields that gateways like to lose, merge or reorder.
const MANY: &[u8] = b"Content-Type: application/json\r\n\
    Set-Cookie: session=demo; Path=/; HttpOnly\r\n\
    Set-Cookie: theme=dark; Path=/; Max-Age=3600\r\n\
    ETag: \"demo-1\"\r\n\
    Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n\
    Cache-Control: public, max-age=60\r\n\
    Vary: Accept-Encoding\r\n\
    X-Demo: first\r\n\
    X-Demo: second\r\n";
const EARLY_HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n";

/// How the body of an answer is delimited.
#[derive(Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
    /// By the close, or there is none.
    Nothing,
}

impl Connection {
    /// Answers a request, its body included.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) async fn answer(&mut self, mut request: Request) -> io::Result<After> {
        match request.target {
            Target::Early => {
                request.keep = false;
                self.respond(&request, 200, JSON, b"{\"early\":true}\n").await?;
            }
            Target::Echo if !request.head_only => self.echo(&request).await?,
            _ => match self.drain(&request).await {
                Ok(received) => self.answer_drained(&mut request, received).await?,
                Err(BodyError::Broken(detail)) => return Ok(self.refuse(&Failure::with(Reason::BadChunk, detail))),
                Err(BodyError::Truncated) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(BodyError::Io(error)) => return Err(error),
            },
        }
        Ok(if request.keep { After::Next } else { After::Close })
    }

    async fn answer_drained(&mut self, request: &mut Request, received: u64) -> io::Result<()> {
        match request.target {
            Target::Status(status) => self.status(request, status).await,
            Target::Bytes(count) => self.bytes(request, count).await,
            Target::Chunked(count) => self.chunked(request, count).await,
            Target::Slow(ms) => {
                self.pause(ms).await?;
                self.respond(request, 200, JSON, format!("{{\"waited_ms\":{ms}}}\n").as_bytes()).await
            }
            Target::Drip(count, pause_ms) => self.drip(request, count, pause_ms).await,
            Target::Close => {
                request.keep = false;
                self.respond(request, 200, JSON, b"{\"closed\":true}\n").await
            }
            Target::Stream => self.drip(request, u64::MAX, STREAM_PAUSE_MS).await,
            Target::Trailers => self.trailers(request).await,
            Target::EarlyHints => self.early_hints(request).await,
            Target::Headers => self.respond(request, 200, MANY, b"{\"headers\":true}\n").await,
            Target::Echo => self.respond(request, 200, BYTES, b"").await,
            Target::Refused => self.respond(request, 400, JSON, b"{\"error\":\"number not served\"}\n").await,
            Target::Post => self.received(request, received).await,
            _ if request.body != BodyLength::None => self.received(request, received).await,
            Target::Fixed(which) => self.fixed(request, which).await,
            Target::Unlisted if self.shared.kind == Kind::Bench => self.fixed(request, Fixed::Kib1).await,
            Target::Unlisted | Target::Early => {
                let shown = json::show(&self.shared.name, &self.head);
                self.respond(request, 200, JSON, shown.as_bytes()).await
            }
        }
    }

    /// Refuses what is no legal request; the end of such a request is not known, so the connection closes.
    pub(super) fn refuse(&mut self, failure: &Failure) -> After {
        let text = if failure.detail.is_empty() { failure.reason.text() } else { failure.detail };
        let body = format!("{}\n", serde_json::json!({ "error": text }));
        let length = Framing::Length(body.len() as u64);
        self.head(&Request::malformed(), failure.reason.status(), JSON, length);
        self.output.extend(body.as_bytes());
        After::Close
    }

    /// Writes an answer with all of its body.
    async fn respond(&mut self, request: &Request, status: u16, fields: &[u8], body: &[u8]) -> io::Result<()> {
        self.head(request, status, fields, Framing::Length(body.len() as u64));
        if request.head_only {
            return Ok(());
        }
        self.push(body).await
    }

    fn head(&mut self, request: &Request, status: u16, fields: &[u8], framing: Framing) {
        let out = &mut self.output;
        serialise::status_line(out, status);
        out.extend(fields);
        match framing {
            Framing::Length(length) => serialise::content_length(out, length),
            Framing::Chunked => out.extend(b"Transfer-Encoding: chunked\r\n"),
            Framing::Nothing => {}
        }
        match (request.keep, request.http10) {
            (false, _) => out.extend(b"Connection: close\r\n"),
            (true, true) => out.extend(b"Connection: keep-alive\r\n"),
            (true, false) => {}
        }
        out.extend(b"\r\n");
    }

    async fn received(&mut self, request: &Request, received: u64) -> io::Result<()> {
        let mut body = Buf::small();
        body.extend(b"{\"received\":");
        body.extend(Decimal::of(received).as_bytes());
        body.extend(b"}\n");
        self.respond(request, 200, JSON, body.as_slice()).await
    }

    async fn fixed(&mut self, request: &Request, which: Fixed) -> io::Result<()> {
        self.head(request, 200, TEXT, Framing::Length(which.body_bytes() as u64));
        if request.head_only {
            return Ok(());
        }
        if which.is_small() {
            return self.push(which.body()).await;
        }
        self.flush().await?;
        self.wire.send_static(which.body()).await
    }

    async fn status(&mut self, request: &Request, status: u16) -> io::Result<()> {
        match status {
            204 | 304 => {
                self.head(request, status, b"", Framing::Nothing);
                Ok(())
            }
            205 => self.respond(request, status, b"", b"").await,
            _ => self.respond(request, status, JSON, format!("{{\"status\":{status}}}\n").as_bytes()).await,
        }
    }

    async fn bytes(&mut self, request: &Request, count: u64) -> io::Result<()> {
        self.head(request, 200, BYTES, Framing::Length(count));
        if request.head_only {
            return Ok(());
        }
        self.flush().await?;
        let block = Fixed::Kib64.body();
        let mut left = count;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            self.wire.send_static(&block[..piece]).await?;
            left -= piece as u64;
        }
        Ok(())
    }

    async fn chunked(&mut self, request: &mut Request, count: u64) -> io::Result<()> {
        self.begin_stream(request, BYTES);
        if request.head_only {
            return Ok(());
        }
        for _ in 0..count {
            self.piece(request, Fixed::Kib1.body()).await?;
        }
        self.end_stream(request).await
    }

    /// Pieces with pauses between them, for at most [`STREAM_MS_MAX`].
    async fn drip(&mut self, request: &mut Request, count: u64, pause_ms: u64) -> io::Result<()> {
        self.begin_stream(request, TEXT);
        if request.head_only {
            return Ok(());
        }
        let until = Now::read().plus_ms(STREAM_MS_MAX);
        for number in 1..=count {
            self.piece(request, format!("drop {number}\n").as_bytes()).await?;
            if number < count {
                self.pause(pause_ms).await?;
            }
            if Now::read() >= until {
                break;
            }
        }
        self.end_stream(request).await
    }

    async fn trailers(&mut self, request: &mut Request) -> io::Result<()> {
        self.begin_stream(request, b"Content-Type: text/plain\r\nTrailer: X-Checksum, X-Done\r\n");
        if request.head_only {
            return Ok(());
        }
        self.piece(request, b"trailers follow\n").await?;
        if request.http10 { Ok(()) } else { self.push(b"0\r\nX-Checksum: 42\r\nX-Done: yes\r\n\r\n").await }
    }

    async fn early_hints(&mut self, request: &Request) -> io::Result<()> {
        // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
        if !request.http10 {
            self.output.extend(EARLY_HINTS);
            self.flush().await?;
        }
        self.respond(request, 200, JSON, b"{\"hinted\":true}\n").await
    }

    /// Sends the body back as it comes, in the framing in which it comes.
    async fn echo(&mut self, request: &Request) -> io::Result<()> {
        let mut fields = Buf::small();
        serialise::field(
            &mut fields,
            b"Content-Type",
            self.head.fields.get(Name::ContentType).unwrap_or(b"text/plain"),
        );
        let mut body = self.body(request).await?;
        match request.body {
            BodyLength::Known(length) => self.head(request, 200, fields.as_slice(), Framing::Length(length)),
            BodyLength::Streamed => self.head(request, 200, fields.as_slice(), Framing::Chunked),
            _ => return self.respond(request, 200, fields.as_slice(), b"").await,
        }
        self.flush().await?;
        while !body.is_done() {
            // A broken body cuts the answer: its end must not be forged.
            let next = body.next(&mut self.wire).await;
            let piece: Chunk = next.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let framed = if request.body == BodyLength::Streamed { serialise::chunk(piece) } else { piece.data };
            send_all(&mut self.wire, framed).await?;
        }
        self.end_body(body, request);
        Ok(())
    }

    /// Begins an answer whose length is not known: chunked, or up to the close in HTTP/1.0.
    fn begin_stream(&mut self, request: &mut Request, fields: &[u8]) {
        request.keep &= !request.http10;
        let framing = if request.http10 { Framing::Nothing } else { Framing::Chunked };
        self.head(request, 200, fields, framing);
    }

    async fn piece(&mut self, request: &Request, bytes: &[u8]) -> io::Result<()> {
        if request.http10 {
            return self.push(bytes).await;
        }
        let chunk = serialise::chunk(Chunk::more(Buf::copy_of(bytes)));
        self.push(chunk.as_slice()).await
    }

    async fn end_stream(&mut self, request: &Request) -> io::Result<()> {
        if request.http10 { Ok(()) } else { self.push(serialise::LAST_CHUNK).await }
    }
}
