//! `POST /upgrade`: replaces the running program.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::backend::UpgradeOutcome;
use super::{Shared, reply};

pub(super) async fn post(State(admin): Shared) -> Response {
    let outcome = admin.backend.upgrade().await;
    let status = match outcome {
        UpgradeOutcome::Done { .. } => StatusCode::OK,
        UpgradeOutcome::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        UpgradeOutcome::Refused { .. } => StatusCode::CONFLICT,
    };
    reply::json(status, &outcome)
}
