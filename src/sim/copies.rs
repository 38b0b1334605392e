//! Copies of a cluster: a whole fleet from a cluster that the service itself made.
//!
//! A bench lets the service make one cluster and copies it a thousand times, here and in the
//! service's database, with the same new words (ids, names, addresses) in both. So a fleet is by
//! construction what the service would have made, and takes seconds instead of hours.
//!
//! Copies share nothing with their original but its CA. They have no user data, console or
//! history, and their objects stay packed until somebody asks for them.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::cloud::{Cloud, Group, Port, Server};
use super::kubernetes::KubeCluster;
use super::world::{State, World};

/// Copies that are wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copies {
    /// Words of the original that are other ones in each copy.
    pub words: Vec<String>,
    /// The words of each copy, in the same order.
    pub copies: Vec<Vec<String>>,
}

/// Finds words in texts; where one holds another, the longer one counts.
#[derive(Debug)]
pub struct Finder {
    pattern: Option<Regex>,
    numbers: HashMap<String, usize>,
}

impl Finder {
    /// A finder of these words.
    pub fn new(words: &[String]) -> Result<Self, String> {
        let mut longest_first: Vec<&String> = words.iter().collect();
        longest_first.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let parts: Vec<String> = longest_first.iter().map(|word| regex::escape(word)).collect();
        let pattern = match &parts[..] {
            [] => None,
            parts => {
                let pattern = Regex::new(&format!(r"\b(?:{})\b", parts.join("|")));
                Some(pattern.map_err(|error| error.to_string())?)
            }
        };
        let numbers = words.iter().cloned().zip(0..).collect();
        Ok(Self { pattern, numbers })
    }

    /// Cuts the words out of a text.
    pub fn cut(&self, text: String) -> Pattern {
        let found = self.pattern.iter().flat_map(|pattern| pattern.find_iter(&text));
        let cuts = found.map(|word| (word.start(), word.end(), self.numbers[word.as_str()]));
        let cuts = cuts.collect();
        Pattern { text, cuts }
    }

    fn rename(&self, text: &str, words: &[String]) -> String {
        self.cut(text.to_owned()).with(words)
    }
}

/// A text with its words cut out.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    /// Begin, end and number of each word in the text.
    cuts: Vec<(usize, usize, usize)>,
}

impl Pattern {
    /// The text with these words in place of the original ones.
    pub fn with(&self, words: &[String]) -> String {
        let mut text = String::with_capacity(self.text.len() + 64);
        let mut at = 0;
        for (begin, end, number) in &self.cuts {
            text.push_str(&self.text[at..*begin]);
            text.push_str(words.get(*number).map_or("", String::as_str));
            at = *end;
        }
        text.push_str(&self.text[at..]);
        text
    }
}

/// What one cluster has in its cloud.
#[derive(Debug, Serialize, Deserialize)]
struct Belongings {
    servers: Vec<Server>,
    ports: Vec<Port>,
    groups: Vec<Group>,
}

impl World {
    /// Makes copies of the cluster at `endpoint`, whose servers are all in one cloud.
    pub fn copy_cluster(&self, endpoint: &str, wanted: &Copies) -> Result<(), String> {
        self.advance();
        let (cloud, belongings, kube) = {
            let state = self.locked();
            let (cloud, belongings) = belongings(&state, endpoint)?;
            let cluster = state.guests.clusters.get(endpoint).ok_or("there is no such cluster")?;
            (cloud, belongings, Arc::clone(&cluster.kube))
        };
        let text = |error: serde_json::Error| error.to_string();
        let objects = serde_json::to_string(&kube.to_snapshot()).map_err(text)?;
        let finder = Finder::new(&wanted.words)?;
        let objects = finder.cut(objects);
        let belongings = serde_json::to_string(&belongings).map_err(text)?;
        let belongings = finder.cut(belongings);
        for words in &wanted.copies {
            if words.len() != wanted.words.len() {
                return Err("a copy has more or fewer words than the original".to_owned());
            }
            // Packing takes most of the time, and needs no lock.
            let kube = KubeCluster::asleep(objects.with(words).as_bytes());
            let kube = kube.map_err(|error| error.to_string())?;
            let rename = |text: &str| finder.rename(text, words);
            let of_copy = serde_json::from_str(&belongings.with(words)).map_err(text)?;
            let mut state = self.locked();
            let cloud = state.clouds.get_mut(&cloud).ok_or("its cloud is gone")?;
            cloud.adopt(of_copy)?;
            state.guests.copy_cluster(endpoint, kube, &rename)?;
        }
        Ok(())
    }
}

fn belongings(state: &State, endpoint: &str) -> Result<(String, Belongings), String> {
    let ids = state.guests.servers_of(endpoint);
    let holds = |cloud: &&Cloud| ids.iter().any(|id| cloud.compute.servers.get(*id).is_some());
    let mut clouds = state.clouds.values().filter(holds);
    let cloud = clouds.next().ok_or("the cluster has no server")?;
    if clouds.next().is_some() {
        return Err("the cluster has servers in two clouds".to_owned());
    }
    let servers: Vec<Server> = ids
        .iter()
        .filter_map(|id| cloud.compute.servers.get(*id))
        .map(|server| Server {
            user_data: None,
            console: Vec::new(),
            actions: Vec::new(),
            ..server.clone()
        })
        .collect();
    let address = endpoint.split(':').next().unwrap_or_default();
    let is_vip =
        |port: &Port| port.fixed_ips.iter().any(|fixed| fixed.ip_address.to_string() == address);
    let is_its = |port: &&Port| servers.iter().any(|s| s.ports.contains(&port.id)) || is_vip(port);
    let ports = cloud.network.ports.values().filter(is_its).cloned().collect();
    let groups = cloud.compute.groups.iter();
    let groups = groups.filter(|group| servers.iter().any(|s| s.group == Some(group.id)));
    let groups = groups.cloned().collect();
    Ok((cloud.settings.name.clone(), Belongings { servers, ports, groups }))
}

impl Cloud {
    /// Takes over servers that run, with their ports and groups.
    fn adopt(&mut self, new: Belongings) -> Result<(), String> {
        for port in new.ports {
            for fixed in &port.fixed_ips {
                if !self.network.taken.insert(fixed.ip_address) {
                    return Err(format!("address {} is taken", fixed.ip_address));
                }
            }
            self.network.ports.insert(port.id, port);
        }
        self.compute.groups.extend(new.groups);
        for mut server in new.servers {
            let flavor = self.flavor(&server.flavor).cloned();
            let flavor = flavor.ok_or_else(|| format!("no flavor {}", server.flavor))?;
            let usage = self.compute.usage.entry(server.project_id.clone()).or_default();
            usage.instances += 1;
            usage.cores += flavor.vcpus;
            usage.ram += flavor.memory_mb;
            let next = self.compute.servers.len() % self.compute.hosts.len().max(1);
            if let Some(host) = self.compute.hosts.get_mut(next) {
                host.vcpus_used += flavor.vcpus;
                host.memory_used_mb += flavor.memory_mb;
                host.servers += 1;
                server.host = Some(host.name.clone());
            }
            self.compute.servers.add(server);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_counts_and_parts_of_words_do_not() {
        let words = ["a".to_owned(), "a-1".to_owned(), "10.0.0.1".to_owned()];
        let pattern = Finder::new(&words).unwrap().cut("a a-1 ab 10.0.0.1 10.0.0.12 x-a".into());
        let copy = pattern.with(&["b".to_owned(), "c".to_owned(), "d".to_owned()]);
        assert_eq!(copy, "b c ab d 10.0.0.12 x-b");
    }
}
