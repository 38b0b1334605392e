//! `zcpctl cloud pair`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::confirm::Consent;
use super::output::{Rows, facts, moment, note, table};
use super::{Context, Failure};
use crate::api::cloud_pairs::{CloudPair, CloudPairMaps};

#[derive(Debug, Subcommand)]
pub(super) enum PairCommand {
    /// Says what things of one cloud are called on another; checked against both clouds.
    Set(Box<SetArgs>),
    /// Lists cloud pairs.
    List,
    /// Shows a pair, and what is wrong in it by now.
    Get(Ends),
    /// Deletes a pair that no migration uses.
    Delete {
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Ends {
    /// Cloud that nodes leave.
    source: String,
    /// Cloud that they move to.
    target: String,
}

impl Ends {
    fn path(&self) -> [&str; 4] {
        ["v1", "cloud-pairs", &self.source, &self.target]
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    ends: Ends,
    /// A file (YAML or JSON) with the maps flavors, networks, security_groups, zones and images.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keep what the pair says already, and add to it or change it.
    #[arg(long)]
    merge: bool,
    /// A flavor of the source and its counterpart; repeatable, as are the others.
    #[arg(long = "flavor", value_name = "SOURCE=TARGET", value_parser = names)]
    flavors: Vec<(String, String)>,
    /// A network.
    #[arg(long = "network", value_name = "SOURCE=TARGET", value_parser = names)]
    networks: Vec<(String, String)>,
    /// A security group.
    #[arg(long = "security-group", value_name = "SOURCE=TARGET", value_parser = names)]
    security_groups: Vec<(String, String)>,
    /// An availability zone.
    #[arg(long = "zone", value_name = "SOURCE=TARGET", value_parser = names)]
    zones: Vec<(String, String)>,
    /// An image.
    #[arg(long = "image", value_name = "SOURCE=TARGET", value_parser = names)]
    images: Vec<(String, String)>,
}

fn names(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err("must be SOURCE=TARGET, a name on each cloud".to_owned()),
    }
}

impl SetArgs {
    /// What is in the file, with what was typed beside it.
    fn maps(&self, mut maps: CloudPairMaps) -> Result<CloudPairMaps, Failure> {
        if let Some(file) = &self.file {
            let read = read(file)?;
            maps.flavors.extend(read.flavors);
            maps.networks.extend(read.networks);
            maps.security_groups.extend(read.security_groups);
            maps.zones.extend(read.zones);
            maps.images.extend(read.images);
        }
        for (field, map, typed) in [
            ("flavor", &mut maps.flavors, &self.flavors),
            ("network", &mut maps.networks, &self.networks),
            ("security-group", &mut maps.security_groups, &self.security_groups),
            ("zone", &mut maps.zones, &self.zones),
            ("image", &mut maps.images, &self.images),
        ] {
            add(field, map, typed)?;
        }
        Ok(maps)
    }

    fn is_empty(&self) -> bool {
        let typed =
            [&self.flavors, &self.networks, &self.security_groups, &self.zones, &self.images];
        self.file.is_none() && typed.iter().all(|list| list.is_empty())
    }
}

fn add(
    flag: &str,
    map: &mut BTreeMap<String, String>,
    typed: &[(String, String)],
) -> Result<(), Failure> {
    for (n, (from, to)) in typed.iter().enumerate() {
        if typed[..n].iter().any(|(before, _)| before == from) {
            return Err(Failure::input(format!("--{flag} {from}={to}: {from} is there twice")));
        }
        map.insert(from.clone(), to.clone());
    }
    Ok(())
}

fn read(file: &Path) -> Result<CloudPairMaps, Failure> {
    let wrong = |error: String| Failure::input(format!("--file {}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    // JSON is YAML.
    serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
}

impl Rows for CloudPair {
    const HEADER: &'static [&'static str] =
        &["FROM", "TO", "FLAVORS", "NETWORKS", "GROUPS", "ZONES", "IMAGES", "STATE"];

    fn row(&self) -> Vec<String> {
        let state = match (self.problems.len(), self.warnings.len()) {
            (0, 0) => "good".to_owned(),
            (0, 1) => "1 warning".to_owned(),
            (0, warnings) => format!("{warnings} warnings"),
            (problems, _) => format!("{problems} WRONG"),
        };
        let counts = [
            self.flavors.len(),
            self.networks.len(),
            self.security_groups.len(),
            self.zones.len(),
            self.images.len(),
        ];
        let mut row = vec![self.source.clone(), self.target.clone()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(state);
        row
    }
}

pub(super) async fn run(ctx: &Context, command: PairCommand) -> Result<(), Failure> {
    match command {
        PairCommand::Set(args) => set(ctx, &args).await,
        PairCommand::List => {
            let pairs: Vec<CloudPair> = ctx.client.list(&["v1", "cloud-pairs"], &[]).await?;
            ctx.output.list(&pairs)
        }
        PairCommand::Get(ends) => {
            let pair: CloudPair = ctx.client.get(&ends.path()).await?;
            ctx.output.detail(&pair, || text(&pair))
        }
        PairCommand::Delete { ends, consent } => {
            let Ends { source, target } = &ends;
            consent.ask(&format!("what {source} is called on {target} will be forgotten"))?;
            ctx.client.delete(&ends.path()).await?;
            note(&format!("the cloud pair {source} -> {target} is deleted"));
            Ok(())
        }
    }
}

async fn set(ctx: &Context, args: &SetArgs) -> Result<(), Failure> {
    if args.is_empty() {
        return Err(Failure::input("nothing is mapped")
            .with_hint("give --flavor SOURCE=TARGET and the like, or --file"));
    }
    let mut before = None;
    if args.merge {
        let pairs: Vec<CloudPair> = ctx.client.list(&["v1", "cloud-pairs"], &[]).await?;
        let Ends { source, target } = &args.ends;
        before = pairs.into_iter().find(|pair| pair.source == *source && pair.target == *target);
    }
    let maps = args.maps(before.as_ref().map(CloudPair::maps).unwrap_or_default())?;
    let seen = before.map(|pair| pair.generation);
    let pair: CloudPair = ctx.client.put(&args.ends.path(), seen, &maps).await?;
    for warning in &pair.warnings {
        note(&format!("warning: {}: {}", warning.field, warning.problem));
    }
    ctx.output.one(&pair)
}

fn text(pair: &CloudPair) -> String {
    let mut text = facts(&[
        ("from", pair.source.clone()),
        ("to", pair.target.clone()),
        ("checked", pair.checked_at.map(moment).unwrap_or_default()),
        ("changed", moment(pair.updated_at)),
    ]);
    let maps = pair.maps();
    let mut rows = Vec::new();
    for (field, map) in maps.maps() {
        for (from, to) in map {
            let path = format!("{field}.{from}");
            let said = |list: &[crate::domain::field::FieldError], word: &str| {
                let found = list.iter().filter(|one| one.field == path);
                found.map(|one| format!("{word}{}", one.problem)).collect::<Vec<_>>()
            };
            let mut why = said(&pair.problems, "WRONG: ");
            why.extend(said(&pair.warnings, ""));
            let what = field.trim_end_matches('s').replace('_', " ");
            rows.push(vec![what, from.clone(), to.clone(), why.join("; ")]);
        }
    }
    text.extend(["\n", table(&["WHAT", "SOURCE", "TARGET", "REMARK"], rows).as_str()]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything_but_the_first_equals_sign() {
        assert_eq!(names("m1.large=x=y"), Ok(("m1.large".to_owned(), "x=y".to_owned())));
        assert!(names("a").is_err() && names("=b").is_err() && names("a=").is_err());
    }
}
