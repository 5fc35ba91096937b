//! Mailboxes that move to another mail store or customer: their bodies are brought home, and nothing is lost, leaked,
//! or kept alive by what they left.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::base::id::{CustomerId, DomainId};
use crate::base::progress::Progress as Watch;
use crate::storage::homing::{Homed, Homing, Journey};
use crate::storage::metadata::home;
use crate::storage::metadata::purge::{self, Kind};
use crate::storage::offload::Offloader;

/// Mailboxes of one customer, in two domains.
const FIRST: MailboxId = MailboxId(1);
const THIRD: MailboxId = MailboxId(3);
/// A mailbox of the other customer.
const OTHER: MailboxId = MailboxId(2);
const SECOND_STORE: StoreId = StoreId(2);

/// A message or tombstone, and what a client sees of it.
type Seen = BTreeMap<[i64; 4], (Bytes, [i64; 3])>;

/// A message with an attachment that is large enough to be shared.
fn with_attachment(subject: &str, attachment: &[u8]) -> Bytes {
    let mut text = format!("Subject: {subject}\r\nMIME-Version: 1.0\r\n\r\n--b\r\n");
    text.push_str("Content-Transfer-Encoding: base64\r\n\r\n");
    for line in STANDARD.encode(attachment).as_bytes().chunks(76) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push_str("\r\n");
    }
    text.push_str("--b--\r\n");
    text.into()
}

impl Provider {
    /// With a second mail store, and a second domain of the first customer.
    async fn with_two_stores() -> Self {
        let own = Self::new().await;
        for text in [
            "INSERT INTO store (id, name, path, created_at) VALUES (2, 'second', 'second', 0)",
            "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
             VALUES (3, 'd3', 2, 'c.example', 'verified', 0)",
            "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                                  uid_validity_next, created_at) VALUES (3, 'm3', 3, 'x', 'x', 1, 2, 0)",
            "INSERT INTO folder (id, mailbox_id, name, uid_validity, created_at)
             VALUES (3, 3, 'INBOX', 1, 0), (4, 1, 'Copies', 1, 0)",
        ] {
            own.execute(text).await;
        }
        own
    }

    /// Mail of all kinds: shared by the mailboxes, copied, expunged, large, with shared attachments; packed and fresh.
    async fn furnish(&mut self, bodies: &Bodies, packer: &Packer) {
        let attachment = random_bytes(40_000);
        for round in 0..2 {
            self.fill(bodies, 60).await;
            for number in 0..30 {
                let text = format!("round {round} number {number}");
                self.deliver(bodies, with_attachment(&text, &attachment), &[FIRST, THIRD, OTHER]).await;
                self.deliver(bodies, with_attachment(&format!("own {text}"), &attachment), &[FIRST]).await;
            }
            let large: Bytes = random_bytes(DATABASE_OCTETS_MAX + 1_000).into();
            self.deliver(bodies, large, &[FIRST, THIRD]).await;
            if round == 0 {
                packer.pack_everything(NOW).await.unwrap();
                for text in [
                    "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                          internal_date)
                     SELECT mailbox_id, 4, uid, flags, mod_seq, body_id, 0, octets, internal_date
                     FROM message WHERE folder_id = 1 AND uid % 3 = 0",
                    "UPDATE body SET reference_count = reference_count + 1
                     WHERE id IN (SELECT body_id FROM message WHERE folder_id = 4)",
                    "UPDATE folder SET uid_next = 10000, mod_seq = 10000 WHERE id = 4",
                    "INSERT INTO tombstone (mailbox_id, folder_id, uid, flags, body_id, prefix_id, octets,
                                            internal_date, expunged_at)
                     SELECT mailbox_id, folder_id, uid, flags, body_id, prefix_id, octets, internal_date, 0
                     FROM message WHERE folder_id = 1 AND uid % 4 = 0 ORDER BY uid",
                    "DELETE FROM message WHERE folder_id = 1 AND uid % 4 = 0",
                    "UPDATE mailbox SET tombstone_octets = (
                        SELECT coalesce(sum(octets + 1024), 0) FROM tombstone WHERE mailbox_id = mailbox.id)",
                ] {
                    self.execute(text).await;
                }
            }
        }
    }

    /// What the mailboxes hold, read back, with what must not change.
    async fn seen(&self, bodies: &Bodies) -> Seen {
        let text = "SELECT 0, mailbox_id, folder_id, uid, body_id, flags, octets, mod_seq FROM message
                    UNION ALL SELECT 1, mailbox_id, folder_id, id, body_id, flags, octets, uid FROM tombstone";
        let mut seen = Seen::new();
        for row in self.rows(text).await {
            let bytes = bodies.read(BodyId(row.int(4).unwrap())).await.unwrap();
            let key = [0, 1, 2, 3].map(|at| row.int(at).unwrap());
            seen.insert(key, (bytes, [5, 6, 7].map(|at| row.int(at).unwrap())));
        }
        seen
    }

    async fn place(&self, mailbox: MailboxId, store: StoreId) {
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { home::set_store(conn, &[mailbox], store, NOW).await })
        });
        let done: Result<()> = write.await;
        done.unwrap();
    }

    /// Gives the second domain of the first customer to the other one.
    async fn give_away(&self) {
        self.execute("UPDATE domain SET customer_id = 3 WHERE id = 3").await;
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { home::domains_moved(conn, &[DomainId(3)], NOW).await })
        });
        let done: Result<()> = write.await;
        done.unwrap();
    }

    /// Purges the first customer with all it has left.
    async fn purge_first_customer(&self) {
        for text in [
            "UPDATE mailbox SET deleted_at = 0 WHERE domain_id IN (SELECT id FROM domain WHERE customer_id = 2)",
            "UPDATE domain SET deleted_at = 0 WHERE customer_id = 2",
            "UPDATE customer SET deleted_at = 0 WHERE id = 2",
            "INSERT INTO instance (key, value) VALUES ('tree_version', 'x')",
        ] {
            self.execute(text).await;
        }
        for kind in [Kind::Mailbox, Kind::Domain, Kind::Customer] {
            let read = self.database.read(|conn| Box::pin(async move { purge::due(conn, kind, NOW).await }));
            let due: Result<Vec<i64>> = read.await;
            for key in due.unwrap() {
                loop {
                    let write = self.database.write(Priority::Background, move |conn| {
                        Box::pin(async move { purge::slice(conn, kind, key, NOW, NOW).await })
                    });
                    let more: Result<bool> = write.await;
                    if !more.unwrap() {
                        break;
                    }
                }
            }
        }
        assert_eq!(self.number("SELECT count(*) FROM customer WHERE id = 2").await, 0);
    }

    /// Packs everything, rewrites packs with anything dead in them, and removes what nothing refers to.
    async fn compact(&self, bodies: &Bodies, packer: &Packer) {
        let later = NOW.plus(Duration::from_secs(400 * 24 * 60 * 60));
        packer.pack_everything(NOW).await.unwrap();
        packer.remove_dead(NOW).await.unwrap();
        for store in [StoreId(1), SECOND_STORE] {
            Offloader::new(bodies.clone()).compact_now(store, later, &Watch::default()).await.unwrap();
        }
        packer.remove_dead(later).await.unwrap();
    }

    /// Counts and files agree, wherever bodies are.
    async fn check_all(&self) {
        for (what, text) in [
            (
                "references",
                "SELECT count(*) FROM body b WHERE reference_count <>
                   (SELECT count(*) FROM message WHERE body_id = b.id)
                 + (SELECT count(*) FROM tombstone WHERE body_id = b.id)
                 + (SELECT count(*) FROM body_part WHERE part_id = b.id)",
            ),
            ("unused bodies", "SELECT count(*) FROM body WHERE reference_count <= 0"),
            (
                "lost bodies",
                "SELECT (SELECT count(*) FROM message WHERE body_id NOT IN (SELECT id FROM body))
                      + (SELECT count(*) FROM tombstone WHERE body_id NOT IN (SELECT id FROM body))",
            ),
            (
                "summaries",
                "SELECT abs((SELECT count(*) FROM summary)
                          - (SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)))",
            ),
            (
                "fresh bodies",
                "SELECT abs((SELECT count(*) FROM fresh_body)
                          - (SELECT count(*) FROM body WHERE pack_id IS NULL))",
            ),
            ("intents", "SELECT count(*) FROM pack_intent"),
            (
                "copies of what is gone",
                "SELECT count(*) FROM body_copy WHERE body_id NOT IN (SELECT id FROM body)",
            ),
            (
                "living bodies of packs",
                "SELECT count(*) FROM pack p WHERE bodies - dead_bodies <>
                   (SELECT count(*) FROM body WHERE pack_id = p.id)",
            ),
            (
                "bodies in packs of another store",
                "SELECT count(*) FROM body b JOIN pack p ON p.id = b.pack_id WHERE p.store_id <> b.store_id",
            ),
            (
                "dead octets of packs",
                "SELECT count(*) FROM pack p WHERE octets <> 40 + 28 + 71 * bodies + dead_octets +
                   (SELECT coalesce(sum(stored_octets), 0) FROM body WHERE pack_id = p.id)",
            ),
        ] {
            assert_eq!(self.number(text).await, 0, "{what}");
        }
        let mut known = BTreeSet::new();
        let text = "SELECT p.public_id, s.path FROM pack p JOIN store s ON s.id = p.store_id";
        for row in self.rows(text).await {
            let name = PackName::parse(&row.text(0).unwrap()).unwrap();
            let folder = self.folder.path().join(row.text(1).unwrap()).join("packs");
            known.insert(name.path(&folder));
        }
        let mut found = BTreeSet::new();
        for store in ["main", "second"] {
            let Ok(prefixes) = std::fs::read_dir(self.folder.path().join(store).join("packs")) else {
                continue;
            };
            for prefix in prefixes.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
                found.extend(std::fs::read_dir(prefix).unwrap().map(|file| file.unwrap().path()));
            }
        }
        assert_eq!(found, known, "files");
    }

    /// Bodies of messages and tombstones of a mailbox that are not where they belong.
    async fn away(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM (SELECT mailbox_id, body_id FROM message
                                   UNION ALL SELECT mailbox_id, body_id FROM tombstone) r
                  JOIN body b ON b.id = r.body_id JOIN mailbox m ON m.id = r.mailbox_id
                  JOIN domain d ON d.id = m.domain_id
             WHERE b.scope_id <> d.customer_id OR b.store_id <> m.store_id",
        )
        .await
    }
}

async fn bring(bodies: &Bodies, mailbox: MailboxId) -> Homed {
    let watch = Watch::default();
    let mut journey = Journey::new(&watch, 0, NOW);
    Homing::new(bodies.clone(), None).bring(mailbox, &mut journey).await.unwrap();
    journey.homed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mailbox_moves_to_another_store_and_what_is_shared_stays_shared() {
    let mut provider = Provider::with_two_stores().await;
    let (bodies, packer) = provider.start().await;
    provider.furnish(&bodies, &packer).await;
    provider.check_all().await;
    let before = provider.seen(&bodies).await;
    let all = provider.number("SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)").await;
    let shared = provider
        .number(
            "SELECT count(*) FROM body b WHERE EXISTS (SELECT 1 FROM message WHERE body_id = b.id AND mailbox_id = 3)
               AND EXISTS (SELECT 1 FROM message WHERE body_id = b.id AND mailbox_id = 1
                           UNION ALL SELECT 1 FROM tombstone WHERE body_id = b.id AND mailbox_id = 1)",
        )
        .await;
    assert_eq!(shared, 62);
    provider.place(FIRST, SECOND_STORE).await;
    let homed = bring(&bodies, FIRST).await;
    let own = "SELECT (SELECT count(*) FROM message WHERE mailbox_id = 1)
                    + (SELECT count(*) FROM tombstone WHERE mailbox_id = 1)";
    assert_eq!(homed.messages as i64, provider.number(own).await);
    assert_eq!((homed.damaged, provider.away().await), (0, 0));
    assert_eq!(provider.number("SELECT count(*) FROM homing").await, 0);
    assert_eq!(provider.seen(&bodies).await, before);
    provider.check_all().await;
    let count = "SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)";
    assert_eq!(provider.number(count).await, all + shared, "those that the other mailbox has too");
    // The other mailbox follows: nothing is read or written twice.
    provider.place(THIRD, SECOND_STORE).await;
    bring(&bodies, THIRD).await;
    assert_eq!(provider.seen(&bodies).await, before);
    assert_eq!(provider.number(count).await, all);
    provider.check_all().await;
    assert_eq!(provider.number("SELECT count(*) FROM body WHERE store_id = 1 AND scope_id = 2").await, 0);
    assert_eq!(provider.number("SELECT count(*) FROM body_copy").await, 0);
    // What is left of the first store is the other customer's.
    provider.compact(&bodies, &packer).await;
    assert_eq!(provider.seen(&bodies).await, before);
    provider.check_all().await;
    assert_eq!(bring(&bodies, FIRST).await, Homed::default(), "nothing is done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_while_a_mailbox_moves_loses_and_leaks_nothing() {
    for point in 1..=2 {
        let mut provider = Provider::with_two_stores().await;
        let (bodies, packer) = provider.start().await;
        provider.furnish(&bodies, &packer).await;
        let before = provider.seen(&bodies).await;
        provider.place(FIRST, SECOND_STORE).await;
        // Each start goes a few batches further; the large bodies come in batches of their own.
        for batches in 1..=2 {
            let (bodies, _) = provider.start().await;
            let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let mut homing = Homing::new(bodies.clone(), None);
            homing.fault = Some(Fault { point, reached: Arc::clone(&reached), go_on: Arc::clone(&go_on) });
            let mut pass = tokio::spawn(async move {
                let watch = Watch::default();
                homing.bring(FIRST, &mut Journey::new(&watch, 0, NOW)).await
            });
            for batch in 1..=batches {
                tokio::select! {
                    () = reached.notified() => {}
                    done = &mut pass => panic!("it is home after {batch} batches: {done:?}"),
                }
                if batch < batches {
                    go_on.notify_one();
                }
            }
            pass.abort();
            let _ = pass.await;
            assert_eq!(provider.seen(&bodies).await, before, "point {point}");
        }
        let (bodies, packer) = provider.start().await;
        packer.clean_up(NOW).await.unwrap();
        provider.check_all().await;
        bring(&bodies, FIRST).await;
        assert_eq!(provider.away().await, 0);
        assert_eq!(provider.seen(&bodies).await, before);
        provider.check_all().await;
        provider.compact(&bodies, &packer).await;
        assert_eq!(provider.seen(&bodies).await, before);
        provider.check_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domain_at_another_customer_outlives_the_one_that_it_left() {
    for is_home_first in [true, false] {
        let mut provider = Provider::with_two_stores().await;
        let (bodies, packer) = provider.start().await;
        provider.furnish(&bodies, &packer).await;
        // As if there were enough mail for a dictionary of its own.
        provider.execute("UPDATE mailbox SET bytes_used = 25000000").await;
        packer.retrain(CustomerId(2), NOW).await.unwrap();
        packer.pack_everything(NOW).await.unwrap();
        assert!(provider.number("SELECT count(*) FROM part WHERE scope_id = 2").await > 0);
        let mut before = provider.seen(&bodies).await;
        provider.give_away().await;
        if is_home_first {
            bring(&bodies, THIRD).await;
            assert_eq!(provider.away().await, 0);
            assert_eq!(provider.seen(&bodies).await, before);
        }
        provider.purge_first_customer().await;
        before.retain(|key, _| key[1] != FIRST.0);
        assert_eq!(provider.seen(&bodies).await, before);
        provider.compact(&bodies, &packer).await;
        let (bodies, packer) = provider.start().await;
        assert_eq!(provider.seen(&bodies).await, before, "home first: {is_home_first}");
        provider.check_all().await;
        let old = "SELECT count(*) FROM body WHERE scope_id = 2";
        assert_eq!(provider.number(old).await == 0, is_home_first);
        bring(&bodies, THIRD).await;
        assert_eq!((provider.away().await, provider.number(old).await), (0, 0));
        provider.compact(&bodies, &packer).await;
        let (bodies, _) = provider.start().await;
        assert_eq!(provider.seen(&bodies).await, before);
        provider.check_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_body_stays_where_it_is_and_keeps_nothing_else_back() {
    let mut provider = Provider::with_two_stores().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 40).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.fill(&bodies, 40).await;
    let packed = "SELECT count(*) FROM message m JOIN body b ON b.id = m.body_id
                  WHERE m.mailbox_id = 1 AND b.pack_id IS NOT NULL";
    let packed = provider.number(packed).await;
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    std::fs::write(&file, b"nothing").unwrap();
    let (bodies, _) = provider.start().await;
    provider.place(FIRST, SECOND_STORE).await;
    let homed = bring(&bodies, FIRST).await;
    assert_eq!((homed.messages as i64, homed.damaged as i64), (40 - packed, packed));
    assert_eq!(provider.number("SELECT count(*) FROM homing").await, 1, "it is not at home");
    assert_eq!(provider.away().await, packed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_into_a_store_that_takes_nothing() {
    let mut provider = Provider::with_two_stores().await;
    let (bodies, _) = provider.start().await;
    provider.fill(&bodies, 10).await;
    let before = provider.seen(&bodies).await;
    provider.place(FIRST, SECOND_STORE).await;
    provider.execute("UPDATE store SET state = 'read-only' WHERE id = 2").await;
    let watch = Watch::default();
    let refused = Homing::new(bodies.clone(), None).bring(FIRST, &mut Journey::new(&watch, 0, NOW)).await;
    assert!(matches!(refused, Err(StorageError::Busy(_))), "{refused:?}");
    assert_eq!(provider.seen(&bodies).await, before);
    provider.check_all().await;
    provider.execute("UPDATE store SET state = 'online' WHERE id = 2").await;
    watch.cancel();
    let cancelled = Homing::new(bodies.clone(), None).bring(FIRST, &mut Journey::new(&watch, 0, NOW)).await;
    assert!(matches!(cancelled, Err(StorageError::Interrupted(_))), "{cancelled:?}");
    bring(&bodies, FIRST).await;
    assert_eq!((provider.away().await, provider.seen(&bodies).await), (0, before));
    provider.check_all().await;
}
