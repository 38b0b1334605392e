//! `/v1/migrations`, and those of one cluster.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use super::nodes::number;
use super::{events::event, page, tag};
use crate::api::Page;
use crate::api::events::Event;
use crate::api::migrations::{
    Explanation, Migration, MigrationNode, NewMigration, Progress, Side, VerbRequest, Wave,
    WaveState,
};
use crate::app::authz::Caller;
use crate::app::migrations::{self, MemberView, MigrationView, Steer};
use crate::domain::explanation::Needs;
use crate::domain::ids::{ClusterId, MigrationId};
use crate::domain::migration::{Direction, Phase, VERBS, Verb};
use crate::http::extract::{self, Body, IfMatch, PageQuery, Query, Segment, Segments, id};
use crate::http::{Api, Refusal};

/// Which migrations to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MigrationQuery {
    /// Most entries, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this project's, by name or id.
    project: Option<String>,
}

/// Move a cluster's workers to another cloud
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/migrations", tag = "migrations",
    operation_id = "create_migration", request_body = NewMigration,
    params(("cluster" = uuid::Uuid, Path, description = "Id of the cluster"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Migration, description = "Accepted; nodes and waves are fixed")),
)]
pub async fn create(
    State(api): State<Api>,
    Segment(text): Segment,
    Body { ask, value }: Body<NewMigration>,
) -> Result<impl IntoResponse, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let run = api.run(|app| async move { migrations::create(&app, &ask, id, &value).await });
    let view = run.await?;
    Ok((StatusCode::CREATED, tag(view.row.generation), Json(migration(view))))
}

/// List migrations; tenants see their own
#[utoipa::path(
    get, path = "/v1/migrations", tag = "migrations", operation_id = "list_migrations",
    params(MigrationQuery),
    responses((status = 200, body = Page<Migration>, description = "Newest first, without nodes")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<MigrationQuery>,
) -> Result<Json<Page<Migration>>, Refusal> {
    let request = extract::page(query.limit, query.cursor)?;
    let run = api.run(|app| async move {
        migrations::list(&app, &caller, (query.project.as_deref(), None), &request).await
    });
    Ok(page(run.await?, brief))
}

/// List the migrations of a cluster
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/migrations", tag = "migrations",
    operation_id = "list_cluster_migrations",
    params(("cluster" = uuid::Uuid, Path, description = "Id of the cluster"), PageQuery),
    responses((status = 200, body = Page<Migration>, description = "Newest first, without nodes")),
)]
pub async fn list_of_cluster(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Migration>>, Refusal> {
    let (id, request) = (id::<ClusterId>("cluster", &text)?, query.page()?);
    let run =
        api.run(
            |app| async move { migrations::list(&app, &caller, (None, Some(id)), &request).await },
        );
    Ok(page(run.await?, brief))
}

/// Read a migration with its nodes
#[utoipa::path(
    get, path = "/v1/migrations/{migration}", tag = "migrations",
    operation_id = "show_migration",
    params(("migration" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Migration, description = "The migration")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<impl IntoResponse, Refusal> {
    let id: MigrationId = id("migration", &text)?;
    let view = api.run(|app| async move { migrations::show(&app, &caller, id).await }).await?;
    Ok((tag(view.row.generation), Json(migration(view))))
}

/// Steer a migration
///
/// Every verb may be repeated. One that makes no sense now is refused with what would.
#[utoipa::path(
    post, path = "/v1/migrations/{migration}/{verb}", tag = "migrations",
    operation_id = "steer_migration", request_body = VerbRequest,
    params(("migration" = uuid::Uuid, Path, description = "Id"),
           ("verb" = Verb, Path, description = "What is wanted"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 202, body = Migration, description = "Written down; a worker takes it up")),
)]
pub async fn steer(
    State(api): State<Api>,
    Segments(text, verb): Segments,
    IfMatch(seen): IfMatch,
    Body { ask, value }: Body<VerbRequest>,
) -> Result<impl IntoResponse, Refusal> {
    let id: MigrationId = id("migration", &text)?;
    let known = VERBS.into_iter().find(|known| known.as_str() == verb);
    let verb = known.ok_or_else(|| crate::app::Error::absent("verb", verb))?;
    let run = api.run(|app| async move {
        let (reason, node) = (value.reason.as_deref(), value.node.as_deref());
        let steer = Steer { verb, reason, seen, node };
        migrations::steer(&app, &ask, id, steer).await
    });
    let view = run.await?;
    Ok((StatusCode::ACCEPTED, tag(view.row.generation), Json(migration(view))))
}

/// Read what happened to a migration
#[utoipa::path(
    get, path = "/v1/migrations/{migration}/timeline", tag = "migrations",
    operation_id = "migration_timeline",
    params(("migration" = uuid::Uuid, Path, description = "Id"), PageQuery),
    responses((status = 200, body = Page<Event>, description = "Newest first")),
)]
pub async fn timeline(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Event>>, Refusal> {
    let (id, request) = (id::<MigrationId>("migration", &text)?, query.page()?);
    let run = api.run(|app| async move { migrations::timeline(&app, &caller, id, &request).await });
    Ok(page(run.await?, event))
}

/// Explain why a migration is not going on
///
/// The planner's reasons, work that waits or fails, insights that block, pods that refuse to go,
/// and who can do what about each.
#[utoipa::path(
    get, path = "/v1/migrations/{migration}/explanation", tag = "migrations",
    operation_id = "explain_migration",
    params(("migration" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Explanation, description = "Why it is where it is")),
)]
pub async fn explain(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<Json<Explanation>, Refusal> {
    let id = id::<MigrationId>("migration", &text)?;
    let run = api.run(|app| async move { migrations::explain(&app, &caller, id).await });
    let (view, reasons) = run.await?;
    let row = &view.row;
    Ok(Json(Explanation {
        id: row.id,
        cluster: view.cluster.name.clone(),
        phase: row.phase,
        phase_since: row.phase_since,
        wave: is_in_waves(row.phase).then(|| number(row.wave)),
        is_going: !row.phase.is_final() && reasons.iter().all(|r| r.needs == Needs::Nobody),
        reasons,
    }))
}

fn brief(view: MigrationView) -> Migration {
    Migration { nodes: Vec::new(), ..migration(view) }
}

fn migration(view: MigrationView) -> Migration {
    let name_of = |id| view.clouds.get(&id).cloned().unwrap_or_default();
    let row = &view.row;
    let direction = Direction::of(row.phase, row.wants_rollback);
    Migration {
        id: row.id,
        cluster_id: row.cluster_id,
        cluster: view.cluster.name.clone(),
        project: view.project.clone(),
        source: name_of(row.source),
        target: name_of(row.target),
        pools: row.pools.iter().filter_map(|id| view.pools.get(id).cloned()).collect(),
        phase: row.phase,
        phase_since: row.phase_since,
        direction,
        paused: row.paused.clone(),
        wave: is_in_waves(row.phase).then(|| number(row.wave)),
        waves: waves(&view),
        drain: row.spec.drain.clone(),
        hold_seconds: row.spec.hold_seconds,
        commit: row.spec.commit,
        auto_rollback: row.spec.auto_rollback,
        nodes: view.nodes.iter().map(|member| node(&view, member)).collect(),
        progress: progress(&view),
        conditions: row.conditions.clone(),
        preflight_id: row.preflight_id,
        insights: view.insights.clone(),
        waiting: row.waiting.clone(),
        legal: view.legal.clone(),
        estimated_end: view.estimated_end,
        generation: row.generation,
        created_by: row.created_by.clone(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        finished_at: row.finished_at,
    }
}

fn is_in_waves(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Draining | Phase::Soaking | Phase::Approval)
}

fn waves(view: &MigrationView) -> Vec<Wave> {
    let row = &view.row;
    let wave = |(index, spec): (usize, &crate::domain::wave::WaveSpec)| {
        let members =
            || view.nodes.iter().filter(move |m| view.waves.get(&m.node.id) == Some(&index));
        let nodes = count(members());
        Wave {
            number: number(index),
            upto: spec.upto.to_string(),
            soak_seconds: spec.soak_seconds,
            gate: spec.gate,
            nodes,
            drained: count(members().filter(|m| m.node.drain.is_over())),
            state: wave_state(row.phase, (index, row.wave), nodes),
        }
    };
    row.spec.waves.iter().enumerate().map(wave).collect()
}

fn wave_state(phase: Phase, (index, present): (usize, usize), nodes: u32) -> WaveState {
    if nodes == 0 {
        return WaveState::Skipped;
    }
    match phase {
        Phase::Holding | Phase::Committing | Phase::Succeeded => WaveState::Done,
        Phase::Pending | Phase::Preflight | Phase::Cancelled => WaveState::Waiting,
        _ if index < present => WaveState::Done,
        _ if index == present && is_in_waves(phase) => WaveState::Running,
        _ => WaveState::Waiting,
    }
}

fn count<'a>(members: impl Iterator<Item = &'a MemberView>) -> u32 {
    u32::try_from(members.count()).unwrap_or(u32::MAX)
}

fn progress(view: &MigrationView) -> Progress {
    let is_old = |member: &&MemberView| view.waves.contains_key(&member.node.id);
    let old = || view.nodes.iter().filter(is_old);
    let new = || view.nodes.iter().filter(|member| !is_old(member));
    Progress {
        old: count(old()),
        drained: count(old().filter(|m| m.node.drain.is_over())),
        new: count(new()),
        usable: count(new().filter(|m| m.node.is_usable())),
    }
}

fn node(view: &MigrationView, member: &MemberView) -> MigrationNode {
    let node = &member.node;
    let wave = view.waves.get(&node.id);
    let predecessor = view.nodes.iter().find(|m| Some(m.node.id) == node.lineage.predecessor);
    MigrationNode {
        id: node.id,
        name: node.name.clone(),
        pool: node.pool_id.and_then(|id| view.pools.get(&id).cloned()).unwrap_or_default(),
        side: if wave.is_some() { Side::Old } else { Side::New },
        wave: wave.map(|wave| number(*wave)),
        stage: node.stage(),
        drain: node.drain,
        blockers: node.blockers.clone(),
        trouble: node.trouble.clone(),
        replaces: predecessor.map(|member| member.node.name.clone()),
        ledger: member
            .heritage
            .as_ref()
            .filter(|heritage| !heritage.is_empty())
            .map(|heritage| heritage.diff(&member.ledger)),
    }
}
