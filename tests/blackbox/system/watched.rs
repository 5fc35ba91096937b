//! Warnings before limits are reached: once for each crossing, to those whom it concerns.

use posthouse::service::quota::{QuotaWatch, Watched};
use posthouse::storage::metadata::quota::QuotaOwner;
use posthouse::storage::metadata::quota_mark;

use super::*;
use crate::metadata::message;

pub async fn nearing_a_limit_is_told_once_for_each_crossing(world: World) {
    let limit = async |bytes: Option<i64>| {
        let asked = json!({ "path": "a", "bytes": bytes, "messages": 1_000 });
        world.run(&world.system, "customer.limit", asked).await.unwrap();
    };
    let quota = json!({ "address": "x@a.example", "quota": 1_000 });
    world.run(&world.system, "mailbox.quota", quota).await.unwrap();
    limit(Some(10_000)).await;
    let watch = QuotaWatch::new(&world.management);
    let pass = async || watch.pass(world.clock.now()).await.unwrap();
    let deliver = async |octets: usize| {
        let answers = world.database.deliver(message(octets, &[MailboxId(1)], false)).await.unwrap();
        assert!(answers[0].is_ok());
    };
    deliver(799).await;
    assert_eq!(pass().await, Watched::default());
    deliver(1).await;
    assert_eq!(pass().await, Watched { warnings: 1, lowered: 0 });
    assert_eq!(pass().await, Watched::default(), "once for each crossing");
    deliver(160).await;
    assert_eq!(pass().await, Watched { warnings: 1, lowered: 0 });
    // A refusal makes it full; so one that waited too long is told for good.
    let note = world.database.write(Priority::Interactive, |conn| {
        Box::pin(quota_mark::note_full(conn, QuotaOwner::Mailbox(MailboxId(1)), NOW))
    });
    let noted: Result<()> = note.await;
    noted.unwrap();
    assert_eq!(pass().await, Watched { warnings: 1, lowered: 0 });
    let told = "SELECT count(*) FROM notice WHERE kind = 'quota-warning'";
    assert_eq!(world.number(told).await, 3);
    // The customer's own limit is told to its administrators.
    limit(Some(1_000)).await;
    assert_eq!(pass().await, Watched { warnings: 1, lowered: 0 });
    let notices = world.run(&world.a, "notice.list", json!({})).await.unwrap();
    let items = notices["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{notices}");
    assert!(items[0].to_string().contains("uses 95 % of what it may"), "{notices}");
    assert_eq!(world.run(&world.b, "notice.list", json!({})).await.unwrap()["items"], json!([]));
    // Where there is room again, the next crossing is told anew.
    limit(Some(10_000)).await;
    let quota = json!({ "address": "x@a.example", "quota": 2_000 });
    world.run(&world.system, "mailbox.quota", quota).await.unwrap();
    assert_eq!(pass().await, Watched { warnings: 0, lowered: 2 });
    assert_eq!(world.number("SELECT count(*) FROM quota_mark").await, 0);
    deliver(700).await;
    assert_eq!(pass().await, Watched { warnings: 1, lowered: 0 });
}
