//! `zcpctl cloud`

use std::path::PathBuf;

use clap::Subcommand;

use super::confirm::Consent;
use super::output::{Rows, facts, moment, note, table, word};
use super::pair::{self, PairCommand};
use super::wait::{self, Look};
use super::{Context, Failure};
use crate::api::clouds::{Cloud, NewCloud};
use crate::domain::cloud::{CloudDefaults, CloudLimits, CloudPhase};
use crate::domain::clouds_yaml;
use crate::domain::duration::HumanDuration;

#[derive(Debug, Subcommand)]
pub(super) enum CloudCommand {
    /// Registers a cloud, then waits for its check and says what works.
    Add(Box<AddArgs>),
    /// Lists clouds.
    List,
    /// Shows a cloud: settings, the last check, and what there is.
    Get {
        /// Its name.
        name: String,
    },
    /// Checks a cloud again, waits, and says what works.
    Check {
        /// Its name.
        name: String,
        /// How long to wait at most.
        #[arg(long, value_name = "DURATION", default_value = "2m")]
        timeout: HumanDuration,
    },
    /// Removes a cloud on which nothing is left.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// What things of one cloud are called on another; migrations use it.
    #[command(subcommand)]
    Pair(PairCommand),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Its name here.
    name: String,
    /// The file that OpenStack's own tools read.
    #[arg(long, value_name = "FILE")]
    from_clouds_yaml: PathBuf,
    /// Entry of the file; default: its only one.
    #[arg(long)]
    entry: Option<String>,
    /// PEM file with the authority of the cloud's endpoints; default: what the entry names.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Network of the nodes, by name or id.
    #[arg(long)]
    network: String,
    /// Security group of the nodes, by name or id.
    #[arg(long, default_value = "default")]
    security_group: String,
    /// Flavor of workers that do not choose.
    #[arg(long)]
    flavor: String,
    /// Flavor of control planes; default: that of workers.
    #[arg(long)]
    control_plane_flavor: Option<String>,
    /// Availability zone; default: the cloud chooses.
    #[arg(long)]
    zone: Option<String>,
    /// Image; default: the one whose property kubernetes_version is the offering's.
    #[arg(long)]
    image: Option<String>,
    /// Environment it belongs to, such as production-1.
    #[arg(long)]
    environment: Option<String>,
    /// API calls a second.
    #[arg(long, default_value_t = CloudLimits::default().calls_per_second)]
    calls_per_second: u32,
    /// Servers that may be in BUILD at once.
    #[arg(long, default_value_t = CloudLimits::default().builds_in_flight)]
    builds_in_flight: u32,
    /// HTTP proxy through which cluster APIs on this cloud are reached.
    #[arg(long, value_name = "URL")]
    api_proxy: Option<String>,
    /// Do not wait for the check.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait at most.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    timeout: HumanDuration,
}

impl Rows for Cloud {
    const HEADER: &'static [&'static str] = &["NAME", "PHASE", "FLAVOR", "CHECKED", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            word(&self.phase),
            self.defaults.flavor.clone(),
            self.inventory_at.map(moment).unwrap_or_default(),
            moment(self.created_at),
        ]
    }
}

pub(super) async fn run(ctx: &Context, command: CloudCommand) -> Result<(), Failure> {
    match command {
        CloudCommand::Add(args) => add(ctx, *args).await,
        CloudCommand::List => {
            let clouds: Vec<Cloud> = ctx.client.list(&["v1", "clouds"], &[]).await?;
            ctx.output.list(&clouds)
        }
        CloudCommand::Get { name } => {
            let cloud: Cloud = ctx.client.get(&["v1", "clouds", &name]).await?;
            ctx.output.detail(&cloud, || text(&cloud))
        }
        CloudCommand::Check { name, timeout } => {
            let path = ["v1", "clouds", &name, "check"];
            let _asked: Cloud = ctx.client.post(&path, &serde_json::json!({})).await?;
            checked(ctx, &name, timeout).await
        }
        CloudCommand::Remove { name, consent } => {
            consent.ask(&format!("cloud {name} will be forgotten, with its login"))?;
            ctx.client.delete(&["v1", "clouds", &name]).await?;
            note(&format!("cloud {name} is removed"));
            Ok(())
        }
        CloudCommand::Pair(command) => pair::run(ctx, command).await,
    }
}

async fn add(ctx: &Context, args: AddArgs) -> Result<(), Failure> {
    let (timeout, no_wait) = (args.timeout, args.no_wait);
    let new = args.cloud()?;
    let made: Cloud = ctx.client.post(&["v1", "clouds"], &new).await?;
    if no_wait {
        return ctx.output.one(&made);
    }
    checked(ctx, &made.name, timeout).await
}

/// Waits for the check that was asked for, and says what it found.
async fn checked(ctx: &Context, name: &str, timeout: HumanDuration) -> Result<(), Failure> {
    let what = format!("cloud {name}");
    let cloud = wait::until(timeout, &what, || async {
        let cloud: Cloud = ctx.client.get(&["v1", "clouds", name]).await?;
        let over = cloud.phase != CloudPhase::Checking && !cloud.check_pending;
        Ok(if over { Look::Done(cloud) } else { Look::NotYet("checking".to_owned()) })
    })
    .await?;
    ctx.output.detail(&cloud, || format!("{}{}", summary(&cloud), checks(&cloud)))?;
    if cloud.phase == CloudPhase::Ready {
        return Ok(());
    }
    let wrong = cloud.checks.iter().find(|check| !check.ok);
    let why = wrong.map(|check| format!(": {}: {}", check.field, check.message));
    Err(Failure::input(format!("cloud {name} cannot be used{}", why.unwrap_or_default()))
        .with_hint("put it right, then: zcpctl cloud check ".to_owned() + name))
}

impl AddArgs {
    fn cloud(self) -> Result<NewCloud, Failure> {
        let file = &self.from_clouds_yaml;
        let wrong = |error: String| {
            Failure::input(format!("--from-clouds-yaml {}: {error}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let cacert = self.cacert.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::input(format!("--cacert {}: {error}", path.display())))
        });
        let entry = clouds_yaml::parse(&text, self.entry.as_deref(), cacert.transpose()?)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(NewCloud {
            name: self.name,
            auth_url: entry.auth_url.to_string(),
            region: entry.region,
            interface: entry.interface,
            ca_pem: entry.ca_pem,
            environment: self.environment,
            limits: CloudLimits {
                calls_per_second: self.calls_per_second,
                builds_in_flight: self.builds_in_flight,
            },
            defaults: CloudDefaults {
                network: self.network,
                security_group: self.security_group,
                flavor: self.flavor,
                control_plane_flavor: self.control_plane_flavor,
                zone: self.zone,
                image: self.image,
            },
            api_proxy: self.api_proxy,
            credential: entry.credential,
        })
    }
}

fn summary(cloud: &Cloud) -> String {
    facts(&[("cloud", cloud.name.clone()), ("phase", word(&cloud.phase))])
}

fn checks(cloud: &Cloud) -> String {
    if cloud.checks.is_empty() {
        return String::new();
    }
    let rows = cloud.checks.iter().map(|check| {
        let verdict = if check.ok { "ok" } else { "WRONG" };
        vec![check.field.clone(), verdict.to_owned(), check.message.clone()]
    });
    format!("\n{}", table(&["CHECK", "RESULT", "FOUND"], rows.collect()))
}

fn text(cloud: &Cloud) -> String {
    let spec = cloud.spec.as_ref();
    let of = |value: Option<String>| value.unwrap_or_default();
    let limits = spec.map(|spec| {
        let CloudLimits { calls_per_second, builds_in_flight } = spec.limits;
        format!("{calls_per_second} calls/s, {builds_in_flight} builds")
    });
    let mut text = facts(&[
        ("name", cloud.name.clone()),
        ("id", cloud.id.to_string()),
        ("phase", word(&cloud.phase)),
        ("auth url", of(spec.map(|spec| spec.auth_url.clone()))),
        ("region", of(spec.map(|spec| spec.region.clone()))),
        ("environment", of(spec.and_then(|spec| spec.environment.clone()))),
        ("limits", of(limits)),
        ("network", cloud.defaults.network.clone()),
        ("security group", cloud.defaults.security_group.clone()),
        ("flavor", cloud.defaults.flavor.clone()),
        ("control plane", of(cloud.defaults.control_plane_flavor.clone())),
        ("zone", of(cloud.defaults.zone.clone())),
        ("image", of(cloud.defaults.image.clone())),
        ("checked", of(cloud.inventory_at.map(moment))),
    ]);
    text += &checks(cloud);
    text += &inventory(cloud);
    text
}

fn inventory(cloud: &Cloud) -> String {
    let Some(inventory) = &cloud.inventory else { return String::new() };
    let flavors = inventory.flavors.iter().map(|flavor| {
        vec![flavor.name.clone(), flavor.vcpus.to_string(), format!("{} MiB", flavor.ram_mb)]
    });
    let images = inventory.images.iter().map(|image| {
        let version = image.kubernetes_version.clone().unwrap_or_default();
        vec![image.name.clone(), version, image.status.clone()]
    });
    format!(
        "\n{}\n{}",
        table(&["FLAVOR", "CPUS", "MEMORY"], flavors.collect()),
        table(&["IMAGE", "KUBERNETES", "STATUS"], images.collect()),
    )
}
