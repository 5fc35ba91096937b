//! Invitations: who may be invited, what an invitation gives, and what makes it void.

use std::time::Duration;

use posthouse::service::context::Authentication;
use posthouse::service::login::LoginError;
use posthouse::service::registry::{RunOptions, operations};
use posthouse::storage::StorageError;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    invited_becomes_an_administrator_once,
    of_two_who_accept_at_once_one_does,
    code_is_good_for_redeeming_alone_and_for_seven_days,
    guessing_is_slowed_down_for_each_source,
    only_addresses_in_verified_domains_of_the_customer_are_invited,
    domains_above_are_told_as_far_up_as_those_who_allow_it_see,
    nobody_invites_to_more_than_they_could_give,
    default_roles_are_the_customers,
    invitation_is_void_when_its_maker_is_less,
    invitation_is_void_when_its_ground_is_gone,
    nothing_that_is_undone_brings_an_invitation_back,
    who_can_read_the_invited_mailbox_gains_nothing,
);

const PASSWORD: &str = "correct horse battery";

pub async fn invite(world: &World, who: &Authentication, asked: Value) -> Value {
    let made = world.run(who, "invitation.create", asked.clone()).await;
    made.unwrap_or_else(|error| panic!("{asked}: {error:?}"))
}

fn code(made: &Value) -> &str {
    made["secret"].as_str().expect("a code")
}

/// Whom the code makes of its holder, if it is good for something.
pub async fn holder(world: &World, made: &Value) -> Option<Authentication> {
    match world.management.authenticate_code(code(made), None, Some(1_000)).await {
        Ok(who) => Some(who),
        Err(LoginError::Failed) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn accept(world: &World, made: &Value) -> Result<Value, &'static str> {
    let Some(who) = holder(world, made).await else { return Err("not-found") };
    let accepted = world.run(&who, "invitation.accept", json!({ "password": PASSWORD })).await;
    accepted.map_err(|error| error.refusal().unwrap_or("failed"))
}

/// Whether the code could be used now: everything but doing it, and without the work of a password.
async fn is_good(world: &World, made: &Value) -> bool {
    let Some(who) = holder(world, made).await else { return false };
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let asked = json!({ "password": "x" });
    match refusal(world.run_with(&who, "invitation.accept", asked, options, None).await) {
        // The password is looked at last.
        "invalid" => true,
        "not-found" => false,
        other => panic!("{other}"),
    }
}

/// An administrator with a role that it may pass on; what the operation answers, and who that is.
async fn second(world: &World, path: &str) -> (Value, Authentication) {
    let asked = json!({ "name": "second", "customer": path, "role": "admin", "delegable": true });
    let made = world.must("administrator.create", asked).await;
    let who = world.login(&made["token"]).await;
    (made["name"].clone(), who)
}

async fn invited_becomes_an_administrator_once(world: World) {
    let a = world.aboard("a", "a.example").await;
    let asked = json!({ "address": "Anna@a.example", "customer": "a", "roles": ["manager", "billing"] });
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&a, "invitation.create", asked.clone(), options, None).await.unwrap();
    assert_eq!((&tried["name"], tried.get("secret")), (&json!("anna"), None));
    let made = invite(&world, &a, asked).await;
    let listed = world.run(&a, "invitation.list", json!({})).await.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let shown = world.run(&a, "invitation.show", json!({ "id": made["id"] })).await.unwrap();
    assert_eq!(shown, listed["items"][0]);
    assert_eq!(shown["roles"], json!(["manager", "billing"]));
    // A password that is too short uses nothing up.
    assert!(is_good(&world, &made).await);
    let accepted = accept(&world, &made).await.unwrap();
    let login = accepted["name"].as_str().unwrap();
    assert_eq!(accept(&world, &made).await, Err("not-found"));
    let listed = world.run(&a, "invitation.list", json!({})).await.unwrap();
    assert_eq!(listed["items"], json!([]));

    let password = SecretString::from(PASSWORD);
    let anna = world.management.authenticate_password(login, &password, None, None, None).await.unwrap();
    world.run(&anna, "mailbox.list", json!({ "customer": "a" })).await.unwrap();
    let new = json!({ "name": "new", "customer": "a" });
    assert_eq!(refusal(world.run(&anna, "administrator.create", new).await), "forbidden");
    let shown = world.run(&a, "administrator.show", json!({ "name": login })).await.unwrap();
    assert_eq!(shown["contact"], "anna@a.example");
    let inviter = world.run(&a, "whoami", json!({})).await.unwrap()["name"].clone();
    for grant in shown["grants"].as_array().unwrap() {
        assert_eq!((&grant["made_by"], &grant["delegable"]), (&inviter, &json!(false)), "{grant}");
    }

    // Both sides are in the trail: who invited, and who accepted on whose invitation.
    let trail = async |operation: &str| {
        let asked = json!({ "operation": operation, "outcome": "done" });
        world.run(&a, "audit.search", asked).await.unwrap()["items"][0].clone()
    };
    let (created, accepted) = (trail("invitation.create").await, trail("invitation.accept").await);
    assert_eq!((&created["actor"], &accepted["actor"]), (&inviter, &json!("anna@a.example")));
    assert_eq!(accepted["authenticated"], "code");
    assert_eq!(created["target"], "customer a");
    assert_eq!(accepted["after"]["invited_by"], inviter);
    assert_eq!(accepted["after"]["administrator"], login);
    assert_eq!(accepted["after"]["roles_given"], json!(["manager", "billing"]));
    let all = world.run(&a, "audit.search", json!({ "limit": 1000 })).await.unwrap().to_string();
    assert!(!all.contains("phc_") && !all.contains(PASSWORD), "{all}");
}

async fn of_two_who_accept_at_once_one_does(world: World) {
    let a = world.aboard("a", "a.example").await;
    let made = invite(&world, &a, json!({ "address": "bert@a.example", "customer": "a" })).await;
    let (one, two) = (holder(&world, &made).await.unwrap(), holder(&world, &made).await.unwrap());
    let asked = || json!({ "password": PASSWORD });
    let before = world.integer("SELECT count(*) FROM administrator").await;
    let (one, two) = tokio::join!(
        world.run(&one, "invitation.accept", asked()),
        world.run(&two, "invitation.accept", asked())
    );
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    won.unwrap();
    assert_eq!(refusal(lost), "not-found");
    assert_eq!(world.integer("SELECT count(*) FROM administrator").await, before + 1);
}

async fn code_is_good_for_redeeming_alone_and_for_seven_days(world: World) {
    let a = world.aboard("a", "a.example").await;
    let made = invite(&world, &a, json!({ "address": "anna@a.example", "customer": "a" })).await;
    let who = holder(&world, &made).await.unwrap();
    for operation in operations() {
        let outcome = world.run(&who, operation.name, json!({ "password": PASSWORD })).await;
        match operation.name {
            "invitation.accept" => continue,
            // A code for something else.
            "mailbox.set-password" => assert_eq!(refusal(outcome), "not-found"),
            name => assert_eq!(refusal(outcome), "forbidden", "{name}"),
        }
    }
    // That was accepted; and nobody accepts without a code.
    for who in [&a, &world.system] {
        for operation in ["invitation.accept", "mailbox.set-password"] {
            let asked = json!({ "password": PASSWORD });
            assert_eq!(refusal(world.run(who, operation, asked).await), "forbidden");
        }
    }
    let made = invite(&world, &a, json!({ "address": "bert@a.example", "customer": "a" })).await;
    let held = holder(&world, &made).await.unwrap();
    world.clock.advance(Duration::from_secs(7 * 86_400 - 1));
    assert!(is_good(&world, &made).await);
    world.clock.advance(Duration::from_secs(1));
    assert!(!is_good(&world, &made).await);
    // Also for who has shown it before.
    let late = world.run(&held, "invitation.accept", json!({ "password": PASSWORD })).await;
    assert_eq!(refusal(late), "not-found");
    assert_eq!(world.must("invitation.list", json!({})).await["items"], json!([]));
}

async fn guessing_is_slowed_down_for_each_source(world: World) {
    let a = world.aboard("a", "a.example").await;
    let made = invite(&world, &a, json!({ "address": "anna@a.example", "customer": "a" })).await;
    let ask = async |code: &str, source: Option<&str>, uid: u32| {
        let source = source.map(|text| text.parse().unwrap());
        world.management.authenticate_code(code, source, Some(uid)).await.map(|_| ())
    };
    for source in [None, Some("192.0.2.1")] {
        for _ in 0..20 {
            assert_eq!(ask("phc_wrong", source, 7).await, Err(LoginError::Failed));
        }
        assert_eq!(ask(code(&made), source, 7).await, Err(LoginError::TooMany));
    }
    ask(code(&made), None, 8).await.unwrap();
    ask(code(&made), Some("198.51.100.1"), 7).await.unwrap();
    world.clock.advance(Duration::from_secs(5 * 60));
    ask(code(&made), None, 7).await.unwrap();
}

async fn only_addresses_in_verified_domains_of_the_customer_are_invited(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.aboard("other", "other.example").await;
    let pending = json!({ "domain": "pending.example", "customer": "top" });
    world.run(&top, "domain.create", pending).await.unwrap();
    let refused = async |who: &Authentication, address: &str, customer: &str| {
        let asked = json!({ "address": address, "customer": customer });
        let error = world.run(who, "invitation.create", asked).await.unwrap_err();
        assert_eq!(error.refusal(), Some("invalid"), "{address}");
        error.to_string().replace(address, "ADDRESS")
    };
    // Below, elsewhere, pending, nowhere: one answer.
    let mut answers = Vec::new();
    for address in ["x@low.example", "x@other.example", "x@pending.example", "x@missing.example"] {
        answers.push(refused(&top, address, "top").await);
    }
    answers.push(refused(&low, "x@top.example", "low").await);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    invite(&world, &top, json!({ "address": "x@low.example", "customer": "top/low" })).await;
    // A domain that loses its proof is as one that has none.
    let made = invite(&world, &low, json!({ "address": "y@low.example", "customer": "low" })).await;
    let thief = world.aboard("thief", "thief.example").await;
    let claimed = json!({ "domain": "low.example", "customer": "thief" });
    world.run(&thief, "domain.create", claimed).await.unwrap();
    let confirm = json!({ "domain": "low.example", "customer": "thief", "displace": true });
    world.must("domain.confirm", confirm).await;
    assert!(!is_good(&world, &made).await);
}

async fn domains_above_are_told_as_far_up_as_those_who_allow_it_see(world: World) {
    world.must("domain.create", json!({ "domain": "root.example", "customer": "/" })).await;
    let top = world.aboard("top", "top.example").await;
    let mid = world.aboard("top/mid", "mid.example").await;
    let low = world.aboard("top/mid/low", "low.example").await;
    let key = "invitation.ancestor_domains";
    let on = |path: &str| json!({ "path": path, "key": key, "value": "on" });
    // It is no decision of one's own.
    assert_eq!(refusal(world.run(&low, "setting.set", on("low")).await), "forbidden");
    let may = async |domain: &str| {
        let asked = json!({ "address": format!("x@{domain}"), "customer": "low", "name": "x" });
        let options = RunOptions { dry_run: true, ..RunOptions::default() };
        world.run_with(&low, "invitation.create", asked, options, None).await.is_ok()
    };
    let domains = async || {
        let mut found = Vec::new();
        for domain in ["root.example", "top.example", "mid.example", "low.example"] {
            found.extend(may(domain).await.then_some(domain));
        }
        found
    };
    assert_eq!(domains().await, ["low.example"]);
    // Whoever is above `low` sees no further than `mid`.
    world.run(&mid, "setting.set", on("mid/low")).await.unwrap();
    assert_eq!(domains().await, ["mid.example", "low.example"]);
    let unset = json!({ "path": "mid/low", "key": key });
    world.run(&mid, "setting.unset", unset.clone()).await.unwrap();
    world.run(&top, "setting.set", on("top/mid")).await.unwrap();
    assert_eq!(domains().await, ["top.example", "mid.example", "low.example"]);
    world.must("setting.set", on("top")).await;
    assert_eq!(domains().await, ["top.example", "mid.example", "low.example"], "the nearest value counts");
    world.run(&top, "setting.unset", json!({ "path": "top/mid", "key": key })).await.unwrap();
    assert_eq!(domains().await, ["root.example", "top.example", "mid.example", "low.example"]);
    let asked = json!({ "address": "x@top.example", "customer": "low" });
    let made = invite(&world, &low, asked).await;
    assert!(is_good(&world, &made).await);
    // A lock takes it back, also from what is invited already.
    world.must("setting.lock", json!({ "path": "top", "key": key, "value": "off" })).await;
    assert_eq!(domains().await, ["low.example"]);
    assert!(!is_good(&world, &made).await);
}

async fn nobody_invites_to_more_than_they_could_give(world: World) {
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "b.example").await;
    let invited = |roles: Value| json!({ "address": "x@a.example", "customer": "a", "roles": roles });
    let with = async |name: &str, role: &str, delegable: bool| {
        let asked = json!({ "name": name, "customer": "a", "role": role, "delegable": delegable });
        world.login(&world.must("administrator.create", asked).await["token"]).await
    };
    let manager = with("manager", "manager", true).await;
    assert_eq!(
        refusal(world.run(&manager, "invitation.create", invited(json!(["viewer"]))).await),
        "forbidden"
    );
    // An administrator who may not pass on what it has.
    let held = with("held", "admin", false).await;
    assert_eq!(refusal(world.run(&held, "invitation.create", invited(json!(["admin"]))).await), "forbidden");
    assert_eq!(refusal(world.run(&held, "invitation.create", invited(json!(["viewer"]))).await), "forbidden");
    // Nor for longer than it has it.
    let asked =
        json!({ "name": "brief", "customer": "a", "role": "admin", "delegable": true, "expires_at": "30d" });
    let brief = world.login(&world.must("administrator.create", asked).await["token"]).await;
    assert_eq!(
        refusal(world.run(&brief, "invitation.create", invited(json!(["viewer"]))).await),
        "forbidden"
    );
    let mut asked = invited(json!(["viewer"]));
    asked["expires_at"] = "29d".into();
    invite(&world, &brief, asked).await;
    assert_eq!(
        refusal(world.run(&a, "invitation.create", invited(json!(["system-admin"]))).await),
        "invalid"
    );
    for wrong in [json!([]), json!(["emperor"]), json!(vec!["viewer"; 17])] {
        assert_eq!(refusal(world.run(&a, "invitation.create", invited(wrong)).await), "invalid");
    }
    let made = invite(&world, &a, invited(json!(["admin"]))).await;
    let id = json!({ "id": made["id"] });
    for less in [&manager, &held] {
        assert_eq!(refusal(world.run(less, "invitation.revoke", id.clone()).await), "forbidden");
    }
    for operation in ["invitation.show", "invitation.revoke"] {
        assert_eq!(refusal(world.run(&b, operation, id.clone()).await), "not-found");
    }
    // Nor with a token of who made it that may not.
    let made_by = world.run(&a, "whoami", json!({})).await.unwrap()["name"].clone();
    let token = json!({ "name": made_by, "permissions": ["mailbox.read"] });
    let confined = world.login(&world.must("token.create", token).await["token"]).await;
    assert_eq!(refusal(world.run(&confined, "invitation.revoke", id.clone()).await), "forbidden");
    world.run(&a, "invitation.revoke", id.clone()).await.unwrap();
    assert_eq!(accept(&world, &made).await, Err("not-found"));
    assert_eq!(refusal(world.run(&a, "invitation.revoke", id).await), "not-found");
}

async fn default_roles_are_the_customers(world: World) {
    let a = world.aboard("a", "a.example").await;
    let asked = json!({ "address": "x@a.example", "customer": "a" });
    assert_eq!(invite(&world, &a, asked.clone()).await["roles"], json!(["viewer"]));
    let roles = json!({ "path": "a", "key": "administrator.default_roles", "value": "Manager, billing" });
    world.run(&a, "setting.set", roles).await.unwrap();
    assert_eq!(invite(&world, &a, asked).await["roles"], json!(["billing", "manager"]));
    for wrong in ["", ",", "a b c d e f g h i j k l m n o p q", "ad/min"] {
        let wrong = json!({ "path": "a", "key": "administrator.default_roles", "value": wrong });
        assert_eq!(refusal(world.run(&a, "setting.set", wrong).await), "invalid");
    }
}

async fn invitation_is_void_when_its_maker_is_less(world: World) {
    world.aboard("a", "a.example").await;
    let (name, who) = second(&world, "a").await;
    let made = async |who: &Authentication, local: &str| {
        let asked = json!({ "address": format!("{local}@a.example"), "customer": "a", "roles": ["manager"] });
        invite(&world, who, asked).await
    };
    let grant = |role: &str| json!({ "name": name, "customer": "a", "role": role });
    let full = || json!({ "name": name, "customer": "a", "role": "admin", "delegable": true });
    let before = world.integer("SELECT count(*) FROM administrator").await;

    let less = made(&who, "less").await;
    assert!(is_good(&world, &less).await);
    world.must("administrator.revoke", grant("admin")).await;
    world.must("administrator.grant", grant("viewer")).await;
    assert!(!is_good(&world, &less).await);
    assert_eq!(accept(&world, &less).await, Err("not-found"));
    world.must("administrator.revoke", grant("viewer")).await;
    world.must("administrator.grant", full()).await;

    // Made with a token that may do less by itself, or is revoked.
    let token = world.must("token.create", json!({ "name": name })).await;
    let by_token = world.login(&token["token"]).await;
    let with_token = made(&by_token, "token").await;
    assert!(is_good(&world, &with_token).await);
    world.must("token.revoke", json!({ "id": token["id"] })).await;
    assert!(!is_good(&world, &with_token).await);
    let only = ["administrator.create", "administrator.grant", "administrator.read"];
    let token = world.must("token.create", json!({ "name": name, "permissions": only })).await;
    let confined = world.login(&token["token"]).await;
    let asked = json!({ "address": "x@a.example", "customer": "a", "roles": ["manager"] });
    assert_eq!(refusal(world.run(&confined, "invitation.create", asked).await), "forbidden");

    let disabled = made(&who, "disabled").await;
    world.must("administrator.disable", json!({ "name": name })).await;
    assert!(!is_good(&world, &disabled).await);
    world.must("administrator.enable", json!({ "name": name })).await;
    let hold = json!({ "path": "a", "switch": "manage", "reason": "test" });
    let hold = world.must("hold.add", hold).await;
    assert!(!is_good(&world, &disabled).await);
    world.must("hold.release", json!({ "id": hold["id"] })).await;
    assert!(is_good(&world, &disabled).await);

    // A ceiling that takes from its maker what it gives.
    let ceiling = json!({ "path": "a", "permissions": ["mailbox.read"] });
    world.must("ceiling.set", ceiling).await;
    assert!(!is_good(&world, &disabled).await);
    world.must("ceiling.clear", json!({ "path": "a" })).await;

    // A new password takes back what was done in the maker's name.
    world.must("administrator.password", json!({ "name": name, "password_hash": PASSWORD_HASH })).await;
    assert!(!is_good(&world, &disabled).await);
    assert_eq!(world.integer("SELECT count(*) FROM administrator").await, before);
}

async fn invitation_is_void_when_its_ground_is_gone(world: World) {
    world.aboard("top", "top.example").await;
    world.aboard("top/other", "other.example").await;
    let a = world.aboard("top/a", "a.example").await;
    let made = async |local: &str, roles: Value| {
        let asked = json!({ "address": format!("{local}@a.example"), "customer": "a", "roles": roles });
        invite(&world, &a, asked).await
    };
    // A role that was meant is gone, and another has its name.
    let role = |customer: &str| {
        let permissions = ["mailbox.read"];
        json!({ "name": "post", "customer": customer, "base": "manager", "permissions": permissions })
    };
    world.must("role.create", role("top/a")).await;
    let gone = made("role", json!(["post"])).await;
    assert!(is_good(&world, &gone).await);
    world.must("role.delete", json!({ "name": "post" })).await;
    assert!(!is_good(&world, &gone).await);
    world.must("role.create", role("top/a")).await;
    assert!(!is_good(&world, &gone).await);
    // The number of administrators is limited meanwhile; the limit's place is not told to who is invited.
    let full = made("full", json!(["viewer"])).await;
    world.must("customer.limit", json!({ "path": "top", "administrators": 0 })).await;
    let who = holder(&world, &full).await.unwrap();
    let refused = world.run(&who, "invitation.accept", json!({ "password": PASSWORD })).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("over-quota"));
    assert!(!refused.to_string().contains("top"), "{refused}");
    world.must("customer.limit", json!({ "path": "top", "administrators": null })).await;
    // The name is taken meanwhile.
    world.must("administrator.create", json!({ "name": "full", "customer": "top/a" })).await;
    assert_eq!(accept(&world, &full).await, Err("conflict"));
    // The domain has gone to another and come back.
    let domain = made("domain", json!(["viewer"])).await;
    world.must("domain.move", json!({ "domain": "a.example", "to": "top/other" })).await;
    assert!(!is_good(&world, &domain).await);
    world.must("domain.move", json!({ "domain": "a.example", "to": "top/a" })).await;
    assert!(!is_good(&world, &domain).await);
    // So has the customer.
    let moved = made("moved", json!(["viewer"])).await;
    let effects = world.must("customer.move", json!({ "path": "top/a", "to": "top/other" })).await;
    assert_eq!(effects["invitations_void"], 1, "{effects}");
    assert!(!is_good(&world, &moved).await);
    world.must("customer.move", json!({ "path": "top/other/a", "to": "top" })).await;
    assert!(!is_good(&world, &moved).await);
}

async fn nothing_that_is_undone_brings_an_invitation_back(world: World) {
    world.aboard("top", "top.example").await;
    world.aboard("top/a", "a.example").await;
    let (name, who) = second(&world, "top").await;
    let made = async |who: &Authentication, path: &str| {
        let asked = json!({ "address": "x@a.example", "customer": path });
        invite(&world, who, asked).await
    };
    let of_gone = made(&who, "top/a").await;
    world.must("administrator.delete", json!({ "name": name })).await;
    world.must("administrator.undelete", json!({ "name": name })).await;
    assert!(!is_good(&world, &of_gone).await);
    let of_domain = made(&world.system, "top/a").await;
    world.must("domain.delete", json!({ "domain": "a.example" })).await;
    world.must("domain.undelete", json!({ "domain": "a.example" })).await;
    assert!(!is_good(&world, &of_domain).await);
    let of_customer = made(&world.system, "top/a").await;
    world.must("customer.delete", json!({ "path": "top/a" })).await;
    assert!(!is_good(&world, &of_customer).await);
    world.must("customer.undelete", json!({ "path": "top/a" })).await;
    assert!(!is_good(&world, &of_customer).await);
    // The home of who invited, elsewhere.
    world.aboard("guest", "guest.example").await;
    let (guest, by_guest) = second(&world, "guest").await;
    let grant = json!({ "name": guest, "customer": "top/a", "role": "admin", "delegable": true });
    world.must("administrator.grant", grant).await;
    let by_guest = made(&by_guest, "a").await;
    assert!(is_good(&world, &by_guest).await);
    world.must("customer.delete", json!({ "path": "guest" })).await;
    world.must("customer.undelete", json!({ "path": "guest" })).await;
    assert!(!is_good(&world, &by_guest).await);
}

/// Who may set the password of the invited mailbox could read whatever is sent to it.
async fn who_can_read_the_invited_mailbox_gains_nothing(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.mailbox("anna@a.example").await;
    world.must("alias.create", json!({ "address": "alias@a.example", "targets": ["anna@a.example"] })).await;
    let asked = json!({ "name": "low", "customer": "a", "role": "helpdesk" });
    let low = world.login(&world.must("administrator.create", asked).await["token"]).await;
    let asked =
        json!({ "address": "anna@a.example", "customer": "a", "roles": ["admin"], "delegable": true });
    let made = invite(&world, &a, asked).await;
    invite(&world, &a, json!({ "address": "alias@a.example", "customer": "a" })).await;
    // The owner is told once, without the code; where an alias leads is told nothing.
    let text = "SELECT count(*), min(text) FROM notice WHERE kind = 'invitation'";
    let row = world.database.read(|conn| {
        Box::pin(async move {
            let row = conn.row(text, posthouse::params![]).await?.unwrap();
            Ok((row.int(0)?, row.text(1)?))
        })
    });
    let (notices, told) = row.await.map_err(|error: StorageError| error).unwrap();
    assert_eq!(notices, 1);
    assert!(told.contains("anna") && !told.contains("phc_") && !told.contains(code(&made)), "{told}");
    // The lower administrator can log in to the mailbox now, but neither that nor anything it may ask for has the code.
    let password = json!({ "address": "anna@a.example", "password_hash": PASSWORD_HASH });
    world.run(&low, "mailbox.password", password).await.unwrap();
    for operation in operations().iter().filter(|operation| !operation.mutates) {
        for asked in [json!({}), json!({ "customer": "a" }), json!({ "id": made["id"] })] {
            let Ok(answer) = world.run(&low, operation.name, asked).await else { continue };
            assert!(!answer.to_string().contains("phc_"), "{}: {answer}", operation.name);
        }
    }
    // It is kept nowhere but with who invited, who can still hand it over.
    assert!(is_good(&world, &made).await);
}
