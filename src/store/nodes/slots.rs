//! Build slots: how many servers a cloud builds at once, and whose turn it is.
//!
//! While servers of several clusters wait, each cluster has its share of the slots: a pool of two
//! hundred does not keep a pool of one waiting for an hour. A cluster that is stopped or waits for
//! something else has no share. Who waits sleeps; whoever sees that slots are free wakes as many
//! as can have one ([`next_in_line`]).

use std::time::Duration;

use sqlx::{PgExecutor, Row};

use crate::domain::ids::{CloudId, ClusterId};
use crate::store::{StoreError, Tx, ts};

/// How long a cluster that waits for a slot sleeps at the longest: should the lists of servers
/// stop, nobody is woken.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A node whose server takes a slot. The index `nodes_building_idx` has this condition.
pub(super) const IS_BUILDING: &str = "closed_at IS NULL
    AND (server = 'unknown'
         OR server = 'present' AND (server_status IS NULL OR server_status = 'BUILD'))";

/// A node that lacks nothing but a slot at `$2`, of a cluster that looks again soon. The index
/// `nodes_wanted_idx` has the first line as its condition.
const IS_WAITING: &str = "closed_at IS NULL AND server = 'never'
    AND port = 'present' AND token = 'present' AND desired = 'present' AND trouble IS NULL
    AND (not_before IS NULL OR not_before <= $2)
    AND EXISTS (SELECT 1 FROM work_items
                WHERE kind = 'cluster' AND resource_id = cluster_id AND enabled
                  AND due_at <= $2 + make_interval(secs => $3))";

/// Seconds within which a cluster that waits for nothing but a slot looks again.
fn soon() -> f64 {
    (LONGEST_WAIT + Duration::from_secs(10)).as_secs_f64()
}

/// Whether one more server of a cluster may be built on a cloud that takes `slots` at once. What
/// it answers can be old at once; [`take`] decides.
pub async fn is_free(
    executor: impl PgExecutor<'_>,
    (cloud, cluster): (CloudId, ClusterId),
    slots: u32,
    now: jiff::Timestamp,
) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT ours, CASE WHEN building < $5 THEN (
                    SELECT count(DISTINCT cluster_id) FROM nodes
                    WHERE cloud_id = $1 AND cluster_id <> $4 AND {IS_WAITING})
                END AS others
         FROM (SELECT count(*) AS building, count(*) FILTER (WHERE cluster_id = $4) AS ours
               FROM nodes
               WHERE cloud_id = $1 AND {IS_BUILDING}) AS now"
    );
    let slots = i64::from(slots);
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(cloud)
        .bind(ts(now))
        .bind(soon())
        .bind(cluster)
        .bind(slots)
        .fetch_one(executor)
        .await?;
    // Nobody is counted when all slots are taken.
    let Some(others) = row.try_get::<Option<i64>, _>("others")? else { return Ok(false) };
    let share = (slots + others) / (others + 1);
    Ok(row.try_get::<i64, _>("ours")? < share)
}

/// The same, decided: locks the cloud's row, so that two replicas do not both take the last slot.
/// The lock ends with the transaction that records the intent.
pub async fn take(
    tx: &mut Tx,
    (cloud, cluster): (CloudId, ClusterId),
    slots: u32,
    now: jiff::Timestamp,
) -> Result<bool, StoreError> {
    sqlx::query("SELECT 1 FROM clouds WHERE id = $1 FOR UPDATE")
        .bind(cloud)
        .fetch_optional(&mut **tx)
        .await?;
    is_free(&mut **tx, (cloud, cluster), slots, now).await
}

/// Clusters that can have the free ones of a cloud's `slots` now, one for each: those with the
/// fewest servers in building first, then who waits longest.
pub async fn next_in_line(
    executor: impl PgExecutor<'_>,
    cloud: CloudId,
    slots: u32,
    now: jiff::Timestamp,
) -> Result<Vec<ClusterId>, StoreError> {
    let sql = format!(
        "WITH building AS (
             SELECT cluster_id, count(*) AS servers
             FROM nodes
             WHERE cloud_id = $1 AND {IS_BUILDING}
             GROUP BY cluster_id),
         waiting AS (
             SELECT cluster_id, min(created_at) AS since
             FROM nodes
             WHERE cloud_id = $1 AND {IS_WAITING}
             GROUP BY cluster_id)
         SELECT cluster_id
         FROM waiting LEFT JOIN building USING (cluster_id)
         ORDER BY coalesce(servers, 0), since, cluster_id
         LIMIT greatest($4 - (SELECT coalesce(sum(servers), 0) FROM building), 0)"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(cloud)
        .bind(ts(now))
        .bind(soon())
        .bind(i64::from(slots))
        .fetch_all(executor)
        .await?;
    rows.iter().map(|row| Ok(row.try_get("cluster_id")?)).collect()
}
