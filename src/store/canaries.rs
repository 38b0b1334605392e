//! Canaries: which are wanted, how far they are, and what they found.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};

use super::{StoreError, Ts, Tx, expect_rows, ts};
use crate::domain::canary::{Check, Outcome, Report, VALIDITY};
use crate::domain::ids::{CanaryId, CloudId, ClusterId, NodeId};
use crate::domain::node::Outside;

/// What is tried. Equal places have equal results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// For which cluster.
    pub cluster_id: ClusterId,
    /// Where its old nodes are.
    pub source_cloud_id: CloudId,
    /// Where its new nodes would be.
    pub cloud_id: CloudId,
    /// Flavor there, by name.
    pub flavor: String,
    /// Image there, by id.
    pub image_id: String,
    /// Network there, by id.
    pub network_id: String,
}

/// A canary.
#[derive(Debug, Clone)]
pub struct CanaryRow {
    /// Its id.
    pub id: CanaryId,
    /// What it tries.
    pub place: Place,
    /// Security group by name or id; none: the cloud's default.
    pub security_group: Option<String>,
    /// Availability zone; none: the cloud's default.
    pub zone: Option<String>,
    /// The preflight that it was made for.
    pub job_id: Option<uuid::Uuid>,
    /// Which of that preflight's wishes to look it was made for.
    pub wish: i64,
    /// Whether somebody still wants to know.
    pub is_wanted: bool,
    /// Its node, once it has one.
    pub node_id: Option<NodeId>,
    /// The old node that tries the way back.
    pub peer_id: Option<NodeId>,
    /// The pod on that node.
    pub probe: Outside,
    /// Since when it has joined and is asked.
    pub probe_since: Option<jiff::Timestamp>,
    /// Its round when the peer was done.
    pub round: Option<u32>,
    /// Whether the API reaches its kubelet.
    pub kubelet: Option<Check>,
    /// What the peer found.
    pub peer_report: Option<Report>,
    /// What it found.
    pub report: Option<Report>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why so, when it did not report.
    pub reason: Option<String>,
    /// The end of its console, when it did not report.
    pub console: Option<String>,
    /// When it was first wanted.
    pub created_at: jiff::Timestamp,
    /// When it ended.
    pub finished_at: Option<jiff::Timestamp>,
}

impl CanaryRow {
    /// Whether what it found is still believed.
    pub fn is_valid(&self, now: jiff::Timestamp) -> bool {
        let fresh = self.finished_at.is_some_and(|at| now < at + VALIDITY);
        fresh && self.outcome.is_some_and(|outcome| outcome != Outcome::GivenUp)
    }
}

const COLUMNS: &str = "id, cluster_id, source_cloud_id, cloud_id, flavor, image_id, network_id,
    security_group, zone, job_id, wish, is_wanted, node_id, peer_id, probe, probe_since, round, kubelet, peer_report,
    report, outcome, reason, console, created_at, finished_at";

fn read(row: &PgRow) -> Result<CanaryRow, StoreError> {
    let id: CanaryId = row.try_get("id")?;
    let at = |column| -> Result<Option<jiff::Timestamp>, StoreError> {
        Ok(row.try_get::<Option<Ts>, _>(column)?.map(Ts::to_jiff))
    };
    let probe: &str = row.try_get("probe")?;
    let probe = Outside::ALL.into_iter().find(|one| one.as_str() == probe);
    let outcome: Option<&str> = row.try_get("outcome")?;
    let outcome = outcome.map(|word| Outcome::ALL.into_iter().find(|one| one.as_str() == word));
    let wrong = |column| StoreError::inconsistent("canaries", id, column);
    Ok(CanaryRow {
        id,
        place: Place {
            cluster_id: row.try_get("cluster_id")?,
            source_cloud_id: row.try_get("source_cloud_id")?,
            cloud_id: row.try_get("cloud_id")?,
            flavor: row.try_get("flavor")?,
            image_id: row.try_get("image_id")?,
            network_id: row.try_get("network_id")?,
        },
        security_group: row.try_get("security_group")?,
        zone: row.try_get("zone")?,
        job_id: row.try_get("job_id")?,
        wish: row.try_get("wish")?,
        is_wanted: row.try_get("is_wanted")?,
        node_id: row.try_get("node_id")?,
        peer_id: row.try_get("peer_id")?,
        probe: probe.ok_or_else(|| wrong("probe"))?,
        probe_since: at("probe_since")?,
        round: row.try_get::<Option<i32>, _>("round")?.and_then(|n| u32::try_from(n).ok()),
        kubelet: row.try_get::<Option<Json<Check>>, _>("kubelet")?.map(|json| json.0),
        peer_report: row.try_get::<Option<Json<Report>>, _>("peer_report")?.map(|json| json.0),
        report: row.try_get::<Option<Json<Report>>, _>("report")?.map(|json| json.0),
        outcome: outcome.map(|found| found.ok_or_else(|| wrong("outcome"))).transpose()?,
        reason: row.try_get("reason")?,
        console: row.try_get("console")?,
        created_at: at("created_at")?.unwrap_or_default(),
        finished_at: at("finished_at")?,
    })
}

/// Whether somebody waits for it: nobody does once its migration has begun, or is to end.
const IS_WANTED: &str = "is_wanted AND NOT EXISTS (
    SELECT 1 FROM migrations m
    WHERE m.preflight_id = canaries.job_id
      AND (m.wants_cancel OR m.wants_rollback OR m.phase NOT IN ('pending', 'preflight')))
    AS is_wanted";

/// Canaries of a cluster that are under way or have left something behind, oldest first.
pub async fn open_of_cluster(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<CanaryRow>, StoreError> {
    let columns = COLUMNS.replace("is_wanted", IS_WANTED);
    let sql = format!(
        "SELECT {columns}
         FROM canaries
         WHERE cluster_id = $1
           AND (outcome IS NULL OR probe IN ('unknown', 'present', 'deleting'))
         ORDER BY created_at, id"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(cluster);
    query.fetch_all(executor).await?.iter().map(read).collect()
}

/// One canary.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: CanaryId,
) -> Result<Option<CanaryRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM canaries WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

/// The newest canary that tried, or tries, this place; one that was given up is none.
pub async fn newest(
    executor: impl PgExecutor<'_>,
    place: &Place,
) -> Result<Option<CanaryRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}
         FROM canaries
         WHERE cluster_id = $1 AND source_cloud_id = $2 AND cloud_id = $3 AND flavor = $4
           AND image_id = $5 AND network_id = $6 AND outcome IS DISTINCT FROM 'given_up'
         ORDER BY created_at DESC, id DESC
         LIMIT 1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(place.cluster_id)
        .bind(place.source_cloud_id)
        .bind(place.cloud_id)
        .bind(&place.flavor)
        .bind(&place.image_id)
        .bind(&place.network_id)
        .fetch_optional(executor)
        .await?;
    row.as_ref().map(read).transpose()
}

/// A canary that is to be made.
#[derive(Debug)]
pub struct NewCanary<'a> {
    /// Its id.
    pub id: CanaryId,
    /// What it tries.
    pub place: &'a Place,
    /// Security group by name or id; none: the cloud's default.
    pub security_group: Option<&'a str>,
    /// Availability zone; none: the cloud's default.
    pub zone: Option<&'a str>,
    /// The preflight that wants it, and which of its wishes to look that is.
    pub job: (uuid::Uuid, i64),
}

/// Wants a canary, unless one of this cluster, cloud and flavor is under way. Says whether it is
/// new.
pub async fn ensure(
    tx: &mut Tx,
    new: NewCanary<'_>,
    now: jiff::Timestamp,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "INSERT INTO canaries (id, cluster_id, source_cloud_id, cloud_id, flavor, image_id,
             network_id, zone, job_id, wish, created_at, security_group)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (cluster_id, cloud_id, flavor) WHERE outcome IS NULL DO NOTHING",
    )
    .bind(new.id)
    .bind(new.place.cluster_id)
    .bind(new.place.source_cloud_id)
    .bind(new.place.cloud_id)
    .bind(&new.place.flavor)
    .bind(&new.place.image_id)
    .bind(&new.place.network_id)
    .bind(new.zone)
    .bind(new.job.0)
    .bind(new.job.1)
    .bind(ts(now))
    .bind(new.security_group)
    .execute(&mut **tx)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Nobody wants to know any more what the canaries of a preflight find. Says whether any is open.
pub async fn give_up(tx: &mut Tx, job: uuid::Uuid) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "UPDATE canaries SET is_wanted = false WHERE job_id = $1 AND outcome IS NULL AND is_wanted",
    )
    .bind(job)
    .execute(&mut **tx)
    .await?;
    Ok(result.rows_affected() > 0)
}

/// A change of one canary.
#[derive(Debug)]
pub enum Change {
    /// Its node has a row, and so has its peer.
    Node(NodeId, Option<NodeId>),
    /// It has joined and is asked from now on.
    ProbeBegins,
    /// What is true of the pod on the peer.
    Probe(Outside),
    /// Whether the API reaches its kubelet.
    Kubelet(Check),
    /// The peer is done; the canary's round at that moment.
    PeerDone(Box<Report>, u32),
    /// It told all that it can.
    Reported(Box<Report>),
    /// It did not come that far: why, and the end of its console.
    CannotJoin(String, Option<String>),
    /// Nobody wants to know any more.
    GivenUp,
}

/// Writes a change.
pub async fn write(
    tx: &mut Tx,
    id: CanaryId,
    change: Change,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let now = ts(now);
    let query = match change {
        Change::Node(node, peer) => {
            sqlx::query("UPDATE canaries SET node_id = $2, peer_id = $3 WHERE id = $1")
                .bind(id)
                .bind(node)
                .bind(peer)
        }
        Change::ProbeBegins => {
            sqlx::query("UPDATE canaries SET probe_since = coalesce(probe_since, $2) WHERE id = $1")
                .bind(id)
                .bind(now)
        }
        Change::Probe(state) => sqlx::query("UPDATE canaries SET probe = $2 WHERE id = $1")
            .bind(id)
            .bind(state.as_str()),
        Change::Kubelet(check) => {
            sqlx::query("UPDATE canaries SET kubelet = $2 WHERE id = $1").bind(id).bind(Json(check))
        }
        Change::PeerDone(report, round) => {
            sqlx::query("UPDATE canaries SET peer_report = $2, round = $3 WHERE id = $1")
                .bind(id)
                .bind(Json(*report))
                .bind(i32::try_from(round).unwrap_or(i32::MAX))
        }
        Change::Reported(report) => sqlx::query(
            "UPDATE canaries SET outcome = 'reported', report = $2, finished_at = $3
             WHERE id = $1",
        )
        .bind(id)
        .bind(Json(*report))
        .bind(now),
        Change::CannotJoin(reason, console) => sqlx::query(
            "UPDATE canaries
             SET outcome = 'cannot_join', reason = $2, console = $3, finished_at = $4
             WHERE id = $1",
        )
        .bind(id)
        .bind(reason)
        .bind(console)
        .bind(now),
        Change::GivenUp => {
            sqlx::query("UPDATE canaries SET outcome = 'given_up', finished_at = $2 WHERE id = $1")
                .bind(id)
                .bind(now)
        }
    };
    expect_rows(&query.execute(&mut **tx).await?, 1)
}

/// Ends all canaries of a cluster that is gone, and with it what they left in it.
pub async fn close_all(
    tx: &mut Tx,
    cluster: ClusterId,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE canaries
         SET outcome = coalesce(outcome, 'given_up'),
             probe = CASE WHEN probe = 'never' THEN probe ELSE 'gone' END,
             finished_at = coalesce(finished_at, $2)
         WHERE cluster_id = $1",
    )
    .bind(cluster)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
