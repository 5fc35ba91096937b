//! Sets that are too large for one transaction: in slices, and all or nothing where that is promised.

use std::sync::Arc;

use super::super::stage::Staging;
use super::super::types::{Access, FolderStatus};
use super::*;
use crate::service::error::ServiceError;
use crate::storage::metadata::delivery::Refused;
use crate::storage::metadata::recount;

on_both!(
    no_operation_on_many_messages_is_a_long_one,
    set_on_its_way_is_seen_by_nobody_and_stops_nobody,
    crash_before_the_end_leaves_nothing_of_a_set,
    set_that_is_refused_at_its_end_leaves_nothing,
    set_for_a_folder_that_goes_away_leaves_nothing,
    one_set_at_a_time_is_on_its_way_into_a_folder,
    messages_are_put_off_when_no_uid_is_left_before_the_set,
    list_with_counters_is_two_statements_for_any_number_of_folders,
    status_reads_counters_and_no_messages,
);

/// Messages of a copy that goes in slices.
const MANY: usize = 600;

async fn status(house: &House, folder: &str) -> FolderStatus {
    house.store.folder_status(&house.owner, &name(folder)).await.unwrap()
}

/// INBOX with [`MANY`] messages, the last with trace lines, and an empty folder.
async fn fill(house: &House) -> FolderView {
    house.append("INBOX", &["x"; MANY - 1]).await;
    house.deliver("delivered").await;
    house.store.folder_create(&house.owner, &name("Other"), None).await.unwrap();
    house.select("INBOX").await
}

fn numbers(uids: &[Uid]) -> Arc<[u32]> {
    uids.iter().map(|uid| uid.0).collect()
}

/// A copy of everything to `Other`, with the first slice done.
async fn begun(house: &House, view: &FolderView) -> Staging {
    let inner = Arc::clone(&house.store.inner);
    let mut staging = Staging::begin(inner, house.owner.mailbox, &name("Other"), MANY, 1_000).await.unwrap();
    let pairs = staging.copy_slice(view.folder().id, numbers(&view.uids()[..256])).await.unwrap();
    assert_eq!(pairs.len(), 256);
    staging
}

/// The mailbox uses what a recount finds, and nobody sees anything of a set.
async fn nothing_there(house: &House) {
    assert_eq!(status(house, "Other").await.messages, 0);
    assert_eq!(house.select("Other").await.uids(), []);
    assert_eq!(house.store.quota(&house.owner).await.unwrap().messages, MANY as u64);
    let mailbox = house.owner.mailbox.0;
    let counted: Result<Vec<_>> = house
        .database
        .read(move |conn| Box::pin(async move { recount::mailboxes(conn, &[mailbox]).await }))
        .await;
    let counted = counted.unwrap().remove(0);
    assert_eq!(counted.counted(), counted.recorded);
    for folder in counted.folders {
        assert_eq!(folder.counted, folder.recorded, "{}", folder.name);
    }
}

/// The bound of storage.md counts messages; each has up to seven rows in other tables.
async fn no_operation_on_many_messages_is_a_long_one(house: House) {
    const ROWS_MAX: u64 = 256 * 7;
    let tally = house.database.tally().clone();
    let mut view = fill(&house).await;
    assert!(tally.operation_rows_max() <= 256 * 4 + 8, "an append: {}", tally.operation_rows_max());
    let mut other = house.select("Other").await;
    let all = view.uids().to_vec();
    let copied = view.copy(&all, &name("Other")).await.unwrap();
    assert_eq!(copied.pairs.len(), MANY);
    assert!(copied.pairs.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1));
    let events = other.sync(true).await.unwrap();
    assert_eq!(events, [FolderEvent::Exists { messages: MANY as u32, recent: MANY as u32 }]);
    assert_eq!(other.uids(), copied.pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let last = [other.uids()[MANY - 1]];
    assert!(other.message(last[0]).await.unwrap().starts_with(TRACE.as_bytes()));
    // Into the folder they are in.
    assert_eq!(view.copy(&all, &name("INBOX")).await.unwrap().pairs.len(), MANY);
    view.sync(true).await.unwrap();
    assert_eq!(view.uids().len(), 2 * MANY);
    let moved = view.move_to(&all, &name("Other")).await.unwrap();
    assert_eq!(moved.pairs.len(), MANY);
    other.sync(true).await.unwrap();
    let all = other.uids().to_vec();
    remove(&mut other, &all).await;
    house.store.folder_delete(&house.owner, &name("Other")).await.unwrap();
    while house.store.purge_slice().await.unwrap() {}
    assert!(tally.operation_rows_max() <= ROWS_MAX, "{}", tally.operation_rows_max());
}

async fn set_on_its_way_is_seen_by_nobody_and_stops_nobody(house: House) {
    let view = fill(&house).await;
    let mut other = house.select("Other").await;
    let mut staging = begun(&house, &view).await;
    nothing_there(&house).await;
    // Others go on, and what they add is seen at once, before the set.
    assert_eq!(house.append("Other", &["between"]).await, [Uid(1)]);
    assert_eq!(other.sync(true).await.unwrap(), [FolderEvent::Exists { messages: 1, recent: 1 }]);
    house.deliver("to the source").await;
    other.flags_store(&[Uid(1)], FlagMode::Add, &system(FlagBits::DELETED), None, true).await.unwrap();
    other.expunge(None).await.unwrap();
    other.sync(true).await.unwrap();
    staging.copy_slice(view.folder().id, numbers(&view.uids()[256..])).await.unwrap();
    assert_eq!(other.sync(true).await.unwrap(), []);
    staging.finish().await.unwrap();
    let events = other.sync(true).await.unwrap();
    assert_eq!(events, [FolderEvent::Exists { messages: MANY as u32, recent: MANY as u32 }]);
    assert!(other.uids()[0] > Uid(1));
    let after = house.append("Other", &["after"]).await;
    assert!(after[0] > *other.uids().last().unwrap());
}

async fn crash_before_the_end_leaves_nothing_of_a_set(house: House) {
    let view = fill(&house).await;
    drop(begun(&house, &view).await);
    nothing_there(&house).await;
    // The node starts anew.
    let store = House::store(&house.database, &house.folder, "one", house.undelete_days).await;
    let house = House { store, ..house };
    nothing_there(&house).await;
    while house.store.purge_slice().await.unwrap() {}
    house.check().await;
    let mut view = house.select("INBOX").await;
    let all = view.uids().to_vec();
    assert_eq!(view.copy(&all, &name("Other")).await.unwrap().pairs.len(), MANY);
}

async fn set_that_is_refused_at_its_end_leaves_nothing(house: House) {
    let mut view = fill(&house).await;
    let staging = begun(&house, &view).await;
    house.execute("UPDATE mailbox SET messages_max = 601").await;
    assert!(matches!(staging.finish().await, Err(ServiceError::OverQuota { .. })));
    staging.abandon().await;
    nothing_there(&house).await;
    house.check().await;
    // What cannot fit is refused before anything is done.
    let all = view.uids().to_vec();
    let before = house.database.tally().statements();
    assert!(matches!(view.copy(&all, &name("Other")).await, Err(ServiceError::OverQuota { .. })));
    assert!(house.database.tally().statements() - before < 30);
    let texts = vec![new_message("x", FlagSet::default()); 100];
    let refused = house.store.append(&house.owner, &name("Other"), texts).await;
    assert!(matches!(refused, Err(ServiceError::OverQuota { .. })));
    nothing_there(&house).await;
}

async fn set_for_a_folder_that_goes_away_leaves_nothing(house: House) {
    let view = fill(&house).await;
    let mut staging = begun(&house, &view).await;
    house.store.folder_delete(&house.owner, &name("Other")).await.unwrap();
    let late = staging.copy_slice(view.folder().id, numbers(&view.uids()[256..])).await;
    assert!(matches!(late, Err(ServiceError::NotFound { .. })));
    assert!(matches!(staging.finish().await, Err(ServiceError::NotFound { .. })));
    staging.abandon().await;
    house.store.folder_create(&house.owner, &name("Other"), None).await.unwrap();
    nothing_there(&house).await;
}

async fn one_set_at_a_time_is_on_its_way_into_a_folder(house: House) {
    let mut view = fill(&house).await;
    let all = view.uids().to_vec();
    let staging = begun(&house, &view).await;
    let second = view.copy(&all, &name("Other")).await;
    assert!(matches!(second, Err(ServiceError::Unavailable(_))), "{second:?}");
    staging.abandon().await;
    assert_eq!(view.copy(&all, &name("Other")).await.unwrap().pairs.len(), MANY);
    // Two at once of one mailbox take turns.
    let mut again = house.select("INBOX").await;
    let (target, copies) = (name("Other"), name("INBOX"));
    let (one, two) = tokio::join!(view.copy(&all, &target), again.copy(&all, &copies));
    assert_eq!((one.unwrap().pairs.len(), two.unwrap().pairs.len()), (MANY, MANY));
}

async fn messages_are_put_off_when_no_uid_is_left_before_the_set(house: House) {
    house.append("INBOX", &["one"]).await;
    house.execute("UPDATE folder SET staged_uid = uid_next + 1 WHERE messages > 0").await;
    let two = vec![new_message("two", FlagSet::default()); 2];
    let refused = house.store.append(&house.owner, &name("INBOX"), two).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable(_))), "{refused:?}");
    house.deliver("fits").await;
    assert_eq!(house.try_deliver("does not").await, Err(Refused::StoreClosed));
    house.execute("UPDATE folder SET staged_uid = 0").await;
    house.deliver("fits again").await;
}

async fn list_with_counters_is_two_statements_for_any_number_of_folders(house: House) {
    house
        .execute(
            "INSERT INTO folder (mailbox_id, name, uid_validity, created_at)
             SELECT m.id, 'f' || n.i, 1, 0 FROM mailbox m,
                 (WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500)
                  SELECT i FROM c) AS n",
        )
        .await;
    house.append("f7", &["one", "two"]).await;
    let before = house.database.tally().statements();
    let folders = house.store.folder_list(&house.owner).await.unwrap();
    assert_eq!(house.database.tally().statements() - before, 2);
    assert_eq!(folders.len(), 501);
    let listed = folders.iter().find(|folder| folder.name.as_str() == "f7").unwrap();
    assert_eq!(listed.status, status(&house, "f7").await);
    assert_eq!((listed.status.messages, listed.status.recent), (2, 2));
}

/// Whatever is in the folder: the answer does not even notice that the messages are gone.
async fn status_reads_counters_and_no_messages(house: House) {
    house.append("INBOX", &["one", "two", "three"]).await;
    let mut view = house.select("INBOX").await;
    house.append("INBOX", &["four"]).await;
    let octets = u64::from(view.states(&[Uid(2)])[0].octets);
    view.flags_store(&[Uid(2)], FlagMode::Add, &system(FlagBits::DELETED), None, true).await.unwrap();
    let want = status(&house, "INBOX").await;
    assert_eq!((want.messages, want.recent, want.deleted, want.deleted_octets), (4, 1, 1, octets));
    let before = house.database.tally().statements();
    house.execute("UPDATE message SET folder_id = folder_id + 1000").await;
    let during = house.database.tally().statements();
    assert_eq!(status(&house, "INBOX").await, want);
    assert_eq!(house.database.tally().statements() - during, 1);
    assert!(during > before);
    house.execute("UPDATE message SET folder_id = folder_id - 1000").await;
    drop(house.store.folder_open(&house.owner, &name("INBOX"), Access::ReadWrite).await.unwrap());
    assert_eq!(status(&house, "INBOX").await.recent, 0);
}
