//! What searching the audit trail takes, and what keeping it searchable costs.
//!
//! `cargo bench --bench audit` fills a database with the records of a provider with 5,000 customers on three levels,
//! brings them into the index, searches, and prints a table, which `-- --write` puts into `docs/benchmarks.md`. `--
//! --records N` says how many records there are (10,000,000), `--rounds N` how many searches of each kind are made,
//! `--postgres` that it is done on PostgreSQL instead of SQLite. Nothing here passes or fails.
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

use std::time::{Duration, Instant};

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::service::audit::Indexer;
use posthouse::service::context::Authentication;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
use posthouse::storage::StorageError;
use posthouse::storage::metadata::audit_index;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use report::{Better, Figure, Table};
use serde_json::{Value, json};
use support::postgres::Postgres;

/// Customers: 10 departments with 50 agencies of 10 offices each, whose keys begin here.
const DEPARTMENTS: usize = 10;
const AGENCIES: usize = 50;
const OFFICES: usize = 10;
const DEPARTMENT: usize = 1_000;
const AGENCY: usize = 100_000;
const OFFICE: usize = 200_000;
/// Records that one statement fills in.
const TOGETHER: usize = 250_000;
/// The key of the first record that is filled in.
const FIRST: usize = 10_000;

struct Options {
    records: usize,
    rounds: usize,
    postgres: bool,
    write: bool,
}

fn options() -> Options {
    let mut options = Options { records: 10_000_000, rounds: 20, postgres: false, write: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match argument.as_str() {
            "--records" => options.records = number(),
            "--rounds" => options.rounds = number(),
            "--postgres" => options.postgres = true,
            "--write" => options.write = true,
            // What cargo itself adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(options()));
}

/// The customers, with the keys that the records have on their paths.
fn customers() -> Vec<String> {
    let (agencies, offices) = (DEPARTMENTS * AGENCIES, DEPARTMENTS * AGENCIES * OFFICES);
    let level = |name: &str, (first, count): (usize, usize), parent: String| {
        format!(
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count} - 1)
             SELECT {first} + i, '{name}' || i, {parent}, '{name}' || i, '{name}', '{name}' || i, 0 FROM n"
        )
    };
    vec![
        level("department", (DEPARTMENT, DEPARTMENTS), "1".to_owned()),
        level("agency", (AGENCY, agencies), format!("{DEPARTMENT} + i / {AGENCIES}")),
        level("office", (OFFICE, offices), format!("{AGENCY} + i / {OFFICES}")),
        "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'".to_owned(),
    ]
}

/// Eleven characters as of a random id, out of two numbers below 2^31.
fn random_id() -> String {
    let letter = |of: &str, at: u32| {
        format!(
            "substr('0123456789abcdefghjkmnpqrstvwxyz', CAST(1 + {of} / {} % 32 AS INTEGER), 1)",
            32_u64.pow(at)
        )
    };
    let letters = (0..6).map(|at| letter("a", at)).chain((0..5).map(|at| letter("b", at)));
    letters.collect::<Vec<_>>().join(" || ")
}

/// Records as the daemon makes them: offices have few each; every mailbox is named in some.
fn records(from: usize, until: usize) -> Vec<String> {
    let numbers = format!(
        "WITH RECURSIVE n (i) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {until} - 1),
         r AS (SELECT i, i * 48271 % 2147483647 AS a, (i * 69621 + 11) % 2147483647 AS b,
                      i * 48271 % 2147483647 % {offices} AS office, i * 16807 % 2147483647 % 2000 AS person,
                      i * 39373 % 2147483647 % 10 AS kind FROM n)",
        offices = DEPARTMENTS * AGENCIES * OFFICES
    );
    let (of_department, of_agency) = (AGENCIES * OFFICES, OFFICES);
    let ids = format!(
        "'/1/' || ({DEPARTMENT} + office / {of_department}) || '/' || ({AGENCY} + office / {of_agency}) || '/' ||
         ({OFFICE} + office) || '/'"
    );
    let slugs = format!(
        "'provider/department' || (office / {of_department}) || '/agency' || (office / {of_agency})
         || '/office' || office"
    );
    let address = format!(
        "'user' || person || '@office' || office || '.department' || (office / {of_department}) || '.example'"
    );
    let id = random_id();
    let audit = format!(
        "INSERT INTO audit (id, public_id, at, node_path, customer_path, actor_id, actor, actor_path, authenticated,
                            source, operation, target, after, outcome, request_id)
         {numbers},
         p AS (SELECT r.*, {ids} AS ids, {slugs} AS slugs, {address} AS address, {id} AS random_id FROM r)
         SELECT {FIRST} + i, 'r' || (100000000 + i), (1700000000 + i) * 1000000, ids, slugs, 1 + b % 20000,
                'admin' || (i % 4) || '@c' || (office / {of_agency}), ids, 'token',
                '10.0.' || (a % 256) || '.' || (b % 256),
                CASE WHEN i % 100000 = 17 THEN 'domain.accept' WHEN kind = 0 THEN 'customer.limit'
                     WHEN kind = 1 THEN 'customer.show' WHEN b % 2 = 0 THEN 'mailbox.show'
                     WHEN b % 3 = 0 THEN 'mailbox.create' WHEN b % 3 = 1 THEN 'mailbox.quota' ELSE 'mailbox.rename' END,
                CASE WHEN kind < 2 THEN 'customer \u{2}c' || ids || '\u{1f}' || slugs || '\u{3}'
                     ELSE 'mailbox ' || address END,
                CASE WHEN b % 50 = 0 OR kind = 1 THEN NULL
                     WHEN kind = 0 THEN '{{\"mailboxes\":' || (b % 500) || '}}'
                     WHEN b % 2 = 1 THEN '{{\"address\":\"' || address || '\",\"id\":\"' || random_id ||
                         '\",\"name\":\"Person ' || (b % 90000) ||
                         '\",\"quota_octets\":1073741824,\"state\":\"active\",\"store\":\"main\"}}' END,
                CASE WHEN b % 50 = 0 THEN 'forbidden' ELSE 'done' END, 'q' || i
         FROM p"
    );
    let scope = format!(
        "INSERT INTO audit_scope (customer_id, audit_id)
         {numbers}
         SELECT customer, id FROM (
             SELECT 1 AS customer, {FIRST} + i AS id FROM r
             UNION ALL SELECT {DEPARTMENT} + office / {of_department}, {FIRST} + i FROM r
             UNION ALL SELECT {AGENCY} + office / {of_agency}, {FIRST} + i FROM r
             UNION ALL SELECT {OFFICE} + office, {FIRST} + i FROM r) AS s ORDER BY customer, id"
    );
    let unindexed = format!("INSERT INTO audit_unindexed (audit_id) {numbers} SELECT {FIRST} + i FROM r");
    vec![audit, scope, unindexed]
}

struct Bench {
    database: Database,
    management: Management,
    system: Authentication,
    department: Authentication,
    office: Authentication,
    table: Table,
}

impl Bench {
    async fn run(&self, who: &Authentication, name: &str, fields: Value) -> Value {
        let operation = operation(name).expect("an operation");
        let context = who.context(None, "bench".to_owned(), None);
        let answer = (operation.run)(&self.management, context, fields, RunOptions::default()).await;
        answer.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Somebody who reads the trail at a customer.
    async fn auditor(&self, customer: &str) -> Authentication {
        let asked = json!({ "name": "auditor", "customer": customer, "role": "auditor" });
        let made = self.run(&self.system, "administrator.create", asked).await;
        let token = made["token"].as_str().expect("a token");
        self.management.authenticate_token(token, None).await.unwrap().unwrap()
    }

    async fn execute(&self, text: String) {
        let write = self.database.write(Priority::Interactive, move |conn| {
            let text = text.clone();
            Box::pin(async move { conn.execute(text, Vec::new()).await.map(drop) })
        });
        write.await.map_err(|error: StorageError| error).unwrap();
    }

    async fn fill(&self, options: &Options) {
        let begun = Instant::now();
        for from in (0..options.records).step_by(TOGETHER) {
            for text in records(from, options.records.min(from + TOGETHER)) {
                self.execute(text).await;
            }
            eprintln!("{} records after {:.0} s", from + TOGETHER, begun.elapsed().as_secs_f64());
        }
        if options.postgres {
            let next = "SELECT setval(pg_get_serial_sequence('audit', 'id'), (SELECT max(id) FROM audit))";
            self.execute(next.to_owned()).await;
        }
    }

    fn add(&mut self, workload: &str, unit: &str, better: Better, value: f64) {
        println!("{workload}: {value:.2} {unit}");
        self.table.add(0, Figure::new(workload, unit, better, value));
    }

    /// The first page of searches.
    async fn search(&mut self, name: &str, who: Who, rounds: usize, asked: impl Fn(usize) -> Value) {
        let who = match who {
            Who::System => &self.system,
            Who::Department => &self.department,
            Who::Office => &self.office,
        };
        let (mut times, mut found) = (Vec::new(), 0);
        for round in 0..rounds {
            let mut asked = asked(round);
            asked["limit"] = json!(50);
            let begun = Instant::now();
            let page = self.run(who, "audit.search", asked).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            found += page["items"].as_array().map_or(0, Vec::len);
        }
        let name = format!("{name} ({:.1} found)", found as f64 / rounds as f64);
        let worst = times.iter().copied().fold(0.0, f64::max);
        println!("{name}: at most {worst:.1} ms");
        for time in times {
            self.table.add(0, Figure::new(&name, "ms", Better::Lower, time));
        }
    }
}

/// Who searches.
#[derive(Clone, Copy)]
enum Who {
    /// In the whole trail.
    System,
    /// In a tenth of it.
    Department,
    /// In a few thousandths of it, three levels down.
    Office,
}

async fn octets(database: &Database) -> f64 {
    let read = database.read(|conn| Box::pin(posthouse::storage::metadata::instance::database_octets(conn)));
    let (octets, _): (u64, u64) = read.await.map_err(|error: StorageError| error).unwrap();
    octets as f64 / f64::from(1 << 20)
}

async fn measure(options: Options) {
    let dir = tempfile::tempdir().expect("a folder");
    let postgres = options.postgres.then(|| Postgres::start().expect("PostgreSQL"));
    let url = match &postgres {
        Some(postgres) => postgres.url(),
        None => format!("sqlite:{}", dir.path().join("metadata.db").display()),
    };
    let database = Database::open(&url).await.unwrap();
    let management_options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
    let management = Management::open(database.clone(), Clock::system(), management_options).await.unwrap();
    let system = management.authenticate_peer(0).await.unwrap().unwrap();
    let (department, office) = (system.clone(), system.clone());
    let table = Table::new(vec!["Posthouse".to_owned()]);
    let mut bench = Bench { database, management, system, department, office, table };
    for text in customers() {
        bench.execute(text).await;
    }
    bench.department = bench.auditor("department5").await;
    bench.office = bench.auditor("department5/agency250/office2500").await;
    bench.fill(&options).await;
    let before = octets(&bench.database).await;
    let begun = Instant::now();
    Indexer::new(bench.database.clone()).pass().await.unwrap();
    let indexing = begun.elapsed();
    if options.postgres {
        bench.execute("ANALYZE".to_owned()).await;
    }
    costs(&mut bench, &options, before, indexing).await;
    searches(&mut bench, options.rounds).await;
    let text = bench.table.markdown();
    println!("{text}");
    if options.write {
        report::write_section("Searching the audit trail", &section(&text, &options));
    }
}

fn section(table: &str, options: &Options) -> String {
    format!(
        "The first 50 records of searches among {} records of the audit trail of a provider with {} customers on three \
         levels ({}), {} searches of each kind: by a system administrator in the whole trail, by an auditor of a \
         department in a tenth of it, and by one of an office in {} records. Each figure is the median, with the \
         lowest and the highest in parentheses.\n\n\
         ```\ncargo bench --bench audit -- --write\n```\n\n\
         Last run: {}.\n\n{table}",
        options.records,
        DEPARTMENTS * (1 + AGENCIES * (1 + OFFICES)),
        if options.postgres { "PostgreSQL" } else { "SQLite" },
        options.rounds,
        options.records / (DEPARTMENTS * AGENCIES * OFFICES),
        report::machine()
    )
}

async fn costs(bench: &mut Bench, options: &Options, before: f64, indexing: Duration) {
    let read = bench.database.read(|conn| Box::pin(audit_index::size(conn)));
    let (rows, sets): (i64, i64) = read.await.map_err(|error: StorageError| error).unwrap();
    let after = octets(&bench.database).await;
    let per_record = indexing.as_secs_f64() * 1e6 / options.records as f64;
    bench.add("database without the index", "MiB", Better::Neither, before);
    bench.add("the index", "MiB", Better::Neither, after - before);
    bench.add("its sets alone", "MiB", Better::Neither, sets as f64 / f64::from(1 << 20));
    bench.add("its rows", "million", Better::Neither, rows as f64 / 1e6);
    bench.add("indexing a record, in the background", "µs", Better::Lower, per_record);
}

async fn searches(bench: &mut Bench, rounds: usize) {
    use Who::{Department, Office, System};
    type Asked = Box<dyn Fn(usize) -> Value>;
    let text = |text: &'static str| -> Asked { Box::new(move |_| json!({ "text": text })) };
    let cases: Vec<(&str, Who, Asked)> = vec![
        ("whole trail, frequent word", System, text("mailbox")),
        (
            "whole trail, one mailbox",
            System,
            Box::new(
                |round| json!({ "text": format!("user{}@office{}.", round * 37 % 2_000, round * 91 % 5_000) }),
            ),
        ),
        (
            "whole trail, word that is nowhere",
            System,
            Box::new(|round| json!({ "text": format!("qqq{round}zzz") })),
        ),
        (
            "whole trail, letters that are everywhere in a word that is nowhere",
            System,
            text("example.department"),
        ),
        ("whole trail, rare operation", System, Box::new(|_| json!({ "operation": "domain.accept" }))),
        (
            "whole trail, long ago",
            System,
            Box::new(
                |round| json!({ "until": Timestamp::from_secs(1_700_010_000 + round as i64).to_string() }),
            ),
        ),
        (
            "department, word of its own",
            Department,
            Box::new(|round| json!({ "text": format!("office{}", 2_500 + round) })),
        ),
        (
            "department, frequent word of another",
            Department,
            Box::new(
                |round| json!({ "text": format!("department{}.example", [1, 2, 3, 4, 6, 7, 8, 9][round % 8]) }),
            ),
        ),
        (
            "department, person",
            Department,
            Box::new(|round| json!({ "text": format!("Person {}", round * 997 % 90_000) })),
        ),
        (
            "department, refused, operation, word",
            Department,
            Box::new(|_| json!({ "operation": "mailbox.quota", "outcome": "refused", "text": "office25" })),
        ),
        (
            "department, actor",
            Department,
            Box::new(|round| json!({ "actor": format!("admin{}@c{}", round % 4, 250 + round)  })),
        ),
        ("department, newest", Department, Box::new(|_| json!({}))),
        ("office, frequent word", Office, text("mailbox")),
        ("office, word that is frequent elsewhere", Office, text("office1")),
        (
            "office, person",
            Office,
            Box::new(|round| json!({ "text": format!("Person {}", round * 997 % 90_000) })),
        ),
        (
            "office, word that is nowhere",
            Office,
            Box::new(|round| json!({ "text": format!("qqq{round}zzz") })),
        ),
        ("office, letters that are everywhere in a word that is nowhere", Office, text("example.department")),
        ("office, newest", Office, Box::new(|_| json!({}))),
    ];
    for (name, who, asked) in cases {
        bench.search(name, who, rounds, asked).await;
    }
}
