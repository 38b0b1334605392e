//! The HTTP API: thin handlers over [`app`](crate::app).
//!
//! A handler extracts, calls one use case, and maps its view to an [`api`](crate::api) type. No
//! handler talks SQL or calls a cloud. Work on the database runs in a task of its own, so that a
//! client that goes away never cancels a transaction half way.

pub mod error;
pub mod extract;
pub mod health;
pub mod node;
pub mod router;
pub mod tls;
mod v1;

use std::future::Future;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::app::{self, App};

pub use error::Refusal;
pub use router::{node_router, openapi, router};

/// What every handler works with. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    app: App,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: Arc<Registry>,
}

impl Api {
    /// Handlers of `app`. Their tasks belong to `tasks`; streams end when `stop` is cancelled.
    pub fn new(
        app: App,
        metrics: Arc<Registry>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { app, tasks, stop, metrics }
    }

    /// Runs a use case to its end, also when the client goes away: a dropped `BEGIN` would leave
    /// an open transaction in a pooled connection.
    pub(crate) async fn run<F, Fut, T>(&self, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(App) -> Fut,
        Fut: Future<Output = Result<T, app::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let task = work(self.app.clone()).instrument(tracing::Span::current());
        match self.tasks.spawn(task).await {
            Ok(result) => result.map_err(Refusal::from),
            Err(error) => Err(app::Error::internal("run a request", error).into()),
        }
    }
}
