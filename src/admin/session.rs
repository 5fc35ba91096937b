//! One HTTP/1.1 connection.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// How long a request's head may take, which is also how long a connection may be kept without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head, in octets.
const HEAD_OCTETS_MAX: usize = 64 * 1024;

/// Answers the requests of a connection one after the other; each head must come within `head_timeout`.
pub(super) async fn serve<F, A>(
    connection: Connection,
    head_timeout: Duration,
    shutdown: Shutdown,
    respond: F,
) where
    F: Fn(Request) -> A + Clone,
    A: Future<Output = Response>,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let respond = respond.clone();
        async move { Ok::<_, Infallible>(respond(request.map(Body::new)).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout.min(HEAD_TIMEOUT))
        .max_buf_size(HEAD_OCTETS_MAX)
        .serve_connection(TokioIo::new(connection), service);
    let mut conversation = std::pin::pin!(conversation);
    let outcome = tokio::select! {
        outcome = conversation.as_mut() => outcome,
        () = shutdown.requested() => {
            conversation.as_mut().graceful_shutdown();
            conversation.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
