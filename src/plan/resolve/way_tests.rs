//! What names mean on another cloud.

use serde_json::json;

use super::{Names, Side, Way};
use crate::domain::cloud::CloudSpec;
use crate::domain::cloud_pair::CloudPairSpec;
use crate::domain::inventory::Inventory;
use crate::domain::offering::OfferingSpec;

fn spec(prefix: &str) -> CloudSpec {
    serde_json::from_value(json!({
        "auth_url": "https://k.example/v3", "region": "r",
        "defaults": {"network": format!("{prefix}-net"), "security_group": format!("{prefix}-sg"),
                     "flavor": format!("{prefix}.small"), "zone": format!("{prefix}-1")},
    }))
    .unwrap()
}

fn inventory(prefix: &str) -> Inventory {
    let flavor = |id: u32, size: &str, vcpus: u32| {
        json!({"id": format!("{prefix}{id}"), "name": format!("{prefix}.{size}"), "vcpus": vcpus,
               "ram_mb": 4096, "disk_gb": 20, "extra_specs": {}})
    };
    let network = |name: &str| {
        json!({"id": format!("{name}-id"), "name": name, "is_external": false, "subnets": [
            {"id": "s", "name": "", "cidr": "10.0.0.0/24", "ip_version": 4, "pools": []}]})
    };
    let image = |name: &str| {
        json!({"id": format!("{name}-id"), "name": name, "status": "active",
               "kubernetes_version": "1.36.2", "min_disk_gb": 0, "min_ram_mb": 0,
               "properties": {}})
    };
    serde_json::from_value(json!({
        "flavors": [flavor(1, "small", 2), flavor(2, "large", 8), flavor(3, "huge", 16),
            {"id": format!("{prefix}9"), "name": "same", "vcpus": 1, "ram_mb": 1, "disk_gb": 1,
             "extra_specs": {}}],
        "images": [image(&format!("{prefix}-a")), image(&format!("{prefix}-b"))],
        "networks": [network(&format!("{prefix}-net")), network(&format!("{prefix}-dmz")),
            network("twin"), network("twin")],
        "security_groups": [{"id": "g1", "name": format!("{prefix}-sg")},
            {"id": "g2", "name": format!("{prefix}-open")}],
        "zones": [{"name": format!("{prefix}-1"), "is_available": true},
            {"name": format!("{prefix}-2"), "is_available": false}],
        "quotas": {"instances": {}, "cores": {}, "ram_mb": {}, "server_groups": {},
            "server_group_members": {}, "ports": {}},
        "versions": {},
    }))
    .unwrap()
}

fn offering() -> OfferingSpec {
    serde_json::from_value(json!({"kubernetes_version": "1.36.2",
        "addon_manager_version": "1.36.0", "cni_manifest": "x"}))
    .unwrap()
}

fn pair() -> CloudPairSpec {
    serde_json::from_value(json!({
        "flavors": {"east.large": "west.large"}, "networks": {"east-net": "west-dmz"},
        "security_groups": {"east-sg": "west-open"}, "zones": {"east-2": "west-2"},
        "images": {"east-b": "west-a"},
    }))
    .unwrap()
}

/// Runs `test` on the way from east to west.
fn on_the_way<T>(pair: Option<&CloudPairSpec>, test: impl FnOnce(Way<'_>) -> T) -> T {
    let (east, west) = ((spec("east"), inventory("east")), (spec("west"), inventory("west")));
    test(Way {
        source: Side { name: "east", spec: &east.0, inventory: &east.1 },
        target: Side { name: "west", spec: &west.0, inventory: &west.1 },
        pair,
    })
}

#[test]
fn without_a_pair_defaults_become_defaults_and_names_stay() {
    on_the_way(None, |way| {
        for (wanted, found) in
            [("east.small", "west.small"), ("east1", "west.small"), ("same", "same")]
        {
            assert_eq!(way.flavor(wanted).unwrap().name, found, "{wanted}");
        }
        let place = way.place(Names { flavor: "same", ..Names::default() }, &offering()).unwrap();
        assert_eq!(place.zone.as_deref(), Some("west-1"));
        assert_eq!((place.network, place.security_group, place.image), (None, None, None));
        assert_eq!(way.network(None).unwrap().0.name, "west-net");
        assert_eq!(way.zone(Some("east-1")).unwrap().as_deref(), Some("west-1"), "the default");
    });
}

#[test]
fn what_nothing_maps_is_refused_with_its_path() {
    on_the_way(Some(&pair()), |way| {
        let names = Names {
            flavor: "east.huge",
            zone: Some("east-9"),
            network: Some("east-dmz"),
            security_group: Some("east-open"),
            image: None,
        };
        let errors = way.place(names, &offering()).unwrap_err();
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        let wanted =
            ["flavors.east.huge", "zones.east-9", "networks.east-dmz", "security_groups.east-open"];
        assert_eq!(fields, wanted);
        let said = &errors.0[0].problem;
        assert!(said.contains("east -> west") && said.contains("west.huge"), "{said}");
    });
}

#[test]
fn a_pair_decides_by_name_and_by_id() {
    on_the_way(Some(&pair()), |way| {
        assert_eq!(way.flavor("east.large").unwrap().name, "west.large");
        assert_eq!(way.flavor("east2").unwrap().name, "west.large", "by the id of the same");
        let names = Names { flavor: "east2", zone: Some("east-2"), ..Names::default() };
        let place = way.place(names, &offering()).unwrap();
        assert_eq!(place.zone.as_deref(), Some("west-2"));
        assert_eq!(place.network.as_deref(), Some("west-dmz"));
        assert_eq!(place.security_group.as_deref(), Some("west-open"));
        assert_eq!(place.image.as_deref(), Some("west-a"), "the source's newest is east-b");
        let mut offering = offering();
        offering.images.insert("west".into(), "west-b".into());
        assert_eq!(way.image(None, &offering).unwrap().0.name, "west-b", "the offering's word");
    });
}

#[test]
fn a_check_names_what_is_not_there_and_what_is_smaller() {
    let good = pair();
    on_the_way(Some(&good), |way| {
        let check = way.check();
        assert_eq!(check.problems, []);
        let warned: Vec<&str> = check.warnings.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(warned, ["zones.east-2"], "it takes no servers now");
    });
    let mut bad = good;
    bad.flavors.insert("east.huge".into(), "west.small".into());
    bad.flavors.insert("m1.large".into(), "west.large".into());
    bad.networks.insert("east-dmz".into(), "twin".into());
    bad.images.insert("east-a".into(), "west-9".into());
    on_the_way(Some(&bad), |way| {
        let check = way.check();
        let text: Vec<String> =
            check.problems.iter().map(|one| format!("{}: {}", one.field, one.problem)).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].starts_with("flavors.m1.large: cloud east has no such name"), "{text:?}");
        assert!(text[1].starts_with("networks.east-dmz: on cloud west: 2 networks"), "{text:?}");
        assert!(text[2].starts_with("images.east-a: on cloud west: no image west-9"), "{text:?}");
        let warning = &check.warnings[0];
        assert_eq!(warning.field, "flavors.east.huge");
        assert_eq!(warning.problem, "west.small is smaller: 2 vCPUs instead of 16");
    });
}
