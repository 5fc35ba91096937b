//! Why a command did not do what it was asked, what its exit code is, and what to do next.

use std::fmt;
use std::path::Path;

use serde_json::Value;

/// Exit codes; scripts rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Anything else.
    Other = 1,
    /// The command line, a value, or a file that it names.
    Usage = 2,
    /// Not found, or not visible.
    NotFound = 3,
    /// Forbidden, or not authenticated.
    Forbidden = 4,
    /// In conflict with what is there.
    Conflict = 5,
    /// Over a quota or a limit.
    Limit = 6,
    /// The daemon is not there or not able now.
    Unavailable = 7,
    /// Some of several things were done.
    Partly = 8,
    /// `plan --exit-code` found differences.
    Differences = 9,
}

/// A failure: what happened and what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// No connection to the daemon.
    pub(super) fn unreachable(socket: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let message = format!("cannot reach the daemon at {}: {error}", socket.display());
        let hint = match error.kind() {
            PermissionDenied => "run it as a user who may open this socket, or as root",
            NotFound | ConnectionRefused => {
                "start it (posthouse serve --config FILE, or posthouse quickstart), or name its socket with \
                 --socket PATH or POSTHOUSE_SOCKET"
            }
            _ => "look at the daemon's log",
        };
        Self::new(Exit::Unavailable, message).hint(hint)
    }

    /// The connection ended or gave something else than an answer.
    pub(super) fn broken(error: impl fmt::Display) -> Self {
        let hint = "look at the daemon's log; a change may have happened";
        Self::new(Exit::Unavailable, format!("the daemon gave no answer: {error}")).hint(hint)
    }

    /// A problem document of the daemon.
    pub(super) fn problem(operation: &str, status: u16, document: &Value) -> Self {
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let code = text("code").unwrap_or("");
        let exit = match code {
            "invalid" | "malformed" | "media_type" | "body_too_large" => Exit::Usage,
            "not_found" | "no_such_path" | "no_such_method" => Exit::NotFound,
            "forbidden"
            | "suspended"
            | "unauthenticated"
            | "too_many_logins"
            | "second_factor_required"
            | "second_factor_wrong"
            | "second_factor_needed" => Exit::Forbidden,
            "conflict" | "precondition_failed" => Exit::Conflict,
            "over_quota" | "limit" => Exit::Limit,
            "unavailable" | "timeout" => Exit::Unavailable,
            _ => Exit::Other,
        };
        let message = text("detail").map_or_else(|| format!("the daemon answered {status}"), str::to_owned);
        let message = match text("resource") {
            Some(resource) => format!("{message} ({resource})"),
            None => message,
        };
        let failure = Self::new(exit, super::output::clean(&message));
        match hint(operation, code, (&failure.message, text("request_id").unwrap_or("-"))) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// What to do next.
fn hint(operation: &str, code: &str, (detail, request_id): (&str, &str)) -> Option<String> {
    let noun = operation.split('.').next().unwrap_or(operation);
    let hint = match code {
        // What was not found may be something else than what the command is about.
        "not_found" => match detail.split(' ').next().unwrap_or(noun) {
            what @ ("customer" | "domain" | "mailbox" | "session" | "store" | "server" | "job" | "group" | "role"
            | "request") => {
                format!("posthouse {what} list shows those you may see")
            }
            "alias" => "posthouse alias list --domain DOMAIN shows those you may see".to_owned(),
            "administrator" | "grant" | "token" => {
                "posthouse admin list shows the administrators you may see".to_owned()
            }
            "hold" => "posthouse customer hold list PATH shows its holds".to_owned(),
            "invitation" => "posthouse invite list shows those you may see".to_owned(),
            _ => "check the spelling; what you may not see does not exist for you".to_owned(),
        },
        "conflict" if operation == "mailbox.restore" => return None,
        "conflict" => match noun {
            "customer" | "domain" | "mailbox" | "alias" => {
                format!("posthouse {noun} list shows what is there")
            }
            "administrator" | "token" => "posthouse admin list shows what is there".to_owned(),
            _ => return None,
        },
        "no_such_path" | "no_such_method" => "the daemon is of another version than this program".to_owned(),
        "forbidden" => "posthouse whoami shows what you may do; ask an administrator above you".to_owned(),
        "suspended" => "posthouse customer hold list PATH shows the reason".to_owned(),
        "unauthenticated" if matches!(operation, "invitation.accept" | "mailbox.set-password") => {
            "ask whoever gave it to you for a new one".to_owned()
        }
        "unauthenticated" => {
            "run it as root or as the daemon's user, map your user id in [admin] administrators, or give another token \
             with --token-file, or your name with --login"
                .to_owned()
        }
        "second_factor_needed" => {
            "posthouse --login NAME admin second-factor enrol begins to set one up; tokens of before go on".to_owned()
        }
        "second_factor_wrong" => {
            "wait for the next code, and see whether the clocks agree; a recovery code will do as well".to_owned()
        }
        "over_quota" => {
            "posthouse report quota shows use and limits; raise the limit or make room".to_owned()
        }
        "unavailable" | "timeout" => "try again in a moment".to_owned(),
        "internal" => format!("look for {request_id} in the daemon's log"),
        "invalid" | "malformed" => {
            format!("posthouse {} --help shows what is expected", command_name(operation))
        }
        _ => return None,
    };
    Some(hint)
}

/// The command of an operation: `administrator.create` is `admin create` on the command line.
fn command_name(operation: &str) -> String {
    let (noun, verb) = operation.split_once('.').unwrap_or((operation, ""));
    match noun {
        "administrator" => format!("admin {verb}"),
        "second-factor" => format!("admin second-factor {verb}"),
        "invitation" => format!("invite {verb}"),
        "token" => format!("admin token {verb}"),
        "hold" => format!("customer hold {verb}"),
        "trace" => "trace".to_owned(),
        "alias" if verb == "update" => "alias set".to_owned(),
        "import" => "import".to_owned(),
        "mailbox" if verb == "restore" => "restore mailbox".to_owned(),
        _ => operation.replace('.', " "),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "posthouse: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  -> {hint}"),
            None => Ok(()),
        }
    }
}

/// Writing to standard output failed: the reader is gone, which is its right, or the disk is full.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Other, format!("cannot write the output: {error}"))
    }
}
