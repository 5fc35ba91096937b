//! IMAP sessions: greeting, capabilities, login, TLS, malformed commands, IDLE, the end.

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::imap::Imap;

const USER: &str = "alice@acme.test";

fn daemon() -> Daemon {
    Daemon::with_alice(Setup::default())
}

fn open(daemon: &Daemon) -> Imap {
    Imap::open(daemon.address("imap")).expect("IMAP")
}

/// `user` and [`PASSWORD`] as SASL PLAIN in base 64.
fn plain(user: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{PASSWORD}"))
}

#[test]
fn capabilities_follow_the_state() {
    let daemon = daemon();
    let mut session = open(&daemon);
    let capabilities = |session: &mut Imap| {
        let answer = session.command("CAPABILITY").unwrap().ok();
        let line = answer.all("CAPABILITY").next().expect("CAPABILITY").text.clone();
        line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let before = capabilities(&mut session);
    for name in ["IMAP4rev1", "LITERAL+", "SASL-IR", "STARTTLS", "AUTH=PLAIN", "ID", "ENABLE", "IDLE"] {
        assert!(before.iter().any(|found| found == name), "{name} in {before:?}");
    }
    assert!(!before.iter().any(|found| found == "LOGINDISABLED"), "loopback is private");
    let login = session.command(&format!("LOGIN {USER} \"{PASSWORD}\"")).unwrap().ok();
    assert!(login.code("CAPABILITY").expect("code").contains("CONDSTORE"));
    let after = capabilities(&mut session);
    for name in [
        "NAMESPACE",
        "CHILDREN",
        "UIDPLUS",
        "UNSELECT",
        "MOVE",
        "CONDSTORE",
        "SPECIAL-USE",
        "CREATE-SPECIAL-USE",
        "LIST-EXTENDED",
        "LIST-STATUS",
        "STATUS=SIZE",
        "ESEARCH",
        "QUOTA",
        "QUOTA=RES-STORAGE",
        "QUOTA=RES-MESSAGE",
        "MULTIAPPEND",
    ] {
        assert!(after.iter().any(|found| found == name), "{name} in {after:?}");
    }
    assert!(after.iter().any(|found| found.starts_with("APPENDLIMIT=")));
    assert!(!after.iter().any(|found| found == "STARTTLS"));
}

#[test]
fn authenticate_with_and_without_initial_response() {
    let daemon = daemon();
    let mut session = open(&daemon);
    session.command(&format!("AUTHENTICATE PLAIN {}", plain(USER))).unwrap().ok();

    let mut session = open(&daemon);
    let tag = session.start("AUTHENTICATE PLAIN").unwrap();
    assert!(session.read_line().unwrap().text.starts_with('+'));
    session.connection.send(format!("{}\r\n", plain(USER))).unwrap();
    session.finish(&tag).unwrap().ok();

    let mut session = open(&daemon);
    let tag = session.start("AUTHENTICATE PLAIN").unwrap();
    session.read_line().unwrap();
    session.connection.send("*\r\n").unwrap();
    assert_eq!(session.finish(&tag).unwrap().status, "BAD");
    assert_eq!(session.command("AUTHENTICATE BOGUS").unwrap().status, "NO");
    session.command(&format!("LOGIN {{{}+}}\r\n{USER} \"{PASSWORD}\"", USER.len())).unwrap().ok();
}

#[test]
fn wrong_password_and_unknown_mailbox_look_alike_and_end_the_session() {
    let daemon = daemon();
    let mut session = open(&daemon);
    let wrong = session.command(&format!("LOGIN {USER} wrong")).unwrap();
    let unknown = session.command("LOGIN nobody@acme.test wrong").unwrap();
    assert_eq!((&wrong.status, &wrong.text), (&unknown.status, &unknown.text));
    assert_eq!(wrong.status, "NO");
    assert!(wrong.text.starts_with("[AUTHENTICATIONFAILED]"), "{}", wrong.text);
    for _ in 0..3 {
        session.command("LOGIN nobody@acme.test wrong").expect("an answer before the end");
    }
    assert!(session.read_untagged().unwrap().text.starts_with("BYE"));
}

#[test]
fn commands_in_the_wrong_state_are_bad_and_harmless() {
    let daemon = daemon();
    let mut session = open(&daemon);
    for text in ["SELECT INBOX", "LIST \"\" *", "FETCH 1 FLAGS", "IDLE", "CLOSE"] {
        assert_eq!(session.command(text).unwrap().status, "BAD", "{text}");
    }
    session.command(&format!("LOGIN {USER} \"{PASSWORD}\"")).unwrap().ok();
    for text in ["FETCH 1 FLAGS", "EXPUNGE", "CLOSE", "SEARCH ALL", "LOGIN a b", "STARTTLS", "UNSELECT"] {
        assert_eq!(session.command(text).unwrap().status, "BAD", "{text}");
    }
    session.select("INBOX");
    session.command("UNSELECT").unwrap().ok();
    assert_eq!(session.command("FETCH 1 FLAGS").unwrap().status, "BAD");
}

#[test]
fn starttls_and_implicit_tls() {
    let daemon = daemon();
    let mut session = open(&daemon);
    session.command("STARTTLS").unwrap().ok();
    session.connection.start_tls(daemon.certificate_pem()).unwrap();
    let answer = session.command("CAPABILITY").unwrap().ok();
    assert!(!answer.untagged[0].text.contains("STARTTLS"));
    assert_eq!(session.command("STARTTLS").unwrap().status, "BAD");
    session.command(&format!("LOGIN {USER} \"{PASSWORD}\"")).unwrap().ok();
    session.select("INBOX");

    let mut session = Imap::open_tls(daemon.address("imaps"), daemon.certificate_pem()).unwrap();
    session.command(&format!("LOGIN {USER} \"{PASSWORD}\"")).unwrap().ok();
    let big = message(300_000, 1);
    session.append("INBOX", "", &big).unwrap().ok();
    session.select("INBOX");
    assert_eq!(session.bodies("1:*"), [(1, big)]);
}

#[test]
fn plaintext_behind_starttls_is_never_taken_for_tls() {
    let daemon = daemon();
    let mut session = open(&daemon);
    session.connection.send("a STARTTLS\r\nb CAPABILITY\r\n").unwrap();
    session.connection.finish_sending().unwrap();
    let rest = String::from_utf8_lossy(&session.connection.rest().unwrap()).into_owned();
    assert!(!rest.contains("b OK"), "{rest}");
}

#[test]
fn malformed_commands_are_told_apart_and_end_the_session_at_last() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    assert_eq!(session.command("BOGUS").unwrap().status, "BAD");
    session.connection.send("\r\n").unwrap();
    assert!(session.read_line().unwrap().text.starts_with("* BAD"));
    session.connection.send(vec![b'x'; 100_000]).unwrap();
    session.connection.send("\r\n").unwrap();
    assert!(session.read_line().unwrap().text.starts_with("* BAD"));
    session.command("NOOP").unwrap().ok();
    let mut last = String::new();
    for _ in 0..30 {
        session.connection.send("x BOGUS\r\n").unwrap();
        last = session.read_line().unwrap().text;
        if last.starts_with("* BYE") {
            break;
        }
    }
    assert!(last.starts_with("* BYE"), "{last}");
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    session
        .connection
        .send("a NOOP\r\nb SELECT INBOX\r\nc FETCH 1:* FLAGS\r\nd LOGOUT\r\ne NOOP\r\n")
        .unwrap();
    for tag in ["a", "b", "c", "d"] {
        session.finish(tag).unwrap().ok();
    }
    assert!(session.connection.rest().unwrap().is_empty());
}

#[test]
fn idle_tells_of_deliveries_flags_and_expunges_at_once() {
    let daemon = daemon();
    let mut idle = daemon.imap(USER);
    idle.select("INBOX");
    let tag = idle.start("IDLE").unwrap();
    assert!(idle.read_line().unwrap().text.starts_with('+'));

    daemon.deliver(USER, &message(500, 1));
    assert_eq!(idle.read_untagged().unwrap().text, "1 EXISTS");
    assert!(idle.read_untagged().unwrap().text.ends_with(" RECENT"));

    let mut other = daemon.imap(USER);
    other.select("INBOX");
    other.command("STORE 1 +FLAGS.SILENT (\\Flagged)").unwrap().ok();
    let told = idle.read_untagged().unwrap();
    assert_eq!(told.keyword(), "FETCH");
    assert!(told.flags().unwrap().iter().any(|flag| flag == "\\Flagged"), "{told:?}");

    other.command("STORE 1 +FLAGS.SILENT (\\Deleted)").unwrap().ok();
    other.command("EXPUNGE").unwrap().ok();
    while idle.read_untagged().unwrap().text != "1 EXPUNGE" {}
    idle.connection.send("done\r\n").unwrap();
    idle.finish(&tag).unwrap().ok();

    // Without a folder there is nothing to tell, but it works.
    let mut session = daemon.imap(USER);
    let tag = session.start("IDLE").unwrap();
    session.read_line().unwrap();
    session.connection.send("DONE\r\n").unwrap();
    session.finish(&tag).unwrap().ok();
}

#[test]
fn id_namespace_enable_and_logout() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    let id = session.command("ID (\"name\" \"test\" \"version\" NIL)").unwrap().ok();
    assert!(id.untagged[0].text.starts_with("ID (\"name\" \"Posthouse\""));
    let namespace = session.command("NAMESPACE").unwrap().ok();
    assert_eq!(namespace.untagged[0].text, "NAMESPACE ((\"\" \"/\")) NIL NIL");
    let enabled = session.command("ENABLE BOGUS CONDSTORE").unwrap().ok();
    assert_eq!(enabled.untagged[0].text, "ENABLED CONDSTORE");
    let bye = session.command("LOGOUT").unwrap().ok();
    assert!(bye.untagged[0].text.starts_with("BYE"));
    assert!(session.connection.rest().unwrap().is_empty());
}

#[test]
fn running_session_ends_when_its_folder_is_deleted_by_another() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    session.command("CREATE gone").unwrap().ok();
    session.select("gone");
    daemon.imap(USER).command("DELETE gone").unwrap().ok();
    session.start("NOOP").unwrap();
    let last = loop {
        let line = session.read_line().unwrap().text;
        if line.contains("BYE") || !line.starts_with('*') {
            break line;
        }
    };
    assert!(last.starts_with("* BYE"), "{last}");
    // One that deletes its own folder only leaves it.
    let mut session = daemon.imap(USER);
    session.command("CREATE own").unwrap().ok();
    session.select("own");
    session.command("DELETE own").unwrap().ok();
    session.select("INBOX");
}
