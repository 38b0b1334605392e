//! Migrations as their owners ask for them and steer them. No worker runs here.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Result;
use crate::support::api::TestApi;

async fn started(api: &TestApi, spec: &Value) -> (Uuid, String) {
    let cluster = api.running_cluster().await;
    let made = api.post(&format!("/v1/clusters/{cluster}/migrations"), spec).await;
    let id = made.id();
    made.expect(201);
    (id, format!("/v1/migrations/{id}"))
}

async fn set_phase(api: &TestApi, id: Uuid, phase: &str) {
    sqlx::query("UPDATE migrations SET phase = $2 WHERE id = $1")
        .bind(id)
        .bind(phase)
        .execute(api.db.store.pool())
        .await
        .expect("set a phase");
}

async fn steer(api: &TestApi, path: &str, verb: &str) -> crate::support::api::Answer {
    let path = format!("{path}/{verb}");
    api.call("POST", &path, "shop-owner").json(&json!({ "reason": "a test" })).send().await
}

#[tokio::test]
async fn nodes_and_waves_are_fixed_when_a_migration_is_accepted() -> Result {
    let api = TestApi::new().await;
    let (id, path) = started(&api, &json!({ "target": "west" })).await;
    let body = api.get(&path).await.expect(200);
    assert_eq!((&body["source"], &body["target"]), (&json!("east"), &json!("west")));
    assert_eq!((&body["phase"], &body["direction"]), (&json!("pending"), &json!("forward")));
    let waves: Vec<(u64, &str)> = body["waves"]
        .as_array()
        .expect("waves")
        .iter()
        .filter_map(|wave| Some((wave["nodes"].as_u64()?, wave["state"].as_str()?)))
        .collect();
    assert_eq!(waves, [(1, "waiting"), (0, "skipped"), (3, "waiting")], "25% of 4 is the 1");
    let nodes: Vec<(&str, u64)> = body["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| Some((node["name"].as_str()?, node["wave"].as_u64()?)))
        .collect();
    assert_eq!(nodes[0], ("web-main-0", 1));
    assert_eq!(nodes[1..].iter().map(|(_, wave)| *wave).collect::<Vec<_>>(), [3, 3, 3]);
    assert_eq!(body["legal"], json!(["pause", "rollback", "cancel", "retry"]));
    assert!(body["estimated_end"].is_string());
    let cluster = body["cluster_id"].as_str().expect("an id");
    let again =
        api.post(&format!("/v1/clusters/{cluster}/migrations"), &json!({ "target": "west" })).await;
    let again = again.expect(409);
    assert!(again["detail"].as_str().is_some_and(|text| text.contains(&id.to_string())));
    let cluster = api.get(&format!("/v1/clusters/{cluster}")).await.expect(200);
    assert_eq!(cluster["migration"], json!(id));
    Ok(())
}

#[tokio::test]
async fn verbs_are_legal_where_they_make_sense_and_may_be_repeated() -> Result {
    let api = TestApi::new().await;
    let (id, path) = started(&api, &json!({ "target": "west" })).await;
    let paused = steer(&api, &path, "pause").await.expect(202);
    assert_eq!(paused["paused"], "by owner: a test");
    let again = steer(&api, &path, "pause").await.expect(202);
    assert_eq!(again["generation"], paused["generation"], "nothing changed");
    assert_eq!(steer(&api, &path, "resume").await.expect(202).get("paused"), None);
    let refused = steer(&api, &path, "commit").await.expect(409);
    assert_eq!(refused["legal"], json!(["pause", "rollback", "cancel", "retry"]));
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("phase pending")));
    set_phase(&api, id, "approval").await;
    steer(&api, &path, "approve").await.expect(202);
    set_phase(&api, id, "holding").await;
    steer(&api, &path, "commit").await.expect(202);
    // Nobody took the commit up yet: turning back wins.
    let back = steer(&api, &path, "rollback").await.expect(202);
    assert_eq!(back["direction"], "back");
    steer(&api, &path, "commit").await.expect(409);
    steer(&api, &path, "rollback").await.expect(202);
    let forward = steer(&api, &path, "forward").await.expect(202);
    assert_eq!(forward["direction"], "forward", "the wish to turn is taken back");
    let again = steer(&api, &path, "forward").await.expect(202);
    assert_eq!(again["generation"], forward["generation"], "nothing changed");
    set_phase(&api, id, "committing").await;
    steer(&api, &path, "cancel").await.expect(409);
    steer(&api, &path, "rollback").await.expect(409);
    set_phase(&api, id, "succeeded").await;
    steer(&api, &path, "pause").await.expect(409);
    steer(&api, &path, "explode").await.expect(404);
    Ok(())
}

#[tokio::test]
async fn skipping_names_a_node_on_the_side_that_is_drained() -> Result {
    let api = TestApi::new().await;
    let (id, path) = started(&api, &json!({ "target": "west" })).await;
    let skip = async |node: serde_json::Value| {
        let path = format!("{path}/skip_node");
        api.call("POST", &path, "shop-owner").json(&node).send().await
    };
    let node = json!({ "node": "web-main-0", "reason": "its pod never ends" });
    skip(node.clone()).await.expect(409);
    set_phase(&api, id, "draining").await;
    assert_eq!(skip(json!({})).await.fields(), ["node"]);
    let unknown = skip(json!({ "node": "web-main-9" })).await;
    assert_eq!(unknown.fields(), ["node"]);
    let first = skip(node.clone()).await.expect(202);
    let again = skip(node).await.expect(202);
    assert_eq!(first["generation"], again["generation"], "nothing changed");
    let path_of_pause = format!("{path}/pause");
    let pause = api.call("POST", &path_of_pause, "shop-owner").json(&json!({ "node": "x" }));
    assert_eq!(pause.send().await.fields(), ["node"]);
    let timeline = api.get(&format!("{path}/timeline")).await.expect(200);
    let said = timeline["items"][0]["message"].as_str().unwrap_or_default();
    assert_eq!(said, "owner asked to skip node web-main-0: its pod never ends");
    Ok(())
}

#[tokio::test]
async fn deleting_a_cluster_is_possible_in_every_phase_of_its_migration() -> Result {
    let api = TestApi::new().await;
    let (id, path) = started(&api, &json!({ "target": "west" })).await;
    set_phase(&api, id, "committing").await;
    let cluster = api.get(&path).await.expect(200);
    let cluster = cluster["cluster_id"].as_str().expect("an id").to_owned();
    let delete = format!("/v1/clusters/{cluster}");
    api.call("DELETE", &delete, "shop-owner").send().await.expect(204);
    steer(&api, &path, "pause").await.expect(409);
    Ok(())
}

#[tokio::test]
async fn the_timeline_says_who_asked_for_what() -> Result {
    let api = TestApi::new().await;
    let (_, path) = started(&api, &json!({ "target": "west", "hold_seconds": 0 })).await;
    steer(&api, &path, "pause").await.expect(202);
    steer(&api, &path, "retry").await.expect(202);
    let timeline = api.get(&format!("{path}/timeline")).await.expect(200);
    let said: Vec<&str> = timeline["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|event| event["message"].as_str())
        .collect();
    assert_eq!(
        said,
        [
            "owner asked to retry: a test",
            "owner asked to pause: a test",
            "root asked to move 4 nodes to west",
        ]
    );
    let long = json!({ "reason": "x".repeat(201) });
    let refused = api.call("POST", &format!("{path}/pause"), "shop-owner").json(&long).send().await;
    assert_eq!(refused.fields(), ["reason"]);
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_usable_nodes_has_nothing_to_move() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    let path = format!("/v1/clusters/{cluster}/migrations");
    api.sql("UPDATE nodes SET server_status = 'SHUTOFF' WHERE cluster_id = $1", cluster).await;
    let refused = api.post(&path, &json!({ "target": "west" })).await.expect(409);
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("no usable node")));
    let pools = api.get(&format!("/v1/clusters/{cluster}")).await.expect(200);
    assert_eq!(pools["pools"][0]["usable"], 0, "the count follows the rule of usable nodes");
    api.sql("UPDATE clusters SET phase = 'creating' WHERE id = $1", cluster).await;
    api.post(&path, &json!({ "target": "west" })).await.expect(409);
    Ok(())
}
