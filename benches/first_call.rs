//! How soon a request that was accepted is worked on: from the request to the first call outside.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use zcp::clock::{Clock as _, SystemClock};

use crate::api_pages::percentile;
use crate::rig::{Rig, failed};
use crate::{Figure, Size, fleet};

const GOAL_MS: f64 = 50.0;
/// Longer than a request is worked on, so that each is alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Scales a pool up, one server at a time. Builds never end meanwhile, so that nothing but lists is
/// called on account of earlier requests.
pub async fn run(size: Size) -> anyhow::Result<Vec<Figure>> {
    let mut rig = Rig::start(&fleet::world(1), "").await?;
    rig.serve().await?;
    let clouds = fleet::clouds(1);
    let limits = json!({"calls_per_second": 500, "builds_in_flight": 1000});
    rig.register((&clouds, limits)).await?;
    let cluster = rig.create_cluster(("first", &clouds[0]), (1, 1)).await?;
    rig.wait_for_clusters(1).await?;
    let timing = json!({"schedule_ms": 0, "build_ms": 36_000_000, "boot_ms": 0, "join_ms": 0,
        "delete_ms": 0, "power_ms": 0, "retry_ms": 1000, "jitter": 0.0});
    rig.tell_sim((reqwest::Method::PUT, &format!("clouds/{}/timing", clouds[0])), &timing).await?;
    let mut times = Vec::new();
    for count in 2..=size.pick(300, 20) {
        tokio::time::sleep(PAUSE).await;
        let cluster = cluster.to_string();
        let path = ["v1", "clusters", &cluster, "pools", "web"];
        let sent = SystemClock.now();
        let _made: Value = rig.api.patch(&path, &json!({"count": count})).await.map_err(failed)?;
        times.push(first_after(&rig, &clouds[0], sent).await?);
    }
    rig.stop().await?;
    let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 99));
    Ok(vec![
        Figure::plain("request to first outside call, p50", half, "ms"),
        Figure::most("request to first outside call, p99", (most, GOAL_MS), "ms"),
    ])
}

/// How long after `sent` the cloud was first called for anything but a list of servers.
async fn first_after(rig: &Rig, cloud: &str, sent: Timestamp) -> anyhow::Result<Duration> {
    loop {
        let calls = rig.sim(&format!("clouds/{cloud}/calls")).await?;
        let at = calls.as_array().into_iter().flatten().find_map(|call| {
            let at: Timestamp = call["at"].as_str()?.parse().ok()?;
            (at >= sent && call["operation"] != "nova.list_servers").then_some(at)
        });
        if let Some(at) = at {
            return Ok(at.duration_since(sent).unsigned_abs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
