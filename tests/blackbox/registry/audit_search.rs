//! Searching the audit trail: what the index finds is what reading all records finds.

use std::collections::BTreeSet;

use posthouse::base::clock::Timestamp;
use posthouse::service::audit::Indexer;
use posthouse::service::context::Authentication;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::audit::{Record, insert};
use posthouse::storage::metadata::audit_index;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::{World, on_both};
use crate::support::Random;

on_both!(
    index_finds_what_reading_finds,
    pages_by_way_of_the_index_are_bounded_and_go_on,
    records_that_were_pruned_are_not_found,
    index_of_what_was_pruned_is_swept,
);

async fn write(world: &World, records: Vec<Record>) {
    let records = std::sync::Arc::new(records);
    let written: Result<(), StorageError> = world
        .database
        .write(Priority::Interactive, move |conn| {
            let records = std::sync::Arc::clone(&records);
            Box::pin(async move { insert(conn, &records).await })
        })
        .await;
    written.unwrap();
}

/// Public ids of the records that this reader finds, all pages.
async fn found(world: &World, who: &Authentication, asked: &Value) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut asked = asked.clone();
        asked["cursor"] = cursor;
        let page = world.run(who, "audit.search", asked).await.unwrap();
        let items = page["items"].as_array().unwrap();
        all.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return all;
        }
    }
}

/// The keys on the path of a customer, as a record has them.
async fn path_of(world: &World, slug: &'static str) -> String {
    let text = "WITH RECURSIVE up (id, parent_id, way) AS (
                    SELECT id, parent_id, CAST(id AS TEXT) || '/' FROM customer WHERE slug = $1
                    UNION ALL
                    SELECT c.id, c.parent_id, CAST(c.id AS TEXT) || '/' || up.way
                    FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT '/' || way FROM up WHERE parent_id IS NULL";
    let read = world.database.read(move |conn| {
        Box::pin(async move { conn.row(text, posthouse::params![slug]).await?.expect("a customer").text(0) })
    });
    let path: Result<String, StorageError> = read.await;
    path.unwrap()
}

fn one<'a, T>(random: &mut Random, of: &'a [T]) -> &'a T {
    &of[random.below(of.len())]
}

/// Three customers below each other and one beside, with an auditor at each, and records of all kinds.
async fn filled(world: &World) -> Vec<Authentication> {
    let mut readers = Vec::new();
    for path in ["gov", "gov/health", "gov/health/lab", "gov/works"] {
        let domain = format!("{}.example", path.replace('/', "-"));
        readers.push(world.aboard(path, &domain).await);
    }
    let mut paths = Vec::new();
    for slug in ["gov", "health", "lab", "works"] {
        paths.push(path_of(world, slug).await);
    }
    let slugs = ["provider/gov", "provider/gov/health", "provider/gov/health/lab", "provider/gov/works"];
    let words = ["invoice", "Größe", "lab", "works", "quota-limit", "x", "provider"];
    let mut random = Random::new(7);
    let mut records = Vec::new();
    for number in 0..1_200_i64 {
        let (at, actor, about) = (random.below(4), random.below(4), random.below(4));
        let target = match random.below(4) {
            0 => format!("customer \u{2}c{}\u{1f}{}\u{3}", paths[about], slugs[about]),
            1 => format!(
                "\u{2}a{}\u{1f}chief-{about}\u{3} and \u{2}w{}\u{1f}{} words\u{3}",
                paths[about],
                paths[actor],
                one(&mut random, &words)
            ),
            2 => format!("mailbox user{}@gov-health.example", random.below(300)),
            _ => String::new(),
        };
        let after =
            json!({ "name": one(&mut random, &words), "parent": { "seen": target }, "count": number % 50 });
        let operation = *one(&mut random, &["mailbox.create", "mailbox.list", "customer.limit"]);
        let outcome = if random.below(8) == 0 { "forbidden" } else { "done" };
        records.push(Record {
            id: 0,
            public_id: format!("r{number}"),
            at: Timestamp::from_secs(1_700_000_000 + number * 150),
            node_path: paths[at].clone(),
            customer_path: slugs[at].to_owned(),
            actor_id: Some(actor as i64 + 1_000),
            actor: format!("Actor{actor}@code"),
            actor_path: paths[actor].clone(),
            authenticated: "token".to_owned(),
            source: "unix".to_owned(),
            operation: operation.to_owned(),
            target,
            before: None,
            after: (operation != "mailbox.list").then(|| after.to_string()),
            outcome: outcome.to_owned(),
            request_id: "q".to_owned(),
            on_behalf: None,
            is_chained: false,
        });
    }
    for chunk in records.chunks(500) {
        write(world, chunk.to_vec()).await;
    }
    readers
}

/// Searches with every filter and with several.
fn searches() -> Vec<Value> {
    let mut all = vec![
        json!({ "operation": "customer.limit" }),
        json!({ "operation": "mailbox." }),
        json!({ "operation": "mailbox" }),
        json!({ "outcome": "refused" }),
        json!({ "outcome": "forbidden", "operation": "mailbox.create" }),
        json!({ "until": "2023-11-15T22:13:20Z" }),
        json!({ "since": "2023-11-15T00:00:00Z", "until": "2023-11-15T12:00:00Z", "text": "lab" }),
        json!({ "actor": "actor2" }),
        json!({ "actor": "Provider", "text": "invoice" }),
        json!({ "actor": "vide" }),
        json!({ "target": "customer " }),
        json!({ "target": "health/lab" }),
        json!({ "target": "customer health" }),
        json!({ "target": "customer lab" }),
        json!({ "target": "chief-2 and" }),
        json!({ "target": "lab words" }),
        json!({ "customer": "gov/works", "text": "größe" }),
        json!({ "customer": "gov/health", "text": "mailbox" }),
        json!({ "text": "user7@gov-health.example" }),
        json!({ "text": "GRÖSSE" }),
    ];
    for word in
        ["invoice", "Größe", "lab", "works", "gov", "gov/health", "quota-l", "\"count\":7", "x", "nowhere"]
    {
        all.push(json!({ "text": word }));
        all.push(json!({ "text": word, "operation": "mailbox.create", "outcome": "done" }));
    }
    all
}

async fn index_finds_what_reading_finds(world: World) {
    let mut readers = filled(&world).await;
    readers.push(world.system.clone());
    let indexer = Indexer::new(world.database.clone());
    // Some are in the index, some wait, and some do both.
    indexer.pass().await.unwrap();
    let waiting = "INSERT INTO audit_unindexed (audit_id) SELECT id FROM audit
                   WHERE id % 3 = 0 AND id NOT IN (SELECT audit_id FROM audit_unindexed)";
    let everything = "INSERT INTO audit_unindexed (audit_id) SELECT id FROM audit
                      WHERE id NOT IN (SELECT audit_id FROM audit_unindexed)";
    let mut answers = Vec::new();
    for step in ["indexed", "both", "waiting"] {
        match step {
            "both" => execute(&world, &[waiting]).await,
            "waiting" => {
                execute(&world, &["DELETE FROM audit_term", "DELETE FROM audit_part", everything]).await;
            }
            _ => {}
        }
        let mut found_now = Vec::new();
        for (index, reader) in readers.iter().enumerate() {
            for mut asked in searches() {
                let until = asked["until"].as_str().unwrap_or("2024-01-01T00:00:00Z").to_owned();
                asked["until"] = json!(until);
                asked["limit"] = json!(211);
                if asked["customer"].is_string() && index > 0 && index < 4 {
                    continue;
                }
                found_now.push((index, asked.to_string(), found(&world, reader, &asked).await));
            }
        }
        answers.push(found_now);
    }
    let [indexed, both, waiting] = &answers[..] else { panic!("three steps") };
    for ((one, two), three) in indexed.iter().zip(both).zip(waiting) {
        assert_eq!(one, three, "indexed and waiting");
        assert_eq!(two, three, "both and waiting");
    }
    // The searches mean something: most find some records, and no reader finds what all find.
    let some = indexed.iter().filter(|(.., found)| !found.is_empty()).count();
    assert!(some * 2 > indexed.len(), "{some} of {}", indexed.len());
    let distinct: BTreeSet<&Vec<String>> = indexed.iter().map(|(.., found)| found).collect();
    assert!(distinct.len() * 3 > indexed.len(), "{} of {}", distinct.len(), indexed.len());
}

async fn execute(world: &World, texts: &[&'static str]) {
    let texts = texts.to_vec();
    let write = world.database.write(Priority::Interactive, move |conn| {
        let texts = texts.clone();
        Box::pin(async move {
            for text in texts {
                conn.execute(text, Vec::new()).await?;
            }
            Ok(())
        })
    });
    write.await.map_err(|error: StorageError| error).unwrap();
}

async fn pages_by_way_of_the_index_are_bounded_and_go_on(world: World) {
    let reader = world.aboard("gov", "gov.example").await;
    let path = path_of(&world, "gov").await;
    // The three letters of each term are there in every record, but not next to each other.
    let record = |number: i64| Record {
        id: 0,
        public_id: format!("r{number}"),
        at: Timestamp::from_secs(1_700_000_000 + number),
        node_path: path.clone(),
        customer_path: "provider/gov".to_owned(),
        actor_id: None,
        actor: "system".to_owned(),
        actor_path: "/1/".to_owned(),
        authenticated: String::new(),
        source: String::new(),
        operation: "mailbox.create".to_owned(),
        target: if number == 0 { "abcd".to_owned() } else { "abc bcd".to_owned() },
        before: None,
        after: None,
        outcome: "done".to_owned(),
        request_id: String::new(),
        on_behalf: None,
        is_chained: false,
    };
    let records: Vec<Record> = (0..9_000).map(record).collect();
    for chunk in records.chunks(1_000) {
        write(&world, chunk.to_vec()).await;
    }
    Indexer::new(world.database.clone()).pass().await.unwrap();
    let mut asked = json!({ "text": "abcd" });
    let mut pages = 0;
    loop {
        let page = world.run(&reader, "audit.search", asked.clone()).await.unwrap();
        pages += 1;
        let items = page["items"].as_array().unwrap();
        if page["cursor"].is_null() {
            assert_eq!((items.len(), &items[0]["id"]), (1, &json!("r0")));
            break;
        }
        assert!(items.is_empty());
        asked["cursor"] = page["cursor"].clone();
    }
    assert_eq!(pages, 3);
}

async fn records_that_were_pruned_are_not_found(world: World) {
    filled(&world).await;
    Indexer::new(world.database.clone()).pass().await.unwrap();
    let asked = json!({ "text": "invoice", "until": "2024-01-01T00:00:00Z" });
    let before = found(&world, &world.system, &asked).await;
    execute(
        &world,
        &["DELETE FROM audit_scope WHERE audit_id % 2 = 0", "DELETE FROM audit WHERE id % 2 = 0"],
    )
    .await;
    let after = found(&world, &world.system, &asked).await;
    assert!(after.len() < before.len() && !after.is_empty());
    assert!(after.iter().all(|id| before.contains(id)));
}

/// Sweeps all that is dead, in small steps; answers how many parts that were.
async fn sweep(world: &World, since: Timestamp) -> usize {
    let read = world.database.read(|conn| Box::pin(audit_index::dead(conn, since)));
    let dead = read.await.map_err(|error: StorageError| error).unwrap();
    for &part in &dead {
        let mut more = true;
        while more {
            let write = world
                .database
                .write(Priority::Background, move |conn| Box::pin(audit_index::sweep(conn, part, 7)));
            more = write.await.map_err(|error: StorageError| error).unwrap();
        }
    }
    dead.len()
}

async fn index_of_what_was_pruned_is_swept(world: World) {
    filled(&world).await;
    Indexer::new(world.database.clone()).pass().await.unwrap();
    let (early, late) = (Timestamp(0), Timestamp::from_secs(4_000_000_000));
    let rows = "SELECT count(*) FROM audit_term";
    let of_reads = "SELECT count(*) FROM audit_term WHERE chunk % 2 = 1";
    let (all, reads) = (world.integer(rows).await, world.integer(of_reads).await);
    assert!(reads > 0 && all > reads);
    assert_eq!(sweep(&world, early).await, 0, "nothing is that old");
    // The reads are gone, and nothing else; and it is not done again.
    assert_eq!(sweep(&world, late).await, 1);
    assert_eq!((world.integer(rows).await, world.integer(of_reads).await), (all - reads, 0));
    assert_eq!(sweep(&world, late).await, 0);
    // What waits for the index is not swept from under it.
    execute(&world, &["DELETE FROM audit_scope", "DELETE FROM audit"]).await;
    execute(&world, &["INSERT INTO audit_unindexed (audit_id) VALUES (3)"]).await;
    assert_eq!(sweep(&world, late).await, 0);
    execute(&world, &["DELETE FROM audit_unindexed"]).await;
    assert_eq!(sweep(&world, late).await, 1);
    assert_eq!((world.integer(rows).await, world.integer("SELECT count(*) FROM audit_part").await), (0, 0));
    // What comes later is found as ever.
    world.must("customer.create", json!({ "path": "latecomer" })).await;
    Indexer::new(world.database.clone()).pass().await.unwrap();
    let asked = json!({ "text": "latecomer", "operation": "customer.create" });
    assert!(!found(&world, &world.system, &asked).await.is_empty());
}
