//! One session: AUTHORIZATION, TRANSACTION, UPDATE (RFC 1939 section 3).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Server;
use super::command::{self, Command, CommandError};
use super::maildrop::{Entry, Maildrop, Maildrops, Refused};
use super::text;
use crate::base::id::Uid;
use crate::service::error::ServiceError;
use crate::service::login::LoginError;
use crate::wire::line::{LineError, Reader};
use crate::wire::listen::Shutdown;
use crate::wire::sasl::{Credentials, Exchange, MECHANISMS, RESPONSE_OCTETS_MAX, SaslError, Step};
use crate::wire::stream::Connection;

/// Longest command line with its end, in octets: RFC 2449 section 4 asks for 255, SASL responses are longer.
const LINE_OCTETS_MAX: usize = RESPONSE_OCTETS_MAX + 2;
/// How much of an endless command line is read before the connection is given up, in octets.
const DISCARD_OCTETS_MAX: u64 = 1 << 20;
/// Replies are written when there are this many octets of them, at the latest.
const REPLIES_OCTETS_MAX: usize = 64 * 1024;

const INSECURE: &str = "-ERR [SYS/PERM] Logging in without TLS is not allowed, use STLS";
const SHUTDOWN: &str = "-ERR [SYS/TEMP] Shutting down, try again later";
const TOO_LONG: &str = "-ERR Command line too long";
const NO_SUCH_MESSAGE: &str = "-ERR No such message";
const BYE: &str = "+OK Bye";

/// Why a session stops.
enum Stop {
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

type Outcome<T> = Result<T, Stop>;

/// Serves one connection to its end.
pub async fn session<M: Maildrops>(server: Arc<Server<M>>, connection: Connection, shutdown: Shutdown) {
    let mut wire = Wire { connection, reader: Reader::new(), replies: Vec::new(), shutdown, errors: 0 };
    let outcome = async {
        let maildrop = Authorization { server: &server, user: None, failures: 0 }.run(&mut wire).await?;
        Transaction::new(maildrop, &server).run(&mut wire).await
    }
    .await;
    if let Err(Stop::Say(line)) = outcome {
        wire.say(line);
        let _ = wire.flush(server.limits.idle_timeout).await;
    }
    let _ = timeout(Duration::from_secs(5), wire.connection.shutdown()).await;
}

/// The connection with what is about to be sent.
struct Wire {
    connection: Connection,
    reader: Reader,
    replies: Vec<u8>,
    shutdown: Shutdown,
    errors: u32,
}

impl Wire {
    fn say(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self, limit: Duration) -> Outcome<()> {
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

    async fn flush_when_large(&mut self, limit: Duration) -> Outcome<()> {
        if self.replies.len() > REPLIES_OCTETS_MAX { self.flush(limit).await } else { Ok(()) }
    }

    /// The next line; replies go out first unless more commands have arrived already (RFC 2449 section 6.8).
    /// Nothing when a line was too long and has been answered.
    async fn line(&mut self, limit: Duration) -> Outcome<Option<Vec<u8>>> {
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

    fn wrong(&mut self, error: CommandError) {
        self.errors += 1;
        self.say(match error {
            CommandError::Unknown => "-ERR Unknown command",
            CommandError::Arguments => "-ERR Wrong arguments",
        });
    }
}

/// Before login.
struct Authorization<'a, M> {
    server: &'a Server<M>,
    user: Option<String>,
    failures: u32,
}

impl<M: Maildrops> Authorization<'_, M> {
    async fn run(mut self, wire: &mut Wire) -> Outcome<M::Maildrop> {
        let limits = &self.server.limits;
        wire.say("+OK Posthouse ready");
        loop {
            if wire.errors > limits.errors_max || self.failures >= limits.login_failures_max {
                return Err(Stop::Say("-ERR Too many errors, closing connection"));
            }
            let Some(line) = wire.line(limits.idle_timeout).await? else { continue };
            let opened = match command::parse(&line) {
                Err(error) => {
                    wire.wrong(error);
                    None
                }
                Ok(Command::Capa) => {
                    capabilities(wire, self.server, true);
                    None
                }
                Ok(Command::Stls) => {
                    self.start_tls(wire).await?;
                    None
                }
                Ok(Command::Quit) => return Err(Stop::Say(BYE)),
                Ok(Command::Noop) => {
                    wire.say("+OK");
                    None
                }
                Ok(Command::User(_) | Command::Pass(_) | Command::Auth(Some(_)))
                    if !wire.connection.is_private() =>
                {
                    wire.say(INSECURE);
                    None
                }
                // Whether the name exists is not told (RFC 1939 section 13).
                Ok(Command::User(name)) => {
                    self.user = Some(name.to_owned());
                    wire.say("+OK");
                    None
                }
                Ok(Command::Pass(password)) => match self.user.take() {
                    Some(username) => {
                        let password = SecretString::from(password);
                        self.open(wire, Ok(Credentials { username, password })).await
                    }
                    None => {
                        wire.say("-ERR USER comes first");
                        None
                    }
                },
                Ok(Command::Auth(None)) => {
                    // RFC 5034 section 4, for clients that ask this way instead of CAPA.
                    wire.say("+OK");
                    if wire.connection.is_private() {
                        MECHANISMS.iter().for_each(|name| wire.say(name));
                    }
                    wire.say(".");
                    None
                }
                Ok(Command::Auth(Some((mechanism, initial)))) => {
                    let initial = initial.map(str::as_bytes);
                    let credentials = self.exchange(wire, mechanism, initial).await?;
                    self.open(wire, credentials).await
                }
                Ok(_) => {
                    wire.say("-ERR Log in first");
                    None
                }
            };
            if let Some(maildrop) = opened {
                return Ok(maildrop);
            }
        }
    }

    /// STLS (RFC 2595 section 4): everything known before is forgotten.
    async fn start_tls(&mut self, wire: &mut Wire) -> Outcome<()> {
        let Some(tls) = self.server.tls.as_ref().filter(|_| !wire.connection.is_secure()) else {
            wire.say("-ERR TLS is not available or already on");
            return Ok(());
        };
        if !wire.reader.buffered().is_empty() {
            return Err(Stop::Say("-ERR Nothing may follow STLS before the handshake"));
        }
        wire.say("+OK Begin TLS negotiation");
        wire.flush(self.server.limits.idle_timeout).await?;
        if let Err(error) = wire.connection.start_tls(tls.server_config(), &mut wire.reader).await {
            tracing::debug!(source = ?wire.connection.source(), %error, "STLS failed");
            return Err(Stop::Gone);
        }
        self.user = None;
        Ok(())
    }

    /// The SASL exchange (RFC 5034 section 4).
    async fn exchange(
        &self,
        wire: &mut Wire,
        mechanism: &str,
        initial: Option<&[u8]>,
    ) -> Outcome<Result<Credentials, SaslError>> {
        let (mut exchange, mut step) = match Exchange::start(mechanism, initial) {
            Ok(started) => started,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match step {
                Step::Done(credentials) => return Ok(Ok(credentials)),
                Step::Challenge(challenge) => wire.say(&format!("+ {challenge}")),
            }
            let Some(line) = wire.line(self.server.limits.idle_timeout).await? else {
                return Ok(Err(SaslError::Malformed));
            };
            step = match exchange.respond(&line) {
                Ok(step) => step,
                Err(error) => return Ok(Err(error)),
            };
        }
    }

    /// Logs in and answers.
    async fn open(
        &mut self,
        wire: &mut Wire,
        credentials: Result<Credentials, SaslError>,
    ) -> Option<M::Maildrop> {
        let refused = match credentials {
            Err(SaslError::Cancelled) => {
                wire.say("-ERR Authentication cancelled");
                return None;
            }
            Err(error) => {
                self.failures += 1;
                wire.say(&format!("-ERR [AUTH] {error}"));
                return None;
            }
            Ok(credentials) => {
                let source = wire.connection.source();
                match self.server.maildrops.open(&credentials, source).await {
                    Ok(maildrop) => {
                        let (count, octets) = totals(maildrop.entries().iter());
                        wire.say(&format!("+OK {count} messages ({octets} octets)"));
                        return Some(maildrop);
                    }
                    Err(refused) => refused,
                }
            }
        };
        // RFC 2449 section 8.1, RFC 3206: the code tells the client whether to ask for another password.
        wire.say(match refused {
            Refused::Login(LoginError::Failed) => {
                self.failures += 1;
                "-ERR [AUTH] Authentication failed"
            }
            Refused::Login(LoginError::Held) => "-ERR [SYS/PERM] This account is suspended for this service",
            Refused::Login(LoginError::Unavailable) => {
                "-ERR [SYS/TEMP] Authentication is unavailable, try later"
            }
            Refused::Login(LoginError::TooMany) => "-ERR [SYS/TEMP] Too many failed logins, try again later",
            Refused::InUse => "-ERR [IN-USE] Another session has this mailbox open",
            Refused::Service(error) => {
                tracing::warn!(%error, "the INBOX could not be opened");
                temporary(&error)
            }
        });
        None
    }
}

fn capabilities<M>(wire: &mut Wire, server: &Server<M>, before_login: bool) {
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

fn totals<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, u64) {
    entries.fold((0, 0), |(count, octets), entry| (count + 1, octets + u64::from(entry.octets)))
}

/// The one place where a service's error becomes a reply.
fn temporary(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::NotFound { .. } => NO_SUCH_MESSAGE,
        ServiceError::Suspended | ServiceError::Forbidden { .. } => "-ERR [SYS/PERM] Not allowed",
        ServiceError::Internal(_) => "-ERR [SYS/PERM] The message cannot be read, the operator has been told",
        _ => "-ERR [SYS/TEMP] Temporarily unavailable, try again later",
    }
}

/// After login.
struct Transaction<'a, M: Maildrops> {
    maildrop: M::Maildrop,
    /// One for each entry of the maildrop.
    deleted: Vec<bool>,
    server: &'a Server<M>,
}

impl<'a, M: Maildrops> Transaction<'a, M> {
    fn new(maildrop: M::Maildrop, server: &'a Server<M>) -> Self {
        let deleted = vec![false; maildrop.entries().len()];
        Self { maildrop, deleted, server }
    }

    async fn run(mut self, wire: &mut Wire) -> Outcome<()> {
        let limits = &self.server.limits;
        loop {
            if wire.errors > limits.errors_max {
                return Err(Stop::Say("-ERR Too many errors, closing connection"));
            }
            let line = tokio::select! {
                biased;
                () = self.maildrop.ended() => {
                    return Err(Stop::Say("-ERR [SYS/TEMP] Session closed"));
                }
                line = wire.line(limits.idle_timeout) => line?,
            };
            let Some(line) = line else { continue };
            match command::parse(&line) {
                Err(error) => wire.wrong(error),
                Ok(Command::Quit) => {
                    let line = self.update().await;
                    return Err(Stop::Say(line));
                }
                Ok(command) => self.obey(wire, command).await?,
            }
        }
    }

    async fn obey(&mut self, wire: &mut Wire, command: Command<'_>) -> Outcome<()> {
        match command {
            Command::Capa => capabilities(wire, self.server, false),
            Command::Noop => wire.say("+OK"),
            Command::Stat => {
                let (count, octets) = totals(self.present().map(|(_, entry)| entry));
                wire.say(&format!("+OK {count} {octets}"));
            }
            Command::List(None) => return self.list(wire, |entry| entry.octets.to_string()).await,
            Command::List(Some(number)) => match self.entry(number) {
                Some((_, entry)) => wire.say(&format!("+OK {number} {}", entry.octets)),
                None => wire.say(NO_SUCH_MESSAGE),
            },
            Command::Uidl(None) => {
                let validity = self.maildrop.uid_validity();
                return self.list(wire, |entry| unique_id(validity, entry.uid)).await;
            }
            Command::Uidl(Some(number)) => match self.entry(number) {
                Some((_, entry)) => {
                    let id = unique_id(self.maildrop.uid_validity(), entry.uid);
                    wire.say(&format!("+OK {number} {id}"));
                }
                None => wire.say(NO_SUCH_MESSAGE),
            },
            Command::Retr(number) => {
                let Some((_, entry)) = self.entry(number) else {
                    wire.say(NO_SUCH_MESSAGE);
                    return Ok(());
                };
                let message = self.maildrop.message(entry.uid).await;
                return self.send(wire, message).await;
            }
            Command::Top(number, lines) => {
                let Some((_, entry)) = self.entry(number) else {
                    wire.say(NO_SUCH_MESSAGE);
                    return Ok(());
                };
                let top = self.maildrop.top(entry.uid, lines).await;
                return self.send(wire, top).await;
            }
            Command::Dele(number) => {
                let index = self.entry(number).map(|(index, _)| index);
                match index.and_then(|index| self.deleted.get_mut(index)) {
                    Some(deleted) => {
                        *deleted = true;
                        wire.say("+OK Marked for deletion");
                    }
                    None => wire.say(NO_SUCH_MESSAGE),
                }
            }
            Command::Rset => {
                self.deleted.fill(false);
                wire.say("+OK");
            }
            Command::Stls | Command::User(_) | Command::Pass(_) | Command::Auth(_) | Command::Quit => {
                wire.say("-ERR Already logged in");
            }
        }
        Ok(())
    }

    /// Messages not marked, with their index.
    fn present(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let deleted = self.deleted.iter();
        self.maildrop
            .entries()
            .iter()
            .zip(deleted)
            .enumerate()
            .filter_map(|(index, (entry, deleted))| (!deleted).then_some((index, entry)))
    }

    /// The message with this number, unless marked.
    fn entry(&self, number: u32) -> Option<(usize, Entry)> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let entry = self.maildrop.entries().get(index)?;
        let deleted = self.deleted.get(index)?;
        (!deleted).then_some((index, *entry))
    }

    async fn list(&self, wire: &mut Wire, show: impl Fn(&Entry) -> String) -> Outcome<()> {
        wire.say("+OK");
        for (index, entry) in self.present() {
            wire.say(&format!("{} {}", index + 1, show(entry)));
            wire.flush_when_large(self.server.limits.idle_timeout).await?;
        }
        wire.say(".");
        Ok(())
    }

    /// Sends a message, in pieces when it is large.
    async fn send(&self, wire: &mut Wire, message: Result<Bytes, ServiceError>) -> Outcome<()> {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "a message could not be read");
                wire.say(temporary(&error));
                return Ok(());
            }
        };
        wire.say(&format!("+OK {} octets", message.len()));
        let mut at_line_start = true;
        for piece in message.chunks(REPLIES_OCTETS_MAX) {
            at_line_start = text::stuff(piece, at_line_start, &mut wire.replies);
            wire.flush_when_large(self.server.limits.idle_timeout).await?;
        }
        // The end must stand on a line of its own, also after a message that does not end its last one.
        wire.say(if message.ends_with(b"\r\n") || message.is_empty() { "." } else { "\r\n." });
        Ok(())
    }

    /// UPDATE: what was marked goes away now (RFC 1939 section 6).
    async fn update(&mut self) -> &'static str {
        let marked = self.maildrop.entries().iter().zip(&self.deleted).filter(|(_, deleted)| **deleted);
        let uids: Vec<Uid> = marked.map(|(entry, _)| entry.uid).collect();
        if uids.is_empty() {
            return BYE;
        }
        match self.maildrop.delete(&uids).await {
            Ok(()) => BYE,
            Err(error) => {
                tracing::warn!(%error, "messages could not be deleted");
                "-ERR [SYS/TEMP] Some messages were not deleted"
            }
        }
    }
}

/// UIDL (RFC 1939 section 7): never used again for another message, since UIDVALIDITY and UID never are.
fn unique_id(validity: crate::base::id::UidValidity, uid: Uid) -> String {
    format!("{:08x}{:08x}", validity.0, uid.0)
}
