//! Migrations as objects of a management cluster.

use crate::support::Result;

const CHECKED_IN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crd/clustermigrations.zcp.io.yaml");

#[test]
fn the_checked_in_definition_is_that_of_the_code() -> Result {
    let now = zcp::crd::manifest()?;
    let then = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    if now != then {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/clustermigrations.zcp.io.yaml");
        std::fs::write(path, &now)?;
        let at = now.lines().zip(then.lines()).position(|(a, b)| a != b);
        panic!(
            "the definition in deploy/crd is not that of the code (first other line: {at:?}); if \
             the change is wanted: zcpd crd > {CHECKED_IN} (the same is in {path})"
        );
    }
    Ok(())
}
