//! The endpoints: metrics on one address, health and leadership on the other.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, extract};
use serde_json::json;

use crate::Telemetry;
use crate::exposition::Format;

/// `/metrics`.
pub(crate) fn metrics_router(telemetry: Telemetry) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(telemetry)
}

/// `/healthz`, `/readyz` and `/leader/<callsign>`.
pub(crate) fn health_router(telemetry: Telemetry) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/leader/{callsign}", get(leader))
        .with_state(telemetry)
}

async fn metrics(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response {
    let format = Format::negotiate(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    match telemetry.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], format.write(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics could not be written: {error}\n"))
            .into_response(),
    }
}

/// The process lives if it answers. A member whose node ended unasked can only be helped by a restart.
async fn healthz(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.fleets().ended().as_slice() {
        [] => "ok\n".into_response(),
        ended => (StatusCode::SERVICE_UNAVAILABLE, format!("ended unexpectedly: {}\n", ended.join(", ")))
            .into_response(),
    }
}

async fn readyz(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.readiness().missing().as_slice() {
        [] => "ok\n".into_response(),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))).into_response(),
    }
}

async fn leader(
    State(telemetry): State<Telemetry>,
    path: Result<Path<String>, extract::rejection::PathRejection>,
) -> Response {
    let Ok(Path(callsign)) = path else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "the callsign is not UTF-8" })))
            .into_response();
    };
    let Some(found) = telemetry.fleets().leadership(&callsign) else {
        let error = "no member of a fleet with this callsign runs here";
        return (StatusCode::NOT_FOUND, Json(json!({ "callsign": callsign, "error": error })))
            .into_response();
    };
    let status = if found.leads { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "callsign": callsign,
        "member": found.member.as_str(),
        "role": found.role.as_str(),
        "leader": found.leader.as_ref().map(flagship_types::MemberName::as_str),
        "term": found.term,
    });
    // Load balancers must not remember yesterday's leader.
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
