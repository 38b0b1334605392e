//! Pages of lists, read row by row: an account with tens of thousands of servers has pages of
//! megabytes, and most of what is in them nobody wants.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use url::form_urlencoded;

use super::client::Query;

/// What a page tells beside its rows.
#[derive(Debug, Default)]
pub(super) struct PageEnd {
    /// How many rows it had; `None` if it had no list.
    pub(super) rows: Option<usize>,
    links: Option<Value>,
    next: Option<Value>,
}

/// Reads a page whose rows stand under `key`, and hands over each row. The error names the place
/// that does not fit; rows before it were handed over.
pub(super) fn read<T: DeserializeOwned>(
    body: &[u8],
    key: &str,
    take: &mut dyn FnMut(T),
) -> Result<PageEnd, String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let plain = Page { key, take }.deserialize(&mut json).and_then(|end| json.end().map(|()| end));
    plain.map_err(|_| fault::<T>(body, key))
}

/// Where and why a page does not fit: read again, since keeping track of the place takes longer than
/// reading.
fn fault<T: DeserializeOwned>(body: &[u8], key: &str) -> String {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let error = Page { key, take: &mut |_: T| {} }.deserialize(tracked).err();
    let error = error.map_or_else(|| "trailing characters".to_owned(), |error| error.to_string());
    format!("the answer cannot be read at '{}': {error}", track.path())
}

impl PageEnd {
    /// The query of the next page. Only the query: host and path of the link may be those of a
    /// machine behind a proxy, and the token must not go there.
    pub(super) fn next_query(&self) -> Option<Query> {
        let links = self.links.as_ref().and_then(Value::as_array);
        let href = match links {
            Some(links) => links.iter().find(|link| link["rel"] == "next")?["href"].as_str()?,
            None => self.next.as_ref()?.as_str()?,
        };
        let (_, query) = href.split_once('?')?;
        Some(
            form_urlencoded::parse(query.as_bytes())
                .map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned()))
                .collect(),
        )
    }

    /// For services that page but give no link: a full page is followed from its last row.
    pub(super) fn next_by_marker(
        &self,
        filters: &[(Cow<'static, str>, String)],
        (body, key): (&[u8], &str),
    ) -> Option<Query> {
        #[derive(Deserialize)]
        struct Named {
            id: Option<String>,
        }
        let limit: usize = filters.iter().find(|(name, _)| *name == "limit")?.1.parse().ok()?;
        if self.rows? < limit.max(1) {
            return None;
        }
        let mut last = None;
        read(body, key, &mut |row: Named| last = row.id).ok()?;
        let mut next = filters.to_vec();
        next.push((Cow::Borrowed("marker"), last?));
        Some(next)
    }
}

struct Page<'a, T> {
    key: &'a str,
    take: &'a mut dyn FnMut(T),
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Page<'_, T> {
    type Value = PageEnd;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<PageEnd, D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Page<'_, T> {
    type Value = PageEnd;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list '{}'", self.key)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<PageEnd, M::Error> {
        let links = format!("{}_links", self.key);
        let mut end = PageEnd::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == self.key {
                end.rows = map.next_value_seed(Rows { take: &mut *self.take })?;
            } else if name == links {
                end.links = map.next_value()?;
            } else if name == "next" {
                end.next = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(end)
    }
}

struct Rows<'a, T> {
    take: &'a mut dyn FnMut(T),
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Rows<'_, T> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Rows<'_, T> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut rows: S) -> Result<Self::Value, S::Error> {
        let mut count = 0;
        while let Some(row) = rows.next_element::<T>()? {
            (self.take)(row);
            count += 1;
        }
        Ok(Some(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Row {
        id: String,
    }

    fn ids(body: &str) -> Result<(Vec<String>, PageEnd), String> {
        let mut ids = Vec::new();
        let end = read(body.as_bytes(), "rows", &mut |row: Row| ids.push(row.id))?;
        Ok((ids, end))
    }

    #[test]
    fn rows_come_one_by_one_and_links_are_kept() {
        let body = r#"{"other": [1], "rows": [{"id": "a"}, {"id": "b"}],
            "rows_links": [{"rel": "next", "href": "http://x/rows?marker=b"}]}"#;
        let (found, end) = ids(body).unwrap();
        assert_eq!(found, ["a", "b"]);
        assert_eq!(end.next_query().unwrap()[0].1, "b");
        let (none, end) = ids(r#"{"rows": null}"#).unwrap();
        assert!(none.is_empty() && end.rows.is_none());
    }

    #[test]
    fn a_full_page_without_links_is_followed_from_its_last_row() {
        let body = r#"{"rows": [{"id": "a"}, {"id": "b"}]}"#;
        let (_, end) = ids(body).unwrap();
        let limit = |n: &str| vec![(Cow::Borrowed("limit"), n.to_owned())];
        let next = end.next_by_marker(&limit("2"), (body.as_bytes(), "rows")).unwrap();
        assert_eq!(next[1], (Cow::Borrowed("marker"), "b".to_owned()));
        assert!(end.next_by_marker(&limit("3"), (body.as_bytes(), "rows")).is_none());
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_place() {
        let error = ids(r#"{"rows": [{"id": "a"}, {"id": 7}]}"#).map(|_| ()).unwrap_err();
        assert!(error.contains("rows[1].id"), "{error}");
    }
}
