//! Runs an operation for a request.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::authenticate::Asking;
use super::problem::Problem;
use super::{LONG_REQUEST_TIMEOUT, REQUEST_TIMEOUT, Services, request, stream};
use crate::service::registry::{Method, Operation, RunOptions};

/// Operations that walk through all mail or copy it.
const LONG_OPERATIONS: [&str; 4] = ["backup.create", "backup.verify", "quota.verify", "store.pack"];

/// A request that has been understood, ready to be run; lists run it once for each page.
pub(super) struct Prepared {
    services: Services,
    operation: &'static Operation,
    asking: Asking,
    options: RunOptions,
    idempotency_key: Option<String>,
}

impl Prepared {
    /// Runs the operation with these fields.
    pub(super) async fn run(&self, fields: Map<String, Value>) -> Result<Value, Problem> {
        let Asking { authentication, source, request_id } = &self.asking;
        let context = authentication.context(*source, request_id.clone(), self.idempotency_key.clone());
        let run = self.operation.run;
        let answer = run(&self.services.management, context, Value::Object(fields), self.options.clone());
        Ok(answer.await?)
    }

    /// The id of the request.
    pub(super) fn request_id(&self) -> &str {
        &self.asking.request_id
    }
}

/// Answers a request for `operation`.
pub(super) async fn run(services: Services, operation: &'static Operation, mut request: Request) -> Response {
    let Some(asking) = request.extensions_mut().remove::<Asking>() else {
        // Routes are reached through authentication only.
        return Problem::unauthenticated().response("-");
    };
    let begun = Instant::now();
    let metrics = services.metrics.clone();
    let request_id = asking.request_id.clone();
    let outcome =
        tokio::time::timeout(timeout(operation), answer(services, operation, asking, request)).await;
    let (status, response) = match outcome.unwrap_or_else(|_| Err(Problem::timeout())) {
        Ok(response) => (response.status(), response),
        Err(problem) => (problem.status(), problem.response(&request_id)),
    };
    metrics.request(operation.name, status.as_u16());
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id, operation = operation.name, status = status.as_u16(), milliseconds, "request");
    response
}

fn timeout(operation: &Operation) -> Duration {
    if LONG_OPERATIONS.contains(&operation.name) { LONG_REQUEST_TIMEOUT } else { REQUEST_TIMEOUT }
}

async fn answer(
    services: Services,
    operation: &'static Operation,
    asking: Asking,
    request: Request,
) -> Result<Response, Problem> {
    let is_stream = stream::is_wanted(operation, request.headers());
    let asked = request::read(operation, request).await?;
    let is_dry_run = asked.options.dry_run;
    let (options, idempotency_key) = (asked.options, asked.idempotency_key);
    let prepared = Prepared { services, operation, asking, options, idempotency_key };
    let answer = prepared.run(asked.fields.clone()).await?;
    if is_stream {
        return Ok(stream::response(prepared, asked.fields, answer));
    }
    let is_created = operation.method == Method::Post && operation.name.ends_with(".create") && !is_dry_run;
    let status = if is_created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &answer))
}

/// A JSON document, with its entity tag where it has one.
fn json_response(status: StatusCode, answer: &Value) -> Response {
    let tag = answer.get("etag").and_then(Value::as_str).map(|tag| format!("\"{tag}\""));
    let mut response = (status, answer.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
    response
}
