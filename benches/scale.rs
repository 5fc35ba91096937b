//! What management costs in a large installation: 100,000 customers (twenty levels deep, and one chain of 1,000),
//! 100,000 domains, 1,000,000 mailboxes and their messages in one database.
//!
//! `cargo bench --bench scale` fills a database (SQLite) and serves it with a real daemon; with `-- --write` it puts
//! the table into `docs/benchmarks.md`. `-- --mailboxes N` narrows it: there is a customer and a domain for each ten,
//! and `-- --messages N` says how many messages there are. Nothing here passes or fails.
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
#[path = "side_by_side/report.rs"]
mod report;

use std::path::Path;
use std::time::Instant;

use posthouse::base::clock::Timestamp;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::customer;
use posthouse::storage::metadata::database::Database as Metadata;
use posthouse::storage::metadata::lane::Priority;
use report::{Better, Figure, Table};
use serde_json::Value;
use support::daemon::{Daemon, Setup};

/// Mailboxes of the domain whose report is timed.
const LARGE_DOMAIN: usize = 10_000;
const LEVELS: usize = 20;
const CHAIN: usize = 1_000;
/// How often each request is made.
const TIMES: usize = 20;

#[derive(Clone, Copy)]
struct Options {
    mailboxes: usize,
    messages: usize,
    write: bool,
}

fn options() -> Options {
    let mut options = Options { mailboxes: 1_000_000, messages: 5_000_000, write: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match argument.as_str() {
            "--mailboxes" => options.mailboxes = number(),
            "--messages" => options.messages = number(),
            "--write" => options.write = true,
            // What cargo itself adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

/// The statements that fill an empty database. Keys are numbers from 1 on: the root is customer 1, a chain hangs below
/// it, and the others form a tree; each has a domain. Mailboxes stand in their domains in turn, and in the first domain
/// so many more.
fn statements(options: Options) -> Vec<String> {
    let Options { mailboxes, messages, .. } = options;
    let customers = mailboxes / 10;
    let count = |name: &str, from: usize, to: usize| {
        format!(
            "WITH RECURSIVE {name} (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM {name} WHERE i < {to})"
        )
    };
    let chain = CHAIN.min(customers / 2);
    // Customer i of the tree hangs below i / 2 for a while, then in chains of so many levels.
    let (tree, levels) = (chain + 2, LEVELS - 14);
    let parent = format!(
        "CASE WHEN i <= {chain} + 1 THEN i - 1
              WHEN i - {tree} < 8192 THEN CASE WHEN i - {tree} < 2 THEN 1 ELSE {tree} + (i - {tree}) / 2 END
              WHEN (i - {tree}) % {levels} = 0 THEN {tree} + 4096 + (i / {levels}) % 4096 ELSE i - 1 END"
    );
    vec![
        "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'stores/main', 0)".to_owned(),
        format!(
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
             {} SELECT i, 'c' || i, {parent}, 'c' || i, 'Customer ' || i, 'k' || i, 0 FROM n",
            count("n", 2, customers)
        ),
        format!(
            "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
             {} SELECT i, 'd' || i, i, 'd' || i || '.example', 'verified', 0 FROM n",
            count("n", 1, customers)
        ),
        format!(
            "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id, bytes_max,
                                  uid_validity_next, created_at)
             {} SELECT i, 'm' || i, CASE WHEN i <= {LARGE_DOMAIN} THEN 1 ELSE 1 + i % {customers} END, 'user' || i,
                       'x', 1,
                       1073741824, 2, 0 FROM n",
            count("n", 1, mailboxes)
        ),
        "INSERT INTO folder (id, mailbox_id, name, uid_validity, created_at)
         SELECT id, id, 'INBOX', 1, 0 FROM mailbox"
            .to_owned(),
        "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, created_at)
         VALUES (1, 1, 1, 4000, 1500, 1, 0)"
            .to_owned(),
        format!(
            "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets, internal_date)
             {} SELECT 1 + i / 5 % {mailboxes}, 1 + i / 5 % {mailboxes}, 1 + i % 5 + 5 * (i / (5 * {mailboxes})),
                       0, 1, 1, 0,
                       4000, 0 FROM n",
            count("n", 0, messages - 1)
        ),
        "UPDATE body SET reference_count = (SELECT count(*) FROM message)".to_owned(),
        "UPDATE mailbox SET messages_used = (SELECT count(*) FROM message WHERE mailbox_id = mailbox.id),
                            bytes_used = 4000 * (SELECT count(*) FROM message WHERE mailbox_id = mailbox.id)"
            .to_owned(),
        "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'".to_owned(),
        "ANALYZE".to_owned(),
    ]
}

async fn fill(url: &str, options: Options) {
    let started = Instant::now();
    let database = Metadata::open(url).await.expect("database");
    let root = database.write(Priority::Interactive, |conn| {
        Box::pin(async move { customer::ensure_root(conn, Timestamp::from_secs(1)).await })
    });
    root.await.map_err(|error: StorageError| error).expect("the root");
    for text in statements(options) {
        let begun = Instant::now();
        let shown = text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let write = database.write(Priority::Interactive, move |conn| {
            let text = text.clone();
            Box::pin(async move { conn.execute(text, Vec::new()).await })
        });
        let done: Result<u64, StorageError> = write.await;
        done.unwrap_or_else(|error| panic!("{shown}: {error}"));
        eprintln!("{shown}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    database.close().await;
    eprintln!("filled in {:.0} s", started.elapsed().as_secs_f64());
}

/// Memory of the daemon in MiB: `VmRSS`, `VmHWM` (proc_pid_status(5)).
fn memory(daemon: &Daemon, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().expect("a process")))
        .expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1_024.0
}

fn section(table: &str, options: Options) -> String {
    format!(
        "What management costs with {} customers (one chain of them {CHAIN} levels deep), as many domains, \
         {} mailboxes \
         and {} messages in one database (SQLite), over the admin socket, each request {TIMES} times:\n\n\
         ```\ncargo bench --bench scale -- --write\n```\n\n\
         Last run: {}.\n\n{table}",
        options.mailboxes / 10,
        options.mailboxes,
        options.messages,
        report::machine()
    )
}

struct Bench {
    daemon: Daemon,
    table: Table,
}

impl Bench {
    fn add(&mut self, workload: &str, unit: &str, better: Better, value: f64) {
        println!("{workload}: {value:.2} {unit}");
        self.table.add(0, Figure::new(workload, unit, better, value));
    }

    /// Times a request, so often; the median and the spread stand in the table.
    fn request(&mut self, workload: &str, path: &str) -> Value {
        let mut answer = Value::Null;
        for _ in 0..TIMES {
            let started = Instant::now();
            let response = self.daemon.api("GET", path, None);
            let milliseconds = started.elapsed().as_secs_f64() * 1_000.0;
            assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
            self.table.add(0, Figure::new(workload, "ms", Better::Lower, milliseconds));
            answer = response.json();
        }
        println!("{workload}: done");
        answer
    }
}

fn main() {
    let options = options();
    let prepare = move |_: &Path, url: &str| {
        tokio::runtime::Runtime::new().expect("runtime").block_on(fill(url, options));
    };
    let daemon = Daemon::with(Setup { prepare: Some(Box::new(prepare)), ..Setup::default() });
    let mut bench = Bench { daemon, table: Table::new(vec!["Posthouse".to_owned()]) };
    for _ in 0..3 {
        bench.daemon.stop();
        let started = Instant::now();
        bench.daemon.start_again();
        let seconds = started.elapsed().as_secs_f64();
        bench.add("start until it serves", "s", Better::Lower, seconds);
    }
    bench.add("memory after the start", "MiB", Better::Lower, memory(&bench.daemon, "VmRSS"));
    bench.request("first page of customers", "/v1/customers");
    bench.request("first page of domains", "/v1/domains");
    let page = bench.request("first page of mailboxes", "/v1/mailboxes");
    let cursor = page["cursor"].as_str().expect("more").to_owned();
    bench.request("next page of mailboxes", &format!("/v1/mailboxes?cursor={cursor}"));
    bench.request("page of mailboxes below one of the first customers", "/v1/mailboxes?customer=k1102");
    bench.request("page of mailboxes of a large domain", "/v1/mailboxes?domain=d1.example");
    bench.request("one mailbox", "/v1/mailboxes/user500000@d1.example".replace("500000", "77").as_str());
    bench.request("one customer at the end of the chain", "/v1/customers/k1001");
    bench.request(
        "quota report of a domain of 10,000 mailboxes",
        "/v1/reports/quota?domain=d1.example&limit=1000",
    );
    bench.request("quota report of everything", "/v1/reports/quota");
    let started = Instant::now();
    let made = serde_json::json!({ "path": "fresh" });
    let made = bench.daemon.api("POST", "/v1/customers", Some(&made));
    assert_eq!(made.status, 201, "{}", made.json());
    bench.add("a customer is made", "ms", Better::Lower, started.elapsed().as_secs_f64() * 1_000.0);
    bench.request("first page of customers again", "/v1/customers");
    let started = Instant::now();
    let verified = bench.daemon.job("/v1/quota/verify");
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(verified["drift"], 0, "{verified}");
    let rate = options.messages as f64 / seconds / 1e6;
    bench.add("quota verify", "million messages/s", Better::Higher, rate);
    bench.add("quota verify of everything", "s", Better::Lower, seconds);
    bench.add("memory at the end", "MiB", Better::Lower, memory(&bench.daemon, "VmRSS"));
    bench.add("most memory", "MiB", Better::Lower, memory(&bench.daemon, "VmHWM"));
    let text = bench.table.markdown();
    println!("{text}");
    if options.write {
        report::write_section("Large installations", &section(&text, options));
    }
}
