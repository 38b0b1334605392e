//! Making a cluster: the wish is checked against the clouds' inventory and written down.

use std::collections::BTreeMap;

use serde_json::json;

use super::fit::{self, Clouds, Demand};
use super::{ClusterView, keys, subject, view};
use crate::app::act::{Act, Start};
use crate::app::authz::Action;
use crate::app::{App, Ask, Error, projects};
use crate::bootstrap::pki::ClusterPki;
use crate::domain::cluster::{ClusterSpec, PoolSpec};
use crate::domain::field::{FieldErrors, known};
use crate::domain::ids::{ClusterId, PoolId};
use crate::plan::resolve;
use crate::store::Tx;
use crate::store::clouds::CloudRow;
use crate::store::clusters::{self, ClusterRow, NAME_TAKEN, pools, pools::PoolRow};
use crate::store::offerings::{self, OfferingRow};
use crate::store::projects::Project;
use crate::store::work::WorkKind;

/// What an owner asks for.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// Its name.
    pub name: String,
    /// Name of its project; default: the caller's.
    pub project: Option<String>,
    /// Name of its offering.
    pub offering: String,
    /// What it is.
    pub spec: ClusterSpec,
}

/// What a wish comes down to on the clouds.
struct Resolved {
    cluster: ClusterRow,
    pools: Vec<PoolRow>,
}

/// Makes a cluster.
pub async fn create(app: &App, ask: &Ask, new: &NewCluster) -> Result<ClusterView, Error> {
    ask.caller.may(Action::ChangeClusters)?;
    let project = project(app, ask, new).await?;
    new.spec.check(&new.name).into_result(())?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return view(app, &ask.caller, ClusterId(id)).await,
    };
    let offering = offering(&mut act.tx, &new.offering).await?;
    let clouds = Clouds::load(&mut act.tx, &cloud_names(&new.spec)).await?;
    let empty = ClusterRow::new(ClusterId(app.ids.uuid()), project.id, act.now);
    let Resolved { cluster, pools } = resolve(app, (new, &offering), &clouds, empty)?;
    let pki = ClusterPki::generate(act.now)
        .map_err(|error| Error::internal("make the keys of a cluster", error))?;
    let id = cluster.id;
    clusters::insert(&mut act.tx, &cluster).await.map_err(|error| match error.constraint() {
        Some(NAME_TAKEN) => Error::conflict(format!(
            "project {} has a cluster {} already",
            project.name, cluster.name
        )),
        _ => error.into(),
    })?;
    clusters::insert_keys(&mut act.tx, id, &keys::seal(app, id, &pki)).await?;
    for pool in &pools {
        pools::insert(&mut act.tx, pool).await?;
    }
    act.wake(WorkKind::Cluster, id).await?;
    act.wake(WorkKind::ObserveNodes, id).await?;
    act.audit("cluster.create", subject(&cluster), json!({ "name": cluster.name })).await?;
    let said = format!("cluster {} was asked for by {}", cluster.name, ask.caller.name);
    act.event(subject(&cluster), "ClusterRequested", said).await?;
    act.commit(id.0).await?;
    view(app, &ask.caller, id).await
}

async fn project(app: &App, ask: &Ask, new: &NewCluster) -> Result<Project, Error> {
    let name = match (&new.project, ask.caller.scope()) {
        (Some(name), _) => name.clone(),
        (None, Some(own)) => own.to_string(),
        (None, None) => return Err(Error::field("project", "an operator must name one")),
    };
    let found = projects::find(app, &name).await?;
    let found = found.filter(|project| ask.caller.sees(project.id));
    found.ok_or_else(|| Error::field("project", format!("there is no project {name}")))
}

async fn offering(tx: &mut Tx, name: &str) -> Result<OfferingRow, Error> {
    if let Some(offering) = offerings::find_named(&mut **tx, name).await? {
        return Ok(offering);
    }
    let all = offerings::names(&mut **tx).await?;
    let all = known(all.iter().map(String::as_str));
    Err(Error::field("offering", format!("no offering {name}; {all}")))
}

fn cloud_names(spec: &ClusterSpec) -> Vec<String> {
    let mut names: Vec<String> = spec.pools.iter().map(|pool| pool.cloud.clone()).collect();
    names.push(spec.control_plane.cloud.clone());
    names.sort_unstable();
    names.dedup();
    names
}

fn resolve(
    app: &App,
    (new, offering): (&NewCluster, &OfferingRow),
    clouds: &Clouds,
    empty: ClusterRow,
) -> Result<Resolved, Error> {
    let spec = &new.spec;
    let mut errors = FieldErrors::default();
    let home = clouds.named(&spec.control_plane.cloud, "control_plane.cloud", &mut errors);
    let mut pool_clouds = Vec::new();
    for (n, pool) in spec.pools.iter().enumerate() {
        pool_clouds.extend(clouds.named(&pool.cloud, &format!("pools[{n}].cloud"), &mut errors));
    }
    // Unknown names first: what is wrong with the request goes before what is wrong with the world.
    let Some(home) = home.filter(|_| errors.0.is_empty()) else { return Err(errors.into()) };
    clouds.check_ready()?;
    let mut fitting = Fitting { offering, errors, demands: BTreeMap::new() };
    let flavor = fitting.control_plane(spec, home)?;
    let mut pools = Vec::new();
    for (n, (pool, cloud)) in spec.pools.iter().zip(pool_clouds).enumerate() {
        let row = fitting.pool(&format!("pools[{n}]"), pool, cloud)?;
        pools.push(PoolRow { id: PoolId(app.ids.uuid()), cluster_id: empty.id, ..row });
    }
    fitting.check_quotas()?;
    let cluster = ClusterRow {
        name: new.name.clone(),
        offering_id: offering.id,
        control_plane_cloud_id: home.id,
        control_plane_count: spec.control_plane.count,
        control_plane_flavor: flavor,
        network: spec.network.clone(),
        api_server_args: spec.api_server_args.clone(),
        ..empty
    };
    fitting.errors.into_result(Resolved { cluster, pools }).map_err(Error::from)
}

/// Collects what is wrong and what is needed while the parts of a wish are resolved.
struct Fitting<'a> {
    offering: &'a OfferingRow,
    errors: FieldErrors,
    /// By name of the cloud: the cloud, the field to blame, what is needed.
    demands: BTreeMap<String, (&'a CloudRow, String, Demand)>,
}

impl<'a> Fitting<'a> {
    fn control_plane(&mut self, spec: &ClusterSpec, cloud: &'a CloudRow) -> Result<String, Error> {
        let wish = &spec.control_plane;
        let defaults = &cloud.spec.defaults;
        let default = defaults.control_plane_flavor.as_ref().unwrap_or(&defaults.flavor);
        let flavor = wish.flavor.as_ref().unwrap_or(default).clone();
        self.base(cloud, "control_plane.cloud")?;
        self.servers(cloud, (&flavor, "control_plane.flavor"), wish.count)?;
        self.demand(cloud, "control_plane.count").add_port();
        Ok(flavor)
    }

    fn pool(&mut self, path: &str, pool: &PoolSpec, cloud: &'a CloudRow) -> Result<PoolRow, Error> {
        let defaults = &cloud.spec.defaults;
        let flavor = pool.flavor.as_ref().unwrap_or(&defaults.flavor).clone();
        let zone = pool.zone.as_ref().or(defaults.zone.as_ref()).cloned();
        self.base(cloud, &format!("{path}.cloud"))?;
        if let Some(zone) = &zone
            && let Err(problem) = resolve::zone(fit::inventory(cloud)?, zone)
        {
            self.errors.push(format!("{path}.zone"), format!("cloud {}: {problem}", cloud.name));
        }
        self.demand(cloud, &format!("{path}.count"));
        self.servers(cloud, (&flavor, &format!("{path}.flavor")), pool.count)?;
        Ok(PoolRow {
            id: PoolId(uuid::Uuid::nil()),
            cluster_id: ClusterId(uuid::Uuid::nil()),
            name: pool.name.clone(),
            cloud_id: cloud.id,
            flavor,
            zone,
            network: None,
            security_group: None,
            image: None,
            count: pool.count,
            labels: pool.labels.clone(),
            taints: pool.taints.clone(),
            surge: pool.surge,
        })
    }

    /// Image, network and security group, once a cloud.
    fn base(&mut self, cloud: &'a CloudRow, field: &str) -> Result<(), Error> {
        if self.demands.contains_key(&cloud.name) {
            return Ok(());
        }
        fit::check_base(cloud, &self.offering.spec, (field, "offering"), &mut self.errors)
    }

    fn servers(
        &mut self,
        cloud: &'a CloudRow,
        (flavor, field): (&str, &str),
        count: u32,
    ) -> Result<(), Error> {
        match resolve::flavor(fit::inventory(cloud)?, flavor) {
            Ok(flavor) => self.demand(cloud, field).add(count, flavor),
            Err(problem) => self.errors.push(field, format!("cloud {}: {problem}", cloud.name)),
        }
        Ok(())
    }

    /// What is needed of a cloud; pools are blamed for a small quota before the control plane.
    fn demand(&mut self, cloud: &'a CloudRow, field: &str) -> &mut Demand {
        let entry = self.demands.entry(cloud.name.clone());
        let entry = entry.or_insert_with(|| (cloud, field.to_owned(), Demand::default()));
        if field.strip_suffix(".count").is_some() {
            field.clone_into(&mut entry.1);
        }
        &mut entry.2
    }

    fn check_quotas(&mut self) -> Result<(), Error> {
        for (cloud, field, demand) in self.demands.values() {
            for problem in demand.shortage(cloud, fit::inventory(cloud)?) {
                self.errors.push(field.as_str(), problem);
            }
        }
        Ok(())
    }
}
