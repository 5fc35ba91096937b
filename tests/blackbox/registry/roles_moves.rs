//! What becomes of grants, roles, groups, ceilings and holds when customers move, and are deleted and come back.

use posthouse::service::context::Authentication;
use serde_json::{Value, json};

use super::roles::{administrator, effective, holds, login, may, post};
use super::{World, on_both, refusal};

on_both!(
    move_ends_what_a_lost_ancestor_had,
    move_does_not_shake_off_ceilings_and_holds,
    deleted_with_its_customer_and_back,
);

/// `old` and `new`, and `old/unit` with an administrator and a domain.
async fn two_departments(world: &World) -> [Authentication; 3] {
    [
        world.aboard("old", "old.example").await,
        world.aboard("new", "new.example").await,
        world.aboard("old/unit", "unit.example").await,
    ]
}

async fn move_ends_what_a_lost_ancestor_had(world: World) {
    let [old, _, unit] = two_departments(&world).await;
    let (old_login, unit_login) = (login(&world, &old).await, login(&world, &unit).await);
    // A group of the old department with a grant inside; and a group inside with somebody of the old department.
    let outer =
        world.must("group.create", json!({ "name": "outer", "customer": "old" })).await["name"].clone();
    world.must("group.grant", json!({ "name": outer, "role": "viewer", "customer": "old/unit" })).await;
    let inner =
        world.must("group.create", json!({ "name": "inner", "customer": "old/unit" })).await["name"].clone();
    world.must("group.grant", json!({ "name": inner, "role": "manager", "customer": "old/unit" })).await;
    for member in [&old_login, &unit_login] {
        world.must("group.add", json!({ "name": inner, "administrator": member })).await;
    }
    // One who is deleted does not come back with it either.
    let left = world.must("administrator.create", json!({ "name": "left", "customer": "old" })).await["name"]
        .clone();
    world.must("administrator.grant", json!({ "name": left, "role": "admin", "customer": "old/unit" })).await;
    world.must("administrator.delete", json!({ "name": left })).await;
    let moved = world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    let name = |value: &Value| value.as_str().unwrap().to_owned();
    let ended = [format!("viewer of {}", name(&outer)), format!("admin of {}", name(&left))];
    assert_eq!(moved["grants_ended"], json!(ended));
    assert_eq!(moved["memberships_ended"], json!([old_login]));
    for place in ["new/unit", "new"] {
        assert!(effective(&world, &old, place).await.is_empty(), "{place}");
    }
    let shown = world.must("group.show", json!({ "name": inner })).await;
    assert_eq!(shown["members"], json!([unit_login]));
    world.must("administrator.undelete", json!({ "name": left })).await;
    let told = world.must("administrator.effective", json!({ "name": left, "customer": "new/unit" })).await;
    assert_eq!(told["permissions"], json!([]));
    // The trail tells both sides, each in its own view.
    let found = world.run(&unit, "audit.search", json!({ "operation": "customer.move" })).await.unwrap();
    let found = found["items"].to_string();
    assert!(found.contains("grants_ended") && !found.contains(&name(&left)), "{found}");
}

async fn move_does_not_shake_off_ceilings_and_holds(world: World) {
    let [old, new, unit] = two_departments(&world).await;
    world.must("hold.add", json!({ "path": "old", "switch": "send", "reason": "unpaid" })).await;
    let own = json!({ "path": "old/unit", "switch": "pop3", "reason": "ours" });
    world.must("hold.add", own).await;
    world.must("ceiling.set", json!({ "path": "old", "role": "viewer" })).await;
    let moved = world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    assert_eq!(moved["holds_kept"], json!(["send (unpaid)"]));
    assert!(moved["ceiling_kept"].as_array().unwrap().contains(&json!("mailbox.create")), "{moved}");
    assert!(!holds(&world, &unit, "mailbox.create").await);
    let shown = world.run(&unit, "customer.show", json!({ "path": "unit" })).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["pop3", "send"]));
    // The new department may lift the ceiling, since it could pass on what comes back; the hold is the provider's.
    world.run(&new, "ceiling.clear", json!({ "path": "new/unit" })).await.unwrap();
    assert!(may(&world, &unit, "new/unit", "mailbox.create").await);
    let held = world.run(&new, "hold.list", json!({ "path": "new/unit" })).await.unwrap();
    let send =
        held["items"].as_array().unwrap().iter().find(|hold| hold["switch"] == "send").unwrap().clone();
    for who in [&old, &new, &unit] {
        let released = world.run(who, "hold.release", json!({ "id": send["id"] })).await;
        assert!(matches!(refusal(released), "forbidden" | "not-found"));
    }
    world.must("hold.release", json!({ "id": send["id"] })).await;
}

pub async fn role_edited_from_a_former_parent_changes_nothing(world: World) {
    let [old, _, unit] = two_departments(&world).await;
    post(&world, "old", "admin").await;
    let made = json!({ "name": "pat", "customer": "unit", "role": "post" });
    let pat = world.run(&unit, "administrator.create", made).await.unwrap();
    let pat = world.login(&pat["token"]).await;
    // The name is taken below the new department.
    let other =
        json!({ "name": "post", "customer": "new", "base": "viewer", "permissions": ["mailbox.read"] });
    world.must("role.create", other).await;
    let moved = world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    assert_eq!(moved["roles_copied"], json!(["post-2"]));
    let before = effective(&world, &pat, "new/unit").await;
    assert!(before.contains(&"mailbox.create".to_owned()));
    let code = world.must("customer.show", json!({ "path": "old" })).await["code"].clone();
    let name = format!("post@{}", code.as_str().unwrap());
    for change in [
        json!({ "name": name, "add": ["customer.delete"] }),
        json!({ "name": name, "remove": ["mailbox.create"] }),
    ] {
        world.run(&old, "role.update", change).await.unwrap();
    }
    assert_eq!(effective(&world, &pat, "new/unit").await, before);
    let shown = world.run(&unit, "role.show", json!({ "name": "post-2" })).await.unwrap();
    assert_eq!((&shown["customer"], &shown["grants"]), (&json!("unit"), &json!(1)));
    assert_eq!(refusal(world.run(&old, "role.show", json!({ "name": "post-2" })).await), "not-found");
    // The old role is held by nobody any more.
    world.run(&old, "role.delete", json!({ "name": name })).await.unwrap();
}

async fn deleted_with_its_customer_and_back(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    let pat = administrator(&world, "pat", "b", "billing", false).await;
    let pat_login = login(&world, &pat).await;
    let group = world.must("group.create", json!({ "name": "ops", "customer": "a" })).await["name"].clone();
    post(&world, "a", "manager").await;
    world.must("group.grant", json!({ "name": group, "role": "post", "customer": "a" })).await;
    world.must("group.grant", json!({ "name": group, "role": "manager", "customer": "b" })).await;
    world.must("group.add", json!({ "name": group, "administrator": pat_login })).await;
    let all = async || {
        let (groups, roles) =
            (world.must("group.list", json!({})).await, world.must("role.list", json!({})).await);
        (groups, roles, effective(&world, &pat, "b").await)
    };
    let before = all().await;
    assert!(before.2.contains(&"mailbox.create".to_owned()));
    world.must("customer.delete", json!({ "path": "a" })).await;
    assert!(
        !may(&world, &pat, "b", "mailbox.create").await,
        "what a deleted group had elsewhere counts no more"
    );
    assert_eq!(refusal(world.run(&world.system, "group.show", json!({ "name": group })).await), "not-found");
    assert_eq!(refusal(world.run(&world.system, "role.show", json!({ "name": "post" })).await), "not-found");
    world.must("customer.undelete", json!({ "path": "a" })).await;
    assert_eq!(all().await, before);
    // An administrator comes back into the groups into which it could be put.
    world.must("administrator.delete", json!({ "name": pat_login })).await;
    let chief = administrator(&world, "full", "b", "admin", true).await;
    world.run(&chief, "administrator.undelete", json!({ "name": pat_login })).await.unwrap();
    let shown = world.must("administrator.show", json!({ "name": pat_login })).await;
    assert_eq!(shown["groups"], json!([]));
}
