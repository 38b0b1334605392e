//! The probe that canaries run, as it is: real connections on this machine's own addresses.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;
use zcp::bootstrap::probe::PROBE;
use zcp::domain::canary::Report;

#[test]
fn the_probe_tells_open_ports_from_closed_ones_and_names_that_exist_from_others() {
    let bound = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let port_of = |one: &TcpListener| one.local_addr().expect("an address").port();
    let server = bound();
    let (open, closed) = (port_of(&server), port_of(&bound()));
    let targets = json!({
        "from": "127.0.0.1", "peer": "127.0.0.1",
        "ports": [format!("tcp/{open}"), format!("tcp/{closed}"), "udp/8472"],
        "api": format!("127.0.0.1:{open}"),
        "names": ["localhost", "no-such-name.invalid"],
    });
    let probe = ["-c", PROBE, "first", &targets.to_string()].map(str::to_owned);
    let ran = Command::new("python3").args(probe).output().expect("python3 is there");
    let said = String::from_utf8_lossy(&ran.stdout);
    let report = Report::read(said.trim()).unwrap_or_else(|| panic!("{said} {ran:?}"));
    let ok = |what: &str| report.check(what).unwrap_or_else(|| panic!("{what}: {said}")).ok;
    assert!(ok(&format!("tcp/{open}")) && ok("api") && ok("dns localhost"), "{said}");
    // Nobody listens there any more.
    assert!(!ok(&format!("tcp/{closed}")) && !ok("dns no-such-name.invalid"), "{said}");
}
