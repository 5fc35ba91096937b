//! Whoever may not go on is cut off within a second: suspended, held far above, its service switched off, its password
//! changed, its time over.

use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, PASSWORD};
use crate::support::imap::Imap;

const USER: &str = "x@it.test";
const SECOND: Duration = Duration::from_secs(1);
/// Tries before it counts as too slow: the machine that runs the tests may itself be slow at times.
const TRIES: usize = 4;

/// Opens a session, does what must end it, and answers how long after it was done the session ended.
fn cut(daemon: &Daemon, is_idle: bool, does: &[&str]) -> Duration {
    let mut session = daemon.imap(USER);
    session.select("INBOX");
    if is_idle {
        session.start("IDLE").unwrap();
        assert!(session.read_line().unwrap().text.starts_with('+'));
    }
    daemon.posthouse(does).ok();
    let done = Instant::now();
    loop {
        let line = session.read_line().expect("a farewell").text;
        if line.starts_with("* BYE") || line.starts_with("BYE") {
            break;
        }
    }
    assert!(session.connection.rest().unwrap().is_empty(), "the connection is closed");
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
            fastest = fastest.min(cut(&daemon, attempt % 2 == 0, does));
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
