//! Creating, replacing and patching objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission;
use super::apply::{self, Force, Writer};
use super::garbage;
use super::object;
use super::patch;
use super::refusal::{Outcome, Refusal};
use super::resource::{Kind, Resource};
use super::rest::{Answer, Call, Verb};
use super::schema;
use super::state::State;
use super::store::complete_metadata;

fn writer<'a>(state: &State, call: &'a Call, operation: &'a str) -> Writer<'a> {
    Writer { manager: &call.manager, operation, subresource: &call.subresource, now: state.now }
}

/// `POST` of a collection.
pub(super) fn create(state: &mut State, call: &Call) -> Outcome<Answer> {
    let mut object = call.json()?;
    if !object.is_object() {
        return Err(Refusal::bad_request("the body of the request is no object"));
    }
    check_type(call.resource, &mut object)?;
    choose_place(state, call, &mut object)?;
    let after = writer(state, call, "Update");
    apply::track(call.resource, None, &mut object, after);
    store_new(state, call, object)
}

/// The last steps of a creation, the same for `POST` and for an apply that creates.
fn store_new(state: &mut State, call: &Call, mut object: Value) -> Outcome<Answer> {
    let resource = call.resource;
    admission::complete(resource, &mut object, &state.settings);
    schema::admit(state, resource, &mut object)?;
    admission::check_new(resource, &object)?;
    check_namespace(state, resource, &object)?;
    let (namespace, name) = (object::namespace(&object), object::name(&object).to_owned());
    if state.store.get(resource.kind, namespace, &name).is_some() {
        return Err(Refusal::already_exists(resource, &name));
    }
    if call.is_dry_run() {
        let uid = state.uid();
        complete_metadata(&mut object, uid, state.now);
        return Ok(Answer::Object(201, Arc::new(object)));
    }
    let place = state.create(resource.kind, object);
    if resource.kind == Kind::Namespace {
        create_default_account(state, &name);
    }
    let stored = state.store.at(resource.kind, &place).cloned();
    stored.map(|object| Answer::Object(201, object)).ok_or_else(|| call.not_found())
}

/// The account that every namespace has.
pub(super) fn create_default_account(state: &mut State, namespace: &str) {
    state.create(
        Kind::ServiceAccount,
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }),
    );
}

fn check_type(resource: &Resource, object: &mut Value) -> Outcome<()> {
    let expected = (resource.api_version(), resource.kind.name());
    object::default(&mut object["apiVersion"], expected.0.as_str());
    object::default(&mut object["kind"], expected.1);
    if object["apiVersion"] != expected.0.as_str() || object["kind"] != expected.1 {
        let message = format!(
            "the API version in the data ({}/{}) does not match the expected API version ({}/{})",
            object::text(object, "/apiVersion"),
            object::text(object, "/kind"),
            expected.0,
            expected.1,
        );
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

fn choose_place(state: &mut State, call: &Call, object: &mut Value) -> Outcome<()> {
    if call.resource.is_namespaced {
        let own = object::namespace(object);
        if !own.is_empty() && own != call.namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        object["metadata"]["namespace"] = call.namespace.as_str().into();
    } else {
        object::remove(&mut object["metadata"], "namespace");
    }
    let prefix = object::text(object, "/metadata/generateName").to_owned();
    if object::name(object).is_empty() && !prefix.is_empty() {
        object["metadata"]["name"] = format!("{prefix}{}", state.suffix()).into();
    }
    Ok(())
}

/// Nothing is created in a namespace that goes, an eviction neither.
pub(super) fn check_namespace(state: &State, resource: &Resource, object: &Value) -> Outcome<()> {
    if !resource.is_namespaced {
        return Ok(());
    }
    let name = object::namespace(object);
    let Some(namespace) = state.store.get(Kind::Namespace, "", name) else {
        return Err(Refusal::not_found(Kind::Namespace.resource(), name));
    };
    if object::is_deleting(namespace) {
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        let mut refusal = Refusal::forbidden(resource, object::name(object), &why);
        refusal.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
        return Err(refusal);
    }
    Ok(())
}

/// `PUT`.
pub(super) fn update(state: &mut State, call: &Call) -> Outcome<Answer> {
    let mut object = call.json()?;
    let Some(before) = state.store.at(call.resource.kind, &call.place()).cloned() else {
        return Err(call.not_found());
    };
    if call.subresource == "scale" {
        let replicas = object["spec"]["replicas"].clone();
        object = (*before).clone();
        object["spec"]["replicas"] = replicas;
    } else {
        check_type(call.resource, &mut object)?;
        if object::name(&object) != call.name {
            let message = "the name of the object does not match the name on the URL";
            return Err(Refusal::bad_request(message));
        }
    }
    let written = write(state, call, (&before, object))?;
    Ok(answer(call, written))
}

/// `PATCH`, by content type.
pub(super) fn patch(state: &mut State, call: &Call) -> Outcome<Answer> {
    let body = call.json()?;
    let before = state.store.at(call.resource.kind, &call.place()).cloned();
    let kind = call.content_type.split(';').next().unwrap_or("").trim();
    if kind == "application/apply-patch+yaml" {
        return apply_patch(state, call, (before.as_deref(), body));
    }
    let Some(before) = before else { return Err(call.not_found()) };
    let mut after = if call.subresource == "scale" { scale_of(&before) } else { (*before).clone() };
    match kind {
        "application/merge-patch+json" => patch::merge(&mut after, &body),
        "application/strategic-merge-patch+json" => patch::strategic_merge(&mut after, &body),
        "application/json-patch+json" => after = patch::json_patch(&after, &body)?,
        other => return Err(Refusal::unsupported_media_type(other)),
    }
    if call.subresource == "scale" {
        let replicas = after["spec"]["replicas"].clone();
        after = (*before).clone();
        after["spec"]["replicas"] = replicas;
    } else if object::at(&body, "/metadata/resourceVersion").is_none() {
        // A patch that names no revision is no claim about one.
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    }
    let written = write(state, call, (&before, after))?;
    Ok(answer(call, written))
}

fn apply_patch(
    state: &mut State,
    call: &Call,
    objects: (Option<&Value>, Value),
) -> Outcome<Answer> {
    let (before, mut body) = objects;
    if call.query("fieldManager").is_empty() {
        let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is \
                       required for apply patch";
        return Err(Refusal::new(422, "Invalid", message));
    }
    check_type(call.resource, &mut body)?;
    if !matches!(object::name(&body), "") && object::name(&body) != call.name {
        let message = "the name of the object does not match the name on the URL";
        return Err(Refusal::bad_request(message));
    }
    if !object::items(&body, "/metadata/managedFields").is_empty() {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    body["metadata"]["name"] = call.name.as_str().into();
    if before.is_none() {
        let uid = object::uid(&body);
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object \
                 was found"
            );
            return Err(Refusal::conflict(call.resource, &call.name, &why));
        }
        choose_place(state, call, &mut body)?;
    }
    let force = if call.query("force") == "true" { Force::Yes } else { Force::No };
    let by = writer(state, call, "Apply");
    let result = apply::apply(call.resource, before, &body, (by, force))?;
    match before {
        None if call.subresource.is_empty() => store_new(state, call, result),
        None => Err(call.not_found()),
        Some(before) => {
            let written = write(state, call, (before, result))?;
            Ok(answer(call, written))
        }
    }
}

/// Stores the new form of an object, as far as the caller may change it.
fn write(state: &mut State, call: &Call, objects: (&Value, Value)) -> Outcome<Arc<Value>> {
    let (before, mut after) = objects;
    let resource = call.resource;
    check_identity(resource, before, &after)?;
    keep_what_is_the_servers(call, before, &mut after);
    admission::complete_update(resource.kind, &mut after);
    schema::admit(state, resource, &mut after)?;
    admission::check_update(resource, before, &after)?;
    let is_apply = call.verb == Verb::Patch && call.content_type.contains("apply-patch");
    if !is_apply {
        apply::track(resource, Some(before), &mut after, writer(state, call, "Update"));
    }
    if call.is_dry_run() {
        return Ok(Arc::new(after));
    }
    let place = call.place();
    if same_but_for_ownership_times(before, &after) {
        let stored = state.store.at(resource.kind, &place).cloned();
        return stored.ok_or_else(|| call.not_found());
    }
    state.update(resource.kind, &place, |object| *object = after.clone());
    let stored = state.store.at(resource.kind, &place).cloned();
    garbage::finish(state, resource.kind, &place);
    stored.ok_or_else(|| call.not_found())
}

/// A write that changes nothing but the time of an ownership entry is no write.
fn same_but_for_ownership_times(before: &Value, after: &Value) -> bool {
    let stripped = |object: &Value| {
        let mut object = object.clone();
        for entry in object::list_mut(&mut object["metadata"]["managedFields"]) {
            object::remove(entry, "time");
        }
        object
    };
    stripped(before) == stripped(after)
}

fn check_identity(resource: &Resource, before: &Value, after: &Value) -> Outcome<()> {
    let name = object::name(before);
    let (found, claimed) = (object::uid(before), object::uid(after));
    if !claimed.is_empty() && claimed != found {
        return Err(Refusal::wrong_uid(resource, name, (claimed, found)));
    }
    let claimed = object::text(after, "/metadata/resourceVersion");
    if !claimed.is_empty() && claimed != object::text(before, "/metadata/resourceVersion") {
        return Err(Refusal::stale(resource, name));
    }
    Ok(())
}

/// Takes back what this request cannot change: the server's metadata; the status, unless the
/// status is written, and then everything else.
fn keep_what_is_the_servers(call: &Call, before: &Value, after: &mut Value) {
    let is_status = matches!(call.subresource.as_str(), "status" | "approval");
    if is_status {
        let (status, metadata) = (after["status"].take(), after["metadata"].take());
        *after = before.clone();
        after["status"] = status;
        // Ownership, labels and annotations may be written along with the status.
        for field in ["managedFields", "labels", "annotations"] {
            if !metadata[field].is_null() {
                after["metadata"][field] = metadata[field].clone();
            }
        }
    } else if call.resource.has_status() {
        after["status"] = before["status"].clone();
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        let kept = before["metadata"][field].clone();
        if kept.is_null() {
            object::remove(&mut after["metadata"], field);
        } else {
            after["metadata"][field] = kept;
        }
    }
}

fn answer(call: &Call, object: Arc<Value>) -> Answer {
    if call.subresource == "scale" {
        return Answer::Object(200, Arc::new(scale_of(&object)));
    }
    Answer::Object(200, object)
}

/// `GET` of the scale subresource.
pub(super) fn get_scale(state: &State, call: &Call) -> Outcome<Answer> {
    let object = state.store.at(call.resource.kind, &call.place());
    let object = object.ok_or_else(|| call.not_found())?;
    Ok(Answer::Object(200, Arc::new(scale_of(object))))
}

fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object::name(object),
            "namespace": object::namespace(object),
            "uid": object::uid(object),
            "resourceVersion": object["metadata"]["resourceVersion"],
            "creationTimestamp": object["metadata"]["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector.join(","),
        },
    })
}
