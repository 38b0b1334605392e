//! What the first start does through the API: clouds, a project, an offering.

use std::time::Duration;

use super::DevError;
use super::say;
use super::state::State;
use crate::api::clouds::{Cloud, NewCloud};
use crate::api::offerings::{NewOffering, Offering};
use crate::api::projects::{NewProject, Project};
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::domain::canary::{PortSpec, Protocol};
use crate::domain::cloud::{CloudDefaults, CloudLimits, CloudPhase};
use crate::domain::clouds_yaml;
use crate::domain::version::Version;

/// The project of whoever does not name one.
pub(super) const PROJECT: &str = "default";
/// The offering.
pub(super) const OFFERING: &str = "1.36.2";
const ADDON_MANAGER: Version = Version { major: 1, minor: 36, patch: 0 };
const KUBERNETES: Version = Version { major: 1, minor: 36, patch: 2 };
/// Port of its overlay: VXLAN as the Linux kernel had it first.
const CNI_PORT: PortSpec = PortSpec { protocol: Protocol::Udp, port: 8472 };
/// A DaemonSet that stands in for a CNI.
const CNI: &str = include_str!("cni.yaml");

/// What the simulated clouds call things.
const CLOUDS: [(&str, &str); 2] = [("east", "k8s.2c4g"), ("west", "m1.k8s-2c4g")];

/// A check of a simulated cloud takes well under a second.
const LOOKS: u32 = 300;
const LOOK: Duration = Duration::from_millis(100);

/// Everything that a newcomer needs before the first cluster. What is there already stays, so a
/// first start that was interrupted is simply repeated.
pub(super) async fn set_up(client: &Client, state: &State) -> Result<(), DevError> {
    let projects = client.list::<Project>(&["v1", "projects"], &[]).await;
    if !projects.map_err(failed("list projects"))?.iter().any(|one| one.name == PROJECT) {
        let new = NewProject { name: PROJECT.to_owned() };
        let made = client.post::<Project>(&["v1", "projects"], &new).await;
        made.map_err(failed("make the project"))?;
    }
    let clouds = client.list::<Cloud>(&["v1", "clouds"], &[]).await;
    let clouds = clouds.map_err(failed("list clouds"))?;
    for (name, flavor) in CLOUDS {
        if !clouds.iter().any(|cloud| cloud.name == name) {
            let new = cloud(state, name, flavor)?;
            let made = client.post::<Cloud>(&["v1", "clouds"], &new).await;
            made.map_err(failed("register a cloud"))?;
        }
    }
    let offerings = client.list::<Offering>(&["v1", "offerings"], &[]).await;
    if !offerings.map_err(failed("list offerings"))?.iter().any(|one| one.name == OFFERING) {
        let made = client.post::<Offering>(&["v1", "offerings"], &offering()).await;
        made.map_err(failed("add the offering"))?;
    }
    for (name, _) in CLOUDS {
        wait_for_cloud(client, name).await?;
    }
    Ok(())
}

fn failed(doing: &'static str) -> impl FnOnce(Failure) -> DevError {
    move |failure| DevError::First(doing, failure.to_string().trim_end().to_owned())
}

fn cloud(state: &State, name: &str, flavor: &str) -> Result<NewCloud, DevError> {
    let wrong = |error: String| DevError::First("read the simulation's clouds.yaml", error);
    let text = std::fs::read_to_string(state.file("sim/clouds.yaml"))
        .map_err(|error| wrong(error.to_string()))?;
    let entry =
        clouds_yaml::parse(&text, Some(name), None).map_err(|error| wrong(error.to_string()))?;
    Ok(NewCloud {
        name: name.to_owned(),
        auth_url: entry.auth_url.to_string(),
        region: entry.region,
        interface: entry.interface,
        ca_pem: entry.ca_pem,
        environment: Some("dev".to_owned()),
        limits: CloudLimits { calls_per_second: 200, builds_in_flight: 50 },
        defaults: CloudDefaults {
            network: "kaas".to_owned(),
            security_group: "kaas-nodes".to_owned(),
            flavor: flavor.to_owned(),
            control_plane_flavor: None,
            zone: None,
            image: None,
        },
        api_proxy: None,
        credential: entry.credential,
    })
}

fn offering() -> NewOffering {
    NewOffering {
        name: Some(OFFERING.to_owned()),
        kubernetes_version: KUBERNETES,
        addon_manager_version: ADDON_MANAGER,
        images: [].into(),
        cni_manifest: CNI.to_owned(),
        cni_ports: vec![CNI_PORT],
        node_daemons: vec!["kube-system/zcp-cni".to_owned()],
    }
}

/// Says how the cloud's check went. One that is not ready is shown and no reason to stop: whoever
/// plays with failures wants just that.
async fn wait_for_cloud(client: &Client, name: &str) -> Result<(), DevError> {
    for _ in 0..LOOKS {
        let cloud: Cloud =
            client.get(&["v1", "clouds", name]).await.map_err(failed("look at a cloud"))?;
        if cloud.phase == CloudPhase::Ready {
            say(&format!("cloud {name} is registered and ready"));
            return Ok(());
        }
        if cloud.phase == CloudPhase::Unusable {
            let wrong = cloud.checks.iter().find(|check| !check.ok);
            let why = wrong.map(|one| format!("{}: {}", one.field, one.message));
            say(&format!("cloud {name} is not usable now: {}", why.unwrap_or_default()));
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    say(&format!("cloud {name} is still being checked; see zcpctl cloud get {name}"));
    Ok(())
}
