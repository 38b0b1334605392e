//! Tokens and names, made from the injected source of randomness.

use base64::Engine as _;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use crate::clock::Ids;
use crate::domain::bootstrap_token::BootstrapToken;

/// Characters of tokens and names. 36 of them.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// Largest multiple of 36 that a byte can stand for: bytes above it would favour some characters.
const FAIR: u8 = 252;
/// Length of the random end of a server's name: two billion of them.
const SUFFIX_LENGTH: usize = 6;

/// A token that a control-plane server shows to the node listener, once.
#[derive(Debug, Clone)]
pub struct NodeToken {
    /// 32 random bytes in base64url: goes into user data, nowhere else.
    pub secret: SecretString,
    /// What is stored of it.
    pub hash: [u8; 32],
}

/// A fresh bootstrap token.
pub fn bootstrap_token(ids: &dyn Ids) -> BootstrapToken {
    parse(&format!("{}.{}", random_text(ids, 6), random_text(ids, 16)))
}

/// A fresh token for the node listener.
pub fn node_token(ids: &dyn Ids) -> NodeToken {
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(ids.secret());
    NodeToken { hash: token_hash(&secret), secret: secret.into() }
}

/// What is stored of a node token and compared with.
pub fn token_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// A server's name, `<cluster>-<group>-<6 random>`; `group` is the pool's name or `cp`.
///
/// The middle is shortened so that the name stays a DNS label.
pub fn node_name(ids: &dyn Ids, cluster: &str, group: &str) -> String {
    let suffix = random_text(ids, SUFFIX_LENGTH);
    let mut stem = format!("{cluster}-{group}");
    stem.truncate(63 - 1 - SUFFIX_LENGTH);
    format!("{}-{suffix}", stem.trim_end_matches('-'))
}

fn parse(text: &str) -> BootstrapToken {
    text.parse().expect("6 and 16 characters of the alphabet")
}

fn random_text(ids: &dyn Ids, length: usize) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let wanted = length - text.len();
        let fair = ids.secret().into_iter().filter(|byte| *byte < FAIR).take(wanted);
        text.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % 36)])));
    }
    text
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::clock::SeededIds;

    #[test]
    fn tokens_are_made_of_the_whole_alphabet_and_differ() {
        let ids = SeededIds::new(1);
        let tokens: Vec<String> = (0..200).map(|_| bootstrap_token(&ids).reveal()).collect();
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), 200);
        let all = tokens.concat();
        assert!(ALPHABET.iter().all(|c| all.contains(char::from(*c))));
    }

    #[test]
    fn a_node_token_is_stored_by_its_hash() {
        let token = node_token(&SeededIds::new(1));
        assert_eq!(token.secret.expose_secret().len(), 43);
        assert_eq!(token_hash(token.secret.expose_secret()), token.hash);
        assert!(!format!("{token:?}").contains(token.secret.expose_secret()));
    }

    #[test]
    fn names_are_dns_labels_whatever_the_lengths() {
        let ids = SeededIds::new(1);
        let name = node_name(&ids, "shop", "cp");
        assert!(name.starts_with("shop-cp-") && name.len() == 14, "{name}");
        let long = node_name(&ids, &"c".repeat(50), &"p".repeat(50));
        assert_eq!(long.len(), 63);
        let cut = node_name(&ids, &"c".repeat(55), "p");
        assert!(!cut.contains("--"), "{cut}");
    }
}
