//! What operations on the directory do.

use std::time::Duration;

use posthouse::service::registry::RunOptions;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    customer_is_brought_aboard_with_one_command,
    names_that_are_taken_conflict,
    limits_on_numbers_count_at_every_ancestor,
    moving_ends_grants_of_lost_ancestors_and_refuses_cycles,
    delete_then_undelete_is_an_identity,
    hold_then_release_is_an_identity,
    nobody_releases_what_was_set_above,
    manage_hold_stops_grants_there_and_below_only,
    nobody_grants_more_than_they_hold,
    tokens_end_with_time_revocation_and_their_owner,
    dry_run_changes_nothing_and_answers_the_same,
    idempotency_key_runs_once,
    pages_are_bound_to_their_caller_and_filter,
    changes_and_refusals_are_in_the_audit_trail_of_their_customer,
    pending_domain_is_unique_only_once_verified,
    aliases_lead_within_the_customer_only,
    new_mailbox_has_its_folders,
);

fn path(made: &Value) -> &str {
    made["path"].as_str().unwrap()
}

async fn customer_is_brought_aboard_with_one_command(world: World) {
    let asked = json!({ "path": "gov", "domain": "gov.example", "admin": "anna", "kind": "government" });
    let made = world.must("customer.create", asked).await;
    assert_eq!(path(&made), "gov");
    assert_eq!(made["domain"], "gov.example");
    assert_eq!(made["administrator"], format!("anna@{}", made["code"].as_str().unwrap()));
    assert!(made["token"].as_str().unwrap().starts_with("ph_"));
    let anna = world.login(&made["token"]).await;
    let below = world.run(&anna, "customer.create", json!({ "path": "gov/health", "name": "Health" })).await;
    assert_eq!(path(&below.unwrap()), "gov/health");
    world.mailbox("it@gov.example").await;
    let shown = world.run(&anna, "mailbox.show", json!({ "address": "IT@gov.example" })).await.unwrap();
    assert_eq!((&shown["customer"], &shown["state"]), (&json!("gov"), &json!("active")));
    let listed = world.run(&anna, "customer.list", json!({})).await.unwrap();
    let paths: Vec<&str> = listed["items"].as_array().unwrap().iter().map(path).collect();
    assert_eq!(paths, ["gov", "gov/health"]);
}

async fn names_that_are_taken_conflict(world: World) {
    world.aboard("a", "a.example").await;
    let again = world.run(&world.system, "customer.create", json!({ "path": "a" })).await;
    assert_eq!(refusal(again), "conflict");
    let again = json!({ "domain": "a.example", "customer": "a" });
    assert_eq!(refusal(world.run(&world.system, "domain.create", again).await), "conflict");
    world.mailbox("x@a.example").await;
    let again = json!({ "address": "x@a.example", "password_hash": PASSWORD_HASH });
    assert_eq!(refusal(world.run(&world.system, "mailbox.create", again).await), "conflict");
    let again = json!({ "address": "x@a.example", "targets": ["x@a.example"] });
    assert_eq!(refusal(world.run(&world.system, "alias.create", again).await), "invalid");
    world.must("alias.create", json!({ "address": "y@a.example", "targets": ["x@a.example"] })).await;
    let again = json!({ "address": "y@a.example", "password_hash": PASSWORD_HASH });
    assert_eq!(refusal(world.run(&world.system, "mailbox.create", again).await), "conflict");
    let again = json!({ "name": "chief", "customer": "a" });
    assert_eq!(refusal(world.run(&world.system, "administrator.create", again).await), "conflict");
}

async fn limits_on_numbers_count_at_every_ancestor(world: World) {
    world.aboard("top", "top.example").await;
    let chief = world.aboard("top/low", "low.example").await;
    world.must("customer.limit", json!({ "path": "top", "mailboxes": 2 })).await;
    world.mailbox("one@top.example").await;
    world.mailbox("two@low.example").await;
    let third = json!({ "address": "three@low.example", "password_hash": PASSWORD_HASH });
    let refused = world.run(&chief, "mailbox.create", third.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "over quota: limited above your scope");
    let refused = world.run(&world.system, "mailbox.create", third.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "over quota: limit of customer top");
    world.must("mailbox.delete", json!({ "address": "one@top.example" })).await;
    world.run(&chief, "mailbox.create", third).await.unwrap();
    let undelete =
        world.run(&world.system, "mailbox.undelete", json!({ "address": "one@top.example" })).await;
    assert_eq!(refusal(undelete), "over-quota");
    world.must("customer.limit", json!({ "path": "top", "mailboxes": null, "customers": 1 })).await;
    world.must("mailbox.undelete", json!({ "address": "one@top.example" })).await;
    let child = world.run(&world.system, "customer.create", json!({ "path": "top/low/x" })).await;
    assert_eq!(refusal(child), "over-quota");
    world.must("customer.limit", json!({ "path": "top/low", "domains": 0 })).await;
    let domain =
        world.run(&chief, "domain.create", json!({ "domain": "z.example", "customer": "low" })).await;
    assert_eq!(refusal(domain), "over-quota");
}

async fn moving_ends_grants_of_lost_ancestors_and_refuses_cycles(world: World) {
    let old = world.aboard("old", "old.example").await;
    world.aboard("new", "new.example").await;
    let chief = world.aboard("old/unit", "unit.example").await;
    world.must("customer.create", json!({ "path": "old/unit/desk" })).await;
    let old_login = world.run(&old, "whoami", json!({})).await.unwrap()["name"].clone();
    let granted = json!({ "name": old_login, "role": "viewer", "customer": "old/unit" });
    world.must("administrator.grant", granted).await;
    for to in ["old/unit", "old/unit/desk"] {
        let cycle = world.run(&world.system, "customer.move", json!({ "path": "old/unit", "to": to })).await;
        assert_eq!(refusal(cycle), "conflict");
    }
    let not_above = world.run(&old, "customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    assert_eq!(refusal(not_above), "not-found");
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let asked = json!({ "path": "old/unit", "to": "new" });
    let tried = world.run_with(&world.system, "customer.move", asked.clone(), options, None).await.unwrap();
    let moved = world.must("customer.move", asked).await;
    assert_eq!(tried, moved);
    let holder = old_login.as_str().unwrap();
    assert_eq!(moved["grants_ended"], json!([format!("viewer of {holder}")]));
    assert_eq!(moved["to"], "new/unit");
    let shown = world.run(&old, "customer.show", json!({ "path": "old/unit" })).await;
    assert_eq!(refusal(shown), "not-found");
    let shown = world.run(&chief, "customer.show", json!({ "path": "unit/desk" })).await.unwrap();
    assert_eq!(path(&shown), "unit/desk");
}

/// Everything that is there, as answers.
async fn everything(world: &World) -> Vec<Value> {
    let mut all = Vec::new();
    for name in ["customer.list", "domain.list", "mailbox.list", "alias.list", "administrator.list"] {
        all.push(world.must(name, json!({})).await);
    }
    all
}

async fn delete_then_undelete_is_an_identity(world: World) {
    world.aboard("a", "a.example").await;
    let chief = world.aboard("a/b", "b.example").await;
    world.mailbox("x@b.example").await;
    world.mailbox("gone@b.example").await;
    world.must("mailbox.delete", json!({ "address": "gone@b.example" })).await;
    let before = everything(&world).await;
    let deleted = world.must("customer.delete", json!({ "path": "a" })).await;
    assert_eq!(
        (&deleted["customers"], &deleted["domains"], &deleted["mailboxes"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(world.must("customer.list", json!({})).await["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        refusal(world.run(&world.system, "domain.show", json!({ "domain": "b.example" })).await),
        "not-found"
    );
    let inner = world.run(&world.system, "customer.undelete", json!({ "path": "a/b" })).await;
    assert_eq!(refusal(inner), "conflict");
    assert_eq!(refusal(world.run(&chief, "customer.show", json!({ "path": "b" })).await), "not-found");
    world.must("customer.undelete", json!({ "path": "a" })).await;
    assert_eq!(everything(&world).await, before);
    // Tokens do not come back, and what was deleted before stays deleted.
    assert_eq!(world.integer("SELECT count(*) FROM token").await, 0);
    world.must("domain.delete", json!({ "domain": "b.example" })).await;
    world.must("domain.undelete", json!({ "domain": "b.example" })).await;
    world.must("mailbox.delete", json!({ "address": "x@b.example" })).await;
    world.must("mailbox.undelete", json!({ "address": "x@b.example" })).await;
    assert_eq!(everything(&world).await, before);
}

async fn hold_then_release_is_an_identity(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    let off = |shown: &Value| shown["switches_off"].clone();
    let asked = json!({ "path": "a", "switch": "login", "reason": "unpaid" });
    let unpaid = world.must("hold.add", asked).await;
    world.must("mailbox.suspend", json!({ "address": "x@a.example" })).await;
    world.must("mailbox.suspend", json!({ "address": "x@a.example" })).await;
    assert_eq!(world.integer("SELECT count(*) FROM hold").await, 4);
    let shown = world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    assert_eq!(off(&shown), json!(["login", "receive", "send"]));
    // Resuming releases the named holds only; what others hold stays off.
    world.must("mailbox.resume", json!({ "address": "x@a.example" })).await;
    let shown = world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    assert_eq!(off(&shown), json!(["login"]));
    world.must("hold.release", json!({ "id": unpaid["id"] })).await;
    let shown = world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    assert_eq!(off(&shown), json!([]));
    assert_eq!(
        refusal(world.run(&world.system, "hold.release", json!({ "id": unpaid["id"] })).await),
        "not-found"
    );
}

async fn nobody_releases_what_was_set_above(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    world.must("mailbox.suspend", json!({ "address": "x@a.example" })).await;
    let refused = world.run(&chief, "mailbox.resume", json!({ "address": "x@a.example" })).await;
    assert_eq!(refusal(refused), "forbidden");
    let own = json!({ "address": "x@a.example", "switches": ["send"], "reason": "ours" });
    world.run(&chief, "mailbox.suspend", own).await.unwrap();
    let resumed = json!({ "address": "x@a.example", "reason": "ours" });
    let after = world.run(&chief, "mailbox.resume", resumed).await.unwrap();
    assert_eq!(after["switches_off"], json!(["login", "receive", "send"]));
    let held = world.run(&chief, "hold.list", json!({ "mailbox": "x@a.example" })).await.unwrap();
    assert!(held["items"].as_array().unwrap().iter().all(|hold| hold["authority"] == "provider"));
}

async fn manage_hold_stops_grants_there_and_below_only(world: World) {
    let upper = world.aboard("a", "a.example").await;
    let lower = world.aboard("a/b", "b.example").await;
    let own = json!({ "path": "a", "switch": "manage", "reason": "lock out" });
    assert_eq!(refusal(world.run(&upper, "hold.add", own).await), "forbidden");
    let asked = json!({ "path": "a/b", "switch": "manage", "reason": "dispute" });
    world.run(&upper, "hold.add", asked).await.unwrap();
    assert_eq!(refusal(world.run(&lower, "customer.show", json!({ "path": "b" })).await), "not-found");
    world.run(&upper, "customer.show", json!({ "path": "a/b" })).await.unwrap();
    world.run(&lower, "whoami", json!({})).await.unwrap();
}

async fn nobody_grants_more_than_they_hold(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let asked = json!({ "name": "help", "customer": "a", "role": "helpdesk", "delegable": true });
    let helper = world.run(&chief, "administrator.create", asked).await.unwrap();
    let helper = world.login(&helper["token"]).await;
    let asked = json!({ "name": "more", "customer": "a", "role": "viewer" });
    assert_eq!(refusal(world.run(&helper, "administrator.create", asked).await), "forbidden");
    for role in ["system-admin"] {
        let asked = json!({ "name": "root", "customer": "a", "role": role });
        assert_eq!(refusal(world.run(&chief, "administrator.create", asked).await), "invalid");
    }
    // An expiry later than one's own is more than one holds.
    let asked =
        json!({ "name": "brief", "customer": "a", "role": "admin", "delegable": true, "expires_at": "10d" });
    let brief = world.run(&chief, "administrator.create", asked).await.unwrap();
    let brief = world.login(&brief["token"]).await;
    let asked = |days: &str| {
        let name = format!("v{days}");
        json!({ "name": name, "customer": "a", "role": "viewer", "expires_at": days })
    };
    assert_eq!(refusal(world.run(&brief, "administrator.create", asked("11d")).await), "forbidden");
    world.run(&brief, "administrator.create", asked("9d")).await.unwrap();
    // Acting on somebody who holds more than one could pass on.
    let chief_name = world.run(&chief, "whoami", json!({})).await.unwrap()["name"].clone();
    for name in ["administrator.disable", "administrator.delete", "token.create"] {
        let acted = world.run(&brief, name, json!({ "name": chief_name })).await;
        assert_eq!(refusal(acted), "forbidden", "{name}");
    }
}

async fn tokens_end_with_time_revocation_and_their_owner(world: World) {
    let made = world.must("customer.create", json!({ "path": "a", "admin": "anna" })).await;
    let secret = made["token"].as_str().unwrap().to_owned();
    let anna = world.login(&made["token"]).await;
    assert_eq!(refusal(world.run(&anna, "token.create", json!({})).await), "forbidden");
    let name = made["administrator"].clone();
    let short = world.must("token.create", json!({ "name": name, "expires_at": "1d" })).await;
    world.login(&short["token"]).await;
    world.clock.advance(Duration::from_secs(86_401));
    let valid =
        async |secret: &str| world.management.authenticate_token(secret, None).await.unwrap().is_some();
    assert!(!valid(short["token"].as_str().unwrap()).await);
    assert!(valid(&secret).await);
    world.must("administrator.disable", json!({ "name": name })).await;
    assert!(!valid(&secret).await);
    world.must("administrator.enable", json!({ "name": name })).await;
    assert!(valid(&secret).await);
    let listed = world.run(&anna, "token.list", json!({})).await.unwrap();
    let first = listed["items"].as_array().unwrap().iter().find(|token| token["label"] == "first").unwrap();
    world.run(&anna, "token.revoke", json!({ "id": first["id"] })).await.unwrap();
    assert!(!valid(&secret).await);
    assert!(!valid("ph_0000").await);
    // Only hashes are kept.
    assert_eq!(world.integer("SELECT count(*) FROM token WHERE length(secret_hash) <> 32").await, 0);
}

async fn dry_run_changes_nothing_and_answers_the_same(world: World) {
    world.aboard("a", "a.example").await;
    let before = everything(&world).await;
    let audited = world.integer("SELECT count(*) FROM audit WHERE operation = 'customer.create'").await;
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let asked = json!({ "path": "b", "domain": "b.example", "admin": "x" });
    let tried = world.run_with(&world.system, "customer.create", asked.clone(), options.clone(), None).await;
    assert_eq!(tried.unwrap()["path"], "b");
    assert_eq!(everything(&world).await, before);
    assert_eq!(
        world.integer("SELECT count(*) FROM audit WHERE operation = 'customer.create'").await,
        audited
    );
    let taken = json!({ "path": "a" });
    let refused = world.run_with(&world.system, "customer.create", taken, options, None).await;
    assert_eq!(refusal(refused), "conflict");
    world.must("customer.create", asked).await;
}

async fn idempotency_key_runs_once(world: World) {
    let options = RunOptions::default();
    let asked = json!({ "path": "a", "admin": "anna" });
    let run = async |asked: &Value, key| {
        world.run_with(&world.system, "customer.create", asked.clone(), options.clone(), Some(key)).await
    };
    let first = run(&asked, "k1").await.unwrap();
    let again = run(&asked, "k1").await.unwrap();
    assert_eq!((&first["id"], &first["code"]), (&again["id"], &again["code"]));
    assert!(first["token"].is_string() && again["token"].is_null(), "a token is shown once");
    assert_eq!(refusal(run(&json!({ "path": "b" }), "k1").await), "conflict");
    assert_eq!(refusal(run(&asked, "k2").await), "conflict");
    assert_eq!(world.integer("SELECT count(*) FROM customer").await, 2);
}

async fn pages_are_bound_to_their_caller_and_filter(world: World) {
    let chief = world.aboard("a", "a.example").await;
    for index in 0..5 {
        world.mailbox(&format!("m{index}@a.example")).await;
    }
    let mut seen = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let page = world.run(&chief, "mailbox.list", json!({ "limit": 2, "cursor": cursor })).await.unwrap();
        let items = page["items"].as_array().unwrap().clone();
        assert!(items.len() <= 2);
        seen.extend(items.into_iter().map(|item| item["address"].as_str().unwrap().to_owned()));
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
        let other = world.run(&world.system, "mailbox.list", json!({ "limit": 2, "cursor": cursor })).await;
        assert_eq!(refusal(other), "invalid");
        let filtered = json!({ "limit": 2, "cursor": cursor, "domain": "a.example" });
        assert_eq!(refusal(world.run(&chief, "mailbox.list", filtered).await), "invalid");
    }
    assert_eq!(seen, ["m0@a.example", "m1@a.example", "m2@a.example", "m3@a.example", "m4@a.example"]);
    let customers = world.must("customer.list", json!({ "limit": 1 })).await;
    let rest = world.must("customer.list", json!({ "limit": 1, "cursor": customers["cursor"] })).await;
    assert_eq!((path(&customers["items"][0]), path(&rest["items"][0])), ("/", "a"));
}

async fn changes_and_refusals_are_in_the_audit_trail_of_their_customer(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let other = world.aboard("b", "b.example").await;
    world.mailbox("x@a.example").await;
    let password = json!({ "address": "x@a.example", "password_hash": PASSWORD_HASH });
    world.run(&chief, "mailbox.password", password).await.unwrap();
    let limit = world.run(&chief, "customer.limit", json!({ "path": "a", "mailboxes": 9 })).await;
    assert_eq!(refusal(limit), "forbidden");
    let foreign = world.run(&other, "mailbox.delete", json!({ "address": "x@a.example" })).await;
    assert_eq!(refusal(foreign), "not-found");
    let found = world.run(&chief, "audit.search", json!({})).await.unwrap();
    let found = found["items"].as_array().unwrap();
    let lines: Vec<(&str, &str)> = found
        .iter()
        .map(|line| (line["operation"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("customer.limit", "forbidden"),
        ("mailbox.password", "done"),
        ("mailbox.create", "done"),
        ("customer.create", "done"),
    ];
    assert_eq!(lines, expected);
    assert!(!serde_json::to_string(found).unwrap().contains("SSHA"), "a secret in the trail");
    // Who stands above is not named, and what the other tried stays with the other.
    assert_eq!((&found[2]["actor"], &found[2]["customer"]), (&json!("provider"), &json!("a")));
    let tried = world.run(&other, "audit.search", json!({ "outcome": "refused" })).await.unwrap();
    let tried = tried["items"].as_array().unwrap();
    assert_eq!(tried.len(), 1);
    assert_eq!((&tried[0]["operation"], &tried[0]["customer"]), (&json!("mailbox.delete"), &json!("b")));
    let text = world.must("audit.search", json!({ "text": "X@A.example", "operation": "mailbox." })).await;
    assert_eq!(text["items"].as_array().unwrap().len(), 3);
    let late = world.must("audit.search", json!({ "since": "2030-01-01T00:00:00Z" })).await;
    assert_eq!(late["items"], json!([]));
}

async fn pending_domain_is_unique_only_once_verified(world: World) {
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "b.example").await;
    for (who, customer) in [(&a, "a"), (&b, "b")] {
        let asked = json!({ "domain": "new.example", "customer": customer });
        let made = world.run(who, "domain.create", asked).await.unwrap();
        assert_eq!(made["state"], "pending");
    }
    // Neither learns that the other wants it, nor that somebody has it.
    let taken =
        world.run(&b, "domain.create", json!({ "domain": "a.example", "customer": "b" })).await.unwrap();
    assert_eq!(taken["state"], "pending");
    assert_eq!(
        refusal(world.run(&a, "domain.confirm", json!({ "domain": "new.example" })).await),
        "forbidden"
    );
    let unclear = world.run(&world.system, "domain.confirm", json!({ "domain": "new.example" })).await;
    assert_eq!(refusal(unclear), "conflict");
    let asked = json!({ "domain": "new.example", "customer": "b" });
    assert_eq!(world.must("domain.confirm", asked).await["state"], "verified");
    let second =
        world.run(&world.system, "domain.confirm", json!({ "domain": "new.example", "customer": "a" })).await;
    assert_eq!(refusal(second), "conflict");
    let seen = world.run(&a, "domain.show", json!({ "domain": "new.example" })).await.unwrap();
    assert_eq!(seen["state"], "pending");
}

async fn aliases_lead_within_the_customer_only(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    world.mailbox("x@a.example").await;
    world.mailbox("x@b.example").await;
    let answer = async |target: &str| {
        let asked = json!({ "address": "all@a.example", "targets": [target] });
        world.run(&a, "alias.create", asked).await.unwrap_err().to_string().replace(target, "TARGET")
    };
    let foreign = answer("x@b.example").await;
    assert_eq!(foreign, answer("nobody@b.example").await);
    assert_eq!(foreign, answer("x@nowhere.example").await);
    let asked = json!({ "address": "all@a.example", "targets": ["x@a.example"] });
    world.run(&a, "alias.create", asked).await.unwrap();
    let asked = json!({ "domain": "a.example", "address": "all@a.example" });
    world.run(&a, "domain.catch-all", asked).await.unwrap();
    world.must("domain.alias", json!({ "domain": "other.example", "alias_of": "a.example" })).await;
    let shown = world.run(&a, "domain.show", json!({ "domain": "a.example" })).await.unwrap();
    assert_eq!(
        (&shown["alias_domains"], &shown["catch_all"]),
        (&json!(["other.example"]), &json!("all@a.example"))
    );
}

async fn new_mailbox_has_its_folders(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    assert_eq!(world.integer("SELECT count(*) FROM folder").await, 6);
    assert_eq!(world.integer("SELECT count(*) FROM folder WHERE special_use IS NOT NULL").await, 5);
    assert_eq!(world.integer("SELECT count(*) FROM subscription").await, 6);
    assert_eq!(world.integer("SELECT count(DISTINCT uid_validity) FROM folder").await, 6);
}
