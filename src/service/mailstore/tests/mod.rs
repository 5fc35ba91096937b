//! The mail store against real databases: single cases, and a model that random sessions are compared with.

mod cases;
mod contention;
mod crowd;
mod large;
mod model;
mod place_model;
mod undelete;
mod undelete_model;

use crate::base::telemetry::metrics::Metrics;
use crate::storage::volumes::Volumes;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::types::{Access, FlagBits, FlagMode, FlagSet, FolderEvent, FolderName, NewMessage};
use super::view::FolderView;
use super::{MailStore, MailStoreLimits};

use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{CustomerId, DomainId, MailboxId, Uid};
use crate::params;
use crate::service::context::Owner;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::delivery::TargetOutcome;
use crate::storage::metadata::instance::node_start;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::Node;
use crate::storage::metadata::sql::{Conn, Row};
use crate::storage::pack::Codec;
use crate::storage::{Result, StorageError};

// The black-box tests' way to a throw-away PostgreSQL.
#[path = "../../../../tests/support/postgres.rs"]
pub(in crate::service) mod postgres;
#[allow(dead_code, reason = "the black-box tests use more of it")]
#[path = "../../../../tests/support/programs.rs"]
mod programs;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs one test on each database that is there.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::super::House::open(&url, super::$name).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(postgres) = super::super::postgres::Postgres::start() else { return };
                super::super::House::open(&postgres.url(), super::$name).await;
            })+
        }
    };
}
use on_both;

/// A provider with one customer, one domain and a mailbox with an INBOX.
#[derive(Clone)]
struct House {
    database: Database,
    store: MailStore,
    owner: Owner,
    folder: Arc<tempfile::TempDir>,
    undelete_days: u32,
}

const PROVIDER: [&str; 5] = [
    "INSERT INTO customer (id, public_id, parent_id, slug, name, code, bytes_max, created_at)
     VALUES (1, 'c1', NULL, 'provider', 'Provider', 'ROOT', NULL, 0), (2, 'c2', 1, 'a', 'A', 'CUST', 100000000, 0)",
    "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'main', 0), (2, 'second', 'second', 0)",
    "INSERT INTO domain (id, public_id, customer_id, name, state, bytes_max, created_at)
     VALUES (1, 'd1', 2, 'a.example', 'verified', 50000000, 0)",
    "INSERT INTO customer_usage (customer_id, bytes_used, messages_used) VALUES (2, 0, 0)",
    "INSERT INTO domain_usage (domain_id, bytes_used, messages_used) VALUES (1, 0, 0)",
];

async fn insert_provider(conn: &mut Conn) -> Result<()> {
    for text in PROVIDER {
        conn.execute(text, Vec::new()).await?;
    }
    Ok(())
}

async fn insert_mailbox(conn: &mut Conn) -> Result<MailboxId> {
    let public_id = crate::base::id::public_id();
    let text = "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id, bytes_max,
                                     uid_validity_next, created_at) VALUES ($1, 1, $1, 'x', 1, 1000000, 2, 0)";
    let id = conn.insert(text, params![&public_id]).await?;
    let text = "INSERT INTO folder (mailbox_id, name, uid_validity, created_at) VALUES ($1, 'INBOX', 1, 0)";
    conn.insert(text, params![id]).await?;
    Ok(MailboxId(id))
}

impl House {
    /// Builds it in an empty database and runs `test`; afterwards everything must add up.
    async fn open<F: Future<Output = ()>>(url: &str, test: impl FnOnce(Self) -> F) {
        let house = Self::build(url).await;
        test(house.clone()).await;
        house.check().await;
    }

    /// Builds it in an empty database.
    async fn build(url: &str) -> Self {
        let database = Database::open(url).await.unwrap();
        let provider: Result<()> =
            database.write(Priority::Interactive, |conn| Box::pin(insert_provider(conn))).await;
        provider.unwrap();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let owner = Owner {
            mailbox: MailboxId(0),
            domain: DomainId(1),
            customer: CustomerId(2),
            address: "user@a.example".parse().unwrap(),
            visit: None,
        };
        let undelete_days = 30;
        let store = Self::store(&database, &folder, "one", undelete_days).await;
        Self { database, store, owner, folder, undelete_days }.another_mailbox().await
    }

    /// The same house, where nothing that was expunged or deleted comes back.
    async fn forgetful(&self) -> Self {
        let store = Self::store(&self.database, &self.folder, "one", 0).await;
        Self { store, undelete_days: 0, ..self.clone() }
    }

    async fn store(
        database: &Database,
        folder: &tempfile::TempDir,
        node: &'static str,
        undelete_days: u32,
    ) -> MailStore {
        let clock = Clock::manual(Timestamp::from_secs(1_000_000));
        let now = clock.now();
        let epoch: Result<i64> =
            database.write(Priority::Interactive, move |conn| Box::pin(node_start(conn, node, now))).await;
        let node = Node { id: node.to_owned(), epoch: epoch.unwrap() };
        let bodies = Bodies::new(
            Volumes::new(database.clone(), folder.path().into(), Metrics::new()),
            Codec::default(),
            node,
        );
        let limits = MailStoreLimits { undelete_days, ..MailStoreLimits::default() };
        MailStore::new(database.clone(), clock, bodies, limits)
    }

    /// The same house as another node serves it.
    async fn another_node(&self, url: &str) -> Self {
        let database = Database::open(url).await.unwrap();
        let store = Self::store(&database, &self.folder, "two", self.undelete_days).await;
        Self { database, store, ..self.clone() }
    }

    /// The same house with another mailbox.
    async fn another_mailbox(&self) -> Self {
        let mailbox: Result<MailboxId> =
            self.database.write(Priority::Interactive, |conn| Box::pin(insert_mailbox(conn))).await;
        let mut house = self.clone();
        house.owner.mailbox = mailbox.unwrap();
        house
    }

    async fn rows(&self, text: &'static str) -> Vec<Row> {
        let rows: Result<Vec<Row>> = self.database.read(|conn| Box::pin(conn.rows(text, Vec::new()))).await;
        rows.unwrap()
    }

    async fn number(&self, text: &'static str) -> i64 {
        self.rows(text).await[0].int(0).unwrap()
    }

    async fn execute(&self, text: &'static str) {
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { conn.execute(text, Vec::new()).await })
        });
        let done: std::result::Result<u64, StorageError> = write.await;
        done.unwrap();
    }

    /// Counters equal a recount, and nothing is leaked.
    async fn check(&self) {
        while self.store.purge_slice().await.unwrap() {}
        for (what, text) in [
            (
                "folder counters",
                "SELECT count(*) FROM folder f WHERE (messages, unseen, octets) <>
                   (SELECT count(*), coalesce(sum(1 - flags & 1), 0), coalesce(sum(octets), 0)
                    FROM message WHERE folder_id = f.id)",
            ),
            (
                "counters of recent and deleted messages",
                "SELECT count(*) FROM folder f WHERE (recent, deleted, deleted_octets) <>
                   (SELECT coalesce(sum(CASE WHEN uid >= f.recent_uid THEN 1 ELSE 0 END), 0),
                           coalesce(sum(CASE WHEN (flags & 8) <> 0 THEN 1 ELSE 0 END), 0),
                           coalesce(sum(CASE WHEN (flags & 8) <> 0 THEN octets ELSE 0 END), 0)
                    FROM message WHERE folder_id = f.id)",
            ),
            (
                "sets on their way",
                "SELECT (SELECT count(*) FROM folder_stage) + (SELECT count(*) FROM folder WHERE staged_uid <> 0)",
            ),
            (
                "UIDs",
                "SELECT count(*) FROM folder f WHERE uid_next <=
                   (SELECT coalesce(max(uid), 0) FROM message WHERE folder_id = f.id)",
            ),
            (
                "mailbox use",
                "SELECT count(*) FROM mailbox m WHERE (messages_used, bytes_used) <>
                   (SELECT count(*), coalesce(sum(octets), 0) FROM message WHERE mailbox_id = m.id)",
            ),
            (
                "domain use",
                "SELECT count(*) FROM domain_usage WHERE (messages_used, bytes_used) <>
                   (SELECT count(*), coalesce(sum(octets), 0) FROM message)",
            ),
            (
                "customer use",
                "SELECT count(*) FROM customer_usage WHERE (messages_used, bytes_used) <>
                   (SELECT count(*), coalesce(sum(octets), 0) FROM message)",
            ),
            (
                "references",
                "SELECT count(*) FROM body b WHERE reference_count <>
                   (SELECT count(*) FROM message WHERE body_id = b.id)
                 + (SELECT count(*) FROM tombstone WHERE body_id = b.id)",
            ),
            (
                "bodies",
                "SELECT (SELECT count(*) FROM message WHERE body_id NOT IN (SELECT id FROM body))
                      + (SELECT count(*) FROM tombstone WHERE body_id NOT IN (SELECT id FROM body))",
            ),
            (
                "tombstones",
                "SELECT count(*) FROM mailbox m WHERE tombstone_octets <>
                   (SELECT coalesce(sum(octets + 1024), 0) FROM tombstone WHERE mailbox_id = m.id)",
            ),
            (
                "packs of other stores than their bodies",
                "SELECT count(*) FROM body b JOIN pack p ON p.id = b.pack_id WHERE p.store_id <> b.store_id",
            ),
            (
                "living bodies of packs",
                "SELECT count(*) FROM pack p WHERE bodies - dead_bodies <>
                   (SELECT count(*) FROM body WHERE pack_id = p.id)",
            ),
            (
                "copies of bodies that are gone",
                "SELECT count(*) FROM body_copy WHERE body_id NOT IN (SELECT id FROM body)",
            ),
            ("summaries", "SELECT abs((SELECT count(*) FROM summary) - (SELECT count(*) FROM body))"),
            (
                "fresh bodies",
                "SELECT abs((SELECT count(*) FROM fresh_body)
                          - (SELECT count(*) FROM body WHERE pack_id IS NULL))",
            ),
            (
                "trace lines",
                "SELECT abs((SELECT count(*) FROM message_prefix)
                          - (SELECT count(*) FROM message WHERE prefix_id <> 0)
                          - (SELECT count(*) FROM tombstone WHERE prefix_id <> 0))",
            ),
            ("purged folders", "SELECT count(*) FROM folder_purge"),
            (
                "expunged UIDs that are there",
                "SELECT count(*) FROM expunged e JOIN message m ON m.folder_id = e.folder_id
                   AND m.uid BETWEEN e.uid_first AND e.uid_last",
            ),
            (
                "rows of folders that are gone",
                "SELECT (SELECT count(*) FROM message WHERE folder_id NOT IN (SELECT id FROM folder))
                      + (SELECT count(*) FROM expunged WHERE folder_id NOT IN (SELECT id FROM folder))
                      + (SELECT count(*) FROM folder_keyword WHERE folder_id NOT IN (
                            SELECT id FROM folder UNION ALL SELECT folder_id FROM deleted_folder))",
            ),
        ] {
            assert_eq!(self.number(text).await, 0, "{what}");
        }
    }

    async fn append(&self, folder: &str, texts: &[&str]) -> Vec<Uid> {
        let messages = texts.iter().map(|text| new_message(text, FlagSet::default())).collect();
        self.store.append(&self.owner, &name(folder), messages).await.unwrap().uids
    }

    async fn select(&self, folder: &str) -> FolderView {
        self.store.folder_open(&self.owner, &name(folder), Access::ReadWrite).await.unwrap()
    }

    /// Delivers as LMTP does, with trace lines.
    async fn deliver(&self, text: &str) {
        self.try_deliver(text).await.unwrap();
    }

    async fn try_deliver(&self, text: &str) -> TargetOutcome {
        use crate::storage::metadata::delivery::{Deliver, DeliverTarget, TraceOrigin};
        let bodies = &self.store.inner.bodies;
        let bytes = message_bytes(text);
        let deliver = Deliver {
            at: Timestamp::from_secs(5),
            octets: bytes.len() as u64,
            body: bodies.place(bytes.clone(), &[self.owner.mailbox], Timestamp::from_secs(5)).await.unwrap(),
            summary: bodies.compress(&super::summary::summarize(&bytes).encode()),
            targets: vec![DeliverTarget {
                mailbox: self.owner.mailbox,
                prefix: bodies.compress(TRACE.as_bytes()),
                recipient: "user@a.example".to_owned(),
            }],
            all_or_nothing: false,
            trace: TraceOrigin::default(),
            notice_mail: None,
        };
        self.database.deliver(deliver).await.unwrap()[0]
    }
}

const TRACE: &str = "Return-Path: <>\r\nDelivered-To: user@a.example\r\n";

fn message_bytes(text: &str) -> Bytes {
    format!("From: a@x.example\r\nSubject: {text}\r\nDate: Fri, 21 Nov 1997 09:55:06 -0600\r\n\r\nbody of {text}\r\n")
        .into()
}

fn new_message(text: &str, flags: FlagSet) -> NewMessage {
    NewMessage { bytes: message_bytes(text), flags, internal_date: None }
}

fn name(text: &str) -> FolderName {
    FolderName::parse(text).unwrap()
}

fn system(flags: FlagBits) -> FlagSet {
    FlagSet { system: flags, keywords: Vec::new() }
}

fn keyword(name: &str) -> FlagSet {
    FlagSet { system: FlagBits::default(), keywords: vec![name.to_owned()] }
}

/// Marks messages as deleted and expunges them.
async fn remove(view: &mut FolderView, uids: &[Uid]) {
    view.flags_store(uids, FlagMode::Add, &system(FlagBits::DELETED), None, true).await.unwrap();
    view.expunge(Some(uids)).await.unwrap();
}

/// Fails when `future` takes longer than anything should.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// The sequence numbers of the messages that went, in the order told.
fn expunged(events: &[FolderEvent]) -> Vec<u32> {
    let sequence = |event: &FolderEvent| match event {
        FolderEvent::Expunged { sequence, .. } => Some(*sequence),
        _ => None,
    };
    events.iter().filter_map(sequence).collect()
}
