//! The OpenStack faces of a simulated cloud: one router with the services under path prefixes.
//!
//! `/identity/v3`, `/compute/v2.1`, `/network/v2.0`, `/image/v2`, `/placement`. Every request moves
//! the world to the present, is counted, meets the faults that were ordered, and is then carried
//! out at once under the world's lock, so requests never see half of each other.

mod ask;
mod reply;

pub mod glance;
pub mod keystone;
pub mod neutron;
pub mod nova;
pub mod placement;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use self::ask::{Asked, Cx};
use self::reply::{Refusal, Reply, Service};
use super::cloud::Cloud;
use super::faults::{Effect, Power};
use super::world::World;

/// One cloud of a world, as its router sees it.
#[derive(Debug, Clone)]
struct Face {
    world: Arc<World>,
    cloud: Arc<str>,
}

/// The API of one cloud of `world`.
pub fn router(world: Arc<World>, cloud: &str) -> Router {
    Router::new().fallback(answer).with_state(Face { world, cloud: cloud.into() })
}

/// How a request ends.
enum Ending {
    Answer(Reply),
    Cut,
    Silent,
}

async fn answer(State(face): State<Face>, request: Request) -> Response {
    let Some(asked) = Asked::read(request).await else { return cut() };
    let decided = face.world.with_cloud(&face.cloud, |cloud, now| {
        let latency = cloud.faults.latency_ms;
        let (ending, late) = decide(cloud, &asked, now);
        (ending, Duration::from_millis(latency + late))
    });
    let Some((ending, wait)) = decided else { return cut() };
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    match ending {
        Ending::Answer(reply) => reply.into_response(),
        Ending::Cut => cut(),
        Ending::Silent => std::future::pending().await,
    }
}

/// An answer whose body breaks off: to a client it is a connection that was reset.
pub(in crate::sim) fn cut() -> Response {
    let broken = futures::stream::once(async {
        Err::<bytes::Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    let mut response = Body::from_stream(broken).into_response();
    response.extensions_mut().insert(CutConnection);
    response
}

/// Marks an answer instead of which a served connection is closed.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) struct CutConnection;

/// What to answer, and how much later in milliseconds.
fn decide(cloud: &mut Cloud, asked: &Asked, now: Timestamp) -> (Ending, u64) {
    let segments = asked.segments();
    let Some((service, path)) = segments
        .split_first()
        .and_then(|(first, rest)| Service::of_prefix(first).map(|service| (service, rest)))
    else {
        return (Ending::Answer(Reply::not_here()), 0);
    };
    let operation = service.operation(&asked.method, path);
    cloud.counters.count(service.name(), operation, now);
    match cloud.faults.power {
        Power::Up => {}
        Power::Refusing => return (Ending::Cut, 0),
        Power::Silent => return (Ending::Silent, 0),
    }
    let effect = cloud.faults.of_call(service.name(), operation, &mut cloud.dice);
    let Some(effect) = effect else {
        return (Ending::Answer(carry_out(cloud, service, asked, now)), 0);
    };
    cloud.counters.count_spoiled(service.name(), operation);
    match effect {
        Effect::Cut => (Ending::Cut, 0),
        Effect::Silent => (Ending::Silent, 0),
        Effect::Answer { status, retry_after, message } => {
            let reply = service.refuse(Refusal::ordered(status, message), &asked.request_id);
            (Ending::Answer(reply.with_retry_after(retry_after)), 0)
        }
        Effect::DoneButAnswered { status } => {
            let _done = carry_out(cloud, service, asked, now);
            (Ending::Answer(Reply::of_proxy(status)), 0)
        }
        Effect::DoneButCut => {
            let _done = carry_out(cloud, service, asked, now);
            (Ending::Cut, 0)
        }
        Effect::Late { ms } => (Ending::Answer(carry_out(cloud, service, asked, now)), ms),
        Effect::Empty => (Ending::Answer(carry_out(cloud, service, asked, now).without_rows()), 0),
    }
}

fn carry_out(cloud: &mut Cloud, service: Service, asked: &Asked, now: Timestamp) -> Reply {
    let segments = asked.segments();
    let mut cx = Cx::new(cloud, asked, &segments[1..], now);
    let done = match service {
        Service::Keystone => keystone::answer(&mut cx),
        Service::Nova => nova::answer(&mut cx),
        Service::Neutron => neutron::answer(&mut cx),
        Service::Glance => glance::answer(&mut cx),
        Service::Placement => placement::answer(&mut cx),
    };
    done.unwrap_or_else(|refusal| service.refuse(refusal, &asked.request_id))
        .with_request_id(service, &asked.request_id)
}
