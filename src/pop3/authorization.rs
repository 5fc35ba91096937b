//! The AUTHORIZATION state (RFC 1939 section 4): before login.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::Server;
use super::command::{self, Command};
use super::maildrop::{Maildrop, Maildrops, Refused};
use super::session::{BYE, Outcome, Stop, Wire, capabilities, temporary, totals};
use crate::service::login::LoginError;
use crate::wire::sasl::{Credentials, Exchange, MECHANISMS, SaslError, Step};

const INSECURE: &str = "-ERR [SYS/PERM] Logging in without TLS is not allowed, use STLS";

/// Before login.
pub(super) struct Authorization<'a, M> {
    server: &'a Server<M>,
    user: Option<String>,
    failures: u32,
    opened: Instant,
}

impl<'a, M: Maildrops> Authorization<'a, M> {
    pub(super) fn new(server: &'a Server<M>) -> Self {
        Self { server, user: None, failures: 0, opened: Instant::now() }
    }

    pub(super) async fn run(mut self, wire: &mut Wire) -> Outcome<M::Maildrop> {
        let limits = &self.server.limits;
        wire.say("+OK Posthouse ready");
        loop {
            if wire.errors > limits.errors_max || self.failures >= limits.login_failures_max {
                return Err(Stop::Say("-ERR Too many errors, closing connection"));
            }
            let Some(line) = wire.line(self.patience()).await? else { continue };
            match command::parse(&line) {
                Err(error) => wire.wrong(error),
                Ok(command) => {
                    if let Some(maildrop) = self.obey(wire, command).await? {
                        return Ok(maildrop);
                    }
                }
            }
        }
    }

    /// What is left of the time to log in.
    fn patience(&self) -> Duration {
        self.server.limits.login_timeout.saturating_sub(self.opened.elapsed())
    }

    /// Does one command; the maildrop once it is open.
    async fn obey(&mut self, wire: &mut Wire, command: Command<'_>) -> Outcome<Option<M::Maildrop>> {
        let is_login = matches!(command, Command::User(_) | Command::Pass(_) | Command::Auth(Some(_)));
        if is_login && !wire.connection.is_private() {
            wire.say(INSECURE);
            return Ok(None);
        }
        match command {
            Command::Capa => capabilities(wire, self.server, true),
            Command::Stls => self.start_tls(wire).await?,
            Command::Quit => return Err(Stop::Say(BYE)),
            Command::Noop => wire.say("+OK"),
            // Whether the name exists is not told (RFC 1939 section 13).
            Command::User(name) => {
                self.user = Some(name.to_owned());
                wire.say("+OK");
            }
            Command::Pass(password) => match self.user.take() {
                Some(username) => {
                    let password = SecretString::from(password);
                    let credentials = Credentials { username, password, acts_as: None };
                    return Ok(self.open(wire, Ok(credentials)).await);
                }
                None => wire.say("-ERR USER comes first"),
            },
            Command::Auth(None) => {
                // RFC 5034 section 4, for clients that ask this way instead of CAPA.
                wire.say("+OK");
                if wire.connection.is_private() {
                    MECHANISMS.iter().for_each(|name| wire.say(name));
                }
                wire.say(".");
            }
            Command::Auth(Some((mechanism, initial))) => {
                let credentials = self.exchange(wire, mechanism, initial.map(str::as_bytes)).await?;
                return Ok(self.open(wire, credentials).await);
            }
            _ => wire.say("-ERR Log in first"),
        }
        Ok(None)
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
            let Some(line) = wire.line(self.patience()).await? else {
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
                // Boxed, so that a session that waits for a login does not carry its state.
                match Box::pin(self.server.maildrops.open(&credentials, source)).await {
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
            Refused::Login(LoginError::OutsideWindow) => "-ERR [SYS/TEMP] Login is not allowed at this time",
            Refused::Login(LoginError::TlsRequired) => INSECURE,
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
