//! Requests that wait for approval: what they may, who decides, and what must not work.

use std::time::Duration;

use posthouse::service::context::Authentication;
use posthouse::service::error::ServiceError;
use posthouse::service::registry::RunOptions;
use posthouse::service::requests::RequestPass;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    approved_request_is_carried_out_by_its_approver_on_behalf_of_the_requester,
    nobody_approves_their_own_request_under_any_name,
    every_step_of_a_process_approves_and_is_looked_at_again,
    steps_name_groups_and_roles_of_a_customers_own,
    what_leads_to_rights_cannot_be_asked_for,
    requests_above_and_beside_are_not_told_of,
    requests_become_void_and_expire,
    no_request_gives_what_its_last_approver_could_not_do,
);

const DAY: Duration = Duration::from_secs(86_400);

type Outcome = Result<Value, ServiceError>;

/// An administrator made by the system.
async fn staff(world: &World, name: &str, customer: &str, role: &str) -> (Authentication, String) {
    let asked = json!({ "name": name, "customer": customer, "role": role, "delegable": true });
    let made = world.must("administrator.create", asked).await;
    (world.login(&made["token"]).await, made["name"].as_str().unwrap().to_owned())
}

async fn ask(world: &World, who: &Authentication, operation: &str, fields: Value) -> Outcome {
    let asked = json!({ "operation": operation, "fields": fields, "reason": "needed" });
    world.run(who, "request.create", asked).await
}

/// Asks for something and answers the request's id.
async fn asked(world: &World, who: &Authentication, operation: &str, fields: Value) -> Value {
    ask(world, who, operation, fields).await.unwrap()["id"].clone()
}

async fn approve(world: &World, who: &Authentication, id: &Value) -> Outcome {
    world.run(who, "request.approve", json!({ "id": id })).await
}

async fn state(world: &World, id: &Value) -> String {
    world.must("request.show", json!({ "id": id })).await["state"].as_str().unwrap().to_owned()
}

/// Ids of the requests that this list shows.
async fn listed(world: &World, who: &Authentication, asked: Value) -> Vec<Value> {
    let page = world.run(who, "request.list", asked).await.unwrap();
    page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
}

async fn unread(world: &World, who: &Authentication) -> Vec<String> {
    let page = world.run(who, "notice.list", json!({ "unread": true })).await.unwrap();
    let kinds = page["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap());
    kinds.map(str::to_owned).collect()
}

async fn approved_request_is_carried_out_by_its_approver_on_behalf_of_the_requester(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let (viewer, viewer_login) = staff(&world, "viewer", "a", "viewer").await;
    let fields = json!({ "address": "new@a.example", "password": "correct horse battery", "customer": "a" });
    assert_eq!(refusal(world.run(&viewer, "mailbox.create", fields.clone()).await), "forbidden");
    let made = ask(&world, &viewer, "mailbox.create", fields).await.unwrap();
    assert_eq!((&made["state"], &made["waits_at"]), (&json!("open"), &json!("a")));
    assert_eq!(made["effects"]["address"], "new@a.example", "{made}");
    assert!(!made.to_string().contains("password") && !made.to_string().contains("horse"), "{made}");
    // Nothing was made yet, and no password stands anywhere in plain.
    assert_eq!(world.integer("SELECT count(*) FROM mailbox").await, 0);
    assert_eq!(world.integer("SELECT count(*) FROM request WHERE fields LIKE '%argon2%'").await, 1);
    let plain = "SELECT (SELECT count(*) FROM request WHERE fields LIKE '%horse%')
                      + (SELECT count(*) FROM audit WHERE coalesce(after, '') LIKE '%horse%'
                                                       OR coalesce(after, '') LIKE '%argon2%')";
    assert_eq!(world.integer(plain).await, 0);
    assert_eq!(unread(&world, &chief).await, ["request-waiting"]);
    assert_eq!(listed(&world, &chief, json!({ "to_approve": true })).await, [made["id"].clone()]);
    assert_eq!(listed(&world, &viewer, json!({ "to_approve": true })).await, Vec::<Value>::new());
    assert_eq!(listed(&world, &viewer, json!({ "mine": true })).await, [made["id"].clone()]);
    assert_eq!(refusal(approve(&world, &viewer, &made["id"]).await), "forbidden");
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&chief, "request.approve", json!({ "id": made["id"] }), dry, None).await;
    assert_eq!(tried.unwrap()["result"]["address"], "new@a.example");
    assert_eq!(world.integer("SELECT count(*) FROM mailbox").await, 0);
    let done = approve(&world, &chief, &made["id"]).await.unwrap();
    assert_eq!((&done["state"], &done["result"]["address"]), (&json!("done"), &json!("new@a.example")));
    world.must("mailbox.show", json!({ "address": "new@a.example" })).await;
    assert_eq!(world.integer("SELECT count(*) FROM request WHERE fields LIKE '%argon2%'").await, 0);
    assert_eq!(unread(&world, &viewer).await, ["request-decided"]);
    // Both are in the trail.
    let found = world.run(&chief, "audit.search", json!({ "operation": "mailbox.create" })).await.unwrap();
    let record = found["items"].as_array().unwrap().iter().find(|one| one["outcome"] == "done").unwrap();
    assert!(record["actor"].as_str().unwrap().starts_with("chief@"), "{record}");
    assert_eq!(record["on_behalf"], json!(viewer_login), "{record}");
    assert_eq!(refusal(approve(&world, &chief, &made["id"]).await), "conflict");
    // Rejecting and withdrawing end one too.
    let quota = json!({ "address": "new@a.example", "quota": 1000 });
    let id = asked(&world, &viewer, "mailbox.quota", quota.clone()).await;
    assert_eq!(refusal(world.run(&viewer, "request.reject", json!({ "id": id })).await), "forbidden");
    world.run(&chief, "request.reject", json!({ "id": id, "reason": "too small" })).await.unwrap();
    let shown = world.run(&viewer, "request.show", json!({ "id": id })).await.unwrap();
    assert_eq!((&shown["state"], &shown["decision"]), (&json!("rejected"), &json!("too small")));
    let id = asked(&world, &viewer, "mailbox.quota", quota).await;
    assert_eq!(refusal(world.run(&chief, "request.withdraw", json!({ "id": id })).await), "forbidden");
    world.run(&viewer, "request.withdraw", json!({ "id": id })).await.unwrap();
    assert_eq!(refusal(approve(&world, &chief, &id).await), "conflict");
    let shown = world.must("mailbox.show", json!({ "address": "new@a.example" })).await;
    assert_eq!(shown.get("bytes_max"), None);
}

async fn nobody_approves_their_own_request_under_any_name(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    let (boss, boss_login) = staff(&world, "boss", "a", "admin").await;
    let id = asked(&world, &boss, "mailbox.delete", json!({ "address": "x@a.example" })).await;
    assert_eq!(refusal(approve(&world, &boss, &id).await), "forbidden");
    // By another token.
    let token = world.must("token.create", json!({ "name": boss_login })).await;
    let again = world.login(&token["token"]).await;
    assert_eq!(refusal(approve(&world, &again, &id).await), "forbidden");
    // By somebody whom the requester has made.
    let made = json!({ "name": "puppet", "customer": "a", "role": "admin" });
    let made = world.run(&boss, "administrator.create", made).await.unwrap();
    let puppet = world.login(&made["token"]).await;
    assert_eq!(refusal(approve(&world, &puppet, &id).await), "conflict");
    // By the same person under another name.
    for (name, contact) in [("one", "boss@x.example"), ("two", "Boss@x.example")] {
        let asked = json!({ "name": name, "customer": "a", "role": "admin", "contact": contact });
        let made = world.must("administrator.create", asked).await;
        let who = world.login(&made["token"]).await;
        if name == "one" {
            let own = asked_again(&world, &who).await;
            assert_eq!(refusal(approve(&world, &who, &own).await), "forbidden");
        } else {
            let ids = listed(&world, &who, json!({ "open": true })).await;
            assert_eq!(refusal(approve(&world, &who, &ids[0]).await), "conflict");
        }
    }
    assert_eq!(world.integer("SELECT count(*) FROM mailbox WHERE deleted_at IS NOT NULL").await, 0);
    // Somebody else may.
    let (other, _) = staff(&world, "other", "a", "manager").await;
    assert_eq!(approve(&world, &other, &id).await.unwrap()["state"], "done");
}

async fn asked_again(world: &World, who: &Authentication) -> Value {
    asked(world, who, "mailbox.rename", json!({ "address": "x@a.example", "name": "X" })).await
}

pub async fn approver_is_nobodys_deputy(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    world.mailbox("y@b.example").await;
    world.mailbox("x@a.example").await;
    // What the requester does not see cannot be asked for, whoever would approve.
    for (operation, fields) in [
        ("mailbox.delete", json!({ "address": "y@b.example" })),
        ("mailbox.create", json!({ "address": "z@b.example", "password_hash": PASSWORD_HASH })),
        ("customer.create", json!({ "path": "b/new" })),
        ("customer.limit", json!({ "path": "b", "bytes": 0 })),
        ("domain.create", json!({ "domain": "c.example", "customer": "b" })),
    ] {
        assert_eq!(refusal(ask(&world, &chief, operation, fields).await), "not-found", "{operation}");
    }
    // The approver finds something else under the same name: a customer that is called as the code of the other.
    let code = world.must("customer.show", json!({ "path": "a" })).await["code"].as_str().unwrap().to_owned();
    let id = asked(&world, &chief, "customer.create", json!({ "path": "a/new" })).await;
    world.must("customer.create", json!({ "path": code.to_lowercase() })).await;
    let refused = approve(&world, &world.system, &id).await.unwrap_err();
    assert!(refused.to_string().contains("is not what it was"), "{refused}");
    world.must("customer.delete", json!({ "path": format!("/{}", code.to_lowercase()) })).await;
    assert_eq!(approve(&world, &world.system, &id).await.unwrap()["state"], "done");
    world.must("customer.show", json!({ "path": "a/new" })).await;
    // A mailbox that took the name of the one that was meant.
    let id = asked(&world, &chief, "mailbox.delete", json!({ "address": "x@a.example" })).await;
    world.must("mailbox.delete", json!({ "address": "x@a.example" })).await;
    world.mailbox("x@a.example").await;
    assert_eq!(refusal(approve(&world, &world.system, &id).await), "conflict");
    world.must("mailbox.show", json!({ "address": "x@a.example" })).await;
    // A system administrator who approves a domain does not say whose it is.
    let asked_for = json!({ "domain": "famous.example", "customer": "a" });
    let id = asked(&world, &chief, "domain.create", asked_for).await;
    let done = approve(&world, &world.system, &id).await.unwrap();
    assert_eq!(done["result"]["state"], "pending", "{done}");
}

async fn every_step_of_a_process_approves_and_is_looked_at_again(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    let (viewer, _) = staff(&world, "viewer", "a", "viewer").await;
    let (auditor, auditor_login) = staff(&world, "auditor", "a", "auditor").await;
    let (manager, _) = staff(&world, "manager", "a", "manager").await;
    let (billing, billing_login) = staff(&world, "billing", "a", "billing").await;
    let steps = json!({ "customer": "a", "steps": [{ "role": "auditor" }, { "role": "manager" }] });
    assert_eq!(refusal(world.run(&manager, "process.set", steps.clone()).await), "forbidden");
    world.run(&chief, "process.set", steps).await.unwrap();
    let delete = || json!({ "address": "x@a.example" });
    let id = asked(&world, &viewer, "mailbox.delete", delete()).await;
    assert_eq!(unread(&world, &auditor).await, ["request-waiting"]);
    assert!(unread(&world, &manager).await.is_empty());
    // The last approver alone is not enough, nor is one who could do it without asking anybody.
    for who in [&manager, &chief, &world.system] {
        assert_eq!(refusal(approve(&world, who, &id).await), "forbidden");
    }
    let waiting = approve(&world, &auditor, &id).await.unwrap();
    assert_eq!((&waiting["state"], &waiting["step"]), (&json!("open"), &json!(2)));
    assert_eq!(unread(&world, &manager).await, ["request-waiting"]);
    assert_eq!(refusal(approve(&world, &auditor, &id).await), "forbidden");
    // The first approver loses its role before the last one decides: it is asked for anew.
    let grant = json!({ "name": auditor_login, "customer": "a", "role": "auditor" });
    world.must("administrator.revoke", grant.clone()).await;
    let again = approve(&world, &manager, &id).await.unwrap();
    assert_eq!(
        (&again["state"], &again["step"], &again["approvals"]),
        (&json!("open"), &json!(1), &json!([]))
    );
    world.must("mailbox.show", delete()).await;
    world.must("administrator.grant", grant).await;
    approve(&world, &auditor, &id).await.unwrap();
    // Changing the process begins it anew; the last approver cannot do it: nothing happens.
    let steps = json!([{ "administrator": auditor_login }, { "administrator": billing_login }]);
    let steps = json!({ "customer": "a", "steps": steps });
    let set = world.run(&chief, "process.set", steps).await.unwrap();
    assert_eq!(set["restarted"], 1);
    assert_eq!(refusal(approve(&world, &manager, &id).await), "forbidden");
    approve(&world, &auditor, &id).await.unwrap();
    assert_eq!(refusal(approve(&world, &billing, &id).await), "forbidden");
    let shown = world.must("request.show", json!({ "id": id })).await;
    assert_eq!((&shown["state"], &shown["step"]), (&json!("open"), &json!(2)), "{shown}");
    world.must("mailbox.show", delete()).await;
    // Nobody takes two steps.
    let twice = json!({ "customer": "a", "steps": [{ "role": "manager" }, { "role": "manager" }] });
    world.run(&chief, "process.set", twice).await.unwrap();
    approve(&world, &manager, &id).await.unwrap();
    assert_eq!(refusal(approve(&world, &manager, &id).await), "conflict");
    // Without a process whoever may decides; quota never waits for one.
    world.run(&chief, "process.set", json!({ "customer": "a", "steps": [] })).await.unwrap();
    assert_eq!(approve(&world, &manager, &id).await.unwrap()["state"], "done");
    world
        .run(&chief, "process.set", json!({ "customer": "a", "steps": [{ "role": "auditor" }] }))
        .await
        .unwrap();
    world.mailbox("q@a.example").await;
    let id = asked(&world, &viewer, "mailbox.quota", json!({ "address": "q@a.example", "quota": 5 })).await;
    assert_eq!(approve(&world, &manager, &id).await.unwrap()["state"], "done");
    // A step stands at the customer or above it.
    world.aboard("b", "b.example").await;
    let aside = json!({ "customer": "a", "steps": [{ "role": "admin", "customer": "b" }] });
    assert_eq!(refusal(world.run(&world.system, "process.set", aside.clone()).await), "invalid");
    assert_eq!(refusal(world.run(&chief, "process.set", aside).await), "not-found");
}

async fn steps_name_groups_and_roles_of_a_customers_own(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.must("customer.create", json!({ "path": "a/low", "domain": "low.example" })).await;
    world.mailbox("x@low.example").await;
    let reads =
        ["mailbox.read", "domain.read", "customer.read", "alias.read", "request.create", "mailbox.delete"];
    let role = json!({ "name": "board", "customer": "a", "base": "manager", "permissions": reads });
    world.must("role.create", role).await;
    let (viewer, _) = staff(&world, "viewer", "a/low", "viewer").await;
    let (member, member_login) = staff(&world, "member", "a", "viewer").await;
    let (other, _) = staff(&world, "other", "a", "board").await;
    let (builtin, _) = staff(&world, "builtin", "a", "manager").await;
    let group = world.must("group.create", json!({ "name": "ops", "customer": "a" })).await["name"].clone();
    let steps = json!({ "customer": "a", "steps": [{ "group": group }, { "role": "board" }] });
    // A group that has nothing there says nothing about it.
    assert_eq!(refusal(world.run(&chief, "process.set", steps.clone()).await), "invalid");
    world.must("group.grant", json!({ "name": group, "role": "viewer", "customer": "a" })).await;
    world.run(&chief, "process.set", steps).await.unwrap();
    let shown = world.run(&chief, "process.show", json!({ "customer": "a/low" })).await.unwrap();
    let expected = json!([{ "group": group }, { "role": "board", "customer": "a" }]);
    assert_eq!(shown["steps"], expected);
    let below = world.run(&viewer, "process.show", json!({ "customer": "low" })).await.unwrap();
    assert_eq!(below["steps"], json!([{ "customer": "provider" }, { "customer": "provider" }]));
    let id = asked(&world, &viewer, "mailbox.delete", json!({ "address": "x@low.example" })).await;
    // Nobody is in the group yet; whoever is in it from now on may.
    for who in [&member, &other, &chief, &world.system] {
        assert_eq!(refusal(approve(&world, who, &id).await), "forbidden");
    }
    let membership = json!({ "name": group, "administrator": member_login });
    world.must("group.add", membership.clone()).await;
    assert_eq!(listed(&world, &member, json!({ "to_approve": true })).await, std::slice::from_ref(&id));
    approve(&world, &member, &id).await.unwrap();
    assert_eq!(unread(&world, &other).await, ["request-waiting"]);
    // The role that is meant is that one, not one that is able to do the same.
    assert_eq!(refusal(approve(&world, &builtin, &id).await), "forbidden");
    // Who has left the group has to be asked again, or another member.
    world.must("group.remove", membership.clone()).await;
    let again = approve(&world, &other, &id).await.unwrap();
    assert_eq!((&again["state"], &again["step"]), (&json!("open"), &json!(1)));
    world.must("group.add", membership).await;
    approve(&world, &member, &id).await.unwrap();
    assert_eq!(approve(&world, &other, &id).await.unwrap()["state"], "done");
    let unknown = json!({ "customer": "a", "steps": [{ "group": "nobody" }] });
    assert_eq!(refusal(world.run(&chief, "process.set", unknown).await), "not-found");
    let both = json!({ "customer": "a", "steps": [{ "group": group, "role": "board" }] });
    assert_eq!(refusal(world.run(&chief, "process.set", both).await), "invalid");
}

async fn what_leads_to_rights_cannot_be_asked_for(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    for operation in [
        "administrator.create",
        "administrator.grant",
        "administrator.enable",
        "token.create",
        "mailbox.password",
        "hold.add",
        "hold.release",
        "customer.suspend",
        "customer.resume",
        "customer.move",
        "domain.confirm",
        "mailbox.undelete",
        "message.undelete",
        "mailbox.restore",
        "process.set",
        "request.create",
        "request.approve",
        "administrator.expire",
        "setting.set",
        "no.such",
    ] {
        let refused = ask(&world, &chief, operation, json!({ "address": "x@a.example" })).await;
        assert_eq!(refusal(refused), "invalid", "{operation}");
    }
    for fields in [
        json!({ "path": "a/new", "admin": "friend" }),
        json!({ "path": "a/new", "code": "MINE" }),
        json!({ "path": "a/new", "unknown": 1 }),
    ] {
        assert_eq!(refusal(ask(&world, &chief, "customer.create", fields).await), "invalid");
    }
    // What could not be done at all is said at once.
    let same = json!({ "address": "x@a.example", "password_hash": PASSWORD_HASH });
    assert_eq!(refusal(ask(&world, &chief, "mailbox.create", same).await), "conflict");
    let long = json!({ "address": "x@a.example", "name": "n".repeat(20_000) });
    assert!(matches!(refusal(ask(&world, &chief, "mailbox.rename", long).await), "limit" | "invalid"));
    assert_eq!(world.integer("SELECT count(*) FROM request").await, 0);
    assert_eq!(world.integer("SELECT count(*) FROM mailbox").await, 1);
}

async fn requests_above_and_beside_are_not_told_of(world: World) {
    let top = world.aboard("top", "top.example").await;
    let a = world.aboard("top/a", "a.example").await;
    let b = world.aboard("top/b", "b.example").await;
    let id = asked(&world, &a, "customer.limit", json!({ "path": "a", "bytes": 5000 })).await;
    // It waits above: that is all its own customer learns.
    let shown = world.run(&a, "request.show", json!({ "id": id })).await.unwrap();
    assert_eq!(shown["waits_at"], "provider");
    assert_eq!(shown.get("waits_for"), None);
    assert!(!shown.to_string().contains("top"), "{shown}");
    assert_eq!(world.run(&top, "request.show", json!({ "id": id })).await.unwrap()["waits_at"], "top");
    for operation in ["request.show", "request.approve", "request.reject", "request.withdraw"] {
        let theirs = world.run(&b, operation, json!({ "id": id })).await.unwrap_err().to_string();
        let nobodys =
            world.run(&b, operation, json!({ "id": "zzzzzzzzzzzzzzzz" })).await.unwrap_err().to_string();
        assert_eq!(theirs.replace(id.as_str().unwrap(), "ID"), nobodys.replace("zzzzzzzzzzzzzzzz", "ID"));
    }
    assert_eq!(listed(&world, &b, json!({})).await, Vec::<Value>::new());
    assert!(unread(&world, &b).await.is_empty() && unread(&world, &a).await.is_empty());
    assert_eq!(listed(&world, &top, json!({ "to_approve": true })).await, std::slice::from_ref(&id));
    let done = approve(&world, &top, &id).await.unwrap();
    assert_eq!(done["state"], "done");
    let shown = world.run(&a, "request.show", json!({ "id": id })).await.unwrap();
    assert_eq!(shown["decided_by"], "provider");
    assert_eq!(world.must("customer.show", json!({ "path": "top/a" })).await["limits"]["bytes"], 5000);
    let notices = world.run(&a, "notice.list", json!({})).await.unwrap().to_string();
    assert!(notices.contains("request-decided") && !notices.contains("top"), "{notices}");
}

async fn requests_become_void_and_expire(world: World) {
    world.aboard("old", "old.example").await;
    world.aboard("new", "new.example").await;
    let chief = world.aboard("old/a", "a.example").await;
    world.mailbox("x@a.example").await;
    let (viewer, viewer_login) = staff(&world, "viewer", "old/a", "viewer").await;
    let (manager, _) = staff(&world, "manager", "old/a", "manager").await;
    let pass = RequestPass::new(&world.management);
    let rename = || json!({ "address": "x@a.example", "name": "X" });
    let moved = asked(&world, &viewer, "mailbox.rename", rename()).await;
    assert_eq!(pass.pass().await.unwrap(), 0);
    world.must("customer.move", json!({ "path": "old/a", "to": "new" })).await;
    assert_eq!(refusal(approve(&world, &manager, &moved).await), "conflict");
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(state(&world, &moved).await, "void");
    assert!(unread(&world, &viewer).await.contains(&"request-decided".to_owned()));
    let lost = asked(&world, &viewer, "mailbox.rename", rename()).await;
    let revoke = json!({ "name": viewer_login, "customer": "new/a", "role": "viewer" });
    world.must("administrator.revoke", revoke).await;
    assert_eq!(refusal(approve(&world, &chief, &lost).await), "conflict");
    pass.pass().await.unwrap();
    assert_eq!(state(&world, &lost).await, "void");
    let late = asked(&world, &manager, "mailbox.rename", rename()).await;
    world.clock.advance(DAY * 29);
    assert_eq!(pass.pass().await.unwrap(), 0);
    world.clock.advance(DAY * 2);
    assert_eq!(refusal(approve(&world, &chief, &late).await), "conflict");
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(state(&world, &late).await, "expired");
    // Who decides is gone: it waits for the next above.
    let id = asked(&world, &manager, "mailbox.rename", rename()).await;
    for name in ["chief", "viewer"] {
        let found = world.must("administrator.list", json!({ "customer": "new/a" })).await;
        let one = found["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"].as_str().unwrap().starts_with(name));
        world.must("administrator.disable", json!({ "name": one.unwrap()["name"] })).await;
    }
    assert_eq!(pass.pass().await.unwrap(), 1);
    assert_eq!(world.must("request.show", json!({ "id": id })).await["waits_at"], "new");
    assert_eq!(pass.pass().await.unwrap(), 0);
    world.clock.advance(DAY * 400);
    pass.pass().await.unwrap();
    pass.pass().await.unwrap();
}

/// The same on whichever world: whatever is approved could have been done by who approved it last.
async fn no_request_gives_what_its_last_approver_could_not_do(world: World) {
    let mut people = Vec::new();
    for (path, domain) in [("top", "top.example"), ("top/a", "a.example"), ("top/b", "b.example")] {
        people.push(world.aboard(path, domain).await);
        for name in ["x", "y", "z"] {
            world.mailbox(&format!("{name}@{domain}")).await;
        }
        for role in ["manager", "viewer", "helpdesk"] {
            people.push(staff(&world, role, path, role).await.0);
        }
    }
    let mut seed = 20_261_122_u64;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let (mut approved, mut refused) = (0, 0);
    let rounds = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 2_000 } else { 300 };
    for round in 0..rounds {
        let domain = ["top.example", "a.example", "b.example"][draw(3)];
        let address = format!("{}@{domain}", ["x", "y", "z"][draw(3)]);
        let path = ["top", "top/a", "a", "b", "top/b"][draw(5)];
        let (operation, fields) = match draw(6) {
            0 => ("mailbox.quota", json!({ "address": address, "quota": 1000 + draw(9) })),
            1 => ("mailbox.rename", json!({ "address": address, "name": format!("n{round}") })),
            2 => ("customer.limit", json!({ "path": path, "bytes": 1_000_000 + draw(9) })),
            3 => ("customer.create", json!({ "path": format!("{path}/n{round}") })),
            4 => ("mailbox.expire", json!({ "address": address, "expires_at": "90d" })),
            _ => ("domain.create", json!({ "domain": format!("n{round}.example"), "customer": path })),
        };
        let (requester, approver) = (draw(people.len()), draw(people.len()));
        let Ok(made) = ask(&world, &people[requester], operation, fields).await else { continue };
        // What the approver could do itself, with the parameters as they were frozen.
        let dry = RunOptions { dry_run: true, ..RunOptions::default() };
        let frozen = made["fields"].clone();
        let alone = world.run_with(&people[approver], operation, frozen, dry, None).await;
        match approve(&world, &people[approver], &made["id"]).await {
            Ok(done) => {
                assert_eq!(done["state"], "done");
                assert!(alone.is_ok(), "{operation} {made}: {alone:?}");
                assert_ne!(requester, approver, "{made}");
                approved += 1;
            }
            Err(error) => {
                assert!(
                    alone.is_err() || requester == approver,
                    "{operation} {made} could be done and was refused: {error}"
                );
                refused += 1;
            }
        }
    }
    assert!(approved > 5 && refused > 5, "{approved} approved, {refused} refused");
}
