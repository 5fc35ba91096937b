//! The admin socket: HTTP/1.1 and JSON over the registry of operations.
//!
//! Routes, parameters and documents are generated from [`crate::service::registry`]; this room decides nothing
//! about who may do what. It authenticates, merges path, query and body to one request, runs the operation, and
//! turns the answer into a response. Errors become responses in one place, `problem.rs`.
//!
//! Invariants
//! - Nothing is answered to the unauthenticated but 401, whatever they ask for.
//! - Body size, JSON depth, time and the number of connections are bounded.
//! - Every response carries the id under which its request stands in the log and in the audit trail.

mod authenticate;
mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod health;
mod problem;
mod request;
mod run;
mod session;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{MethodFilter, get, on};

use crate::base::telemetry::metrics::Metrics;
use crate::service::registry::{Management, Method, operations};
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// Permission bits of the socket: everybody may connect, the kernel's word about the peer decides the rest.
pub const SOCKET_MODE: u32 = 0o666;
/// What a connection beyond the limits is told.
pub const BUSY_REPLY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// Largest request body, in octets.
const BODY_OCTETS_MAX: usize = 1 << 20;
/// Deepest nesting of a request body.
const JSON_DEPTH_MAX: usize = 32;
/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The API; cheap to clone.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    management: Management,
    router: Router,
    head_timeout: Duration,
}

/// What every handler gets.
#[derive(Clone)]
struct Services {
    management: Management,
    metrics: Metrics,
}

impl Api {
    /// The API over `management`; a client that sends no request for `head_timeout` is sent away.
    pub fn new(management: Management, metrics: Metrics, head_timeout: Duration) -> Self {
        let services = Services { management: management.clone(), metrics };
        Self { inner: Arc::new(Inner { management, router: router(services), head_timeout }) }
    }

    /// Serves one connection until its end, or until its present request is answered after `shutdown`.
    pub async fn session(self, connection: Connection, shutdown: Shutdown) {
        let peer = authenticate::Peer { uid: connection.peer_uid(), source: connection.source() };
        let head_timeout = self.inner.head_timeout;
        let ending = shutdown.clone();
        let respond = move |mut request: Request| {
            let api = self.clone();
            // For answers that last until something happens.
            request.extensions_mut().insert(ending.clone());
            async move { api.respond(peer, request).await }
        };
        session::serve(connection, head_timeout, shutdown, respond).await;
    }
}

fn router(services: Services) -> Router {
    let mut router = Router::new()
        .route("/v1/meta", get(document::meta))
        .route("/v1/openapi.json", get(document::openapi))
        .fallback(problem::no_such_path);
    for operation in operations() {
        let handler = move |State(services): State<Services>, request| run::run(services, operation, request);
        router = router.route(operation.path, on(filter(operation.method), handler));
    }
    // It counts for the routes that are there already.
    router.method_not_allowed_fallback(problem::no_such_method).with_state(services)
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}
