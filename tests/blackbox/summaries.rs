//! Summaries gathered into blocks, on SQLite and on PostgreSQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{BodyId, FolderId, MailboxId};
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::body::release;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::message::Chosen;
use posthouse::storage::metadata::summary::{self, Summaries, SummaryPlace};
use posthouse::storage::metadata::summary_block;
use posthouse::storage::{Result, StorageError};

use super::metadata::on_both;
use super::packs::{NOW, delivery, numbers, set_up, start};

on_both!(
    summaries_are_gathered_by_sixteen_and_read_as_they_were,
    summaries_are_there_at_every_moment_while_they_are_gathered,
    dead_summaries_leave_their_block,
    copied_summaries_keep_their_block,
);

const MAILBOX: MailboxId = MailboxId(1);
const FOLDER: FolderId = FolderId(1);

/// Counts of blocks that are wrong.
const WRONG: &str = "SELECT count(*) FROM summary_block k WHERE bodies <= 0 OR living_octets > octets
    OR bodies <> (SELECT count(*) FROM summary WHERE block_id = k.id)
    OR living_octets <> (SELECT coalesce(sum(octets), 0) FROM summary WHERE block_id = k.id)";
const STRAY: &str = "SELECT count(*) FROM summary WHERE block_id IS NOT NULL
    AND block_id NOT IN (SELECT id FROM summary_block)";

fn text(number: u32) -> Vec<u8> {
    format!("Received: from mail.example.org by mx.example.net;\r\nSubject: {number:04}\r\n")
        .repeat(9)
        .into_bytes()
}

/// Delivers messages with these numbers, which are their UIDs too.
async fn fill(database: &Database, bodies: &Bodies, uids: std::ops::RangeInclusive<u32>) {
    for uid in uids {
        let original = Bytes::from(format!("Subject: {uid}\r\n\r\ntext\r\n"));
        let place = bodies.place(original.clone(), &[MAILBOX], NOW).await.unwrap();
        let mut deliver = delivery(bodies, &original, &place);
        deliver.summary = bodies.compress(&text(uid));
        assert!(database.deliver(deliver).await.unwrap()[0].is_ok());
    }
}

/// All summaries of the folder, by UID.
async fn read(database: &Database, bodies: &Bodies) -> BTreeMap<u32, Vec<u8>> {
    let all = Chosen::Range(1, u32::MAX);
    let read =
        database.read(|conn| Box::pin(async move { summary::read(conn, MAILBOX, FOLDER, &all).await }));
    let stored: Summaries = read.await.unwrap();
    let plain = |place: &SummaryPlace| match place {
        SummaryPlace::Own(packed) => bodies.decompress(packed).unwrap(),
        SummaryPlace::Block { block, offset, octets } => {
            let whole = bodies.decompress(&stored.blocks[block]).unwrap();
            summary_block::cut(&whole, *offset, *octets).unwrap().to_vec()
        }
    };
    stored.rows.iter().map(|row| (row.uid, plain(&row.summary))).collect()
}

async fn number(database: &Database, text: &'static str) -> i64 {
    numbers(database, text).await[0]
}

async fn check(database: &Database, bodies: &Bodies, expected: &BTreeMap<u32, Vec<u8>>) {
    assert_eq!(number(database, WRONG).await, 0, "counts");
    assert_eq!(number(database, STRAY).await, 0, "rows without block");
    assert_eq!(&read(database, bodies).await, expected);
}

fn expected(uids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Vec<u8>> {
    uids.into_iter().map(|uid| (uid, text(uid))).collect()
}

/// Deletes messages with their bodies.
async fn delete(database: &Database, uids: &[u32]) {
    for &uid in uids {
        let write = database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                let text = format!("DELETE FROM message WHERE uid = {uid} RETURNING body_id");
                let row = conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("message"))?;
                release(conn, &BTreeMap::from([(BodyId(row.int(0)?), 1)])).await
            })
        });
        let done: Result<()> = write.await;
        done.unwrap();
    }
}

async fn blocks(database: &Database) -> (i64, i64) {
    let single = "SELECT count(*) FROM summary WHERE block_id IS NULL";
    (number(database, "SELECT count(*) FROM summary_block").await, number(database, single).await)
}

async fn summaries_are_gathered_by_sixteen_and_read_as_they_were(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    fill(&database, &bodies, 1..=50).await;
    let before = number(&database, "SELECT CAST(sum(length(data)) AS BIGINT) FROM summary").await;
    packer.pack_everything(NOW).await.unwrap();
    check(&database, &bodies, &expected(1..=50)).await;
    assert_eq!(blocks(&database).await, (3, 2));
    let after =
        "SELECT CAST((SELECT sum(length(data)) FROM summary) + (SELECT sum(length(data)) FROM summary_block)
                        AS BIGINT)";
    let after = number(&database, after).await;
    assert!(after * 2 < before, "{before} octets became {after}");
    // Those left over wait for later ones, whatever is delivered meanwhile and not packed yet.
    for first in [51, 58] {
        fill(&database, &bodies, first..=first + 6).await;
        packer.pack_everything(NOW).await.unwrap();
    }
    check(&database, &bodies, &expected(1..=64)).await;
    assert_eq!(blocks(&database).await, (4, 0));
}

async fn summaries_are_there_at_every_moment_while_they_are_gathered(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    fill(&database, &bodies, 1..=300).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (database, bodies, is_over) = (database.clone(), bodies.clone(), Arc::clone(&is_over));
        async move {
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(read(&database, &bodies).await, expected(1..=300));
                reads += 1;
            }
            reads
        }
    });
    packer.pack_everything(NOW).await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
    assert_eq!(blocks(&database).await, (18, 12));
}

async fn dead_summaries_leave_their_block(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    fill(&database, &bodies, 1..=48).await;
    packer.pack_everything(NOW).await.unwrap();
    assert_eq!(blocks(&database).await, (3, 0));
    // A quarter of the first block, one of the second, all of the third.
    delete(&database, &[1, 5, 9, 13, 20]).await;
    let third: Vec<u32> = (33..=48).collect();
    delete(&database, &third).await;
    let left = || expected((1..=32).filter(|uid| ![1, 5, 9, 13, 20].contains(uid)));
    check(&database, &bodies, &left()).await;
    assert_eq!(blocks(&database).await, (2, 0), "the third goes with the last of it");
    let dead = "SELECT count(*) FROM summary_block WHERE living_octets < octets";
    assert_eq!(number(&database, dead).await, 2);
    packer.look(NOW).await.unwrap();
    check(&database, &bodies, &left()).await;
    assert_eq!(number(&database, dead).await, 1, "the first was written anew at once");
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    packer.look(Timestamp::from_secs(1_000_000 + week.as_secs() as i64 - 1)).await.unwrap();
    assert_eq!(number(&database, dead).await, 1);
    packer.look(Timestamp::from_secs(1_000_000 + week.as_secs() as i64)).await.unwrap();
    assert_eq!(number(&database, dead).await, 0, "the second after a week");
    check(&database, &bodies, &left()).await;
    let rest: Vec<u32> = left().into_keys().collect();
    delete(&database, &rest).await;
    assert_eq!(blocks(&database).await, (0, 0));
}

async fn copied_summaries_keep_their_block(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    set_up(&database).await;
    let (bodies, packer) = start(&database, folder.path()).await;
    fill(&database, &bodies, 1..=17).await;
    packer.pack_everything(NOW).await.unwrap();
    let olds = numbers(&database, "SELECT body_id FROM message ORDER BY uid").await;
    // What homing does: bodies with the same bytes take the place of others, which end.
    let pairs: Vec<(BodyId, BodyId)> =
        olds.iter().map(|old| (BodyId(*old), BodyId(old + 1_000_000))).collect();
    let write = database.write(Priority::Interactive, move |conn| {
        let pairs = pairs.clone();
        Box::pin(async move {
            let text = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id,
                                          pack_offset, mailbox_id, folder_id)
                        SELECT id + 1000000, scope_id, store_id, octets, stored_octets, 1, pack_id, pack_offset,
                               mailbox_id, folder_id FROM body";
            conn.execute(text, Vec::new()).await?;
            summary::copy(conn, &pairs).await?;
            conn.execute("UPDATE message SET body_id = body_id + 1000000", Vec::new()).await?;
            let olds = pairs.iter().map(|(old, _)| (*old, 1)).collect();
            release(conn, &olds).await
        })
    });
    let done: Result<()> = write.await;
    done.unwrap();
    check(&database, &bodies, &expected(1..=17)).await;
    assert_eq!(blocks(&database).await, (1, 1));
    delete(&database, &[2, 3, 4, 5]).await;
    packer.pack_everything(NOW).await.unwrap();
    check(&database, &bodies, &expected((1..=17).filter(|uid| !(2..=5).contains(uid)))).await;
}
