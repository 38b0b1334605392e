//! Lists as Neutron gives them: filters by any field, chosen fields, pages with links.

use serde_json::{Map, Value, json};

use super::super::ask::Cx;
use super::super::reply::{Refusal, Reply};

/// Options of a list that are no filters.
const NOT_FILTERS: [&str; 7] =
    ["fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir", "fixed_ips"];

/// Answers a list or one row of a resource, given all rows that the caller may see.
pub(super) fn answer(
    cx: &Cx,
    (one, many): (&str, &str),
    rest: &[&str],
    rows: Vec<Value>,
) -> Result<Reply, Refusal> {
    match rest {
        [] => list(cx, many, rows),
        [id] => rows
            .into_iter()
            .find(|row| row["id"] == json!(id))
            .map(|row| Reply::ok(json!({one: with_fields(cx, row)})))
            .ok_or_else(|| not_found(one, id)),
        _ => Err(Refusal::no_such_path()),
    }
}

/// Neutron's 404 for a kind of resource.
pub(super) fn not_found(one: &str, id: &str) -> Refusal {
    let (kind, name) = match one {
        "network" => ("NetworkNotFound", "Network"),
        "subnet" => ("SubnetNotFound", "Subnet"),
        "security_group" => {
            let message = format!("Security group {id} does not exist");
            return Refusal::typed(404, "SecurityGroupNotFound", message);
        }
        _ => ("PortNotFound", "Port"),
    };
    Refusal::typed(404, kind, format!("{name} {id} could not be found."))
}

/// One page of the rows that the request's filters leave. Rows come in the order of pages.
pub(super) fn list(cx: &Cx, many: &str, rows: Vec<Value>) -> Result<Reply, Refusal> {
    let query = &cx.asked.query;
    let mut rows: Vec<Value> = rows.into_iter().filter(|row| fits(cx, row)).collect();
    if let Some(marker) = query.get("marker") {
        let place = rows.iter().position(|row| row["id"] == json!(marker));
        let place = place.ok_or_else(|| {
            Refusal::typed(400, "BadRequest", format!("Bad {many} request: marker not found."))
        })?;
        rows.drain(..=place);
    }
    let limit = match query.get("limit") {
        Some(text) => text.parse::<usize>().map_err(|_| {
            Refusal::typed(400, "BadRequest", "Bad limit: invalid literal for int()")
        })?,
        None => 0,
    };
    let mut body = json!({});
    if limit > 0 {
        rows.truncate(limit);
        body[format!("{many}_links")] = links(cx, &rows, limit);
    }
    body[many] = rows.into_iter().map(|row| with_fields(cx, row)).collect();
    Ok(Reply::ok(body))
}

fn links(cx: &Cx, rows: &[Value], limit: usize) -> Value {
    let query = &cx.asked.query;
    let at = format!("{}{}", cx.asked.base, cx.asked.path);
    let id = |row: Option<&Value>| row.and_then(|row| row["id"].as_str()).map(str::to_owned);
    let mut links = Vec::new();
    if let Some(last) = id(rows.last()).filter(|_| rows.len() == limit) {
        links.push(json!({"rel": "next", "href": format!("{at}?{}", query.with_marker(&last))}));
    }
    if let Some(first) = id(rows.first()).filter(|_| query.get("marker").is_some()) {
        let back = query.with_marker(&first);
        links.push(json!({"rel": "previous", "href": format!("{at}?{back}&page_reverse=True")}));
    }
    Value::Array(links)
}

fn fits(cx: &Cx, row: &Value) -> bool {
    let query = &cx.asked.query;
    let mut names: Vec<&str> = query.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let mut names = names.into_iter().filter(|name| !NOT_FILTERS.contains(name));
    names.all(|name| {
        let wanted = query.all(name);
        match name {
            "tags" => tags(row, &wanted).all(|has| has),
            "tags-any" => tags(row, &wanted).any(|has| has),
            "not-tags" => !tags(row, &wanted).all(|has| has),
            "not-tags-any" => !tags(row, &wanted).any(|has| has),
            field => match row.get(field) {
                Some(Value::String(is)) => wanted.contains(&is.as_str()),
                Some(Value::Bool(is)) => {
                    wanted.iter().any(|text| text.eq_ignore_ascii_case(&is.to_string()))
                }
                Some(Value::Number(is)) => wanted.contains(&is.to_string().as_str()),
                // Fields that a row does not have are no filters.
                _ => true,
            },
        }
    })
}

fn tags<'a>(row: &'a Value, wanted: &'a [&'a str]) -> impl Iterator<Item = bool> + 'a {
    let has = row["tags"].as_array();
    wanted
        .iter()
        .flat_map(|text| text.split(','))
        .map(move |tag| has.is_some_and(|has| has.iter().any(|value| value.as_str() == Some(tag))))
}

/// Leaves only the fields that were asked for.
pub(super) fn with_fields(cx: &Cx, row: Value) -> Value {
    let wanted = cx.asked.query.all("fields");
    match row {
        Value::Object(fields) if !wanted.is_empty() => {
            let kept = fields.into_iter().filter(|(name, _)| wanted.contains(&name.as_str()));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        whole => whole,
    }
}
