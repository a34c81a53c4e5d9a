//! `GET /config` and `POST /config/reload`.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;

use super::backend::ReloadOutcome;
use super::{Shared, reply};

pub(super) async fn get(State(admin): Shared) -> Response {
    reply::written(admin.backend.config_json().await)
}

/// Loads the configuration from where it came from. A body is read up to the bound and has no meaning.
pub(super) async fn reload(State(admin): Shared, body: Result<Bytes, BytesRejection>) -> Response {
    if let Err(rejection) = body {
        return reply::error(rejection.status(), "Request body refused");
    }
    let outcome = admin.backend.reload().await;
    match outcome {
        ReloadOutcome::Applied { .. } | ReloadOutcome::Unchanged { .. } => reply::json(StatusCode::OK, &outcome),
        ReloadOutcome::Rejected { .. } => reply::json(StatusCode::UNPROCESSABLE_ENTITY, &outcome),
        ReloadOutcome::Busy => {
            reply::error(StatusCode::CONFLICT, "Another reload is under way, or the gateway is stopping")
        }
    }
}
