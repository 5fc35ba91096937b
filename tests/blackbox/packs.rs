//! Bodies and the packer, on SQLite and on PostgreSQL.

use posthouse::base::telemetry::metrics::Metrics;
use posthouse::storage::volumes::Volumes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{BodyId, MailboxId, random_bytes};
use posthouse::base::store_settings::{PackingSettings, StoreSettings};
use posthouse::storage::bodies::{Bodies, DATABASE_OCTETS_MAX};
use posthouse::storage::metadata::body::release;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{BodyPlace, Deliver, DeliverTarget, Packed, TraceOrigin};
use posthouse::storage::metadata::instance::{StoreSetup, ensure_stores, node_start};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::{self, Node, SinglePack, Written};
use posthouse::storage::pack::{Codec, PackSummary};
use posthouse::storage::packer::{Packer, PackerSettings};
use posthouse::storage::{Result, StorageError};
use tokio::sync::Notify;

use super::metadata::{locks_awaited, on_both};
use crate::support::postgres::Postgres;

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_000_000);
const MAILBOX: MailboxId = MailboxId(1);

on_both!(
    bodies_are_packed_read_and_deleted,
    pack_that_was_given_up_cannot_become_known,
    pack_of_work_that_was_cut_off_is_removed_in_time,
);

/// A customer with a mailbox on a store that wants level 9 in its packs; answers the node's epoch.
pub(crate) async fn set_up(database: &Database) -> i64 {
    let write = database.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            let store = StoreSetup {
                name: "main".to_owned(),
                path: "main".to_owned(),
                settings: StoreSettings::default(),
                fixed: Vec::new(),
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

pub(crate) fn delivery(bodies: &Bodies, original: &Bytes, place: &BodyPlace) -> Deliver {
    let target = DeliverTarget { mailbox: MAILBOX, prefix: Packed::default(), recipient: String::new() };
    Deliver {
        at: NOW,
        octets: original.len() as u64,
        body: place.clone(),
        summary: bodies.compress(b"summary"),
        targets: vec![target],
        all_or_nothing: false,
        trace: TraceOrigin::default(),
        notice_mail: None,
    }
}

async fn deliver(database: &Database, bodies: &Bodies, original: &Bytes) {
    let place = bodies.place(original.clone(), &[MAILBOX], NOW).await.unwrap();
    assert!(database.deliver(delivery(bodies, original, &place)).await.unwrap()[0].is_ok());
    bodies.settle(&place).await.unwrap();
}

/// As the daemon does at start.
pub(crate) async fn start(database: &Database, folder: &Path) -> (Bodies, Packer) {
    let write = database.write(Priority::Interactive, |conn| Box::pin(node_start(conn, "local", NOW)));
    let epoch: Result<i64> = write.await;
    let node = Node { id: "local".to_owned(), epoch: epoch.unwrap() };
    let bodies = Bodies::new(
        Volumes::new(database.clone(), folder.to_owned(), Metrics::new()),
        Codec::default(),
        node,
    );
    (bodies.clone(), Packer::new(bodies, PackerSettings::default()))
}

/// A body too large for the database, in a pack of its own that no transaction refers to yet.
async fn place_large(bodies: &Bodies) -> (Bytes, BodyPlace, SinglePack) {
    let large: Bytes = random_bytes(DATABASE_OCTETS_MAX + 10).into();
    let place = bodies.place(large.clone(), &[MAILBOX], NOW).await.unwrap();
    let BodyPlace::Packs(packs) = &place else { panic!("a large body went into the database") };
    let single = packs[0].clone();
    (large, place, single)
}

fn file(bodies: &Bodies, single: &SinglePack) -> PathBuf {
    single.name.path(&bodies.pack_folder(&single.store_path))
}

async fn abandon(database: &Database, single: &SinglePack) -> bool {
    let name = single.name;
    let write = database.write(Priority::Interactive, move |conn| Box::pin(pack::abandon(conn, name)));
    let abandoned: Result<bool> = write.await;
    abandoned.unwrap()
}

pub(crate) async fn numbers(database: &Database, text: &'static str) -> Vec<i64> {
    let read = database.read(|conn| {
        Box::pin(async move {
            let rows = conn.rows(text, Vec::new()).await?;
            rows.iter().map(|row| row.int(0)).collect()
        })
    });
    let numbers: Result<Vec<i64>> = read.await;
    numbers.unwrap()
}

async fn pack_that_was_given_up_cannot_become_known(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, _) = start(&database, folder.path()).await;
    let (large, place, single) = place_large(&bodies).await;
    assert!(abandon(&database, &single).await);
    // Its neighbours in the group don't suffer.
    let small = Bytes::from_static(b"Subject: small\r\n\r\ntext\r\n");
    let small_place = bodies.place(small.clone(), &[MAILBOX], NOW).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..40 {
        let (original, place) = if number == 20 { (&large, &place) } else { (&small, &small_place) };
        let (database, deliver) = (database.clone(), delivery(&bodies, original, place));
        deliveries.push(tokio::spawn(async move { database.deliver(deliver).await }));
    }
    for (number, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.await.unwrap().is_ok(), number != 20, "delivery {number}");
    }
    assert_eq!(numbers(&database, "SELECT count(*) FROM message").await, [39]);
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack").await, [0]);
    // Where a crash came between giving up and removing, the next start goes on.
    assert!(file(&bodies, &single).exists());
    let (bodies, packer) = start(&database, folder.path()).await;
    assert_eq!(packer.clean_up(NOW).await.unwrap(), 1);
    assert!(!file(&bodies, &single).exists());
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack_intent").await, [0]);
    assert!(!abandon(&database, &single).await);
    // What is known can't be given up any more.
    let (large, place, single) = place_large(&bodies).await;
    assert!(database.deliver(delivery(&bodies, &large, &place)).await.unwrap()[0].is_ok());
    assert!(!abandon(&database, &single).await);
    bodies.settle(&place).await.unwrap();
    assert_eq!(bodies.read(single.frame.body).await.unwrap(), large);
}

async fn pack_of_work_that_was_cut_off_is_removed_in_time(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    let (_, _, single) = place_large(&bodies).await;
    packer.look(NOW.plus(Duration::from_secs(60 * 60))).await.unwrap();
    assert!(file(&bodies, &single).exists());
    packer.look(NOW.plus(Duration::from_secs(60 * 60 + 1))).await.unwrap();
    assert!(!file(&bodies, &single).exists());
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack_intent").await, [0]);
}

/// Settles while a transaction that makes the pack known is undecided; then it is committed, or undone.
async fn settle_in_doubt(commits: bool) {
    let Some(postgres) = Postgres::start() else { return };
    let database = Database::open(&postgres.url()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    let (_, place, single) = place_large(&bodies).await;
    let (held, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let publishing = tokio::spawn({
        let (database, single) = (database.clone(), single.clone());
        let (held, release) = (Arc::clone(&held), Arc::clone(&release));
        async move {
            let write = database.write(Priority::Interactive, move |conn| {
                let (single, held, release) = (single.clone(), Arc::clone(&held), Arc::clone(&release));
                Box::pin(async move {
                    let summary = PackSummary {
                        name: single.name,
                        octets: single.octets,
                        frames: 1,
                        dictionaries: BTreeSet::new(),
                    };
                    let written = Written {
                        summary,
                        store: single.store,
                        stored_octets: u64::from(single.frame.stored_octets),
                        original_octets: 0,
                        generation: 0,
                    };
                    pack::publish(conn, &written, NOW).await?;
                    held.notify_one();
                    release.notified().await;
                    if commits { Ok(()) } else { Err(StorageError::Gone("on purpose")) }
                })
            });
            let done: Result<()> = write.await;
            done
        }
    });
    held.notified().await;
    let settling = tokio::spawn({
        let bodies = bodies.clone();
        async move { bodies.settle(&place).await }
    });
    while !settling.is_finished() && locks_awaited(&database).await == 0 {
        tokio::task::yield_now().await;
    }
    release.notify_one();
    assert_eq!(publishing.await.unwrap().is_ok(), commits);
    settling.await.unwrap().unwrap();
    assert_eq!(file(&bodies, &single).exists(), commits);
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack").await, [i64::from(commits)]);
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack_intent").await, [0]);
    assert_eq!(packer.clean_up(NOW).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_in_doubt_that_happens_keeps_its_pack() {
    settle_in_doubt(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_in_doubt_that_does_not_happen_leaves_no_file() {
    settle_in_doubt(false).await;
}

async fn bodies_are_packed_read_and_deleted(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let epoch = set_up(&database).await;
    let node = Node { id: "local".to_owned(), epoch };
    let bodies = Bodies::new(
        Volumes::new(database.clone(), folder.path().to_owned(), Metrics::new()),
        Codec::default(),
        node,
    );
    let settings = PackerSettings {
        packing: Some(PackingSettings { grace_minutes: 0, ..StoreSettings::default().packing }),
    };
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
    assert_eq!(packer.clean_up(NOW).await.unwrap(), 0);
}
