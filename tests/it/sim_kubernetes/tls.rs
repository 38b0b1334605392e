//! The API over TLS: who calls is told by certificates and tokens.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zcp::bootstrap::pki::{Authority, ClientName, Validity};
use zcp::clock::{Clock as _, SystemClock};
use zcp::domain::ids::ClusterId;
use zcp::domain::outside::OutsideKind;
use zcp::kubernetes::{ClusterAccess, ClusterClient, Connector};
use zcp::sim::kubernetes::{KubeCluster, KubeSettings, TlsSettings};

use crate::support::Result;

/// A cluster that is served at a loopback address of its own, by the machine's clock.
struct Served {
    cluster: Arc<KubeCluster>,
    authority: Authority,
    endpoint: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

fn now() -> Timestamp {
    SystemClock.now()
}

fn validity() -> Validity {
    Validity { now: now(), lifetime: SignedDuration::from_hours(1) }
}

impl Served {
    async fn start() -> Result<Self> {
        let authority = Authority::generate("kubernetes", now())?;
        let server = authority.issue_server(&["127.10.0.200".to_owned()], validity())?;
        let cluster = KubeCluster::new(KubeSettings::default(), now());
        let settings = TlsSettings {
            address: "127.10.0.200:0".parse()?,
            certificate_pem: server.cert_pem.clone(),
            key_pem: server.key_pem.expose_secret().to_owned(),
            client_ca_pem: authority.cert_pem().to_owned(),
            clock: Arc::new(SystemClock),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let address = cluster.serve_tls(settings, &tasks, stop.clone()).await?;
        Ok(Self { cluster, authority, endpoint: format!("https://{address}"), stop, tasks })
    }

    fn client(&self, user: &str, group: Option<&str>) -> Result<ClusterClient> {
        let client = self.authority.issue_client(ClientName { user, group }, validity())?;
        let access = ClusterAccess {
            endpoint: self.endpoint.parse()?,
            ca_pem: self.authority.cert_pem().to_owned(),
            client_cert_pem: client.cert_pem,
            client_key_pem: client.key_pem,
            proxy: None,
        };
        Ok(Connector::network().connect(ClusterId(uuid::Uuid::from_u128(1)), 1, &access)?)
    }

    /// The status of a request without a certificate, with or without a token.
    async fn status(&self, path: &str, token: Option<&str>) -> Result<u16> {
        let ca = reqwest::Certificate::from_pem(self.authority.cert_pem().as_bytes())?;
        let client = reqwest::Client::builder().tls_certs_only([ca]).build()?;
        let mut request = client.get(format!("{}{path}", self.endpoint));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Ok(request.send().await?.status().as_u16())
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[tokio::test]
async fn an_administrator_may_do_everything_and_a_stranger_nothing() -> Result {
    let served = Served::start().await?;
    let admin = served.client("zcpd", Some("system:masters"))?;
    assert_eq!(admin.server_version().await?, "v1.36.2");
    assert!(admin.list_nodes().await?.is_empty());
    let stranger = served.client("stranger", None)?;
    let error = stranger.list_nodes().await.expect_err("nothing allows it");
    assert_eq!(error.kind, OutsideKind::Denied);
    served.end().await;
    Ok(())
}

#[tokio::test]
async fn a_bound_group_may_do_what_its_role_says() -> Result {
    let served = Served::start().await?;
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
        "metadata": {"name": "readers"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "readers"},
        "subjects": [{"apiGroup": rbac, "kind": "Group", "name": "readers"}],
    });
    for object in [role, binding] {
        served.cluster.create(&object, now())?;
    }
    let reader = served.client("reader", Some("readers"))?;
    assert!(reader.list_nodes().await?.is_empty());
    let error = reader.node("n0").await.expect_err("the role says list only");
    assert_eq!(error.kind, OutsideKind::Denied);
    served.end().await;
    Ok(())
}

#[tokio::test]
async fn a_server_that_joins_reads_what_it_needs() -> Result {
    let served = Served::start().await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        },
    });
    let info = |namespace: &str, name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
        })
    };
    for object in
        [secret, info("kube-public", "cluster-info"), info("kube-system", "kubeadm-config")]
    {
        served.cluster.create(&object, now())?;
    }
    let token = Some("abcdef.0123456789abcdef");
    let config = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";
    assert_eq!(
        served.status("/api/v1/namespaces/kube-public/configmaps/cluster-info", None).await?,
        200
    );
    assert_eq!(served.status("/readyz", None).await?, 200);
    assert_eq!(served.status(config, None).await?, 403);
    assert_eq!(served.status(config, token).await?, 200);
    assert_eq!(served.status("/api/v1/secrets", token).await?, 403);
    assert_eq!(served.status(config, Some("abcdef.0000000000000000")).await?, 401);
    served.end().await;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_cuts_its_connections() -> Result {
    let served = Served::start().await?;
    let admin = served.client("zcpd", Some("system:masters"))?;
    assert!(admin.list_nodes().await?.is_empty());
    served.cluster.set_faults(now(), |faults| faults.is_api_down = true);
    let error = admin.list_nodes().await.expect_err("nobody answers");
    assert_eq!((error.kind, error.status), (OutsideKind::Transient, None));
    served.end().await;
    Ok(())
}
