//! The processes that `zcpd dev` runs: this same binary, with other arguments.
//!
//! Each reads a pipe that only we hold and ends when it closes, so that even `kill -9` leaves
//! nothing behind.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{ChildStdin, Command};

use super::DevError;
use super::state::State;

/// Longer than the service's own grace for steps in flight.
const STOP: Duration = Duration::from_secs(30);
/// Lines of a log that are shown when its process ended by itself.
const TAIL: usize = 15;

/// A running process.
pub(super) struct Child {
    name: &'static str,
    log: PathBuf,
    process: tokio::process::Child,
    /// Closing it asks the process to end.
    leash: Option<ChildStdin>,
}

impl Child {
    /// `zcpd sim`.
    pub(super) fn sim(state: &State, knobs: Vec<String>) -> Result<Self, DevError> {
        let folder = state.file("sim");
        let mut arguments = vec!["sim".into(), "--state".into(), folder.into_os_string()];
        arguments.extend(knobs.into_iter().map(Into::into));
        Self::start("zcpd sim", state.file("sim.log"), arguments)
    }

    /// `zcpd serve`.
    pub(super) fn service(state: &State) -> Result<Self, DevError> {
        let config = state.file("zcpd.toml").into_os_string();
        let arguments = vec!["serve".into(), "--config".into(), config];
        Self::start("zcpd serve", state.file("zcpd.log"), arguments)
    }

    fn start(
        name: &'static str,
        log: PathBuf,
        arguments: Vec<std::ffi::OsString>,
    ) -> Result<Self, DevError> {
        let failed = |error| DevError::Child(name, error);
        let said = File::create(&log).map_err(failed)?;
        let also = said.try_clone().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut process = Command::new(program)
            .args(arguments)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(said)
            .stderr(also)
            // Ctrl-C goes to the whole group of the terminal; the order of stopping is ours.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let leash = process.stdin.take();
        Ok(Self { name, log, process, leash })
    }

    /// Fails if the process has ended.
    pub(super) fn check(&mut self) -> Result<(), DevError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.why_ended()),
            Err(error) => Err(DevError::Child(self.name, error)),
        }
    }

    /// Waits for an end that nobody asked for.
    pub(super) async fn ended(&mut self) -> DevError {
        match self.process.wait().await {
            Ok(_) => self.why_ended(),
            Err(error) => DevError::Child(self.name, error),
        }
    }

    /// It does not answer.
    pub(super) fn silent(&self) -> DevError {
        DevError::Silent { name: self.name, log: self.log.display().to_string() }
    }

    /// Asks it to end and waits for that.
    pub(super) async fn stop(mut self) {
        drop(self.leash.take());
        if tokio::time::timeout(STOP, self.process.wait()).await.is_err() {
            // Killed; a service must survive that anyway.
            let _gone = self.process.kill().await;
        }
    }

    fn why_ended(&self) -> DevError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        DevError::Ended {
            name: self.name,
            log: self.log.display().to_string(),
            tail: lines[lines.len().saturating_sub(TAIL)..].join("\n"),
        }
    }
}
