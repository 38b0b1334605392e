//! What the wishes of an object mean for its migration, and the other way round.
//!
//! Both sides may steer: the object's owner by its spec, anybody else by the API. `paused`,
//! `direction` and `retries` are compared with what was *agreed* last, so that the last wish wins
//! and a wish is carried out once: only a spec of a later generation than the agreement can hold a
//! new wish, and only in a field that differs from it. `approvedWave` and `commitNow` stand: they
//! are carried out as soon as they are legal.
//!
//! The agreement is kept twice, since two things happen that no transaction joins: in the
//! database when a wish is carried out (in the transaction that does it), and in an annotation of
//! the object when zcpd writes the API's wishes into it (in the same patch). The later one holds.

use serde::{Deserialize, Serialize};

use super::{AGREED_ANNOTATION, ClusterMigrationSpec};
use crate::domain::migration::{Direction, Phase, Verb};

/// Wishes that both sides change at will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wishes {
    /// Take no further step.
    pub paused: bool,
    /// Which way.
    pub direction: Direction,
    /// Another number is a wish to retry.
    #[serde(default)]
    pub retries: u32,
}

impl Wishes {
    /// Those of a spec.
    pub fn of(spec: &ClusterMigrationSpec) -> Self {
        Self { paused: spec.paused, direction: spec.direction, retries: spec.retries }
    }
}

impl Default for Wishes {
    fn default() -> Self {
        Self { paused: false, direction: Direction::Forward, retries: 0 }
    }
}

/// What both sides last agreed on, and at which generation of the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The object's generation.
    pub generation: i64,
    /// The wishes in it.
    pub wishes: Wishes,
}

impl Agreed {
    /// What the annotation says; unreadable ones say nothing.
    pub fn of_annotation(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The annotation that says it.
    pub fn annotation(&self) -> (&'static str, String) {
        (AGREED_ANNOTATION, serde_json::to_string(self).unwrap_or_default())
    }

    /// The later of two.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.generation > self.generation { other } else { self }
    }
}

/// A migration's wishes as the service has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub phase: Phase,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether somebody wants it back.
    pub direction: Direction,
    /// Whether somebody wants it committed.
    pub wants_commit: bool,
    /// The present wave, from 1.
    pub wave: u32,
    /// The wave that was approved last, from 1.
    pub approved_wave: Option<u32>,
    /// Verbs that are legal now.
    pub legal: Vec<Verb>,
}

/// What to ask of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// These verbs, in order.
    pub verbs: Vec<Verb>,
    /// Wishes that make no sense now, in words.
    pub refused: Vec<String>,
}

/// What the object newly wishes. `forward` is the verb that turns forward again, if there is one.
pub fn asked(
    spec: &ClusterMigrationSpec,
    (generation, agreed): (i64, &Agreed),
    service: &Service,
) -> Asked {
    let mut asked = Asked::default();
    if service.phase.is_final() {
        return asked;
    }
    let wishes = Wishes::of(spec);
    let is_new = generation > agreed.generation;
    let mut want = |verb: Option<Verb>, field: &str| match verb {
        Some(verb) if service.legal.contains(&verb) => asked.verbs.push(verb),
        _ => asked
            .refused
            .push(format!("{field} makes no sense in phase {}", service.phase.as_str())),
    };
    if is_new
        && wishes.direction != agreed.wishes.direction
        && wishes.direction != service.direction
    {
        match wishes.direction {
            Direction::Back => want(Some(turn_back(&service.legal)), "direction back"),
            Direction::Forward => want(verb_called("forward"), "direction forward"),
        }
    }
    if is_new && wishes.paused != agreed.wishes.paused && wishes.paused != service.paused {
        let (verb, field) = if wishes.paused {
            (Verb::Pause, "paused true")
        } else {
            (Verb::Resume, "paused false")
        };
        want(Some(verb), field);
    }
    if is_new && wishes.retries != agreed.wishes.retries {
        want(Some(Verb::Retry), "another number of retries");
    }
    let is_forward = wishes.direction == Direction::Forward;
    let is_approved = spec.approved_wave.is_some_and(|upto| upto >= service.wave);
    if is_approved
        && service.phase == Phase::Approval
        && service.approved_wave != Some(service.wave)
        && service.legal.contains(&Verb::Approve)
        && is_forward
    {
        asked.verbs.push(Verb::Approve);
    }
    if spec.commit_now
        && service.phase == Phase::Holding
        && !service.wants_commit
        && service.legal.contains(&Verb::Commit)
        && is_forward
    {
        asked.verbs.push(Verb::Commit);
    }
    asked
}

/// The verb that ends a migration on the source: cancel as long as nothing was made.
pub fn turn_back(legal: &[Verb]) -> Verb {
    if legal.contains(&Verb::Cancel) { Verb::Cancel } else { Verb::Rollback }
}

fn verb_called(word: &str) -> Option<Verb> {
    crate::domain::migration::VERBS.into_iter().find(|verb| verb.as_str() == word)
}

/// Whether a spec of this generation holds a wish that nobody has seen yet.
pub fn is_new(spec: &ClusterMigrationSpec, (generation, agreed): (i64, &Agreed)) -> bool {
    generation > agreed.generation && Wishes::of(spec) != agreed.wishes
}

/// What the spec must say so that it tells what the service has; `None` if it does already.
pub fn written(spec: &ClusterMigrationSpec, service: &Service) -> Option<Written> {
    let is_back = service.direction == Direction::Back;
    let approved = spec.approved_wave.max(service.approved_wave);
    let written = Written {
        wishes: Wishes {
            paused: service.paused,
            direction: service.direction,
            retries: spec.retries,
        },
        commit_now: (spec.commit_now || service.wants_commit) && !is_back,
        approved_wave: approved,
    };
    let is_same = written.wishes == Wishes::of(spec)
        && written.commit_now == spec.commit_now
        && written.approved_wave == spec.approved_wave;
    (!is_same).then_some(written)
}

/// What zcpd writes into a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Wishes of both sides.
    pub wishes: Wishes,
    /// The wish to commit.
    pub commit_now: bool,
    /// The last approved wave, from 1.
    pub approved_wave: Option<u32>,
}

impl Written {
    /// The merge patch of the object's spec.
    pub fn patch(&self) -> serde_json::Value {
        let mut spec = serde_json::json!({
            "paused": self.wishes.paused,
            "direction": self.wishes.direction,
            "commitNow": self.commit_now,
        });
        if let Some(wave) = self.approved_wave {
            spec["approvedWave"] = wave.into();
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::migration::{Standing, VERBS};

    fn spec(change: impl FnOnce(&mut ClusterMigrationSpec)) -> ClusterMigrationSpec {
        let wish = serde_json::json!({"cluster": "alpha", "target": "west"});
        let mut spec = serde_json::from_value(wish).unwrap();
        change(&mut spec);
        spec
    }

    fn service(phase: Phase) -> Service {
        Service {
            phase,
            paused: false,
            direction: Direction::Forward,
            wants_commit: false,
            wave: 1,
            approved_wave: None,
            legal: VERBS
                .into_iter()
                .filter(|verb| verb.meaning(Standing::plain(phase)).is_legal())
                .collect(),
        }
    }

    fn verbs(spec: &ClusterMigrationSpec, of: (i64, &Agreed), service: &Service) -> Vec<Verb> {
        asked(spec, of, service).verbs
    }

    #[test]
    fn a_wish_is_carried_out_once_and_the_apis_later_one_stands() {
        let paused = spec(|spec| spec.paused = true);
        let mut seen = service(Phase::Draining);
        let mut agreed = Agreed { generation: 1, wishes: Wishes::default() };
        assert_eq!(verbs(&paused, (2, &agreed), &seen), [Verb::Pause]);
        // Carried out, then resumed by the API: no new wish, and the spec learns of it.
        agreed = Agreed { generation: 2, wishes: Wishes::of(&paused) };
        assert_eq!(verbs(&paused, (2, &agreed), &seen), []);
        let told = written(&paused, &seen).unwrap();
        assert!(!told.wishes.paused);
        // The owner changes something else meanwhile: still no wish to pause.
        seen.paused = false;
        assert_eq!(verbs(&paused, (3, &agreed), &seen), []);
        // The annotation of zcpd's own write is the later agreement, and is no wish either.
        let own = Agreed { generation: 4, wishes: told.wishes };
        let now = spec(|_| ());
        assert_eq!(verbs(&now, (4, &agreed.later(own)), &seen), []);
    }

    #[test]
    fn the_wish_to_turn_back_wins_and_takes_the_commit_with_it() {
        let commit = spec(|spec| {
            spec.commit_now = true;
            spec.paused = true;
        });
        let mut seen = service(Phase::Draining);
        seen.direction = Direction::Back;
        let told = written(&commit, &seen).unwrap();
        assert_eq!(told.wishes.direction, Direction::Back);
        assert!(!told.commit_now && !told.wishes.paused);
        let back = spec(|spec| spec.direction = Direction::Back);
        let early = service(Phase::Preflight);
        assert_eq!(verbs(&back, (2, &Agreed::default()), &early), [Verb::Cancel]);
        let late = service(Phase::Committing);
        let asked = asked(&back, (2, &Agreed::default()), &late);
        assert_eq!(asked.verbs, []);
        assert_eq!(asked.refused, ["direction back makes no sense in phase committing"]);
    }

    #[test]
    fn standing_wishes_are_carried_out_when_they_are_legal() {
        let ahead = spec(|spec| {
            spec.commit_now = true;
            spec.approved_wave = Some(2);
        });
        let agreed = Agreed { generation: 9, wishes: Wishes::default() };
        assert_eq!(verbs(&ahead, (1, &agreed), &service(Phase::Draining)), []);
        assert_eq!(verbs(&ahead, (1, &agreed), &service(Phase::Approval)), [Verb::Approve]);
        let third = Service { wave: 3, ..service(Phase::Approval) };
        assert_eq!(verbs(&ahead, (1, &agreed), &third), []);
        assert_eq!(verbs(&ahead, (1, &agreed), &service(Phase::Holding)), [Verb::Commit]);
        // The service has less than the spec wishes ahead: nothing is taken back.
        assert_eq!(written(&ahead, &service(Phase::Draining)), None);
    }

    #[test]
    fn nothing_is_asked_of_what_is_over() {
        let wish = spec(|spec| spec.paused = true);
        let over = service(Phase::Succeeded);
        assert_eq!(asked(&wish, (2, &Agreed::default()), &over), Asked::default());
        assert!(is_new(&wish, (2, &Agreed::default())));
        assert!(!is_new(&wish, (2, &Agreed { generation: 2, wishes: Wishes::default() })));
    }

    #[test]
    fn an_agreement_that_cannot_be_read_says_nothing() {
        let agreed = Agreed { generation: 7, wishes: Wishes::default() };
        let (_, text) = agreed.annotation();
        assert_eq!(Agreed::of_annotation(Some(&text)), agreed);
        assert_eq!(Agreed::of_annotation(Some("{")), Agreed::default());
        assert_eq!(Agreed::of_annotation(None), Agreed::default());
    }
}
