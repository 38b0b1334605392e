//! The static pod that announces a cluster's virtual address from one of its members.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::kubeadm::API_PORT;
use super::yaml;
use crate::domain::version::Version;

/// Image used unless the offering names another.
pub const KUBE_VIP_IMAGE: &str = "ghcr.io/kube-vip/kube-vip:v1.0.0";

/// What kube-vip must know.
#[derive(Debug, Clone, Copy)]
pub struct KubeVip<'a> {
    /// The address to announce.
    pub vip: IpAddr,
    /// Its image.
    pub image: &'a str,
    /// The Kubernetes version.
    pub version: Version,
    /// Which member it runs on.
    pub member: Member,
}

/// Whether a member starts the cluster or joins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// Runs `kubeadm init`.
    First,
    /// Runs `kubeadm join`.
    Further,
}

impl KubeVip<'_> {
    /// The manifest, for `/etc/kubernetes/manifests`.
    pub fn manifest(&self) -> String {
        yaml(&self.pod())
    }

    fn pod(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "kube-vip", "namespace": "kube-system"},
            "spec": {
                "hostNetwork": true,
                // kube-vip speaks to the API server beside it, by the name of its certificate.
                "hostAliases": [{"hostnames": ["kubernetes"], "ip": "127.0.0.1"}],
                "priorityClassName": "system-node-critical",
                "containers": [{
                    "name": "kube-vip",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["manager"],
                    "env": self.environment(),
                    "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
                    "volumeMounts": [
                        {"mountPath": "/etc/kubernetes/admin.conf", "name": "kubeconfig"},
                    ],
                }],
                "volumes": [{"name": "kubeconfig", "hostPath": {"path": self.kubeconfig()}}],
            },
        })
    }

    /// From 1.29 on `admin.conf` has no rights until kubeadm, through the virtual address, has
    /// granted them: the first member starts with the one that needs no grant.
    fn kubeconfig(&self) -> &'static str {
        let version = (self.version.major, self.version.minor);
        if self.member == Member::First && version >= (1, 29) {
            "/etc/kubernetes/super-admin.conf"
        } else {
            "/etc/kubernetes/admin.conf"
        }
    }

    fn environment(&self) -> Vec<Value> {
        let bits = if self.vip.is_ipv4() { "32" } else { "128" };
        let port = API_PORT.to_string();
        let vip = self.vip.to_string();
        let plain = [
            ("vip_arp", "true"),
            ("port", &port),
            ("vip_subnet", bits),
            ("cp_enable", "true"),
            ("cp_namespace", "kube-system"),
            ("svc_enable", "false"),
            ("vip_leaderelection", "true"),
            ("vip_leasename", "plndr-cp-lock"),
            ("vip_leaseduration", "5"),
            ("vip_renewdeadline", "3"),
            ("vip_retryperiod", "1"),
            ("address", &vip),
        ];
        let node_name = json!({
            "name": "vip_nodename",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        });
        let plain = plain.iter().map(|(name, value)| json!({"name": name, "value": value}));
        plain.chain([node_name]).collect()
    }
}
