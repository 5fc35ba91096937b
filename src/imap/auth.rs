//! Not authenticated state (RFC 3501 section 6.2): capabilities, STARTTLS, AUTHENTICATE, LOGIN.

use bytes::Bytes;
use secrecy::SecretString;
use tokio::time::timeout_at;

use super::command::Command;
use super::outcome::{Done, Failure, Outcome};
use super::respond;
use super::session::{Account, Session, State};
use crate::service::context::Service;
use crate::service::login::{LoginError, MailSession};
use crate::wire::sasl::{Credentials, Exchange, MECHANISMS, RESPONSE_OCTETS_MAX, SaslError, Step};
use crate::wire::stream::UpgradeError;

/// What every state offers.
const ALWAYS: &str = "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE";
/// What a logged-in client can use.
const AUTHENTICATED: &str = "NAMESPACE CHILDREN UIDPLUS UNSELECT MOVE CONDSTORE SPECIAL-USE CREATE-SPECIAL-USE \
    LIST-EXTENDED LIST-STATUS STATUS=SIZE ESEARCH QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE MULTIAPPEND";

/// The capabilities at this moment (RFC 3501 section 7.2.1).
pub fn capabilities(session: &Session, authenticated: bool) -> String {
    let mut text = ALWAYS.to_owned();
    if authenticated {
        text.push(' ');
        text.push_str(AUTHENTICATED);
        text.push_str(&format!(" APPENDLIMIT={}", session.services.limits.message_octets_max));
        return text;
    }
    let connection = &session.client.connection;
    if session.services.tls.is_some() && !connection.is_secure() {
        text.push_str(" STARTTLS");
    }
    if connection.is_private() {
        for mechanism in MECHANISMS {
            text.push_str(" AUTH=");
            text.push_str(mechanism);
        }
    } else {
        // RFC 3501 section 6.2.3: passwords are not taken in the clear.
        text.push_str(" LOGINDISABLED");
    }
    text
}

/// Executes a command before login.
pub async fn execute(session: &mut Session, tag: &Bytes, command: Command) -> (State, Outcome) {
    let outcome = match command {
        Command::StartTls => start_tls(session, tag).await,
        Command::Login { username, password } => match login(session, &username, &password).await {
            Ok(account) => return logged_in(session, account),
            Err(failure) => Err(failure),
        },
        Command::Authenticate { mechanism, initial } => {
            match authenticate(session, &mechanism, initial).await {
                Ok(account) => return logged_in(session, account),
                Err(failure) => Err(failure),
            }
        }
        _ => Err(Failure::Malformed("log in first".to_owned())),
    };
    (State::NotAuthenticated, outcome)
}

fn logged_in(session: &Session, account: MailSession) -> (State, Outcome) {
    let code = format!("CAPABILITY {}", capabilities(session, true));
    let account = Box::new(Account { session: account, condstore: false });
    (State::Authenticated(account), Ok(Done::with_code(code, "logged in")))
}

/// STARTTLS (RFC 3501 section 6.2.1). The tagged answer comes before the handshake; what the client sent in
/// the clear after the command ends the session.
async fn start_tls(session: &mut Session, tag: &Bytes) -> Outcome {
    let Some(tls) = session.services.tls.clone() else {
        return Err(Failure::Malformed("TLS is not available".to_owned()));
    };
    if session.client.connection.is_secure() {
        return Err(Failure::Malformed("TLS is on already".to_owned()));
    }
    if !session.client.reader.buffered().is_empty() {
        return Err(Failure::Bye("plaintext after STARTTLS"));
    }
    let client = &mut session.client;
    respond::status(&mut client.out, tag, "OK", None, "begin TLS negotiation now");
    client.flush().await?;
    match client.connection.start_tls(tls.server_config(), &mut client.reader).await {
        Ok(()) => Err(Failure::Answered),
        Err(UpgradeError::PlaintextAfterStartTls) => Err(Failure::Bye("plaintext after STARTTLS")),
        Err(error) => {
            tracing::debug!(%error, "STARTTLS failed");
            Err(Failure::Disconnected)
        }
    }
}

fn private(session: &Session) -> Result<(), Failure> {
    if session.client.connection.is_private() {
        Ok(())
    } else {
        // RFC 5530: the client must not send credentials again before it has started TLS.
        Err(Failure::refused("PRIVACYREQUIRED", "start TLS before logging in"))
    }
}

/// LOGIN (RFC 3501 section 6.2.3).
async fn login(session: &mut Session, username: &Bytes, password: &Bytes) -> Result<MailSession, Failure> {
    private(session)?;
    let (Ok(username), Ok(password)) = (std::str::from_utf8(username), std::str::from_utf8(password)) else {
        return verify_failed(session, LoginError::Failed);
    };
    let (username, password) = (username.to_owned(), SecretString::from(password));
    verify(session, &Credentials { username, password, acts_as: None }).await
}

/// AUTHENTICATE (RFC 3501 section 6.2.2) with an initial response (RFC 4959). With a mailbox as authorization
/// identity (RFC 4616) an administrator opens it.
async fn authenticate(
    session: &mut Session,
    mechanism: &str,
    initial: Option<Bytes>,
) -> Result<MailSession, Failure> {
    private(session)?;
    let refused = |error| match error {
        SaslError::Mechanism => Failure::refused("CANNOT", "unsupported authentication mechanism"),
        SaslError::Cancelled => Failure::Malformed("authentication cancelled".to_owned()),
        SaslError::Malformed => Failure::Malformed("malformed authentication response".to_owned()),
        SaslError::Authorization => Failure::refused("AUTHORIZATIONFAILED", error.to_string()),
    };
    let (mut exchange, mut step) = Exchange::start_acting(mechanism, initial.as_deref()).map_err(refused)?;
    loop {
        match step {
            Step::Done(credentials) => return verify(session, &credentials).await,
            Step::Challenge(challenge) => {
                let deadline = session.login_deadline();
                let client = &mut session.client;
                client.out.extend_from_slice(format!("+ {challenge}\r\n").as_bytes());
                client.flush().await?;
                let line = client.reader.line(&mut client.connection, RESPONSE_OCTETS_MAX + 2);
                let line = match timeout_at(deadline, line).await {
                    Ok(Ok(line)) => line,
                    Ok(Err(crate::wire::line::LineError::TooLong)) => {
                        return Err(Failure::Bye("the authentication response is too long"));
                    }
                    Ok(Err(_)) => return Err(Failure::Disconnected),
                    Err(_) => return Err(Failure::Bye("login took too long")),
                };
                step = exchange.respond(line.text).map_err(refused)?;
            }
        }
    }
}

async fn verify(session: &mut Session, credentials: &Credentials) -> Result<MailSession, Failure> {
    let source = session.client.connection.source();
    let (login, content) = (&session.services.login, &session.services.content);
    let Credentials { username, password, acts_as } = credentials;
    let login = async {
        match acts_as {
            None => login.password(Service::Imap, username, password, source).await,
            Some(mailbox) => content.open(Service::Imap, mailbox, username, password, source).await,
        }
    };
    match Box::pin(login).await {
        Ok(mail_session) => Ok(mail_session),
        Err(error) => verify_failed(session, error),
    }
}

/// The codes of RFC 5530 section 3 for logins that fail.
fn verify_failed(session: &mut Session, error: LoginError) -> Result<MailSession, Failure> {
    let code = match error {
        LoginError::Failed => "AUTHENTICATIONFAILED",
        LoginError::Held | LoginError::OutsideWindow => "AUTHORIZATIONFAILED",
        LoginError::TlsRequired => "PRIVACYREQUIRED",
        LoginError::Unavailable => "UNAVAILABLE",
        LoginError::TooMany => "LIMIT",
    };
    session.failed_logins += 1;
    Err(Failure::refused(code, error.to_string()))
}
