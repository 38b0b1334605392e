//! Who may do what: one table.
//!
//! What the caller may not know of is absent, whatever its role; only then does the role decide.

use crate::domain::access::Role;
use crate::domain::ids::{ProjectId, TokenId};
use crate::store::tokens::{self, TokenHash};

use super::{App, Error};

/// What a caller can want. Each endpoint of the API stands for one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// See clouds and what they offer.
    ReadClouds,
    /// Register, change, check and remove clouds.
    ManageClouds,
    /// See projects; tenants see their own.
    ReadProjects,
    /// Make projects.
    ManageProjects,
    /// Make, see and revoke tokens.
    ManageTokens,
    /// See offerings.
    ReadOfferings,
    /// Add offerings.
    ManageOfferings,
    /// See clusters, their nodes and their migrations.
    ReadClusters,
    /// Make, change and delete clusters.
    ChangeClusters,
    /// Get a kubeconfig that may do everything in the cluster.
    TakeKubeconfig,
    /// Start and steer migrations.
    ChangeMigrations,
    /// Follow events; tenants those of their project.
    ReadEvents,
    /// See and steer work items.
    ManageWork,
}

/// The table.
pub fn is_allowed(role: Role, action: Action) -> bool {
    use Action as A;
    match action {
        A::ReadClouds | A::ReadProjects | A::ReadOfferings | A::ReadClusters | A::ReadEvents => {
            true
        }
        A::ChangeClusters | A::TakeKubeconfig | A::ChangeMigrations => {
            matches!(role, Role::Operator | Role::Owner)
        }
        A::ManageClouds
        | A::ManageProjects
        | A::ManageTokens
        | A::ManageOfferings
        | A::ManageWork => role == Role::Operator,
    }
}

/// Somebody whose token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its token.
    pub token_id: TokenId,
    /// What the token is for; this name stands in timelines.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where; operators have none, which means everywhere.
    pub project: Option<ProjectId>,
}

impl Caller {
    /// How the caller stands in audit records. Who asks without a token (an object of the
    /// management cluster, a command on the machine itself) stands there by name.
    pub fn actor(&self) -> String {
        if self.token_id.0.is_nil() {
            self.name.clone()
        } else {
            format!("token:{}", self.token_id)
        }
    }

    /// The caller that an object of the management cluster is: an owner of the project that its
    /// namespace is mapped to, and of nothing else.
    pub fn of_object(namespace: &str, name: &str, project: ProjectId) -> Self {
        Self {
            token_id: TokenId(uuid::Uuid::nil()),
            name: format!("kubectl:{namespace}/{name}"),
            role: Role::Owner,
            project: Some(project),
        }
    }

    /// `Forbidden` unless the table allows it.
    pub fn may(&self, action: Action) -> Result<(), Error> {
        if is_allowed(self.role, action) {
            return Ok(());
        }
        Err(Error::Forbidden(format!("the role {} does not allow this", self.role)))
    }

    /// Whether the caller may know of things in `project`.
    pub fn sees(&self, project: ProjectId) -> bool {
        self.role == Role::Operator || self.project == Some(project)
    }

    /// Whether the caller is an operator.
    pub fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    /// The project to which lists are narrowed; none for operators.
    pub fn scope(&self) -> Option<ProjectId> {
        if self.is_operator() { None } else { self.project }
    }
}

/// The caller behind a bearer token.
pub async fn authenticate(app: &App, secret: &str) -> Result<Caller, Error> {
    const UNKNOWN: Error = Error::Unauthenticated("the bearer token is unknown or has ended");
    let found = tokens::find_by_hash(app.store.pool(), TokenHash::of(secret)).await?;
    let token = found.filter(|token| token.is_valid(app.now())).ok_or(UNKNOWN)?;
    let role: Role = token.role.parse().map_err(|error| Error::internal("read a role", error))?;
    if role != Role::Operator && token.project.is_none() {
        return Err(UNKNOWN);
    }
    Ok(Caller { token_id: token.id, name: token.name, role, project: token.project })
}

/// Whether the caller's token is still good. For streams, which outlive their first check.
pub async fn is_still_good(app: &App, caller: &Caller) -> Result<bool, Error> {
    let token = tokens::find(app.store.pool(), caller.token_id).await?;
    Ok(token.is_some_and(|token| token.is_valid(app.now())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_change_nothing_and_owners_nothing_of_the_operators() {
        use Action as A;
        let of_operators = [
            A::ManageClouds,
            A::ManageProjects,
            A::ManageTokens,
            A::ManageOfferings,
            A::ManageWork,
        ];
        for action in of_operators {
            assert!(is_allowed(Role::Operator, action));
            assert!(!is_allowed(Role::Owner, action), "{action:?}");
            assert!(!is_allowed(Role::Viewer, action), "{action:?}");
        }
        for action in [A::ChangeClusters, A::TakeKubeconfig, A::ChangeMigrations] {
            assert!(is_allowed(Role::Owner, action));
            assert!(!is_allowed(Role::Viewer, action), "{action:?}");
        }
        assert!(is_allowed(Role::Viewer, A::ReadClusters));
    }
}
