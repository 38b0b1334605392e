//! A fleet at rest: one cluster a cloud made by the service itself, and copies of it.
//!
//! Each copy has other ids, names and addresses, the same ones in the simulation and in the
//! database, so the service finds a fleet that is as it would have made it.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;
use zcp::clock::{Ids as _, SystemIds};
use zcp::sim::copies::{Copies, Finder, Pattern};
use zcp::sim::kubernetes::KubeSettings;
use zcp::sim::{CloudSettings, Timing, WorldSettings};
use zcp::store::seal::{KeyRing, Place, Sealed};

use crate::rig::Rig;

/// Copies made in one go.
const CHUNK: usize = 25;
/// First number of the clouds' networks that is not used by anything else here.
const NETWORKS: usize = 100;
/// Place in a network before which its gateway and services are.
const FIRST_ADDRESS: usize = 16;
/// Container images that each kubelet reports, so that a Node object has more than 4 KB.
const NODE_IMAGES: u32 = 14;
/// Tables with a cluster's rows, in the order of their references, and how they are found.
const TABLES: [(&str, &str); 5] = [
    ("clusters", "id"),
    ("pools", "cluster_id"),
    ("server_groups", "cluster_id"),
    ("nodes", "cluster_id"),
    ("work_items", "resource_id"),
];

/// Names of so many clouds.
pub fn clouds(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("c{n:02}")).collect()
}

/// A world with so many clouds, in which nothing takes long.
pub fn world(count: usize) -> WorldSettings {
    let cloud = |(n, name): (usize, &String)| CloudSettings {
        name: name.clone(),
        subnet_prefix: format!("127.{}", NETWORKS + n),
        hosts: 500,
        timing: Timing { retry_ms: 200, ..Timing::instant() },
        ..CloudSettings::east()
    };
    let moment = std::time::Duration::from_millis(100);
    WorldSettings {
        seed: 1,
        clouds: clouds(count).iter().enumerate().map(cloud).collect(),
        kubernetes: KubeSettings {
            node_ready_delay: moment,
            pod_ready_delay: moment,
            pod_stop_delay: moment,
            sleep_after: std::time::Duration::from_secs(1),
            node_images: NODE_IMAGES,
            ..KubeSettings::default()
        },
    }
}

/// Copies the cluster `template` until its cloud holds `wanted` of them. The service must not run.
pub async fn fill(rig: &Rig, template: Uuid, wanted: usize) -> anyhow::Result<()> {
    let original = Original::read(rig, template).await?;
    let keys = rig.keys()?;
    let mut number = 1;
    while number < wanted {
        let until = wanted.min(number + CHUNK);
        let copies: Vec<Vec<String>> = (number..until).map(|n| original.words_of(n)).collect();
        let body = Copies { words: original.words.clone(), copies: copies.clone() };
        let path = format!("clusters/{}:6443/copies", original.vip);
        let body = serde_json::to_value(&body)?;
        let (in_sim, in_database) = tokio::join!(
            rig.tell_sim((reqwest::Method::POST, &path), &body),
            original.write(rig, (&copies, &keys))
        );
        in_sim?;
        in_database?;
        number = until;
    }
    Ok(())
}

/// A cluster to be copied.
struct Original {
    id: Uuid,
    vip: String,
    words: Vec<String>,
    kinds: Vec<Kind>,
    /// Its rows, a JSON array a table.
    tables: Vec<(&'static str, Pattern)>,
    keys: Vec<(String, String, Vec<u8>)>,
}

/// What takes the place of a word.
enum Kind {
    Id,
    /// A name that begins with the cluster's.
    Name,
    /// An address, by its place after the network's first.
    Address(usize),
}

impl Original {
    async fn read(rig: &Rig, id: Uuid) -> anyhow::Result<Self> {
        let row = sqlx::query("SELECT name, vip_address, vip_port_id FROM clusters WHERE id = $1")
            .bind(id)
            .fetch_one(&rig.db)
            .await?;
        let vip: String = row.try_get("vip_address")?;
        let mut words = vec![(id.to_string(), Kind::Id), (row.try_get("name")?, Kind::Name)];
        words.push((row.try_get("vip_port_id")?, Kind::Id));
        words.push((vip.clone(), Kind::Address(0)));
        let ids = "SELECT id::text FROM pools WHERE cluster_id = $1
                   UNION ALL SELECT id::text FROM server_groups WHERE cluster_id = $1
                   UNION ALL SELECT server_group_id FROM server_groups WHERE cluster_id = $1
                   UNION ALL SELECT id::text FROM nodes WHERE cluster_id = $1
                   UNION ALL SELECT port_id FROM nodes WHERE cluster_id = $1
                   UNION ALL SELECT server_id FROM nodes WHERE cluster_id = $1";
        let ids: Vec<String> = sqlx::query_scalar(ids).bind(id).fetch_all(&rig.db).await?;
        words.extend(ids.into_iter().map(|id| (id, Kind::Id)));
        let nodes = "SELECT name, address FROM nodes WHERE cluster_id = $1 ORDER BY name";
        let nodes: Vec<(String, String)> =
            sqlx::query_as(nodes).bind(id).fetch_all(&rig.db).await?;
        for (place, (name, address)) in nodes.into_iter().enumerate() {
            words.push((name, Kind::Name));
            words.push((address, Kind::Address(place + 1)));
        }
        let (words, kinds): (Vec<String>, Vec<Kind>) = words.into_iter().unzip();
        let finder = Finder::new(&words).map_err(anyhow::Error::msg)?;
        let mut tables = Vec::new();
        for (table, column) in TABLES {
            let sql = format!(
                "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')::text FROM {table} t WHERE {column} = $1"
            );
            let text: String =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(id).fetch_one(&rig.db).await?;
            tables.push((table, finder.cut(without_tokens(&text)?)));
        }
        let keys = "SELECT kind, public_pem, private_key FROM cluster_keys WHERE cluster_id = $1";
        let keys = sqlx::query_as(keys).bind(id).fetch_all(&rig.db).await?;
        Ok(Self { id, vip, words, kinds, tables, keys })
    }

    /// The words of copy `number`, from 1.
    fn words_of(&self, number: usize) -> Vec<String> {
        let cluster = &self.words[1];
        let addresses = self.kinds.iter().filter(|kind| matches!(kind, Kind::Address(_))).count();
        let taken = self.taken();
        let word = |(word, kind): (&String, &Kind)| match kind {
            Kind::Id => SystemIds.uuid().to_string(),
            Kind::Name => word.replacen(cluster.as_str(), &format!("{cluster}-{number}"), 1),
            Kind::Address(place) => {
                let mut place = FIRST_ADDRESS + (number - 1) * addresses + place;
                for taken in &taken {
                    place += usize::from(*taken <= place);
                }
                let network = self.vip.split('.').take(2).collect::<Vec<_>>().join(".");
                format!("{network}.{}.{}", place / 256, place % 256)
            }
        };
        self.words.iter().zip(&self.kinds).map(word).collect()
    }

    /// Places of the original's own addresses in its network, in order.
    fn taken(&self) -> BTreeSet<usize> {
        let addresses =
            self.words.iter().zip(&self.kinds).filter(|(_, kind)| matches!(kind, Kind::Address(_)));
        let place = |word: &String| {
            let mut parts = word.rsplit('.').map_while(|part| part.parse::<usize>().ok());
            let (last, third) = (parts.next()?, parts.next()?);
            Some(third * 256 + last)
        };
        let places = addresses.filter_map(|(word, _)| place(word));
        places.filter(|place| *place >= FIRST_ADDRESS).collect()
    }

    /// Writes the rows of copies.
    async fn write(
        &self,
        rig: &Rig,
        (copies, keys): (&[Vec<String>], &KeyRing),
    ) -> anyhow::Result<()> {
        let mut tx = rig.db.begin().await?;
        for (table, rows) in &self.tables {
            // The rows of all copies as one array.
            let texts: Vec<String> = copies.iter().map(|words| rows.with(words)).collect();
            let inner = texts.iter().map(|text| text.trim_matches(['[', ']']));
            let inner: Vec<&str> = inner.filter(|text| !text.is_empty()).collect();
            let sql = format!(
                "INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(null::{table}, $1::jsonb)"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(format!("[{}]", inner.join(",")))
                .execute(&mut *tx)
                .await
                .with_context(|| format!("copy rows of {table}"))?;
        }
        for words in copies {
            let id: Uuid = words[0].parse()?;
            for (kind, public, private) in &self.keys {
                let sealed = Sealed(private.clone());
                let opened = keys.open(Place::new("cluster_keys", self.id, kind), &sealed)?;
                let sealed = keys.seal(Place::new("cluster_keys", id, kind), &opened, &SystemIds);
                sqlx::query("INSERT INTO cluster_keys VALUES ($1, $2, $3, $4)")
                    .bind(id)
                    .bind(kind)
                    .bind(public)
                    .bind(sealed)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

/// The rows without what only one node may have.
fn without_tokens(rows: &str) -> anyhow::Result<String> {
    let mut rows: Vec<Value> = serde_json::from_str(rows)?;
    for row in &mut rows {
        if let Some(hash) = row.get_mut("bundle_token_hash") {
            *hash = json!(null);
        }
    }
    Ok(serde_json::to_string(&rows)?)
}

/// Makes everything of the fleet due now, as after an outage that was longer than every period.
pub async fn make_all_due(rig: &Rig) -> anyhow::Result<()> {
    sqlx::query("UPDATE work_items SET due_at = now() - interval '1 second'")
        .execute(&rig.db)
        .await?;
    sqlx::query("VACUUM ANALYZE").execute(&rig.db).await?;
    Ok(())
}
