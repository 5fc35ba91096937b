//! Administrators' passwords, and what tokens are confined to.

use std::net::IpAddr;
use std::time::Duration;

use posthouse::service::context::Authentication;
use posthouse::service::login::LoginError;
use posthouse::service::registry::PasswordRefused;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    nobody_has_a_password_before_one_is_set,
    bare_name_means_who_alone_is_seen,
    password_is_set_by_oneself_or_by_who_may_act_on_its_owner,
    new_password_ends_tokens,
    guessing_is_slowed_down_and_in_the_trail,
    token_is_confined_to_its_permissions_and_its_owners,
    token_is_taken_from_its_networks_only,
    token_makes_no_tokens,
    first_token_that_a_token_makes_is_worth_no_more,
);

/// The password behind [`PASSWORD_HASH`].
const PASSWORD: &str = "secret";

/// Logs in with a password; `peer` is whom the kernel names.
async fn by_password(
    world: &World,
    name: &str,
    password: &str,
    peer: Option<&Authentication>,
) -> Result<Authentication, LoginError> {
    let password = SecretString::from(password);
    world.management.authenticate_password(name, &password, None, peer, None).await.map_err(|refused| {
        match refused {
            PasswordRefused::Login(error) => error,
            other => panic!("nobody has a second factor: {other}"),
        }
    })
}

async fn fails(world: &World, name: &str, password: &str, peer: Option<&Authentication>) -> LoginError {
    by_password(world, name, password, peer).await.expect_err("a login that fails")
}

/// `name@CODE`.
async fn name_of(world: &World, who: &Authentication) -> String {
    world.run(who, "whoami", json!({})).await.unwrap()["name"].as_str().unwrap().to_owned()
}

fn set(name: &str) -> Value {
    json!({ "name": name, "password_hash": PASSWORD_HASH })
}

async fn nobody_has_a_password_before_one_is_set(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    for password in ["", PASSWORD, "!", "*"] {
        assert_eq!(fails(&world, &name, password, None).await, LoginError::Failed);
    }
    world.must("administrator.password", set(&name)).await;
    assert_eq!(fails(&world, &name, "wrong", None).await, LoginError::Failed);
    assert_eq!(fails(&world, "chief@zzzzzz", PASSWORD, None).await, LoginError::Failed);
    // Case does not matter in names.
    let who = by_password(&world, &name.to_uppercase(), PASSWORD, None).await.unwrap();
    let told = world.run(&who, "whoami", json!({})).await.unwrap();
    assert_eq!((&told["name"], &told["authenticated"]), (&json!(name), &json!("password")));
    // Disabled, held, deleted: one answer.
    world.must("administrator.disable", json!({ "name": name })).await;
    assert_eq!(fails(&world, &name, PASSWORD, None).await, LoginError::Failed);
    world.must("administrator.enable", json!({ "name": name })).await;
    by_password(&world, &name, PASSWORD, None).await.unwrap();
    let hold = world.must("hold.add", json!({ "path": "a", "switch": "admin", "reason": "test" })).await;
    assert_eq!(fails(&world, &name, PASSWORD, None).await, LoginError::Failed);
    world.must("hold.release", json!({ "id": hold["id"] })).await;
    by_password(&world, &name, PASSWORD, None).await.unwrap();
    world.must("administrator.delete", json!({ "name": name })).await;
    assert_eq!(fails(&world, &name, PASSWORD, None).await, LoginError::Failed);
}

async fn bare_name_means_who_alone_is_seen(world: World) {
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "b.example").await;
    let (of_a, of_b) = (name_of(&world, &a).await, name_of(&world, &b).await);
    for name in [&of_a, &of_b] {
        world.must("administrator.password", set(name)).await;
    }
    // The system sees two, nobody sees none, and each sees itself alone.
    assert_eq!(fails(&world, "chief", PASSWORD, Some(&world.system)).await, LoginError::Failed);
    assert_eq!(fails(&world, "chief", PASSWORD, None).await, LoginError::Failed);
    let who = by_password(&world, "chief", PASSWORD, Some(&a)).await.unwrap();
    assert_eq!(name_of(&world, &who).await, of_a);
    world.must("administrator.delete", json!({ "name": of_a })).await;
    let who = by_password(&world, "chief", PASSWORD, Some(&world.system)).await.unwrap();
    assert_eq!(name_of(&world, &who).await, of_b);
}

async fn password_is_set_by_oneself_or_by_who_may_act_on_its_owner(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    let (top_name, low_name) = (name_of(&world, &top).await, name_of(&world, &low).await);
    let asked = json!({ "name": "desk", "customer": "top", "role": "helpdesk" });
    let desk = world.login(&world.must("administrator.create", asked).await["token"]).await;
    // Who holds less does not act on who holds more; who does not see does not find.
    assert_eq!(refusal(world.run(&desk, "administrator.password", set(&low_name)).await), "forbidden");
    assert_eq!(refusal(world.run(&desk, "administrator.password", set(&top_name)).await), "forbidden");
    assert_eq!(refusal(world.run(&low, "administrator.password", set(&top_name)).await), "not-found");
    world.run(&top, "administrator.password", set(&low_name)).await.unwrap();
    // A token does not set its owner's, a password does.
    let low = world.login(&world.must("token.create", json!({ "name": low_name })).await["token"]).await;
    assert_eq!(refusal(world.run(&low, "administrator.password", set(&low_name)).await), "forbidden");
    let low = by_password(&world, &low_name, PASSWORD, None).await.unwrap();
    let new = json!({ "name": low_name, "password": "correct horse battery" });
    world.run(&low, "administrator.password", new).await.unwrap();
    assert_eq!(fails(&world, &low_name, PASSWORD, None).await, LoginError::Failed);
    by_password(&world, &low_name, "correct horse battery", None).await.unwrap();
    let short = json!({ "name": low_name, "password": "short" });
    assert_eq!(refusal(world.run(&top, "administrator.password", short).await), "invalid");
    // No hash stands in the trail.
    let trail = world.must("audit.search", json!({ "operation": "administrator.password" })).await;
    assert!(!trail.to_string().contains("SSHA") && !trail.to_string().contains("argon2"), "{trail}");
}

async fn new_password_ends_tokens(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    let token = world.must("token.create", json!({ "name": name })).await["token"].clone();
    world.login(&token).await;
    world.must("administrator.password", set(&name)).await;
    let ended = world.management.authenticate_token(token.as_str().unwrap(), None).await.unwrap();
    assert!(ended.is_none());
    assert_eq!(world.must("token.list", json!({ "name": name })).await["items"], json!([]));
}

async fn guessing_is_slowed_down_and_in_the_trail(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    world.must("administrator.password", set(&name)).await;
    by_password(&world, &name, PASSWORD, None).await.unwrap();
    let mut last = LoginError::Failed;
    for _ in 0..100 {
        last = fails(&world, &name, "wrong", None).await;
        if last == LoginError::TooMany {
            break;
        }
    }
    assert_eq!(last, LoginError::TooMany);
    // The right one does not help, nor does it tell that there is such a name.
    assert_eq!(fails(&world, &name, PASSWORD, None).await, LoginError::TooMany);
    world.clock.advance(Duration::from_secs(600));
    by_password(&world, &name, PASSWORD, None).await.unwrap();
    let outcomes = async |outcome: &str| {
        let asked = json!({ "operation": "login", "outcome": outcome, "limit": 1000 });
        let found = world.run(&world.system, "audit.search", asked).await.unwrap();
        found["items"].as_array().unwrap().clone()
    };
    // Records of logins are written in batches.
    while outcomes("done").await.len() < 2 {
        tokio::task::yield_now().await;
    }
    let failed = outcomes("wrong-password").await;
    assert!(failed.len() >= 10, "{failed:?}");
    assert_eq!((&failed[0]["actor"], &failed[0]["customer"]), (&json!(name), &json!("a")));
}

async fn token_is_confined_to_its_permissions_and_its_owners(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    let asked = json!({ "name": name, "permissions": ["mailbox.read", "mailbox.create", "system.root"] });
    let token = world.must("token.create", asked).await["token"].clone();
    let who = world.login(&token).await;
    let create =
        |local: &str| json!({ "address": format!("{local}@a.example"), "password_hash": PASSWORD_HASH });
    world.run(&who, "mailbox.create", create("one")).await.unwrap();
    world.run(&who, "mailbox.list", json!({})).await.unwrap();
    for (operation, asked) in [
        ("mailbox.delete", json!({ "address": "one@a.example" })),
        ("domain.list", json!({ "customer": "a" })),
        ("administrator.create", json!({ "name": "new", "customer": "a", "role": "viewer" })),
    ] {
        assert_eq!(refusal(world.run(&who, operation, asked).await), "forbidden", "{operation}");
    }
    let listed = world.run(&who, "token.list", json!({})).await.unwrap();
    let of_it = listed["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(of_it["permissions"], json!(["mailbox.read", "mailbox.create", "system.root"]));
    // What its owner loses it loses.
    let role = |role: &str| json!({ "name": name, "role": role, "customer": "a" });
    world.must("administrator.grant", role("viewer")).await;
    world.must("administrator.revoke", role("admin")).await;
    world.run(&who, "mailbox.list", json!({ "customer": "a" })).await.unwrap();
    assert_eq!(refusal(world.run(&who, "mailbox.create", create("two")).await), "forbidden");
    for wrong in [json!([]), json!(["mailbox.reed"]), json!([""])] {
        let asked = json!({ "name": name, "permissions": wrong });
        assert_eq!(refusal(world.run(&world.system, "token.create", asked).await), "invalid");
    }
}

async fn token_is_taken_from_its_networks_only(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    let token = async |networks: Value| {
        let asked = json!({ "name": name, "networks": networks });
        world.must("token.create", asked).await["token"].as_str().unwrap().to_owned()
    };
    let taken = async |token: &str, source: Option<&str>| {
        let source = source.map(|text| text.parse::<IpAddr>().unwrap());
        world.management.authenticate_token(token, source).await.unwrap().is_some()
    };
    let bound = token(json!(["192.0.2.0/24", "2001:db8::/32"])).await;
    assert!(taken(&bound, Some("192.0.2.7")).await && taken(&bound, Some("::ffff:192.0.2.7")).await);
    assert!(taken(&bound, Some("2001:db8::1")).await);
    assert!(!taken(&bound, Some("198.51.100.1")).await && !taken(&bound, None).await);
    let local = token(json!(["unix", "192.0.2.1"])).await;
    assert!(taken(&local, None).await && taken(&local, Some("192.0.2.1")).await);
    assert!(!taken(&local, Some("192.0.2.2")).await);
    let free = token(Value::Null).await;
    assert!(taken(&free, None).await && taken(&free, Some("198.51.100.1")).await);
    for wrong in [json!([]), json!(["192.0.2.1/24"]), json!(["UNIX"]), json!(vec!["unix"; 65])] {
        let asked = json!({ "name": name, "networks": wrong });
        assert_eq!(refusal(world.run(&world.system, "token.create", asked).await), "invalid");
    }
}

async fn token_makes_no_tokens(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    let asked = json!({ "name": "low", "customer": "a", "role": "viewer" });
    let low = world.must("administrator.create", asked).await["name"].clone();
    for asked in [json!({}), json!({ "name": low })] {
        assert_eq!(refusal(world.run(&chief, "token.create", asked).await), "forbidden");
    }
    world.must("administrator.password", set(&name)).await;
    let chief = by_password(&world, &name, PASSWORD, None).await.unwrap();
    for asked in [json!({ "expires_at": "12h" }), json!({ "name": low })] {
        world.run(&chief, "token.create", asked).await.unwrap();
    }
}

async fn first_token_that_a_token_makes_is_worth_no_more(world: World) {
    let chief = world.aboard("a", "a.example").await;
    let name = name_of(&world, &chief).await;
    let asked = json!({ "name": "viewer", "customer": "a", "role": "viewer" });
    let viewer = world.login(&world.must("administrator.create", asked).await["token"]).await;
    let told = world.run(&viewer, "whoami", json!({})).await.unwrap();
    let mut permissions: Vec<Value> = told["grants"][0]["permissions"].as_array().unwrap().clone();
    let more = ["administrator.create", "administrator.grant", "customer.create"];
    permissions.extend(more.map(Value::from));
    let asked = json!({ "name": name, "permissions": permissions, "networks": ["unix"], "expires_at": "5d" });
    let made = world.must("token.create", asked).await;
    let confined = world.login(&made["token"]).await;
    let first = async |who: &Authentication, operation: &str, asked: Value| {
        let new = world.run(who, operation, asked).await.unwrap();
        let name = new.get("administrator").unwrap_or(&new["name"]).clone();
        let tokens = world.must("token.list", json!({ "name": name })).await;
        assert_eq!(tokens["items"].as_array().unwrap().len(), 1);
        (new, tokens["items"][0].clone())
    };
    let (new, token) =
        first(&confined, "administrator.create", json!({ "name": "one", "customer": "a" })).await;
    assert_eq!((&token["expires_at"], &token["networks"]), (&made["expires_at"], &json!(["unix"])));
    assert_eq!(token["permissions"], json!(permissions));
    // And what that one could make is worth no more either.
    let one = world.login(&new["token"]).await;
    assert_eq!(refusal(world.run(&one, "token.create", json!({})).await), "forbidden");
    let elsewhere = "192.0.2.1".parse().unwrap();
    let text = new["token"].as_str().unwrap();
    assert!(world.management.authenticate_token(text, Some(elsewhere)).await.unwrap().is_none());
    world.clock.advance(Duration::from_secs(5 * 86_400));
    assert!(world.management.authenticate_token(text, None).await.unwrap().is_none());
    // Where the kernel or a password says who asks, it lasts as long as any; a customer's first administrator too.
    let (_, token) =
        first(&world.system, "administrator.create", json!({ "name": "two", "customer": "a" })).await;
    assert_eq!((token.get("networks"), token.get("permissions")), (None, None));
    let asked = json!({ "path": "a/low", "admin": "three" });
    let (_, of_token) = first(&chief, "customer.create", asked).await;
    // The chief's own ends five days before one that is made now would.
    assert!(of_token["expires_at"].as_str() < token["expires_at"].as_str(), "{of_token} {token}");
    world.must("administrator.password", set(&name)).await;
    let chief = by_password(&world, &name, PASSWORD, None).await.unwrap();
    let (_, again) = first(&chief, "customer.create", json!({ "path": "a/other", "admin": "four" })).await;
    assert_eq!(again["expires_at"], token["expires_at"]);
}
