//! Whole lists as NDJSON: one object per line, page after page; and objects that are watched: one line for each
//! change. `{"end":…}` or `{"error":…}` is the last line, so that a stream that broke off shows.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::run::Prepared;
use crate::service::error::ServiceError;
use crate::service::registry::{Method, Operation};
use crate::wire::listen::Shutdown;

/// The media type.
const NDJSON: &str = "application/x-ndjson";
/// The member of a list's answer that holds its elements, and the one that holds the place where the next page
/// begins, which is also the name of the request's field for it.
const ITEMS: &str = "items";
const CURSOR: &str = "cursor";

/// How soon a watched object is looked at again at first, and at most; each look that finds no change waits longer.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(500);
/// An unchanged object is told again after this time, so that a broken connection is noticed.
const REPEAT_INTERVAL: Duration = Duration::from_secs(15);

/// The forms of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// All pages of a list.
    List,
    /// The changes of one object.
    Watch,
    /// A list that grows.
    Follow,
}

/// The stream that the client asks for, if the operation has one.
pub(super) fn wanted(operation: &Operation, headers: &HeaderMap) -> Option<Form> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_accepted = accept.split(',').any(|kind| kind.split(';').next().unwrap_or("").trim() == NDJSON);
    if !is_accepted || operation.method != Method::Get {
        None
    } else if operation.followed {
        Some(Form::Follow)
    } else if operation.watched {
        Some(Form::Watch)
    } else {
        is_list(operation).then_some(Form::List)
    }
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
pub(super) fn list(prepared: Prepared, fields: Map<String, Value>, first: Value) -> Response {
    let rest = Rest { prepared, fields, count: 0, next: Next::Page(first) };
    let chunks = stream::unfold(rest, |mut rest| async move {
        let chunk = rest.chunk().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), rest))
    });
    ndjson(Body::from_stream(chunks))
}

fn ndjson(body: Body) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

/// An object that is watched.
struct Watched {
    prepared: Prepared,
    fields: Map<String, Value>,
    shutdown: Shutdown,
    /// What was told last; nothing once the stream has ended.
    told: Option<Value>,
    is_first: bool,
}

/// Streams the changes of an object that stands at `first`, until it has a member `finished_at` (the last line is
/// then `{"end":…}` with the object) or the daemon stops. Each look has the authority of its moment.
pub(super) fn watch(
    prepared: Prepared,
    fields: Map<String, Value>,
    first: Value,
    shutdown: Shutdown,
) -> Response {
    let watched = Watched { prepared, fields, shutdown, told: Some(first), is_first: true };
    let chunks = stream::unfold(watched, |mut watched| async move {
        let chunk = watched.chunk().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), watched))
    });
    ndjson(Body::from_stream(chunks))
}

impl Watched {
    async fn chunk(&mut self) -> Option<Bytes> {
        let told = self.told.take()?;
        let seen = if std::mem::take(&mut self.is_first) { Ok(told) } else { self.next(told).await };
        let seen = match seen {
            Ok(seen) => seen,
            Err(problem) => {
                let document = problem.document(self.prepared.request_id());
                return Some(line(&json!({ "error": document })).into());
            }
        };
        if seen.get("finished_at").is_some_and(|at| !at.is_null()) {
            return Some(line(&json!({ "end": seen })).into());
        }
        let text = line(&seen);
        self.told = Some(seen);
        Some(text.into())
    }

    /// The object when it has changed, or after a while.
    async fn next(&self, told: Value) -> Result<Value, Problem> {
        let until = tokio::time::Instant::now() + REPEAT_INTERVAL;
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            tokio::select! {
                () = self.shutdown.requested() => {
                    return Err(ServiceError::Unavailable("the daemon stops".to_owned()).into());
                }
                () = tokio::time::sleep(pause) => {}
            }
            let seen = self.prepared.look_again(self.fields.clone()).await?;
            if seen != told || tokio::time::Instant::now() >= until {
                return Ok(seen);
            }
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }
}

/// A list that is followed.
struct Followed {
    prepared: Prepared,
    fields: Map<String, Value>,
    shutdown: Shutdown,
    next: Growing,
}

enum Growing {
    /// This page is there; it is the first.
    First(Value),
    /// There is more at once.
    More,
    /// More may come.
    Waiting,
    Ended,
}

/// Streams the elements of a list that begins with the page `first` and those that come, until the daemon stops or the
/// caller may not see them any more. Behind them, and now and then without any, stands a line with the cursor alone.
pub(super) fn follow(
    prepared: Prepared,
    fields: Map<String, Value>,
    first: Value,
    shutdown: Shutdown,
) -> Response {
    let followed = Followed { prepared, fields, shutdown, next: Growing::First(first) };
    let chunks = stream::unfold(followed, |mut followed| async move {
        let chunk = followed.chunk().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), followed))
    });
    ndjson(Body::from_stream(chunks))
}

impl Followed {
    async fn chunk(&mut self) -> Option<Bytes> {
        let quiet_until = tokio::time::Instant::now() + REPEAT_INTERVAL;
        loop {
            let is_first = matches!(self.next, Growing::First(_));
            let page = match self.page().await {
                None => return None,
                Some(Ok(page)) => page,
                Some(Err(problem)) => {
                    self.next = Growing::Ended;
                    let document = problem.document(self.prepared.request_id());
                    return Some(line(&json!({ "error": document })).into());
                }
            };
            let items = page.get(ITEMS).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let mut lines: String = items.iter().map(line).collect();
            let cursor = page.get(CURSOR).cloned().unwrap_or_default();
            self.fields.insert(CURSOR.to_owned(), cursor.clone());
            let is_more = page.get("more").and_then(Value::as_bool) == Some(true);
            self.next = if is_more { Growing::More } else { Growing::Waiting };
            if !items.is_empty() || is_first || tokio::time::Instant::now() >= quiet_until {
                lines.push_str(&line(&json!({ "cursor": cursor })));
                return Some(lines.into());
            }
        }
    }

    /// The next page, with the authority of its moment; nothing behind the end.
    async fn page(&mut self) -> Option<Result<Value, Problem>> {
        match std::mem::replace(&mut self.next, Growing::Ended) {
            Growing::First(page) => return Some(Ok(page)),
            Growing::Ended => return None,
            Growing::More => {}
            Growing::Waiting => {
                tokio::select! {
                    () = self.shutdown.requested() => {
                        return Some(Err(ServiceError::Unavailable("the daemon stops".to_owned()).into()));
                    }
                    () = tokio::time::sleep(LOOK_PAUSE_MAX) => {}
                }
            }
        }
        Some(self.prepared.look_again(self.fields.clone()).await)
    }
}

impl Rest {
    async fn next_page(&self) -> Result<Value, Problem> {
        self.prepared.is_still_admitted().await?;
        self.prepared.run(self.fields.clone()).await
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        let page = match std::mem::replace(&mut self.next, Next::Finished) {
            Next::Finished => return None,
            Next::Page(page) => page,
            Next::Ask(cursor) => {
                self.fields.insert(CURSOR.to_owned(), cursor);
                match self.next_page().await {
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
