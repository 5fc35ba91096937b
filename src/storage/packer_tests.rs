//! Packing under crashes, deletions and reads.

mod backups;
mod catalogs;
mod dictionaries;
mod homing;
mod offload;
mod parts;
mod volumes;

use crate::base::store_settings::{PackingSettings, StoreSettings};
use crate::base::telemetry::metrics::Metrics;
use crate::storage::volumes::Volumes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::bodies::{Bodies, DATABASE_OCTETS_MAX};
use super::metadata::body::{Location, locate, release};
use super::metadata::database::Database;
use super::metadata::delivery::{BodyPlace, Deliver, DeliverTarget, Packed, TargetOutcome, TraceOrigin};
use super::metadata::instance::node_start;
use super::metadata::lane::Priority;
use super::metadata::pack::Node;
use super::metadata::sql::Row;
use super::pack::{Codec, PackName, verify};
use super::packer::{Packer, PackerSettings, Progress};
use super::{Result, StorageError};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, MailboxId, StoreId, random_bytes};
use crate::params;

/// Holds a pass at a point, tells that it is there, and lets it go on when it is told to.
pub(crate) struct Fault {
    point: u8,
    reached: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Fault {
    /// Holds for good; the other is told when the point is reached.
    pub(crate) fn at(point: u8) -> (Self, Arc<Notify>) {
        let reached = Arc::new(Notify::new());
        (Self { point, reached: Arc::clone(&reached), go_on: Arc::default() }, reached)
    }

    pub(crate) async fn reach(&self, point: u8) {
        if point == self.point {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
    }
}

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

/// A provider with two customers, a mailbox each.
struct Provider {
    folder: tempfile::TempDir,
    database: Database,
    expected: BTreeMap<BodyId, Bytes>,
}

impl Provider {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
        let database = Database::open(&url).await.unwrap();
        let own = Self { folder, database, expected: BTreeMap::new() };
        for text in [
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
             VALUES (1, 'c1', NULL, 'p', 'P', 'P', 0), (2, 'c2', 1, 'a', 'A', 'A', 0),
                    (3, 'c3', 1, 'b', 'B', 'B', 0)",
            "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'main', 0)",
            "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
             VALUES (1, 'd1', 2, 'a.example', 'verified', 0), (2, 'd2', 3, 'b.example', 'verified', 0)",
            "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                                  uid_validity_next, created_at)
             VALUES (1, 'm1', 1, 'x', 'x', 1, 2, 0), (2, 'm2', 2, 'x', 'x', 1, 2, 0)",
            "INSERT INTO folder (id, mailbox_id, name, uid_validity, created_at)
             VALUES (1, 1, 'INBOX', 1, 0), (2, 2, 'INBOX', 1, 0)",
        ] {
            own.execute(text).await;
        }
        own
    }

    async fn execute(&self, text: &'static str) {
        let write =
            self.database.write(Priority::Interactive, move |conn| Box::pin(conn.execute(text, Vec::new())));
        let done: Result<u64> = write.await;
        done.unwrap();
    }

    async fn rows(&self, text: &'static str) -> Vec<Row> {
        let rows: Result<Vec<Row>> =
            self.database.read(|conn| Box::pin(async move { conn.rows(text, Vec::new()).await })).await;
        rows.unwrap()
    }

    async fn number(&self, text: &'static str) -> i64 {
        self.rows(text).await[0].int(0).unwrap()
    }

    /// As the daemon does at start.
    async fn start(&self) -> (Bodies, Packer) {
        let write =
            self.database.write(Priority::Interactive, |conn| Box::pin(node_start(conn, "local", NOW)));
        let epoch: Result<i64> = write.await;
        let node = Node { id: "local".to_owned(), epoch: epoch.unwrap() };
        let folder = self.folder.path().to_owned();
        let bodies =
            Bodies::new(Volumes::new(self.database.clone(), folder, Metrics::new()), Codec::default(), node);
        let settings = PackerSettings {
            packing: Some(PackingSettings { grace_minutes: 0, ..StoreSettings::default().packing }),
        };
        (bodies.clone(), Packer::new(bodies, settings))
    }

    async fn deliver(
        &mut self,
        bodies: &Bodies,
        original: Bytes,
        mailboxes: &[MailboxId],
    ) -> Vec<TargetOutcome> {
        let place = bodies.place(original.clone(), mailboxes, NOW).await.unwrap();
        let outcome = self.deliver_at(bodies, &original, &place, mailboxes).await;
        bodies.settle(&place).await.unwrap();
        for row in self.rows("SELECT id FROM body WHERE id NOT IN (SELECT body_id FROM part)").await {
            self.expected.entry(BodyId(row.int(0).unwrap())).or_insert_with(|| original.clone());
        }
        outcome
    }

    async fn deliver_at(
        &self,
        bodies: &Bodies,
        original: &Bytes,
        place: &BodyPlace,
        mailboxes: &[MailboxId],
    ) -> Vec<TargetOutcome> {
        let target = |mailbox: &MailboxId| DeliverTarget {
            mailbox: *mailbox,
            prefix: Packed::default(),
            recipient: String::new(),
        };
        let deliver = Deliver {
            at: NOW,
            octets: original.len() as u64,
            body: place.clone(),
            summary: bodies.compress(b"summary"),
            targets: mailboxes.iter().map(target).collect(),
            all_or_nothing: false,
            trace: TraceOrigin::default(),
            notice_mail: None,
        };
        self.database.deliver(deliver).await.unwrap()
    }

    /// Delivers `count` messages of different sizes to the mailboxes in turn.
    async fn fill(&mut self, bodies: &Bodies, count: usize) {
        for number in 0..count {
            let mut original = format!("Subject: message {number}\r\n\r\n").into_bytes();
            original.extend(random_bytes(number * 7 % 900));
            self.deliver(bodies, original.into(), &[MailboxId(1 + number as i64 % 2)]).await;
        }
    }

    /// Deletes the only reference of each of `bodies`.
    async fn delete(&mut self, bodies: &[BodyId]) {
        for body in bodies {
            self.expected.remove(body);
        }
        let references: BTreeMap<BodyId, i64> = bodies.iter().map(|body| (*body, 1)).collect();
        let write = self.database.write(Priority::Interactive, move |conn| {
            let references = references.clone();
            Box::pin(async move { release(conn, &references).await })
        });
        let done: Result<()> = write.await;
        done.unwrap();
    }

    /// Runs a pass up to `point`, and ends it there as a crash would.
    async fn crash(&self, mut packer: Packer, point: u8) {
        let reached = Arc::new(Notify::new());
        packer.fault = Some(Fault { point, reached: Arc::clone(&reached), go_on: Arc::default() });
        let pass = tokio::spawn(async move {
            packer.pack_everything(NOW).await.unwrap();
            packer.remove_dead(NOW).await.unwrap();
        });
        reached.notified().await;
        // Dropping the pass would remove its temporary file; a crash doesn't.
        let kept: Vec<(PathBuf, Vec<u8>)> = files(self.folder.path())
            .into_iter()
            .map(|file| (file.clone(), std::fs::read(file).unwrap()))
            .collect();
        pass.abort();
        assert!(pass.await.unwrap_err().is_cancelled());
        for (file, bytes) in kept {
            std::fs::write(file, bytes).unwrap();
        }
    }

    /// Nothing is lost, leaked, or counted wrongly.
    async fn check(&self, bodies: &Bodies) {
        for (body, original) in &self.expected {
            assert_eq!(&bodies.read(*body).await.unwrap(), original, "body {body}");
        }
        let own = "SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)";
        assert_eq!(self.number(own).await, self.expected.len() as i64);
        let parts = "SELECT count(*) FROM (SELECT body_id FROM part UNION SELECT part_id FROM body_part) p
                          LEFT JOIN body b ON b.id = p.body_id
                     WHERE b.id IS NULL OR b.pack_id IS NULL OR b.id NOT IN (SELECT body_id FROM part)
                        OR b.reference_count <> (SELECT count(*) FROM body_part u WHERE u.part_id = b.id)
                        OR b.reference_count = 0";
        assert_eq!(self.number(parts).await, 0, "parts");
        let uses = "SELECT count(*) FROM body_part WHERE body_id NOT IN (SELECT id FROM body)";
        assert_eq!(self.number(uses).await, 0, "uses of parts");
        assert_eq!(self.number("SELECT count(*) FROM pack_intent").await, 0);
        let fresh = "SELECT count(*) FROM fresh_body f FULL JOIN body b ON b.id = f.body_id
                     WHERE (f.body_id IS NULL) <> (b.pack_id IS NOT NULL) OR b.id IS NULL";
        assert_eq!(self.number(fresh).await, 0);
        let mut known = BTreeSet::new();
        let packs =
            "SELECT p.public_id, p.bodies - p.dead_bodies, p.octets, p.bodies, p.dead_octets, count(b.id),
                            coalesce(sum(b.stored_octets), 0)
                     FROM pack p LEFT JOIN body b ON b.pack_id = p.id GROUP BY p.id";
        for row in self.rows(packs).await {
            let column = |column| row.int(column).unwrap();
            assert_eq!(column(1), column(5), "living bodies");
            let overhead = 40 + 28 + 71 * column(3);
            assert_eq!(column(2), overhead + column(4) + column(6), "dead octets");
            let name = PackName::parse(&row.text(0).unwrap()).unwrap();
            let path = name.path(&bodies.pack_folder("main"));
            let verified = verify(bodies.codec(), &path).unwrap();
            assert!(verified.is_intact());
            assert_eq!(verified.intact, column(3) as u64);
            known.insert(path);
        }
        assert_eq!(files(self.folder.path()), known, "files without rows");
    }
}

/// All files of packs, finished or not.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let Ok(prefixes) = std::fs::read_dir(folder.join("main/packs")) else { return files };
    for prefix in prefixes {
        files.extend(std::fs::read_dir(prefix.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_bodies_are_read_back_and_leave_the_database() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 300).await;
    let large: Bytes = random_bytes(200_000).into();
    provider.deliver(&bodies, large, &[MailboxId(1), MailboxId(2)]).await;
    provider.check(&bodies).await;
    let progress = packer.pack_everything(NOW).await.unwrap();
    assert_eq!((progress.packs, progress.bodies), (1, 302));
    assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 0);
    provider.check(&bodies).await;
    assert_eq!(packer.pack_everything(NOW).await.unwrap(), Progress::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pack_is_sorted_by_customer_mailbox_and_age() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 20).await;
    packer.pack_everything(NOW).await.unwrap();
    let rows = provider.rows("SELECT scope_id, id FROM body ORDER BY pack_offset").await;
    let order: Vec<_> = rows.iter().map(|row| (row.int(0).unwrap(), row.int(1).unwrap())).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.first().unwrap().0, 2);
    assert_eq!(order.last().unwrap().0, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_at_any_point_loses_and_leaks_nothing() {
    for point in 1..=5 {
        let mut provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        provider.fill(&bodies, 600).await;
        if point == 5 {
            packer.pack_everything(NOW).await.unwrap();
            let all: Vec<BodyId> = provider.expected.keys().copied().collect();
            provider.delete(&all).await;
        }
        provider.crash(packer, point).await;
        if point == 2 {
            assert!(files(provider.folder.path()).iter().all(|file| file.extension().unwrap() == "tmp"));
        }
        let (bodies, packer) = provider.start().await;
        let removed = packer.clean_up(NOW).await.unwrap();
        assert_eq!(removed, u64::from(point < 4), "point {point}");
        if point == 5 {
            assert_eq!(packer.remove_dead(NOW).await.unwrap(), 1);
        }
        provider.check(&bodies).await;
        let deleted: Vec<BodyId> = provider.expected.keys().copied().step_by(3).collect();
        provider.delete(&deleted).await;
        packer.pack_everything(NOW).await.unwrap();
        assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 0);
        provider.check(&bodies).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pack_that_was_given_up_before_it_was_known_leaves_its_bodies_where_they_are() {
    for point in 1..=3 {
        let mut provider = Provider::new().await;
        let (bodies, mut packer) = provider.start().await;
        provider.fill(&bodies, 20).await;
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        packer.fault = Some(Fault { point, reached: Arc::clone(&reached), go_on: Arc::clone(&go_on) });
        let packer = Arc::new(packer);
        let pass = tokio::spawn({
            let packer = Arc::clone(&packer);
            async move { packer.pack_everything(NOW).await }
        });
        reached.notified().await;
        provider.execute("UPDATE pack_intent SET epoch = 0").await;
        go_on.notify_one();
        assert!(matches!(pass.await.unwrap(), Err(StorageError::Gone(_))), "point {point}");
        provider.check(&bodies).await;
        assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 20);
        let (_, packer) = provider.start().await;
        assert_eq!(packer.pack_everything(NOW).await.unwrap().bodies, 20);
        provider.check(&bodies).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_up_leaves_the_present_epoch_alone() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 10).await;
    provider.crash(packer, 3).await;
    let (node, settings) = (bodies.node().clone(), PackerSettings::default());
    let same = Bodies::new(
        Volumes::new(provider.database.clone(), provider.folder.path().into(), Metrics::new()),
        Codec::default(),
        node,
    );
    assert_eq!(Packer::new(same, settings).clean_up(NOW).await.unwrap(), 0);
    assert_eq!(files(provider.folder.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_all_bodies_of_a_pack_removes_its_file() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 30).await;
    packer.pack_everything(NOW).await.unwrap();
    let all: Vec<BodyId> = provider.expected.keys().copied().collect();
    let (first, rest) = all.split_first().unwrap();
    provider.delete(rest).await;
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 0);
    provider.check(&bodies).await;
    provider.delete(&[*first]).await;
    assert!(matches!(bodies.read(*first).await, Err(StorageError::Gone(_))));
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 1);
    assert_eq!(provider.number("SELECT count(*) FROM pack").await, 0);
    assert!(files(provider.folder.path()).is_empty());
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_pack_stays_for_its_grace() {
    let mut provider = Provider::new().await;
    let (bodies, _) = provider.start().await;
    provider.fill(&bodies, 3).await;
    let packer = Packer::new(bodies.clone(), PackerSettings::default());
    packer.pack_everything(NOW).await.unwrap();
    let all: Vec<BodyId> = provider.expected.keys().copied().collect();
    provider.delete(&all).await;
    let grace = Duration::from_secs(5 * 60);
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 0);
    assert_eq!(packer.remove_dead(NOW.plus(grace / 2)).await.unwrap(), 0);
    assert_eq!(files(provider.folder.path()).len(), 1);
    assert_eq!(packer.remove_dead(NOW.plus(grace)).await.unwrap(), 1);
    assert!(files(provider.folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn young_and_few_bodies_wait() {
    let mut provider = Provider::new().await;
    let (bodies, _) = provider.start().await;
    let settings = PackerSettings {
        packing: Some(PackingSettings { octets_min: 50_000, ..StoreSettings::default().packing }),
    };
    let packer = Packer::new(bodies.clone(), settings.clone());
    provider.fill(&bodies, 100).await;
    let minutes = |count: u64| NOW.plus(Duration::from_secs(60 * count));
    assert_eq!(packer.look(NOW).await.unwrap().bodies, 0, "too young");
    assert_eq!(packer.look(minutes(9)).await.unwrap().bodies, 0, "too young");
    assert_eq!(packer.look(minutes(10)).await.unwrap().bodies, 0, "too few");
    provider.fill(&bodies, 100).await;
    assert_eq!(packer.look(minutes(11)).await.unwrap().bodies, 0, "the others are too young");
    assert_eq!(packer.look(minutes(21)).await.unwrap().bodies, 200, "old enough and many enough");
    provider.fill(&bodies, 1).await;
    assert_eq!(packer.look(minutes(22)).await.unwrap().bodies, 0);
    assert_eq!(packer.look(minutes(22 + 60 * 6 - 1)).await.unwrap().bodies, 0);
    assert_eq!(packer.look(minutes(22 + 60 * 6)).await.unwrap().bodies, 1, "old");
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_body_is_in_a_pack_of_its_own_before_delivery() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let large: Bytes = random_bytes(DATABASE_OCTETS_MAX + 1).into();
    let outcome = provider.deliver(&bodies, large.clone(), &[MailboxId(1), MailboxId(2)]).await;
    assert!(outcome.iter().all(std::result::Result::is_ok));
    assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 0);
    assert_eq!(provider.number("SELECT count(*) FROM pack").await, 2, "one for each customer");
    provider.check(&bodies).await;
    packer.pack_everything(NOW).await.unwrap();
    let all: Vec<BodyId> = provider.expected.keys().copied().collect();
    provider.delete(&all).await;
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 2);
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_body_that_is_refused_leaves_nothing() {
    let mut provider = Provider::new().await;
    let (bodies, _) = provider.start().await;
    provider.execute("UPDATE mailbox SET bytes_max = 1000").await;
    let large: Bytes = random_bytes(DATABASE_OCTETS_MAX + 1).into();
    let outcome = provider.deliver(&bodies, large.clone(), &[MailboxId(1)]).await;
    assert!(outcome.iter().all(std::result::Result::is_err));
    assert!(files(provider.folder.path()).is_empty());
    provider.check(&bodies).await;
    // The same when the daemon dies before the transaction.
    bodies.place(large, &[MailboxId(1)], NOW).await.unwrap();
    assert_eq!(files(provider.folder.path()).len(), 1);
    let (bodies, packer) = provider.start().await;
    assert_eq!(packer.clean_up(NOW).await.unwrap(), 1);
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_damaged_packs_are_errors() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 3).await;
    packer.pack_everything(NOW).await.unwrap();
    let body = *provider.expected.keys().next().unwrap();
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = bodies.read(body).await.unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt(what) if what.contains("missing")), "{error}");
    std::fs::write(&file, &bytes[..50]).unwrap();
    let error = bodies.read(body).await.unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt(what) if what.contains("cut off")), "{error}");
    assert!(matches!(bodies.read(BodyId(999_999)).await, Err(StorageError::Gone("body"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_fresh_body_stays_and_holds_nobody_up() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 5).await;
    let damaged = *provider.expected.keys().next().unwrap();
    let write = provider.database.write(Priority::Interactive, move |conn| {
        Box::pin(conn.execute(
            "UPDATE fresh_body SET data = $1, codec = 1 WHERE body_id = $2",
            params![vec![1_u8], damaged],
        ))
    });
    let done: Result<u64> = write.await;
    done.unwrap();
    assert_eq!(packer.pack_everything(NOW).await.unwrap().bodies, 4);
    assert_eq!(packer.pack_everything(NOW).await.unwrap().packs, 0);
    assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 1);
    assert!(matches!(bodies.read(damaged).await, Err(StorageError::Corrupt(_))));
    assert_eq!(provider.number("SELECT count(*) FROM pack_intent").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_while_packing_and_deleting_give_the_original() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 300).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (bodies, expected, stopped) = (bodies.clone(), provider.expected.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut rounds = 0;
                while !*stopped.borrow() || rounds == 0 {
                    for (body, original) in &expected {
                        match bodies.read(*body).await {
                            Ok(read) => assert_eq!(&read, original),
                            Err(StorageError::Gone(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    rounds += 1;
                }
            })
        })
        .collect();
    for _ in 0..4 {
        packer.pack_everything(NOW).await.unwrap();
        let deleted: Vec<BodyId> = provider.expected.keys().copied().take(90).collect();
        provider.delete(&deleted).await;
        packer.remove_dead(NOW).await.unwrap();
        provider.fill(&bodies, 60).await;
    }
    stop.send(true).unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_file_shrinks_when_bodies_have_left_it() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    for _ in 0..30 {
        provider.deliver(&bodies, random_bytes(200_000).into(), &[MailboxId(1)]).await;
    }
    let before = provider.number("PRAGMA page_count").await;
    packer.pack_everything(NOW).await.unwrap();
    let after = provider.number("PRAGMA page_count").await;
    assert!(after * 3 < before, "{before} pages, then {after}");
    // Nothing is written any more, so the log goes as well.
    let log = provider.folder.path().join("metadata.db-wal");
    let emptied = async {
        while log.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), emptied).await.unwrap();
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_at_the_same_time_pack_each_body_once() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 100).await;
    let packer = Arc::new(packer);
    let (one, other) = tokio::join!(packer.pack_now(NOW), packer.pack_now(NOW));
    assert_eq!(one.unwrap().bodies + other.unwrap().bodies, 100);
    assert_eq!(provider.number("SELECT count(*) FROM pack").await, 1);
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_were_looked_up_are_read_together() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 20).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.fill(&bodies, 20).await;
    let mut wanted = Vec::new();
    for body in provider.expected.keys().copied() {
        let location = provider.database.read(|conn| Box::pin(locate(conn, body))).await.unwrap();
        wanted.push((body, location.unwrap()));
    }
    let fresh = wanted.split_off(20);
    assert!(fresh.iter().all(|(_, location)| matches!(location, Location::Fresh { .. })));
    assert!(wanted.iter().all(|(_, location)| matches!(location, Location::Pack(_))));
    for part in [fresh.clone(), [fresh, wanted.clone()].concat()] {
        let read = bodies.read_located(part.clone()).await;
        assert_eq!(read.len(), part.len());
        for ((body, _), read) in part.iter().zip(read) {
            assert_eq!(&read.unwrap(), &provider.expected[body]);
        }
    }
    // They went between the look-up and the read, and their pack with them.
    let (reopened, _) = provider.start().await;
    let packed: Vec<BodyId> = wanted.iter().map(|(body, _)| *body).collect();
    provider.delete(&packed).await;
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 1);
    for read in reopened.read_located(wanted).await {
        assert!(matches!(read, Err(StorageError::Gone("body"))));
    }
}
