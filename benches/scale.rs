//! What management costs in a large installation: 100,000 customers (twenty levels deep, and one chain of 1,000),
//! 100,000 domains, 1,000,000 mailboxes and their messages in one database.
//!
//! `cargo bench --bench scale` fills a database (SQLite) and serves it with a real daemon; with `-- --write` it puts
//! the table into `docs/benchmarks.md`. `-- --mailboxes N` narrows it: there is a customer and a domain for each ten,
//! and ten messages for each unless `-- --messages N` says how many there are. Nothing here passes or fails.
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

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::service::authority::Permission;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
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
/// Lines of metering of each domain in the present month.
const USAGE_LINES: i64 = 4;
/// Grants of the administrator whose rights are asked for.
const GRANTS: usize = 50;
/// How often somebody's rights are asked for.
const CHECKS: usize = 2_000_000;
/// Mailboxes that are imported, in batches.
const IMPORTED: usize = 10_000;
const BATCH: usize = 500;
/// Messages that one statement fills in: the log is written back between statements.
const MESSAGES_TOGETHER: usize = 1_000_000;
/// As long as a real one.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
                    0123456789abcdefghijklmnopqrstuvwxyzABCDEFE";

#[derive(Clone, Copy)]
struct Options {
    mailboxes: usize,
    messages: usize,
    write: bool,
}

fn options() -> Options {
    let mut options = Options { mailboxes: 1_000_000, messages: 0, write: false };
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
    if options.messages == 0 {
        options.messages = options.mailboxes * 10;
    }
    options
}

/// The numbers from one to another.
fn numbers(from: usize, to: usize) -> String {
    format!("WITH RECURSIVE n (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})")
}

/// The customers and their domains. Keys are numbers from 1 on: the root is customer 1, a chain hangs below it, and the
/// others form a tree; each has a domain. Some have a ceiling, and some a hold on management.
fn hierarchy(options: Options) -> Vec<String> {
    let customers = options.mailboxes / 10;
    let chain = CHAIN.min(customers / 2);
    // Customer i of the tree hangs below i / 2 for a while, then in chains of so many levels.
    let (tree, levels) = (chain + 2, LEVELS - 14);
    let parent = format!(
        "CASE WHEN i <= {chain} + 1 THEN i - 1
              WHEN i - {tree} < 8192 THEN CASE WHEN i - {tree} < 2 THEN 1 ELSE {tree} + (i - {tree}) / 2 END
              WHEN (i - {tree}) % {levels} = 0 THEN {tree} + 4096 + (i / {levels}) % 4096 ELSE i - 1 END"
    );
    let ceiling: Vec<&str> = Permission::ALL.iter().map(|permission| permission.name()).skip(1).collect();
    vec![
        "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'stores/main', 0)".to_owned(),
        format!(
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
             {} SELECT i, printf('c%08d', i), {parent}, 'c' || i, 'Customer ' || i, 'k' || i, 0 FROM n",
            numbers(2, customers)
        ),
        format!("UPDATE customer SET ceiling = '{}' WHERE id % 101 = 7", ceiling.join(" ")),
        "INSERT INTO hold (public_id, customer_id, switch, reason, actor, authority_customer_id, created_at)
         SELECT printf('h%08d', id), id, 'manage', 'late', 'system', 1, 0 FROM customer WHERE id % 1009 = 1008"
            .to_owned(),
        format!(
            "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
             {} SELECT i, printf('d%08d', i), i, 'd' || i || '.example', 'verified', 0 FROM n",
            numbers(1, customers)
        ),
    ]
}

/// Mailboxes stand in their domains in turn, and in the first domain so many more; messages in mailboxes in turn.
fn mail(options: Options) -> Vec<String> {
    let Options { mailboxes, messages, .. } = options;
    let (customers, each) = (mailboxes / 10, messages.div_ceil(mailboxes).max(1));
    let mut statements = vec![
        format!(
            "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id, bytes_max,
                                  uid_validity_next, created_at)
             {} SELECT i, printf('m%08d', i), CASE WHEN i <= {LARGE_DOMAIN} THEN 1 ELSE 1 + i % {customers} END,
                       'user' || i, '{HASH}', 1, 1073741824, 2, 0 FROM n",
            numbers(1, mailboxes)
        ),
        "INSERT INTO folder (id, mailbox_id, name, uid_validity, created_at)
         SELECT id, id, 'INBOX', 1, 0 FROM mailbox"
            .to_owned(),
        "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count)
         VALUES (1, 1, 1, 4000, 1500, 1)"
            .to_owned(),
    ];
    for from in (0..messages).step_by(MESSAGES_TOGETHER) {
        statements.push(format!(
            "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets, internal_date)
             {} SELECT 1 + i / {each}, 1 + i / {each}, 1 + i % {each}, i % 2, 1 + i % {each}, 1, 0, 4000, 0 FROM n",
            numbers(from, messages.min(from + MESSAGES_TOGETHER) - 1)
        ));
    }
    statements.extend([
        format!("UPDATE body SET reference_count = {messages}"),
        "UPDATE folder SET (messages, recent, octets, unseen, uid_next, mod_seq) = (
             SELECT count(*), count(*), coalesce(sum(e.octets), 0), coalesce(sum(1 - (e.flags & 1)), 0),
                    coalesce(max(e.uid), 0) + 1, coalesce(max(e.mod_seq), 1)
             FROM message e WHERE e.mailbox_id = folder.mailbox_id AND e.folder_id = folder.id)"
            .to_owned(),
        "UPDATE mailbox SET (messages_used, bytes_used) = (
             SELECT f.messages, f.octets FROM folder f WHERE f.id = mailbox.id)"
            .to_owned(),
    ]);
    statements
}

/// What the domains used this month, as far as it is over: some lines for each.
fn metering() -> Vec<String> {
    let closed = Clock::system().now().secs() / 3_600 - 1;
    vec![
        "INSERT INTO usage_path (id, path, names)
         WITH RECURSIVE p (id, path, names) AS (
             SELECT id, '/' || id || '/', slug FROM customer WHERE parent_id IS NULL
             UNION ALL
             SELECT c.id, p.path || c.id || '/', p.names || '/' || c.slug FROM p JOIN customer c ON c.parent_id = p.id)
         SELECT id, path, names FROM p ORDER BY id"
            .to_owned(),
        "INSERT INTO usage_place (domain_id, path_id) SELECT id, customer_id FROM domain".to_owned(),
        format!(
            "INSERT INTO usage_line (domain_id, start_hour, hours, path_id, byte_hours, mailbox_hours, messages_in,
                                     octets_in, bytes_after, mailboxes_after)
             {} SELECT d.id, {closed} - n.i, 1, d.customer_id, 400000, 10, 1, 4000, 400000, 10
             FROM domain d CROSS JOIN n",
            numbers(0, USAGE_LINES as usize - 1)
        ),
        format!("INSERT INTO instance (key, value) VALUES ('metered_hour', '{closed}')"),
        "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'".to_owned(),
        "ANALYZE".to_owned(),
    ]
}

/// Fills an empty database, and measures in it what has no way over the socket: single checks of somebody's rights.
async fn prepare(url: &str, options: Options) -> Vec<Figure> {
    let started = Instant::now();
    let database = Metadata::open(url).await.expect("database");
    let root = database.write(Priority::Interactive, |conn| {
        Box::pin(async move { customer::ensure_root(conn, Timestamp::from_secs(1)).await })
    });
    root.await.map_err(|error: StorageError| error).expect("the root");
    for text in [hierarchy(options), mail(options), metering()].concat() {
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
    eprintln!("filled in {:.0} s", started.elapsed().as_secs_f64());
    let figures = rights(&database, options).await;
    database.close().await;
    figures
}

/// Microseconds of a check of an administrator's rights at random customers, and of reading what it may.
async fn rights(database: &Metadata, options: Options) -> Vec<Figure> {
    let customers = options.mailboxes / 10;
    let management_options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
    let management =
        Management::open(database.clone(), Clock::system(), management_options).await.expect("management");
    let system = management.authenticate_peer(0).await.expect("the database").expect("the system");
    let run = async |name: &str, fields: Value| {
        let operation = operation(name).expect("an operation");
        let context = system.context(None, "bench".to_owned(), None);
        let answer = (operation.run)(&management, context, fields, RunOptions::default()).await;
        answer.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let mut random = support::Random::new(1);
    let made = serde_json::json!({ "name": "busy", "customer": "k2", "role": "manager" });
    let made = run("administrator.create", made).await;
    let login = made["name"].as_str().expect("a login").to_owned();
    for _ in 1..GRANTS {
        let at = format!("k{}", 2 + random.below(customers - 1));
        run("administrator.grant", serde_json::json!({ "name": login, "customer": at, "role": "manager" }))
            .await;
    }
    let token = made["token"].as_str().expect("a token");
    let busy = management.authenticate_token(token, None).await.expect("the database").expect("somebody");
    let mut figures = Vec::new();
    let begun = Instant::now();
    for _ in 0..TIMES {
        management.rights(&busy).await.expect("the database");
    }
    let micros = begun.elapsed().as_secs_f64() * 1e6 / TIMES as f64;
    figures.push(Figure::new(
        "reading what an administrator with 50 grants may",
        "µs",
        Better::Lower,
        micros,
    ));
    for (who, workload) in [
        (&system, "authority check, a system administrator, anywhere"),
        (&busy, "authority check, an administrator with 50 grants, anywhere"),
    ] {
        let rights = management.rights(who).await.expect("the database");
        let all = management.rights(&system).await.expect("the database");
        let places: Vec<_> = (0..CHECKS.min(customers))
            .filter_map(|_| all.customer(&format!("k{}", 1 + random.below(customers))))
            .collect();
        let begun = Instant::now();
        let mut held = 0;
        for place in places.iter().cycle().take(CHECKS) {
            held += usize::from(rights.may(*place, Permission::ReportRead));
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / CHECKS as f64;
        println!("{workload}: {micros:.3} µs, {held} of {CHECKS} held");
        figures.push(Figure::new(workload, "µs", Better::Lower, micros));
    }
    management.close().await;
    figures
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
        "What management costs with {} customers ({LEVELS} levels deep, and one chain of {CHAIN}), as many domains, \
         {} mailboxes and {} messages in one database (SQLite). A ninth of the hierarchy's marks are holds, the others \
         ceilings; each domain has {USAGE_LINES} lines of metering in the present month. Authority is checked in the \
         process, {CHECKS} times; everything else is asked for over the admin socket, each request {TIMES} times, \
         answers included. Each figure is the median, with the lowest and the highest in parentheses.\n\n\
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
            answer = self.request_once(workload, path);
        }
        println!("{workload}: done");
        answer
    }

    fn request_once(&mut self, workload: &str, path: &str) -> Value {
        let started = Instant::now();
        let response = self.daemon.api("GET", path, None);
        let milliseconds = started.elapsed().as_secs_f64() * 1_000.0;
        assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
        self.table.add(0, Figure::new(workload, "ms", Better::Lower, milliseconds));
        response.json()
    }
}

impl Bench {
    fn reads(&mut self) {
        self.request("first page of customers", "/v1/customers");
        self.request("first page of domains", "/v1/domains");
        let page = self.request("first page of mailboxes", "/v1/mailboxes");
        let cursor = page["cursor"].as_str().expect("more").to_owned();
        self.request("next page of mailboxes", &format!("/v1/mailboxes?cursor={cursor}"));
        self.request("page of mailboxes below a department", "/v1/mailboxes?customer=k1102");
        self.request("page of mailboxes of a large domain", "/v1/mailboxes?domain=d1.example");
        self.request("one mailbox", "/v1/mailboxes/user77@d1.example");
        self.request("one customer at the end of the chain", &format!("/v1/customers/k{CHAIN}"));
        self.request(
            "quota report of a domain of 10,000 mailboxes, 1,000 of them listed",
            "/v1/reports/quota?domain=d1.example&limit=1000",
        );
        let report = self.request("quota report of everything, 20,000 lines", "/v1/reports/quota");
        println!("{} and {} left out", report["total"], report["customers_left_out"]);
        let report = self.request("usage report of everything, 10,000 lines", "/v1/reports/usage");
        println!("{} left out", report["customers_left_out"]);
        self.request("storage report of everything, 10,000 lines", "/v1/reports/storage");
    }

    /// Changes of the hierarchy, each seen by a request behind it.
    fn changes(&mut self) {
        for round in 0..TIMES {
            let made = serde_json::json!({ "path": format!("fresh{round}") });
            self.change("a customer is made", "POST", "/v1/customers", &made);
            let moved = serde_json::json!({ "to": "k1102" });
            let path = format!("/v1/customers/fresh{round}/move");
            self.change("a customer is moved", "POST", &path, &moved);
            self.request_once("first page of customers after a change", "/v1/customers");
        }
    }

    fn change(&mut self, workload: &str, method: &str, path: &str, body: &Value) {
        let started = Instant::now();
        let answer = self.daemon.api(method, path, Some(body));
        let milliseconds = started.elapsed().as_secs_f64() * 1_000.0;
        assert!(answer.status < 300, "{path}: {}", answer.json());
        self.table.add(0, Figure::new(workload, "ms", Better::Lower, milliseconds));
    }

    /// Imports mailboxes with hashes.
    fn import(&mut self, options: Options) {
        let domain = format!("d{}.example", options.mailboxes / 20);
        let started = Instant::now();
        for from in (0..IMPORTED).step_by(BATCH) {
            let row = |number: usize| {
                serde_json::json!({ "type": "mailbox", "address": format!("new{number}@{domain}"),
                                    "name": format!("Person {number}"), "password_hash": HASH })
            };
            let rows: Vec<Value> = (from..from + BATCH).map(row).collect();
            let answer = self.daemon.api("POST", "/v1/imports", Some(&serde_json::json!({ "rows": rows })));
            assert_eq!(answer.json()["created"], BATCH, "{}", answer.json());
        }
        let rate = IMPORTED as f64 * 60.0 / started.elapsed().as_secs_f64();
        self.add("import of mailboxes with hashes", "mailboxes a minute", Better::Higher, rate);
    }

    fn verify(&mut self, options: Options) {
        let started = Instant::now();
        let verified = self.daemon.job("/v1/quota/verify");
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(verified["drift"], 0, "{verified}");
        let rate = options.messages as f64 / seconds / 1e6;
        self.add("quota verify", "million messages/s", Better::Higher, rate);
        self.add("quota verify of everything", "s", Better::Lower, seconds);
    }
}

fn main() {
    let options = options();
    let (figures, measured) = std::sync::mpsc::channel();
    let prepare = move |folder: &Path, url: &str| {
        std::fs::create_dir_all(folder).expect("the data folder");
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        figures.send(runtime.block_on(prepare(url, options))).expect("a receiver");
    };
    let daemon = Daemon::with(Setup { prepare: Some(Box::new(prepare)), ..Setup::default() });
    let mut bench = Bench { daemon, table: Table::new(vec!["Posthouse".to_owned()]) };
    for figure in measured.recv().expect("figures") {
        bench.table.add(0, figure);
    }
    for _ in 0..3 {
        bench.daemon.stop();
        let started = Instant::now();
        bench.daemon.start_again();
        bench.add("start until it serves", "s", Better::Lower, started.elapsed().as_secs_f64());
        let started = Instant::now();
        let answer = bench.daemon.api("GET", "/v1/customers", None);
        assert_eq!(answer.status, 200, "{}", answer.json());
        bench.add("first request after the start", "s", Better::Lower, started.elapsed().as_secs_f64());
    }
    bench.add("memory after the start", "MiB", Better::Lower, memory(&bench.daemon, "VmRSS"));
    bench.reads();
    bench.verify(options);
    bench.changes();
    bench.import(options);
    bench.add("memory at the end", "MiB", Better::Lower, memory(&bench.daemon, "VmRSS"));
    bench.add("most memory", "MiB", Better::Lower, memory(&bench.daemon, "VmHWM"));
    let text = bench.table.markdown();
    println!("{text}");
    if options.write {
        report::write_section("Large installations", &section(&text, options));
    }
}
