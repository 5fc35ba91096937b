//! Fuzz targets of this room: requests, up to the point where the operation would run.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::Value;
use tower::ServiceExt;

use super::request;
use crate::service::registry::{Operation, operations};
use crate::wire::fuzz::block_on;

/// The first octet names the operation; then come a line with path and query, one with a header, and the body.
pub fn requests(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let all = operations();
    let Some(operation) = all.get(usize::from(first) % all.len()) else { return };
    let mut pieces = rest.splitn(3, |octet| *octet == b'\n');
    let target = String::from_utf8_lossy(pieces.next().unwrap_or_default());
    let Ok(uri) = Uri::try_from(target_of(operation, &target)) else { return };
    let mut request = Request::new(Body::from(pieces.nth(1).unwrap_or_default().to_vec()));
    *request.uri_mut() = uri;
    let value = rest.split(|octet| *octet == b'\n').nth(1).unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(value) = HeaderValue::from_bytes(value) {
        let name = if first & 1 == 0 { "if-match" } else { "idempotency-key" };
        headers.insert(name, value);
    }
    let handler = move |request: Request| async move { answer(operation, request).await };
    let router: Router = Router::new().route(operation.path, any(handler));
    let status = block_on(router.oneshot(request)).map(|response| response.status());
    assert!(status.is_ok_and(|status| !status.is_server_error()));
}

/// The operation's path with the pieces of `target` in the place of its parameters, and `target`'s query.
fn target_of(operation: &Operation, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut values = path.split('/');
    let mut filled: Vec<&str> = Vec::new();
    for part in operation.path.split('/') {
        filled.push(if part.starts_with('{') { values.next().unwrap_or("x") } else { part });
    }
    format!("{}?{query}", filled.join("/"))
}

async fn answer(operation: &Operation, request: Request) -> Response {
    match request::read(operation, request).await {
        Ok(asked) => (operation.has_shape)(Value::Object(asked.fields)).to_string().into_response(),
        Err(problem) => problem.response("fuzz"),
    }
}
