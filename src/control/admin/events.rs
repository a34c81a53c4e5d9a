//! `GET /events`: what changed lately about endpoints and where they come from.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared) -> Response {
    reply::json(StatusCode::OK, &admin.backend.events())
}
