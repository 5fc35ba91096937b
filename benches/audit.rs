//! What searching the audit trail takes, and what keeping it searchable costs.
//!
//! `cargo bench --bench audit -- --records 10000000` fills a database with so many records of a provider with 5,000
//! customers, measures, and prints a table; `--postgres` on PostgreSQL instead of SQLite, `--rounds N` searches of each
//! kind. Nothing here passes or fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::base::id::public_id;
use posthouse::service::audit::Indexer;
use posthouse::service::context::Authentication;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
use posthouse::storage::StorageError;
use posthouse::storage::metadata::audit::{Record, insert};
use posthouse::storage::metadata::audit_index;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};
use support::Random;
use support::postgres::Postgres;

/// Customers: 10 departments with 50 agencies of 10 offices each.
const DEPARTMENTS: usize = 10;
const AGENCIES: usize = 50;
const OFFICES: usize = 10;
/// Records written with one transaction.
const TOGETHER: usize = 2_048;

struct Options {
    records: usize,
    rounds: usize,
    postgres: bool,
}

fn options() -> Options {
    let mut options = Options { records: 1_000_000, rounds: 40, postgres: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number");
        match argument.as_str() {
            "--records" => options.records = number(),
            "--rounds" => options.rounds = number(),
            "--postgres" => options.postgres = true,
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

/// A record as the daemon makes them. Offices have few records each; every mailbox is named in some.
fn record(number: usize, random: &mut Random, first: i64) -> Record {
    let office = random.below(DEPARTMENTS * AGENCIES * OFFICES);
    let (department, agency) = (office / (AGENCIES * OFFICES), office / OFFICES);
    // The departments are there; agencies and offices are numbers beyond all keys.
    let ids = format!("/1/{}/{}/{}/", first + department as i64, 100_000 + agency, 200_000 + office);
    let slugs = format!("provider/department{department}/agency{agency}/office{office}");
    let address = format!("user{}@office{office}.department{department}.example", random.below(2_000));
    let reference = format!("\u{2}c{ids}\u{1f}{slugs}\u{3}");
    let is_change = random.below(2) == 0;
    let (name, target, after) = match random.below(10) {
        0 => ("customer.limit", format!("customer {reference}"), json!({ "mailboxes": random.below(500) })),
        1 => ("customer.show", format!("customer {reference}"), Value::Null),
        _ if is_change => {
            let after = json!({
                "address": address, "id": public_id(), "name": format!("Person {}", random.below(90_000)),
                "quota_octets": 1 << 30, "state": "active", "store": "main",
            });
            let name = ["mailbox.create", "mailbox.quota", "mailbox.rename"][random.below(3)];
            (name, format!("mailbox {address}"), after)
        }
        _ => ("mailbox.show", format!("mailbox {address}"), Value::Null),
    };
    let is_refused = random.below(50) == 0;
    let name = if number % 100_000 == 17 { "domain.accept" } else { name };
    Record {
        id: 0,
        public_id: public_id(),
        at: Timestamp::from_secs(1_700_000_000 + number as i64),
        node_path: ids.clone(),
        customer_path: slugs,
        actor_id: Some(random.below(20_000) as i64),
        actor: format!("admin{}@c{agency}", random.below(4)),
        actor_path: ids,
        authenticated: "token".to_owned(),
        source: format!("10.0.{}.{}", random.below(256), random.below(256)),
        operation: name.to_owned(),
        target,
        before: None,
        after: after.is_object().then(|| after.to_string()).filter(|_| !is_refused),
        outcome: if is_refused { "forbidden" } else { "done" }.to_owned(),
        request_id: public_id(),
        on_behalf: None,
        is_chained: false,
    }
}

struct Bench {
    database: Database,
    management: Management,
    system: Authentication,
    department: Authentication,
}

impl Bench {
    async fn run(&self, who: &Authentication, name: &str, fields: Value) -> Value {
        let operation = operation(name).expect("an operation");
        let context = who.context(None, "bench".to_owned(), None);
        let answer = (operation.run)(&self.management, context, fields, RunOptions::default()).await;
        answer.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Milliseconds of the first page of searches, sorted, and how many records they found in all.
    async fn search(
        &self,
        who: &Authentication,
        rounds: usize,
        asked: impl Fn(usize) -> Value,
    ) -> (Vec<f64>, usize) {
        let (mut times, mut found) = (Vec::new(), 0);
        for round in 0..rounds {
            let mut asked = asked(round);
            asked["limit"] = json!(50);
            let begun = Instant::now();
            let page = self.run(who, "audit.search", asked).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            found += page["items"].as_array().map_or(0, Vec::len);
        }
        times.sort_by(f64::total_cmp);
        (times, found)
    }
}

async fn octets(database: &Database) -> f64 {
    let read = database.read(|conn| Box::pin(posthouse::storage::metadata::instance::database_octets(conn)));
    let (octets, _): (u64, u64) = read.await.map_err(|error: StorageError| error).unwrap();
    octets as f64 / f64::from(1 << 20)
}

async fn fill(bench: &Bench, options: &Options) {
    let first = bench.database.read(|conn| {
        Box::pin(async move {
            let text = "SELECT id FROM customer WHERE slug = 'department0'";
            conn.row(text, Vec::new()).await?.expect("a customer").int(0)
        })
    });
    let first: i64 = first.await.map_err(|error: StorageError| error).unwrap();
    let mut random = Random::new(4);
    let (mut done, begun) = (0, Instant::now());
    while done < options.records {
        let count = TOGETHER.min(options.records - done);
        let records: Vec<Record> = (0..count).map(|one| record(done + one, &mut random, first)).collect();
        let records = Arc::new(records);
        let write = bench.database.write(Priority::Background, move |conn| {
            let records = Arc::clone(&records);
            Box::pin(async move { insert(conn, &records).await })
        });
        write.await.map_err(|error: StorageError| error).unwrap();
        done += count;
        if done % (TOGETHER * 200) == 0 {
            eprintln!("{done} records after {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
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
    let clock = Clock::system();
    let management = Management::open(database.clone(), clock, management_options).await.unwrap();
    let system = management.authenticate_peer(0).await.unwrap().unwrap();
    let mut bench = Bench { database, management, department: system.clone(), system };
    // One after the other, so that their keys follow each other.
    for department in 0..DEPARTMENTS {
        let path = format!("department{department}");
        bench.run(&bench.system, "customer.create", json!({ "path": path })).await;
    }
    let auditor = json!({ "name": "auditor", "customer": "department5", "role": "auditor" });
    let made = bench.run(&bench.system, "administrator.create", auditor).await;
    let token = made["token"].as_str().expect("a token");
    bench.department = bench.management.authenticate_token(token, None).await.unwrap().unwrap();

    fill(&bench, &options).await;
    let before = octets(&bench.database).await;
    let begun = Instant::now();
    Indexer::new(bench.database.clone()).pass().await.unwrap();
    let indexing = begun.elapsed();
    if options.postgres {
        let analyze = bench.database.write(Priority::Background, |conn| {
            Box::pin(async move { conn.execute("ANALYZE", Vec::new()).await.map(drop) })
        });
        analyze.await.map_err(|error: StorageError| error).unwrap();
    }
    report(&bench, &options, before, indexing).await;
}

async fn report(bench: &Bench, options: &Options, before: f64, indexing: Duration) {
    let read = bench.database.read(|conn| Box::pin(audit_index::size(conn)));
    let (rows, sets): (i64, i64) = read.await.map_err(|error: StorageError| error).unwrap();
    let after = octets(&bench.database).await;
    let per_record = indexing.as_secs_f64() * 1e6 / options.records as f64;
    println!("| {} records | figure |\n|---|---:|", options.records);
    println!("| database before and after indexing | {before:.0} and {after:.0} MiB |");
    println!("| index: rows, octets of sets | {rows}, {:.0} MiB |", sets as f64 / f64::from(1 << 20));
    println!("| indexing, in the background | {per_record:.1} µs a record |");
    println!("\n| search, first 50 records | found each | median ms | worst ms |\n|---|---:|---:|---:|");
    type Asked = Box<dyn Fn(usize) -> Value>;
    let cases: Vec<(&str, &Authentication, Asked)> = vec![
        ("whole trail, frequent word", &bench.system, Box::new(|_| json!({ "text": "mailbox" }))),
        (
            "whole trail, one mailbox",
            &bench.system,
            Box::new(
                |round| json!({ "text": format!("user{}@office{}.", round * 37 % 2_000, round * 91 % 5_000) }),
            ),
        ),
        (
            "whole trail, word that is nowhere",
            &bench.system,
            Box::new(|round| json!({ "text": format!("qqq{round}zzz") })),
        ),
        (
            "whole trail, letters that are everywhere, word that is nowhere",
            &bench.system,
            Box::new(|_| json!({ "text": "example.department" })),
        ),
        (
            "department, word of its own",
            &bench.department,
            Box::new(|round| json!({ "text": format!("office{}", 2_500 + round) })),
        ),
        (
            "department, frequent word of another",
            &bench.department,
            Box::new(
                |round| json!({ "text": format!("department{}.example", [1, 2, 3, 4, 6, 7, 8, 9][round % 8]) }),
            ),
        ),
        (
            "department, person",
            &bench.department,
            Box::new(|round| json!({ "text": format!("Person {}", round * 997 % 90_000) })),
        ),
        ("whole trail, rare operation", &bench.system, Box::new(|_| json!({ "operation": "domain.accept" }))),
        (
            "department, refused, operation, word",
            &bench.department,
            Box::new(|_| json!({ "operation": "mailbox.quota", "outcome": "refused", "text": "office25" })),
        ),
        (
            "department, actor",
            &bench.department,
            Box::new(|round| json!({ "actor": format!("admin{}@c{}", round % 4, 250 + round)  })),
        ),
        (
            "whole trail, long ago",
            &bench.system,
            Box::new(
                |round| json!({ "until": Timestamp::from_secs(1_700_010_000 + round as i64).to_string() }),
            ),
        ),
        ("department, newest", &bench.department, Box::new(|_| json!({}))),
    ];
    for (name, who, asked) in cases {
        let (times, found) = bench.search(who, options.rounds, asked).await;
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let found = found as f64 / options.rounds as f64;
        println!("| {name} | {found:.1} | {median:.1} | {worst:.1} |");
    }
}
