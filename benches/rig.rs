//! Postgres, `zcpd sim` and `zcpd serve` in a folder of their own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::process::{ChildStdin, Command};
use zcp::cli::client::Client;
use zcp::cli::profile::Profile;
use zcp::clock::{Ids as _, SystemIds};
use zcp::dev::postgres::{EmbeddedPostgres, PostgresOptions};
use zcp::sim::WorldSettings;
use zcp::store::seal::KeyRing;

use crate::usage;

/// How long a program may take to answer for the first time.
const START: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(20);

/// The programs, and how to speak with them.
pub struct Rig {
    folder: PathBuf,
    postgres: EmbeddedPostgres,
    postgres_pid: u32,
    sim: Running,
    control: String,
    service: Option<Running>,
    http: reqwest::Client,
    ports: [u16; 2],
    config: String,
    /// The database.
    pub db: PgPool,
    /// The API.
    pub api: Client,
}

struct Running {
    process: tokio::process::Child,
    leash: Option<ChildStdin>,
}

impl Running {
    fn pid(&self) -> u32 {
        self.process.id().unwrap_or(0)
    }
}

impl Rig {
    /// Starts Postgres and the simulation; `workers` is the configuration's part of that name.
    pub async fn start(world: &WorldSettings, workers: &str) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("zcp-bench-{}", std::process::id()));
        let _old = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))?;
        let data = folder.join("postgres");
        let postgres = EmbeddedPostgres::start(PostgresOptions::disposable(&data)).await?;
        let data = data.display().to_string();
        let postgres_pid = usage::find(&["postgres", &data]).context("find postgres")?;
        std::fs::write(folder.join("world.json"), serde_json::to_vec(world)?)?;
        let arguments = ["sim", "--state", "{}/sim", "--world", "{}/world.json", "--forgetful"]
            .map(str::to_owned);
        let sim = spawn(&folder, "sim", &arguments)?;
        let addresses = folder.join("sim/sim.json");
        wait_for("zcpd sim", async || addresses.exists()).await?;
        let addresses: Value = serde_json::from_slice(&std::fs::read(addresses)?)?;
        let control = addresses["control"].as_str().context("sim.json")?.to_owned();
        let ports = [free_port()?, free_port()?];
        let token = format!("zcp_{}", hex::encode(SystemIds.secret()));
        std::fs::write(folder.join("token"), &token)?;
        let db = PgPoolOptions::new().max_connections(4).connect_lazy(&postgres.url("zcp"))?;
        let url = Some(format!("http://127.0.0.1:{}", ports[0]));
        let profile = Profile { url, token: Some(token.into()), project: Some("bench".to_owned()) };
        let api = Client::new(&profile).map_err(failed)?;
        let http = reqwest::Client::builder().build()?;
        let config = workers.to_owned();
        let service = None;
        Ok(Self {
            folder,
            postgres,
            postgres_pid,
            sim,
            control,
            service,
            http,
            ports,
            config,
            db,
            api,
        })
    }

    /// Starts `zcpd serve` and waits until it is ready; says how long that took.
    pub async fn serve(&mut self) -> anyhow::Result<Duration> {
        let [api, node] = self.ports;
        let folder = self.folder.display();
        let config = format!(
            "database.url = \"{}\"\napi.listen = \"127.0.0.1:{api}\"\n\
             api.operator_token_file = \"{folder}/token\"\nnode.listen = \"127.0.0.1:{node}\"\n\
             node.url = \"https://127.0.0.1:{node}\"\nseal.key_file = \"{folder}/seal.key\"\n\
             telemetry.level = \"warn\"\n{}",
            self.postgres.url("zcp"),
            self.config
        );
        std::fs::write(self.folder.join("zcpd.toml"), config)?;
        let key = self.folder.join("seal.key");
        if !key.exists() {
            std::fs::write(&key, KeyRing::generate("bench", &SystemIds))?;
        }
        let since = Instant::now();
        let arguments = ["serve", "--config", "{}/zcpd.toml"].map(str::to_owned);
        self.service = Some(spawn(&self.folder, "zcpd", &arguments)?);
        wait_for("zcpd serve", async || self.api.is_ready().await).await?;
        Ok(since.elapsed())
    }

    /// The sealing keys that the service was given.
    pub fn keys(&self) -> anyhow::Result<KeyRing> {
        let text = std::fs::read_to_string(self.folder.join("seal.key"))?;
        Ok(KeyRing::parse(&text)?)
    }

    /// Stops `zcpd serve` as an operator does.
    pub async fn stop_service(&mut self) -> anyhow::Result<()> {
        if let Some(mut service) = self.service.take() {
            drop(service.leash.take());
            tokio::time::timeout(START, service.process.wait()).await??;
        }
        Ok(())
    }

    /// What zcpd, the simulation and Postgres have used.
    pub fn usage(&self) -> [usage::Usage; 3] {
        let service = self.service.as_ref().map_or(0, Running::pid);
        [service, self.sim.pid(), self.postgres_pid].map(usage::of_tree)
    }

    /// Most memory that zcpd ever had, in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.service.as_ref().map_or(0.0, |service| usage::peak_mib(service.pid()))
    }

    /// Registers a project, the clouds and an offering, and waits until the clouds are ready.
    pub async fn register(&self, (clouds, limits): (&[String], Value)) -> anyhow::Result<()> {
        let _made: Value =
            self.api.post(&["v1", "projects"], &json!({"name": "bench"})).await.map_err(failed)?;
        let text = std::fs::read_to_string(self.folder.join("sim/clouds.yaml"))?;
        for name in clouds {
            let entry = zcp::domain::clouds_yaml::parse(&text, Some(name), None)?;
            let new = json!({
                "name": name, "auth_url": entry.auth_url.as_str(), "region": entry.region,
                "credential": entry.credential, "limits": limits,
                "defaults": {"network": "kaas", "security_group": "kaas-nodes",
                    "flavor": "k8s.2c4g"},
            });
            let _made: Value = self.api.post(&["v1", "clouds"], &new).await.map_err(failed)?;
        }
        let offering = json!({
            "name": "1.36.2", "kubernetes_version": "1.36.2", "addon_manager_version": "1.36.0",
            "cni_manifest": include_str!("../src/dev/cni.yaml"),
            "node_daemons": ["kube-system/zcp-cni"],
        });
        let _made: Value = self.api.post(&["v1", "offerings"], &offering).await.map_err(failed)?;
        let wanted = i64::try_from(clouds.len())?;
        wait_for("clouds", async || {
            let ready = "SELECT count(*) FROM clouds WHERE phase = 'ready'";
            sqlx::query_scalar::<_, i64>(ready).fetch_one(&self.db).await.is_ok_and(|n| n == wanted)
        })
        .await
    }

    /// Asks for a cluster with one pool.
    pub async fn create_cluster(
        &self,
        (name, cloud): (&str, &str),
        (members, workers): (u32, u32),
    ) -> anyhow::Result<uuid::Uuid> {
        let new = json!({
            "name": name, "offering": "1.36.2", "project": "bench",
            "control_plane": {"cloud": cloud, "count": members},
            "pools": [{"name": "web", "cloud": cloud, "count": workers}],
        });
        let made: Value = self.api.post(&["v1", "clusters"], &new).await.map_err(failed)?;
        Ok(made["id"].as_str().context("the cluster's id")?.parse()?)
    }

    /// Waits until so many clusters have everything that they want.
    pub async fn wait_for_clusters(&self, count: usize) -> anyhow::Result<()> {
        let wanted = i64::try_from(count)?;
        let since = Instant::now();
        loop {
            let ready = "SELECT count(*) FROM clusters c
                WHERE conditions @> '[{\"type\": \"Ready\", \"status\": true}]'
                  AND NOT EXISTS (SELECT 1 FROM nodes n
                                  WHERE n.cluster_id = c.id AND n.usable_at IS NULL)";
            let ready: i64 = sqlx::query_scalar(ready).fetch_one(&self.db).await?;
            if ready >= wanted {
                return Ok(());
            }
            if since.elapsed() > 5 * START {
                bail!("{ready} of {wanted} clusters are ready; see {}", self.folder.display());
            }
            tokio::time::sleep(10 * LOOK).await;
        }
    }

    /// Asks the API for anything.
    pub async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let token = std::fs::read_to_string(self.folder.join("token"))?;
        let url = format!("http://127.0.0.1:{}{path}", self.ports[0]);
        let answer = self.http.get(url).bearer_auth(token.trim()).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Asks the simulation.
    pub async fn sim(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.http.get(format!("{}/_sim/{path}", self.control)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Tells the simulation.
    pub async fn tell_sim(
        &self,
        (method, path): (reqwest::Method, &str),
        body: &Value,
    ) -> anyhow::Result<()> {
        let url = format!("{}/_sim/{path}", self.control);
        let answer = self.http.request(method, url).json(body).send().await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("the simulation answers {status} {}", answer.text().await.unwrap_or_default());
        }
        Ok(())
    }

    /// Stops everything and removes the folder.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_service().await?;
        self.db.close().await;
        drop(self.sim.leash.take());
        let _ended = tokio::time::timeout(START, self.sim.process.wait()).await?;
        self.postgres.stop().await?;
        if std::env::var_os("ZCP_BENCH_KEEP").is_none() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }
}

/// What a failed request says.
pub fn failed(failure: zcp::cli::Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}

/// Starts a program; it ends when we end, however that happens.
fn spawn(folder: &std::path::Path, log: &str, arguments: &[String]) -> anyhow::Result<Running> {
    let log = std::fs::File::create(folder.join(format!("{log}.log")))?;
    let folder = folder.display().to_string();
    let mut process = Command::new(env!("CARGO_BIN_EXE_zcpd"))
        .args(arguments.iter().map(|argument| argument.replace("{}", &folder)))
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    let leash = process.stdin.take();
    Ok(Running { process, leash })
}

async fn wait_for(what: &str, is_there: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !is_there().await {
        if since.elapsed() > START {
            bail!("{what}: not within {START:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
