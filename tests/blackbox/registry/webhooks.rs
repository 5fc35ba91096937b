//! Webhooks: what is sent to whom, in which order, and what becomes of what is not taken.

use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, verify};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthouse::base::post::Poster;
use posthouse::service::webhooks::Webhooks;
use serde_json::{Value, json};

use super::{World, on_both, refusal};
use crate::support::receiver::{Posted, Receiver};

on_both!(
    events_are_sent_signed_in_order_and_within_the_scope,
    what_is_not_taken_comes_again_later_and_for_a_day,
    hooks_reach_nothing_that_is_not_public_unless_allowed,
    moved_and_suspended_customers_are_silent,
);

/// A hook of this customer with its secret.
async fn hook(world: &World, receiver: &Receiver, customer: &str, kinds: Value) -> (String, String) {
    let asked = json!({ "customer": customer, "url": receiver.url("/hook"), "kinds": kinds });
    let made = world.must("webhook.create", asked).await;
    let text = |member: &str| made[member].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    (text("id"), text("secret"))
}

async fn pass(world: &World) {
    world.webhooks.pass(&world.management).await.unwrap();
}

/// Whether the signature is that of the secret.
fn is_signed(secret: &str, posted: &Posted) -> bool {
    let key = Key::new(HMAC_SHA256, &STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap());
    let (id, at) = (posted.header("webhook-id"), posted.header("webhook-timestamp"));
    let tag = posted.header("webhook-signature").strip_prefix("v1,").unwrap();
    verify(&key, format!("{id}.{at}.{}", posted.body).as_bytes(), &STANDARD.decode(tag).unwrap()).is_ok()
}

async fn limit(world: &World, path: &str, mailboxes: u32) {
    world.must("customer.limit", json!({ "path": path, "mailboxes": mailboxes })).await;
}

async fn events_are_sent_signed_in_order_and_within_the_scope(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    world.must("customer.create", json!({ "path": "a/unit" })).await;
    let receiver = Receiver::start();
    let (id, secret) = hook(&world, &receiver, "a", json!(["mailbox.", "customer.limit"])).await;
    world.mailbox("one@a.example").await;
    world.mailbox("other@b.example").await;
    limit(&world, "a/unit", 7).await;
    limit(&world, "b", 7).await;
    world.must("domain.limit", json!({ "domain": "a.example", "bytes": 1000 })).await;
    assert_eq!(
        refusal(world.run(&chief, "customer.limit", json!({ "path": "a", "mailboxes": 1 })).await),
        "forbidden"
    );
    pass(&world).await;
    let (first, second) = (receiver.next(), receiver.next());
    for posted in [&first, &second] {
        assert!(is_signed(&secret, posted) && !is_signed("whsec_AAAA", posted));
        assert_eq!((posted.path.as_str(), posted.header("content-type")), ("/hook", "application/json"));
        assert_eq!(posted.header("webhook-timestamp"), world.clock.now().secs().to_string());
    }
    let data = first.json();
    assert_eq!((&data["type"], &data["data"]["kind"]), (&json!("mailbox.create"), &json!("mailbox.create")));
    assert_eq!((&data["data"]["customer"], &data["data"]["actor"]), (&json!("a"), &json!("provider")));
    assert_eq!(data["data"]["after"]["address"], "one@a.example");
    assert_eq!(second.json()["data"]["customer"], "a/unit");
    assert_ne!(first.header("webhook-id"), second.header("webhook-id"));
    pass(&world).await;
    pass(&world).await;
    assert!(receiver.is_quiet());
    let shown = world.run(&chief, "webhook.show", json!({ "id": id })).await.unwrap();
    assert_eq!(
        (&shown["state"], &shown["delivered"], &shown["outcome"]),
        (&json!("on"), &json!(2), &json!("204"))
    );
    assert!(shown.get("secret").is_none());
    // The trail tells that there is a hook, and neither its secret nor all of its address.
    let found = world.must("audit.search", json!({ "operation": "webhook.create" })).await.to_string();
    assert!(found.contains("127.0.0.1") && !found.contains("whsec_") && !found.contains("/hook"), "{found}");
    let report = world.job("webhook.test", json!({ "id": id })).await;
    assert_eq!((&report["delivered"], &report["outcome"]), (&json!(true), &json!("204")));
    let test = receiver.next();
    assert!(is_signed(&secret, &test));
    assert_eq!(test.json()["type"], "webhook.test");
    world.run(&chief, "webhook.delete", json!({ "id": id })).await.unwrap();
    world.mailbox("two@a.example").await;
    pass(&world).await;
    assert!(receiver.is_quiet());
}

async fn what_is_not_taken_comes_again_later_and_for_a_day(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let receiver = Receiver::start();
    let (id, _) = hook(&world, &receiver, "a", json!(["customer.limit"])).await;
    limit(&world, "a", 1).await;
    limit(&world, "a", 2).await;
    receiver.answer("200 OK");
    receiver.answer("302 Found\r\nLocation: /elsewhere");
    pass(&world).await;
    let (first, second) = (receiver.next(), receiver.next());
    assert_eq!(
        (&first.json()["data"]["after"]["mailboxes"], &second.json()["data"]["after"]["mailboxes"]),
        (&json!(1), &json!(2))
    );
    let show = async || world.run(&chief, "webhook.show", json!({ "id": id })).await.unwrap();
    let shown = show().await;
    assert_eq!(
        (&shown["state"], &shown["outcome"], &shown["attempts"]),
        (&json!("retrying"), &json!("302"), &json!(1))
    );
    // Not before its time, and then the same event under the same id.
    pass(&world).await;
    assert!(receiver.is_quiet());
    world.clock.advance(Duration::from_secs(6));
    receiver.answer("500 Oh");
    pass(&world).await;
    let again = receiver.next();
    assert_eq!(again.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(show().await["attempts"], 2);
    world.clock.advance(Duration::from_secs(12));
    pass(&world).await;
    assert_eq!(receiver.next().header("webhook-id"), second.header("webhook-id"));
    assert_eq!((&show().await["state"], &show().await["attempts"]), (&json!("on"), &json!(0)));
    // A day without any that is taken.
    limit(&world, "a", 3).await;
    let mut attempts = 0;
    while show().await["state"] != "off" {
        receiver.answer("503 Later");
        pass(&world).await;
        receiver.next();
        world.clock.advance(Duration::from_secs(4_400));
        attempts += 1;
        assert!(attempts < 40);
    }
    assert!(attempts > 15, "{attempts}");
    pass(&world).await;
    assert!(receiver.is_quiet());
    let notices = world.run(&chief, "notice.list", json!({})).await.unwrap().to_string();
    assert!(notices.contains(&id) && notices.contains("switched off"), "{notices}");
    // It goes on where it stopped, or from now on.
    limit(&world, "a", 4).await;
    world.run(&chief, "webhook.enable", json!({ "id": id })).await.unwrap();
    pass(&world).await;
    assert_eq!(receiver.next().json()["data"]["after"]["mailboxes"], 3);
    assert_eq!(receiver.next().json()["data"]["after"]["mailboxes"], 4);
    // Who wants nothing any more says so.
    limit(&world, "a", 5).await;
    receiver.answer("410 Gone");
    pass(&world).await;
    receiver.next();
    assert_eq!(show().await["state"], "off");
    world.run(&chief, "webhook.enable", json!({ "id": id, "from_now": true })).await.unwrap();
    limit(&world, "a", 6).await;
    pass(&world).await;
    assert_eq!(receiver.next().json()["data"]["after"]["mailboxes"], 6);
    assert!(receiver.is_quiet());
}

async fn hooks_reach_nothing_that_is_not_public_unless_allowed(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let receiver = Receiver::start();
    for url in ["", "a", "ftp://x.example/", "https://u:p@x.example/", "https:///x"] {
        let asked = json!({ "customer": "a", "url": url });
        assert_eq!(refusal(world.run(&chief, "webhook.create", asked).await), "invalid", "{url}");
    }
    let asked = json!({ "customer": "a", "url": "https://x.example/", "kinds": ["mailbox.read-mail"] });
    assert_eq!(refusal(world.run(&chief, "webhook.create", asked).await), "invalid");
    // One that was allowed to when it was made, sent by a node where it is not.
    let (id, _) = hook(&world, &receiver, "a", json!(["customer.limit"])).await;
    let strict = Webhooks::new(Poster::new(Vec::new()), "strict".to_owned());
    limit(&world, "a", 1).await;
    strict.pass(&world.management).await.unwrap();
    let shown = world.run(&chief, "webhook.show", json!({ "id": id })).await.unwrap();
    assert_eq!(shown["state"], "retrying");
    assert!(shown["outcome"].as_str().unwrap().contains("webhooks.allow_networks"), "{shown}");
    assert!(receiver.is_quiet());
    for _ in 1..20 {
        hook(&world, &receiver, "a", json!([])).await;
    }
    let asked = json!({ "customer": "a", "url": "https://x.example/" });
    assert_eq!(refusal(world.run(&chief, "webhook.create", asked).await), "limit");
}

async fn moved_and_suspended_customers_are_silent(world: World) {
    world.aboard("old", "old.example").await;
    world.aboard("new", "new.example").await;
    world.must("customer.create", json!({ "path": "old/unit" })).await;
    let receiver = Receiver::start();
    hook(&world, &receiver, "old", json!(["customer.limit"])).await;
    limit(&world, "old/unit", 1).await;
    pass(&world).await;
    assert_eq!(receiver.next().json()["data"]["customer"], "old/unit");
    world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    limit(&world, "new/unit", 2).await;
    pass(&world).await;
    assert!(receiver.is_quiet());
    // While administration is held nothing is sent; it comes afterwards.
    let asked = json!({ "path": "old", "switch": "manage", "reason": "unpaid" });
    let held = world.must("hold.add", asked).await;
    limit(&world, "old", 3).await;
    pass(&world).await;
    assert!(receiver.is_quiet());
    world.must("hold.release", json!({ "id": held["id"] })).await;
    pass(&world).await;
    assert_eq!(receiver.next().json()["data"]["after"]["mailboxes"], 3);
}
