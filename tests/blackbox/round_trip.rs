//! Every message there is, in over LMTP, SMTP and APPEND, out over IMAP and POP3, octet for octet.

use crate::support::corpus::{self, Sample};
use crate::support::daemon::{Daemon, Setup};
use crate::support::smtp::Smtp;

const SENDER: &str = "sender@example.test";
const READER: &str = "alice@acme.test";

/// Messages with more Received lines are taken for loops.
const RECEIVED_LINES_MAX: usize = 100;

/// How a message is handed over.
#[derive(Clone, Copy)]
enum Transfer {
    Data,
    Chunks,
}

fn hand_over(session: &mut Smtp, sample: &Sample, transfer: Transfer) -> crate::support::smtp::Reply {
    let replies = match transfer {
        Transfer::Data => session.deliver(SENDER, &[READER], &sample.octets),
        Transfer::Chunks => session.deliver_chunked(SENDER, &[READER], &sample.octets, 60_000),
    };
    replies.unwrap_or_else(|error| panic!("{}: {error}", sample.name)).remove(0)
}

/// What must be behind the trace lines: DATA cannot carry a message without line end at its end.
fn expected(sample: &Sample, transfer: Transfer) -> Vec<u8> {
    let mut octets = sample.octets.clone();
    if matches!(transfer, Transfer::Data) && !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// Sends everything in order, then reads it in order over IMAP and POP3.
fn through(daemon: &Daemon, mut session: Smtp, transfer: Transfer) {
    let mut sent = Vec::new();
    for sample in corpus::all() {
        if sample.octets.is_empty() {
            continue;
        }
        let reply = hand_over(&mut session, &sample, transfer);
        if !sample.is_clean() || sample.received_lines() > RECEIVED_LINES_MAX {
            assert!((500..600).contains(&reply.code), "{}: {reply:?}", sample.name);
        } else {
            assert_eq!(reply.code, 250, "{}: {reply:?}", sample.name);
            sent.push(sample);
        }
    }
    let stored = read_all(daemon, sent.len());
    for (sample, stored) in sent.iter().zip(&stored) {
        let expected = expected(sample, transfer);
        assert!(stored.ends_with(&expected), "{} is changed", sample.name);
        assert_trace(&stored[..stored.len() - expected.len()], &sample.name);
    }
    over_pop3(daemon, &stored);
}

/// All messages of the reader's INBOX in the order of their UIDs, which is the order in which they came.
fn read_all(daemon: &Daemon, count: usize) -> Vec<Vec<u8>> {
    let mut session = daemon.imap(READER);
    assert_eq!(session.select("INBOX").exists(), Some(count as u32));
    let mut stored = Vec::with_capacity(count);
    for first in (1..=count).step_by(100) {
        let set = format!("{first}:{}", count.min(first + 99));
        let answer = session.command(&format!("FETCH {set} (RFC822.SIZE BODY.PEEK[])")).expect("FETCH").ok();
        for line in answer.all("FETCH") {
            let body = crate::support::imap::body_of(line);
            assert_eq!(line.item_number("RFC822.SIZE"), Some(body.len() as u64));
            stored.push(body);
        }
    }
    assert_eq!(stored.len(), count);
    stored
}

fn assert_trace(trace: &[u8], name: &str) {
    let text = String::from_utf8_lossy(trace);
    assert!(text.ends_with("\r\n"), "{name}: {text}");
    let names: Vec<&str> = text
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']) && !line.is_empty())
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    assert_eq!(names, ["Return-Path", "Delivered-To", "Received"], "{name}");
}

fn over_pop3(daemon: &Daemon, stored: &[Vec<u8>]) {
    let mut session = daemon.pop3(READER);
    let (count, octets) = session.stat().expect("STAT");
    assert_eq!(count, stored.len());
    assert_eq!(octets, stored.iter().map(|body| body.len() as u64).sum::<u64>());
    let ids = session.unique_ids().expect("UIDL");
    assert_eq!(ids.len(), count);
    for (index, body) in stored.iter().enumerate() {
        let mut retrieved =
            session.retrieve(index + 1).unwrap_or_else(|error| panic!("RETR {index}: {error}"));
        // The frame of RFC 1939 section 3 needs a line end in front of the final dot.
        if !body.ends_with(b"\r\n") {
            retrieved.truncate(retrieved.len() - 2);
        }
        assert!(retrieved == *body, "message {} differs over POP3", index + 1);
    }
    session.command("QUIT").expect("QUIT").expect("+OK");
    assert_eq!(daemon.pop3(READER).unique_ids().expect("UIDL again"), ids);
}

#[test]
fn every_message_survives_lmtp() {
    let daemon = Daemon::with_alice(Setup::default());
    through(&daemon, daemon.lmtp(), Transfer::Data);
}

#[test]
fn every_message_survives_smtp() {
    let daemon = Daemon::with_alice(Setup::default());
    through(&daemon, daemon.smtp(), Transfer::Data);
}

#[test]
fn every_message_survives_chunking() {
    let daemon = Daemon::with_alice(Setup::default());
    through(&daemon, daemon.smtp(), Transfer::Chunks);
}

#[test]
fn every_message_survives_append() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let mut session = daemon.imap(READER);
    let mut sent = Vec::new();
    for sample in corpus::all() {
        let answer = session.append("INBOX", "\\Seen", &sample.octets).expect("APPEND");
        if sample.has_nul() || sample.octets.is_empty() {
            assert_ne!(answer.status, "OK", "{}: {}", sample.name, answer.text);
        } else {
            assert_eq!(answer.status, "OK", "{}: {}", sample.name, answer.text);
            sent.push(sample);
        }
    }
    let compare = |daemon: &Daemon| {
        for (sample, stored) in sent.iter().zip(read_all(daemon, sent.len())) {
            assert!(stored == sample.octets, "{} is changed", sample.name);
        }
    };
    compare(&daemon);
    // The same from a daemon that has only what is on disk.
    daemon.stop();
    daemon.start_again();
    compare(&daemon);
}
