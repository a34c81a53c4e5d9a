//! A gRPC-Web client seen as a gRPC one: its body and its response pass through here, piece by piece, and the copy loop
//! and the endpoint notice nothing.

use std::net::SocketAddr;

use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody, ResponseSink, Rest};
use crate::http::exchange::Exchange;
use crate::http::grpc::{self, Dress};
use crate::http::grpc_web::{self, Decoder};
use crate::http::message::BodyLength;
use crate::http::name::Name;
use crate::net::splice::End;
use crate::sys::buf::Buf;

/// A client's side in another dress.
pub struct Web<'d, D: Downstream> {
    body: Body<'d, D::Body>,
    response: Response<'d, D::Response>,
}

impl<'d, D: Downstream> Web<'d, D> {
    /// Takes the dress of the request in `x` off, for the time of its answer. None for a request that has none.
    pub fn undress(down: &'d mut D, x: &mut Exchange) -> Option<Self> {
        let dress = x.grpc?.dress;
        if dress == Dress::Grpc {
            return None;
        }
        let (_, suffix) = Dress::of(x.request.fields.get(Name::ContentType)?)?;
        let content_type = [Dress::Grpc.content_type(), suffix].concat();
        x.request.fields.set(b"Content-Type", &content_type).ok()?;
        let text = dress == Dress::WebText;
        if text && !x.request.body.is_empty() {
            x.request.body = BodyLength::Streamed;
        }
        let (body, response) = down.split();
        let decoder = text.then(Decoder::default);
        Some(Self {
            body: Body { inner: body, decoder },
            response: Response { inner: response, dress, translates: false },
        })
    }
}

impl<'d, D: Downstream> Downstream for Web<'d, D> {
    type Body = Body<'d, D::Body>;
    type Response = Response<'d, D::Response>;

    fn split(&mut self) -> (&mut Self::Body, &mut Self::Response) {
        (&mut self.body, &mut self.response)
    }
}

/// The request body; base64 is decoded.
pub struct Body<'d, B> {
    inner: &'d mut B,
    decoder: Option<Decoder>,
}

impl<B: RequestBody> Body<'_, B> {
    fn plain(&mut self, mut chunk: Chunk) -> Result<Chunk, Failure> {
        let Some(decoder) = &mut self.decoder else { return Ok(chunk) };
        let mut plain = Vec::new();
        let read = decoder.decode(chunk.data.as_slice(), &mut plain);
        if read.is_err() || chunk.end && !decoder.is_whole() {
            return Err(Reason::BadGrpcWeb.into());
        }
        chunk.data.clear();
        chunk.data.extend(&plain);
        Ok(chunk)
    }
}

impl<B: RequestBody> RequestBody for Body<'_, B> {
    fn ready(&mut self) -> Result<Option<Chunk>, Failure> {
        match self.inner.ready()? {
            None => Ok(None),
            Some(chunk) => self.plain(chunk).map(|chunk| (!chunk.is_nothing()).then_some(chunk)),
        }
    }

    async fn next(&mut self) -> Result<Chunk, Failure> {
        loop {
            let chunk = self.inner.next().await?;
            let is_stopped = chunk.is_nothing();
            let chunk = self.plain(chunk)?;
            if is_stopped || !chunk.is_nothing() {
                return Ok(chunk);
            }
        }
    }

    fn raw(&self) -> Option<(End<'_>, u64)> {
        if self.decoder.is_some() { None } else { self.inner.raw() }
    }

    fn raw_taken(&mut self, bytes: u64) {
        self.inner.raw_taken(bytes);
    }

    fn raw_failed(&self) -> Failure {
        self.inner.raw_failed()
    }

    fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    fn begin_drain(&mut self) {
        // What is only thrown away need not be text.
        self.decoder = None;
        self.inner.begin_drain();
    }

    fn stopper(&self) -> Box<dyn Fn(Rest)> {
        self.inner.stopper()
    }
}

/// The response's way out: its trailers go into the body, where the endpoint has answered as a gRPC server does.
pub struct Response<'d, S> {
    inner: &'d mut S,
    dress: Dress,
    translates: bool,
}

impl<S: ResponseSink> Response<'_, S> {
    /// Whether the response in `x` has a gRPC body, whose content type is changed then. One without a body has its
    /// status in the head, where clients of gRPC-Web look too.
    fn dress_head(&mut self, x: &mut Exchange) {
        let Some((Dress::Grpc, suffix)) = x.response.fields.get(Name::ContentType).and_then(Dress::of) else { return };
        let content_type = [self.dress.content_type(), suffix].concat();
        let set = x.response.fields.set(b"Content-Type", &content_type);
        debug_assert!(set.is_ok(), "made of a legal value");
        self.translates = x.response.fields.find(grpc::STATUS).is_none() && x.response.body != BodyLength::None;
        if self.translates {
            x.response.body = BodyLength::Streamed;
            x.response.declared_length = None;
        }
    }

    fn dressed(&self, mut chunk: Chunk) -> Chunk {
        if !self.translates {
            return chunk;
        }
        let frame = chunk.trailers.take().map(|trailers| grpc_web::trailers_frame(Some(&trailers)));
        if let Some(frame) = &frame {
            chunk.data.extend(frame);
        }
        if self.dress == Dress::WebText && !chunk.data.is_empty() {
            let mut text = Vec::new();
            grpc_web::encode(chunk.data.as_slice(), &mut text);
            chunk.data.clear();
            chunk.data.extend(&text);
        }
        chunk
    }
}

impl<S: ResponseSink> ResponseSink for Response<'_, S> {
    async fn send_continue(&mut self) -> Result<(), Failure> {
        self.inner.send_continue().await
    }

    async fn send_interim(&mut self, x: &Exchange) -> Result<(), Failure> {
        self.inner.send_interim(x).await
    }

    async fn send_head(&mut self, x: &mut Exchange, first: Chunk) -> Result<(), Failure> {
        self.dress_head(x);
        let first = self.dressed(first);
        self.inner.send_head(x, first).await
    }

    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        let chunk = self.dressed(chunk);
        self.inner.send_body(chunk).await
    }

    fn raw(&self) -> Option<End<'_>> {
        if self.translates { None } else { self.inner.raw() }
    }

    fn raw_failed(&mut self) -> Failure {
        self.inner.raw_failed()
    }

    async fn send_switch(&mut self, x: &mut Exchange) -> Result<(), Failure> {
        self.inner.send_switch(x).await
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn head_sent(&self) -> bool {
        self.inner.head_sent()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    fn close_after(&mut self) {
        self.inner.close_after();
    }
}
