//! `GET /health`: is the gateway alive, and how does it do. Always 200: a restart mends no failing endpoint.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::guard::Access;
use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared, Extension(access): Extension<Access>) -> Response {
    let health = admin.backend.health().await;
    match access {
        Access::Probe => reply::json(StatusCode::OK, &json!({ "status": health.status })),
        _ => reply::json(StatusCode::OK, &health),
    }
}
