//! `GET /servers` and `/servers/detail`: filters and pages.

use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::super::ask::{Cx, id_of};
use super::super::reply::{Refusal, Reply};
use super::view;
use crate::sim::cloud::{Server, User};

/// How much of each server is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Names,
    All,
}

/// Options that Nova's schema knows; others are an error from 2.75 on.
const KNOWN: [&str; 35] = [
    "access_ip_v4",
    "access_ip_v6",
    "all_tenants",
    "auto_disk_config",
    "availability_zone",
    "changes-before",
    "changes-since",
    "config_drive",
    "created_at",
    "deleted",
    "description",
    "flavor",
    "host",
    "hostname",
    "image",
    "ip",
    "ip6",
    "key_name",
    "limit",
    "locked",
    "marker",
    "name",
    "node",
    "not-tags",
    "not-tags-any",
    "project_id",
    "reservation_id",
    "sort_dir",
    "sort_key",
    "status",
    "tags",
    "tags-any",
    "tenant_id",
    "user_id",
    "uuid",
];

/// What a server must be like to be listed.
struct Filter {
    project: Option<String>,
    name: Option<Regex>,
    statuses: Vec<String>,
    tags: Vec<(TagRule, Vec<String>)>,
    host: Option<String>,
    flavor: Option<String>,
    image: Option<String>,
    uuid: Option<String>,
    since: Option<Timestamp>,
}

#[derive(Clone, Copy)]
enum TagRule {
    All,
    Any,
    NotAll,
    NotAny,
}

pub(super) fn list(cx: &mut Cx, user: &User, detail: Detail) -> Result<Reply, Refusal> {
    let filter = Filter::read(cx, user)?;
    let most = usize::try_from(cx.cloud.settings.max_limit).unwrap_or(usize::MAX);
    let limit = cx.limit(most)?;
    let servers = page(cx, &filter, limit)?;
    let show = |server: &&Server| match detail {
        Detail::Names => view::name_only(cx, server),
        Detail::All => view::listed(cx, user, server),
    };
    let rows: Vec<Value> = servers.iter().map(show).collect();
    let mut body = json!({});
    if let Some(last) = servers.last().filter(|_| servers.len() == limit) {
        let query = cx.asked.query.with_marker(&last.id.to_string());
        let href = format!("{}{}?{query}", cx.asked.base, cx.asked.path);
        body["servers_links"] = json!([{"rel": "next", "href": href}]);
    }
    body["servers"] = Value::Array(rows);
    Ok(Reply::ok(body))
}

fn page<'a>(cx: &'a Cx, filter: &Filter, limit: usize) -> Result<Vec<&'a Server>, Refusal> {
    let query = &cx.asked.query;
    let compute = &cx.cloud.compute;
    let marker = query.get("marker").filter(|text| !text.is_empty());
    let missing = |text: &str| Refusal::new(400, format!("marker [{text}] not found"));
    let plain = query.get("sort_key").is_none_or(|key| key == "created_at")
        && query.get("sort_dir").is_none_or(|dir| dir == "desc")
        && filter.since.is_none();
    if plain {
        let after = marker.map(|text| id_of(text).ok_or_else(|| missing(text))).transpose()?;
        let rows = compute.servers.older_than(after);
        let rows = rows.ok_or_else(|| missing(marker.unwrap_or_default()))?;
        return Ok(rows.filter(|server| filter.fits(server)).take(limit).collect());
    }
    let mut rows: Vec<&Server> = compute.servers.iter().rev().collect();
    if filter.since.is_some() {
        rows.extend(compute.deleted.iter().rev());
    }
    rows.retain(|server| filter.fits(server));
    match query.get("sort_key").unwrap_or("created_at") {
        "uuid" => rows.sort_by_key(|server| server.id),
        "display_name" => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        "created_at" => rows.reverse(),
        other => {
            return Err(Refusal::new(
                400,
                format!("Invalid input for field/attribute sort_key. Value: {other}."),
            ));
        }
    }
    if query.get("sort_dir").is_none_or(|dir| dir == "desc") {
        rows.reverse();
    }
    let Some(text) = marker else { return Ok(rows.into_iter().take(limit).collect()) };
    let place = rows.iter().position(|server| server.id.to_string() == text);
    let place = place.ok_or_else(|| missing(text))?;
    Ok(rows.into_iter().skip(place + 1).take(limit).collect())
}

impl Filter {
    fn read(cx: &Cx, user: &User) -> Result<Self, Refusal> {
        let query = &cx.asked.query;
        if let Some((name, _)) = query.iter().find(|(name, _)| !KNOWN.contains(name))
            && cx.minor >= 75
        {
            return Err(Refusal::new(
                400,
                format!("Additional properties are not allowed ('{name}' was unexpected)"),
            ));
        }
        let all = query.get("all_tenants").is_some_and(|value| value != "0" && value != "false");
        if all && !user.is_admin {
            super::only_admin(user, "os_compute_api:servers:index:get_all_tenants")?;
        }
        let name = query.get("name").map(Regex::new).transpose();
        let wrong_name = |_| Refusal::new(400, "Invalid filter: name is not a regular expression");
        let since = query.get("changes-since").map(str::parse::<Timestamp>).transpose();
        let wrong_time = |_| Refusal::new(400, "Invalid changes-since value");
        let text = |name: &str| query.get(name).map(str::to_owned);
        Ok(Self {
            project: (!all).then(|| user.project_id.clone()),
            name: name.map_err(wrong_name)?,
            statuses: query.all("status").into_iter().map(str::to_uppercase).collect(),
            tags: tags(cx),
            // An ordinary user's wish for one host is ignored without a word.
            host: text("host").filter(|_| user.is_admin),
            flavor: text("flavor"),
            image: text("image"),
            uuid: text("uuid").filter(|_| user.is_admin),
            since: since.map_err(wrong_time)?,
        })
    }

    fn fits(&self, server: &Server) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.project, &server.project_id)
            && self.name.as_ref().is_none_or(|name| name.is_match(&server.name))
            && (self.statuses.is_empty()
                || self.statuses.iter().any(|status| status == server.status.text()))
            && same(&self.host, server.host.as_deref().unwrap_or_default())
            && same(&self.flavor, &server.flavor)
            && self.image.as_ref().is_none_or(|image| *image == server.image.to_string())
            && self.uuid.as_ref().is_none_or(|id| *id == server.id.to_string())
            && self.since.is_none_or(|since| server.updated >= since)
            && self.tags.iter().all(|(rule, tags)| rule.fits(tags, &server.tags))
    }
}

fn tags(cx: &Cx) -> Vec<(TagRule, Vec<String>)> {
    if cx.minor < 26 {
        return Vec::new();
    }
    let rules = [
        ("tags", TagRule::All),
        ("tags-any", TagRule::Any),
        ("not-tags", TagRule::NotAll),
        ("not-tags-any", TagRule::NotAny),
    ];
    let asked = |(name, rule): (&str, TagRule)| {
        let text = cx.asked.query.get(name)?;
        Some((rule, text.split(',').map(str::to_owned).collect()))
    };
    rules.into_iter().filter_map(asked).collect()
}

impl TagRule {
    fn fits(self, wanted: &[String], has: &[String]) -> bool {
        let mut wanted = wanted.iter();
        match self {
            Self::All => wanted.all(|tag| has.contains(tag)),
            Self::Any => wanted.any(|tag| has.contains(tag)),
            Self::NotAll => !wanted.all(|tag| has.contains(tag)),
            Self::NotAny => !wanted.any(|tag| has.contains(tag)),
        }
    }
}
