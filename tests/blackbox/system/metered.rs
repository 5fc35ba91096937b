//! What is used over time adds up, across moves and purges, and bills follow from it.

use posthouse::service::metering::Metering;

use super::*;
use crate::metadata::message;

/// The hour of [`NOW`] since 1970, and the first hours of the month after, and of the one after that.
const FIRST: i64 = 277_777;
const OCTOBER: i64 = 278_304;
const NOVEMBER: i64 = OCTOBER + 31 * 24;

/// Lets the hours up to `hour` go by, closing each if `each`, else the last alone.
async fn close(world: &World, hour: i64, each: bool) -> usize {
    let metering = Metering::new(&world.management);
    let mut lines = 0;
    let now = |world: &World| (world.clock.now().secs() - 120).div_euclid(3_600) - 1;
    while now(world) < hour {
        let step = if each { 1 } else { hour - now(world) };
        let end = (now(world) + step + 1) * 3_600 + 120;
        world.clock.advance(Duration::from_secs(u64::try_from(end - world.clock.now().secs()).unwrap()));
        lines += metering.pass(world.clock.now()).await.unwrap();
        // Another node that looks too changes nothing.
        assert_eq!(metering.pass(world.clock.now()).await.unwrap(), 0);
    }
    lines
}

async fn delivered(world: &World, mailbox: i64, octets: usize) {
    let mut deliver = message(octets, &[MailboxId(mailbox)], false);
    deliver.at = world.clock.now();
    assert!(world.database.deliver(deliver).await.unwrap()[0].is_ok());
}

async fn usage(world: &World, who: &Authentication, month: &str) -> Value {
    world.run(who, "report.usage", json!({ "month": month })).await.unwrap()
}

/// Octets and mailboxes times hours, and messages, of a customer with all below it.
fn of(report: &Value, customer: &str) -> Option<[i64; 3]> {
    let line = report["customers"].as_array().unwrap().iter().find(|line| line["customer"] == customer)?;
    Some(["byte_hours", "mailbox_hours", "messages_in"].map(|name| line[name].as_i64().unwrap()))
}

pub async fn use_adds_up_by_the_hour_across_moves(world: World) {
    delivered(&world, 1, 1_000).await;
    delivered(&world, 1, 500).await;
    // Two domains that have something; then hours in which nothing happens.
    assert_eq!(close(&world, FIRST, true).await, 2);
    assert_eq!(close(&world, FIRST + 3, true).await, 0);
    delivered(&world, 2, 70).await;
    assert_eq!(close(&world, FIRST + 4, true).await, 1);
    let report = usage(&world, &world.system, "2001-09").await;
    let hours = FIRST + 5 - (OCTOBER - 720);
    assert_eq!((&report["is_final"], &report["hours"]), (&json!(false), &json!(hours)));
    assert_eq!(of(&report, "a"), Some([7_500, 5, 2]));
    assert_eq!(of(&report, "b"), Some([70, 5, 1]));
    assert_eq!(of(&report, "/"), Some([7_570, 10, 3]));
    // The hour of a move belongs to the new place; each reader sees its own time.
    world.run(&world.system, "domain.move", json!({ "domain": "a.example", "to": "b" })).await.unwrap();
    delivered(&world, 1, 500).await;
    close(&world, FIRST + 6, true).await;
    let report = usage(&world, &world.a, "2001-09").await;
    assert_eq!((of(&report, "a"), of(&report, "b")), (Some([7_500, 5, 2]), None));
    let report = usage(&world, &world.b, "2001-09").await;
    assert_eq!((of(&report, "b"), of(&report, "a")), (Some([70 * 3 + 2 * 2_000, 5 + 2 * 2, 2]), None));
    // So when a customer moves below another.
    world.run(&world.system, "customer.create", json!({ "path": "c" })).await.unwrap();
    world.run(&world.system, "customer.move", json!({ "path": "b", "to": "c" })).await.unwrap();
    close(&world, FIRST + 7, true).await;
    let report = usage(&world, &world.system, "2001-09").await;
    assert_eq!(of(&report, "c"), Some([2_070, 2, 0]));
    assert_eq!(of(&report, "c/b"), Some([2_070, 2, 0]));
    assert_eq!(of(&report, "b"), Some([70 * 3 + 2 * 2_000, 5 + 2 * 2, 2]));
    let report = usage(&world, &world.b, "2001-09").await;
    assert_eq!(
        of(&report, "b"),
        Some([70 * 3 + 2 * 2_000 + 2_070, 5 + 2 * 2 + 2, 2]),
        "its own view does not change"
    );
    // Weeks without a look, then the month is frozen; what it came to outlives everything.
    close(&world, OCTOBER, false).await;
    let report = usage(&world, &world.system, "2001-09").await;
    let hours = OCTOBER - FIRST;
    assert_eq!((&report["is_final"], &report["hours"]), (&json!(true), &json!(720)));
    let octets = 1_500 * 5 + 2_000 * (hours - 5) + 70 * (hours - 4);
    assert_eq!(of(&report, "/"), Some([octets, 2 * hours, 4]));
    let october = usage(&world, &world.system, "2001-10").await;
    assert_eq!(of(&october, "/"), Some([2_070, 2, 0]));
    world.run(&world.system, "customer.delete", json!({ "path": "c" })).await.unwrap();
    for _ in 0..3 {
        world.housekeeping().pass(world.clock.now().plus(DAY * 31)).await.unwrap();
    }
    assert_eq!(world.number("SELECT count(*) FROM mailbox").await, 0);
    assert_eq!(usage(&world, &world.system, "2001-09").await, report);
    // What was purged uses nothing any more; old hours are folded, and nothing changes by that.
    close(&world, OCTOBER + 10, true).await;
    let before = usage(&world, &world.system, "2001-10").await;
    assert_eq!(of(&before, "/"), Some([2_070, 2, 0]));
    let lines = world.number("SELECT count(*) FROM usage_line").await;
    close(&world, OCTOBER + 14 * 24 - 1, false).await;
    assert!(world.number("SELECT count(*) FROM usage_line").await < lines);
    assert_eq!(world.number("SELECT CAST(sum(messages_in) AS BIGINT) FROM usage_line").await, 4);
    close(&world, NOVEMBER, false).await;
    let after = usage(&world, &world.system, "2001-10").await;
    assert_eq!((of(&after, "/"), &after["is_final"]), (Some([2_070, 2, 0]), &json!(true)));
    assert_eq!(usage(&world, &world.system, "2001-09").await, report);
}

pub async fn bills_are_sums_of_rounded_lines_by_the_nearest_prices(world: World) {
    let set = async |who: &Authentication, fields: Value| world.run(who, "price.set", fields).await;
    let prices = |path: &str, from: &str, mailbox: i64| {
        json!({ "path": path, "from": from, "currency": "EUR", "gib_month": 0, "mailbox_month": mailbox,
                "messages_1000": 500 })
    };
    set(&world.system, prices("/", "2001-09", 720)).await.unwrap();
    // What constrains a customer is said above it; a month that is over is never priced anew.
    assert_eq!(set(&world.a, prices("a", "2001-09", 0)).await.unwrap_err().refusal(), Some("forbidden"));
    assert_eq!(set(&world.system, prices("a", "2001-08", 0)).await.unwrap_err().refusal(), Some("conflict"));
    for wrong in [prices("a", "2001-09", -1), prices("a", "2001-13", 1), prices("a", "2001-09", i64::MAX)] {
        assert_eq!(set(&world.system, wrong).await.unwrap_err().refusal(), Some("invalid"));
    }
    set(&world.system, prices("b", "2001-09", 7_200)).await.unwrap();
    set(&world.system, prices("b", "2001-10", 1)).await.unwrap();
    delivered(&world, 1, 1_000).await;
    close(&world, FIRST + 4, true).await;
    // Five hours of one mailbox each: 5 × 720 / 720, and 5 × 7,200 / 720; one message of a thousand at 500: rounded up.
    let bill = async |who: &Authentication| {
        world.run(who, "report.bill", json!({ "month": "2001-09" })).await.unwrap()
    };
    let whole = bill(&world.system).await;
    assert_eq!(whole["totals"], json!([{ "currency": "EUR", "amount": 5 + 1 + 50 }]), "{whole}");
    let of_a = bill(&world.a).await;
    assert_eq!(of_a["totals"], json!([{ "currency": "EUR", "amount": 6 }]), "{of_a}");
    assert_eq!(of_a["lines"].as_array().unwrap().len(), 2);
    let shown = world.run(&world.a, "price.show", json!({ "path": "a" })).await.unwrap();
    assert_eq!(
        (&shown["prices"]["mailbox_month"], shown["prices"].get("customer")),
        (&json!(720), None),
        "{shown}"
    );
    let own = world.run(&world.b, "price.list", json!({})).await.unwrap();
    assert_eq!(own["items"].as_array().unwrap().len(), 2, "{own}");
    let clerk = json!({ "name": "clerk", "customer": "a", "role": "billing" });
    let made = world.run(&world.system, "administrator.create", clerk).await.unwrap();
    let token = made["token"].as_str().unwrap();
    let clerk = world.management.authenticate_token(token, None).await.unwrap().unwrap();
    assert_eq!(bill(&clerk).await["totals"], of_a["totals"]);
    // A frozen bill stays, whatever happens afterwards.
    close(&world, OCTOBER, false).await;
    let last = bill(&world.b).await;
    assert_eq!(last["totals"], json!([{ "currency": "EUR", "amount": (OCTOBER - FIRST) * 10 }]), "{last}");
    assert_eq!(last["is_final"], true);
    assert_eq!(set(&world.system, prices("b", "2001-09", 0)).await.unwrap_err().refusal(), Some("conflict"));
    world.run(&world.system, "customer.move", json!({ "path": "b", "to": "a" })).await.unwrap();
    close(&world, OCTOBER + 2, true).await;
    assert_eq!(bill(&world.b).await, last);
}
