//! What the report on storage adds up to, on SQLite and on PostgreSQL.

use std::time::Instant;

use serde_json::{Value, json};

use crate::base::clock::{Clock, Timestamp};
use crate::params;
use crate::service::context::Authentication;
use crate::service::mailstore::tests::postgres::Postgres;
use crate::service::registry::{Management, ManagementOptions, RunOptions, operation};
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::$name(super::World::open(&url).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(postgres) = super::Postgres::start() else { return };
                super::$name(super::World::open(&postgres.url()).await).await;
            })+
        }
    };
}

on_both!(
    storage_is_summed_up_the_hierarchy_and_no_further,
    what_packs_hold_of_each_customer_follows_every_change,
    report_on_ten_thousand_mailboxes_is_quick,
);

struct World {
    database: Database,
    management: Management,
    system: Authentication,
}

impl World {
    async fn open(url: &str) -> Self {
        let database = Database::open(url).await.unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock, options).await.unwrap();
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        let world = Self { database, management, system };
        world.sql("INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', '/nowhere', 0)").await;
        world.sql("INSERT INTO store (id, name, path, created_at) VALUES (2, 'cold', '/nowhere', 0)").await;
        world
    }

    async fn sql(&self, text: impl Into<String>) {
        let text: String = text.into();
        let write = self.database.write(Priority::Interactive, move |conn| {
            let text = text.clone();
            Box::pin(async move { conn.execute(text, Vec::new()).await.map(drop) })
        });
        write.await.map_err(|error: StorageError| error).unwrap();
    }

    async fn run(&self, who: &Authentication, name: &str, request: Value) -> Value {
        let context = who.context(None, "request".to_owned(), None);
        let run = operation(name).unwrap().run;
        let outcome = run(&self.management, context, request.clone(), RunOptions::default()).await;
        outcome.unwrap_or_else(|error| panic!("{name} {request}: {error:?}"))
    }

    /// A customer with a domain, a mailbox that uses so many octets, and an administrator.
    async fn customer(&self, path: &str, octets: i64) -> Authentication {
        let domain = format!("{}.test", path.replace('/', "-"));
        let asked = json!({ "path": path, "domain": domain, "admin": "chief" });
        let made = self.run(&self.system, "customer.create", asked).await;
        let address = format!("box@{domain}");
        let hash = "{SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0";
        self.run(&self.system, "mailbox.create", json!({ "address": address, "password_hash": hash })).await;
        self.sql(format!(
            "UPDATE mailbox SET bytes_used = {octets}, messages_used = 3, tombstone_octets = 5
             WHERE domain_id = (SELECT id FROM domain WHERE name = '{domain}')"
        ))
        .await;
        self.management.authenticate_token(made["token"].as_str().unwrap(), None).await.unwrap().unwrap()
    }

    async fn scope(&self, path: &str) -> i64 {
        let slug = path.rsplit('/').next().unwrap().to_owned();
        self.integer("SELECT id FROM customer WHERE slug = $1", slug).await
    }

    async fn integer(&self, text: &'static str, value: String) -> i64 {
        let read = self
            .database
            .read(|conn| Box::pin(async move { conn.row(text, params![value]).await?.unwrap().int(0) }));
        read.await.map_err(|error: StorageError| error).unwrap()
    }

    async fn pack(&self, id: i64, store: i64, local: &str, remote: &str) {
        self.sql(format!(
            "INSERT INTO pack (id, public_id, store_id, octets, bodies, created_at, local_state, remote_state)
             VALUES ({id}, 'p{id}', {store}, 0, 0, 0, '{local}', '{remote}')"
        ))
        .await;
    }

    async fn body(&self, id: i64, scope: i64, octets: i64, stored: i64, place: (i64, Option<i64>)) {
        let (store, pack) = place;
        let pack = pack.map_or("NULL".to_owned(), |pack| pack.to_string());
        self.sql(format!(
            "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id)
             VALUES ({id}, {scope}, {store}, {octets}, {stored}, 1, {pack})"
        ))
        .await;
        if pack == "NULL" {
            let empty = if self.database.is_shared() { "''::bytea" } else { "x''" };
            self.sql(format!(
                "INSERT INTO fresh_body (body_id, codec, dictionary_id, data) VALUES ({id}, 0, 0, {empty})"
            ))
            .await;
        }
    }

    /// What is kept beside the bodies equals what they add up to.
    async fn is_exact(&self) {
        let recount =
            "SELECT b.scope_id, b.pack_id, count(*) AS frames, count(*) - count(p.body_id) AS bodies,
                              coalesce(sum(CASE WHEN p.body_id IS NULL THEN b.octets END), 0) AS octets,
                              sum(b.stored_octets) AS stored_octets
                       FROM body b LEFT JOIN part p ON p.body_id = b.id WHERE b.pack_id IS NOT NULL
                       GROUP BY b.scope_id, b.pack_id";
        let kept = "SELECT scope_id, pack_id, frames, bodies, octets, stored_octets FROM pack_scope";
        for (one, other) in [(recount, kept), (kept, recount)] {
            let text = format!("SELECT count(*) FROM ({one} EXCEPT {other}) AS difference");
            let read = self
                .database
                .read(|conn| Box::pin(async move { conn.row(text, Vec::new()).await?.unwrap().int(0) }));
            assert_eq!(read.await.map_err(|error: StorageError| error).unwrap(), 0, "{one} EXCEPT {other}");
        }
    }
}

async fn storage_is_summed_up_the_hierarchy_and_no_further(world: World) {
    let top = world.customer("top", 1_000).await;
    let left = world.customer("top/left", 2_000).await;
    world.customer("top/right", 4_000).await;
    let (one, two) = (world.scope("top").await, world.scope("top/left").await);
    world.pack(1, 1, "present", "absent").await;
    world.pack(2, 2, "absent", "present").await;
    world.body(1, one, 500, 100, (1, Some(1))).await;
    world.body(2, two, 900, 300, (1, Some(1))).await;
    world.body(3, two, 700, 200, (2, Some(2))).await;
    world.body(4, two, 80, 40, (1, None)).await;
    let seen = |report: &Value| -> Vec<(String, i64, i64)> {
        let lines = report["customers"].as_array().unwrap().iter();
        lines
            .map(|line| {
                let number = |name: &str| line[name].as_i64().unwrap();
                (line["customer"].as_str().unwrap().to_owned(), number("octets"), number("stored_octets"))
            })
            .collect()
    };
    let report = world.run(&world.system, "report.storage", json!({})).await;
    let whole = report["customers"].as_array().unwrap().first().unwrap();
    assert_eq!((&whole["octets"], &whole["stored_octets"]), (&json!(7_000), &json!(640)));
    assert_eq!((&whole["undelete_octets"], &whole["body_octets"]), (&json!(15), &json!(2_180)));
    assert_eq!((&whole["local_octets"], &whole["remote_octets"]), (&json!(400), &json!(200)));
    assert_eq!((&whole["database_octets"], &whole["bodies"]), (&json!(40), &json!(4)));
    assert_eq!((&whole["saved_octets"], &whole["saved_percent"]), (&json!(6_375), &json!(90)));
    let stores: Vec<(&Value, &Value)> = report["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (&line["store"], &line["stored_octets"]))
        .collect();
    assert_eq!(stores, [(&json!("main"), &json!(440)), (&json!("cold"), &json!(200))]);

    // Who may see no stores is told of none, and of nothing above or beside.
    let report = world.run(&top, "report.storage", json!({})).await;
    assert!(report.get("stores").is_none());
    let paths = ["top", "top/left", "top/right"];
    let sums = [(7_000, 640), (2_000, 540), (4_000, 0)];
    let expected: Vec<_> =
        paths.iter().zip(sums).map(|(path, (mail, kept))| ((*path).to_owned(), mail, kept)).collect();
    assert_eq!(seen(&report), expected);
    let report = world.run(&left, "report.storage", json!({})).await;
    assert_eq!(seen(&report), [("left".to_owned(), 2_000, 540)]);
    let report = world.run(&top, "report.storage", json!({ "customer": "top/right" })).await;
    assert_eq!(seen(&report), [("top/right".to_owned(), 4_000, 0)]);
}

async fn what_packs_hold_of_each_customer_follows_every_change(world: World) {
    for pack in 1..=3 {
        world.pack(pack, 1, "present", "absent").await;
    }
    for id in 1..=40 {
        let pack = (id % 3 != 0).then_some(id % 2 + 1);
        world.body(id, id % 4, id * 100, id * 10, (1, pack)).await;
    }
    world.is_exact().await;
    // A part has its row before its body has one, and loses it after.
    world
        .sql(
            "INSERT INTO part (body_id, scope_id, store_id, hash) VALUES (50, 1, 1, 'h')"
                .replace("'h'", if world.database.is_shared() { "'h'::bytea" } else { "x'68'" }),
        )
        .await;
    world.body(50, 1, 9_000, 900, (1, Some(1))).await;
    world.is_exact().await;
    for change in [
        // Packed, packed anew with another length, put together, and counted again without a change.
        "UPDATE body SET pack_id = 3, pack_offset = 0, stored_octets = 7 WHERE pack_id IS NULL AND id < 20",
        "UPDATE body SET pack_id = 1, stored_octets = stored_octets + 3 WHERE id IN (1, 3, 5, 50)",
        "UPDATE body SET pack_id = 2 WHERE pack_id IS NOT NULL",
        "UPDATE body SET reference_count = reference_count + 1",
        "UPDATE body SET scope_id = 9 WHERE id IN (2, 50)",
        "DELETE FROM body WHERE id IN (1, 2, 30, 50)",
    ] {
        world.sql(change).await;
        world.is_exact().await;
    }
    world.sql("DELETE FROM part").await;
    world.sql("DELETE FROM body").await;
    world.is_exact().await;
}

async fn report_on_ten_thousand_mailboxes_is_quick(world: World) {
    world.customer("large", 0).await;
    let domain = world.integer("SELECT id FROM domain WHERE name = $1", "large.test".to_owned()).await;
    let scope = world.scope("large").await;
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)";
    let insert = |into: &str, select: &str| {
        // Where the list of numbers stands differs.
        if world.database.is_shared() {
            format!("{numbers} INSERT INTO {into} SELECT {select} FROM n")
        } else {
            format!("INSERT INTO {into} {numbers} SELECT {select} FROM n")
        }
    };
    world
        .sql(insert(
            "mailbox (public_id, domain_id, local_part, password_hash, store_id, bytes_used, messages_used,
                      uid_validity_next, created_at)",
            &format!("CAST(i AS TEXT), {domain}, CAST(i AS TEXT), '', 1, 1000, 2, 1, 0"),
        ))
        .await;
    world
        .sql(insert(
            "pack (id, public_id, store_id, octets, bodies, created_at)",
            "i, CAST(i AS TEXT), 1, 0, 0, 0",
        ))
        .await;
    world.sql(insert("pack_scope", &format!("{scope}, i, 1000, 1000, 3000000, 1000000"))).await;
    let begun = Instant::now();
    let report = world.run(&world.system, "report.storage", json!({ "customer": "large" })).await;
    let took = begun.elapsed();
    println!("10,000 mailboxes, 10,000 packs: {} ms", took.as_millis());
    let line = &report["customers"][0];
    assert_eq!((&line["mailboxes"], &line["octets"]), (&json!(10_001), &json!(10_000_000)));
    assert_eq!(line["stored_octets"], json!(10_000_000_000_i64));
    // A second on a quiet machine; this one may be busy.
    assert!(took.as_secs() < 30, "{took:?}");
}
