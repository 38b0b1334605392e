//! Pods seen from a drain: what each one is, and what a drain does with it.
//!
//! Mirror pods and pods of a living DaemonSet stay. Finished pods are deleted, everything else is
//! evicted. What an eviction would hurt is a [`PodConcern`]: the pre-flight shows it before a node
//! is touched, the drain itself no longer asks.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Label by which an owner tells a drain to leave a pod alone (`skip`) or to let it end by itself
/// (`wait-completed`).
pub const DRAIN_LABEL: &str = "zcp.io/drain";

/// Label or annotation with a whole number by which an owner orders evictions: lowest first, the
/// next when all of it are gone. Without it a pod's number is 0.
pub const DRAIN_ORDER: &str = "zcp.io/drain-order";

/// How long a pod of an unreachable node may be terminating before a drain stops waiting for it:
/// its kubelet will not answer, and CAPI draws the same line.
const UNREACHABLE_GRACE: SignedDuration = SignedDuration::from_secs(1);

/// One particular pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a StatefulSet makes another pod of the same name.
    pub uid: String,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a drain must know about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodView {
    /// Which one.
    #[serde(flatten)]
    pub pod: PodRef,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Where it stands.
    pub phase: PodPhase,
    /// Whether its Ready condition is true.
    pub is_ready: bool,
    /// Whether it mirrors a static pod of its kubelet.
    pub is_mirror: bool,
    /// Its controller, if any.
    pub controller: Option<Controller>,
    /// Until when it is to be gone, if it was deleted: the deletion time plus the grace period.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deletion_at: Option<Timestamp>,
    /// How long it may take to stop: of the deletion if there is one, else of its specification.
    pub grace_seconds: u32,
    /// Whether it keeps data in an emptyDir, which an eviction loses.
    pub has_empty_dir: bool,
    /// Its persistent volume claims.
    pub claims: Vec<ClaimView>,
    /// Its priority; higher is more important.
    pub priority: i32,
    /// What its owner asked by [`DRAIN_LABEL`].
    pub drain_wish: Option<DrainWish>,
    /// Its place in the order of evictions, by [`DRAIN_ORDER`].
    pub order: i32,
    /// Who keeps its object after its containers ended.
    pub finalizers: Vec<String>,
    /// Its labels: what budgets select it by.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl PodView {
    /// When its deletion was asked for, if it was.
    pub fn terminating_since(&self) -> Option<Timestamp> {
        self.deletion_at.map(|at| {
            at.checked_sub(SignedDuration::from_secs(self.grace_seconds.into())).unwrap_or(at)
        })
    }
}

/// `status.phase` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PodPhase {
    /// Not started yet.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, at least one badly.
    Failed,
    /// Its node does not tell.
    Unknown,
}

/// The owner that makes a pod anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Controller {
    /// Such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it is a DaemonSet, and then whether that still exists.
    pub daemon_set: DaemonSetOwner,
}

/// Whether a pod belongs to a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DaemonSetOwner {
    /// Its controller is something else.
    No,
    /// Yes: evicting it would only bring it back, on the same node.
    Living,
    /// It did, but the DaemonSet is gone.
    Gone,
}

/// A persistent volume claim of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimView {
    /// Name of the claim, in the pod's namespace.
    pub name: String,
    /// The volume bound to it.
    pub volume: Option<String>,
    /// CSI driver of the volume.
    pub driver: Option<String>,
    /// The driver's own name of the volume.
    pub handle: Option<String>,
    /// Whether the volume can only be reached from one node.
    pub is_node_bound: bool,
}

/// What [`DRAIN_LABEL`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainWish {
    /// Leave it: it dies with the node.
    Skip,
    /// Wait until it has finished.
    WaitCompleted,
}

/// What a drain does with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodClass {
    /// Nothing, and it does not wait for it either.
    Skip(SkipReason),
    /// Asks the API server to evict it.
    Evict,
    /// Deletes it: it has finished.
    Delete,
    /// Waits until it is gone.
    Wait(WaitReason),
}

/// Why a drain passes over a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The API cannot remove it.
    Mirror,
    /// Its DaemonSet would bring it back at once.
    DaemonSet,
    /// Its owner said so.
    Label,
    /// It is terminating on a node that does not answer.
    Unreachable,
}

/// Why a drain waits for a pod without asking for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// It is stopping already.
    Terminating,
    /// Its owner asked us to let it finish.
    Completion,
}

/// What a drain does with this pod on a node that answers.
pub fn classify(pod: &PodView) -> PodClass {
    if pod.is_mirror {
        return PodClass::Skip(SkipReason::Mirror);
    }
    if pod.controller.as_ref().is_some_and(|owner| owner.daemon_set == DaemonSetOwner::Living) {
        return PodClass::Skip(SkipReason::DaemonSet);
    }
    if pod.drain_wish == Some(DrainWish::Skip) {
        return PodClass::Skip(SkipReason::Label);
    }
    if pod.deletion_at.is_some() {
        return PodClass::Wait(WaitReason::Terminating);
    }
    match pod.phase {
        PodPhase::Succeeded | PodPhase::Failed => PodClass::Delete,
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => match pod.drain_wish {
            Some(DrainWish::WaitCompleted) => PodClass::Wait(WaitReason::Completion),
            Some(DrainWish::Skip) | None => PodClass::Evict,
        },
    }
}

/// What a drain does with this pod when its node's kubelet is silent.
///
/// Nobody will confirm the end of a terminating pod there, so it is not waited for.
pub fn classify_unreachable(pod: &PodView, now: Timestamp) -> PodClass {
    let class = classify(pod);
    match pod.terminating_since() {
        Some(since)
            if class == PodClass::Wait(WaitReason::Terminating)
                && now.duration_since(since) > UNREACHABLE_GRACE =>
        {
            PodClass::Skip(SkipReason::Unreachable)
        }
        _ => class,
    }
}

/// What draining a pod would hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PodConcern {
    /// Nobody makes it anew.
    NoController,
    /// Its DaemonSet is gone: nobody makes it anew.
    OrphanOfDaemonSet,
    /// Its data lies on this node only: it would stay Pending for ever.
    NodeBoundVolume,
    /// Its emptyDir is lost.
    EmptyDir,
}

/// What the pre-flight has to say about a pod. Empty for pods that a drain leaves alone.
pub fn concerns(pod: &PodView) -> Vec<PodConcern> {
    if classify(pod) != PodClass::Evict {
        return vec![];
    }
    let mut found = vec![];
    match pod.controller.as_ref().map(|owner| owner.daemon_set) {
        None => found.push(PodConcern::NoController),
        Some(DaemonSetOwner::Gone) => found.push(PodConcern::OrphanOfDaemonSet),
        Some(DaemonSetOwner::No | DaemonSetOwner::Living) => {}
    }
    if pod.claims.iter().any(|claim| claim.is_node_bound) {
        found.push(PodConcern::NodeBoundVolume);
    }
    if pod.has_empty_dir {
        found.push(PodConcern::EmptyDir);
    }
    found
}

/// A pod that found no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingPod {
    /// Which one.
    #[serde(flatten)]
    pub pod: PodRef,
    /// Kind and name of its controller.
    pub owner: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The scheduler's words.
    pub message: Option<String>,
}

/// How many pods a workload wants and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// `Deployment` or `StatefulSet`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Wanted replicas.
    pub wanted: u32,
    /// Available replicas.
    pub available: u32,
}

/// A disruption budget as its controller counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Healthy pods that it wants.
    pub wanted: u32,
    /// Healthy pods that there are.
    pub current: u32,
    /// Evictions that it allows now.
    pub allowed: u32,
    /// Labels that its pods must have, as far as its selector says so by equality; `None` for a
    /// selector that says more.
    pub selects: Option<BTreeMap<String, String>>,
}

impl BudgetView {
    /// Whether it surely selects a pod of its namespace with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let matches = |(key, value)| labels.get(key) == Some(value);
        self.selects.as_ref().is_some_and(|wanted| wanted.iter().all(matches))
    }
}

#[cfg(test)]
impl PodView {
    /// A replica that runs well, for tests.
    pub(crate) fn example() -> Self {
        Self {
            pod: PodRef { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() },
            node: Some("n".into()),
            phase: PodPhase::Running,
            is_ready: true,
            is_mirror: false,
            controller: Some(Controller {
                kind: "ReplicaSet".into(),
                name: "web".into(),
                daemon_set: DaemonSetOwner::No,
            }),
            deletion_at: None,
            grace_seconds: 30,
            has_empty_dir: false,
            claims: vec![],
            priority: 0,
            drain_wish: None,
            order: 0,
            finalizers: vec![],
            labels: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(owner: DaemonSetOwner) -> PodView {
        let name = "cni".into();
        let owner = Controller { kind: "DaemonSet".into(), name, daemon_set: owner };
        PodView { controller: Some(owner), ..PodView::example() }
    }

    #[test]
    fn each_kind_of_pod_has_its_treatment() {
        let skip = |reason| PodClass::Skip(reason);
        let later = Some(Timestamp::UNIX_EPOCH);
        let cases = [
            (PodView::example(), PodClass::Evict),
            (PodView { is_mirror: true, ..PodView::example() }, skip(SkipReason::Mirror)),
            (daemon(DaemonSetOwner::Living), skip(SkipReason::DaemonSet)),
            (daemon(DaemonSetOwner::Gone), PodClass::Evict),
            (PodView { phase: PodPhase::Pending, ..PodView::example() }, PodClass::Evict),
            (PodView { phase: PodPhase::Succeeded, ..PodView::example() }, PodClass::Delete),
            (PodView { phase: PodPhase::Failed, ..PodView::example() }, PodClass::Delete),
            (
                PodView { deletion_at: later, ..PodView::example() },
                PodClass::Wait(WaitReason::Terminating),
            ),
            (
                PodView { deletion_at: later, phase: PodPhase::Failed, ..PodView::example() },
                PodClass::Wait(WaitReason::Terminating),
            ),
            (
                PodView { drain_wish: Some(DrainWish::Skip), ..PodView::example() },
                skip(SkipReason::Label),
            ),
            (
                PodView { drain_wish: Some(DrainWish::WaitCompleted), ..PodView::example() },
                PodClass::Wait(WaitReason::Completion),
            ),
            (
                PodView {
                    drain_wish: Some(DrainWish::WaitCompleted),
                    phase: PodPhase::Succeeded,
                    ..PodView::example()
                },
                PodClass::Delete,
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(classify(&pod), expected, "{pod:?}");
        }
    }

    #[test]
    fn a_silent_node_is_not_waited_for_once_its_pod_was_told_to_stop() {
        let asked = Timestamp::from_second(1_000).unwrap();
        let pod = PodView {
            deletion_at: Some(asked + SignedDuration::from_secs(30)),
            ..PodView::example()
        };
        let waits = PodClass::Wait(WaitReason::Terminating);
        assert_eq!(classify_unreachable(&pod, asked + SignedDuration::from_secs(1)), waits);
        assert_eq!(
            classify_unreachable(&pod, asked + SignedDuration::from_secs(2)),
            PodClass::Skip(SkipReason::Unreachable)
        );
    }

    #[test]
    fn preflight_hears_of_what_an_eviction_loses() {
        let claim = ClaimView {
            name: "data".into(),
            volume: Some("pv".into()),
            driver: None,
            handle: None,
            is_node_bound: true,
        };
        let hurt = PodView {
            controller: None,
            has_empty_dir: true,
            claims: vec![claim],
            ..PodView::example()
        };
        assert_eq!(
            concerns(&hurt),
            [PodConcern::NoController, PodConcern::NodeBoundVolume, PodConcern::EmptyDir]
        );
        assert_eq!(concerns(&PodView { is_mirror: true, ..hurt }), []);
        let orphan = daemon(DaemonSetOwner::Gone);
        assert_eq!(concerns(&orphan), [PodConcern::OrphanOfDaemonSet]);
        assert_eq!(concerns(&PodView::example()), []);
    }
}
