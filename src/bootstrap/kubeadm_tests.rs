use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::domain::node_view::TaintEffect;

/// Compares with `tests/golden/<name>`. To change a golden file, copy what a failure prints.
pub(in crate::bootstrap) fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        text == expected,
        "{path} differs; what was rendered:
{text}"
    );
}

pub(in crate::bootstrap) fn token() -> BootstrapToken {
    "abc123.0123456789abcdef".parse().unwrap()
}

pub(in crate::bootstrap) fn version(text: &str) -> Version {
    text.parse().unwrap()
}

pub(in crate::bootstrap) const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 0, 5));
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 0, 11));

pub(in crate::bootstrap) fn hashes() -> Vec<String> {
    vec![format!("sha256:{}", "0f".repeat(32))]
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn init(version_text: &str, arguments: &BTreeMap<String, String>) -> String {
    let cluster = ClusterParts {
        name: "shop",
        version: version(version_text),
        vip: VIP,
        names: &["shop.example".to_owned(), "10.10.0.12".to_owned()],
        pod_cidr: "10.244.0.0/16",
        service_cidr: "10.96.0.0/16",
        api_server_args: arguments,
        image_repository: None,
    };
    let node = NodeParts { name: "shop-cp-aaaaaa", labels: &map(&[]), taints: &[] };
    init_configuration(cluster, node, ADDRESS).expose_secret().to_owned()
}

pub(in crate::bootstrap) fn worker(version_text: &str) -> SecretString {
    let taints =
        [Taint { key: "gpu".into(), value: Some("yes".into()), effect: TaintEffect::NoSchedule }];
    let labels = map(&[("zcp.io/pool", "main"), ("tier", "web")]);
    let node = NodeParts { name: "shop-main-bbbbbb", labels: &labels, taints: &taints };
    let discovery = Discovery {
        version: version(version_text),
        vip: VIP,
        ca_cert_hashes: &hashes(),
        token: &token(),
    };
    worker_configuration(discovery, node)
}

fn member(version_text: &str) -> String {
    let node = NodeParts { name: "shop-cp-cccccc", labels: &map(&[]), taints: &[] };
    let discovery = Discovery {
        version: version(version_text),
        vip: VIP,
        ca_cert_hashes: &hashes(),
        token: &token(),
    };
    member_configuration(discovery, node, ADDRESS).expose_secret().to_owned()
}

#[test]
fn init_looks_like_this() {
    let arguments = map(&[("audit-log-maxage", "7"), ("oidc-issuer-url", "https://id.example")]);
    golden("kubeadm-init-v1beta4.yaml", &init("1.36.2", &arguments));
    golden("kubeadm-init-v1beta3.yaml", &init("1.30.4", &arguments));
}

#[test]
fn joins_look_like_this() {
    golden("kubeadm-worker-v1beta4.yaml", worker("1.36.2").expose_secret());
    golden("kubeadm-worker-v1beta3.yaml", worker("1.30.4").expose_secret());
    golden("kubeadm-member-v1beta4.yaml", &member("1.36.2"));
}

#[test]
fn yaml_in_an_argument_stays_data() {
    let hostile = "a: b\n---\nkind: ClusterConfiguration\n'\"{{ x }} # &a *b !!int | > \\ \t";
    for (version, read) in [
        ("1.36.2", "/apiServer/extraArgs/0/value"),
        ("1.30.4", "/apiServer/extraArgs/feature-gates"),
    ] {
        for text in [hostile, "yes", "null", "1e3", "~", " ", "", "0x1F", "2026-08-02", "---"] {
            let yaml = init(version, &map(&[("feature-gates", text)]));
            let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
            assert_eq!(documents.len(), 2, "{yaml}");
            assert_eq!(documents[1].pointer(read), Some(&json!(text)), "{yaml}");
        }
    }
}

#[test]
fn the_endpoint_of_an_ipv6_address_has_brackets() {
    assert_eq!(endpoint("fd00::5".parse().unwrap()), "[fd00::5]:6443");
}
