//! Every verb in every phase: what it means is a table that is read in review.

use std::fmt::Write as _;
use std::path::Path;

use zcp::domain::migration::{Meaning, PHASES, Phase, Standing, VERBS, Verb};

/// Standings that change what verbs mean, beside the plain one of each phase.
fn standings() -> Vec<(String, Standing)> {
    let mut all = Vec::new();
    for phase in PHASES {
        let plain = Standing::plain(phase);
        let word = phase.as_str();
        all.push((word.to_owned(), plain));
        if phase.is_final() {
            continue;
        }
        all.push((format!("{word}, paused"), Standing { is_paused: true, ..plain }));
        if phase == Phase::RollingBack {
            let forward = Standing { wants_rollback: false, ..plain };
            all.push((format!("{word}, forward was asked for"), forward));
        } else if phase.can_roll_back() {
            let back = Standing { wants_rollback: true, ..plain };
            all.push((format!("{word}, rollback was asked for"), back));
        }
    }
    let approved = Standing { is_approved: true, ..Standing::plain(Phase::Approval) };
    let committed = Standing { wants_commit: true, ..Standing::plain(Phase::Holding) };
    let cancelled = Standing { wants_cancel: true, ..Standing::plain(Phase::Preflight) };
    all.push(("approval, approved".to_owned(), approved));
    all.push(("holding, commit was asked for".to_owned(), committed));
    all.push(("preflight, cancel was asked for".to_owned(), cancelled));
    all
}

#[test]
fn every_verb_in_every_phase_means_what_the_table_says() {
    let mut text = String::new();
    for (name, at) in standings() {
        let _never_fails = writeln!(text, "# {name}");
        for verb in VERBS {
            let (mark, what) = match verb.meaning(at) {
                Meaning::Does(what) => ("does   ", what),
                Meaning::IsSo(what) => ("is so  ", what),
                Meaning::Refused(what) => ("refused", what),
            };
            let _never_fails = writeln!(text, "{:9} {mark} {what}", verb.as_str());
        }
        text.push('\n');
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/verbs.txt");
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    if wanted != text {
        let new = golden.with_extension("new");
        std::fs::write(&new, &text).expect("writable");
        panic!("verbs mean something else; the new table is {}", new.display());
    }
}

/// What a verb makes of a standing, as `app` writes it.
fn after(verb: Verb, at: Standing) -> Standing {
    match verb {
        Verb::Pause => Standing { is_paused: true, ..at },
        Verb::Resume => Standing { is_paused: false, ..at },
        Verb::Approve => Standing { is_approved: true, ..at },
        Verb::Rollback => {
            Standing { wants_rollback: true, wants_commit: false, is_paused: false, ..at }
        }
        Verb::Forward => Standing { wants_rollback: false, is_paused: false, ..at },
        Verb::Commit => Standing { wants_commit: true, ..at },
        Verb::Cancel => Standing { wants_cancel: true, ..at },
        Verb::SkipNode | Verb::Retry => at,
    }
}

#[test]
fn a_verb_that_was_accepted_is_accepted_again() {
    for (name, at) in standings() {
        for verb in VERBS {
            if let Meaning::Does(_) = verb.meaning(at) {
                let again = verb.meaning(after(verb, at));
                assert!(again.is_legal(), "{name}: {} twice: {again:?}", verb.as_str());
            }
        }
    }
}

#[test]
fn from_every_phase_before_committing_there_is_a_way_back_and_out_of_it_one_forward() {
    for phase in PHASES {
        let at = Standing::plain(phase);
        let is_before = phase.can_roll_back();
        assert_eq!(matches!(Verb::Rollback.meaning(at), Meaning::Does(_)), is_before, "{phase:?}");
    }
    let back = Standing::plain(Phase::RollingBack);
    assert!(matches!(Verb::Forward.meaning(back), Meaning::Does(_)));
}
