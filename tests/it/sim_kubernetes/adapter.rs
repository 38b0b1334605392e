//! The service's own Kubernetes adapter against the simulation.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::json;
use zcp::clock::Clock as _;
use zcp::domain::ids::ClusterId;
use zcp::domain::node_view::{NodeRef, NodeView, Readiness};
use zcp::domain::outside::OutsideKind;
use zcp::domain::pod::PodRef;
use zcp::kubernetes::drain::{Earnest, EvictionAnswer};
use zcp::kubernetes::nodes::{Cordon, Uncordon};
use zcp::kubernetes::{ClusterAccess, ClusterClient, Connector};

use super::bed::{Bed, budget, create, workload};
use crate::support::Result;

fn adapter(bed: &Bed) -> Result<ClusterClient> {
    let router = bed.router.clone();
    let connector = Connector::in_process(Arc::new(move |_| Some(router.clone())));
    let access = ClusterAccess {
        endpoint: "https://127.10.0.9:6443".parse()?,
        ca_pem: String::new(),
        client_cert_pem: String::new(),
        client_key_pem: String::new().into(),
        proxy: None,
    };
    Ok(connector.connect(ClusterId(uuid::Uuid::from_u128(1)), 1, &access)?)
}

fn reference(node: &NodeView) -> NodeRef {
    NodeRef { name: node.name.clone(), uid: node.uid.clone() }
}

#[tokio::test]
async fn a_node_is_cordoned_drained_and_deleted() -> Result {
    let bed = Bed::with_nodes(3);
    create(&bed, workload("Deployment", "web", 3));
    create(&bed, workload("DaemonSet", "agent", 0));
    create(&bed, budget("web", json!({"minAvailable": 2})));
    bed.pass(6);
    let client = adapter(&bed)?;
    let nodes = client.list_nodes().await?;
    assert_eq!(nodes.len(), 3);
    assert!(nodes.iter().all(|node| node.readiness == Readiness::Ready));
    let node = reference(&nodes[0]);
    assert_eq!(client.cordon(&node, "m1").await?, Cordon::Cordoned);
    assert_eq!(client.cordon(&node, "m1").await?, Cordon::AlreadyOurs);

    let mut rounds = 0;
    loop {
        let pods = client.pods_on(&node.name).await?;
        let web: Vec<_> = pods.iter().filter(|pod| pod.pod.name.starts_with("web-")).collect();
        if web.is_empty() {
            break;
        }
        for pod in web {
            let answer = client.evict(&pod.pod, None, Earnest::Real).await?;
            let is_expected =
                matches!(answer, EvictionAnswer::Accepted | EvictionAnswer::Budget { .. });
            assert!(is_expected, "{answer:?}");
        }
        bed.pass(20);
        rounds += 1;
        assert!(rounds < 10);
    }
    assert_eq!(client.pods_on(&node.name).await?.len(), 1, "the daemon stays");
    assert_eq!(client.uncordon(&node, "other").await?, Uncordon::NotOurs);
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    client.apply_labels_taints(&node, &labels(&[("pool", "a"), ("tier", "x")]), &[]).await?;
    client.apply_labels_taints(&node, &labels(&[]), &[]).await?;
    let view = client.node(&node.name).await?.expect("the node is there");
    assert_eq!(view.labels.get("pool").map(String::as_str), Some("a"), "the kubelet's own");
    assert_eq!(view.labels.get("tier"), None);
    bed.cluster.remove_node(&node.name, bed.clock.now());
    client.delete_node(&node).await?;
    let again = client.delete_node(&node).await.expect_err("it is gone");
    assert!(again.is_absent());
    let none = std::collections::BTreeMap::new();
    let late = client.apply_labels_taints(&node, &none, &[]).await;
    assert!(late.is_err(), "an apply by uid does not create a node that is gone");
    bed.pass(60);
    assert_eq!(client.list_nodes().await?.len(), 2);
    assert!(client.pods_on(&node.name).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn every_refusal_of_an_eviction_is_understood() -> Result {
    let bed = Bed::with_nodes(1);
    create(&bed, workload("Deployment", "web", 1));
    create(&bed, budget("one", json!({"minAvailable": 1})));
    bed.pass(6);
    let client = adapter(&bed)?;
    let pod = client
        .pods_on("n0")
        .await?
        .into_iter()
        .find(|pod| pod.pod.name.starts_with("web-"))
        .expect("the pod of the deployment")
        .pod;
    let evict = async |pod| client.evict(pod, None, Earnest::Real).await;
    assert!(matches!(evict(&pod).await?, EvictionAnswer::Budget { retry_after: None, .. }));
    create(&bed, budget("two", json!({"minAvailable": 1})));
    assert!(matches!(evict(&pod).await?, EvictionAnswer::TwoBudgets { .. }));
    let other = PodRef { uid: "another".to_owned(), ..pod.clone() };
    assert_eq!(evict(&other).await?, EvictionAnswer::OtherPod);
    let nobody = PodRef { name: "nobody".to_owned(), ..pod.clone() };
    assert_eq!(evict(&nobody).await?, EvictionAnswer::Gone);
    bed.cluster.set_faults(bed.clock.now(), |faults| {
        faults.eviction_denied = Some("moving data".to_owned());
    });
    assert!(matches!(evict(&pod).await?, EvictionAnswer::WebhookDenied { .. }));
    bed.cluster.set_faults(bed.clock.now(), |faults| faults.is_api_down = true);
    let error = client.list_nodes().await.expect_err("the API server is down");
    assert_eq!(error.kind, OutsideKind::Transient);
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_token_of_the_service_lets_a_server_join() -> Result {
    let bed = Bed::new();
    let client = adapter(&bed)?;
    let token: zcp::domain::bootstrap_token::BootstrapToken = "abcdef.0123456789abcdef".parse()?;
    let end = bed.clock.now() + SignedDuration::from_mins(15);
    client.ensure_bootstrap_token(&token, end, "node w1").await?;
    let later = end + SignedDuration::from_mins(15);
    client.ensure_bootstrap_token(&token, later, "node w1").await?;
    bed.pass(20 * 60);
    let check = || bed.cluster.check_bootstrap_token("abcdef.0123456789abcdef", bed.clock.now());
    assert_eq!(check(), Ok(()));
    client.delete_bootstrap_token(token.id()).await?;
    client.delete_bootstrap_token(token.id()).await?;
    assert!(check().is_err());
    Ok(())
}
