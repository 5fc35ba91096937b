//! A recount while mail flows, and what it repairs.

use super::*;

pub async fn recount_is_clean_under_deliveries_and_repairs_what_drifted(world: World) {
    world.execute("UPDATE domain SET bytes_max = 1000000").await;
    world.execute("INSERT INTO domain_usage SELECT id, 0, 0 FROM domain").await;
    world.execute("UPDATE customer SET messages_max = 1000000 WHERE parent_id IS NULL OR slug = 'a'").await;
    world
        .execute("INSERT INTO customer_usage SELECT id, 0, 0, 0 FROM customer WHERE messages_max IS NOT NULL")
        .await;
    let text = Bytes::from_static(b"Subject: a\r\n\r\nsome text\r\n");
    let senders = [1, 2, 1, 2].map(|mailbox| {
        let (database, bodies, text) = (world.database.clone(), world.bodies.clone(), text.clone());
        tokio::spawn(async move {
            for _ in 0..40 {
                deliver(&database, &bodies, mailbox, &text).await;
            }
        })
    });
    let mut recounts = 0;
    while recounts == 0 || senders.iter().any(|sender| !sender.is_finished()) {
        for repair in [false, true] {
            let answer = world.job(&world.system, "quota.verify", json!({ "repair": repair })).await.unwrap();
            assert_eq!(answer["drift"], 0, "{answer}");
        }
        recounts += 1;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(world.number("SELECT count(*) FROM message").await, 160);
    world.execute("UPDATE mailbox SET bytes_used = bytes_used + 7, tombstone_octets = 1 WHERE id = 1").await;
    world.execute("UPDATE folder SET unseen = unseen - 1 WHERE mailbox_id = 1 AND name = 'INBOX'").await;
    world.execute("UPDATE domain_usage SET messages_used = 1 WHERE domain_id = 2").await;
    world
        .execute("DELETE FROM customer_usage WHERE customer_id = (SELECT id FROM customer WHERE slug = 'a')")
        .await;
    let found = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    let names = |answer: &Value| -> Vec<String> {
        let drifts = answer["drifts"].as_array().unwrap();
        let word = |drift: &Value, member: &str| drift[member].as_str().unwrap().to_owned();
        drifts.iter().map(|d| [word(d, "kind"), word(d, "name"), word(d, "resource")].join(" ")).collect()
    };
    assert_eq!(
        names(&found),
        [
            "mailbox x@a.example bytes",
            "mailbox x@a.example undeletable_bytes",
            "folder x@a.example INBOX unseen",
            "domain b.example messages",
            "customer a bytes",
            "customer a messages",
            "customer a committed_bytes",
        ]
    );
    assert_eq!(found["repaired"], false);
    // A customer's administrator sees and repairs its own part.
    let own = world.job(&world.a, "quota.verify", json!({ "repair": true })).await.unwrap();
    assert_eq!((&own["drift"], &own["mailboxes"], &own["repaired"]), (&json!(6), &json!(1), &json!(true)));
    assert!(!own.to_string().contains("b.example"));
    let trail = world.run(&world.a, "audit.search", json!({ "operation": "quota.verify" })).await.unwrap();
    assert!(trail["items"].to_string().contains("mailbox x@a.example bytes"), "{trail}");
    let rest = world.job(&world.system, "quota.verify", json!({ "repair": true })).await.unwrap();
    assert_eq!(names(&rest), ["domain b.example messages"]);
    let clean = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(
        (&clean["drift"], &clean["mailboxes"], &clean["domains"], &clean["customers"]),
        (&json!(0), &json!(2), &json!(2), &json!(2))
    );
}
