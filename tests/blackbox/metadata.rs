//! The contract of the metadata room, on SQLite and on PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use posthouse::base::clock::Timestamp;
use posthouse::base::id::MailboxId;
use posthouse::base::store_settings::StoreSettings;
use posthouse::params;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{
    BodyPlace, Deliver, DeliverTarget, Packed, Refused, TargetOutcome, TraceOrigin,
};
use posthouse::storage::metadata::instance::{StoreSetup, ensure_stores};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::quota::{OverLimit, QuotaOwner};
use posthouse::storage::metadata::sql::Conn;
use posthouse::storage::metadata::store::{self, StoreRow};
use tokio::sync::Semaphore;

/// Runs one contract test on each database that is there.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::$name($crate::metadata::open(&url).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(postgres) = $crate::support::postgres::Postgres::start() else { return };
                super::$name($crate::metadata::open(&postgres.url()).await).await;
            })+
        }
    };
}
pub(crate) use on_both;

pub async fn open(url: &str) -> Database {
    Database::open(url).await.unwrap()
}

/// How many sessions of PostgreSQL wait for a lock that another holds.
pub async fn locks_awaited(database: &Database) -> i64 {
    number(database, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await
}

on_both!(
    parallel_deliveries_reach_each_limit_and_never_pass_it,
    all_or_nothing_stores_nothing_when_one_is_refused,
    body_is_stored_once_for_all_mailboxes_of_a_customer,
    failed_operation_is_undone_and_leaves_its_neighbours_alone,
    committed_changes_are_told,
    operations_whose_callers_went_away_are_committed_or_undone_and_block_nobody,
    settings_of_a_store_are_those_of_the_file,
);

/// A provider with one customer, one domain and `mailboxes` mailboxes with an INBOX each.
pub async fn provider(database: &Database, mailboxes: i64) -> Vec<MailboxId> {
    database
        .write(Priority::Interactive, move |conn| Box::pin(insert_provider(conn, mailboxes)))
        .await
        .unwrap()
}

async fn insert_provider(conn: &mut Conn, mailboxes: i64) -> Result<Vec<MailboxId>, StorageError> {
    for text in [
        "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
         VALUES (1, 'c1', NULL, 'provider', 'Provider', 'ROOT', 0), (2, 'c2', 1, 'a', 'A', 'CUST', 0)",
        "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'main', 0)",
        "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
         VALUES (1, 'd1', 2, 'a.example', 'verified', 0)",
    ] {
        conn.execute(text, Vec::new()).await?;
    }
    let mut ids = Vec::new();
    for number in 0..mailboxes {
        let text = "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id,
                                         uid_validity_next, created_at) VALUES ($1, 1, $2, 'x', 1, 2, 0)";
        let id = conn.insert(text, params![format!("m{number}"), format!("user{number}")]).await?;
        let text =
            "INSERT INTO folder (mailbox_id, name, uid_validity, created_at) VALUES ($1, 'INBOX', 1, 0)";
        conn.insert(text, params![id]).await?;
        ids.push(MailboxId(id));
    }
    Ok(ids)
}

fn packed(bytes: &[u8]) -> Packed {
    Packed { codec: 0, dictionary_id: 0, octets: bytes.len() as u64, data: bytes.to_vec().into() }
}

pub fn message(octets: usize, mailboxes: &[MailboxId], all_or_nothing: bool) -> Deliver {
    let target = |&mailbox: &MailboxId| DeliverTarget {
        mailbox,
        prefix: packed(b""),
        recipient: "user@a.example".to_owned(),
    };
    Deliver {
        at: Timestamp::from_secs(1),
        octets: octets as u64,
        body: BodyPlace::Fresh(packed(&vec![b'x'; octets])),
        summary: packed(b"summary"),
        targets: mailboxes.iter().map(target).collect(),
        all_or_nothing,
        trace: TraceOrigin::default(),
        notice_mail: None,
    }
}

async fn execute(database: &Database, text: &'static str) {
    let result: Result<u64, StorageError> =
        database.write(Priority::Interactive, move |c| Box::pin(c.execute(text, Vec::new()))).await;
    result.unwrap();
}

pub async fn number(database: &Database, text: &'static str) -> i64 {
    let read = database.read(|c| {
        Box::pin(async move { c.row(text, Vec::new()).await?.ok_or(StorageError::Gone("row"))?.int(0) })
    });
    read.await.unwrap()
}

/// 32 clients deliver at once until nothing fits any more; answers the refusals.
async fn deliver_until_refused(database: &Database, mailboxes: &[MailboxId], octets: usize) -> Vec<Refused> {
    let clients = (0..32).map(|client| {
        let database = database.clone();
        let mailbox = mailboxes[client % mailboxes.len()];
        tokio::spawn(async move {
            for _ in 0..1_000 {
                let outcome = database.deliver(message(octets, &[mailbox], false)).await.unwrap();
                if let [Err(refused)] = outcome[..] {
                    return refused;
                }
            }
            panic!("1,000 messages were taken above the limit");
        })
    });
    let mut refusals = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        refusals.push(client.await.unwrap());
    }
    refusals
}

async fn parallel_deliveries_reach_each_limit_and_never_pass_it(database: Database) {
    let mailboxes = provider(&database, 4).await;
    // At most one message's size below the limit, never above it.
    let near = |used: i64, limit: i64| used <= limit && used > limit - 100;

    execute(&database, "UPDATE mailbox SET bytes_max = 1234 WHERE id = 1").await;
    deliver_until_refused(&database, &mailboxes[..1], 100).await;
    assert!(near(number(&database, "SELECT bytes_used FROM mailbox WHERE id = 1").await, 1234));

    execute(&database, "UPDATE domain SET bytes_max = 4321").await;
    execute(&database, "INSERT INTO domain_usage SELECT 1, sum(bytes_used), sum(messages_used) FROM mailbox")
        .await;
    let refusals = deliver_until_refused(&database, &mailboxes[1..], 100).await;
    let domain_octets = |refused: &Refused| {
        matches!(refused, Refused::OverQuota(OverLimit { owner: QuotaOwner::Domain(_), on_messages: false }))
    };
    assert!(refusals.iter().all(domain_octets));
    assert!(near(number(&database, "SELECT bytes_used FROM domain_usage").await, 4321));

    execute(&database, "UPDATE domain SET bytes_max = NULL").await;
    execute(&database, "UPDATE customer SET messages_max = 60 WHERE id = 1").await;
    execute(
        &database,
        "INSERT INTO customer_usage SELECT 1, sum(bytes_used), sum(messages_used), sum(bytes_used) FROM mailbox",
    )
    .await;
    let refusals = deliver_until_refused(&database, &mailboxes[1..], 100).await;
    let customer_messages = |refused: &Refused| {
        matches!(refused, Refused::OverQuota(OverLimit { owner: QuotaOwner::Customer(_), on_messages: true }))
    };
    assert!(refusals.iter().all(customer_messages));
    assert_eq!(number(&database, "SELECT messages_used FROM customer_usage").await, 60);

    // A raised limit counts for the next message; every counter equals the recount.
    execute(&database, "UPDATE customer SET messages_max = 61 WHERE id = 1").await;
    let outcome = database.deliver(message(100, &mailboxes[2..3], false)).await.unwrap();
    assert!(matches!(outcome[..], [Ok(_)]));
    for counter in [
        "SELECT CAST(sum(bytes_used) AS BIGINT) FROM mailbox",
        "SELECT CAST(sum(octets) AS BIGINT) FROM folder",
        "SELECT bytes_used FROM customer_usage",
        "SELECT bytes_used FROM domain_usage",
    ] {
        let recount = number(&database, "SELECT CAST(sum(octets) AS BIGINT) FROM message").await;
        assert_eq!(number(&database, counter).await, recount, "{counter}");
    }
    let duplicates = "SELECT count(*) - count(DISTINCT folder_id * 100000 + uid) FROM message";
    assert_eq!(number(&database, duplicates).await, 0);
}

async fn all_or_nothing_stores_nothing_when_one_is_refused(database: Database) {
    let mailboxes = provider(&database, 2).await;
    execute(&database, "UPDATE mailbox SET messages_max = 0 WHERE id = 2").await;
    let outcome: Vec<TargetOutcome> = database.deliver(message(10, &mailboxes, true)).await.unwrap();
    let full = Refused::OverQuota(OverLimit { owner: QuotaOwner::Mailbox(mailboxes[1]), on_messages: true });
    assert_eq!(outcome, [Err(Refused::Sibling), Err(full)]);
    for table in ["SELECT count(*) FROM message", "SELECT count(*) FROM body", "SELECT count(*) FROM summary"]
    {
        assert_eq!(number(&database, table).await, 0, "{table}");
    }
    assert_eq!(number(&database, "SELECT CAST(sum(bytes_used) AS BIGINT) FROM mailbox").await, 0);
    // Each on its own: the first is stored, the second answered by itself.
    let outcome = database.deliver(message(10, &mailboxes, false)).await.unwrap();
    assert!(matches!(outcome[..], [Ok(_), Err(Refused::OverQuota(_))]));
    assert_eq!(number(&database, "SELECT count(*) FROM message").await, 1);
    let gone = database.deliver(message(10, &[MailboxId(99)], false)).await.unwrap();
    assert_eq!(gone, [Err(Refused::Gone)]);
}

async fn body_is_stored_once_for_all_mailboxes_of_a_customer(database: Database) {
    let mailboxes = provider(&database, 3).await;
    database.deliver(message(1000, &mailboxes, true)).await.unwrap();
    assert_eq!(number(&database, "SELECT count(*) FROM message").await, 3);
    assert_eq!(number(&database, "SELECT count(*) FROM fresh_body").await, 1);
    assert_eq!(number(&database, "SELECT reference_count FROM body").await, 3);
}

async fn failed_operation_is_undone_and_leaves_its_neighbours_alone(database: Database) {
    provider(&database, 1).await;
    let writes = (0..64_i64).map(|index| {
        let database = database.clone();
        tokio::spawn(async move {
            let write = database.write(Priority::Interactive, move |c| {
                Box::pin(async move {
                    let text = "INSERT INTO instance (key, value) VALUES ($1, 'x')";
                    c.execute(text, params![format!("key {index}")]).await?;
                    if index % 2 == 0 { Ok(()) } else { Err(StorageError::Gone("on purpose")) }
                })
            });
            write.await
        })
    });
    for (index, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(write.await.unwrap().is_ok(), index % 2 == 0);
    }
    assert_eq!(number(&database, "SELECT count(*) FROM instance WHERE key LIKE 'key %'").await, 32);
}

/// More callers than connections go away in the middle of their transactions.
async fn operations_whose_callers_went_away_are_committed_or_undone_and_block_nobody(database: Database) {
    let (inside, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let begin = |index: i64| {
        let (database, inside, gate) = (database.clone(), Arc::clone(&inside), Arc::clone(&gate));
        tokio::spawn(async move {
            let write = database.write(Priority::Interactive, move |c| {
                let (inside, gate) = (Arc::clone(&inside), Arc::clone(&gate));
                Box::pin(async move {
                    let text = "INSERT INTO instance (key, value) VALUES ($1, 'x')";
                    c.execute(text, params![format!("first {index}")]).await?;
                    inside.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.map_err(|_| StorageError::Gone("gate"))?.forget();
                    c.execute(text, params![format!("second {index}")]).await.map(drop)
                })
            });
            write.await
        })
    };
    let callers: Vec<tokio::task::JoinHandle<Result<(), StorageError>>> = (0..48).map(begin).collect();
    let at_once = if database.is_shared() { 8 } else { 1 };
    soon("operations to be under way", async || inside.load(Ordering::SeqCst) >= at_once).await;
    for caller in callers {
        caller.abort();
        let _ = caller.await;
    }
    gate.add_permits(1_000);
    if database.is_shared() {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        soon("transactions to end", async || number(&database, open).await == 0).await;
    }
    for index in 100..148 {
        begin(index).await.unwrap().unwrap();
    }
    let halves = "SELECT (SELECT count(*) FROM instance WHERE key LIKE 'first %')
                       - (SELECT count(*) FROM instance WHERE key LIKE 'second %')";
    assert_eq!(number(&database, halves).await, 0);
    // A delivery that nobody waits for any more is stored as a whole, or not at all.
    let mailboxes = provider(&database, 2).await;
    for _ in 0..20 {
        let (database, mailboxes) = (database.clone(), mailboxes.clone());
        let caller = tokio::spawn(async move { database.deliver(message(10, &mailboxes, true)).await });
        tokio::task::yield_now().await;
        caller.abort();
        let _ = caller.await;
    }
    database.deliver(message(10, &mailboxes, true)).await.unwrap();
    let halves = "SELECT 2 * (SELECT count(*) FROM body) - (SELECT count(*) FROM message)";
    assert_eq!(number(&database, halves).await, 0);
}

/// Waits until `condition` holds.
async fn soon(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::task::yield_now().await;
    }
}

async fn committed_changes_are_told(database: Database) {
    use posthouse::storage::metadata::changes::Touched;
    let mailboxes = provider(&database, 1).await;
    let folder = posthouse::base::id::FolderId(number(&database, "SELECT id FROM folder").await);
    let mut watch = database.changes().watch(Touched::Folder(folder));
    watch.mark_unchanged();
    database.deliver(message(10, &mailboxes, false)).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(10), watch.changed()).await.unwrap().unwrap();
}

/// What the file says counts; what has left it is at its default again.
async fn settings_of_a_store_are_those_of_the_file(database: Database) {
    let mut settings = StoreSettings::default();
    settings.set("compression.level", "12").unwrap();
    for (settings, fixed, level, generation) in [
        (settings.clone(), vec!["compression.level"], 12, 0),
        (settings, vec!["compression.level"], 12, 0),
        (StoreSettings::default(), Vec::new(), StoreSettings::default().compression.level, 1),
    ] {
        let setup = StoreSetup { name: "main".to_owned(), path: "main".to_owned(), settings, fixed };
        let write = database.write(Priority::Interactive, move |conn| {
            let setup = setup.clone();
            Box::pin(async move {
                ensure_stores(conn, &[setup], Timestamp(0)).await?;
                store::list(conn).await
            })
        });
        let stores: Result<Vec<StoreRow>, StorageError> = write.await;
        let [store] = &stores.unwrap()[..] else { panic!("one store") };
        assert_eq!((store.settings.compression.level, store.generation), (level, generation));
    }
}
