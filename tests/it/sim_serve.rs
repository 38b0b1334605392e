//! The simulation as a process: sockets, files, and going on after a restart.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use zcp::clock::{Ids as _, SystemClock, SystemIds};
use zcp::sim::serve::{SimAddresses, SimSettings, serve};
use zcp::sim::{Timing, WorldSettings};

/// A simulation that runs in a folder of its own.
struct Running {
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    addresses: SimAddresses,
}

impl Running {
    async fn in_folder(folder: &Path) -> Self {
        let stop = CancellationToken::new();
        let settings = SimSettings {
            state: folder.to_owned(),
            world: WorldSettings::with_timing(Timing::instant()),
            speed: 1.0,
            control_port: 0,
        };
        let cancel = stop.clone();
        let served = tokio_util::task::TaskTracker::new()
            .spawn(async move { serve(settings, Arc::new(SystemClock), cancel).await.unwrap() });
        let path = folder.join("sim.json");
        for _ in 0..500 {
            if let Ok(bytes) = tokio::fs::read(&path).await {
                let addresses = serde_json::from_slice(&bytes).unwrap();
                return Self { stop, ended: served, addresses };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the simulation does not listen");
    }

    async fn end(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }

    async fn token(&self) -> String {
        let default = json!({"id": "default"});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {
                "user": {"name": "kaas", "domain": default, "password": "lab"}}},
            "scope": {"project": {"name": "kaas", "domain": default}},
        }});
        let url = format!("{}/identity/v3/auth/tokens", self.addresses.clouds["east"]);
        let answer = client().post(url).json(&body).send().await.unwrap();
        answer.headers()["x-subject-token"].to_str().unwrap().to_owned()
    }

    async fn ports(&self, token: &str) -> Value {
        let url = format!("{}/network/v2.0/ports", self.addresses.clouds["east"]);
        let answer = client().get(url).header("x-auth-token", token).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("zcp-sim-{}", SystemIds.uuid()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_simulation_has_its_addresses_and_its_world() {
    let folder = folder();
    let first = Running::in_folder(&folder).await;
    let token = first.token().await;
    let url = format!("{}/network/v2.0", first.addresses.clouds["east"]);
    let networks: Value = client()
        .get(format!("{url}/networks"))
        .header("x-auth-token", &token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let port = json!({"port": {"network_id": networks["networks"][0]["id"], "name": "kept"}});
    let made = client().post(format!("{url}/ports")).header("x-auth-token", &token).json(&port);
    assert_eq!(made.send().await.unwrap().status().as_u16(), 201);
    let addresses = first.addresses.clone();
    first.end().await;

    let second = Running::in_folder(&folder).await;
    assert_eq!(second.addresses, addresses);
    assert_eq!(second.ports(&token).await["ports"][0]["name"], "kept");
    let yaml = tokio::fs::read_to_string(folder.join("clouds.yaml")).await.unwrap();
    assert!(yaml.contains("west-app"), "{yaml}");
    second.end().await;
    tokio::fs::remove_dir_all(&folder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dark_cloud_cuts_connections_until_it_is_switched_on() {
    let folder = folder();
    let sim = Running::in_folder(&folder).await;
    let token = sim.token().await;
    let url = format!("{}/_sim/clouds/east/faults", sim.addresses.control);
    let dark = client().put(&url).json(&json!({"power": "refusing"})).send().await.unwrap();
    assert_eq!(dark.status().as_u16(), 200);
    let ports = format!("{}/network/v2.0/ports", sim.addresses.clouds["east"]);
    assert!(client().get(ports).header("x-auth-token", &token).send().await.is_err());
    client().put(&url).json(&json!({})).send().await.unwrap();
    assert_eq!(sim.ports(&token).await["ports"], json!([]));
    let truth: Value = client()
        .get(format!("{}/_sim/truth", sim.addresses.control))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(truth["servers"], json!([]));
    sim.end().await;
    tokio::fs::remove_dir_all(&folder).await.unwrap();
}
