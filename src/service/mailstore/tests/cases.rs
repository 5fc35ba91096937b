//! Single cases.

use super::super::search::SearchKey;
use super::super::types::{Access, SpecialUse};
use super::*;
use crate::service::error::ServiceError;

on_both!(
    appended_message_is_listed_and_read_back,
    delivered_message_has_its_trace_lines,
    flags_reach_other_views_and_silence_only_their_own,
    unchanged_since_leaves_changed_messages_alone,
    expunge_is_told_only_when_permitted,
    copy_shares_bodies_and_is_refused_as_a_whole,
    move_works_over_quota,
    folders_are_created_renamed_and_deleted,
    inbox_renamed_leaves_an_empty_inbox,
    recent_messages_are_recent_once,
    keywords_are_created_up_to_the_limit,
    search_reads_what_it_needs,
    forgotten_ranges_make_a_view_read_anew,
    large_sets_go_in_slices,
    large_message_has_its_own_pack_and_a_refused_one_leaves_none,
);

/// Two nodes share a database; what one does reaches a session on the other without its asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_another_node_reach_a_view() {
    let Some(postgres) = super::postgres::Postgres::start() else { return };
    let here = House::build(&postgres.url()).await;
    let there = here.another_node(&postgres.url()).await;
    let mut view = there.select("INBOX").await;
    here.append("INBOX", &["one"]).await;
    // Whatever was told first, the message arrives.
    let mut events = Vec::new();
    while events.is_empty() {
        soon(view.changed()).await;
        events = view.sync(true).await.unwrap();
    }
    assert_eq!(events, [FolderEvent::Exists { messages: 1, recent: 1 }]);
    assert_eq!(view.message(Uid(1)).await.unwrap(), message_bytes("one"));
    here.check().await;
}

async fn appended_message_is_listed_and_read_back(house: House) {
    let uids = house.append("inbox", &["one", "two"]).await;
    assert_eq!(uids, [Uid(1), Uid(2)]);
    let view = house.select("INBOX").await;
    assert_eq!(view.uids(), uids);
    assert_eq!(view.message(Uid(2)).await.unwrap(), message_bytes("two"));
    let summaries = view.summaries(&uids).await.unwrap();
    assert_eq!(summaries[0].summary.envelope.subject.as_deref(), Some(&b"one"[..]));
    assert_eq!(summaries[0].internal_date, Timestamp::from_secs(1_000_000));
    assert_eq!(view.chunk_len(&uids), 2);
    let read = view.messages(&uids).await.unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].1.as_ref().unwrap(), &message_bytes("one"));
    let status = house.store.folder_status(&house.owner, &name("INBOX")).await.unwrap();
    assert_eq!((status.messages, status.unseen, status.uid_next), (2, 2, Uid(3)));
    assert!(matches!(view.message(Uid(9)).await, Err(ServiceError::NotFound { .. })));
    let missing = house.store.append(&house.owner, &name("None"), vec![]).await;
    assert!(matches!(missing, Err(ServiceError::NotFound { .. })));
}

async fn delivered_message_has_its_trace_lines(house: House) {
    let mut view = house.select("INBOX").await;
    house.deliver("mail").await;
    soon(view.changed()).await;
    let events = view.sync(true).await.unwrap();
    assert_eq!(events, [FolderEvent::Exists { messages: 1, recent: 1 }]);
    let whole = view.message(Uid(1)).await.unwrap();
    assert_eq!(whole, [TRACE.as_bytes(), &message_bytes("mail")].concat());
    assert_eq!(view.states(&[Uid(1)])[0].octets as usize, whole.len());
    house.store.folder_create(&house.owner, &name("Copy"), None).await.unwrap();
    view.copy(&[Uid(1)], &name("Copy")).await.unwrap();
    remove(&mut view, &[Uid(1)]).await;
    let copy = house.select("Copy").await;
    assert_eq!(copy.message(Uid(1)).await.unwrap(), whole);
    assert_eq!(&copy.summaries(&[Uid(1)]).await.unwrap()[0].prefix[..], TRACE.as_bytes());
}

async fn flags_reach_other_views_and_silence_only_their_own(house: House) {
    house.append("INBOX", &["one", "two"]).await;
    let (mut one, mut two) = (house.select("INBOX").await, house.select("INBOX").await);
    let all = [Uid(1), Uid(2)];
    one.flags_store(&all[..1], FlagMode::Add, &system(FlagBits::SEEN), None, true).await.unwrap();
    assert_eq!(one.sync(true).await.unwrap(), []);
    soon(two.changed()).await;
    let events = two.sync(false).await.unwrap();
    assert!(
        matches!(events[..], [FolderEvent::Flags { sequence: 1, state }] if state.flags == FlagBits::SEEN),
        "{events:?}"
    );
    // What somebody else had changed meanwhile is told in spite of the silence.
    two.flags_store(&all[1..], FlagMode::Add, &system(FlagBits::FLAGGED), None, false).await.unwrap();
    one.flags_store(&all[1..], FlagMode::Add, &system(FlagBits::SEEN), None, true).await.unwrap();
    assert!(matches!(one.sync(true).await.unwrap()[..], [FolderEvent::Flags { sequence: 2, .. }]));
    assert!(matches!(two.sync(true).await.unwrap()[..], [FolderEvent::Flags { sequence: 2, .. }]));
    assert_eq!(one.highest_mod_seq(), two.highest_mod_seq());
}

async fn unchanged_since_leaves_changed_messages_alone(house: House) {
    house.append("INBOX", &["one", "two"]).await;
    let mut view = house.select("INBOX").await;
    let before = view.highest_mod_seq();
    let seen = system(FlagBits::SEEN);
    view.flags_store(&[Uid(1)], FlagMode::Add, &seen, None, true).await.unwrap();
    let both = [Uid(1), Uid(2)];
    let stored = view.flags_store(&both, FlagMode::Replace, &seen, Some(before), false).await.unwrap();
    assert_eq!((stored.done, stored.modified), (vec![Uid(2)], vec![Uid(1)]));
    let status = house.store.folder_status(&house.owner, &name("INBOX")).await.unwrap();
    assert_eq!(status.unseen, 0);
}

async fn expunge_is_told_only_when_permitted(house: House) {
    let house = house.forgetful().await;
    house.append("INBOX", &["one", "two", "three", "four"]).await;
    let (mut one, mut two) = (house.select("INBOX").await, house.select("INBOX").await);
    remove(&mut one, &[Uid(1), Uid(3)]).await;
    assert_eq!(expunged(&one.sync(true).await.unwrap()), [3, 1]);
    assert_eq!(one.uids(), [Uid(2), Uid(4)]);
    assert_eq!(two.sync(false).await.unwrap(), []);
    assert_eq!(two.uids().len(), 4);
    assert_eq!(two.states(two.uids()).len(), 4);
    house.append("INBOX", &["five"]).await;
    assert_eq!(two.sync(false).await.unwrap().len(), 1);
    let events = two.sync(true).await.unwrap();
    assert_eq!(expunged(&events), [3, 1]);
    assert_eq!(two.uids(), [Uid(2), Uid(4), Uid(5)]);
    assert_eq!(two.sync(true).await.unwrap(), []);
    assert_eq!(house.number("SELECT count(*) FROM body").await, 3);
}

async fn copy_shares_bodies_and_is_refused_as_a_whole(house: House) {
    house.append("INBOX", &["one", "two"]).await;
    house.store.folder_create(&house.owner, &name("Copy"), None).await.unwrap();
    let mut view = house.select("INBOX").await;
    view.flags_store(&[Uid(1)], FlagMode::Add, &keyword("$Work"), None, true).await.unwrap();
    let copied = view.copy(&[Uid(1), Uid(2), Uid(7)], &name("Copy")).await.unwrap();
    assert_eq!(copied.pairs, [(Uid(1), Uid(1)), (Uid(2), Uid(2))]);
    assert_eq!(house.number("SELECT count(*) FROM body").await, 2);
    let copy = house.select("Copy").await;
    assert_eq!(copy.keywords()[..], ["$Work".to_owned()]);
    assert_eq!(copy.states(&[Uid(1)])[0].flags, FlagBits::keyword(0));
    let none = view.copy(&[Uid(1)], &name("None")).await;
    assert!(matches!(none, Err(ServiceError::NotFound { .. })));
    house.execute("UPDATE mailbox SET messages_max = 5").await;
    let refused = view.copy(&[Uid(1), Uid(2)], &name("Copy")).await;
    assert!(matches!(refused, Err(ServiceError::OverQuota { .. })));
    assert_eq!(house.store.folder_status(&house.owner, &name("Copy")).await.unwrap().messages, 2);
}

async fn move_works_over_quota(house: House) {
    house.append("INBOX", &["one", "two", "three"]).await;
    house.store.folder_create(&house.owner, &name("Trash"), Some(SpecialUse::Trash)).await.unwrap();
    house.execute("UPDATE mailbox SET bytes_max = 1").await;
    let refused = house.store.append_check(&house.owner, &name("INBOX"), 1).await;
    assert!(matches!(refused, Err(ServiceError::OverQuota { .. })));
    let mut view = house.select("INBOX").await;
    let moved = view.move_to(&[Uid(1), Uid(3)], &name("Trash")).await.unwrap();
    assert_eq!(moved.pairs, [(Uid(1), Uid(1)), (Uid(3), Uid(2))]);
    assert_eq!(expunged(&view.sync(true).await.unwrap()), [3, 1]);
    let within = view.move_to(&[Uid(2)], &name("INBOX")).await.unwrap();
    assert_eq!(within.pairs, [(Uid(2), Uid(4))]);
    view.sync(true).await.unwrap();
    assert_eq!(view.uids(), [Uid(4)]);
}

async fn folders_are_created_renamed_and_deleted(house: House) {
    let (store, owner) = (&house.store, &house.owner);
    store.folder_create(owner, &name("a/b/c"), None).await.unwrap();
    assert!(matches!(store.folder_create(owner, &name("a"), None).await, Err(ServiceError::Conflict { .. })));
    house.append("a/b", &["one"]).await;
    let mut open = house.select("a/b").await;
    store.folder_delete(owner, &name("a/b")).await.unwrap();
    assert_eq!(store.quota(owner).await.unwrap().messages, 0);
    soon(open.changed()).await;
    assert_eq!(open.sync(true).await.unwrap(), [FolderEvent::Gone]);
    let list = store.folder_list(owner).await.unwrap();
    let names: Vec<_> =
        list.iter().map(|folder| (folder.name.as_str(), folder.selectable, folder.has_children)).collect();
    assert_eq!(
        names,
        [("INBOX", true, false), ("a", true, true), ("a/b", false, true), ("a/b/c", true, false)]
    );
    assert!(matches!(store.folder_delete(owner, &name("a/b")).await, Err(ServiceError::Conflict { .. })));
    assert!(matches!(store.folder_delete(owner, &name("INBOX")).await, Err(ServiceError::Conflict { .. })));
    store.folder_create(owner, &name("a/b"), None).await.unwrap();
    let again = house.select("a/b").await;
    assert!(again.folder().uid_validity > open.folder().uid_validity);
    assert_eq!(again.uids(), []);
    store.folder_rename(owner, &name("a"), &name("z/y")).await.unwrap();
    store.folder_subscribe(owner, &name("z/y/b"), true).await.unwrap();
    store.folder_subscribe(owner, &name("not there"), true).await.unwrap();
    let list = store.folder_list(owner).await.unwrap();
    let names: Vec<_> = list.iter().map(|folder| (folder.name.as_str(), folder.subscribed)).collect();
    assert_eq!(names, [("INBOX", false), ("z", false), ("z/y", false), ("z/y/b", true), ("z/y/b/c", false)]);
    assert_eq!(store.subscriptions(owner).await.unwrap(), [name("not there"), name("z/y/b")]);
    let below = store.folder_rename(owner, &name("z"), &name("z/y/x")).await;
    assert!(matches!(below, Err(ServiceError::Invalid { .. })));
}

async fn inbox_renamed_leaves_an_empty_inbox(house: House) {
    house.append("INBOX", &["one", "two"]).await;
    house.store.folder_create(&house.owner, &name("INBOX/below"), None).await.unwrap();
    let mut view = house.select("INBOX").await;
    house.store.folder_rename(&house.owner, &name("INBOX"), &name("old")).await.unwrap();
    assert_eq!(expunged(&view.sync(true).await.unwrap()), [2, 1]);
    assert_eq!(house.select("old").await.uids().len(), 2);
    house.select("INBOX/below").await;
    assert_eq!(house.append("INBOX", &["three"]).await, [Uid(3)]);
}

async fn recent_messages_are_recent_once(house: House) {
    house.append("INBOX", &["one", "two"]).await;
    let status = house.store.folder_status(&house.owner, &name("INBOX")).await.unwrap();
    assert_eq!(status.recent, 2);
    let look = house.store.folder_open(&house.owner, &name("INBOX"), Access::ReadOnly).await.unwrap();
    assert_eq!(look.recent_count(), 2);
    let mut one = house.select("INBOX").await;
    assert_eq!(one.recent_count(), 2);
    assert!(one.is_recent(Uid(1)));
    let mut two = house.select("INBOX").await;
    assert_eq!(two.recent_count(), 0);
    let status = house.store.folder_status(&house.owner, &name("INBOX")).await.unwrap();
    assert_eq!(status.recent, 0);
    house.append("INBOX", &["three"]).await;
    assert_eq!(two.sync(true).await.unwrap(), [FolderEvent::Exists { messages: 3, recent: 1 }]);
    assert_eq!(one.sync(true).await.unwrap(), [FolderEvent::Exists { messages: 3, recent: 2 }]);
    assert!(two.is_recent(Uid(3)) && !one.is_recent(Uid(3)));
}

async fn keywords_are_created_up_to_the_limit(house: House) {
    house.append("INBOX", &["one"]).await;
    let (mut view, mut other) = (house.select("INBOX").await, house.select("INBOX").await);
    let all = FlagSet { system: FlagBits::SEEN, keywords: (0..59).map(|n| format!("k{n}")).collect() };
    view.flags_store(&[Uid(1)], FlagMode::Replace, &all, None, true).await.unwrap();
    assert_eq!(view.keywords().len(), 59);
    assert_eq!(other.sync(true).await.unwrap()[0], FolderEvent::Keywords);
    let more = view.flags_store(&[Uid(1)], FlagMode::Add, &keyword("more"), None, true).await;
    assert!(matches!(more, Err(ServiceError::Limit(_))));
    view.flags_store(&[Uid(1)], FlagMode::Remove, &keyword("K58"), None, true).await.unwrap();
    assert_eq!(view.states(&[Uid(1)])[0].flags.0, 1 | (((1_u64 << 58) - 1) << 5));
}

async fn search_reads_what_it_needs(house: House) {
    house.append("INBOX", &["apple", "pear"]).await;
    house.deliver("plum").await;
    let view = house.select("INBOX").await;
    let search = async |key: SearchKey| view.search(&key).await.unwrap();
    assert_eq!(search(SearchKey::All).await.len(), 3);
    assert_eq!(search(SearchKey::Uids(vec![(Uid(2), Uid(9))])).await, [Uid(2), Uid(3)]);
    let header = |field: &str, text: &str| SearchKey::Header(field.to_owned(), text.to_owned());
    assert_eq!(search(header("subject", "EAR")).await, [Uid(2)]);
    assert_eq!(search(header("delivered-to", "")).await, [Uid(3)]);
    assert_eq!(search(SearchKey::Body("body of p".to_owned())).await, [Uid(2), Uid(3)]);
    let either =
        SearchKey::Or(Box::new(header("subject", "plum")), Box::new(SearchKey::Uids(vec![(Uid(1), Uid(1))])));
    assert_eq!(search(either).await, [Uid(1), Uid(3)]);
}

async fn forgotten_ranges_make_a_view_read_anew(house: House) {
    house.append("INBOX", &["one", "two", "three"]).await;
    let (mut one, mut two) = (house.select("INBOX").await, house.select("INBOX").await);
    remove(&mut one, &[Uid(2)]).await;
    house.execute("DELETE FROM expunged").await;
    assert_eq!(expunged(&two.sync(true).await.unwrap()), [2]);
    assert_eq!(expunged(&one.sync(true).await.unwrap()), [2]);
    house.append("INBOX", &["four"]).await;
    assert_eq!(one.sync(true).await.unwrap().len(), 1);
    assert_eq!(one.uids(), [Uid(1), Uid(3), Uid(4)]);
}

async fn large_sets_go_in_slices(house: House) {
    for _ in 0..3 {
        house.append("INBOX", &["x"; 500]).await;
    }
    house.store.folder_create(&house.owner, &name("Other"), None).await.unwrap();
    let mut view = house.select("INBOX").await;
    let uids = view.uids().to_vec();
    assert_eq!(uids.len(), 1500);
    let mut other = house.select("INBOX").await;
    view.flags_store(&uids, FlagMode::Add, &system(FlagBits::FLAGGED), None, true).await.unwrap();
    assert_eq!(view.sync(true).await.unwrap(), []);
    assert_eq!(other.sync(true).await.unwrap().len(), 1500);
    let copied = view.copy(&uids, &name("Other")).await.unwrap();
    assert_eq!(copied.pairs.len(), 1500);
    let odd: Vec<Uid> = uids.iter().copied().filter(|uid| uid.0 % 2 == 1).collect();
    let moved = view.move_to(&odd, &name("Other")).await.unwrap();
    assert_eq!(moved.pairs.len(), 750);
    let rest: Vec<Uid> = uids.iter().copied().filter(|uid| uid.0 % 2 == 0).collect();
    remove(&mut view, &rest).await;
    assert_eq!(view.sync(true).await.unwrap().len(), 1500);
    assert_eq!(expunged(&other.sync(true).await.unwrap()), (1..=1500).rev().collect::<Vec<_>>());
    assert_eq!(view.uids(), []);
    house.store.folder_delete(&house.owner, &name("Other")).await.unwrap();
    assert_eq!(house.store.quota(&house.owner).await.unwrap().octets, 0);
}

async fn large_message_has_its_own_pack_and_a_refused_one_leaves_none(house: House) {
    let house = house.forgetful().await;
    // Random bytes: they must not become small.
    let bytes: Bytes = crate::base::id::random_bytes(3 << 20).into();
    let append = async |folder: &'static str| {
        let message = NewMessage { bytes: bytes.clone(), flags: FlagSet::default(), internal_date: None };
        house.store.append(&house.owner, &name(folder), vec![message]).await
    };
    assert!(matches!(append("INBOX").await, Err(ServiceError::OverQuota { .. })));
    assert_eq!(
        house.number("SELECT (SELECT count(*) FROM pack) + (SELECT count(*) FROM pack_intent)").await,
        0
    );
    house.execute("UPDATE mailbox SET bytes_max = NULL").await;
    append("INBOX").await.unwrap();
    assert_eq!(house.number("SELECT bodies FROM pack").await, 1);
    let mut view = house.select("INBOX").await;
    assert_eq!(view.message(Uid(1)).await.unwrap(), bytes);
    remove(&mut view, &[Uid(1)]).await;
    assert_eq!(house.number("SELECT dead_bodies FROM pack").await, 1);
}
