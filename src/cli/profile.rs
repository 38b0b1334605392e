//! Where the API is and who asks, kept in a file.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::Failure;

/// `zcpctl.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Address of the API.
    pub url: Option<String>,
    /// Bearer token.
    pub token: Option<SecretString>,
    /// Project that is used when none is named.
    pub project: Option<String>,
}

impl Profile {
    /// The profile in `file`.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::input(format!("read profile {}: {error}", file.display())))?;
        Self::parse(&text)
            .map_err(|problem| Failure::input(format!("profile {}: {problem}", file.display())))
    }

    /// The user's own profile; an empty one if there is none.
    pub(super) fn default_one() -> Result<Self, Failure> {
        match default_file() {
            Some(file) if file.exists() => Self::read(&file),
            _ => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The error's own text would quote the line, which may be the token's.
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::new();
        let entries = [
            ("url", self.url.clone()),
            ("token", self.token.as_ref().map(|token| token.expose_secret().to_owned())),
            ("project", self.project.clone()),
        ];
        for (key, value) in entries {
            table.extend(value.map(|value| (key.to_owned(), toml::Value::String(value))));
        }
        table.to_string()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_deref().unwrap_or("no url"))
    }
}

fn default_file() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".config/zcp/zcpctl.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_mistakes_quote_nothing() {
        let profile = Profile {
            url: Some("http://127.0.0.1:1".into()),
            token: Some("s3cret".to_owned().into()),
            project: None,
        };
        let read = Profile::parse(&profile.to_toml()).unwrap();
        assert_eq!(read.token.unwrap().expose_secret(), "s3cret");
        let problem = Profile::parse("token = s3cret").unwrap_err();
        assert!(!problem.contains("s3cret"), "{problem}");
        assert!(Profile::parse("tokn = 'x'").unwrap_err().contains("tokn"));
    }
}
