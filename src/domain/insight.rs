//! What a preflight has to say: one record for each thing that it looked at.
//!
//! An insight is found anew at each check, under the same id as long as it is about the same thing,
//! so a waiver, a script and a person can name it. A waiver belongs to a preflight and an id; it
//! silences a [`Level::Block`] until it ends, and never one that [is final](Insight::is_waivable).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most resources that an insight names one by one.
pub const RESOURCES_MAX: usize = 20;

/// What an insight is about: a stable word such as `quota`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct InsightId(pub String);

impl InsightId {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for InsightId {
    fn from(word: &str) -> Self {
        Self(word.to_owned())
    }
}

impl fmt::Display for InsightId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// It was looked at, and is well.
    Pass,
    /// The owner should know; nothing waits for it.
    Warn,
    /// No node is touched until it is mended, or waived where that is possible.
    Block,
}

impl Level {
    /// The word in API and command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Block => "BLOCK",
        }
    }
}

/// Somebody takes the blame for going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiver {
    /// Who.
    pub author: String,
    /// Why, in the author's words.
    pub reason: String,
    /// Until when it counts.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// One thing that a preflight looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Insight {
    /// What it is about.
    pub id: InsightId,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence.
    pub reason: String,
    /// What it concerns; at most 20 and then how many more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// What can be done about it; empty when nothing has to be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// When it was looked at.
    #[schema(value_type = String, format = DateTime)]
    pub checked_at: Timestamp,
    /// Whether a person may decide to go on in spite of it.
    pub is_waivable: bool,
    /// Who did; absent when nobody did or the waiver has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waived: Option<Waiver>,
}

impl Insight {
    /// An insight found at `now`. A [`Level::Block`] can be waived unless [`Insight::and_final`].
    pub fn new(now: Timestamp, level: Level, id: &str, reason: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            level,
            reason: reason.into(),
            resources: Vec::new(),
            fix: String::new(),
            checked_at: now,
            is_waivable: level == Level::Block,
            waived: None,
        }
    }

    /// Names what it concerns, sorted and each once; beyond [`RESOURCES_MAX`] only their number.
    #[must_use]
    pub fn on(mut self, resources: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut all: Vec<String> = resources.into_iter().map(Into::into).collect();
        all.sort();
        all.dedup();
        let more = all.len().saturating_sub(RESOURCES_MAX);
        all.truncate(RESOURCES_MAX);
        if more > 0 {
            all.push(format!("and {more} more"));
        }
        self.resources = all;
        self
    }

    /// Says what can be done about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Nobody can go on in spite of it: it cannot work.
    #[must_use]
    pub fn and_final(mut self) -> Self {
        self.is_waivable = false;
        self
    }

    /// Whether it blocks because a canary is trying the target: that passes by itself.
    pub fn awaits_canary(&self) -> bool {
        self.level == Level::Block && self.id.as_str() == "canary"
    }

    /// Whether nothing may go on because of it.
    pub fn blocks(&self, now: Timestamp) -> bool {
        let is_waived =
            self.is_waivable && self.waived.as_ref().is_some_and(|waiver| waiver.expires_at > now);
        self.level == Level::Block && !is_waived
    }

    /// The line under which a migration waits for it.
    pub fn line(&self) -> String {
        format!("{}: {}", self.id, self.reason)
    }
}

/// Puts waivers to the insights that they are about, where they still count, and the worst first.
pub fn with_waivers(
    mut insights: Vec<Insight>,
    waivers: &[(InsightId, Waiver)],
    now: Timestamp,
) -> Vec<Insight> {
    for insight in &mut insights {
        let waiver = waivers.iter().find(|(id, waiver)| {
            *id == insight.id && insight.is_waivable && waiver.expires_at > now
        });
        insight.waived = waiver.map(|(_, waiver)| waiver.clone());
    }
    let rank = |one: &Insight| std::cmp::Reverse((one.blocks(now), one.level));
    insights.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id)));
    insights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiver(until: &str) -> Waiver {
        Waiver {
            author: "ann".to_owned(),
            reason: "agreed".to_owned(),
            expires_at: until.parse().unwrap(),
        }
    }

    #[test]
    fn a_waiver_counts_until_it_ends_and_never_for_what_is_final() {
        let now: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let bare = Insight::new(now, Level::Block, "bare_pods", "one pod");
        let quota = Insight::new(now, Level::Block, "quota", "too little").and_final();
        let waivers =
            |until: &str| [("bare_pods".into(), waiver(until)), ("quota".into(), waiver(until))];
        for (until, blocks) in [
            ("2026-11-01T12:00:01Z", vec!["quota"]),
            ("2026-11-01T12:00:00Z", vec!["bare_pods", "quota"]),
        ] {
            let all = with_waivers(vec![bare.clone(), quota.clone()], &waivers(until), now);
            let mut blocking: Vec<&str> =
                all.iter().filter(|one| one.blocks(now)).map(|one| one.id.as_str()).collect();
            blocking.sort_unstable();
            assert_eq!(blocking, blocks, "{until}");
        }
    }

    #[test]
    fn the_worst_comes_first_and_waived_ones_after_what_blocks() {
        let now: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let one = |level, id| Insight::new(now, level, id, "x");
        let all = vec![
            one(Level::Pass, "a"),
            one(Level::Warn, "b"),
            one(Level::Block, "c"),
            one(Level::Block, "d"),
        ];
        let waivers = [("c".into(), waiver("2026-12-01T00:00:00Z"))];
        let order: Vec<String> =
            with_waivers(all, &waivers, now).into_iter().map(|one| one.id.0).collect();
        assert_eq!(order, ["d", "c", "b", "a"]);
    }

    #[test]
    fn resources_are_bounded_and_said_to_be() {
        let now = Timestamp::UNIX_EPOCH;
        let names = (0..25).map(|n| format!("pod-{n:02}"));
        let insight = Insight::new(now, Level::Warn, "empty_dirs", "x").on(names);
        assert_eq!(insight.resources.len(), 21);
        assert_eq!(insight.resources[20], "and 5 more");
    }
}
