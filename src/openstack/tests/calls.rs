//! Lists page by page, calls that get no answer, clouds that ask us to wait.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Cloud, client_for, client_over, clock, cloud_router};
use crate::domain::outside::OutsideKind;
use crate::openstack::neutron::{AddressPair, PortFilter};
use crate::openstack::nova::{CreateServer, MAX_USER_DATA, ServerFilter};
use crate::openstack::{CloudClient, Transport, TransportError};

type Parameters = Query<BTreeMap<String, String>>;

fn new_server() -> CreateServer {
    CreateServer {
        name: "n1".to_owned(),
        flavor_id: "f".to_owned(),
        image_id: "i".to_owned(),
        port_id: "p".to_owned(),
        user_data: Vec::new(),
        metadata: BTreeMap::new(),
        tags: Vec::new(),
        group_id: None,
        zone: None,
        key: None,
    }
}

/// Seven servers, two a page, with links that point to a host behind a proxy.
async fn seven_servers(Query(asked): Parameters) -> Json<Value> {
    let first = asked.get("marker").map_or(0, |marker| marker.parse::<usize>().expect("ours") + 1);
    let rows: Vec<Value> = (first..7.min(first + 2))
        .map(|n| json!({"id": n.to_string(), "name": "n", "status": "ACTIVE", "tags": ["t"]}))
        .collect();
    let mut page = json!({"servers": rows});
    if first + 2 < 7 {
        let href = format!("http://10.0.0.1:8774/v2.1/servers/detail?tags=t&marker={}", first + 1);
        page["servers_links"] = json!([{"rel": "next", "href": href}]);
    }
    assert_eq!(asked.get("tags").map(String::as_str), Some("t"), "the filter is kept");
    Json(page)
}

fn by_tag() -> ServerFilter {
    ServerFilter { tags: vec!["t".to_owned()], ..ServerFilter::default() }
}

#[tokio::test]
async fn all_pages_are_read() {
    let router = Router::new().route("/compute/v2.1/servers/detail", get(seven_servers));
    let (client, _) = client_for(router);
    let list = client.list_servers(&by_tag()).await.expect("a list");
    let ids: Vec<&str> = list.servers.iter().map(|server| server.id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(list.is_complete);
}

#[tokio::test]
async fn f18_a_page_that_fails_fails_the_list() {
    let pages = |Query(asked): Parameters| async move {
        if asked.get("marker").is_some_and(|marker| marker == "3") {
            return (StatusCode::INTERNAL_SERVER_ERROR, "boom").into_response();
        }
        seven_servers(Query(asked)).await.into_response()
    };
    let (client, _) = client_for(Router::new().route("/compute/v2.1/servers/detail", get(pages)));
    let error = client.list_servers(&by_tag()).await.expect_err("page three fails");
    assert_eq!(error.kind, OutsideKind::Transient);
}

#[tokio::test]
async fn a_list_that_leads_back_to_itself_ends() {
    let page = || async {
        let links = json!([{"rel": "next", "href": "/servers/detail?marker=1"}]);
        Json(json!({"servers": [{"id": "1", "name": "n"}], "servers_links": links}))
    };
    let (client, _) = client_for(Router::new().route("/compute/v2.1/servers/detail", get(page)));
    let error = client.list_servers(&ServerFilter::default()).await.expect_err("a loop");
    assert_eq!(error.kind, OutsideKind::Invalid);
}

#[tokio::test]
async fn a_full_page_without_a_link_is_followed_from_its_last_row() {
    let ports = |Query(asked): Parameters| async move {
        assert_eq!(asked["limit"], "500");
        let first = asked.get("marker").map_or(0, |id| id.parse::<usize>().expect("ours") + 1);
        let row = |n: usize| json!({"id": n.to_string(), "network_id": "x", "name": "n"});
        Json(json!({"ports": (first..1001.min(first + 500)).map(row).collect::<Vec<_>>()}))
    };
    let (client, _) = client_for(Router::new().route("/network/v2.0/ports", get(ports)));
    let ports = client.list_ports(&PortFilter::default()).await.expect("a list");
    assert_eq!(ports.len(), 1001);
}

#[tokio::test]
async fn rows_that_do_not_match_are_dropped() {
    let rows = || async {
        let row = |id: &str, name: &str| json!({"id": id, "name": name, "status": "ACTIVE"});
        let minimal = json!({"id": "down", "status": "UNKNOWN"});
        Json(json!({"servers": [row("a", "np1-1"), row("b", "np1-10"), minimal]}))
    };
    let (client, _) = client_for(Router::new().route("/compute/v2.1/servers/detail", get(rows)));
    let found = client.find_servers("np1-1").await.expect("a list");
    assert_eq!(found.iter().map(|server| server.id.as_str()).collect::<Vec<_>>(), ["a"]);
    let all = client.list_servers(&ServerFilter::default()).await.expect("a list");
    assert!(!all.is_complete, "a cell is down");
}

/// A transport over a cloud that does the request and then loses the answer, or never gets it.
fn lossy(more: Router<Arc<Cloud>>, error: TransportError) -> (CloudClient, Arc<AtomicU32>) {
    let cloud = Arc::new(Cloud::default());
    let inner = Transport::in_process(cloud_router(&cloud, more));
    let sent = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&sent);
    let transport = Transport::new(tower::service_fn(move |request: http::Request<Bytes>| {
        let (inner, sent, error) = (inner.clone(), Arc::clone(&counter), error.clone());
        async move {
            if !request.uri().path().contains("servers") {
                return inner.send(request).await;
            }
            sent.fetch_add(1, Ordering::SeqCst);
            Err(error)
        }
    }));
    (client_over(transport, &clock()), sent)
}

#[tokio::test]
async fn a_create_that_was_sent_and_not_answered_is_unclear_and_not_repeated() {
    let (client, sent) = lossy(Router::new(), TransportError::unclear("reset"));
    let error = client.create_server(&new_server()).await.expect_err("no answer");
    assert_eq!((error.kind, sent.load(Ordering::SeqCst)), (OutsideKind::Unclear, 1));
}

#[tokio::test]
async fn a_create_that_never_left_is_not_unclear() {
    let (client, sent) = lossy(Router::new(), TransportError::not_sent("refused"));
    let error = client.create_server(&new_server()).await.expect_err("no connection");
    assert_eq!((error.kind, sent.load(Ordering::SeqCst)), (OutsideKind::Transient, 1));
}

#[tokio::test]
async fn reads_and_deletes_are_repeated_a_little() {
    let (client, sent) = lossy(Router::new(), TransportError::unclear("reset"));
    assert_eq!(client.server("s").await.expect_err("lost").kind, OutsideKind::Transient);
    assert_eq!(sent.swap(0, Ordering::SeqCst), 3);
    assert_eq!(client.delete_server("s").await.expect_err("lost").kind, OutsideKind::Transient);
    assert_eq!(sent.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_hangs() {
    let hang = Router::new()
        .route("/compute/v2.1/servers", post(pending::<Response>))
        .route("/compute/v2.1/servers/{id}", delete(|_: Path<String>| pending::<Response>()));
    let (client, _) = client_for(hang);
    let client = client.with_deadline(Duration::from_millis(30));
    let error = client.create_server(&new_server()).await.expect_err("it hangs");
    assert_eq!(error.kind, OutsideKind::Unclear);
    let error = client.delete_server("s").await.expect_err("it hangs");
    assert_eq!(error.kind, OutsideKind::Transient);
}

#[tokio::test]
async fn f17_retry_after_stops_the_whole_cloud_for_its_time() {
    let overloaded = |State(cloud): State<Arc<Cloud>>| async move {
        if cloud.served.fetch_add(1, Ordering::SeqCst) == 0 {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "30")], "").into_response();
        }
        Json(json!({"availabilityZoneInfo": []})).into_response()
    };
    let router = Router::new().route("/compute/v2.1/os-availability-zone", get(overloaded));
    let cloud = Arc::new(Cloud::default());
    let clock = clock();
    let client = client_over(Transport::in_process(cloud_router(&cloud, router)), &clock);
    let error = client.list_zones().await.expect_err("overloaded");
    assert_eq!(error.kind, OutsideKind::Busy);
    assert_eq!(error.retry_after, Some(Duration::from_secs(30)));
    clock.advance(SignedDuration::from_secs(20));
    let error = client.list_images().await.expect_err("another call must wait, too");
    assert_eq!((error.kind, error.status), (OutsideKind::Busy, None));
    assert_eq!(error.retry_after, Some(Duration::from_secs(10)));
    clock.advance(SignedDuration::from_secs(10));
    client.list_zones().await.expect("the time is over");
    assert_eq!(cloud.served(), 2);
}

#[tokio::test]
async fn user_data_that_nova_would_refuse_is_not_sent() {
    let (client, sent) = lossy(Router::new(), TransportError::unclear("never"));
    let new = CreateServer { user_data: vec![b'x'; MAX_USER_DATA + 1], ..new_server() };
    let error = client.create_server(&new).await.expect_err("too long");
    assert_eq!((error.kind, sent.load(Ordering::SeqCst)), (OutsideKind::Invalid, 0));
    assert!(error.message.contains("49152"), "{error}");
}

#[tokio::test]
async fn a_create_names_its_versions_and_its_request() {
    let seen: Arc<Mutex<Option<(HeaderMap, Value)>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let create = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        *kept.lock().expect("not poisoned") = Some((headers, body));
        (StatusCode::ACCEPTED, Json(json!({"server": {"id": "s1"}})))
    };
    let (client, _) = client_for(Router::new().route("/compute/v2.1/servers", post(create)));
    let new = CreateServer {
        tags: vec!["zcp:1".to_owned()],
        group_id: Some("g1".to_owned()),
        user_data: b"#cloud-config\n".to_vec(),
        ..new_server()
    };
    assert_eq!(client.create_server(&new).await.expect("made"), "s1");
    let (headers, body) = seen.lock().expect("not poisoned").take().expect("it was called");
    assert_eq!(headers["openstack-api-version"], "compute 2.52");
    assert_eq!(headers["x-openstack-nova-api-version"], "2.52");
    let id = headers["x-openstack-request-id"].to_str().expect("text");
    assert!(id.starts_with("req-") && id.len() == 40, "{id}");
    assert_eq!(body["server"]["networks"], json!([{"port": "p"}]));
    assert_eq!(body["server"]["user_data"], "I2Nsb3VkLWNvbmZpZwo=");
    assert_eq!(body["server"]["tags"], json!(["zcp:1"]));
    assert_eq!(body["os:scheduler_hints"], json!({"group": "g1"}));
}

#[tokio::test]
async fn a_port_changed_by_somebody_else_is_read_again() {
    let revision = Arc::new(AtomicU32::new(7));
    let (shown, changed) = (Arc::clone(&revision), Arc::clone(&revision));
    let port = |revision: u32, pairs: Value| {
        json!({"port": {"id": "p", "network_id": "x", "revision_number": revision,
            "allowed_address_pairs": pairs}})
    };
    let show = move || async move {
        // Somebody else writes between our read and our write, the first time.
        let read = shown.fetch_max(8, Ordering::SeqCst);
        Json(port(read, json!([])))
    };
    let change = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let current = format!("revision_number={}", changed.load(Ordering::SeqCst));
        if headers["if-match"] != current.as_str() {
            let error = json!({"NeutronError": {"type": "RevisionNumberConstraintFailed",
                "message": "Constrained to 7, but current revision is 8", "detail": ""}});
            return (StatusCode::PRECONDITION_FAILED, Json(error)).into_response();
        }
        Json(port(9, body["port"]["allowed_address_pairs"].clone())).into_response()
    };
    let extensions = || async { Json(json!({"extensions": [{"alias": "revision-if-match"}]})) };
    let router = Router::new()
        .route("/network/v2.0/extensions", get(extensions))
        .route("/network/v2.0/ports/{id}", get(show).put(change));
    let (client, _) = client_for(router);
    let wanted = AddressPair::new("10.244.0.0/16");
    let add = |_: &[AddressPair]| vec![AddressPair::new("10.244.0.0/16")];
    let port = client.update_port_address_pairs("p", add).await.expect("the second try");
    assert_eq!(port.allowed_address_pairs, [wanted]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_names_the_place() {
    let rows = || async { Json(json!({"servers": [{"id": "a"}, {"id": 7}]})) };
    let (client, _) = client_for(Router::new().route("/compute/v2.1/servers/detail", get(rows)));
    let error = client.list_servers(&ServerFilter::default()).await.expect_err("7 is no id");
    assert_eq!(error.kind, OutsideKind::Invalid);
    assert!(error.message.contains("servers[1].id"), "{error}");
}
