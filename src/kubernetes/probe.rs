//! The pod that tries, from an old node, what a canary must be reached at; and the API server's own
//! way to a kubelet.

use http::Method;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::ClusterClient;
use super::call::{Answer, Call};
use crate::domain::canary::{Check, PROBE_ENV, PROBE_LABEL, Targets};
use crate::domain::ids::NodeId;
use crate::domain::node_view::NodeRef;
use crate::domain::outside::OutsideError;

/// Where the pod is made: tenants may not forbid host networking there.
const PODS: &str = "/api/v1/namespaces/kube-system/pods";
/// After so many seconds the kubelet ends the pod, whoever forgot it.
const DEADLINE_SECONDS: u32 = 120;
/// What runs in the pod: the script, with the node's own Python. A node has it, since cloud-init is
/// written in it; the image only needs a shell.
const COMMAND: &str = "exec chroot /host /usr/bin/env python3 -c \"$ZCP_SCRIPT\" peer \
    \"$ZCP_PROBE\" >/dev/termination-log 2>&1";

/// The pod to be made.
#[derive(Debug, Clone, Copy)]
pub struct ProbePod<'a> {
    /// Our id of the canary's node; names the pod.
    pub canary: NodeId,
    /// The canary's Node. It owns the pod, so the cluster removes the pod if we do not.
    pub owner: &'a NodeRef,
    /// The old node that it runs on.
    pub node: &'a str,
    /// An image with a shell and `chroot`.
    pub image: &'a str,
    /// What it runs.
    pub script: &'a str,
    /// What it tries.
    pub targets: &'a Targets,
}

/// How far the pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeState {
    /// Not at its end.
    Waiting,
    /// At its end, with its last words.
    Done(String),
}

impl ClusterClient {
    /// Makes the pod; one that exists is success.
    pub async fn ensure_probe(&self, pod: &ProbePod<'_>) -> Result<(), OutsideError> {
        let call = Call::new("create probe", Method::POST, PODS).json(manifest(pod));
        match self.expect(&call).await {
            Err(error) if error.kind != crate::domain::outside::OutsideKind::Exists => Err(error),
            _ => Ok(()),
        }
    }

    /// How far the pod of a canary is; `None` if there is none.
    pub async fn probe(&self, canary: NodeId) -> Result<Option<ProbeState>, OutsideError> {
        let pod: Option<core::Pod> = self.find(&Call::get("read probe", path(canary))).await?;
        Ok(pod.map(|pod| state(&pod)))
    }

    /// Deletes the pod of a canary, at once.
    pub async fn delete_probe(&self, canary: NodeId) -> Result<(), OutsideError> {
        let call = Call::new("delete probe", Method::DELETE, path(canary))
            .json(json!({"gracePeriodSeconds": 0}));
        self.expect(&call).await.map(|_| ())
    }

    /// Whether the API server reaches a node's kubelet, as it must for logs and exec.
    pub async fn reach_kubelet(&self, node: &str) -> Result<Check, OutsideError> {
        let path = format!("/api/v1/nodes/{node}/proxy/healthz");
        let answer = self.send(&Call::get("ask kubelet", path)).await;
        let what = "kubelet".to_owned();
        Ok(match answer {
            Ok(answer) => reached(&answer),
            // The API server still waits for the kubelet.
            Err(error) if error.message.starts_with("no answer within") => {
                Check { what, ok: false, detail: error.message }
            }
            Err(error) => return Err(error),
        })
    }
}

/// A kubelet that refuses us is reached; so is one whose certificate the API server dislikes.
fn reached(answer: &Answer) -> Check {
    let message = match answer.kubernetes_status() {
        Some(status) => status.message,
        None => answer.text.chars().take(200).collect(),
    };
    let is_closed = answer.status.as_u16() >= 500
        && ["dial tcp", "timeout", "timed out", "deadline exceeded", "no route", "unreachable"]
            .iter()
            .any(|words| message.contains(words));
    let detail = if is_closed { message } else { String::new() };
    Check { what: "kubelet".to_owned(), ok: !is_closed, detail }
}

fn path(canary: NodeId) -> String {
    format!("{PODS}/{}", name(canary))
}

fn name(canary: NodeId) -> String {
    format!("zcp-canary-{}", canary.0.simple())
}

fn manifest(pod: &ProbePod<'_>) -> Value {
    let targets = serde_json::to_string(pod.targets).unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(pod.canary),
            "namespace": "kube-system",
            "labels": {
                PROBE_LABEL: pod.canary.to_string(),
                "app.kubernetes.io/managed-by": "zcp",
            },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Node",
                "name": pod.owner.name,
                "uid": pod.owner.uid,
            }],
        },
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": true,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "probe",
                "image": pod.image,
                "command": ["/bin/sh", "-c", COMMAND],
                "env": [
                    {"name": "ZCP_SCRIPT", "value": pod.script},
                    {"name": PROBE_ENV, "value": targets},
                ],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "32Mi"},
                    "limits": {"memory": "128Mi"},
                },
                // To listen beside the overlay's own socket, and to run the node's Python.
                "securityContext": {
                    "runAsUser": 0,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "SYS_CHROOT"]},
                },
                "volumeMounts": [{"name": "host", "mountPath": "/host", "readOnly": true}],
            }],
            "volumes": [{"name": "host", "hostPath": {"path": "/", "type": "Directory"}}],
        },
    })
}

fn state(pod: &core::Pod) -> ProbeState {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if !matches!(phase, Some("Succeeded" | "Failed")) {
        return ProbeState::Waiting;
    }
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let ended = containers
        .unwrap_or_default()
        .iter()
        .find_map(|container| container.state.as_ref()?.terminated.as_ref()?.message.clone());
    ProbeState::Done(ended.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::kubernetes::call::tests::{Script, ok, status};

    fn canary() -> NodeId {
        NodeId(Uuid::from_u128(7))
    }

    #[tokio::test]
    async fn the_pod_is_made_once_and_belongs_to_the_canarys_node() {
        let script = Script::new(vec![ok(json!({})), status(409, "AlreadyExists", "exists")]);
        let client = script.client();
        let owner = NodeRef { name: "shop-canary-a".into(), uid: "u1".into() };
        let targets = Targets { peer: "10.20.0.5".into(), ..Targets::default() };
        let pod = ProbePod {
            canary: canary(),
            owner: &owner,
            node: "shop-web-b",
            image: "agnhost:1",
            script: "print()",
            targets: &targets,
        };
        client.ensure_probe(&pod).await.unwrap();
        client.ensure_probe(&pod).await.unwrap();
        let body = &script.asked()[0].body;
        assert_eq!(body["metadata"]["name"], "zcp-canary-00000000000000000000000000000007");
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(body["spec"]["nodeName"], "shop-web-b");
        let told = body["spec"]["containers"][0]["env"][1]["value"].as_str().unwrap();
        assert!(told.contains("10.20.0.5"), "{told}");
        serde_json::from_value::<core::Pod>(body.clone()).unwrap();
    }

    #[tokio::test]
    async fn the_last_words_are_read() {
        let ended = |phase: &str| {
            json!({"metadata": {}, "status": {"phase": phase, "containerStatuses": [
                {"name": "probe", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0, "message": "{}"}}}]}})
        };
        let missing = status(404, "NotFound", "no");
        let script = Script::new(vec![ok(ended("Running")), ok(ended("Succeeded")), missing]);
        let client = script.client();
        assert_eq!(client.probe(canary()).await.unwrap(), Some(ProbeState::Waiting));
        let done = ProbeState::Done("{}".into());
        assert_eq!(client.probe(canary()).await.unwrap(), Some(done));
        assert_eq!(client.probe(canary()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_kubelet_that_refuses_is_reached_and_a_silent_one_is_not() {
        let dial = "error trying to reach service: dial tcp 10.20.0.5:10250: i/o timeout";
        let script = Script::new(vec![
            ok(json!("ok")),
            status(403, "Forbidden", "no"),
            status(503, "ServiceUnavailable", "error trying to reach service: x509: unknown"),
            status(503, "ServiceUnavailable", dial),
        ]);
        let client = script.client();
        for is_reached in [true, true, true, false] {
            assert_eq!(client.reach_kubelet("n").await.unwrap().ok, is_reached);
        }
    }
}
