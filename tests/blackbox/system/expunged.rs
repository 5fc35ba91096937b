//! Expunged messages, their bodies and their packs, until they are gone for good.

use posthouse::service::mailstore::types::{Access, FlagBits, FlagMode, FlagSet, FolderName};

use super::*;

pub async fn expunged_messages_hold_their_packs_until_their_time_is_over(world: World) {
    for number in 1..4 {
        world.deliver(1, &original(number)).await;
    }
    let packer = Packer::new(world.bodies.clone(), PackerSettings::default());
    packer.pack_everything(NOW).await.unwrap();
    let store = world.mail_store();
    let word = SecretString::from(WORD);
    let session = world.login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let inbox = FolderName::inbox();
    let open = || store.folder_open(session.owner(), &inbox, Access::ReadWrite);
    let mut view = open().await.unwrap();
    let uids = view.uids().to_vec();
    let before = view.messages(&uids).await.unwrap();
    let deleted = FlagSet { system: FlagBits::DELETED, keywords: Vec::new() };
    view.flags_store(&uids, FlagMode::Add, &deleted, None, true).await.unwrap();
    view.expunge(None).await.unwrap();
    assert_eq!(world.job(&world.system, "quota.verify", json!({})).await.unwrap()["drift"], 0);
    let housekeeping = world.housekeeping();
    let now = world.clock.now();
    assert_eq!(housekeeping.pass(now.plus(DAY * 29)).await.unwrap().tombstones, 0);
    packer.remove_dead(now.plus(DAY * 29)).await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM pack WHERE dropped_at IS NULL").await, 1);
    // A neighbour cannot have it, the customer's own administrator can.
    let asked = json!({ "address": "x@a.example" });
    assert!(world.job(&world.b, "message.undelete", asked.clone()).await.is_err());
    let report = world.job(&world.a, "message.undelete", asked.clone()).await.unwrap();
    assert_eq!(report["messages"], 3);
    let mut view = open().await.unwrap();
    let uids = view.uids().to_vec();
    let after = view.messages(&uids).await.unwrap();
    for ((_, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(before.as_ref().unwrap(), after.as_ref().unwrap());
    }
    view.flags_store(&uids, FlagMode::Add, &deleted, None, true).await.unwrap();
    view.expunge(None).await.unwrap();
    assert_eq!(housekeeping.pass(now.plus(DAY * 31)).await.unwrap().tombstones, 3);
    for table in
        ["SELECT count(*) FROM body", "SELECT count(*) FROM summary", "SELECT count(*) FROM message_prefix"]
    {
        assert_eq!(world.number(table).await, 0, "{table}");
    }
    packer.remove_dead(now.plus(DAY * 31)).await.unwrap();
    packer.remove_dead(now.plus(DAY * 32)).await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM pack").await, 0);
    assert_eq!(world.job(&world.a, "message.undelete", asked).await.unwrap()["messages"], 0);
}
