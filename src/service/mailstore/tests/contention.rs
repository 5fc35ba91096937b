//! Two nodes at the same messages at the same moment, on PostgreSQL: what one removes the other must not take off the
//! counters, nor off the references of bodies, again. (On SQLite there is one writer.)

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::service::error::ServiceError;
use crate::storage::metadata::purge::{self, Kind};

/// Row locks that are held until they are released.
struct Held {
    release: Arc<Notify>,
    transaction: JoinHandle<Result<()>>,
}

impl Held {
    /// Locks what `text` selects.
    async fn lock(house: &House, text: &'static str) -> Self {
        let (locked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (database, locked_too, release_too) =
            (house.database.clone(), Arc::clone(&locked), Arc::clone(&release));
        let transaction = tokio::spawn(async move {
            let write = database.write(Priority::Interactive, move |conn| {
                let (locked, release) = (Arc::clone(&locked_too), Arc::clone(&release_too));
                Box::pin(async move {
                    assert!(!conn.rows(text, Vec::new()).await?.is_empty());
                    locked.notify_one();
                    release.notified().await;
                    Ok(())
                })
            });
            write.await
        });
        locked.notified().await;
        Self { release, transaction }
    }

    /// Lets go as soon as `waiting` transactions stand before the locks: they have all read the same rows by then.
    async fn release(self, house: &House, waiting: i64) {
        let text = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let all_wait = async { while house.number(text).await < waiting {} };
        soon(all_wait).await;
        self.release.notify_one();
        self.transaction.await.unwrap().unwrap();
    }
}

/// Two nodes that serve one mailbox with `count` delivered messages; all in `Other`, copies of them in INBOX.
async fn two_nodes(url: &str, count: usize) -> (House, House) {
    let one = House::build(url).await.forgetful().await;
    let two = one.another_node(url).await;
    for number in 0..count {
        one.deliver(&format!("message {number}")).await;
    }
    one.store.folder_create(&one.owner, &name("Other"), None).await.unwrap();
    let mut view = one.select("INBOX").await;
    let uids = view.uids().to_vec();
    view.copy(&uids, &name("Other")).await.unwrap();
    (one, two)
}

const PURGED: &str =
    "SELECT uid FROM message WHERE folder_id IN (SELECT folder_id FROM folder_purge) FOR UPDATE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_purged_by_two_nodes_at_once_is_released_once() {
    let Some(postgres) = postgres::Postgres::start() else { return };
    let (one, two) = two_nodes(&postgres.url(), 20).await;
    one.store.folder_delete(&one.owner, &name("Other")).await.unwrap();
    let held = Held::lock(&one, PURGED).await;
    let purge = |house: &House| {
        let store = house.store.clone();
        tokio::spawn(async move { store.purge_slice().await })
    };
    let purges = [purge(&one), purge(&two)];
    held.release(&one, 2).await;
    for purge in purges {
        purge.await.unwrap().unwrap();
    }
    assert_eq!(one.number("SELECT count(*) FROM body WHERE reference_count = 1").await, 20);
    assert_eq!(one.number("SELECT messages_used FROM mailbox").await, 20);
    one.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_purged_while_its_mailbox_is_purged_is_released_once() {
    let Some(postgres) = postgres::Postgres::start() else { return };
    let (one, two) = two_nodes(&postgres.url(), 20).await;
    // Somebody else keeps every body alive.
    let other = one.another_mailbox().await.owner.mailbox;
    let keep = "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                     internal_date)
                SELECT f.mailbox_id, f.id, m.uid, 0, 1, m.body_id, 0, m.octets, 0 FROM message m
                JOIN folder f ON f.mailbox_id = (SELECT max(id) FROM mailbox)
                WHERE m.folder_id = (SELECT min(id) FROM folder)";
    one.execute(keep).await;
    one.execute("UPDATE body SET reference_count = reference_count + 1").await;
    one.execute("DELETE FROM customer_usage").await;
    one.execute("DELETE FROM domain_usage").await;
    one.store.folder_delete(&one.owner, &name("Other")).await.unwrap();
    one.execute("UPDATE mailbox SET deleted_at = 5 WHERE id = (SELECT min(id) FROM mailbox)").await;
    let held = Held::lock(&one, PURGED).await;
    let (store, database, mailbox) = (two.store.clone(), two.database.clone(), one.owner.mailbox);
    let folder = tokio::spawn(async move { store.purge_slice().await });
    let whole = tokio::spawn(async move {
        let slice = || {
            database.write(Priority::Background, move |conn| {
                Box::pin(purge::slice(conn, Kind::Mailbox, mailbox.0, Timestamp(6), Timestamp(6)))
            })
        };
        while slice().await? {}
        Ok::<(), StorageError>(())
    });
    held.release(&one, 2).await;
    folder.await.unwrap().unwrap();
    whole.await.unwrap().unwrap();
    assert_eq!(one.number("SELECT count(*) FROM mailbox").await, 1);
    assert_eq!(one.number("SELECT count(*) FROM body WHERE reference_count = 1").await, 20);
    assert_eq!(one.number("SELECT count(*) FROM message").await, 20);
    assert_eq!(one.number("SELECT mailbox_id FROM message LIMIT 1").await, other.0);
    assert_eq!(one.number("SELECT count(*) FROM message_prefix").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_expunged_by_two_nodes_at_once_are_released_once() {
    let Some(postgres) = postgres::Postgres::start() else { return };
    let (one, two) = two_nodes(&postgres.url(), 20).await;
    let mut views = [one.select("Other").await, two.select("Other").await];
    let uids = views[0].uids().to_vec();
    let deleted = system(FlagBits::DELETED);
    views[0].flags_store(&uids, FlagMode::Add, &deleted, None, true).await.unwrap();
    views[1].sync(true).await.unwrap();
    let held = Held::lock(&one, "SELECT id FROM mailbox FOR UPDATE").await;
    let expunges = views.map(|mut view| {
        tokio::spawn(async move {
            view.expunge(None).await?;
            // What the other node removed is told here a moment after its commit.
            while !view.uids().is_empty() {
                view.changed().await;
                view.sync(true).await?;
            }
            Ok::<_, ServiceError>(())
        })
    });
    held.release(&one, 2).await;
    for expunge in expunges {
        soon(expunge).await.unwrap().unwrap();
    }
    assert_eq!(one.number("SELECT count(*) FROM body WHERE reference_count = 1").await, 20);
    assert_eq!(one.number("SELECT messages_used FROM mailbox").await, 20);
    one.check().await;
}
