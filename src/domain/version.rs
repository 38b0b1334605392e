//! Versions of Kubernetes and of the addon manager, paired one to one by minor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `major.minor.patch`, without a leading `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number: what skew rules and pairing look at.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl Version {
    /// `1.36`, what a pairing is made of.
    pub fn series(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// Whether both belong to one minor; only such may be offered together.
    pub fn pairs_with(self, other: Self) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be MAJOR.MINOR.PATCH, such as 1.36.2")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = text.split('.').map(|part| {
            let plain = part == "0" || !part.starts_with('0');
            if plain && part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None }
        });
        let mut next = || numbers.next().flatten().ok_or(NoVersion);
        let version = Self { major: next()?, minor: next()?, patch: next()? };
        if numbers.next().is_some() { Err(NoVersion) } else { Ok(version) }
    }
}

impl TryFrom<String> for Version {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_plain_numbers_are_a_version() {
        assert_eq!("v1.36.2".parse::<Version>().unwrap().to_string(), "1.36.2");
        for bad in
            ["", "1", "1.2", "1.2.3.4", "1.02.3", "1.2.x", "1.2.-3", "1.2.3-rc1", "1.2.99999"]
        {
            assert_eq!(bad.parse::<Version>(), Err(NoVersion), "{bad}");
        }
        assert!("1.9.0".parse::<Version>().unwrap() < "1.10.0".parse().unwrap());
    }
}
