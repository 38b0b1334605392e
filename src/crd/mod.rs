//! `ClusterMigration`: a migration as an object of a Kubernetes API, for owners who live in
//! `kubectl`.
//!
//! The object is a second front door beside the REST API: what it wishes goes through the same use
//! cases, and what a migration says of itself comes back as its status. This module holds what
//! the object looks like ([`ClusterMigration`]), what its wishes mean and what its
//! status says. It is pure; `worker::management` does the work. The rules for users
//! are in `deploy/crd/README.md`.
//!
//! `deploy/crd/clustermigrations.zcp.io.yaml` is printed by [`manifest`] (`zcpd crd`); a test holds
//! the two together. What the API server can refuse by itself it refuses: the shape by a structural
//! schema, the rules between fields by CEL. All of it is checked again by `domain`, since an API
//! server may hold objects from before a rule.

pub mod wishes;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::migration::{
    self, AtDeadline, CanaryPolicy, CommitPolicy, Direction, MigrationSpec, Phase,
};
use crate::domain::wave::{self, Gate, Upto};

/// Label of a Namespace: the zcp project whose migrations its objects are.
pub const PROJECT_LABEL: &str = "zcp.io/project";
/// Label of an object that zcpd made for a migration that was started elsewhere.
pub const MIGRATION_LABEL: &str = "zcp.io/migration";
/// Annotation of an object: the wishes that zcpd last wrote into it, and at which generation.
pub const AGREED_ANNOTATION: &str = "zcp.io/agreed";
/// Keeps an object until its deletion has turned the migration back.
pub const FINALIZER: &str = "zcp.io/rollback";

/// Moves a cluster's workers to another cloud. Deleting it before the old nodes are deleted
/// (phase `committing`) turns the migration back.
#[derive(Debug, Clone, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "zcp.io",
    version = "v1alpha1",
    kind = "ClusterMigration",
    namespaced,
    status = "ClusterMigrationStatus",
    derive = "PartialEq",
    shortname = "clm",
    category = "zcp",
    doc = "A migration of a cluster's workers from one OpenStack cloud to another by zcp. Deleting \
           the object before phase committing turns the migration back.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.target"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Wave", type_ = "string", json_path = ".status.progress.wave"),
    printcolumn(name = "Drained", type_ = "string", json_path = ".status.progress.nodes"),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        priority = 1
    ),
    printcolumn(name = "Waiting", type_ = "string", json_path = ".status.waiting[0]", priority = 1),
    printcolumn(name = "End", type_ = "string", json_path = ".status.estimatedEnd", priority = 1),
    validation = Rule::new(FIXED_ONCE_ACCEPTED)
        .message("only paused, direction, approvedWave, commitNow and retries may change once the \
                  migration is accepted: delete the object to turn it back"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.source) || self.source != self.target")
    .message("must be another cloud than the source").field_path(".target"))]
#[x_kube(validation = Rule::new("!has(self.approvedWave) || self.approvedWave <= self.waves.size()")
    .message("there are not so many waves").field_path(".approvedWave"))]
#[x_kube(validation = Rule::new("!(self.commitNow && self.direction == 'back')")
    .message("a migration that turns back is not committed").field_path(".commitNow"))]
pub struct ClusterMigrationSpec {
    /// Name of the cluster in the project of the namespace.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// Cloud that the workers leave; default: the one cloud on which the pools are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub source: Option<String>,
    /// Cloud that they move to.
    #[schemars(length(min = 1, max = 63))]
    pub target: String,
    /// Pools that move; default: all on the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 63)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub pools: Vec<String>,
    /// How far each wave goes; the last one is "100%".
    #[serde(default = "waves_default")]
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new(LAST_WAVE_IS_ALL).message("the last wave must be \"100%\""))]
    #[x_kube(validation = Rule::new(WAVES_GROW)
        .message("each wave must go further than the one before it: numbers of nodes first, then \
                  percentages"))]
    #[x_kube(validation = Rule::new(WAVES_DIFFER).message("two waves go equally far"))]
    pub waves: Vec<WaveSpec>,
    /// How nodes are drained.
    #[serde(default)]
    pub drain: DrainSpec,
    /// Seconds for which the old nodes are kept after the last wave.
    #[serde(default = "hold_default")]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub hold_seconds: u32,
    /// What ends the hold: its end, or only `commitNow`.
    #[serde(default)]
    pub commit: CommitPolicy,
    /// Whether a canary tries the target first. In YAML: "off", in quotes.
    #[serde(default)]
    pub canary: CanaryPolicy,
    /// Whether it turns back by itself where it would pause because something suffers.
    #[serde(default)]
    pub auto_rollback: bool,
    /// Take no further step. May change at any time.
    #[serde(default)]
    pub paused: bool,
    /// `back` turns the migration back. May change as long as the old nodes are there.
    #[serde(default = "direction_default")]
    pub direction: Direction,
    /// Waves up to this one, counted from 1, need no further approval. May grow at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub approved_wave: Option<u32>,
    /// End the hold as soon as it begins, and delete the old nodes. May change at any time.
    #[serde(default)]
    pub commit_now: bool,
    /// Another number forgets back-off and attempts of what is parked. May change at any time.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub retries: u32,
}

impl ClusterMigrationSpec {
    /// The migration that is wished.
    pub fn wish(&self) -> MigrationSpec {
        let wave = |wave: &WaveSpec| wave::WaveSpec {
            upto: wave.upto,
            soak_seconds: wave.soak_seconds,
            gate: wave.gate,
        };
        MigrationSpec {
            source: self.source.clone(),
            target: self.target.clone(),
            pools: self.pools.clone(),
            waves: self.waves.iter().map(wave).collect(),
            drain: migration::DrainSpec {
                timeout_seconds: self.drain.timeout_seconds,
                at_deadline: self.drain.at_deadline,
                volume_timeout_seconds: self.drain.volume_timeout_seconds,
                evict_unhealthy: self.drain.evict_unhealthy,
                parallel: self.drain.parallel,
            },
            hold_seconds: self.hold_seconds,
            commit: self.commit,
            canary: self.canary,
            auto_rollback: self.auto_rollback,
        }
    }

    /// The spec of an object for a migration that was started elsewhere.
    pub fn of(cluster: &str, wish: &MigrationSpec) -> Self {
        Self {
            cluster: cluster.to_owned(),
            source: wish.source.clone(),
            target: wish.target.clone(),
            pools: wish.pools.clone(),
            waves: wish.waves.iter().map(WaveSpec::of).collect(),
            drain: DrainSpec::of(&wish.drain),
            hold_seconds: wish.hold_seconds,
            commit: wish.commit,
            canary: wish.canary,
            auto_rollback: wish.auto_rollback,
            paused: false,
            direction: Direction::Forward,
            approved_wave: None,
            commit_now: false,
            retries: 0,
        }
    }
}

/// The path of a field as the object spells it: `drain.timeout_seconds` is
/// `spec.drain.timeoutSeconds`.
pub fn field_path(path: &str) -> String {
    let mut spelled = "spec.".to_owned();
    let mut is_upper = false;
    for c in path.chars() {
        match c {
            '_' => is_upper = true,
            c if is_upper => {
                spelled.push(c.to_ascii_uppercase());
                is_upper = false;
            }
            c => spelled.push(c),
        }
    }
    spelled
}

/// The wish itself is fixed once there is a migration; what steers it may change.
const FIXED_ONCE_ACCEPTED: &str = "!has(oldSelf.status) || !has(oldSelf.status.migrationID) \
    || (self.spec.cluster == oldSelf.spec.cluster \
    && self.spec.target == oldSelf.spec.target \
    && has(self.spec.source) == has(oldSelf.spec.source) \
    && (!has(self.spec.source) || self.spec.source == oldSelf.spec.source) \
    && has(self.spec.pools) == has(oldSelf.spec.pools) \
    && (!has(self.spec.pools) || self.spec.pools == oldSelf.spec.pools) \
    && self.spec.waves == oldSelf.spec.waves \
    && self.spec.drain == oldSelf.spec.drain \
    && self.spec.holdSeconds == oldSelf.spec.holdSeconds \
    && self.spec.commit == oldSelf.spec.commit \
    && self.spec.canary == oldSelf.spec.canary \
    && self.spec.autoRollback == oldSelf.spec.autoRollback)";
const LAST_WAVE_IS_ALL: &str = "self.size() == 0 || self[self.size() - 1].upto == '100%'";
/// Numbers of nodes are below a million, so that they rank before all percentages.
const WAVES_GROW: &str = "self.map(w, type(w.upto) == int ? int(w.upto) \
    : 1000000 + int(string(w.upto).replace('%', ''))).isSorted()";
const WAVES_DIFFER: &str = "self.all(a, self.exists_one(b, string(b.upto) == string(a.upto)))";

/// One wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaveSpec {
    /// How far it goes, counted from the beginning: a number of nodes, or a percentage such as
    /// "25%".
    #[schemars(schema_with = "upto_schema")]
    pub upto: Upto,
    /// Seconds that must stay healthy after it.
    #[serde(default = "soak_default")]
    #[schemars(range(min = 0, max = 604_800))]
    pub soak_seconds: u32,
    /// What must be true to go on after it.
    #[serde(default)]
    pub gate: Gate,
}

impl WaveSpec {
    fn of(wave: &wave::WaveSpec) -> Self {
        Self { upto: wave.upto, soak_seconds: wave.soak_seconds, gate: wave.gate }
    }
}

/// How nodes are drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainSpec {
    /// Seconds that one node may take.
    #[schemars(range(min = 10, max = 86_400))]
    pub timeout_seconds: u32,
    /// What happens then: the migration pauses, the node is left, or its pods are deleted.
    pub at_deadline: AtDeadline,
    /// Seconds that the volumes of an emptied node may take to be detached before it pauses.
    #[schemars(range(min = 0, max = 86_400))]
    pub volume_timeout_seconds: u32,
    /// Delete pods that are not Ready when a disruption budget keeps them.
    pub evict_unhealthy: bool,
    /// Nodes drained at once; default: one in the first wave, then a tenth of the wave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub parallel: Option<u32>,
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self::of(&migration::DrainSpec::default())
    }
}

impl DrainSpec {
    fn of(wish: &migration::DrainSpec) -> Self {
        Self {
            timeout_seconds: wish.timeout_seconds,
            at_deadline: wish.at_deadline,
            volume_timeout_seconds: wish.volume_timeout_seconds,
            evict_unhealthy: wish.evict_unhealthy,
            parallel: wish.parallel,
        }
    }
}

/// What a migration says of itself. Written by zcpd alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMigrationStatus {
    /// The generation of the object that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The migration's id in the REST API.
    #[serde(rename = "migrationID", default, skip_serializing_if = "Option::is_none")]
    pub migration_id: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Which way it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Who paused it and why; absent when it is not paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why it is not going on right now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// Who keeps nodes from being drained, the first 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
    /// When it will probably be over, without waiting for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_end: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// `Accepted`, `WishesTaken`, `Succeeded`, and what the migration itself says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
}

/// How far a migration is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The present wave of all waves, such as `2/3`.
    pub wave: String,
    /// Old nodes that are drained, of all that move, such as `12/41`.
    pub nodes: String,
    /// Old nodes that move.
    pub old: u32,
    /// Old nodes that are drained or skipped.
    pub drained: u32,
    /// New nodes, in any state.
    pub new: u32,
    /// New nodes that serve.
    pub usable: u32,
}

/// What keeps a node from being drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocker {
    /// The node.
    pub node: String,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// Why it is still there.
    pub reason: String,
}

fn waves_default() -> Vec<WaveSpec> {
    wave::default_waves().iter().map(WaveSpec::of).collect()
}

fn soak_default() -> u32 {
    180
}

fn hold_default() -> u32 {
    24 * 3600
}

fn direction_default() -> Direction {
    Direction::Forward
}

fn upto_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 1,
        "maximum": 999_999,
        "maxLength": 4,
        "pattern": "^([1-9][0-9]?|100)%$",
    })
}

/// The CustomResourceDefinition as a YAML document, as it is kept in `deploy/crd/`.
pub fn manifest() -> Result<String, String> {
    let mut definition =
        serde_json::to_value(ClusterMigration::crd()).map_err(|error| error.to_string())?;
    tidy(&mut definition);
    let text = serde_saphyr::to_string(&definition).map_err(|error| error.to_string())?;
    Ok(format!("# Printed by `zcpd crd`; do not edit.\n{}\n", text.trim_end()))
}

/// Takes out what API servers warn about (a format that is Rust's), and writes whole numbers whole.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").is_some_and(|format| format == "uint32") {
                fields.remove("format");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "the limits of our own fields")]
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0) {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_the_same_on_both_doors() {
        let object: ClusterMigrationSpec = serde_json::from_value(serde_json::json!({
            "cluster": "alpha", "target": "west", "source": "east", "pools": ["web"],
            "waves": [{"upto": 2, "soakSeconds": 5, "gate": "approval"}, {"upto": "100%"}],
            "drain": {"atDeadline": "force", "parallel": 3}, "holdSeconds": 7, "commit": "manual",
            "canary": "off",
        }))
        .unwrap();
        let wish = object.wish();
        assert_eq!(ClusterMigrationSpec::of("alpha", &wish), object);
        assert!(wish.check().0.is_empty());
        let least = serde_json::json!({"target": "west"});
        let least: MigrationSpec = serde_json::from_value(least).unwrap();
        let object = serde_json::json!({"cluster": "alpha", "target": "west"});
        let object: ClusterMigrationSpec = serde_json::from_value(object).unwrap();
        assert_eq!(object.wish(), least, "the same defaults");
    }

    #[test]
    fn wrong_fields_are_named_as_the_object_spells_them() {
        assert_eq!(field_path("drain.timeout_seconds"), "spec.drain.timeoutSeconds");
        assert_eq!(field_path("waves[1].upto"), "spec.waves[1].upto");
    }
}
