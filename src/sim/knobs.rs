//! What the command line says of a simulated world.

use std::path::PathBuf;
use std::time::Duration;

use super::faults::{Chance, Effect, Faults, Mishap, Rule, Trouble};
use super::serve::SimSettings;
use super::settings::WorldSettings;
use crate::domain::duration::HumanDuration;

/// Knobs of a simulation. They shape a new world; one that is stored keeps its own.
#[derive(Debug, Clone, clap::Args)]
pub struct SimArgs {
    /// Folder of its files.
    #[arg(long, value_name = "FOLDER")]
    pub state: PathBuf,
    /// Port of the control API; any free one if not given.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub control_port: u16,
    /// The world to make, as JSON, in place of what the knobs say of it.
    #[arg(long, value_name = "FILE")]
    pub world: Option<PathBuf>,
    /// Keep the world in memory only: storing a whole fleet every minute would take most of a core.
    #[arg(long)]
    pub forgetful: bool,
    /// What it does and how.
    #[command(flatten)]
    pub knobs: Knobs,
}

/// Knobs that `zcpd dev` hands on.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Knobs {
    /// How many times faster than real clouds everything happens, 0.1 to 1000.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// From a running server to the first line of its user data; at speed 1, 20s.
    #[arg(long, value_name = "DURATION")]
    pub boot_time: Option<HumanDuration>,
    /// From a pod's scheduling to Ready; at speed 1, 5s.
    #[arg(long, value_name = "DURATION")]
    pub pod_ready_delay: Option<HumanDuration>,
    /// How many calls fail and how many servers never come up: 0 to 0.9.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub failure_rate: f64,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { speed: 1.0, boot_time: None, pod_ready_delay: None, failure_rate: 0.0, seed: 1 }
    }
}

fn speed(text: &str) -> Result<f64, String> {
    within(text, 0.1, 1000.0)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.0, 0.9)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("must be a number from {least} to {most}"))
}

impl SimArgs {
    /// The simulation that they describe; the error says why the file is not a world.
    pub fn settings(&self) -> Result<SimSettings, String> {
        let world = match &self.world {
            None => self.knobs.world(),
            Some(file) => {
                let text = std::fs::read(file).map_err(|error| error.to_string())?;
                serde_json::from_slice(&text).map_err(|error| error.to_string())?
            }
        };
        Ok(SimSettings {
            state: self.state.clone(),
            world,
            is_stored: !self.forgetful,
            // The clock stays that of the machine, so that certificates and tokens hold as long
            // here as there; it is the times that get shorter.
            speed: 1.0,
            control_port: self.control_port,
            faults: self.knobs.faults(),
        })
    }
}

impl Knobs {
    /// The same knobs as arguments of a command.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--speed={}", self.speed),
            format!("--failure-rate={}", self.failure_rate),
            format!("--seed={}", self.seed),
        ];
        arguments.extend(self.boot_time.map(|time| format!("--boot-time={time}")));
        arguments.extend(self.pod_ready_delay.map(|time| format!("--pod-ready-delay={time}")));
        arguments
    }

    /// The world that they describe.
    pub fn world(&self) -> WorldSettings {
        let mut world = WorldSettings { seed: self.seed, ..WorldSettings::default() };
        for cloud in &mut world.clouds {
            let timing = &mut cloud.timing;
            for time in [
                &mut timing.schedule_ms,
                &mut timing.build_ms,
                &mut timing.boot_ms,
                &mut timing.join_ms,
                &mut timing.delete_ms,
                &mut timing.power_ms,
                &mut timing.retry_ms,
            ] {
                *time = self.scaled(Duration::from_millis(*time));
            }
            if let Some(boot) = self.boot_time {
                timing.boot_ms = u64::try_from(boot.0.as_millis()).unwrap_or(u64::MAX);
            }
        }
        let kubernetes = &mut world.kubernetes;
        for time in [
            &mut kubernetes.node_ready_delay,
            &mut kubernetes.pod_ready_delay,
            &mut kubernetes.pod_stop_delay,
        ] {
            *time = Duration::from_millis(self.scaled(*time));
        }
        if let Some(delay) = self.pod_ready_delay {
            kubernetes.pod_ready_delay = delay.0;
        }
        world
    }

    fn scaled(&self, time: Duration) -> u64 {
        let time = time.div_f64(self.speed);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// What goes wrong in each cloud; nothing at rate 0.
    fn faults(&self) -> Option<Faults> {
        if self.failure_rate == 0.0 {
            return None;
        }
        let chance = |part: f64| Chance { times: None, probability: self.failure_rate * part };
        let rule =
            |effect, part| Rule { service: None, operation: None, effect, chance: chance(part) };
        let answer = |status| Effect::Answer { status, retry_after: None, message: None };
        let mishap = |what| Mishap { what, name: None, chance: chance(0.25) };
        Some(Faults {
            rules: vec![
                rule(answer(503), 0.5),
                rule(Effect::DoneButAnswered { status: 504 }, 0.25),
                rule(Effect::Cut, 0.25),
            ],
            mishaps: vec![
                mishap(Trouble::SpawnError),
                mishap(Trouble::NoValidHost),
                mishap(Trouble::NeverBoots),
            ],
            ..Faults::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_shortens_every_time_and_a_named_time_stays() {
        let boot_time = Some("7s".parse().unwrap());
        let knobs = Knobs { speed: 10.0, boot_time, ..Knobs::default() };
        let timing = &knobs.world().clouds[1].timing;
        assert_eq!((timing.build_ms, timing.boot_ms), (1400, 7000));
        assert_eq!(knobs.world().kubernetes.node_ready_delay, Duration::from_secs(1));
        assert!(knobs.faults().is_none());
        assert!(knobs.arguments().contains(&"--boot-time=7s".to_owned()));
        assert!(speed("0").is_err() && speed("NaN").is_err() && rate("0.95").is_err());
    }
}
