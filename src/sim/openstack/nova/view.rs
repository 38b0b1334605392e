//! How a server looks at each microversion.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha224};
use uuid::Uuid;

use super::super::ask::Cx;
use crate::sim::cloud::{Server, ServerStatus, User};

/// Links to a server.
pub(super) fn links(cx: &Cx, id: Uuid) -> Value {
    let base = &cx.asked.base;
    json!([
        {"rel": "self", "href": format!("{base}/compute/v2.1/servers/{id}")},
        {"rel": "bookmark", "href": format!("{base}/compute/servers/{id}")},
    ])
}

/// A row of `GET /servers`.
pub(super) fn name_only(cx: &Cx, server: &Server) -> Value {
    if cx.cloud.faults.cell_down && cx.minor >= 69 {
        return of_down_cell(cx, server);
    }
    json!({"id": server.id, "name": server.name, "links": links(cx, server.id)})
}

/// What is known of a server whose cell does not answer.
fn of_down_cell(cx: &Cx, server: &Server) -> Value {
    json!({
        "id": server.id, "status": "UNKNOWN", "tenant_id": server.project_id,
        "created": Cx::clock_text(server.created), "links": links(cx, server.id),
    })
}

/// A row of `GET /servers/detail`. As with Zed, it lacks the fault of a server that never had a
/// host: that is in another cell's database.
pub(super) fn listed(cx: &Cx, user: &User, server: &Server) -> Value {
    let mut body = whole(cx, user, server);
    if let Some(fields) = body.as_object_mut().filter(|_| server.host.is_none()) {
        fields.remove("fault");
    }
    body
}

/// A server with everything.
pub(super) fn whole(cx: &Cx, user: &User, server: &Server) -> Value {
    if cx.cloud.faults.cell_down && cx.minor >= 69 {
        return of_down_cell(cx, server);
    }
    let precise = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string();
    let placed = server.host.is_some();
    let zone = if placed {
        cx.cloud.settings.zone.clone()
    } else {
        server.zone.clone().unwrap_or_default()
    };
    let mut body = json!({
        "id": server.id, "name": server.name, "status": server.status.text(),
        "tenant_id": server.project_id, "user_id": server.user_id,
        "metadata": server.metadata, "hostId": host_id(server),
        "image": {"id": server.image, "links": [{"rel": "bookmark",
            "href": format!("{}/compute/images/{}", cx.asked.base, server.image)}]},
        "flavor": flavor(cx, server),
        "created": Cx::clock_text(server.created), "updated": Cx::clock_text(server.updated),
        "addresses": addresses(cx, server), "accessIPv4": "", "accessIPv6": "",
        "links": links(cx, server.id), "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": zone,
        "config_drive": if server.config_drive { "True" } else { "" },
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": server.launched.map(precise),
        "OS-SRV-USG:terminated_at": server.terminated.map(precise),
        "OS-EXT-STS:task_state": server.task, "OS-EXT-STS:vm_state": server.status.vm_state(),
        "OS-EXT-STS:power_state": power_state(server),
        "os-extended-volumes:volumes_attached": [],
    });
    let Some(fields) = body.as_object_mut() else { return body };
    if !server.ports.is_empty() {
        fields.insert("security_groups".into(), json!([{"name": "default"}]));
    }
    if matches!(server.status, ServerStatus::Active | ServerStatus::Build) {
        let progress = if server.status == ServerStatus::Active { 100 } else { 0 };
        fields.insert("progress".into(), json!(if placed { progress } else { 0 }));
    }
    newer(cx, server, fields);
    if let Some(fault) = &server.fault {
        let created = Cx::clock_text(fault.created);
        let shown = json!({"code": fault.code, "message": fault.message, "created": created});
        fields.insert("fault".into(), shown);
    }
    if user.is_admin {
        for_admin(cx, server, fields);
    }
    body
}

/// Fields that came with later microversions.
fn newer(cx: &Cx, server: &Server, fields: &mut Map<String, Value>) {
    let minor = cx.minor;
    let mut add = |since: u32, name: &str, value: Value| {
        if minor >= since {
            fields.insert(name.into(), value);
        }
    };
    add(9, "locked", json!(server.locked));
    add(19, "description", json!(null));
    add(26, "tags", json!(server.tags));
    add(63, "trusted_image_certificates", json!(null));
    let groups: Vec<Uuid> = server.group.into_iter().collect();
    add(71, "server_groups", json!(groups));
    add(73, "locked_reason", json!(null));
    add(96, "pinned_availability_zone", json!(server.zone));
    let hints = server.group.map_or(json!({}), |group| json!({"group": [group]}));
    add(100, "scheduler_hints", hints);
}

fn for_admin(cx: &Cx, server: &Server, fields: &mut Map<String, Value>) {
    let instance = format!("instance-{}", &server.id.simple().to_string()[..8]);
    fields.insert("OS-EXT-SRV-ATTR:host".into(), json!(server.host));
    fields.insert("OS-EXT-SRV-ATTR:hypervisor_hostname".into(), json!(server.host));
    fields.insert("OS-EXT-SRV-ATTR:instance_name".into(), json!(instance));
    if cx.minor >= 16 {
        let down = cx
            .cloud
            .compute
            .hosts
            .iter()
            .any(|host| host.down && Some(&host.name) == server.host.as_ref());
        let state = if server.host.is_none() {
            ""
        } else if down {
            "DOWN"
        } else {
            "UP"
        };
        fields.insert("host_status".into(), json!(state));
    }
}

fn power_state(server: &Server) -> u8 {
    match server.status {
        ServerStatus::Active => 1,
        ServerStatus::Shutoff => 4,
        _ => 0,
    }
}

/// Nova's word for "same host" that tells a user nothing else.
pub(super) fn host_id(server: &Server) -> String {
    match &server.host {
        Some(host) => hex::encode(Sha224::digest(format!("{}{host}", server.project_id))),
        None => String::new(),
    }
}

fn flavor(cx: &Cx, server: &Server) -> Value {
    let Some(flavor) = cx.cloud.flavor(&server.flavor) else { return json!({}) };
    if cx.minor < 47 {
        let href = format!("{}/compute/flavors/{}", cx.asked.base, flavor.id);
        return json!({"id": flavor.id, "links": [{"rel": "bookmark", "href": href}]});
    }
    json!({
        "vcpus": flavor.vcpus, "ram": flavor.memory_mb, "disk": flavor.disk_gb, "ephemeral": 0,
        "swap": 0, "original_name": flavor.name, "extra_specs": {},
    })
}

fn addresses(cx: &Cx, server: &Server) -> Value {
    let mut by_network: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    // A server has its addresses shown from when its networks are set up.
    let ports = if server.host.is_some() { &server.ports[..] } else { &[] };
    for port in ports.iter().filter_map(|id| cx.cloud.network.ports.get(id)) {
        let networks = &cx.cloud.network.networks;
        let network = networks.iter().find(|network| network.id == port.network_id);
        let rows = by_network.entry(network.map_or("", |network| &network.name)).or_default();
        rows.extend(port.fixed_ips.iter().map(|fixed| {
            json!({"version": 4, "addr": fixed.ip_address, "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": port.mac_address})
        }));
    }
    json!(by_network)
}
