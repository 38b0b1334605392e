//! The stream of events, and the handover of keys to servers.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;
use uuid::Uuid;
use zcp::http::node::Peer;

use crate::support::Result;
use crate::support::api::{TestApi, new_cluster};

/// Reads messages of a stream until there are so many.
async fn messages(body: &mut Body, count: usize) -> Vec<(String, Value)> {
    let mut text = String::new();
    let mut found = Vec::new();
    while found.len() < count {
        let frame = body.frame().await.expect("the stream goes on").expect("a frame");
        let Ok(data) = frame.into_data() else { continue };
        text.push_str(std::str::from_utf8(&data).expect("text"));
        found = text.split("\n\n").filter_map(message).collect();
    }
    found
}

fn message(text: &str) -> Option<(String, Value)> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let data = serde_json::from_str(line("data: ")?).ok()?;
    Some((line("id: ")?.to_owned(), data))
}

#[tokio::test]
async fn a_reader_goes_on_after_its_last_event_and_sees_only_its_project() -> Result {
    let api = TestApi::new().await;
    for (name, project) in [("a", "shop"), ("b", "bank"), ("c", "shop"), ("d", "shop")] {
        let mut new = new_cluster(name);
        new["project"] = json!(project);
        new["pools"] = json!([]);
        api.post("/v1/clusters", &new).await.expect(201);
    }
    let open =
        |last: String| api.call("GET", "/v1/events", "shop-viewer").with("last-event-id", &last);
    let mut body = open("0-0".to_owned()).raw().await.into_body();
    let all = messages(&mut body, 3).await;
    let said: Vec<&str> = all.iter().filter_map(|(_, e)| e["message"].as_str()).collect();
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|text| !text.contains("cluster b")), "{said:?}");
    let mut body = open(all[0].0.clone()).raw().await.into_body();
    assert_eq!(messages(&mut body, 2).await, all[1..], "not again, and none is left out");
    // What happens later comes too, and the stream ends with the service.
    let path = format!("/v1/clusters/{}", all[2].1["resource_id"].as_str().expect("an id"));
    api.call("DELETE", &path, "shop-owner").send().await.expect(204);
    let more = messages(&mut body, 1).await;
    assert_eq!(more[0].1["reason"], "ClusterDeletionRequested");
    api.stop.cancel();
    assert!(body.frame().await.is_none());
    let wrong = api.call("GET", "/v1/events", "shop-viewer").with("last-event-id", "x");
    wrong.send().await.expect(400);
    Ok(())
}

async fn ask(api: &TestApi, (token, server): (&str, &str), peer: &str) -> Result<(u16, Value)> {
    let mut request = Request::post("/node/v1/bundle")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(json!({ "server_id": server }).to_string()))?;
    request.extensions_mut().insert(Peer(peer.parse()?));
    let response = api.node_router.clone().oneshot(request).await?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes)?))
}

#[tokio::test]
async fn a_bundle_is_handed_over_once_to_its_server_at_its_address() -> Result {
    let api = TestApi::new().await;
    api.running_cluster().await;
    let node = Uuid::from_u128(0x4000);
    sqlx::query(
        "UPDATE nodes SET bundle_token_hash = $2, server_id = NULL,
             bundle_expires_at = created_at + interval '20 minutes' WHERE id = $1",
    )
    .bind(node)
    .bind(Sha256::digest("token").as_slice())
    .execute(api.db.store.pool())
    .await?;
    let (good, peer) = (("token", "server-1"), "10.10.0.20");
    assert_eq!(ask(&api, ("other", "server-1"), peer).await?.0, 401);
    assert_eq!(ask(&api, good, peer).await?.0, 425, "its creation is not recorded yet");
    api.sql("UPDATE nodes SET server_id = 'server-1' WHERE id = $1", node).await;
    assert_eq!(ask(&api, ("token", "server-2"), peer).await?.0, 403);
    assert_eq!(ask(&api, good, "10.10.0.99").await?.0, 403);
    let (status, body) = ask(&api, good, "::ffff:10.10.0.20").await?;
    assert_eq!(status, 200, "{body}");
    let paths: Vec<&str> = body["files"]
        .as_array()
        .expect("files")
        .iter()
        .filter_map(|file| file["path"].as_str())
        .collect();
    assert_eq!(paths.len(), 8);
    assert!(paths.contains(&"/etc/kubernetes/pki/etcd/ca.key"), "{paths:?}");
    assert_eq!(ask(&api, good, peer).await?.0, 403, "only once");
    api.sql("UPDATE nodes SET bundle_used_at = NULL WHERE id = $1", node).await;
    api.db.clock.advance(jiff::SignedDuration::from_mins(20));
    assert_eq!(ask(&api, good, peer).await?.0, 403, "only for 20 minutes");
    Ok(())
}
