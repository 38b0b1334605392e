//! `--waves 1,25%,100%`: a list whose mistakes are told by their place in it.

use std::str::FromStr;

use crate::domain::wave::{Gate, Upto, WaveSpec, check_waves};

/// How far each wave goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WaveList(pub Vec<Upto>);

impl FromStr for WaveList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        for (n, part) in text.split(',').enumerate() {
            let part = part.trim();
            let at = format!("wave {}", n + 1);
            if part.is_empty() {
                return Err(format!("{at} is empty: write them like 1,25%,100%"));
            }
            list.push(part.parse().map_err(|error| format!("{at}: {error}"))?);
        }
        let spec = |upto: &Upto| WaveSpec { upto: *upto, soak_seconds: 0, gate: Gate::Auto };
        let specs: Vec<WaveSpec> = list.iter().map(spec).collect();
        let wrong = check_waves(&specs).0;
        let wrong: Vec<String> =
            wrong.iter().map(|one| format!("{}: {}", place(&one.field), one.problem)).collect();
        if wrong.is_empty() { Ok(Self(list)) } else { Err(wrong.join("; ")) }
    }
}

/// `waves[1].upto` as people count: `wave 2`.
fn place(field: &str) -> String {
    let index = field.strip_prefix("waves[").and_then(|rest| rest.split_once(']'));
    let index = index.and_then(|(index, _)| index.parse::<usize>().ok());
    index.map_or_else(|| field.to_owned(), |index| format!("wave {}", index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_by_its_place() {
        let good: WaveList = "1, 25%,100%".parse().expect("waves");
        assert_eq!(good.0, [Upto::Nodes(1), Upto::Percent(25), Upto::Percent(100)]);
        for (text, place) in [
            ("1,0.5%,100%", "wave 2: "),
            ("1,,100%", "wave 2 is empty"),
            ("x", "wave 1: "),
            ("1,50%,25%,100%", "wave 3: "),
            ("1,50%", "wave 2: "),
            ("", "wave 1 is empty"),
            ("1,101%", "wave 2: "),
        ] {
            let error = text.parse::<WaveList>().expect_err(text);
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
