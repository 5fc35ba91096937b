//! The workloads. Each gives one or more figures for one server; the caller alternates the servers.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::host::{
    HOARDER, Host, READER, USERS, allocated_octets, cpu_seconds, own_cpu_seconds, proportional_octets, user,
};
use crate::report::{Better, Figure};
use crate::support::corpus::{self, message};
use crate::support::imap::Imap;
use crate::support::smtp::{Dialect, Smtp};

/// How long each delivery run lasts.
const DELIVERY_TIME: Duration = Duration::from_secs(4);
/// Messages in the large folder.
const LARGE_FOLDER_MESSAGES: usize = 100_000;
/// Connections that idle.
const IDLE_CONNECTIONS: usize = 400;
/// Deliveries whose way to an idling session is timed.
const NOTICES: usize = 40;

/// One workload.
pub struct Workload {
    /// For the table and `--only`.
    pub name: &'static str,
    /// Run in one round only: what it measures does not vary, or it fills the server for those that follow.
    pub once: bool,
    /// Runs it.
    pub run: fn(&dyn Host) -> Vec<Figure>,
}

/// All, in the order in which they build on each other: what is on disk is counted while every server holds the
/// same mail, before those that deliver as much as they can.
pub fn all() -> Vec<Workload> {
    vec![
        Workload { name: "delivery of the corpus", once: true, run: deliver_corpus },
        Workload { name: "sync of headers", once: false, run: sync_headers },
        Workload { name: "sync of bodies", once: false, run: sync_bodies },
        Workload { name: "disk", once: true, run: disk },
        Workload { name: "delivery 8 KB, 1 connection", once: false, run: |host| deliver_8_kb(host, 1) },
        Workload { name: "delivery 8 KB, 8 connections", once: false, run: |host| deliver_8_kb(host, 8) },
        Workload { name: "delivery 8 KB, 32 connections", once: false, run: |host| deliver_8_kb(host, 32) },
        Workload { name: "delivery to EXISTS", once: false, run: delivery_to_exists },
        Workload { name: "memory of idle connections", once: true, run: idle_memory },
        Workload { name: "fill of the large folder", once: true, run: fill_large_folder },
        Workload { name: "sync of flags", once: false, run: sync_flags },
    ]
}

/// CPU of server and load generator over a stretch of work.
struct Cpu {
    host: f64,
    own: f64,
}

impl Cpu {
    fn start(host: &dyn Host) -> Self {
        Self { host: cpu_seconds(host.pid()), own: own_cpu_seconds() }
    }

    /// Microseconds for each of `count` things, as figures.
    fn per(self, host: &dyn Host, workload: &str, thing: &str, count: usize) -> Vec<Figure> {
        let each = |seconds: f64| seconds * 1e6 / count.max(1) as f64;
        vec![
            Figure::new(
                workload,
                &format!("server CPU, µs per {thing}"),
                Better::Lower,
                each(cpu_seconds(host.pid()) - self.host),
            ),
            Figure::new(
                workload,
                &format!("load generator CPU, µs per {thing}"),
                Better::Neither,
                each(own_cpu_seconds() - self.own),
            ),
        ]
    }
}

fn lmtp(host: &dyn Host) -> Smtp {
    Smtp::open(&host.lmtp(), Dialect::Lmtp).expect("LMTP session")
}

fn imap(host: &dyn Host, address: &str) -> Imap {
    Imap::login(&host.imap(), address, host.password())
}

fn deliver_8_kb(host: &dyn Host, connections: usize) -> Vec<Figure> {
    let name = format!("LMTP delivery, 8 KB, connections: {connections}");
    let messages: Vec<Vec<u8>> = (0..64).map(|seed| message(8_192, seed)).collect();
    let sessions: Vec<Smtp> = (0..connections).map(|_| lmtp(host)).collect();
    let cpu = Cpu::start(host);
    let start = Instant::now();
    let count: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(number, session)| {
                let messages = &messages;
                scope.spawn(move || deliver_until(session, number, messages, start + DELIVERY_TIME))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("worker")).sum()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let mut figures = vec![Figure::new(&name, "messages/s", Better::Higher, count as f64 / elapsed)];
    figures.extend(cpu.per(host, &name, "message", count));
    figures
}

/// Delivers one message after the other, each to another mailbox; gives how many.
fn deliver_until(mut session: Smtp, number: usize, messages: &[Vec<u8>], deadline: Instant) -> usize {
    let mut delivered = 0;
    while Instant::now() < deadline {
        let turn = number + 7 * delivered;
        let message = &messages[turn % messages.len()];
        let replies = session.deliver("load@example.test", &[&user(turn)], message).expect("LMTP");
        assert!(replies[0].is_ok(), "{replies:?}");
        delivered += 1;
    }
    delivered
}

fn deliver_corpus(host: &dyn Host) -> Vec<Figure> {
    const CONNECTIONS: usize = 8;
    let name = "LMTP delivery, corpus, connections: 8";
    let samples: Vec<_> = corpus::clean().into_iter().filter(|sample| sample.received_lines() < 30).collect();
    let octets: usize = samples.iter().map(|sample| sample.octets.len()).sum();
    let next = AtomicUsize::new(0);
    let cpu = Cpu::start(host);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut session = lmtp(host);
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let replies =
                        session.deliver("load@example.test", &[READER], &sample.octets).expect("LMTP");
                    assert!(replies[0].is_ok(), "{}: {replies:?}", sample.name);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut figures = vec![
        Figure::new(name, "messages/s", Better::Higher, samples.len() as f64 / seconds),
        Figure::new(name, "MB/s", Better::Higher, octets as f64 / 1e6 / seconds),
    ];
    figures.extend(cpu.per(host, name, "message", samples.len()));
    figures
}

/// What a reader with a local copy asks first.
const HEADERS: &str = "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE \
     BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES LIST-ID)])";

/// Time of one FETCH over a whole folder on a connection of its own, as figures for each message and octet.
fn fetch_all(host: &dyn Host, workload: &str, address: &str, folder: &str, items: &str) -> Vec<Figure> {
    let mut session = imap(host, address);
    let count = session.select(folder).exists().expect("EXISTS") as usize;
    assert!(count > 0, "{folder} of {address} is empty: run the workload that fills it as well");
    let cpu = Cpu::start(host);
    let start = Instant::now();
    let tag = session.start(&format!("UID FETCH 1:* {items}")).expect("FETCH");
    let octets = session.connection.skip_to_tagged(&tag).expect("answer to FETCH");
    let seconds = start.elapsed().as_secs_f64();
    let mut figures = vec![
        Figure::new(workload, "messages/s", Better::Higher, count as f64 / seconds),
        Figure::new(workload, "MB/s", Better::Higher, octets as f64 / 1e6 / seconds),
    ];
    figures.extend(cpu.per(host, workload, "message", count));
    figures
}

fn sync_headers(host: &dyn Host) -> Vec<Figure> {
    fetch_all(host, "IMAP sync of headers, corpus", READER, "INBOX", HEADERS)
}

fn sync_bodies(host: &dyn Host) -> Vec<Figure> {
    fetch_all(host, "IMAP sync of bodies, corpus", READER, "INBOX", "(UID BODY.PEEK[])")
}

/// APPENDs many small messages in few commands (MULTIAPPEND, RFC 3502).
fn fill_large_folder(host: &dyn Host) -> Vec<Figure> {
    const BATCH: usize = 500;
    let mut session = imap(host, HOARDER);
    let start = Instant::now();
    for batch in 0..LARGE_FOLDER_MESSAGES / BATCH {
        let mut command = b"fill APPEND INBOX".to_vec();
        for number in 0..BATCH {
            let content = message(500, (batch * BATCH + number) as u64);
            command.extend_from_slice(format!(" (\\Seen) {{{}+}}\r\n", content.len()).as_bytes());
            command.extend_from_slice(&content);
        }
        command.extend_from_slice(b"\r\n");
        session.connection.send(&command).expect("APPEND");
        session.finish("fill").expect("answer to APPEND").ok();
    }
    let rate = LARGE_FOLDER_MESSAGES as f64 / start.elapsed().as_secs_f64();
    vec![Figure::new("MULTIAPPEND of 500 messages of 500 octets", "messages/s", Better::Higher, rate)]
}

fn sync_flags(host: &dyn Host) -> Vec<Figure> {
    fetch_all(host, "IMAP sync of flags, 100,000 messages", HOARDER, "INBOX", "(FLAGS)")
}

/// An idling session in its INBOX, and the tag of its IDLE.
fn idling(host: &dyn Host, address: &str) -> io::Result<Imap> {
    let mut session = imap(host, address);
    session.select("INBOX");
    session.start("IDLE")?;
    session.read_line()?;
    Ok(session)
}

/// What one more session costs: every mailbox already has one, so that what sessions share is not counted.
fn idle_memory(host: &dyn Host) -> Vec<Figure> {
    let open = |count: usize| -> Vec<Imap> {
        (0..count).map(|number| idling(host, &user(number)).expect("IDLE")).collect()
    };
    let first = open(USERS);
    let before = proportional_octets(host.pid());
    let more = open(IDLE_CONNECTIONS);
    let after = proportional_octets(host.pid());
    drop((first, more));
    let each = after.saturating_sub(before) as f64 / 1024.0 / IDLE_CONNECTIONS as f64;
    vec![Figure::new("400 more idle IMAP connections", "KiB each", Better::Lower, each)]
}

/// From the last octet of the message to EXISTS in an idling session.
fn delivery_to_exists(host: &dyn Host) -> Vec<Figure> {
    let mut session = idling(host, &user(0)).expect("IDLE");
    let mut sender = lmtp(host);
    let content = message(8_192, 1);
    let mut milliseconds: Vec<f64> = (0..NOTICES)
        .map(|_| {
            let start = Instant::now();
            let replies = sender.deliver("load@example.test", &[&user(0)], &content).expect("LMTP");
            assert!(replies[0].is_ok(), "{replies:?}");
            while session.read_untagged().expect("told").keyword() != "EXISTS" {}
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    milliseconds.sort_by(f64::total_cmp);
    let name = "delivery until EXISTS in an idling session";
    vec![
        Figure::new(name, "ms, median", Better::Lower, milliseconds[NOTICES / 2]),
        Figure::new(name, "ms, slowest of 40", Better::Lower, milliseconds[NOTICES - 1]),
    ]
}

/// [`deliver_corpus`] and [`sync_headers`] ran before: the corpus is there, and what a header sync caches. The packer
/// has done its work.
fn disk(host: &dyn Host) -> Vec<Figure> {
    host.settle();
    let octets = allocated_octets(&host.files()) as f64 / 1e6;
    vec![Figure::new(
        "the corpus on disk after a sync of headers",
        "MB of allocated blocks",
        Better::Lower,
        octets,
    )]
}
