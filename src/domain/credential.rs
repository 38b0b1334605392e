//! How zcp logs in to a cloud. Sealed in the database, never printed, never returned.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::FieldErrors;

/// A login to one project of a cloud.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Credential {
    /// A user with a password, working in one project.
    Password {
        /// Name of the user.
        username: String,
        /// Name of the user's domain.
        #[serde(default = "default_domain")]
        user_domain: String,
        /// The secret.
        #[schema(format = Password)]
        password: String,
        /// Name of the project.
        project: String,
        /// Name of the project's domain.
        #[serde(default = "default_domain")]
        project_domain: String,
    },
    /// An application credential; it carries its project.
    ApplicationCredential {
        /// Its id.
        id: String,
        /// The secret.
        #[schema(format = Password)]
        secret: String,
    },
}

fn default_domain() -> String {
    "Default".to_owned()
}

/// Longest text of any part; Keystone's own columns are 255.
const PART_MAX: usize = 512;

impl Credential {
    /// Checks all that can be known without the cloud; `path` is where it stands in the request.
    pub fn check(&self, path: &str) -> FieldErrors {
        let mut errors = FieldErrors::default();
        for (name, value) in self.parts() {
            if value.is_empty() || value.len() > PART_MAX || value.chars().any(char::is_control) {
                let problem =
                    format!("must be 1 to {PART_MAX} characters without control characters");
                errors.push(format!("{path}.{name}"), problem);
            }
        }
        errors
    }

    fn parts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Password { username, user_domain, password, project, project_domain } => vec![
                ("username", username),
                ("user_domain", user_domain),
                ("password", password),
                ("project", project),
                ("project_domain", project_domain),
            ],
            Self::ApplicationCredential { id, secret } => vec![("id", id), ("secret", secret)],
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(***)",
            Self::ApplicationCredential { .. } => "ApplicationCredential(***)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_prints_no_secret_and_names_what_is_empty() {
        let login = Credential::Password {
            username: String::new(),
            user_domain: default_domain(),
            password: "hunter2".into(),
            project: "p\n".into(),
            project_domain: default_domain(),
        };
        assert_eq!(format!("{login:?}"), "Password(***)");
        let fields: Vec<String> =
            login.check("credential").0.into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["credential.username", "credential.project"]);
    }
}
