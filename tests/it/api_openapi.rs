//! The API document is part of the review: a change of the API shows as a change of a file.

use crate::support::Result;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/zcp.json");

#[test]
fn the_checked_in_document_is_that_of_the_code() -> Result {
    let now = format!("{}\n", zcp::http::openapi().to_pretty_json()?);
    let then = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    if now != then {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/zcp.json");
        std::fs::write(path, &now)?;
        let at = now.lines().zip(then.lines()).position(|(a, b)| a != b);
        panic!(
            "openapi/zcp.json is not that of the code (first other line: {at:?}); if the change \
             is wanted: zcpd openapi > openapi/zcp.json (the same is in {path})"
        );
    }
    Ok(())
}

#[test]
fn every_operation_has_an_id_a_tag_and_says_how_it_refuses() -> Result {
    let document: serde_json::Value = serde_json::from_str(&zcp::http::openapi().to_json()?)?;
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["tags"][0].is_string(), "{method} {path}");
            let refusal = &operation["responses"]["default"]["content"];
            assert!(refusal["application/problem+json"].is_object(), "{method} {path}");
        }
    }
    Ok(())
}
