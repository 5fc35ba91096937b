//! IMAP4rev1 (RFC 3501) and its extensions, over the mail store.
//!
//! One session receives a command ([`receive`]), understands it ([`parse`] makes a [`command`]), executes it
//! ([`session`] and a file per group of commands) and writes what it has to say into one buffer ([`client`]).
//!
//! Invariants
//! - An answer `OK` to a change is written only after the service said that it would survive power loss.
//! - What the client sees of a folder changes only where RFC 3501 section 7 lets it: sequence numbers move
//!   only when EXPUNGE was told ([`selected::Selected::sync`]).
//! - Every line, literal, list, nesting and answer buffer is bounded; a session waiting for its client owns
//!   no buffers.
//! - Nothing is held in the database while bytes are written to a client.

mod append;
mod auth;
mod client;
mod command;
mod envelope;
mod fetch;
mod folder;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod idle;
mod lexer;
mod list;
mod outcome;
mod parse;
mod quota;
mod receive;
mod respond;
mod search;
mod section;
mod selected;
mod sequence;
mod session;
mod store;
mod structure;
mod transfer;
mod utf7;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::base::tls::Tls;
use crate::service::content_access::ContentAccess;
use crate::service::login::Login;
use crate::service::mailstore::MailStore;
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// What is sent to a connection beyond the limits.
pub const BUSY_REPLY: &[u8] = b"* BYE [UNAVAILABLE] too many connections, try again later\r\n";

/// Bounds of a session. The defaults suit a public server.
#[derive(Clone, Debug)]
pub struct ImapLimits {
    /// Largest message that APPEND takes, in octets (APPENDLIMIT, RFC 7889).
    pub message_octets_max: u64,
    /// Octets of large literals that all sessions together may be receiving; others wait.
    pub literals_in_flight_octets_max: u64,
    /// How long a client may take to log in.
    pub login_timeout: Duration,
    /// How long a client may be silent, in IDLE too (RFC 3501 section 5.4 asks for 30 minutes at least).
    pub inactivity_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// After this many malformed commands in a row the session ends.
    pub malformed_max: u32,
    /// After this many failed logins the session ends.
    pub failed_logins_max: u32,
}

impl Default for ImapLimits {
    fn default() -> Self {
        Self {
            message_octets_max: 50 * 1024 * 1024,
            literals_in_flight_octets_max: 512 * 1024 * 1024,
            login_timeout: Duration::from_secs(60),
            inactivity_timeout: Duration::from_secs(30 * 60),
            write_timeout: Duration::from_secs(5 * 60),
            malformed_max: 20,
            failed_logins_max: 5,
        }
    }
}

/// What IMAP sessions work with.
pub struct ImapServices {
    login: Login,
    content: ContentAccess,
    mail: MailStore,
    tls: Option<Tls>,
    limits: ImapLimits,
    /// Room for large literals, in units of [`client::LITERAL_UNIT_OCTETS`].
    literal_room: Arc<Semaphore>,
}

impl ImapServices {
    /// Sessions over these services; with `tls` they offer STARTTLS.
    pub fn new(
        (login, content): (Login, ContentAccess),
        mail: MailStore,
        tls: Option<Tls>,
        limits: ImapLimits,
    ) -> Arc<Self> {
        let units = (limits.literals_in_flight_octets_max / client::LITERAL_UNIT_OCTETS)
            .max(client::literal_units(limits.message_octets_max).into());
        let units = usize::try_from(units).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Arc::new(Self { login, content, mail, tls, limits, literal_room: Arc::new(Semaphore::new(units)) })
    }
}

/// Serves one client until it leaves, misbehaves, or `shutdown` is asked for.
pub fn serve(
    connection: Connection,
    shutdown: Shutdown,
    services: Arc<ImapServices>,
) -> impl Future<Output = ()> + Send {
    session::run(connection, shutdown, services)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets_of<F: Future>(_: impl FnOnce(Connection, Shutdown, Arc<ImapServices>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn waiting_session_is_small() {
        let octets = octets_of(serve);
        assert!(octets < 2_048, "a session waiting for its client takes {octets} octets");
    }
}
