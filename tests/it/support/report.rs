//! What is going on in a test world, for the message of a failed test.

use std::fmt::Write as _;

use sqlx::Row;

use super::world::TestWorld;

impl TestWorld {
    /// What is going on, for the message of a failed test.
    pub async fn report(&self) -> String {
        let pool = self.db.store.pool();
        let mut text = format!("now {}\n", self.db.now());
        let work = sqlx::query(
            "SELECT kind, resource_id::text AS id, due_at::text AS due, attempts,
                    coalesce(last_error, parked_reason, '') AS why
             FROM work_items ORDER BY kind",
        );
        for row in work.fetch_all(pool).await.unwrap_or_default() {
            let (kind, due, why): (String, String, String) =
                (row.get("kind"), row.get("due"), row.get("why"));
            let _never_fails = writeln!(
                text,
                "work {kind} due {due} attempts {} {why}",
                row.get::<i32, _>("attempts")
            );
        }
        let waiting = sqlx::query(
            "SELECT 'cluster' AS what, phase, waiting::text AS waiting FROM clusters
             UNION ALL SELECT 'migration', phase, waiting::text FROM migrations",
        );
        for row in waiting.fetch_all(pool).await.unwrap_or_default() {
            let (what, phase, waiting): (String, String, String) =
                (row.get("what"), row.get("phase"), row.get("waiting"));
            let _never_fails = writeln!(text, "{what} {phase} waits {waiting}");
        }
        let nodes = sqlx::query(
            "SELECT name, desired, port, server, coalesce(server_status, '') AS status, token,
                    object, kubelet::text AS kubelet, drain, coalesce(trouble, '') AS trouble
             FROM nodes WHERE closed_at IS NULL ORDER BY name",
        );
        for row in nodes.fetch_all(pool).await.unwrap_or_default() {
            let words: Vec<String> = [
                "name", "desired", "port", "server", "status", "token", "object", "drain",
                "trouble", "kubelet",
            ]
            .map(|column| row.get::<String, _>(column))
            .into();
            let _never_fails = writeln!(text, "node {}", words.join(" "));
        }
        let truth = self.sim.truth();
        for server in &truth.servers {
            let _never_fails =
                writeln!(text, "server {} {} {}", server.cloud, server.name, server.status);
        }
        for port in &truth.ports {
            let _never_fails =
                writeln!(text, "port {} {} {}", port.cloud, port.name, port.description);
        }
        text
    }
}
