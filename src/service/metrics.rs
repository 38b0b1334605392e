//! What `/metrics` shows, and how long API requests take.

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::app::App;
use crate::store::work::{self, WorkKind};
use crate::telemetry::{ApiRequest, Ended, Metrics, OfKind};
use crate::worker::Driver;

/// What the endpoint reads.
#[derive(Clone)]
struct Sources {
    metrics: Metrics,
    app: App,
    driver: Driver,
}

/// Makes `/metrics` of `router` read the present figures, and times all routes.
pub(super) fn around(router: Router, metrics: &Metrics, (app, driver): (&App, &Driver)) -> Router {
    let (app, driver) = (app.clone(), driver.clone());
    let sources = Sources { metrics: metrics.clone(), app, driver };
    router.layer(middleware::from_fn_with_state(sources, observe))
}

async fn observe(State(sources): State<Sources>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let method = request.method().as_str().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    if route.as_deref() == Some("/metrics") {
        sources.read().await;
    }
    let response = next.run(request).await;
    if let Some(route) = route {
        let status = class(response.status());
        let request = ApiRequest { method, route, status };
        sources.metrics.count_api_request(&request, since.elapsed());
    }
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

impl Sources {
    async fn read(&self) {
        self.read_driver();
        // Without the database the rest is still worth reading, now more than ever.
        if let Err(error) = self.read_work().await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "metrics of work are those of before");
        }
    }

    fn read_driver(&self) {
        for status in self.driver.status().kinds {
            let kind = status.kind.as_str();
            for (outcome, count) in status.ended {
                self.metrics.set_reconciles(Ended { kind, outcome: outcome.as_str() }, count);
            }
            self.metrics.set_reconcile_time(kind, status.busy);
            let running = i64::try_from(status.running).unwrap_or(i64::MAX);
            self.metrics.reconciles_running.get_or_create(&OfKind { kind }).set(running);
        }
    }

    async fn read_work(&self) -> Result<(), crate::store::StoreError> {
        let found = work::statistics(self.app.store.pool(), self.app.now()).await?;
        for kind in WorkKind::ALL {
            let of = found.iter().find(|one| one.kind == kind);
            let count = |number: fn(&work::QueueStatistics) -> u64| {
                i64::try_from(of.map_or(0, number)).unwrap_or(i64::MAX)
            };
            let label = OfKind { kind: kind.as_str() };
            self.metrics.work_due.get_or_create(&label).set(count(|one| one.due));
            self.metrics.work_parked.get_or_create(&label).set(count(|one| one.parked));
            self.metrics.work_failing.get_or_create(&label).set(count(|one| one.failing));
            let oldest = of.map_or(0.0, |one| one.oldest_due.as_secs_f64());
            self.metrics.work_oldest_due_seconds.get_or_create(&label).set(oldest);
        }
        Ok(())
    }
}
