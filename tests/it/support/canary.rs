//! Canaries of test worlds.

use serde_json::json;
use sqlx::Row;
use zcp::clock::Ids as _;
use zcp::domain::ids::{CanaryId, CloudId, ClusterId, PreflightId};
use zcp::domain::insight::Insight;
use zcp::store::canaries::{self, CanaryRow, NewCanary, Place};
use zcp::store::cloud_progress;
use zcp::store::preflights::{self, PreflightRow};
use zcp::store::work::{WorkKind, wake};
use zcp::worker::Driver;

use super::world::TestWorld;

impl TestWorld {
    /// Wants a canary of a flavor on west, as a preflight does.
    pub async fn wish_canary(&self, cluster: ClusterId, flavor: &str) -> CanaryId {
        let (east, west) = (self.cloud("east").await, self.cloud("west").await);
        let clouds = cloud_progress::load(self.db.store.pool(), &[west]).await.expect("clouds");
        let inventory = clouds[0].inventory.as_ref().expect("an inventory");
        let image = inventory
            .images
            .iter()
            .find(|image| image.kubernetes_version.as_deref() == Some("1.36.2"));
        let network = inventory.networks.iter().find(|network| network.name == "kaas");
        let place = Place {
            cluster_id: cluster,
            source_cloud_id: east,
            cloud_id: west,
            flavor: flavor.to_owned(),
            image_id: image.expect("an image").id.clone(),
            network_id: network.expect("a network").id.clone(),
        };
        let id = CanaryId(self.db.ids.uuid());
        let new = NewCanary {
            id,
            place: &place,
            security_group: None,
            zone: None,
            job: (self.db.ids.uuid(), 1),
        };
        let mut tx = self.db.store.begin().await.expect("a transaction");
        assert!(canaries::ensure(&mut tx, new, self.db.now()).await.expect("a canary"));
        wake(&mut tx, WorkKind::Cluster, cluster, self.db.now()).await.expect("work");
        tx.commit().await.expect("the database answers");
        id
    }

    /// A canary.
    pub async fn canary(&self, id: CanaryId) -> CanaryRow {
        let found = canaries::find(self.db.store.pool(), id).await.expect("the database answers");
        found.expect("a canary")
    }

    /// Everything that canaries have outside at this moment: servers, ports, Nodes, pods.
    pub fn canary_things(&self, cluster: ClusterId) -> Vec<String> {
        let truth = self.sim.truth();
        let is_ours = |name: &&String| name.contains("-canary-");
        let mut things: Vec<String> =
            truth.servers.iter().map(|server| &server.name).filter(is_ours).cloned().collect();
        things.extend(truth.ports.iter().map(|port| &port.name).filter(is_ours).cloned());
        let Some(kube) = self.kube_of(cluster) else { return things };
        for kind in ["nodes", "pods"] {
            let names = kube.objects(kind).into_iter();
            let names =
                names.filter_map(|object| Some(object["metadata"]["name"].as_str()?.to_owned()));
            things.extend(names.filter(|name| name.contains("canary-")));
        }
        things
    }

    /// Whether every canary has ended and nothing is left of it.
    pub async fn are_canaries_over(&self, cluster: ClusterId) -> bool {
        let open = canaries::open_of_cluster(self.db.store.pool(), cluster).await;
        open.expect("the database answers").is_empty()
            && self.canary_things(cluster).is_empty()
            && self.is_ready(cluster).await
    }

    /// Asks what a migration to west would meet, waits for the answer, and gives its insights.
    pub async fn preflight(&self, driver: &Driver, cluster: ClusterId) -> Vec<Insight> {
        let spec = json!({"target": "west", "canary": "auto"});
        let spec = serde_json::from_value(spec).expect("a migration");
        let made = zcp::app::preflights::create(&self.app, &self.ask, cluster, &spec).await;
        let id = made.expect("a preflight").row.id;
        self.settle(driver, "the preflight is done", async |world| {
            world.preflight_row(id).await.is_done()
        })
        .await;
        self.preflight_row(id).await.insights
    }

    /// A preflight's row.
    pub async fn preflight_row(&self, id: PreflightId) -> PreflightRow {
        let found = preflights::find(self.db.store.pool(), id).await.expect("the database answers");
        found.expect("a preflight")
    }

    /// How many canaries were ever made.
    pub async fn canaries_made(&self) -> i64 {
        let row = sqlx::query("SELECT count(*) FROM canaries");
        row.fetch_one(self.db.store.pool()).await.expect("canaries").get(0)
    }

    async fn cloud(&self, name: &str) -> CloudId {
        let row = sqlx::query("SELECT id FROM clouds WHERE name = $1 AND removed_at IS NULL");
        let row = row.bind(name).fetch_one(self.db.store.pool()).await.expect("a cloud");
        row.get("id")
    }
}
