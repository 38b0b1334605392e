//! Pages of a hundred clusters, as a portal asks for them.

use std::time::{Duration, Instant};

use crate::rig::Rig;
use crate::{Figure, Size};

/// A goal of the design: p99 of a page.
const GOAL_MS: f64 = 10.0;

/// Reads the fleet page by page, again and again.
pub async fn run(rig: &Rig, fleet: &str, size: Size) -> anyhow::Result<Vec<Figure>> {
    let pages = size.pick(1_000, 20);
    let mut times = Vec::new();
    let mut cursor = String::new();
    while times.len() < pages {
        let after = if cursor.is_empty() { String::new() } else { format!("&cursor={cursor}") };
        let since = Instant::now();
        let page = rig.ask(&format!("/v1/clusters?limit=100{after}")).await?;
        times.push(since.elapsed());
        page["next_cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
    }
    let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 99));
    Ok(vec![
        Figure::plain(format!("{fleet} page of 100 clusters, p50"), half, "ms"),
        Figure::most(format!("{fleet} page of 100 clusters, p99"), (most, GOAL_MS), "ms"),
    ])
}

/// A percentile in milliseconds.
pub fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).clamp(1, times.len().max(1));
    times.get(at - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}
