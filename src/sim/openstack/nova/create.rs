//! `POST /servers`: every check that Nova does before it answers 202.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::ask::{Cx, id_of};
use super::super::reply::{Refusal, Reply};
use super::view;
use crate::sim::cloud::{Flavor, Server, ServerStatus, User};
use crate::sim::compute::begin_action;

/// Most characters of user data in base64.
const USER_DATA_LIMIT: usize = 65_535;
/// First minor that takes tags with a create.
const TAGS_AT_CREATE: u32 = 52;
/// First minor that demands `networks`.
const NETWORKS_NEEDED: u32 = 37;

#[derive(Deserialize)]
struct Wanted {
    name: Option<String>,
    #[serde(rename = "flavorRef")]
    flavor: Option<Value>,
    #[serde(rename = "imageRef")]
    image: Option<String>,
    networks: Option<Value>,
    user_data: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    availability_zone: Option<String>,
    key_name: Option<String>,
    #[serde(default)]
    config_drive: Option<Value>,
    min_count: Option<Value>,
    max_count: Option<Value>,
    #[serde(rename = "adminPass")]
    admin_pass: Option<String>,
}

pub(super) fn create(cx: &mut Cx, user: &User) -> Result<Reply, Refusal> {
    let body = cx.json()?;
    let wanted = read(cx, &body)?;
    check_shape(&wanted)?;
    let flavor = flavor(cx, wanted.flavor.as_ref())?;
    let image = image(cx, wanted.image.as_deref())?;
    zone(cx, wanted.availability_zone.as_deref())?;
    let group = group(cx, &body)?;
    check_quota(cx, user, &flavor)?;
    if let Some(group) = group {
        check_group_quota(cx, group)?;
    }
    let ports = ports(cx, user, wanted.networks.as_ref())?;
    let id = cx.cloud.dice.uuid();
    let mut tags = wanted.tags;
    tags.sort();
    tags.dedup();
    let mut server = Server {
        id,
        name: wanted.name.unwrap_or_default(),
        project_id: user.project_id.clone(),
        user_id: user.id.clone(),
        flavor: flavor.id,
        image,
        status: ServerStatus::Build,
        task: Some("scheduling".into()),
        created: cx.now,
        updated: cx.now,
        launched: None,
        terminated: None,
        fault: None,
        host: None,
        zone: wanted.availability_zone,
        metadata: wanted.metadata,
        tags,
        user_data: wanted.user_data,
        ports,
        group,
        key_name: wanted.key_name,
        locked: false,
        config_drive: wanted.config_drive.is_some_and(|value| value == json!(true)),
        console: Vec::new(),
        actions: Vec::new(),
    };
    begin_action(&mut server, "create", &cx.asked.request_id, cx.now);
    let now = cx.now;
    cx.cloud.accept_server(server, now);
    let admin_pass = wanted.admin_pass.unwrap_or_else(|| "sim4Password".into());
    let location = format!("{}/compute/v2.1/servers/{id}", cx.asked.base);
    let answer = json!({"server": {
        "id": id, "links": view::links(cx, id), "OS-DCF:diskConfig": "MANUAL",
        "security_groups": [{"name": "default"}], "adminPass": admin_pass,
    }});
    Ok(Reply::json(202, answer).with_header("location", location))
}

fn invalid(field: &str, value: &str, why: &str) -> Refusal {
    Refusal::new(400, format!("Invalid input for field/attribute {field}. Value: {value}. {why}"))
}

fn read(cx: &Cx, body: &Value) -> Result<Wanted, Refusal> {
    let server =
        body.get("server").ok_or_else(|| Refusal::new(400, "'server' is a required property"))?;
    for name in ["name", "flavorRef"] {
        if server.get(name).is_none() {
            let why = format!("'{name}' is a required property");
            return Err(invalid("server", &server.to_string(), &why));
        }
    }
    if cx.minor < TAGS_AT_CREATE && server.get("tags").is_some() {
        let why = "Additional properties are not allowed ('tags' was unexpected)";
        return Err(invalid("server", "...", why));
    }
    if cx.minor >= NETWORKS_NEEDED && server.get("networks").is_none() {
        return Err(invalid("server", "...", "'networks' is a required property"));
    }
    serde_json::from_value(server.clone())
        .map_err(|error| invalid("server", "...", &error.to_string()))
}

fn check_shape(wanted: &Wanted) -> Result<(), Refusal> {
    let name = wanted.name.as_deref().unwrap_or_default();
    if name.is_empty() || name.len() > 255 || name.trim() != name {
        return Err(invalid("name", name, "is not a valid name"));
    }
    check_tags(&wanted.tags)?;
    check_metadata(&wanted.metadata)?;
    for count in [&wanted.min_count, &wanted.max_count].into_iter().flatten() {
        if *count != json!(1) && *count != json!("1") {
            return Err(Refusal::new(400, "The simulation makes one server at a time."));
        }
    }
    let Some(data) = &wanted.user_data else { return Ok(()) };
    if data.len() > USER_DATA_LIMIT {
        return Err(invalid("user_data", "...", "is too long"));
    }
    match STANDARD.decode(data) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid("user_data", "...", "is not a 'base64'")),
    }
}

/// Nova's rules for tags.
pub(super) fn check_tags(tags: &[String]) -> Result<(), Refusal> {
    if tags.len() > 50 {
        return Err(invalid("tags", "...", "is too long"));
    }
    for tag in tags {
        let good = (1..=60).contains(&tag.chars().count()) && !tag.contains(['/', ',']);
        if !good {
            return Err(invalid("tags", tag, "does not match '^[^,/]*$' or is too long"));
        }
    }
    Ok(())
}

/// Nova's rules for metadata.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if metadata.len() > 128 {
        return Err(Refusal::new(403, "Maximum number of metadata items exceeds 128"));
    }
    let long = metadata.iter().find(|(key, value)| key.len() > 255 || value.len() > 255);
    match long {
        Some((key, value)) => Err(invalid(key, value, "is too long")),
        None => Ok(()),
    }
}

fn flavor(cx: &Cx, wanted: Option<&Value>) -> Result<Flavor, Refusal> {
    let text = match wanted {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    // A link to the flavor is as good as its id.
    let id = text.rsplit('/').next().unwrap_or_default();
    let found = cx.cloud.flavor(id).cloned();
    found.ok_or_else(|| Refusal::new(400, format!("Flavor {id} could not be found.")))
}

fn image(cx: &Cx, wanted: Option<&str>) -> Result<Uuid, Refusal> {
    let missing = || Refusal::new(400, "Can not find requested image");
    let id = wanted.and_then(id_of).ok_or_else(|| Refusal::new(400, "Invalid image identifier"))?;
    let image = cx.cloud.images.iter().find(|image| image.id == id).ok_or_else(missing)?;
    if image.status != "active" {
        return Err(Refusal::new(400, format!("Image {id} is not active.")));
    }
    Ok(id)
}

fn zone(cx: &Cx, wanted: Option<&str>) -> Result<(), Refusal> {
    match wanted {
        Some(zone) if zone != cx.cloud.settings.zone => {
            Err(Refusal::new(400, "The requested availability zone is not available"))
        }
        _ => Ok(()),
    }
}

/// The server group of the scheduler hints, which stand beside `server`.
fn group(cx: &Cx, body: &Value) -> Result<Option<Uuid>, Refusal> {
    let hint = ["os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"]
        .into_iter()
        .find_map(|name| body.get(name)?.get("group"));
    let Some(hint) = hint else { return Ok(None) };
    let text = hint.as_str().unwrap_or_default();
    let found = id_of(text).filter(|id| cx.cloud.group(*id).is_some());
    found
        .map(Some)
        .ok_or_else(|| Refusal::new(400, format!("Instance group {text} could not be found.")))
}

fn check_quota(cx: &Cx, user: &User, flavor: &Flavor) -> Result<(), Refusal> {
    let quota = &cx.cloud.settings.quota;
    let used = super::capacity::usage(cx, &user.project_id);
    let checks = [
        ("instances", 1, used.instances, quota.instances),
        ("cores", flavor.vcpus, used.cores, quota.cores),
        ("ram", flavor.memory_mb, used.ram, quota.ram),
    ];
    for (name, more, used, limit) in checks {
        if used + more > limit {
            return Err(Refusal::new(
                403,
                format!(
                    "Quota exceeded for {name}: Requested {more}, but already used {used} of \
                     {limit} {name}"
                ),
            ));
        }
    }
    Ok(())
}

fn check_group_quota(cx: &Cx, group: Uuid) -> Result<(), Refusal> {
    let members = cx.cloud.group(group).map_or(0, |group| group.members.len());
    let most = cx.cloud.settings.quota.server_group_members;
    if u32::try_from(members).unwrap_or(u32::MAX) < most {
        return Ok(());
    }
    Err(Refusal::new(403, "Quota exceeded, too many servers in group"))
}

/// The server's ports; those that it names must be free, others are made.
fn ports(cx: &mut Cx, user: &User, networks: Option<&Value>) -> Result<Vec<Uuid>, Refusal> {
    let rows = match networks {
        Some(Value::Array(rows)) => rows.clone(),
        Some(Value::String(word)) if word == "none" => return Ok(Vec::new()),
        Some(Value::String(_)) | None => {
            let mut known = cx.cloud.network.networks.iter();
            match (known.next(), known.next()) {
                (Some(only), None) => vec![json!({"uuid": only.id})],
                _ => {
                    return Err(Refusal::new(
                        409,
                        "Multiple possible networks found, use a Network ID to be more specific.",
                    ));
                }
            }
        }
        Some(other) => {
            return Err(invalid("networks", &other.to_string(), "is not of type 'array'"));
        }
    };
    let mut chosen = Vec::new();
    for row in &rows {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let port = match (text("port"), text("uuid")) {
            (Some(port), _) => given_port(cx, user, port)?,
            (None, Some(network)) => made_port(cx, user, network)?,
            (None, None) => return Err(invalid("networks", &row.to_string(), "names nothing")),
        };
        chosen.push(port);
    }
    Ok(chosen)
}

fn given_port(cx: &Cx, user: &User, text: &str) -> Result<Uuid, Refusal> {
    let missing = || Refusal::new(400, format!("Port id {text} could not be found."));
    let port = id_of(text).and_then(|id| cx.cloud.network.ports.get(&id)).ok_or_else(missing)?;
    if port.project_id != user.project_id && !user.is_admin {
        return Err(missing());
    }
    if !port.device_id.is_empty() {
        return Err(Refusal::new(409, format!("Port {text} is still in use.")));
    }
    if port.fixed_ips.is_empty() {
        return Err(Refusal::new(
            400,
            format!("Port {text} requires a FixedIP in order to be used."),
        ));
    }
    Ok(port.id)
}

fn made_port(cx: &mut Cx, user: &User, text: &str) -> Result<Uuid, Refusal> {
    let network = id_of(text)
        .filter(|id| cx.cloud.network.networks.iter().any(|network| network.id == *id))
        .ok_or_else(|| Refusal::new(400, format!("Network {text} could not be found.")))?;
    let ports = cx.cloud.network.ports.len();
    if ports >= usize::try_from(cx.cloud.settings.quota.ports).unwrap_or(usize::MAX) {
        return Err(Refusal::new(403, "Maximum number of ports exceeded"));
    }
    let now = cx.now;
    cx.cloud
        .make_port(network, &user.project_id, now)
        .ok_or_else(|| Refusal::new(400, "No fixed IP addresses available for network."))
}
