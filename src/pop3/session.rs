//! One session: AUTHORIZATION, TRANSACTION, UPDATE (RFC 1939 section 3).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Server;
use super::authorization::Authorization;
use super::command::CommandError;
use super::maildrop::{Entry, Maildrops};
use super::transaction::Transaction;
use crate::service::error::ServiceError;
use crate::wire::line::{LineError, Reader};
use crate::wire::listen::Shutdown;
use crate::wire::sasl::{MECHANISMS, RESPONSE_OCTETS_MAX};
use crate::wire::stream::Connection;

/// Longest command line with its end, in octets: RFC 2449 section 4 asks for 255, SASL responses are longer.
const LINE_OCTETS_MAX: usize = RESPONSE_OCTETS_MAX + 2;
/// How much of an endless command line is read before the connection is given up, in octets.
const DISCARD_OCTETS_MAX: u64 = 1 << 20;
/// Replies are written when there are this many octets of them, at the latest.
pub(super) const REPLIES_OCTETS_MAX: usize = 64 * 1024;

const SHUTDOWN: &str = "-ERR [SYS/TEMP] Shutting down, try again later";
const TOO_LONG: &str = "-ERR Command line too long";
pub(super) const NO_SUCH_MESSAGE: &str = "-ERR No such message";
pub(super) const BYE: &str = "+OK Bye";

/// Why a session stops.
pub(super) enum Stop {
    /// The client went away.
    Gone,
    /// This line, then close.
    Say(&'static str),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

pub(super) type Outcome<T> = Result<T, Stop>;

/// Serves one connection to its end.
pub async fn session<M: Maildrops>(server: Arc<Server<M>>, connection: Connection, shutdown: Shutdown) {
    let mut wire = Wire { connection, reader: Reader::new(), replies: Vec::new(), shutdown, errors: 0 };
    let outcome = async {
        let maildrop = Authorization::new(&server).run(&mut wire).await?;
        Transaction::new(maildrop, &server).run(&mut wire).await
    }
    .await;
    if let Err(Stop::Say(line)) = outcome {
        wire.say(line);
        let _ = wire.flush(server.limits.idle_timeout).await;
    }
    wire.connection.close().await;
}

/// The connection with what is about to be sent.
pub(super) struct Wire {
    pub(super) connection: Connection,
    pub(super) reader: Reader,
    pub(super) replies: Vec<u8>,
    pub(super) shutdown: Shutdown,
    pub(super) errors: u32,
}

impl Wire {
    pub(super) fn say(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    pub(super) async fn flush(&mut self, limit: Duration) -> Outcome<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let replies = std::mem::take(&mut self.replies);
        let write = async {
            self.connection.write_all(&replies).await?;
            self.connection.flush().await
        };
        timeout(limit, write).await.map_err(|_| Stop::Gone)?.map_err(Stop::from)
    }

    pub(super) async fn flush_when_large(&mut self, limit: Duration) -> Outcome<()> {
        if self.replies.len() > REPLIES_OCTETS_MAX { self.flush(limit).await } else { Ok(()) }
    }

    /// The next line; replies go out first unless more commands have arrived already (RFC 2449 section 6.8).
    /// Nothing when a line was too long and has been answered.
    pub(super) async fn line(&mut self, limit: Duration) -> Outcome<Option<Vec<u8>>> {
        if !self.reader.has_line() {
            self.flush(limit).await?;
        }
        let line = tokio::select! {
            biased;
            line = timeout(limit, self.reader.line(&mut self.connection, LINE_OCTETS_MAX)) => line,
            () = self.shutdown.requested() => return Err(Stop::Say(SHUTDOWN)),
        };
        match line {
            Ok(Ok(line)) => Ok(Some(line.text.to_vec())),
            Ok(Err(LineError::TooLong)) => {
                let discard = self.reader.discard_line(&mut self.connection, DISCARD_OCTETS_MAX);
                match timeout(limit, discard).await {
                    Ok(Ok(())) => {
                        self.errors += 1;
                        self.say(TOO_LONG);
                        Ok(None)
                    }
                    _ => Err(Stop::Say(TOO_LONG)),
                }
            }
            // RFC 1939 section 3: the autologout timer closes without entering UPDATE.
            Ok(Err(_)) | Err(_) => Err(Stop::Gone),
        }
    }

    pub(super) fn wrong(&mut self, error: CommandError) {
        self.errors += 1;
        self.say(match error {
            CommandError::Unknown => "-ERR Unknown command",
            CommandError::Arguments => "-ERR Wrong arguments",
        });
    }
}

pub(super) fn capabilities<M>(wire: &mut Wire, server: &Server<M>, before_login: bool) {
    wire.say("+OK Capabilities follow");
    for capability in ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"] {
        wire.say(capability);
    }
    if wire.connection.is_private() {
        wire.say("USER");
        wire.say(&format!("SASL {}", MECHANISMS.join(" ")));
    }
    if before_login && server.tls.is_some() && !wire.connection.is_secure() {
        wire.say("STLS");
    }
    wire.say("EXPIRE NEVER");
    wire.say("IMPLEMENTATION Posthouse");
    wire.say(".");
}

pub(super) fn totals<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, u64) {
    entries.fold((0, 0), |(count, octets), entry| (count + 1, octets + u64::from(entry.octets)))
}

/// The one place where a service's error becomes a reply.
pub(super) fn temporary(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::NotFound { .. } => NO_SUCH_MESSAGE,
        ServiceError::Suspended | ServiceError::Forbidden { .. } => "-ERR [SYS/PERM] Not allowed",
        ServiceError::Internal(_) => "-ERR [SYS/PERM] The message cannot be read, the operator has been told",
        _ => "-ERR [SYS/TEMP] Temporarily unavailable, try again later",
    }
}
