//! What guarantees reserve, and what overcommit bounds.

use posthouse::storage::metadata::delivery::Refused;

use super::random_charges::PASSWORD_HASH;
use super::*;
use crate::metadata::message;

/// The customers `a` and `a/low`, each with a mailbox; answers these.
async fn parent_and_child(world: &World) -> (MailboxId, MailboxId) {
    let create = json!({ "path": "a/low", "domain": "low.example" });
    world.run(&world.system, "customer.create", create).await.unwrap();
    let create = json!({ "address": "y@low.example", "password_hash": PASSWORD_HASH });
    world.run(&world.system, "mailbox.create", create).await.unwrap();
    let upper = world.number("SELECT min(id) FROM mailbox").await;
    (MailboxId(upper), MailboxId(world.number("SELECT max(id) FROM mailbox").await))
}

async fn limit(world: &World, fields: Value) -> std::result::Result<Value, ServiceError> {
    world.run(&world.system, "customer.limit", fields).await
}

async fn delivered(world: &World, mailbox: MailboxId, octets: usize) -> bool {
    let answers = world.database.deliver(message(octets, &[mailbox], false)).await.unwrap();
    match answers[..] {
        [Ok(_)] => true,
        [Err(Refused::OverQuota(_))] => false,
        ref other => panic!("{other:?}"),
    }
}

pub async fn guarantee_is_reserved_above_and_no_one_else_can_take_it(world: World) {
    let (upper, lower) = parent_and_child(&world).await;
    limit(&world, json!({ "path": "a", "bytes": 1_000 })).await.unwrap();
    assert!(delivered(&world, upper, 300).await);
    // At most the own limit, and no more than what is free above.
    let more =
        limit(&world, json!({ "path": "a/low", "bytes": 600, "bytes_guarantee": 601 })).await.unwrap_err();
    assert!(matches!(more, ServiceError::Invalid { field: "bytes_guarantee", .. }), "{more:?}");
    let more = limit(&world, json!({ "path": "a/low", "bytes_guarantee": 701 })).await.unwrap_err();
    assert_eq!(more.to_string(), "over quota: limit of customer a");
    limit(&world, json!({ "path": "a/low", "bytes": 800, "bytes_guarantee": 600 })).await.unwrap();
    let shown = world.run(&world.system, "customer.show", json!({ "path": "a" })).await.unwrap();
    assert_eq!((&shown["bytes_used"], &shown["bytes_committed"]), (&json!(300), &json!(900)));
    assert!(!delivered(&world, upper, 101).await, "what is reserved is not for others");
    assert!(delivered(&world, upper, 100).await);
    // Whoever may limit the child is asked above it, as with limits.
    let own = json!({ "path": "a", "bytes_guarantee": 1 });
    assert_eq!(world.run(&world.a, "customer.limit", own).await.unwrap_err().refusal(), Some("forbidden"));
    // Even when the limit above was lowered, what was reserved is there.
    limit(&world, json!({ "path": "a", "bytes": 0 })).await.unwrap();
    assert!(delivered(&world, lower, 600).await);
    assert!(!delivered(&world, lower, 1).await, "what is above the guarantee goes on");
    limit(&world, json!({ "path": "a", "bytes": i64::MAX })).await.unwrap();
    assert!(delivered(&world, lower, 200).await);
    assert!(!delivered(&world, lower, 1).await, "the own limit");
    // Guarantees that no number holds are refused and wrap nowhere.
    limit(&world, json!({ "path": "a/low", "bytes": null, "bytes_guarantee": null })).await.unwrap();
    let much = json!({ "path": "a/low", "bytes_guarantee": i64::MAX });
    assert_eq!(limit(&world, much).await.unwrap_err().refusal(), Some("over-quota"));
    limit(&world, json!({ "path": "a/low", "bytes_guarantee": i64::MAX - 400 })).await.unwrap();
    assert!(!delivered(&world, upper, 1).await);
    assert!(delivered(&world, lower, 1).await);
    let report = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(report["drift"], 0, "{report}");
    // A recount proves what is committed, and sets it right.
    world
        .execute("UPDATE customer_usage SET bytes_committed = bytes_committed - 7 WHERE bytes_used > 1000")
        .await;
    let report = world.job(&world.system, "quota.verify", json!({ "repair": true })).await.unwrap();
    assert_eq!(
        (&report["drift"], &report["drifts"][0]["resource"]),
        (&json!(1), &json!("committed_bytes")),
        "{report}"
    );
    let report = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(report["drift"], 0, "{report}");
}

pub async fn overcommit_bounds_the_limits_right_below(world: World) {
    parent_and_child(&world).await;
    let alone = limit(&world, json!({ "path": "a", "bytes_overcommit_percent": 100 })).await.unwrap_err();
    assert!(matches!(alone, ServiceError::Invalid { field: "bytes_overcommit_percent", .. }), "{alone:?}");
    let strict = json!({ "path": "a", "bytes": 1_000, "bytes_overcommit_percent": 100 });
    let refused = limit(&world, strict.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "every customer below needs a limit on bytes: an overcommit is set at a");
    limit(&world, json!({ "path": "a/low", "bytes": 1_001 })).await.unwrap();
    assert_eq!(
        limit(&world, strict.clone()).await.unwrap_err().to_string(),
        "over quota: overcommit of customer a"
    );
    limit(&world, json!({ "path": "a/low", "bytes": 600 })).await.unwrap();
    limit(&world, strict).await.unwrap();
    for (asked, wanted) in [
        (json!({ "path": "a/low", "bytes": 1_001 }), "over-quota"),
        (json!({ "path": "a/low", "bytes": i64::MAX }), "over-quota"),
        (json!({ "path": "a/low", "bytes": null }), "conflict"),
        (json!({ "path": "a", "bytes": 599 }), "over-quota"),
        (json!({ "path": "a", "bytes": null }), "invalid"),
    ] {
        assert_eq!(limit(&world, asked.clone()).await.unwrap_err().refusal(), Some(wanted), "{asked}");
    }
    let create = async |path: &str, bytes: Option<i64>| {
        world.run(&world.system, "customer.create", json!({ "path": path, "bytes": bytes })).await
    };
    assert_eq!(create("a/two", None).await.unwrap_err().refusal(), Some("conflict"));
    assert_eq!(create("a/two", Some(401)).await.unwrap_err().refusal(), Some("over-quota"));
    create("a/two", Some(400)).await.unwrap();
    create("b/three", Some(1)).await.unwrap();
    let enter = json!({ "path": "b/three", "to": "a" });
    assert_eq!(
        world.run(&world.system, "customer.move", enter.clone()).await.unwrap_err().refusal(),
        Some("over-quota")
    );
    limit(&world, json!({ "path": "a", "bytes_overcommit_percent": 101 })).await.unwrap();
    world.run(&world.system, "customer.move", enter).await.unwrap();
    // A deleted customer keeps its share of the octets until it is purged, so that it can come back.
    world.run(&world.system, "customer.delete", json!({ "path": "a/two" })).await.unwrap();
    assert_eq!(create("a/four", Some(400)).await.unwrap_err().refusal(), Some("over-quota"));
    world.run(&world.system, "customer.undelete", json!({ "path": "a/two" })).await.unwrap();
    limit(&world, json!({ "path": "a", "bytes_overcommit_percent": null })).await.unwrap();
    create("a/four", None).await.unwrap();
}

pub async fn deliveries_at_once_stop_exactly_at_what_a_guarantee_leaves(world: World) {
    let (upper, lower) = parent_and_child(&world).await;
    limit(&world, json!({ "path": "a", "bytes": 10_000 })).await.unwrap();
    limit(&world, json!({ "path": "a/low", "bytes_guarantee": 4_000 })).await.unwrap();
    let fill = |mailbox: MailboxId, octets: usize| {
        let database = world.database.clone();
        tokio::spawn(async move {
            let mut accepted = 0;
            // Bounded, so that a limit that is not applied fails the test instead of hanging it.
            for _ in 0..2_000 {
                let answers = database.deliver(message(octets, &[mailbox], false)).await.unwrap();
                match answers[..] {
                    [Ok(_)] => accepted += octets,
                    [Err(Refused::OverQuota(_))] => return accepted,
                    ref other => panic!("{other:?}"),
                }
            }
            panic!("the limit was not applied");
        })
    };
    let sum = async |mailbox: MailboxId, octets: usize| {
        let clients: Vec<_> = (0..32).map(|_| fill(mailbox, octets)).collect();
        let mut sum = 0;
        for client in clients {
            sum += client.await.unwrap();
        }
        sum
    };
    assert_eq!(sum(upper, 97).await + sum(upper, 1).await, 6_000, "all but what is reserved");
    let (from_below, from_above) = tokio::join!(sum(lower, 1), sum(upper, 1));
    assert_eq!((from_below, from_above), (4_000, 0));
    // Both at once up to a higher limit: together exactly that, and the reserved part is the child's.
    limit(&world, json!({ "path": "a", "bytes": 12_000 })).await.unwrap();
    let (from_below, from_above) = tokio::join!(sum(lower, 1), sum(upper, 1));
    assert_eq!(from_below + from_above, 2_000);
    assert_eq!(
        world.number("SELECT bytes_committed FROM customer_usage ORDER BY customer_id LIMIT 1").await,
        12_000
    );
    let report = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(report["drift"], 0, "{report}");
}
