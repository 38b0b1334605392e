//! The state of one cluster, and how its time passes.
//!
//! Controllers are level-triggered: each looks at the objects and acts on what is due. One that
//! finds something due only later says so through [`State::is_due`], and the earliest of these
//! moments is when the controllers run next. There is no queue to keep or to persist: after a
//! restart the same objects give the same moments.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::counters::Counters;
use super::faults::Faults;
use super::nodes::Machine;
use super::resource::Kind;
use super::settings::KubeSettings;
use super::store::{Place, Store, complete_metadata};
use super::{
    attachments, autoscaler, daemons, deployments, disruption, garbage, nodes, object, pods,
    replicas, scheduler,
};
use super::{stateful, volumes};

/// How often controllers may react to each other in one moment. A rollout needs a handful of
/// passes; a hundred means that two of them fight.
const PASSES: usize = 100;

/// Letters of generated names: no vowels, so that no words arise (as in `k8s.io/apimachinery`).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Everything about one cluster.
#[derive(Debug)]
pub(super) struct State {
    pub settings: KubeSettings,
    pub now: Timestamp,
    pub store: Store,
    pub machines: BTreeMap<String, Machine>,
    /// Nodes that pods are bound to and that have no object, since when.
    pub missing_nodes: BTreeMap<String, Timestamp>,
    pub faults: Faults,
    pub counters: Counters,
    /// How many random numbers were drawn.
    pub draws: u64,
    /// How many pod ranges were given out.
    pub pod_ranges: u32,
    next_due: Option<Timestamp>,
}

impl State {
    pub(super) fn new(settings: KubeSettings, now: Timestamp) -> Self {
        Self {
            settings,
            now,
            store: Store::starting_at(0),
            machines: BTreeMap::new(),
            missing_nodes: BTreeMap::new(),
            faults: Faults::default(),
            counters: Counters::default(),
            draws: 0,
            pod_ranges: 0,
            next_due: None,
        }
    }

    /// When controllers have something to do next, if nobody changes anything before.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// Goes on from a snapshot.
    pub(super) fn resume(&mut self, next_due: Option<Timestamp>) {
        self.next_due = next_due;
    }

    /// Plays everything up to `to`, in the order of time.
    pub(super) fn advance_to(&mut self, to: Timestamp) {
        while let Some(due) = self.next_due
            && due <= to
        {
            self.now = self.now.max(due);
            self.run_controllers();
        }
        self.now = self.now.max(to);
    }

    /// Lets the controllers react to what was changed just now.
    pub(super) fn settle(&mut self) {
        if self.store.is_dirty() {
            self.run_controllers();
        }
    }

    fn run_controllers(&mut self) {
        for _ in 0..PASSES {
            self.store.take_dirty();
            self.next_due = None;
            self.run_pass();
            if !self.store.is_dirty() {
                return;
            }
        }
        tracing::warn!("controllers of a simulated cluster do not come to rest");
        self.store.take_dirty();
    }

    fn run_pass(&mut self) {
        nodes::watch_nodes(self);
        nodes::evict_by_taints(self);
        nodes::forget_machines(self);
        pods::run_kubelets(self);
        pods::collect_orphans(self);
        garbage::collect(self);
        garbage::empty_namespaces(self);
        deployments::reconcile(self);
        replicas::reconcile(self);
        stateful::reconcile(self);
        daemons::reconcile(self);
        volumes::bind(self);
        scheduler::schedule(self);
        attachments::reconcile(self);
        autoscaler::run(self);
        disruption::reconcile(self);
    }

    /// Whether `at` has come; if not, the controllers will run again then.
    pub(super) fn is_due(&mut self, at: Timestamp) -> bool {
        if at <= self.now {
            return true;
        }
        self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
        false
    }

    /// Stores an object that a controller or a kubelet makes.
    pub(super) fn create(&mut self, kind: Kind, mut object: Value) -> Place {
        let uid = self.uid();
        complete_metadata(&mut object, uid, self.now);
        if kind.resource().has_generation {
            object["metadata"]["generation"] = 1.into();
        }
        let owners = object::items(&object, "/metadata/ownerReferences");
        let has_owner = |owner: &Value| self.store.has_uid(owner["uid"].as_str().unwrap_or(""));
        let is_orphan = !owners.is_empty() && !owners.iter().any(has_owner);
        let stored = self.store.put(kind, object);
        if is_orphan {
            self.store.note_deletion();
        }
        (object::namespace(&stored).to_owned(), object::name(&stored).to_owned())
    }

    /// Changes an object in place; nothing happens when the change changes nothing. The
    /// generation follows the spec.
    pub(super) fn update(
        &mut self,
        kind: Kind,
        place: &Place,
        change: impl FnOnce(&mut Value),
    ) -> bool {
        let Some(before) = self.store.at(kind, place) else { return false };
        let mut after = (**before).clone();
        change(&mut after);
        if after == **before {
            return false;
        }
        if kind.resource().has_generation && after["spec"] != before["spec"] {
            let generation = object::number(before, "/metadata/generation").unwrap_or(0);
            after["metadata"]["generation"] = (generation + 1).into();
        }
        self.store.put(kind, after);
        true
    }

    /// Starts the deletion of a pod, as the API server does it: at once when no kubelet has it or
    /// it is finished, gracefully otherwise. A second deletion may only shorten the grace.
    pub(super) fn begin_pod_deletion(&mut self, place: &Place, grace: Option<i64>) {
        let Some(pod) = self.store.at(Kind::Pod, place) else { return };
        let Some(facts) = self.store.pods().get(place) else { return };
        let own = object::number(pod, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
        let is_short = facts.node.is_none() || facts.phase == pods::Phase::Finished;
        let grace = if is_short { 0 } else { grace.unwrap_or(own).max(0) };
        if grace == 0 {
            pods::release(self, place);
            return;
        }
        if let Some((_, current)) = facts.deletion
            && current <= grace
        {
            return;
        }
        let started = facts.deletion.map_or(self.now, |(at, old)| at - object::seconds(old));
        self.update(Kind::Pod, place, |pod| {
            let metadata = &mut pod["metadata"];
            metadata["deletionTimestamp"] = object::stamp(started + object::seconds(grace));
            metadata["deletionGracePeriodSeconds"] = grace.into();
        });
    }

    /// A random number that repeats for the cluster's seed (SplitMix64).
    pub(super) fn random(&mut self) -> u64 {
        self.draws += 1;
        mixed(self.settings.seed.wrapping_add(self.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A uid that no other object of this cluster has.
    pub(super) fn uid(&mut self) -> String {
        let high = u128::from(self.random());
        let low = u128::from(self.random());
        uuid::Builder::from_random_bytes(((high << 64) | low).to_be_bytes()).into_uuid().to_string()
    }

    /// Five letters, as behind `generateName`.
    pub(super) fn suffix(&mut self) -> String {
        let mut number = self.random();
        let base = LETTERS.len() as u64;
        (0..5)
            .map(|_| {
                let at = usize::try_from(number % base).unwrap_or(0);
                number /= base;
                char::from(LETTERS[at])
            })
            .collect()
    }

    /// The next `/24` of the cluster's pod range.
    pub(super) fn next_pod_cidr(&mut self) -> String {
        let base = self.settings.pod_network();
        let network = u32::from(base).wrapping_add(self.pod_ranges << 8);
        self.pod_ranges += 1;
        format!("{}/24", Ipv4Addr::from(network))
    }

    /// An address in the pod range; it is only looked at, never connected to.
    pub(super) fn pod_address(&self, uid: &str) -> String {
        let host = u32::try_from(hash(uid.as_bytes()) & 0xffff).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.settings.pod_network()).wrapping_add(host)).to_string()
    }
}

/// The mixing step of SplitMix64.
pub(super) fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a: the same number for the same bytes in every build.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A hash as the safe letters of a name.
pub(super) fn hash_name(value: &Value) -> String {
    let mut number = hash(value.to_string().as_bytes());
    let base = LETTERS.len() as u64;
    (0..9)
        .map(|_| {
            let at = usize::try_from(number % base).unwrap_or(0);
            number /= base;
            char::from(LETTERS[at])
        })
        .collect()
}

/// A span as jiff's.
pub(super) fn span(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
