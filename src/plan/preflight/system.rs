//! What else acts in the cluster, and on which cloud it acts.

use super::facts::Facts;
use super::pods::{count, have};
use crate::domain::insight::Insight;
use crate::domain::survey::{Survey, WebhookFacts, WorkloadFacts};

/// Programs that cordon, drain or delete nodes on their own, by a part of their image's name.
const ACTORS: [&str; 5] =
    ["cluster-autoscaler", "kured", "system-upgrade-controller", "descheduler", "draino"];

/// Workloads one of whose images bears this name.
fn running<'a>(survey: &'a Survey, image: &'a str) -> Vec<&'a WorkloadFacts> {
    let bears = |one: &&WorkloadFacts| one.images.iter().any(|name| name.contains(image));
    survey.workloads.iter().filter(bears).collect()
}

/// The cloud controller manager asks its own cloud about every node (F70).
pub(super) fn cloud_controller(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "ccm";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found = running(survey, "openstack-cloud-controller-manager");
    if found.is_empty() {
        let reason = if survey.has_cloud_config {
            "no cloud controller manager runs (the Secret kube-system/cloud-config is there)"
        } else {
            "no cloud controller manager runs"
        };
        return vec![facts.pass(ID, reason)];
    }
    if found.len() > 1 && found.iter().all(|one| one.is_regional) {
        let reason = "one cloud controller manager a cloud, with regional providerIDs";
        return vec![facts.pass(ID, reason).on(found.iter().map(|one| one.full_name()))];
    }
    if found.iter().all(|one| one.args.iter().any(|arg| leaves_nodes_alone(arg))) {
        let reason = "the cloud controller manager does not judge nodes";
        return vec![facts.pass(ID, reason).on(found.iter().map(|one| one.full_name()))];
    }
    let reason = format!(
        "the cloud controller manager knows cloud {} only: it deletes the Node of a server of {} \
         as soon as that is not Ready once",
        facts.source.name, facts.target.name
    );
    let fix = "run one for each cloud with OS_CCM_REGIONAL=true, or take cloud-node-lifecycle \
               from its --controllers while the workers move";
    vec![facts.block(ID, reason).on(found.iter().map(|one| one.full_name())).fix(fix)]
}

/// Whether a flag of the cloud controller manager takes the judging of nodes from it.
fn leaves_nodes_alone(arg: &str) -> bool {
    let Some((_, list)) = arg.split_once("--controllers=") else { return false };
    let names: Vec<&str> = list.split(',').map(str::trim).collect();
    let (is_all, is_named) = (names.contains(&"*"), names.contains(&"cloud-node-lifecycle"));
    names.contains(&"-cloud-node-lifecycle") || (!is_all && !is_named)
}

/// The CSI plugin attaches volumes of one cloud.
pub(super) fn storage(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "csi";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found: Vec<&WorkloadFacts> = running(survey, "cinder-csi-plugin");
    let on_nodes = found.iter().filter(|one| one.kind == "DaemonSet").count();
    if on_nodes != 1 {
        let reason = if found.is_empty() {
            "no Cinder CSI plugin runs"
        } else {
            "there is more than one Cinder CSI plugin"
        };
        return vec![facts.pass(ID, reason).on(found.iter().map(|one| one.full_name()))];
    }
    let reason = format!(
        "the Cinder CSI plugin speaks to cloud {} only: pods on new nodes get no new volumes",
        facts.source.name
    );
    let fix = "run a plugin with a storage class for each cloud";
    vec![facts.warn(ID, reason).on(found.iter().map(|one| one.full_name())).fix(fix)]
}

/// Others that cordon and drain.
pub(super) fn actors(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "actors";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found: Vec<String> = ACTORS
        .iter()
        .flat_map(|actor| running(survey, actor))
        .map(WorkloadFacts::full_name)
        .collect();
    if found.is_empty() {
        return vec![facts.pass(ID, "nobody else cordons, drains or removes nodes")];
    }
    let reason = format!(
        "{} in the cluster may cordon, drain or remove nodes meanwhile",
        count(found.len(), "other actor")
    );
    let fix = "scale it down while the workers move, or keep it off the nodes that move";
    vec![facts.warn(ID, reason).on(found).fix(fix)]
}

/// Services whose balancer must reach the new nodes.
pub(super) fn load_balancers(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "load_balancers";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found: Vec<String> = survey
        .services
        .iter()
        .filter(|one| one.is_balanced)
        .map(|one| format!("{}/{}", one.namespace, one.name))
        .collect();
    if found.is_empty() {
        return vec![facts.pass(ID, "no Service has a load balancer")];
    }
    let reason = format!(
        "{} a load balancer of cloud {}, whose members must be reached on {}",
        have(found.len(), "Service"),
        facts.source.name,
        facts.target.name
    );
    let fix = "see that the balancer has a route and the node ports are open, then look at its \
               members after the first wave (--gate 1=approval)";
    vec![facts.warn(ID, reason).on(found).fix(fix)]
}

/// Webhooks that nobody answers.
pub(super) fn webhooks(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "webhooks";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let is_dead = |one: &&WebhookFacts| {
        one.must_answer && one.service.as_ref().is_some_and(|service| !has_pods(survey, service))
    };
    let dead: Vec<&WebhookFacts> = survey.webhooks.iter().filter(is_dead).collect();
    if dead.is_empty() {
        return vec![facts.pass(ID, "every webhook that must answer has pods behind it")];
    }
    let described = dead.iter().map(|one| {
        let (namespace, name) = one.service.clone().unwrap_or_default();
        format!("{}: Service {namespace}/{name}", one.name)
    });
    let fix = "their owner brings the Service back, or deletes the configuration";
    if dead.iter().any(|one| one.judges_pods) {
        let reason = format!(
            "{} that must answer {} no Ready pod behind: no pod can be made or evicted",
            count(dead.len(), "webhook"),
            if dead.len() == 1 { "has" } else { "have" }
        );
        return vec![facts.block(ID, reason).on(described).fix(fix)];
    }
    let reason =
        format!("{} nobody answers; pods are not their business", count(dead.len(), "webhook"));
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Whether a Service has a pod on a node. One whose endpoints others write is believed in.
fn has_pods(survey: &Survey, (namespace, name): &(String, String)) -> bool {
    let is_it = |one: &&crate::domain::survey::ServiceFacts| {
        one.namespace == *namespace && one.name == *name
    };
    let Some(service) = survey.services.iter().find(is_it) else { return false };
    let Some(selector) = &service.selector else { return true };
    survey.pods.iter().any(|pod| {
        pod.namespace == *namespace
            && pod.is_ready
            && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    })
}

/// NetworkPolicies that allow or forbid addresses of nodes.
pub(super) fn network_policies(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "network_policies";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let old = facts.old_addresses();
    let found: Vec<String> = survey
        .address_rules
        .iter()
        .filter(|(_, range)| super::network::holds_any(range, &old))
        .map(|(policy, range)| format!("{policy}: {range}"))
        .collect();
    if found.is_empty() {
        return vec![facts.pass(ID, "no NetworkPolicy names addresses of nodes that go")];
    }
    let reason = format!(
        "{} ranges that hold the old nodes' addresses; the new ones have others",
        if found.len() == 1 {
            "1 NetworkPolicy names".to_owned()
        } else {
            format!("{} NetworkPolicies name", found.len())
        }
    );
    let fix = "their owner adds the target's range; firewalls outside may need the same";
    vec![facts.warn(ID, reason).on(found).fix(fix)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_controller_that_judges_no_nodes_is_told_by_its_flag() {
        for (arg, alone) in [
            ("--controllers=*,-cloud-node-lifecycle", true),
            ("--controllers=cloud-node,service,route", true),
            ("--controllers=*", false),
            ("--controllers=cloud-node,cloud-node-lifecycle", false),
            ("--v=2", false),
        ] {
            assert_eq!(leaves_nodes_alone(arg), alone, "{arg}");
        }
    }
}
