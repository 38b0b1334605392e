//! What canaries found: whether a server of the target joins, and what it reaches.
//!
//! Everything here was tried for real, by a server of the flavor, image and network that the new
//! nodes will have, and by an old node. What a canary did not come to try is said too.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::{CloudFacts, Facts};
use crate::domain::canary::{Check, Outcome, PortSpec, Protocol, Report};
use crate::domain::insight::{Insight, Level};
use crate::domain::migration::CanaryPolicy;
use crate::plan::resolve;

/// A canary that was looked up.
#[derive(Debug, Clone)]
pub struct CanaryFacts {
    /// Its flavor.
    pub flavor: String,
    /// How far it is.
    pub state: CanaryState,
}

/// How far a canary is.
#[derive(Debug, Clone)]
pub enum CanaryState {
    /// It is on its way.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It has ended.
    Ended(Box<CanaryEnd>),
}

/// What a canary left.
#[derive(Debug, Clone)]
pub struct CanaryEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// Why so, when it did not report.
    pub reason: String,
    /// The end of its console, when it did not report.
    pub console: String,
    /// What it found.
    pub report: Option<Report>,
    /// What an old node found; `None` if none could be asked.
    pub peer: Option<Report>,
    /// Whether the API reaches its kubelet.
    pub kubelet: Option<Check>,
    /// When it ended.
    pub at: Timestamp,
}

/// Lines of a console that an insight shows.
const TAIL_LINES: usize = 15;
/// Bytes of them.
const TAIL_MAX: usize = 1500;

/// Whether what a canary left says that something is wrong: then it is not believed for longer
/// than the look it was made for.
pub fn is_bad(facts: &Facts, end: &CanaryEnd) -> bool {
    let mut findings = Findings::new(facts);
    findings.add("", end);
    findings.insights().iter().any(|one| one.level == Level::Block)
}

/// What canaries found.
pub(super) fn canaries(facts: &Facts) -> Vec<Insight> {
    let target = &facts.target.name;
    if facts.canaries.is_empty() {
        if facts.spec.canary == CanaryPolicy::Auto {
            return Vec::new();
        }
        let reason = format!(
            "no server tried cloud {target}: nobody knows whether one joins, which ports are open \
             and how large a packet may be"
        );
        let fix = "leave the canary on";
        return vec![Insight::new(facts.now, Level::Warn, "canary", reason).on([target]).fix(fix)];
    }
    let mut running = Vec::new();
    let mut findings = Findings::new(facts);
    for canary in &facts.canaries {
        match &canary.state {
            CanaryState::Running { since } => running.push((since, canary.flavor.as_str())),
            CanaryState::Ended(end) => findings.add(&canary.flavor, end),
        }
    }
    if let Some((since, _)) = running.first() {
        let reason = format!("canaries try cloud {target} since {since:.0}");
        let flavors = running.iter().map(|(_, flavor)| format!("flavor {flavor}"));
        return vec![facts.block("canary", reason).on(flavors).and_final()];
    }
    findings.insights()
}

/// What is wrong, over all canaries of a look.
struct Findings<'a> {
    facts: &'a Facts,
    passed: Vec<String>,
    silent: Vec<String>,
    not_joined: Vec<String>,
    closed: BTreeSet<String>,
    small: BTreeSet<String>,
    services: Vec<(&'static str, String)>,
    not_tried: BTreeSet<String>,
}

impl<'a> Findings<'a> {
    fn new(facts: &'a Facts) -> Self {
        Self {
            facts,
            passed: Vec::new(),
            silent: Vec::new(),
            not_joined: Vec::new(),
            closed: BTreeSet::new(),
            small: BTreeSet::new(),
            services: Vec::new(),
            not_tried: BTreeSet::new(),
        }
    }

    fn add(&mut self, flavor: &str, end: &CanaryEnd) {
        let (source, target) = (range(&self.facts.source), range(&self.facts.target));
        match (end.outcome, &end.report) {
            (Outcome::CannotJoin, _) => {
                self.not_joined.push(not_joined(flavor, end));
                if let Some(report) = Report::on_console(&end.console) {
                    self.reached(&report, (&target, &source));
                }
            }
            (_, Some(report)) if report.round > 0 => {
                self.passed.push(format!("flavor {flavor} at {:.0}", end.at));
                self.reached(report, (&target, &source));
                self.both_ways(end, report, (&source, &target));
            }
            _ => self.silent.push(format!("flavor {flavor}")),
        }
    }

    /// What a canary itself found.
    fn reached(&mut self, report: &Report, (target, source): (&str, &str)) {
        for check in report.checks.iter().filter(|check| !check.ok) {
            let what = check.what.as_str();
            if what == "api" {
                let api = &self.facts.cluster.endpoint;
                self.closed.insert(format!("{target} -> {source} (API {api}) tcp/6443"));
            } else if what == "download" {
                let said = format!("{source} -> {target}: a large TLS download: {}", check.detail);
                self.small.insert(said);
            } else if let Ok(port) = what.parse::<PortSpec>() {
                self.closed.insert(format!("{target} -> {source} {port}"));
            } else {
                let id = match what {
                    "registry" => "registry",
                    "ntp" => "ntp",
                    what if what.starts_with("dns") => "dns",
                    _ => "canary_probe",
                };
                self.services.push((id, format!("{what}: {}", check.detail)));
            }
        }
    }

    /// What an old node found, and what each heard of the other.
    fn both_ways(&mut self, end: &CanaryEnd, report: &Report, (source, target): (&str, &str)) {
        match &end.kubelet {
            Some(check) if !check.ok => {
                self.closed.insert(format!("{source} (API server) -> {target} tcp/10250"));
            }
            Some(_) => {}
            None => {
                self.not_tried.insert("API server -> new node tcp/10250".to_owned());
            }
        }
        let Some(peer) = end.peer.as_ref().filter(|peer| peer.mtu > 0) else {
            let why = end.peer.as_ref().and_then(|peer| peer.checks.first());
            let why = why.map_or("there is none that serves", |check| check.detail.as_str());
            self.not_tried.insert(format!("from an old node: {why}"));
            return;
        };
        for check in peer.checks.iter().filter(|check| !check.ok) {
            if check.what.parse::<PortSpec>().is_ok() {
                self.closed.insert(format!("{source} -> {target} {}", check.what));
            }
        }
        let ports = &self.facts.cluster.offering.cni_ports;
        for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            let ways = [
                ((source, target), report.heard(*port), peer.mtu),
                ((target, source), peer.heard(*port), report.mtu),
            ];
            for ((from, to), heard, mtu) in ways {
                match heard {
                    None => _ = self.closed.insert(format!("{from} -> {to} {port}")),
                    Some(size) if size < mtu => {
                        let said = format!("{from} -> {to}: {mtu} bytes are not carried");
                        self.small.insert(said);
                    }
                    Some(_) => {}
                }
            }
        }
        if report.mtu < peer.mtu {
            let (new, old) = (report.mtu, peer.mtu);
            self.small.insert(format!("new nodes have MTU {new}, old ones {old}"));
        }
    }

    fn insights(&self) -> Vec<Insight> {
        let target = &self.facts.target.name;
        let mut all = Vec::new();
        if !self.not_joined.is_empty() {
            let reason = self.not_joined.join("\n");
            let fix = "mend what the console says; `zcpctl migration plan` tries again";
            all.push(self.facts.block("cannot_join", reason).on([target]).fix(fix).and_final());
        }
        if !self.silent.is_empty() {
            let reason = format!(
                "a canary joined from cloud {target} and told nothing: its node's annotation is \
                 missing"
            );
            let fix = "the image needs python3 and ip; see the canary's console";
            all.push(self.facts.block("canary_silent", reason).on(self.silent.clone()).fix(fix));
        }
        if !self.closed.is_empty() {
            let rules: Vec<&String> = self.closed.iter().collect();
            let reason = format!("{} needed flows are closed", rules.len());
            let fix = "ask for exactly these rules, in firewalls and security groups of both sides";
            all.push(self.facts.block("port_closed", reason).on(rules).fix(fix));
        }
        if !self.small.is_empty() {
            let reason = format!("packets as large as the CNI sends do not reach cloud {target}");
            let fix = "raise the MTU of the networks between the clouds, or lower the CNI's on \
                       every node first";
            all.push(self.facts.block("mtu_small", reason).on(&self.small).fix(fix));
        }
        all.extend(self.services());
        if !self.passed.is_empty() && all.is_empty() {
            let reason = format!("a server of cloud {target} joined and reached what it needs");
            all.push(self.facts.pass("canary", reason).on(self.passed.clone()));
        }
        all.extend(self.gaps());
        all
    }

    /// Services of the surroundings.
    fn services(&self) -> Vec<Insight> {
        let target = &self.facts.target.name;
        let words = [
            ("registry", "the image registry", "open the way to it, or name a mirror"),
            ("dns", "names", "give the network a resolver that answers"),
            ("ntp", "a time server", "open udp/123, or name a server that is reached"),
            ("canary_probe", "something", "see the canary's console"),
        ];
        let mut all = Vec::new();
        for (id, what, fix) in words {
            let said: Vec<&String> =
                self.services.iter().filter(|(of, _)| *of == id).map(|(_, said)| said).collect();
            if !said.is_empty() {
                let reason = match id {
                    "dns" => format!("a server of cloud {target} can't resolve {what}"),
                    _ => format!("a server of cloud {target} does not reach {what}"),
                };
                all.push(self.facts.block(id, reason).on(said).fix(fix));
            }
        }
        all
    }

    /// What was not tried.
    fn gaps(&self) -> Vec<Insight> {
        let warn = |id: &str, reason: &str| Insight::new(self.facts.now, Level::Warn, id, reason);
        let mut all = Vec::new();
        if !self.not_tried.is_empty() {
            let reason = "not everything could be tried";
            all.push(warn("canary_gaps", reason).on(&self.not_tried));
        }
        if self.facts.cluster.offering.cni_ports.is_empty() && !self.passed.is_empty() {
            let reason = "the offering does not say which ports its CNI needs: they were not tried";
            all.push(warn("cni_ports", reason).fix("give the offering its cni_ports"));
        }
        all
    }
}

/// Why a canary did not join, with the end of its console.
fn not_joined(flavor: &str, end: &CanaryEnd) -> String {
    let lines: Vec<&str> =
        end.console.lines().filter(|line| !line.contains("zcp: probe: {")).collect();
    let mut from = lines.len().saturating_sub(TAIL_LINES);
    while from < lines.len() && lines[from..].iter().map(|l| l.len() + 1).sum::<usize>() > TAIL_MAX
    {
        from += 1;
    }
    let said = format!("a canary of flavor {flavor} did not join: {}", end.reason);
    match &lines[from..] {
        [] => format!("{said}; its console is not known"),
        tail => format!("{said}; its console ends:\n{}", tail.join("\n")),
    }
}

/// A cloud and the range of its nodes, as a firewall's rule names them.
fn range(cloud: &CloudFacts) -> String {
    let network = &cloud.spec.defaults.network;
    let found = cloud.inventory.as_ref().and_then(|all| resolve::network(all, network).ok());
    let subnets = found.map(|network| network.subnets.as_slice()).unwrap_or_default();
    let ranges: Vec<&str> =
        subnets.iter().filter(|one| one.ip_version == 4).map(|one| one.cidr.as_str()).collect();
    if ranges.is_empty() {
        cloud.name.clone()
    } else {
        format!("{} {}", cloud.name, ranges.join(","))
    }
}
