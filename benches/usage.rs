//! What processes cost, as the kernel counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// Ticks of the kernel's accounting a second; 100 on every Linux that this runs on.
const TICKS: f64 = 100.0;
const MIB: f64 = 1024.0;

/// What a tree of processes has used so far, and holds now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Memory that is resident now, in MiB.
    pub rss_mib: f64,
}

/// A process and everything below it. Children that ended are counted in their parents.
pub fn of_tree(root: u32) -> Usage {
    let stats: BTreeMap<u32, Stat> =
        processes().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut tree = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = stats
            .iter()
            .filter(|(pid, stat)| tree.contains(&stat.parent) && !tree.contains(*pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        tree.extend(more);
    }
    let mut usage = Usage::default();
    for (pid, stat) in stats.iter().filter(|(pid, _)| tree.contains(pid)) {
        usage.cpu += Duration::from_secs_f64(stat.ticks / TICKS);
        usage.rss_mib += rss_mib(*pid);
    }
    usage
}

/// Ids of processes whose command line holds all of `words`.
pub fn find(words: &[&str]) -> Option<u32> {
    processes().find(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.iter().all(|word| line.contains(word))
    })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    parent: u32,
    ticks: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| rest.get(n).and_then(|text| text.parse::<f64>().ok());
    // utime, stime, and those of children that ended.
    let ticks = field(11)? + field(12)? + field(13)? + field(14)?;
    Some(Stat { parent: rest.get(1)?.parse().ok()?, ticks })
}

fn rss_mib(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

/// Most memory that was ever resident, in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, what: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / MIB
}

/// How busy the whole machine is: one-minute load.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Cores, memory and load, for the head of the result.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let gib: f64 = kib.unwrap_or(0.0) / MIB / MIB;
    format!("{cores} cores, {gib:.0} GiB, load {}", load())
}
