//! `/metrics`, `/livez` and `/readyz` in plain HTTP, for the machine's own monitoring: no authentication, so
//! nothing here tells of customers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;

use super::session;
use crate::base::telemetry::metrics::{Metrics, StorageLevels};
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// What a look at storage has found. The texts are shown to whoever asks, so they name no customer.
pub struct Looked {
    /// Its state, for the numbers.
    pub levels: StorageLevels,
    /// What does not work, while the rest does.
    pub troubles: Vec<String>,
}

/// Looks at storage; an error when nothing works.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<Looked, String>> + Send + Sync>;

/// Answers the monitoring; cheap to clone.
#[derive(Clone)]
pub struct Health {
    metrics: Metrics,
    probe: Probe,
    head_timeout: Duration,
}

impl Health {
    /// Shows `metrics`, and asks `probe` whether the daemon is ready; a client that sends no request for
    /// `head_timeout` is sent away.
    pub fn new(metrics: Metrics, probe: Probe, head_timeout: Duration) -> Self {
        Self { metrics, probe, head_timeout }
    }

    /// Serves one connection.
    pub async fn session(self, connection: Connection, shutdown: Shutdown) {
        let draining = shutdown.clone();
        let head_timeout = self.head_timeout;
        let respond = move |request: Request| {
            let (health, draining) = (self.clone(), draining.clone());
            async move { health.respond(&draining, request).await }
        };
        session::serve(connection, head_timeout, shutdown, respond).await;
    }

    async fn respond(&self, shutdown: &Shutdown, request: Request) -> Response {
        // The body, if any, is of no interest.
        let (request, _) = request.into_parts();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        match request.uri.path() {
            // Alive is who answers.
            "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" if shutdown.is_requested() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned())
            }
            "/readyz" => match (self.probe)().await {
                Ok(looked) if looked.troubles.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                // The rest is served here: a balancer that took the node out would make it worse.
                Ok(looked) => text(StatusCode::OK, format!("degraded: {}\n", looked.troubles.join("; "))),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => {
                // Numbers that cannot be measured now stay as they were.
                if let Ok(looked) = (self.probe)().await {
                    self.metrics.storage(looked.levels);
                }
                let mut response = self.metrics.text().into_response();
                let kind =
                    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}
