//! Why a migration is not going on, as its owner would ask.
//!
//! The planner says what it waits for; this puts it in order of who has to act, adds what stands
//! in other rows (work that failed, insights that block, pods that refuse), and says once what two
//! of them say.

use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::explanation::{InsightRef, Needs, Reason, ReasonKind, WorkRef};
use crate::domain::migration::{CommitPolicy, Migration, Phase, Verb};
use crate::domain::node::Node;

/// Most resources that a reason names.
const RESOURCES: usize = 20;
/// Most nodes that are told of one by one.
const NODES: usize = 20;

/// A work item of the migration or its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Which worker looks at it.
    pub kind: String,
    /// The resource.
    pub id: Uuid,
    /// An operator stopped it.
    pub is_disabled: bool,
    /// Failures in a row.
    pub attempts: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What it waits for.
    pub parked_reason: Option<String>,
    /// When it is looked at again.
    pub due_at: Timestamp,
}

/// Something that preflight holds against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its word, such as `quota`.
    pub id: String,
    /// What was found.
    pub reason: String,
    /// What it concerns.
    pub resources: Vec<String>,
    /// What can be done.
    pub fix: String,
    /// Whether somebody may take the blame for going on.
    pub is_waivable: bool,
}

/// All that an explanation is made of.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The present moment.
    pub now: Timestamp,
    /// The migration.
    pub migration: &'a Migration,
    /// Nodes of both sides.
    pub nodes: Vec<&'a Node>,
    /// What the planner waits for.
    pub waiting: &'a [String],
    /// Verbs that are legal now.
    pub legal: &'a [Verb],
    /// Insights that block and that nobody waived.
    pub blocks: Vec<Block>,
    /// Work items.
    pub work: Vec<Work>,
}

/// The reasons, those that need somebody first; never empty.
pub fn explain(facts: &Facts<'_>) -> Vec<Reason> {
    if facts.migration.phase.is_final() {
        let text = format!("it is over: {}", facts.migration.phase.as_str());
        return vec![reason(ReasonKind::Over, Needs::Nobody, text)];
    }
    let mut reasons = gates(facts);
    reasons.extend(
        facts.blocks.iter().filter(|_| facts.migration.phase < Phase::Provisioning).map(blocked),
    );
    reasons.extend(facts.work.iter().filter_map(|item| stuck(item, facts)));
    for node in facts.nodes.iter().filter(|node| !node.blockers.is_empty()).take(NODES) {
        reasons.push(refusing(node, facts));
    }
    for node in facts.nodes.iter().filter(|node| node.trouble.is_some()).take(NODES) {
        reasons.extend(troubled(node));
    }
    reasons.extend(timers(facts));
    let rest = facts.waiting.iter().filter(|text| !is_said(text, &reasons, facts));
    let rest: Vec<Reason> =
        rest.map(|text| reason(ReasonKind::Waiting, Needs::Nobody, text.clone())).collect();
    reasons.extend(rest);
    if reasons.is_empty() {
        let text = format!("nothing holds it up: it is {}", facts.migration.phase.as_str());
        reasons.push(reason(ReasonKind::Waiting, Needs::Nobody, text));
    }
    reasons.sort_by_key(|reason| (reason.needs == Needs::Nobody, reason.kind));
    reasons
}

fn reason(kind: ReasonKind, needs: Needs, text: impl Into<String>) -> Reason {
    Reason {
        kind,
        needs,
        text: text.into(),
        resources: Vec::new(),
        fix: String::new(),
        verbs: Vec::new(),
        node: None,
        insight: None,
        work: None,
    }
}

/// Those of the verbs that are legal now.
fn legal(facts: &Facts<'_>, verbs: &[Verb]) -> Vec<Verb> {
    verbs.iter().copied().filter(|verb| facts.legal.contains(verb)).collect()
}

/// What waits for a person's word.
fn gates(facts: &Facts<'_>) -> Vec<Reason> {
    let migration = facts.migration;
    let mut reasons = Vec::new();
    if let Some(why) = &migration.paused {
        reasons.push(Reason {
            verbs: legal(facts, &[Verb::Resume, Verb::Rollback]),
            ..reason(ReasonKind::Paused, Needs::Owner, format!("it is paused: {why}"))
        });
    }
    if migration.phase == Phase::Approval && migration.approved_wave != Some(migration.wave) {
        let text = format!("wave {} is through and waits for approval", migration.wave + 1);
        reasons.push(Reason {
            verbs: legal(facts, &[Verb::Approve, Verb::Rollback]),
            ..reason(ReasonKind::Approval, Needs::Owner, text)
        });
    }
    let is_manual = migration.spec.commit == CommitPolicy::Manual && !migration.wants_commit;
    if migration.phase == Phase::Holding && is_manual {
        let text = "all waves are through; the old nodes are kept until somebody commits";
        reasons.push(Reason {
            verbs: legal(facts, &[Verb::Commit, Verb::Rollback]),
            ..reason(ReasonKind::Commit, Needs::Owner, text)
        });
    }
    reasons
}

fn blocked(block: &Block) -> Reason {
    let mut resources = block.resources.clone();
    resources.truncate(RESOURCES);
    let end = if block.is_waivable { "" } else { " (it can't be waived)" };
    let insight = InsightRef { id: block.id.clone(), is_waivable: block.is_waivable };
    Reason {
        resources,
        insight: Some(insight),
        fix: block.fix.clone(),
        ..reason(
            ReasonKind::Insight,
            Needs::Owner,
            format!("preflight blocks, {}: {}{end}", block.id, block.reason),
        )
    }
}

/// Work that was stopped, waits, or fails.
fn stuck(item: &Work, facts: &Facts<'_>) -> Option<Reason> {
    let next = in_words(item.due_at, facts.now);
    let (needs, text) = if item.is_disabled {
        let text = format!("an operator stopped the {} worker for it", item.kind);
        (Needs::Operator, text)
    } else if let Some(parked) = &item.parked_reason {
        (Needs::Operator, format!("{} waits: {parked}; next look {next}", item.kind))
    } else if item.attempts > 0 {
        let error = item.last_error.as_deref().unwrap_or("no reason was given");
        let (times, tries) = (item.attempts, if item.attempts == 1 { "time" } else { "times" });
        let text = format!("{} failed {times} {tries}: {error}; next try {next}", item.kind);
        (Needs::Nobody, text)
    } else {
        return None;
    };
    let work = WorkRef { kind: item.kind.clone(), id: item.id, is_disabled: item.is_disabled };
    Some(Reason {
        work: Some(work),
        verbs: if item.is_disabled { Vec::new() } else { legal(facts, &[Verb::Retry]) },
        ..reason(ReasonKind::Work, needs, text)
    })
}

/// A node with pods that refuse to go.
fn refusing(node: &Node, facts: &Facts<'_>) -> Reason {
    let mut resources: Vec<String> = Vec::new();
    let mut first = None;
    for blocker in &node.blockers {
        resources.push(format!("{}: {}", blocker.pod, blocker.reason));
        first = first.or(Some(blocker));
    }
    let more = resources.len().saturating_sub(RESOURCES);
    resources.truncate(RESOURCES);
    if more > 0 {
        resources.push(format!("and {more} more"));
    }
    let pods = if node.blockers.len() == 1 { "pod keeps" } else { "pods keep" };
    let text = format!("{} {pods} {} from being drained", node.blockers.len(), node.name);
    // What is paused begins its time anew.
    let started = node.drain_started_at.filter(|_| facts.migration.paused.is_none());
    let deadline = started.map(|at| facts.migration.drain_deadline(at));
    let until = deadline.map(|at| format!("; its deadline is {}", in_words(at, facts.now)));
    Reason {
        resources,
        node: Some(node.name.clone()),
        fix: "let the workload have more replicas or a looser budget, or delete the pod".to_owned(),
        ..reason(ReasonKind::Blocker, Needs::Owner, text + &until.unwrap_or_default())
    }
}

fn troubled(node: &Node) -> Option<Reason> {
    let text = format!("{}: {}", node.name, node.trouble.as_ref()?);
    let named = Some(node.name.clone());
    Some(Reason { node: named, ..reason(ReasonKind::Node, Needs::Operator, text) })
}

/// What only time ends.
fn timers(facts: &Facts<'_>) -> Option<Reason> {
    let migration = facts.migration;
    let at = migration.next_moment().filter(|_| migration.paused.is_none())?;
    let is_manual = migration.spec.commit == CommitPolicy::Manual;
    let end = in_words(at, facts.now);
    match migration.phase {
        Phase::Soaking => {
            let text =
                format!("wave {} soaks: all must stay well, to end {end}", migration.wave + 1);
            Some(reason(ReasonKind::Time, Needs::Nobody, text))
        }
        Phase::Holding if !is_manual => Some(Reason {
            verbs: legal(facts, &[Verb::Commit, Verb::Rollback]),
            ..reason(
                ReasonKind::Time,
                Needs::Nobody,
                format!("all waves are through; the old nodes are kept, to end {end}"),
            )
        }),
        _ => None,
    }
}

/// Whether the planner's reason says what another reason says better.
fn is_said(text: &str, reasons: &[Reason], facts: &Facts<'_>) -> bool {
    let has = |kind: ReasonKind| reasons.iter().any(|reason| reason.kind == kind);
    let of_pod = |node: &&Node| {
        node.blockers.iter().any(|b| text.contains(&node.name) && text.contains(&b.pod))
    };
    facts.nodes.iter().any(of_pod)
        || reasons.iter().any(|reason| reason.text.contains(text))
        || (has(ReasonKind::Paused) && text.starts_with("paused"))
        || (has(ReasonKind::Approval) && text.ends_with("waits for approval"))
        || (has(ReasonKind::Commit) && text == "waits for commit")
        || (has(ReasonKind::Time) && (text.starts_with("soaking") || text.starts_with("holding")))
        || facts.work.iter().any(|item| item.last_error.as_deref() == Some(text))
        || facts.blocks.iter().any(|block| text.contains(&block.reason))
}

/// A moment, seen from now.
fn in_words(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    match seconds {
        ..=0 => "now".to_owned(),
        1..=119 => format!("in {seconds} s"),
        120..=7199 => format!("in {} min", seconds / 60),
        _ => format!("in {} h", seconds / 3600),
    }
}
