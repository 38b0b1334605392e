//! `zcpctl migration explain`: why it is not going on, and the command that would help.

use super::output::{columns, word, wrap};
use super::{Context, Failure};
use crate::api::migrations::{Explanation, Migration};
use crate::domain::explanation::{Needs, Reason};

/// Asks for the reasons and says them.
pub(super) async fn explain(ctx: &Context, migration: &Migration) -> Result<(), Failure> {
    let path = ["v1", "migrations", &migration.id.to_string(), "explanation"];
    let explanation: Explanation = ctx.client.get(&path).await?;
    ctx.output.detail(&explanation, || text(&explanation, migration))
}

fn text(explanation: &Explanation, migration: &Migration) -> String {
    let Migration { cluster, source, target, .. } = migration;
    let wave = explanation.wave.map(|wave| format!(", wave {wave} of {}", migration.waves.len()));
    let mut text = format!(
        "{cluster} {source} -> {target}: {}{} since {}\n",
        word(&explanation.phase),
        wave.unwrap_or_default(),
        super::output::moment(explanation.phase_since)
    );
    let needed = explanation.reasons.iter().filter(|one| one.needs != Needs::Nobody).count();
    let needs = if needed == 1 { "thing needs" } else { "things need" };
    let going = match needed {
        _ if explanation.phase.is_final() => String::new(),
        0 => "It goes on by itself.\n".to_owned(),
        _ => format!("It does not go on by itself: {needed} {needs} somebody.\n"),
    };
    text += &going;
    for (n, reason) in explanation.reasons.iter().enumerate() {
        text.extend(["\n", lines(n + 1, reason, cluster).as_str()]);
    }
    text
}

fn lines(number: usize, reason: &Reason, cluster: &str) -> String {
    let head = format!("{number}. ");
    let indent = " ".repeat(head.len());
    let who = match reason.needs {
        Needs::Operator => " (an operator's)",
        Needs::Owner | Needs::Nobody => "",
    };
    let mut lines = vec![wrap(&format!("{}{who}", reason.text), &head, columns())];
    for resource in &reason.resources {
        lines.push(wrap(resource, &format!("{indent}- "), columns()));
    }
    if !reason.fix.is_empty() {
        lines.push(wrap(&reason.fix, &format!("{indent}fix: "), columns()));
    }
    for command in commands(reason, cluster) {
        lines.push(format!("{indent}try: {command}"));
    }
    lines.join("\n") + "\n"
}

/// What can be typed about a reason.
fn commands(reason: &Reason, cluster: &str) -> Vec<String> {
    let steer = |verb: &crate::domain::migration::Verb| {
        format!("zcpctl migration {} {cluster}", word(verb).replace('_', "-"))
    };
    let mut commands: Vec<String> = reason.verbs.iter().map(steer).collect();
    if let Some(insight) = &reason.insight {
        commands.push(format!("zcpctl migration check {cluster}"));
        if insight.is_waivable {
            let waive = format!("zcpctl migration waive {cluster} {}", insight.id);
            commands.push(format!("{waive} --for 1d --reason WHY"));
        }
    }
    if let Some(work) = reason.work.as_ref().filter(|work| work.is_disabled) {
        commands.push(format!("zcpctl work enable {} {}", work.kind, work.id));
    }
    commands
}
