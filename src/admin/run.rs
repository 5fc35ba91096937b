//! Runs an operation for a request.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::authenticate::Asking;
use super::problem::Problem;
use super::{REQUEST_TIMEOUT, Services, request, stream};
use crate::service::error::ServiceError;
use crate::service::registry::{Method, Operation, RunOptions};
use crate::wire::listen::Shutdown;

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
        answer.await.map_err(|error| match error {
            // What a code was made for is gone: to its holder it is as any code that is good for nothing.
            ServiceError::NotFound { .. } if self.operation.by_code => Problem::invalid_code(),
            error => error.into(),
        })
    }

    /// Whether who asked would still be let in; for answers that have begun.
    pub(super) async fn is_still_admitted(&self) -> Result<(), Problem> {
        let admitted = self.services.management.is_still_admitted(&self.asking.authentication).await?;
        if admitted { Ok(()) } else { Err(Problem::unauthenticated()) }
    }

    /// Looks again, for an answer that has begun: not recorded a second time.
    pub(super) async fn look_again(&self, fields: Map<String, Value>) -> Result<Value, Problem> {
        self.is_still_admitted().await?;
        let Asking { authentication, source, request_id } = &self.asking;
        let context = authentication.context(*source, request_id.clone(), None);
        let options = RunOptions { repeats: true, ..self.options.clone() };
        let run = self.operation.run;
        Ok(run(&self.services.management, context, Value::Object(fields), options).await?)
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
    let outcome = tokio::time::timeout(REQUEST_TIMEOUT, answer(services, operation, asking, request)).await;
    let (status, response) = match outcome.unwrap_or_else(|_| Err(Problem::timeout())) {
        Ok(response) => (response.status(), response),
        Err(problem) => (problem.status(), problem.response(&request_id)),
    };
    metrics.request(operation.name, status.as_u16());
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id, operation = operation.name, status = status.as_u16(), milliseconds, "request");
    response
}

async fn answer(
    services: Services,
    operation: &'static Operation,
    asking: Asking,
    request: Request,
) -> Result<Response, Problem> {
    let form = stream::wanted(operation, request.headers());
    let shutdown = request.extensions().get::<Shutdown>().cloned();
    let asked = request::read(operation, request).await?;
    let is_dry_run = asked.options.dry_run;
    let (options, idempotency_key) = (asked.options, asked.idempotency_key);
    let prepared = Prepared { services, operation, asking, options, idempotency_key };
    let answer = prepared.run(asked.fields.clone()).await?;
    match (form, shutdown) {
        (Some(stream::Form::List), _) => return Ok(stream::list(prepared, asked.fields, answer)),
        (Some(stream::Form::Watch), Some(shutdown)) => {
            return Ok(stream::watch(prepared, asked.fields, answer, shutdown));
        }
        (Some(stream::Form::Follow), Some(shutdown)) => {
            return Ok(stream::follow(prepared, asked.fields, answer, shutdown));
        }
        _ => {}
    }
    let is_created = operation.method == Method::Post && operation.name.ends_with(".create") && !is_dry_run;
    let status = match (operation.starts_job && !is_dry_run, is_created) {
        (true, _) => StatusCode::ACCEPTED,
        (false, true) => StatusCode::CREATED,
        (false, false) => StatusCode::OK,
    };
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
