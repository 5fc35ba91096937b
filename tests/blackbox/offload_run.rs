//! A provider's mail in object storage, on a real daemon: all of the corpus comes back octet for octet over IMAP after
//! the local copies went, and what it costs in requests.
//!
//! `POSTHOUSE_TEST_FULL=1` delivers the corpus 20 times to 200 mailboxes; otherwise it is a part of that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::corpus::{self, Sample, message};
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;
use crate::support::imap::{Imap, body_of};
use crate::support::moto::{self, Moto};
use crate::support::s3::{Requests, S3Server, store_configuration};
use crate::support::smtp::{Dialect, Smtp};
use crate::support::wait_for;

const SENDER: &str = "sender@example.test";
const CUSTOMERS: usize = 10;
/// Connections that deliver or read at a time.
const CONNECTIONS: usize = 8;
/// Messages that are read with one command.
const CHUNK_MESSAGES: usize = 50;
/// Messages with more Received lines are taken for loops.
const RECEIVED_LINES_MAX: usize = 100;
/// The tests' password, hashed in a way that takes no time.
const PASSWORD_HASH: &str = "{SSHA}qhkMyEYX4JKif0RSaxsOKelSBOZwb3N0aG91cw==";

struct Scale {
    /// How often the corpus is delivered.
    times: usize,
    mailboxes: usize,
}

fn scale() -> Scale {
    if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() {
        Scale { times: 20, mailboxes: 200 }
    } else {
        Scale { times: 1, mailboxes: 20 }
    }
}

/// A daemon whose packs go to the server.
fn daemon(server: &S3Server, offload: &str) -> Daemon {
    let more = "[store.packing]\ngrace_minutes = 0";
    Daemon::with(Setup { configuration: server.store_configuration(offload, more), ..Setup::default() })
}

/// Makes mailboxes of several customers; answers their addresses.
fn mailboxes(daemon: &Daemon, customers: usize, count: usize) -> Vec<String> {
    for customer in 0..customers {
        daemon.customer(&format!("c{customer}"), &format!("c{customer}.test"));
    }
    let address = |number: usize| {
        let address = format!("m{number}@c{}.test", number % customers);
        let request = serde_json::json!({ "address": address, "password_hash": PASSWORD_HASH });
        let made = daemon.api("POST", "/v1/mailboxes", Some(&request));
        assert!((200..300).contains(&made.status), "{}", made.json());
        address
    };
    (0..count).map(address).collect()
}

/// What stands behind the trace lines: DATA cannot carry a message without line end at its end.
fn stored(sample: &Sample) -> Vec<u8> {
    let end: &[u8] = if sample.octets.ends_with(b"\r\n") { b"" } else { b"\r\n" };
    [&sample.octets, end].concat()
}

/// Sends everything to the bucket; no pack is left on the volume.
fn offload_all(daemon: &Daemon) -> serde_json::Value {
    daemon.job("/v1/packing");
    let report = daemon.job("/v1/stores/main/offload");
    // Superseded packs go with the next pass that has something to do.
    let address = mailboxes_end(daemon);
    wait_for("the packs on the volume are gone", || {
        daemon.deliver(&address, b"Subject: one more\r\n\r\ntext\r\n");
        daemon.job("/v1/packing");
        daemon.job("/v1/stores/main/offload");
        daemon.pack_files().is_empty().then_some(())
    });
    report
}

/// A mailbox that nobody reads.
fn mailboxes_end(daemon: &Daemon) -> String {
    let address = "end@c0.test";
    if daemon.posthouse(&["mailbox", "show", address]).status.code() != Some(0) {
        daemon.mailbox(address);
    }
    address.to_owned()
}

/// Runs `work` for every number below `count`, several at a time.
fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// Reads a mailbox in the order in which its messages came and compares each with what was sent.
fn compare(daemon: &Daemon, address: &str, expected: &[&[u8]]) {
    let mut session = daemon.imap(address);
    assert_eq!(session.select("INBOX").exists(), Some(expected.len() as u32), "{address}");
    for (first, chunk) in (1..).step_by(CHUNK_MESSAGES).zip(expected.chunks(CHUNK_MESSAGES)) {
        let set = format!("{first}:{}", first + chunk.len() - 1);
        let answer = session.command(&format!("FETCH {set} (RFC822.SIZE BODY.PEEK[])")).expect("FETCH").ok();
        let mut read = 0;
        for (line, expected) in answer.all("FETCH").zip(chunk) {
            let body = body_of(line);
            assert_eq!(line.item_number("RFC822.SIZE"), Some(body.len() as u64));
            assert!(body.ends_with(expected), "{address}: message {} differs", first + read);
            let trace = String::from_utf8_lossy(&body[..body.len() - expected.len()]);
            assert!(
                trace.starts_with("Return-Path:") && trace.contains("\r\nReceived:"),
                "{address}: {trace}"
            );
            read += 1;
        }
        assert_eq!(read, chunk.len(), "{address}");
    }
}

/// Requests so far as the daemon counts them since its start.
fn counted(daemon: &Daemon) -> Requests {
    let metrics = http::request(daemon.address("http"), "GET", "/metrics", &[], None).expect("HTTP");
    let text = String::from_utf8(metrics.body).expect("text");
    let sum = |request: &str| -> u64 {
        let of = format!("posthouse_remote_requests_total{{request=\"{request}");
        let lines = text.lines().filter(|line| line.starts_with(&of));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    Requests { put: sum("put"), post: sum("post"), get: sum("get"), ..Requests::default() }
}

#[test]
fn corpus_comes_back_from_object_storage_as_it_was() {
    let server = S3Server::start();
    corpus_comes_back(daemon(&server, ""), |_| server.requests());
}

#[test]
fn corpus_comes_back_from_another_object_storage_as_it_was() {
    let Some(server) = Moto::start() else { return };
    let more = "[store.packing]\ngrace_minutes = 0";
    let configuration = store_configuration(&server.endpoint(), moto::BUCKET, "", more);
    corpus_comes_back(Daemon::with(Setup { configuration, ..Setup::default() }), counted);
}

fn corpus_comes_back(mut daemon: Daemon, requests: impl Fn(&Daemon) -> Requests) {
    let Scale { times, mailboxes: count } = scale();
    let samples = corpus::clean();
    let fit = |sample: &&Sample| !sample.octets.is_empty() && sample.received_lines() <= RECEIVED_LINES_MAX;
    let messages: Vec<Vec<u8>> = samples.iter().filter(fit).map(stored).collect();
    let addresses = mailboxes(&daemon, CUSTOMERS, count);
    // Every mailbox gets another choice of messages each time.
    let mut wanted: Vec<Vec<&[u8]>> = vec![Vec::new(); count];
    for time in 0..times {
        for (number, message) in messages.iter().enumerate() {
            wanted[(number + time * 7) % count].push(message);
        }
    }
    let started = Instant::now();
    let lmtp = daemon.address("lmtp").to_owned();
    // One connection for each mailbox at a time, so that the order is known.
    in_parallel(count, |mailbox| {
        let mut session = Smtp::open(&lmtp, Dialect::Lmtp).expect("LMTP");
        for message in &wanted[mailbox] {
            let replies = session.deliver(SENDER, &[&addresses[mailbox]], message).expect("LMTP");
            assert!(replies[0].is_ok(), "{replies:?}");
        }
    });
    let delivered = messages.len() * times;
    println!("{delivered} messages delivered in {:.0} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    offload_all(&daemon);
    let sent = requests(&daemon);
    println!("offloaded in {:.0} s with {sent:?}", started.elapsed().as_secs_f64());
    assert!(sent.put > 0, "{sent:?}");
    if delivered >= 5_000 {
        assert!((sent.put + sent.post) * 1_000 <= 3 * delivered as u64, "{sent:?} for {delivered} messages");
    }
    // With nothing in memory.
    daemon.stop();
    daemon.start_again();
    let before = requests(&daemon);
    let started = Instant::now();
    in_parallel(count, |mailbox| compare(&daemon, &addresses[mailbox], &wanted[mailbox]));
    let read = requests(&daemon).get - before.get;
    println!(
        "read back in {:.0} s with {} GET: {:.1} for 1,000 messages",
        started.elapsed().as_secs_f64(),
        read,
        read as f64 * 1_000.0 / delivered as f64
    );
    assert!(read > 0);
}

/// What reading a folder of 2,000 messages costs, of which mail for others came in between, in so many packer passes.
struct Cost {
    packs: u64,
    sync: u64,
    download: u64,
}

const FOLDER_MESSAGES: usize = 2_000;
const PASSES: usize = 64;
const OTHERS: usize = 4;

/// A full sync of headers and flags, as a client does.
fn sync(session: &mut Imap, messages: usize) {
    for items in [
        "UID FETCH 1:* (UID FLAGS)",
        "UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)",
        "UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE MESSAGE-ID REFERENCES)])",
        "UID FETCH 1:* (BODY.PEEK[HEADER])",
    ] {
        let answer = session.command(items).expect("FETCH").ok();
        assert_eq!(answer.all("FETCH").count(), messages, "{items}");
    }
}

fn cost(offload: &str) -> Cost {
    let server = S3Server::start();
    let mut daemon = daemon(&server, offload);
    let addresses = mailboxes(&daemon, OTHERS + 1, OTHERS + 1);
    let mut lmtp = daemon.lmtp();
    let mut sent = Vec::with_capacity(FOLDER_MESSAGES);
    for number in 0..FOLDER_MESSAGES {
        let own = message(1_000 + number * 37 % 6_000, number as u64);
        let other = message(1_000 + number * 53 % 6_000, (FOLDER_MESSAGES + number) as u64);
        for (address, octets) in [(&addresses[0], &own), (&addresses[1 + number % OTHERS], &other)] {
            let replies = lmtp.deliver(SENDER, &[address.as_str()], octets).expect("LMTP");
            assert!(replies[0].is_ok(), "{replies:?}");
        }
        sent.push(own);
        if number % (FOLDER_MESSAGES / PASSES) == 0 {
            daemon.job("/v1/packing");
        }
    }
    daemon.job("/v1/packing");
    let packs = daemon.api("GET", "/v1/stores/main", None).json()["packs"].as_u64().expect("packs");
    assert!(packs >= 60, "{packs} packs");
    offload_all(&daemon);
    daemon.stop();
    daemon.start_again();
    let before = server.requests();
    let mut session = daemon.imap(&addresses[0]);
    assert_eq!(session.select("INBOX").exists(), Some(FOLDER_MESSAGES as u32));
    sync(&mut session, FOLDER_MESSAGES);
    let synced = server.requests();
    let bodies = session.bodies("1:*");
    assert_eq!(bodies.len(), FOLDER_MESSAGES);
    for ((uid, body), expected) in bodies.iter().zip(&sent) {
        assert!(body.ends_with(expected), "UID {uid} differs");
    }
    // Catalogs may be sent at any time; only reads are the client's.
    let download = server.requests().get - synced.get;
    Cost { packs, sync: synced.get - before.get, download }
}

#[test]
fn folder_of_interleaved_mail_is_downloaded_with_few_requests() {
    let (apart, merged) = std::thread::scope(|scope| {
        let apart = scope.spawn(|| cost("when = \"at-once\""));
        let merged = cost("");
        (apart.join().expect("packs as they were written"), merged)
    });
    println!(
        "a folder of {FOLDER_MESSAGES} messages from {} packs: {} GET as they were written, {} merged; sync of headers \
         and flags: {} and {}",
        merged.packs, apart.download, merged.download, apart.sync, merged.sync
    );
    assert!(merged.download <= 20, "{} requests", merged.download);
    assert!(apart.download > merged.download);
    assert_eq!((apart.sync, merged.sync), (0, 0));
}
