//! Nodes: the machines behind them, what their kubelets report, and the node lifecycle
//! controller.
//!
//! A machine that runs makes its Node Ready after a delay. A machine that stopped is silent; once
//! the grace is over its Node is Unknown, its pods are not ready, and taints send them away. A
//! heartbeat is never written: its time is made up when the Node is read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::apply::{self, Writer};
use super::object::{self, Said};
use super::resource::Kind;
use super::scheduler;
use super::state::State;
use super::store::Place;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a kubelet says when it registers its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// The node's name, which is the server's.
    pub name: String,
    /// `openstack:///<server uuid>`.
    pub provider_id: String,
    /// The address of the kubelet.
    pub internal_ip: String,
    /// `--node-labels`.
    pub labels: Vec<(String, String)>,
    /// `--register-with-taints`.
    pub taints: Vec<Taint>,
    /// Capacity in thousandths of a CPU.
    pub cpu_milli: i64,
    /// Capacity in bytes.
    pub memory_bytes: i64,
    /// How many pods it runs at most.
    pub max_pods: u32,
    /// Without the `v`: `1.36.2`.
    pub kubelet_version: String,
    /// The server's uuid, as the firmware tells it.
    pub system_uuid: String,
    /// Whether it is a control-plane member: gets the role's label and taint, as kubeadm does,
    /// and mirror pods of the static control plane.
    pub is_control_plane: bool,
}

/// A taint to register with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often empty.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Why a kubelet could not register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A Ready node has this name: `kubeadm join` refuses then.
    #[error("a Node with name {0:?} and status \"Ready\" already exists in the cluster")]
    NameTaken(String),
    /// The kubelet may not set such a label on itself, and does not start.
    #[error("unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: {0}")]
    ForbiddenLabel(String),
}

/// The machine behind a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    pub node: NodeRegistration,
    pub is_running: bool,
    /// Since when it runs or is silent.
    pub since: Timestamp,
    /// Its server was deleted; it is kept only for the time of its silence.
    pub is_gone: bool,
}

/// Registers a node, as a kubelet does at its start.
pub(super) fn register(state: &mut State, node: NodeRegistration) -> Result<(), RegisterError> {
    if let Some((label, _)) = node.labels.iter().find(|(label, _)| is_forbidden_label(label)) {
        return Err(RegisterError::ForbiddenLabel(label.clone()));
    }
    let existing = state.store.get(Kind::Node, "", &node.name);
    if existing.is_some_and(|node| object::is_condition_true(node, "Ready")) {
        return Err(RegisterError::NameTaken(node.name));
    }
    let is_new = existing.is_none();
    let machine = Machine { node, is_running: true, since: state.now, is_gone: false };
    if is_new {
        create_node(state, &machine.node);
    }
    if machine.node.is_control_plane {
        create_mirror_pods(state, &machine.node);
    }
    state.machines.insert(machine.node.name.clone(), machine);
    state.store.touch();
    Ok(())
}

/// The kubelet falls silent: the server was stopped, or the network is gone.
pub(super) fn stop_machine(state: &mut State, name: &str) {
    let now = state.now;
    if let Some(machine) = state.machines.get_mut(name)
        && machine.is_running
    {
        machine.is_running = false;
        machine.since = now;
        state.store.touch();
    }
}

/// The kubelet starts again; it registers anew when its Node was deleted meanwhile.
pub(super) fn start_machine(state: &mut State, name: &str) {
    let now = state.now;
    let Some(machine) = state.machines.get_mut(name) else { return };
    if machine.is_running || machine.is_gone {
        return;
    }
    machine.is_running = true;
    machine.since = now;
    let node = machine.node.clone();
    if state.store.get(Kind::Node, "", name).is_none() {
        create_node(state, &node);
    }
    state.store.touch();
}

/// Labels of `kubernetes.io` and `k8s.io` that a kubelet may not give itself (KEP 279).
fn is_forbidden_label(label: &str) -> bool {
    let Some((prefix, name)) = label.split_once('/') else { return false };
    let is_reserved = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|domain| prefix == *domain || prefix.ends_with(&format!(".{domain}")));
    let is_open = prefix.ends_with("kubelet.kubernetes.io")
        || prefix.ends_with("node.kubernetes.io")
        || prefix == "topology.kubernetes.io"
        || prefix == "failure-domain.beta.kubernetes.io"
        || (prefix == "kubernetes.io" && matches!(name, "hostname" | "os" | "arch"));
    is_reserved && !is_open
}

/// Stores the Node; its labels belong to the kubelet that registered it.
fn create_node(state: &mut State, node: &NodeRegistration) {
    let mut object = node_object(state, node);
    let mut owned = json!({
        "metadata": {"labels": object["metadata"]["labels"]},
        "spec": {"providerID": object["spec"]["providerID"]},
    });
    let kubelet =
        Writer { manager: "kubelet", operation: "Update", subresource: "", now: state.now };
    apply::track(Kind::Node.resource(), None, &mut owned, kubelet);
    object["metadata"]["managedFields"] = owned["metadata"]["managedFields"].take();
    state.create(Kind::Node, object);
}

fn node_object(state: &mut State, node: &NodeRegistration) -> Value {
    let mut labels = json!({
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
    });
    for (label, value) in &node.labels {
        labels[label] = value.as_str().into();
    }
    let mut taints: Vec<Value> = node.taints.iter().map(taint_value).collect();
    if node.is_control_plane {
        let role = "node-role.kubernetes.io/control-plane";
        labels[role] = "".into();
        if !taints.iter().any(|taint| taint["key"] == role) {
            taints.push(json!({"key": role, "effect": "NoSchedule"}));
        }
    }
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    let pod_cidr = state.next_pod_cidr();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": labels,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {
            "podCIDR": pod_cidr,
            "podCIDRs": [pod_cidr],
            "providerID": node.provider_id,
            "taints": taints,
        },
        "status": node_status(node, (state.settings.node_images, state.now)),
    })
}

/// What a kubelet reports of the images on its disk.
fn images(count: u32) -> Vec<Value> {
    let image = |n: u32| {
        let name = format!("registry.example/platform/component-{n}");
        let digest = format!("{:016x}", u64::from(n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        json!({
            "names": [format!("{name}@sha256:{}", digest.repeat(4)), format!("{name}:v1.{n}.0")],
            "sizeBytes": 20_000_000 + 1_000_003 * n,
        })
    };
    (0..count).map(image).collect()
}

fn taint_value(taint: &Taint) -> Value {
    let mut value = json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.is_empty() {
        value["value"] = taint.value.as_str().into();
    }
    value
}

fn node_status(node: &NodeRegistration, (image_count, now): (u32, Timestamp)) -> Value {
    let capacity = json!({
        "cpu": cpu_quantity(node.cpu_milli),
        "memory": format!("{}Ki", node.memory_bytes / 1024),
        "pods": node.max_pods.to_string(),
    });
    let mut object = json!({"status": {
        "addresses": [
            {"type": "InternalIP", "address": node.internal_ip},
            {"type": "Hostname", "address": node.name},
        ],
        "capacity": capacity,
        "allocatable": capacity,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": node.system_uuid,
            "containerRuntimeVersion": "containerd://2.1.4",
            "kernelVersion": "6.8.0",
            "kubeProxyVersion": "",
            "kubeletVersion": format!("v{}", node.kubelet_version),
            "machineID": node.system_uuid.replace('-', ""),
            "operatingSystem": "linux",
            "osImage": "Ubuntu 24.04.3 LTS",
            "systemUUID": node.system_uuid,
        },
    }});
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        let reason = format!("KubeletHasNo{kind}");
        let said = Said { kind, status: "False", reason: &reason, message: "" };
        object::set_condition(&mut object, said, now);
    }
    object::set_condition(&mut object, kubelet_not_ready(), now);
    if image_count > 0 {
        object["status"]["images"] = images(image_count).into();
    }
    object["status"].take()
}

fn kubelet_not_ready() -> Said<'static> {
    Said {
        kind: "Ready",
        status: "False",
        reason: "KubeletNotReady",
        message: "container runtime network not ready",
    }
}

fn cpu_quantity(milli: i64) -> String {
    if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") }
}

fn create_mirror_pods(state: &mut State, node: &NodeRegistration) {
    for component in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        let name = format!("{component}-{}", node.name);
        if state.store.get(Kind::Pod, "kube-system", &name).is_some() {
            continue;
        }
        let scheduled = json!({
            "type": "PodScheduled", "status": "True", "lastTransitionTime": object::stamp(state.now),
        });
        state.create(
            Kind::Pod,
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": "kube-system",
                    "labels": {"component": component, "tier": "control-plane"},
                    "annotations": {"kubernetes.io/config.mirror": name,
                        "kubernetes.io/config.source": "file"},
                },
                "spec": {
                    "nodeName": node.name,
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    "containers": [{"name": component, "image": component}],
                    "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
                    "terminationGracePeriodSeconds": 30,
                    "restartPolicy": "Always",
                },
                "status": {"phase": "Pending", "conditions": [scheduled]},
            }),
        );
    }
}

/// What a node's machine makes of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    Starting,
    Ready,
    Unknown,
}

/// Plays kubelet status and the node lifecycle controller.
pub(super) fn watch_nodes(state: &mut State) {
    for place in state.store.places(Kind::Node) {
        let Some(report) = report_of(state, &place) else { continue };
        let now = state.now;
        if state.store.at(Kind::Node, &place).is_some_and(|node| !says(node, report)) {
            state.update(Kind::Node, &place, |node| {
                write_report(node, report, now);
                write_taints(node, report, now);
            });
        }
        if report == Report::Unknown {
            mark_pods_not_ready(state, &place.1);
        }
    }
}

/// What the node shall say, or `None` while it says what it said before it fell silent.
fn report_of(state: &mut State, place: &Place) -> Option<Report> {
    let node = state.store.at(Kind::Node, place)?;
    let created = object::time(node, "/metadata/creationTimestamp").unwrap_or(state.now);
    let (is_running, since) = match state.machines.get(&place.1) {
        Some(machine) => (machine.is_running, machine.since),
        // A Node without a kubelet, made by hand: it never reports.
        None => (false, created),
    };
    if !is_running {
        let is_unknown = state.is_due(since + state.settings.node_grace);
        return is_unknown.then_some(Report::Unknown).or_else(|| taints_only(state, place));
    }
    let is_ready = state.is_due(since + state.settings.node_ready_delay);
    if is_ready {
        return Some(Report::Ready);
    }
    let was_ready = taints_only(state, place);
    // A kubelet that restarts within the grace never stops being Ready for the others.
    if was_ready == Some(Report::Ready) { was_ready } else { Some(Report::Starting) }
}

/// A node whose report stays as it is still needs its taints kept right.
fn taints_only(state: &State, place: &Place) -> Option<Report> {
    let node = state.store.at(Kind::Node, place)?;
    object::is_condition_true(node, "Ready").then_some(Report::Ready)
}

/// Whether the node already says this: spares a copy of every node in every pass.
fn says(node: &Value, report: Report) -> bool {
    let status = match report {
        Report::Starting => "False",
        Report::Ready => "True",
        Report::Unknown => "Unknown",
    };
    let is_cordoned = node["spec"]["unschedulable"].as_bool() == Some(true);
    let counts = |key: &str| {
        let taints = object::items(node, "/spec/taints").iter();
        taints.filter(|taint| taint["key"] == key).count()
    };
    object::condition(node, "Ready").is_some_and(|ready| ready["status"] == status)
        && counts(NOT_READY) == if report == Report::Starting { 2 } else { 0 }
        && counts(UNREACHABLE) == if report == Report::Unknown { 2 } else { 0 }
        && counts(UNSCHEDULABLE) == usize::from(is_cordoned)
}

fn write_report(node: &mut Value, report: Report, now: Timestamp) {
    match report {
        Report::Ready => {
            let message = "kubelet is posting ready status";
            let said = Said { kind: "Ready", status: "True", reason: "KubeletReady", message };
            object::set_condition(node, said, now);
            for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
                let reason = format!("KubeletHasNo{kind}");
                let said = Said { kind, status: "False", reason: &reason, message: "" };
                object::set_condition(node, said, now);
            }
        }
        Report::Starting => {
            object::set_condition(node, kubelet_not_ready(), now);
        }
        Report::Unknown => {
            for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
                let said = Said {
                    kind,
                    status: "Unknown",
                    reason: "NodeStatusUnknown",
                    message: "Kubelet stopped posting node status.",
                };
                object::set_condition(node, said, now);
            }
        }
    }
}

/// The taints that the node lifecycle controller keeps: by readiness, and for a cordon.
fn write_taints(node: &mut Value, report: Report, now: Timestamp) {
    let is_cordoned = node["spec"]["unschedulable"].as_bool() == Some(true);
    let wanted = |key: &str, effect: &str| match key {
        NOT_READY => report == Report::Starting,
        UNREACHABLE => report == Report::Unknown,
        UNSCHEDULABLE => is_cordoned && effect == "NoSchedule",
        _ => true,
    };
    let mut taints = object::items(node, "/spec/taints").to_vec();
    taints.retain(|taint| {
        wanted(taint["key"].as_str().unwrap_or(""), taint["effect"].as_str().unwrap_or(""))
    });
    for key in [NOT_READY, UNREACHABLE, UNSCHEDULABLE] {
        for effect in ["NoSchedule", "NoExecute"] {
            let is_there =
                taints.iter().any(|taint| taint["key"] == key && taint["effect"] == effect);
            if wanted(key, effect) && !is_there {
                taints.push(json!({"key": key, "effect": effect, "timeAdded": object::stamp(now)}));
            }
        }
    }
    if taints.is_empty() {
        object::remove(&mut node["spec"], "taints");
    } else {
        node["spec"]["taints"] = taints.into();
    }
}

fn mark_pods_not_ready(state: &mut State, node: &str) {
    let now = state.now;
    let on_node = state.store.pods().iter().filter(|(_, facts)| facts.is_on(node));
    let ready: Vec<Place> =
        on_node.filter(|(_, facts)| facts.is_ready).map(|(place, _)| place.clone()).collect();
    for place in ready {
        state.update(Kind::Pod, &place, |pod| {
            let said = Said { kind: "Ready", status: "False", reason: "", message: "" };
            object::set_condition(pod, said, now);
        });
    }
}

/// Plays the taint eviction controller: pods leave a node whose `NoExecute` taints they do not
/// tolerate, or no longer.
pub(super) fn evict_by_taints(state: &mut State) {
    let mut leaving = Vec::new();
    for (place, node) in state.store.all(Kind::Node) {
        let taints = object::items(node, "/spec/taints").iter();
        let taints: Vec<&Value> = taints.filter(|taint| taint["effect"] == "NoExecute").collect();
        if taints.is_empty() {
            continue;
        }
        for (pod_place, facts) in state.store.pods() {
            if facts.is_on(&place.1)
                && facts.is_active()
                && let Some(pod) = state.store.at(Kind::Pod, pod_place)
                && let Some(at) = leaves_at(pod, &taints, state.now)
            {
                leaving.push((pod_place.clone(), at));
            }
        }
    }
    for (place, at) in leaving {
        if state.is_due(at) {
            state.begin_pod_deletion(&place, None);
        }
    }
}

/// When a pod must leave; `None` when it tolerates every taint for ever.
fn leaves_at(pod: &Value, taints: &[&Value], now: Timestamp) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let added = object::time(taint, "/timeAdded").unwrap_or(now);
        let tolerations = object::items(pod, "/spec/tolerations").iter();
        let tolerating: Vec<&Value> =
            tolerations.filter(|one| scheduler::tolerates(one, taint)).collect();
        let spans = tolerating.iter().map(|one| one["tolerationSeconds"].as_i64());
        let leaves = if tolerating.is_empty() {
            added
        } else {
            match spans.flatten().min() {
                Some(span) => added + object::seconds(span.max(0)),
                None => continue,
            }
        };
        earliest = Some(earliest.map_or(leaves, |at| at.min(leaves)));
    }
    earliest
}

/// The Node as a reader sees it: with the heartbeat of a kubelet that is alive.
pub(super) fn with_heartbeat(state: &State, node: &Value) -> Value {
    let mut node = node.clone();
    let machine = state.machines.get(object::name(&node));
    let beat = match machine {
        Some(machine) if !machine.is_running => machine.since,
        _ => state.now,
    };
    if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
        for condition in conditions {
            condition["lastHeartbeatTime"] = object::stamp(beat);
        }
    }
    node
}

/// The lease of a kubelet that is alive; it is never stored.
pub(super) fn lease_of(state: &State, machine: &Machine) -> Value {
    let renewed = if machine.is_running { state.now } else { machine.since };
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": machine.node.name,
            "namespace": "kube-node-lease",
            "uid": machine.node.system_uuid,
            "resourceVersion": state.store.revision().to_string(),
            "creationTimestamp": object::stamp(machine.since),
        },
        "spec": {
            "holderIdentity": machine.node.name,
            "leaseDurationSeconds": 40,
            "renewTime": format!("{}.000000Z", object::stamp_text(renewed).trim_end_matches('Z')),
        },
    })
}

/// The server is gone for good: its kubelet will never speak again.
pub(super) fn remove_machine(state: &mut State, name: &str) {
    stop_machine(state, name);
    if let Some(machine) = state.machines.get_mut(name) {
        machine.is_gone = true;
    }
    state.store.touch();
}

/// Forgets machines that are gone for good and have no Node any more.
pub(super) fn forget_machines(state: &mut State) {
    let store = &state.store;
    state
        .machines
        .retain(|name, machine| !machine.is_gone || store.get(Kind::Node, "", name).is_some());
}
