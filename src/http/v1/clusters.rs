//! `/v1/clusters`

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::IntoParams;

use super::nodes::node;
use super::{page, tag};
use crate::api::Page;
use crate::api::clusters::{
    Cluster, ControlPlane, Kubeconfig, KubeconfigRequest, NewCluster, Pool, PoolPatch,
};
use crate::api::nodes::Node;
use crate::app::authz::Caller;
use crate::app::clusters::{self, ClusterView, Filter, PoolChange};
use crate::domain::ids::ClusterId;
use crate::http::extract::{self, Body, IfMatch, Query, Segment, Segments, id};
use crate::http::{Api, Refusal};

/// Which clusters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ClusterQuery {
    /// Most entries, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this project's, by name or id.
    project: Option<String>,
    /// Only those of this name.
    name: Option<String>,
    /// Also those of which nothing is left.
    deleted: Option<bool>,
}

/// Make a cluster
///
/// It begins in `creating`; conditions and `waiting` say how it gets on.
#[utoipa::path(
    post, path = "/v1/clusters", tag = "clusters", operation_id = "create_cluster",
    request_body = NewCluster,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Cluster, description = "Accepted")),
)]
pub async fn create(
    State(api): State<Api>,
    Body { ask, value }: Body<NewCluster>,
) -> Result<impl IntoResponse, Refusal> {
    let spec = value.spec();
    let NewCluster { name, project, offering, .. } = value;
    let new = clusters::NewCluster { name, project, offering, spec };
    let view = api.run(|app| async move { clusters::create(&app, &ask, &new).await }).await?;
    Ok((StatusCode::CREATED, tag(view.cluster.generation), Json(cluster(view))))
}

/// List clusters; tenants see their own
#[utoipa::path(
    get, path = "/v1/clusters", tag = "clusters", operation_id = "list_clusters",
    params(ClusterQuery),
    responses((status = 200, body = Page<Cluster>, description = "Oldest first")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ClusterQuery>,
) -> Result<Json<Page<Cluster>>, Refusal> {
    let request = extract::page(query.limit, query.cursor)?;
    let with_deleted = query.deleted.unwrap_or(false);
    let filter = Filter { project_id: None, name: query.name, with_deleted };
    let run = api.run(|app| async move {
        clusters::list(&app, &caller, (query.project.as_deref(), filter), &request).await
    });
    Ok(page(run.await?, cluster))
}

/// Read a cluster
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}", tag = "clusters", operation_id = "show_cluster",
    params(("cluster" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Cluster, description = "The cluster")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<impl IntoResponse, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let view = api.run(|app| async move { clusters::show(&app, &caller, id).await }).await?;
    Ok((tag(view.cluster.generation), Json(cluster(view))))
}

/// Delete a cluster
///
/// It is gone when its phase is `deleted`; until then conditions say what is left.
#[utoipa::path(
    delete, path = "/v1/clusters/{cluster}", tag = "clusters", operation_id = "delete_cluster",
    params(("cluster" = uuid::Uuid, Path, description = "Id"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen")),
    responses((status = 204, description = "Accepted; it goes")),
)]
pub async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
    IfMatch(seen): IfMatch,
) -> Result<StatusCode, Refusal> {
    let (ask, id) = (caller.into(), id("cluster", &text)?);
    api.run(|app| async move { clusters::delete(&app, &ask, id, seen).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change a pool: count, labels, taints, surge
#[utoipa::path(
    patch, path = "/v1/clusters/{cluster}/pools/{pool}", tag = "clusters",
    operation_id = "change_pool", request_body = PoolPatch,
    params(("cluster" = uuid::Uuid, Path, description = "Id of the cluster"),
           ("pool" = String, Path, description = "Name of the pool"),
           ("If-Match" = Option<String>, Header, description = "The cluster's generation")),
    responses((status = 200, body = Cluster, description = "The cluster as it is wanted now")),
)]
pub async fn change_pool(
    State(api): State<Api>,
    Segments(text, pool): Segments,
    IfMatch(seen): IfMatch,
    Body { ask, value }: Body<PoolPatch>,
) -> Result<impl IntoResponse, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let PoolPatch { count, labels, taints, surge } = value;
    let change = PoolChange { count, labels, taints, surge, seen };
    let run =
        api.run(|app| async move { clusters::change_pool(&app, &ask, (id, &pool), &change).await });
    let view = run.await?;
    Ok((tag(view.cluster.generation), Json(cluster(view))))
}

/// List the nodes of a cluster, all at once
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/nodes", tag = "clusters", operation_id = "list_nodes",
    params(("cluster" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Page<Node>, description = "By name; there is one page")),
)]
pub async fn list_nodes(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<Json<Page<Node>>, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let run = api.run(|app| async move { clusters::list_nodes(&app, &caller, id).await });
    let items = run.await?.into_iter().map(node).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Issue a short-lived kubeconfig
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/kubeconfig", tag = "clusters",
    operation_id = "issue_kubeconfig", request_body = KubeconfigRequest,
    params(("cluster" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Kubeconfig, description = "A new one each time")),
)]
pub async fn kubeconfig(
    State(api): State<Api>,
    Segment(text): Segment,
    Body { ask, value }: Body<KubeconfigRequest>,
) -> Result<impl IntoResponse, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let run =
        api.run(
            |app| async move { clusters::kubeconfig(&app, &ask, id, value.lifetime_seconds).await },
        );
    let view = run.await?;
    let kubeconfig = view.text.expose_secret().to_owned();
    let answer = Kubeconfig { kubeconfig, expires_at: view.expires_at };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)))
}

fn cluster(view: ClusterView) -> Cluster {
    let endpoint = view.cluster.endpoint();
    let ClusterView { cluster: row, clouds, control_plane, .. } = view;
    let name_of = |id| clouds.get(&id).cloned().unwrap_or_default();
    let pools = view.pools.into_iter().map(|(pool, nodes)| Pool {
        id: pool.id,
        cloud: name_of(pool.cloud_id),
        name: pool.name,
        flavor: pool.flavor,
        zone: pool.zone,
        count: pool.count,
        labels: pool.labels,
        taints: pool.taints,
        surge: pool.surge,
        nodes: nodes.nodes,
        usable: nodes.usable,
    });
    Cluster {
        pools: pools.collect(),
        id: row.id,
        name: row.name,
        project_id: row.project_id,
        project: view.project,
        kubernetes_version: view.offering.spec.kubernetes_version.to_string(),
        offering: view.offering.name,
        control_plane: ControlPlane {
            cloud: name_of(row.control_plane_cloud_id),
            count: row.control_plane_count,
            flavor: row.control_plane_flavor,
            usable: control_plane.usable,
        },
        network: row.network,
        api_server_args: row.api_server_args,
        phase: row.phase,
        desired: row.desired,
        generation: row.generation,
        observed_generation: row.observed_generation,
        conditions: row.conditions,
        waiting: row.waiting,
        endpoint,
        migration: view.migration,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
    }
}
