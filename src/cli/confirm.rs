//! Asks before something is destroyed.

use std::io::{self, IsTerminal as _, Write as _};

use super::Failure;
use super::output::note;

/// Whether the user was asked beforehand.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Consent {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl Consent {
    /// Says what will happen and asks for it, unless that was given.
    pub(super) fn ask(self, plan: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        note(plan);
        if !io::stdin().is_terminal() {
            return Err(Failure::input("this needs a yes, and there is no terminal to ask on")
                .with_hint("add --yes if you mean it"));
        }
        let _closed = write!(io::stderr(), "go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Failure::input("nothing was done"))
        }
    }
}
