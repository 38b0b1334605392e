//! The control API of a simulation, under `/_sim/`: faults, settings, counters, and the truth.
//!
//! | request | does |
//! |---|---|
//! | `GET /_sim/` | time, speed, clouds, clusters |
//! | `GET`, `PUT /_sim/clouds/{cloud}/faults` | what goes wrong; a PUT replaces all |
//! | `GET`, `PUT /_sim/clouds/{cloud}/timing` | how long things take |
//! | `GET`, `PUT /_sim/clouds/{cloud}/quota` | what the project may have |
//! | `POST /_sim/clouds/{cloud}/hosts/{host}` | `{"disabled": true, "down": false}` |
//! | `POST /_sim/clouds/{cloud}/servers/{id}/crash` | the server stops all at once |
//! | `GET /_sim/clouds/{cloud}/counters` | calls by service and operation |
//! | `GET /_sim/clouds/{cloud}/calls` | the latest calls, each with its time |
//! | `GET /_sim/truth` | every server, port and server group with its marks |
//! | `GET`, `PUT /_sim/clusters/{endpoint}/faults` | what goes wrong in a cluster |
//! | `GET`, `PUT /_sim/reach` | flows that are closed, MTUs, services that are away |
//! | `POST /_sim/clusters/{endpoint}/copies` | more clusters like this one, see [`super::copies`] |
//! | `PUT /_sim/speed` | `{"speed": 60}`: how fast time passes |
//! | `POST /_sim/snapshot` | stores the world now |

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::cloud::Cloud;
use super::copies::Copies;
use super::faults::Faults;
use super::reach::Reach;
use super::scaled_clock::ScaledClock;
use super::settings::{Quota, Timing};
use super::truth::Truth;
use super::world::World;

/// Largest body: copies of a hundred clusters with their words.
const BODY_LIMIT: usize = 64 << 20;

/// What the control API works on.
#[derive(Debug, Clone)]
pub struct Control {
    /// The world.
    pub world: Arc<World>,
    /// Its clock, when its speed can be changed.
    pub clock: Option<Arc<ScaledClock>>,
    /// Where it is stored, when it is.
    pub snapshot: Option<std::path::PathBuf>,
}

/// The control API.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/_sim/", get(overview))
        .route("/_sim/truth", get(truth))
        .route("/_sim/reach", get(reach).put(set_reach))
        .route("/_sim/speed", put(set_speed))
        .route("/_sim/snapshot", post(store))
        .route("/_sim/clouds/{cloud}/faults", get(faults).put(set_faults))
        .route("/_sim/clouds/{cloud}/timing", get(timing).put(set_timing))
        .route("/_sim/clouds/{cloud}/quota", get(quota).put(set_quota))
        .route("/_sim/clouds/{cloud}/counters", get(counters))
        .route("/_sim/clouds/{cloud}/calls", get(calls))
        .route("/_sim/clouds/{cloud}/hosts/{host}", post(set_host))
        .route("/_sim/clouds/{cloud}/servers/{id}/crash", post(crash))
        .route("/_sim/clusters/{endpoint}/faults", get(cluster_faults).put(set_cluster_faults))
        .route("/_sim/clusters/{endpoint}/copies", post(copy_cluster))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(control)
}

impl Control {
    /// Reads or changes a cloud and answers with what comes of it.
    fn of_cloud(&self, name: &str, act: impl FnOnce(&mut Cloud) -> Option<Value>) -> Response {
        match self.world.with_cloud(name, |cloud, _| act(cloud)).flatten() {
            Some(value) => Json(value).into_response(),
            None => (StatusCode::NOT_FOUND, Json(json!({"error": "not found"}))).into_response(),
        }
    }
}

async fn overview(State(control): State<Control>) -> Json<Value> {
    let clusters: Vec<Value> = control
        .world
        .endpoints()
        .into_iter()
        .map(|(endpoint, answers)| json!({"endpoint": endpoint, "answers": answers}))
        .collect();
    Json(json!({
        "now": control.world.present(), "clouds": control.world.clouds(), "clusters": clusters,
        "speed": control.clock.map(|clock| clock.speed()),
    }))
}

async fn truth(State(control): State<Control>) -> Json<Truth> {
    Json(control.world.truth())
}

async fn reach(State(control): State<Control>) -> Json<Reach> {
    Json(control.world.with_reach(|reach| reach.clone()))
}

async fn set_reach(State(control): State<Control>, Json(wanted): Json<Reach>) -> Json<Reach> {
    Json(control.world.with_reach(|reach| {
        *reach = wanted;
        reach.clone()
    }))
}

#[derive(Deserialize)]
struct Speed {
    speed: f64,
}

async fn set_speed(State(control): State<Control>, Json(wanted): Json<Speed>) -> StatusCode {
    let good = wanted.speed.is_finite() && (0.0..=10_000.0).contains(&wanted.speed);
    match control.clock.filter(|_| good) {
        Some(clock) => {
            clock.set_speed(wanted.speed);
            StatusCode::NO_CONTENT
        }
        None => StatusCode::BAD_REQUEST,
    }
}

async fn store(State(control): State<Control>) -> Response {
    let Some(path) = control.snapshot else { return StatusCode::NOT_FOUND.into_response() };
    match super::serve::store(&control.world, &path).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn faults(State(control): State<Control>, Path(cloud): Path<String>) -> Response {
    control.of_cloud(&cloud, |cloud| serde_json::to_value(&cloud.faults).ok())
}

async fn set_faults(
    State(control): State<Control>,
    Path(cloud): Path<String>,
    Json(wanted): Json<Faults>,
) -> Response {
    control.of_cloud(&cloud, |cloud| {
        cloud.faults = wanted;
        serde_json::to_value(&cloud.faults).ok()
    })
}

async fn timing(State(control): State<Control>, Path(cloud): Path<String>) -> Response {
    control.of_cloud(&cloud, |cloud| serde_json::to_value(&cloud.settings.timing).ok())
}

async fn set_timing(
    State(control): State<Control>,
    Path(cloud): Path<String>,
    Json(wanted): Json<Timing>,
) -> Response {
    control.of_cloud(&cloud, |cloud| {
        cloud.settings.timing = wanted;
        serde_json::to_value(&cloud.settings.timing).ok()
    })
}

async fn quota(State(control): State<Control>, Path(cloud): Path<String>) -> Response {
    control.of_cloud(&cloud, |cloud| serde_json::to_value(&cloud.settings.quota).ok())
}

async fn set_quota(
    State(control): State<Control>,
    Path(cloud): Path<String>,
    Json(wanted): Json<Quota>,
) -> Response {
    control.of_cloud(&cloud, |cloud| {
        cloud.settings.quota = wanted;
        serde_json::to_value(&cloud.settings.quota).ok()
    })
}

async fn counters(State(control): State<Control>, Path(cloud): Path<String>) -> Response {
    control.of_cloud(&cloud, |cloud| {
        Some(json!({
            "calls": cloud.counters.calls, "spoiled": cloud.counters.spoiled,
            "total": cloud.counters.total(), "servers_now": cloud.compute.servers.len(),
            "servers_ever": cloud.compute.servers.len() + cloud.compute.deleted.len(),
            "most_builds_at_once": cloud.compute.most_building,
        }))
    })
}

async fn calls(State(control): State<Control>, Path(cloud): Path<String>) -> Response {
    control.of_cloud(&cloud, |cloud| serde_json::to_value(&cloud.counters.recent).ok())
}

async fn copy_cluster(
    State(control): State<Control>,
    Path(endpoint): Path<String>,
    Json(wanted): Json<Copies>,
) -> Response {
    let world = Arc::clone(&control.world);
    let copied = tokio::task::spawn_blocking(move || world.copy_cluster(&endpoint, &wanted)).await;
    match copied {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, Json(json!({"error": why}))).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct HostChange {
    disabled: Option<bool>,
    down: Option<bool>,
}

async fn set_host(
    State(control): State<Control>,
    Path((cloud, host)): Path<(String, String)>,
    Json(wanted): Json<HostChange>,
) -> Response {
    control.of_cloud(&cloud, |cloud| {
        let host = cloud.compute.hosts.iter_mut().find(|row| row.name == host)?;
        host.disabled = wanted.disabled.unwrap_or(host.disabled);
        host.down = wanted.down.unwrap_or(host.down);
        serde_json::to_value(host).ok()
    })
}

async fn crash(
    State(control): State<Control>,
    Path((cloud, id)): Path<(String, Uuid)>,
) -> Response {
    let crashed = control.world.with_cloud(&cloud, |cloud, now| {
        cloud.compute.servers.get(id)?;
        cloud.crash_server(id, now);
        Some(())
    });
    match crashed.flatten() {
        Some(()) => StatusCode::NO_CONTENT.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn cluster_faults(State(control): State<Control>, Path(endpoint): Path<String>) -> Response {
    let Some(kube) = control.world.kube(&endpoint) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut shown = super::kubernetes::Faults::default();
    kube.set_faults(control.world.present(), |faults| shown = faults.clone());
    Json(shown).into_response()
}

async fn set_cluster_faults(
    State(control): State<Control>,
    Path(endpoint): Path<String>,
    Json(wanted): Json<super::kubernetes::Faults>,
) -> StatusCode {
    let Some(kube) = control.world.kube(&endpoint) else { return StatusCode::NOT_FOUND };
    kube.set_faults(control.world.present(), |faults| *faults = wanted);
    StatusCode::NO_CONTENT
}
