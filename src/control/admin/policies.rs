//! `GET /policies`: policies in use and those that the build knows.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared) -> Response {
    reply::json(StatusCode::OK, &admin.backend.policies())
}
