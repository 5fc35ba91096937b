//! What somebody with bad intentions would try, one test each. Those that need mail or the sealed trail are beside:
//! `system::*::tampering_with_the_audit_trail_is_located`, `system::*::moved_mail_outlives_the_customer_that_had_it`.

use serde_json::json;

use super::requests::approver_is_nobodys_deputy;
use super::roles::{administrator, helpdesk_does_not_act_on_who_holds_more, login};
use super::roles_moves::role_edited_from_a_former_parent_changes_nothing;
use super::switches::held_customer_does_not_release_itself;
use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    held_customer_does_not_release_itself,
    helpdesk_does_not_act_on_who_holds_more,
    role_edited_from_a_former_parent_changes_nothing,
    approver_is_nobodys_deputy,
    held_customer_is_not_released_through_a_move_or_a_deletion,
    nobody_comes_to_more_through_another_ones_credentials,
    permissions_are_not_borrowed_by_way_of_a_template_a_group_or_a_role,
);

async fn held_customer_is_not_released_through_a_move_or_a_deletion(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    let deep = administrator(&world, "deep", "top/low", "admin", true).await;
    world.run(&low, "customer.create", json!({ "path": "low/unit" })).await.unwrap();
    world.run(&low, "customer.create", json!({ "path": "low/free" })).await.unwrap();
    let held = json!({ "path": "top/low/unit", "switches": ["login", "send"], "reason": "unpaid" });
    world.run(&top, "customer.suspend", held).await.unwrap();
    let off =
        async |path: &str| world.must("customer.show", json!({ "path": path })).await["switches_off"].clone();
    // Put aside and back, or put elsewhere below: it stays what it is.
    world.run(&deep, "customer.delete", json!({ "path": "low/unit" })).await.unwrap();
    world.run(&deep, "customer.undelete", json!({ "path": "low/unit" })).await.unwrap();
    assert_eq!(off("top/low/unit").await, json!(["login", "send"]));
    world.run(&deep, "customer.move", json!({ "path": "low/unit", "to": "low/free" })).await.unwrap();
    assert_eq!(off("top/low/free/unit").await, json!(["login", "send"]));
    let asked = json!({ "path": "low/free/unit", "reason": "unpaid" });
    assert_eq!(refusal(world.run(&deep, "customer.resume", asked).await), "forbidden");
    // Nor does its domain shake off the hold where the customer that it goes to is held too.
    let held = json!({ "path": "top/low", "switches": ["receive"], "reason": "unpaid" });
    world.run(&top, "customer.suspend", held).await.unwrap();
    let asked = json!({ "domain": "low.example", "to": "low/free" });
    world.run(&deep, "domain.move", asked).await.unwrap();
    let shown = world.must("domain.show", json!({ "domain": "low.example" })).await;
    assert!(shown["switches_off"].as_array().unwrap().contains(&json!("receive")), "{shown}");
}

async fn nobody_comes_to_more_through_another_ones_credentials(world: World) {
    world.aboard("a", "a.example").await;
    let boss = administrator(&world, "boss", "a", "admin", true).await;
    let boss_login = login(&world, &boss).await;
    // Roles that may act on administrators, and hold less than an administrator does.
    let permissions = [
        "customer.read",
        "administrator.read",
        "administrator.create",
        "administrator.update",
        "administrator.delete",
        "administrator.grant",
    ];
    let asked = json!({ "name": "desk", "customer": "a", "base": "admin", "permissions": permissions });
    world.must("role.create", asked).await;
    for role in ["desk", "manager", "helpdesk"] {
        let name = format!("{role}-attacker");
        let attacker = administrator(&world, &name, "a", role, true).await;
        for (operation, asked) in [
            ("administrator.password", json!({ "name": boss_login, "password_hash": PASSWORD_HASH })),
            ("token.create", json!({ "name": boss_login })),
            ("administrator.disable", json!({ "name": boss_login })),
            ("administrator.delete", json!({ "name": boss_login })),
            ("administrator.expire", json!({ "name": boss_login, "expires_at": "1d" })),
            ("administrator.revoke", json!({ "name": boss_login, "role": "admin", "customer": "a" })),
            ("administrator.create", json!({ "name": "mine", "customer": "a", "role": "admin" })),
        ] {
            let refused = refusal(world.run(&attacker, operation, asked).await);
            assert!(matches!(refused, "forbidden" | "not-found"), "{role} {operation}: {refused}");
        }
    }
    // The boss is who it was.
    world.run(&boss, "customer.show", json!({ "path": "a" })).await.unwrap();
}

async fn permissions_are_not_borrowed_by_way_of_a_template_a_group_or_a_role(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/low", "low.example").await;
    let high = administrator(&world, "high", "a", "admin", true).await;
    let low = administrator(&world, "low", "a/low", "admin", true).await;
    let low_login = login(&world, &low).await;
    // A group above with a role above, into which somebody below would like to come.
    let group = world.run(&high, "group.create", json!({ "name": "strong", "customer": "a" })).await.unwrap();
    let granted = json!({ "name": group["name"], "role": "admin", "customer": "a" });
    world.run(&high, "group.grant", granted).await.unwrap();
    for (operation, asked) in [
        ("group.add", json!({ "name": group["name"], "administrator": low_login })),
        ("group.grant", json!({ "name": group["name"], "role": "admin", "customer": "low" })),
        ("administrator.grant", json!({ "name": low_login, "role": "system-admin", "customer": "low" })),
        ("customer.limit", json!({ "path": "low", "bytes": null })),
        ("customer.store", json!({ "path": "low", "store": "main" })),
        ("customer.expire", json!({ "path": "low", "expires_at": null })),
        ("ceiling.clear", json!({ "path": "low" })),
        (
            "price.set",
            json!({ "path": "low", "from": "2030-01", "currency": "EUR", "gib_month": 0,
                              "mailbox_month": 0, "messages_1000": 0 }),
        ),
        ("customer.delete", json!({ "path": "low" })),
    ] {
        let refused = refusal(world.run(&low, operation, asked).await);
        assert!(matches!(refused, "forbidden" | "not-found" | "invalid"), "{operation}: {refused}");
    }
    // A role of its own with what it lacks counts as what its base leaves, and cannot be given to itself.
    let asked = json!({ "name": "grand", "customer": "low", "base": "admin",
        "permissions": ["customer.read", "content.read", "system.stores"] });
    let made = world.run(&low, "role.create", asked).await;
    if made.is_ok() {
        let asked = json!({ "name": low_login, "role": "grand", "customer": "low" });
        let refused = refusal(world.run(&low, "administrator.grant", asked).await);
        assert!(matches!(refused, "forbidden" | "invalid"), "{refused}");
    }
}
