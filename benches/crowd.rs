//! Two hundred migrations at once: as fast as the clouds allow, and not faster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use uuid::Uuid;
use zcp::sim::{Timing, WorldSettings};

use crate::rig::{Rig, failed};
use crate::{Figure, Size, fleet};

/// Calls a second that each cloud takes, and servers that it builds at once: the defaults.
const RATE: u32 = 20;
const BUILDS: u32 = 20;
/// The budget's burst, see `openstack::budget`: what may come at once after a quiet time.
const BURST: f64 = 2.0 * RATE as f64;
const WORKERS: u32 = 6;
const SOAK_SECONDS: u32 = 3;
/// From the accepted create to ACTIVE: what Nova takes at the least where the host has the image.
const BUILD: Duration = Duration::from_secs(10);
/// From ACTIVE to the start of user data, and from there to the join.
const BOOT: Duration = Duration::from_secs(3);
const JOIN: Duration = Duration::from_secs(1);
/// Far more than it takes.
const LIMIT: Duration = Duration::from_mins(30);

fn world() -> WorldSettings {
    let mut world = fleet::world(2);
    for cloud in &mut world.clouds {
        cloud.quota.server_groups = 100_000;
    }
    world
}

fn timing() -> Timing {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Timing {
        build_ms: ms(BUILD),
        boot_ms: ms(BOOT),
        join_ms: ms(JOIN),
        retry_ms: 1000,
        ..Timing::instant()
    }
}

/// Makes the clusters, starts all migrations, and watches what the target cloud is asked.
pub async fn run(size: Size) -> anyhow::Result<Vec<Figure>> {
    let clusters = size.pick(200, 4);
    let mut rig = Rig::start(&world(), "").await?;
    let clouds = fleet::clouds(2);
    rig.serve().await?;
    let limits = json!({"calls_per_second": RATE, "builds_in_flight": BUILDS});
    rig.register((&clouds, limits)).await?;
    let original = rig.create_cluster(("crowd", &clouds[0]), (1, WORKERS)).await?;
    rig.wait_for_clusters(1).await?;
    rig.stop_service().await?;
    fleet::fill(&rig, original, clusters).await?;
    rig.serve().await?;
    let timing = serde_json::to_value(timing())?;
    rig.tell_sim((reqwest::Method::PUT, &format!("clouds/{}/timing", clouds[1])), &timing).await?;
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM clusters").fetch_all(&rig.db).await?;

    // Alone first: the longest single path, under the same limits.
    let alone = migrate(&rig, (&ids[..1], &clouds[1])).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let together = migrate(&rig, (&ids[1..], &clouds[1])).await?;
    let figures = judge(ids.len() - 1, &alone, &together);
    rig.stop().await?;
    Ok(figures)
}

/// What came of some migrations.
struct Crowd {
    makespan: f64,
    calls: f64,
    builds: f64,
    most_builds: f64,
    /// Highest part of what the budget allows that was used in any window, 1.0 is all.
    budget_used: f64,
    holding: usize,
}

async fn migrate(rig: &Rig, (ids, target): (&[Uuid], &str)) -> anyhow::Result<Crowd> {
    let before = counters(rig, target).await?;
    let since = Instant::now();
    let spec = json!({"target": target, "canary": "off", "commit": "manual",
        "waves": [{"upto": 1, "soak_seconds": SOAK_SECONDS},
            {"upto": "25%", "soak_seconds": SOAK_SECONDS},
            {"upto": "100%", "soak_seconds": SOAK_SECONDS}]});
    let requests = ids.iter().map(|id| {
        let (id, spec) = (id.to_string(), &spec);
        async move {
            let made: Result<Value, _> =
                rig.api.post(&["v1", "clusters", &id, "migrations"], spec).await;
            made.map_err(failed)
        }
    });
    futures::future::try_join_all(requests).await?;
    let mut seen = vec![(0.0, before.calls)];
    let wanted = i64::try_from(ids.len())?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        seen.push((since.elapsed().as_secs_f64(), counters(rig, target).await?.calls));
        let holding = "SELECT count(*) FROM migrations WHERE phase = 'holding'
                       AND cluster_id = ANY($1)";
        let holding: i64 = sqlx::query_scalar(holding).bind(ids).fetch_one(&rig.db).await?;
        if holding == wanted {
            break;
        }
        if since.elapsed() > LIMIT {
            bail!("{holding} of {wanted} migrations are done after {LIMIT:?}");
        }
    }
    let makespan = since.elapsed().as_secs_f64();
    let after = counters(rig, target).await?;
    Ok(Crowd {
        makespan,
        calls: after.calls - before.calls,
        builds: after.servers - before.servers,
        most_builds: after.most_builds,
        budget_used: budget_used(&seen),
        holding: ids.len(),
    })
}

/// Over every window that was looked at: calls made over calls allowed.
fn budget_used(seen: &[(f64, f64)]) -> f64 {
    let mut most = 0.0_f64;
    for (n, (begin, before)) in seen.iter().enumerate() {
        for (end, after) in &seen[n + 1..] {
            most = most.max((after - before) / (BURST + f64::from(RATE) * (end - begin)));
        }
    }
    most
}

struct Counters {
    calls: f64,
    servers: f64,
    most_builds: f64,
}

async fn counters(rig: &Rig, cloud: &str) -> anyhow::Result<Counters> {
    let found = rig.sim(&format!("clouds/{cloud}/counters")).await?;
    let number = |key: &str| found[key].as_f64().context("counters");
    Ok(Counters {
        calls: number("total")?,
        servers: number("servers_ever")?,
        most_builds: number("most_builds_at_once")?,
    })
}

fn judge(count: usize, alone: &Crowd, together: &Crowd) -> Vec<Figure> {
    let by_calls = (together.calls - BURST) / f64::from(RATE);
    let by_builds = together.builds * BUILD.as_secs_f64() / f64::from(BUILDS);
    let bound = by_calls.max(by_builds).max(alone.makespan);
    println!(
        "crowd: {count} migrations, bound = max({:.0} calls at {RATE}/s = {by_calls:.0} s, \
         {:.0} builds of {BUILD:?} in {BUILDS} slots = {by_builds:.0} s, one alone {:.0} s) = \
         {bound:.0} s; took {:.0} s",
        together.calls, together.builds, alone.makespan, together.makespan
    );
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let left = (count - together.holding) as f64;
    vec![
        Figure::most("crowd migrations not done", (left, 0.0), "count"),
        Figure::plain("crowd makespan", together.makespan, "s"),
        Figure::plain("crowd one migration alone", alone.makespan, "s"),
        Figure::plain("crowd calls to the target", together.calls, "calls"),
        Figure::most("crowd makespan over bound", (together.makespan / bound, 1.10), "ratio"),
        Figure::most("crowd calls over budget", (together.budget_used, 1.0), "ratio"),
        Figure::most("crowd builds at once", (together.most_builds, f64::from(BUILDS)), "builds"),
    ]
}
