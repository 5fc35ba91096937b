//! Where mailboxes are placed, and domains that go to another customer.

use std::time::Duration;

use posthouse::params;
use posthouse::service::registry::RunOptions;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    new_mailboxes_go_where_the_nearest_customer_says,
    stores_are_named_only_as_far_as_they_are_allowed,
    moves_between_stores_are_the_servers_business,
    domain_goes_at_once_where_one_may_do_both,
    domain_is_offered_and_accepted,
    offers_tell_nothing_of_others,
    nothing_of_a_domain_is_left_behind_or_torn_off,
);

async fn execute(world: &World, text: &'static str) {
    let write = world.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move { conn.execute(text, params![]).await })
    });
    write.await.map_err(|error: StorageError| error).unwrap();
}

/// Two more mail stores.
async fn stores(world: &World) {
    execute(
        world,
        "INSERT INTO store (name, path, created_at) VALUES ('second', '/nowhere/2', 0), ('third', '/nowhere/3', 0)",
    )
    .await;
}

/// The mail store of a new mailbox, as the system sees it.
async fn placed(world: &World, address: &str) -> Value {
    world.mailbox(address).await;
    world.must("mailbox.show", json!({ "address": address })).await["store"].clone()
}

async fn new_mailboxes_go_where_the_nearest_customer_says(world: World) {
    stores(&world).await;
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    assert_eq!(placed(&world, "one@b.example").await, "main");
    world.must("customer.store", json!({ "path": "a", "store": "second" })).await;
    assert_eq!(placed(&world, "two@b.example").await, "second");
    let set = world.must("customer.store", json!({ "path": "a/b", "store": "third" })).await;
    assert_eq!(set["store"], "third");
    assert_eq!(placed(&world, "three@b.example").await, "third");
    assert_eq!(placed(&world, "three@a.example").await, "second");
    let made = json!({ "path": "a/c", "domain": "c.example", "store": "third" });
    world.must("customer.create", made).await;
    assert_eq!(placed(&world, "one@c.example").await, "third");
    // A store that takes no mailboxes is passed over, and refused where it is named.
    execute(&world, "UPDATE store SET state = 'draining' WHERE name = 'third'").await;
    assert_eq!(placed(&world, "four@b.example").await, "second");
    let asked = json!({ "address": "five@b.example", "password_hash": PASSWORD_HASH, "store": "third" });
    assert_eq!(refusal(world.run(&world.system, "mailbox.create", asked).await), "conflict");
    let asked = json!({ "path": "a", "store": "third" });
    assert_eq!(refusal(world.run(&world.system, "customer.store", asked).await), "conflict");
    world.must("customer.store", json!({ "path": "a/b", "store": null })).await;
    world.must("customer.store", json!({ "path": "a", "allowed": ["main"] })).await;
    assert_eq!(placed(&world, "six@b.example").await, "main", "what is not allowed is no default either");
    execute(&world, "UPDATE store SET state = 'stopped'").await;
    let asked = json!({ "address": "seven@b.example", "password_hash": PASSWORD_HASH });
    let closed = world.run(&world.system, "mailbox.create", asked).await.unwrap_err();
    assert_eq!(closed.code(), "unavailable", "{closed}");
    assert_eq!(refusal(world.run(&world.system, "customer.store", json!({ "path": "a" })).await), "invalid");
}

async fn stores_are_named_only_as_far_as_they_are_allowed(world: World) {
    stores(&world).await;
    let chief = world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    let create = |address: &str, store: &str| {
        let hash = PASSWORD_HASH;
        json!({ "address": address, "password_hash": hash, "store": store })
    };
    // One answer for stores that are there and others.
    for store in ["main", "nonsense"] {
        let refused = world.run(&chief, "mailbox.create", create("x@a.example", store)).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("store {store} does not exist"));
    }
    let shown = world.run(&chief, "customer.show", json!({ "path": "a" })).await.unwrap();
    assert_eq!((shown.get("store"), shown.get("stores")), (None, None));
    world
        .must("customer.store", json!({ "path": "a", "store": "main", "allowed": ["second", "main"] }))
        .await;
    let shown = world.run(&chief, "customer.show", json!({ "path": "a" })).await.unwrap();
    assert_eq!((&shown["store"], &shown["stores"]), (&json!("main"), &json!(["main", "second"])));
    world.run(&chief, "mailbox.create", create("x@a.example", "second")).await.unwrap();
    let shown = world.run(&chief, "mailbox.show", json!({ "address": "x@a.example" })).await.unwrap();
    assert_eq!(shown["store"], "second");
    let foreign = world.run(&chief, "mailbox.create", create("y@a.example", "third")).await;
    assert_eq!(refusal(foreign), "not-found");
    // What constrains a customer is said above it, of what is allowed there.
    let own = world.run(&chief, "customer.store", json!({ "path": "a", "store": "second" })).await;
    assert_eq!(refusal(own), "forbidden");
    let below = json!({ "path": "a/b", "store": "second", "allowed": ["second"] });
    world.run(&chief, "customer.store", below).await.unwrap();
    for foreign in
        [json!({ "path": "a/b", "store": "third" }), json!({ "path": "a/b", "allowed": ["third"] })]
    {
        assert_eq!(refusal(world.run(&chief, "customer.store", foreign).await), "not-found");
    }
    let made = json!({ "path": "a/c", "store": "second" });
    world.run(&chief, "customer.create", made).await.unwrap();
    // Where the list above shrinks, those below have less; where it is lifted, theirs counts.
    world.must("customer.store", json!({ "path": "a", "allowed": ["main"] })).await;
    let refused = world.run(&chief, "mailbox.create", create("z@b.example", "second")).await;
    assert_eq!(refusal(refused), "not-found");
    world.must("customer.store", json!({ "path": "a", "allowed": [] })).await;
    world.run(&chief, "mailbox.create", create("z@b.example", "second")).await.unwrap();
}

async fn moves_between_stores_are_the_servers_business(world: World) {
    stores(&world).await;
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    world.must("customer.store", json!({ "path": "a", "allowed": ["main", "second"] })).await;
    let asked = json!({ "address": "x@a.example", "store": "second" });
    assert_eq!(refusal(world.run(&chief, "mailbox.move", asked.clone()).await), "forbidden");
    assert_eq!(refusal(world.run(&chief, "store.drain", json!({ "name": "main" })).await), "forbidden");
    let job = world.must("mailbox.move", asked).await;
    assert_eq!((&job["kind"], &job["state"]), (&json!("mailbox.move"), &json!("waiting")));
    // What arrives goes there from now on, and the servers' jobs are shown to those who may see the servers.
    let shown = world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    assert_eq!(shown["store"], "second");
    assert_eq!(refusal(world.run(&chief, "job.show", json!({ "id": job["id"] })).await), "not-found");
    let unknown = json!({ "address": "x@a.example", "store": "nonsense" });
    assert_eq!(refusal(world.run(&world.system, "mailbox.move", unknown).await), "not-found");
    for (asked, wanted) in [
        (json!({ "name": "nonsense" }), "not-found"),
        (json!({ "name": "main", "to": "nonsense" }), "not-found"),
        (json!({ "name": "main", "to": "main" }), "conflict"),
    ] {
        assert_eq!(refusal(world.run(&world.system, "store.drain", asked).await), wanted);
    }
    execute(&world, "UPDATE store SET state = 'stopped' WHERE name <> 'main'").await;
    let alone = world.run(&world.system, "store.drain", json!({ "name": "main" })).await;
    assert_eq!(refusal(alone), "conflict");
    let stopped = world.run(&world.system, "store.drain", json!({ "name": "second" })).await;
    assert_eq!(refusal(stopped), "conflict");
    execute(&world, "UPDATE store SET state = 'online' WHERE name = 'third'").await;
    world.must("store.drain", json!({ "name": "main" })).await;
    let states = "SELECT count(*) FROM store WHERE name = 'main' AND state = 'draining'";
    assert_eq!(world.integer(states).await, 1);
}

/// `a` and `b` with limits, a domain of `a` with mail, an alias domain and a deleted mailbox.
async fn estate(world: &World) {
    world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    for path in ["a", "b"] {
        let limits = json!({ "path": path, "bytes": 1_000, "messages": 100, "mailboxes": 5, "domains": 3 });
        world.must("customer.limit", limits).await;
    }
    world.must("domain.create", json!({ "domain": "go.example", "customer": "a" })).await;
    world.must("domain.alias", json!({ "domain": "go.test", "alias_of": "go.example" })).await;
    for address in ["x@go.example", "y@go.example", "gone@go.example"] {
        world.mailbox(address).await;
        world.use_octets(address, 100).await;
    }
    world.must("mailbox.delete", json!({ "address": "gone@go.example" })).await;
    world.must("alias.create", json!({ "address": "all@go.example", "targets": ["x@go.test"] })).await;
}

/// Octets on the counters of `a` and `b`.
async fn counters(world: &World) -> [i64; 2] {
    let a =
        "SELECT bytes_used FROM customer_usage u JOIN customer c ON c.id = u.customer_id WHERE c.slug = 'a'";
    let b =
        "SELECT bytes_used FROM customer_usage u JOIN customer c ON c.id = u.customer_id WHERE c.slug = 'b'";
    [world.integer(a).await, world.integer(b).await]
}

async fn domain_goes_at_once_where_one_may_do_both(world: World) {
    estate(&world).await;
    assert_eq!(counters(&world).await, [300, 0]);
    let asked = json!({ "domain": "go.example", "to": "b" });
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&world.system, "domain.move", asked.clone(), dry, None).await.unwrap();
    assert_eq!(counters(&world).await, [300, 0]);
    let moved = world.must("domain.move", asked.clone()).await;
    assert_eq!(moved, tried);
    let wanted = json!({
        "domain": "go.example", "state": "moved", "customer": "b", "alias_domains": ["go.test"], "mailboxes": 2,
        "bytes": 300, "messages": 0
    });
    assert_eq!(moved, wanted);
    assert_eq!(counters(&world).await, [0, 300], "what was deleted keeps its charge");
    assert_eq!(world.must("mailbox.show", json!({ "address": "x@go.example" })).await["customer"], "b");
    assert_eq!(world.must("domain.show", json!({ "domain": "go.test" })).await["customer"], "b");
    world.must("mailbox.undelete", json!({ "address": "gone@go.example" })).await;
    assert_eq!(world.integer("SELECT count(*) FROM homing WHERE is_automatic = 1").await, 3);
    assert_eq!(refusal(world.run(&world.system, "domain.move", asked).await), "conflict");
    // Each of the two has a record; that of the refusal is with whom the domain belongs to by then.
    for (path, count) in [("a", 1), ("b", 2)] {
        let search = json!({ "customer": path, "operation": "domain.move" });
        assert_eq!(
            world.must("audit.search", search).await["items"].as_array().unwrap().len(),
            count,
            "{path}"
        );
    }
    // Limits at the new place refuse, and nothing changes.
    world.must("customer.limit", json!({ "path": "a", "bytes": 299 })).await;
    let back = json!({ "domain": "go.example", "to": "a" });
    assert_eq!(refusal(world.run(&world.system, "domain.move", back.clone()).await), "over-quota");
    world.must("customer.limit", json!({ "path": "a", "bytes": 300, "mailboxes": 2 })).await;
    assert_eq!(refusal(world.run(&world.system, "domain.move", back.clone()).await), "over-quota");
    world.must("customer.limit", json!({ "path": "a", "mailboxes": 3 })).await;
    assert_eq!(counters(&world).await, [0, 300]);
    world.must("domain.move", back).await;
    assert_eq!(counters(&world).await, [300, 0]);
}

async fn domain_is_offered_and_accepted(world: World) {
    estate(&world).await;
    let asked = json!({ "name": "giver", "customer": "a", "role": "admin" });
    let giver = world.must("administrator.create", asked).await;
    let giver = world.login(&giver["token"]).await;
    let asked = json!({ "name": "taker", "customer": "b", "role": "admin" });
    let taker = world.must("administrator.create", asked).await;
    let taker = world.login(&taker["token"]).await;
    let code = world.must("customer.show", json!({ "path": "b" })).await["code"].clone();
    let accept = json!({ "domain": "go.example", "customer": "b" });
    let early = world.run(&taker, "domain.accept", accept.clone()).await.unwrap_err();
    assert_eq!(early.to_string(), "domain go.example is not offered to b");
    let offer = json!({ "domain": "go.example", "to": code });
    assert_eq!(world.run(&giver, "domain.move", offer.clone()).await.unwrap()["state"], "offered");
    let shown = world.run(&giver, "domain.show", json!({ "domain": "go.example" })).await.unwrap();
    assert_eq!(shown["offered_to"], code);
    let withdraw = json!({ "domain": "go.example", "to": null });
    assert_eq!(world.run(&giver, "domain.move", withdraw.clone()).await.unwrap()["state"], "withdrawn");
    assert_eq!(refusal(world.run(&giver, "domain.move", withdraw).await), "conflict");
    assert_eq!(refusal(world.run(&taker, "domain.accept", accept.clone()).await), "conflict");
    world.run(&giver, "domain.move", offer.clone()).await.unwrap();
    world.clock.advance(Duration::from_secs(31 * 86_400));
    assert_eq!(refusal(world.run(&taker, "domain.accept", accept.clone()).await), "conflict");
    world.run(&giver, "domain.move", offer).await.unwrap();
    let moved = world.run(&taker, "domain.accept", accept.clone()).await.unwrap();
    assert_eq!((&moved["state"], &moved["customer"]), (&json!("moved"), &json!("b")));
    assert_eq!(counters(&world).await, [0, 300]);
    assert_eq!(
        refusal(world.run(&giver, "domain.show", json!({ "domain": "go.example" })).await),
        "not-found"
    );
    world.run(&taker, "mailbox.show", json!({ "address": "x@go.example" })).await.unwrap();
    assert_eq!(refusal(world.run(&taker, "domain.accept", accept).await), "conflict");
    // Four refusals are the taker's alone.
    for (who, count) in [(&giver, 1), (&taker, 5)] {
        let found = world.run(who, "audit.search", json!({ "operation": "domain.accept" })).await.unwrap();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{found}");
    }
}

async fn offers_tell_nothing_of_others(world: World) {
    estate(&world).await;
    let asked = json!({ "name": "giver", "customer": "a", "role": "admin" });
    let giver = world.must("administrator.create", asked).await;
    let giver = world.login(&giver["token"]).await;
    let code = world.must("customer.show", json!({ "path": "b" })).await["code"].clone();
    let code = code.as_str().unwrap();
    let mut answers = Vec::new();
    for to in [code, "zzzzzz"] {
        let asked = json!({ "domain": "go.example", "to": to });
        let answer = world.run(&giver, "domain.move", asked).await.unwrap().to_string();
        answers.push(answer.replace(to, "CODE"));
    }
    assert_eq!(answers[0], answers[1]);
    // Nobody is offered anything by a path that means nothing to who offers.
    for to in ["b/c", "no such", ""] {
        let asked = json!({ "domain": "go.example", "to": to });
        assert_eq!(refusal(world.run(&giver, "domain.move", asked).await), "not-found", "{to}");
    }
    let viewer = json!({ "name": "viewer", "customer": "a", "role": "manager" });
    let viewer = world.must("administrator.create", viewer).await;
    let viewer = world.login(&viewer["token"]).await;
    let asked = json!({ "domain": "go.example", "to": code });
    assert_eq!(refusal(world.run(&viewer, "domain.move", asked).await), "forbidden");
}

async fn nothing_of_a_domain_is_left_behind_or_torn_off(world: World) {
    estate(&world).await;
    let system = &world.system;
    let go = json!({ "domain": "go.example", "to": "b" });
    // An alias domain goes with what it stands for.
    let alone = json!({ "domain": "go.test", "to": "b" });
    assert_eq!(refusal(world.run(system, "domain.move", alone).await), "conflict");
    // What leads across would be torn.
    world.mailbox("stay@a.example").await;
    let into = json!({ "address": "into@a.example", "targets": ["x@go.test"] });
    world.must("alias.create", into).await;
    world.must("alias.create", json!({ "address": "out@go.example", "targets": ["stay@a.example"] })).await;
    let across = json!({ "domain": "go.example", "address": "stay@a.example" });
    world.must("domain.catch-all", across).await;
    let refused = world.run(system, "domain.move", go.clone()).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("conflict"));
    let named = "catch-all of go.example, into@a.example, out@go.example";
    assert!(refused.to_string().ends_with(named), "{refused}");
    for address in ["into@a.example", "out@go.example"] {
        world.must("alias.delete", json!({ "address": address })).await;
    }
    world.must("domain.catch-all", json!({ "domain": "go.example", "address": null })).await;
    // A domain of the same name at the other side is in the way.
    let pending = json!({ "name": "taker", "customer": "b", "role": "admin" });
    let taker = world.must("administrator.create", pending).await;
    let taker = world.login(&taker["token"]).await;
    world.run(&taker, "domain.create", json!({ "domain": "go.test", "customer": "b" })).await.unwrap();
    assert_eq!(refusal(world.run(system, "domain.move", go.clone()).await), "conflict");
    world.must("domain.delete", json!({ "domain": "go.test", "customer": "b" })).await;
    // Holds stay: those of the customer that it leaves are the new one's, those from above the provider's.
    let asked = json!({ "name": "giver", "customer": "a", "role": "admin" });
    let giver = world.must("administrator.create", asked).await;
    let giver = world.login(&giver["token"]).await;
    let suspend = json!({ "address": "x@go.example", "switches": ["send"], "reason": "abuse" });
    world.run(&giver, "mailbox.suspend", suspend).await.unwrap();
    let suspend = json!({ "address": "x@go.example", "switches": ["receive"], "reason": "law" });
    world.must("mailbox.suspend", suspend).await;
    world.must("domain.move", go).await;
    let resume = |reason: &str| json!({ "address": "x@go.example", "reason": reason });
    assert_eq!(refusal(world.run(&taker, "mailbox.resume", resume("law")).await), "forbidden");
    let shown = world.run(&taker, "mailbox.resume", resume("abuse")).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["receive"]));
}
