//! Keyset pagination: an opaque, versioned cursor, and one row more than asked for to know
//! whether there is a next page.
//!
//! The cursor carries the order, a digest of the filters and the key of the last row. A cursor
//! of another list or other filters is refused instead of giving a page of nonsense.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Rows of a page when the caller does not say.
pub const DEFAULT_LIMIT: u32 = 100;
/// Most rows of a page: what a client can print and we can serialize in milliseconds.
pub const MAX_LIMIT: u32 = 500;
/// Raised when the meaning of a cursor changes; old ones are then refused.
const VERSION: u8 = 1;

/// Why a cursor is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not text that we made.
    #[error("not a cursor of this service")]
    Malformed,
    /// Made by another version of the service.
    #[error("a cursor of another version; start from the first page")]
    Version,
    /// Made for another list, or with other filters.
    #[error("a cursor of another list or of other filters")]
    OtherList,
}

/// What part of a list the caller wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl PageRequest {
    /// The first page, of the default size.
    pub fn first() -> Self {
        Self::default()
    }

    /// A page of `limit` rows (held between 1 and [`MAX_LIMIT`]) after `cursor`.
    pub fn new(limit: Option<u32>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    /// How many rows the caller gets at most.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// Binds the request to one list: `order` names the list and how it is sorted, `filter` is
    /// everything that decides which rows are in it.
    #[expect(clippy::missing_panics_doc, reason = "plain data always serializes")]
    pub fn keyset(&self, order: &'static str, filter: &impl Serialize) -> Keyset<'_> {
        let text = serde_json::to_vec(filter).expect("filters are plain data");
        let digest = hex::encode(&Sha256::digest(&text)[..8]);
        Keyset { request: self, order, filter: digest }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows, in order.
    pub items: Vec<T>,
    /// Cursor of the page after this one; none on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same page with each row turned into something else.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next: self.next }
    }
}

/// A page request bound to one list.
#[derive(Debug)]
pub struct Keyset<'a> {
    request: &'a PageRequest,
    order: &'static str,
    filter: String,
}

#[derive(Serialize, Deserialize)]
struct Cursor<K> {
    v: u8,
    o: String,
    f: String,
    k: K,
}

impl Keyset<'_> {
    /// The key after which the page starts; none for the first page.
    pub fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, CursorError> {
        let Some(text) = &self.request.cursor else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let raw: Cursor<serde_json::Value> =
            serde_json::from_slice(&bytes).map_err(|_| CursorError::Malformed)?;
        if raw.v != VERSION {
            return Err(CursorError::Version);
        }
        if raw.o != self.order || raw.f != self.filter {
            return Err(CursorError::OtherList);
        }
        serde_json::from_value(raw.k).map(Some).map_err(|_| CursorError::Malformed)
    }

    /// How many rows to read: one more than the page has, to know whether there is a next one.
    pub fn fetch(&self) -> i64 {
        i64::from(self.request.limit()) + 1
    }

    /// Makes the page of the rows that were read; `key` gives what the list is sorted by.
    pub fn page<T, K: Serialize>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> K) -> Page<T> {
        let limit = self.request.limit() as usize;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|last| self.cursor(key(last)));
        Page { items: rows, next }
    }

    fn cursor<K: Serialize>(&self, key: K) -> String {
        let cursor =
            Cursor { v: VERSION, o: self.order.to_owned(), f: self.filter.clone(), k: key };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).expect("keys are plain data"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(limit: u32, cursor: Option<String>) -> PageRequest {
        PageRequest::new(Some(limit), cursor)
    }

    #[test]
    fn a_cursor_leads_to_the_next_page_and_ends() {
        let first = request(2, None);
        let page = first.keyset("n", &"f").page(vec![1, 2, 3], |n| *n);
        assert_eq!(page.items, [1, 2]);
        let second = request(2, page.next);
        let keyset = second.keyset("n", &"f");
        assert_eq!(keyset.after::<i32>(), Ok(Some(2)));
        assert_eq!(keyset.page(vec![3], |n| *n), Page { items: vec![3], next: None });
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        let cursor = request(1, None).keyset("n", &"f").page(vec![1, 2], |n| *n).next;
        let again = request(1, cursor);
        assert_eq!(again.keyset("m", &"f").after::<i32>(), Err(CursorError::OtherList));
        assert_eq!(again.keyset("n", &"g").after::<i32>(), Err(CursorError::OtherList));
        assert_eq!(again.keyset("n", &"f").after::<String>(), Err(CursorError::Malformed));
        let junk = request(1, Some("%%%".into()));
        assert_eq!(junk.keyset("n", &"f").after::<i32>(), Err(CursorError::Malformed));
    }

    #[test]
    fn the_limit_stays_in_bounds() {
        assert_eq!(request(0, None).limit(), 1);
        assert_eq!(request(9999, None).limit(), MAX_LIMIT);
        assert_eq!(PageRequest::first().limit(), DEFAULT_LIMIT);
    }
}
