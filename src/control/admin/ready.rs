//! `GET /ready`: should new traffic come here. 503 while starting and while draining.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::backend::ReadyStatus;
use super::guard::Access;
use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared, Extension(access): Extension<Access>) -> Response {
    let readiness = admin.backend.ready();
    let status = match readiness.status {
        ReadyStatus::Ready => StatusCode::OK,
        ReadyStatus::Starting | ReadyStatus::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    match access {
        Access::Probe => reply::json(status, &json!({ "status": readiness.status })),
        _ => reply::json(status, &readiness),
    }
}
