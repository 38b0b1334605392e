//! Secrets in the database: sealed with a key that is not in it.
//!
//! AES-256-GCM-SIV, which stays safe should a nonce ever repeat. The place (table, row, column)
//! is authenticated with the value, so a sealed value copied to another row does not open. The
//! key ring has the sealing key first and older keys after it; each value names its key.

use std::fmt;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::clock::Ids;

/// First byte of a sealed value; another layout gets another number.
const LAYOUT: u8 = 1;
const NONCE_LEN: usize = 12;

/// Why a value cannot be sealed or opened. Never says anything about the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text of the key ring is not one.
    #[error("line {line} of the key ring is not `<id>:<32 bytes in base64>`")]
    BadKey {
        /// Which line, from 1.
        line: usize,
    },
    /// The key ring has no key.
    #[error("the key ring is empty")]
    NoKey,
    /// Two keys have the same id.
    #[error("the key ring has two keys named {id}")]
    TwoKeys {
        /// The id.
        id: String,
    },
    /// The value names a key that we were not given.
    #[error(
        "sealed with key {id}, which is not in the key ring: give zcpd the key it was sealed with"
    )]
    UnknownKey {
        /// The id.
        id: String,
    },
    /// The key of that name is another one, or the value was changed or moved.
    #[error(
        "key {id} does not open the value at {place}: it is another key of the same name, or the value was changed"
    )]
    Refused {
        /// The key's id.
        id: String,
        /// Where the value was read.
        place: String,
    },
    /// Not a sealed value at all.
    #[error("the value at {place} is not sealed")]
    Malformed {
        /// Where the value was read.
        place: String,
    },
}

/// A secret as the database has it.
#[derive(Clone, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(***)")
    }
}

/// Where a sealed value belongs. A value opens only at its place.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    table: &'a str,
    row: uuid::Uuid,
    column: &'a str,
}

impl<'a> Place<'a> {
    /// The place of `column` in row `row` of `table`.
    pub fn new(table: &'a str, row: impl Into<uuid::Uuid>, column: &'a str) -> Self {
        Self { table, row: row.into(), column }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.table, self.row, self.column)
    }
}

/// The keys. The first one seals; all of them open.
pub struct KeyRing {
    keys: Vec<(String, Aes256GcmSiv)>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.keys.iter().map(|(id, _)| id.as_str()).collect();
        write!(f, "KeyRing({ids:?}, ***)")
    }
}

impl KeyRing {
    /// Reads a key ring: one `<id>:<32 bytes in base64>` a line (or between commas), the sealing
    /// key first. Empty lines and lines that start with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut keys: Vec<(String, Aes256GcmSiv)> = Vec::new();
        for (index, line) in text.split(['\n', ',']).map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key) = parse_key(line).ok_or(SealError::BadKey { line: index + 1 })?;
            if keys.iter().any(|(other, _)| other == id) {
                return Err(SealError::TwoKeys { id: id.to_owned() });
            }
            keys.push((id.to_owned(), key));
        }
        if keys.is_empty() { Err(SealError::NoKey) } else { Ok(Self { keys }) }
    }

    /// The text of a new key ring with one key, for [`KeyRing::parse`].
    pub fn generate(id: &str, ids: &dyn Ids) -> Zeroizing<String> {
        let key = Zeroizing::new(ids.secret());
        Zeroizing::new(format!("{id}:{}\n", STANDARD.encode(key.as_slice())))
    }

    /// Seals `secret` for its place.
    #[expect(clippy::missing_panics_doc, reason = "only 64 GiB of secret would panic")]
    pub fn seal(&self, place: Place<'_>, secret: &[u8], ids: &dyn Ids) -> Sealed {
        let (id, key) = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&ids.secret()[..NONCE_LEN]);
        let aad = place.to_string();
        let body = key
            .encrypt(&Nonce::from(nonce), Payload { msg: secret, aad: aad.as_bytes() })
            .expect("secrets are far below the cipher's limit");
        let id_len = u8::try_from(id.len()).expect("ids are at most 32 bytes");
        let mut bytes = vec![LAYOUT, id_len];
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&body);
        Sealed(bytes)
    }

    /// Opens a value read at `place`.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let malformed = || SealError::Malformed { place: place.to_string() };
        let parts = split(&sealed.0).ok_or_else(malformed)?;
        let (id, key) = self
            .keys
            .iter()
            .find(|(id, _)| id == parts.id)
            .ok_or_else(|| SealError::UnknownKey { id: parts.id.to_owned() })?;
        let aad = place.to_string();
        key.decrypt(&Nonce::from(parts.nonce), Payload { msg: parts.body, aad: aad.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| SealError::Refused { id: id.clone(), place: place.to_string() })
    }

    /// Whether a value should be sealed anew because its key is not the first one any more.
    pub fn is_stale(&self, sealed: &Sealed) -> bool {
        split(&sealed.0).is_none_or(|parts| parts.id != self.keys[0].0)
    }
}

fn parse_key(line: &str) -> Option<(&str, Aes256GcmSiv)> {
    let (id, encoded) = line.split_once(':')?;
    let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    if id.is_empty() || id.len() > 32 || !id.chars().all(named) {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    Aes256GcmSiv::new_from_slice(&bytes).ok().map(|key| (id, key))
}

struct Parts<'a> {
    id: &'a str,
    nonce: [u8; NONCE_LEN],
    body: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let (&[layout, id_len], rest) = bytes.split_first_chunk::<2>()?;
    let (id, rest) = rest.split_at_checked(usize::from(id_len))?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
    let id = std::str::from_utf8(id).ok()?;
    (layout == LAYOUT).then_some(Parts { id, nonce: *nonce, body })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::SeededIds;

    fn ring(id: &str, seed: u64) -> KeyRing {
        KeyRing::parse(&KeyRing::generate(id, &SeededIds::new(seed))).unwrap()
    }

    fn place(row: u128) -> Place<'static> {
        Place::new("accounts", Uuid::from_u128(row), "secret")
    }

    #[test]
    fn a_sealed_value_opens_at_its_place_only() {
        let (keys, ids) = (ring("k1", 1), SeededIds::new(9));
        let sealed = keys.seal(place(1), b"hunter2", &ids);
        assert!(!sealed.0.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(keys.open(place(1), &sealed).unwrap().as_slice(), b"hunter2");
        assert!(matches!(keys.open(place(2), &sealed), Err(SealError::Refused { .. })));
        let column = Place::new("accounts", Uuid::from_u128(1), "other");
        assert!(matches!(keys.open(column, &sealed), Err(SealError::Refused { .. })));
    }

    #[test]
    fn a_wrong_key_is_named() {
        let ids = SeededIds::new(9);
        let sealed = ring("k1", 1).seal(place(1), b"x", &ids);
        let other = ring("k2", 2).open(place(1), &sealed).unwrap_err();
        assert_eq!(other, SealError::UnknownKey { id: "k1".into() });
        let namesake = ring("k1", 2).open(place(1), &sealed).unwrap_err();
        assert!(matches!(namesake, SealError::Refused { .. }));
        let junk = ring("k1", 1).open(place(1), &Sealed(vec![7])).unwrap_err();
        assert!(matches!(junk, SealError::Malformed { .. }));
    }

    #[test]
    fn an_old_key_still_opens_after_rotation() {
        let ids = SeededIds::new(9);
        let old_text = KeyRing::generate("old", &SeededIds::new(1));
        let old = KeyRing::parse(&old_text).unwrap();
        let sealed = old.seal(place(1), b"x", &ids);
        let new_text = KeyRing::generate("new", &SeededIds::new(2));
        let both = KeyRing::parse(&format!("# rotated\n{}{}", *new_text, *old_text)).unwrap();
        assert_eq!(both.open(place(1), &sealed).unwrap().as_slice(), b"x");
        assert!(both.is_stale(&sealed));
        assert!(!both.is_stale(&both.seal(place(1), b"x", &ids)));
    }

    #[test]
    fn a_bad_key_ring_is_refused_and_nothing_prints_a_key() {
        assert!(matches!(KeyRing::parse("k1:short"), Err(SealError::BadKey { line: 1 })));
        assert!(matches!(KeyRing::parse("\n# none\n"), Err(SealError::NoKey)));
        let text = KeyRing::generate("k1", &SeededIds::new(1));
        let twice = format!("{}{}", *text, *text);
        assert!(matches!(KeyRing::parse(&twice), Err(SealError::TwoKeys { .. })));
        assert_eq!(format!("{:?}", KeyRing::parse(&text).unwrap()), "KeyRing([\"k1\"], ***)");
    }
}
