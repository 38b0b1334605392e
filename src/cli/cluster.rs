//! `zcpctl cluster`

use clap::Subcommand;

use super::confirm::Consent;
use super::create::CreateArgs;
use super::output::{Rows, facts, moment, note, table, word};
use super::wait::{self, Look, Wait};
use super::{Context, Failure};
use crate::api::clusters::{Cluster, Kubeconfig, KubeconfigRequest, NewCluster, PoolPatch};
use crate::api::nodes::Node;
use crate::domain::cluster::ClusterPhase;
use crate::domain::duration::HumanDuration;
use crate::domain::node::Desired;

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Makes a cluster.
    Create {
        #[command(flatten)]
        cluster: Box<CreateArgs>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Lists clusters.
    List {
        /// Also those of which nothing is left.
        #[arg(long)]
        deleted: bool,
    },
    /// Shows a cluster.
    Get(Which),
    /// Lists the nodes of a cluster.
    Nodes(Which),
    /// Changes how many workers a pool has.
    Scale {
        #[command(flatten)]
        which: Which,
        /// The pool.
        pool: String,
        /// How many workers.
        #[arg(long)]
        count: u32,
        #[command(flatten)]
        wait: Wait,
    },
    /// Deletes a cluster with everything that belongs to it on every cloud.
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        wait: Wait,
    },
    /// Prints a short-lived kubeconfig with all rights in the cluster.
    Kubeconfig {
        #[command(flatten)]
        which: Which,
        /// How long it is good, 5m to 24h.
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: HumanDuration,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Name or id of the cluster.
    #[arg(value_name = "CLUSTER")]
    pub(super) cluster: String,
}

impl Rows for Cluster {
    const HEADER: &'static [&'static str] =
        &["NAME", "PROJECT", "PHASE", "KUBERNETES", "WORKERS", "CLOUDS"];

    fn row(&self) -> Vec<String> {
        let (usable, wanted) = self.workers();
        let mut clouds: Vec<&str> = self.pools.iter().map(|pool| pool.cloud.as_str()).collect();
        clouds.push(&self.control_plane.cloud);
        clouds.sort_unstable();
        clouds.dedup();
        vec![
            self.name.clone(),
            self.project.clone(),
            word(&self.phase),
            self.kubernetes_version.clone(),
            format!("{usable}/{wanted}"),
            clouds.join(","),
        ]
    }
}

impl Cluster {
    /// Workers that serve, and workers that are wanted.
    fn workers(&self) -> (u32, u32) {
        let sum =
            |count: fn(&crate::api::clusters::Pool) -> u32| self.pools.iter().map(count).sum();
        (sum(|pool| pool.usable), sum(|pool| pool.count))
    }

    /// Whether everything is as it is wanted.
    fn is_settled(&self) -> bool {
        self.phase == ClusterPhase::Running
            && self.observed_generation >= self.generation
            && self.control_plane.usable >= self.control_plane.count
            && self.pools.iter().all(|pool| pool.usable == pool.count && pool.nodes == pool.count)
    }

    /// Where it is, in one line.
    fn progress(&self) -> String {
        let (usable, wanted) = self.workers();
        let mut text = format!(
            "{}, control plane {}/{}, workers {usable}/{wanted}",
            word(&self.phase),
            self.control_plane.usable,
            self.control_plane.count
        );
        if let Some(reason) = self.waiting.first() {
            text.extend(["; ", reason.as_str()]);
        }
        text
    }
}

impl Rows for Node {
    const HEADER: &'static [&'static str] =
        &["NAME", "POOL", "CLOUD", "STAGE", "DRAIN", "ADDRESS", "TROUBLE"];

    fn row(&self) -> Vec<String> {
        let drain = word(&self.drain);
        vec![
            self.name.clone(),
            self.pool.clone().unwrap_or_else(|| "-".to_owned()),
            self.cloud.clone(),
            word(&self.stage),
            if drain == "idle" { String::new() } else { drain },
            self.address.clone().unwrap_or_default(),
            self.trouble.clone().unwrap_or_default(),
        ]
    }
}

pub(super) async fn run(ctx: &Context, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Create { cluster, wait } => create(ctx, *cluster, wait).await,
        ClusterCommand::List { deleted } => {
            let mut query = Vec::new();
            query.extend(ctx.project.as_deref().map(|project| ("project", project)));
            query.extend(deleted.then_some(("deleted", "true")));
            let clusters: Vec<Cluster> = ctx.client.list(&["v1", "clusters"], &query).await?;
            ctx.output.list(&clusters)
        }
        ClusterCommand::Get(which) => {
            let cluster = find_cluster(ctx, &which.cluster).await?;
            ctx.output.detail(&cluster, || text(&cluster))
        }
        ClusterCommand::Nodes(which) => {
            let id = find_cluster(ctx, &which.cluster).await?.id.to_string();
            let nodes: Vec<Node> = ctx.client.list_whole(&["v1", "clusters", &id, "nodes"]).await?;
            ctx.output.list(&nodes)
        }
        ClusterCommand::Scale { which, pool, count, wait } => {
            scale(ctx, &which.cluster, (&pool, count), wait).await
        }
        ClusterCommand::Delete { which, consent, wait } => {
            delete(ctx, &which.cluster, consent, wait).await
        }
        ClusterCommand::Kubeconfig { which, ttl } => {
            let id = find_cluster(ctx, &which.cluster).await?.id.to_string();
            let body = KubeconfigRequest { lifetime_seconds: Some(ttl.seconds()) };
            let made: Kubeconfig =
                ctx.client.post(&["v1", "clusters", &id, "kubeconfig"], &body).await?;
            ctx.output.detail(&made, || made.kubeconfig.clone())
        }
    }
}

/// A cluster by name (in the chosen project) or id.
pub(super) async fn find_cluster(ctx: &Context, name: &str) -> Result<Cluster, Failure> {
    if name.parse::<uuid::Uuid>().is_ok() {
        return ctx.client.get(&["v1", "clusters", name]).await;
    }
    let mut query = vec![("name", name)];
    query.extend(ctx.project.as_deref().map(|project| ("project", project)));
    let mut found: Vec<Cluster> = ctx.client.list(&["v1", "clusters"], &query).await?;
    match (found.pop(), found.is_empty()) {
        (Some(cluster), true) => Ok(cluster),
        (Some(_), false) => Err(Failure::input(format!("there are several clusters named {name}"))
            .with_hint("choose the project with --project")),
        (None, _) => {
            let place = ctx.project.as_ref().map(|project| format!(" in project {project}"));
            let place = place.unwrap_or_default();
            Err(Failure::input(format!("there is no cluster {name}{place}"))
                .with_hint("zcpctl cluster list shows those that you may see"))
        }
    }
}

async fn create(ctx: &Context, cluster: CreateArgs, wait: Wait) -> Result<(), Failure> {
    let new: NewCluster = cluster.request(ctx.project.clone())?;
    let made: Cluster = ctx.client.post(&["v1", "clusters"], &new).await?;
    settled(ctx, made, wait).await
}

async fn scale(
    ctx: &Context,
    name: &str,
    (pool, count): (&str, u32),
    wait: Wait,
) -> Result<(), Failure> {
    let id = find_cluster(ctx, name).await?.id.to_string();
    let patch = PoolPatch { count: Some(count), ..PoolPatch::default() };
    let path = ["v1", "clusters", &id, "pools", pool];
    let changed: Cluster = ctx.client.patch(&path, &patch).await?;
    settled(ctx, changed, wait).await
}

/// Shows the cluster, after waiting for it where that is wanted.
async fn settled(ctx: &Context, cluster: Cluster, wait: Wait) -> Result<(), Failure> {
    if !wait.wait {
        return ctx.output.one(&cluster);
    }
    let (id, what) = (cluster.id.to_string(), format!("cluster {}", cluster.name));
    let cluster = wait::until(wait.timeout, &what, || async {
        let now: Cluster = ctx.client.get(&["v1", "clusters", &id]).await?;
        if now.desired == Desired::Absent {
            return Err(Failure::input(format!("cluster {} is being deleted", now.name)));
        }
        Ok(if now.is_settled() { Look::Done(now) } else { Look::NotYet(now.progress()) })
    })
    .await?;
    ctx.output.one(&cluster)
}

async fn delete(ctx: &Context, name: &str, consent: Consent, wait: Wait) -> Result<(), Failure> {
    let cluster = find_cluster(ctx, name).await?;
    let (_, workers) = cluster.workers();
    consent.ask(&format!(
        "cluster {} of project {} will be deleted: {} control-plane servers, {workers} workers, \
         and everything that runs on them",
        cluster.name, cluster.project, cluster.control_plane.count
    ))?;
    let id = cluster.id.to_string();
    ctx.client.delete(&["v1", "clusters", &id]).await?;
    if !wait.wait {
        note(&format!("cluster {} is being deleted", cluster.name));
        return Ok(());
    }
    wait::until(wait.timeout, &format!("cluster {}", cluster.name), || async {
        let now: Cluster = ctx.client.get(&["v1", "clusters", &id]).await?;
        Ok(if now.phase == ClusterPhase::Deleted {
            Look::Done(())
        } else {
            Look::NotYet(left(&now))
        })
    })
    .await?;
    note(&format!("cluster {} is deleted", cluster.name));
    Ok(())
}

/// What of a cluster is still to go.
fn left(cluster: &Cluster) -> String {
    let nodes: u32 = cluster.pools.iter().map(|pool| pool.nodes).sum();
    let mut text = format!("deleting, {nodes} workers left");
    if let Some(reason) = cluster.waiting.first() {
        text.extend(["; ", reason.as_str()]);
    }
    text
}

fn text(cluster: &Cluster) -> String {
    let plane = &cluster.control_plane;
    let mut text = facts(&[
        ("name", cluster.name.clone()),
        ("id", cluster.id.to_string()),
        ("project", cluster.project.clone()),
        ("phase", word(&cluster.phase)),
        ("offering", cluster.offering.clone()),
        ("kubernetes", cluster.kubernetes_version.clone()),
        ("endpoint", cluster.endpoint.clone().unwrap_or_default()),
        (
            "control plane",
            format!("{}/{} on {} ({})", plane.usable, plane.count, plane.cloud, plane.flavor),
        ),
        ("migration", cluster.migration.map(|id| id.to_string()).unwrap_or_default()),
        ("waiting for", cluster.waiting.join("; ")),
        ("created", moment(cluster.created_at)),
    ]);
    let pools = cluster.pools.iter().map(|pool| {
        let labels: Vec<String> = pool.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            pool.name.clone(),
            pool.cloud.clone(),
            pool.flavor.clone(),
            format!("{}/{}", pool.usable, pool.count),
            labels.join(","),
        ]
    });
    let header = ["POOL", "CLOUD", "FLAVOR", "WORKERS", "LABELS"];
    text.extend(["\n", table(&header, pools.collect()).as_str()]);
    if !cluster.conditions.is_empty() {
        let rows = cluster
            .conditions
            .iter()
            .map(|one| vec![one.kind.clone(), one.status.to_string(), one.message.clone()]);
        text.extend(["\n", table(&["CONDITION", "STATUS", "MESSAGE"], rows.collect()).as_str()]);
    }
    text
}
