//! What a canary and its peer run to find out what they reach.

/// The script. Python, because cloud-init is: every node has it. Its argument is a mode (`first`,
/// `canary`, `peer`) and JSON of [`Targets`](crate::domain::canary::Targets).
pub const PROBE: &str = include_str!("probe.py");
