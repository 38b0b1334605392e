//! What is asked of preflights over the API: each wrong field is named, what makes no sense refused.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Result;
use crate::support::api::TestApi;

async fn looked_at(api: &TestApi) -> (Uuid, String) {
    let cluster = api.running_cluster().await;
    let path = format!("/v1/clusters/{cluster}/preflights");
    let made = api.post(&path, &json!({ "target": "west" })).await;
    let id = made.id();
    let made = made.expect(202);
    assert_eq!((&made["check_pending"], &made["blocking"]), (&json!(true), &json!(0)));
    api.sql(
        r#"UPDATE preflights SET done = wanted, checked_at = created_at, insights =
               '[{"id": "bare_pods", "level": "BLOCK", "reason": "one pod", "is_waivable": true,
                  "checked_at": "2026-01-01T00:00:00Z"},
                 {"id": "quota", "level": "BLOCK", "reason": "small", "is_waivable": false,
                  "checked_at": "2026-01-01T00:00:00Z"},
                 {"id": "zones", "level": "PASS", "reason": "fine", "is_waivable": false,
                  "checked_at": "2026-01-01T00:00:00Z"}]'
           WHERE id = $1"#,
        id,
    )
    .await;
    (id, format!("/v1/preflights/{id}"))
}

#[tokio::test]
async fn a_waiver_needs_a_reason_an_end_and_something_to_waive() -> Result {
    let api = TestApi::new().await;
    let (_, path) = looked_at(&api).await;
    let waivers = format!("{path}/waivers");
    let at = |hours: i64| (api.db.now() + jiff::SignedDuration::from_hours(hours)).to_string();
    let good = json!({ "insight": "bare_pods", "reason": "agreed", "expires_at": at(24) });
    for (field, value) in [
        ("reason", json!("")),
        ("reason", json!("a\nb")),
        ("reason", json!("x".repeat(201))),
        ("expires_at", json!(at(0))),
        ("expires_at", json!(at(31 * 24))),
        ("expires_at", json!("tomorrow")),
        ("insight", json!("nothing")),
        ("insight", json!(7)),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let answer = api.post(&waivers, &body).await;
        assert_eq!(answer.status.as_u16(), 400, "{field} = {value}: {}", answer.body);
        assert!(answer.fields().contains(&field), "{field} = {value}: {}", answer.body);
    }
    for (insight, word) in [("quota", "can't be waived"), ("zones", "nothing waits")] {
        let mut body = good.clone();
        body["insight"] = json!(insight);
        let refused = api.post(&waivers, &body).await.expect(409);
        assert!(refused["detail"].as_str().is_some_and(|text| text.contains(word)), "{refused}");
    }
    let waived = api.post(&waivers, &good).await.expect(201);
    assert_eq!(waived["blocking"], 1, "the quota is left");
    let of = |body: &Value, id: &str| -> Value {
        let all = body["insights"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["id"] == id).unwrap_or_default()
    };
    assert_eq!(of(&waived, "bare_pods")["waived"]["author"], "root");
    api.db.clock.advance(jiff::SignedDuration::from_hours(24));
    let later = api.get(&path).await.expect(200);
    assert_eq!(of(&later, "bare_pods").get("waived"), None, "it ended");
    assert_eq!(later["blocking"], 2);
    assert_eq!(later["insights"][0]["level"], "BLOCK", "the worst is first");
    Ok(())
}

#[tokio::test]
async fn a_preflight_is_asked_for_like_a_migration() -> Result {
    let api = TestApi::new().await;
    let path = format!("/v1/clusters/{}/preflights", api.running_cluster().await);
    for (body, field) in [
        (json!({ "target": "south" }), "target"),
        (json!({ "target": "east" }), "target"),
        (json!({ "target": "west", "pools": ["none"] }), "pools[0]"),
        (json!({ "target": "west", "waves": [] }), "waves"),
        (json!({ "target": "west", "surprise": 1 }), "surprise"),
    ] {
        let answer = api.post(&path, &body).await;
        assert_eq!(answer.status.as_u16(), 400, "{body}: {}", answer.body);
        assert!(answer.fields().contains(&field), "{body}: {}", answer.body);
    }
    // A cloud that can't be used is for the preflight to say, not a reason to refuse it.
    api.post("/v1/clouds", &crate::support::api::new_cloud("north")).await.expect(201);
    let made = api.post(&path, &json!({ "target": "north" })).await.expect(202);
    let id = made["id"].as_str().expect("an id");
    let asked = api.post(&format!("/v1/preflights/{id}/check"), &json!({})).await.expect(202);
    assert_eq!(asked["check_pending"], true);
    api.get("/v1/preflights/no-id").await.expect(404);
    Ok(())
}
