//! Whoever may not go on is cut off within a second: suspended, held far above, its service switched off, its password
//! changed, its time over. Sessions of IMAP and POP3, and streams of the admin socket.

use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, PASSWORD};
use crate::support::http::{self, Lines};
use crate::support::imap::Imap;
use crate::support::pop3::Pop3;

const USER: &str = "x@it.test";
const SECOND: Duration = Duration::from_secs(1);
/// Tries before it counts as too slow: the machine that runs the tests may itself be slow at times.
const TRIES: usize = 4;

/// What runs until it is cut off.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Running {
    Selected,
    Idle,
    Pop3,
}

/// A session of this kind.
enum Session {
    Imap(Imap),
    Pop3(Pop3),
}

impl Session {
    fn open(daemon: &Daemon, kind: Running) -> Self {
        if kind == Running::Pop3 {
            return Self::Pop3(daemon.pop3(USER));
        }
        let mut session = daemon.imap(USER);
        session.select("INBOX");
        if kind == Running::Idle {
            session.start("IDLE").unwrap();
            assert!(session.read_line().unwrap().text.starts_with('+'));
        }
        Self::Imap(session)
    }

    /// Waits until the connection is closed; IMAP says a farewell before.
    fn ends(&mut self) {
        match self {
            Self::Pop3(session) => {
                // POP3 has no line of its own for it (RFC 1939).
                session.connection.rest().expect("the connection is closed");
            }
            Self::Imap(session) => {
                loop {
                    let line = session.read_line().expect("a farewell").text;
                    if line.starts_with("* BYE") || line.starts_with("BYE") {
                        break;
                    }
                }
                assert!(session.connection.rest().unwrap().is_empty(), "the connection is closed");
            }
        }
    }
}

/// Opens a session, does what must end it, and answers how long after it was done the session ended.
fn cut(daemon: &Daemon, kind: Running, does: &[&str]) -> Duration {
    let mut session = Session::open(daemon, kind);
    daemon.posthouse(does).ok();
    let done = Instant::now();
    session.ends();
    done.elapsed()
}

#[test]
fn sessions_end_within_a_second_and_begin_again_when_it_is_undone() {
    let daemon = Daemon::start();
    daemon.customer("gov", "gov.test");
    daemon.posthouse(&["customer", "create", "gov/health"]).ok();
    daemon.customer("gov/health/it", "it.test");
    daemon.mailbox(USER);
    let all_the_time = "not Mon-Sun 00:00-24:00";
    let cases: [(&[&str], &[&str]); 9] = [
        (&["mailbox", "suspend", USER, "--yes"], &["mailbox", "resume", USER]),
        (&["customer", "suspend", "gov", "--yes"], &["customer", "resume", "gov"]),
        (
            &["customer", "suspend", "gov/health", "--switch", "imap", "--yes"],
            &["customer", "resume", "gov/health"],
        ),
        (
            &["mailbox", "settings", "set", USER, "service.imap", "off"],
            &["mailbox", "settings", "unset", USER, "service.imap"],
        ),
        (
            &["domain", "settings", "set", "it.test", "service.imap", "off"],
            &["domain", "settings", "unset", "it.test", "service.imap"],
        ),
        (
            &["customer", "settings", "lock", "gov", "service.imap", "off"],
            &["customer", "settings", "lock", "gov", "service.imap", "on"],
        ),
        (
            &["customer", "settings", "set", "/", "login.windows", all_the_time],
            &["customer", "settings", "unset", "/", "login.windows"],
        ),
        (
            &["mailbox", "settings", "set", USER, "login.windows", all_the_time],
            &["mailbox", "settings", "unset", USER, "login.windows"],
        ),
        (&["mailbox", "delete", USER, "--yes"], &["mailbox", "undelete", USER]),
    ];
    for (does, undoes) in cases {
        let mut fastest = Duration::MAX;
        for attempt in 0..TRIES {
            let kind = if attempt % 2 == 0 { Running::Idle } else { Running::Selected };
            fastest = fastest.min(cut(&daemon, kind, does));
            let mut refused = Imap::open(daemon.address("imap")).unwrap();
            let login = refused.command(&format!("LOGIN {USER} \"{PASSWORD}\"")).unwrap();
            assert_eq!(login.status, "NO", "{does:?}");
            daemon.posthouse(undoes).ok();
            if fastest < SECOND {
                break;
            }
        }
        assert!(fastest < SECOND, "{does:?}: {fastest:?}");
    }
    daemon.imap(USER).select("INBOX");
}

#[test]
fn switched_off_service_defers_mail_and_stops_pop3_alone() {
    let daemon = Daemon::start();
    daemon.customer("a", "it.test");
    daemon.mailbox(USER);
    daemon.posthouse(&["domain", "settings", "set", "it.test", "service.smtp", "off"]).ok();
    let mut lmtp = daemon.lmtp();
    lmtp.command("MAIL FROM:<s@elsewhere.test>").unwrap();
    let answer = lmtp.command(&format!("RCPT TO:<{USER}>")).unwrap();
    assert_eq!(answer.code, 450, "{answer:?}");
    daemon.posthouse(&["mailbox", "settings", "set", USER, "service.smtp", "on"]).ok();
    let answer = lmtp.command(&format!("RCPT TO:<{USER}>")).unwrap();
    assert_eq!(answer.code, 250, "{answer:?}");
    daemon.posthouse(&["customer", "settings", "set", "a", "service.pop3", "off"]).ok();
    daemon.imap(USER).select("INBOX");
    let shown = daemon.json(&["mailbox", "show", USER]);
    assert_eq!(shown[0]["switches_off"], serde_json::json!(["pop3"]));
}

#[test]
fn pop3_sessions_end_within_a_second() {
    let daemon = Daemon::start();
    daemon.customer("gov", "gov.test");
    daemon.customer("gov/it", "it.test");
    daemon.mailbox(USER);
    let cases: [(&[&str], &[&str]); 4] = [
        (&["mailbox", "suspend", USER, "--yes"], &["mailbox", "resume", USER]),
        (&["customer", "suspend", "gov", "--switch", "pop3", "--yes"], &["customer", "resume", "gov"]),
        (
            &["domain", "settings", "set", "it.test", "service.pop3", "off"],
            &["domain", "settings", "unset", "it.test", "service.pop3"],
        ),
        (
            &["customer", "settings", "set", "gov", "login.windows", "not Mon-Sun 00:00-24:00"],
            &["customer", "settings", "unset", "gov", "login.windows"],
        ),
    ];
    for (does, undoes) in cases {
        let mut tries = (0..TRIES).map(|_| {
            let took = cut(&daemon, Running::Pop3, does);
            daemon.posthouse(undoes).ok();
            took
        });
        assert!(tries.any(|took| took < SECOND), "{does:?}");
    }
}

/// A moment so many seconds ahead, as it is written.
#[allow(clippy::disallowed_methods, reason = "the part of the present second that is over counts too")]
fn ahead(secs: i64) -> (String, Instant) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = posthouse::base::clock::Timestamp::from_secs(i64::try_from(now.as_secs()).unwrap() + secs);
    let left = Duration::from_secs(now.as_secs() + secs.cast_unsigned()) - now;
    (at.to_string(), Instant::now() + left)
}

#[test]
fn sessions_end_within_a_second_of_the_date_on_which_the_mailbox_expires() {
    let daemon = Daemon::start();
    daemon.customer("gov", "gov.test");
    daemon.customer("gov/it", "it.test");
    daemon.mailbox(USER);
    for (noun, name) in [("mailbox", USER), ("customer", "gov")] {
        let mut tries = (0..TRIES).map(|attempt| {
            let kind = [Running::Idle, Running::Pop3, Running::Selected][attempt % 3];
            let mut session = Session::open(&daemon, kind);
            let (date, over) = ahead(3);
            daemon.posthouse(&[noun, "expire", name, &date, "--on-expiry", "disable-login"]).ok();
            session.ends();
            let took = Instant::now().saturating_duration_since(over);
            daemon.posthouse(&[noun, "expire", name, "none"]).ok();
            daemon.imap(USER).select("INBOX");
            took
        });
        assert!(tries.any(|took| took < SECOND), "{noun}");
    }
}

/// Reads on until the stream says that it is over.
fn stream_ends(mut lines: Lines) {
    let begun = Instant::now();
    let mut last = serde_json::Value::Null;
    while let Some(line) = lines.next().unwrap() {
        assert!(begun.elapsed() < PATIENCE, "the stream goes on");
        last = line;
    }
    assert!(last["error"].is_object(), "{last}");
}

#[test]
fn streams_end_within_a_second_of_revocation_expiry_and_suspension() {
    let daemon = Daemon::start();
    daemon.customer("gov", "gov.test");
    let made = daemon.api(
        "POST",
        "/v1/customers",
        Some(&serde_json::json!({ "path": "gov/it", "domain": "it.test", "admin": "chief" })),
    );
    let login = made.json()["administrator"].as_str().unwrap().to_owned();
    let all_the_time = "not Mon-Sun 00:00-24:00";
    let grant = ["--role", "admin", "--customer", "gov/it"];
    let revoke = [&["admin", "revoke", &login], &grant[..], &["--yes"]].concat();
    let again = [&["admin", "grant", &login], &grant[..]].concat();
    let cases: [(&[&str], &[&str]); 5] = [
        (&revoke, &again),
        (&["admin", "disable", &login, "--yes"], &["admin", "enable", &login]),
        (&["customer", "suspend", "gov", "--switch", "manage", "--yes"], &["customer", "resume", "gov"]),
        (
            &["customer", "settings", "set", "gov", "login.windows_administrators", all_the_time],
            &["customer", "settings", "unset", "gov", "login.windows_administrators"],
        ),
        (&["customer", "delete", "gov/it", "--yes"], &["customer", "undelete", "gov/it"]),
    ];
    let token = || {
        let asked = serde_json::json!({ "name": login });
        let made = daemon.api("POST", "/v1/tokens", Some(&asked)).json();
        let text = |member: &str| made[member].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        (text("id"), text("token"))
    };
    let open = |token: &str| {
        let address = format!("unix:{}", daemon.admin_socket().display());
        let bearer = format!("Bearer {token}");
        let mut lines = http::lines(&address, "/v1/events", &[("Authorization", &bearer)]).unwrap();
        assert!(lines.next().unwrap().unwrap()["cursor"].is_string());
        lines
    };
    for (does, undoes) in cases {
        let mut tries = (0..TRIES).map(|_| {
            let stream = open(&token().1);
            daemon.posthouse(does).ok();
            let done = Instant::now();
            stream_ends(stream);
            let took = done.elapsed();
            daemon.posthouse(undoes).ok();
            took
        });
        assert!(tries.any(|took| took < SECOND), "{does:?}");
    }
    let mut revoked = (0..TRIES).map(|_| {
        let (id, secret) = token();
        let stream = open(&secret);
        assert!(daemon.api("DELETE", &format!("/v1/tokens/{id}"), None).status < 300);
        let done = Instant::now();
        stream_ends(stream);
        done.elapsed()
    });
    assert!(revoked.any(|took| took < SECOND), "a revoked token");
    // The grant ends while the stream runs.
    let mut expired = (0..TRIES).map(|_| {
        daemon.posthouse(&revoke).ok();
        let (date, over) = ahead(3);
        daemon.posthouse(&[&again[..], &["--expires", &date]].concat()).ok();
        let stream = open(&token().1);
        stream_ends(stream);
        Instant::now().saturating_duration_since(over)
    });
    assert!(expired.any(|took| took < SECOND), "a grant that has ended");
}
