//! Requests on objects: what each verb does. Writing is in `writes.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::garbage;
use super::nodes;
use super::object;
use super::refusal::{Outcome, Refusal};
use super::resource::{Kind, Resource};
use super::selector::{FieldSelector, LabelSelector};
use super::state::State;
use super::store::Place;
use super::watch::{self, Watch};
use super::writes;

/// What is to be done with the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The verb as authorization and audit name it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// A request on objects, understood.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub verb: Verb,
    pub resource: &'static Resource,
    /// Empty for cluster-wide kinds, and for lists over all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub body: Bytes,
    /// Who writes, for field ownership.
    pub manager: String,
}

impl Call {
    pub(super) fn place(&self) -> Place {
        (self.namespace.clone(), self.name.clone())
    }

    /// The resource as authorization names it: `pods` or `pods/eviction`.
    pub(super) fn target(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.plural.to_owned()
        } else {
            format!("{}/{}", self.resource.plural, self.subresource)
        }
    }

    pub(super) fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.query("dryRun") == "All"
    }

    pub(super) fn not_found(&self) -> Refusal {
        Refusal::not_found(self.resource, &self.name)
    }

    /// The body as JSON; YAML is read where the caller says that it is YAML.
    pub(super) fn json(&self) -> Outcome<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            Refusal::bad_request(format!("the object provided is unrecognized: {error}"))
        };
        match serde_json::from_slice(&self.body) {
            Ok(value) => Ok(value),
            Err(_) if self.content_type.contains("yaml") => {
                let text = std::str::from_utf8(&self.body).map_err(|error| unreadable(&error))?;
                serde_saphyr::from_str(text).map_err(|error| unreadable(&error))
            }
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(super) enum Answer {
    Object(u16, Arc<Value>),
    List(List),
    Watch(Watch),
}

/// One page of a collection.
#[derive(Debug)]
pub(super) struct List {
    pub resource: &'static Resource,
    pub items: Vec<Arc<Value>>,
    pub revision: u64,
    /// Where the next page begins, if there is one, and how many objects remain.
    pub rest: Option<(String, usize)>,
}

/// Does what is asked.
pub(super) fn perform(state: &mut State, call: &Call) -> Outcome<Answer> {
    let answer = match (call.verb, call.subresource.as_str()) {
        (Verb::Get, "" | "status") => get(state, call),
        (Verb::List, "") => list(state, call),
        (Verb::Watch, "") => watch::begin(state, call).map(Answer::Watch),
        (Verb::Create, "") => writes::create(state, call),
        (Verb::Create, "eviction") if call.resource.kind == Kind::Pod => evict(state, call),
        (Verb::Create, "binding") if call.resource.kind == Kind::Pod => bind(state, call),
        (Verb::Update, _) => writes::update(state, call),
        (Verb::Patch, _) => writes::patch(state, call),
        (Verb::Get, "scale") => writes::get_scale(state, call),
        (Verb::Delete, "") => delete(state, call),
        (Verb::DeleteCollection, "") => delete_collection(state, call),
        _ => Err(Refusal::method_not_allowed()),
    };
    state.settle();
    answer
}

/// The object as a reader sees it.
fn presented(state: &State, kind: Kind, object: &Arc<Value>) -> Arc<Value> {
    match kind {
        Kind::Node => Arc::new(nodes::with_heartbeat(state, object)),
        _ => Arc::clone(object),
    }
}

fn get(state: &State, call: &Call) -> Outcome<Answer> {
    let kind = call.resource.kind;
    if let Some(object) = state.store.at(kind, &call.place()) {
        return Ok(Answer::Object(200, presented(state, kind, object)));
    }
    let machine = state.machines.get(&call.name);
    match machine {
        Some(machine) if is_node_leases(call) => {
            Ok(Answer::Object(200, Arc::new(nodes::lease_of(state, machine))))
        }
        _ => Err(call.not_found()),
    }
}

fn is_node_leases(call: &Call) -> bool {
    call.resource.kind == Kind::Lease && call.namespace == "kube-node-lease"
}

/// What a collection request selects.
pub(super) struct Selection {
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn of(call: &Call) -> Outcome<Self> {
        let mut fields = call.query("fieldSelector").to_owned();
        if !call.name.is_empty() {
            fields = format!("metadata.name={}", call.name);
        }
        Ok(Self {
            namespace: call.namespace.clone(),
            labels: LabelSelector::parse(call.query("labelSelector"))?,
            fields: FieldSelector::parse(&fields, call.resource.kind)?,
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || self.namespace == object::namespace(object))
            && self.labels.matches(object::labels(object))
            && self.fields.matches(object)
    }
}

/// Everything that is selected, in the order of places.
pub(super) fn selected(state: &State, call: &Call) -> Outcome<Vec<Arc<Value>>> {
    let selection = Selection::of(call)?;
    let kind = call.resource.kind;
    let stored = state.store.all(kind).map(|(_, object)| object);
    let mut found: Vec<Arc<Value>> = stored
        .filter(|object| selection.matches(object))
        .map(|object| presented(state, kind, object))
        .collect();
    if kind == Kind::Lease {
        let leases = state.machines.values().map(|machine| nodes::lease_of(state, machine));
        found.extend(leases.filter(|lease| selection.matches(lease)).map(Arc::new));
    }
    Ok(found)
}

fn list(state: &State, call: &Call) -> Outcome<Answer> {
    let mut items = selected(state, call)?;
    let start = call.query("continue");
    if !start.is_empty() {
        let after = read_token(start)?;
        items.retain(|object| key_of(object) > after);
    }
    let limit: usize = call.query("limit").parse().unwrap_or(0);
    let mut rest = None;
    if limit > 0 && items.len() > limit {
        let remaining = items.len() - limit;
        items.truncate(limit);
        rest = items.last().map(|last| (token(&key_of(last)), remaining));
    }
    let revision = state.store.revision();
    Ok(Answer::List(List { resource: call.resource, items, revision, rest }))
}

fn key_of(object: &Value) -> String {
    format!("{}/{}", object::namespace(object), object::name(object))
}

fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "start": key}).to_string())
}

fn read_token(token: &str) -> Outcome<String> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|value| value["start"].as_str().map(str::to_owned))
        .ok_or_else(|| Refusal::bad_request("continue key is not valid"))
}

fn evict(state: &mut State, call: &Call) -> Outcome<Answer> {
    let mut body = call.json()?;
    if call.is_dry_run() {
        body["deleteOptions"]["dryRun"] = json!(["All"]);
    }
    let status = super::eviction::evict(state, &call.place(), &body)?;
    Ok(Answer::Object(201, Arc::new(status)))
}

fn bind(state: &mut State, call: &Call) -> Outcome<Answer> {
    let target = object::text(&call.json()?, "/target/name").to_owned();
    let Some(pod) = state.store.at(Kind::Pod, &call.place()) else {
        return Err(call.not_found());
    };
    let node = object::text(pod, "/spec/nodeName");
    if !node.is_empty() {
        let why = format!("pod {} is already assigned to node {node:?}", call.name);
        return Err(Refusal::conflict(call.resource, &call.name, &why));
    }
    super::scheduler::bind(state, &call.place(), &target);
    Ok(Answer::Object(201, Arc::new(success())))
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// What a deletion asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub is_dry_run: bool,
    uid: Option<String>,
    revision: Option<String>,
    propagation: String,
}

impl DeleteOptions {
    pub(super) fn of(options: &Value) -> Self {
        let text =
            |pointer: &str| object::at(options, pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            grace_period_seconds: object::number(options, "/gracePeriodSeconds"),
            is_dry_run: object::items(options, "/dryRun").iter().any(|one| one == "All"),
            uid: text("/preconditions/uid"),
            revision: text("/preconditions/resourceVersion"),
            propagation: text("/propagationPolicy").unwrap_or_default(),
        }
    }

    /// The options of a call: those in its body, then those in its query.
    fn of_call(call: &Call) -> Outcome<Self> {
        let mut options = Self::of(&call.json()?);
        if let Ok(grace) = call.query("gracePeriodSeconds").parse() {
            options.grace_period_seconds = Some(grace);
        }
        if !call.query("propagationPolicy").is_empty() {
            call.query("propagationPolicy").clone_into(&mut options.propagation);
        }
        options.is_dry_run |= call.is_dry_run();
        Ok(options)
    }

    /// Whether the object is the one that was meant.
    pub(super) fn check(&self, resource: &Resource, object: &Value) -> Outcome<()> {
        let name = object::name(object);
        let uid = object::uid(object);
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            return Err(Refusal::wrong_uid(resource, name, (wanted, uid)));
        }
        let found = object::text(object, "/metadata/resourceVersion");
        if let Some(wanted) = self.revision.as_deref().filter(|wanted| *wanted != found) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, \
                 ResourceVersion in object meta: {found}"
            );
            return Err(Refusal::conflict(resource, name, &why));
        }
        Ok(())
    }
}

fn delete(state: &mut State, call: &Call) -> Outcome<Answer> {
    let options = DeleteOptions::of_call(call)?;
    let kind = call.resource.kind;
    let place = call.place();
    let Some(object) = state.store.at(kind, &place).cloned() else {
        return Err(call.not_found());
    };
    options.check(call.resource, &object)?;
    if kind == Kind::Namespace && matches!(call.name.as_str(), "default" | "kube-system") {
        let why = "this namespace may not be deleted";
        return Err(Refusal::forbidden(call.resource, &call.name, why));
    }
    if !options.is_dry_run {
        delete_one(state, kind, (&place, &options));
    }
    match state.store.at(kind, &place) {
        Some(left) if !options.is_dry_run => Ok(Answer::Object(200, Arc::clone(left))),
        _ => Ok(Answer::Object(200, Arc::new(deleted(call.resource, &object)))),
    }
}

fn deleted(resource: &Resource, object: &Value) -> Value {
    let mut details = json!({
        "name": object::name(object), "kind": resource.plural, "uid": object::uid(object),
    });
    if !resource.group.is_empty() {
        details["group"] = resource.group.into();
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    })
}

fn delete_one(state: &mut State, kind: Kind, what: (&Place, &DeleteOptions)) {
    let (place, options) = what;
    match options.propagation.as_str() {
        "Foreground" => {
            state.update(kind, place, |object| {
                let finalizers = object::list_mut(&mut object["metadata"]["finalizers"]);
                if !finalizers.iter().any(|one| one == garbage::FOREGROUND) {
                    finalizers.push(garbage::FOREGROUND.into());
                }
            });
        }
        "Orphan" => orphan_dependents(state, kind, place),
        _ => {}
    }
    match kind {
        Kind::Pod => state.begin_pod_deletion(place, options.grace_period_seconds),
        Kind::Namespace => {
            let now = state.now;
            state.update(kind, place, |namespace| {
                let metadata = &mut namespace["metadata"];
                object::default(&mut metadata["deletionTimestamp"], object::stamp(now));
                namespace["status"]["phase"] = "Terminating".into();
            });
        }
        _ => garbage::delete(state, kind, place),
    }
}

fn orphan_dependents(state: &mut State, kind: Kind, place: &Place) {
    let Some(uid) = state.store.at(kind, place).map(|owner| object::uid(owner).to_owned()) else {
        return;
    };
    for resource in super::resource::RESOURCES {
        for dependent in state.store.places(resource.kind) {
            let owns = |one: &Value| one["uid"] == uid.as_str();
            let is_owned = state.store.at(resource.kind, &dependent).is_some_and(|object| {
                object::items(object, "/metadata/ownerReferences").iter().any(owns)
            });
            if is_owned {
                state.update(resource.kind, &dependent, |object| {
                    object::list_mut(&mut object["metadata"]["ownerReferences"])
                        .retain(|one| !owns(one));
                });
            }
        }
    }
}

fn delete_collection(state: &mut State, call: &Call) -> Outcome<Answer> {
    let options = DeleteOptions::of_call(call)?;
    let items = selected(state, call)?;
    for object in &items {
        let place = (object::namespace(object).to_owned(), object::name(object).to_owned());
        if !options.is_dry_run {
            delete_one(state, call.resource.kind, (&place, &options));
        }
    }
    let revision = state.store.revision();
    Ok(Answer::List(List { resource: call.resource, items, revision, rest: None }))
}
