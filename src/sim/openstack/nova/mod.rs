//! Nova: servers, server groups, flavors, quotas, hypervisors.

mod act;
mod capacity;
mod create;
mod groups;
mod list;
mod view;

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ask::{Cx, id_of};
use super::reply::{Refusal, Reply};
use crate::sim::cloud::{Server, User};

pub(super) fn operation(method: &Method, path: &[&str]) -> &'static str {
    let path = if path.first() == Some(&"v2.1") { &path[1..] } else { return "versions" };
    match (method.as_str(), path) {
        ("POST", ["servers"]) => "create_server",
        ("GET", ["servers"] | ["servers", "detail"]) => "list_servers",
        ("GET", ["servers", _]) => "get_server",
        ("DELETE", ["servers", _]) => "delete_server",
        ("POST", ["servers", _, "action"]) => "server_action",
        ("GET", ["servers", _, "os-instance-actions", ..]) => "instance_actions",
        ("PUT" | "POST", ["servers", _, "metadata", ..]) => "set_metadata",
        ("PUT", ["servers", _, "tags", ..]) => "set_tags",
        ("GET", ["flavors", ..]) => "list_flavors",
        ("GET", ["limits"]) => "limits",
        ("GET", ["os-quota-sets", ..]) => "quota",
        ("POST", ["os-server-groups"]) => "create_server_group",
        ("GET", ["os-server-groups"]) => "list_server_groups",
        ("GET", ["os-server-groups", _]) => "get_server_group",
        ("DELETE", ["os-server-groups", _]) => "delete_server_group",
        ("GET", ["os-availability-zone", ..]) => "list_zones",
        ("GET", ["os-hypervisors", ..]) => "list_hypervisors",
        ("GET", ["os-services"]) => "list_services",
        ("GET", []) => "versions",
        _ => "other",
    }
}

pub(super) fn answer(cx: &mut Cx) -> Result<Reply, Refusal> {
    if cx.path.first() != Some(&"v2.1") {
        return if cx.path.is_empty() { Ok(versions(cx)) } else { Err(Refusal::no_such_path()) };
    }
    cx.path.remove(0);
    if cx.path.is_empty() {
        return Ok(Reply::ok(json!({"version": current(cx)})));
    }
    let user = cx.user()?;
    cx.minor = wanted_minor(cx)?;
    let version = format!("2.{}", cx.minor);
    let reply = dispatch(cx, &user)?;
    Ok(reply
        .with_header("openstack-api-version", format!("compute {version}"))
        .with_header("x-openstack-nova-api-version", version)
        .with_header("vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version"))
}

fn dispatch(cx: &mut Cx, user: &User) -> Result<Reply, Refusal> {
    let path = cx.path.clone();
    match (cx.asked.method.as_str(), &path[..]) {
        ("POST", ["servers"]) => create::create(cx, user),
        ("GET", ["servers"]) => list::list(cx, user, list::Detail::Names),
        ("GET", ["servers", "detail"]) => list::list(cx, user, list::Detail::All),
        ("GET", ["servers", id]) => {
            let server = find(cx, user, id)?;
            Ok(Reply::ok(json!({"server": view::whole(cx, user, server)})))
        }
        ("DELETE", ["servers", id]) => act::delete(cx, user, id),
        ("POST", ["servers", id, "action"]) => act::action(cx, user, id),
        ("GET", ["servers", id, "os-instance-actions"]) => act::list_actions(cx, user, id),
        ("GET", ["servers", id, "os-instance-actions", request]) => {
            act::show_action(cx, user, id, request)
        }
        ("PUT" | "POST", ["servers", id, "metadata"]) => act::set_metadata(cx, user, id),
        ("PUT", ["servers", id, "tags"]) => act::set_tags(cx, user, id),
        ("GET", ["servers", id, "tags"]) => {
            let tags = find(cx, user, id)?.tags.clone();
            Ok(Reply::ok(json!({"tags": tags})))
        }
        ("GET", ["flavors", rest @ ..]) => capacity::flavors(cx, rest),
        ("GET", ["limits"]) => Ok(capacity::limits(cx, user)),
        ("GET", ["os-quota-sets", project, rest @ ..]) => capacity::quota(cx, user, project, rest),
        ("GET", ["os-availability-zone"]) => Ok(capacity::zones(cx)),
        ("GET", ["os-hypervisors", "detail"]) => capacity::hypervisors(cx, user),
        ("GET", ["os-services"]) => capacity::services(cx, user),
        (_, ["os-server-groups", rest @ ..]) => groups::answer(cx, user, rest),
        _ => Err(Refusal::no_such_path()),
    }
}

/// A server of the caller's project, or any for an administrator.
fn find<'a>(cx: &'a Cx, user: &User, id: &str) -> Result<&'a Server, Refusal> {
    let missing = || Refusal::new(404, format!("Instance {id} could not be found."));
    let server = id_of(id).and_then(|id| cx.cloud.compute.servers.get(id)).ok_or_else(missing)?;
    if server.project_id == user.project_id || user.is_admin { Ok(server) } else { Err(missing()) }
}

fn find_id(cx: &Cx, user: &User, id: &str) -> Result<Uuid, Refusal> {
    find(cx, user, id).map(|server| server.id)
}

/// What an ordinary user is told about things for administrators.
fn only_admin(user: &User, rule: &str) -> Result<(), Refusal> {
    if user.is_admin {
        return Ok(());
    }
    Err(Refusal::new(403, format!("Policy doesn't allow {rule} to be performed.")))
}

/// The microversion that the request names; 2.1 without one.
fn wanted_minor(cx: &Cx) -> Result<u32, Refusal> {
    let max = cx.cloud.settings.generation.nova_max();
    let modern = cx.asked.header("openstack-api-version").and_then(|text| {
        text.split(',').find_map(|part| part.trim().strip_prefix("compute ")).map(str::trim)
    });
    let Some(text) = modern.or_else(|| cx.asked.header("x-openstack-nova-api-version")) else {
        return Ok(1);
    };
    if text == "latest" {
        return Ok(max);
    }
    let parts = text.split_once('.').map(|(major, minor)| (major.parse::<u32>(), minor.parse()));
    let Some((Ok(major), Ok(minor))) = parts else {
        return Err(Refusal::new(
            400,
            format!(
                "API Version String {text} is of invalid format. Must be of format \
                 MajorNum.MinorNum."
            ),
        ));
    };
    if major != 2 || minor == 0 || minor > max {
        return Err(Refusal::new(
            406,
            format!(
                "Version {text} is not supported by the API. Minimum is 2.1 and maximum is 2.{max}."
            ),
        ));
    }
    Ok(minor)
}

fn versions(cx: &Cx) -> Reply {
    let link = format!("{}/compute/v2/", cx.asked.base);
    let old = json!({
        "id": "v2.0", "status": "SUPPORTED", "version": "", "min_version": "",
        "updated": "2011-01-21T11:33:21Z", "links": [{"rel": "self", "href": link}],
    });
    Reply::ok(json!({"versions": [old, current(cx)]}))
}

fn current(cx: &Cx) -> Value {
    json!({
        "id": "v2.1", "status": "CURRENT", "min_version": "2.1",
        "version": format!("2.{}", cx.cloud.settings.generation.nova_max()),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": format!("{}/compute/v2.1/", cx.asked.base)}],
        "media-types": [{"base": "application/json",
            "type": "application/vnd.openstack.compute+json;version=2.1"}],
    })
}
