//! What an operator does: checks a configuration, looks at health and metrics, traces a message, closes sessions,
//! restarts without losing anything.

use std::process::Command;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, PROGRAM, Setup};
use crate::support::http;
use crate::support::programs::{run, write};
use crate::support::wait_for;

#[test]
fn configuration_mistakes_are_reported_all_at_once_with_lines() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("posthouse.toml");
    write(
        &file,
        "[data]\ndirectory = \"x\"\n\n[listen]\nimap = [\"127.0.0.1:99999\"]\nlmpt = []\n\n[limits]\n\
         login_timeout_secs = \"soon\"\n",
    );
    let finished = run(Command::new(PROGRAM).args(["config", "check", "--config"]).arg(&file), b"");
    assert_eq!(finished.status.code(), Some(2), "{}", finished.stderr);
    for place in [":2:", ":5:", ":6:", ":9:"] {
        assert!(finished.stderr.contains(place), "no mistake at {place} in\n{}", finished.stderr);
    }
    assert!(finished.stderr.contains("lmtp"), "no suggestion in\n{}", finished.stderr);
    // The daemon refuses to start with the same words.
    let served = run(Command::new(PROGRAM).args(["serve", "--config"]).arg(&file), b"");
    assert_eq!(served.status.code(), Some(2), "{}", served.stderr);
    assert!(served.stderr.contains(":5:"), "{}", served.stderr);
}

#[test]
fn health_and_metrics_answer_without_naming_customers() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.deliver("alice@acme.test", &message(900, 1));
    let ask = |path: &str| http::request(daemon.address("http"), "GET", path, &[], None).expect("HTTP");
    assert_eq!(ask("/livez").status, 200);
    assert_eq!(ask("/readyz").status, 200);
    let metrics = ask("/metrics");
    assert_eq!(metrics.status, 200);
    let text = String::from_utf8(metrics.body).expect("text");
    assert!(text.contains("# TYPE posthouse_"), "{text}");
    assert!(!text.contains("acme") && !text.contains("alice"), "{text}");
    // Management is not for this listener.
    assert_eq!(ask("/v1/meta").status, 404);
}

#[test]
fn trace_tells_where_a_message_went() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.deliver("alice+bills@acme.test", &message(900, 1));
    daemon.lmtp().deliver("sender@example.test", &["nobody@acme.test"], &message(900, 2)).expect("LMTP");
    let told = daemon.posthouse(&["trace", "alice+bills@acme.test"]).ok().stdout;
    assert!(told.contains("sender@example.test") && told.contains("INBOX"), "{told}");
    // The mailbox is found whatever address the mail was sent to.
    let told = daemon.posthouse(&["trace", "alice@acme.test"]).ok().stdout;
    assert!(told.contains("alice+bills@acme.test"), "{told}");
    let told = wait_for("the refusal in the trace", || {
        let told = daemon.posthouse(&["trace", "nobody@acme.test"]).ok().stdout;
        (!told.is_empty()).then_some(told)
    });
    assert!(told.contains("no such mailbox"), "{told}");
}

#[test]
fn closed_session_ends_and_suspension_ends_them_all() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    session.start("IDLE").expect("IDLE");
    session.read_line().expect("continuation");
    let listed = daemon.posthouse(&["session", "list"]).ok().stdout;
    assert!(listed.contains("alice@acme.test"), "{listed}");
    daemon.posthouse(&["session", "close", "alice@acme.test", "--yes"]).ok();
    let rest = String::from_utf8(session.connection.rest().expect("the server closes")).expect("text");
    assert!(rest.contains("* BYE"), "{rest}");
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    daemon.posthouse(&["mailbox", "suspend", "alice@acme.test", "--yes"]).ok();
    let rest = String::from_utf8(session.connection.rest().expect("the server closes")).expect("text");
    assert!(rest.contains("* BYE"), "{rest}");
    let mut refused = crate::support::imap::Imap::open(daemon.address("imap")).expect("IMAP");
    let answer = refused.command(&format!("LOGIN alice@acme.test \"{PASSWORD}\"")).expect("LOGIN");
    assert_eq!(answer.status, "NO");
}

#[test]
fn second_daemon_on_the_same_data_is_refused() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let finished = run(
        Command::new(PROGRAM)
            .args(["serve", "--config"])
            .arg(daemon.configuration_file())
            .current_dir(daemon.dir()),
        b"",
    );
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("data"), "{}", finished.stderr);
    assert!(daemon.is_running());
    daemon.deliver("alice@acme.test", &message(900, 1));
}

#[test]
fn graceful_stop_finishes_what_was_begun_and_a_restart_keeps_everything() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let mut reader = daemon.imap("alice@acme.test");
    reader.command("CREATE Work").expect("CREATE").ok();
    reader.append("Work", "\\Flagged \\Seen keyword", &message(900, 1)).expect("APPEND").ok();
    let before = reader.select("Work");
    let identity = (before.code("UIDVALIDITY"), before.code("UIDNEXT"));
    daemon.stop();
    let rest = String::from_utf8(reader.connection.rest().expect("the server closes")).expect("text");
    assert!(rest.contains("* BYE"), "{rest}");
    daemon.start_again();
    let mut reader = daemon.imap("alice@acme.test");
    let after = reader.select("Work");
    assert_eq!((after.code("UIDVALIDITY"), after.code("UIDNEXT")), identity);
    let answer = reader.command("FETCH 1 (FLAGS)").expect("FETCH").ok();
    let flags = answer.all("FETCH").next().and_then(|line| line.flags()).expect("flags");
    for flag in ["\\Flagged", "\\Seen", "keyword"] {
        assert!(flags.iter().any(|set| set == flag), "{flags:?}");
    }
}
