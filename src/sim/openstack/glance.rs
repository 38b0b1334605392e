//! Glance: images, read only.

use http::Method;
use serde_json::{Value, json};

use super::ask::{Cx, id_of};
use super::reply::{Refusal, Reply};
use crate::sim::cloud::Image;

/// Images in a page when nothing is asked for, and at most.
const PAGE: (usize, usize) = (25, 1000);

pub(super) fn operation(method: &Method, path: &[&str]) -> &'static str {
    match (method.as_str(), path) {
        ("GET", ["v2", "images"]) => "list_images",
        ("GET", ["v2", "images", _]) => "get_image",
        ("GET", [] | ["v2"]) => "versions",
        _ => "other",
    }
}

pub(super) fn answer(cx: &mut Cx) -> Result<Reply, Refusal> {
    match (cx.asked.method.as_str(), &cx.path[..]) {
        ("GET", [] | ["versions"]) => Ok(versions(cx)),
        ("GET", ["v2", "images"]) => list(cx),
        ("GET", ["v2", "images", id]) => {
            cx.user()?;
            let image = id_of(id).and_then(|id| cx.cloud.images.iter().find(|row| row.id == id));
            let image =
                image.ok_or_else(|| Refusal::new(404, format!("No image found with ID {id}")))?;
            Ok(Reply::ok(view(cx, image)))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn versions(cx: &Cx) -> Reply {
    let max = cx.cloud.settings.generation.glance_max();
    let entry = |minor: u32| {
        let status = if minor == max { "CURRENT" } else { "SUPPORTED" };
        json!({"id": format!("v2.{minor}"), "status": status,
            "links": [{"rel": "self", "href": format!("{}/image/v2/", cx.asked.base)}]})
    };
    let rows: Vec<Value> = (0..=max).rev().map(entry).collect();
    Reply::json(300, json!({"versions": rows}))
}

fn list(cx: &Cx) -> Result<Reply, Refusal> {
    cx.user()?;
    let query = &cx.asked.query;
    let limit = if query.get("limit").is_some() { cx.limit(PAGE.1)? } else { PAGE.0 };
    let fits = |image: &&Image| {
        let mut options = query.iter();
        options.all(|(name, value)| match name {
            "name" => image.name == value,
            "id" => image.id.to_string() == value,
            "status" => image.status == value,
            "limit" | "marker" | "sort" | "sort_key" | "sort_dir" | "visibility" | "owner"
            | "member_status" | "os_hidden" | "tag" => true,
            property => image.properties.get(property).is_some_and(|has| has == value),
        })
    };
    // Newest first, which is Glance's order.
    let rows: Vec<&Image> = cx.cloud.images.iter().rev().filter(fits).collect();
    let start = match query.get("marker") {
        None => 0,
        Some(marker) => rows
            .iter()
            .position(|image| image.id.to_string() == marker)
            .map(|place| place + 1)
            .ok_or_else(|| Refusal::new(400, format!("Marker {marker} could not be found")))?,
    };
    let page: Vec<Value> = rows.iter().skip(start).take(limit).map(|row| view(cx, row)).collect();
    let mut body = json!({"first": "/v2/images", "schema": "/v2/schemas/images"});
    if let Some(last) = page.last().filter(|_| page.len() == limit) {
        let marker = last["id"].as_str().unwrap_or_default();
        body["next"] = json!(format!("/v2/images?{}", query.with_marker(marker)));
    }
    body["images"] = Value::Array(page);
    Ok(Reply::ok(body))
}

fn view(cx: &Cx, image: &Image) -> Value {
    let created = Cx::clock_text(image.created);
    let owner = cx.cloud.identity.users.first().map(|user| user.project_id.clone());
    let mut body = json!({
        "id": image.id, "name": image.name, "status": image.status, "visibility": "public",
        "protected": false, "os_hidden": false, "owner": owner, "tags": [],
        "container_format": "bare", "disk_format": "raw", "min_disk": 0, "min_ram": 0,
        "size": 65536, "virtual_size": 65536, "checksum": "fcd6bcb56c1689fcef28b57c22475bad",
        "os_hash_algo": "sha512", "os_hash_value": "", "created_at": created,
        "updated_at": created, "self": format!("/v2/images/{}", image.id),
        "file": format!("/v2/images/{}/file", image.id), "schema": "/v2/schemas/image",
    });
    for (name, value) in &image.properties {
        body[name] = json!(value);
    }
    body
}
