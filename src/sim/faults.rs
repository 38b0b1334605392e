//! What goes wrong in a cloud, on order, and what was called.
//!
//! A [`Rule`] spoils calls, a [`Mishap`] spoils what happens to a server later. Both hit the next
//! `times` chances, or each with a `probability` drawn from the cloud's dice, so a run repeats.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::agenda::Dice;

/// Everything that goes wrong in one cloud.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How the whole cloud answers.
    pub power: Power,
    /// Added to every answer, in milliseconds of real time.
    pub latency_ms: u64,
    /// Calls that go wrong; the first that fits is used.
    pub rules: Vec<Rule>,
    /// Servers that go wrong; the first that fits is used.
    pub mishaps: Vec<Mishap>,
    /// Every host is full.
    pub full: bool,
    /// Rows of servers come back with almost no fields, as when a cell is down.
    pub cell_down: bool,
}

/// How a cloud as a whole answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// As it should.
    #[default]
    Up,
    /// Connections are cut before anything is done.
    Refusing,
    /// Nothing ever comes back, and nothing is done.
    Silent,
}

/// A call that goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `keystone`, `nova`, `neutron`, `glance`, `placement`; any when absent.
    #[serde(default)]
    pub service: Option<String>,
    /// Such as `create_server`; any when absent.
    #[serde(default)]
    pub operation: Option<String>,
    /// What happens.
    pub effect: Effect,
    /// When.
    #[serde(flatten)]
    pub chance: Chance,
}

/// What happens to a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// It is answered with an error and not done.
    Answer {
        /// HTTP status.
        status: u16,
        /// Seconds to wait, as a header.
        #[serde(default)]
        retry_after: Option<u64>,
        /// The service's sentence; its usual one when absent.
        #[serde(default)]
        message: Option<String>,
    },
    /// It is done, and answered with an error of a proxy.
    DoneButAnswered {
        /// HTTP status.
        status: u16,
    },
    /// It is done, and the connection is cut.
    DoneButCut,
    /// The connection is cut and nothing is done.
    Cut,
    /// It is answered later, in milliseconds of real time.
    Late {
        /// How much.
        ms: u64,
    },
    /// It is never answered, and not done.
    Silent,
    /// A list is answered as if there were nothing.
    Empty,
}

/// A server that goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mishap {
    /// What happens to it.
    pub what: Trouble,
    /// Only servers whose names contain this.
    #[serde(default)]
    pub name: Option<String>,
    /// When.
    #[serde(flatten)]
    pub chance: Chance,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The build ends in ERROR on every host.
    SpawnError,
    /// The build ends in ERROR: no host is found.
    NoValidHost,
    /// The build ends in ERROR on its host: its port cannot be bound there.
    BindingFailed,
    /// The build never ends.
    StuckInBuild,
    /// A delete leaves the server in ERROR.
    DeleteError,
    /// A delete is accepted and never done.
    StuckInDelete,
    /// A delete makes it SOFT_DELETED.
    SoftDelete,
    /// The guest never gets as far as user data.
    NeverBoots,
    /// The guest boots and never joins.
    NeverJoins,
}

/// When a fault strikes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Chance {
    /// How often at most; for ever when absent.
    pub times: Option<u32>,
    /// How likely each time.
    pub probability: f64,
}

impl Default for Chance {
    fn default() -> Self {
        Self { times: None, probability: 1.0 }
    }
}

impl Chance {
    /// The next `times` chances, for sure.
    pub fn next(times: u32) -> Self {
        Self { times: Some(times), ..Self::default() }
    }

    /// Each chance with this likelihood.
    pub fn rate(probability: f64) -> Self {
        Self { times: None, probability }
    }

    fn strikes(&mut self, dice: &mut Dice) -> bool {
        if self.times == Some(0) || (self.probability < 1.0 && dice.fraction() >= self.probability)
        {
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

impl Rule {
    /// A rule for one operation of one service, such as `nova`, `create_server`.
    pub fn new(service: &str, operation: &str, effect: Effect, chance: Chance) -> Self {
        Self { service: Some(service.into()), operation: Some(operation.into()), effect, chance }
    }
}

impl Mishap {
    /// A mishap of the next `times` servers.
    pub fn next(what: Trouble, times: u32) -> Self {
        Self { what, name: None, chance: Chance::next(times) }
    }
}

impl Faults {
    /// What happens to a call now; uses up one chance of the rule.
    pub fn of_call(&mut self, service: &str, operation: &str, dice: &mut Dice) -> Option<Effect> {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        self.rules
            .iter_mut()
            .filter(|rule| fits(&rule.service, service) && fits(&rule.operation, operation))
            .find_map(|rule| rule.chance.strikes(dice).then(|| rule.effect.clone()))
    }

    /// Whether one of the `troubles` happens to the server of that name now, and which.
    pub fn of_server(
        &mut self,
        name: &str,
        troubles: &[Trouble],
        dice: &mut Dice,
    ) -> Option<Trouble> {
        self.mishaps
            .iter_mut()
            .filter(|mishap| troubles.contains(&mishap.what))
            .filter(|mishap| mishap.name.as_deref().is_none_or(|part| name.contains(part)))
            .find_map(|mishap| mishap.chance.strikes(dice).then_some(mishap.what))
    }
}

/// What was called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Calls by `service.operation`, those that a fault spoiled included.
    pub calls: BTreeMap<String, u64>,
    /// Calls by `service.operation` that were spoiled.
    pub spoiled: BTreeMap<String, u64>,
    /// The latest calls, oldest first.
    #[serde(skip)]
    pub recent: VecDeque<SeenCall>,
}

/// Calls that are remembered one by one.
const RECENT: usize = 1_000;

/// A call that came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenCall {
    /// When.
    pub at: Timestamp,
    /// `service.operation`.
    pub operation: String,
}

impl Counters {
    /// Counts a call.
    pub fn count(&mut self, service: &str, operation: &str, at: Timestamp) {
        let operation = format!("{service}.{operation}");
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(SeenCall { at, operation: operation.clone() });
        *self.calls.entry(operation).or_default() += 1;
    }

    /// Counts a call that a fault spoiled.
    pub fn count_spoiled(&mut self, service: &str, operation: &str) {
        *self.spoiled.entry(format!("{service}.{operation}")).or_default() += 1;
    }

    /// How often an operation such as `nova.create_server` was called.
    pub fn of(&self, operation: &str) -> u64 {
        self.calls.get(operation).copied().unwrap_or_default()
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_two_calls_strikes_twice() {
        let mut dice = Dice::new(1, "t");
        let cut = Rule::new("nova", "create_server", Effect::Cut, Chance::next(2));
        let mut faults = Faults { rules: vec![cut], ..Faults::default() };
        assert!(faults.of_call("nova", "get_server", &mut dice).is_none());
        let hits =
            (0..5).filter(|_| faults.of_call("nova", "create_server", &mut dice).is_some()).count();
        assert_eq!(hits, 2);
    }

    #[test]
    fn a_rate_strikes_about_as_often_as_it_says() {
        let mut dice = Dice::new(1, "t");
        let mut chance = Chance::rate(0.3);
        let hits = (0..1000).filter(|_| chance.strikes(&mut dice)).count();
        assert!((250..350).contains(&hits), "{hits}");
    }

    #[test]
    fn a_rule_is_written_as_flat_json() {
        let rule: Rule = serde_json::from_value(serde_json::json!({
            "service": "nova", "effect": {"kind": "answer", "status": 503}, "times": 3
        }))
        .expect("a rule");
        assert_eq!(rule.chance.times, Some(3));
    }
}
