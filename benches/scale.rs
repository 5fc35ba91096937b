//! What management costs in a large installation: 100,000 customers (twenty levels deep, and one chain of 1,000),
//! 100,000 domains, 1,000,000 mailboxes and their messages in one database.
//!
//! `cargo bench --bench scale` fills a database (SQLite; `-- --postgres` takes PostgreSQL) and serves it with a real
//! daemon; with `-- --write` it puts the table into `docs/benchmarks.md`. `-- --mailboxes N` narrows it: there is a
//! customer and a domain for each ten, and ten messages for each unless `-- --messages N` says how many there are.
//! `-- --import` measures only how files of mailboxes are imported. Nothing here passes or fails.
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

#[path = "scale/fill.rs"]
mod fill;
#[path = "scale/import.rs"]
mod import;

use std::path::Path;
use std::time::Instant;

use fill::{CHAIN, LEVELS, USAGE_LINES};
use posthouse::base::clock::{Clock, Timestamp};
use posthouse::service::authority::Permission;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
use posthouse::storage::StorageError;
use posthouse::storage::metadata::customer;
use posthouse::storage::metadata::database::Database as Metadata;
use posthouse::storage::metadata::lane::Priority;
use report::{Better, Figure, Table};
use serde_json::Value;
use support::daemon::{Daemon, Database, Setup};
use support::postgres::Postgres;

/// How often each request is made.
const TIMES: usize = 20;
/// Grants of the administrator whose rights are asked for.
const GRANTS: usize = 50;
/// How often somebody's rights are asked for.
const CHECKS: usize = 2_000_000;
/// As long as a real one.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
                    0123456789abcdefghijklmnopqrstuvwxyzABCDEFE";

#[derive(Clone, Copy)]
struct Options {
    mailboxes: usize,
    messages: usize,
    postgres: bool,
    /// Only the import of files.
    import: bool,
    write: bool,
}

fn options() -> Options {
    let mut options =
        Options { mailboxes: 1_000_000, messages: 0, postgres: false, import: false, write: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match argument.as_str() {
            "--mailboxes" => options.mailboxes = number(),
            "--messages" => options.messages = number(),
            "--postgres" => options.postgres = true,
            "--import" => options.import = true,
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

/// Fills an empty database, and measures in it what has no way over the socket: single checks of somebody's rights.
async fn prepare(url: &str, options: Options) -> Vec<Figure> {
    let started = Instant::now();
    let database = Metadata::open(url).await.expect("database");
    let root = database.write(Priority::Interactive, |conn| {
        Box::pin(async move { customer::ensure_root(conn, Timestamp::from_secs(1)).await })
    });
    root.await.map_err(|error: StorageError| error).expect("the root");
    let keys = if options.postgres { fill::keys() } else { Vec::new() };
    for text in [fill::hierarchy(options), fill::mail(options), fill::metering(), keys].concat() {
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
    let figures = if options.import { Vec::new() } else { rights(&database, options).await };
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
    daemon.memory_kib(name) as f64 / 1_024.0
}

fn section(table: &str, options: Options) -> String {
    format!(
        "What management costs with {} customers ({LEVELS} levels deep, and one chain of {CHAIN}), as many domains, \
         {} mailboxes and {} messages in one database ({}). A ninth of the hierarchy's marks are holds, the others \
         ceilings; each domain has {USAGE_LINES} lines of metering in the present month. Authority is checked in the \
         process, {CHECKS} times; everything else is asked for over the admin socket, each request {TIMES} times, \
         answers included. Each figure is the median, with the lowest and the highest in parentheses. {}\n\n\
         ```\ncargo bench --bench scale -- {}--write\n```\n\n\
         Last run: {}.\n\n{table}",
        options.mailboxes / 10,
        options.mailboxes,
        options.messages,
        if options.postgres { "PostgreSQL" } else { "SQLite" },
        import::EXPLAINED,
        if options.postgres { "--postgres " } else { "" },
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
    fn starts(&mut self) {
        for _ in 0..3 {
            self.daemon.stop();
            let started = Instant::now();
            self.daemon.start_again();
            self.add("start until it serves", "s", Better::Lower, started.elapsed().as_secs_f64());
            let started = Instant::now();
            let answer = self.daemon.api("GET", "/v1/customers", None);
            assert_eq!(answer.status, 200, "{}", answer.json());
            self.add("first request after the start", "s", Better::Lower, started.elapsed().as_secs_f64());
        }
        self.add("memory after the start", "MiB", Better::Lower, memory(&self.daemon, "VmRSS"));
    }

    fn reads(&mut self) {
        self.request("first page of customers", "/v1/customers");
        self.request("page of administrators", "/v1/administrators");
        self.request("page of aliases, of which there are none", "/v1/aliases");
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
    let database = match options.postgres {
        true => Database::Postgres(Postgres::start().expect("PostgreSQL")),
        false => Database::Sqlite,
    };
    let daemon = Daemon::with(Setup { database, prepare: Some(Box::new(prepare)), ..Setup::default() });
    let mut bench = Bench { daemon, table: Table::new(vec!["Posthouse".to_owned()]) };
    for figure in measured.recv().expect("figures") {
        bench.table.add(0, figure);
    }
    if !options.import {
        bench.starts();
        bench.reads();
        bench.verify(options);
        bench.changes();
    }
    bench.import(options);
    bench.add("memory at the end", "MiB", Better::Lower, memory(&bench.daemon, "VmRSS"));
    bench.add("most memory", "MiB", Better::Lower, memory(&bench.daemon, "VmHWM"));
    let text = bench.table.markdown();
    println!("{text}");
    if options.write {
        let heading =
            if options.postgres { "Large installations on PostgreSQL" } else { "Large installations" };
        report::write_section(heading, &section(&text, options));
    }
}
