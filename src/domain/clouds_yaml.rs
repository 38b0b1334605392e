//! Reads one entry of a `clouds.yaml`, the file that operators already have.
//!
//! The text may come from another machine, so nothing it names is opened: a `cacert` must be given
//! by its contents. Errors name the key and never quote the file, which holds secrets.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

use super::cloud::Interface;
use super::credential::Credential;

/// One entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudsYamlEntry {
    /// Keystone, as the file has it.
    pub auth_url: Url,
    /// The region whose endpoints are used.
    pub region: String,
    /// Which of a service's endpoints are used.
    pub interface: Interface,
    /// Name and secret.
    pub credential: Credential,
    /// The only authorities trusted for TLS; `None` trusts those of the system.
    pub ca_pem: Option<String>,
}

/// What is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudsYamlError {
    /// It is not YAML of this form.
    #[error("not a clouds.yaml{at}: it must be a map with the key 'clouds'")]
    Unreadable {
        /// ` (line 3, column 7)`, where known.
        at: String,
    },
    /// It has no entry of that name.
    #[error("there is no cloud '{wanted}' in it; it has: {have}")]
    UnknownCloud {
        /// The name asked for.
        wanted: String,
        /// The names it has.
        have: String,
    },
    /// It has several entries and none was asked for.
    #[error("it has several clouds; name one of: {have}")]
    SeveralClouds {
        /// The names it has.
        have: String,
    },
    /// A key is missing.
    #[error("cloud '{cloud}' has no '{key}'")]
    Missing {
        /// The entry.
        cloud: String,
        /// Path of the key.
        key: &'static str,
    },
    /// A key has a value that does not work.
    #[error("cloud '{cloud}', key '{key}': {reason}")]
    Bad {
        /// The entry.
        cloud: String,
        /// Path of the key.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// The certificate is in a file that only its owner can read.
    #[error(
        "cloud '{cloud}' names the CA file '{path}'; put its contents (the PEM text) in 'cacert'"
    )]
    CaByPath {
        /// The entry.
        cloud: String,
        /// The path it names, on the machine it comes from.
        path: String,
    },
}

/// Reads the entry called `cloud`, or the only one. `ca_pem` takes the place of a `cacert` path.
pub fn parse(
    text: &str,
    cloud: Option<&str>,
    ca_pem: Option<String>,
) -> Result<CloudsYamlEntry, CloudsYamlError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // Its own text would quote the lines around the fault, and so maybe a password.
        let at =
            error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column()));
        CloudsYamlError::Unreadable { at: at.unwrap_or_default() }
    })?;
    let (name, entry) = file.choose(cloud)?;
    Reader { cloud: name, entry }.auth(ca_pem)
}

/// The names of all entries.
pub fn names(text: &str) -> Result<Vec<String>, CloudsYamlError> {
    let file: File = serde_saphyr::from_str(text)
        .map_err(|_| CloudsYamlError::Unreadable { at: String::new() })?;
    Ok(file.clouds.into_keys().collect())
}

#[derive(Deserialize)]
struct File {
    clouds: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Auth,
    auth_type: Option<String>,
    region_name: Option<String>,
    regions: Vec<String>,
    interface: Option<String>,
    endpoint_type: Option<String>,
    identity_api_version: Option<String>,
    verify: Option<bool>,
    insecure: Option<bool>,
    cacert: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth_url: Option<String>,
    username: Option<String>,
    user_id: Option<String>,
    password: Option<SecretString>,
    user_domain_name: Option<String>,
    user_domain_id: Option<String>,
    project_name: Option<String>,
    tenant_name: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    project_domain_name: Option<String>,
    project_domain_id: Option<String>,
    domain_name: Option<String>,
    domain_id: Option<String>,
    application_credential_id: Option<String>,
    application_credential_name: Option<String>,
    application_credential_secret: Option<SecretString>,
}

impl File {
    fn choose(&self, wanted: Option<&str>) -> Result<(&str, &Entry), CloudsYamlError> {
        let have = || self.clouds.keys().cloned().collect::<Vec<_>>().join(", ");
        match wanted {
            Some(name) => match self.clouds.get_key_value(name) {
                Some((name, entry)) => Ok((name, entry)),
                None => {
                    Err(CloudsYamlError::UnknownCloud { wanted: name.to_owned(), have: have() })
                }
            },
            None if self.clouds.len() > 1 => Err(CloudsYamlError::SeveralClouds { have: have() }),
            None => match self.clouds.iter().next() {
                Some((name, entry)) => Ok((name, entry)),
                None => Err(CloudsYamlError::Unreadable { at: String::new() }),
            },
        }
    }
}

/// One entry with its name, for the errors.
struct Reader<'a> {
    cloud: &'a str,
    entry: &'a Entry,
}

impl Reader<'_> {
    fn auth(&self, ca_pem: Option<String>) -> Result<CloudsYamlEntry, CloudsYamlError> {
        if self.entry.verify == Some(false) || self.entry.insecure == Some(true) {
            let reason = "certificates are always checked; remove it and give the CA as 'cacert'";
            return Err(self.bad("verify", reason));
        }
        if self.entry.identity_api_version.as_deref().is_some_and(|v| !v.starts_with('3')) {
            return Err(self.bad("identity_api_version", "only version 3 is spoken"));
        }
        Ok(CloudsYamlEntry {
            auth_url: self.auth_url()?,
            region: self.region()?,
            interface: self.interface()?,
            credential: self.credential()?,
            ca_pem: self.ca_pem(ca_pem)?,
        })
    }

    fn auth_url(&self) -> Result<Url, CloudsYamlError> {
        let text = self.need("auth.auth_url", self.entry.auth.auth_url.as_ref())?;
        let url: Url = text
            .parse()
            .map_err(|error| self.bad("auth.auth_url", format!("not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(self.bad("auth.auth_url", "it must begin with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.bad("auth.auth_url", "it must not hold a user name or password"));
        }
        Ok(url)
    }

    fn region(&self) -> Result<String, CloudsYamlError> {
        match (&self.entry.region_name, self.entry.regions.as_slice()) {
            (Some(region), _) => Ok(region.clone()),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(self.missing("region_name")),
            (None, several) => {
                let reason = format!("name one region as 'region_name': {}", several.join(", "));
                Err(self.bad("regions", reason))
            }
        }
    }

    fn interface(&self) -> Result<Interface, CloudsYamlError> {
        let word = self.entry.interface.as_ref().or(self.entry.endpoint_type.as_ref());
        let Some(word) = word else { return Ok(Interface::default()) };
        // The old spelling is `publicURL`.
        match word.strip_suffix("URL").unwrap_or(word) {
            "public" => Ok(Interface::Public),
            "internal" => Ok(Interface::Internal),
            "admin" => Ok(Interface::Admin),
            _ => {
                let reason = format!("'{word}' is not public, internal or admin");
                Err(self.bad("interface", reason))
            }
        }
    }

    fn ca_pem(&self, given: Option<String>) -> Result<Option<String>, CloudsYamlError> {
        match (&self.entry.cacert, given) {
            (_, Some(given)) => Ok(Some(given)),
            (None, None) => Ok(None),
            (Some(pem), None) if pem.contains("-----BEGIN CERTIFICATE-----") => {
                Ok(Some(pem.clone()))
            }
            (Some(path), None) => Err(CloudsYamlError::CaByPath {
                cloud: self.cloud.to_owned(),
                path: path.chars().take(200).collect(),
            }),
        }
    }

    fn credential(&self) -> Result<Credential, CloudsYamlError> {
        match self.entry.auth_type.as_deref().unwrap_or("password") {
            "password" | "v3password" => self.password(),
            "v3applicationcredential" => self.application_credential(),
            other => {
                let reason = format!("'{other}' is not password or v3applicationcredential");
                Err(self.bad("auth_type", reason))
            }
        }
    }

    fn password(&self) -> Result<Credential, CloudsYamlError> {
        let auth = &self.entry.auth;
        if auth.application_credential_id.is_some() && auth.password.is_none() {
            let reason = "an application credential needs auth_type 'v3applicationcredential'";
            return Err(self.bad("auth_type", reason));
        }
        let user_domain = self.domain(
            "auth.user_domain_name",
            (auth.user_domain_id.as_ref(), auth.user_domain_name.as_ref()),
        )?;
        let project_domain = self.domain(
            "auth.project_domain_name",
            (auth.project_domain_id.as_ref(), auth.project_domain_name.as_ref()),
        )?;
        let by_id = |id: Option<&String>| id.map(|_| "write its name instead of its id");
        let username =
            self.named("auth.username", auth.username.as_ref(), by_id(auth.user_id.as_ref()))?;
        let project = auth.project_name.as_ref().or(auth.tenant_name.as_ref());
        let project_id = auth.project_id.as_ref().or(auth.tenant_id.as_ref());
        let password = self.need("auth.password", auth.password.as_ref())?;
        Ok(Credential::Password {
            username,
            user_domain,
            password: password.expose_secret().to_owned(),
            project: self.named("auth.project_name", project, by_id(project_id))?,
            project_domain,
        })
    }

    fn application_credential(&self) -> Result<Credential, CloudsYamlError> {
        let auth = &self.entry.auth;
        let by_name = auth.application_credential_name.as_ref();
        let by_name = by_name.map(|_| "write its id instead of its name");
        let id = auth.application_credential_id.as_ref();
        let id = self.named("auth.application_credential_id", id, by_name)?;
        let secret = auth.application_credential_secret.as_ref();
        let secret = self.need("auth.application_credential_secret", secret)?;
        Ok(Credential::ApplicationCredential { id, secret: secret.expose_secret().to_owned() })
    }

    /// A name that must be there; `advice` if there is only what we do not take in its place.
    fn named(
        &self,
        key: &'static str,
        name: Option<&String>,
        advice: Option<&str>,
    ) -> Result<String, CloudsYamlError> {
        match (name, advice) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some(advice)) => Err(self.bad(key, advice)),
            (None, None) => Err(self.missing(key)),
        }
    }

    /// Name of the key's own domain, or of the one that the entry gives for all. Every Keystone
    /// calls the domain with the id `default` "Default"; other ids say no name.
    fn domain(
        &self,
        key: &'static str,
        (id, name): (Option<&String>, Option<&String>),
    ) -> Result<String, CloudsYamlError> {
        let auth = &self.entry.auth;
        let name = name.or(if id.is_none() { auth.domain_name.as_ref() } else { None });
        let id = id.or(auth.domain_id.as_ref());
        match (name, id.map(String::as_str)) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some("default")) => Ok("Default".to_owned()),
            (None, Some(_)) => Err(self.bad(key, "write the domain's name instead of its id")),
            (None, None) => Err(self.missing(key)),
        }
    }

    fn need<'b, T>(
        &self,
        key: &'static str,
        value: Option<&'b T>,
    ) -> Result<&'b T, CloudsYamlError> {
        value.ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &'static str) -> CloudsYamlError {
        CloudsYamlError::Missing { cloud: self.cloud.to_owned(), key }
    }

    fn bad(&self, key: &'static str, reason: impl Into<String>) -> CloudsYamlError {
        CloudsYamlError::Bad { cloud: self.cloud.to_owned(), key, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EAST: &str = "
clouds:
  east:
    region_name: RegionOne
    auth:
      auth_url: https://keystone.east.example:5000/v3
      username: zcp
      password: 12345
      project_name: clusters
      user_domain_name: Default
      project_domain_id: default
";

    fn refused(change: impl Fn(&str) -> String) -> String {
        parse(&change(EAST), Some("east"), None).expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_password_entry_is_read() {
        let auth = parse(EAST, None, None).expect("a good entry");
        assert_eq!((auth.region.as_str(), auth.interface), ("RegionOne", Interface::Public));
        let expected = Credential::Password {
            username: "zcp".into(),
            user_domain: "Default".into(),
            password: "12345".into(),
            project: "clusters".into(),
            project_domain: "Default".into(),
        };
        assert!(auth.credential == expected, "{auth:?}");
    }

    #[test]
    fn an_application_credential_is_read_by_its_id() {
        let text = "
clouds:
  west:
    auth_type: v3applicationcredential
    interface: internalURL
    regions: [West]
    auth:
      auth_url: http://k:5000
      application_credential_id: abc
      application_credential_secret: s3cret
";
        let auth = parse(text, Some("west"), None).expect("a good entry");
        assert_eq!((auth.region.as_str(), auth.interface), ("West", Interface::Internal));
        assert!(!format!("{auth:?}").contains("s3cret"), "secrets are not printed");
        assert!(
            matches!(auth.credential, Credential::ApplicationCredential { id, .. } if id == "abc")
        );
        let by_name = text.replace("_id: abc", "_name: abc");
        let error = parse(&by_name, Some("west"), None).expect_err("names are not unique");
        assert!(error.to_string().contains("write its id"), "{error}");
    }

    #[test]
    fn errors_name_the_key() {
        for key in ["region_name", "auth_url", "username", "password", "project_name"] {
            let without = |text: &str| {
                let lines = text.lines().filter(|line| !line.trim().starts_with(key));
                lines.collect::<Vec<_>>().join("\n")
            };
            let message = refused(without);
            assert!(message.starts_with("cloud 'east' has no '"), "{message}");
            assert!(message.contains(key), "{message}");
        }
        let message = refused(|text| text.replace("https://", "ftp://"));
        assert!(message.contains("auth.auth_url"), "{message}");
        let message = refused(|text| text.replace("east:\n    region", "other:\n    region"));
        assert_eq!(message, "there is no cloud 'east' in it; it has: other");
    }

    #[test]
    fn certificates_are_always_checked() {
        let with = |line: &str| {
            refused(|text| text.replace("    auth:", &format!("    {line}\n    auth:")))
        };
        assert!(with("verify: false").contains("'verify'"));
        assert!(with("insecure: true").contains("always checked"));
        let message = with("cacert: /etc/ssl/east.pem");
        assert!(message.contains("/etc/ssl/east.pem") && message.contains("PEM"), "{message}");
        let with_ca = EAST.replace("    auth:", "    cacert: /etc/ssl/east.pem\n    auth:");
        let auth = parse(&with_ca, None, Some("PEM".to_owned())).expect("the contents are given");
        assert_eq!(auth.ca_pem.as_deref(), Some("PEM"));
    }

    #[test]
    fn an_unreadable_file_is_not_quoted() {
        let message = refused(|text| text.replace("password: 12345", "password: [hunter2"));
        assert!(message.starts_with("not a clouds.yaml"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
