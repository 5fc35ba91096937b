//! Bringing back what was deleted: within the limits, beside what took its name meanwhile.

use posthouse::params;
use posthouse::service::context::Authentication;
use posthouse::service::registry::RunOptions;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(
    domain_that_somebody_has_meanwhile_comes_back_pending,
    customer_comes_back_with_taken_domains_pending,
    customer_comes_back_within_every_limit_above,
    domain_comes_back_within_limits,
    alias_domain_waits_for_the_domain_it_stands_for,
    mailbox_comes_back_at_another_address,
    mailbox_comes_back_within_the_limit_of_its_new_domain,
    administrator_comes_back_with_what_could_be_granted,
    administrator_comes_back_once_and_within_limits,
);

async fn state(world: &World, who: &Authentication, domain: &str) -> Value {
    world.run(who, "domain.show", json!({ "domain": domain })).await.unwrap()["state"].clone()
}

async fn domain_that_somebody_has_meanwhile_comes_back_pending(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    world.mailbox("x@a.example").await;
    let asked = json!({ "domain": "a.example" });
    world.run(&a, "domain.delete", asked.clone()).await.unwrap();
    world.must("domain.create", json!({ "domain": "a.example", "customer": "b" })).await;
    let back = world.run(&a, "domain.undelete", asked.clone()).await.unwrap();
    assert_eq!((&back["state"], &back["customer"]), (&json!("pending"), &json!("a")));
    let mailbox = world.run(&a, "mailbox.show", json!({ "address": "x@a.example" })).await.unwrap();
    assert_eq!(mailbox["state"], "pending");
    assert_eq!(world.integer("SELECT count(*) FROM domain WHERE state = 'verified'").await, 2);
    // One's own of the name is one's own to know.
    world.run(&a, "domain.delete", asked.clone()).await.unwrap();
    world.run(&a, "domain.create", json!({ "domain": "a.example", "customer": "a" })).await.unwrap();
    assert_eq!(refusal(world.run(&a, "domain.undelete", asked.clone()).await), "conflict");
    // Free again: it comes back as it was.
    world.run(&a, "domain.delete", asked.clone()).await.unwrap();
    world.must("domain.delete", json!({ "domain": "b.example" })).await;
    world.must("domain.undelete", json!({ "domain": "b.example" })).await;
    assert_eq!(world.must("domain.show", json!({ "domain": "b.example" })).await["state"], "verified");
}

async fn customer_comes_back_with_taken_domains_pending(world: World) {
    world.aboard("a", "a.example").await;
    let sub = world.aboard("a/sub", "sub.example").await;
    world.must("domain.create", json!({ "domain": "kept.example", "customer": "a/sub" })).await;
    world.aboard("b", "b.example").await;
    world.must("customer.delete", json!({ "path": "a" })).await;
    for taken in ["a.example", "sub.example"] {
        world.must("domain.create", json!({ "domain": taken, "customer": "b" })).await;
    }
    world.must("customer.undelete", json!({ "path": "a" })).await;
    let states = world.must("domain.list", json!({ "customer": "a" })).await;
    let states: Vec<(&str, &str)> = states["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("a.example", "pending"), ("kept.example", "verified"), ("sub.example", "pending")]);
    assert_eq!(state(&world, &sub, "sub.example").await, "pending");
    assert_eq!(state(&world, &world.system, "sub.example").await, "verified");
}

async fn customer_comes_back_within_every_limit_above(world: World) {
    world.aboard("top", "top.example").await;
    let mid = world.aboard("top/mid", "mid.example").await;
    world.aboard("top/mid/unit", "unit.example").await;
    world.must("customer.create", json!({ "path": "top/mid/unit/desk" })).await;
    world.mailbox("x@unit.example").await;
    world.must("alias.create", json!({ "address": "y@unit.example", "targets": ["x@unit.example"] })).await;
    let asked = json!({ "path": "mid/unit" });
    world.run(&mid, "customer.delete", asked.clone()).await.unwrap();
    let before = world.must("customer.list", json!({})).await;
    // What is there without it, and what it brings.
    for (resource, present, brings) in [
        ("customers", 1, 2),
        ("domains", 2, 1),
        ("mailboxes", 0, 1),
        ("aliases", 0, 1),
        ("administrators", 2, 1),
    ] {
        let limit = async |path: &str, count: Value| {
            world.must("customer.limit", json!({ "path": path, resource: count })).await;
        };
        let refused = async || world.run(&mid, "customer.undelete", asked.clone()).await.unwrap_err();
        limit("top", json!(present + brings - 1)).await;
        assert_eq!(refused().await.to_string(), "over quota: limited above your scope", "{resource}");
        limit("top", json!(present + brings)).await;
        let options = RunOptions { dry_run: true, ..RunOptions::default() };
        world.run_with(&mid, "customer.undelete", asked.clone(), options, None).await.unwrap();
        limit("top", Value::Null).await;
        limit("top/mid", json!(0)).await;
        assert_eq!(refused().await.to_string(), "over quota: limit of customer mid", "{resource}");
        limit("top/mid", Value::Null).await;
    }
    // Refused, it is as it was; then it comes back whole.
    assert_eq!(world.must("customer.list", json!({})).await, before);
    world.run(&mid, "customer.undelete", asked).await.unwrap();
    assert_eq!(world.must("mailbox.show", json!({ "address": "x@unit.example" })).await["state"], "active");
}

async fn domain_comes_back_within_limits(world: World) {
    let top = world.aboard("top", "top.example").await;
    let a = world.aboard("top/a", "a.example").await;
    for address in ["x@a.example", "y@a.example"] {
        world.mailbox(address).await;
    }
    world.must("alias.create", json!({ "address": "z@a.example", "targets": ["x@a.example"] })).await;
    let asked = json!({ "domain": "a.example" });
    world.run(&a, "domain.delete", asked.clone()).await.unwrap();
    for (resource, enough) in [("domains", 2), ("mailboxes", 2), ("aliases", 1)] {
        world.must("customer.limit", json!({ "path": "top", resource: enough - 1 })).await;
        let refused = world.run(&a, "domain.undelete", asked.clone()).await.unwrap_err();
        assert_eq!(refused.to_string(), "over quota: limited above your scope", "{resource}");
        let refused = world.run(&top, "domain.undelete", asked.clone()).await.unwrap_err();
        assert_eq!(refused.to_string(), "over quota: limit of customer top", "{resource}");
        world.must("customer.limit", json!({ "path": "top", resource: enough })).await;
    }
    world.run(&a, "domain.undelete", asked).await.unwrap();
    // A limit lowered below what is there refuses only what brings more of it.
    world.run(&a, "domain.create", json!({ "domain": "empty.example", "customer": "a" })).await.unwrap_err();
    world.must("customer.limit", json!({ "path": "top", "domains": null })).await;
    world.run(&a, "domain.create", json!({ "domain": "empty.example", "customer": "a" })).await.unwrap();
    world.run(&a, "domain.delete", json!({ "domain": "empty.example" })).await.unwrap();
    world.must("customer.limit", json!({ "path": "top", "mailboxes": 0, "aliases": 0 })).await;
    world.run(&a, "domain.undelete", json!({ "domain": "empty.example" })).await.unwrap();
}

async fn alias_domain_waits_for_the_domain_it_stands_for(world: World) {
    world.aboard("a", "a.example").await;
    world.must("domain.alias", json!({ "domain": "other.example", "alias_of": "a.example" })).await;
    world.must("domain.delete", json!({ "domain": "other.example" })).await;
    world.must("domain.delete", json!({ "domain": "a.example" })).await;
    let early = world.run(&world.system, "domain.undelete", json!({ "domain": "other.example" })).await;
    assert_eq!(refusal(early), "conflict");
    world.must("domain.undelete", json!({ "domain": "a.example" })).await;
    world.must("domain.undelete", json!({ "domain": "other.example" })).await;
}

async fn mailbox_comes_back_at_another_address(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    world.must("domain.create", json!({ "domain": "second.example", "customer": "a" })).await;
    world.must("domain.alias", json!({ "domain": "alias.example", "alias_of": "a.example" })).await;
    let first = world.mailbox("x@a.example").await;
    world.must("mailbox.delete", json!({ "address": "x@a.example" })).await;
    world.mailbox("x@a.example").await;
    let undelete = async |new: Option<&str>| {
        let mut asked = json!({ "address": "x@a.example" });
        if let Some(new) = new {
            asked["as"] = json!(new);
        }
        world.run(&a, "mailbox.undelete", asked).await
    };
    assert_eq!(refusal(undelete(None).await), "conflict");
    assert_eq!(refusal(undelete(Some("x@a.example")).await), "conflict");
    assert_eq!(refusal(undelete(Some("y@alias.example")).await), "conflict");
    assert_eq!(refusal(undelete(Some("y+z@a.example")).await), "invalid");
    // Others' domains, and what nobody has: one answer.
    let foreign = undelete(Some("y@b.example")).await.unwrap_err().to_string().replace("b.example", "D");
    let nothing =
        undelete(Some("y@none.example")).await.unwrap_err().to_string().replace("none.example", "D");
    assert_eq!(foreign, nothing);
    let back = undelete(Some("y@a.example")).await.unwrap();
    assert_eq!((&back["id"], &back["address"]), (&first["id"], &json!("y@a.example")));
    // Into another domain of the customer, out of one that is deleted by now.
    world.must("mailbox.delete", json!({ "address": "y@a.example" })).await;
    world.must("domain.delete", json!({ "domain": "alias.example" })).await;
    world.must("domain.delete", json!({ "domain": "a.example" })).await;
    let asked = json!({ "address": "y@a.example" });
    assert_eq!(refusal(world.run(&a, "mailbox.undelete", asked).await), "conflict");
    let asked = json!({ "address": "y@a.example", "as": "y@second.example" });
    let back = world.run(&a, "mailbox.undelete", asked).await.unwrap();
    assert_eq!((&back["id"], &back["address"]), (&first["id"], &json!("y@second.example")));
    assert_eq!(world.integer("SELECT count(*) FROM folder").await, 12);
    // Another address is what renaming gives: who may only delete may not.
    let asked = json!({ "name": "help", "customer": "a", "role": "helpdesk" });
    let help = world.must("administrator.create", asked).await;
    let help = world.login(&help["token"]).await;
    world.must("mailbox.delete", json!({ "address": "y@second.example" })).await;
    let asked = json!({ "address": "y@second.example", "as": "z@second.example" });
    assert_eq!(refusal(world.run(&help, "mailbox.undelete", asked).await), "forbidden");
}

async fn mailbox_comes_back_within_the_limit_of_its_new_domain(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.must("domain.create", json!({ "domain": "small.example", "customer": "a" })).await;
    world.mailbox("x@a.example").await;
    let used: Result<u64, StorageError> = world
        .database
        .write(Priority::Interactive, |conn| {
            Box::pin(conn.execute("UPDATE mailbox SET bytes_used = 500, messages_used = 5", params![]))
        })
        .await;
    used.unwrap();
    for (domain, bytes) in [("a.example", 1000), ("small.example", 499)] {
        world.must("domain.limit", json!({ "domain": domain, "bytes": bytes, "messages": 10 })).await;
    }
    world.must("mailbox.delete", json!({ "address": "x@a.example" })).await;
    let asked = json!({ "address": "x@a.example", "as": "x@small.example" });
    let refused = world.run(&a, "mailbox.undelete", asked.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "over quota: limit of the domain");
    world.must("domain.limit", json!({ "domain": "small.example", "bytes": 500 })).await;
    world.run(&a, "mailbox.undelete", asked).await.unwrap();
    let sums =
        "SELECT CAST(sum(u.bytes_used) AS BIGINT) FROM domain_usage u JOIN domain d ON d.id = u.domain_id";
    assert_eq!(world.integer(sums).await, 500);
    let messages = "SELECT u.messages_used FROM domain_usage u JOIN domain d ON d.id = u.domain_id
                    WHERE d.name = 'small.example'";
    assert_eq!(world.integer(messages).await, 5);
    let drift = world.job("quota.verify", json!({ "customer": "a" })).await;
    let domains = drift["drifts"].as_array().unwrap().iter().filter(|drift| drift["kind"] == "domain");
    assert!(domains.count() <= 2, "{drift}");
}

async fn administrator_comes_back_with_what_could_be_granted(world: World) {
    world.aboard("a", "a.example").await;
    world.must("customer.create", json!({ "path": "b" })).await;
    let asked = json!({ "name": "chief2", "customer": "a", "role": "admin", "delegable": true });
    let chief = world.must("administrator.create", asked).await;
    let chief = world.login(&chief["token"]).await;
    let asked = json!({ "name": "omar", "customer": "a", "role": "manager" });
    let omar = world.must("administrator.create", asked).await;
    let name = omar["name"].clone();
    for (role, customer) in [("auditor", "a"), ("viewer", "b")] {
        world.must("administrator.grant", json!({ "name": name, "role": role, "customer": customer })).await;
    }
    world.must("administrator.delete", json!({ "name": name })).await;
    assert!(
        world.management.authenticate_token(omar["token"].as_str().unwrap(), None).await.unwrap().is_none()
    );
    let asked = json!({ "name": name });
    let back = world.run(&chief, "administrator.undelete", asked.clone()).await.unwrap();
    let roles = |answer: &Value| {
        let grants = answer["grants"].as_array().unwrap().iter();
        grants
            .map(|grant| {
                format!("{} at {}", grant["role"].as_str().unwrap(), grant["customer"].as_str().unwrap())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!((&back["id"], &back["name"]), (&omar["id"], &name));
    assert_eq!(roles(&back), ["manager at a", "auditor at a"]);
    // What the chief could not have given is gone, not only hidden; tokens do not come back.
    assert_eq!(
        roles(&world.must("administrator.show", asked.clone()).await),
        ["manager at a", "auditor at a"]
    );
    assert!(
        world.management.authenticate_token(omar["token"].as_str().unwrap(), None).await.unwrap().is_none()
    );
    // Everybody finds it in the trail of what is theirs.
    let found = world.run(&chief, "audit.search", json!({ "operation": "administrator.undelete" })).await;
    let after = found.unwrap()["items"][0]["after"].clone();
    assert_eq!(after["grants"], json!(["manager at a", "auditor at a"]));
    // Whoever could grant nothing brings back a name without power.
    world.must("administrator.delete", asked.clone()).await;
    let weak = json!({ "name": "weak", "customer": "a", "role": "admin" });
    let weak = world.must("administrator.create", weak).await;
    let weak = world.login(&weak["token"]).await;
    let back = world.run(&weak, "administrator.undelete", asked).await.unwrap();
    assert_eq!(back["grants"], json!([]));
}

async fn administrator_comes_back_once_and_within_limits(world: World) {
    let a = world.aboard("a", "a.example").await;
    let made = world.must("administrator.create", json!({ "name": "omar", "customer": "a" })).await;
    let asked = json!({ "name": made["name"] });
    assert_eq!(refusal(world.run(&a, "administrator.undelete", asked.clone()).await), "not-found");
    world.must("administrator.delete", asked.clone()).await;
    world.must("customer.limit", json!({ "path": "a", "administrators": 1 })).await;
    assert_eq!(refusal(world.run(&a, "administrator.undelete", asked.clone()).await), "over-quota");
    world.must("customer.limit", json!({ "path": "a", "administrators": null })).await;
    let other = world.must("administrator.create", json!({ "name": "omar", "customer": "a" })).await;
    assert_eq!(refusal(world.run(&a, "administrator.undelete", asked.clone()).await), "conflict");
    world.must("administrator.delete", json!({ "name": other["name"] })).await;
    // The one that was deleted last.
    let back = world.must("administrator.undelete", asked.clone()).await;
    assert_eq!(back["id"], other["id"]);
    world.must("administrator.delete", asked.clone()).await;
    world.must("customer.delete", json!({ "path": "a" })).await;
    assert_eq!(refusal(world.run(&world.system, "administrator.undelete", asked.clone()).await), "conflict");
    world.must("customer.undelete", json!({ "path": "a" })).await;
    world.must("administrator.undelete", asked).await;
}
