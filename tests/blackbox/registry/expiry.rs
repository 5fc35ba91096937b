//! Expiry dates: warnings, steps in order, taking them back exactly, and clocks that jump.

use std::time::Duration;

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::service::context::{Authentication, Service};
use posthouse::service::expiry::ExpiryPass;
use posthouse::service::login::Login;
use posthouse::service::registry::{Management, ManagementOptions};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(
    customer_is_warned_and_loses_one_thing_after_the_other_and_gets_exactly_that_back,
    date_is_moved_by_who_has_set_it_or_above_alone,
    expired_administrator_and_mailbox_are_out_at_once,
    clock_that_was_wrong_does_no_lasting_harm,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn off(world: &World, path: &str) -> Value {
    world.must("customer.show", json!({ "path": path })).await["switches_off"].clone()
}

async fn told(world: &World, who: &Authentication) -> Vec<String> {
    let page = world.run(who, "notice.list", json!({})).await.unwrap();
    let kinds = page["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap());
    kinds.map(str::to_owned).collect()
}

async fn customer_is_warned_and_loses_one_thing_after_the_other_and_gets_exactly_that_back(world: World) {
    let asked = json!({ "path": "a", "domain": "a.example", "admin": "chief", "expires_at": "20d",
                        "on_expiry": ["disable-login", "stop-receiving+7d", "delete+30d"] });
    let made = world.must("customer.create", asked).await;
    let chief = world.login(&made["token"]).await;
    let code = made["code"].clone();
    world.mailbox("x@a.example").await;
    let pass = ExpiryPass::new(&world.management);
    assert_eq!(pass.pass().await.unwrap(), 0);
    world.clock.advance(DAY * 6);
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(pass.pass().await.unwrap(), 0);
    let me = world.run(&chief, "whoami", json!({})).await.unwrap();
    assert_eq!(me["notices"]["count"], 1);
    assert_eq!(me["notices"]["newest"][0]["kind"], "expiry-warning");
    assert!(me["notices"]["newest"][0]["subject"].as_str().unwrap().starts_with("customer a expires on "));
    let id = me["notices"]["newest"][0]["id"].clone();
    world.run(&chief, "notice.read", json!({ "id": id })).await.unwrap();
    assert_eq!(world.run(&chief, "whoami", json!({})).await.unwrap()["notices"]["count"], 0);
    // A hold of its own, which nobody takes for the date's.
    let own = json!({ "path": "a", "switch": "send", "reason": "expired" });
    world.run(&chief, "hold.add", own).await.unwrap();
    world.clock.advance(DAY * 14);
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(off(&world, "a").await, json!(["login", "send"]));
    // The customer does not release itself.
    let holds = world.run(&chief, "hold.list", json!({ "path": "a" })).await.unwrap();
    let login = holds["items"].as_array().unwrap().iter().find(|hold| hold["switch"] == "login").unwrap();
    assert_eq!(login["authority"], "provider");
    let release = world.run(&chief, "hold.release", json!({ "id": login["id"] })).await;
    assert_eq!(refusal(release), "forbidden");
    world.clock.advance(DAY * 7);
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(off(&world, "a").await, json!(["login", "receive", "send"]));
    world.clock.advance(DAY * 23);
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(refusal(world.run(&world.system, "customer.show", json!({ "path": "a" })).await), "not-found");
    assert_eq!(world.integer("SELECT count(*) FROM mailbox WHERE deleted_at IS NULL").await, 0);
    world.clock.advance(DAY * 10);
    assert_eq!(pass.pass().await.unwrap(), 0);
    // The date is moved: all of it comes back, and the customer's own hold stays.
    world.must("customer.expire", json!({ "path": code, "expires_at": "90d" })).await;
    assert_eq!(off(&world, "a").await, json!(["send"]));
    world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    let shown = world.must("customer.show", json!({ "path": "a" })).await;
    assert_eq!(
        (&shown["expiry"]["taken"], &shown["expiry"]["on_expiry"]),
        (&json!(0), &json!(["disable-login"]))
    );
    world.must("customer.expire", json!({ "path": "a", "expires_at": null })).await;
    assert_eq!(world.must("customer.show", json!({ "path": "a" })).await.get("expiry"), None);
    world.clock.advance(DAY * 200);
    assert_eq!(pass.pass().await.unwrap(), 0);
    let found = world.must("audit.search", json!({ "customer": "a", "operation": "customer." })).await;
    let done: Vec<&str> =
        found["items"].as_array().unwrap().iter().map(|one| one["operation"].as_str().unwrap()).collect();
    for name in ["customer.expire", "customer.delete", "customer.undelete"] {
        assert!(done.contains(&name), "{done:?}");
    }
}

async fn date_is_moved_by_who_has_set_it_or_above_alone(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.mailbox("x@low.example").await;
    let expire = |path: &str, time: &str| json!({ "path": path, "expires_at": time });
    // Nobody at the customer itself; whoever is above.
    assert_eq!(refusal(world.run(&low, "customer.expire", expire("low", "30d")).await), "forbidden");
    world.run(&top, "customer.expire", expire("top/low", "30d")).await.unwrap();
    // What was set from further up is not moved from below.
    world.must("customer.expire", expire("top/low", "20d")).await;
    for change in [expire("top/low", "300d"), json!({ "path": "top/low", "expires_at": null })] {
        assert_eq!(refusal(world.run(&top, "customer.expire", change).await), "forbidden");
    }
    assert_eq!(refusal(world.run(&world.system, "customer.expire", expire("/", "20d")).await), "conflict");
    for wrong in [
        json!({ "path": "top", "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "path": "top", "expires_at": "soon" }),
        json!({ "path": "top", "expires_at": "9d", "on_expiry": ["delete", "disable-login"] }),
        json!({ "path": "top", "expires_at": "9d", "on_expiry": ["purge"] }),
    ] {
        assert_eq!(
            refusal(world.run(&world.system, "customer.expire", wrong.clone()).await),
            "invalid",
            "{wrong}"
        );
    }
    // Who may only lock mailboxes sets no date that deletes one.
    let asked = json!({ "name": "help", "customer": "top/low", "role": "helpdesk" });
    let help = world.must("administrator.create", asked).await;
    let help = world.login(&help["token"]).await;
    let date = |steps: Value| json!({ "address": "x@low.example", "expires_at": "30d", "on_expiry": steps });
    let deletes = world.run(&help, "mailbox.expire", date(json!(["disable-login", "delete"]))).await;
    assert_eq!(refusal(deletes), "forbidden");
    world.run(&help, "mailbox.expire", date(json!(["disable-login"]))).await.unwrap();
    world.run(&low, "mailbox.expire", date(json!(["delete"]))).await.unwrap();
    // Nor takes it away one that does.
    assert_eq!(
        refusal(world.run(&help, "mailbox.expire", date(json!(["disable-login"]))).await),
        "forbidden"
    );
}

async fn expired_administrator_and_mailbox_are_out_at_once(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    world.mailbox("y@a.example").await;
    let asked = json!({ "name": "temp", "customer": "a", "role": "viewer" });
    let made = world.run(&world.system, "administrator.create", asked).await.unwrap();
    let (token, name) = (made["token"].as_str().unwrap(), made["name"].clone());
    let temp = world.login(&made["token"]).await;
    let me = world.run(&chief, "whoami", json!({})).await.unwrap()["name"].clone();
    let own = world.run(&temp, "administrator.expire", json!({ "name": name, "expires_at": "9d" }));
    assert_eq!(refusal(own.await), "forbidden");
    let own = json!({ "name": me, "expires_at": "9d" });
    assert!(matches!(
        refusal(world.run(&chief, "administrator.expire", own).await),
        "conflict" | "forbidden"
    ));
    world.must("administrator.expire", json!({ "name": name, "expires_at": "20d" })).await;
    world
        .run(&chief, "mailbox.expire", json!({ "address": "x@a.example", "expires_at": "20d" }))
        .await
        .unwrap();
    let login = Login::new(world.database.clone(), world.clock.clone());
    let word = SecretString::from("secret");
    let session = login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let other = login.password(Service::Imap, "y@a.example", &word, None).await.unwrap();
    let pass = ExpiryPass::new(&world.management);
    world.clock.advance(DAY * 20);
    assert_eq!(pass.pass().await.unwrap(), 4);
    tokio::time::timeout(Duration::from_secs(60), session.ended()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), other.ended()).await.is_err());
    assert!(login.password(Service::Imap, "x@a.example", &word, None).await.is_err());
    assert!(world.management.authenticate_token(token, None).await.unwrap().is_none());
    assert_eq!(told(&world, &temp).await, ["expiry", "expiry-warning"]);
    world.must("administrator.expire", json!({ "name": name, "expires_at": "20d" })).await;
    assert!(world.management.authenticate_token(token, None).await.unwrap().is_some());
    // Somebody who was disabled before by others stays so.
    world.must("administrator.disable", json!({ "name": name })).await;
    world.clock.advance(DAY * 20);
    pass.pass().await.unwrap();
    world.must("administrator.expire", json!({ "name": name, "expires_at": null })).await;
    assert_eq!(world.must("administrator.show", json!({ "name": name })).await["enabled"], false);
    // Deleted by its date, and back.
    let date = json!({ "name": name, "expires_at": "1d", "on_expiry": ["delete"] });
    world.must("administrator.expire", date).await;
    world.clock.advance(DAY * 2);
    pass.pass().await.unwrap();
    assert_eq!(
        refusal(world.run(&world.system, "administrator.show", json!({ "name": name })).await),
        "not-found"
    );
    world.must("administrator.expire", json!({ "name": name, "expires_at": null })).await;
    world.must("administrator.show", json!({ "name": name })).await;
}

async fn clock_that_was_wrong_does_no_lasting_harm(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    let date = json!({ "path": "a", "expires_at": "100d", "on_expiry": ["disable-login", "delete+30d"] });
    world.must("customer.expire", date).await;
    let started = world.clock.now();
    let at = async |now: Timestamp| {
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(world.database.clone(), Clock::manual(now), options).await.unwrap();
        ExpiryPass::new(&management).pass().await.unwrap()
    };
    // Years ahead: everything is taken.
    assert_eq!(at(started.plus(DAY * 4_000)).await, 3);
    assert_eq!(refusal(world.run(&world.system, "customer.show", json!({ "path": "a" })).await), "not-found");
    // Right again: everything is given back, and the warning will come anew.
    assert_eq!(at(started).await, 2);
    assert_eq!(off(&world, "a").await, json!([]));
    world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    assert_eq!(at(started).await, 0);
    assert_eq!(at(started.plus(DAY * 90)).await, 1);
    // A few minutes back are nothing.
    assert_eq!(at(started.plus(DAY * 100)).await, 1);
    assert_eq!(at(started.plus(DAY * 100).minus(Duration::from_secs(600))).await, 0);
    assert_eq!(off(&world, "a").await, json!(["login"]));
}
