//! Snapshot to ordered steps, each with a reason. Pure: no I/O, no clock, no randomness.
//!
//! A plan also says why it does *not* do something; that is what an owner reads when it seems
//! stuck. How a plan prints is the same in logs, dry runs and golden tests.

use std::fmt;

pub mod cluster;
pub mod drain;
pub mod explain;
pub mod migration;
pub mod pool;
pub mod preflight;
pub mod resolve;

/// Steps in order, and what is waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<S> {
    /// What to do now. Steps on different nodes do not depend on each other.
    pub steps: Vec<Planned<S>>,
    /// What is not done, and why.
    pub waiting: Vec<String>,
}

/// A step and its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned<S> {
    /// What to do.
    pub step: S,
    /// Why.
    pub reason: String,
}

impl<S> Default for Plan<S> {
    fn default() -> Self {
        Self { steps: Vec::new(), waiting: Vec::new() }
    }
}

impl<S> Plan<S> {
    fn step(&mut self, step: S, reason: impl Into<String>) {
        self.steps.push(Planned { step, reason: reason.into() });
    }

    fn wait(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if !self.waiting.contains(&reason) {
            self.waiting.push(reason);
        }
    }
}

impl<S: fmt::Display> fmt::Display for Plan<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for planned in &self.steps {
            writeln!(f, "do    {} ({})", planned.step, planned.reason)?;
        }
        for reason in &self.waiting {
            writeln!(f, "wait  {reason}")?;
        }
        Ok(())
    }
}
