//! What the API server fills in and refuses when an object is written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::object::{self, default};
use super::refusal::{Outcome, Refusal};
use super::resource::{Kind, Resource};
use super::settings::KubeSettings;

/// Fills in the defaults of a new object, and drops what its creator may not set.
pub(super) fn complete(resource: &Resource, object: &mut Value, settings: &KubeSettings) {
    if resource.has_status() && resource.kind != Kind::Node {
        object::remove(object, "status");
    }
    match resource.kind {
        Kind::Pod => {
            object["status"] = json!({"phase": "Pending"});
            complete_pod(object, settings);
        }
        Kind::Namespace => {
            let name = object::name(object).to_owned();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        Kind::PersistentVolumeClaim => object["status"] = json!({"phase": "Pending"}),
        Kind::PersistentVolume => object["status"] = json!({"phase": "Available"}),
        Kind::Deployment => complete_deployment(object),
        Kind::ReplicaSet => {
            default(&mut object["spec"]["replicas"], 1);
            complete_template(object);
            object["status"] = json!({"replicas": 0});
        }
        Kind::StatefulSet => {
            let spec = &mut object["spec"];
            default(&mut spec["replicas"], 1);
            default(&mut spec["podManagementPolicy"], "OrderedReady");
            default(&mut spec["updateStrategy"], json!({"type": "RollingUpdate"}));
            default(&mut spec["revisionHistoryLimit"], 10);
            complete_template(object);
            object["status"] = json!({"replicas": 0, "availableReplicas": 0});
        }
        Kind::DaemonSet => complete_daemon_set(object),
        Kind::Secret => complete_secret(object),
        Kind::CustomResourceDefinition => {
            let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": kind});
            object["status"]["conditions"] =
                json!([condition("NamesAccepted"), condition("Established")]);
        }
        _ => {}
    }
}

fn complete_deployment(object: &mut Value) {
    let spec = &mut object["spec"];
    default(&mut spec["replicas"], 1);
    default(&mut spec["revisionHistoryLimit"], 10);
    default(&mut spec["progressDeadlineSeconds"], 600);
    default(&mut spec["strategy"]["type"], "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        default(&mut spec["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        default(&mut spec["strategy"]["rollingUpdate"]["maxUnavailable"], "25%");
    }
    complete_template(object);
    object["status"] = json!({});
}

fn complete_daemon_set(object: &mut Value) {
    let spec = &mut object["spec"];
    default(&mut spec["revisionHistoryLimit"], 10);
    default(&mut spec["updateStrategy"]["type"], "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        default(&mut spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    }
    complete_template(object);
    object["status"] = json!({
        "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0,
        "numberReady": 0,
    });
}

fn complete_template(object: &mut Value) {
    complete_pod_spec(&mut object["spec"]["template"]["spec"]);
}

fn complete_pod_spec(spec: &mut Value) {
    default(&mut spec["restartPolicy"], "Always");
    default(&mut spec["terminationGracePeriodSeconds"], 30);
    default(&mut spec["dnsPolicy"], "ClusterFirst");
    default(&mut spec["schedulerName"], "default-scheduler");
    default(&mut spec["securityContext"], json!({}));
}

/// Fills in what a pod gets besides its own spec: the default account, and how long it bears a
/// node that is not ready or unreachable.
pub(super) fn complete_pod(pod: &mut Value, settings: &KubeSettings) {
    complete_pod_spec(&mut pod["spec"]);
    default(&mut pod["spec"]["serviceAccountName"], "default");
    default(&mut pod["status"]["qosClass"], "BestEffort");
    let tolerations = object::list_mut(&mut pod["spec"]["tolerations"]);
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let taint = json!({"key": key, "effect": "NoExecute"});
        if !tolerations.iter().any(|one| super::scheduler::tolerates(one, &taint)) {
            tolerations.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": settings.unreachable_toleration_seconds,
            }));
        }
    }
}

/// `stringData` is only a way to write `data`.
fn complete_secret(object: &mut Value) {
    default(&mut object["type"], "Opaque");
    fold_string_data(object);
}

fn fold_string_data(object: &mut Value) {
    let Some(plain) = object.as_object_mut().and_then(|map| map.remove("stringData")) else {
        return;
    };
    for (key, text) in plain.as_object().into_iter().flatten() {
        object["data"][key] = STANDARD.encode(text.as_str().unwrap_or("")).into();
    }
}

/// Fills in what a written object gets, new or not.
pub(super) fn complete_update(kind: Kind, object: &mut Value) {
    match kind {
        Kind::Secret => fold_string_data(object),
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet => {
            complete_template(object);
        }
        _ => {}
    }
}

/// Refuses a new object that the API would not take.
pub(super) fn check_new(resource: &Resource, object: &Value) -> Outcome<()> {
    let name = object::name(object);
    check_name(resource, name)?;
    check_labels(resource, object)?;
    match resource.kind {
        Kind::Pod => check_containers(resource, name, &object["spec"], "spec"),
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet => {
            let template = &object["spec"]["template"];
            check_selector(resource, object)?;
            check_containers(resource, name, &template["spec"], "spec.template.spec")
        }
        Kind::PodDisruptionBudget => check_budget(resource, object),
        Kind::Secret => check_secret(resource, object),
        _ => Ok(()),
    }
}

/// Refuses changes of what cannot change.
pub(super) fn check_update(resource: &Resource, before: &Value, after: &Value) -> Outcome<()> {
    let name = object::name(before);
    check_labels(resource, after)?;
    let fixed: &[&str] = match resource.kind {
        Kind::Deployment | Kind::ReplicaSet | Kind::DaemonSet => &["/spec/selector"],
        Kind::StatefulSet => &["/spec/selector", "/spec/serviceName", "/spec/volumeClaimTemplates"],
        Kind::Secret => &["/type"],
        Kind::RoleBinding | Kind::ClusterRoleBinding => &["/roleRef"],
        _ => &[],
    };
    for pointer in fixed {
        if object::at(before, pointer) != object::at(after, pointer) {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            return Err(Refusal::invalid(resource, name, &field, "field is immutable"));
        }
    }
    if resource.kind == Kind::Node {
        for field in ["providerID", "podCIDR"] {
            let (old, new) = (&before["spec"][field], &after["spec"][field]);
            if old.as_str().is_some_and(|old| !old.is_empty()) && old != new {
                let why = format!(
                    "Forbidden: node updates may not change {field} except from \"\" to valid"
                );
                return Err(Refusal::invalid(resource, name, &format!("spec.{field}"), &why));
            }
        }
    }
    if resource.kind == Kind::PodDisruptionBudget {
        check_budget(resource, after)?;
    }
    Ok(())
}

fn check_name(resource: &Resource, name: &str) -> Outcome<()> {
    if name.is_empty() {
        let why = "Required value: name or generateName is required";
        return Err(Refusal::invalid(resource, "", "metadata.name", why));
    }
    // RBAC names are path segments; all others are DNS subdomains.
    let is_rbac = resource.group == "rbac.authorization.k8s.io";
    let is_valid = if is_rbac { !name.contains('/') } else { is_subdomain(name) };
    if is_valid {
        return Ok(());
    }
    let why = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case \
         alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
    );
    Err(Refusal::invalid(resource, name, "metadata.name", &why))
}

fn is_subdomain(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.starts_with(is_edge)
                && label.ends_with(is_edge)
                && label.chars().all(|c| is_edge(c) || c == '-')
        })
}

/// Label values are short words; a value that is not one is a common mistake of callers.
fn check_labels(resource: &Resource, object: &Value) -> Outcome<()> {
    for (key, value) in object::labels(object).into_iter().flatten() {
        let Some(text) = value.as_str() else {
            let why = "Invalid value: labels are strings";
            return Err(Refusal::invalid(resource, object::name(object), "metadata.labels", why));
        };
        let bare = key.rsplit('/').next().unwrap_or("");
        let is_word = |word: &str| {
            word.len() <= 63
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.ends_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !is_word(bare) || !(text.is_empty() || is_word(text)) {
            let why = format!("Invalid value: {text:?}: a valid label must be a short word");
            return Err(Refusal::invalid(resource, object::name(object), "metadata.labels", &why));
        }
    }
    Ok(())
}

fn check_containers(resource: &Resource, name: &str, spec: &Value, path: &str) -> Outcome<()> {
    if object::items(spec, "/containers").is_empty() {
        let field = format!("{path}.containers");
        return Err(Refusal::invalid(resource, name, &field, "Required value"));
    }
    Ok(())
}

fn check_selector(resource: &Resource, object: &Value) -> Outcome<()> {
    let selector = super::selector::LabelSelector::of(&object["spec"]["selector"]);
    let labels = object::at(object, "/spec/template/metadata/labels").and_then(Value::as_object);
    if selector.is_some_and(|selector| selector.matches(labels)) {
        return Ok(());
    }
    let why = "Invalid value: `selector` does not match template `labels`";
    let field = "spec.template.metadata.labels";
    Err(Refusal::invalid(resource, object::name(object), field, why))
}

fn check_budget(resource: &Resource, object: &Value) -> Outcome<()> {
    let spec = &object["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "Invalid value: minAvailable and maxUnavailable cannot be both set";
        return Err(Refusal::invalid(resource, object::name(object), "spec", why));
    }
    Ok(())
}

fn check_secret(resource: &Resource, object: &Value) -> Outcome<()> {
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        if value.as_str().and_then(|text| STANDARD.decode(text).ok()).is_none() {
            let field = format!("data[{key}]");
            let why = "Invalid value: illegal base64 data";
            return Err(Refusal::invalid(resource, object::name(object), &field, why));
        }
    }
    Ok(())
}
