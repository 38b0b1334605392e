//! Reconcilers as the configuration wants them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::installation::Own;
use super::{Foundation, ServiceError, doing};
use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::kubernetes::ManagementClient;
use crate::kubernetes::client::Connector;
use crate::openstack::{CallObserver, CallSeen};
use crate::store::{Store, replicas};
use crate::telemetry::{CloudCall, Metrics};
use crate::worker::clients::CloudClients;
use crate::worker::context::{CanarySettings, Context, Installation, Settings};
use crate::worker::crash::CrashPoints;
use crate::worker::management::Follower;
use crate::worker::{self, Driver, DriverParts, DriverSettings, KindSettings, Kinds};

/// How often the replicas are counted: their own beat.
const SHARE_PERIOD: Duration = Duration::from_secs(10);
/// A replica that missed two beats is not counted any more: its part of the calls is needed.
const SHARE_MEMORY: jiff::SignedDuration = jiff::SignedDuration::from_secs(25);

/// All reconcilers, ready to run.
pub(super) fn driver(
    config: &Config,
    foundation: &Foundation,
    (own, metrics, management): (&Own, &Metrics, Option<ManagementClient>),
) -> Result<(Driver, CloudClients), ServiceError> {
    let bundle_url = config.node.url.join("/node/v1/bundle").map_err(doing("read node.url"))?;
    let installation =
        Installation { id: own.id, bundle_url, node_ca_pem: own.authority.cert_pem().to_owned() };
    let (clock, ids) = (Arc::clone(&foundation.clock), Arc::clone(&foundation.ids));
    let clouds = CloudClients::network(
        (Arc::clone(&clock), Arc::clone(&ids)),
        Arc::clone(&foundation.keys),
        Some(observer(metrics)),
    );
    let context = Context {
        store: foundation.app.store.clone(),
        clock: Arc::clone(&clock),
        ids: Arc::clone(&ids),
        keys: Arc::clone(&foundation.keys),
        clouds: clouds.clone(),
        connector: Connector::network().with_clock(Arc::clone(&clock)),
        management,
        crash: CrashPoints::default(),
        installation: Arc::new(installation),
        settings: Arc::new(settings(&config.worker)),
    };
    let parts = DriverParts {
        store: foundation.app.store.clone(),
        clock,
        ids,
        settings: DriverSettings {
            replica: config.worker.replica.clone().unwrap_or_else(machine),
            lease: config.worker.lease.0,
            poll: config.worker.poll.0,
            grace: config.worker.grace.0,
        },
    };
    let kinds = Kinds(config.worker.kinds.all().map(|(_, kind)| kind_settings(kind)));
    Ok((worker::build(&context, parts, kinds), clouds))
}

/// The management cluster, if the configuration names one.
pub(super) async fn management(config: &Config) -> Result<Option<ManagementClient>, ServiceError> {
    let Some(path) = &config.management.kubeconfig else { return Ok(None) };
    let said = || format!("read management.kubeconfig {}", path.display());
    let text = std::fs::read_to_string(path).map_err(doing(said()))?;
    ManagementClient::from_kubeconfig(&text).await.map(Some).map_err(doing(said()))
}

/// What follows the objects of the management cluster.
pub(super) fn follower(client: ManagementClient, of: &Foundation, own: &Own) -> Follower {
    Follower {
        client,
        store: of.app.store.clone(),
        clock: Arc::clone(&of.clock),
        ids: Arc::clone(&of.ids),
        install: own.id,
    }
}

/// Keeps each replica's part of the clouds' budgets right as replicas come and go.
pub(super) async fn share_budgets(
    clouds: CloudClients,
    (store, clock): (Store, SharedClock),
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(SHARE_PERIOD)).await.is_some() {
        let since = clock.now() - SHARE_MEMORY;
        match replicas::count_living(store.pool(), since).await {
            Ok(living) => clouds.share_among(living),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the number of replicas is that of before");
            }
        }
    }
}

fn kind_settings(kind: config::Kind) -> KindSettings {
    KindSettings { enabled: kind.enabled, ..KindSettings::new(kind.period.0, kind.concurrency) }
}

fn settings(worker: &config::Worker) -> Settings {
    let defaults = Settings::default();
    Settings {
        join_deadline: worker.join_deadline.0,
        unclear_wait: worker.unclear_wait.0,
        busy_period: worker.busy_period.0,
        servers_period: worker.servers_period.0,
        nodes_period: worker.nodes_period.0,
        inventory_period: worker.inventory_period.0,
        sweep_period: worker.sweep_period.0,
        sweep_age: worker.sweep_age.0,
        drain_pass: worker.drain_pass.0,
        shrink_drain: worker.shrink_drain.0,
        parallel_steps: worker.parallel_steps as usize,
        kube_vip_image: worker.kube_vip_image.clone().unwrap_or(defaults.kube_vip_image),
        canary: canary(&worker.canary, defaults.canary),
    }
}

fn canary(told: &config::Canary, defaults: CanarySettings) -> CanarySettings {
    CanarySettings {
        registry: told.registry.clone().unwrap_or(defaults.registry),
        names: told.names().unwrap_or(defaults.names),
        time: told.time.clone().unwrap_or(defaults.time),
        probe_image: told.probe_image.clone().unwrap_or(defaults.probe_image),
    }
}

/// Name of this machine, for operators.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "zcpd".to_owned() } else { name.to_owned() }
}

/// Counts every call to a cloud.
fn observer(metrics: &Metrics) -> CallObserver {
    let metrics = metrics.clone();
    Arc::new(move |seen: &CallSeen<'_>| {
        let call = CloudCall {
            cloud: seen.cloud.to_owned(),
            service: seen.service.to_owned(),
            operation: seen.operation.to_owned(),
            outcome: seen.outcome,
        };
        metrics.count_cloud_call(call, seen.took);
    })
}
