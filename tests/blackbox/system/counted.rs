//! Numbers of objects at customers with limits: they are kept, not counted each time, and a recount proves them.

use super::random_charges::PASSWORD_HASH;
use super::*;

/// Runs what must succeed.
async fn must(world: &World, operation: &str, fields: Value) -> Value {
    let answer = world.run(&world.system, operation, fields.clone()).await;
    answer.unwrap_or_else(|error| panic!("{operation} {fields}: {error}"))
}

/// Whether a limit refuses.
async fn refuses(world: &World, operation: &str, fields: Value) -> bool {
    match world.run(&world.system, operation, fields.clone()).await {
        Ok(_) => false,
        Err(ServiceError::OverQuota { .. }) => true,
        Err(error) => panic!("{operation} {fields}: {error}"),
    }
}

fn mailbox(address: &str) -> Value {
    json!({ "address": address, "password_hash": PASSWORD_HASH })
}

async fn verified(world: &World, repair: bool) -> Vec<String> {
    let report = world.job(&world.system, "quota.verify", json!({ "repair": repair })).await.unwrap();
    let name = |drift: &Value| {
        let of = drift["name"].as_str().unwrap();
        format!("{of} {} {} {}", drift["resource"].as_str().unwrap(), drift["recorded"], drift["counted"])
    };
    let drifts: Vec<String> = report["drifts"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(report["drift"], drifts.len(), "{report}");
    drifts
}

/// Limits on everything, at these customers.
async fn limited(world: &World, paths: &[&str], number: i64) {
    for path in paths {
        let limits = json!({ "path": path, "mailboxes": number, "aliases": number, "domains": number,
                             "administrators": number });
        must(world, "customer.limit", limits).await;
    }
}

pub async fn numbers_at_customers_with_limits_are_kept_through_every_change(world: World) {
    let chain = ["a/low", "a/low/er", "b/side"];
    for (path, domain) in chain.iter().zip(["low.example", "er.example", "side.example"]) {
        must(&world, "customer.create", json!({ "path": path, "domain": domain, "admin": "chief" })).await;
    }
    limited(&world, &["/", "a", "a/low", "a/low/er", "b", "b/side"], 50).await;
    must(&world, "customer.limit", json!({ "path": "a/low", "mailboxes_guarantee": 3 })).await;
    for address in ["x@low.example", "x@er.example", "x@side.example"] {
        must(&world, "mailbox.create", mailbox(address)).await;
        let alias = json!({ "address": format!("to-{address}"), "targets": [address] });
        must(&world, "alias.create", alias).await;
    }
    must(&world, "administrator.create", json!({ "name": "more", "customer": "a/low/er" })).await;
    must(&world, "domain.create", json!({ "domain": "new.example", "customer": "a/low/er" })).await;
    let known = "SELECT count(*) FROM customer_count WHERE mailboxes IS NOT NULL AND aliases IS NOT NULL
                 AND domains IS NOT NULL AND administrators IS NOT NULL";
    assert_eq!(world.number(known).await, 4, "those whose limits were asked for all of it");
    let none: [&str; 0] = [];
    assert_eq!(verified(&world, false).await, none);
    // Through every way in which objects come and go.
    let path = |path: &str| json!({ "path": path });
    let address = |address: &str| json!({ "address": address });
    for (operation, fields) in [
        ("mailbox.delete", address("x@low.example")),
        ("mailbox.undelete", address("x@low.example")),
        ("alias.delete", address("to-x@low.example")),
        ("administrator.delete", json!({ "name": "more" })),
        ("administrator.undelete", json!({ "name": "more" })),
        ("domain.delete", json!({ "domain": "er.example" })),
        ("domain.undelete", json!({ "domain": "er.example" })),
        ("domain.move", json!({ "domain": "er.example", "to": "b/side" })),
        ("customer.move", json!({ "path": "a/low", "to": "b/side" })),
        ("customer.delete", path("b/side/low/er")),
        ("customer.delete", path("b/side")),
        ("customer.undelete", path("b/side")),
        ("customer.undelete", path("b/side/low/er")),
        ("customer.limit", json!({ "path": "b/side/low", "mailboxes_guarantee": 9 })),
        ("customer.move", json!({ "path": "b/side/low", "to": "a" })),
        ("customer.limit", json!({ "path": "a/low", "mailboxes_guarantee": null })),
        ("customer.delete", path("a/low")),
    ] {
        must(&world, operation, fields.clone()).await;
        assert_eq!(verified(&world, false).await, none, "{operation} {fields}");
    }
    // What is tried or refused changes nothing.
    let asked = json!({ "rows": [{ "type": "mailbox", "address": "one@side.example" },
                                 { "type": "mailbox", "address": "two@nowhere.example" }] });
    let imported = must(&world, "import.batch", asked.clone()).await;
    assert_eq!((&imported["created"], &imported["failed"]), (&json!(1), &json!(1)));
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let context = world.system.context(None, "request".to_owned(), None);
    (operation("mailbox.delete").unwrap().run)(&world.management, context, address("one@side.example"), dry)
        .await
        .unwrap();
    assert_eq!(verified(&world, false).await, none);
}

pub async fn limit_on_mailboxes_asks_the_number_that_is_kept(world: World) {
    limited(&world, &["a"], 4).await;
    assert!(!refuses(&world, "mailbox.create", mailbox("one@a.example")).await);
    // Nobody counts again: a number that is wrong counts until it is repaired.
    world.execute("UPDATE customer_count SET mailboxes = mailboxes + 2").await;
    assert!(refuses(&world, "mailbox.create", mailbox("two@a.example")).await);
    assert_eq!(verified(&world, true).await, ["a mailboxes 4 2"]);
    let none: [&str; 0] = [];
    assert_eq!(verified(&world, false).await, none);
    assert!(!refuses(&world, "mailbox.create", mailbox("two@a.example")).await);
    // Whoever comes at the same time, no more are let in than there is room for.
    let comers = (0..6).map(|number| {
        let (management, system) = (world.management.clone(), world.system.clone());
        tokio::spawn(async move {
            let fields = mailbox(&format!("more{number}@a.example"));
            match run(&management, &system, "mailbox.create", fields).await {
                Ok(_) => 1,
                Err(ServiceError::OverQuota { .. }) => 0,
                Err(error) => panic!("{error}"),
            }
        })
    });
    let comers: Vec<_> = comers.collect();
    let mut let_in = 0;
    for comer in comers {
        let_in += comer.await.unwrap();
    }
    assert_eq!(let_in, 1);
    assert_eq!(verified(&world, false).await, none);
    assert!(!refuses(&world, "domain.create", json!({ "domain": "2.example", "customer": "a" })).await);
}
