//! Roles of customers, groups, ceilings, grants and what takes them back; and attacks on them.

use std::time::Duration;

use posthouse::service::context::Authentication;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    role_is_bounded_by_its_base_and_counts_below_its_customer,
    role_is_edited_only_by_who_could_grant_it_everywhere,
    role_in_use_cannot_be_deleted,
    role_names_are_unique_on_a_path_and_tell_nothing_of_others,
    group_gives_its_members_what_it_is_granted,
    nobody_adds_themselves_to_a_stronger_group,
    ceiling_limits_everybody_and_never_adds,
    ceiling_is_not_lifted_from_below,
    ceiling_is_lifted_only_by_who_could_pass_on_what_comes_back,
    content_is_never_implied_and_ends,
    grants_begin_and_are_found_by_their_maker,
    revoking_takes_back_what_hangs_on_it,
);

/// An administrator of this name at home there, with a role there.
pub async fn administrator(
    world: &World,
    name: &str,
    at: &str,
    role: &str,
    delegable: bool,
) -> Authentication {
    let asked = json!({ "name": name, "customer": at, "role": role, "delegable": delegable });
    let made = world.must("administrator.create", asked).await;
    world.login(&made["token"]).await
}

/// `name@CODE` of the caller.
pub async fn login(world: &World, who: &Authentication) -> Value {
    world.run(who, "whoami", json!({})).await.unwrap()["name"].clone()
}

/// What somebody may at a customer, as the system sees it.
pub async fn effective(world: &World, who: &Authentication, customer: &str) -> Vec<String> {
    let name = login(world, who).await;
    let answer = world.must("administrator.effective", json!({ "name": name, "customer": customer })).await;
    serde_json::from_value(answer["permissions"].clone()).unwrap()
}

pub async fn may(world: &World, who: &Authentication, customer: &str, permission: &str) -> bool {
    effective(world, who, customer).await.iter().any(|one| one == permission)
}

/// Whether somebody has a permission where one of their grants is, as they see it themselves.
pub async fn holds(world: &World, who: &Authentication, permission: &str) -> bool {
    let answer = world.run(who, "whoami", json!({})).await.unwrap();
    let grants = answer["grants"].as_array().unwrap();
    grants.iter().any(|grant| grant["permissions"].as_array().unwrap().contains(&json!(permission)))
}

fn new_mailbox(address: &str) -> Value {
    json!({ "address": address, "password_hash": PASSWORD_HASH })
}

/// A role of `at` that can create mailboxes and see them.
pub async fn post(world: &World, at: &str, base: &str) -> Value {
    let asked = json!({ "name": "post", "customer": at, "base": base,
        "permissions": ["customer.read", "domain.read", "mailbox.read", "mailbox.create"] });
    world.must("role.create", asked).await
}

async fn role_is_bounded_by_its_base_and_counts_below_its_customer(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    world.aboard("c", "c.example").await;
    let more = json!({ "name": "x", "customer": "a", "base": "viewer", "permissions": ["mailbox.create"] });
    let refused = world.run(&world.system, "role.create", more).await.unwrap_err();
    assert!(refused.to_string().contains("viewer does not have mailbox.create"), "{refused}");
    for wrong in [json!(["mailbox.fly"]), json!(["own"])] {
        let asked = json!({ "name": "x", "customer": "a", "base": "admin", "permissions": wrong });
        assert_eq!(refusal(world.run(&world.system, "role.create", asked).await), "invalid");
    }
    post(&world, "a", "manager").await;
    let made = json!({ "name": "pat", "customer": "a/b", "role": "post" });
    let pat = world.must("administrator.create", made).await;
    let pat = world.login(&pat["token"]).await;
    world.run(&pat, "mailbox.create", new_mailbox("x@b.example")).await.unwrap();
    let quota = json!({ "address": "x@b.example" });
    assert_eq!(refusal(world.run(&pat, "mailbox.quota", quota).await), "forbidden");
    // Beside its customer the role is none.
    let made = json!({ "name": "sid", "customer": "c", "role": "post" });
    assert_eq!(refusal(world.run(&world.system, "administrator.create", made).await), "invalid");
    // A narrower base counts at once, although the role says the same.
    let listed = world.must("role.show", json!({ "name": "post" })).await;
    assert_eq!((&listed["customer"], &listed["grants"]), (&json!("a"), &json!(1)));
    let narrower = json!({ "name": "post", "base": "viewer" });
    assert_eq!(refusal(world.run(&world.system, "role.update", narrower).await), "invalid");
    let narrower = json!({ "name": "post", "base": "viewer", "remove": ["mailbox.create"] });
    world.must("role.update", narrower).await;
    let late = world.run(&pat, "mailbox.create", new_mailbox("y@b.example")).await;
    assert_eq!(refusal(late), "forbidden", "an edit counts for the next request");
    let admin = world.must("role.show", json!({ "name": "admin" })).await;
    let admin = admin["permissions"].as_array().unwrap();
    assert!(admin.contains(&json!("role.create")) && !admin.contains(&json!("content.read")));
}

async fn role_is_edited_only_by_who_could_grant_it_everywhere(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    // May edit roles and see, and pass on nothing else.
    let asked = json!({ "name": "editor", "customer": "a", "base": "admin",
        "permissions": ["customer.read", "administrator.read", "role.update", "mailbox.read"] });
    world.must("role.create", asked).await;
    let editor = administrator(&world, "ed", "a", "editor", true).await;
    post(&world, "a", "admin").await;
    // Nobody holds it: the editor may say what it likes, which gives nobody anything.
    let more = json!({ "name": "post", "add": ["customer.delete"] });
    world.run(&editor, "role.update", more.clone()).await.unwrap();
    world.must("role.update", json!({ "name": "post", "remove": ["customer.delete"] })).await;
    let low = administrator(&world, "low", "a/b", "post", false).await;
    assert_eq!(refusal(world.run(&editor, "role.update", more).await), "forbidden");
    // Taking away is acting on those who have it, too.
    let less = json!({ "name": "post", "remove": ["mailbox.create"] });
    assert_eq!(refusal(world.run(&editor, "role.update", less).await), "forbidden");
    assert!(may(&world, &low, "a/b", "mailbox.create").await);
    // Who holds the role does not widen it for itself.
    let itself = json!({ "name": "editor", "add": ["customer.delete"] });
    assert_eq!(refusal(world.run(&editor, "role.update", itself).await), "forbidden");
    // Rights that end do not change what lasts longer.
    let asked = json!({ "name": "brief", "customer": "a", "role": "admin", "delegable": true,
        "expires_at": "10d" });
    let brief = world.must("administrator.create", asked).await;
    let brief = world.login(&brief["token"]).await;
    let widen = json!({ "name": "post", "add": ["mailbox.update"] });
    assert_eq!(refusal(world.run(&brief, "role.update", widen.clone()).await), "forbidden");
    let chief = administrator(&world, "full", "a", "admin", true).await;
    world.run(&chief, "role.update", widen).await.unwrap();
    assert!(may(&world, &low, "a/b", "mailbox.update").await);
    // A role of a customer above can be granted, not changed.
    let below = administrator(&world, "below", "a/b", "admin", true).await;
    let shown = world.run(&below, "role.show", json!({ "name": "post" })).await.unwrap();
    assert_eq!((&shown["name"], &shown["customer"]), (&json!("post"), &json!("provider")));
    let changed = json!({ "name": "post", "remove": ["mailbox.update"] });
    assert_eq!(refusal(world.run(&below, "role.update", changed).await), "forbidden");
    let found = world.run(&below, "audit.search", json!({ "outcome": "refused" })).await.unwrap();
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
}

async fn role_in_use_cannot_be_deleted(world: World) {
    world.aboard("a", "a.example").await;
    let made = post(&world, "a", "manager").await;
    let pat = administrator(&world, "pat", "a", "post", false).await;
    let asked = json!({ "name": made["name"] });
    let refused = world.run(&world.system, "role.delete", asked.clone()).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("conflict"));
    assert!(refused.to_string().contains("granted once"), "{refused}");
    let pat = login(&world, &pat).await;
    let brief = json!({ "name": pat, "role": "post", "customer": "a", "expires_at": "1d" });
    world.must("administrator.grant", brief).await;
    let revoked = json!({ "name": pat, "role": "post", "customer": "a" });
    let revoked = world.must("administrator.revoke", revoked).await;
    assert_eq!(revoked["also_ended"], json!([format!("post of {} at a", pat.as_str().unwrap())]));
    world
        .must(
            "administrator.grant",
            json!({ "name": pat, "role": "post", "customer": "a", "expires_at": "1d" }),
        )
        .await;
    assert_eq!(refusal(world.run(&world.system, "role.delete", asked.clone()).await), "conflict");
    world.must("administrator.delete", json!({ "name": pat })).await;
    let refused = world.run(&world.system, "role.delete", asked.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("once to what is deleted"), "{refused}");
    // A grant that has ended holds nothing up.
    world.clock.advance(Duration::from_secs(86_400));
    world.must("role.delete", asked.clone()).await;
    assert_eq!(refusal(world.run(&world.system, "role.delete", asked).await), "not-found");
    assert_eq!(world.integer("SELECT count(*) FROM custom_role").await, 0);
}

async fn role_names_are_unique_on_a_path_and_tell_nothing_of_others(world: World) {
    world.aboard("a", "a.example").await;
    let b = world.aboard("a/b", "b.example").await;
    let c = world.aboard("a/c", "c.example").await;
    let asked = |customer: &str, name: &str| {
        let permissions = ["mailbox.read"];
        json!({ "name": name, "customer": customer, "base": "viewer", "permissions": permissions })
    };
    world.run(&b, "role.create", asked("b", "eyes")).await.unwrap();
    // Beside it the name is free, and nothing tells that it is taken there.
    world.run(&c, "role.create", asked("c", "eyes")).await.unwrap();
    for (who, customer, name) in [(&b, "b", "eyes"), (&world.system, "a", "eyes"), (&b, "b", "viewer")] {
        assert_eq!(refusal(world.run(who, "role.create", asked(customer, name)).await), "conflict", "{name}");
    }
    world.must("role.create", asked("a", "all")).await;
    assert_eq!(refusal(world.run(&b, "role.create", asked("b", "all")).await), "conflict");
    let unclear = world.run(&world.system, "role.show", json!({ "name": "eyes" })).await;
    assert_eq!(refusal(unclear), "conflict");
    let listed = world.run(&c, "role.list", json!({})).await.unwrap();
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
    let code = world.must("customer.show", json!({ "path": "a/c" })).await["code"].clone();
    let eyes = format!("eyes@{}", code.as_str().unwrap());
    let built_in = [
        "system-admin",
        "admin",
        "manager",
        "viewer",
        "helpdesk",
        "auditor",
        "billing",
        "all",
        eyes.as_str(),
    ];
    assert_eq!(names, built_in);
    let first = world.run(&c, "role.list", json!({ "limit": 8 })).await.unwrap();
    let rest = world.run(&c, "role.list", json!({ "limit": 8, "cursor": first["cursor"] })).await.unwrap();
    assert_eq!((first["items"].as_array().unwrap().len(), &rest["items"][0]["name"]), (8, &json!(eyes)));
}

async fn group_gives_its_members_what_it_is_granted(world: World) {
    world.aboard("a", "a.example").await;
    let pat = administrator(&world, "pat", "a", "billing", false).await;
    let pat_login = login(&world, &pat).await;
    let group = world.must("group.create", json!({ "name": "Ops", "customer": "a" })).await["name"].clone();
    // A permission profile: a customer's role granted to a group.
    post(&world, "a", "manager").await;
    let asked = json!({ "name": group, "role": "post", "customer": "a" });
    world.must("group.grant", asked.clone()).await;
    assert_eq!(refusal(world.run(&pat, "mailbox.create", new_mailbox("x@a.example")).await), "forbidden");
    let member = json!({ "name": group, "administrator": pat_login });
    world.must("group.add", member.clone()).await;
    assert_eq!(refusal(world.run(&world.system, "group.add", member.clone()).await), "conflict");
    world.run(&pat, "mailbox.create", new_mailbox("x@a.example")).await.unwrap();
    let shown = world.must("administrator.show", json!({ "name": pat_login })).await;
    assert_eq!(shown["groups"], json!([group]));
    let by_group = format!("group {}", group.as_str().unwrap());
    assert_eq!(shown["grants"][1]["holder"], json!(by_group));
    let shown = world.must("group.show", json!({ "name": "ops" })).await;
    assert_eq!((&shown["members"], &shown["grants"][0]["role"]), (&json!([pat_login]), &json!("post")));
    let listed = world.must("grant.list", json!({ "customer": "a" })).await;
    assert!(listed["items"].as_array().unwrap().iter().any(|grant| grant["holder"] == json!(by_group)));
    // Out of the group, without the grant, without the group: each counts for the next request.
    world.must("group.remove", member.clone()).await;
    assert_eq!(refusal(world.run(&pat, "mailbox.create", new_mailbox("y@a.example")).await), "forbidden");
    assert_eq!(refusal(world.run(&world.system, "group.remove", member.clone()).await), "conflict");
    world.must("group.add", member.clone()).await;
    world.run(&pat, "mailbox.create", new_mailbox("y@a.example")).await.unwrap();
    world.must("group.revoke", asked.clone()).await;
    assert_eq!(refusal(world.run(&pat, "mailbox.create", new_mailbox("z@a.example")).await), "forbidden");
    world.must("group.grant", asked).await;
    world.run(&pat, "mailbox.create", new_mailbox("z@a.example")).await.unwrap();
    world.must("group.delete", json!({ "name": group })).await;
    assert_eq!(refusal(world.run(&pat, "mailbox.create", new_mailbox("w@a.example")).await), "forbidden");
    assert_eq!(world.integer("SELECT count(*) FROM group_member").await, 0);
}

async fn nobody_adds_themselves_to_a_stronger_group(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    let asked = json!({ "name": "clerk", "customer": "a", "base": "admin",
        "permissions": ["customer.read", "administrator.read", "group.create", "group.update", "group.delete"] });
    world.must("role.create", asked).await;
    let clerk = administrator(&world, "clerk", "a", "clerk", true).await;
    let me = login(&world, &clerk).await;
    let group =
        world.must("group.create", json!({ "name": "strong", "customer": "a" })).await["name"].clone();
    world.must("group.grant", json!({ "name": group, "role": "manager", "customer": "a/b" })).await;
    let member = json!({ "name": group, "administrator": me });
    for name in ["group.add", "group.remove"] {
        assert_eq!(refusal(world.run(&clerk, name, member.clone()).await), "forbidden", "{name}");
    }
    assert_eq!(refusal(world.run(&clerk, "group.delete", json!({ "name": group })).await), "forbidden");
    let grant = json!({ "name": group, "role": "viewer", "customer": "a" });
    assert_eq!(refusal(world.run(&clerk, "group.grant", grant).await), "forbidden");
    assert!(!may(&world, &clerk, "a/b", "mailbox.create").await);
    // One that gives nothing that the clerk could not pass on is its to fill.
    let made = world.run(&clerk, "group.create", json!({ "name": "weak", "customer": "a" })).await.unwrap();
    let member = json!({ "name": made["name"], "administrator": me });
    world.run(&clerk, "group.add", member).await.unwrap();
    // What somebody has by a group counts as theirs: an administrator who could act on it before cannot any more.
    let helper = administrator(&world, "helper", "a", "billing", false).await;
    let helper = login(&world, &helper).await;
    let billing = world.must("role.show", json!({ "name": "billing" })).await["permissions"].clone();
    let mut staff: Vec<Value> = billing.as_array().unwrap().clone();
    staff.extend(["administrator.read".into(), "administrator.update".into()]);
    let asked = json!({ "name": "staff", "customer": "a", "base": "admin", "permissions": staff });
    world.must("role.create", asked).await;
    let staff = administrator(&world, "staff", "a", "staff", true).await;
    world.run(&staff, "administrator.disable", json!({ "name": helper })).await.unwrap();
    world.run(&staff, "administrator.enable", json!({ "name": helper })).await.unwrap();
    world.must("group.add", json!({ "name": group, "administrator": helper })).await;
    let acted = world.run(&staff, "administrator.disable", json!({ "name": helper })).await;
    assert_eq!(refusal(acted), "forbidden");
}

pub async fn helpdesk_does_not_act_on_who_holds_more(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let chief_login = login(&world, &chief).await;
    let own = world.run(&chief, "token.list", json!({})).await.unwrap()["items"][0]["id"].clone();
    // A helpdesk that may reset administrators' credentials, too.
    let asked = json!({ "name": "desk", "customer": "a", "base": "admin", "permissions": [
        "customer.read", "domain.read", "mailbox.read", "mailbox.password", "administrator.read",
        "administrator.update", "administrator.delete"] });
    world.must("role.create", asked).await;
    let desk = administrator(&world, "desk", "a", "desk", true).await;
    for (name, asked) in [
        ("token.create", json!({ "name": chief_login })),
        ("token.revoke", json!({ "id": own })),
        ("administrator.disable", json!({ "name": chief_login })),
        ("administrator.enable", json!({ "name": chief_login })),
        ("administrator.delete", json!({ "name": chief_login })),
    ] {
        assert_eq!(refusal(world.run(&desk, name, asked).await), "forbidden", "{name}");
    }
    // Also where the higher one is higher only somewhere else, or only later.
    let peer = administrator(&world, "peer", "a", "desk", false).await;
    let peer = login(&world, &peer).await;
    world.run(&desk, "administrator.disable", json!({ "name": peer })).await.unwrap();
    world.must("customer.create", json!({ "path": "b" })).await;
    let later = json!({ "name": peer, "role": "viewer", "customer": "b", "not_before": "30d" });
    world.must("administrator.grant", later).await;
    let enable = world.run(&desk, "administrator.enable", json!({ "name": peer })).await;
    assert_eq!(refusal(enable), "forbidden");
}

async fn ceiling_limits_everybody_and_never_adds(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let inner = world.aboard("a/b", "b.example").await;
    world.mailbox("x@a.example").await;
    world.mailbox("x@b.example").await;
    let before = effective(&world, &chief, "a").await;
    let asked = json!({ "path": "a/b", "role": "viewer", "permissions": ["mailbox.create", "content.read"] });
    let set = world.run(&chief, "ceiling.set", asked).await.unwrap();
    assert!(set["withheld"].as_array().unwrap().contains(&json!("mailbox.delete")), "{set}");
    // Those at home there, those above, and the provider itself.
    for who in [&inner, &chief, &world.system] {
        let gone = world.run(who, "mailbox.delete", json!({ "address": "x@b.example" })).await;
        assert_eq!(refusal(gone), "forbidden");
    }
    world.run(&inner, "mailbox.create", new_mailbox("y@b.example")).await.unwrap();
    assert_eq!(effective(&world, &chief, "a").await, before, "above it nothing changes");
    assert!(!holds(&world, &inner, "content.read").await, "a ceiling gives nothing");
    let shown = world.run(&inner, "customer.show", json!({ "path": "b" })).await.unwrap();
    assert!(shown["ceiling"].as_array().unwrap().contains(&json!("mailbox.create")), "{shown}");
    // What ceilings took away is told to who may see administrators there.
    let see =
        json!({ "path": "a/b", "role": "viewer", "permissions": ["mailbox.create", "administrator.read"] });
    world.must("ceiling.set", see).await;
    let name = login(&world, &inner).await;
    let told = world.must("administrator.effective", json!({ "name": name, "customer": "a/b" })).await;
    assert!(told["withheld"].as_array().unwrap().contains(&json!("mailbox.delete")), "{told}");
    assert!(!told["permissions"].as_array().unwrap().contains(&json!("mailbox.delete")), "{told}");
    // Lists leave out what nobody may read there.
    world.must("ceiling.set", json!({ "path": "a/b", "permissions": ["customer.read"] })).await;
    let listed = world.run(&chief, "mailbox.list", json!({})).await.unwrap();
    let addresses: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|one| &one["address"]).collect();
    assert_eq!(addresses, ["x@a.example"]);
    let there = world.run(&inner, "mailbox.list", json!({ "customer": "b" })).await;
    assert_eq!(refusal(there), "forbidden");
    // A ceiling above leaves nothing that one below would.
    world.must("ceiling.set", json!({ "path": "a", "permissions": ["domain.read"] })).await;
    assert!(!holds(&world, &inner, "customer.read").await);
    world.must("ceiling.clear", json!({ "path": "a" })).await;
    world.must("ceiling.clear", json!({ "path": "a/b" })).await;
    assert!(may(&world, &inner, "a/b", "mailbox.delete").await);
    // Even one at the root leaves the servers' administrators what they need to lift it.
    world.must("ceiling.set", json!({ "path": "/", "permissions": ["customer.read"] })).await;
    assert_eq!(
        refusal(world.run(&world.system, "customer.create", json!({ "path": "z" })).await),
        "forbidden"
    );
    world.must("store.list", json!({})).await;
    world.must("ceiling.clear", json!({ "path": "/" })).await;
    world.must("customer.create", json!({ "path": "z" })).await;
}

async fn ceiling_is_not_lifted_from_below(world: World) {
    world.aboard("a", "a.example").await;
    let inner = world.aboard("a/b", "b.example").await;
    world
        .must("ceiling.set", json!({ "path": "a/b", "role": "manager", "permissions": ["customer.ceiling"] }))
        .await;
    for (name, asked) in [
        ("ceiling.clear", json!({ "path": "b" })),
        ("ceiling.set", json!({ "path": "b", "role": "admin" })),
        ("ceiling.set", json!({ "path": "b", "permissions": ["mailbox.read"] })),
    ] {
        assert_eq!(refusal(world.run(&inner, name, asked).await), "forbidden", "{name}");
    }
    let top = world.run(&world.system, "ceiling.clear", json!({ "path": "a" })).await.unwrap();
    assert_eq!(top.get("ceiling"), None);
    assert!(!holds(&world, &inner, "customer.create").await);
}

async fn ceiling_is_lifted_only_by_who_could_pass_on_what_comes_back(world: World) {
    world.aboard("a", "a.example").await;
    let inner = world.aboard("a/b", "b.example").await;
    let asked = json!({ "name": "warden", "customer": "a", "base": "admin",
        "permissions": ["customer.read", "customer.ceiling", "mailbox.read"] });
    world.must("role.create", asked).await;
    let warden = administrator(&world, "warden", "a", "warden", true).await;
    // It may take away, and give back no more than it has itself.
    let set = json!({ "path": "a/b", "role": "viewer" });
    world.run(&warden, "ceiling.set", set).await.unwrap();
    assert_eq!(refusal(world.run(&warden, "ceiling.clear", json!({ "path": "a/b" })).await), "forbidden");
    let less = json!({ "path": "a/b", "permissions": ["customer.read"] });
    world.run(&warden, "ceiling.set", less).await.unwrap();
    let back = json!({ "path": "a/b", "permissions": ["customer.read", "mailbox.read"] });
    world.run(&warden, "ceiling.set", back).await.unwrap();
    let more = json!({ "path": "a/b", "permissions": ["customer.read", "alias.read"] });
    assert_eq!(refusal(world.run(&warden, "ceiling.set", more).await), "forbidden");
    assert!(holds(&world, &inner, "mailbox.read").await);
    let chief = administrator(&world, "full", "a", "admin", true).await;
    world.run(&chief, "ceiling.clear", json!({ "path": "a/b" })).await.unwrap();
    assert!(may(&world, &inner, "a/b", "mailbox.delete").await);
}

async fn content_is_never_implied_and_ends(world: World) {
    let chief = world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    let asked = json!({ "name": "reader", "customer": "a", "base": "viewer",
        "permissions": ["customer.read", "content.read"] });
    world.must("role.create", asked).await;
    let pat = administrator(&world, "pat", "a", "billing", false).await;
    let pat_login = login(&world, &pat).await;
    let asked = |until: Option<&str>| {
        json!({ "name": pat_login, "role": "reader", "customer": "a/b",
            "expires_at": until })
    };
    // Not even who has everything else gives it, but for the system administrators, and for 30 days at most.
    assert_eq!(refusal(world.run(&chief, "administrator.grant", asked(Some("1d"))).await), "forbidden");
    for long in [None, Some("31d")] {
        assert_eq!(refusal(world.run(&world.system, "administrator.grant", asked(long)).await), "invalid");
    }
    let much_later = json!({ "name": pat_login, "role": "reader", "customer": "a/b", "not_before": "40d",
        "expires_at": "71d" });
    assert_eq!(refusal(world.run(&world.system, "administrator.grant", much_later).await), "invalid");
    world.must("administrator.grant", asked(Some("30d"))).await;
    assert!(may(&world, &pat, "a/b", "content.read").await);
    assert!(!may(&world, &pat, "a/b", "content.write").await);
    world.clock.advance(Duration::from_secs(30 * 86_400));
    let name = login(&world, &chief).await;
    let told = world.must("administrator.effective", json!({ "name": name, "customer": "a/b" })).await;
    assert!(!told["permissions"].to_string().contains("content."), "{told}");
    let told = world.must("administrator.effective", json!({ "name": pat_login, "customer": "a/b" })).await;
    assert!(told["permissions"].to_string().contains("report.read"), "{told}");
    assert!(!told["permissions"].to_string().contains("content.read"), "{told}");
    // Headquarters that sees all records: the root allows it for a subtree, and only the root.
    let allow = json!({ "path": "a", "key": "content.permanent_allowed", "value": "on" });
    assert_eq!(refusal(world.run(&chief, "setting.set", allow.clone()).await), "forbidden");
    world.must("setting.set", allow).await;
    world.must("administrator.grant", asked(None)).await;
    let told = world.must("administrator.effective", json!({ "name": pat_login, "customer": "a/b" })).await;
    assert!(told["permissions"].to_string().contains("content.read"), "{told}");
    // Taken back, permanent grants give access no more.
    let forbid = json!({ "path": "a", "key": "content.permanent_allowed", "value": "off" });
    world.must("setting.set", forbid).await;
    let told = world.must("administrator.effective", json!({ "name": pat_login, "customer": "a/b" })).await;
    assert!(!told["permissions"].to_string().contains("content.read"), "{told}");
    // A role that is granted for good does not get it by an edit.
    let eyes = json!({ "name": "eyes", "customer": "a", "base": "viewer", "permissions": ["mailbox.read"] });
    world.must("role.create", eyes).await;
    let lasting = json!({ "name": pat_login, "role": "eyes", "customer": "a" });
    world.must("administrator.grant", lasting).await;
    let widen = json!({ "name": "eyes", "add": ["content.read"] });
    assert_eq!(refusal(world.run(&world.system, "role.update", widen).await), "invalid");
}

async fn grants_begin_and_are_found_by_their_maker(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let chief_login = login(&world, &chief).await;
    let made = json!({ "name": "pat", "customer": "a", "role": "billing" });
    let pat = world.run(&chief, "administrator.create", made).await.unwrap();
    let (pat_login, pat) = (pat["name"].clone(), world.login(&pat["token"]).await);
    let asked = json!({ "name": pat_login, "role": "manager", "customer": "a", "not_before": "2d",
        "expires_at": "1d" });
    assert_eq!(refusal(world.run(&chief, "administrator.grant", asked).await), "invalid");
    let asked = json!({ "name": pat_login, "role": "manager", "customer": "a", "not_before": "2d",
        "expires_at": "4d" });
    world.run(&chief, "administrator.grant", asked).await.unwrap();
    for (day, allowed) in [(0, false), (2, true), (4, false)] {
        let now = may(&world, &pat, "a", "mailbox.create").await;
        assert_eq!(now, allowed, "on day {day}");
        world.clock.advance(Duration::from_secs(2 * 86_400));
    }
    let made_by = async |who: &Authentication, maker: &Value| {
        let listed = world.run(who, "grant.list", json!({ "made_by": maker })).await.unwrap();
        let items = listed["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|one| format!("{} {}", one["holder"].as_str().unwrap(), one["role"]))
            .collect::<Vec<_>>()
    };
    let pat_name = pat_login.as_str().unwrap();
    let both = vec![format!("{pat_name} \"billing\""), format!("{pat_name} \"manager\"")];
    assert_eq!(made_by(&world.system, &chief_login).await, both);
    assert!(made_by(&chief, &pat_login).await.is_empty());
    // A grant outlives its maker, and is found when the maker is gone.
    world.must("administrator.delete", json!({ "name": chief_login })).await;
    assert_eq!(made_by(&world.system, &chief_login).await, both);
    assert!(may(&world, &pat, "a", "report.read").await);
}

async fn revoking_takes_back_what_hangs_on_it(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    let first = administrator(&world, "first", "a", "admin", true).await;
    let code = world.must("customer.show", json!({ "path": "a/b" })).await["code"].clone();
    let create = async |who: &Authentication, name: &str, role: &str| {
        let asked = json!({ "name": name, "customer": code, "role": role, "delegable": true });
        let made = world.run(who, "administrator.create", asked).await.unwrap();
        (made["name"].clone(), world.login(&made["token"]).await)
    };
    let (second_login, second) = create(&first, "second", "admin").await;
    let (_, third) = create(&second, "third", "manager").await;
    // The second has the right to make this one from elsewhere, too.
    let (_, fourth) = create(&second, "fourth", "viewer").await;
    let reads = json!({ "name": "reads", "customer": "a", "base": "admin", "permissions": ["customer.read",
        "domain.read", "mailbox.read", "alias.read", "report.read", "job.read", "request.create",
        "administrator.grant"] });
    world.must("role.create", reads).await;
    let other = json!({ "name": second_login, "role": "reads", "customer": "a", "delegable": true });
    world.must("administrator.grant", other).await;
    let asked = |cascade: bool| {
        let name = "first";
        json!({ "name": name, "role": "admin", "customer": "a", "cascade": cascade })
    };
    // The least that it could be is not enough for who could not revoke all of it.
    let refused = world.run(&third, "administrator.revoke", asked(true)).await;
    assert_eq!(refusal(refused), "not-found");
    let options = posthouse::service::registry::RunOptions { dry_run: true, ..Default::default() };
    let tried =
        world.run_with(&world.system, "administrator.revoke", asked(true), options, None).await.unwrap();
    let revoked = world.must("administrator.revoke", asked(true)).await;
    assert_eq!(tried, revoked);
    let ended: Vec<&str> =
        revoked["also_ended"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(
        ended[0].starts_with("admin of second@") && ended[1].starts_with("manager of third@"),
        "{ended:?}"
    );
    assert!(!may(&world, &third, "a/b", "mailbox.create").await);
    assert!(!may(&world, &second, "a/b", "mailbox.create").await);
    assert!(may(&world, &second, "a/b", "mailbox.read").await);
    assert!(may(&world, &fourth, "a/b", "mailbox.read").await);
}
