//! Cloud pairs as they are typed and shown.

use serde_json::{Value, json};

use super::canned::{Canned, SHOP, golden, page, problem};

const PAIR: &str = "/v1/cloud-pairs/east/west";

fn pair() -> Value {
    json!({
        "id": SHOP, "source": "east", "target": "west",
        "flavors": {"k8s.2c4g": "m1.small", "k8s.8c16g": "m1.k8s-8c16g"},
        "networks": {"kaas": "prod"}, "security_groups": {}, "zones": {"nova": "west-a"},
        "images": {}, "generation": 3,
        "problems": [{"field": "flavors.k8s.8c16g", "problem":
            "on cloud west: no flavor m1.k8s-8c16g; there is: m1.k8s-2c4g, m1.small"}],
        "warnings": [{"field": "flavors.k8s.2c4g", "problem":
            "m1.small is smaller: 1 vCPUs instead of 2"}],
        "checked_at": "2026-08-01T12:00:00Z", "created_at": "2026-08-01T12:00:00Z",
        "updated_at": "2026-08-01T12:00:00Z",
    })
}

#[tokio::test]
async fn a_pair_fits_eighty_columns_and_says_what_is_wrong() {
    let api = Canned::start().await;
    api.on("GET /v1/cloud-pairs?limit=200", page(&[pair()]));
    api.on(&format!("GET {PAIR}"), (200, pair()));
    let mut all = String::new();
    for arguments in [&["cloud", "pair", "list"][..], &["cloud", "pair", "get", "east", "west"]] {
        let ran = api.run(arguments).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        all.extend(["$ zcpctl ", &arguments.join(" "), "\n", &ran.stdout, "\n"]);
    }
    assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
    golden("zcpctl-pairs.txt", &all);
}

#[tokio::test]
async fn a_pair_is_set_as_it_was_typed_and_warned_of() {
    let api = Canned::start().await;
    api.on(&format!("PUT {PAIR}"), (201, pair()));
    let file = api.file("pair.yaml", "flavors: {a: b}\nzones: {nova: west-b}\n");
    let arguments = [
        "cloud",
        "pair",
        "set",
        "east",
        "west",
        "--flavor",
        "m1.large=x=y",
        "--network",
        "kaas=prod",
        "--security-group",
        "s=t",
        "--zone",
        "nova=west-a",
        "--image",
        "i=j",
        "-f",
        file.to_str().unwrap(),
    ];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = "warning: flavors.k8s.2c4g: m1.small is smaller: 1 vCPUs instead of 2\n";
    assert_eq!(ran.stderr, said);
    let wanted = json!({
        "flavors": {"a": "b", "m1.large": "x=y"}, "networks": {"kaas": "prod"},
        "security_groups": {"s": "t"}, "zones": {"nova": "west-a"}, "images": {"i": "j"},
    });
    assert_eq!(api.last().body, wanted, "what is typed overrides the file");
}

#[tokio::test]
async fn merging_keeps_what_a_pair_says_and_minds_its_generation() {
    let api = Canned::start().await;
    api.on("GET /v1/cloud-pairs?limit=200", page(&[pair()]));
    api.on(&format!("PUT {PAIR}"), (200, pair()));
    let arguments = ["cloud", "pair", "set", "east", "west", "--merge", "--flavor", "k8s.8c16g=m2"];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let asked = api.last();
    assert_eq!(asked.headers["if-match"], "\"3\"");
    assert_eq!(asked.body["flavors"], json!({"k8s.2c4g": "m1.small", "k8s.8c16g": "m2"}));
    assert_eq!(asked.body["networks"], json!({"kaas": "prod"}));
}

#[tokio::test]
async fn mistakes_in_a_pair_are_told() {
    let api = Canned::start().await;
    let fields =
        json!({"fields": [{"field": "flavors.a", "problem": "cloud east has no such name"}]});
    api.on(&format!("PUT {PAIR}"), problem(400, "flavors.a", fields));
    let set = ["cloud", "pair", "set", "east", "west"];
    for (more, word) in [
        (&[][..], "nothing is mapped"),
        (&["--flavor", "a"], "SOURCE=TARGET"),
        (&["--flavor", "a=b", "--flavor", "a=c"], "a is there twice"),
        (&["--flavor", "a=b"], "flavors.a: cloud east has no such name"),
        (&["--file", "/nowhere"], "/nowhere"),
    ] {
        let ran = api.run(&[&set[..], more].concat()).await;
        assert_eq!(ran.code, 1, "{more:?}");
        assert!(ran.stderr.contains(word), "{more:?}: {}", ran.stderr);
    }
    api.on(&format!("DELETE {PAIR}"), (204, Value::Null));
    let ran = api.run(&["cloud", "pair", "delete", "east", "west"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    let ran = api.run(&["cloud", "pair", "delete", "east", "west", "--yes"]).await;
    assert_eq!((ran.code, api.last().line.as_str()), (0, "DELETE /v1/cloud-pairs/east/west"));
}
