//! Discovery: which groups, versions and resources there are, in the form without aggregation.

use serde_json::{Value, json};

use super::refusal::{Outcome, Refusal};
use super::resource::{self, Kind, RESOURCES, Resource};
use super::settings::KubeSettings;

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`.
pub(super) fn groups(is_served: impl Fn(&str) -> bool) -> Value {
    let groups = resource::groups().into_iter().filter(|group| is_served(group));
    let groups: Vec<Value> = groups.map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(super) fn group(name: &str) -> Outcome<Value> {
    if !resource::groups().contains(&name) {
        return Err(Refusal::no_such_path());
    }
    let mut group = group_value(name);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Ok(group)
}

fn group_value(name: &str) -> Value {
    let version = resource::version_of(name);
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// `/api/v1` (an empty group) and `/apis/<group>/v1`.
pub(super) fn resources(group: &str) -> Outcome<Value> {
    let mut rows = Vec::new();
    for resource in RESOURCES.iter().filter(|resource| resource.group == group) {
        rows.push(resource_row(resource));
        rows.extend(resource.subresources.iter().map(|sub| subresource_row(resource, sub)));
    }
    if rows.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let version = match group {
        "" => "v1".to_owned(),
        group => format!("{group}/{}", resource::version_of(group)),
    };
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": rows,
    }))
}

fn resource_row(resource: &Resource) -> Value {
    let mut row = json!({
        "name": resource.plural,
        "singularName": resource.singular(),
        "namespaced": resource.is_namespaced,
        "kind": resource.kind.name(),
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    });
    if !resource.short.is_empty() {
        row["shortNames"] = resource.short.into();
    }
    if resource.group == "apps" || matches!(resource.kind, Kind::Pod | Kind::Service) {
        row["categories"] = json!(["all"]);
    }
    row
}

fn subresource_row(resource: &Resource, sub: &str) -> Value {
    let mut row = json!({
        "name": format!("{}/{sub}", resource.plural),
        "singularName": "",
        "namespaced": resource.is_namespaced,
        "kind": resource.kind.name(),
        "verbs": ["get", "patch", "update"],
    });
    let foreign = match sub {
        "eviction" => Some(("policy", "v1", "Eviction", "create")),
        "scale" => Some(("autoscaling", "v1", "Scale", "get")),
        "binding" => Some(("", "v1", "Binding", "create")),
        _ => None,
    };
    if let Some((group, version, kind, verb)) = foreign {
        row["group"] = group.into();
        row["version"] = version.into();
        row["kind"] = kind.into();
        if verb == "create" {
            row["verbs"] = json!(["create"]);
        }
    }
    row
}

/// `/openapi/v3`: where each group's document is.
pub(super) fn openapi_index() -> Value {
    let mut paths = json!({"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1"}});
    for group in resource::groups() {
        let version = resource::version_of(group);
        let url = format!("/openapi/v3/apis/{group}/{version}");
        paths[format!("apis/{group}/{version}")] = json!({"serverRelativeURL": url});
    }
    json!({"paths": paths})
}

/// A group's OpenAPI document, as far as `kubectl apply` needs it: that the server validates
/// fields itself (`fieldValidation`), so that kubectl does not need the schemas.
pub(super) fn openapi(group: &str) -> Value {
    let mut paths = json!({});
    for resource in RESOURCES.iter().filter(|resource| resource.group == group) {
        let version = resource.version;
        let root = match group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/{version}"),
        };
        let space = if resource.is_namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("{root}{space}/{}/{{name}}", resource.plural);
        let kind = json!({"group": group, "version": version, "kind": resource.kind.name()});
        paths[path] = json!({"patch": {
            "x-kubernetes-group-version-kind": kind,
            "parameters": [
                {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
                {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
            ],
            "responses": {},
        }});
    }
    let info = json!({"title": "Kubernetes", "version": "v1"});
    json!({"openapi": "3.0.0", "info": info, "paths": paths})
}

/// `/version`.
pub(super) fn version(settings: &KubeSettings) -> Value {
    let (major, minor) = settings.minor();
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{}", settings.version),
        "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean",
        "buildDate": "2026-06-16T00:00:00Z",
        "goVersion": "go1.26.0",
        "compiler": "gc",
        "platform": "linux/amd64",
    })
}
