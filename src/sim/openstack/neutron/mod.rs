//! Neutron: networks, subnets, security groups (read only), ports, quotas, free addresses.

mod ports;
mod rows;

use http::Method;
use serde_json::{Value, json};

use super::ask::Cx;
use super::reply::{Refusal, Reply};
use crate::sim::cloud::{Net, SecurityGroup, Subnet, User};

/// What this Neutron can do beyond its core; the names are Neutron's aliases.
const EXTENSIONS: [&str; 15] = [
    "allowed-address-pairs",
    "network-ip-availability",
    "pagination",
    "port-security",
    "project-id",
    "provider",
    "quotas",
    "quota_details",
    "revision-if-match",
    "security-group",
    "sorting",
    "standard-attr-description",
    "standard-attr-revisions",
    "standard-attr-tag",
    "standard-attr-timestamp",
];

pub(super) fn operation(method: &Method, path: &[&str]) -> &'static str {
    let path = if path.first() == Some(&"v2.0") { &path[1..] } else { return "versions" };
    match (method.as_str(), path) {
        ("POST", ["ports"]) => "create_port",
        ("GET", ["ports"]) => "list_ports",
        ("GET", ["ports", _]) => "get_port",
        ("PUT", ["ports", _]) => "update_port",
        ("PUT", ["ports", _, "tags", ..]) => "set_port_tags",
        ("DELETE", ["ports", _]) => "delete_port",
        ("GET", ["networks", ..]) => "list_networks",
        ("GET", ["subnets", ..]) => "list_subnets",
        ("GET", ["security-groups", ..]) => "list_security_groups",
        ("GET", ["quotas", ..]) => "quota",
        ("GET", ["network-ip-availabilities", ..]) => "ip_availability",
        ("GET", ["extensions", ..]) => "extensions",
        ("GET", []) => "versions",
        _ => "other",
    }
}

pub(super) fn answer(cx: &mut Cx) -> Result<Reply, Refusal> {
    if cx.path.is_empty() {
        return Ok(versions(cx));
    }
    if cx.path.remove(0) != "v2.0" {
        return Err(Refusal::no_such_path());
    }
    if cx.path.is_empty() {
        return Ok(Reply::ok(json!({"resources": []})));
    }
    // Neutron's resources may be asked for with an ending.
    if let Some(last) = cx.path.last_mut() {
        *last = last.strip_suffix(".json").unwrap_or(last);
    }
    let user = cx.user()?;
    let path = cx.path.clone();
    match (cx.asked.method.as_str(), &path[..]) {
        (_, ["ports", rest @ ..]) => ports::answer(cx, &user, rest),
        ("GET", ["networks", rest @ ..]) => {
            let rows = cx.cloud.network.networks.iter().map(|row| network(cx, row)).collect();
            rows::answer(cx, ("network", "networks"), rest, rows)
        }
        ("GET", ["subnets", rest @ ..]) => {
            let rows = cx.cloud.network.subnets.iter().map(subnet).collect();
            rows::answer(cx, ("subnet", "subnets"), rest, rows)
        }
        ("GET", ["security-groups", rest @ ..]) => {
            let rows = cx.cloud.network.security_groups.iter().map(security_group).collect();
            rows::answer(cx, ("security_group", "security_groups"), rest, rows)
        }
        ("GET", ["quotas", project, "details"]) => quota(cx, &user, project),
        ("GET", ["network-ip-availabilities", rest @ ..]) => availability(cx, &user, rest),
        ("GET", ["extensions"]) => {
            let rows: Vec<Value> = EXTENSIONS.into_iter().map(extension).collect();
            Ok(Reply::ok(json!({"extensions": rows})))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn extension(alias: &str) -> Value {
    json!({"alias": alias, "name": alias, "description": "", "links": [],
        "updated": "2016-01-01T00:00:00-00:00"})
}

fn versions(cx: &Cx) -> Reply {
    let href = format!("{}/network/v2.0/", cx.asked.base);
    Reply::ok(json!({"versions": [{"id": "v2.0", "status": "CURRENT",
        "links": [{"rel": "self", "href": href}]}]}))
}

fn network(cx: &Cx, row: &Net) -> Value {
    let subnets: Vec<_> = cx
        .cloud
        .network
        .subnets
        .iter()
        .filter(|subnet| subnet.network_id == row.id)
        .map(|subnet| subnet.id)
        .collect();
    let created = Cx::clock_text(row.created);
    json!({
        "id": row.id, "name": row.name, "status": "ACTIVE", "admin_state_up": true,
        "shared": false, "tenant_id": row.project_id, "project_id": row.project_id, "mtu": 1450,
        "port_security_enabled": true, "router:external": false, "subnets": subnets, "tags": [],
        "description": "", "availability_zones": [cx.cloud.settings.zone],
        "availability_zone_hints": [], "revision_number": 2, "created_at": created,
        "updated_at": created,
    })
}

fn subnet(row: &Subnet) -> Value {
    let created = Cx::clock_text(row.created);
    let gateway = u32::from(row.first) - 1;
    json!({
        "id": row.id, "name": row.name, "network_id": row.network_id, "cidr": row.cidr,
        "ip_version": 4, "enable_dhcp": true, "gateway_ip": std::net::Ipv4Addr::from(gateway),
        "allocation_pools": [{"start": row.first, "end": row.last}], "dns_nameservers": [],
        "host_routes": [], "tenant_id": row.project_id, "project_id": row.project_id,
        "description": "", "tags": [], "revision_number": 0, "created_at": created,
        "updated_at": created,
    })
}

fn security_group(row: &SecurityGroup) -> Value {
    let created = Cx::clock_text(row.created);
    json!({
        "id": row.id, "name": row.name, "description": "", "tenant_id": row.project_id,
        "project_id": row.project_id, "security_group_rules": [], "stateful": true, "tags": [],
        "shared": false, "revision_number": 1, "created_at": created, "updated_at": created,
    })
}

fn quota(cx: &Cx, user: &User, project: &str) -> Result<Reply, Refusal> {
    if project != user.project_id && !user.is_admin {
        return Err(Refusal::typed(
            403,
            "AdminRequired",
            "User does not have admin privileges: Reason: Non-admin is not authorized to access \
             quotas for another tenant.",
        ));
    }
    let own = |id: &str| id == project;
    let network = &cx.cloud.network;
    let ports = network.ports.values().filter(|port| own(&port.project_id)).count();
    let entry = |limit: i64, used: usize| json!({"limit": limit, "used": used, "reserved": 0});
    Ok(Reply::ok(json!({"quota": {
        "port": entry(i64::from(cx.cloud.settings.quota.ports), ports),
        "network": entry(100, network.networks.iter().filter(|row| own(&row.project_id)).count()),
        "subnet": entry(100, network.subnets.iter().filter(|row| own(&row.project_id)).count()),
        "security_group": entry(10,
            network.security_groups.iter().filter(|row| own(&row.project_id)).count()),
        "security_group_rule": entry(100, 0), "router": entry(10, 0), "floatingip": entry(50, 0),
        "subnetpool": entry(-1, 0), "rbac_policy": entry(10, 0),
    }})))
}

/// Free addresses; to users who are no administrators there is nothing, as in Neutron.
fn availability(cx: &Cx, user: &User, rest: &[&str]) -> Result<Reply, Refusal> {
    let visible = cx.cloud.network.networks.iter().filter(|_| user.is_admin);
    let rows: Vec<Value> = visible
        .map(|net| {
            let own = cx.cloud.network.subnets.iter().filter(|row| row.network_id == net.id);
            let subnets: Vec<(&Subnet, (u64, u64))> =
                own.map(|row| (row, cx.cloud.network.addresses(row))).collect();
            let shown = subnets.iter().map(|(row, (total, used))| {
                json!({"subnet_id": row.id, "subnet_name": row.name, "ip_version": 4,
                    "cidr": row.cidr, "total_ips": total, "used_ips": used})
            });
            json!({
                "network_id": net.id, "network_name": net.name, "tenant_id": net.project_id,
                "project_id": net.project_id,
                "total_ips": subnets.iter().map(|(_, (total, _))| total).sum::<u64>(),
                "used_ips": subnets.iter().map(|(_, (_, used))| used).sum::<u64>(),
                "subnet_ip_availability": shown.collect::<Vec<_>>(),
            })
        })
        .collect();
    match rest {
        [] => Ok(Reply::ok(json!({"network_ip_availabilities": rows}))),
        [id] => rows
            .into_iter()
            .find(|row| row["network_id"] == json!(id))
            .map(|row| Reply::ok(json!({"network_ip_availability": row})))
            .ok_or_else(Refusal::no_such_path),
        _ => Err(Refusal::no_such_path()),
    }
}
