//! Administrators who read mailboxes that are not theirs: over IMAP, with the mailbox as authorization identity.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Database, PASSWORD, Setup};
use crate::support::imap::{Answer, Imap};
use crate::support::pop3::Pop3;
use crate::support::stream::Connection;

const ALICE: &str = "alice@acme.test";
const SECRET: &str = "another horse battery";
const SECOND: Duration = Duration::from_secs(1);
/// Tries before it counts as too slow: the machine that runs the tests may itself be slow at times.
const TRIES: usize = 4;

/// A daemon with alice and an administrator of her customer, who may read there for a week, or also write;
/// answers the administrator's name.
fn with_reader(setup: Setup, writes: bool) -> (Daemon, String) {
    let daemon = Daemon::with_alice(setup);
    let made = daemon.json(&["admin", "create", "anna", "--customer", "acme", "--role", "viewer"]);
    let name = made[0]["name"].as_str().unwrap().to_owned();
    daemon.posthouse_with_input(&["admin", "password", &name, "--password-stdin"], SECRET).ok();
    let allowed =
        if writes { "mailbox.read,content.read,content.write" } else { "mailbox.read,content.read" };
    let role = ["role", "create", "reader", "--customer", "acme", "--base", "viewer", "--allow", allowed];
    daemon.posthouse(&role).ok();
    (daemon, name)
}

fn grant(daemon: &Daemon, name: &str) {
    let grant = ["admin", "grant", name, "--role", "reader", "--customer", "acme", "--expires", "7d"];
    daemon.posthouse(&grant).ok();
}

fn plain(mailbox: &str, name: &str, secret: &str) -> String {
    STANDARD.encode(format!("{mailbox}\0{name}\0{secret}"))
}

/// Asks for a mailbox.
fn open(daemon: &Daemon, mailbox: &str, name: &str, secret: &str) -> (Imap, Answer) {
    let mut session = Imap::open(daemon.address("imap")).unwrap();
    let answer = session.command(&format!("AUTHENTICATE PLAIN {}", plain(mailbox, name, secret))).unwrap();
    (session, answer)
}

fn opened(daemon: &Daemon, name: &str) -> Imap {
    let (session, answer) = open(daemon, ALICE, name, SECRET);
    answer.ok();
    session
}

/// Flags of the first message, as a session sees them.
fn flags(session: &mut Imap) -> Vec<String> {
    let answer = session.command("FETCH 1 (FLAGS)").unwrap().ok();
    answer.all("FETCH").next().unwrap().flags().unwrap()
}

fn recorded(daemon: &Daemon, operation: &str) -> Vec<(String, String, String)> {
    let records = daemon.json(&["audit", "search", "--customer", "acme", "--operation", operation]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = records
        .iter()
        .map(|one| (text(&one["actor"]), text(&one["target"]), text(&one["outcome"])))
        .collect();
    found.reverse();
    found
}

#[test]
fn mailbox_is_read_without_a_trace_in_it_and_with_records_of_it() {
    for database in Database::all() {
        let (daemon, name) = with_reader(Setup { database, ..Setup::default() }, false);
        daemon.deliver(ALICE, b"Subject: hello\r\n\r\nfor alice alone\r\n");
        // Without the right to it, an existing mailbox and a missing one are as a wrong password.
        let refused = ["AUTHENTICATIONFAILED", "authentication failed"];
        for (mailbox, secret) in
            [(ALICE, SECRET), ("nobody@acme.test", SECRET), (ALICE, "wrong"), ("x", SECRET)]
        {
            let (_, answer) = open(&daemon, mailbox, &name, secret);
            assert_eq!(answer.status, "NO", "{mailbox}");
            assert!(refused.iter().all(|part| answer.text.contains(part)), "{}", answer.text);
        }
        grant(&daemon, &name);
        let (_, answer) = open(&daemon, "nobody@acme.test", &name, SECRET);
        assert!(answer.text.contains("AUTHENTICATIONFAILED"), "{}", answer.text);

        let mut session = opened(&daemon, &name);
        // Names of folders and counts are what the session's own record covers: no folder is opened by them.
        for command in ["LIST \"\" *", "LSUB \"\" *", "STATUS INBOX (MESSAGES UNSEEN UIDNEXT)"] {
            let told = session.command(command).unwrap().ok();
            assert!(!format!("{told:?}").contains("hello"), "{command}: {told:?}");
        }
        let of_folders = recorded(&daemon, "content.").into_iter().filter(|one| one.1.contains(" folder "));
        assert_eq!(of_folders.count(), 0);
        let answer = session.select("INBOX");
        assert!(answer.text.contains("[READ-ONLY]"), "{}", answer.text);
        assert_eq!((answer.exists(), answer.code("PERMANENTFLAGS").as_deref()), (Some(1), Some("()")));
        let bodies = session.bodies("1");
        assert!(bodies[0].1.ends_with(b"for alice alone\r\n"), "{bodies:?}");
        let shown = daemon.json(&["session", "list", "--customer", "acme"]);
        assert_eq!((&shown[0]["administrator"], &shown[0]["address"]), (&name.clone().into(), &ALICE.into()));
        for command in [
            "STORE 1 +FLAGS (\\Seen)",
            "EXPUNGE",
            "COPY 1 Sent",
            "MOVE 1 Sent",
            "CREATE secret",
            "RENAME INBOX other",
            "DELETE Sent",
            "SUBSCRIBE INBOX",
            "UNSUBSCRIBE INBOX",
        ] {
            let answer = session.command(command).unwrap();
            assert!(answer.status == "NO" && answer.text.starts_with("[NOPERM]"), "{command}: {answer:?}");
        }
        let answer = session.append("INBOX", "", b"Subject: forged\r\n\r\n").unwrap();
        assert!(answer.status == "NO" && answer.text.starts_with("[NOPERM]"), "{answer:?}");
        session.command("CLOSE").unwrap().ok();
        session.command("EXAMINE INBOX").unwrap().ok();
        session.command("LIST \"\" *").unwrap().ok();
        session.command("LOGOUT").unwrap().ok();

        // The owner finds the message as it was, and is told.
        let mut own = daemon.imap(ALICE);
        let answer = own.select("INBOX");
        assert!(answer.text.contains("[READ-WRITE]"));
        let found = flags(&mut own);
        assert!(found.contains(&"\\Recent".to_owned()) && !found.contains(&"\\Seen".to_owned()), "{found:?}");
        drop(own);
        let mut own = daemon.wait_for_messages(ALICE, "INBOX", 2);
        let notice = String::from_utf8(own.bodies("2").remove(0).1).unwrap();
        assert!(notice.contains("An administrator has opened this mailbox"), "{notice}");
        assert!(notice.contains("X-Posthouse-Notice: content-access"), "{notice}");

        // One record for the session, one for the folder, those that were refused, and nothing twice.
        let mailbox = format!("mailbox {ALICE}");
        let record = |target: &str, outcome: &str| (name.clone(), target.to_owned(), outcome.to_owned());
        let expected = [
            record(&mailbox, "forbidden"),
            record("mailbox nobody@acme.test", "not-found"),
            record("mailbox x", "not-found"),
            record("mailbox nobody@acme.test", "not-found"),
            record(&mailbox, "done"),
            record(&format!("{mailbox} folder INBOX"), "done"),
        ];
        let found = recorded(&daemon, "content.read");
        for one in &expected {
            let count = |all: &[(String, String, String)]| all.iter().filter(|other| *other == one).count();
            assert_eq!(count(&found), count(&expected), "{one:?} in {found:?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert_eq!(recorded(&daemon, "content.write"), [record(&mailbox, "forbidden")]);
    }
}

#[test]
fn who_may_write_changes_a_mailbox_and_each_folder_is_recorded_once() {
    let (daemon, name) = with_reader(Setup::default(), true);
    daemon.deliver(ALICE, b"Subject: hello\r\n\r\nfor alice\r\n");
    grant(&daemon, &name);
    let mut session = opened(&daemon, &name);
    let answer = session.select("INBOX");
    assert!(answer.text.contains("[READ-WRITE]"), "{}", answer.text);
    session.command("STORE 1 +FLAGS (\\Flagged)").unwrap().ok();
    session.command("STORE 1 +FLAGS (\\Seen)").unwrap().ok();
    session.command("CREATE Found").unwrap().ok();
    session.command("COPY 1 Found").unwrap().ok();
    session.append("Found", "", b"Subject: note\r\n\r\nhello\r\n").unwrap().ok();
    session.command("LOGOUT").unwrap().ok();
    let mut own = daemon.imap(ALICE);
    assert_eq!(own.select("Found").exists(), Some(2));
    own.select("INBOX");
    let found = flags(&mut own);
    assert!(["\\Flagged", "\\Seen"].iter().all(|flag| found.contains(&(*flag).to_owned())), "{found:?}");
    let targets: Vec<String> =
        recorded(&daemon, "content.write").into_iter().map(|(_, target, _)| target).collect();
    assert_eq!(targets, [format!("mailbox {ALICE} folder INBOX"), format!("mailbox {ALICE} folder Found")]);
    assert_eq!(recorded(&daemon, "content.read").len(), 1);
}

/// Opens a session, does what must end it, and answers how long after it was done the session ended.
fn cut(daemon: &Daemon, name: &str, secret: &str, does: &[&str]) -> Duration {
    let (mut session, answer) = open(daemon, ALICE, name, secret);
    answer.ok();
    session.select("INBOX");
    session.start("IDLE").unwrap();
    assert!(session.read_line().unwrap().text.starts_with('+'));
    daemon.posthouse(does).ok();
    let done = Instant::now();
    loop {
        let line = session.read_line().expect("a farewell").text;
        if line.starts_with("* BYE") || line.starts_with("BYE") {
            break;
        }
    }
    done.elapsed()
}

#[test]
fn access_ends_within_a_second_when_the_right_to_it_ends() {
    let (daemon, name) = with_reader(Setup::default(), false);
    grant(&daemon, &name);
    let owner = daemon.imap(ALICE);
    let again = ["admin", "grant", &name, "--role", "reader", "--customer", "acme", "--expires", "7d"];
    let all_the_time = "not Mon-Sun 00:00-24:00";
    let settings =
        |verb: &'static str| ["customer", "settings", verb, "acme", "login.windows_administrators"];
    let set = [&settings("set")[..], &[all_the_time]].concat();
    let unset = settings("unset");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["admin", "revoke", &name, "--role", "reader", "--customer", "acme", "--yes"], &again),
        (
            &["role", "update", "reader", "--remove", "content.read"],
            &["role", "update", "reader", "--add", "content.read"],
        ),
        (&["admin", "disable", &name, "--yes"], &["admin", "enable", &name]),
        (
            &["customer", "ceiling", "set", "acme", "--role", "admin"],
            &["customer", "ceiling", "clear", "acme"],
        ),
        (&["customer", "suspend", "acme", "--switch", "manage", "--yes"], &["customer", "resume", "acme"]),
        (
            &["customer", "settings", "set", "acme", "service.admin", "off"],
            &["customer", "settings", "unset", "acme", "service.admin"],
        ),
        (&set, &unset),
        (&["mailbox", "suspend", ALICE, "--yes"], &["mailbox", "resume", ALICE]),
    ];
    for (does, undoes) in cases {
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            fastest = fastest.min(cut(&daemon, &name, SECRET, does));
            assert_eq!(open(&daemon, ALICE, &name, SECRET).1.status, "NO", "{does:?}");
            daemon.posthouse(undoes).ok();
            if fastest < SECOND {
                break;
            }
        }
        assert!(fastest < SECOND, "{does:?}: {fastest:?}");
    }
    drop(owner);
    opened(&daemon, &name).select("INBOX");
}

#[test]
fn token_opens_what_it_is_made_for_and_ends_with_its_owners_password() {
    let (daemon, name) = with_reader(Setup::default(), false);
    grant(&daemon, &name);
    let token = |permission: &str| {
        let make = ["admin", "token", "create", &name, "--permission", permission];
        daemon.json(&make)[0]["token"].as_str().unwrap().to_owned()
    };
    let (reads, other) = (token("content.read"), token("mailbox.read"));
    open(&daemon, ALICE, &name, &reads).1.ok();
    for (who, token) in [(&name[..], &other), ("somebody@else", &reads)] {
        let (_, answer) = open(&daemon, ALICE, who, token);
        assert!(answer.text.contains("AUTHENTICATIONFAILED"), "{}", answer.text);
    }
    let file = daemon.dir().join("new-password");
    std::fs::write(&file, "yet another horse\n").unwrap();
    let file = file.to_str().unwrap();
    let elapsed = cut(&daemon, &name, &reads, &["admin", "password", &name, "--password-file", file]);
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    assert_eq!(open(&daemon, ALICE, &name, &reads).1.status, "NO");
}

#[test]
fn nobody_acts_for_a_mailbox_elsewhere_than_over_imap() {
    let (daemon, name) = with_reader(Setup::default(), true);
    grant(&daemon, &name);
    let response = plain(ALICE, &name, SECRET);
    let mut pop3 = Pop3::open(daemon.address("pop3")).unwrap();
    let answer = pop3.command(&format!("AUTH PLAIN {response}")).unwrap();
    assert_eq!(answer, Err("[AUTH] acting as another mailbox is not allowed here".to_owned()));
    let mut sasl = Connection::open(daemon.address("sasl")).unwrap();
    let ask = |response: &str| format!("AUTH\t1\tPLAIN\tservice=smtp\tresp={response}\n");
    let own = plain("", ALICE, PASSWORD);
    for (response, wanted) in [(&response, "FAIL\t1\t"), (&own, "OK\t1\t")] {
        sasl.send(format!("VERSION\t1\t1\nCPID\t1\n{}", ask(response))).unwrap();
        let answer = loop {
            let line = String::from_utf8(sasl.through(b"\n").unwrap()).unwrap();
            if line.starts_with("FAIL") || line.starts_with("OK") {
                break line;
            }
        };
        assert!(answer.starts_with(wanted), "{answer}");
    }
    // A mailbox's owner acts for nobody, and what is one's own identity is no acting.
    daemon.mailbox("bob@acme.test");
    let (_, answer) = open(&daemon, "bob@acme.test", ALICE, PASSWORD);
    assert!(answer.text.contains("AUTHENTICATIONFAILED"), "{}", answer.text);
    open(&daemon, ALICE, ALICE, PASSWORD).1.ok();
}
