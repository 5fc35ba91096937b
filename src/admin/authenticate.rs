//! Who is asking: a bearer token if there is one, else the peer that the kernel names.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use tower::ServiceExt;

use super::problem::{Problem, request_id_value};
use super::{Api, REQUEST_TIMEOUT};
use crate::base::id::public_id;
use crate::service::context::{Authentication, Source};
use crate::service::registry::Management;

/// The header that carries the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest token looked at, in octets; ours are far shorter.
const TOKEN_OCTETS_MAX: usize = 512;

/// The other end of the connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub uid: Option<u32>,
    pub source: Source,
}

/// An authenticated request's companion, for the handlers.
#[derive(Clone)]
pub(super) struct Asking {
    pub authentication: Authentication,
    pub source: Source,
    pub request_id: String,
}

impl Api {
    /// Answers one request, whatever it is.
    pub(super) async fn respond(&self, peer: Peer, mut request: Request) -> Response {
        let request_id = public_id();
        let proven = authenticate(&self.inner.management, peer, request.headers());
        let proven = tokio::time::timeout(REQUEST_TIMEOUT, proven).await;
        let mut response = match proven.unwrap_or_else(|_| Err(Problem::timeout())) {
            Ok(authentication) => {
                let (source, request_id) = (peer.source, request_id.clone());
                request.extensions_mut().insert(Asking { authentication, source, request_id });
                let Ok(response) = self.inner.router.clone().oneshot(request).await;
                response
            }
            Err(problem) => problem.response(&request_id),
        };
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request_id_value(&request_id));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A token replaces the peer's identity entirely: a wrong one is not made up for by who the peer is.
async fn authenticate(
    management: &Management,
    peer: Peer,
    headers: &HeaderMap,
) -> Result<Authentication, Problem> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let found = match (authorizations.next(), authorizations.next()) {
        (Some(value), None) => match bearer(value) {
            Some(token) => management.authenticate_token(token).await?,
            None => None,
        },
        (Some(_), Some(_)) => None,
        (None, _) => match peer.uid {
            Some(uid) => management.authenticate_peer(uid).await?,
            None => None,
        },
    };
    found.ok_or_else(Problem::unauthenticated)
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let is_token = !token.is_empty() && token.len() <= TOKEN_OCTETS_MAX;
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_taken_and_nothing_else() {
        let bearer = |text: &'static str| super::bearer(&HeaderValue::from_static(text)).map(str::to_owned);
        assert_eq!(bearer("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(bearer("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(bearer("Bearer "), None);
        assert_eq!(bearer("Bearer"), None);
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(
            super::bearer(&HeaderValue::from_str(&format!("Bearer {}", "x".repeat(513))).unwrap()),
            None
        );
    }
}
