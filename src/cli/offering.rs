//! `zcpctl offering`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;

use super::output::{Rows, facts, moment};
use super::{Context, Failure};
use crate::api::offerings::{NewOffering, Offering};
use crate::domain::canary::PortSpec;
use crate::domain::version::Version;

#[derive(Debug, Subcommand)]
pub(super) enum OfferingCommand {
    /// Adds an offering: a Kubernetes version with the addon manager of the same minor.
    Add(AddArgs),
    /// Lists offerings.
    List,
    /// Shows an offering.
    Get {
        /// Its name or id.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Version of Kubernetes, such as 1.36.2.
    #[arg(long, value_name = "VERSION")]
    kubernetes: Version,
    /// Version of the addon manager, of the same minor.
    #[arg(long, value_name = "VERSION")]
    addon_manager: Version,
    /// Manifests of the CNI (YAML), applied when a cluster is created.
    #[arg(long, value_name = "FILE")]
    cni: PathBuf,
    /// DaemonSet (NAMESPACE/NAME) that must be Ready on a node before it counts; repeatable.
    #[arg(long = "daemon", value_name = "NAMESPACE/NAME")]
    daemons: Vec<String>,
    /// Port that the CNI needs from node to node, such as udp/8472: canaries try it. Repeatable.
    #[arg(long = "cni-port", value_name = "PROTOCOL/PORT")]
    cni_ports: Vec<PortSpec>,
    /// Image on a cloud; default: the one whose property kubernetes_version is right. Repeatable.
    #[arg(long = "image", value_name = "CLOUD=IMAGE", value_parser = pair)]
    images: Vec<(String, String)>,
    /// Its name; default: the version of Kubernetes.
    #[arg(long)]
    name: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (cloud, image) = text.split_once('=').ok_or("must be CLOUD=IMAGE")?;
    Ok((cloud.to_owned(), image.to_owned()))
}

impl Rows for Offering {
    const HEADER: &'static [&'static str] = &["NAME", "KUBERNETES", "ADDON MANAGER", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kubernetes_version.to_string(),
            self.addon_manager_version.to_string(),
            moment(self.created_at),
        ]
    }
}

pub(super) async fn run(ctx: &Context, command: OfferingCommand) -> Result<(), Failure> {
    match command {
        OfferingCommand::Add(args) => {
            let new = args.offering()?;
            let made: Offering = ctx.client.post(&["v1", "offerings"], &new).await?;
            ctx.output.one(&made)
        }
        OfferingCommand::List => {
            let offerings: Vec<Offering> = ctx.client.list(&["v1", "offerings"], &[]).await?;
            ctx.output.list(&offerings)
        }
        OfferingCommand::Get { name } => {
            let offering: Offering = ctx.client.get(&["v1", "offerings", &name]).await?;
            ctx.output.detail(&offering, || text(&offering))
        }
    }
}

impl AddArgs {
    fn offering(self) -> Result<NewOffering, Failure> {
        let cni_manifest = std::fs::read_to_string(&self.cni)
            .map_err(|error| Failure::input(format!("--cni {}: {error}", self.cni.display())))?;
        Ok(NewOffering {
            name: self.name,
            kubernetes_version: self.kubernetes,
            addon_manager_version: self.addon_manager,
            images: self.images.into_iter().collect::<BTreeMap<_, _>>(),
            cni_manifest,
            cni_ports: self.cni_ports,
            node_daemons: self.daemons,
        })
    }
}

fn text(offering: &Offering) -> String {
    let images: Vec<String> =
        offering.images.iter().map(|(cloud, image)| format!("{cloud}={image}")).collect();
    let ports: Vec<String> = offering.cni_ports.iter().map(ToString::to_string).collect();
    facts(&[
        ("name", offering.name.clone()),
        ("id", offering.id.to_string()),
        ("kubernetes", offering.kubernetes_version.to_string()),
        ("addon manager", offering.addon_manager_version.to_string()),
        ("images", images.join(", ")),
        ("CNI ports", ports.join(", ")),
        ("daemons", offering.node_daemons.join(", ")),
        ("created", moment(offering.created_at)),
    ])
}
