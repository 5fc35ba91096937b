//! Password verification for Postfix (`smtpd_sasl_type = dovecot`): the Dovecot authentication protocol, version 1,
//! as a server.
//!
//! Lines of fields separated by tabs. The server introduces itself (VERSION, MECH, SPID, CUID, COOKIE, DONE), the
//! client does (VERSION, CPID); then AUTH and CONT from the client, each answered with CONT, OK or FAIL under the
//! client's number. A login is one for the submission service, so its switch and every hold count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::base::address::Address;
use crate::base::id::random_bytes;
use crate::service::context::Source;
use crate::service::login::{Login, LoginError};
use crate::wire::line::{LineError, Reader};
use crate::wire::listen::Shutdown;
use crate::wire::sasl::{Credentials, Exchange, MECHANISMS, RESPONSE_OCTETS_MAX, SaslError, Step};
use crate::wire::stream::Connection;

/// Longest line taken, in octets: a response and the parameters beside it.
const LINE_OCTETS_MAX: usize = 2 * RESPONSE_OCTETS_MAX;
/// Exchanges of one connection that wait for the client; Postfix has one at a time.
const EXCHANGES_MAX: usize = 16;
/// Postfix keeps a connection while it has work.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Seed of the cookie's uniqueness: each connection gets a number of its own.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// What the MTA says of the connection on which credentials came to it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Came {
    /// From where.
    pub source: Source,
    /// Whether it was under TLS.
    pub is_secure: bool,
}

impl Came {
    /// Whether nobody on the way could read a password: under TLS, or from the machine itself.
    pub fn is_private(self) -> bool {
        self.is_secure || self.source.is_some_and(|address| address.to_canonical().is_loopback())
    }
}

/// Verifies credentials; tests put their own in its place.
pub trait Verify: Send + Sync + 'static {
    /// Whose credentials these are, when they may be used for submission.
    fn verify(
        &self,
        credentials: &Credentials,
        came: Came,
    ) -> impl Future<Output = Result<Address, LoginError>> + Send;
}

impl Verify for Login {
    async fn verify(&self, credentials: &Credentials, came: Came) -> Result<Address, LoginError> {
        let Credentials { username, password, .. } = credentials;
        let session = self.submission(username, password, came.source, came.is_private()).await?;
        Ok(session.owner().address().clone())
    }
}

/// Serves one connection to its end. A client that says nothing for `first_timeout` after it came is sent away.
pub async fn session<V: Verify>(
    verify: Arc<V>,
    first_timeout: Duration,
    mut connection: Connection,
    shutdown: Shutdown,
) {
    let mut idle_timeout = first_timeout.min(IDLE_TIMEOUT);
    let mut session = Session { verify, exchanges: HashMap::new() };
    let mut reader = Reader::new();
    let mut reply = introduction();
    loop {
        let written = timeout(IDLE_TIMEOUT, async {
            connection.write_all(reply.as_bytes()).await?;
            connection.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
        let line = tokio::select! {
            biased;
            line = timeout(idle_timeout, reader.line(&mut connection, LINE_OCTETS_MAX)) => line,
            () = shutdown.requested() => return,
        };
        idle_timeout = IDLE_TIMEOUT;
        reply = match line {
            Ok(Ok(line)) => match session.obey(line.text).await {
                Some(reply) => reply,
                None => return,
            },
            Ok(Err(LineError::TooLong)) => {
                tracing::warn!("authentication line too long, connection closed");
                return;
            }
            Ok(Err(_)) | Err(_) => return,
        };
    }
}

fn introduction() -> String {
    let mut text = String::from("VERSION\t1\t2\n");
    for mechanism in MECHANISMS {
        text.push_str(&format!("MECH\t{mechanism}\tplaintext\n"));
    }
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let cookie: String = random_bytes(16).iter().map(|byte| format!("{byte:02x}")).collect();
    text.push_str(&format!("SPID\t{}\nCUID\t{number}\nCOOKIE\t{cookie}\nDONE\n", std::process::id()));
    text
}

/// Who a request comes from, and its exchange.
struct Pending {
    exchange: Exchange,
    came: Came,
}

struct Session<V> {
    verify: Arc<V>,
    exchanges: HashMap<u32, Pending>,
}

impl<V: Verify> Session<V> {
    /// Does what a line says. Nothing when the client breaks the protocol.
    async fn obey(&mut self, line: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(line).ok()?;
        let (command, rest) = text.split_once('\t').unwrap_or((text, ""));
        match command {
            "VERSION" => (rest.split('\t').next() == Some("1")).then(String::new),
            "CPID" => Some(String::new()),
            "AUTH" => {
                let (id, rest) = rest.split_once('\t').unwrap_or((rest, ""));
                Some(self.start(id.parse().ok()?, rest).await)
            }
            "CONT" => {
                let (id, response) = rest.split_once('\t').unwrap_or((rest, ""));
                Some(self.go_on(id.parse().ok()?, response).await)
            }
            "CANCEL" => {
                self.exchanges.remove(&rest.parse().ok()?);
                Some(String::new())
            }
            // Unknown commands are ignored, so that later minor versions can add some.
            _ => Some(String::new()),
        }
    }

    /// `AUTH id mechanism [parameters] [resp=response]`; the response comes last.
    async fn start(&mut self, id: u32, rest: &str) -> String {
        let mut fields = rest.split('\t');
        let mechanism = fields.next().unwrap_or_default();
        let mut came = Came::default();
        let mut initial = None;
        for field in fields {
            if let Some(address) = field.strip_prefix("rip=") {
                came.source = address.parse().ok();
            } else if field == "secured" || field.starts_with("secured=") {
                // A flag; newer versions of the protocol say how.
                came.is_secure = true;
            } else if let Some(response) = field.strip_prefix("resp=") {
                initial = Some(response.as_bytes());
            }
        }
        match Exchange::start(mechanism, initial) {
            Ok((exchange, step)) => self.step(id, Pending { exchange, came }, step).await,
            Err(error) => failed_exchange(id, error),
        }
    }

    async fn go_on(&mut self, id: u32, response: &str) -> String {
        let Some(mut pending) = self.exchanges.remove(&id) else {
            return failed_exchange(id, SaslError::Malformed);
        };
        match pending.exchange.respond(response.as_bytes()) {
            Ok(step) => self.step(id, pending, step).await,
            Err(error) => failed_exchange(id, error),
        }
    }

    async fn step(&mut self, id: u32, pending: Pending, step: Step) -> String {
        match step {
            Step::Challenge(_) if self.exchanges.len() >= EXCHANGES_MAX => {
                format!("FAIL\t{id}\ttemp\treason=Too many exchanges at once\n")
            }
            Step::Challenge(challenge) => {
                self.exchanges.insert(id, pending);
                format!("CONT\t{id}\t{challenge}\n")
            }
            Step::Done(credentials) => match Box::pin(self.verify.verify(&credentials, pending.came)).await {
                Ok(address) => format!("OK\t{id}\tuser={}\n", escaped(&address.to_string())),
                Err(error) => failed_login(id, &credentials.username, error),
            },
        }
    }
}

fn failed_exchange(id: u32, error: SaslError) -> String {
    format!("FAIL\t{id}\treason={error}\n")
}

fn failed_login(id: u32, username: &str, error: LoginError) -> String {
    let why = match error {
        LoginError::Failed | LoginError::TlsRequired => "",
        LoginError::Held | LoginError::OutsideWindow => "\tuser_disabled",
        LoginError::Unavailable | LoginError::TooMany => "\ttemp",
    };
    format!("FAIL\t{id}\tuser={}{why}\treason={error}\n", escaped(username))
}

/// Field separators within a field are written as 0x01 and a letter (Dovecot's `str_tabescape`).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => escaped.push_str("\u{1}0"),
            '\u{1}' => escaped.push_str("\u{1}1"),
            '\t' => escaped.push_str("\u{1}t"),
            '\r' => escaped.push_str("\u{1}r"),
            '\n' => escaped.push_str("\u{1}n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::mta::fake::Fake;

    /// The lines after the introduction.
    async fn talk(input: String) -> Vec<String> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (_stop, shutdown) = Shutdown::new();
        let served =
            tokio::spawn(session(Arc::new(Fake), IDLE_TIMEOUT, Connection::memory(server, None), shutdown));
        client.write_all(input.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        served.await.unwrap();
        let (introduction, rest) = output.split_once("DONE\n").unwrap();
        let mut lines = introduction.lines();
        assert_eq!(lines.next(), Some("VERSION\t1\t2"));
        assert_eq!(lines.next(), Some("MECH\tPLAIN\tplaintext"));
        assert_eq!(lines.next(), Some("MECH\tLOGIN\tplaintext"));
        assert!(lines.next().unwrap().starts_with("SPID\t"));
        assert!(lines.next().unwrap().starts_with("CUID\t"));
        let cookie = lines.next().unwrap().strip_prefix("COOKIE\t").unwrap();
        assert!(cookie.len() == 32 && cookie.bytes().all(|byte| byte.is_ascii_hexdigit()));
        rest.lines().map(str::to_owned).collect()
    }

    const HELLO: &str = "VERSION\t1\t1\nCPID\t77\n";
    const FROM: &str = "service=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.9\tsecured";

    fn plain(username: &str, password: &str) -> String {
        STANDARD.encode(format!("\0{username}\0{password}"))
    }

    #[tokio::test]
    async fn plain_with_initial_response() {
        let auth =
            |id, user: &str, password| format!("AUTH\t{id}\tPLAIN\t{FROM}\tresp={}\n", plain(user, password));
        let lines = talk(format!(
            "{HELLO}{}{}{}{}",
            auth(1, "tim@x.example", "secret"),
            auth(2, "tim@x.example", "wrong"),
            auth(3, "held@x.example", "secret"),
            auth(4, "no\tbody", "secret"),
        ))
        .await;
        assert_eq!(
            lines,
            [
                "OK\t1\tuser=tim@x.example",
                "FAIL\t2\tuser=tim@x.example\treason=authentication failed",
                "FAIL\t3\tuser=held@x.example\tuser_disabled\treason=this account is suspended for this service",
                "FAIL\t4\tuser=no\u{1}tbody\treason=authentication failed",
            ]
        );
    }

    #[tokio::test]
    async fn exchanges_go_on_under_their_numbers() {
        let (name, password) = (STANDARD.encode("tim@x.example"), STANDARD.encode("secret"));
        let lines = talk(format!(
            "{HELLO}AUTH\t1\tLOGIN\t{FROM}\nAUTH\t2\tPLAIN\t{FROM}\nCONT\t1\t{name}\n\
             CONT\t2\t{}\nCONT\t1\t{password}\nCONT\t1\t{password}\n",
            plain("tim@x.example", "secret")
        ))
        .await;
        assert_eq!(
            lines,
            [
                "CONT\t1\tVXNlcm5hbWU6",
                "CONT\t2\t",
                "CONT\t1\tUGFzc3dvcmQ6",
                "OK\t2\tuser=tim@x.example",
                "OK\t1\tuser=tim@x.example",
                "FAIL\t1\treason=malformed authentication response",
            ]
        );
    }

    #[tokio::test]
    async fn failures_that_may_pass_are_temporary() {
        let lines = talk(format!(
            "{HELLO}AUTH\t1\tPLAIN\tservice=smtp\tresp={}\nAUTH\t2\tCRAM-MD5\t{FROM}\n",
            plain("tim@x.example", "secret")
        ))
        .await;
        assert_eq!(
            lines,
            [
                "FAIL\t1\tuser=tim@x.example\ttemp\treason=too many failed logins, try again later",
                "FAIL\t2\treason=unsupported authentication mechanism",
            ]
        );
    }

    #[tokio::test]
    async fn whether_the_client_came_under_tls_is_passed_on() {
        let auth = |id, from: &str| {
            format!(
                "AUTH\t{id}\tPLAIN\tservice=smtp\t{from}\tresp={}\n",
                plain("careful@x.example", "secret")
            )
        };
        let lines = talk(format!(
            "{HELLO}{}{}{}{}{}",
            auth(1, "rip=192.0.2.9\tsecured"),
            auth(2, "rip=192.0.2.9\tsecured=tls"),
            auth(3, "rip=::ffff:127.0.0.1"),
            auth(4, "rip=192.0.2.9"),
            auth(5, "lip=127.0.0.1"),
        ))
        .await;
        let refused = "user=careful@x.example\treason=the password of this account is taken under TLS only";
        let taken = |id| format!("OK\t{id}\tuser=careful@x.example");
        let failed = |id| format!("FAIL\t{id}\t{refused}");
        assert_eq!(lines, [taken(1), taken(2), taken(3), failed(4), failed(5)]);
    }

    #[tokio::test]
    async fn exchanges_left_open_are_bounded_and_can_be_cancelled() {
        let open: String = (1..=17).map(|id| format!("AUTH\t{id}\tLOGIN\t{FROM}\n")).collect();
        let lines = talk(format!("{HELLO}{open}CANCEL\t1\nAUTH\t18\tLOGIN\t{FROM}\n")).await;
        assert!(lines[15].starts_with("CONT\t16\t"));
        assert!(lines[16].starts_with("FAIL\t17\ttemp"));
        assert!(lines[17].starts_with("CONT\t18\t"));
    }

    #[tokio::test]
    async fn other_versions_and_nonsense_close_the_connection() {
        for input in ["VERSION\t2\t0\n", "AUTH\tx\tPLAIN\n", "AUTH\n", "CANCEL\n"] {
            let lines = talk(format!("{input}AUTH\t1\tLOGIN\n")).await;
            assert!(lines.is_empty(), "{input}: {lines:?}");
        }
        let long = "x".repeat(20_000);
        assert!(talk(format!("{HELLO}AUTH\t1\tPLAIN\tresp={long}\n")).await.is_empty());
    }
}
