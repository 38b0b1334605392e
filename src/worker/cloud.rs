//! Checks a registered cloud and keeps its inventory, so that no handler ever calls a cloud.

use super::context::Context;
use super::{Next, Reconciler, WorkError};
use crate::domain::cloud::{CloudCheck, CloudPhase, CloudSpec};
use crate::domain::ids::CloudId;
use crate::domain::inventory::Inventory;
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::openstack::CloudClient;
use crate::plan::resolve;
use crate::store::cloud_progress;
use crate::store::work::{Lease, ResourceId, WorkKind, wake, wake_all};

/// Checks clouds.
#[derive(Debug, Clone)]
pub struct CloudWorker {
    context: Context,
}

impl CloudWorker {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Looks at everything that the registration names. An inventory only if all of it was read.
    async fn look(
        &self,
        lease: &Lease,
        client: &CloudClient,
        spec: &CloudSpec,
    ) -> Result<(Vec<CloudCheck>, Option<Inventory>), WorkError> {
        let mut checks = Vec::new();
        match self.context.call(lease, "check cloud", client.check()).await? {
            Ok(identity) => checks.push(good(
                "auth_url",
                format!("logged in to project {} as {}", identity.project_name, identity.user_name),
            )),
            Err(error) => {
                checks.push(bad(field_of(&error), error.to_string()));
                return Ok((checks, None));
            }
        }
        let inventory = match self.context.call(lease, "read inventory", client.inventory()).await?
        {
            Ok(inventory) => inventory,
            Err(error) => {
                checks.push(bad(field_of(&error), error.to_string()));
                return Ok((checks, None));
            }
        };
        checks.extend(names(&inventory, spec));
        Ok((checks, Some(inventory)))
    }
}

/// Which field of the registration a failed call speaks about.
fn field_of(error: &OutsideError) -> &'static str {
    match error.kind {
        OutsideKind::Denied => "credential",
        OutsideKind::Invalid if error.message.contains("region") => "region",
        _ => "auth_url",
    }
}

fn good(field: &str, message: String) -> CloudCheck {
    CloudCheck { field: field.to_owned(), ok: true, message }
}

fn bad(field: &str, message: String) -> CloudCheck {
    CloudCheck { field: field.to_owned(), ok: false, message }
}

/// Whether every name of the registration resolves to exactly one thing.
fn names(inventory: &Inventory, spec: &CloudSpec) -> Vec<CloudCheck> {
    let defaults = &spec.defaults;
    let check = |field: &str, found: Result<String, String>| match found {
        Ok(message) => good(field, message),
        Err(message) => bad(field, message),
    };
    let flavor = |name: &str| {
        resolve::flavor(inventory, name)
            .map(|f| format!("{}: {} vCPUs, {} MiB", f.name, f.vcpus, f.ram_mb))
    };
    let mut checks = vec![
        check(
            "defaults.network",
            resolve::network(inventory, &defaults.network).map(|n| format!("network {}", n.id)),
        ),
        check(
            "defaults.security_group",
            resolve::security_group(inventory, &defaults.security_group)
                .map(|g| format!("security group {}", g.id)),
        ),
        check("defaults.flavor", flavor(&defaults.flavor)),
    ];
    if let Some(name) = &defaults.control_plane_flavor {
        checks.push(check("defaults.control_plane_flavor", flavor(name)));
    }
    if let Some(zone) = &defaults.zone {
        let found = resolve::zone(inventory, zone).map(|()| format!("zone {zone}"));
        checks.push(check("defaults.zone", found));
    }
    if let Some(image) = &defaults.image {
        let found = inventory.images.iter().find(|i| i.name == *image || i.id == *image);
        let found = found.map(|i| format!("image {}", i.id));
        checks.push(check("defaults.image", found.ok_or_else(|| format!("no image {image}"))));
    }
    checks
}

impl Reconciler for CloudWorker {
    const KIND: WorkKind = WorkKind::Cloud;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let context = &self.context;
        let id = CloudId::from(id);
        let clouds = cloud_progress::load(context.store.pool(), &[id]).await?;
        let Some(cloud) = clouds.first() else { return Ok(Next::Gone) };
        let accounts = cloud_progress::accounts(context.store.pool(), id).await?;
        let Some(account) = accounts.first() else { return Ok(Next::Settled) };
        let (mut checks, inventory) = match context.clouds.client(cloud, account, "check") {
            Ok(client) => self.look(lease, &client, &cloud.spec).await?,
            Err(error) => (vec![bad("ca_pem", super::describe(&error))], None),
        };
        let is_good = inventory.is_some() && checks.iter().all(|check| check.ok);
        // Shown, but no reason to stop: what is made elsewhere on the cloud goes on.
        checks.extend(accounts.iter().filter_map(|account| {
            let since = account.incomplete_since?;
            let text =
                format!("since {since:.0} a part of the cloud is down: lists lack its servers");
            Some(bad("servers", text))
        }));
        // A cloud that cannot be reached for a moment is not worse than it was.
        let is_away = checks
            .iter()
            .filter(|check| !check.ok)
            .all(|check| ["auth_url", "servers"].contains(&check.field.as_str()));
        let was_good = cloud.phase == CloudPhase::Ready && cloud.inventory.is_some();
        let phase =
            if is_good || (is_away && was_good) { CloudPhase::Ready } else { CloudPhase::Unusable };
        let now = context.now();
        let mut tx = context.fenced(lease).await?;
        let found = (phase, checks.as_slice(), inventory.as_ref());
        let written = cloud_progress::write_check(&mut tx, cloud, found, now).await?;
        if written && phase != cloud.phase {
            let clusters = cloud_progress::clusters_on(&mut **tx, id).await?;
            let ids: Vec<ResourceId> = clusters.into_iter().map(Into::into).collect();
            wake_all(&mut tx, WorkKind::Cluster, &ids, now).await?;
            for account in &accounts {
                wake(&mut tx, WorkKind::ObserveServers, account.id, now).await?;
                wake(&mut tx, WorkKind::Sweep, account.id, now).await?;
            }
        }
        tx.commit().await?;
        let settings = &context.settings;
        Ok(Next::After(if is_good { settings.inventory_period } else { settings.servers_period }))
    }
}
