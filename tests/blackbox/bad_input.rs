//! Clients that send garbage, half a command, far too much, or nothing more: each gets an answer or a closed
//! connection, nothing is stored that was not finished, and the daemon keeps serving within bounded memory.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::imap::Imap;
use crate::support::smtp::dot_stuff;
use crate::support::stream::Connection;
use crate::support::{Random, wait_for};

/// What a flood may add to the daemon's memory, far below what was sent or announced.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

fn text_listeners(daemon: &Daemon) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = daemon
        .listeners()
        .iter()
        .flat_map(|(name, addresses)| addresses.iter().map(|address| (name.clone(), address.clone())))
        .collect();
    all.sort();
    assert!(all.len() >= 6, "{all:?}");
    all
}

/// Every protocol still does its work.
#[track_caller]
fn assert_serves(daemon: &mut Daemon) {
    assert!(daemon.is_running(), "the daemon ended\n{}", daemon.log());
    let content = message(700, 1);
    daemon.deliver("alice@acme.test", &content);
    let replies = daemon.smtp().deliver("", &["alice@acme.test"], &content).expect("SMTP");
    assert_eq!(replies[0].code, 250);
    let mut session = daemon.imap("alice@acme.test");
    let count = session.select("INBOX").exists().expect("EXISTS");
    let (_, stored) = session.bodies(&format!("{}:*", 1)).pop().expect("a message");
    assert!(stored.ends_with(&content));
    assert_eq!(daemon.pop3("alice@acme.test").stat().expect("STAT").0, count as usize);
    assert_eq!(daemon.api("GET", "/v1/meta", None).status, 200);
}

#[test]
fn garbage_on_every_port_harms_nobody() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let mut random = Random::new(42);
    for (name, address) in text_listeners(&daemon) {
        for round in 0..12 {
            let octets: Vec<u8> = match round {
                0 => b"\r\n\r\n\r\n".to_vec(),
                1 => b"\0\0\0\0".to_vec(),
                2 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                3 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
                4 => b"(((((((((((((((((((\r\n".repeat(50),
                5 => b"a {3}\r\n{4}\r\n{5}\r\n\r\n".to_vec(),
                6 => b"999999999999999999999:x,".to_vec(),
                _ => (0..4_096).map(|_| random.next() as u8).collect(),
            };
            let Ok(mut connection) = Connection::open(&address) else { panic!("{name} refuses connections") };
            // The server may close while we still send: that is an answer too.
            let sent = connection.send(&octets).and_then(|()| connection.finish_sending());
            let _ = sent;
            connection.read_timeout(Duration::from_secs(30)).ok();
            match connection.rest() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("{name} neither answers nor closes after round {round}")
                }
                Err(_) => {}
            }
        }
    }
    assert_serves(&mut daemon);
}

#[test]
fn endless_lines_are_cut_off_without_being_kept() {
    let mut daemon = Daemon::with_alice(Setup::default());
    assert_serves(&mut daemon);
    let before = daemon.memory_kib("VmRSS");
    let block = vec![b'a'; 1 << 20];
    for (name, address) in text_listeners(&daemon) {
        let mut connection = Connection::open(&address).expect("connect");
        let mut sent = 0;
        while sent < 100 && connection.send(&block).is_ok() {
            sent += 1;
        }
        drop(connection);
        let peak = daemon.memory_kib("VmHWM");
        assert!(peak < before + GROWTH_KIB_MAX, "{name}: {before} KiB grew to {peak} KiB");
    }
    assert_serves(&mut daemon);
}

#[test]
fn endless_lines_inside_a_session_are_cut_off_without_being_kept() {
    let mut daemon = Daemon::with_alice(Setup::default());
    assert_serves(&mut daemon);
    let before = daemon.memory_kib("VmRSS");
    let block = vec![b'a'; 1 << 20];
    let flood = |connection: &mut Connection| {
        for _ in 0..100 {
            if connection.send(&block).is_err() {
                return;
            }
        }
    };
    let mut session = daemon.imap("alice@acme.test");
    session.connection.send("x SEARCH SUBJECT ").expect("start");
    flood(&mut session.connection);
    let mut session = daemon.smtp();
    session.command("MAIL FROM:<>").expect("MAIL");
    session.connection.send("RCPT TO:<").expect("start");
    flood(&mut session.connection);
    let mut session = daemon.pop3("alice@acme.test");
    session.connection.send("RETR ").expect("start");
    flood(&mut session.connection);
    let peak = daemon.memory_kib("VmHWM");
    assert!(peak < before + GROWTH_KIB_MAX, "{before} KiB grew to {peak} KiB");
    assert_serves(&mut daemon);
}

#[test]
fn huge_literals_are_refused_when_announced() {
    let mut daemon = Daemon::with_alice(Setup::default());
    assert_serves(&mut daemon);
    let before = daemon.memory_kib("VmRSS");
    for size in ["4294967295", "4294967296", "18446744073709551616", "99999999999999999999999999", "-1", "1x"]
    {
        for plus in ["", "+"] {
            for command in ["x LOGIN ", "x APPEND INBOX ", "x SELECT "] {
                let mut session = if command.contains("LOGIN") {
                    Imap::open(daemon.address("imap")).expect("IMAP")
                } else {
                    daemon.imap("alice@acme.test")
                };
                session.connection.send(format!("{command}{{{size}{plus}}}\r\n")).expect("send");
                let answer = session.read_line().expect("an answer").text;
                let refused =
                    ["x NO", "x BAD", "* BYE", "* BAD"].iter().any(|start| answer.starts_with(start));
                assert!(refused, "{command}{{{size}{plus}}}: {answer}");
            }
        }
    }
    let peak = daemon.memory_kib("VmHWM");
    assert!(peak < before + GROWTH_KIB_MAX, "{before} KiB grew to {peak} KiB");
    assert_serves(&mut daemon);
}

/// The connection is dropped after every prefix of a delivery: only the whole one may store a message.
#[test]
fn delivery_cut_off_anywhere_stores_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut content = Vec::new();
    dot_stuff(&message(700, 3), &mut content);
    for (listener, hello) in [("lmtp", "LHLO"), ("smtp", "EHLO")] {
        let mut script =
            format!("{hello} c.test\r\nMAIL FROM:<>\r\nRCPT TO:<alice@acme.test>\r\nDATA\r\n").into_bytes();
        script.extend_from_slice(&content);
        let mut cut = 0;
        // Every octet of the commands and of the end; the middle of the text in steps.
        while cut < script.len() {
            let mut connection = Connection::open(daemon.address(listener)).expect("connect");
            connection.send(&script[..cut]).expect("send");
            connection.finish_sending().expect("close our side");
            connection.rest().expect("the server closes");
            let in_text = (120..script.len() - 12).contains(&cut);
            cut += if in_text { 37 } else { 1 };
        }
    }
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(0));
    assert_eq!(super::quota::used(&daemon, "alice@acme.test"), (0, 0));
}

#[test]
fn append_cut_off_anywhere_stores_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    let content = message(600, 4);
    let mut script = format!(
        "a LOGIN alice@acme.test \"{PASSWORD}\"\r\nb APPEND INBOX (\\Seen) \"03-Nov-2026 10:20:30 +0000\" {{{}+}}\r\n",
        content.len()
    )
    .into_bytes();
    script.extend_from_slice(&content);
    script.extend_from_slice(b"\r\n");
    let mut cut = 0;
    while cut < script.len() - 1 {
        let mut connection = Connection::open(daemon.address("imap")).expect("connect");
        connection.send(&script[..cut]).expect("send");
        connection.finish_sending().expect("close our side");
        connection.rest().expect("the server closes");
        cut += if (60..130).contains(&cut) || cut > script.len() - 8 { 1 } else { 13 };
    }
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(0));
    let mut connection = Connection::open(daemon.address("imap")).expect("connect");
    connection.send(&script).expect("send");
    connection.finish_sending().expect("close our side");
    let answer = String::from_utf8(connection.rest().expect("the server closes")).expect("text");
    assert!(answer.contains("b OK"), "{answer}");
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
}

/// A reader that stops reading in the middle of a large answer keeps neither memory nor the journal growing while
/// mail goes on coming in.
#[test]
fn reader_that_stops_reading_costs_bounded_memory_and_journal() {
    const MESSAGES: u64 = 400;
    const OCTETS: usize = 200_000;
    let mut daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox("bob@acme.test");
    let mut lmtp = daemon.lmtp();
    for number in 0..MESSAGES {
        let replies = lmtp.deliver("", &["alice@acme.test"], &message(OCTETS, number)).expect("LMTP");
        assert_eq!(replies[0].code, 250);
    }
    let before = daemon.memory_kib("VmRSS");
    let mut stuck: Vec<Imap> = (0..4).map(|_| daemon.imap("alice@acme.test")).collect();
    for session in &mut stuck {
        session.select("INBOX");
        session.start("FETCH 1:* (FLAGS BODY.PEEK[])").expect("FETCH");
        // The answer has begun; from here on nothing is read.
        session.connection.exactly(1_000).expect("the beginning of the answer");
    }
    for number in 0..MESSAGES {
        let replies = lmtp.deliver("", &["bob@acme.test"], &message(OCTETS, number)).expect("LMTP");
        assert_eq!(replies[0].code, 250);
    }
    let peak = daemon.memory_kib("VmHWM");
    assert!(peak < before + 2 * GROWTH_KIB_MAX, "{before} KiB grew to {peak} KiB");
    // Deliveries of 80 MB: a pinned journal would hold them all.
    let journal = largest_journal(&daemon.data_dir());
    assert!(journal < 300 << 20, "the journal has {journal} octets");
    assert_serves_others(&daemon, MESSAGES);
    drop(stuck);
    assert!(daemon.is_running());
}

fn assert_serves_others(daemon: &Daemon, count: u64) {
    let mut session = daemon.imap("bob@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(count as u32));
    let (_, last) = session.bodies("*").pop().expect("the last message");
    assert!(last.ends_with(&message(200_000, count - 1)));
}

fn largest_journal(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("data directory").flatten();
    let journals = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("-wal"));
    journals.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
}

/// Sessions that ended in every bad way leave nothing behind.
#[test]
fn broken_sessions_are_forgotten() {
    let daemon = Daemon::with_alice(Setup::default());
    for _ in 0..20 {
        let mut session = daemon.imap("alice@acme.test");
        session.select("INBOX");
        session.start("IDLE").expect("IDLE");
    }
    wait_for("the sessions to be forgotten", || daemon.json(&["session", "list"]).is_empty().then_some(()));
}
