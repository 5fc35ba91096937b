//! POP3 (RFC 1939) with CAPA, RESP-CODES and PIPELINING (RFC 2449), STLS (RFC 2595), SASL (RFC 5034) and
//! AUTH-RESP-CODE (RFC 3206).
//!
//! Invariants
//! - A session sees the INBOX as it was at login; numbers never change under it.
//! - One session per mailbox (RFC 1939 section 4): a second login is told `[IN-USE]`.
//! - Messages go away at QUIT only; a session that ends otherwise deletes nothing.
//! - TOP n 0 reads no body.

mod authorization;
mod command;
#[cfg(any(test, feature = "fuzzing"))]
mod fake;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod maildrop;
mod session;
#[cfg(test)]
mod tests;
mod text;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use crate::base::tls::Tls;

pub use maildrop::{Entry, Inbox, Mailboxes, Maildrop, Maildrops, Refused};
pub use session::session;

/// What is sent to a connection beyond the limits.
pub const BUSY_REPLY: &[u8] = b"-ERR [SYS/TEMP] Too many connections, try again later\r\n";

/// Bounds of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How long a client may take until it is logged in.
    pub login_timeout: Duration,
    /// How long a client may be silent (RFC 1939 section 3 asks for 10 minutes at least).
    pub idle_timeout: Duration,
    /// Failed logins after which the session ends.
    pub login_failures_max: u32,
    /// Commands not understood after which the session ends.
    pub errors_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(10 * 60),
            login_failures_max: 3,
            errors_max: 20,
        }
    }
}

/// What all sessions share.
pub struct Server<M> {
    maildrops: M,
    tls: Option<Tls>,
    limits: Limits,
}

impl<M: Maildrops> Server<M> {
    /// A server for `maildrops`; without `tls` it offers no STLS.
    pub fn new(maildrops: M, tls: Option<Tls>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { maildrops, tls, limits })
    }
}
