//! What is answered when a request is not fulfilled: `application/problem+json` (RFC 9457) with a stable `code`.

use axum::Extension;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::authenticate::Asking;
use crate::service::error::ServiceError;

/// A refusal or failure.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// Stable; the programs' word for it.
    code: &'static str,
    /// For people.
    detail: String,
    /// The fields at fault and what is wrong with them.
    fields: Vec<(String, String)>,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// Members of this kind of problem alone.
    more: Map<String, Value>,
    /// For the log only.
    internal: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let (fields, more) = (Vec::new(), Map::new());
        Self { status, code, detail: detail.into(), fields, retryable: false, more, internal: None }
    }

    fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// A value is wrong.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid", format!("{field}: {message}"));
        problem.fields.push((field.to_owned(), message));
        problem
    }

    /// The request as such cannot be understood.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// Not JSON.
    pub(super) fn media_type() -> Self {
        let detail = "the body must be JSON with Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail)
    }

    /// The body is larger than what is taken.
    pub(super) fn body_too_large(octets_max: usize) -> Self {
        let detail = format!("the body is larger than {octets_max} octets");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    /// Neither token nor peer is anybody here.
    pub(super) fn unauthenticated() -> Self {
        let detail = "the token or password is not valid, or its owner may not log in now";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// The password is right, and a code of the second factor is missing or wrong, which `code` says.
    pub(super) fn second_factor(code: &'static str, detail: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
    }

    /// The kernel names somebody who is no administrator, and nothing else was given.
    pub(super) fn unknown_peer() -> Self {
        let detail = "this user id is not mapped to an administrator, and there is no token or password";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// A one-time code is good for nothing: one answer, whatever is wrong with it.
    pub(super) fn invalid_code() -> Self {
        let detail = "this code is not valid: it is unknown, used, expired or void";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// Passwords have been guessed at too often.
    pub(super) fn too_many_logins() -> Self {
        let detail = "too many failed logins, try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", detail).retryable()
    }

    /// It took too long.
    pub(super) fn timeout() -> Self {
        let detail = "the request took too long; a change may still happen: with the same Idempotency-Key it \
                      happens once";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).retryable()
    }

    /// The number of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The document.
    pub(super) fn document(&self, request_id: &str) -> Value {
        let mut document = json!({
            "type": format!("urn:posthouse:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
            "retryable": self.retryable,
        });
        if let Some(members) = document.as_object_mut() {
            if !self.fields.is_empty() {
                let field = |(field, message): &(String, String)| json!({"field": field, "message": message});
                members.insert("fields".to_owned(), self.fields.iter().map(field).collect());
            }
            members.extend(self.more.clone());
        }
        document
    }

    /// The answer. What is not for the client goes to the log, here and nowhere else.
    pub(super) fn response(self, request_id: &str) -> Response {
        if let Some(error) = &self.internal {
            tracing::error!(request_id, code = self.code, error, "a request failed");
        }
        let body = self.document(request_id).to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The one place where what a service says becomes an answer.
impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not_found", detail),
            ServiceError::Forbidden { permission } => {
                let mut problem = Self::new(StatusCode::FORBIDDEN, "forbidden", detail);
                problem.more.insert("permission".to_owned(), permission.into());
                problem
            }
            ServiceError::SecondFactorNeeded => {
                let next =
                    "POST /v1/second-factor/enrol, then confirm, or posthouse admin second-factor enrol";
                Self::new(StatusCode::FORBIDDEN, "second_factor_needed", format!("{detail}: {next}"))
            }
            ServiceError::Conflict { .. } => Self::new(StatusCode::CONFLICT, "conflict", detail),
            // RFC 9110 section 13.1.1: the condition of If-Match is not met.
            ServiceError::Changed { .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
            }
            ServiceError::Invalid { field, message } => Self::invalid(field, message),
            ServiceError::OverQuota { resource, .. } => {
                // RFC 4331 section 6 answers an exceeded quota with 507.
                let mut problem = Self::new(StatusCode::INSUFFICIENT_STORAGE, "over_quota", detail);
                problem.more.insert("resource".to_owned(), json!(resource));
                problem
            }
            ServiceError::Suspended => Self::new(StatusCode::FORBIDDEN, "suspended", detail),
            ServiceError::Limit(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "limit", detail),
            ServiceError::Unavailable(internal) => {
                let detail = "temporarily unavailable; nothing was changed";
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
                Self { internal: Some(internal), ..problem.retryable() }
            }
            ServiceError::Internal(internal) => {
                let detail = "internal error; the daemon's log has more under the request id";
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
                Self { internal: Some(internal), ..problem }
            }
        }
    }
}

/// A request id as a header's value.
pub(super) fn request_id_value(request_id: &str) -> HeaderValue {
    HeaderValue::from_str(request_id).unwrap_or(HeaderValue::from_static("-"))
}

/// For paths that are no operation's.
pub(super) async fn no_such_path(Extension(asking): Extension<Asking>) -> Response {
    let detail = "no such path; /v1/openapi.json lists them all";
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail).response(&asking.request_id)
}

/// For methods that a path does not have.
pub(super) async fn no_such_method(Extension(asking): Extension<Asking>) -> Response {
    let detail = "this path does not have that method; /v1/openapi.json lists them all";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", detail).response(&asking.request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_for_what_is_not_there_differ_only_in_the_request_id() {
        let problem = || Problem::from(ServiceError::NotFound { what: "gov/health".to_owned() });
        assert_eq!(problem(), problem());
        let document = problem().document("ID");
        assert_eq!(document["status"], 404);
        assert_eq!(document["code"], "not_found");
        assert_eq!(document["detail"], "gov/health does not exist");
        assert_eq!(document["retryable"], false);
    }

    #[test]
    fn internal_errors_keep_their_text_to_the_log() {
        for error in [
            ServiceError::Internal("secret detail".to_owned()),
            ServiceError::Unavailable("secret detail".to_owned()),
        ] {
            let problem = Problem::from(error);
            assert!(!problem.document("ID").to_string().contains("secret"));
            assert_eq!(problem.internal.as_deref(), Some("secret detail"));
        }
    }

    #[test]
    fn fields_at_fault_are_named() {
        let error = ServiceError::Invalid { field: "quota", message: "expected a number".to_owned() };
        let document = Problem::from(error).document("ID");
        assert_eq!(document["fields"], json!([{"field": "quota", "message": "expected a number"}]));
    }
}
