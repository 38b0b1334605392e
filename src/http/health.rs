//! Health, readiness and metrics. Open to everybody who can reach the listener.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Api, Refusal};

/// The process lives
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "health", security(()),
    responses((status = 200, description = "It lives", body = String, content_type = "text/plain"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// The process can serve
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readiness", security(()),
    responses((status = 200, description = "The database answers", body = String,
               content_type = "text/plain"))
)]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Refusal> {
    if api.stop.is_cancelled() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "it stops"));
    }
    api.run(|app| async move { app.ping().await }).await?;
    Ok("ok")
}

/// Figures for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics", security(()),
    responses((status = 200, description = "OpenMetrics text", body = String,
               content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &api.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
