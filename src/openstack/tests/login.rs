//! One login for all, again after a 401, and what is said when it is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::join_all;
use jiff::SignedDuration;
use serde_json::json;

use super::{Cloud, auth, client_for, client_over, clock, cloud_router};
use crate::domain::outside::OutsideKind;
use crate::openstack::{CloudClient, Transport};

fn zones() -> Router<Arc<Cloud>> {
    Router::new().route("/compute/v2.1/os-availability-zone", get(list_zones))
}

async fn list_zones(State(cloud): State<Arc<Cloud>>, headers: HeaderMap) -> Response {
    let is_admitted = cloud.admits(&headers);
    // So that all calls are under way at once.
    tokio::task::yield_now().await;
    if is_admitted {
        Json(json!({"availabilityZoneInfo": []})).into_response()
    } else {
        let body = json!({"error": {"code": 401, "message": "No", "title": "Unauthorized"}});
        (StatusCode::UNAUTHORIZED, Json(body)).into_response()
    }
}

async fn refuse_login(State(cloud): State<Arc<Cloud>>) -> Response {
    tokio::task::yield_now().await;
    cloud.logins.fetch_add(1, Ordering::SeqCst);
    let body = json!({"error": {"code": 401, "message": "The request you have made requires..."}});
    (StatusCode::UNAUTHORIZED, Json(body)).into_response()
}

/// Calls under way at once.
const CALLS: u32 = 200;

async fn list_many(client: &CloudClient) -> Vec<OutsideKind> {
    let results = join_all((0..CALLS).map(|_| client.list_zones())).await;
    results.into_iter().filter_map(Result::err).map(|error| error.kind).collect()
}

#[tokio::test]
async fn many_calls_at_once_make_one_login() {
    let (client, cloud) = client_for(zones());
    assert_eq!(list_many(&client).await, []);
    assert_eq!((cloud.logins(), cloud.served()), (1, CALLS));
}

#[tokio::test]
async fn f15_two_hundred_calls_with_a_revoked_token_make_one_more_login() {
    let (client, cloud) = client_for(zones());
    client.list_zones().await.expect("the first call");
    cloud.logins.fetch_add(1, Ordering::SeqCst);
    assert_eq!(list_many(&client).await, []);
    assert_eq!(cloud.logins(), 3, "one at first, one by somebody else, one after the 401");
    assert_eq!(cloud.stale.load(Ordering::SeqCst), CALLS);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let cloud = Arc::new(Cloud::default());
    let clock = clock();
    let client = client_over(Transport::in_process(cloud_router(&cloud, zones())), &clock);
    client.list_zones().await.expect("the first call");
    clock.advance(SignedDuration::from_mins(57));
    client.list_zones().await.expect("the token is still good");
    assert_eq!(cloud.logins(), 1);
    clock.advance(SignedDuration::from_secs(61));
    client.list_zones().await.expect("with a new token");
    assert_eq!((cloud.logins(), cloud.stale.load(Ordering::SeqCst)), (2, 0));
}

#[tokio::test]
async fn f15_a_second_refusal_is_final() {
    let refuse = |State(cloud): State<Arc<Cloud>>| async move {
        cloud.stale.fetch_add(1, Ordering::SeqCst);
        (StatusCode::UNAUTHORIZED, "").into_response()
    };
    let (client, cloud) =
        client_for(Router::new().route("/compute/v2.1/os-availability-zone", get(refuse)));
    let error = client.list_zones().await.expect_err("refused twice");
    assert_eq!(error.kind, OutsideKind::Denied);
    assert_eq!((cloud.logins(), cloud.stale.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_wrong_secret_is_tried_once_by_all_and_again_later() {
    let cloud = Arc::new(Cloud::default());
    let router =
        Router::new().route("/v3/auth/tokens", post(refuse_login)).with_state(Arc::clone(&cloud));
    let clock = clock();
    let client = client_over(Transport::in_process(router), &clock);
    assert_eq!(list_many(&client).await, vec![OutsideKind::Denied; CALLS as usize]);
    assert_eq!(cloud.logins(), 1);
    let error = client.list_zones().await.expect_err("it is still wrong");
    assert!(error.message.contains("application credential 'ac1'"), "{error}");
    assert_eq!(cloud.logins(), 1, "not so soon");
    clock.advance(SignedDuration::from_secs(11));
    assert_eq!(list_many(&client).await.len(), CALLS as usize);
    assert_eq!(cloud.logins(), 2);
    client.check().await.expect_err("a check always asks");
    assert_eq!(cloud.logins(), 3);
}

#[tokio::test]
async fn a_wrong_address_is_never_taken_for_an_absent_server() {
    let router = Router::new().fallback(|| async {
        let body = json!({"error": {"code": 404, "message": "Not here"}});
        (StatusCode::NOT_FOUND, Json(body))
    });
    let client = client_over(Transport::in_process(router), &clock());
    let error = client.server("s1").await.expect_err("nothing is known of the server");
    assert_eq!(error.kind, OutsideKind::Invalid);
    assert!(error.message.contains("is not a Keystone v3 endpoint"), "{error}");
}

#[tokio::test]
async fn a_check_says_who_we_are() {
    let (client, cloud) = client_for(Router::new());
    let identity = client.check().await.expect("all services are there");
    assert_eq!((identity.project_name.as_str(), identity.roles.len()), ("clusters", 1));
    assert_eq!(identity.services.len(), 3);
    client.check().await.expect("again");
    assert_eq!(cloud.logins(), 2);
}

#[tokio::test]
async fn an_unknown_region_is_answered_with_those_that_exist() {
    let cloud = Arc::new(Cloud::default());
    let transport = Transport::in_process(cloud_router(&cloud, Router::new()));
    let known = client_over(transport, &clock());
    let wiring = known.shared.wiring.clone();
    let auth = crate::openstack::CloudAuth { region: "Two".to_owned(), ..auth("http://c.test") };
    let error = CloudClient::new("east", auth, wiring).check().await.expect_err("no such region");
    assert!(error.message.contains("regions of this cloud: One"), "{error}");
}
