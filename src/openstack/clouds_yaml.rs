//! Reads one entry of a `clouds.yaml` as this adapter logs in with it.

use super::auth::CloudAuth;
use crate::domain::clouds_yaml::{self, CloudsYamlEntry};

pub use crate::domain::clouds_yaml::{CloudsYamlError, names};

/// Reads the entry called `cloud`, or the only one. `ca_pem` takes the place of a `cacert` path.
pub fn parse(
    text: &str,
    cloud: Option<&str>,
    ca_pem: Option<String>,
) -> Result<CloudAuth, CloudsYamlError> {
    clouds_yaml::parse(text, cloud, ca_pem).map(CloudAuth::from)
}

impl From<CloudsYamlEntry> for CloudAuth {
    fn from(entry: CloudsYamlEntry) -> Self {
        Self {
            auth_url: entry.auth_url,
            region: entry.region,
            interface: entry.interface,
            credential: entry.credential.into(),
            ca_pem: entry.ca_pem,
        }
    }
}
