//! Shared attachments under any order of deliveries, copies, deletions, packing and reading, on SQLite and on
//! PostgreSQL: every body and part is counted once, nothing is lost, leaked or dropped early.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{BodyId, MailboxId, random_bytes};
use posthouse::storage::Result;
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::body::release;
use posthouse::storage::metadata::content::refer;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::DeliverTarget;
use posthouse::storage::metadata::lane::Priority;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::metadata::on_both;
use crate::packs::{NOW, delivery, numbers, set_up, start};

on_both!(shared_attachments_in_any_order);

/// When the grace of a pack that was dropped is over.
const LATER: Timestamp = Timestamp::from_secs(1_010_000);
/// How many random sequences, and how long each is.
const ROUNDS: usize = 8;
const STEPS: std::ops::Range<usize> = 20..50;

#[derive(Clone, Debug)]
enum Step {
    /// A message with some of the attachments, to customer 1, 2 or both.
    Deliver(Vec<usize>, u8),
    /// One more reference to a body.
    Copy(prop::sample::Index),
    /// One reference less.
    Delete(prop::sample::Index),
    Pack,
    RemoveDead,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::collection::vec(0..4_usize, 0..4), 1..=3_u8).prop_map(|(which, to)| Step::Deliver(which, to)),
        1 => any::<prop::sample::Index>().prop_map(Step::Copy),
        3 => any::<prop::sample::Index>().prop_map(Step::Delete),
        2 => Just(Step::Pack),
        1 => Just(Step::RemoveDead),
    ]
}

/// A body that must be there.
struct Kept {
    references: i64,
    original: Bytes,
}

type Model = BTreeMap<BodyId, Kept>;

fn message(attachments: &[Vec<u8>], which: &[usize]) -> Bytes {
    let mut text = format!("Subject: {}\r\n\r\n", STANDARD.encode(random_bytes(12)));
    for attachment in which {
        for line in STANDARD.encode(&attachments[*attachment]).as_bytes().chunks(72) {
            text.push_str(std::str::from_utf8(line).unwrap());
            text.push('\n');
        }
        text.push('\n');
    }
    text.into()
}

async fn change(database: &Database, body: BodyId, count: i64) {
    let write = database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let references = BTreeMap::from([(body, count.abs())]);
            if count > 0 { refer(conn, &references).await } else { release(conn, &references).await }
        })
    });
    let done: Result<()> = write.await;
    done.unwrap();
}

async fn deliver(database: &Database, bodies: &Bodies, original: Bytes, to: u8, model: &mut Model) {
    let mailboxes: Vec<MailboxId> =
        [1, 2].into_iter().filter(|bit| to & bit != 0).map(|bit| MailboxId(i64::from(bit))).collect();
    let place = bodies.place(original.clone(), &mailboxes, NOW).await.unwrap();
    let mut deliver = delivery(bodies, &original, &place);
    let template = deliver.targets.remove(0);
    deliver.targets =
        mailboxes.iter().map(|mailbox| DeliverTarget { mailbox: *mailbox, ..template.clone() }).collect();
    assert!(database.deliver(deliver).await.unwrap().iter().all(std::result::Result::is_ok));
    let all = "SELECT id FROM body WHERE id NOT IN (SELECT body_id FROM part) ORDER BY id";
    for id in numbers(database, all).await {
        model.entry(BodyId(id)).or_insert_with(|| Kept { references: 1, original: original.clone() });
    }
}

async fn check(database: &Database, bodies: &Bodies, model: &Model, steps: &[Step]) {
    for (body, kept) in model {
        let read = bodies.read(*body).await.unwrap_or_else(|error| panic!("body {body}: {error}, {steps:?}"));
        assert_eq!(read, kept.original, "body {body}, {steps:?}");
    }
    let own = "SELECT id FROM body WHERE id NOT IN (SELECT body_id FROM part) ORDER BY id";
    let expected: Vec<i64> = model.keys().map(|body| body.0).collect();
    assert_eq!(numbers(database, own).await, expected, "{steps:?}");
    for wrong in [
        "SELECT p.id FROM pack p WHERE p.bodies - p.dead_bodies <>
             (SELECT count(*) FROM body b WHERE b.pack_id = p.id)",
        "SELECT p.id FROM pack p WHERE p.octets - p.dead_octets - 68 - 71 * p.bodies <>
             (SELECT coalesce(sum(b.stored_octets), 0) FROM body b WHERE b.pack_id = p.id)",
        "SELECT b.id FROM body b JOIN part p ON p.body_id = b.id WHERE b.reference_count = 0
             OR b.reference_count <> (SELECT count(*) FROM body_part u WHERE u.part_id = b.id)",
        "SELECT body_id FROM part WHERE body_id NOT IN (SELECT id FROM body)",
        "SELECT part_id FROM body_part WHERE part_id NOT IN (SELECT body_id FROM part)
             OR body_id NOT IN (SELECT id FROM body)",
        "SELECT u.body_id FROM body_part u JOIN body b ON b.id = u.body_id JOIN body p ON p.id = u.part_id
             WHERE b.scope_id <> p.scope_id OR b.store_id <> p.store_id",
        "SELECT b.id FROM body b LEFT JOIN fresh_body f ON f.body_id = b.id
             WHERE (f.body_id IS NULL) = (b.pack_id IS NULL)",
    ] {
        assert_eq!(numbers(database, wrong).await, [0_i64; 0], "{wrong}, {steps:?}");
    }
}

async fn shared_attachments_in_any_order(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    for text in [
        "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
         VALUES (2, 'c2', 1, 'q', 'Q', 'Q', 0)",
        "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
         VALUES (2, 'd2', 2, 'b.example', 'verified', 0)",
        "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                              uid_validity_next, created_at) VALUES (2, 'm2', 2, 'x', 'x', 1, 2, 0)",
        "INSERT INTO folder (mailbox_id, name, uid_validity, created_at) VALUES (2, 'INBOX', 1, 0)",
    ] {
        let write =
            database.write(Priority::Interactive, move |conn| Box::pin(conn.execute(text, Vec::new())));
        let done: Result<u64> = write.await;
        done.unwrap();
    }
    let (bodies, packer) = start(&database, folder.path()).await;
    let mut runner = TestRunner::default();
    let attachments: Vec<Vec<u8>> = (0..4).map(|number| random_bytes(16_384 + number * 1_000)).collect();
    let mut parts_seen = 0;
    for _ in 0..ROUNDS {
        let steps = prop::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Deliver(which, to) => {
                    deliver(&database, &bodies, message(&attachments, which), *to, &mut model).await;
                }
                Step::Copy(index) | Step::Delete(index) if !model.is_empty() => {
                    let body = *model.keys().nth(index.index(model.len())).unwrap();
                    let count = if matches!(step, Step::Copy(_)) { 1 } else { -1 };
                    change(&database, body, count).await;
                    let kept = model.get_mut(&body).unwrap();
                    kept.references += count;
                    if kept.references == 0 {
                        model.remove(&body);
                    }
                }
                Step::Copy(_) | Step::Delete(_) => {}
                Step::Pack => {
                    packer.pack_everything(NOW).await.unwrap();
                    check(&database, &bodies, &model, &steps).await;
                    parts_seen += numbers(&database, "SELECT body_id FROM part").await.len();
                }
                Step::RemoveDead => {
                    packer.remove_dead(LATER).await.unwrap();
                }
            }
        }
        check(&database, &bodies, &model, &steps).await;
        for (body, kept) in model {
            change(&database, body, -kept.references).await;
        }
        packer.remove_dead(LATER).await.unwrap();
        for left in [
            "SELECT id FROM body",
            "SELECT body_id FROM part",
            "SELECT id FROM pack WHERE dropped_at IS NULL",
        ] {
            assert_eq!(numbers(&database, left).await, [0_i64; 0], "{left}, {steps:?}");
        }
    }
    assert!(parts_seen > 0, "the steps never shared anything");
}
