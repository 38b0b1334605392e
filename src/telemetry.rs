//! Logging, and every metric of the service in one struct.
//!
//! Labels have few values: kinds, outcomes, names of clouds. Never ids.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filters are not understood.
    #[error("telemetry.level is not a level or a list of filters: {0}")]
    Level(String),
    /// Something else logs already.
    #[error("logging was set up before")]
    Twice,
}

/// What is quiet unless the filters say otherwise: the Kubernetes client calls every refused
/// connection an error, and a cluster that boots refuses some; what it means is logged by us.
const QUIET: &str = "kube_client=off";

/// Begins to log to stderr: lines for people, or one JSON object a line.
pub fn start_logging(level: &str, json: bool) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}"))
        .map_err(|error| TelemetryError::Level(error.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let begun = if json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines.with_ansi(false).with_target(false)).try_init()
    };
    begun.map_err(|_| TelemetryError::Twice)
}

/// Which kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    /// Such as `cluster`.
    pub kind: &'static str,
}

/// Which kind of work, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// Such as `cluster`.
    pub kind: &'static str,
    /// Such as `settled`.
    pub outcome: &'static str,
}

/// A call to a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloudCall {
    /// Name of the cloud.
    pub cloud: String,
    /// Such as `nova`.
    pub service: String,
    /// Such as `create server`.
    pub operation: String,
    /// `ok`, or the kind of error.
    pub outcome: &'static str,
}

/// A service of a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloudService {
    /// Name of the cloud.
    pub cloud: String,
    /// Such as `nova`.
    pub service: String,
}

/// A request to our API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRequest {
    /// The method.
    pub method: String,
    /// The route's pattern, never the path.
    pub route: String,
    /// The status by its first digit, such as `2xx`.
    pub status: &'static str,
}

/// Every metric of the service. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Activations that ended, by kind and outcome.
    pub reconciles: Family<Ended, Counter>,
    /// Seconds spent in activations, by kind.
    pub reconcile_seconds: Family<OfKind, Counter<f64, AtomicU64>>,
    /// Activations right now, by kind.
    pub reconciles_running: Family<OfKind, Gauge>,
    /// Work items that are due and held by nobody, by kind.
    pub work_due: Family<OfKind, Gauge>,
    /// Work items that wait for the world, by kind.
    pub work_parked: Family<OfKind, Gauge>,
    /// Work items that failed the last time, by kind.
    pub work_failing: Family<OfKind, Gauge>,
    /// For how long the oldest due work has been due, by kind.
    pub work_oldest_due_seconds: Family<OfKind, Gauge<f64, AtomicU64>>,
    /// Calls to clouds, by cloud, service, operation and outcome.
    pub cloud_calls: Family<CloudCall, Counter>,
    /// How long calls to clouds took, by cloud and service.
    pub cloud_call_seconds: Family<CloudService, Histogram, fn() -> Histogram>,
    /// How long API requests took, by method, route and status.
    pub api_seconds: Family<ApiRequest, Histogram, fn() -> Histogram>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// OpenStack answers in tens of milliseconds when well, and in a minute when not.
fn cloud_buckets() -> Histogram {
    Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0])
}

/// The promise is 10 ms for a page of clusters.
fn api_buckets() -> Histogram {
    Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            reconcile_seconds: Family::default(),
            reconciles_running: Family::default(),
            work_due: Family::default(),
            work_parked: Family::default(),
            work_failing: Family::default(),
            work_oldest_due_seconds: Family::default(),
            cloud_calls: Family::default(),
            cloud_call_seconds: Family::new_with_constructor(cloud_buckets),
            api_seconds: Family::new_with_constructor(api_buckets),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }
}

impl Metrics {
    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("zcp");
        all.register("reconciles", "Activations that ended", self.reconciles.clone());
        all.register(
            "reconcile_seconds",
            "Seconds spent in activations",
            self.reconcile_seconds.clone(),
        );
        all.register(
            "reconciles_running",
            "Activations right now",
            self.reconciles_running.clone(),
        );
        all.register("work_due", "Work that is due and held by nobody", self.work_due.clone());
        all.register("work_parked", "Work that waits for the world", self.work_parked.clone());
        all.register("work_failing", "Work that failed the last time", self.work_failing.clone());
        all.register(
            "work_oldest_due_seconds",
            "For how long the oldest due work has been due",
            self.work_oldest_due_seconds.clone(),
        );
        all.register("cloud_calls", "Calls to clouds", self.cloud_calls.clone());
        all.register(
            "cloud_call_seconds",
            "How long calls to clouds took",
            self.cloud_call_seconds.clone(),
        );
        all.register("api_seconds", "How long API requests took", self.api_seconds.clone());
        all
    }

    /// All metrics, for whoever writes them out.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// All metrics in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _written = encode(&mut text, &self.registry);
        text
    }

    /// Sets what is counted elsewhere: activations since the start.
    pub fn set_reconciles(&self, ended: Ended, count: u64) {
        self.reconciles.get_or_create(&ended).inner().store(count, Ordering::Relaxed);
    }

    /// Sets what is counted elsewhere: time spent since the start.
    pub fn set_reconcile_time(&self, kind: &'static str, spent: Duration) {
        let bits = spent.as_secs_f64().to_bits();
        let seconds = self.reconcile_seconds.get_or_create(&OfKind { kind });
        seconds.inner().store(bits, Ordering::Relaxed);
    }

    /// Counts a call to a cloud.
    pub fn count_cloud_call(&self, call: CloudCall, took: Duration) {
        let service = CloudService { cloud: call.cloud.clone(), service: call.service.clone() };
        self.cloud_call_seconds.get_or_create(&service).observe(took.as_secs_f64());
        self.cloud_calls.get_or_create(&call).inc();
    }

    /// Counts a request to our API.
    pub fn count_api_request(&self, request: &ApiRequest, took: Duration) {
        self.api_seconds.get_or_create(request).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_with_their_labels() {
        let metrics = Metrics::default();
        metrics.set_reconciles(Ended { kind: "cluster", outcome: "settled" }, 7);
        metrics.set_reconcile_time("cluster", Duration::from_millis(1500));
        metrics.work_due.get_or_create(&OfKind { kind: "cluster" }).set(3);
        let call = CloudCall {
            cloud: "east".into(),
            service: "nova".into(),
            operation: "create server".into(),
            outcome: "ok",
        };
        metrics.count_cloud_call(call, Duration::from_millis(20));
        let text = metrics.text();
        for line in [
            "zcp_reconciles_total{kind=\"cluster\",outcome=\"settled\"} 7",
            "zcp_reconcile_seconds_total{kind=\"cluster\"} 1.5",
            "zcp_work_due{kind=\"cluster\"} 3",
            "operation=\"create server\",outcome=\"ok\"} 1",
            "zcp_cloud_call_seconds_bucket{le=\"0.03\",cloud=\"east\",service=\"nova\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
