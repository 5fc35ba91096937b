//! One request object out of path, query and body.

use axum::RequestExt;
use axum::body::to_bytes;
use axum::extract::{Query, RawPathParams, Request};
use axum::http::{HeaderMap, header};
use http_body_util::LengthLimitError;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::{BODY_OCTETS_MAX, JSON_DEPTH_MAX};
use crate::service::registry::{Operation, RunOptions};

/// Longest Idempotency-Key, in octets.
const IDEMPOTENCY_KEY_OCTETS_MAX: usize = 200;

/// What a request asks for.
pub(super) struct Asked {
    pub fields: Map<String, Value>,
    pub options: RunOptions,
    pub idempotency_key: Option<String>,
}

/// Reads a request. Fields come from the path, the query and the body; none may be given twice.
pub(super) async fn read(operation: &Operation, mut request: Request) -> Result<Asked, Problem> {
    let mut fields = Map::new();
    let path = request.extract_parts::<RawPathParams>().await;
    let path = path.map_err(|error| Problem::malformed(format!("the path: {error}")))?;
    for (name, value) in &path {
        add(&mut fields, name, operation.field_from_text(name, value))?;
    }
    let mut options = RunOptions { if_match: if_match(request.headers())?, ..RunOptions::default() };
    let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(query) = query.map_err(|error| Problem::malformed(format!("the query: {error}")))?;
    for (name, value) in query {
        if name == "dry_run" {
            options.dry_run = dry_run(operation, &value)?;
        } else {
            add(&mut fields, &name, operation.field_from_text(&name, &value))?;
        }
    }
    let idempotency_key = idempotency_key(request.headers())?;
    for (name, value) in body(request).await? {
        add(&mut fields, &name, value)?;
    }
    Ok(Asked { fields, options, idempotency_key })
}

fn add(fields: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Problem> {
    match fields.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(Problem::invalid(name, "given twice")),
    }
}

fn dry_run(operation: &Operation, value: &str) -> Result<bool, Problem> {
    match value {
        "true" | "1" | "" if operation.mutates => Ok(true),
        "false" | "0" => Ok(false),
        _ if !operation.mutates => Err(Problem::invalid("dry_run", "this operation changes nothing anyway")),
        _ => Err(Problem::invalid("dry_run", "expected true or false")),
    }
}

/// The entity tag of If-Match without its quotes (RFC 9110 section 13.1.1); nothing for `*`, since an operation
/// finds its object or fails anyway.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match tag {
        Some(tag) if !tag.contains('"') => Ok(Some(tag.to_owned())),
        _ => Err(Problem::malformed("If-Match: expected one strong entity tag in quotes, as ETag gave it")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_OCTETS_MAX => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed("Idempotency-Key: expected 1 to 200 visible ASCII characters")),
    }
}

/// The members of the JSON object in the body; none if there is no body.
async fn body(request: Request) -> Result<Map<String, Value>, Problem> {
    let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(is_json);
    let octets = to_bytes(request.into_body(), BODY_OCTETS_MAX).await.map_err(|error| {
        let mut causes =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        if causes.any(|cause| cause.is::<LengthLimitError>()) {
            Problem::body_too_large(BODY_OCTETS_MAX)
        } else {
            Problem::malformed("the body broke off")
        }
    })?;
    if octets.is_empty() {
        return Ok(Map::new());
    }
    if !is_json {
        return Err(Problem::media_type());
    }
    if depth(&octets) > JSON_DEPTH_MAX {
        return Err(Problem::malformed(format!("the body is nested deeper than {JSON_DEPTH_MAX} levels")));
    }
    match serde_json::from_slice(&octets) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::malformed("the body must be a JSON object")),
        Err(error) => Err(Problem::malformed(format!("the body is no JSON: {error}"))),
    }
}

fn is_json(value: &axum::http::HeaderValue) -> bool {
    let text = value.to_str().unwrap_or("");
    let kind = text.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// How deep the brackets of a JSON text go; for a text that is no JSON, any number.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for octet in json {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_text() {
        assert_eq!(depth(b"{}"), 1);
        assert_eq!(depth(br#"{"a":[{"b":"[[[[\"[["}],"c":[]}"#), 3);
        assert_eq!(depth("[".repeat(100).as_bytes()), 100);
        assert_eq!(depth(b"1"), 0);
    }

    #[test]
    fn entity_tags_lose_their_quotes() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_static(text));
            if_match(&headers)
        };
        assert_eq!(read("\"abc\""), Ok(Some("abc".to_owned())));
        assert_eq!(read("*"), Ok(None));
        for wrong in ["abc", "W/\"abc\"", "\"a\", \"b\"", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
