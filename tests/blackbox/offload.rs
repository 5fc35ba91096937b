//! Packs in a bucket of an S3 server: how many requests that takes, and what happens when the server does wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{BodyId, MailboxId, StoreId};
use posthouse::base::progress::Progress;
use posthouse::base::store_settings::StoreSettings;
use posthouse::storage::Result;
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::body::locate_all;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{Deliver, DeliverTarget, Packed, TraceOrigin};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::store;
use posthouse::storage::offload::{Offloaded, Offloader};
use posthouse::storage::packer::Packer;

use super::packs::{NOW, numbers, set_up, start};
use crate::support::corpus;
use crate::support::moto::{self, Moto};
use crate::support::s3::{self, Fault, S3Server};

const STORE: StoreId = StoreId(1);
/// The mailbox that is downloaded; the others' mail comes in between.
const READ: MailboxId = MailboxId(1);
const MAILBOXES: i64 = 4;
/// What a client gets at a time.
const CHUNK_OCTETS: u64 = 1 << 20;

struct World {
    folder: tempfile::TempDir,
    database: Database,
    bodies: Bodies,
    packer: Packer,
    offloader: Offloader,
    expected: BTreeMap<BodyId, Bytes>,
}

impl World {
    async fn new(endpoint: &str, bucket: &str, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
        let database = Database::open(&url).await.unwrap();
        set_up(&database).await;
        let mailboxes = database.write(Priority::Interactive, |conn| {
            Box::pin(async move {
                for text in [
                    "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                                          uid_validity_next, created_at)
                     VALUES (2, 'm2', 1, 'y', 'x', 1, 2, 0), (3, 'm3', 1, 'z', 'x', 1, 2, 0),
                            (4, 'm4', 1, 'w', 'x', 1, 2, 0)",
                    "INSERT INTO folder (mailbox_id, name, uid_validity, created_at)
                     VALUES (2, 'INBOX', 1, 0), (3, 'INBOX', 1, 0), (4, 'INBOX', 1, 0)",
                ] {
                    conn.execute(text, Vec::new()).await?;
                }
                Ok(())
            })
        });
        let made: Result<()> = mailboxes.await;
        made.unwrap();
        let mut settings = StoreSettings::default();
        let fixed = [
            ("compression.level", "3"),
            ("offload.endpoint", endpoint),
            ("offload.bucket", bucket),
            ("offload.prefix", "posthouse/test"),
            ("offload.access_key", s3::ACCESS_KEY),
            ("offload.secret_key", s3::SECRET_KEY),
        ];
        for (name, value) in fixed.iter().chain(more) {
            settings.set(name, value).unwrap();
        }
        let write = database.write(Priority::Interactive, move |conn| {
            let settings = settings.clone();
            Box::pin(async move { store::set(conn, STORE, &StoreSettings::default(), &settings).await })
        });
        let set: Result<()> = write.await;
        set.unwrap();
        let (bodies, packer) = start(&database, folder.path()).await;
        let offloader = Offloader::new(bodies.clone());
        Self { folder, database, bodies, packer, offloader, expected: BTreeMap::new() }
    }

    async fn deliver(&mut self, original: Bytes, mailbox: MailboxId) {
        let place = self.bodies.place(original.clone(), &[mailbox], NOW).await.unwrap();
        let target = DeliverTarget { mailbox, prefix: Packed::default(), recipient: String::new() };
        let deliver = Deliver {
            at: NOW,
            octets: original.len() as u64,
            body: place.clone(),
            summary: self.bodies.compress(b"summary"),
            targets: vec![target],
            all_or_nothing: false,
            trace: TraceOrigin::default(),
            notice_mail: None,
        };
        assert!(self.database.deliver(deliver).await.unwrap()[0].is_ok());
        self.bodies.settle(&place).await.unwrap();
        let newest = numbers(&self.database, "SELECT max(body_id) FROM message").await;
        self.expected.insert(BodyId(newest[0]), original);
    }

    async fn pack(&self) {
        self.packer.pack_everything(NOW).await.unwrap();
    }

    async fn offload(&self) -> Result<Offloaded> {
        let done = self.offloader.offload_now(STORE, NOW, &Progress::default()).await?;
        // Superseded packs go when nobody can be reading them any more.
        self.packer.remove_dead(NOW).await?;
        self.packer.remove_dead(NOW.plus(Duration::from_secs(3_600))).await?;
        Ok(done)
    }

    /// Until it works again; the server is right by now.
    async fn offload_patiently(&self) {
        for _ in 0..600 {
            if self.offload().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("object storage does not come back");
    }

    /// Files of packs on the volume.
    fn local_packs(&self) -> usize {
        let prefixes = std::fs::read_dir(self.folder.path().join("main/packs")).unwrap();
        prefixes.map(|prefix| std::fs::read_dir(prefix.unwrap().path()).unwrap().count()).sum()
    }

    /// Downloads a folder as a client does: in the order of UIDs, a megabyte at a time. Answers how many messages.
    async fn download(&self) -> usize {
        let text = "SELECT body_id FROM message WHERE mailbox_id = 1 ORDER BY uid";
        let bodies: Vec<BodyId> = numbers(&self.database, text).await.into_iter().map(BodyId).collect();
        let (mut rest, mut count) = (bodies.as_slice(), 0);
        while !rest.is_empty() {
            let mut octets = 0;
            let fits = |body: &&BodyId| {
                octets += self.expected[*body].len() as u64;
                octets <= CHUNK_OCTETS
            };
            let (chunk, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = after;
            let wanted = chunk.to_vec();
            let located = self.database.read(|conn| Box::pin(async move { locate_all(conn, &wanted).await }));
            let located: Vec<_> = located.await.unwrap();
            let names: Vec<BodyId> = located.iter().map(|(body, _)| *body).collect();
            for (body, read) in names.iter().zip(self.bodies.read_located(located).await) {
                assert_eq!(read.unwrap(), self.expected[body], "body {body}");
                count += 1;
            }
        }
        count
    }

    async fn check(&self) {
        for (body, original) in &self.expected {
            assert_eq!(self.bodies.read(*body).await.unwrap(), original, "body {body}");
        }
    }
}

/// Mail that comes in for several mailboxes in turn is written in many packer passes, each of which has something of
/// everybody.
async fn interleaved(world: &mut World, messages: usize, passes: usize) {
    let samples = corpus::all();
    let mut samples = samples.iter().filter(|sample| sample.octets.len() < 200_000).cycle();
    for number in 0..messages {
        let mut original = samples.next().unwrap().octets.clone();
        // No two are the same.
        original.extend_from_slice(format!("\r\n{number}\r\n").as_bytes());
        let mailbox = if number % 2 == 0 { READ } else { MailboxId(2 + number as i64 % (MAILBOXES - 1)) };
        world.deliver(original.into(), mailbox).await;
        if number % (messages / passes) == 0 {
            world.pack().await;
        }
    }
    world.pack().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_in_object_storage_is_read_with_few_requests() {
    const MESSAGES: usize = 4_000;
    let server = S3Server::start();
    let mut world = World::new(&server.endpoint(), s3::BUCKET, &[]).await;
    interleaved(&mut world, MESSAGES, 60).await;
    let packs = numbers(&world.database, "SELECT count(*) FROM pack WHERE bodies > 1").await[0];
    assert!(packs >= 60, "{packs}");
    let done = world.offload().await.unwrap();
    let sent = server.requests();
    assert_eq!(world.local_packs(), 0, "{done:?}");
    assert!(sent.put * 1_000 <= 3 * MESSAGES as u64, "{sent:?}");
    assert_eq!(world.download().await, MESSAGES / 2);
    let merged = server.requests().get - sent.get;
    assert!(merged <= 20, "{merged} requests for a folder of 2,000 messages");
    assert_eq!(world.download().await, MESSAGES / 2);
    assert_eq!(server.requests().get - sent.get, merged, "the second time it is in the cache");
    println!("merged: {} PUT, {merged} GET for {} messages", sent.put, MESSAGES / 2);
}

/// The same without merging: what `at-once` costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_go_at_once_take_more_requests() {
    let server = S3Server::start();
    let mut world = World::new(&server.endpoint(), s3::BUCKET, &[("offload.when", "at-once")]).await;
    interleaved(&mut world, 600, 10).await;
    let done = world.offload().await.unwrap();
    assert_eq!(done.rewritten, 0);
    assert_eq!(world.download().await, 300);
    let apart = server.requests().get;
    assert!(apart >= 10, "{apart}");
    println!("not merged: {apart} GET for 300 messages of 10 packs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_does_wrong_loses_nothing() {
    let server = S3Server::start();
    let mut world = World::new(&server.endpoint(), s3::BUCKET, &[]).await;
    interleaved(&mut world, 60, 2).await;
    world.offload().await.unwrap();
    for fault in [
        Fault::Outage,
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(403),
        Fault::Reset,
        Fault::Truncated,
        Fault::Flipped,
        Fault::WholeObject,
        Fault::NotStored,
    ] {
        // Without its cache, as after a restart.
        let (bodies, packer) = start(&world.database, world.folder.path()).await;
        (world.offloader, world.bodies, world.packer) = (Offloader::new(bodies.clone()), bodies, packer);
        server.fault(fault);
        let cold: Vec<BodyId> = world.expected.keys().copied().take(2).collect();
        for body in cold {
            match world.bodies.read(body).await {
                Ok(read) => assert_eq!(read, world.expected[&body], "{fault:?}"),
                Err(error) => assert!(fault == Fault::Flipped || !error.is_permanent(), "{fault:?}: {error}"),
            }
        }
        world.deliver(format!("Subject: {fault:?}\r\n\r\nmeanwhile\r\n").into(), READ).await;
        world.pack().await;
        let _ = world.offload().await;
        let (body, original) = world.expected.last_key_value().unwrap();
        if fault != Fault::NotStored {
            let read = world.bodies.read(*body).await;
            assert!(
                matches!(&read, Ok(read) if read == original)
                    || matches!(fault, Fault::Reset | Fault::Truncated | Fault::Flipped | Fault::WholeObject),
                "{fault:?}: what was local stays readable"
            );
        }
        server.heal();
        world.offload_patiently().await;
        assert_eq!(world.local_packs(), 0, "{fault:?}");
        world.check().await;
    }
}

/// A server by other people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_keeps_packs_as_well() {
    let Some(server) = Moto::start() else { return };
    let mut world = World::new(&server.endpoint(), moto::BUCKET, &[]).await;
    interleaved(&mut world, 100, 5).await;
    world.offload().await.unwrap();
    assert_eq!(world.local_packs(), 0);
    world.check().await;
    let now: Timestamp = NOW.plus(Duration::from_secs(7_200));
    let compacted = world.offloader.compact_now(STORE, now, &Progress::default()).await.unwrap();
    assert_eq!(compacted.damaged, 0);
    world.check().await;
}
