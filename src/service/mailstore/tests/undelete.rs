//! Expunged messages and deleted folders come back, and go for good in the end.

use super::super::undelete::{self, Back, CameBack};
use super::*;
use crate::base::id::{FolderId, UidValidity};
use crate::service::error::ServiceError;
use crate::service::housekeeping::{Housekeeping, Kept};
use crate::service::mailstore::types::SpecialUse;
use crate::storage::metadata::deleted_folder;
use crate::storage::metadata::tombstone::Wanted;

on_both!(
    expunged_messages_come_back_as_they_were_under_new_uids,
    deleted_folder_comes_back_under_a_new_uid_validity,
    messages_of_a_deleted_folder_come_back_into_one_of_its_name,
    full_mailbox_gets_nothing_back,
    oldest_go_first_beyond_the_bound_of_a_mailbox,
    what_expires_frees_bodies_and_names,
    nothing_is_kept_for_no_days,
    expunging_costs_at_most_two_statements_more_in_a_slice,
    purged_mailbox_takes_its_tombstones_along_and_is_written_down,
);

const ALL: Wanted = Wanted { folders: None, since: Timestamp(0), until: Timestamp(i64::MAX), uids: None };

fn back(house: &House, into: Option<&str>) -> Back {
    Back {
        mailbox: house.owner.mailbox,
        customer: house.owner.customer,
        into: into.map(name),
        at: Timestamp::from_secs(7),
    }
}

/// Brings back what is wanted, as the job does.
async fn undelete_some(
    house: &House,
    into: Option<&str>,
    wanted: &Wanted,
) -> std::result::Result<CameBack, ServiceError> {
    let (back, mailbox) = (back(house, into), house.owner.mailbox);
    let settle =
        || house.database.write(Priority::Bulk, move |conn| Box::pin(undelete::settle_slice(conn, mailbox)));
    while settle().await? {}
    let mut sum = CameBack::default();
    loop {
        let (back, wanted) = (back.clone(), wanted.clone());
        let write = house.database.write(Priority::Bulk, move |conn| {
            let (back, wanted) = (back.clone(), wanted.clone());
            Box::pin(async move { undelete::slice(conn, &back, &wanted).await })
        });
        let came = write.await?;
        if came == CameBack::default() {
            return Ok(sum);
        }
        sum.messages += came.messages;
        sum.octets += came.octets;
    }
}

pub(super) async fn undelete_all(house: &House) -> CameBack {
    undelete_some(house, None, &ALL).await.unwrap()
}

/// The folder with this name that was deleted last, brought back as the job does.
pub(super) async fn undelete_folder(house: &House, folder: &str) -> bool {
    let (mailbox, wanted) = (house.owner.mailbox, folder.to_owned());
    let read = house
        .database
        .read(move |conn| Box::pin(async move { deleted_folder::find(conn, mailbox, &wanted).await }));
    let found: Result<_> = read.await;
    let Some(found) = found.unwrap() else { return false };
    let back = back(house, None);
    let write = house.database.write(Priority::Bulk, move |conn| {
        let back = back.clone();
        Box::pin(async move { undelete::folder_ensure(conn, &back, found.id).await })
    });
    write.await.unwrap();
    undelete_some(house, None, &Wanted { folders: Some(vec![found.id.0]), ..ALL }).await.unwrap();
    settle(house, found.id).await;
    true
}

async fn settle(house: &House, folder: FolderId) {
    let write = house.database.write(Priority::Bulk, move |conn| {
        Box::pin(async move { deleted_folder::settle(conn, folder).await })
    });
    let done: Result<()> = write.await;
    done.unwrap();
}

pub(super) fn housekeeping(house: &House) -> Housekeeping {
    let kept = Kept { trace_days: 14, undelete_days: house.undelete_days };
    let clock = Clock::manual(Timestamp::from_secs(1_000_000));
    Housekeeping::new(house.database.clone(), house.store.clone(), clock, "one".to_owned(), kept)
}

pub(super) fn in_days(days: u64) -> Timestamp {
    Timestamp::from_secs(1_000_000).plus(Duration::from_secs(days * 86_400))
}

async fn expunged_messages_come_back_as_they_were_under_new_uids(house: House) {
    let date = Timestamp::from_secs(77);
    let flags = FlagSet { system: FlagBits::FLAGGED, keywords: vec!["$Work".to_owned()] };
    let mut message = new_message("one", flags);
    message.internal_date = Some(date);
    house.store.append(&house.owner, &name("INBOX"), vec![message]).await.unwrap();
    house.deliver("two").await;
    house.append("INBOX", &["three"]).await;
    let (mut view, mut other) = (house.select("INBOX").await, house.select("INBOX").await);
    let all = view.uids().to_vec();
    let before = view.messages(&all).await.unwrap();
    let used = house.store.quota(&house.owner).await.unwrap();
    remove(&mut view, &all).await;
    view.sync(true).await.unwrap();
    other.sync(true).await.unwrap();
    assert_eq!(other.uids(), []);
    // Expunging frees the quota although the bodies are still there.
    assert_eq!(house.store.quota(&house.owner).await.unwrap().octets, 0);
    assert_eq!(house.number("SELECT count(*) FROM body").await, 3);
    house.check().await;
    let came = undelete_all(&house).await;
    assert_eq!((came.messages, came.octets), (3, used.octets));
    assert_eq!(house.store.quota(&house.owner).await.unwrap().octets, used.octets);
    let events = other.sync(true).await.unwrap();
    assert_eq!(events, [FolderEvent::Exists { messages: 3, recent: 3 }]);
    assert_eq!(other.uids(), [Uid(4), Uid(5), Uid(6)]);
    let after = other.messages(&[Uid(4), Uid(5), Uid(6)]).await.unwrap();
    for ((_, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(before.as_ref().unwrap(), after.as_ref().unwrap());
    }
    let states = other.states(other.uids());
    let bits = FlagBits(FlagBits::FLAGGED.0 | FlagBits::keyword(0).0);
    assert_eq!((states[0].flags, states[1].flags), (bits, FlagBits::default()));
    assert_eq!(other.summaries(&[Uid(4)]).await.unwrap()[0].internal_date, date);
    // Nothing comes back twice.
    assert_eq!(undelete_all(&house).await, CameBack::default());
    // Only what is asked for, and elsewhere.
    remove(&mut other, &[Uid(4), Uid(5)]).await;
    let wanted = Wanted { uids: Some(vec![4]), ..ALL };
    assert_eq!(undelete_some(&house, Some("New/Place"), &wanted).await.unwrap().messages, 1);
    let place = house.select("New/Place").await;
    assert_eq!((place.uids(), &place.keywords()[..]), (&[Uid(1)][..], &["$Work".to_owned()][..]));
    assert_eq!(place.message(Uid(1)).await.unwrap(), message_bytes("one"));
    let late = Wanted { since: in_days(1), ..ALL };
    assert_eq!(undelete_some(&house, None, &late).await.unwrap().messages, 0);
    assert_eq!(undelete_all(&house).await.messages, 1);
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 0);
}

async fn uid_validity(house: &House, folder: &str) -> UidValidity {
    house.store.folder_status(&house.owner, &name(folder)).await.unwrap().uid_validity
}

async fn deleted_folder_comes_back_under_a_new_uid_validity(house: House) {
    house.store.folder_create(&house.owner, &name("Up/Down"), Some(SpecialUse::Junk)).await.unwrap();
    let texts: Vec<String> = (0..300).map(|number| format!("text {number}")).collect();
    house.append("Up/Down", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut view = house.select("Up/Down").await;
    let (first, second) = (view.uids()[0], view.uids()[1]);
    view.flags_store(&[second], FlagMode::Add, &keyword("$Old"), None, true).await.unwrap();
    // One that was expunged before is one of it too.
    remove(&mut view, &[first]).await;
    let before = uid_validity(&house, "Up/Down").await;
    house.store.folder_delete(&house.owner, &name("Up/Down")).await.unwrap();
    house.store.folder_delete(&house.owner, &name("Up")).await.unwrap();
    house.check().await;
    assert!(undelete_folder(&house, "Up/Down").await);
    assert!(uid_validity(&house, "Up/Down").await > before);
    let view = house.select("Up/Down").await;
    assert_eq!(view.uids().len(), 300);
    assert_eq!(view.keywords()[..], ["$Old".to_owned()]);
    let folders = house.store.folder_list(&house.owner).await.unwrap();
    let found = folders.iter().find(|folder| folder.name == name("Up/Down")).unwrap();
    assert_eq!(found.special_use, Some(SpecialUse::Junk));
    let mut subjects = Vec::new();
    for uids in view.uids().chunks(64) {
        for (_, message) in view.messages(uids).await.unwrap() {
            subjects.push(message.unwrap());
        }
    }
    subjects.sort_unstable();
    let mut wanted: Vec<Bytes> = texts.iter().map(|text| message_bytes(text)).collect();
    wanted.sort_unstable();
    assert_eq!(subjects, wanted);
    // It is back, so it is not deleted any more; the empty one above can still be asked for.
    assert!(!undelete_folder(&house, "Up/Down").await);
    assert!(undelete_folder(&house, "Up").await);
    assert_eq!(house.number("SELECT count(*) FROM deleted_folder").await, 0);
}

async fn messages_of_a_deleted_folder_come_back_into_one_of_its_name(house: House) {
    for text in ["old", "new"] {
        house.store.folder_create(&house.owner, &name("A"), None).await.unwrap();
        house.append("A", &[text]).await;
        if text == "old" {
            house.store.folder_delete(&house.owner, &name("A")).await.unwrap();
        }
    }
    assert_eq!(undelete_all(&house).await.messages, 1);
    assert_eq!(house.select("A").await.uids(), [Uid(1), Uid(2)]);
    // A folder that was renamed is the same one.
    let mut view = house.select("A").await;
    remove(&mut view, &[Uid(2)]).await;
    house.store.folder_rename(&house.owner, &name("A"), &name("B")).await.unwrap();
    assert_eq!(undelete_all(&house).await.messages, 1);
    assert_eq!(house.select("B").await.uids(), [Uid(1), Uid(3)]);
    // Of a folder that is known no more.
    house.store.folder_delete(&house.owner, &name("B")).await.unwrap();
    while house.store.purge_slice().await.unwrap() {}
    house.execute("DELETE FROM deleted_folder").await;
    house.execute("DELETE FROM folder_keyword").await;
    assert_eq!(undelete_all(&house).await.messages, 2);
    assert_eq!(house.select("INBOX").await.uids().len(), 2);
}

async fn full_mailbox_gets_nothing_back(house: House) {
    house.append("INBOX", &["one", "two", "three"]).await;
    let mut view = house.select("INBOX").await;
    remove(&mut view, &[Uid(1), Uid(2)]).await;
    house.execute("UPDATE mailbox SET messages_max = 2").await;
    let refused = undelete_some(&house, None, &ALL).await;
    assert!(matches!(refused, Err(ServiceError::OverQuota { .. })), "{refused:?}");
    view.sync(true).await.unwrap();
    assert_eq!(view.uids(), [Uid(3)]);
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 2);
    house.check().await;
    house.execute("UPDATE mailbox SET messages_max = 3").await;
    assert_eq!(undelete_all(&house).await.messages, 2);
}

/// Makes the tombstones as large as real mail would make them only slowly.
async fn grow(house: &House) {
    house.execute("UPDATE tombstone SET octets = 400000000 WHERE octets < 1000").await;
    house
        .execute(
            "UPDATE mailbox SET tombstone_octets =
               (SELECT coalesce(sum(octets + 1024), 0) FROM tombstone WHERE mailbox_id = mailbox.id)",
        )
        .await;
}

async fn oldest_go_first_beyond_the_bound_of_a_mailbox(house: House) {
    let texts: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
    house.append("INBOX", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut view = house.select("INBOX").await;
    let first = async |house: &House| house.number("SELECT min(uid) FROM tombstone").await;
    remove(&mut view, &[Uid(1), Uid(2), Uid(3)]).await;
    grow(&house).await;
    // 1.2 GB: a little too much, for housekeeping.
    remove(&mut view, &[Uid(4)]).await;
    assert_eq!(first(&house).await, 1);
    assert_eq!(housekeeping(&house).pass(in_days(0)).await.unwrap().tombstones, 1);
    assert_eq!(first(&house).await, 2);
    house.check().await;
    // Far too much goes at once.
    remove(&mut view, &[Uid(5), Uid(6), Uid(7)]).await;
    grow(&house).await;
    remove(&mut view, &[Uid(8)]).await;
    assert_eq!(first(&house).await, 6);
    house.check().await;
    // The own limit counts where it is larger.
    grow(&house).await;
    remove(&mut view, &[Uid(9)]).await;
    grow(&house).await;
    house.execute("UPDATE mailbox SET bytes_max = 1700000000").await;
    assert_eq!(housekeeping(&house).pass(in_days(0)).await.unwrap().tombstones, 0);
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 4);
    house.execute("UPDATE mailbox SET bytes_max = 1000").await;
    assert_eq!(housekeeping(&house).pass(in_days(0)).await.unwrap().tombstones, 2);
}

async fn what_expires_frees_bodies_and_names(house: House) {
    house.store.folder_create(&house.owner, &name("A"), None).await.unwrap();
    house.append("A", &["a"; 300]).await;
    house.deliver("delivered").await;
    house.append("INBOX", &["stays"]).await;
    let mut view = house.select("INBOX").await;
    remove(&mut view, &[Uid(1)]).await;
    let mut view = house.select("A").await;
    let first = [view.uids()[0]];
    view.flags_store(&first, FlagMode::Add, &keyword("$Old"), None, true).await.unwrap();
    house.store.folder_delete(&house.owner, &name("A")).await.unwrap();
    let housekeeping = housekeeping(&house);
    assert_eq!(housekeeping.pass(in_days(29)).await.unwrap().tombstones, 0);
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 301);
    assert_eq!(house.number("SELECT count(*) FROM body").await, 302);
    assert_eq!(housekeeping.pass(in_days(31)).await.unwrap().tombstones, 301);
    for table in ["tombstone", "deleted_folder", "folder_keyword", "message_prefix", "folder_purge"] {
        let text: &'static str = Box::leak(format!("SELECT count(*) FROM {table}").into_boxed_str());
        assert_eq!(house.number(text).await, 0, "{table}");
    }
    assert_eq!(house.number("SELECT count(*) FROM body").await, 1);
    assert_eq!(undelete_all(&house).await.messages, 0);
}

async fn nothing_is_kept_for_no_days(house: House) {
    let house = house.forgetful().await;
    house.store.folder_create(&house.owner, &name("A"), None).await.unwrap();
    for folder in ["INBOX", "A"] {
        house.append(folder, &["text"]).await;
    }
    let mut view = house.select("INBOX").await;
    remove(&mut view, &[Uid(1)]).await;
    house.store.folder_delete(&house.owner, &name("A")).await.unwrap();
    house.check().await;
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 0);
    assert_eq!(house.number("SELECT count(*) FROM deleted_folder").await, 0);
    assert_eq!(house.number("SELECT count(*) FROM body").await, 0);
}

/// Statements of expunging 1,000 messages.
async fn cost(house: &House) -> u64 {
    house.append("INBOX", &["text"; 1_000]).await;
    let mut view = house.select("INBOX").await;
    let uids = view.uids().to_vec();
    view.flags_store(&uids, FlagMode::Add, &system(FlagBits::DELETED), None, true).await.unwrap();
    let before = house.database.tally().statements();
    view.expunge(None).await.unwrap();
    house.database.tally().statements() - before
}

async fn expunging_costs_at_most_two_statements_more_in_a_slice(house: House) {
    const SLICES: u64 = 4;
    let kept = cost(&house).await;
    let gone = cost(&house.forgetful().await).await;
    assert!(kept <= gone + 2 * SLICES, "{kept} statements, without tombstones {gone}");
}

async fn purged_mailbox_takes_its_tombstones_along_and_is_written_down(house: House) {
    house.append("INBOX", &["text"; 300]).await;
    house.append("INBOX", &["stays"]).await;
    let mut view = house.select("INBOX").await;
    let uids: Vec<Uid> = view.uids().iter().copied().take(300).collect();
    remove(&mut view, &uids).await;
    // Deleted a month before: its time is over, that of its tombstones is not.
    house.execute("UPDATE mailbox SET deleted_at = 1000000000000 - 30 * 86400000000").await;
    // Nothing comes back into what is deleted itself.
    assert!(undelete_some(&house, None, &ALL).await.is_err());
    let removed = housekeeping(&house).pass(in_days(0)).await.unwrap();
    assert_eq!((removed.mailboxes, removed.tombstones), (1, 0));
    assert_eq!(house.number("SELECT count(*) FROM body").await, 0);
    assert_eq!(house.number("SELECT count(*) FROM tombstone").await, 0);
    let written = house.rows("SELECT kind, at FROM erasure").await;
    assert_eq!(written.len(), 1);
    assert_eq!((written[0].text(0).unwrap().as_str(), written[0].int(1).unwrap()), ("mailbox", in_days(0).0));
}
