//! Ports: made, shown, changed, tagged, deleted.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::ask::{Cx, id_of};
use super::super::reply::{Refusal, Reply};
use super::rows;
use crate::sim::cloud::{FixedIp, Port, User};

pub(super) fn answer(cx: &mut Cx, user: &User, rest: &[&str]) -> Result<Reply, Refusal> {
    match (cx.asked.method.as_str(), rest) {
        ("POST", []) => create(cx, user),
        ("GET", []) => list(cx, user),
        ("GET", [id]) => {
            let port = find(cx, user, id)?;
            Ok(Reply::ok(json!({"port": rows::with_fields(cx, view(port))})))
        }
        ("PUT", [id]) => update(cx, user, id),
        ("DELETE", [id]) => delete(cx, user, id),
        ("GET", [id, "tags"]) => {
            let tags = find(cx, user, id)?.tags.clone();
            Ok(Reply::ok(json!({"tags": tags})))
        }
        ("PUT", [id, "tags"]) => set_tags(cx, user, id),
        _ => Err(Refusal::no_such_path()),
    }
}

fn find<'a>(cx: &'a Cx, user: &User, id: &str) -> Result<&'a Port, Refusal> {
    id_of(id)
        .and_then(|id| cx.cloud.network.ports.get(&id))
        .filter(|port| port.project_id == user.project_id || user.is_admin)
        .ok_or_else(|| rows::not_found("port", id))
}

/// Options of a list that are dealt with before any row is rendered.
const EARLY: [&str; 8] =
    ["device_id", "name", "description", "network_id", "tags", "limit", "marker", "fields"];

fn list(cx: &Cx, user: &User) -> Result<Reply, Refusal> {
    let query = &cx.asked.query;
    let limit = query.get("limit").and_then(|text| text.parse::<usize>().ok());
    let marker = query.get("marker").and_then(id_of);
    let is_early = query.iter().all(|(name, _)| EARLY.contains(&name));
    let visible = cx.cloud.network.ports.values().filter(|port| {
        (port.project_id == user.project_id || user.is_admin)
            && fits_early(cx, port)
            && fixed_ips_fit(&query.all("fixed_ips"), port)
    });
    let rows = match limit {
        // A page renders only itself; the marker's row stays in so that it is found.
        Some(limit) if is_early && limit > 0 => {
            let after = visible.filter(|port| marker.is_none_or(|marker| port.id >= marker));
            after.take(limit + 1).map(view).collect()
        }
        _ => visible.map(view).collect(),
    };
    rows::list(cx, "ports", rows)
}

/// What is asked for most, looked at before rows are rendered: fleets have many ports.
fn fits_early(cx: &Cx, port: &Port) -> bool {
    let query = &cx.asked.query;
    let exact = |name: &str, is: &str| {
        let wanted = query.all(name);
        wanted.is_empty() || wanted.contains(&is)
    };
    let tags = query.all("tags");
    let mut tags = tags.iter().flat_map(|text| text.split(','));
    exact("device_id", &port.device_id)
        && exact("name", &port.name)
        && exact("description", &port.description)
        && exact("network_id", &port.network_id.to_string())
        && tags.all(|tag| port.tags.iter().any(|has| has == tag))
}

/// `fixed_ips=ip_address=10.0.0.3` and `fixed_ips=subnet_id=...`.
fn fixed_ips_fit(wanted: &[&str], port: &Port) -> bool {
    wanted.iter().all(|text| match text.split_once('=') {
        Some(("ip_address", address)) => {
            port.fixed_ips.iter().any(|fixed| fixed.ip_address.to_string() == address)
        }
        Some(("subnet_id", id)) => {
            port.fixed_ips.iter().any(|fixed| fixed.subnet_id.to_string() == id)
        }
        _ => true,
    })
}

#[derive(Deserialize)]
struct Body {
    port: Wanted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    network_id: Option<Uuid>,
    name: Option<String>,
    description: Option<String>,
    #[expect(dead_code, reason = "accepted as Neutron accepts it; every port is up")]
    admin_state_up: Option<bool>,
    device_id: Option<String>,
    device_owner: Option<String>,
    fixed_ips: Option<Vec<WantedIp>>,
    allowed_address_pairs: Option<Vec<Value>>,
    security_groups: Option<Vec<Uuid>>,
    port_security_enabled: Option<bool>,
    mac_address: Option<String>,
    tenant_id: Option<String>,
    project_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedIp {
    subnet_id: Option<Uuid>,
    ip_address: Option<Ipv4Addr>,
}

fn create(cx: &mut Cx, user: &User) -> Result<Reply, Refusal> {
    let Body { port: wanted } = cx.body()?;
    let network = wanted.network_id.ok_or_else(|| {
        Refusal::new(400, "Failed to parse request. Required attribute 'network_id' not specified")
    })?;
    if !cx.cloud.network.networks.iter().any(|row| row.id == network) {
        return Err(rows::not_found("network", &network.to_string()));
    }
    let project = wanted.project_id.as_ref().or(wanted.tenant_id.as_ref());
    if project.is_some_and(|project| *project != user.project_id) && !user.is_admin {
        return Err(Refusal::typed(
            403,
            "HTTPForbidden",
            "(rule:create_port) is disallowed by policy",
        ));
    }
    check_quota(cx, user)?;
    check_groups(cx, wanted.security_groups.as_deref())?;
    let fixed_ips = addresses(cx, network, wanted.fixed_ips.as_deref())?;
    let now = cx.now;
    let mut port = cx.cloud.blank_port(network, &user.project_id, now);
    port.fixed_ips = fixed_ips;
    if let Some(mac) = &wanted.mac_address {
        port.mac_address.clone_from(mac);
    }
    apply(&mut port, wanted);
    let body = json!({"port": view(&port)});
    cx.cloud.network.ports.insert(port.id, port);
    Ok(Reply::json(201, body))
}

/// Sets what creating and changing have in common.
fn apply(port: &mut Port, wanted: Wanted) {
    let Wanted { name, description, device_id, device_owner, .. } = wanted;
    for (field, value) in [
        (&mut port.name, name),
        (&mut port.description, description),
        (&mut port.device_id, device_id),
        (&mut port.device_owner, device_owner),
    ] {
        if let Some(value) = value {
            *field = value;
        }
    }
    if let Some(pairs) = wanted.allowed_address_pairs {
        port.allowed_address_pairs = pairs;
    }
    if let Some(groups) = wanted.security_groups {
        port.security_groups = groups;
    }
    if let Some(enabled) = wanted.port_security_enabled {
        port.port_security_enabled = enabled;
    }
}

fn check_quota(cx: &Cx, user: &User) -> Result<(), Refusal> {
    let own = cx.cloud.network.ports.values().filter(|port| port.project_id == user.project_id);
    if own.count() < usize::try_from(cx.cloud.settings.quota.ports).unwrap_or(usize::MAX) {
        return Ok(());
    }
    Err(Refusal::typed(409, "OverQuota", "Quota exceeded for resources: ['port']."))
}

fn check_groups(cx: &Cx, wanted: Option<&[Uuid]>) -> Result<(), Refusal> {
    let known = |id: &Uuid| cx.cloud.network.security_groups.iter().any(|group| group.id == *id);
    match wanted.unwrap_or_default().iter().find(|id| !known(id)) {
        Some(id) => Err(rows::not_found("security_group", &id.to_string())),
        None => Ok(()),
    }
}

/// Takes the addresses that a new port asks for; one of any subnet when it asks for none.
fn addresses(
    cx: &mut Cx,
    network: Uuid,
    wanted: Option<&[WantedIp]>,
) -> Result<Vec<FixedIp>, Refusal> {
    let any = [WantedIp { subnet_id: None, ip_address: None }];
    let mut taken: Vec<FixedIp> = Vec::new();
    for wish in wanted.unwrap_or(&any) {
        match address(cx, network, wish) {
            Ok(fixed) => taken.push(fixed),
            Err(refusal) => {
                for fixed in taken {
                    cx.cloud.network.taken.remove(&fixed.ip_address);
                }
                return Err(refusal);
            }
        }
    }
    Ok(taken)
}

fn address(cx: &mut Cx, network: Uuid, wish: &WantedIp) -> Result<FixedIp, Refusal> {
    if let Some(address) = wish.ip_address {
        let subnet = cx.cloud.network.subnet_with(network, address).map(|subnet| subnet.id);
        let subnet = subnet.filter(|id| wish.subnet_id.is_none_or(|wanted| wanted == *id));
        let subnet_id = subnet.ok_or_else(|| {
            Refusal::typed(
                400,
                "InvalidIpForNetwork",
                format!(
                    "IP address {address} is not a valid IP for any of the subnets on the \
                         specified network."
                ),
            )
        })?;
        if !cx.cloud.network.take(address) {
            return Err(Refusal::typed(
                409,
                "IpAddressAlreadyAllocated",
                format!("IP address {address} already allocated in subnet {subnet_id}"),
            ));
        }
        return Ok(FixedIp { subnet_id, ip_address: address });
    }
    let subnet = match wish.subnet_id {
        Some(id) => Some(id),
        None => cx.cloud.network.subnet_of(network).map(|subnet| subnet.id),
    };
    let fixed = subnet.and_then(|subnet| {
        let cloud = &mut *cx.cloud;
        cloud.network.take_any(subnet, &mut cloud.dice)
    });
    fixed.ok_or_else(|| {
        Refusal::typed(
            409,
            "IpAddressGenerationFailure",
            format!("No more IP addresses available on network {network}."),
        )
    })
}

fn update(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let Body { port: wanted } = cx.body()?;
    let port = find(cx, user, id)?;
    check_revision(cx, port)?;
    let (uuid, network) = (port.id, port.network_id);
    check_groups(cx, wanted.security_groups.as_deref())?;
    let moved = match &wanted.fixed_ips {
        Some(wishes) => {
            let old = find(cx, user, id)?.fixed_ips.clone();
            for fixed in &old {
                cx.cloud.network.taken.remove(&fixed.ip_address);
            }
            match addresses(cx, network, Some(wishes)) {
                Ok(taken) => Some(taken),
                Err(refusal) => {
                    cx.cloud.network.taken.extend(old.iter().map(|fixed| fixed.ip_address));
                    return Err(refusal);
                }
            }
        }
        None => None,
    };
    let now = cx.now;
    if let Some(port) = cx.cloud.network.ports.get_mut(&uuid) {
        apply(port, wanted);
        if let Some(moved) = moved {
            port.fixed_ips = moved;
        }
        port.revision += 1;
        port.updated = now;
    }
    let port = find(cx, user, id)?;
    Ok(Reply::ok(json!({"port": view(port)})))
}

/// `If-Match: revision_number=N`.
fn check_revision(cx: &Cx, port: &Port) -> Result<(), Refusal> {
    let Some(text) = cx.asked.header("if-match") else { return Ok(()) };
    let wanted = text.strip_prefix("revision_number=").and_then(|n| n.parse::<u64>().ok());
    match wanted {
        None => Err(Refusal::typed(400, "InvalidInput", "Invalid input for operation: If-Match.")),
        Some(number) if number == port.revision => Ok(()),
        Some(_) => Err(Refusal::typed(
            412,
            "RevisionNumberConstraintFailed",
            format!("Constrained to {text}, but current revision is {}", port.revision),
        )),
    }
}

fn delete(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let port = find(cx, user, id)?;
    let (uuid, device) = (port.id, port.device_id.clone());
    // Neutron takes a port away from a running server without a word.
    if let Some(server) = id_of(&device).and_then(|id| cx.cloud.compute.servers.get_mut(id)) {
        server.ports.retain(|port| *port != uuid);
    }
    cx.cloud.network.remove_port(uuid);
    Ok(Reply::empty(204))
}

#[derive(Deserialize)]
struct TagsBody {
    tags: Vec<String>,
}

fn set_tags(cx: &mut Cx, user: &User, id: &str) -> Result<Reply, Refusal> {
    let uuid = find(cx, user, id)?.id;
    let TagsBody { mut tags } = cx.body()?;
    if tags.len() > 50 || tags.iter().any(|tag| tag.is_empty() || tag.len() > 255) {
        return Err(Refusal::typed(
            400,
            "HTTPBadRequest",
            "Invalid input for operation: '...' exceeds maximum length of 255.",
        ));
    }
    tags.sort();
    tags.dedup();
    let now = cx.now;
    if let Some(port) = cx.cloud.network.ports.get_mut(&uuid) {
        port.tags.clone_from(&tags);
        port.revision += 1;
        port.updated = now;
    }
    Ok(Reply::ok(json!({"tags": tags})))
}

fn view(port: &Port) -> Value {
    let bound = !port.device_id.is_empty();
    json!({
        "id": port.id, "name": port.name, "description": port.description,
        "network_id": port.network_id, "tenant_id": port.project_id,
        "project_id": port.project_id, "mac_address": port.mac_address, "admin_state_up": true,
        "status": if bound { "ACTIVE" } else { "DOWN" }, "device_id": port.device_id,
        "device_owner": port.device_owner, "fixed_ips": port.fixed_ips,
        "allowed_address_pairs": port.allowed_address_pairs,
        "security_groups": port.security_groups, "tags": port.tags, "extra_dhcp_opts": [],
        "port_security_enabled": port.port_security_enabled, "binding:vnic_type": "normal",
        "dns_name": "", "dns_assignment": [], "revision_number": port.revision,
        "created_at": Cx::clock_text(port.created), "updated_at": Cx::clock_text(port.updated),
    })
}
