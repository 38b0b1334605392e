//! Why a migration is not going on, as the API tells it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Result;
use crate::support::api::TestApi;

struct Asked {
    api: TestApi,
    cluster: Uuid,
    migration: Uuid,
}

impl Asked {
    async fn new(spec: Value) -> Self {
        let api = TestApi::new().await;
        let cluster = api.running_cluster().await;
        let mut wish = json!({ "target": "west", "canary": "off" });
        wish.as_object_mut().expect("a map").extend(spec.as_object().cloned().unwrap_or_default());
        let made = api.post(&format!("/v1/clusters/{cluster}/migrations"), &wish).await;
        let migration = made.id();
        made.expect(201);
        Self { api, cluster, migration }
    }

    async fn sql(&self, statement: &'static str) {
        self.api.sql(statement, self.migration).await;
    }

    async fn why(&self) -> Value {
        let path = format!("/v1/migrations/{}/explanation", self.migration);
        self.api.call("GET", &path, "shop-viewer").send().await.expect(200)
    }
}

/// Kind, who has to act, and the text of each reason.
fn told(why: &Value) -> Vec<String> {
    let reasons = why["reasons"].as_array().expect("reasons").iter();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    reasons
        .map(|r| format!("{} {}: {}", word(&r["kind"]), word(&r["needs"]), word(&r["text"])))
        .collect()
}

#[tokio::test]
async fn a_gate_names_who_opens_it() -> Result {
    let asked = Asked::new(json!({ "commit": "manual" })).await;
    asked
        .sql(
            "UPDATE migrations SET phase = 'approval', wave = 0,
                 waiting = '[\"wave 1 waits for approval\"]' WHERE id = $1",
        )
        .await;
    let why = asked.why().await;
    assert_eq!(told(&why), ["approval owner: wave 1 is through and waits for approval"]);
    assert_eq!(why["is_going"], false);
    assert_eq!(why["reasons"][0]["verbs"], json!(["approve", "rollback"]));
    asked
        .sql("UPDATE migrations SET paused = 'by ann: lunch', waiting = '[\"paused: by ann: lunch\"]' WHERE id = $1")
        .await;
    let why = asked.why().await;
    assert_eq!(told(&why)[0], "paused owner: it is paused: by ann: lunch");
    assert_eq!(why["reasons"][0]["verbs"], json!(["resume", "rollback"]));
    asked
        .sql(
            "UPDATE migrations SET phase = 'holding', paused = NULL,
                 waiting = '[\"waits for commit\"]' WHERE id = $1",
        )
        .await;
    let said = "commit owner: all waves are through; the old nodes are kept until somebody commits";
    assert_eq!(told(&asked.why().await), [said]);
    asked.sql("UPDATE migrations SET phase = 'rolled_back', waiting = '[]' WHERE id = $1").await;
    assert_eq!(told(&asked.why().await), ["over nobody: it is over: rolled_back"]);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_refuses_is_told_once_with_its_reason_and_the_deadline() -> Result {
    let asked = Asked::new(json!({})).await;
    asked
        .sql(
            "UPDATE migrations SET phase = 'draining', wave = 0,
                 waiting = '[\"web-main-0: shop/web-1 (PDB web allows 0 disruptions)\",
                             \"web-main-1: 1 drains at once\"]'
             WHERE id = $1",
        )
        .await;
    asked
        .api
        .sql(
            "UPDATE nodes SET drain = 'evicting', drain_started_at = created_at, blockers =
                 '[{\"pod\": \"shop/web-1\", \"reason\": \"PDB web allows 0 disruptions\"}]'
             WHERE cluster_id = $1 AND name = 'web-main-0'",
            asked.cluster,
        )
        .await;
    let why = asked.why().await;
    assert_eq!(
        told(&why),
        [
            "blocker owner: 1 pod keeps web-main-0 from being drained; its deadline is in 60 min",
            "waiting nobody: web-main-1: 1 drains at once",
        ]
    );
    let resources = json!(["shop/web-1: PDB web allows 0 disruptions"]);
    assert_eq!(why["reasons"][0]["resources"], resources);
    Ok(())
}

#[tokio::test]
async fn work_that_fails_waits_or_was_stopped_is_told_with_its_next_try() -> Result {
    let asked = Asked::new(json!({})).await;
    asked.sql("UPDATE migrations SET phase = 'provisioning', waiting = '[]' WHERE id = $1").await;
    let item = |set: &'static str| asked.api.sql(set, asked.cluster);
    item(
        "UPDATE work_items SET attempts = 3, last_error = 'nova list servers: 503',
             due_at = due_at + interval '90 seconds'
         WHERE kind = 'cluster' AND resource_id = $1",
    )
    .await;
    let why = asked.why().await;
    let said = "work nobody: cluster failed 3 times: nova list servers: 503; next try in 90 s";
    assert_eq!(told(&why), [said]);
    assert_eq!((&why["is_going"], &why["reasons"][0]["verbs"]), (&json!(true), &json!(["retry"])));
    item(
        "UPDATE work_items SET parked_reason = 'CapacityUnavailable: no valid host',
             parked_at = due_at WHERE kind = 'cluster' AND resource_id = $1",
    )
    .await;
    let why = asked.why().await;
    let said =
        "work operator: cluster waits: CapacityUnavailable: no valid host; next look in 90 s";
    assert_eq!(told(&why), [said]);
    item("UPDATE work_items SET enabled = false WHERE kind = 'cluster' AND resource_id = $1").await;
    let why = asked.why().await;
    assert_eq!(told(&why), ["work operator: an operator stopped the cluster worker for it"]);
    assert_eq!(why["reasons"][0]["work"]["is_disabled"], true);
    Ok(())
}
