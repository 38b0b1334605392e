//! A simulated tenant cluster behind the real Kubernetes HTTP API.
//!
//! Faithful where clients of the control plane look: status objects, conflicts, patches and
//! server-side apply, watches, evictions against disruption budgets, rollouts, scheduling, and
//! nodes that fall silent. Time is the world's: nothing happens but by [`KubeCluster::advance_to`]
//! or in answer to a request, so that a test moves a clock and sees the outcome.
//!
//! | file | is |
//! |---|---|
//! | `api`, `discovery`, `table`, `tls`, `auth` | the HTTP face: paths, documents, who may call |
//! | `rest`, `writes`, `watch`, `patch`, `apply`, `admission` | what each verb does |
//! | `schema` | custom resources, held to their definitions |
//! | `store`, `resource`, `object`, `selector`, `refusal` | objects, and how they are read |
//! | `state` | one cluster and how its time passes |
//! | `nodes`, `pods`, `scheduler`, `volumes` | machines, kubelets, where pods run |
//! | `attachments`, `probing` | where volumes are, what a probe reaches |
//! | `replicas`, `deployments`, `stateful`, `daemons` | workload controllers |
//! | `disruption`, `eviction`, `garbage` | budgets, evictions, owner references, namespaces |
//! | `autoscaler` | an actor of the tenant's that adds and removes nodes |
//! | `faults`, `counters`, `settings`, `snapshot` | knobs, numbers, persistence |

mod admission;
mod api;
mod apply;
mod attachments;
mod auth;
mod autoscaler;
mod counters;
mod daemons;
mod deployments;
mod discovery;
mod disruption;
mod eviction;
mod faults;
mod garbage;
mod nodes;
mod object;
mod patch;
mod pods;
mod probing;
mod refusal;
mod replicas;
mod resource;
mod rest;
mod scheduler;
mod schema;
mod seed;
mod selector;
mod settings;
mod snapshot;
mod state;
mod stateful;
mod store;
mod table;
mod tls;
mod volumes;
mod watch;
mod writes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

pub use auth::TokenError;
pub use autoscaler::Autoscaler;
pub use counters::Counters;
pub use faults::{AnswerTime, Faults, PlannedAnswer, PodMatch};
pub use nodes::{NodeRegistration, RegisterError, Taint};
pub use settings::KubeSettings;
pub use snapshot::KubeSnapshot;
pub use tls::{ServeError, TlsSettings};

use crate::clock::SharedClock;
use state::State;

/// A simulated Kubernetes cluster.
///
/// A cluster that is left alone keeps its state packed, which takes a fraction of the memory: a
/// fleet of them fits a small machine. Reading or writing it wakes it up.
#[derive(Debug)]
pub struct KubeCluster {
    body: Mutex<Body>,
    /// When something must be done next, in milliseconds; lets [`KubeCluster::advance_to`] return
    /// without a lock when nothing is due.
    attention_at: AtomicI64,
}

#[derive(Debug)]
struct Body {
    form: Form,
    sleeps_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Form {
    Awake(Box<Awake>),
    Asleep { packed: Box<[u8]>, next_due: Option<Timestamp>, kept: Kept },
}

#[derive(Debug)]
struct Awake {
    state: State,
    /// What it was unpacked from, and what it was then: as long as nothing changes, that is also
    /// what it would be packed to. A fleet that is only read is packed once.
    unpacked: Option<(Box<[u8]>, Mark)>,
}

/// Changes whenever something is changed that a snapshot holds, but for what is [`Kept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    touches: u64,
    draws: u64,
}

/// What reading changes: it stays unpacked.
#[derive(Debug, Default)]
struct Kept(Option<Box<(Counters, Faults)>>);

impl Mark {
    fn of(state: &State) -> Self {
        Self { touches: state.store.touches(), draws: state.draws }
    }
}

impl KubeCluster {
    /// A new cluster without nodes, with the namespaces and roles that every cluster has.
    pub fn new(settings: KubeSettings, now: Timestamp) -> Arc<Self> {
        let mut state = State::new(settings, now);
        seed::plant(&mut state);
        Self::awake(state)
    }

    /// The cluster of a snapshot.
    pub fn from_snapshot(snapshot: KubeSnapshot) -> Arc<Self> {
        Self::awake(snapshot.into_state())
    }

    fn awake(state: State) -> Arc<Self> {
        Self::of_form(Form::Awake(Box::new(Awake { state, unpacked: None })))
    }

    /// A cluster that nobody has used yet, of the text of a snapshot.
    pub fn asleep(snapshot: &[u8]) -> std::io::Result<Arc<Self>> {
        let packed = snapshot::pack_text(snapshot)?;
        Ok(Self::of_form(Form::Asleep { packed, next_due: None, kept: Kept::default() }))
    }

    fn of_form(form: Form) -> Arc<Self> {
        let body = Body { form, sleeps_at: None };
        let cluster = Self { body: Mutex::new(body), attention_at: AtomicI64::new(i64::MIN) };
        Arc::new(cluster)
    }

    /// Everything about the cluster, to be kept.
    pub fn to_snapshot(&self) -> KubeSnapshot {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        KubeSnapshot::of(body.wake())
    }

    /// The Kubernetes API, without authentication. Each request first lets time pass.
    pub fn router(self: &Arc<Self>, clock: SharedClock) -> axum::Router {
        api::router(Arc::clone(self), clock)
    }

    /// Lets time pass: plays everything that is due up to `now`. Cheap when nothing is.
    pub fn advance_to(&self, now: Timestamp) {
        if now.as_millisecond() < self.attention_at.load(Ordering::Relaxed) {
            return;
        }
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        if body.next_due().is_some_and(|due| due <= now) {
            body.act(now, |_| ());
        } else {
            body.rest(now);
        }
        self.note_attention(&body);
    }

    /// When the cluster changes next if nobody touches it.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).next_due()
    }

    /// Registers a node, as a kubelet does when it starts on a server that joined.
    pub fn register_node(
        &self,
        node: NodeRegistration,
        now: Timestamp,
    ) -> Result<(), RegisterError> {
        self.with_state(now, |state| nodes::register(state, node))
    }

    /// The node's server was stopped, or cannot be reached: its kubelet falls silent.
    pub fn stop_node(&self, name: &str, now: Timestamp) {
        self.with_state(now, |state| nodes::stop_machine(state, name));
    }

    /// The node's server runs again.
    pub fn start_node(&self, name: &str, now: Timestamp) {
        self.with_state(now, |state| nodes::start_machine(state, name));
    }

    /// The node's server was deleted. Its Node object stays until somebody deletes it.
    pub fn remove_node(&self, name: &str, now: Timestamp) {
        self.with_state(now, |state| nodes::remove_machine(state, name));
    }

    /// The control plane has another version from now on. Watches end, as they do at a restart.
    pub fn set_version(&self, version: &str, now: Timestamp) {
        self.with_state(now, |state| {
            version.clone_into(&mut state.settings.version);
            state.store.end_watches();
            state.store.touch();
        });
    }

    /// One object, by the plural of its kind; the namespace is empty for cluster-wide kinds.
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = resource::by_any_plural(plural)?.kind;
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.wake().store.get(kind, namespace, name).map(|object| (**object).clone())
    }

    /// All objects of a kind.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let Some(resource) = resource::by_any_plural(plural) else { return Vec::new() };
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.wake().store.all(resource.kind).map(|(_, object)| (**object).clone()).collect()
    }

    /// The decoded data of a Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret = self.object("secrets", namespace, name)?;
        let data = secret["data"].as_object().into_iter().flatten();
        let decoded = data
            .filter_map(|(key, value)| Some((key.clone(), STANDARD.decode(value.as_str()?).ok()?)));
        Some(decoded.collect())
    }

    /// Whether the API server would take this bootstrap token (`abcdef.0123456789abcdef`).
    pub fn check_bootstrap_token(&self, token: &str, now: Timestamp) -> Result<(), TokenError> {
        self.with_state(now, |state| auth::bootstrap_caller(state, token).map(drop))
    }

    /// Creates an object as an administrator does with `kubectl create`; the error is the
    /// server's message.
    pub fn create(&self, object: &Value, now: Timestamp) -> Result<Value, String> {
        let call = seed::creation(object).ok_or("the object has no known type")?;
        let answer = self.with_state(now, |state| rest::perform(state, &call));
        match answer {
            Ok(rest::Answer::Object(_, object)) => Ok((*object).clone()),
            Ok(_) => Err("a creation was answered with a collection".to_owned()),
            Err(refusal) => Err(refusal.message),
        }
    }

    /// Switches faults on and off.
    pub fn set_faults(&self, now: Timestamp, change: impl FnOnce(&mut Faults)) {
        self.with_state(now, |state| {
            change(&mut state.faults);
            if state.faults.is_api_down {
                state.store.end_watches();
            }
            state.store.touch();
        });
    }

    /// What was asked of the API so far.
    pub fn counters(&self) -> Counters {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.wake().counters.clone()
    }

    /// Lets time pass, acts, and lets the controllers react.
    fn with_state<R>(&self, now: Timestamp, act: impl FnOnce(&mut State) -> R) -> R {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let result = body.act(now, act);
        self.note_attention(&body);
        result
    }

    fn note_attention(&self, body: &Body) {
        let at = [body.next_due(), body.sleeps_at].into_iter().flatten().min();
        let at = at.map_or(i64::MAX, Timestamp::as_millisecond);
        self.attention_at.store(at, Ordering::Relaxed);
    }
}

impl Body {
    fn next_due(&self) -> Option<Timestamp> {
        match &self.form {
            Form::Awake(awake) => awake.state.next_due(),
            Form::Asleep { next_due, .. } => *next_due,
        }
    }

    fn act<R>(&mut self, now: Timestamp, act: impl FnOnce(&mut State) -> R) -> R {
        let state = self.wake();
        state.advance_to(now);
        let result = act(state);
        state.settle();
        self.sleeps_at = Some(now + state::span(self.wake().settings.sleep_after));
        result
    }

    fn wake(&mut self) -> &mut State {
        if let Form::Asleep { packed, kept, .. } = &mut self.form {
            let (packed, kept) = (std::mem::take(packed), std::mem::take(kept));
            let snapshot = KubeSnapshot::unpack(&packed).expect("it was written by `pack`");
            let mut state = snapshot.into_state();
            if let Some(read) = kept.0 {
                (state.counters, state.faults) = *read;
            }
            let unpacked = Some((packed, Mark::of(&state)));
            self.form = Form::Awake(Box::new(Awake { state, unpacked }));
        }
        match &mut self.form {
            Form::Awake(awake) => &mut awake.state,
            Form::Asleep { .. } => unreachable!("it was woken just now"),
        }
    }

    /// Puts the state into its compact form, when nobody used it for long and nobody watches.
    fn rest(&mut self, now: Timestamp) {
        if self.sleeps_at.is_none_or(|at| at > now) {
            return;
        }
        self.sleeps_at = None;
        let Form::Awake(awake) = &mut self.form else { return };
        let state = &mut awake.state;
        if state.store.is_watched() {
            self.sleeps_at = Some(now + state::span(state.settings.sleep_after));
            return;
        }
        state.advance_to(now);
        let next_due = state.next_due();
        let same = |mark: &Mark| *mark == Mark::of(state);
        let packed = match awake.unpacked.take() {
            Some((packed, mark)) if same(&mark) => Ok(packed),
            _ => KubeSnapshot::of(state).pack(),
        };
        if let Ok(packed) = packed {
            let read = (std::mem::take(&mut state.counters), std::mem::take(&mut state.faults));
            self.form = Form::Asleep { packed, next_due, kept: Kept(Some(Box::new(read))) };
        }
    }
}
