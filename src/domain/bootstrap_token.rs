//! Bootstrap tokens: what a new kubelet shows to the API server, once.

use std::fmt;
use std::str::FromStr;

/// Length of the public part.
const ID_LENGTH: usize = 6;
/// Length of the secret part.
const SECRET_LENGTH: usize = 16;

/// `[a-z0-9]{6}.[a-z0-9]{16}`. One for each server, deleted when its node has joined.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

/// The text is not a bootstrap token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bootstrap token is 6 characters, a dot, and 16 characters of a-z and 0-9")]
pub struct NotABootstrapToken;

impl BootstrapToken {
    /// The part that may be seen; it names the Secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The part that proves something. Never log it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Both parts, as kubeadm wants them. Never log it.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for BootstrapToken {
    type Err = NotABootstrapToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, secret) = text.split_once('.').ok_or(NotABootstrapToken)?;
        if is_part(id, ID_LENGTH) && is_part(secret, SECRET_LENGTH) {
            Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
        } else {
            Err(NotABootstrapToken)
        }
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.***)", self.id)
    }
}

fn is_part(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grammar_of_kubernetes_is_taken() {
        let token: BootstrapToken = "abc123.0123456789abcdef".parse().unwrap();
        assert_eq!((token.id(), token.secret()), ("abc123", "0123456789abcdef"));
        for wrong in ["", "abc123", "abc12.0123456789abcdef", "ABC123.0123456789abcdef"] {
            assert_eq!(wrong.parse::<BootstrapToken>(), Err(NotABootstrapToken));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let token: BootstrapToken = "abc123.0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{token:?}"), "BootstrapToken(abc123.***)");
    }
}
