//! A canary: a server like those that a migration will make, which tells what it reaches.
//!
//! It joins its cluster under a taint that keeps the tenant's pods away, tries everything that a
//! node needs ([`Targets`]), and writes what it found ([`Report`]) into an annotation of its own
//! Node: a kubelet's credential may do that. A pod on one old node, its *peer*, tries the way back.
//! UDP is not answered by an overlay's own socket, so a datagram counts when the other side has
//! seen it come in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::node_view::{Taint, TaintEffect};

/// Annotation of a canary's Node with its [`Report`].
pub const REPORT: &str = "zcp.io/reachability";
/// Label of the pod on the peer; its value is the canary's node id.
pub const PROBE_LABEL: &str = "zcp.io/canary-probe";
/// The container's environment that says what the pod tries, as JSON of [`Targets`].
pub const PROBE_ENV: &str = "ZCP_PROBE";
/// Port of every kubelet.
pub const KUBELET: PortSpec = PortSpec { protocol: Protocol::Tcp, port: 10250 };
/// For how long a result is believed.
pub const VALIDITY: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Keeps the tenant's pods off a canary, from its registration on.
pub fn taint() -> Taint {
    Taint {
        key: "zcp.io/canary".to_owned(),
        value: Some("true".to_owned()),
        effect: TaintEffect::NoSchedule,
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of a node, written like `udp/8472`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// Of which protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// The text is no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a port is written like tcp/10250 or udp/8472")]
pub struct NotAPort;

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.port)
    }
}

impl FromStr for PortSpec {
    type Err = NotAPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, port) = text.split_once('/').ok_or(NotAPort)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(NotAPort),
        };
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(NotAPort)?;
        Ok(Self { protocol, port })
    }
}

impl Serialize for PortSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for PortSpec {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^(tcp|udp)/[0-9]{1,5}$"))
            .examples(["udp/8472"])
            .into()
    }
}

impl ToSchema for PortSpec {}

/// What one side tries. A canary gets it as `/etc/zcp/probe.json`, the pod on the peer in its
/// environment; what is empty is not tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    /// The address to speak from.
    pub from: String,
    /// The address of the other side.
    pub peer: String,
    /// Ports of the other side.
    pub ports: Vec<PortSpec>,
    /// `address:port` of the cluster's API.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api: String,
    /// URL of the registry that images come from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registry: String,
    /// Names to be resolved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Time server; `local` asks the node whether its clock is in step with any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time: String,
}

/// What one side found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// How often it has tried, from 1; 0 of what is no report.
    pub round: u32,
    /// MTU of the link to the other side.
    pub mtu: u32,
    /// What was tried.
    pub checks: Vec<Check>,
    /// Largest datagram (IP header included, not fragmented) that came in from the other side.
    pub heard: BTreeMap<String, u32>,
}

/// Something that was tried: `api`, `registry`, `dns`, `ntp`, `download`, or a TCP port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it worked.
    pub ok: bool,
    /// What happened, in the words of whoever tried.
    pub detail: String,
}

/// Longest annotation that is read: a report is under 4 KiB.
const REPORT_MAX: usize = 16 * 1024;
/// Longest detail that is kept.
const DETAIL_MAX: usize = 200;

impl Report {
    /// Reads a report. A node's owner can write anything there, so it is bounded and may be absent.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > REPORT_MAX {
            return None;
        }
        let mut report: Self = serde_json::from_str(text).ok()?;
        if report.round == 0 {
            return None;
        }
        report.checks.truncate(50);
        for check in &mut report.checks {
            check.detail = check.detail.chars().filter(|c| !c.is_control()).collect();
            check.detail = check.detail.chars().take(DETAIL_MAX).collect();
        }
        Some(report)
    }

    /// The last report that a console shows, from before its server joined.
    pub fn on_console(console: &str) -> Option<Self> {
        let found = console.lines().rev().filter_map(|line| line.split_once("zcp: probe: "));
        found.map(|(_, text)| text).find_map(Self::read)
    }

    /// What was found about one thing.
    pub fn check(&self, what: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.what == what)
    }

    /// The largest datagram that came in on a port.
    pub fn heard(&self, port: PortSpec) -> Option<u32> {
        self.heard.get(&port.to_string()).copied()
    }
}

/// How a canary ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It joined and told what it reaches.
    Reported,
    /// It did not come as far as that.
    CannotJoin,
    /// Nobody wants to know any more.
    GivenUp,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Reported, Self::CannotJoin, Self::GivenUp];

    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::CannotJoin => "cannot_join",
            Self::GivenUp => "given_up",
        }
    }
}

/// Longest console that is kept.
const CONSOLE_MAX: usize = 16 * 1024;
/// Longest line of it: a canary's own report fits.
const LINE_MAX: usize = 4000;

/// The end of a console log, without what looks like a secret: bootstrap tokens, bearer tokens,
/// keys, and values that are called a password, secret or token.
pub fn keep_console(log: &str) -> String {
    let mut kept = Vec::new();
    let mut in_key = false;
    for line in log.lines() {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            in_key = true;
            kept.push("*** (a private key)".to_owned());
        }
        if !in_key {
            kept.push(redact(line));
        }
        if line.contains("-----END") {
            in_key = false;
        }
    }
    let mut from = kept.len();
    let mut size = 0;
    while from > 0 && size + kept[from - 1].len() < CONSOLE_MAX {
        from -= 1;
        size += kept[from].len() + 1;
    }
    kept[from..].join("\n")
}

/// A line with its secrets covered, bounded, without control characters.
fn redact(line: &str) -> String {
    let line: String =
        line.chars().filter(|c| *c == '\t' || !c.is_control()).take(LINE_MAX).collect();
    let mut words = Vec::new();
    let mut hides_next = false;
    for word in line.split(' ') {
        let (name, value) = match word.split_once(['=', ':']) {
            Some((name, value)) => (name, value),
            None => (word, ""),
        };
        let is_named = is_secret_name(name);
        let covered = if hides_next || is_token(word) {
            "***".to_owned()
        } else if is_named && !value.is_empty() {
            format!("{name}=***")
        } else {
            word.to_owned()
        };
        let is_bearer = word.eq_ignore_ascii_case("bearer");
        hides_next = is_bearer || (is_named && value.is_empty() && !word.is_empty());
        words.push(covered);
    }
    words.join(" ")
}

/// Whether a word is called like a secret: `--token`, `"password"`, `client_secret`.
fn is_secret_name(word: &str) -> bool {
    let word: String = word.chars().filter(|c| c.is_alphanumeric()).collect();
    let word = word.to_lowercase();
    ["password", "passwd", "secret", "token", "authorization"].iter().any(|end| word.ends_with(end))
}

/// Whether a bootstrap token or a JSON web token is in a word.
fn is_token(word: &str) -> bool {
    let part = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    word.split(part).any(|piece| {
        piece.parse::<super::bootstrap_token::BootstrapToken>().is_ok()
            || (piece.starts_with("eyJ") && piece.len() > 40)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_as_it_is_read() {
        for text in ["tcp/10250", "udp/8472"] {
            assert_eq!(text.parse::<PortSpec>().map(|port| port.to_string()).as_deref(), Ok(text));
        }
        for text in ["10250", "tcp/0", "icmp/1", "udp/70000", "tcp/ 1", ""] {
            assert!(text.parse::<PortSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_console_is_kept_without_its_secrets() {
        let log = "boot\n\
            kubeadm join 10.0.0.1:6443 --token abcdef.0123456789abcdef --discovery x\n\
            Authorization: Bearer s3cr3t-thing\n\
            password=hunter2 user=kaas\n\
            \"token\":\"eyJhbGciOiJSUzI1NiIsImtpZCI6IjEyMzQ1Njc4OTAifQ.eyJpc3Mi\"\n\
            -----BEGIN EC PRIVATE KEY-----\nMHcCAQEEI\n-----END EC PRIVATE KEY-----\n\
            zcp: failed: kubeadm join: dial tcp 10.10.0.9:6443: i/o timeout\u{1b}[0m";
        let kept = keep_console(log);
        for secret in ["0123456789abcdef", "s3cr3t", "hunter2", "eyJ", "MHcC", "\u{1b}"] {
            assert!(!kept.contains(secret), "{secret} in\n{kept}");
        }
        for fact in ["boot", "user=kaas", "dial tcp 10.10.0.9:6443: i/o timeout", "--discovery x"] {
            assert!(kept.contains(fact), "{fact} not in\n{kept}");
        }
    }

    #[test]
    fn only_the_end_of_a_console_is_kept() {
        let lines: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
        let log = lines.join("\n");
        let kept = keep_console(&log);
        assert!(kept.len() <= CONSOLE_MAX && kept.ends_with("line 4999"), "{}", kept.len());
        assert_eq!(keep_console(&"x".repeat(5000)).len(), LINE_MAX);
    }

    #[test]
    fn a_report_is_found_on_a_console_and_never_trusted() {
        let text =
            r#"{"round":1,"mtu":1450,"checks":[{"what":"api","ok":false,"detail":"no\u0007"}]}"#;
        let console = format!("x\nzcp: probe: {{broken\nzcp: probe: {text}\nzcp: failed: y");
        let report = Report::on_console(&console).expect("a report");
        assert_eq!(report.check("api").map(|check| check.detail.as_str()), Some("no"));
        assert_eq!(Report::read(&" ".repeat(REPORT_MAX + 1)), None);
        assert_eq!(Report::read("[]"), None);
    }
}
