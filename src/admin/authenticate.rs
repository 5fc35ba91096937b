//! Who is asking: a bearer token or a name and password if there are such, else the peer that the kernel names. A code
//! of a second factor comes in a header beside the password.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use tower::ServiceExt;
use zeroize::Zeroizing;

use super::problem::{Problem, request_id_value};
use super::{Api, REQUEST_TIMEOUT};
use crate::base::id::public_id;
use crate::service::context::{Authentication, Source};
use crate::service::error::ServiceError;
use crate::service::login::LoginError;
use crate::service::registry::{Management, PasswordRefused};

/// The header that carries the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that carries a code of a second factor beside a password; good for one request.
const SECOND_FACTOR: HeaderName = HeaderName::from_static("second-factor");
/// Longest token looked at, in octets; ours are far shorter.
const TOKEN_OCTETS_MAX: usize = 512;
/// Longest name and password looked at, in octets of base 64.
const BASIC_OCTETS_MAX: usize = 2_048;

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

/// A token or password replaces the peer's identity entirely: a wrong one is not made up for by who the peer is.
async fn authenticate(
    management: &Management,
    peer: Peer,
    headers: &HeaderMap,
) -> Result<Authentication, Problem> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let found = match (authorizations.next(), authorizations.next()) {
        (Some(value), None) => match (bearer(value), basic(value)) {
            (Some(code), _) if Management::is_code(code) => return by_code(management, peer, code).await,
            (Some(token), _) => management.authenticate_token(token, peer.source).await?,
            (None, Some((name, password))) => {
                return by_password(management, peer, (&name, &password), code(headers).as_ref()).await;
            }
            (None, None) => None,
        },
        (Some(_), Some(_)) => None,
        (None, _) => {
            let known = match peer.uid {
                Some(uid) => management.authenticate_peer(uid).await?,
                None => None,
            };
            return known.ok_or_else(Problem::unknown_peer);
        }
    };
    found.ok_or_else(Problem::unauthenticated)
}

async fn by_password(
    management: &Management,
    peer: Peer,
    (name, password): (&str, &SecretString),
    code: Option<&SecretString>,
) -> Result<Authentication, Problem> {
    // Whom the kernel names says what a bare name may mean, and nothing else.
    let known = match peer.uid {
        Some(uid) => management.authenticate_peer(uid).await?,
        None => None,
    };
    let proven = management.authenticate_password(name, password, code, known.as_ref(), peer.source).await;
    proven.map_err(|error| match error {
        PasswordRefused::Login(error) => refused(error, Problem::unauthenticated()),
        PasswordRefused::CodeRequired => Problem::second_factor("second_factor_required", error.to_string()),
        PasswordRefused::CodeWrong => Problem::second_factor("second_factor_wrong", error.to_string()),
    })
}

async fn by_code(management: &Management, peer: Peer, code: &str) -> Result<Authentication, Problem> {
    let proven = management.authenticate_code(code, peer.source, peer.uid).await;
    proven.map_err(|error| refused(error, Problem::invalid_code()))
}

fn refused(error: LoginError, failed: Problem) -> Problem {
    match error {
        LoginError::Failed | LoginError::Held | LoginError::OutsideWindow | LoginError::TlsRequired => failed,
        LoginError::TooMany => Problem::too_many_logins(),
        LoginError::Unavailable => Problem::from(ServiceError::Unavailable(error.to_string())),
    }
}

/// The code of a second factor. Of several none is meant: what is wrong with them is said as of a wrong one.
fn code(headers: &HeaderMap) -> Option<SecretString> {
    let mut given = headers.get_all(SECOND_FACTOR).iter();
    let code = given.next()?.to_str().unwrap_or_default();
    Some(SecretString::from(if given.next().is_some() { "" } else { code }))
}

/// Name and password of `Basic` (RFC 7617 section 2), in UTF-8.
fn basic(value: &HeaderValue) -> Option<(String, SecretString)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let encoded = encoded.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > BASIC_OCTETS_MAX {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), SecretString::from(password)))
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
        let basic = |text: &'static str| super::basic(&HeaderValue::from_static(text)).map(|(name, _)| name);
        // `carla@ABC-1:pass:word`, the same without a colon, nothing.
        assert_eq!(basic("basic Y2FybGFAQUJDLTE6cGFzczp3b3Jk").as_deref(), Some("carla@ABC-1"));
        assert_eq!(basic("Basic Y2FybGFAQUJDLTE="), None);
        assert_eq!(basic("Basic !"), None);
        assert_eq!(basic("Bearer Y2FybGFAQUJDLTE6cGFzczp3b3Jk"), None);
        assert_eq!(
            super::bearer(&HeaderValue::from_str(&format!("Bearer {}", "x".repeat(513))).unwrap()),
            None
        );
    }
}
