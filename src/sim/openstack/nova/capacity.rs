//! Flavors, quotas, zones and hypervisors.

use serde_json::{Value, json};

use super::super::ask::Cx;
use super::super::reply::{Refusal, Reply};
use super::only_admin;
use crate::sim::cloud::{Flavor, Host, Usage, User};

/// What a project uses now.
pub(super) fn usage(cx: &Cx, project: &str) -> Usage {
    cx.cloud.compute.usage.get(project).copied().unwrap_or_default()
}

pub(super) fn flavors(cx: &Cx, rest: &[&str]) -> Result<Reply, Refusal> {
    let all = &cx.cloud.compute.flavors;
    match rest {
        [] => {
            let rows: Vec<Value> = all
                .iter()
                .map(|flavor| json!({"id": flavor.id, "name": flavor.name, "links": []}))
                .collect();
            Ok(Reply::ok(json!({"flavors": rows})))
        }
        ["detail"] => {
            let limit = cx.limit(usize::try_from(cx.cloud.settings.max_limit).unwrap_or(1000))?;
            let marker = cx.asked.query.get("marker");
            let start = marker
                .and_then(|id| all.iter().position(|flavor| flavor.id == id))
                .map_or(0, |place| place + 1);
            let page: Vec<&Flavor> = all.iter().skip(start).take(limit).collect();
            let rows: Vec<Value> = page.iter().map(|row| flavor(cx, row)).collect();
            let mut body = json!({"flavors": rows});
            if let Some(last) = page.last().filter(|_| page.len() == limit) {
                let query = cx.asked.query.with_marker(&last.id);
                let href = format!("{}{}?{query}", cx.asked.base, cx.asked.path);
                body["flavors_links"] = json!([{"rel": "next", "href": href}]);
            }
            Ok(Reply::ok(body))
        }
        [id] => {
            let found = cx.cloud.flavor(id);
            let found = found
                .ok_or_else(|| Refusal::new(404, format!("Flavor {id} could not be found.")))?;
            Ok(Reply::ok(json!({"flavor": flavor(cx, found)})))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn flavor(cx: &Cx, flavor: &Flavor) -> Value {
    let mut body = json!({
        "id": flavor.id, "name": flavor.name, "vcpus": flavor.vcpus, "ram": flavor.memory_mb,
        "disk": flavor.disk_gb, "OS-FLV-EXT-DATA:ephemeral": 0, "rxtx_factor": 1.0,
        "OS-FLV-DISABLED:disabled": false, "os-flavor-access:is_public": true,
        "swap": if cx.minor >= 75 { json!(0) } else { json!("") },
        "links": [{"rel": "self",
            "href": format!("{}/compute/v2.1/flavors/{}", cx.asked.base, flavor.id)}],
    });
    if cx.minor >= 55 {
        body["description"] = json!(null);
    }
    if cx.minor >= 61 {
        body["extra_specs"] = json!({});
    }
    body
}

pub(super) fn limits(cx: &Cx, user: &User) -> Reply {
    let quota = &cx.cloud.settings.quota;
    let used = usage(cx, &user.project_id);
    let groups = cx.cloud.compute.groups.iter().filter(|row| row.project_id == user.project_id);
    let mut absolute = json!({
        "maxServerMeta": 128, "maxTotalInstances": quota.instances, "maxTotalCores": quota.cores,
        "maxTotalRAMSize": quota.ram, "maxTotalKeypairs": 100,
        "maxServerGroups": quota.server_groups,
        "maxServerGroupMembers": quota.server_group_members,
        "totalInstancesUsed": used.instances, "totalCoresUsed": used.cores,
        "totalRAMUsed": used.ram, "totalServerGroupsUsed": groups.count(),
    });
    if cx.minor < 39 {
        absolute["maxImageMeta"] = json!(128);
    }
    Reply::ok(json!({"limits": {"rate": [], "absolute": absolute}}))
}

pub(super) fn quota(cx: &Cx, user: &User, project: &str, rest: &[&str]) -> Result<Reply, Refusal> {
    if project != user.project_id {
        only_admin(user, "os_compute_api:os-quota-sets:show")?;
    }
    let quota = &cx.cloud.settings.quota;
    let used = usage(cx, project);
    let groups = cx.cloud.compute.groups.iter().filter(|row| row.project_id == project).count();
    let rows: [(&str, u32, Value); 7] = [
        ("instances", quota.instances, json!(used.instances)),
        ("cores", quota.cores, json!(used.cores)),
        ("ram", quota.ram, json!(used.ram)),
        ("server_groups", quota.server_groups, json!(groups)),
        ("server_group_members", quota.server_group_members, json!(0)),
        ("key_pairs", 100, json!(0)),
        ("metadata_items", 128, json!(0)),
    ];
    let mut set = json!({"id": project});
    for (name, limit, in_use) in rows {
        set[name] = match rest {
            [] => json!(limit),
            ["detail"] => json!({"in_use": in_use, "limit": limit, "reserved": 0}),
            _ => return Err(Refusal::no_such_path()),
        };
    }
    Ok(Reply::ok(json!({"quota_set": set})))
}

pub(super) fn zones(cx: &Cx) -> Reply {
    Reply::ok(json!({"availabilityZoneInfo": [{
        "zoneName": cx.cloud.settings.zone, "zoneState": {"available": true}, "hosts": null,
    }]}))
}

pub(super) fn hypervisors(cx: &Cx, user: &User) -> Result<Reply, Refusal> {
    only_admin(user, "os_compute_api:os-hypervisors:list-detail")?;
    let with_servers = cx.asked.query.get("with_servers").is_some_and(|value| value != "false");
    let rows = cx.cloud.compute.hosts.iter().enumerate().map(|(index, host)| {
        let mut row = hypervisor(cx, host, index + 1);
        if with_servers && cx.minor >= 53 {
            let on = cx.cloud.compute.servers.iter();
            let on = on.filter(|server| server.host.as_ref() == Some(&host.name));
            row["servers"] = on.map(|row| json!({"uuid": row.id, "name": row.name})).collect();
        }
        row
    });
    let rows: Vec<Value> = rows.collect();
    Ok(Reply::ok(json!({"hypervisors": rows})))
}

fn hypervisor(cx: &Cx, host: &Host, number: usize) -> Value {
    let settings = &cx.cloud.settings;
    let id = if cx.minor >= 53 { json!(host.id) } else { json!(number) };
    let mut body = json!({
        "id": id, "hypervisor_hostname": host.name, "hypervisor_type": "fake",
        "hypervisor_version": 1000, "host_ip": "127.0.0.1",
        "state": if host.down { "down" } else { "up" },
        "status": if host.disabled { "disabled" } else { "enabled" },
        "service": {"id": id, "host": host.name, "disabled_reason": null},
    });
    if cx.minor < 88 {
        let free = i64::from(settings.host_memory_mb) - i64::from(host.memory_used_mb);
        let old = json!({
            "vcpus": settings.host_vcpus, "vcpus_used": host.vcpus_used,
            "memory_mb": settings.host_memory_mb, "memory_mb_used": host.memory_used_mb,
            "free_ram_mb": free, "local_gb": 100_000, "local_gb_used": 0, "free_disk_gb": 100_000,
            "disk_available_least": 100_000, "running_vms": host.servers, "current_workload": 0,
            "cpu_info": {},
        });
        if let (Some(body), Value::Object(old)) = (body.as_object_mut(), old) {
            body.extend(old);
        }
    } else {
        body["uptime"] = json!(null);
    }
    body
}

pub(super) fn services(cx: &Cx, user: &User) -> Result<Reply, Refusal> {
    only_admin(user, "os_compute_api:os-services:list")?;
    let wanted = cx.asked.query.get("binary").unwrap_or("nova-compute");
    let host_wanted = cx.asked.query.get("host");
    let hosts = cx.cloud.compute.hosts.iter().enumerate();
    let hosts = hosts.filter(|(_, host)| {
        wanted == "nova-compute" && host_wanted.is_none_or(|name| name == host.name)
    });
    let rows: Vec<Value> = hosts
        .map(|(index, host)| {
            let mut row = json!({
                "id": if cx.minor >= 53 { json!(host.id) } else { json!(index + 1) },
                "binary": "nova-compute", "host": host.name, "zone": cx.cloud.settings.zone,
                "status": if host.disabled { "disabled" } else { "enabled" },
                "state": if host.down { "down" } else { "up" },
                "updated_at": cx.now.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string(),
                "disabled_reason": null,
            });
            if cx.minor >= 11 {
                row["forced_down"] = json!(false);
            }
            row
        })
        .collect();
    Ok(Reply::ok(json!({"services": rows})))
}
