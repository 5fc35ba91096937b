//! The registry: every management operation, declared once. Routing, authorization, audit, OpenAPI, the command
//! line and the coverage tests are driven by it.
//!
//! An operation is a type that implements `Operate`; the one runner (`registry/run.rs`) does for all of them, in
//! this order: JSON shape, targets in the caller's scope, authority, meaning, audit. An operation has no way to be
//! run without them.

mod admission;
mod authentication;
mod list;
mod management;
mod nested;
mod operate;
mod rights;
mod run;
mod schema;

use futures_util::future::BoxFuture;
use serde_json::Value;

pub use authentication::PasswordRefused;
pub use list::{operation, operations};
pub(in crate::service) use management::Inner;
pub use management::{Management, ManagementOptions};
pub(in crate::service) use nested::{Bound, Located, Nested, within, within_prepared};
pub(in crate::service) use operate::{Need, Operate, Targeted, Tx, declare};
pub use rights::Rights;
pub(in crate::service) use run::parse;
pub use schema::TypeSchema;

use crate::service::authority::Permission;
use crate::service::context::Context;
use crate::service::error::ServiceError;

/// HTTP method of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates or acts.
    Post,
    /// Replaces.
    Put,
    /// Changes parts.
    Patch,
    /// Deletes.
    Delete,
}

/// How to run an operation.
#[derive(Clone, Default, Debug)]
pub struct RunOptions {
    /// Run all checks and the transaction, then roll it back.
    pub dry_run: bool,
    /// A further look that belongs to an answer which is being given: it is checked like the first and not recorded
    /// again.
    pub repeats: bool,
    /// Only if the object still has this entity tag (RFC 9110 section 13.1.1).
    pub if_match: Option<String>,
}

/// The answer of a run: parameters from path, query and body in, one JSON value out.
pub type Run = fn(&Management, Context, Value, RunOptions) -> BoxFuture<'static, Result<Value, ServiceError>>;

/// One thing an administrator can ask for.
pub struct Operation {
    /// `mailbox.create`: resource and verb, also the command line's.
    pub name: &'static str,
    /// HTTP method.
    pub method: Method,
    /// `/v1/mailboxes/{address}`; names in braces are fields of the request.
    pub path: &'static str,
    /// What the caller must hold where the operation takes place.
    pub permission: Permission,
    /// Whether it changes anything.
    pub mutates: bool,
    /// Whether its answer is a job that does the work.
    pub starts_job: bool,
    /// Whether its answer can be watched until it has a member `finished_at`.
    pub watched: bool,
    /// Whether its answer is a list without an end, which can be followed as it grows.
    pub followed: bool,
    /// Whether it is asked for with a one-time code, in place of a token; nobody else may, and the code is good for
    /// nothing else.
    pub by_code: bool,
    /// One line for help and OpenAPI.
    pub summary: &'static str,
    /// The request: one object of the fields from path, query and body.
    pub request: fn() -> TypeSchema,
    /// The response.
    pub response: fn() -> TypeSchema,
    /// Runs it.
    pub run: Run,
    /// Whether fields have the shape of the request; runs nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub has_shape: fn(Value) -> bool,
}

impl Operation {
    /// Names of the parameters in the path, in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Turns a text (of a path segment, a query or a command line) into the JSON that the request's field takes: a
    /// number where the schema says integer, a truth value where it says boolean, a list where it says array.
    pub fn field_from_text(&self, field: &str, text: &str) -> Value {
        (self.request)().value_from_text(field, text)
    }
}
