//! Spending limits: what is told and done when a month's amount is spent, and that it is taken back.

use std::time::Duration;

use posthouse::base::clock::Timestamp;
use posthouse::service::context::Authentication;
use posthouse::service::metering::Metering;
use posthouse::service::spending::SpendingPass;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(
    customer_is_warned_and_stopped_at_its_limit_until_the_next_month,
    raised_limit_takes_back_exactly_what_it_led_to,
    limit_is_set_above_alone_and_no_list_below_gets_around_it,
    limit_is_shown_with_the_customer_to_who_may_read_its_bills,
    deleted_customer_that_cannot_come_back_yet_does_later,
);

/// 2027-02-01, 00:00 in UTC: the world begins on 2027-01-15 at 08:00.
const FEBRUARY: Timestamp = Timestamp::from_secs(1_801_440_000);
const HOUR: Duration = Duration::from_secs(3_600);

/// A mailbox costs a unit for every hour of January, and the same in February.
fn prices(path: &str, mailbox_month: i64) -> Value {
    json!({ "path": path, "from": "2027-01", "currency": "EUR", "gib_month": 0, "mailbox_month": mailbox_month,
            "messages_1000": 0 })
}

/// Lets so many hours be counted, one after the other, and looks at limits after each.
async fn hours(world: &World, count: usize) {
    let (metering, pass) = (Metering::new(&world.management), SpendingPass::new(&world.management));
    for _ in 0..count {
        world.clock.advance(HOUR);
        metering.pass(world.clock.now()).await.unwrap();
        pass.pass().await.unwrap();
    }
}

async fn off(world: &World, path: &str) -> Value {
    world.must("customer.show", json!({ "path": path })).await["switches_off"].clone()
}

async fn limit_of(world: &World, path: &str) -> Value {
    let listed = world.must("spending.list", json!({ "customer": path })).await;
    listed["items"][0].clone()
}

/// The notices of the customer, the oldest first.
async fn told(world: &World, who: &Authentication) -> Vec<String> {
    let page = world.run(who, "notice.list", json!({})).await.unwrap();
    let text = |item: &Value| {
        let kind = item["kind"].as_str().unwrap();
        format!("{kind}: {}", item["subject"].as_str().unwrap())
    };
    let mut all: Vec<String> = page["items"].as_array().unwrap().iter().map(text).collect();
    all.reverse();
    all
}

async fn customer_is_warned_and_stopped_at_its_limit_until_the_next_month(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    world.must("price.set", prices("/", 744)).await;
    hours(&world, 2).await;
    let steps = ["disable-login", "stop-receiving+2h", "delete+4h"];
    let asked = json!({ "path": "a", "amount": 20, "on_limit": steps });
    let said = world.must("spending.set", asked).await;
    assert_eq!((&said["spending"]["currency"], &said["spending"]["spent"]), (&json!("EUR"), &json!(0)));
    // Sixteen units are 80 %; the first hour that is counted began before the world did.
    let spent = async || limit_of(&world, "a").await["spent"].as_i64().unwrap();
    hours(&world, 1).await;
    let before = spent().await;
    assert!((1..5).contains(&before), "{before}");
    hours(&world, usize::try_from(15 - before).unwrap()).await;
    assert_eq!((spent().await, told(&world, &chief).await.len()), (15, 0));
    hours(&world, 1).await;
    assert_eq!(
        told(&world, &chief).await,
        ["spending-warning: customer a has spent 80 % of what it may this month"]
    );
    hours(&world, 3).await;
    assert_eq!(told(&world, &chief).await.len(), 2);
    assert_eq!(off(&world, "a").await, json!([]));
    hours(&world, 1).await;
    assert_eq!(off(&world, "a").await, json!(["login"]));
    let shown = limit_of(&world, "a").await;
    assert_eq!((&shown["spent"], &shown["percent"], &shown["taken"]), (&json!(20), &json!(100), &json!(1)));
    let all = told(&world, &chief).await;
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all[2], "spending: customer a has spent what it may this month: disable-login");
    // The hold says why it is there, and is not the customer's to release.
    let holds = world.run(&chief, "hold.list", json!({ "path": "a" })).await.unwrap();
    let hold = &holds["items"][0];
    assert_eq!((&hold["reason"], &hold["authority"]), (&json!("spending-limit"), &json!("provider")));
    let release = world.run(&chief, "hold.release", json!({ "id": hold["id"] })).await;
    assert_eq!(refusal(release), "forbidden");
    hours(&world, 2).await;
    assert_eq!(off(&world, "a").await, json!(["login", "receive"]));
    hours(&world, 2).await;
    assert_eq!(refusal(world.run(&world.system, "customer.show", json!({ "path": "a" })).await), "not-found");
    // Nothing more happens, and the next month begins with nothing spent.
    hours(&world, 2).await;
    let left = u64::try_from(FEBRUARY.secs() - world.clock.now().secs()).unwrap();
    world.clock.advance(Duration::from_secs(left - 1));
    let pass = SpendingPass::new(&world.management);
    pass.pass().await.unwrap();
    assert_eq!(refusal(world.run(&world.system, "customer.show", json!({ "path": "a" })).await), "not-found");
    world.clock.advance(Duration::from_secs(1));
    pass.pass().await.unwrap();
    assert_eq!(off(&world, "a").await, json!([]));
    world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    let shown = limit_of(&world, "a").await;
    assert_eq!(
        (&shown["month"], &shown["spent"], &shown["taken"]),
        (&json!("2027-02"), &json!(0), &json!(0))
    );
    let found = world.must("audit.search", json!({ "operation": "spending.set", "customer": "a" })).await;
    let taken = |name: &str| {
        let items = found["items"].as_array().unwrap().iter();
        items.filter_map(|item| item["after"][name].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(taken("taken"), ["delete", "stop-receiving", "disable-login"]);
    assert_eq!(taken("taken_back"), ["disable-login", "stop-receiving", "delete"]);
}

async fn raised_limit_takes_back_exactly_what_it_led_to(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    world.must("price.set", prices("/", 744)).await;
    // A hold of its own, which nobody takes for the limit's.
    let own = json!({ "path": "a", "switch": "login", "reason": "spending-limit" });
    let own = world.run(&chief, "hold.add", own).await.unwrap()["id"].clone();
    world.must("spending.set", json!({ "path": "a", "amount": 3 })).await;
    hours(&world, 6).await;
    let holds = async || {
        let holds = world.must("hold.list", json!({ "path": "a" })).await;
        holds["items"].as_array().unwrap().iter().map(|hold| hold["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(holds().await.len(), 2);
    let dry = posthouse::service::registry::RunOptions { dry_run: true, ..Default::default() };
    let raise = json!({ "path": "a", "amount": 1_000 });
    world.run_with(&world.system, "spending.set", raise.clone(), dry, None).await.unwrap();
    assert_eq!(holds().await.len(), 2);
    world.must("spending.set", raise).await;
    assert_eq!(holds().await, [own]);
    hours(&world, 2).await;
    assert_eq!(holds().await.len(), 1);
    // Only warned; then nothing may be spent at all; then there is no limit.
    world.must("spending.set", json!({ "path": "a", "amount": 4, "on_limit": ["none"] })).await;
    hours(&world, 1).await;
    let last = told(&world, &chief).await.pop().unwrap();
    assert_eq!(last, "spending-warning: customer a has spent 100 % of what it may this month");
    assert_eq!(holds().await.len(), 1);
    world.must("spending.set", json!({ "path": "a", "amount": 0 })).await;
    hours(&world, 1).await;
    assert_eq!(holds().await.len(), 2);
    world.must("spending.set", json!({ "path": "a", "amount": null })).await;
    assert_eq!(holds().await.len(), 1);
    let listed = world.must("spending.list", json!({ "customer": "a" })).await;
    assert_eq!(listed["items"], json!([]));
    hours(&world, 2).await;
    assert_eq!(holds().await.len(), 1);
}

async fn limit_is_set_above_alone_and_no_list_below_gets_around_it(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.must("customer.create", json!({ "path": "top/low/own", "domain": "own.example" })).await;
    world.mailbox("x@own.example").await;
    let limit = |path: &str, amount: i64| json!({ "path": path, "amount": amount });
    // Without prices the currency must be said.
    assert_eq!(refusal(world.run(&top, "spending.set", limit("top/low", 5)).await), "invalid");
    world.must("price.set", prices("top", 744)).await;
    assert_eq!(refusal(world.run(&low, "spending.set", limit("low", 5)).await), "forbidden");
    world.run(&top, "spending.set", limit("top/low", 5)).await.unwrap();
    // What was set from further up is not changed from below.
    world.must("spending.set", limit("top/low", 5)).await;
    for change in [limit("top/low", 5_000), json!({ "path": "top/low", "amount": null })] {
        assert_eq!(refusal(world.run(&top, "spending.set", change).await), "forbidden");
    }
    assert_eq!(refusal(world.run(&world.system, "spending.set", limit("/", 5)).await), "conflict");
    for wrong in [
        limit("top", -1),
        limit("top", i64::MAX),
        json!({ "path": "top", "amount": 5, "currency": "euro" }),
        json!({ "path": "top", "amount": 5, "on_limit": ["none", "delete"] }),
        json!({ "path": "top", "amount": 5, "on_limit": ["delete", "disable-login"] }),
    ] {
        assert_eq!(
            refusal(world.run(&world.system, "spending.set", wrong.clone()).await),
            "invalid",
            "{wrong}"
        );
    }
    // A list of one's own makes one's customers' bills cheaper, not what one owes oneself.
    world.run(&low, "price.set", prices("low/own", 0)).await.unwrap();
    hours(&world, 8).await;
    assert_eq!(off(&world, "top/low").await, json!(["login"]));
    let listed = world.run(&low, "spending.list", json!({})).await.unwrap();
    assert_eq!((&listed["items"][0]["customer"], &listed["items"][0]["taken"]), (&json!("low"), &json!(1)));
    assert!(listed["items"].as_array().unwrap().len() == 1);
}

async fn deleted_customer_that_cannot_come_back_yet_does_later(world: World) {
    for name in ["a", "b"] {
        world.aboard(name, &format!("{name}.example")).await;
        world.mailbox(&format!("x@{name}.example")).await;
    }
    world.must("price.set", prices("/", 744)).await;
    for name in ["a", "b"] {
        world.must("spending.set", json!({ "path": name, "amount": 1, "on_limit": ["delete"] })).await;
    }
    hours(&world, 2).await;
    let gone = async || world.integer("SELECT count(*) FROM customer WHERE deleted_at IS NOT NULL").await;
    assert_eq!(gone().await, 2);
    // Somebody else has the name now.
    world.must("customer.create", json!({ "path": "a" })).await;
    let left = u64::try_from(FEBRUARY.secs() - world.clock.now().secs()).unwrap();
    world.clock.advance(Duration::from_secs(left));
    let pass = SpendingPass::new(&world.management);
    assert_eq!(pass.pass().await.unwrap(), 1, "the other one is not held up");
    assert_eq!(gone().await, 1);
    world.must("customer.rename", json!({ "path": "a", "slug": "c" })).await;
    assert_eq!(pass.pass().await.unwrap(), 0);
    world.clock.advance(HOUR / 6);
    assert_eq!((pass.pass().await.unwrap(), gone().await), (1, 0));
    world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
}

async fn limit_is_shown_with_the_customer_to_who_may_read_its_bills(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let asked = json!({ "name": "reader", "customer": "a", "role": "viewer" });
    let viewer = world.login(&world.must("administrator.create", asked).await["token"]).await;
    let shown = async |who: &Authentication| {
        world.run(who, "customer.show", json!({ "path": "a" })).await.unwrap().get("spending").cloned()
    };
    assert_eq!(shown(&chief).await, None);
    world.must("spending.set", json!({ "path": "a", "amount": 20, "currency": "EUR" })).await;
    let listed = world.run(&chief, "spending.list", json!({})).await.unwrap();
    let mut limit = listed["items"][0].clone();
    assert_eq!(limit.as_object_mut().unwrap().remove("customer"), Some(json!("a")));
    assert_eq!((&limit["amount"], &limit["on_limit"]), (&json!(20), &json!(["disable-login"])));
    assert_eq!(shown(&chief).await, Some(limit));
    // Who may not read bills is told nothing of it.
    assert_eq!(refusal(world.run(&viewer, "spending.list", json!({})).await), "forbidden");
    assert_eq!(shown(&viewer).await, None);
}
