//! SMTP receiving (RFC 5321) and LMTP (RFC 2033).
//!
//! Takes mail for local domains and answers for it; never relays, never bounces. Extensions: PIPELINING (RFC 2920),
//! SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), ENHANCEDSTATUSCODES (RFC 2034), CHUNKING (RFC 3030),
//! STARTTLS (RFC 3207).
//!
//! Invariants
//! - `250` after a message means that the delivery service has it on stable storage.
//! - A message ends at CRLF `.` CRLF and nowhere else; one with a bare CR, a bare LF or a NUL is refused, so no two
//!   servers can disagree about where it ends.
//! - What a client can make us hold is bounded: the command line, the recipients, the message, and all messages of
//!   all sessions together.

mod command;
mod content;
mod data;
#[cfg(any(test, feature = "fuzzing"))]
mod fake;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::base::tls::Tls;
use crate::service::delivery::{Atomicity, Delivered, Delivery, DeliveryRefusal, Recipient, Transmission};

pub use session::session;

/// What is sent to a connection beyond the limits.
pub const BUSY_REPLY: &[u8] = b"421 4.7.0 Too many connections, try again later\r\n";

/// The two languages of this room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// LMTP: an answer for each recipient after the message.
    Lmtp,
    /// SMTP: one answer for all.
    Smtp,
}

/// Bounds of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest command line with its end, in octets. RFC 5321 section 4.5.3.1.4 asks for 512, RFC 6531 and the
    /// parameters add to it; 2,048 is what other servers take.
    pub command_octets_max: usize,
    /// Most recipients of a message (RFC 5321 section 4.5.3.1.8 asks for 100 at least).
    pub recipients_max: usize,
    /// Largest message, in octets.
    pub message_octets_max: u64,
    /// Most octets of messages being received and stored, over all sessions.
    pub in_flight_octets_max: u64,
    /// How long a client may take until it has introduced itself.
    pub greeting_timeout: Duration,
    /// How long a client may be silent (RFC 5321 section 4.5.3.2.7).
    pub command_timeout: Duration,
    /// How long a whole message may take to arrive.
    pub message_timeout: Duration,
    /// Errors after which the session ends.
    pub errors_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_octets_max: 2048,
            recipients_max: 1000,
            message_octets_max: 100 << 20,
            in_flight_octets_max: 512 << 20,
            greeting_timeout: Duration::from_secs(60),
            command_timeout: Duration::from_secs(5 * 60),
            message_timeout: Duration::from_secs(60 * 60),
            errors_max: 100,
        }
    }
}

/// What a session asks of the delivery service; tests put their own in its place.
pub trait Deliver: Send + Sync + 'static {
    /// See [`Delivery::recipient`].
    fn recipient(
        &self,
        transmission: &Transmission,
        sender: &str,
        address: &str,
        octets: u64,
    ) -> impl Future<Output = Result<Recipient, DeliveryRefusal>> + Send;

    /// See [`Delivery::deliver`].
    fn deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        atomicity: Atomicity,
    ) -> impl Future<Output = Vec<Result<Vec<Delivered>, DeliveryRefusal>>> + Send;
}

impl Deliver for Delivery {
    async fn recipient(
        &self,
        transmission: &Transmission,
        sender: &str,
        address: &str,
        octets: u64,
    ) -> Result<Recipient, DeliveryRefusal> {
        Delivery::recipient(self, transmission, sender, address, octets).await
    }

    async fn deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        atomicity: Atomicity,
    ) -> Vec<Result<Vec<Delivered>, DeliveryRefusal>> {
        Delivery::deliver(self, transmission, sender, recipients, message, atomicity).await
    }
}

/// What all sessions share.
pub struct Server<D> {
    delivery: D,
    hostname: String,
    tls: Option<Tls>,
    limits: Limits,
    /// Memory for messages, in KiB.
    memory: Arc<Semaphore>,
}

impl<D: Deliver> Server<D> {
    /// A server that calls itself `hostname`; without `tls` it offers no STARTTLS.
    pub fn new(delivery: D, hostname: String, tls: Option<Tls>, limits: Limits) -> Arc<Self> {
        let kib = usize::try_from(limits.in_flight_octets_max / 1024).unwrap_or(Semaphore::MAX_PERMITS);
        let memory = Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { delivery, hostname, tls, limits, memory })
    }
}
