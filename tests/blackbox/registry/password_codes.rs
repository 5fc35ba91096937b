//! Codes with which owners of mailboxes set their password.

use std::time::Duration;

use posthouse::service::context::{Authentication, Service};
use posthouse::service::login::{Login, LoginError};
use posthouse::service::registry::RunOptions;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::invitations::holder;
use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    owner_sets_the_password_once,
    the_newest_code_alone_counts_and_any_password_ends_it,
    code_is_void_when_its_ground_is_gone,
    imported_mailboxes_without_a_password_get_codes,
);

const PASSWORD: &str = "correct horse battery";

async fn redeem(world: &World, made: &Value) -> Result<Value, &'static str> {
    let Some(who) = holder(world, made).await else { return Err("not-found") };
    let done = world.run(&who, "mailbox.set-password", json!({ "password": PASSWORD })).await;
    done.map_err(|error| error.refusal().unwrap_or("failed"))
}

/// Whether the code could be used now.
async fn is_good(world: &World, made: &Value) -> bool {
    let Some(who) = holder(world, made).await else { return false };
    match refusal(world.run(&who, "mailbox.set-password", json!({ "password": "x" })).await) {
        "invalid" => true,
        "not-found" => false,
        other => panic!("{other}"),
    }
}

async fn owner_sets_the_password_once(world: World) {
    let a = world.aboard("a", "a.example").await;
    let address = json!({ "address": "anna@a.example" });
    world.run(&a, "mailbox.create", address.clone()).await.unwrap();
    let login = Login::new(world.database.clone(), world.clock.clone());
    let log_in = async |password: &str| {
        login.password(Service::Imap, "anna@a.example", &SecretString::from(password), None).await
    };
    assert_eq!(log_in("").await.err(), Some(LoginError::Failed));
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&a, "mailbox.invite", address.clone(), options, None).await.unwrap();
    assert_eq!(tried.get("secret"), None);
    let made = world.run(&a, "mailbox.invite", address.clone()).await.unwrap();
    let shown = world.run(&a, "mailbox.show", address.clone()).await.unwrap();
    assert_eq!(shown["invited_until"], made["expires_at"]);
    // It is no invitation, and shown as none.
    assert_eq!(world.run(&a, "invitation.list", json!({})).await.unwrap()["items"], json!([]));
    let who = holder(&world, &made).await.unwrap();
    assert_eq!(
        refusal(world.run(&who, "invitation.accept", json!({ "password": PASSWORD })).await),
        "not-found"
    );
    assert_eq!(refusal(world.run(&who, "mailbox.set-password", json!({ "password": "x" })).await), "invalid");
    let (one, two) = tokio::join!(redeem(&world, &made), redeem(&world, &made));
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    assert_eq!((won.unwrap(), lost), (address.clone(), Err("not-found")));
    log_in(PASSWORD).await.unwrap();
    let shown = world.run(&a, "mailbox.show", address).await.unwrap();
    assert_eq!(shown.get("invited_until"), None);
    // The owner is told, and the trail knows both sides and no code.
    assert_eq!(world.integer("SELECT count(*) FROM notice WHERE kind = 'password-reset'").await, 1);
    let inviter = world.run(&a, "whoami", json!({})).await.unwrap()["name"].clone();
    let trail = async |operation: &str| {
        let asked = json!({ "operation": operation, "outcome": "done" });
        world.run(&a, "audit.search", asked).await.unwrap()["items"][0].clone()
    };
    let (made, set) = (trail("mailbox.invite").await, trail("mailbox.set-password").await);
    assert_eq!((&made["actor"], &made["after"]["content_capable"]), (&inviter, &json!(true)));
    assert_eq!((&set["actor"], &set["authenticated"]), (&json!("anna@a.example"), &json!("code")));
    assert_eq!((&set["target"], &set["after"]["invited_by"]), (&json!("mailbox anna@a.example"), &inviter));
    let all = world.run(&a, "audit.search", json!({ "limit": 1000 })).await.unwrap().to_string();
    assert!(!all.contains("phc_") && !all.contains(PASSWORD), "{all}");
}

async fn the_newest_code_alone_counts_and_any_password_ends_it(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.mailbox("anna@a.example").await;
    let address = json!({ "address": "anna@a.example" });
    let invite = async || world.run(&a, "mailbox.invite", address.clone()).await.unwrap();
    let first = invite().await;
    let second = invite().await;
    assert!(!is_good(&world, &first).await && is_good(&world, &second).await);
    world
        .run(&a, "mailbox.password", json!({ "address": "anna@a.example", "password_hash": PASSWORD_HASH }))
        .await
        .unwrap();
    assert!(!is_good(&world, &second).await);
    // By an import too.
    let third = invite().await;
    let row = json!({ "type": "mailbox", "address": "anna@a.example", "password": PASSWORD });
    world.run(&a, "import.batch", json!({ "rows": [row], "passwords": "set" })).await.unwrap();
    assert!(!is_good(&world, &third).await);
    // Not by another name.
    let fourth = invite().await;
    world.run(&a, "mailbox.rename", json!({ "address": "anna@a.example", "name": "Anna" })).await.unwrap();
    assert!(is_good(&world, &fourth).await);
    world.run(&a, "mailbox.uninvite", address.clone()).await.unwrap();
    assert!(!is_good(&world, &fourth).await);
    assert_eq!(refusal(world.run(&a, "mailbox.uninvite", address.clone()).await), "conflict");
    let fifth = invite().await;
    world.clock.advance(Duration::from_secs(7 * 86_400));
    assert!(!is_good(&world, &fifth).await);
    let b = world.aboard("b", "b.example").await;
    for operation in ["mailbox.invite", "mailbox.uninvite"] {
        assert_eq!(refusal(world.run(&b, operation, address.clone()).await), "not-found");
    }
    let asked = json!({ "name": "vera", "customer": "a", "role": "viewer" });
    let vera = world.login(&world.must("administrator.create", asked).await["token"]).await;
    for operation in ["mailbox.invite", "mailbox.uninvite"] {
        assert_eq!(refusal(world.run(&vera, operation, address.clone()).await), "forbidden");
    }
}

async fn code_is_void_when_its_ground_is_gone(world: World) {
    world.aboard("top", "top.example").await;
    world.aboard("top/other", "other.example").await;
    world.aboard("top/a", "a.example").await;
    world.mailbox("anna@a.example").await;
    let address = json!({ "address": "anna@a.example" });
    let asked = json!({ "name": "low", "customer": "top/a", "role": "helpdesk" });
    let made = world.must("administrator.create", asked).await;
    let low: Authentication = world.login(&made["token"]).await;
    let invite =
        async |who: &Authentication| world.run(who, "mailbox.invite", address.clone()).await.unwrap();
    let disabled = invite(&low).await;
    assert!(is_good(&world, &disabled).await);
    world.must("administrator.disable", json!({ "name": made["name"] })).await;
    assert!(!is_good(&world, &disabled).await);
    world.must("administrator.enable", json!({ "name": made["name"] })).await;
    let grant = json!({ "name": made["name"], "customer": "top/a", "role": "helpdesk" });
    world.must("administrator.revoke", grant.clone()).await;
    assert!(!is_good(&world, &disabled).await);
    world.must("administrator.grant", grant).await;
    assert!(is_good(&world, &disabled).await);
    world.must("administrator.delete", json!({ "name": made["name"] })).await;
    world.must("administrator.undelete", json!({ "name": made["name"] })).await;
    assert!(!is_good(&world, &disabled).await);
    let deleted = invite(&world.system).await;
    world.must("mailbox.delete", address.clone()).await;
    world.must("mailbox.undelete", address.clone()).await;
    assert!(!is_good(&world, &deleted).await);
    let moved = invite(&world.system).await;
    let effects = world.must("customer.move", json!({ "path": "top/a", "to": "top/other" })).await;
    assert_eq!(effects["invitations_void"], 1);
    assert!(!is_good(&world, &moved).await);
    let domain = invite(&world.system).await;
    world.must("domain.move", json!({ "domain": "a.example", "to": "top" })).await;
    assert!(!is_good(&world, &domain).await);
}

async fn imported_mailboxes_without_a_password_get_codes(world: World) {
    let a = world.aboard("a", "a.example").await;
    let rows = json!([
        { "type": "mailbox", "address": "anna@a.example" },
        { "type": "mailbox", "address": "bert@a.example", "password_hash": PASSWORD_HASH },
        { "type": "alias", "address": "all@a.example", "targets": ["anna@a.example"] },
        { "type": "mailbox", "address": "x@missing.example" },
    ]);
    let asked = json!({ "rows": rows, "codes": true });
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&a, "import.batch", asked.clone(), options, None).await.unwrap();
    assert!(!tried.to_string().contains("secret"), "{tried}");
    let run = async || {
        let options = RunOptions::default();
        world.run_with(&a, "import.batch", asked.clone(), options, Some("once")).await.unwrap()
    };
    let done = run().await;
    let secrets: Vec<bool> = (0..4).map(|row| done["results"][row]["secret"].is_string()).collect();
    assert_eq!(secrets, [true, false, false, false], "{done}");
    // Told once: what is kept for a repeated request has no code.
    let again = run().await;
    assert_eq!(again["results"][0]["outcome"], "created");
    assert!(!again.to_string().contains("phc_"), "{again}");
    redeem(&world, &done["results"][0]).await.unwrap();
    // Nor does one that is there already get one.
    let later = world.run(&a, "import.batch", asked.clone()).await.unwrap();
    assert!(!later.to_string().contains("phc_"), "{later}");
    // The code needs the right to the password, and a row without it leaves nothing.
    let asked = json!({ "name": "post", "customer": "a", "base": "manager",
                        "permissions": ["mailbox.create", "mailbox.read", "domain.read"] });
    world.must("role.create", asked).await;
    let made =
        world.must("administrator.create", json!({ "name": "p", "customer": "a", "role": "post" })).await;
    let post = world.login(&made["token"]).await;
    let rows = json!([{ "type": "mailbox", "address": "carl@a.example" }]);
    let refused = world.run(&post, "import.batch", json!({ "rows": rows, "codes": true })).await.unwrap();
    assert_eq!(refused["results"][0]["code"], "forbidden", "{refused}");
    assert_eq!(
        refusal(world.run(&a, "mailbox.show", json!({ "address": "carl@a.example" })).await),
        "not-found"
    );
}
