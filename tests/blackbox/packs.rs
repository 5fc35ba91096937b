//! Bodies and the packer, on SQLite and on PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{BodyId, MailboxId, random_bytes};
use posthouse::storage::bodies::{Bodies, DATABASE_OCTETS_MAX};
use posthouse::storage::metadata::body::release;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{Deliver, DeliverTarget, Packed, TraceOrigin};
use posthouse::storage::metadata::instance::{StoreSetup, ensure_stores, node_start};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::Node;
use posthouse::storage::pack::Codec;
use posthouse::storage::packer::{Packer, PackerSettings};
use posthouse::storage::{Result, StorageError};

use crate::support::postgres::Postgres;

const NOW: Timestamp = Timestamp::from_secs(1_000_000);
const MAILBOX: MailboxId = MailboxId(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_packed_read_and_deleted_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
    bodies_are_packed_read_and_deleted(Database::open(&url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_packed_read_and_deleted_on_postgresql() {
    let Some(postgres) = Postgres::start() else { return };
    bodies_are_packed_read_and_deleted(Database::open(&postgres.url()).await.unwrap()).await;
}

/// A customer with a mailbox on a store that wants level 9 in its packs; answers the node's epoch.
async fn set_up(database: &Database) -> i64 {
    let write = database.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            let store = StoreSetup {
                name: "main".to_owned(),
                path: "main".to_owned(),
                compression_level: 9,
                compression_dictionary: true,
            };
            ensure_stores(conn, &[store], NOW).await?;
            for text in [
                "INSERT INTO customer (id, public_id, slug, name, code, created_at)
                 VALUES (1, 'c', 'p', 'P', 'P', 0)",
                "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
                 VALUES (1, 'd', 1, 'a.example', 'verified', 0)",
                "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                                      uid_validity_next, created_at) VALUES (1, 'm', 1, 'x', 'x', 1, 2, 0)",
                "INSERT INTO folder (mailbox_id, name, uid_validity, created_at) VALUES (1, 'INBOX', 1, 0)",
            ] {
                conn.execute(text, Vec::new()).await?;
            }
            node_start(conn, "local", NOW).await
        })
    });
    let epoch: Result<i64> = write.await;
    epoch.unwrap()
}

async fn deliver(database: &Database, bodies: &Bodies, original: &Bytes) {
    let place = bodies.place(original.clone(), &[MAILBOX], NOW).await.unwrap();
    let target = DeliverTarget { mailbox: MAILBOX, prefix: Packed::default(), recipient: String::new() };
    let deliver = Deliver {
        at: NOW,
        octets: original.len() as u64,
        body: place.clone(),
        summary: bodies.compress(b"summary"),
        targets: vec![target],
        all_or_nothing: false,
        trace: TraceOrigin::default(),
    };
    assert!(database.deliver(deliver).await.unwrap()[0].is_ok());
    bodies.settle(&place).await.unwrap();
}

async fn numbers(database: &Database, text: &'static str) -> Vec<i64> {
    let read = database.read(|conn| {
        Box::pin(async move {
            let rows = conn.rows(text, Vec::new()).await?;
            rows.iter().map(|row| row.int(0)).collect()
        })
    });
    let numbers: Result<Vec<i64>> = read.await;
    numbers.unwrap()
}

async fn bodies_are_packed_read_and_deleted(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let epoch = set_up(&database).await;
    let node = Node { id: "local".to_owned(), epoch };
    let bodies = Bodies::new(database.clone(), Codec::default(), folder.path().to_owned(), node);
    let settings = PackerSettings { grace: Duration::ZERO, ..PackerSettings::default() };
    let packer = Packer::new(bodies.clone(), settings);
    // More than one slice, one that is decompressed off the thread, and one with a pack of its own.
    let mut originals: Vec<Bytes> = (0..400)
        .map(|number| format!("Subject: {number}\r\n\r\n{}", "text ".repeat(number)).into())
        .collect();
    originals.push(random_bytes(300_000).into());
    originals.push(random_bytes(DATABASE_OCTETS_MAX + 10).into());
    for original in &originals {
        deliver(&database, &bodies, original).await;
    }
    let ids: Vec<BodyId> = numbers(&database, "SELECT body_id FROM message ORDER BY uid")
        .await
        .into_iter()
        .map(BodyId)
        .collect();
    let progress = packer.pack_everything(NOW).await.unwrap();
    assert_eq!((progress.packs, progress.bodies), (1, 401));
    assert_eq!(numbers(&database, "SELECT count(*) FROM fresh_body").await, [0]);
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack_intent").await, [0]);
    assert_eq!(numbers(&database, "SELECT dead_bodies FROM pack").await, [0, 0]);
    for (id, original) in ids.iter().zip(&originals) {
        assert_eq!(&bodies.read(*id).await.unwrap(), original);
    }
    for half in ids.chunks(ids.len() / 2) {
        let references: BTreeMap<BodyId, i64> = half.iter().map(|id| (*id, 1)).collect();
        let write = database.write(Priority::Background, move |conn| {
            let references = references.clone();
            Box::pin(async move { release(conn, &references).await })
        });
        let done: Result<()> = write.await;
        done.unwrap();
        packer.remove_dead(NOW).await.unwrap();
    }
    assert!(matches!(bodies.read(ids[0]).await, Err(StorageError::Gone(_))));
    assert_eq!(numbers(&database, "SELECT id FROM pack").await, [0_i64; 0]);
    assert_eq!(packer.clean_up().await.unwrap(), 0);
}
