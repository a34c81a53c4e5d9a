//! The admin listener as it follows the configuration: opened, moved, closed, and handed to a successor.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::activation::Inherited;
use super::admin::backend::AdminBackend;
use super::admin::{AdminServer, AdminSettings};
use crate::config::model;
use crate::telemetry::log;

/// How long answers under way may take when the door closes.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// The admin listener.
#[derive(Default)]
pub struct Door(Option<Open>);

struct Open {
    wanted: Wanted,
    listener: TcpListener,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What the configuration says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    listen: SocketAddr,
    metrics_path: Option<String>,
}

impl Wanted {
    fn of(config: &model::Config) -> Option<Self> {
        let metrics_path = config.metrics.enabled.then(|| config.metrics.endpoint.as_str().to_owned());
        config.admin.enabled.then(|| Self { listen: config.admin.listen.0, metrics_path })
    }
}

/// What the door is to become.
pub enum Change {
    /// Nothing else than it is.
    Stay,
    /// Closed.
    Close,
    /// Open in another way.
    Open(Box<Prepared>),
}

/// A listener that is open but does not serve yet.
pub struct Prepared {
    wanted: Wanted,
    listener: TcpListener,
    server: AdminServer,
}

impl Door {
    /// Makes ready what the configuration asks for; the present door stays as it is. Must run on the control thread's
    /// runtime.
    ///
    /// # Errors
    /// Why the admin API cannot listen there.
    pub fn prepare(&self, config: &model::Config, inherited: &mut Inherited) -> Result<Change, String> {
        let present = self.0.as_ref();
        let Some(wanted) = Wanted::of(config) else {
            return Ok(if present.is_some() { Change::Close } else { Change::Stay });
        };
        if present.is_some_and(|open| open.wanted == wanted) {
            return Ok(Change::Stay);
        }
        let failed = |error| format!("admin API cannot listen on {}: {error}", wanted.listen);
        let same = present.filter(|open| open.wanted.listen == wanted.listen);
        let listener = match (inherited.for_admin(wanted.listen), same) {
            (Some(given), _) => given,
            (None, Some(open)) => open.listener.try_clone().map_err(failed)?,
            (None, None) => TcpListener::bind(wanted.listen).map_err(failed)?,
        };
        let settings = AdminSettings { metrics_path: wanted.metrics_path.clone(), ..AdminSettings::on(wanted.listen) };
        let server = AdminServer::on(settings, listener.try_clone().map_err(failed)?);
        let server = server.map_err(|error| error.to_string())?;
        Ok(Change::Open(Box::new(Prepared { wanted, listener, server })))
    }

    /// Makes the change. Answers under way are finished on the old door.
    pub fn change(&mut self, change: Change, backend: &Arc<impl AdminBackend + 'static>) {
        let prepared = match change {
            Change::Stay => return,
            Change::Close => return self.0 = None,
            Change::Open(prepared) => *prepared,
        };
        let Prepared { wanted, listener, server } = prepared;
        let (stop, stopped) = oneshot::channel::<()>();
        let backend: Arc<dyn AdminBackend> = backend.clone();
        let task = tokio::spawn(async move {
            let until = async {
                // A dropped sender also means to stop.
                let _ = stopped.await;
            };
            if let Err(error) = server.serve(backend, until).await {
                log::error("the admin API ended", &[("error", &error)]);
            }
        });
        if let Ok(address) = listener.local_addr() {
            log::info("admin listening", &[("address", &address)]);
        }
        self.0 = Some(Open { wanted, listener, stop, task });
    }

    /// The listener with its address as it is configured.
    pub fn listener(&self) -> Option<(SocketAddr, &TcpListener)> {
        self.0.as_ref().map(|open| (open.wanted.listen, &open.listener))
    }

    /// Accepts no more; what is returned ends when the answers under way are finished.
    pub fn close(&mut self) -> impl Future<Output = ()> + 'static {
        let task = self.0.take().map(|open| {
            drop(open.stop);
            open.task
        });
        async move {
            if let Some(task) = task {
                // What is not finished by then ends with the process.
                let _ = tokio::time::timeout(CLOSE_WAIT, task).await;
            }
        }
    }
}
