//! Whole lists as NDJSON: one object per line, page after page, and `{"end":…}` or `{"error":…}` as the last line,
//! so that a list that broke off shows.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::run::Prepared;
use crate::service::registry::{Method, Operation};

/// The media type.
const NDJSON: &str = "application/x-ndjson";
/// The member of a list's answer that holds its elements, and the one that holds the place where the next page
/// begins, which is also the name of the request's field for it.
const ITEMS: &str = "items";
const CURSOR: &str = "cursor";

/// Whether the client asks for a stream, and the operation gives a list.
pub(super) fn is_wanted(operation: &Operation, headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_accepted = accept.split(',').any(|kind| kind.split(';').next().unwrap_or("").trim() == NDJSON);
    is_accepted && operation.method == Method::Get && is_list(operation)
}

fn is_list(operation: &Operation) -> bool {
    let schema = serde_json::to_value((operation.response)().schema).unwrap_or_default();
    schema.pointer("/properties/items").is_some()
}

/// What is left of a list.
struct Rest {
    prepared: Prepared,
    fields: Map<String, Value>,
    count: usize,
    next: Next,
}

enum Next {
    /// This page is there.
    Page(Value),
    /// The page at this cursor is to be asked for.
    Ask(Value),
    Finished,
}

/// Streams the list that begins with the page `first`. Each page is asked for when the one before has been taken,
/// with the authority of that moment.
pub(super) fn response(prepared: Prepared, fields: Map<String, Value>, first: Value) -> Response {
    let rest = Rest { prepared, fields, count: 0, next: Next::Page(first) };
    let chunks = stream::unfold(rest, |mut rest| async move {
        let chunk = rest.chunk().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), rest))
    });
    let mut response = Body::from_stream(chunks).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

impl Rest {
    async fn chunk(&mut self) -> Option<Bytes> {
        let page = match std::mem::replace(&mut self.next, Next::Finished) {
            Next::Finished => return None,
            Next::Page(page) => page,
            Next::Ask(cursor) => {
                self.fields.insert(CURSOR.to_owned(), cursor);
                match self.prepared.run(self.fields.clone()).await {
                    Ok(page) => page,
                    Err(problem) => {
                        let document = problem.document(self.prepared.request_id());
                        return Some(line(&json!({ "error": document })).into());
                    }
                }
            }
        };
        let mut lines = String::new();
        for item in page.get(ITEMS).and_then(Value::as_array).into_iter().flatten() {
            lines.push_str(&line(item));
            self.count += 1;
        }
        match page.get(CURSOR) {
            Some(cursor) if !cursor.is_null() => self.next = Next::Ask(cursor.clone()),
            _ => lines.push_str(&line(&json!({ "end": { "count": self.count } }))),
        }
        Some(lines.into())
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}
