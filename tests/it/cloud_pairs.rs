//! Cloud pairs: kept, checked against both clouds, and used by migrations.

use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;
use zcp::app::clusters::NewCluster;
use zcp::domain::cluster::ClusterSpec;
use zcp::domain::ids::{ClusterId, MigrationId};
use zcp::domain::migration::{MigrationSpec, Phase, Verb};
use zcp::sim::cloud::{Image, Net, SecurityGroup, Subnet};
use zcp::worker::Driver;
use zcp::worker::crash::CrashPoints;

use crate::support::Result;
use crate::support::api::{OPERATOR, TestApi, inventory, new_cluster};
use crate::support::world::{TestWorld, WorldOptions};

const PAIR: &str = "/v1/cloud-pairs/east/west";

/// A cloud with a large flavor of its own name besides what every cloud of a test has.
fn with_flavor(name: &str, vcpus: u32) -> Value {
    let mut inventory = inventory(50);
    let flavor = json!({ "id": format!("id-{name}"), "name": name, "vcpus": vcpus, "ram_mb": 16384,
                         "disk_gb": 20, "extra_specs": {} });
    inventory["flavors"].as_array_mut().expect("flavors").push(flavor);
    inventory["zones"].as_array_mut().expect("zones").push(json!({ "name": format!("z-{name}"),
                                                                   "is_available": true }));
    inventory
}

async fn api() -> TestApi {
    let api = TestApi::new().await;
    api.make_ready("east", &with_flavor("e1.large", 8)).await;
    api.make_ready("west", &with_flavor("w1.large", 8)).await;
    api
}

fn put<'a>(api: &'a TestApi, body: &Value) -> crate::support::api::Call<'a> {
    api.call("PUT", PAIR, OPERATOR).json(body)
}

#[tokio::test]
async fn a_pair_is_made_changed_by_generation_and_deleted() -> Result {
    let api = api().await;
    api.get(PAIR).await.expect(404);
    let body = json!({ "flavors": { "e1.large": "w1.large" } });
    let made = put(&api, &body).send().await;
    assert_eq!(made.headers["etag"], "\"1\"");
    let made = made.expect(201);
    assert_eq!((&made["source"], &made["target"]), (&json!("east"), &json!("west")));
    assert_eq!((&made["problems"], &made["warnings"]), (&json!([]), &json!([])));
    assert!(made["checked_at"].is_string());
    let same = put(&api, &body).send().await.expect(200);
    assert_eq!(same["generation"], 1, "nothing was changed");
    let body = json!({ "flavors": { "e1.large": "m1.small" }, "zones": { "z-e1.large": "nova" } });
    put(&api, &body).with("if-match", "\"7\"").send().await.expect(412);
    let changed = put(&api, &body).with("if-match", "\"1\"").send().await.expect(200);
    assert_eq!(changed["generation"], 2);
    assert_eq!(changed["warnings"][0]["field"], "flavors.e1.large");
    let problem = "m1.small is smaller: 2 vCPUs instead of 8, 4096 MiB of memory instead of 16384";
    assert_eq!(changed["warnings"][0]["problem"], problem);
    let listed = api.get("/v1/cloud-pairs").await.expect(200);
    assert_eq!(listed["items"], json!([changed]));
    assert_eq!(api.get(PAIR).await.expect(200), changed);
    let delete = || api.call("DELETE", PAIR, OPERATOR);
    delete().with("if-match", "1").send().await.expect(412);
    delete().send().await.expect(204);
    delete().send().await.expect(404);
    put(&api, &json!({})).with("if-match", "2").send().await.expect(404);
    let reasons =
        sqlx::query("SELECT reason FROM events WHERE resource_kind = 'cloud_pair' ORDER BY id");
    let reasons = reasons.fetch_all(api.db.store.pool()).await?;
    let reasons: Vec<&str> = reasons.iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, ["CloudPairMade", "CloudPairChanged", "CloudPairRemoved"]);
    Ok(())
}

#[tokio::test]
async fn every_wrong_name_of_a_pair_is_named() -> Result {
    let api = api().await;
    for (body, field, word) in [
        (json!({ "flavors": { "m1.huge": "w1.large" } }), "flavors.m1.huge", "no such name"),
        (json!({ "flavors": { "e1.large": "e1.large" } }), "flavors.e1.large", "on cloud west"),
        (json!({ "flavors": { "e1.large": "" } }), "flavors.e1.large", "1 to 255"),
        (json!({ "flavors": { "": "w1.large" } }), "flavors", "1 to 255"),
        (json!({ "networks": { "nodes": "nowhere" } }), "networks.nodes", "there is: nodes"),
        (json!({ "security_groups": { "nodes": "x" } }), "security_groups.nodes", "no security"),
        (json!({ "zones": { "nova": "mars" } }), "zones.nova", "no zone mars"),
        (json!({ "images": { "node-1.36.2": "x" } }), "images.node-1.36.2", "no image x"),
        (json!({ "flavours": {} }), "flavours", "unknown field"),
        (json!({ "zones": { "nova": 1 } }), "zones.nova", "string"),
        (json!({ "zones": ["nova"] }), "zones", "map"),
    ] {
        let answer = put(&api, &body).send().await;
        assert_eq!(answer.status.as_u16(), 400, "{body}: {}", answer.body);
        assert!(answer.fields().contains(&field), "{body}: {}", answer.body);
        assert!(answer.body.to_string().contains(word), "{body}: {}", answer.body);
    }
    let call = |path: &str| api.call("PUT", path, OPERATOR).json(&json!({})).send();
    call("/v1/cloud-pairs/east/south").await.expect(404);
    assert_eq!(call("/v1/cloud-pairs/east/east").await.fields(), ["target"]);
    api.get("/v1/cloud-pairs?limit=0").await.expect(400);
    assert_eq!(api.get("/v1/cloud-pairs").await.expect(200)["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_pair_that_the_clouds_outgrew_says_so_when_it_is_read() -> Result {
    let api = api().await;
    put(&api, &json!({ "flavors": { "e1.large": "w1.large" } })).send().await.expect(201);
    api.make_ready("west", &with_flavor("w2.large", 8)).await;
    let pair = api.get(PAIR).await.expect(200);
    assert_eq!(pair["problems"][0]["field"], "flavors.e1.large");
    let said = pair["problems"][0]["problem"].as_str().expect("a text");
    assert!(said.contains("no flavor w1.large") && said.contains("w2.large"), "{said}");
    let listed = api.get("/v1/cloud-pairs").await.expect(200);
    assert_eq!(listed["items"][0]["problems"], pair["problems"]);
    put(&api, &json!({ "flavors": { "e1.large": "w2.large" } })).send().await.expect(200);
    assert_eq!(api.get(PAIR).await.expect(200)["problems"], json!([]));
    Ok(())
}

#[tokio::test]
async fn pairs_come_in_pages_and_go_with_their_cloud() -> Result {
    let api = api().await;
    for path in [PAIR, "/v1/cloud-pairs/west/east"] {
        api.call("PUT", path, OPERATOR).json(&json!({})).send().await.expect(201);
    }
    let first = api.get("/v1/cloud-pairs?limit=1").await.expect(200);
    assert_eq!(first["items"][0]["source"], "east");
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let second = api.get(&format!("/v1/cloud-pairs?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!((&second["items"][0]["source"], second.get("next_cursor")), (&json!("west"), None));
    api.call("DELETE", "/v1/clouds/west", OPERATOR).send().await.expect(204);
    assert_eq!(api.get("/v1/cloud-pairs").await.expect(200)["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_migration_needs_a_name_for_what_no_default_stands_for() -> Result {
    let api = api().await;
    let id = api.running_cluster().await;
    api.sql("UPDATE pools SET flavor = 'e1.large', zone = 'z-e1.large' WHERE cluster_id = $1", id)
        .await;
    let path = format!("/v1/clusters/{id}/migrations");
    let wish = json!({ "target": "west", "canary": "off" });
    let refused = api.post(&path, &wish).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.body);
    let said = refused.body.to_string();
    for name in ["pool main: flavors.e1.large", "pool main: zones.z-e1.large", "w1.large"] {
        assert!(said.contains(name), "{said}");
    }
    let body =
        json!({ "flavors": { "e1.large": "w1.large" }, "zones": { "z-e1.large": "z-w1.large" } });
    put(&api, &body).send().await.expect(201);
    let migration = api.post(&path, &wish).await.expect(201);
    let refused = api.call("DELETE", PAIR, OPERATOR).send().await.expect(409);
    let said = refused["detail"].as_str().expect("a detail");
    assert!(said.contains(migration["id"].as_str().expect("an id")), "{said}");
    put(&api, &json!({ "flavors": { "e1.large": "m1.large" } })).send().await.expect(200);
    let migration: Uuid = migration["id"].as_str().expect("an id").parse()?;
    api.sql("UPDATE migrations SET phase = 'rolled_back' WHERE id = $1", migration).await;
    api.call("DELETE", PAIR, OPERATOR).send().await.expect(204);
    let other = new_cluster("other");
    api.post("/v1/clusters", &other).await.expect(201);
    Ok(())
}

/// West gets a second network, security group and image, and is looked at again.
async fn furnish(world: &TestWorld, driver: &Driver) {
    world.sim.with_cloud("west", |cloud, now| {
        let (net, subnet) = (cloud.dice.uuid(), cloud.dice.uuid());
        let project_id = cloud.network.networks[0].project_id.clone();
        cloud.network.networks.push(Net {
            id: net,
            name: "prod".into(),
            project_id: project_id.clone(),
            created: now,
        });
        cloud.network.subnets.push(Subnet {
            id: subnet,
            network_id: net,
            name: "prod".into(),
            project_id: project_id.clone(),
            cidr: "127.21.0.0/16".into(),
            first: [127, 21, 0, 2].into(),
            last: [127, 21, 0, 200].into(),
            created: now,
        });
        let id = cloud.dice.uuid();
        let name = "prod-nodes".into();
        cloud.network.security_groups.push(SecurityGroup { id, name, project_id, created: now });
        let properties = [("kubernetes_version".to_owned(), "1.36.2".to_owned())].into();
        let (id, name) = (cloud.dice.uuid(), "hardened-1.36.2".into());
        let status = "active".into();
        cloud.images.insert(0, Image { id, name, status, properties, created: now });
    });
    zcp::app::clouds::check(&world.app, &world.ask, "west").await.expect("a check");
    let known = async |world: &TestWorld| {
        let view = zcp::app::clouds::show(&world.app, &world.ask.caller, "west").await;
        let inventory = view.expect("west").inventory.expect("an inventory");
        inventory.networks.iter().any(|network| network.name == "prod")
    };
    world.settle(driver, "west is known anew", known).await;
}

/// A cluster on east whose pool chose flavor and zone itself.
async fn choosy(world: &TestWorld, driver: &Driver, name: &str, count: u32) -> ClusterId {
    let spec: ClusterSpec = serde_json::from_value(json!({
        "control_plane": { "cloud": "east" },
        "pools": [{ "name": "web", "cloud": "east", "count": count, "flavor": "k8s.4c8g",
                    "zone": "nova" }],
    }))
    .expect("a cluster");
    let (project, offering) = (Some("shop".to_owned()), "1.36.2".to_owned());
    let new = NewCluster { name: name.to_owned(), project, offering, spec };
    let view = zcp::app::clusters::create(&world.app, &world.ask, &new).await;
    let id = view.expect("a cluster").cluster.id;
    world.settle(driver, "the cluster is ready", async |world| world.is_ready(id).await).await;
    id
}

async fn migrate(
    world: &TestWorld,
    cluster: ClusterId,
) -> std::result::Result<MigrationId, zcp::app::Error> {
    let spec: MigrationSpec = serde_json::from_value(json!({
        "target": "west", "waves": [{ "upto": "100%", "soak_seconds": 1, "gate": "approval" }],
        "hold_seconds": 3, "canary": "off",
    }))
    .expect("a migration");
    let view = zcp::app::migrations::create(&world.app, &world.ask, cluster, &spec).await;
    view.map(|view| view.row.id)
}

/// Flavor, zone, network, group and image of every worker on west, each once.
fn on_west(world: &TestWorld) -> Vec<String> {
    let seen = world.sim.with_cloud("west", |cloud, _| {
        let workers = cloud.compute.servers.iter();
        let workers = workers.filter(|server| server.metadata.contains_key("zcp.pool"));
        let mut seen: Vec<String> = workers
            .map(|server| {
                let flavors = &cloud.compute.flavors;
                let flavor = flavors.iter().find(|one| one.id == server.flavor).expect("a flavor");
                let image = cloud.images.iter().find(|one| one.id == server.image).expect("one");
                let id = server.id.to_string();
                let mut ports = cloud.network.ports.values();
                let port = ports.find(|port| port.device_id == id).expect("a port");
                let mut networks = cloud.network.networks.iter();
                let network = networks.find(|one| one.id == port.network_id).expect("a network");
                let mut groups = cloud.network.security_groups.iter();
                let group = groups.find(|one| port.security_groups == [one.id]).expect("a group");
                format!("{} {} {} {}", flavor.name, network.name, group.name, image.name)
            })
            .collect();
        seen.dedup();
        seen
    });
    seen.expect("west")
}

const EVERYTHING: &str = "m1.k8s-4c8g prod prod-nodes hardened-1.36.2";

#[tokio::test]
async fn clouds_that_agree_on_no_name_migrate_by_their_pair_and_back() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    furnish(&world, &driver).await;
    let alpha = choosy(&world, &driver, "alpha", 2).await;
    let refused = migrate(&world, alpha).await.expect_err("nobody says what k8s.4c8g is");
    let said = refused.to_string();
    assert!(said.contains("flavors.k8s.4c8g") && said.contains("m1.k8s-4c8g"), "{said}");
    let spec = serde_json::from_value(json!({
        "flavors": { "k8s.4c8g": "m1.k8s-4c8g" }, "networks": { "kaas": "prod" },
        "security_groups": { "kaas-nodes": "prod-nodes" }, "zones": { "nova": "west-a" },
        "images": { "zcp-node-1.36.2": "hardened-1.36.2" },
    }))
    .expect("a pair");
    let set = zcp::app::cloud_pairs::set(&world.app, &world.ask, ("east", "west"), (&spec, None));
    let (pair, is_new) = set.await.expect("a pair");
    assert!(is_new && pair.check.warnings.is_empty(), "{:?}", pair.check);
    // Two migrations at once use the one pair.
    let beta = choosy(&world, &driver, "beta", 1).await;
    let there = migrate(&world, alpha).await.expect("a migration");
    let back = migrate(&world, beta).await.expect("a migration");
    for id in [there, back] {
        world.until(&driver, id, Phase::Approval).await;
    }
    assert_eq!(on_west(&world), [EVERYTHING]);
    world.steer(back, Verb::Rollback).await;
    world.steer(there, Verb::Approve).await;
    world.until(&driver, back, Phase::RolledBack).await;
    world.until(&driver, there, Phase::Succeeded).await;
    let row = sqlx::query(
        "SELECT concat_ws(' ', flavor, zone, network, security_group, image) FROM pools
         WHERE cluster_id = $1",
    );
    let row = row.bind(alpha).fetch_one(world.db.store.pool()).await.expect("a pool");
    assert_eq!(row.get::<String, _>(0), "m1.k8s-4c8g west-a prod prod-nodes hardened-1.36.2");
    // From now on the pool is at home there, without any pair.
    let gone = zcp::app::cloud_pairs::remove(&world.app, &world.ask, ("east", "west"), None).await;
    gone.expect("nobody uses it any more");
    world.scale(alpha, 3).await;
    world
        .settle(&driver, "another worker serves", async |world| {
            world.is_ready(alpha).await && world.serving(alpha) == 3
        })
        .await;
    assert_eq!(on_west(&world), [EVERYTHING]);
    for id in [alpha, beta] {
        world.delete(&driver, id).await;
    }
    world.sweep(&driver).await;
}
