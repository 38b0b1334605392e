//! Every route with its documentation, registered once, and the layers around them.
//!
//! From outside: request id (so that everything within can name it), trace, refusal bodies, panics
//! (below the bodies, so that a panic is a problem like any other), time limit, another try for what the
//! database broke off, body limit. The
//! stream of events has no time limit. Callers are known by an extractor, not by a layer: what a
//! handler does not ask for, it does not get.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, header};
use axum::middleware::from_fn;
use axum::routing::post;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use super::{Api, error, health, node, v1};
use crate::api::problem::{PROBLEM_JSON, Problem};
use crate::clock::SharedIds;

/// Largest body: a CNI manifest is the largest thing that anybody sends.
const BODY_MAX: usize = 1 << 20;
/// Beyond every limit of the database, so that its own refusal is seen first.
const TIME_LIMIT: Duration = Duration::from_secs(45);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "zcp",
        description = "Kubernetes as a service on private OpenStack clouds",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Bearer),
    security(("bearer" = [])),
    components(schemas(Problem)),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = scheme.description(Some("A token of POST /v1/tokens")).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

fn documented() -> (OpenApiRouter<Api>, OpenApiRouter<Api>) {
    let limited = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(v1::clouds::list, v1::clouds::create))
        .routes(routes!(v1::clouds::show, v1::clouds::change, v1::clouds::remove))
        .routes(routes!(v1::clouds::check))
        .routes(routes!(v1::cloud_pairs::list))
        .routes(routes!(v1::cloud_pairs::set, v1::cloud_pairs::show, v1::cloud_pairs::remove))
        .routes(routes!(v1::projects::list, v1::projects::create))
        .routes(routes!(v1::projects::show))
        .routes(routes!(v1::tokens::list, v1::tokens::create))
        .routes(routes!(v1::tokens::revoke))
        .routes(routes!(v1::offerings::list, v1::offerings::create))
        .routes(routes!(v1::offerings::show))
        .routes(routes!(v1::clusters::list, v1::clusters::create))
        .routes(routes!(v1::clusters::show, v1::clusters::delete))
        .routes(routes!(v1::clusters::change_pool))
        .routes(routes!(v1::clusters::list_nodes))
        .routes(routes!(v1::clusters::kubeconfig))
        .routes(routes!(v1::migrations::list_of_cluster, v1::migrations::create))
        .routes(routes!(v1::migrations::list))
        .routes(routes!(v1::migrations::show))
        .routes(routes!(v1::migrations::steer))
        .routes(routes!(v1::migrations::explain))
        .routes(routes!(v1::migrations::timeline))
        .routes(routes!(v1::preflights::create))
        .routes(routes!(v1::preflights::show))
        .routes(routes!(v1::preflights::check))
        .routes(routes!(v1::preflights::waive))
        .routes(routes!(v1::work::list))
        .routes(routes!(v1::work::push));
    let streams = OpenApiRouter::new().routes(routes!(v1::events::follow));
    (limited, streams)
}

/// The OpenAPI document of the whole API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (mut limited, mut streams) = documented();
    let mut document = limited.to_openapi();
    document.merge(streams.to_openapi());
    for item in document.paths.paths.values_mut() {
        let methods =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), RefOr::T(refused()));
        }
    }
    document
}

fn refused() -> Response {
    let schema: Ref = Ref::from_schema_name("Problem");
    let content: Content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description("Why not").content(PROBLEM_JSON, content).build()
}

/// The API that users, portal and `zcpctl` talk to.
pub fn router(api: Api) -> Router {
    let (limited, streams) = documented();
    let (limited, streams) = (Router::from(limited), Router::from(streams));
    let time = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIME_LIMIT);
    let ids = api.app.ids.clone();
    let routes = limited.layer(from_fn(error::again)).layer(time).merge(streams).with_state(api);
    let docs: Router = SwaggerUi::new("/docs").url("/openapi.json", openapi()).into();
    around(routes.merge(docs), ids)
}

/// The listener that servers of clusters talk to.
pub fn node_router(api: Api) -> Router {
    let time = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIME_LIMIT);
    let ids = api.app.ids.clone();
    let routes = Router::new().route("/node/v1/bundle", post(node::bundle)).layer(time);
    around(routes.with_state(api), ids)
}

fn around(routes: Router, ids: SharedIds) -> Router {
    let trace = TraceLayer::new_for_http().make_span_with(|request: &Request<_>| {
        let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        tracing::info_span!(
            "request",
            request.id = id,
            http.method = %request.method(),
            http.path = request.uri().path(),
        )
    });
    routes.layer(
        ServiceBuilder::new()
            .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION]))
            .layer(SetRequestIdLayer::new(REQUEST_ID, NewId(ids)))
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
            .layer(trace)
            .layer(from_fn(error::finish))
            .layer(CatchPanicLayer::new())
            .layer(axum::extract::DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(BODY_MAX)),
    )
}

/// Ids of requests from the injected source.
#[derive(Clone)]
struct NewId(SharedIds);

impl MakeRequestId for NewId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&self.0.uuid().to_string()).ok().map(RequestId::new)
    }
}
