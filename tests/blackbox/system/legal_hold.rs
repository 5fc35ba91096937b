//! Legal holds: nothing is removed for good while one lasts, whoever deletes and however long ago.

use posthouse::service::mailstore::types::{Access, FlagBits, FlagMode, FlagSet, FolderName};

use super::*;

fn refusal(outcome: std::result::Result<Value, ServiceError>) -> &'static str {
    outcome.err().and_then(|error| error.refusal()).unwrap_or("not refused")
}

/// Expunges everything in the inbox of `x@a.example`, in a server that keeps nothing that is deleted.
async fn expunge(world: &World) {
    let limits = MailStoreLimits { message_octets_max: 1 << 20, undelete_days: 0 };
    let store = MailStore::new(world.database.clone(), world.clock.clone(), world.bodies.clone(), limits);
    let word = SecretString::from(WORD);
    let session = world.login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let mut view = store.folder_open(session.owner(), &FolderName::inbox(), Access::ReadWrite).await.unwrap();
    let uids = view.uids().to_vec();
    assert!(!uids.is_empty());
    let deleted = FlagSet { system: FlagBits::DELETED, keywords: Vec::new() };
    view.flags_store(&uids, FlagMode::Add, &deleted, None, true).await.unwrap();
    view.expunge(None).await.unwrap();
}

pub async fn legal_hold_keeps_everything_until_it_is_released(world: World) {
    for number in 1..4 {
        world.deliver(1, &original(number)).await;
    }
    // For the customer it is set above it; for what the customer has, at the customer.
    let on_customer = json!({ "path": "a", "reason": "case 7" });
    assert_eq!(refusal(world.run(&world.a, "legal-hold.add", on_customer.clone()).await), "forbidden");
    let asked = json!({ "mailbox": "x@b.example", "reason": "case 8" });
    assert_eq!(refusal(world.run(&world.a, "legal-hold.add", asked.clone()).await), "not-found");
    let theirs = world.run(&world.b, "legal-hold.add", asked).await.unwrap();
    world.run(&world.b, "legal-hold.release", json!({ "id": theirs["id"] })).await.unwrap();
    let hold = world.run(&world.system, "legal-hold.add", on_customer).await.unwrap();
    // Who it is on sees it and cannot take it away, by any of the ways in which holds go.
    let listed = world.run(&world.a, "legal-hold.list", json!({})).await.unwrap();
    assert_eq!(listed["items"][0]["on"], "a");
    assert_eq!(listed["items"][0]["actor"], "provider");
    assert_eq!(world.run(&world.b, "legal-hold.list", json!({})).await.unwrap()["items"], json!([]));
    let id = json!({ "id": hold["id"] });
    assert_eq!(refusal(world.run(&world.a, "legal-hold.release", id.clone()).await), "forbidden");
    assert_eq!(refusal(world.run(&world.b, "legal-hold.release", id.clone()).await), "not-found");
    for who in [&world.a, &world.system] {
        assert_eq!(refusal(world.run(who, "hold.release", id.clone()).await), "not-found");
        world.run(who, "customer.resume", json!({ "path": "a", "reason": "case 7" })).await.unwrap();
    }
    let shown = world.run(&world.a, "mailbox.show", json!({ "address": "x@a.example" })).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["purge"]));
    // The domain stays.
    let moved = world.run(&world.system, "domain.move", json!({ "domain": "a.example", "to": "b" })).await;
    assert_eq!(moved.unwrap_err().to_string(), "a.example is under legal hold and stays with its customer");
    // Expunged, deleted, and long past every time for coming back: all is there.
    expunge(&world).await;
    assert_eq!(world.number("SELECT count(*) FROM tombstone").await, 3);
    world.run(&world.a, "mailbox.delete", json!({ "address": "x@a.example" })).await.unwrap();
    world.run(&world.system, "customer.delete", json!({ "path": "a" })).await.unwrap();
    let housekeeping = world.housekeeping();
    let removed = housekeeping.pass(NOW.plus(DAY * 400)).await.unwrap();
    assert_eq!((removed.mailboxes, removed.domains, removed.customers), (0, 0, 0));
    assert_eq!((removed.administrators, removed.tombstones), (0, 0));
    assert_eq!(world.number("SELECT count(*) FROM tombstone").await, 3);
    // It comes back whole, and what was expunged with it.
    world.run(&world.system, "customer.undelete", json!({ "path": "a" })).await.unwrap();
    world.run(&world.system, "mailbox.undelete", json!({ "address": "x@a.example" })).await.unwrap();
    let back = world.job(&world.system, "message.undelete", json!({ "address": "x@a.example" })).await;
    assert_eq!(back.unwrap()["messages"], 3);
    // Released, everything goes its way.
    expunge(&world).await;
    world.run(&world.system, "customer.delete", json!({ "path": "a" })).await.unwrap();
    world.run(&world.system, "legal-hold.release", id).await.unwrap();
    let removed = housekeeping.pass(NOW.plus(DAY * 400)).await.unwrap();
    assert_eq!((removed.mailboxes, removed.domains, removed.customers), (1, 1, 1));
    assert_eq!(world.number("SELECT count(*) FROM tombstone").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM body").await, 0);
}

/// A hold on one mailbox keeps that one, and its domain where it is.
pub async fn legal_hold_on_a_mailbox_keeps_that_one_alone(world: World) {
    let asked = json!({ "address": "y@a.example", "password": WORD });
    world.run(&world.a, "mailbox.create", asked).await.unwrap();
    let asked = json!({ "mailbox": "x@a.example", "reason": "case 9" });
    let hold = world.run(&world.a, "legal-hold.add", asked).await.unwrap();
    for address in ["x@a.example", "y@a.example"] {
        world.run(&world.a, "mailbox.delete", json!({ "address": address })).await.unwrap();
    }
    let moved = world.run(&world.system, "domain.move", json!({ "domain": "a.example", "to": "b" })).await;
    assert_eq!(refusal(moved), "conflict");
    let housekeeping = world.housekeeping();
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 31)).await.unwrap().mailboxes, 1);
    assert_eq!(world.number("SELECT count(*) FROM mailbox WHERE local_part = 'x'").await, 2);
    world.run(&world.a, "legal-hold.release", json!({ "id": hold["id"] })).await.unwrap();
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 31)).await.unwrap().mailboxes, 1);
    world.run(&world.system, "domain.move", json!({ "domain": "a.example", "to": "b" })).await.unwrap();
}
