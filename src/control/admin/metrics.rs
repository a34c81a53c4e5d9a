//! `GET /metrics`: the page that Prometheus reads (R260).

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Shared;
use crate::telemetry::metrics::page::CONTENT_TYPE;

pub(super) async fn get(State(admin): Shared) -> Response {
    let text = admin.backend.metrics_text().await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
