//! Plans over a model of the world: rows whose calls come true in one step, or fail.
//!
//! No database, no cloud: the planners' own rules are what is tested. `story` prints every plan of
//! a scenario into a golden file; `random` lets chance decide and checks the limits.

mod blocked;
mod health;
mod random;
mod story;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use zcp::domain::cluster::ClusterPhase;
use zcp::domain::harm::{Facts, Harm};
use zcp::domain::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId};
use zcp::domain::inventory::ServerStatus;
use zcp::domain::migration::{Event, Migration, MigrationNode, MigrationSpec, Phase};
use zcp::domain::node::{Desired, Drain, Kubelet, Lineage, Node, Outside, Role, Signs};
use zcp::domain::wave::assign;
use zcp::plan::cluster::{self, Cloud, Cluster, Group, Heritage, Lost, NewNode};
use zcp::plan::migration;
use zcp::plan::pool::Pool;
use zcp::plan::preflight::Verdict;

pub(super) const EAST: CloudId = CloudId(Uuid::from_u128(1));
pub(super) const WEST: CloudId = CloudId(Uuid::from_u128(2));
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(20));

/// What a step of the cluster planner does to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Luck {
    /// The call does what it should.
    Good,
    /// The server ends in ERROR.
    Error,
}

/// A cluster as the planners see it.
pub(super) struct Model {
    pub now: Timestamp,
    pub cluster: Cluster,
    pub pools: Vec<Pool>,
    /// What owners put on single nodes: the number of the node that first bore it.
    pub ledger: BTreeMap<NodeId, BTreeSet<u128>>,
    pub lost: Vec<Lost>,
    /// Pods refuse to go.
    pub is_stuck: bool,
    heirs: BTreeMap<NodeId, NodeId>,
    /// Who was given its predecessor's ledger.
    carried: BTreeSet<NodeId>,
    pub nodes: Vec<Node>,
    pub migration: Option<Migration>,
    groups: BTreeMap<(Option<PoolId>, CloudId, u32), Outside>,
    of_group: BTreeMap<NodeId, (Option<PoolId>, CloudId, u32)>,
    next: u128,
}

impl Model {
    pub fn new(workers: u32) -> Self {
        Self::with_pools(&[workers])
    }

    pub fn with_pools(counts: &[u32]) -> Self {
        let pool = |(n, count): (usize, &u32)| Pool {
            id: PoolId(Uuid::from_u128(10 + n as u128)),
            name: ["web", "db", "batch"][n].into(),
            cloud: EAST,
            count: *count,
            surge: 1,
        };
        Self {
            now: "2026-03-01T12:00:00Z".parse().expect("a time"),
            cluster: Cluster {
                desired: Desired::Present,
                phase: ClusterPhase::Creating,
                members: 1,
                control_plane_cloud: EAST,
                vip_port: Outside::Never,
                has_api: false,
                has_base: false,
                listed_at: None,
            },
            pools: counts.iter().enumerate().map(pool).collect(),
            ledger: BTreeMap::new(),
            lost: Vec::new(),
            is_stuck: false,
            heirs: BTreeMap::new(),
            carried: BTreeSet::new(),
            nodes: Vec::new(),
            migration: None,
            groups: BTreeMap::new(),
            of_group: BTreeMap::new(),
            next: 100,
        }
    }

    pub fn cluster_snapshot(&self) -> cluster::Snapshot {
        let cloud = |name: &str| Cloud {
            name: name.to_owned(),
            is_ready: true,
            group_size: 10,
            listed_at: Some(self.now),
        };
        let group = |(at, state): (&(Option<PoolId>, CloudId, u32), &Outside)| Group {
            id: group_id(*at),
            pool: at.0,
            cloud: at.1,
            number: at.2,
            state: *state,
            nodes: u32::try_from(self.of_group.values().filter(|of| *of == at).count())
                .unwrap_or(0),
        };
        cluster::Snapshot {
            now: self.now,
            cluster: self.cluster.clone(),
            pools: self.pools.clone(),
            nodes: self.nodes.clone(),
            migration: self.migration.clone(),
            canaries: vec![],
            lost: self.lost.iter().filter(|l| self.is_without_heir(l)).copied().collect(),
            groups: self.groups.iter().map(group).collect(),
            clouds: BTreeMap::from([(EAST, cloud("east")), (WEST, cloud("west"))]),
            join_deadline: SignedDuration::from_mins(20),
        }
    }

    pub fn migration_snapshot(&self) -> Option<migration::Snapshot> {
        let workers = self.nodes.iter().filter(|node| node.role == Role::Worker);
        Some(migration::Snapshot {
            now: self.now,
            migration: self.migration.clone().filter(|m| !m.phase.is_final())?,
            pools: self.pools.clone(),
            nodes: workers.cloned().collect(),
            preflight: Verdict::Clear,
            cluster: self.cluster.desired,
        })
    }

    pub fn migrate(&mut self, mut spec: serde_json::Value) {
        spec["canary"] = "off".into();
        let spec: MigrationSpec = serde_json::from_value(spec).expect("a spec");
        let of_pool = |pool: &Pool| -> Vec<NodeId> {
            let members = self.nodes.iter().filter(|n| n.pool_id == Some(pool.id));
            members.filter(|n| n.is_usable()).map(|n| n.id).collect()
        };
        let old: Vec<Vec<NodeId>> = self.pools.iter().map(of_pool).collect();
        let counts: Vec<u32> =
            old.iter().map(|ids| u32::try_from(ids.len()).expect("few")).collect();
        let waves = assign(&spec.waves, &counts);
        let nodes = old.into_iter().flatten().zip(waves.into_iter().flatten());
        self.migration = Some(Migration {
            id: MigrationId(Uuid::from_u128(30)),
            cluster_id: CLUSTER,
            source: EAST,
            target: WEST,
            spec,
            phase: Phase::Pending,
            phase_since: self.now,
            wave: 0,
            paused: None,
            resumed_at: None,
            approved_wave: None,
            wants_commit: false,
            wants_rollback: false,
            wants_cancel: false,
            healthy_since: None,
            harm: Harm::default(),
            pools: self.pools.iter().map(|pool| pool.id).collect(),
            sizes: self.pools.iter().map(|pool| pool.id).zip(counts).collect(),
            skips: BTreeSet::new(),
            nodes: nodes.map(|(node_id, wave)| MigrationNode { node_id, wave }).collect(),
        });
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("an open node")
    }

    fn add(&mut self, new: &NewNode) {
        self.next += 1;
        let id = NodeId(Uuid::from_u128(self.next));
        let pool = self.pools.iter().find(|pool| Some(pool.id) == new.pool);
        let kind = pool.map_or("cp", |pool| pool.name.as_str()).to_owned();
        let cloud = if new.cloud == EAST { "east" } else { "west" };
        let at = (new.pool, new.cloud, new.group);
        let state = self.groups.entry(at).or_insert(Outside::Never);
        if *state == Outside::Gone {
            *state = Outside::Never;
        }
        self.of_group.insert(id, at);
        self.nodes.push(Node {
            id,
            cluster_id: CLUSTER,
            pool_id: new.pool,
            role: if new.pool.is_some() { Role::Worker } else { Role::ControlPlane },
            member: new.member,
            name: format!("{kind}-{cloud}-{}", self.next - 100),
            cloud_id: new.cloud,
            desired: Desired::Present,
            attempt: new.attempt,
            not_before: new.not_before,
            created_at: self.now,
            port: Outside::Never,
            port_id: None,
            address: None,
            server: Outside::Never,
            server_id: None,
            server_intent_at: None,
            server_status: None,
            server_fault: None,
            server_missing_since: None,
            token: Outside::Never,
            object: Outside::Never,
            kubelet: Kubelet::default(),
            drain: Drain::Idle,
            drain_started_at: None,
            was_cordoned: false,
            blockers: Vec::new(),
            usable_at: None,
            trouble: None,
            lineage: Lineage::default(),
            signs: Signs::default(),
        });
        if let Some(heritage) = new.heritage {
            self.adopt(id, heritage);
        }
    }

    /// Carries out a step of the cluster planner.
    pub fn take(&mut self, step: &cluster::Step, (why, luck): (&str, Luck)) {
        use cluster::Step as S;
        let now = self.now;
        match step {
            S::AddNode(new) => self.add(new),
            S::Dismiss(id) | S::Replace(id) | S::FailNode(id) => {
                let node = self.node(*id);
                assert_eq!(node.desired, Desired::Present, "a node is dismissed once");
                node.desired = Desired::Absent;
                node.trouble = Some(why.to_owned());
                let (pool, cloud) = (node.pool_id, node.cloud_id);
                let is_blank = node.usable_at.is_none() || node.lineage.needs_carry;
                let predecessor = node.lineage.predecessor;
                let is_given = self.carried.contains(id) || !is_blank;
                let ledger_of = predecessor.filter(|_| !is_given).unwrap_or(*id);
                match (step, pool) {
                    (S::Replace(_) | S::FailNode(_), Some(pool)) => {
                        self.lost.push(Lost { id: *id, pool, cloud, ledger_of });
                    }
                    _ => self.give_up(*id),
                }
                let is_old = |m: &&mut Migration| m.nodes.iter().any(|n| n.node_id == *id);
                if let (S::Dismiss(_), Some(pool)) = (step, pool)
                    && let Some(migration) = self.migration.as_mut().filter(is_old)
                    && let Some(size) = migration.sizes.get_mut(&pool)
                {
                    *size -= 1;
                }
            }
            S::EnsureVipPort => self.cluster.vip_port = Outside::Present,
            S::DeleteVipPort => self.cluster.vip_port = Outside::Gone,
            S::CheckApi => {
                self.cluster.has_api = true;
                self.cluster.phase = ClusterPhase::Running;
            }
            S::ApplyBase => self.cluster.has_base = true,
            S::CloseCluster => self.cluster.phase = ClusterPhase::Deleted,
            S::EnsureGroup(id) | S::DeleteGroup(id) => {
                let is_made = matches!(step, S::EnsureGroup(_));
                for (at, state) in &mut self.groups {
                    if group_id(*at) == *id {
                        *state = if is_made { Outside::Present } else { Outside::Gone };
                    }
                }
            }
            S::EnsureServer(id) => {
                let node = self.node(*id);
                node.server = Outside::Present;
                node.server_intent_at = Some(now);
                node.server_status = Some(if luck == Luck::Good {
                    ServerStatus::Build
                } else {
                    ServerStatus::Error
                });
            }
            S::CloseNode(id) => {
                self.nodes.retain(|node| node.id != *id);
                self.of_group.remove(id);
            }
            other => self.take_small(other),
        }
    }

    fn take_small(&mut self, step: &cluster::Step) {
        use cluster::Step as S;
        let now = self.now;
        match step {
            S::EnsurePort(id) => self.node(*id).port = Outside::Present,
            S::EnsureToken(id) => self.node(*id).token = Outside::Present,
            S::RevokeToken(id) => self.node(*id).token = Outside::Gone,
            S::ApplyLabels(id) => {
                let node = self.node(*id);
                node.kubelet.is_labelled = true;
                node.usable_at = Some(now);
            }
            S::CarryLedger(id) => self.carry(*id),
            S::LiftCordon(id) => {
                let node = self.node(*id);
                node.kubelet.cordon_mark = None;
                node.kubelet.is_cordoned = false;
            }
            S::DrainNode(id) => {
                let drain = if self.is_stuck { Drain::Evicting } else { Drain::Drained };
                let node = self.node(*id);
                node.kubelet.is_cordoned = true;
                node.drain = drain;
            }
            S::DeleteServer(id) | S::ConfirmServer(id) => {
                let node = self.node(*id);
                node.server = Outside::Gone;
                node.server_status = None;
                node.kubelet.is_ready = false;
            }
            S::StartServer(id) => self.node(*id).server_status = Some(ServerStatus::Active),
            S::DeletePort(id) => self.node(*id).port = Outside::Gone,
            S::DeleteObject(id) => self.node(*id).object = Outside::Gone,
            other => panic!("{other} is taken above"),
        }
    }

    /// Servers that build become ACTIVE, and their nodes join.
    pub fn servers_come_up(&mut self) {
        for node in &mut self.nodes {
            if node.server_status == Some(ServerStatus::Build) {
                node.server_status = Some(ServerStatus::Active);
                node.object = Outside::Present;
                node.kubelet.is_ready = true;
                node.kubelet.is_ours = true;
                node.kubelet.has_daemons = true;
                node.kubelet.is_labelled = node.role == Role::ControlPlane;
            }
        }
    }

    /// Carries out a step of the migration planner.
    pub fn steer(&mut self, step: &migration::Step) {
        use migration::Step as S;
        let now = self.now;
        let mut migration = self.migration.take().expect("a migration");
        match step {
            S::Move(event, wave) => {
                migration.phase = migration.phase.after(*event).expect("a drawn transition");
                migration.phase_since = now;
                migration.healthy_since = None;
                migration.wave = wave.unwrap_or(migration.wave);
                if matches!(event, Event::Returned | Event::ForwardAnew) {
                    self.lost.retain(|lost| lost.cloud != migration.target);
                }
                if migration.phase == Phase::Committing {
                    self.pools.iter_mut().for_each(|pool| pool.cloud = migration.target);
                }
            }
            S::TakeBaseline => {
                migration.harm = Harm::baseline(migration.wave, Facts::default(), now);
            }
            S::LookForHarm => migration.harm.looked_at = Some(now),
            S::SetHealthy(is_healthy) => migration.healthy_since = is_healthy.then_some(now),
            S::Pause(reason) => migration.paused = Some(reason.clone()),
            S::TurnBack(_) => migration.wants_rollback = true,
            S::Cordon(id) => {
                let node = self.node(*id);
                node.kubelet.is_cordoned = true;
                node.drain = Drain::Evicting;
                node.drain_started_at = Some(now);
            }
            S::DrainPass(id) if self.is_stuck => self.node(*id).drain = Drain::Evicting,
            S::DrainPass(id) | S::ForcePass(id) | S::AssumeDrained(id) => {
                self.node(*id).drain = Drain::Drained;
            }
            S::Skip(id) => self.node(*id).drain = Drain::Skipped,
            S::Uncordon(id) => {
                let node = self.node(*id);
                node.kubelet.is_cordoned = false;
                node.drain = Drain::Idle;
            }
            S::Dismiss(id) => {
                self.node(*id).desired = Desired::Absent;
                self.give_up(*id);
            }
        }
        self.migration = Some(migration);
    }

    /// The row of an heir names whose place it takes, as `store::nodes::heirs` writes it.
    fn adopt(&mut self, heir: NodeId, heritage: Heritage) {
        let gone: Vec<NodeId> = self.lost.iter().map(|lost| lost.id).collect();
        let Heritage { of, ledger_of } = heritage;
        for node in &mut self.nodes {
            let follows = node.lineage.heir.is_some_and(|old| {
                (old == of || old == ledger_of) && gone.contains(&old) && gone.contains(&node.id)
            });
            if node.id == of || node.id == ledger_of || follows {
                node.lineage.heir = Some(heir);
            }
        }
        let is_meant = |id: NodeId| id == of || id == ledger_of;
        for (id, old) in &mut self.heirs {
            if is_meant(*old) && gone.contains(old) && gone.contains(id) {
                *old = heir;
            }
        }
        self.heirs.insert(of, heir);
        self.heirs.insert(ledger_of, heir);
        for lost in self.lost.iter().filter(|l| l.ledger_of != l.id && is_meant(l.ledger_of)) {
            self.heirs.insert(lost.id, heir);
        }
        let has_any = self.ledger.get(&ledger_of).is_some_and(|marks| !marks.is_empty());
        let node = self.node(heir);
        node.lineage.predecessor = Some(ledger_of);
        node.lineage.needs_carry = has_any;
    }

    fn is_without_heir(&self, lost: &Lost) -> bool {
        let heir = self.heirs.get(&lost.id);
        let is_lost = self.lost.iter().any(|other| Some(&other.id) == heir);
        !is_lost && !self.has_living_heir(lost.id)
    }

    fn has_living_heir(&self, id: NodeId) -> bool {
        let heir = self.heirs.get(&id);
        self.nodes.iter().any(|n| Some(&n.id) == heir && n.desired == Desired::Present)
    }

    /// Nobody stands in the place of a node that its owner gave up.
    fn give_up(&mut self, id: NodeId) {
        let heirs = &self.heirs;
        self.lost.retain(|lost| heirs.get(&lost.id) != Some(&id));
    }

    fn carry(&mut self, id: NodeId) {
        let predecessor = self.node(id).lineage.predecessor.expect("it has one");
        let marks = self.ledger.get(&predecessor).cloned().unwrap_or_default();
        self.ledger.entry(id).or_default().extend(marks);
        // Whoever stands in its place already lacks what it was just given.
        for heir in self.nodes.iter_mut().filter(|n| n.lineage.predecessor == Some(id)) {
            heir.lineage.needs_carry = true;
        }
        self.node(id).lineage.needs_carry = false;
        self.carried.insert(id);
    }

    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Worker)
    }
}

fn group_id(at: (Option<PoolId>, CloudId, u32)) -> Uuid {
    let pool = at.0.map_or(0, |pool| pool.0.as_u128());
    Uuid::from_u128((1 << 100) + (pool << 40) + (at.1.0.as_u128() << 20) + u128::from(at.2))
}
