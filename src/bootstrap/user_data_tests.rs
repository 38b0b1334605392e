use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::bootstrap::kube_vip::{KUBE_VIP_IMAGE, Member};
use crate::bootstrap::kubeadm::tests::{VIP, golden, version, worker};

fn server(name: &str) -> ServerParts<'_> {
    ServerParts {
        node_name: name,
        cluster: ClusterId(Uuid::from_u128(7)),
        version: version("1.36.2"),
        vip: VIP,
    }
}

fn control_plane(kubeadm: &str, member: Member) -> Result<UserData, TooLarge> {
    let kube_vip = KubeVip { vip: VIP, image: KUBE_VIP_IMAGE, version: version("1.36.2"), member };
    let url = "https://10.0.0.2:8444/node/v1/bundle".parse().unwrap();
    let bundle = BundleSource {
        url: &url,
        token: &"a-token".into(),
        ca_pem: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    };
    let parts = ControlPlaneParts { kubeadm: &kubeadm.into(), bundle, kube_vip };
    control_plane_user_data(server("shop-cp-aaaaaa"), parts)
}

/// Paths, permissions and contents, without the boot script, which is compared here.
fn files(data: &UserData) -> Vec<(String, String, String)> {
    let text = data.reveal();
    assert!(text.starts_with("#cloud-config\n"));
    let config: Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!(config["runcmd"], json!([["/usr/local/lib/zcp/boot"]]));
    let mut files: Vec<_> = config["write_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            let field = |name: &str| file[name].as_str().unwrap().to_owned();
            (field("path"), field("permissions"), field("content"))
        })
        .collect();
    let boot = files.pop().unwrap();
    assert_eq!(boot, (BOOT_PATH.to_owned(), "0755".to_owned(), BOOT.to_owned()));
    files
}

fn printed(data: &UserData) -> String {
    let parts = files(data);
    let part = |(path, mode, content): &(String, String, String)| {
        format!("=== {path} {mode}\n{}\n", content.trim_end())
    };
    parts.iter().map(part).collect()
}

#[test]
fn a_worker_is_told_this() {
    let data = worker_user_data(server("shop-main-bbbbbb"), &worker("1.36.2")).unwrap();
    golden("user-data-worker.txt", &printed(&data));
}

#[test]
fn a_canary_is_told_this() {
    let targets = Targets {
        from: "10.20.0.5".into(),
        peer: "10.10.0.7".into(),
        ports: vec!["tcp/10250".parse().unwrap(), "udp/8472".parse().unwrap()],
        api: "10.10.0.9:6443".into(),
        registry: "https://registry.example/v2/".into(),
        names: vec!["registry.example".into()],
        time: "local".into(),
    };
    let kubeadm = worker("1.36.2");
    let data = canary_user_data(server("shop-canary-cccccc"), &kubeadm, &targets).unwrap();
    let printed = printed(&data).replace(PROBE.trim_end(), "(the probe)");
    golden("user-data-canary.txt", &printed);
}

#[test]
fn a_control_plane_member_is_told_this() {
    let data = control_plane("kind: InitConfiguration\n", Member::First).unwrap();
    golden("user-data-control-plane.txt", &printed(&data));
}

#[test]
fn only_the_first_member_starts_with_the_kubeconfig_that_needs_no_grant() {
    let manifest = |version_text: &str, member| {
        let version = version(version_text);
        KubeVip { vip: VIP, image: "i", version, member }.manifest()
    };
    assert!(manifest("1.36.2", Member::First).contains("super-admin.conf"));
    assert!(!manifest("1.36.2", Member::Further).contains("super-admin.conf"));
    assert!(!manifest("1.28.1", Member::First).contains("super-admin.conf"));
}

#[test]
fn user_data_that_nova_would_refuse_is_refused_here() {
    let small = control_plane("x", Member::First).unwrap().reveal().len();
    assert!(small < LIMIT / 2, "{small}");
    let error = control_plane(&"x".repeat(LIMIT), Member::First).unwrap_err();
    assert!(error.size > LIMIT);
}

#[test]
fn debug_shows_no_token() {
    let data = control_plane("x", Member::First).unwrap();
    assert!(!format!("{data:?}").contains("a-token"));
}
