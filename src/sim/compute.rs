//! How servers come, run and go: the part of Nova behind its API.

use jiff::Timestamp;
use uuid::Uuid;

use super::cloud::{
    Action, Cloud, CloudEvent, Flavor, Group, Happening, Host, Server, ServerFault, ServerStatus,
};
use super::faults::Trouble;

/// Lines of console that are kept.
const CONSOLE_LINES: usize = 300;

impl Cloud {
    /// Carries out what is due at `at`.
    pub fn handle(&mut self, event: CloudEvent, at: Timestamp) {
        match event {
            CloudEvent::Schedule(id) => self.schedule(id, at),
            CloudEvent::Built(id) => self.built(id, at),
            CloudEvent::Deleted(id) => self.deleted(id, at),
            CloudEvent::Stopped(id) => self.stopped(id, at),
            CloudEvent::Started(id) => self.started(id, at),
        }
    }

    /// Plans an event `ms` from `now`, give or take the jitter.
    pub fn plan(&mut self, now: Timestamp, ms: u64, event: CloudEvent) {
        let wait = self.dice.around(ms, self.settings.timing.jitter);
        self.agenda.add(now + wait, event);
    }

    /// The flavor of that id.
    pub fn flavor(&self, id: &str) -> Option<&Flavor> {
        self.compute.flavors.iter().find(|flavor| flavor.id == id)
    }

    /// The server group of that id.
    pub fn group(&self, id: Uuid) -> Option<&Group> {
        self.compute.groups.iter().find(|group| group.id == id)
    }

    /// Takes over a new server, which then finds its way by itself.
    pub fn accept_server(&mut self, server: Server, now: Timestamp) {
        let id = server.id;
        for port in server.ports.clone() {
            let zone = server.zone.clone().unwrap_or_else(|| self.settings.zone.clone());
            self.bind_port(port, (&id.to_string(), &format!("compute:{zone}")), now);
        }
        let group = self.compute.groups.iter_mut().find(|group| Some(group.id) == server.group);
        if let Some(group) = group {
            group.members.push(id);
        }
        if let Some(flavor) = self.flavor(&server.flavor).cloned() {
            let usage = self.compute.usage.entry(server.project_id.clone()).or_default();
            usage.instances += 1;
            usage.cores += flavor.vcpus;
            usage.ram += flavor.memory_mb;
        }
        self.compute.servers.add(server);
        self.plan(now, self.settings.timing.schedule_ms, CloudEvent::Schedule(id));
    }

    fn schedule(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get(id) else { return };
        let name = server.name.clone();
        let trouble = [
            Trouble::NoValidHost,
            Trouble::SpawnError,
            Trouble::BindingFailed,
            Trouble::StuckInBuild,
        ];
        let trouble = self.faults.of_server(&name, &trouble, &mut self.dice);
        let chosen = self.choose_host(id).filter(|_| trouble != Some(Trouble::NoValidHost));
        let Some(index) = chosen else {
            self.fail_build(
                id,
                "No valid host was found. There are not enough hosts available.",
                at,
            );
            return;
        };
        match trouble {
            Some(Trouble::SpawnError) => {
                let text = "Exceeded maximum number of retries. Exhausted all hosts available for \
                            retrying build failures for instance ";
                self.fail_build(id, &format!("{text}{id}."), at);
            }
            Some(Trouble::BindingFailed) => {
                self.claim(id, index, at);
                let text =
                    "Binding failed for port, please check neutron logs for more information.";
                self.fail_build(id, text, at);
            }
            Some(Trouble::StuckInBuild) => {
                self.claim(id, index, at);
                self.compute.hosts[index].building += 1;
                self.compute.building += 1;
            }
            _ => {
                self.claim(id, index, at);
                self.compute.hosts[index].waiting.push_back(id);
                self.start_builds(index, at);
            }
        }
    }

    /// The host with the most free memory of those that the server's group likes best.
    fn choose_host(&self, id: Uuid) -> Option<usize> {
        if self.faults.full {
            return None;
        }
        let server = self.compute.servers.get(id)?;
        let flavor = self.flavor(&server.flavor)?;
        let group = server.group.and_then(|group| self.group(group));
        let fits = |host: &Host| {
            !host.disabled
                && !host.down
                && f64::from(host.vcpus_used + flavor.vcpus)
                    <= f64::from(self.settings.host_vcpus) * self.settings.cpu_allocation_ratio
                && host.memory_used_mb + flavor.memory_mb <= self.settings.host_memory_mb
                && flavor.vcpus <= self.settings.host_vcpus
        };
        let hosts = self.compute.hosts.iter().enumerate().filter(|(_, host)| fits(host));
        hosts
            .filter_map(|(index, host)| {
                let liking = group.map_or(Some(0), |group| self.liking(group, id, &host.name))?;
                Some((liking, std::cmp::Reverse(host.memory_used_mb), std::cmp::Reverse(index)))
            })
            .max()
            .map(|(_, _, std::cmp::Reverse(index))| index)
    }

    /// How much a group likes a host; None when its policy forbids it.
    fn liking(&self, group: &Group, id: Uuid, host: &str) -> Option<i64> {
        let placed = group.members.iter().filter(|member| **member != id);
        let placed: Vec<&str> = placed
            .filter_map(|member| self.compute.servers.get(*member)?.host.as_deref())
            .collect();
        let here = placed.iter().filter(|name| **name == host).count();
        let liking = i64::try_from(here).unwrap_or(i64::MAX);
        let most = usize::try_from(group.max_server_per_host.unwrap_or(1)).unwrap_or(1);
        match group.policy.as_str() {
            "soft-anti-affinity" => Some(-liking),
            "soft-affinity" => Some(liking),
            "anti-affinity" => (here < most).then_some(0),
            _ => (here == placed.len()).then_some(0),
        }
    }

    fn claim(&mut self, id: Uuid, index: usize, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        let flavor = self.compute.flavors.iter().find(|flavor| flavor.id == server.flavor);
        let Some(flavor) = flavor else { return };
        let host = &mut self.compute.hosts[index];
        host.vcpus_used += flavor.vcpus;
        host.memory_used_mb += flavor.memory_mb;
        host.servers += 1;
        server.host = Some(host.name.clone());
        server.task = Some("spawning".into());
        server.updated = at;
    }

    fn start_builds(&mut self, index: usize, at: Timestamp) {
        while self.compute.hosts[index].building < self.settings.max_concurrent_builds {
            let Some(id) = self.compute.hosts[index].waiting.pop_front() else { break };
            if self.compute.servers.get(id).is_none() {
                continue;
            }
            self.compute.hosts[index].building += 1;
            self.compute.building += 1;
            self.compute.most_building = self.compute.most_building.max(self.compute.building);
            self.plan(at, self.settings.timing.build_ms, CloudEvent::Built(id));
        }
    }

    fn built(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        if server.status != ServerStatus::Build {
            return;
        }
        let deleting = server.task.as_deref() == Some("deleting");
        server.status = ServerStatus::Active;
        server.updated = at;
        server.launched = Some(at);
        if !deleting {
            server.task = None;
        }
        finish_action(server, "create", None, at);
        let host = server.host.clone();
        self.happenings.push(Happening::On(id));
        self.end_build(id, host.as_deref(), at);
    }

    /// Gives the place of a build, or its place in the queue, to the next.
    fn end_build(&mut self, id: Uuid, host: Option<&str>, at: Timestamp) {
        let index = self.compute.hosts.iter().position(|h| Some(h.name.as_str()) == host);
        let Some(index) = index else { return };
        let host = &mut self.compute.hosts[index];
        if host.waiting.contains(&id) {
            host.waiting.retain(|waiting| *waiting != id);
            return;
        }
        host.building = host.building.saturating_sub(1);
        self.compute.building = self.compute.building.saturating_sub(1);
        self.start_builds(index, at);
    }

    fn fail_build(&mut self, id: Uuid, message: &str, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        server.status = ServerStatus::Error;
        server.task = None;
        server.updated = at;
        server.fault = Some(ServerFault { code: 500, message: message.into(), created: at });
        finish_action(server, "create", Some("Error"), at);
    }

    /// Begins to delete a server.
    pub fn delete_server(&mut self, id: Uuid, now: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        server.updated = now;
        let name = server.name.clone();
        let soft = self.faults.of_server(&name, &[Trouble::SoftDelete], &mut self.dice);
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        if soft.is_some() {
            server.status = ServerStatus::SoftDeleted;
            server.task = None;
            self.happenings.push(Happening::Off(id));
            return;
        }
        server.task = Some("deleting".into());
        self.plan(now, self.settings.timing.delete_ms, CloudEvent::Deleted(id));
    }

    fn deleted(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get(id) else { return };
        let name = server.name.clone();
        let trouble = [Trouble::DeleteError, Trouble::StuckInDelete];
        match self.faults.of_server(&name, &trouble, &mut self.dice) {
            Some(Trouble::DeleteError) => self.fail_delete(id, at),
            Some(_) => {}
            None => self.remove_server(id, at),
        }
    }

    fn fail_delete(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        let was_building = server.status == ServerStatus::Build;
        server.status = ServerStatus::Error;
        server.task = None;
        server.updated = at;
        let message = "Lab fault: destroy".to_owned();
        server.fault = Some(ServerFault { code: 500, message, created: at });
        finish_action(server, "delete", Some("Error"), at);
        let host = server.host.clone();
        if was_building {
            self.end_build(id, host.as_deref(), at);
        }
    }

    fn remove_server(&mut self, id: Uuid, at: Timestamp) {
        let Some(mut server) = self.compute.servers.remove(id) else { return };
        self.release(&server, at);
        for group in &mut self.compute.groups {
            group.members.retain(|member| *member != id);
        }
        for port in &server.ports {
            self.unbind_port(*port, &id.to_string(), at);
        }
        finish_action(&mut server, "delete", None, at);
        server.status = ServerStatus::Deleted;
        server.task = None;
        server.updated = at;
        server.terminated = Some(at);
        // Kept for counting; what is big is not needed for that.
        server.user_data = None;
        server.console.clear();
        self.compute.deleted.push(server);
        self.happenings.push(Happening::Gone(id));
    }

    /// Gives back what a server held of its host.
    fn release(&mut self, server: &Server, at: Timestamp) {
        let Some(flavor) = self.flavor(&server.flavor).cloned() else { return };
        if let Some(usage) = self.compute.usage.get_mut(&server.project_id) {
            usage.instances = usage.instances.saturating_sub(1);
            usage.cores = usage.cores.saturating_sub(flavor.vcpus);
            usage.ram = usage.ram.saturating_sub(flavor.memory_mb);
        }
        let host =
            self.compute.hosts.iter_mut().find(|host| Some(&host.name) == server.host.as_ref());
        let Some(host) = host else { return };
        host.vcpus_used = host.vcpus_used.saturating_sub(flavor.vcpus);
        host.memory_used_mb = host.memory_used_mb.saturating_sub(flavor.memory_mb);
        host.servers = host.servers.saturating_sub(1);
        if server.status == ServerStatus::Build {
            self.end_build(server.id, server.host.as_deref(), at);
        }
    }

    fn stopped(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        server.status = ServerStatus::Shutoff;
        server.task = None;
        server.updated = at;
        finish_action(server, "stop", None, at);
        self.happenings.push(Happening::Off(id));
    }

    fn started(&mut self, id: Uuid, at: Timestamp) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        server.status = ServerStatus::Active;
        server.task = None;
        server.updated = at;
        finish_action(server, "start", None, at);
        self.happenings.push(Happening::On(id));
    }

    /// The server stops all at once, as when its host lost power.
    pub fn crash_server(&mut self, id: Uuid, now: Timestamp) {
        self.stopped(id, now);
    }

    /// Writes a line on the console of a server.
    pub fn print_on_console(&mut self, id: Uuid, line: String) {
        let Some(server) = self.compute.servers.get_mut(id) else { return };
        if server.console.len() >= CONSOLE_LINES {
            server.console.remove(0);
        }
        server.console.push(line);
    }
}

/// Notes that something was asked of a server.
pub fn begin_action(server: &mut Server, action: &str, request_id: &str, now: Timestamp) {
    server.actions.push(Action {
        action: action.into(),
        request_id: request_id.into(),
        start: now,
        finish: None,
        message: None,
    });
}

fn finish_action(server: &mut Server, action: &str, message: Option<&str>, at: Timestamp) {
    let open = server.actions.iter_mut().rev().find(|entry| entry.action == action);
    if let Some(entry) = open {
        entry.finish = Some(at);
        entry.message = message.map(Into::into);
    }
}
