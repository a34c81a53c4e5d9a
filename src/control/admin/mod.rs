//! The admin API: one file per resource, on a listener of its own (R258–R264, C48).
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | summary of the gateway's own state (R113, R114) |
//! | `GET /ready` | 200, or 503 while starting or draining |
//! | `GET /metrics` | Prometheus text |
//! | `GET /config` | the configuration that serves, secrets removed |
//! | `POST /config/reload` | 200 with the changes, or 422 with the diagnostics; the old one serves on (A30) |
//! | `POST /upgrade` | 200 with the new process, 500 with why it does not serve, 409 when none can begin now (F03) |
//! | `GET /services`, `/services/{name}/endpoints` | services and their endpoints |
//! | `POST /services/{name}/endpoints/{address}/drain`, `…/enable`, `…/maintenance`, `…/weight` | 200 with the endpoint
//! |
//! | `GET /events` | what changed lately about endpoints and where they come from |
//! | `GET /certificates` | the certificates of listeners, and the orders of those that the gateway gets itself |
//! | `GET /circuit-breakers`, `POST /circuit-breakers/{service}/reset` | states of circuit breakers; closes one (R127)
//! |
//! | `GET /workers`, `/policies`, `/version` | workers, policies in use, build |
//!
//! Errors have the gateway's one shape (C19). Browsers are kept out by checks of Host and Origin, others by a token
//! ([`guard`], F76). It runs on the control thread and asks workers by message only.

pub mod backend;
mod certificates;
mod config;
mod endpoints;
mod events;
pub mod guard;
mod health;
mod listener;
mod metrics;
mod policies;
mod ready;
mod reply;
mod services;
mod upgrade;
mod version;
mod workers;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use self::backend::AdminBackend;
use self::guard::Guard;
pub use self::guard::{AdminSettings, OpenAdmin};
use self::listener::Guarded;

/// Connections to the admin API at once; more wait in the kernel.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long a connection may stay without a request.
pub const IDLE_TIMEOUT_MS: u64 = 30_000;
/// From the first byte of a request to the first of its answer. More than [`HANDLER_TIMEOUT_MS`], so that an answer
/// about a timeout can still be sent.
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// How long an answer may take to make.
pub const HANDLER_TIMEOUT_MS: u64 = 20_000;

const _: () = assert!(HANDLER_TIMEOUT_MS < REQUEST_TIMEOUT_MS);

/// Why the admin API cannot start.
#[derive(Debug)]
pub enum AdminError {
    /// It would listen for strangers without a token.
    Open(OpenAdmin),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminError::Open(open) => open.fmt(f),
            AdminError::Listen(address, error) => write!(f, "admin API cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

/// The admin API with its listener open, not yet serving.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    guard: Guard,
}

impl AdminServer {
    /// Opens the listener. Must run on the control thread's runtime.
    ///
    /// # Errors
    /// [`AdminError`]: an address other than loopback without a token, or one that cannot be listened on.
    pub fn bind(settings: AdminSettings) -> Result<Self, AdminError> {
        let address = settings.listen;
        let listener = std::net::TcpListener::bind(address).map_err(|error| AdminError::Listen(address, error))?;
        Self::on(settings, listener)
    }

    /// Uses a listener that is open, at the address of the settings. Must run on the control thread's runtime.
    ///
    /// # Errors
    /// [`AdminError`]: an address other than loopback without a token, or a socket that cannot be used.
    pub fn on(settings: AdminSettings, listener: std::net::TcpListener) -> Result<Self, AdminError> {
        let address = settings.listen;
        let guard = Guard::new(settings).map_err(AdminError::Open)?;
        let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        Ok(Self { listener: listener.map_err(|error| AdminError::Listen(address, error))?, guard })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes, then finishes what runs.
    ///
    /// # Errors
    /// None in practice: errors of connections end those alone.
    pub async fn serve<F>(self, backend: Arc<dyn AdminBackend>, shutdown: F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let timeout = Duration::from_millis(HANDLER_TIMEOUT_MS);
        let router = router(Admin { backend, guard: Arc::new(self.guard) }, timeout);
        axum::serve(Guarded::new(self.listener), router).with_graceful_shutdown(shutdown).await
    }
}

/// What handlers work with.
#[derive(Clone)]
struct Admin {
    backend: Arc<dyn AdminBackend>,
    guard: Arc<Guard>,
}

fn router(admin: Admin, timeout: Duration) -> Router {
    Router::new()
        .route("/health", get(health::get))
        .route("/ready", get(ready::get))
        .route("/config", get(config::get))
        .route("/config/reload", post(config::reload))
        .route("/upgrade", post(upgrade::post))
        .route("/circuit-breakers", get(services::breakers))
        .route("/circuit-breakers/{service}/reset", post(services::reset_breaker))
        .route("/services", get(services::list))
        .route("/services/{name}/endpoints", get(services::endpoints))
        .route("/services/{name}/endpoints/{address}/{order}", post(endpoints::order))
        .route("/events", get(events::get))
        .route("/certificates", get(certificates::get))
        .route("/workers", get(workers::get))
        .route("/policies", get(policies::get))
        .route("/version", get(version::get))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(bounded_in_size))
        .layer(middleware::from_fn_with_state(timeout, bounded_in_time))
        .layer(middleware::from_fn_with_state(admin.clone(), guard::check))
        .with_state(admin)
}

/// The metrics have a path of the configuration's choice; nothing else is here.
async fn unknown(State(admin): Shared, request: Request) -> Response {
    let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
    if admin.guard.metrics_path() == Some(request.uri().path()) {
        return if is_read { metrics::get(State(admin)).await } else { wrong_method().await };
    }
    reply::error(StatusCode::NOT_FOUND, "Not found")
}

async fn wrong_method() -> Response {
    reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
}

async fn bounded_in_time(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => reply::error(StatusCode::GATEWAY_TIMEOUT, "The gateway did not answer in time"),
    }
}

/// Refuses a body by its announced length, before waiting for it. [`DefaultBodyLimit`] bounds the others while they
/// come.
async fn bounded_in_size(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match length.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        true => reply::error(StatusCode::PAYLOAD_TOO_LARGE, "Request too large"),
        false => next.run(request).await,
    }
}

type Shared = State<Admin>;

#[cfg(test)]
mod tests;
