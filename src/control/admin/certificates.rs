//! `GET /certificates`: what clients are shown, until when, and what is ordered.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared) -> Response {
    reply::json(StatusCode::OK, &admin.backend.certificates())
}
