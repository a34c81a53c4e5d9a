//! `GET /metrics`: the page that Prometheus reads (R260).

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Shared, reply};
use crate::telemetry::metrics::page::CONTENT_TYPE;

pub(super) async fn get(State(admin): Shared) -> Response {
    match admin.backend.metrics_text().await {
        Some(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        None => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "The page cannot be made"),
    }
}
