//! What can be done to a server that exists.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::ask::Cx;
use super::super::reply::{Refusal, Reply};
use super::{create, find, find_id};
use crate::sim::cloud::{Action, CloudEvent, Server, ServerStatus, User};
use crate::sim::compute::begin_action;

pub(super) fn delete(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let server = find(cx, user, id)?;
    if server.locked && !user.is_admin {
        return Err(Refusal::new(409, format!("Instance {id} is locked")));
    }
    let uuid = server.id;
    let now = cx.now;
    note(cx, uuid, "delete");
    cx.cloud.delete_server(uuid, now);
    Ok(Reply::empty(204))
}

fn note(cx: &mut Cx, id: uuid::Uuid, action: &str) {
    if let Some(server) = cx.cloud.compute.servers.get_mut(id) {
        begin_action(server, action, &cx.asked.request_id, cx.now);
    }
}

pub(super) fn action(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let server = find_id(cx, user, id)?;
    let body: BTreeMap<String, Value> = cx.body()?;
    let Some((name, options)) = body.into_iter().next() else {
        return Err(Refusal::new(400, "There is no such action: "));
    };
    match name.as_str() {
        "os-getConsoleOutput" => console(cx, user, id, &options),
        "os-stop" => power(cx, server, ServerStatus::Active, "stop"),
        "os-start" => power(cx, server, ServerStatus::Shutoff, "start"),
        "lock" => Ok(set_lock(cx, server, true)),
        "unlock" => Ok(set_lock(cx, server, false)),
        "forceDelete" => {
            let now = cx.now;
            note(cx, server, "delete");
            cx.cloud.delete_server(server, now);
            Ok(Reply::empty(202))
        }
        other => Err(Refusal::new(400, format!("There is no such action: {other}"))),
    }
}

fn console(cx: &Cx, user: &User, id: &str, options: &Value) -> Result<Reply, Refusal> {
    let server = find(cx, user, id)?;
    if server.host.is_none() || server.status == ServerStatus::Build {
        return Err(Refusal::new(409, format!("Instance {id} is not ready")));
    }
    let wanted = match options.get("length") {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let lines = &server.console;
    let skip = match wanted.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => lines.len().saturating_sub(count),
        None => 0,
    };
    let mut text = lines[skip..].join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(Reply::ok(json!({"output": text})))
}

fn power(cx: &mut Cx, id: uuid::Uuid, from: ServerStatus, action: &str) -> Result<Reply, Refusal> {
    let now = cx.now;
    let request = cx.asked.request_id.clone();
    let Some(server) = cx.cloud.compute.servers.get_mut(id) else {
        return Err(Refusal::new(404, format!("Instance {id} could not be found.")));
    };
    check_state(server, from, action)?;
    begin_action(server, action, &request, now);
    server.updated = now;
    let (task, event) = if action == "stop" {
        ("powering-off", CloudEvent::Stopped(id))
    } else {
        ("powering-on", CloudEvent::Started(id))
    };
    server.task = Some(task.into());
    let wait = cx.cloud.settings.timing.power_ms;
    cx.cloud.plan(now, wait, event);
    Ok(Reply::empty(202))
}

fn check_state(server: &Server, from: ServerStatus, action: &str) -> Result<(), Refusal> {
    let id = server.id;
    if server.locked {
        return Err(Refusal::new(409, format!("Instance {id} is locked")));
    }
    if let Some(task) = &server.task {
        return Err(Refusal::new(
            409,
            format!("Cannot '{action}' instance {id} while it is in task_state {task}"),
        ));
    }
    if server.status != from {
        let state = server.status.vm_state();
        return Err(Refusal::new(
            409,
            format!("Cannot '{action}' instance {id} while it is in vm_state {state}"),
        ));
    }
    Ok(())
}

fn set_lock(cx: &mut Cx, id: uuid::Uuid, locked: bool) -> Reply {
    if let Some(server) = cx.cloud.compute.servers.get_mut(id) {
        server.locked = locked;
    }
    Reply::empty(202)
}

pub(super) fn list_actions(cx: &Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let server = find(cx, user, id)?;
    let rows: Vec<Value> =
        server.actions.iter().rev().map(|action| shown(cx, server, action)).collect();
    Ok(Reply::ok(json!({"instanceActions": rows})))
}

pub(super) fn show_action(cx: &Cx, user: &User, id: &str, request: &str) -> Result<Reply, Refusal> {
    let server = find(cx, user, id)?;
    let missing =
        || Refusal::new(404, format!("Action for request_id {request} on instance {id} not found"));
    let action =
        server.actions.iter().find(|action| action.request_id == request).ok_or_else(missing)?;
    let mut body = shown(cx, server, action);
    if cx.minor >= 51 || user.is_admin {
        let result =
            action.finish.map(|_| if action.message.is_some() { "Error" } else { "Success" });
        body["events"] = json!([{
            "event": format!("compute_{}_instance", action.action),
            "start_time": Cx::clock_text(action.start),
            "finish_time": action.finish.map(Cx::clock_text), "result": result,
        }]);
    }
    Ok(Reply::ok(json!({"instanceAction": body})))
}

fn shown(cx: &Cx, server: &Server, action: &Action) -> Value {
    let mut body = json!({
        "action": action.action, "instance_uuid": server.id, "request_id": action.request_id,
        "user_id": server.user_id, "project_id": server.project_id,
        "start_time": action.start.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string(),
        "message": action.message,
    });
    if cx.minor >= 58 {
        let updated = action.finish.unwrap_or(action.start);
        body["updated_at"] = json!(updated.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string());
    }
    body
}

#[derive(Deserialize)]
struct MetadataBody {
    metadata: BTreeMap<String, String>,
}

/// `POST` adds to the metadata, `PUT` replaces them.
pub(super) fn set_metadata(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let server = find_id(cx, user, id)?;
    let MetadataBody { metadata } = cx.body()?;
    create::check_metadata(&metadata)?;
    let replace = cx.asked.method == http::Method::PUT;
    let Some(server) = cx.cloud.compute.servers.get_mut(server) else {
        return Err(Refusal::no_such_path());
    };
    if replace {
        server.metadata = metadata;
    } else {
        server.metadata.extend(metadata);
    }
    Ok(Reply::ok(json!({"metadata": server.metadata})))
}

#[derive(Deserialize)]
struct TagsBody {
    tags: Vec<String>,
}

pub(super) fn set_tags(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let server = find_id(cx, user, id)?;
    let TagsBody { mut tags } = cx.body()?;
    create::check_tags(&tags)?;
    tags.sort();
    tags.dedup();
    if let Some(server) = cx.cloud.compute.servers.get_mut(server) {
        server.tags.clone_from(&tags);
    }
    Ok(Reply::ok(json!({"tags": tags})))
}
