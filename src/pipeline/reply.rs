//! Answers that the gateway makes itself: the one place where failures become responses.

use bytes::Bytes;

use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody, ResponseSink};
use crate::http::exchange::{Exchange, Reply};
use crate::http::grpc::{self, Call, Code};
use crate::http::message::{BodyLength, Method};
use crate::http::name::Name;
use crate::sys::buf::Buf;
use crate::time;

/// What a client should wait before it asks an overloaded gateway again, in seconds.
const RETRY_AFTER_SECONDS: &[u8] = b"1";

/// Puts a reply into `x.response` and returns its body.
pub fn compose(x: &mut Exchange, reply: Reply) -> Bytes {
    x.response.clear();
    x.response.status = reply.status;
    if let Some(reason) = reply.reason {
        x.failure = Some(x.failure.filter(|f| f.reason == reason).unwrap_or(reason.into()));
    }
    let call = x.grpc.filter(|_| reply.body.is_empty());
    if let (Some(reason), Some(call)) = (reply.reason, call) {
        compose_grpc(x, reason, call, &reply);
        return Bytes::new();
    }
    let (content_type, body) = match reply.reason {
        Some(reason) if reply.body.is_empty() && !is_empty_by_nature(reply.status) => {
            error_body(x, reply.status, reason)
        }
        _ => (reply.content_type.as_bytes(), reply.body),
    };
    add(x, b"Content-Type", content_type);
    let said = x.late_fields.get(Name::RetryAfter).is_some();
    if reply.status == 503 && !said && !reply.fields.iter().any(|(name, _)| Name::of(name) == Name::RetryAfter) {
        add(x, b"Retry-After", RETRY_AFTER_SECONDS);
    }
    for (name, value) in &reply.fields {
        add(x, name, value);
    }
    let length = body.len() as u64;
    if x.request.method == Method::Head || is_empty_by_nature(reply.status) {
        x.response.body = BodyLength::None;
        x.response.declared_length = Some(length);
        return Bytes::new();
    }
    x.response.body = BodyLength::Known(length);
    body
}

/// The answer to a gRPC call: status and message among the header fields, and no body ("Trailers-Only"). Clients of
/// gRPC-Web read the same there.
fn compose_grpc(x: &mut Exchange, reason: Reason, call: Call, reply: &Reply) {
    x.response.status = 200;
    add(x, b"Content-Type", call.dress.content_type());
    let code = Code::of_reason(reason) as u8;
    add(x, grpc::STATUS, code.to_string().as_bytes());
    let message = format!("{} ({})", reason.text(), reason.word());
    add(x, grpc::MESSAGE, grpc::encode_message(&message).as_bytes());
    for (name, value) in &reply.fields {
        add(x, name, value);
    }
    x.response.body = BodyLength::Known(0);
    if let Some(call) = &mut x.grpc {
        call.status = Some(u32::from(code));
    }
}

/// A field that would break the message is left out: replies come from configuration and policies, which were checked.
fn add(x: &mut Exchange, name: &[u8], value: &[u8]) {
    if !value.is_empty() {
        let added = x.response.fields.append(name, value);
        debug_assert!(added.is_ok(), "a reply with an illegal field");
    }
}

fn is_empty_by_nature(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// The one error shape (C19), as JSON, as a problem document (RFC 9457) or as text: what the client asks for.
fn error_body(x: &Exchange, status: u16, reason: Reason) -> (&'static [u8], Bytes) {
    let id = String::from_utf8_lossy(x.id.as_bytes());
    let accept = x.request.fields.get(Name::Accept).unwrap_or_default();
    let asks = |kind: &str| memchr::memmem::find(accept, kind.as_bytes()).is_some();
    let (text, word, now) = (reason.text(), reason.word(), time::unix_seconds());
    let limit = x.failure.filter(|failure| failure.reason == reason).and_then(|failure| failure.limit());
    let (limit, in_words) = match limit {
        Some(name) => (format!("\"limit\":\"{name}\","), format!("{name}, ")),
        None => Default::default(),
    };
    if asks("application/problem+json") {
        // The members of the one shape, and those of RFC 9457.
        let (origin, retry) = (reason.origin().word(), reason.repeat().word());
        let body = format!(
            "{{\"type\":\"urn:ringway:reason:{word}\",\"title\":\"{text}\",\"status\":{status},\
             {limit}\"error\":\"{text}\",\"reason\":\"{word}\",\"origin\":\"{origin}\",\"retry\":\"{retry}\",\
             \"request_id\":\"{id}\",\"timestamp\":{now}}}\n"
        );
        return (b"application/problem+json", body.into());
    }
    if asks("text/plain") && !asks("json") {
        return (b"text/plain; charset=utf-8", format!("{text} ({word}, {in_words}request {id})\n").into());
    }
    let body = format!(
        "{{\"error\":\"{text}\",\"status\":{status},\"reason\":\"{word}\",{limit}\"request_id\":\"{id}\",\
         \"timestamp\":{now}}}\n"
    );
    (b"application/json", body.into())
}

/// Sends the answer that was composed.
///
/// # Errors
/// The client left or stalls.
pub async fn send<D: Downstream>(down: &mut D, x: &mut Exchange, body: Bytes) -> Result<(), Failure> {
    let (request, response) = down.split();
    // A body that has arrived is taken off the connection, so that it can go on; for one that has not, it closes.
    while !request.is_done() {
        match request.ready() {
            Ok(Some(_)) => {}
            _ => {
                response.close_after();
                break;
            }
        }
    }
    let chunk = Chunk { data: Buf::copy_of(&body), end: true, trailers: None };
    response.send_head(x, chunk).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(accept: &str, reason: Reason) -> (Exchange, Bytes) {
        let mut x = Exchange::default();
        if !accept.is_empty() {
            x.request.fields.append(b"Accept", accept.as_bytes()).expect("legal");
        }
        let body = compose(&mut x, Reply::failure(reason));
        (x, body)
    }

    #[test]
    fn errors_have_one_shape_in_three_dresses() {
        let (x, body) = composed("", Reason::NoRoute);
        assert_eq!((x.response.status, x.response.body), (404, BodyLength::Known(body.len() as u64)));
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&json["error"], &json["status"]), (&"Route not found".into(), &404.into()));
        assert!(json["request_id"].is_string() && json["timestamp"].is_u64());
        let (x, body) = composed("application/problem+json", Reason::RateLimited);
        assert_eq!(x.response.fields.get(Name::ContentType), Some(&b"application/problem+json"[..]));
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        for (key, value) in [
            ("type", "urn:ringway:reason:rate_limited"),
            ("title", "Rate limit exceeded"),
            ("error", "Rate limit exceeded"),
            ("reason", "rate_limited"),
            ("origin", "gateway"),
            ("retry", "safe"),
        ] {
            assert_eq!(problem[key], value, "{key}");
        }
        assert!(problem["status"] == 429 && problem["request_id"].is_string() && problem["timestamp"].is_u64());
        assert!(composed("text/plain", Reason::NoRoute).1.starts_with(b"Route not found"));
    }

    #[test]
    fn calls_get_their_status_where_they_look_for_it() {
        let mut x = Exchange::default();
        let call = Call { dress: grpc::Dress::Web, due: crate::time::Now::NEVER, left_ns: None, status: None };
        x.grpc = Some(call);
        let body = compose(&mut x, Reply::failure(Reason::RateLimited));
        assert_eq!((x.response.status, x.response.body, body.len()), (200, BodyLength::Known(0), 0));
        let field = |name: &'static str| x.response.fields.find(name.as_bytes()).map(String::from_utf8_lossy);
        assert_eq!(field("grpc-status").as_deref(), Some("8"));
        assert_eq!(field("grpc-message").as_deref(), Some("Rate limit exceeded (rate_limited)"));
        assert_eq!(field("content-type").as_deref(), Some("application/grpc-web"));
        assert_eq!(x.failure.map(|f| f.reason), Some(Reason::RateLimited));
    }

    #[test]
    fn unavailable_says_when_to_come_back() {
        let (x, _) = composed("", Reason::NoEndpoint);
        assert_eq!(x.response.fields.get(Name::RetryAfter), Some(&b"1"[..]));
        assert_eq!(x.failure.map(|f| f.reason), Some(Reason::NoEndpoint));
    }

    #[test]
    fn head_requests_get_the_length_alone() {
        let mut x = Exchange::default();
        x.request.method = Method::Head;
        let body = compose(&mut x, Reply::failure(Reason::NoRoute));
        assert!(body.is_empty() && x.response.body == BodyLength::None);
        assert!(x.response.declared_length.is_some_and(|length| length > 10));
    }
}
