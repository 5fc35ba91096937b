//! A domain goes to another customer, and the customer that had it is purged: before its mail has followed, and after.

use posthouse::service::mailstore::types::{Access, FolderName};
use posthouse::service::moves::Rehoming;

use super::*;

/// Each message of the inbox of `x@a.example`, as it is read.
async fn inbox(world: &World) -> Vec<Bytes> {
    let word = SecretString::from(WORD);
    let session = world.login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let store = world.mail_store();
    let view = store.folder_open(session.owner(), &FolderName::inbox(), Access::ReadOnly).await.unwrap();
    let mut mail = Vec::new();
    let uids = view.uids().to_vec();
    for (_, message) in view.messages(&uids).await.unwrap() {
        mail.push(message.unwrap());
    }
    mail
}

pub async fn moved_mail_outlives_the_customer_that_had_it(world: World) {
    let packer = Arc::new(Packer::new(world.bodies.clone(), PackerSettings::default()));
    // Packed and fresh, small and large, and one that the other customer has too.
    for number in [0, 1, 2] {
        world.deliver(1, &original(number)).await;
    }
    packer.pack_everything(NOW).await.unwrap();
    let shared = original(3);
    world.deliver(1, &shared).await;
    world.deliver(2, &shared).await;
    let before = inbox(&world).await;
    assert_eq!(before.len(), 4);
    world.run(&world.system, "domain.move", json!({ "domain": "a.example", "to": "b" })).await.unwrap();
    world.run(&world.system, "customer.delete", json!({ "path": "a" })).await.unwrap();
    // Its time is over before anything has followed.
    let housekeeping = world.housekeeping();
    let later = NOW.plus(DAY * 31);
    for _ in 0..5 {
        housekeeping.pass(later).await.unwrap();
        packer.remove_dead(later).await.unwrap();
    }
    assert_eq!(inbox(&world).await, before, "nothing is lost while it is on its way");
    let homing =
        Rehoming::new(world.database.clone(), world.bodies.clone(), Arc::clone(&packer), world.clock.clone());
    homing.look().await.unwrap();
    for days in [32, 70, 110] {
        let later = NOW.plus(DAY * days);
        housekeeping.pass(later).await.unwrap();
        packer.pack_everything(later).await.unwrap();
        packer.remove_dead(later).await.unwrap();
        assert_eq!(inbox(&world).await, before, "nothing is lost {days} days later");
    }
    assert_eq!(world.number("SELECT count(*) FROM customer WHERE slug = 'a'").await, 0, "it is purged");
    assert_eq!(world.number("SELECT count(*) FROM homing").await, 0);
    let answer = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(answer["drift"], 0, "{answer}");
}
