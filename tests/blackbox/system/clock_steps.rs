//! Clocks that step, backwards and forwards: nothing is counted twice, nothing is lost, nobody is told twice.

use posthouse::service::metering::Metering;
use posthouse::service::quota::{QuotaWatch, Watched};

use super::*;
use crate::metadata::message;

const HOUR: Duration = Duration::from_secs(3_600);

async fn delivered(world: &World, mailbox: i64, octets: usize) {
    let mut deliver = message(octets, &[MailboxId(mailbox)], false);
    deliver.at = world.clock.now();
    assert!(world.database.deliver(deliver).await.unwrap()[0].is_ok());
}

/// Octets times hours of `a`, and hours with a mailbox.
async fn used(world: &World) -> [i64; 2] {
    let report = world.run(&world.system, "report.usage", json!({ "month": "2001-09" })).await.unwrap();
    let lines = report["customers"].as_array().unwrap();
    let line = lines.iter().find(|line| line["customer"] == "a").unwrap_or_else(|| panic!("{report}"));
    ["byte_hours", "mailbox_hours"].map(|name| line[name].as_i64().unwrap())
}

pub async fn metering_counts_each_hour_once_whichever_way_the_clock_steps(world: World) {
    let metering = Metering::new(&world.management);
    delivered(&world, 1, 1_000).await;
    for _ in 0..5 {
        world.clock.advance(HOUR);
        metering.pass(world.clock.now()).await.unwrap();
    }
    let [octets, hours] = used(&world).await;
    assert_eq!(octets, hours * 1_000);
    let right = world.clock.now();
    // Back by days and by minutes: those hours are counted already.
    for back in [Duration::from_secs(90), HOUR * 3, DAY * 40] {
        world.clock.set(right.minus(back));
        metering.pass(world.clock.now()).await.unwrap();
        delivered(&world, 2, 10).await;
    }
    world.clock.set(right);
    metering.pass(right).await.unwrap();
    assert_eq!(used(&world).await, [octets, hours]);
    world.clock.set(right.plus(HOUR * 4));
    metering.pass(world.clock.now()).await.unwrap();
    assert_eq!(used(&world).await, [octets + 4_000, hours + 4]);
    // Far ahead, and right again: the hours that were not there yet are counted once at most.
    world.clock.set(right.plus(HOUR * 24));
    metering.pass(world.clock.now()).await.unwrap();
    let ahead = used(&world).await;
    world.clock.set(right.plus(HOUR * 5));
    metering.pass(world.clock.now()).await.unwrap();
    assert_eq!(used(&world).await, ahead);
    world.clock.set(right.plus(HOUR * 25));
    metering.pass(world.clock.now()).await.unwrap();
    assert_eq!(used(&world).await, [ahead[0] + 1_000, ahead[1] + 1]);
}

pub async fn trail_is_sealed_and_verified_whichever_way_the_clock_steps(world: World) {
    let right = world.clock.now();
    let steps = [right.plus(DAY), right.minus(DAY * 400), right.plus(DAY * 4_000), right, Timestamp(0)];
    for (number, now) in steps.into_iter().enumerate() {
        world.clock.set(now);
        let asked = json!({ "path": "a", "messages": 1_000 + number });
        world.run(&world.system, "customer.limit", asked).await.unwrap();
        world.sealer.pass().await.unwrap();
    }
    world.clock.set(right.plus(DAY));
    let verified = world.job(&world.system, "audit.verify", json!({})).await.unwrap();
    assert_eq!(verified["found"], 0, "{verified}");
    // In the order in which it was done, whatever the clock said.
    let asked = json!({ "operation": "customer.limit", "customer": "a" });
    let found = world.run(&world.system, "audit.search", asked).await.unwrap();
    let told = found["items"].as_array().unwrap().iter();
    let told: Vec<i64> = told.map(|item| item["after"]["messages"].as_i64().unwrap()).collect();
    assert_eq!(told, [1_004, 1_003, 1_002, 1_001, 1_000]);
}

pub async fn warnings_and_purges_survive_a_clock_that_steps(world: World) {
    let quota = json!({ "address": "x@a.example", "quota": 1_000 });
    world.run(&world.system, "mailbox.quota", quota).await.unwrap();
    let watch = QuotaWatch::new(&world.management);
    delivered(&world, 1, 850).await;
    let right = world.clock.now();
    assert_eq!(watch.pass(right).await.unwrap(), Watched { warnings: 1, lowered: 0 });
    for now in [right.minus(DAY * 400), right.plus(DAY), right, Timestamp(0), right] {
        world.clock.set(now);
        assert_eq!(watch.pass(now).await.unwrap(), Watched::default(), "once for each crossing");
    }
    // What was deleted today is there for as long as it should be, also when the clock has been back meanwhile.
    world.run(&world.system, "mailbox.delete", json!({ "address": "x@b.example" })).await.unwrap();
    let housekeeping = world.housekeeping();
    for now in [right.minus(DAY * 400), Timestamp(0), right.plus(DAY * 29)] {
        assert_eq!(housekeeping.pass(now).await.unwrap().mailboxes, 0, "{now}");
    }
    world.run(&world.system, "mailbox.undelete", json!({ "address": "x@b.example" })).await.unwrap();
    // Deleted while the clock was ahead: it is kept for longer, not for less.
    world.clock.set(right.plus(DAY * 100));
    world.run(&world.system, "mailbox.delete", json!({ "address": "x@b.example" })).await.unwrap();
    world.clock.set(right);
    assert_eq!(housekeeping.pass(right.plus(DAY * 60)).await.unwrap().mailboxes, 0);
    let answer = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(answer["drift"], 0, "{answer}");
}
