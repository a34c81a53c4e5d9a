//! `GET /services` and `GET /services/{name}/endpoints`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::{Shared, reply};

pub(super) async fn list(State(admin): Shared) -> Response {
    reply::written(admin.backend.services().await)
}

pub(super) async fn endpoints(State(admin): Shared, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else { return reply::error(StatusCode::BAD_REQUEST, "Invalid service name") };
    match admin.backend.endpoints(&name).await {
        Some(endpoints) => reply::json(StatusCode::OK, &endpoints),
        None => reply::error(StatusCode::NOT_FOUND, "No such service"),
    }
}

/// `GET /circuit-breakers` (R265).
pub(super) async fn breakers(State(admin): Shared) -> Response {
    reply::json(StatusCode::OK, &admin.backend.breakers())
}

/// `POST /circuit-breakers/{service}/reset` (R266).
pub(super) async fn reset_breaker(State(admin): Shared, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else { return reply::error(StatusCode::BAD_REQUEST, "Invalid service name") };
    match admin.backend.reset_breaker(&name) {
        Some(state) => reply::json(StatusCode::OK, &state),
        None => reply::error(StatusCode::NOT_FOUND, "No such circuit breaker"),
    }
}
