//! The scheduler: binds pods to nodes that fit, least loaded first.
//!
//! It respects cordons, taints, node selectors and required node affinity, CPU, memory and pod
//! counts, required anti-affinity by host, and the node affinity of bound volumes. Among what is
//! left it spreads pods of one owner, then load; ties are broken by the cluster's seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::Value;

use super::object::{self, Said};
use super::pods::{Phase, PodFacts};
use super::resource::Kind;
use super::selector::{self, LabelSelector};
use super::state::{self, State};
use super::store::Place;
use super::volumes;

/// A node with what is used of it.
struct Candidate {
    node: Arc<Value>,
    cpu_milli: i64,
    memory_bytes: i64,
    pods: i64,
}

/// Why a node does not take a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Unschedulable,
    Taint(String),
    Affinity,
    AntiAffinity,
    Volume,
    Cpu,
    Memory,
    Pods,
}

impl Obstacle {
    fn words(&self) -> String {
        match self {
            Self::Unschedulable => "node(s) were unschedulable".to_owned(),
            Self::Taint(key) => format!("node(s) had untolerated taint {{{key}: }}"),
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector".to_owned(),
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules".to_owned(),
            Self::Volume => "node(s) had volume node affinity conflict".to_owned(),
            Self::Cpu => "Insufficient cpu".to_owned(),
            Self::Memory => "Insufficient memory".to_owned(),
            Self::Pods => "Too many pods".to_owned(),
        }
    }
}

/// Binds what can be bound, and says of the rest why not.
pub(super) fn schedule(state: &mut State) {
    let waiting: Vec<Place> = state
        .store
        .pods()
        .iter()
        .filter(|(_, pod)| {
            pod.node.is_none() && pod.deletion.is_none() && pod.phase == Phase::Pending
        })
        .map(|(place, _)| place.clone())
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut candidates = candidates(state);
    for place in waiting {
        schedule_one(state, &mut candidates, &place);
    }
}

fn candidates(state: &State) -> BTreeMap<String, Candidate> {
    let mut all: BTreeMap<String, Candidate> = state
        .store
        .all(Kind::Node)
        .map(|((_, name), node)| {
            let node = Arc::clone(node);
            (name.clone(), Candidate { node, cpu_milli: 0, memory_bytes: 0, pods: 0 })
        })
        .collect();
    for facts in state.store.pods().values().filter(|facts| facts.phase != Phase::Finished) {
        if let Some(node) = facts.node.as_deref()
            && let Some(candidate) = all.get_mut(node)
        {
            candidate.add(facts);
        }
    }
    all
}

impl Candidate {
    fn add(&mut self, pod: &PodFacts) {
        self.cpu_milli += pod.cpu_milli;
        self.memory_bytes += pod.memory_bytes;
        self.pods += 1;
    }

    /// Whether the pod's requests still fit.
    fn room_for(&self, pod: &PodFacts) -> Result<(), Obstacle> {
        let of = |what: &str| object::milli(&self.node["status"]["allocatable"][what]);
        if self.cpu_milli + pod.cpu_milli > of("cpu") {
            return Err(Obstacle::Cpu);
        }
        if self.memory_bytes + pod.memory_bytes > of("memory") / 1000 {
            return Err(Obstacle::Memory);
        }
        if (self.pods + 1) * 1000 > of("pods") {
            return Err(Obstacle::Pods);
        }
        Ok(())
    }

    /// Used share in thousandths, the larger of CPU and memory.
    fn load(&self) -> i64 {
        let of = |what: &str| object::milli(&self.node["status"]["allocatable"][what]).max(1);
        let cpu = self.cpu_milli.saturating_mul(1000) / of("cpu");
        let memory = self.memory_bytes.saturating_mul(1000) / (of("memory") / 1000).max(1);
        cpu.max(memory)
    }
}

fn schedule_one(state: &mut State, candidates: &mut BTreeMap<String, Candidate>, place: &Place) {
    let (Some(pod), Some(facts)) =
        (state.store.at(Kind::Pod, place).cloned(), state.store.pods().get(place).cloned())
    else {
        return;
    };
    let mut obstacles: BTreeMap<Obstacle, usize> = BTreeMap::new();
    let mut best: Option<((i64, i64, i64, u64), String)> = None;
    for (name, candidate) in candidates.iter() {
        let fits = obstacle(state, &pod, candidate).and_then(|()| candidate.room_for(&facts));
        if let Err(obstacle) = fits {
            *obstacles.entry(obstacle).or_default() += 1;
            continue;
        }
        let siblings = siblings_on(state, &facts, name);
        let chance = state::hash(format!("{}{name}", object::uid(&pod)).as_bytes());
        let score = (siblings, candidate.load(), candidate.pods, chance);
        if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
            best = Some((score, name.clone()));
        }
    }
    match best {
        Some((_, node)) => {
            if let Some(candidate) = candidates.get_mut(&node) {
                candidate.add(&facts);
            }
            bind(state, place, &node);
        }
        None => report_unschedulable(state, place, &message(candidates.len(), &obstacles)),
    }
}

/// How many pods of the same owner the node has: the spread that the default scheduler aims at.
fn siblings_on(state: &State, pod: &PodFacts, node: &str) -> i64 {
    let Some(owner) = &pod.owner else { return 0 };
    let siblings = state.store.pods().values();
    let count = siblings.filter(|one| one.owner.as_ref() == Some(owner) && one.is_on(node)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn obstacle(state: &State, pod: &Value, candidate: &Candidate) -> Result<(), Obstacle> {
    let node = &*candidate.node;
    if node["spec"]["unschedulable"].as_bool() == Some(true) && !tolerates_cordon(pod) {
        return Err(Obstacle::Unschedulable);
    }
    let taints = object::items(node, "/spec/taints").iter();
    for taint in taints.filter(|taint| taint["effect"] != "PreferNoSchedule") {
        if !is_tolerated(pod, taint) {
            return Err(Obstacle::Taint(object::text(taint, "/key").to_owned()));
        }
    }
    if !matches_node(pod, node) {
        return Err(Obstacle::Affinity);
    }
    if !volumes::allow_node(state, pod, node) {
        return Err(Obstacle::Volume);
    }
    if has_foe_on(state, pod, object::name(node)) {
        return Err(Obstacle::AntiAffinity);
    }
    Ok(())
}

fn tolerates_cordon(pod: &Value) -> bool {
    let taint = serde_json::json!({
        "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule",
    });
    is_tolerated(pod, &taint)
}

/// Whether one of the pod's tolerations covers the taint.
pub(super) fn is_tolerated(pod: &Value, taint: &Value) -> bool {
    object::items(pod, "/spec/tolerations").iter().any(|one| tolerates(one, taint))
}

/// Whether a toleration covers a taint.
pub(super) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let of = |object: &'_ Value, field: &str| object[field].as_str().unwrap_or("").to_owned();
    let effect = of(toleration, "effect");
    if !effect.is_empty() && effect != of(taint, "effect") {
        return false;
    }
    let key = of(toleration, "key");
    if !key.is_empty() && key != of(taint, "key") {
        return false;
    }
    match toleration["operator"].as_str() {
        Some("Exists") => true,
        _ => !key.is_empty() && of(toleration, "value") == of(taint, "value"),
    }
}

/// Node selector and required node affinity.
pub(super) fn matches_node(pod: &Value, node: &Value) -> bool {
    let labels = object::labels(node);
    let selector = pod["spec"]["nodeSelector"].as_object();
    let is_selected = selector.is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| labels.and_then(|have| have.get(key)) == Some(value))
    });
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let required = object::at(pod, required).unwrap_or(&Value::Null);
    is_selected && selector::node_affinity_allows(required, node)
}

/// Whether a required anti-affinity by host keeps the pod off this node.
fn has_foe_on(state: &State, pod: &Value, node: &str) -> bool {
    let terms = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    object::items(pod, terms).iter().any(|term| {
        term["topologyKey"] == "kubernetes.io/hostname"
            && LabelSelector::of(&term["labelSelector"]).is_some_and(|selector| {
                state.store.pods().iter().any(|(place, facts)| {
                    facts.is_on(node)
                        && facts.is_active()
                        && place.0 == object::namespace(pod)
                        && state
                            .store
                            .at(Kind::Pod, place)
                            .is_some_and(|other| selector.matches(object::labels(other)))
                })
            })
    })
}

pub(super) fn bind(state: &mut State, place: &Place, node: &str) {
    let now = state.now;
    state.update(Kind::Pod, place, |pod| {
        pod["spec"]["nodeName"] = node.into();
        let said = Said { kind: "PodScheduled", status: "True", reason: "", message: "" };
        object::set_condition(pod, said, now);
    });
}

fn report_unschedulable(state: &mut State, place: &Place, message: &str) {
    let now = state.now;
    state.update(Kind::Pod, place, |pod| {
        let said = Said { kind: "PodScheduled", status: "False", reason: "Unschedulable", message };
        object::set_condition(pod, said, now);
    });
}

fn message(nodes: usize, obstacles: &BTreeMap<Obstacle, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut words = format!("0/{nodes} nodes are available:");
    for (at, (obstacle, count)) in obstacles.iter().enumerate() {
        let separator = if at == 0 { "" } else { "," };
        let _ = write!(words, "{separator} {count} {}", obstacle.words());
    }
    words.push('.');
    words
}
