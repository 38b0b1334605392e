//! Waves: how a percentage becomes a list of nodes.
//!
//! An integer is of all nodes of the migration, taken from the largest pool first. A percentage is
//! of each pool's nodes, rounded up. Waves only grow, and the last one is 100 %.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::field::FieldErrors;

/// How far a wave goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upto {
    /// So many nodes of all pools together.
    Nodes(u32),
    /// So many percent of each pool, 1 to 100, rounded up to whole nodes.
    Percent(u8),
}

/// The text is no step of a wave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of nodes from 1 on, or a whole percentage such as \"25%\" (not {0})")]
pub struct NoUpto(String);

impl FromStr for Upto {
    type Err = NoUpto;

    fn from_str(text: &str) -> Result<Self, NoUpto> {
        let wrong = || NoUpto(format!("{text:?}"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(percent) if digits(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(wrong()),
            },
            None if digits(text) => match text.parse() {
                Ok(nodes) if nodes > 0 => Ok(Self::Nodes(nodes)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Upto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(nodes) => nodes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Upto {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nodes(nodes) => serializer.serialize_u32(*nodes),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Upto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = match &value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How [`Upto`] is written: `1` or `"25%"`.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its shape is used, by the OpenAPI document")]
enum UptoText {
    Nodes(u32),
    #[schema(example = "25%")]
    Percent(String),
}

/// What must be true to go on after a wave.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The soak is over and all is well.
    #[default]
    Auto,
    /// That, and somebody approved.
    Approval,
}

/// One wave as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WaveSpec {
    /// How far it goes, counted from the beginning: a number of nodes or a percentage.
    #[schema(value_type = UptoText)]
    pub upto: Upto,
    /// Seconds that must stay healthy after it. Default 180.
    #[serde(default = "soak_default")]
    pub soak_seconds: u32,
    /// What must be true to go on after it. Default `auto`.
    #[serde(default)]
    pub gate: Gate,
}

/// Three minutes: six node lease periods of 40 s pass in less.
fn soak_default() -> u32 {
    180
}

/// `1, 25%, 100%`: one node to learn from, a quarter to be sure, the rest.
pub fn default_waves() -> Vec<WaveSpec> {
    [Upto::Nodes(1), Upto::Percent(25), Upto::Percent(100)]
        .map(|upto| WaveSpec { upto, soak_seconds: soak_default(), gate: Gate::Auto })
        .into()
}

/// Most waves of one migration.
const WAVES_MAX: usize = 20;
/// Longest soak: a week.
const SOAK_MAX: u32 = 7 * 24 * 3600;

/// Checks what can be known without the nodes: the kinds grow, the last is 100 %.
pub fn check_waves(waves: &[WaveSpec]) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if waves.is_empty() || waves.len() > WAVES_MAX {
        errors.push("waves", format!("must be 1 to {WAVES_MAX} waves"));
    }
    for (n, pair) in waves.windows(2).enumerate() {
        let grows = match (pair[0].upto, pair[1].upto) {
            (Upto::Nodes(a), Upto::Nodes(b)) => a < b,
            (Upto::Percent(a), Upto::Percent(b)) => a < b,
            (Upto::Nodes(_), Upto::Percent(_)) => true,
            (Upto::Percent(_), Upto::Nodes(_)) => false,
        };
        if !grows {
            errors.push(
                format!("waves[{}].upto", n + 1),
                "must go further than the wave before it (numbers of nodes first, then percentages)",
            );
        }
    }
    if waves.last().is_some_and(|last| last.upto != Upto::Percent(100)) {
        errors.push(format!("waves[{}].upto", waves.len() - 1), "the last wave must be \"100%\"");
    }
    for (n, wave) in waves.iter().enumerate() {
        if wave.soak_seconds > SOAK_MAX {
            errors.push(format!("waves[{n}].soak_seconds"), format!("must be 0 to {SOAK_MAX}"));
        }
    }
    errors
}

/// Gives each node its wave (index into `waves`). `pools` holds the number of nodes of each pool;
/// the answer has the waves of each pool's nodes in the same order, growing.
///
/// A wave that adds no node simply does not occur in the answer.
pub fn assign(waves: &[WaveSpec], pools: &[u32]) -> Vec<Vec<usize>> {
    let mut taken: Vec<u32> = vec![0; pools.len()];
    let mut assigned: Vec<Vec<usize>> = vec![Vec::new(); pools.len()];
    for (index, wave) in waves.iter().enumerate() {
        for (pool, upto) in goals(wave.upto, pools).into_iter().enumerate() {
            while taken[pool] < upto {
                taken[pool] += 1;
                assigned[pool].push(index);
            }
        }
    }
    assigned
}

/// How many nodes of each pool are covered by a step.
fn goals(upto: Upto, pools: &[u32]) -> Vec<u32> {
    match upto {
        Upto::Percent(percent) => {
            pools.iter().map(|count| (count * u32::from(percent)).div_ceil(100)).collect()
        }
        Upto::Nodes(nodes) => {
            let mut order: Vec<usize> = (0..pools.len()).collect();
            order.sort_by_key(|&pool| std::cmp::Reverse(pools[pool]));
            let mut left = nodes;
            let mut goals = vec![0; pools.len()];
            for pool in order {
                goals[pool] = pools[pool].min(left);
                left -= goals[pool];
            }
            goals
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waves(steps: &[&str]) -> Vec<WaveSpec> {
        steps
            .iter()
            .map(|step| WaveSpec { upto: step.parse().unwrap(), soak_seconds: 0, gate: Gate::Auto })
            .collect()
    }

    #[test]
    fn the_default_on_four_nodes_leaves_out_the_quarter() {
        assert_eq!(assign(&default_waves(), &[4]), [[0, 2, 2, 2]]);
    }

    #[test]
    fn an_integer_takes_the_largest_pool_first() {
        assert_eq!(assign(&waves(&["3", "100%"]), &[2, 5]), [vec![1, 1], vec![0, 0, 0, 1, 1]]);
    }

    #[test]
    fn a_fraction_is_refused_and_not_taken_for_a_percentage() {
        for bad in ["0.5", "0", "0%", "101%", "50 %", "-1", "1e2", "", "%", "0.5%"] {
            assert!(bad.parse::<Upto>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Upto>("0.5").is_err());
        assert_eq!(serde_json::from_str::<Upto>("3").unwrap(), Upto::Nodes(3));
    }

    #[test]
    fn waves_must_grow_and_end_at_all() {
        assert!(check_waves(&default_waves()).0.is_empty());
        for bad in [&["50%", "25%", "100%"][..], &["2", "1", "100%"], &["25%", "1"], &["25%"], &[]]
        {
            assert!(!check_waves(&waves(bad)).0.is_empty(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_node_has_exactly_one_wave_and_percentages_are_kept(
            pools in proptest::collection::vec(0_u32..60, 1..5),
            first in 1_u32..10,
            percent in 1_u8..100,
        ) {
            let steps = [first.to_string(), format!("{percent}%"), "100%".to_owned()];
            let waves = waves(&steps.iter().map(String::as_str).collect::<Vec<_>>());
            let assigned = assign(&waves, &pools);
            for (pool, nodes) in pools.iter().zip(&assigned) {
                prop_assert_eq!(nodes.len(), *pool as usize);
                prop_assert!(nodes.is_sorted());
                let by_percent = nodes.iter().filter(|wave| **wave <= 1).count();
                prop_assert!(by_percent >= (*pool as usize * usize::from(percent)).div_ceil(100));
            }
            let in_first: usize = assigned.iter().flatten().filter(|wave| **wave == 0).count();
            prop_assert_eq!(in_first, (first.min(pools.iter().sum())) as usize);
        }
    }
}
