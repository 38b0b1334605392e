//! Server groups.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::ask::{Cx, id_of};
use super::super::reply::{Refusal, Reply};
use crate::sim::cloud::{Group, User};

/// First minor with one `policy` in place of a list, and with rules.
const ONE_POLICY: u32 = 64;
const POLICIES: [&str; 4] = ["anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"];

#[derive(Deserialize)]
struct Body {
    server_group: Wanted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    policy: Option<String>,
    policies: Option<Vec<String>>,
    rules: Option<Rules>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    max_server_per_host: Option<u32>,
}

pub(super) fn answer(cx: &mut Cx, user: &User, rest: &[&str]) -> Result<Reply, Refusal> {
    match (cx.asked.method.as_str(), rest) {
        ("POST", []) => create(cx, user),
        ("GET", []) => list(cx, user),
        ("GET", [id]) => {
            let group = find(cx, user, id)?;
            Ok(Reply::ok(json!({"server_group": view(cx, group)})))
        }
        ("DELETE", [id]) => {
            let id = find(cx, user, id)?.id;
            cx.cloud.compute.groups.retain(|group| group.id != id);
            Ok(Reply::empty(204))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn find<'a>(cx: &'a Cx, user: &User, id: &str) -> Result<&'a Group, Refusal> {
    let missing = || Refusal::new(404, format!("Instance group {id} could not be found."));
    id_of(id)
        .and_then(|id| cx.cloud.group(id))
        .filter(|group| group.project_id == user.project_id || user.is_admin)
        .ok_or_else(missing)
}

fn create(cx: &mut Cx, user: &User) -> Result<Reply, Refusal> {
    let Body { server_group: wanted } = cx.body()?;
    let policy = if cx.minor >= ONE_POLICY {
        wanted.policy
    } else {
        wanted.policies.and_then(|list| list.into_iter().next())
    };
    let policy = policy.unwrap_or_default();
    if !POLICIES.contains(&policy.as_str()) {
        return Err(Refusal::new(
            400,
            format!("Invalid input for field/attribute policy. Value: {policy}."),
        ));
    }
    let most = wanted.rules.and_then(|rules| rules.max_server_per_host);
    if most.is_some() && policy != "anti-affinity" {
        return Err(Refusal::new(400, "Only anti-affinity policy supports rules."));
    }
    let own = cx.cloud.compute.groups.iter().filter(|row| row.project_id == user.project_id);
    if own.count() >= usize::try_from(cx.cloud.settings.quota.server_groups).unwrap_or(usize::MAX) {
        return Err(Refusal::new(403, "Quota exceeded, too many server groups."));
    }
    let group = Group {
        id: cx.cloud.dice.uuid(),
        name: wanted.name,
        policy,
        max_server_per_host: most,
        project_id: user.project_id.clone(),
        user_id: user.id.clone(),
        members: Vec::new(),
    };
    let body = json!({"server_group": view(cx, &group)});
    cx.cloud.compute.groups.push(group);
    Ok(Reply::ok(body))
}

fn list(cx: &Cx, user: &User) -> Result<Reply, Refusal> {
    let most = usize::try_from(cx.cloud.settings.max_limit).unwrap_or(usize::MAX);
    let limit = cx.limit(most)?;
    let offset = cx.asked.query.get("offset").and_then(|text| text.parse().ok()).unwrap_or(0);
    let all = user.is_admin && cx.asked.query.get("all_projects").is_some();
    let rows: Vec<Value> = cx
        .cloud
        .compute
        .groups
        .iter()
        .filter(|group| all || group.project_id == user.project_id)
        .skip(offset)
        .take(limit)
        .map(|group| view(cx, group))
        .collect();
    Ok(Reply::ok(json!({"server_groups": rows})))
}

fn view(cx: &Cx, group: &Group) -> Value {
    let mut body = json!({"id": group.id, "name": group.name, "members": group.members});
    if cx.minor >= 13 {
        body["project_id"] = json!(group.project_id);
        body["user_id"] = json!(group.user_id);
    }
    if cx.minor >= ONE_POLICY {
        body["policy"] = json!(group.policy);
        body["rules"] = match group.max_server_per_host {
            Some(most) => json!({"max_server_per_host": most}),
            None => json!({}),
        };
    } else {
        body["policies"] = json!([group.policy]);
        body["metadata"] = json!({});
    }
    body
}
