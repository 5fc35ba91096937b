//! Backups in a bucket whose server does wrong, and of databases of either kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::backup_settings::{BackupPlace, BackupsKept};
use posthouse::base::clock::Clock;
use posthouse::base::id::{BodyId, MailboxId};
use posthouse::base::progress::Progress;
use posthouse::base::store_settings::StoreSettings;
use posthouse::base::telemetry::metrics::Metrics;
use posthouse::storage::Result;
use posthouse::storage::backup::{self, BackupError, Source, Taken, Target, new_id};
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::packer::Packer;

use super::packs::{NOW, delivery, numbers, set_up, start};
use crate::support::corpus;
use crate::support::postgres::Postgres;
use crate::support::s3::{self, Fault, S3Server};

const MAILBOX: MailboxId = MailboxId(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct World {
    folder: tempfile::TempDir,
    database: Database,
    bodies: Bodies,
    packer: Packer,
    clock: Clock,
    expected: BTreeMap<BodyId, Bytes>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
        Self::on(&url, folder).await
    }

    async fn on(url: &str, folder: tempfile::TempDir) -> Self {
        let database = Database::open(url).await.unwrap();
        set_up(&database).await;
        let (bodies, packer) = start(&database, folder.path()).await;
        let clock = Clock::manual(NOW);
        Self { folder, database, bodies, packer, clock, expected: BTreeMap::new() }
    }

    async fn fill(&mut self, count: usize) {
        let samples = corpus::all();
        for (number, sample) in
            samples.iter().filter(|one| one.octets.len() < 100_000).cycle().take(count).enumerate()
        {
            let mut original = sample.octets.clone();
            original.extend_from_slice(format!("\r\n{number} of {}\r\n", self.expected.len()).as_bytes());
            let original = Bytes::from(original);
            let place = self.bodies.place(original.clone(), &[MAILBOX], NOW).await.unwrap();
            let delivered = self.database.deliver(delivery(&self.bodies, &original, &place)).await.unwrap();
            assert!(delivered[0].is_ok());
            self.bodies.settle(&place).await.unwrap();
            let newest = numbers(&self.database, "SELECT max(body_id) FROM message").await;
            self.expected.insert(BodyId(newest[0]), original);
        }
        self.packer.pack_everything(NOW).await.unwrap();
    }

    fn source(&self) -> Source {
        let scratch = self.folder.path().join("scratch");
        Source::new(self.bodies.clone(), self.clock.clone(), Progress::default(), 1, scratch)
    }

    async fn take(&self, target: &Target) -> backup::Result<Taken> {
        self.clock.advance(DAY);
        backup::take(&self.source(), target, &[new_id(self.clock.now())]).await
    }

    /// Every backup of the target is whole, and the newest has all mail.
    async fn check(&self, target: &Target, backups: usize) {
        let source = self.source();
        let there = target.backups(&source.progress).await.unwrap();
        assert_eq!(there.len(), backups);
        for entry in &there {
            let checked = backup::verify(&source, target, &entry.id, "").await.unwrap();
            assert_eq!(checked.damages, 0, "{checked:?}");
        }
        let opened = backup::open(&source, target, &there.last().unwrap().id).await.unwrap();
        for (body, original) in &self.expected {
            assert_eq!(&opened.bodies.read(*body).await.unwrap(), original, "body {body}");
        }
        opened.close().await;
        source.finish().await;
    }
}

fn bucket(server: &S3Server, secret: &str) -> Target {
    let mut settings = StoreSettings::default();
    for (name, value) in [
        ("offload.endpoint", server.endpoint().as_str()),
        ("offload.bucket", s3::BUCKET),
        ("offload.prefix", "safe/mail"),
        ("offload.access_key", s3::ACCESS_KEY),
        ("offload.secret_key", secret),
    ] {
        settings.set(name, value).unwrap();
    }
    let place = BackupPlace::Bucket(Box::new(settings.offload));
    Target::of(&place, &Metrics::new()).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bucket_holds_backups_and_gets_each_pack_once() {
    let server = S3Server::start();
    let target = bucket(&server, s3::SECRET_KEY);
    let mut world = World::new().await;
    world.fill(40).await;
    let first = world.take(&target).await.unwrap();
    let sent = server.requests().put;
    // A pack, the database, the manifest, the index.
    assert_eq!((first.new_packs, sent), (1, 4));
    world.fill(20).await;
    assert_eq!(world.take(&target).await.unwrap().new_packs, 1);
    assert_eq!(server.requests().put, sent + 4);
    assert_eq!(server.objects("safe/mail/packs").len(), 2);
    world.check(&target, 2).await;
    let kept = BackupsKept { last: 1, daily: 0, weekly: 0, monthly: 0 };
    let pruned = backup::prune(&world.source(), &target, kept).await.unwrap();
    assert_eq!((pruned.backups.len(), pruned.packs), (1, 0), "the second one names both packs");
    world.check(&target, 1).await;
}

/// Reading few bodies takes their ranges, not the packs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_bodies_are_read_by_ranges() {
    let server = S3Server::start();
    let target = bucket(&server, s3::SECRET_KEY);
    let mut world = World::new().await;
    world.fill(60).await;
    let taken = world.take(&target).await.unwrap();
    let source = world.source();
    let opened = backup::open(&source, &target, &taken.entry.id).await.unwrap();
    let before = server.requests().get;
    let (body, original) = world.expected.first_key_value().unwrap();
    assert_eq!(&opened.bodies.read(*body).await.unwrap(), original);
    assert_eq!(server.requests().get - before, 1);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_does_wrong_is_waited_for_and_nothing_is_lost() {
    let server = S3Server::start();
    let target = bucket(&server, s3::SECRET_KEY);
    let mut world = World::new().await;
    world.fill(20).await;
    world.take(&target).await.unwrap();
    let faults = [
        Fault::Outage,
        Fault::Status(500),
        Fault::Status(503),
        Fault::Reset,
        Fault::Truncated,
        Fault::WholeObject,
        Fault::NotStored,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        world.fill(5).await;
        // Longer than the attempts of one request last.
        server.fault_times(fault, 8);
        let taken = world.take(&target).await;
        server.heal();
        match taken {
            Ok(taken) => assert_eq!(taken.missing.len(), 0, "{fault:?}"),
            // What comes back wrong again and again ends the work, and leaves what was there.
            Err(error) => {
                assert!(
                    matches!(fault, Fault::Reset | Fault::Truncated | Fault::WholeObject | Fault::NotStored),
                    "{fault:?}: {error}"
                );
                world.take(&target).await.unwrap();
            }
        }
        world.check(&target, number + 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_end_the_work_at_once_and_leave_what_there_is() {
    let server = S3Server::start();
    let target = bucket(&server, s3::SECRET_KEY);
    let mut world = World::new().await;
    world.fill(10).await;
    world.take(&target).await.unwrap();
    world.fill(10).await;
    let refused = world.take(&bucket(&server, "wrong")).await.unwrap_err();
    assert!(matches!(&refused, BackupError::Target(error) if error.is_permanent()), "{refused}");
    server.fault(Fault::Status(403));
    let refused = world.take(&target).await.unwrap_err();
    assert!(matches!(&refused, BackupError::Target(error) if error.is_permanent()), "{refused}");
    server.heal();
    assert_eq!(numbers(&world.database, "SELECT count(*) FROM pin").await, [0]);
    world.take(&target).await.unwrap();
    world.check(&target, 2).await;
}

/// Every row of every table, as text.
async fn contents(database: &Database, tables: &[(String, Vec<String>)]) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (table, columns) in tables {
        let names: Vec<String> = columns.iter().map(|name| format!("\"{name}\"")).collect();
        let text = format!("SELECT {} FROM \"{table}\"", names.join(", "));
        let width = columns.len();
        let read = database.read(move |conn| {
            Box::pin(async move {
                let value = |row: &posthouse::storage::metadata::sql::Row, at: usize| {
                    let number = row.int_opt(at).map(|value| format!("{value:?}"));
                    let text = || row.text_opt(at).map(|value| format!("{value:?}"));
                    let blob = || row.blob_opt(at).map(|value| format!("{value:?}"));
                    number.or_else(|_| text()).or_else(|_| blob()).unwrap()
                };
                let rows = conn.rows(text, Vec::new()).await?;
                let line = |row| (0..width).map(|at| value(row, at)).collect::<Vec<_>>().join(" ");
                Ok(rows.iter().map(line).collect())
            })
        });
        let rows: Result<Vec<String>> = read.await;
        let mut rows = rows.unwrap();
        rows.sort_unstable();
        all.insert(table.clone(), rows);
    }
    all
}

/// The tables of an SQLite database with their columns.
async fn tables(database: &Database) -> Vec<(String, Vec<String>)> {
    let read = database.read(|conn| {
        Box::pin(async move {
            let text = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
                        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND m.name NOT LIKE '%sqlx%'
                          AND m.name <> 'counter' ORDER BY m.name, c.cid";
            let mut tables: Vec<(String, Vec<String>)> = Vec::new();
            for row in conn.rows(text, Vec::new()).await? {
                let (table, column) = (row.text(0)?, row.text(1)?);
                match tables.last_mut() {
                    Some((name, columns)) if *name == table => columns.push(column),
                    _ => tables.push((table, vec![column])),
                }
            }
            Ok(tables)
        })
    });
    let tables: Result<_> = read.await;
    tables.unwrap()
}

async fn open(file: &Path) -> Database {
    Database::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_copied_row_by_row_there_and_back() {
    let (Some(server), Some(other)) = (Postgres::start(), Postgres::start()) else { return };
    let mut world = World::on(&server.url(), tempfile::tempdir().unwrap()).await;
    world.fill(30).await;
    let write = world.database.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            // More rows than a page has, keys of several columns, absent values, references to later rows.
            for text in [
                "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at, contact)
                 SELECT n, 'c' || n, 1, 's' || n, 'ä' || n, 'K' || n, n, CASE WHEN n % 2 = 0 THEN 'x@y.test' END
                 FROM generate_series(2, 1301) AS n",
                "SELECT setval(pg_get_serial_sequence('customer', 'id'), 1301)",
                "UPDATE customer SET parent_id = 1300 WHERE id = 5",
                "INSERT INTO subscription (mailbox_id, name) SELECT 1, 'f' || n FROM generate_series(1, 700) AS n",
                "INSERT INTO erasure (kind, public_id, at) VALUES ('mailbox', 'gone', 5)",
                "DELETE FROM customer WHERE id = 1301",
            ] {
                conn.execute(text, Vec::new()).await?;
            }
            Ok(())
        })
    });
    let done: Result<()> = write.await;
    done.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, second): (PathBuf, PathBuf) =
        (folder.path().join("first.db"), folder.path().join("second.db"));
    world.database.copy_to(&first).await.unwrap();
    assert!(world.database.copy_to(&first).await.is_err(), "it is there already");
    let copy = open(&first).await;
    let tables = tables(&copy).await;
    assert!(tables.len() > 30, "{}", tables.len());
    let wanted = contents(&world.database, &tables).await;
    let found = contents(&copy, &tables).await;
    for (table, rows) in &wanted {
        assert_eq!(&found[table], rows, "{table}");
    }
    assert!(
        wanted["customer"].len() > 1_299 && wanted["fresh_body"].is_empty() && !wanted["body"].is_empty()
    );
    let given = "SELECT seq FROM sqlite_sequence WHERE name = 'customer'";
    assert_eq!(numbers(&copy, given).await, [1_301], "an id that was given once is not given again");
    copy.close().await;

    let back = Database::open(&other.url()).await.unwrap();
    back.load_from(&first).await.unwrap();
    let again = contents(&back, &tables).await;
    for (table, rows) in &wanted {
        assert_eq!(&again[table], rows, "{table}");
    }
    assert!(back.load_from(&first).await.is_err(), "there is something in it");
    back.copy_to(&second).await.unwrap();
    let copy = open(&second).await;
    assert_eq!(numbers(&copy, given).await, [1_301]);
    let highest = "SELECT value FROM counter WHERE name = 'object'";
    assert!(numbers(&copy, highest).await[0] >= 30);
    // References hold again, and are looked at again.
    let write = back.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            conn.execute("UPDATE customer SET parent_id = 99999 WHERE id = 7", Vec::new()).await
        })
    });
    let refused: Result<u64> = write.await;
    assert!(refused.is_err());
}
