//! The rules of a cloud's settings: all that can be known without the cloud.

use jiff::Timestamp;
use url::Url;

use crate::bootstrap::pki::expires_at;
use crate::domain::cloud::CloudSpec;
use crate::domain::field::FieldErrors;

/// Longest name that a field may hold; OpenStack's own are at most 255.
const TEXT_MAX: usize = 255;
/// Longest bundle of certificates.
const CA_MAX: usize = 256 * 1024;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// Checks a cloud's settings; `path` is where they stand in the request, with its dot.
pub fn check_spec(spec: &CloudSpec, path: &str, now: Timestamp) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let at = |field: &str| format!("{path}{field}");
    if let Some(problem) = url_problem(&spec.auth_url) {
        errors.push(at("auth_url"), problem);
    }
    if let Some(problem) = spec.api_proxy.as_deref().and_then(url_problem) {
        errors.push(at("api_proxy"), problem);
    }
    if let Some(problem) = spec.ca_pem.as_deref().and_then(|pem| ca_problem(pem, now)) {
        errors.push(at("ca_pem"), problem);
    }
    for (field, value) in texts(spec) {
        if value.is_empty() || value.len() > TEXT_MAX || value.chars().any(char::is_control) {
            let problem = format!("must be 1 to {TEXT_MAX} characters without control characters");
            errors.push(at(field), problem);
        }
    }
    for (field, value) in [
        ("limits.calls_per_second", spec.limits.calls_per_second),
        ("limits.builds_in_flight", spec.limits.builds_in_flight),
    ] {
        if !(1..=1000).contains(&value) {
            errors.push(at(field), "must be 1 to 1000");
        }
    }
    errors
}

fn texts(spec: &CloudSpec) -> Vec<(&'static str, &str)> {
    let defaults = &spec.defaults;
    let mut texts = vec![
        ("region", spec.region.as_str()),
        ("defaults.network", &defaults.network),
        ("defaults.security_group", &defaults.security_group),
        ("defaults.flavor", &defaults.flavor),
    ];
    let optional = [
        ("environment", &spec.environment),
        ("defaults.control_plane_flavor", &defaults.control_plane_flavor),
        ("defaults.zone", &defaults.zone),
        ("defaults.image", &defaults.image),
    ];
    texts.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))));
    texts
}

fn url_problem(text: &str) -> Option<&'static str> {
    const WRONG: &str = "must be an http or https URL with a host, such as \
                         https://keystone.example/v3";
    let Ok(url) = text.parse::<Url>() else { return Some(WRONG) };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Some(WRONG);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("must hold no name and password: they are part of the credential");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Some("must end with its path");
    }
    None
}

fn ca_problem(pem: &str, now: Timestamp) -> Option<String> {
    if pem.len() > CA_MAX {
        return Some("must be at most 256 KiB".to_owned());
    }
    let starts: Vec<usize> = pem.match_indices(BEGIN).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Some("must hold PEM certificates (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    for (n, start) in starts.iter().enumerate() {
        match expires_at(&pem[*start..]) {
            Err(error) => return Some(format!("certificate {}: {error}", n + 1)),
            Ok(end) if end <= now => {
                return Some(format!("certificate {} has expired at {end}", n + 1));
            }
            Ok(_) => {}
        }
    }
    None
}
