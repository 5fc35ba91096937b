//! One session: greeting, transactions, and the bytes of messages.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::command::{self, Command, MailFrom};
use super::data::Collector;
use super::reply::Reply;
use super::{Deliver, Dialect, Server};
use crate::base::id::random_text;
use crate::service::delivery::{Recipient, Transmission};
use crate::wire::line::{LineError, Reader};
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// How much of an endless command line is read before the connection is given up, in octets.
const DISCARD_OCTETS_MAX: u64 = 1 << 20;
/// Replies are written when the client waits for them, or when there are this many octets of them.
const REPLIES_OCTETS_MAX: usize = 16 * 1024;
/// Characters of a message's id: 60 random bits.
const ID_CHARACTERS: usize = 12;

/// Why a session stops without a further word.
pub(super) enum Stop {
    /// The client went away, or said QUIT and got its answer.
    Gone,
    /// This reply, then close.
    Say(Reply),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<LineError> for Stop {
    fn from(_: LineError) -> Self {
        Self::Gone
    }
}

pub(super) type Outcome<T> = Result<T, Stop>;

struct Greeting {
    name: String,
    /// EHLO or LHLO, not HELO.
    extended: bool,
}

/// From MAIL to the end of the message.
pub(super) struct Transaction {
    pub(super) transmission: Transmission,
    pub(super) sender: String,
    pub(super) octets_declared: u64,
    pub(super) utf8: bool,
    pub(super) recipients: Vec<Recipient>,
    /// As the client wrote them, for LMTP's answers.
    pub(super) paths: Vec<String>,
    /// What BDAT brought so far.
    pub(super) chunks: Option<Collector>,
}

pub(super) struct Session<D> {
    pub(super) server: Arc<Server<D>>,
    pub(super) dialect: Dialect,
    pub(super) connection: Connection,
    pub(super) reader: Reader,
    shutdown: Shutdown,
    pub(super) replies: Vec<u8>,
    greeting: Option<Greeting>,
    /// When the client came, or TLS began: from then on it has its time to introduce itself.
    opened: Instant,
    pub(super) transaction: Option<Transaction>,
    pub(super) errors: u32,
}

/// Serves one connection to its end.
pub async fn session<D: Deliver>(
    server: Arc<Server<D>>,
    dialect: Dialect,
    connection: Connection,
    shutdown: Shutdown,
) {
    let mut session = Session {
        server,
        dialect,
        connection,
        reader: Reader::new(),
        shutdown,
        replies: Vec::new(),
        greeting: None,
        opened: Instant::now(),
        transaction: None,
        errors: 0,
    };
    if let Err(Stop::Say(reply)) = session.run().await {
        session.say(reply);
        let _ = session.flush().await;
    }
    session.connection.close().await;
}

impl<D: Deliver> Session<D> {
    async fn run(&mut self) -> Outcome<()> {
        let service = if self.dialect == Dialect::Lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 {} {service} Posthouse ready\r\n", self.server.hostname);
        self.replies.extend_from_slice(greeting.as_bytes());
        loop {
            // RFC 2920 section 3.2: replies to a pipeline go out together, before waiting for more.
            if !self.reader.has_line() || self.replies.len() > REPLIES_OCTETS_MAX {
                self.flush().await?;
            }
            self.command().await?;
            if self.errors > self.server.limits.errors_max {
                return Err(Stop::Say(Reply::TOO_MANY_ERRORS));
            }
        }
    }

    /// Reads one command and does it.
    async fn command(&mut self) -> Outcome<()> {
        let limits = &self.server.limits;
        let patience = match &self.greeting {
            Some(_) => limits.command_timeout,
            None => limits.greeting_timeout.saturating_sub(self.opened.elapsed()).min(limits.command_timeout),
        };
        let line = tokio::select! {
            biased;
            line = timeout(
                patience,
                self.reader.line(&mut self.connection, limits.command_octets_max),
            ) => line,
            // A transaction under way may go on; an idle client is sent away (RFC 5321 section 3.8).
            () = self.shutdown.requested(), if self.transaction.is_none() => {
                return Err(Stop::Say(Reply::SHUTDOWN));
            }
        };
        let line = match line {
            Ok(Ok(line)) => line.text.to_vec(),
            Ok(Err(LineError::TooLong)) => return self.line_too_long().await,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Stop::Say(Reply::TIMEOUT)),
        };
        match command::parse(&line) {
            Ok(command) => self.obey(command).await,
            Err(reply) if reply.code == 421 => Err(Stop::Say(reply)),
            Err(reply) => {
                self.errors += 1;
                self.say(reply);
                Ok(())
            }
        }
    }

    async fn line_too_long(&mut self) -> Outcome<()> {
        self.errors += 1;
        let discard = self.reader.discard_line(&mut self.connection, DISCARD_OCTETS_MAX);
        match timeout(self.server.limits.command_timeout, discard).await {
            Ok(Ok(())) => {
                self.say(Reply::LINE_TOO_LONG);
                Ok(())
            }
            Ok(Err(LineError::TooLong)) | Err(_) => Err(Stop::Say(Reply::LINE_TOO_LONG)),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn obey(&mut self, command: Command<'_>) -> Outcome<()> {
        let reply = match command {
            Command::Ehlo(name) if self.dialect == Dialect::Smtp => return self.greet_extended(name),
            Command::Lhlo(name) if self.dialect == Dialect::Lmtp => return self.greet_extended(name),
            Command::Helo(name) if self.dialect == Dialect::Smtp => self.greet(name, false),
            // RFC 2033 section 4.1: each dialect has its own greeting, and only that.
            Command::Ehlo(_) | Command::Helo(_) | Command::Lhlo(_) => Reply::UNKNOWN,
            Command::Mail(mail) => self.mail(&mail),
            Command::Rcpt(path) => self.rcpt(path).await,
            Command::Data => return self.data().await,
            Command::Bdat { octets, last } => return self.bdat(octets, last).await,
            Command::StartTls => return self.start_tls().await,
            Command::Rset => {
                self.transaction = None;
                Reply::OK
            }
            Command::Noop => Reply::OK,
            Command::Help => Reply::HELP,
            Command::Vrfy => Reply::CANNOT_VERIFY,
            Command::Quit => return Err(Stop::Say(Reply::BYE)),
        };
        if matches!(reply.code, 500..=504) {
            self.errors += 1;
        }
        self.say(reply);
        Ok(())
    }

    /// HELO, and the state after EHLO or LHLO (RFC 5321 section 4.1.4: as after RSET).
    fn greet(&mut self, name: &str, extended: bool) -> Reply {
        // The name goes into the Received line, where parentheses and quotes have a meaning.
        let plain = |c: char| if c.is_ascii_graphic() && !"()<>\\\";,".contains(c) { c } else { '?' };
        self.greeting = Some(Greeting { name: name.chars().map(plain).collect(), extended });
        self.transaction = None;
        Reply { code: 250, enhanced: "", text: self.server.hostname.clone().into() }
    }

    fn greet_extended(&mut self, name: &str) -> Outcome<()> {
        self.greet(name, true);
        let offers_tls = self.server.tls.is_some() && !self.connection.is_secure();
        let mut text = format!("250-{}\r\n250-PIPELINING\r\n", self.server.hostname);
        text.push_str(&format!("250-SIZE {}\r\n", self.server.limits.message_octets_max));
        if offers_tls {
            text.push_str("250-STARTTLS\r\n");
        }
        text.push_str("250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n");
        self.replies.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// MAIL FROM (RFC 5321 section 4.1.1.2), with SIZE checked as RFC 1870 section 6.1 says.
    fn mail(&mut self, mail: &MailFrom<'_>) -> Reply {
        let Some(greeting) = &self.greeting else { return Reply::SEQUENCE_GREETING };
        if self.transaction.is_some() {
            return Reply::SEQUENCE_NESTED;
        }
        let octets_max = self.server.limits.message_octets_max;
        if mail.octets > octets_max {
            return Reply::too_large(octets_max);
        }
        let transmission = Transmission {
            protocol: self.protocol(greeting.extended, mail.utf8),
            greeting: greeting.name.clone(),
            source: self.connection.source(),
            tls: self.connection.tls_description(),
            id: random_text(ID_CHARACTERS),
        };
        self.transaction = Some(Transaction {
            transmission,
            sender: mail.path.to_owned(),
            octets_declared: mail.octets,
            utf8: mail.utf8,
            recipients: Vec::new(),
            paths: Vec::new(),
            chunks: None,
        });
        Reply::SENDER_OK
    }

    /// The `with` of the Received line (RFC 3848, RFC 6531 section 4.3).
    fn protocol(&self, extended: bool, utf8: bool) -> &'static str {
        match (self.dialect, utf8, self.connection.is_secure()) {
            (Dialect::Lmtp, false, false) => "LMTP",
            (Dialect::Lmtp, false, true) => "LMTPS",
            (Dialect::Lmtp, true, false) => "UTF8LMTP",
            (Dialect::Lmtp, true, true) => "UTF8LMTPS",
            (Dialect::Smtp, true, false) => "UTF8SMTP",
            (Dialect::Smtp, true, true) => "UTF8SMTPS",
            (Dialect::Smtp, false, true) => "ESMTPS",
            (Dialect::Smtp, false, false) if extended => "ESMTP",
            (Dialect::Smtp, false, false) => "SMTP",
        }
    }

    /// RCPT TO (RFC 5321 section 4.1.1.3): everything that can be known about the recipient is answered here.
    async fn rcpt(&mut self, path: &str) -> Reply {
        let Some(transaction) = &mut self.transaction else { return Reply::SEQUENCE_MAIL };
        if transaction.chunks.is_some() {
            return Reply::SEQUENCE_BDAT;
        }
        if !transaction.utf8 && !path.is_ascii() {
            return Reply::ADDRESS_NOT_ASCII;
        }
        if transaction.recipients.len() >= self.server.limits.recipients_max {
            return Reply::TOO_MANY_RECIPIENTS;
        }
        let Transaction { transmission, sender, octets_declared, .. } = &*transaction;
        // Boxed, as delivering is, so that an idle session does not carry their state.
        let asked = self.server.delivery.recipient(transmission, sender, path, *octets_declared);
        let answer = Box::pin(asked).await;
        match answer {
            Ok(recipient) => {
                transaction.recipients.push(recipient);
                transaction.paths.push(path.to_owned());
                Reply::RECIPIENT_OK
            }
            Err(refusal) => {
                // Strangers who try one name after another are sent away; an MTA in front of us is not.
                if self.dialect == Dialect::Smtp {
                    self.errors += 1;
                }
                Reply::refusal(&refusal, self.dialect)
            }
        }
    }

    /// STARTTLS (RFC 3207): everything known before is forgotten.
    async fn start_tls(&mut self) -> Outcome<()> {
        let refused = match &self.server.tls {
            None => Some(Reply::NOT_IMPLEMENTED),
            Some(_) if self.connection.is_secure() => Some(Reply::TLS_ACTIVE),
            Some(_) => None,
        };
        if let Some(reply) = refused {
            self.errors += 1;
            self.say(reply);
            return Ok(());
        }
        if !self.reader.buffered().is_empty() {
            return Err(Stop::Say(Reply::TLS_INJECTION));
        }
        let Some(tls) = self.server.tls.clone() else { return Ok(()) };
        self.say(Reply::START_TLS);
        self.flush().await?;
        if let Err(error) = self.connection.start_tls(tls.server_config(), &mut self.reader).await {
            tracing::debug!(source = ?self.connection.source(), %error, "STARTTLS failed");
            return Err(Stop::Gone);
        }
        self.greeting = None;
        self.opened = Instant::now();
        self.transaction = None;
        Ok(())
    }

    pub(super) fn say(&mut self, reply: Reply) {
        reply.write(&mut self.replies);
    }

    pub(super) async fn flush(&mut self) -> Outcome<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let replies = std::mem::take(&mut self.replies);
        let write = async {
            self.connection.write_all(&replies).await?;
            self.connection.flush().await
        };
        match timeout(self.server.limits.command_timeout, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Stop::Gone),
        }
    }
}
