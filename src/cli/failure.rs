//! Why a command did not succeed, in the user's words.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::api::problem::Problem;

/// What the process exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The input or the present state forbids it.
    Input,
    /// Our fault, or unreachable.
    Ours,
    /// Timed out while waiting.
    Timeout,
    /// The user pressed Ctrl-C while watching.
    Interrupted,
    /// A preflight found what stands against a migration.
    Blocked,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Input => 1,
            Self::Ours => 2,
            Self::Timeout => 3,
            // What a shell reports of a command that SIGINT ended.
            Self::Interrupted => 130,
            Self::Blocked => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    errors: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// The user's input is wrong.
    pub fn input(error: impl Into<String>) -> Self {
        Self { exit: Exit::Input, errors: vec![error.into()], hint: None }
    }

    /// Something of ours is wrong.
    pub fn ours(error: impl Into<String>) -> Self {
        Self { exit: Exit::Ours, ..Self::input(error) }
    }

    /// It takes longer than the user wanted to wait.
    pub fn timeout(error: impl Into<String>) -> Self {
        Self { exit: Exit::Timeout, ..Self::input(error) }
    }

    /// The user has seen enough; the work goes on.
    pub(super) fn interrupted() -> Self {
        Self { exit: Exit::Interrupted, errors: Vec::new(), hint: None }
    }

    /// A preflight found what stands against a migration.
    pub fn blocked(count: u32) -> Self {
        let text = match count {
            1 => "1 insight stands against the migration".to_owned(),
            count => format!("{count} insights stand against the migration"),
        };
        Self { exit: Exit::Blocked, ..Self::input(text) }
    }

    /// Standard output was closed: whoever reads has enough.
    fn closed() -> Self {
        Self { exit: Exit::Done, errors: Vec::new(), hint: None }
    }

    /// Says what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the API said.
    pub(super) fn of_problem(problem: &Problem) -> Self {
        let exit = if problem.status >= 500 { Exit::Ours } else { Exit::Input };
        let errors = if problem.fields.is_empty() {
            vec![problem.detail.clone()]
        } else {
            problem.fields.iter().map(|one| format!("{}: {}", one.field, one.problem)).collect()
        };
        Self { exit, errors, hint: hint_for(problem) }
    }

    /// What it exits with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes it to standard error.
    pub(super) fn report(&self) -> Exit {
        let mut stderr = io::stderr().lock();
        // Nobody is left to tell when this fails.
        let _closed = write!(stderr, "{self}");
        self.exit
    }
}

fn hint_for(problem: &Problem) -> Option<String> {
    if !problem.legal.is_empty() {
        return Some(format!("possible now: {}", problem.legal.join(", ")));
    }
    match problem.status {
        401 => Some("give a token by ZCP_TOKEN or a profile (ZCP_PROFILE)".to_owned()),
        412 => Some("somebody changed it meanwhile: look at it again, then repeat".to_owned()),
        status if status >= 500 => {
            let id = problem.request_id.as_ref();
            id.map(|id| format!("tell an operator the request id {id}"))
        }
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::closed()
        } else {
            Self::ours(format!("write to standard output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::field::FieldError;

    fn problem(status: u16) -> Problem {
        Problem {
            kind: "x".into(),
            title: "X".into(),
            status,
            detail: "it is so".into(),
            fields: vec![],
            legal: vec![],
            request_id: Some("r-1".into()),
        }
    }

    #[test]
    fn each_wrong_field_is_a_line_and_legal_verbs_are_a_hint() {
        let field = |field: &str| FieldError { field: field.into(), problem: "is wrong".into() };
        let fields = vec![field("waves[1].upto"), field("target")];
        let failure = Failure::of_problem(&Problem { fields, ..problem(400) });
        assert_eq!(failure.exit(), Exit::Input);
        assert_eq!(
            failure.to_string(),
            "error: waves[1].upto: is wrong\nerror: target: is wrong\n"
        );
        let legal = vec!["pause".into(), "rollback".into()];
        let failure = Failure::of_problem(&Problem { legal, ..problem(409) });
        assert_eq!(failure.to_string(), "error: it is so\nhint: possible now: pause, rollback\n");
    }

    #[test]
    fn our_faults_name_the_request_and_a_closed_pipe_is_quiet() {
        let failure = Failure::of_problem(&problem(503));
        assert_eq!(failure.exit(), Exit::Ours);
        assert!(failure.to_string().contains("r-1"));
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.exit(), closed.to_string()), (Exit::Done, String::new()));
    }
}
