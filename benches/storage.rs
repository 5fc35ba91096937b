//! What mail stores cost: packing, offload, cold and warm reads, compaction, and what deliveries lose while all of it
//! runs.
//!
//! `cargo bench --bench storage` runs it on a daemon with SQLite and an S3 server in a process of its own; with
//! `-- --write` it puts the table into `docs/benchmarks.md`. `-- --messages N` and `-- --seconds N` narrow a run,
//! `-- --rounds N` repeats the comparison of deliveries, `-- --deliveries` runs nothing else.
//! `POSTHOUSE_TEST_CORPUS` names the folder with real mail. Nothing here passes or fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../tests/support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the comparison with Dovecot uses more of it")]
#[path = "side_by_side/host.rs"]
mod host;
#[path = "storage/object_store.rs"]
mod object_store;
#[allow(dead_code, reason = "the comparison with Dovecot uses more of it")]
#[path = "side_by_side/report.rs"]
mod report;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use host::{TICKS_PER_SECOND, cpu_seconds, own_cpu_seconds};
use object_store::ObjectStore;
use report::{Better, Figure, Table};
use support::Random;
use support::corpus;
use support::daemon::{Daemon, Setup};
use support::imap::body_of;
use support::s3::{BUCKET, store_configuration};
use support::smtp::{Dialect, Smtp};

const MAILBOXES: usize = 8;
const CONNECTIONS: usize = 8;
/// Messages whose reading is timed.
const READS: usize = 200;
/// Of so many messages one is expunged before compaction.
const EXPUNGED_ONE_IN: usize = 3;

/// What goes on in the background, all at once, and which of its figures tells how much it did.
const BACKGROUND: &[(&str, &str)] = &[
    ("/v1/packing", "octets"),
    ("/v1/stores/main/offload", "uploaded_octets"),
    ("/v1/stores/main/compact", "rewritten_octets"),
];

fn section(table: &str, messages: usize) -> String {
    format!(
        "What packs and object storage cost, on SQLite, with an S3 server on the same machine in a process of its own: \
         it takes its share of the processor too, and keeps its objects in memory, since a real one has disks of its \
         own.\n\n\
         ```\nPOSTHOUSE_TEST_CORPUS=FOLDER cargo bench --bench storage -- --write\n```\n\n\
         A cold message is in object storage alone; it is warm when it was read before. Deliveries with and without \
         background work take turns; with it packing, offload and compaction go on beside each other without a pause, \
         after a third of the mail before was expunged.\n\n\
         Last run: {}, {messages} messages.\n\n{table}",
        report::circumstances()
    )
}

struct Options {
    messages: usize,
    seconds: u64,
    rounds: usize,
    write: bool,
    /// Only the comparison of deliveries.
    deliveries: bool,
}

fn options() -> Options {
    let mut options = Options { messages: 20_000, seconds: 10, rounds: 3, write: false, deliveries: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match argument.as_str() {
            "--messages" => options.messages = number(),
            "--seconds" => options.seconds = number() as u64,
            "--rounds" => options.rounds = number(),
            "--write" => options.write = true,
            "--deliveries" => options.deliveries = true,
            // What cargo itself adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn address(number: usize) -> String {
    format!("user{}@bench.test", number % MAILBOXES)
}

struct Bench {
    daemon: Daemon,
    server: ObjectStore,
    messages: Vec<Vec<u8>>,
    table: Table,
}

impl Bench {
    fn start() -> Self {
        let server = ObjectStore::start();
        let store = store_configuration(server.endpoint(), BUCKET, "", "[store.packing]\ngrace_minutes = 0");
        let configuration = format!("[retention]\nundelete_days = 0\n{store}");
        let daemon = Daemon::with(Setup { configuration, ..Setup::default() });
        daemon.customer("bench", "bench.test");
        (0..MAILBOXES).for_each(|number| daemon.mailbox(&address(number)));
        let samples = corpus::clean().into_iter();
        let messages = samples.filter(|sample| sample.received_lines() < 30).map(|sample| sample.octets);
        let messages = messages.filter(|octets| !octets.is_empty()).collect();
        Self { daemon, server, messages, table: Table::new(vec!["Posthouse".to_owned()]) }
    }

    fn add(&mut self, workload: &str, unit: &str, better: Better, value: f64) {
        self.table.add(0, Figure::new(workload, unit, better, value));
    }

    /// Runs `work`, which moves so many octets; enters its rates.
    fn measure<T>(&mut self, workload: &str, octets: impl Fn(&T) -> f64, work: impl FnOnce(&Self) -> T) -> T {
        let pid = self.daemon.pid().expect("the daemon runs");
        let (cpu, start) = (cpu_seconds(pid), Instant::now());
        let done = work(self);
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu);
        let moved = octets(&done) / 1e6;
        self.add(workload, "MB/s", Better::Higher, moved / seconds);
        self.add(workload, "MB per second of the daemon's CPU", Better::Higher, moved / cpu.max(0.01));
        done
    }

    /// Delivers `count` messages to the mailboxes in turn; answers their octets.
    fn fill(&self, count: usize) -> f64 {
        let (next, octets) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let lmtp = self.daemon.address("lmtp").to_owned();
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut session = Smtp::open(&lmtp, Dialect::Lmtp).expect("LMTP session");
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let message = &self.messages[number % self.messages.len()];
                        deliver(&mut session, number, message);
                        octets.fetch_add(message.len(), Ordering::Relaxed);
                    }
                });
            }
        });
        octets.into_inner() as f64
    }

    fn packing_and_offload(&mut self, messages: usize) {
        let octets = self.fill(messages);
        self.measure("packing, of mail as received", |_| octets, |own| own.daemon.job("/v1/packing"));
        let sent = |report: &serde_json::Value| report["uploaded_octets"].as_f64().unwrap_or(0.0);
        self.measure("offload, of packs", sent, |own| own.daemon.job("/v1/stores/main/offload"));
        let requests = self.server.requests();
        let sent = (requests.put + requests.post) as f64 * 1_000.0 / messages as f64;
        self.add("offload", "PUT for 1,000 messages", Better::Lower, sent);
    }

    /// Times single messages, the first time from object storage, the second from the cache.
    fn reads(&mut self, messages: usize) {
        self.daemon.stop();
        self.daemon.start_again();
        let mut session = self.daemon.imap(&address(0));
        let there = session.select("INBOX").exists().expect("EXISTS") as usize;
        let mut random = Random::new(7);
        let picked: Vec<usize> = (0..READS.min(messages)).map(|_| 1 + random.below(there)).collect();
        for what in ["cold", "warm"] {
            let mut milliseconds: Vec<f64> = Vec::with_capacity(picked.len());
            for number in &picked {
                let start = Instant::now();
                let answer = session.command(&format!("FETCH {number} (BODY.PEEK[])")).expect("FETCH").ok();
                milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
                assert!(answer.all("FETCH").all(|line| !body_of(line).is_empty()));
            }
            milliseconds.sort_by(f64::total_cmp);
            let name = format!("reading a message, {what}");
            self.add(&name, "ms, median", Better::Lower, milliseconds[milliseconds.len() / 2]);
            self.add(&name, "ms, 95 of 100", Better::Lower, milliseconds[milliseconds.len() * 95 / 100]);
        }
        drop(session);
        let before = self.server.requests().get;
        let download = |own: &Self| {
            let mut session = own.daemon.imap(&address(1));
            session.select("INBOX");
            let tag = session.start("UID FETCH 1:* (UID BODY.PEEK[])").expect("FETCH");
            session.connection.skip_to_tagged(&tag).expect("answer to FETCH") as f64
        };
        self.measure("download of a folder, cold", |octets: &f64| *octets, download);
        let requests = self.server.requests().get - before;
        self.add("download of a folder, cold", "GET", Better::Lower, requests as f64);
    }

    /// Expunges a third of what is in every mailbox, so that packs have something to give back.
    fn expunge(&self) {
        for number in 0..MAILBOXES {
            let mut session = self.daemon.imap(&address(number));
            let count = session.select("INBOX").exists().expect("EXISTS") as usize;
            let expunged: Vec<String> =
                (1..=count).step_by(EXPUNGED_ONE_IN).map(|number| number.to_string()).collect();
            for some in expunged.chunks(500) {
                let marked = format!("STORE {} +FLAGS.SILENT (\\Deleted)", some.join(","));
                session.command(&marked).expect("STORE").ok();
            }
            session.command("EXPUNGE").expect("EXPUNGE").ok();
        }
    }

    fn compaction(&mut self) {
        self.expunge();
        let of = |report: &serde_json::Value, key: &str| report[key].as_f64().unwrap_or(0.0);
        let report = self.measure(
            "compaction with a third dead, of packs",
            |report| of(report, "rewritten_octets"),
            |own| own.daemon.job("/v1/stores/main/compact"),
        );
        let (read, written) = (of(&report, "rewritten_octets"), of(&report, "became_octets"));
        let name = "compaction with a third dead";
        self.add(
            name,
            "octets written for each that is won",
            Better::Lower,
            written / (read - written).max(1.0),
        );
    }

    /// Deliveries for a while, alone and while packing, offload and compaction go on; by turns.
    fn deliveries(&mut self, seconds: u64, rounds: usize) {
        let mut shares = Vec::new();
        for _ in 0..rounds {
            // What came so far is packed and sent, and a third of it dies; what comes now is not packed yet: all three
            // kinds of work have something to do.
            for (path, _) in BACKGROUND.iter().take(2) {
                self.daemon.job(path);
            }
            self.expunge();
            let (alone, _) = self.delivery_rate(seconds, false);
            let pids = [self.daemon.pid().expect("the daemon runs"), self.server.pid()];
            let (before, own, all) = (pids.map(cpu_seconds), own_cpu_seconds(), busy_cpu_seconds());
            let start = Instant::now();
            let (beside, done) = self.delivery_rate(seconds, true);
            let elapsed = start.elapsed().as_secs_f64();
            let ([daemon, server], own) = (pids.map(cpu_seconds), own_cpu_seconds() - own);
            let (daemon, server) = (daemon - before[0], server - before[1]);
            let others = busy_cpu_seconds() - all - daemon - server - own;
            self.add("LMTP delivery, corpus, connections: 8", "messages/s", Better::Higher, alone);
            let name = "the same beside packing, offload and compaction";
            self.add(name, "messages/s", Better::Higher, beside);
            for (whose, seconds) in [
                ("the daemon's", daemon),
                ("the S3 server's", server),
                ("the load generator's", own),
                ("everybody else's", others),
            ] {
                let unit = format!("{whose} CPU, percent of a core");
                self.add(name, &unit, Better::Neither, 100.0 * seconds / elapsed);
            }
            for (path, reported) in BACKGROUND {
                let unit = format!("MB/s of packs, {}", path.rsplit('/').next().unwrap_or_default());
                let octets: f64 = done
                    .iter()
                    .filter_map(|(of, report)| (of == path).then(|| report[reported].as_f64())?)
                    .sum();
                self.add(name, &unit, Better::Neither, octets / 1e6 / elapsed);
            }
            shares.push(100.0 * beside / alone);
        }
        for share in shares {
            self.add("deliveries beside background work", "percent of alone", Better::Higher, share);
        }
    }

    /// Messages a second, and what the background work beside them reported.
    fn delivery_rate(&self, seconds: u64, background: bool) -> (f64, Vec<(&'static str, serde_json::Value)>) {
        let done = std::sync::Mutex::new(Vec::new());
        let (delivered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let lmtp = self.daemon.address("lmtp").to_owned();
        let start = Instant::now();
        let rate = std::thread::scope(|scope| {
            for (path, _) in BACKGROUND.iter().filter(|_| background) {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let report = self.daemon.job(path);
                        done.lock().expect("nobody else").push((*path, report));
                    }
                });
            }
            let senders: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut session = Smtp::open(&lmtp, Dialect::Lmtp).expect("LMTP session");
                        while start.elapsed() < Duration::from_secs(seconds) {
                            let number = delivered.fetch_add(1, Ordering::Relaxed);
                            deliver(&mut session, number, &self.messages[number % self.messages.len()]);
                        }
                    })
                })
                .collect();
            senders.into_iter().for_each(|sender| sender.join().expect("sender"));
            is_over.store(true, Ordering::Relaxed);
            delivered.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
        });
        (rate, done.into_inner().expect("nobody panicked"))
    }
}

/// CPU seconds that the whole machine was busy since it started, without what its host took: proc_stat(5).
fn busy_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    [0, 1, 2, 5, 6].into_iter().filter_map(|at| ticks.get(at)).sum::<u64>() as f64 / TICKS_PER_SECOND
}

fn deliver(session: &mut Smtp, number: usize, message: &[u8]) {
    let replies = session.deliver("load@example.test", &[&address(number)], message).expect("LMTP");
    assert!(replies[0].is_ok(), "{replies:?}");
}

fn main() {
    if std::env::args().any(|argument| argument == object_store::SERVE) {
        return object_store::serve();
    }
    let options = options();
    let mut bench = Bench::start();
    if !options.deliveries {
        eprintln!("packing and offload of {} messages", options.messages);
        bench.packing_and_offload(options.messages);
        eprintln!("reads");
        bench.reads(options.messages);
        eprintln!("compaction");
        bench.compaction();
    }
    eprintln!("deliveries");
    bench.deliveries(options.seconds, options.rounds);
    let text = bench.table.markdown();
    println!("{text}");
    if options.write {
        report::write_section("Mail stores", &section(&text, options.messages));
    }
}
