//! How a command ends, and the one place where a service's refusal becomes a response (RFC 3501 section 7.1,
//! RFC 5530).

use std::io;

use super::lexer::SyntaxError;
use super::respond;
use crate::service::error::ServiceError;
use crate::service::mailstore::types::FolderNameError;

/// A command that was done: `OK`.
#[derive(PartialEq, Eq, Debug)]
pub struct Done {
    /// Response code.
    pub code: Option<String>,
    /// Text for people.
    pub text: &'static str,
}

impl Done {
    /// Done, without a code.
    pub const fn new(text: &'static str) -> Self {
        Self { code: None, text }
    }

    /// Done, with a code.
    pub fn with_code(code: impl Into<String>, text: &'static str) -> Self {
        Self { code: Some(code.into()), text }
    }
}

/// A command that was not done.
#[derive(Debug)]
pub enum Failure {
    /// `NO`, with a code.
    Refused {
        /// Response code.
        code: Option<&'static str>,
        /// Text for people.
        text: String,
    },
    /// `BAD`: the client made a mistake.
    Malformed(String),
    /// What the service said.
    Service(ServiceError),
    /// The tagged response has been sent already.
    Answered,
    /// The session must end with these last words.
    Bye(&'static str),
    /// The connection is gone.
    Disconnected,
}

/// What a command comes to.
pub type Outcome = Result<Done, Failure>;

impl Failure {
    /// `NO` with a code.
    pub fn refused(code: &'static str, text: impl Into<String>) -> Self {
        Self::Refused { code: Some(code), text: text.into() }
    }

    /// For APPEND, COPY and MOVE: a missing target is one that CREATE can make (RFC 3501 section 7.1,
    /// TRYCREATE).
    pub fn try_create(self) -> Self {
        match self {
            Self::Service(error @ ServiceError::NotFound { .. }) => {
                Self::refused("TRYCREATE", error.to_string())
            }
            other => other,
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Disconnected
    }
}

impl From<SyntaxError> for Failure {
    fn from(SyntaxError(text): SyntaxError) -> Self {
        Self::Malformed(text)
    }
}

impl From<FolderNameError> for Failure {
    fn from(error: FolderNameError) -> Self {
        Self::refused("CANNOT", error.to_string())
    }
}

/// How a session goes on after a command.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Fine,
    /// It goes on; the client made a mistake.
    Mistake,
    /// It ends with these last words.
    Bye(&'static str),
    /// The connection is gone.
    Gone,
}

/// Writes the tagged response.
pub fn answer(out: &mut Vec<u8>, tag: &[u8], outcome: Outcome) -> Verdict {
    let (code, text) = match outcome {
        Ok(done) => {
            respond::status(out, tag, "OK", done.code.as_deref(), done.text);
            return Verdict::Fine;
        }
        Err(Failure::Malformed(text)) => {
            respond::status(out, tag, "BAD", None, &text);
            return Verdict::Mistake;
        }
        Err(Failure::Answered) => return Verdict::Fine,
        Err(Failure::Bye(text)) => return Verdict::Bye(text),
        Err(Failure::Disconnected) => return Verdict::Gone,
        Err(Failure::Refused { code, text }) => (code, text),
        Err(Failure::Service(error)) => (code_of(&error), error.to_string()),
    };
    respond::status(out, tag, "NO", code, &text);
    Verdict::Fine
}

/// The response code of RFC 5530 (and RFC 9208 for quotas) that says what a service said.
fn code_of(error: &ServiceError) -> Option<&'static str> {
    Some(match error {
        ServiceError::NotFound { .. } => "NONEXISTENT",
        ServiceError::Forbidden { .. } | ServiceError::SecondFactorNeeded => "NOPERM",
        ServiceError::Conflict { .. } => "ALREADYEXISTS",
        ServiceError::Changed { .. } => "CANNOT",
        ServiceError::Invalid { .. } => "CANNOT",
        ServiceError::OverQuota { .. } => "OVERQUOTA",
        ServiceError::Suspended => "CONTACTADMIN",
        ServiceError::Limit(_) => "LIMIT",
        ServiceError::Unavailable(_) => "UNAVAILABLE",
        ServiceError::Internal(_) => "SERVERBUG",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::error::Resource;

    fn answered(failure: Failure) -> String {
        let mut out = Vec::new();
        answer(&mut out, b"a1", Err(failure));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_refusal_has_its_code() {
        let missing = || ServiceError::NotFound { what: "folder x".to_owned() };
        for (error, start) in [
            (missing(), "a1 NO [NONEXISTENT] "),
            (ServiceError::Conflict { message: "exists".to_owned() }, "a1 NO [ALREADYEXISTS] exists"),
            (ServiceError::Invalid { field: "f", message: "m".to_owned() }, "a1 NO [CANNOT] "),
            (
                ServiceError::OverQuota { resource: Resource::Bytes, limit: "1 GiB".to_owned() },
                "a1 NO [OVERQUOTA] over quota: 1 GiB",
            ),
            (ServiceError::Limit("too deep".to_owned()), "a1 NO [LIMIT] too deep"),
            (ServiceError::Unavailable("s3".to_owned()), "a1 NO [UNAVAILABLE] "),
            (ServiceError::Internal("secret".to_owned()), "a1 NO [SERVERBUG] internal error"),
            (ServiceError::Suspended, "a1 NO [CONTACTADMIN] "),
            (ServiceError::Forbidden { permission: "p" }, "a1 NO [NOPERM] "),
        ] {
            let text = answered(error.into());
            assert!(text.starts_with(start) && text.ends_with("\r\n"), "{text}");
        }
        assert!(answered(Failure::Service(missing()).try_create()).starts_with("a1 NO [TRYCREATE] "));
        assert_eq!(answered(Failure::Malformed("expected x".to_owned())), "a1 BAD expected x\r\n");
    }
}
