//! Explaining a migration, and mistakes in its waves.

use serde_json::json;

use super::canned::{Canned, MOVE, SHOP, cluster, golden, migration, page};

#[tokio::test]
async fn an_explanation_fits_eighty_columns_and_names_the_commands_that_help() {
    let api = Canned::start().await;
    api.on("GET /v1/clusters?name=shop&limit=200", page(&[cluster("running", 3)]));
    api.on(&format!("GET /v1/clusters/{SHOP}/migrations"), page(&[migration("draining", 0)]));
    api.on(&format!("GET /v1/migrations/{MOVE}"), (200, migration("draining", 0)));
    let explanation = json!({
        "id": MOVE, "cluster": "shop", "phase": "draining", "phase_since": "2026-08-01T12:00:00Z",
        "wave": 1, "is_going": false,
        "reasons": [
            {"kind": "paused", "needs": "owner", "verbs": ["resume", "rollback"], "text":
                "it is paused: shop-web-a1b2c3 is not drained after 3600 s; blocked by \
                 default/web-1 (PDB web allows 0 disruptions)"},
            {"kind": "work", "needs": "operator", "text":
                "an operator stopped the cluster worker for it",
                "work": {"kind": "cluster", "id": SHOP, "is_disabled": true}},
            {"kind": "blocker", "needs": "owner", "text":
                "1 pod keeps shop-web-a1b2c3 from being drained; its deadline is now",
                "resources": ["default/web-1: PDB web allows 0 disruptions, of Deployment web"],
                "fix": "let the workload have more replicas or a looser budget, or delete the pod"},
            {"kind": "waiting", "needs": "nobody", "text": "shop-web-d4e5f6: 1 drains at once"},
        ],
    });
    api.on(&format!("GET /v1/migrations/{MOVE}/explanation"), (200, explanation.clone()));
    let ran = api.run(&["migration", "explain", "shop"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    golden("zcpctl-explain.txt", &ran.stdout);
    let ran = api.run(&["migration", "explain", "shop", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(shown["reasons"].as_array().map(Vec::len), Some(4));
    assert_eq!(shown["reasons"][1]["work"], explanation["reasons"][1]["work"]);
}

#[tokio::test]
async fn a_wrong_wave_is_told_by_its_place() {
    let api = Canned::start().await;
    for (waves, word) in [
        ("1,0%,100%", "wave 2: "),
        ("1,,100%", "wave 2 is empty"),
        ("1,50%", "wave 2: the last wave must be"),
        ("50%,1,100%", "wave 2: must go further"),
    ] {
        let ran = api.run(&["migration", "start", "shop", "--to", "west", "--waves", waves]).await;
        assert_eq!(ran.code, 1, "{waves}");
        assert!(ran.stderr.contains(word), "{waves}: {}", ran.stderr);
    }
    assert!(api.asked().is_empty(), "nothing was asked of the API");
}
