//! A fleet that nobody touches: what it costs to know that it is well, and how long a start takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::rig::Rig;
use crate::{Figure, Size, api_pages, fleet, usage};

/// Servers of one cluster: three members and the workers.
const MEMBERS: u32 = 3;
const WORKERS: u32 = 38;
/// How often is looked whether all is seen in time.
const LOOK: Duration = Duration::from_secs(5);
/// Longest that a start may take before something is wrong.
const START: Duration = Duration::from_mins(40);

/// A size of fleet and what is promised of it.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    name: &'static str,
    clouds: usize,
    clusters: usize,
    nodes_every: f64,
    cores: f64,
    memory_mib: f64,
}

impl Fleet {
    /// 1,400 clusters.
    pub const ONE: Self = Self {
        name: "idle",
        clouds: 2,
        clusters: 1_400,
        nodes_every: 120.0,
        cores: 0.25,
        memory_mib: 512.0,
    };
    /// Ten times that. Ten times the clouds too: a network of a simulated cloud has 65,000 addresses.
    pub const TEN: Self = Self {
        name: "idle10",
        clouds: 20,
        clusters: 14_000,
        nodes_every: 300.0,
        cores: 1.0,
        memory_mib: 2048.0,
    };
}

/// Servers are seen at least this often.
const SERVERS_EVERY: f64 = 60.0;
/// How often they are listed for that: one cycle.
const SERVERS_PERIOD: f64 = 50.0;

/// Runs the fleet.
pub async fn run(size: Size, promised: Fleet) -> anyhow::Result<Vec<Figure>> {
    let shrink = |n: usize| size.pick(n, (n / 100).max(2));
    let mut fleet = Fleet { clusters: shrink(promised.clusters), ..promised };
    fleet.clouds = size.pick(fleet.clouds, 2);
    // A little earlier than promised, since a list takes its time too.
    let workers = format!(
        "[worker]\nservers_period = \"{SERVERS_PERIOD}s\"\nnodes_period = \"{:.0}s\"\n",
        fleet.nodes_every * 0.94
    );
    let mut rig = Rig::start(&fleet::world(fleet.clouds), &workers).await?;
    let begun = Instant::now();
    seed(&mut rig, fleet).await?;
    println!("{}: fleet made in {:.0} s", fleet.name, begun.elapsed().as_secs_f64());
    let mut figures = cold_start(&mut rig, fleet).await?;
    tokio::time::sleep(size.pick(Duration::from_secs(30), Duration::from_secs(2))).await;
    let time = size.pick(Duration::from_mins(10), Duration::from_secs(20));
    figures.extend(watch(&rig, fleet, time).await?);
    if fleet.clusters >= 1_000 || size == Size::Smoke {
        figures.extend(api_pages::run(&rig, fleet.name, size).await?);
    }
    rig.stop().await?;
    Ok(figures)
}

/// The original clusters, made by the service, then their copies.
async fn seed(rig: &mut Rig, fleet: Fleet) -> anyhow::Result<()> {
    rig.serve().await?;
    let clouds = fleet::clouds(fleet.clouds);
    let limits = json!({"calls_per_second": 500, "builds_in_flight": 100});
    rig.register((&clouds, limits)).await?;
    let mut originals = Vec::new();
    for cloud in &clouds {
        let name = (format!("{cloud}-fleet"), cloud.as_str());
        originals.push(rig.create_cluster((&name.0, name.1), (MEMBERS, WORKERS)).await?);
    }
    rig.wait_for_clusters(originals.len()).await?;
    rig.stop_service().await?;
    for original in originals {
        fleet::fill(rig, original, fleet.clusters / fleet.clouds).await?;
    }
    fleet::make_all_due(rig).await
}

/// From the start of the process until every account and cluster was seen.
async fn cold_start(rig: &mut Rig, fleet: Fleet) -> anyhow::Result<Vec<Figure>> {
    let begun: jiff_sqlx::Timestamp = sqlx::query_scalar("SELECT now()").fetch_one(&rig.db).await?;
    let since = Instant::now();
    let ready = rig.serve().await?;
    loop {
        let left = "SELECT (SELECT count(*) FROM clusters
                            WHERE nodes_listed_at IS NULL OR nodes_listed_at < $1)
                         + (SELECT count(*) FROM accounts
                            WHERE listed_at IS NULL OR listed_at < $1)
                         + (SELECT count(*) FROM work_items WHERE due_at < $1)";
        let left: i64 = sqlx::query_scalar(left).bind(begun).fetch_one(&rig.db).await?;
        if left == 0 {
            break;
        }
        if since.elapsed() > START {
            bail!("{left} things are not looked at {START:?} after the start");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let [service, sim, postgres] = rig.usage();
    let name = fleet.name;
    let full = since.elapsed().as_secs_f64();
    println!(
        "{name}: start to full work {full:.1} s; CPU seconds zcpd {:.1}, sim {:.1}, postgres {:.1}",
        service.cpu.as_secs_f64(),
        sim.cpu.as_secs_f64(),
        postgres.cpu.as_secs_f64()
    );
    Ok(vec![
        Figure::plain(format!("{name} start to ready"), ready.as_secs_f64(), "s"),
        Figure::most(format!("{name} start to full work"), (full, fleet.nodes_every), "s"),
        Figure::plain(format!("{name} start cpu"), service.cpu.as_secs_f64(), "s"),
    ])
}

/// Calls by cloud operation so far, over all clouds.
async fn calls(rig: &Rig, clouds: usize) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut sum = BTreeMap::new();
    for cloud in fleet::clouds(clouds) {
        let counters = rig.sim(&format!("clouds/{cloud}/counters")).await?;
        for (operation, count) in counters["calls"].as_object().context("counters")? {
            *sum.entry(operation.clone()).or_default() += count.as_f64().unwrap_or(0.0);
        }
    }
    Ok(sum)
}

/// Age of what was seen longest ago, in seconds: servers, nodes.
async fn ages(rig: &Rig) -> anyhow::Result<(f64, f64)> {
    let sql = "SELECT extract(epoch FROM now() - (SELECT min(listed_at) FROM accounts))::float8,
                      extract(epoch FROM now() - (SELECT min(nodes_listed_at) FROM clusters))::float8";
    Ok(sqlx::query_as(sql).fetch_one(&rig.db).await?)
}

async fn watch(rig: &Rig, fleet: Fleet, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let servers: i64 = sqlx::query_scalar("SELECT count(*) FROM nodes").fetch_one(&rig.db).await?;
    #[expect(clippy::cast_precision_loss, reason = "half a million")]
    let servers = servers as f64;
    let before = (calls(rig, fleet.clouds).await?, rig.usage());
    let since = Instant::now();
    let (mut oldest_server, mut oldest_node, mut most_memory) = (0.0_f64, 0.0_f64, 0.0_f64);
    while since.elapsed() < time {
        tokio::time::sleep(LOOK).await;
        let (server, node) = ages(rig).await?;
        oldest_server = oldest_server.max(server);
        oldest_node = oldest_node.max(node);
        most_memory = most_memory.max(rig.usage()[0].rss_mib);
    }
    let seconds = since.elapsed().as_secs_f64();
    let after = (calls(rig, fleet.clouds).await?, rig.usage());
    let made = |operation: &str| {
        let count = |calls: &BTreeMap<String, f64>| calls.get(operation).copied().unwrap_or(0.0);
        count(&after.0) - count(&before.0)
    };
    for operation in after.0.keys().filter(|operation| made(operation) > 0.0) {
        println!("{}: {} calls of {operation}", fleet.name, made(operation));
    }
    let [service, sim, postgres] =
        [0, 1, 2].map(|n| (after.1[n].cpu.as_secs_f64() - before.1[n].cpu.as_secs_f64()) / seconds);
    let lists = made("nova.list_servers");
    #[expect(clippy::cast_precision_loss, reason = "a few accounts")]
    let allowed = servers / 1000.0 + fleet.clouds as f64;
    let name = fleet.name;
    println!("{name}: load of the machine {}", usage::load());
    Ok(vec![
        Figure::plain(format!("{name} servers"), servers, "servers"),
        Figure::most(
            format!("{name} calls for lists of servers a cycle"),
            (lists / seconds * SERVERS_PERIOD, allowed),
            "calls",
        ),
        Figure::most(format!("{name} oldest server list"), (oldest_server, SERVERS_EVERY), "s"),
        Figure::most(format!("{name} oldest node list"), (oldest_node, fleet.nodes_every), "s"),
        Figure::most(format!("{name} zcpd cpu"), (service, fleet.cores), "cores"),
        Figure::most(format!("{name} zcpd memory"), (most_memory, fleet.memory_mib), "MiB"),
        Figure::plain(format!("{name} zcpd peak memory"), rig.peak_mib(), "MiB"),
        Figure::plain(format!("{name} sim cpu"), sim, "cores"),
        Figure::plain(format!("{name} sim memory"), after.1[1].rss_mib, "MiB"),
        Figure::plain(format!("{name} postgres cpu"), postgres, "cores"),
    ])
}

/// What ten times the fleet costs more.
pub fn growth(figures: &[Figure]) -> Vec<Figure> {
    let value = |name: String| figures.iter().find(|one| one.name == name).map(|one| one.value);
    let factor = |what: &str| {
        let (one, ten) = (value(format!("idle {what}"))?, value(format!("idle10 {what}"))?);
        Some(Figure::plain(format!("growth of {what} at 10 times"), ten / one, "times"))
    };
    ["zcpd cpu", "zcpd memory", "start to full work"].into_iter().filter_map(factor).collect()
}
