//! A check by gRPC's own health service (`grpc.health.v1.Health/Check`): one call on one HTTP/2 connection, plain by
//! prior knowledge or agreed on in TLS. Its two messages have one field each, and are written and read here.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::limits::{CHECK_ANSWER_BYTES_MAX, CHECK_HEAD_BYTES_MAX};
use crate::tls::ClientTls;
use crate::upstream::check::{CheckRules, Probe};

const METHOD: &str = "/grpc.health.v1.Health/Check";

/// Statuses of the health service, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// `grpc-status` of a service that the health service does not know.
const NOT_FOUND: &str = "5";
/// `grpc-status` of a server without a health service.
const UNIMPLEMENTED: &str = "12";

/// Asks an endpoint whether it serves.
///
/// # Errors
/// Why it does not, for operators.
pub(super) async fn ask(
    address: SocketAddr,
    authority: &str,
    rules: &CheckRules,
    tls: Option<&Arc<ClientTls>>,
) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let Some(tls) = tls else { return Box::pin(call(stream, "http", authority, rules)).await };
    let name = tls.name(authority).ok_or("the endpoint has no name for TLS")?;
    let mut config = (*tls.config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let shake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = shake.await.map_err(|error| format!("TLS: {error}"))?;
    // HTTP/2 behind TLS is agreed on, never guessed (RFC 9113 section 3.3).
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err("TLS: the endpoint does not agree to HTTP/2".to_owned());
    }
    Box::pin(call(stream, "https", authority, rules)).await
}

/// One call over a connection of its own, which ends with it.
async fn call<S>(stream: S, scheme: &str, authority: &str, rules: &CheckRules) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Probe::Grpc { service, host, fields } = &rules.probe else { return Ok(()) };
    let request = request(scheme, host.as_deref().unwrap_or(authority), fields, rules.timeout_ms)?;
    let shaken = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(CHECK_HEAD_BYTES_MAX)
        .max_send_buffer_size(CHECK_ANSWER_BYTES_MAX)
        .handshake(stream)
        .await;
    let (sender, connection) = shaken.map_err(|error| format!("HTTP/2: {error}"))?;
    let driven = async {
        // What has come in before its end is still to be read; what has not then fails the call.
        drop(connection.await);
        pending::<Infallible>().await
    };
    tokio::select! {
        result = exchange(sender, request, service) => result,
        never = driven => match never {},
    }
}

fn request(scheme: &str, host: &str, fields: &[(String, String)], timeout_ms: u64) -> Result<Request<()>, String> {
    let mut request = Request::post(format!("{scheme}://{host}{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "ringway-check")
        // At most eight digits (the specification's own bound).
        .header("grpc-timeout", format!("{}m", timeout_ms.min(99_999_999)));
    for (name, value) in fields {
        request = request.header(name, value);
    }
    request.body(()).map_err(|error| format!("the request cannot be written: {error}"))
}

async fn exchange(sender: SendRequest<Bytes>, request: Request<()>, service: &str) -> Result<(), String> {
    let failed = |error: h2::Error| format!("HTTP/2: {error}");
    let mut sender = sender.ready().await.map_err(failed)?;
    let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
    body.send_data(framed(service), true).map_err(failed)?;
    let (head, mut body) = response.await.map_err(failed)?.into_parts();
    if head.status != 200 {
        return Err(format!("status {}", head.status.as_u16()));
    }
    // An answer that is nothing but a status has it in the head.
    judge_status(&head.headers, service)?;
    let mut message = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(failed)?;
        if message.len() + piece.len() > CHECK_ANSWER_BYTES_MAX {
            return Err("the answer is too long".to_owned());
        }
        message.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len()).map_err(failed)?;
    }
    let trailers = body.trailers().await.map_err(failed)?.unwrap_or_default();
    if !trailers.contains_key("grpc-status") {
        return Err("the answer is not gRPC: it has no grpc-status".to_owned());
    }
    judge_status(&trailers, service)?;
    judge(status_of(&message).ok_or("the answer is not one of the health service")?)
}

/// Whether a section has a status that is not OK.
fn judge_status(fields: &HeaderMap, service: &str) -> Result<(), String> {
    let text = |name| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(NOT_FOUND) => Err(format!("the endpoint does not know the service `{service}`")),
        Some(UNIMPLEMENTED) => Err("the endpoint has no health service".to_owned()),
        Some(other) => {
            // What an endpoint says is kept short: it stands in the history and in the log.
            let said: String = text("grpc-message").unwrap_or_default().chars().take(100).collect();
            Err(format!("grpc-status {other} {said}").trim_end().to_owned())
        }
    }
}

fn judge(status: u64) -> Result<(), String> {
    match STATUSES.get(status as usize) {
        _ if status == SERVING => Ok(()),
        Some(word) => Err((*word).to_owned()),
        None => Err(format!("status {status} of the health service, which is not known")),
    }
}

/// `HealthCheckRequest { string service = 1; }` as a message of gRPC: a byte that says that it is not compressed, four
/// with its length, and what protobuf makes of it. An empty text is not written.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 11);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        write_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(&message);
    out.into()
}

/// The status in `HealthCheckResponse { ServingStatus status = 1; }`; None where it cannot be read. Zero is not
/// written, so that an empty message says UNKNOWN.
fn status_of(framed: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], mut message) = framed.split_first_chunk::<5>()? else { return None };
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        match tag & 7 {
            0 if tag >> 3 == 1 => status = read_varint(&mut message)?,
            0 => _ = read_varint(&mut message)?,
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::http::Response;

    use super::*;

    fn rules(service: &str) -> CheckRules {
        let fields = vec![("x-check".to_owned(), "1".to_owned())];
        let probe = Probe::Grpc { service: service.to_owned(), host: Some("health.test".to_owned()), fields };
        CheckRules { probe, timeout_ms: 20_000, ..CheckRules::default() }
    }

    /// What a server answers: fields of its head, its body, and its trailers' status.
    struct Answer(&'static [(&'static str, &'static str)], &'static [u8], Option<&'static str>);

    /// The outcome of a check whose endpoint gives this answer, and what it was asked.
    async fn asked(answer: Answer, service: &str) -> (Result<(), String>, Request<Bytes>) {
        let (own, far) = tokio::io::duplex(64 * 1024);
        let endpoint = async {
            let mut connection = h2::server::handshake(far).await.expect("a client");
            let (request, mut respond) = connection.accept().await.expect("a call").expect("a call");
            let serve = async {
                let (parts, mut body) = request.into_parts();
                let message = body.data().await.expect("a message").expect("a message");
                let mut response = Response::new(());
                for (name, value) in answer.0 {
                    response.headers_mut().insert(*name, value.parse().expect("a value"));
                }
                let ends = answer.1.is_empty() && answer.2.is_none();
                let mut out = respond.send_response(response, ends).expect("sent");
                if !answer.1.is_empty() {
                    out.send_data(Bytes::from_static(answer.1), answer.2.is_none()).expect("sent");
                }
                if let Some(status) = answer.2 {
                    let trailers = [("grpc-status".parse().expect("a name"), status.parse().expect("a value"))];
                    out.send_trailers(trailers.into_iter().collect()).expect("sent");
                }
                Request::from_parts(parts, message)
            };
            let request = tokio::select! {
                request = serve => request,
                _ = connection.accept() => panic!("the client left early"),
            };
            // Until the client has read it and leaves.
            while connection.accept().await.is_some_and(|next| next.is_ok()) {}
            request
        };
        let rules = rules(service);
        tokio::join!(call(own, "http", "up:80", &rules), endpoint)
    }

    #[tokio::test]
    async fn the_health_service_is_asked_for_a_service() {
        let serving = Answer(&[], b"\0\0\0\0\x02\x08\x01", Some("0"));
        let (result, request) = Box::pin(asked(serving, "a.B")).await;
        assert_eq!(result, Ok(()));
        assert_eq!(request.uri().to_string(), "http://health.test/grpc.health.v1.Health/Check");
        let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!((field("content-type"), field("te")), (Some("application/grpc"), Some("trailers")));
        assert_eq!((field("grpc-timeout"), field("x-check")), (Some("20000m"), Some("1")));
        assert_eq!(request.body().as_ref(), b"\0\0\0\0\x05\x0a\x03a.B");
    }

    #[tokio::test]
    async fn anything_but_serving_fails_with_its_reason() {
        for (answer, why) in [
            (Answer(&[], b"\0\0\0\0\x02\x08\x02", Some("0")), "NOT_SERVING"),
            (Answer(&[], b"\0\0\0\0\x02\x08\x03", Some("0")), "SERVICE_UNKNOWN"),
            (Answer(&[], b"\0\0\0\0\0", Some("0")), "UNKNOWN"),
            (Answer(&[], b"\0\0\0\0\x02\x08\x09", Some("0")), "status 9"),
            (Answer(&[], b"", Some("5")), "does not know the service `a.B`"),
            (Answer(&[("grpc-status", "12")], b"", None), "no health service"),
            (Answer(&[("grpc-status", "7"), ("grpc-message", "go away")], b"", None), "grpc-status 7 go away"),
            (Answer(&[], b"\0\0\0\0\x02\x08\x01", Some("2")), "grpc-status 2"),
            (Answer(&[], b"\0\0\0\0\x02\x08\x01", None), "not gRPC"),
            (Answer(&[], b"\0\0\0\0\x03\x08\x01", Some("0")), "not one of the health service"),
            (Answer(&[], b"<html>", Some("0")), "not one of the health service"),
        ] {
            let result = Box::pin(asked(answer, "a.B")).await.0;
            assert!(result.as_ref().is_err_and(|told| told.contains(why)), "{result:?} is not {why}");
        }
    }

    #[tokio::test]
    async fn what_speaks_no_http_2_fails() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for answer in [&b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..], b""] {
            let (own, mut far) = tokio::io::duplex(64 * 1024);
            let rules = rules("");
            let endpoint = async {
                let mut got = [0; 16];
                far.read_exact(&mut got).await.expect("a preface");
                far.write_all(answer).await.expect("sent");
                drop(far);
            };
            let (result, ()) = tokio::join!(call(own, "http", "up:80", &rules), endpoint);
            assert!(result.as_ref().is_err_and(|why| why.starts_with("HTTP/2: ")), "{result:?}");
        }
    }

    #[test]
    fn messages_are_written_and_read() {
        assert_eq!(framed("").as_ref(), [0; 5]);
        let long = "s".repeat(300);
        assert_eq!(&framed(&long)[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        // Fields that are not known are passed over, of every kind; the last of its number counts.
        let message = b"\x08\x02\x18\x96\x01\x21\0\0\0\0\0\0\0\0\x2a\x02hi\x35\0\0\0\0\x08\x01";
        let framed = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
        assert_eq!(status_of(&framed), Some(SERVING));
        for cut in 0..framed.len() {
            assert_eq!(status_of(&framed[..cut]), None, "{cut}");
        }
        for wrong in [&b"\x08"[..], b"\x2a\xff\x01", b"\x0b", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            let framed = [&[0, 0, 0, 0, wrong.len() as u8], wrong].concat();
            assert_eq!(status_of(&framed), None, "{wrong:?}");
        }
        assert_eq!(status_of(b"\x01\0\0\0\0"), None, "compressed, which was not asked for");
    }
}
