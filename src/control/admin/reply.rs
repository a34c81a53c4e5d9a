//! Answers of the admin API.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::exchange::RequestId;
use crate::telemetry::stamp::Stamp;
use crate::time::unix_ms;

/// The one error shape (C19).
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    status: u16,
    request_id: String,
    timestamp: String,
}

/// JSON that no cache keeps.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// JSON that was written elsewhere; None where that failed.
pub fn written(text: Option<String>) -> Response {
    let Some(text) = text else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "The answer cannot be made");
    };
    let fields = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (fields, text).into_response()
}

/// An error in the one shape.
pub fn error(status: StatusCode, sentence: &str) -> Response {
    let timestamp = Stamp::of(unix_ms()).rfc3339_text().to_owned();
    json(status, &ErrorBody { error: sentence, status: status.as_u16(), request_id: request_id(), timestamp })
}

/// 401, which asks for a token.
pub fn unauthorized() -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "A bearer token is needed");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn request_id() -> String {
    static SEED: OnceLock<ahash::RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let seed = SEED.get_or_init(ahash::RandomState::new);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = RequestId::from_random(seed.hash_one((count, 0)), seed.hash_one((count, 1)));
    String::from_utf8_lossy(id.as_bytes()).into_owned()
}
