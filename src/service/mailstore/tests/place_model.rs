//! Mail comes, goes and comes back while its bodies are packed, sent to a bucket, written anew, cut off by crashes and
//! read, and their mailboxes move to other mail stores and, with their domains, to other customers, at random; after
//! each step everything is compared with a simple model: messages octet for octet, UIDs, the number of bodies and
//! tombstones, and that files and objects are those that the database names. In the end everything is deleted, and
//! nothing may be left anywhere.

mod checks;
mod expected;
mod steps;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::checks::{files, names};
use self::expected::{Expected, Letter, read_all};
use self::steps::{Step, Trouble, step};
use super::undelete::{housekeeping, in_days, undelete_all};
use super::*;
use crate::base::id::{StoreId, random_bytes};
use crate::base::progress::Progress;
use crate::base::store_settings::{PackingSettings, StoreSettings};
use crate::storage::Fault;
use crate::storage::homing::{Homing, Journey};
use crate::storage::metadata::delivery::{Deliver, DeliverTarget, TraceOrigin};
use crate::storage::metadata::home;
use crate::storage::metadata::store;
use crate::storage::offload::Offloader;
use crate::storage::packer::{Packer, PackerSettings};
use crate::storage::remote::tests::server as s3;
use s3::{Fault as Wrong, S3Server};

/// The mail store with a bucket; the other one has none.
const STORE: StoreId = StoreId(1);
const STORES: [StoreId; 2] = [STORE, StoreId(2)];
/// The domain of each mailbox, by its place in [`DOMAINS`].
const HOMES: [usize; 3] = [0, 0, 1];
const DOMAINS: [DomainId; 2] = [DomainId(3), DomainId(4)];
/// Whose they are at first: two mailboxes share their bodies, the third may not.
const CUSTOMERS: [CustomerId; 2] = [CustomerId(3), CustomerId(4)];
/// Attachments that messages have in common.
const ATTACHMENTS: usize = 2;
/// More than the database takes.
const LARGE_OCTETS: usize = 1_100_000;
/// Points at which a pass can be cut off: those of `packer.rs`, and those of `offload.rs` and `rewriter.rs`.
const PACKER_POINTS: u8 = 5;
const OFFLOADER_POINTS: u8 = 8;
/// Those of `homing.rs`.
const HOMING_POINTS: u8 = 2;

struct Scene {
    house: House,
    server: Arc<S3Server>,
    packer: Packer,
    offloader: Offloader,
    mailboxes: Vec<Expected>,
    /// Whose the domains are.
    customers: [CustomerId; 2],
    /// Whether anything has moved: then what could be shared may be there twice.
    has_moved: bool,
    attachments: Vec<Vec<u8>>,
    number: u32,
}

/// Adds the customers, once for each database, and gives the store a bucket.
async fn prepare(house: &House, server: &S3Server) {
    for text in [
        "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
         VALUES (3, 'c3', 1, 'b', 'B', 'CUSTB', 0), (4, 'c4', 1, 'c', 'C', 'CUSTC', 0)",
        "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
         VALUES (3, 'd3', 3, 'b.example', 'verified', 0), (4, 'd4', 4, 'c.example', 'verified', 0)",
    ] {
        house.execute(text).await;
    }
    let mut settings = StoreSettings::default();
    for (name, value) in [
        ("offload.endpoint", server.endpoint().as_str()),
        ("offload.bucket", s3::BUCKET),
        ("offload.access_key", s3::ACCESS_KEY),
        ("offload.secret_key", s3::SECRET_KEY),
    ] {
        settings.set(name, value).unwrap();
    }
    let write = house.database.write(Priority::Interactive, move |conn| {
        let settings = settings.clone();
        Box::pin(async move { store::set(conn, STORE, &StoreSettings::default(), &settings).await })
    });
    let set: Result<()> = write.await;
    set.unwrap();
}

async fn new_mailbox(house: &House, customer: CustomerId, domain: DomainId) -> House {
    let insert = house.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let public_id = crate::base::id::public_id();
            let text = "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id,
                                             uid_validity_next, created_at) VALUES ($1, $2, $1, 'x', 1, 2, 0)";
            let id = conn.insert(text, params![&public_id, domain]).await?;
            let text = "INSERT INTO folder (mailbox_id, name, uid_validity, created_at)
                        VALUES ($1, 'INBOX', 1, 0)";
            conn.insert(text, params![id]).await?;
            Ok(MailboxId(id))
        })
    });
    let mailbox: Result<MailboxId> = insert.await;
    let owner = Owner { mailbox: mailbox.unwrap(), domain, customer, ..house.owner.clone() };
    House { owner, ..house.clone() }
}

/// Messages and tombstones whose bodies are elsewhere than they belong.
const AWAY: &str = "SELECT count(*) FROM (SELECT mailbox_id, body_id FROM message
                                         UNION ALL SELECT mailbox_id, body_id FROM tombstone) r
     JOIN body b ON b.id = r.body_id JOIN mailbox m ON m.id = r.mailbox_id JOIN domain d ON d.id = m.domain_id
     WHERE b.store_id <> m.store_id OR b.scope_id <> d.customer_id";

/// Brings all bodies of a mailbox home.
async fn bring(homing: Homing, mailbox: MailboxId, now: Timestamp) -> Result<()> {
    homing.bring(mailbox, &mut Journey::new(&Progress::default(), 0, now)).await
}

/// The rooms that work on packs, of the house as it is now.
fn workers(house: &House) -> (Packer, Offloader) {
    let bodies = house.store.inner.bodies.clone();
    let packing = PackingSettings { grace_minutes: 0, ..StoreSettings::default().packing };
    (Packer::new(bodies.clone(), PackerSettings { packing: Some(packing) }), Offloader::new(bodies))
}

impl Scene {
    async fn new(house: &House, server: &Arc<S3Server>) -> Self {
        let (packer, offloader) = workers(house);
        house.execute("UPDATE domain SET customer_id = id WHERE id IN (3, 4)").await;
        let mut mailboxes = Vec::new();
        for home in HOMES {
            mailboxes.push(Expected::new(new_mailbox(house, CUSTOMERS[home], DOMAINS[home]).await));
        }
        let attachments = (0..ATTACHMENTS).map(|number| random_bytes(17_000 + number)).collect();
        let (house, server) = (house.clone(), Arc::clone(server));
        let (customers, has_moved) = (CUSTOMERS, false);
        Self { house, server, packer, offloader, mailboxes, customers, has_moved, attachments, number: 0 }
    }

    fn now(&self) -> Timestamp {
        self.house.store.inner.clock.now()
    }

    /// A message that is like no other.
    fn message(&mut self, attachment: Option<usize>, octets: usize) -> Bytes {
        self.number += 1;
        let mut text = format!("Subject: {}\r\nMIME-Version: 1.0\r\n\r\n", self.number).into_bytes();
        if let Some(attachment) = attachment {
            text.extend_from_slice(b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n");
            for line in STANDARD.encode(&self.attachments[attachment]).as_bytes().chunks(76) {
                text.extend_from_slice(line);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"--b--\r\n");
        }
        text.extend(random_bytes(octets));
        text.into()
    }

    async fn deliver(&mut self, to: u8, octets: Bytes) {
        let picked: Vec<usize> = (0..HOMES.len()).filter(|at| to >> at & 1 == 1).collect();
        let bodies = &self.house.store.inner.bodies;
        let ids: Vec<MailboxId> = picked.iter().map(|&at| self.mailboxes[at].house.owner.mailbox).collect();
        let place = bodies.place(octets.clone(), &ids, self.now()).await.unwrap();
        let target = |mailbox: &MailboxId| DeliverTarget {
            mailbox: *mailbox,
            prefix: bodies.compress(TRACE.as_bytes()),
            recipient: String::new(),
        };
        let deliver = Deliver {
            at: self.now(),
            octets: octets.len() as u64,
            body: place.clone(),
            summary: bodies.compress(b"summary"),
            targets: ids.iter().map(target).collect(),
            all_or_nothing: false,
            trace: TraceOrigin::default(),
            notice_mail: None,
        };
        let outcome = self.house.database.deliver(deliver).await.unwrap();
        assert!(outcome.iter().all(std::result::Result::is_ok), "{outcome:?}");
        bodies.settle(&place).await.unwrap();
        let whole: Bytes = [TRACE.as_bytes(), &octets].concat().into();
        for at in picked {
            let body = (self.customers[HOMES[at]], self.number);
            self.mailboxes[at].came.push(Letter { body, octets: whole.clone() });
        }
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Deliver { to, attachment, octets } => {
                let octets = self.message(attachment, octets);
                self.deliver(to, octets).await;
            }
            Step::Append { mailbox } => {
                let octets = self.message(None, 300);
                let body = (self.customers[HOMES[mailbox]], self.number);
                let expected = &mut self.mailboxes[mailbox];
                let new =
                    NewMessage { bytes: octets.clone(), flags: FlagSet::default(), internal_date: None };
                let house = &expected.house;
                house.store.append(&house.owner, &name("INBOX"), vec![new]).await.unwrap();
                expected.came.push(Letter { body, octets });
            }
            Step::Copy { mailbox, mask } => self.mailboxes[mailbox].copy(mask).await,
            Step::Expunge { mailbox, mask } => self.mailboxes[mailbox].expunge(mask).await,
            Step::Undelete { mailbox } => {
                let expected = &mut self.mailboxes[mailbox];
                let came = undelete_all(&expected.house).await;
                assert_eq!(came.messages, expected.gone.len() as u64);
                expected.came.append(&mut expected.gone);
            }
            Step::Expire => {
                housekeeping(&self.house).pass(in_days(31)).await.unwrap();
                self.mailboxes.iter_mut().for_each(|expected| expected.gone.clear());
            }
            Step::Purge { mailbox } => {
                self.purge(mailbox).await;
                let domain = HOMES[mailbox];
                let house = new_mailbox(&self.house, self.customers[domain], DOMAINS[domain]).await;
                self.mailboxes[mailbox] = Expected::new(house);
            }
            Step::Pack => {
                self.packer.pack_everything(self.now()).await.unwrap();
            }
            Step::Offload(trouble) => self.in_trouble(trouble, Self::offload).await,
            Step::Compact(trouble) => self.in_trouble(trouble, Self::compact).await,
            Step::Read(trouble) => {
                std::fs::remove_dir_all(self.house.folder.path().join("main/cache")).ok();
                self.reopen().await;
                self.in_trouble(trouble, Self::read).await;
            }
            Step::CleanUp => {
                self.packer.remove_dead(self.now()).await.unwrap();
            }
            Step::Place { mailbox } => {
                self.has_moved = true;
                let id = self.mailboxes[mailbox].house.owner.mailbox;
                let now = self.now();
                let write = self.house.database.write(Priority::Interactive, move |conn| {
                    Box::pin(async move {
                        let text = "SELECT store_id FROM mailbox WHERE id = $1";
                        let store = conn.row(text, params![id]).await?.unwrap().int(0)?;
                        home::set_store(conn, &[id], StoreId(3 - store), now).await
                    })
                });
                let placed: Result<()> = write.await;
                placed.unwrap();
            }
            Step::GiveAway { domain } => self.give_away(domain).await,
            Step::Home { mailbox } => {
                let homing = Homing::new(self.house.store.inner.bodies.clone(), None);
                bring(homing, self.mailboxes[mailbox].house.owner.mailbox, self.now()).await.unwrap();
            }
            Step::CrashHoming { mailbox, point } => {
                let (fault, reached) = Fault::at(point);
                let mut homing = Homing::new(self.house.store.inner.bodies.clone(), None);
                homing.fault = Some(fault);
                let (id, now) = (self.mailboxes[mailbox].house.owner.mailbox, self.now());
                self.crash(&reached, bring(homing, id, now)).await;
            }
            Step::CrashDelivering => {
                let octets = random_bytes(LARGE_OCTETS);
                let ids = [self.mailboxes[0].house.owner.mailbox];
                let bodies = &self.house.store.inner.bodies;
                bodies.place(octets.into(), &ids, self.now()).await.unwrap();
                self.reopen().await;
            }
            Step::CrashPacking(point) => {
                let (fault, reached) = Fault::at(point);
                self.packer.fault = Some(fault);
                let packer = std::mem::replace(&mut self.packer, workers(&self.house).0);
                let now = self.now();
                self.crash(&reached, async move { packer.pack_everything(now).await.map(drop) }).await;
            }
            Step::CrashOffloading(point) | Step::CrashCompacting(point) => {
                let (fault, reached) = Fault::at(point);
                self.offloader.fault = Some(fault);
                let offloader = std::mem::replace(&mut self.offloader, workers(&self.house).1);
                let (now, offloads) = (self.now(), matches!(step, Step::CrashOffloading(_)));
                let pass = async move {
                    let progress = Progress::default();
                    if offloads {
                        offloader.offload_now(STORE, now, &progress).await.map(drop)
                    } else {
                        offloader.compact_now(STORE, now, &progress).await.map(drop)
                    }
                };
                self.crash(&reached, pass).await;
            }
        }
    }

    async fn give_away(&mut self, domain: usize) {
        self.has_moved = true;
        let customer = CustomerId(7 - self.customers[domain].0);
        self.customers[domain] = customer;
        for (home, expected) in HOMES.iter().zip(&mut self.mailboxes) {
            if *home == domain {
                expected.house.owner.customer = customer;
            }
        }
        let (domain, now) = (DOMAINS[domain], self.now());
        let write = self.house.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                let text = "UPDATE domain SET customer_id = $1 WHERE id = $2";
                conn.execute(text, params![customer, domain]).await?;
                home::domains_moved(conn, &[domain], now).await
            })
        });
        let given: Result<()> = write.await;
        given.unwrap();
    }

    async fn offload(&self) -> Result<()> {
        self.offloader.offload_now(STORE, self.now(), &Progress::default()).await.map(drop)
    }

    async fn compact(&self) -> Result<()> {
        for store in STORES {
            self.offloader.compact_now(store, self.now(), &Progress::default()).await?;
        }
        Ok(())
    }

    /// What is read is right or an error.
    async fn read(&self) -> Result<()> {
        for expected in &self.mailboxes {
            let view = expected.house.select("INBOX").await;
            for (uid, read) in read_all(&view).await {
                let letter = &expected.there[&uid];
                assert!(read.is_err() || read.as_ref().unwrap() == &letter.octets, "UID {uid}");
            }
        }
        Ok(())
    }

    /// Works while requests go wrong. Afterwards they go right, and the daemon starts anew, so that it does not wait
    /// before it tries again.
    async fn in_trouble(&mut self, trouble: Trouble, work: impl AsyncFnOnce(&Self) -> Result<()>) {
        let Some((wrong, times)) = trouble else {
            work(self).await.unwrap();
            return;
        };
        self.server.fault_times(wrong, times);
        let done = work(self).await;
        self.server.heal();
        if let Err(error) = done {
            assert!(!error.is_permanent() || wrong == Wrong::Flipped, "{wrong:?}: {error}");
            self.reopen().await;
        }
    }

    /// Runs a pass until the point is reached, and ends it there as a crash would; if it isn't, the pass just ends.
    async fn crash(
        &mut self,
        reached: &tokio::sync::Notify,
        pass: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let mut pass = tokio::spawn(pass);
        tokio::select! {
            () = reached.notified() => {
                // Dropping the pass would remove its temporary file; a crash doesn't.
                let kept: Vec<_> = self
                    .pack_files()
                    .into_iter()
                    .map(|file| (file.clone(), std::fs::read(file).unwrap()))
                    .collect();
                pass.abort();
                assert!(pass.await.unwrap_err().is_cancelled());
                for (file, octets) in kept {
                    std::fs::write(file, octets).unwrap();
                }
            }
            ended = &mut pass => ended.unwrap().unwrap(),
        }
        self.reopen().await;
    }

    /// The daemon starts anew on what is on disk.
    async fn reopen(&mut self) {
        let house = &mut self.house;
        house.store = House::store(&house.database, &house.folder, "one", house.undelete_days).await;
        for expected in &mut self.mailboxes {
            expected.house.store = self.house.store.clone();
        }
        (self.packer, self.offloader) = workers(&self.house);
        self.packer.clean_up(self.now()).await.unwrap();
    }

    async fn purge(&self, mailbox: usize) {
        let id = self.mailboxes[mailbox].house.owner.mailbox;
        let write = self.house.database.write(Priority::Interactive, move |conn| {
            let text = "UPDATE mailbox SET deleted_at = 1000000000000 - 30 * 86400000000 WHERE id = $1";
            Box::pin(async move { conn.execute(text, params![id]).await })
        });
        let marked: Result<u64> = write.await;
        assert_eq!(marked.unwrap(), 1);
        let removed = housekeeping(&self.house).pass(in_days(0)).await.unwrap();
        assert_eq!((removed.mailboxes, removed.tombstones), (1, 0));
    }

    async fn compare(&mut self) {
        for expected in &mut self.mailboxes {
            expected.compare().await;
        }
        self.count().await;
        self.places().await;
    }

    /// Files of packs on the volumes.
    fn pack_files(&self) -> Vec<std::path::PathBuf> {
        let folder = self.house.folder.path();
        ["main/packs", "second/packs"].iter().flat_map(|packs| files(&folder.join(packs))).collect()
    }

    /// Everything comes home, goes to the bucket where there is one, and is read from there; then everything is
    /// deleted.
    async fn end(mut self) {
        for mailbox in 0..HOMES.len() {
            self.run(Step::Home { mailbox }).await;
        }
        assert_eq!(self.house.number(AWAY).await, 0);
        assert_eq!(self.house.number("SELECT count(*) FROM homing").await, 0);
        self.packer.pack_everything(self.now()).await.unwrap();
        self.offload().await.unwrap();
        self.packer.remove_dead(self.now()).await.unwrap();
        let elsewhere = "SELECT count(*) FROM pack
             WHERE store_id = 1 AND (local_state <> 'absent' OR remote_state <> 'present')";
        assert_eq!(self.house.number(elsewhere).await, 0);
        self.run(Step::Read(None)).await;
        self.compare().await;
        for mailbox in 0..HOMES.len() {
            self.purge(mailbox).await;
        }
        self.packer.remove_dead(self.now()).await.unwrap();
        for text in [
            "SELECT count(*) FROM body",
            "SELECT count(*) FROM fresh_body",
            "SELECT count(*) FROM part",
            "SELECT count(*) FROM body_part",
            "SELECT count(*) FROM tombstone",
            "SELECT count(*) FROM pack",
            "SELECT count(*) FROM pack_intent",
            "SELECT count(*) FROM body_copy",
            "SELECT count(*) FROM homing",
        ] {
            assert_eq!(self.house.number(text).await, 0, "{text}");
        }
        assert_eq!(self.pack_files(), Vec::<std::path::PathBuf>::new());
        assert!(files(&self.house.folder.path().join("main/fetched")).is_empty());
        assert!(names(&self.server.objects("")).is_empty());
    }
}

/// A database with a house, used by case after case while nothing fails.
struct Place<D> {
    house: House,
    server: Arc<S3Server>,
    _database: D,
}

fn compare_with_model<D>(database: impl Fn() -> (String, D), cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let place = std::cell::Cell::new(None);
    let build = || {
        let (url, database) = database();
        let server = Arc::new(S3Server::start());
        let house = runtime.block_on(async {
            let house = House::build(&url).await;
            prepare(&house, &server).await;
            house
        });
        Place { house, server, _database: database }
    };
    // More on demand.
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { cases * 20 } else { cases };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let run = |steps: Vec<Step>| {
        let used = place.take().unwrap_or_else(build);
        let (house, server) = (used.house.clone(), Arc::clone(&used.server));
        let outcome = runtime.block_on(runtime.spawn(async move {
            let mut scene = Scene::new(&house, &server).await;
            scene.reopen().await;
            for step in steps {
                scene.run(step).await;
                scene.compare().await;
            }
            scene.end().await;
        }));
        outcome.map_err(|error| TestCaseError::fail(error.to_string()))?;
        place.set(Some(used));
        Ok(())
    };
    TestRunner::new(config).run(&prop::collection::vec(step(), 1..40), run).unwrap();
}

#[test]
fn bodies_are_where_the_model_says_wherever_they_are_moved_on_sqlite() {
    let database = || {
        let dir = tempfile::tempdir().unwrap();
        (format!("sqlite:{}", dir.path().join("metadata.db").display()), dir)
    };
    compare_with_model(database, 16);
}

#[test]
fn bodies_are_where_the_model_says_wherever_they_are_moved_on_postgres() {
    if postgres::Postgres::start().is_none() {
        return;
    }
    let database = || {
        let server = postgres::Postgres::start().unwrap();
        (server.url(), server)
    };
    compare_with_model(database, 5);
}
