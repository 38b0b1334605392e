//! Who we are on a cloud, and which of its endpoints we use.

use std::fmt;

use secrecy::SecretString;
use url::Url;

use crate::domain::cloud::Interface;
use crate::domain::credential::Credential as Stored;

/// All that is needed to log in to one project of one cloud.
#[derive(Debug, Clone)]
pub struct CloudAuth {
    /// Keystone, with or without `/v3`.
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

/// Name and secret. The secrets print as `[REDACTED]`.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user with a password, working in one project.
    Password {
        /// Who.
        user: UserRef,
        /// The secret.
        password: SecretString,
        /// Where.
        project: ProjectRef,
    },
    /// An application credential by its id; it carries its project.
    ApplicationCredential {
        /// Its id.
        id: String,
        /// The secret.
        secret: SecretString,
    },
    /// An application credential by its name, which is unique for a user only.
    NamedApplicationCredential {
        /// Its name.
        name: String,
        /// Whose it is.
        user: UserRef,
        /// The secret.
        secret: SecretString,
    },
}

impl From<Stored> for Credential {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Password { username, user_domain, password, project, project_domain } => {
                let domain = DomainRef::Name(project_domain);
                Self::Password {
                    user: UserRef::Name { name: username, domain: DomainRef::Name(user_domain) },
                    password: password.into(),
                    project: ProjectRef::Name { name: project, domain },
                }
            }
            Stored::ApplicationCredential { id, secret } => {
                Self::ApplicationCredential { id, secret: secret.into() }
            }
        }
    }
}

/// A domain of Keystone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainRef {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// A user of Keystone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By id.
    Id(String),
    /// By name, which is unique in its domain only.
    Name {
        /// The user's name.
        name: String,
        /// Its domain.
        domain: DomainRef,
    },
}

/// A project of Keystone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectRef {
    /// By id.
    Id(String),
    /// By name, which is unique in its domain only.
    Name {
        /// The project's name.
        name: String,
        /// Its domain.
        domain: DomainRef,
    },
}

impl fmt::Display for DomainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "domain id '{id}'"),
            Self::Name(name) => write!(f, "domain '{name}'"),
        }
    }
}

impl fmt::Display for UserRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "user id '{id}'"),
            Self::Name { name, domain } => write!(f, "user '{name}' of {domain}"),
        }
    }
}

impl fmt::Display for ProjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "project id '{id}'"),
            Self::Name { name, domain } => write!(f, "project '{name}' of {domain}"),
        }
    }
}
