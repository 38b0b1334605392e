//! What a server is given so that it becomes a node: keys, kubeadm configuration, user data.
//!
//! Pure but for fresh keys, which come from the crypto library; `now` is an argument everywhere.
//! Every document is made by a serializer from typed structs, so that text of users (labels,
//! taints, extra arguments) stays data. Secrets never ride in user data: a control-plane server
//! fetches its [`bundle`] once, a worker has only a bootstrap token of its own.

pub mod bundle;
pub mod kube_vip;
pub mod kubeadm;
pub mod kubeconfig;
pub mod pki;
pub mod probe;
pub mod tokens;
pub mod user_data;

/// A document of plain structs as YAML.
fn yaml(document: &impl serde::Serialize) -> String {
    // Long lines are never folded: fewer ways in which another reader may see another text.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(document, options).expect("plain structs always serialize")
}
