//! Placement: what hypervisors have and what is used of it; for administrators only.

use http::Method;
use serde_json::{Map, Value, json};

use super::ask::Cx;
use super::reply::{Refusal, Reply};
use crate::sim::cloud::Host;

/// Highest minor of the API.
const MAX: u32 = 39;

pub(super) fn operation(method: &Method, path: &[&str]) -> &'static str {
    match (method.as_str(), path) {
        ("GET", []) => "versions",
        ("GET", ["resource_providers"]) => "list_providers",
        ("GET", ["resource_providers", _, "inventories"]) => "inventories",
        ("GET", ["resource_providers", _, "usages"]) => "usages",
        ("GET", ["resource_providers", _, "traits"]) => "traits",
        ("GET", ["allocation_candidates"]) => "allocation_candidates",
        _ => "other",
    }
}

pub(super) fn answer(cx: &mut Cx) -> Result<Reply, Refusal> {
    if cx.path.is_empty() {
        return Ok(Reply::ok(json!({"versions": [{"id": "v1.0", "status": "CURRENT",
            "min_version": "1.0", "max_version": format!("1.{MAX}"),
            "links": [{"rel": "self", "href": ""}]}]})));
    }
    let user = cx.user()?;
    cx.minor = wanted_minor(cx)?;
    if !user.is_admin {
        let rule = "placement:resource_providers:list";
        return Err(Refusal::new(403, format!("Access was denied to this resource.\n\n {rule}  ")));
    }
    let path = cx.path.clone();
    let body = match (cx.asked.method.as_str(), &path[..]) {
        ("GET", ["resource_providers"]) => providers(cx),
        ("GET", ["resource_providers", id]) => provider(cx, host(cx, id)?),
        ("GET", ["resource_providers", id, what @ ("inventories" | "usages" | "traits")]) => {
            details(cx, host(cx, id)?, what)
        }
        ("GET", ["allocation_candidates"]) => candidates(cx)?,
        _ => return Err(Refusal::no_such_path()),
    };
    let version = format!("placement 1.{}", cx.minor);
    Ok(Reply::ok(body)
        .with_header("openstack-api-version", version)
        .with_header("vary", "openstack-api-version"))
}

fn wanted_minor(cx: &Cx) -> Result<u32, Refusal> {
    let header = cx.asked.header("openstack-api-version").unwrap_or_default();
    let text = header.split(',').find_map(|part| part.trim().strip_prefix("placement "));
    match text.map(str::trim) {
        None => Ok(0),
        Some("latest") => Ok(MAX),
        Some(text) => {
            let minor = text.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
            minor
                .filter(|minor| *minor <= MAX)
                .ok_or_else(|| Refusal::new(406, format!("Unacceptable version header: {text}")))
        }
    }
}

fn host<'a>(cx: &'a Cx, id: &str) -> Result<&'a Host, Refusal> {
    cx.cloud.compute.hosts.iter().find(|host| host.id.to_string() == id).ok_or_else(|| {
        Refusal::new(
            404,
            format!(
                "The resource could not be found.\n\n No resource provider with uuid {id} found  "
            ),
        )
    })
}

fn providers(cx: &Cx) -> Value {
    let query = &cx.asked.query;
    let hosts = cx.cloud.compute.hosts.iter().filter(|host| {
        query.get("name").is_none_or(|name| name == host.name)
            && query.get("uuid").is_none_or(|id| id == host.id.to_string())
    });
    json!({"resource_providers": hosts.map(|host| provider(cx, host)).collect::<Vec<_>>()})
}

fn provider(cx: &Cx, host: &Host) -> Value {
    let link = |rel: &str| json!({"rel": rel, "href": format!("/placement/resource_providers/{}/{rel}", host.id)});
    let links = ["inventories", "usages", "traits"].map(link);
    let mut body = json!({
        "uuid": host.id, "name": host.name, "generation": host.servers, "links": links,
    });
    if cx.minor >= 14 {
        body["root_provider_uuid"] = json!(host.id);
        body["parent_provider_uuid"] = json!(null);
    }
    body
}

fn details(cx: &Cx, host: &Host, what: &str) -> Value {
    let generation = host.servers;
    match what {
        "inventories" => {
            json!({"resource_provider_generation": generation, "inventories": inventories(cx)})
        }
        "usages" => json!({
            "resource_provider_generation": generation,
            "usages": {"VCPU": host.vcpus_used, "MEMORY_MB": host.memory_used_mb, "DISK_GB": 0},
        }),
        _ => json!({"resource_provider_generation": generation, "traits": traits(host)}),
    }
}

fn traits(host: &Host) -> Vec<&'static str> {
    let mut traits = vec!["COMPUTE_NODE", "HW_CPU_X86_VMX"];
    if host.disabled {
        traits.push("COMPUTE_STATUS_DISABLED");
    }
    traits
}

fn inventories(cx: &Cx) -> Value {
    let settings = &cx.cloud.settings;
    let entry = |total: u32, ratio: f64| {
        json!({"total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1,
            "allocation_ratio": ratio})
    };
    json!({
        "VCPU": entry(settings.host_vcpus, settings.cpu_allocation_ratio),
        "MEMORY_MB": entry(settings.host_memory_mb, 1.0),
        "DISK_GB": entry(100_000, 1.0),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Placement cuts to whole units; sizes of hosts are small and positive"
)]
fn candidates(cx: &Cx) -> Result<Value, Refusal> {
    let text = cx.asked.query.get("resources").unwrap_or_default();
    let mut wanted: Map<String, Value> = Map::new();
    let (mut vcpus, mut memory) = (0_u32, 0_u32);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let amount = part.split_once(':').and_then(|(class, n)| Some((class, n.parse().ok()?)));
        let Some((class, amount)) = amount else {
            return Err(Refusal::new(400, format!("Badly formed resources parameter: {part}")));
        };
        match class {
            "VCPU" => vcpus = amount,
            "MEMORY_MB" => memory = amount,
            "DISK_GB" => {}
            other => return Err(Refusal::new(400, format!("Invalid resource class: {other}"))),
        }
        wanted.insert(class.to_owned(), json!(amount));
    }
    let settings = &cx.cloud.settings;
    let most = (f64::from(settings.host_vcpus) * settings.cpu_allocation_ratio) as u32;
    let required = cx.asked.query.get("required").unwrap_or_default();
    let is_forbidden = |name: &str| required.split(',').any(|one| one == name);
    let fits = |host: &&Host| {
        let is_out = host.disabled && is_forbidden("!COMPUTE_STATUS_DISABLED");
        !(is_out || cx.cloud.faults.full)
            && vcpus <= settings.host_vcpus
            && host.vcpus_used + vcpus <= most
            && host.memory_used_mb + memory <= settings.host_memory_mb
    };
    let limit = cx.limit(usize::MAX)?;
    let hosts: Vec<&Host> = cx.cloud.compute.hosts.iter().filter(fits).take(limit).collect();
    let requests: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let id = host.id.to_string();
            let mappings = json!({"": [id]});
            json!({"allocations": {id: {"resources": wanted}}, "mappings": mappings})
        })
        .collect();
    let mut summaries = Map::new();
    for host in &hosts {
        let used = |capacity: u32, used: u32| json!({"capacity": capacity, "used": used});
        summaries.insert(
            host.id.to_string(),
            json!({
                "resources": {
                    "VCPU": used(most, host.vcpus_used),
                    "MEMORY_MB": used(settings.host_memory_mb, host.memory_used_mb),
                    "DISK_GB": used(100_000, 0),
                },
                "traits": traits(host), "parent_provider_uuid": null,
                "root_provider_uuid": host.id,
            }),
        );
    }
    Ok(json!({"allocation_requests": requests, "provider_summaries": summaries}))
}
