//! Second factors of administrators: setting them up, logging in with them, losing them, and demanding them.

use std::time::Duration;

use posthouse::base::clock::Timestamp;
use posthouse::service::content_access::ContentAccess;
use posthouse::service::context::{Authentication, Service};
use posthouse::service::error::ServiceError;
use posthouse::service::login::LoginError;
use posthouse::service::registry::{PasswordRefused, RunOptions};
use posthouse::storage::StorageError;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::purge;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::dump::{difference, dump};
use super::{PASSWORD_HASH, World, on_both, refusal};
use crate::support::authenticator::Authenticator;

on_both!(
    password_takes_a_code_once_the_second_factor_is_confirmed,
    code_is_taken_once_whichever_way_the_clock_steps,
    recovery_codes_are_good_once_and_told_of,
    guessing_codes_is_slowed_down_wherever_it_comes_from,
    second_factor_is_removed_with_a_code_and_reset_by_who_may_act_on_its_owner,
    demanded_second_factor_opens_nothing_but_setting_it_up,
    mailboxes_of_others_are_opened_with_a_token_then,
    nothing_of_it_is_in_the_trail_and_it_goes_with_its_owner,
);

/// The password behind [`PASSWORD_HASH`].
const PASSWORD: &str = "secret";
const STEP: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);

async fn log_in(
    world: &World,
    name: &str,
    password: &str,
    code: Option<&str>,
) -> Result<Authentication, PasswordRefused> {
    let (password, code) = (SecretString::from(password), code.map(SecretString::from));
    world.management.authenticate_password(name, &password, code.as_ref(), None, None).await
}

/// Somebody with a password at a customer.
async fn with_password(world: &World, name: &str, customer: &str, role: &str) -> String {
    let asked = json!({ "name": name, "customer": customer, "role": role, "delegable": true });
    let name = world.must("administrator.create", asked).await["name"].as_str().unwrap().to_owned();
    world.must("administrator.password", json!({ "name": name, "password_hash": PASSWORD_HASH })).await;
    name
}

/// An authenticator, with what else its owner knows.
struct Phone {
    name: String,
    secret: String,
    authenticator: Authenticator,
    recovery_codes: Vec<String>,
}

impl Phone {
    /// Sets a second factor up for who is logged in.
    async fn of(world: &World, who: &Authentication) -> Self {
        let begun = world.run(who, "second-factor.enrol", json!({})).await.unwrap();
        let secret = begun["secret"].as_str().unwrap().to_owned();
        assert!(begun["uri"].as_str().unwrap().contains(&format!("secret={secret}&")), "{begun}");
        let name = begun["name"].as_str().unwrap().to_owned();
        let authenticator = Authenticator::new(&secret);
        let mut phone = Self { name, secret, authenticator, recovery_codes: Vec::new() };
        let code = json!({ "code": phone.code(world) });
        let confirmed = world.run(who, "second-factor.confirm", code).await.unwrap();
        let codes = confirmed["recovery_codes"].as_array().unwrap();
        phone.recovery_codes = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
        phone
    }

    fn code_at(&self, at: Timestamp) -> String {
        self.authenticator.code(at)
    }

    fn code(&self, world: &World) -> String {
        self.code_at(world.clock.now())
    }

    /// Logs in with the next code.
    async fn log_in(&self, world: &World) -> Authentication {
        world.clock.advance(STEP);
        log_in(world, &self.name, PASSWORD, Some(&self.code(world))).await.unwrap()
    }

    async fn refused(&self, world: &World, code: Option<&str>) -> PasswordRefused {
        log_in(world, &self.name, PASSWORD, code).await.expect_err("a login that fails")
    }
}

async fn anna(world: &World) -> (String, Authentication) {
    world.aboard("a", "a.example").await;
    let name = with_password(world, "anna", "a", "admin").await;
    let who = log_in(world, &name, PASSWORD, None).await.unwrap();
    (name, who)
}

/// Whether the second factor of `name` counts.
async fn has_one(world: &World, name: &str) -> Value {
    let shown = world.must("administrator.show", json!({ "name": name })).await;
    let listed = world.must("administrator.list", json!({})).await;
    let listed = listed["items"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap();
    assert_eq!(shown["second_factor"], listed["second_factor"]);
    assert_eq!(shown["second_factor"], shown["recovery_codes_left"].is_number());
    shown["second_factor"].clone()
}

async fn password_takes_a_code_once_the_second_factor_is_confirmed(world: World) {
    let (name, who) = anna(&world).await;
    // A dry run makes nothing and tells nothing.
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let tried = world.run_with(&who, "second-factor.enrol", json!({}), options.clone(), None).await.unwrap();
    assert_eq!(tried, json!({ "name": name }));
    let code = json!({ "code": "123456" });
    assert_eq!(refusal(world.run(&who, "second-factor.confirm", code.clone()).await), "conflict");
    // What is begun counts for nothing, and may be begun anew.
    let lost = world.run(&who, "second-factor.enrol", json!({})).await.unwrap();
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    assert_eq!(has_one(&world, &name).await, false);
    let begun = world.run(&who, "second-factor.enrol", json!({})).await.unwrap();
    assert_ne!(begun["secret"], lost["secret"]);
    let of = |begun: &Value| Authenticator::new(begun["secret"].as_str().unwrap()).code(world.clock.now());
    for wrong in [of(&lost), String::new(), "12345".to_owned(), "x".repeat(1_000)] {
        let asked = json!({ "code": wrong });
        assert_eq!(refusal(world.run(&who, "second-factor.confirm", asked).await), "invalid");
    }
    let right = json!({ "code": of(&begun) });
    let tried = world.run_with(&who, "second-factor.confirm", right, options, None).await.unwrap();
    assert_eq!((tried, has_one(&world, &name).await), (json!({ "name": name }), json!(false)));
    let phone = Phone::of(&world, &who).await;
    assert_eq!((phone.recovery_codes.len(), has_one(&world, &name).await), (10, json!(true)));
    for operation in ["second-factor.enrol", "second-factor.confirm"] {
        let fields = if operation.ends_with("confirm") { code.clone() } else { json!({}) };
        assert_eq!(refusal(world.run(&who, operation, fields).await), "conflict", "{operation}");
    }
    // The password alone is not enough any more, and the code not without it.
    assert_eq!(phone.refused(&world, None).await, PasswordRefused::CodeRequired);
    assert_eq!(phone.refused(&world, Some("0000-0000")).await, PasswordRefused::CodeWrong);
    world.clock.advance(STEP);
    let code = phone.code(&world);
    let wrong = log_in(&world, &name, "wrong", Some(&code)).await.expect_err("a wrong password");
    assert_eq!(wrong, PasswordRefused::Login(LoginError::Failed));
    // As people type it.
    let typed = format!(" {} {}", &code[..3], &code[3..]);
    let who = log_in(&world, &name, PASSWORD, Some(&typed)).await.unwrap();
    let told = world.run(&who, "whoami", json!({})).await.unwrap();
    assert_eq!(told["authenticated"], "password and code");
    // A token is made with it, and is asked for none; a password that is set is asked for one.
    let token = world.run(&who, "token.create", json!({})).await.unwrap()["token"].clone();
    let holder = world.login(&token).await;
    world.run(&holder, "mailbox.list", json!({})).await.unwrap();
    world.must("administrator.password", json!({ "name": name, "password_hash": PASSWORD_HASH })).await;
    assert_eq!(phone.refused(&world, None).await, PasswordRefused::CodeRequired);
    phone.log_in(&world).await;
}

async fn code_is_taken_once_whichever_way_the_clock_steps(world: World) {
    let (name, who) = anna(&world).await;
    let phone = Phone::of(&world, &who).await;
    // That of the confirmation is taken already.
    let right = world.clock.now();
    assert_eq!(phone.refused(&world, Some(&phone.code(&world))).await, PasswordRefused::CodeWrong);
    // A phone whose clock is half a minute ahead, and then the code of now, which comes before it.
    let ahead = phone.code_at(right.plus(STEP));
    log_in(&world, &name, PASSWORD, Some(&ahead)).await.unwrap();
    for code in [ahead.clone(), phone.code(&world), phone.code_at(right.minus(STEP))] {
        assert_eq!(phone.refused(&world, Some(&code)).await, PasswordRefused::CodeWrong);
    }
    // Two steps away is too far, one behind is not.
    world.clock.set(right.plus(STEP * 4));
    for apart in [2, 3] {
        for at in [world.clock.now().plus(STEP * apart), world.clock.now().minus(STEP * (apart - 1) * 2)] {
            let refused = phone.refused(&world, Some(&phone.code_at(at))).await;
            assert_eq!(refused, PasswordRefused::CodeWrong, "{apart}");
        }
    }
    let behind = phone.code_at(world.clock.now().minus(STEP));
    log_in(&world, &name, PASSWORD, Some(&behind)).await.unwrap();
    // Back: nothing that was taken is taken again, nor what comes before it.
    for back in [0, 2, 120] {
        world.clock.set(right.plus(STEP * 3).minus(STEP * back));
        for code in [behind.clone(), phone.code(&world)] {
            let refused = phone.refused(&world, Some(&code)).await;
            assert_eq!(refused, PasswordRefused::CodeWrong, "{back}");
        }
    }
    // A recovery code is no matter of the clock, and neither is what comes when it is right again.
    log_in(&world, &name, PASSWORD, Some(&phone.recovery_codes[0])).await.unwrap();
    world.clock.set(right.plus(STEP * 20));
    phone.log_in(&world).await;
    // Of two who bring one code at once, one gets in.
    world.clock.advance(STEP);
    let code = phone.code(&world);
    let both = tokio::join!(
        log_in(&world, &name, PASSWORD, Some(&code)),
        log_in(&world, &name, PASSWORD, Some(&code))
    );
    assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
}

async fn recovery_codes_are_good_once_and_told_of(world: World) {
    let (name, who) = anna(&world).await;
    let phone = Phone::of(&world, &who).await;
    let typed = phone.recovery_codes[0].to_uppercase().replace('-', " ");
    let who = log_in(&world, &name, PASSWORD, Some(&typed)).await.unwrap();
    assert_eq!(phone.refused(&world, Some(&phone.recovery_codes[0])).await, PasswordRefused::CodeWrong);
    let shown = world.must("administrator.show", json!({ "name": name })).await;
    assert_eq!(shown["recovery_codes_left"], 9);
    let told = world.run(&who, "whoami", json!({})).await.unwrap()["notices"].to_string();
    assert!(told.contains("recovery code"), "{told}");
    // New ones end those of before, and are not told again to who repeats the request.
    let made =
        world.run_with(&who, "second-factor.recovery-codes", json!({}), RunOptions::default(), Some("k"));
    let made = made.await.unwrap();
    let again =
        world.run_with(&who, "second-factor.recovery-codes", json!({}), RunOptions::default(), Some("k"));
    assert_eq!(again.await.unwrap(), json!({ "name": name, "recovery_codes": null }));
    assert_eq!(phone.refused(&world, Some(&phone.recovery_codes[1])).await, PasswordRefused::CodeWrong);
    let first = made["recovery_codes"][0].as_str().unwrap();
    log_in(&world, &name, PASSWORD, Some(first)).await.unwrap();
    // Whatever is restored of a used one would be good again, so that they are not restored: none is kept in clear.
    let kept = format!("{:?}", dump(&world).await);
    for code in made["recovery_codes"].as_array().unwrap() {
        let code = code.as_str().unwrap();
        assert!(!kept.contains(code) && !kept.contains(&code.replace('-', "")), "{code}");
    }
}

async fn guessing_codes_is_slowed_down_wherever_it_comes_from(world: World) {
    let (name, who) = anna(&world).await;
    let phone = Phone::of(&world, &who).await;
    let password = SecretString::from(PASSWORD);
    let mut last = PasswordRefused::CodeWrong;
    let mut tried = 0_u8;
    while last == PasswordRefused::CodeWrong && tried < 100 {
        let source = Some([198, 51, 100, tried].into());
        let code = SecretString::from("0000-0000");
        let refused =
            world.management.authenticate_password(&name, &password, Some(&code), None, source).await;
        last = refused.expect_err("a wrong code");
        tried += 1;
    }
    assert_eq!((last, tried), (PasswordRefused::Login(LoginError::TooMany), 21));
    // Now the right one does not help, nor does a recovery code; and what is done by oneself waits too.
    world.clock.advance(STEP);
    for code in [phone.code(&world), phone.recovery_codes[0].clone()] {
        let refused = phone.refused(&world, Some(&code)).await;
        assert_eq!(refused, PasswordRefused::Login(LoginError::TooMany));
    }
    let asked = json!({ "code": phone.code(&world) });
    assert_eq!(refusal(world.run(&who, "second-factor.remove", asked).await), "limit");
    // Others are not held up.
    let other = with_password(&world, "bert", "a", "viewer").await;
    let bert = log_in(&world, &other, PASSWORD, None).await.unwrap();
    Phone::of(&world, &bert).await;
    world.clock.advance(Duration::from_secs(300));
    phone.log_in(&world).await;
}

async fn second_factor_is_removed_with_a_code_and_reset_by_who_may_act_on_its_owner(world: World) {
    let (name, who) = anna(&world).await;
    let phone = Phone::of(&world, &who).await;
    let chief = with_password(&world, "chef", "/", "admin").await;
    let chief = log_in(&world, &chief, PASSWORD, None).await.unwrap();
    let low = world.aboard("a/low", "low.example").await;
    let asked = json!({ "name": "desk", "customer": "a", "role": "helpdesk" });
    let desk = world.login(&world.must("administrator.create", asked).await["token"]).await;
    // Who logged in before there was one brings a code with the request; with a token nothing of it is done.
    for asked in [json!({}), json!({ "code": "0000-0000" })] {
        assert_eq!(refusal(world.run(&who, "second-factor.remove", asked.clone()).await), "invalid");
        assert_eq!(refusal(world.run(&who, "second-factor.recovery-codes", asked).await), "invalid");
    }
    let token = world.must("token.create", json!({ "name": name })).await["token"].clone();
    let token = world.login(&token).await;
    world.clock.advance(STEP);
    let right = json!({ "code": phone.code(&world) });
    for (operation, fields) in [
        ("second-factor.enrol", json!({})),
        ("second-factor.confirm", right.clone()),
        ("second-factor.recovery-codes", right.clone()),
        ("second-factor.remove", right.clone()),
    ] {
        assert_eq!(refusal(world.run(&token, operation, fields).await), "forbidden", "{operation}");
    }
    let reset = json!({ "name": name });
    assert_eq!(refusal(world.run(&token, "second-factor.reset", reset.clone()).await), "conflict");
    world.run(&who, "second-factor.remove", right.clone()).await.unwrap();
    assert_eq!(has_one(&world, &name).await, false);
    assert_eq!(refusal(world.run(&who, "second-factor.remove", right).await), "conflict");
    log_in(&world, &name, PASSWORD, None).await.unwrap();
    // With a login that has brought a code none is asked for again.
    let phone = Phone::of(&world, &who).await;
    let who = phone.log_in(&world).await;
    world.run(&who, "second-factor.remove", json!({})).await.unwrap();
    // Reset by others: who holds less may not, who does not see does not find.
    let phone = Phone::of(&world, &log_in(&world, &name, PASSWORD, None).await.unwrap()).await;
    assert_eq!(refusal(world.run(&desk, "second-factor.reset", reset.clone()).await), "forbidden");
    assert_eq!(refusal(world.run(&low, "second-factor.reset", reset.clone()).await), "not-found");
    let done = world.run(&chief, "second-factor.reset", reset.clone()).await.unwrap();
    assert_eq!(done["second_factor"], false);
    assert_eq!(refusal(world.run(&chief, "second-factor.reset", reset.clone()).await), "conflict");
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    let told = world.run(&who, "whoami", json!({})).await.unwrap()["notices"].to_string();
    assert!(told.contains("second factor was taken away"), "{told}");
    // The codes of before are good for nothing once there is another.
    let new = Phone::of(&world, &who).await;
    assert_eq!(new.refused(&world, Some(&phone.recovery_codes[0])).await, PasswordRefused::CodeWrong);
    // Deleting and undeleting bring back what there was.
    world.must("administrator.delete", reset.clone()).await;
    let gone = new.refused(&world, Some(&new.recovery_codes[0])).await;
    assert_eq!(gone, PasswordRefused::Login(LoginError::Failed));
    world.must("administrator.undelete", reset).await;
    assert_eq!(new.refused(&world, None).await, PasswordRefused::CodeRequired);
    new.log_in(&world).await;
}

async fn demanded_second_factor_opens_nothing_but_setting_it_up(world: World) {
    let top = with_password(&world, "top", "/", "admin").await;
    let (name, before) = anna(&world).await;
    let token = world.must("token.create", json!({ "name": name })).await["token"].clone();
    let set = |path: &str, value: &str| json!({ "path": path, "key": "login.second_factor", "value": value });
    for wrong in ["on", "", "Required!"] {
        assert_eq!(refusal(world.run(&world.system, "setting.set", set("a", wrong)).await), "invalid");
    }
    // By a template, which locks it.
    let gives =
        json!({ "settings": [{ "key": "login.second_factor", "value": "required", "locked": true }] });
    let asked = json!({ "name": "strict", "customer": "/", "kind": "customer", "gives": gives });
    world.must("template.create", asked).await;
    let new =
        world.must("customer.create", json!({ "path": "b", "template": "strict", "admin": "bea" })).await;
    let bea = new["administrator"].as_str().unwrap().to_owned();
    let by_token = world.login(&new["token"]).await;
    let refused = refusal(world.run(&by_token, "setting.set", set("b", "off")).await);
    assert!(matches!(refused, "forbidden" | "conflict"), "{refused}");
    world.must("administrator.password", json!({ "name": bea, "password_hash": PASSWORD_HASH })).await;
    let who = log_in(&world, &bea, PASSWORD, None).await.unwrap();
    assert!(matches!(world.run(&who, "whoami", json!({})).await, Err(ServiceError::SecondFactorNeeded)));
    // At `a`, whose own administrators may ask it of themselves.
    world.run(&before, "setting.set", set("a", "required")).await.unwrap();
    assert!(!world.management.is_still_admitted(&before).await.unwrap(), "what runs ends");
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    let others =
        ["whoami", "mailbox.list", "token.create", "second-factor.recovery-codes", "second-factor.remove"];
    let untouched = dump(&world).await;
    for operation in others {
        let refused = world.run(&who, operation, json!({})).await;
        assert!(matches!(refused, Err(ServiceError::SecondFactorNeeded)), "{operation}: {refused:?}");
    }
    assert_eq!(difference(&untouched, &dump(&world).await), None);
    // Whom it does not concern: who is at home above, the system, and tokens that were made before.
    log_in(&world, &top, PASSWORD, None).await.unwrap();
    let by_token = world.login(&token).await;
    world.run(&by_token, "mailbox.list", json!({})).await.unwrap();
    let phone = Phone::of(&world, &who).await;
    let still = world.run(&who, "whoami", json!({})).await;
    assert!(matches!(still, Err(ServiceError::SecondFactorNeeded)), "until the next login");
    let who = phone.log_in(&world).await;
    assert!(world.management.is_still_admitted(&who).await.unwrap());
    world.run(&who, "mailbox.list", json!({})).await.unwrap();
    // Taken away, it is demanded again.
    world.must("second-factor.reset", json!({ "name": name })).await;
    assert!(!world.management.is_still_admitted(&who).await.unwrap());
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    assert!(matches!(world.run(&who, "whoami", json!({})).await, Err(ServiceError::SecondFactorNeeded)));
    world.must("setting.unset", json!({ "path": "a", "key": "login.second_factor" })).await;
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    world.run(&who, "whoami", json!({})).await.unwrap();
}

async fn mailboxes_of_others_are_opened_with_a_token_then(world: World) {
    let (name, who) = anna(&world).await;
    world.mailbox("x@a.example").await;
    let allowed = ["mailbox.read", "content.read"];
    let role = json!({ "name": "reader", "customer": "a", "base": "viewer", "permissions": allowed });
    world.must("role.create", role).await;
    let grant = json!({ "name": name, "role": "reader", "customer": "a", "expires_at": "7d" });
    world.must("administrator.grant", grant).await;
    let logins = world.logins.clone();
    let running = tokio::spawn(async move { logins.run().await });
    let access = ContentAccess::new(&world.management);
    let open = async |secret: &str| {
        access.open(Service::Imap, "x@a.example", &name, &SecretString::from(secret), None).await
    };
    let session = open(PASSWORD).await.unwrap();
    // Where one is demanded, and where there is one: what runs with the password alone ends.
    let set = json!({ "path": "a", "key": "login.second_factor", "value": "required" });
    world.must("setting.set", set).await;
    tokio::time::timeout(PATIENCE, session.ended()).await.expect("the session ends");
    assert_eq!(open(PASSWORD).await.err(), Some(LoginError::Failed));
    world.must("setting.unset", json!({ "path": "a", "key": "login.second_factor" })).await;
    let session = open(PASSWORD).await.unwrap();
    let phone = Phone::of(&world, &who).await;
    tokio::time::timeout(PATIENCE, session.ended()).await.expect("the session ends");
    for secret in
        [PASSWORD.to_owned(), phone.recovery_codes[0].clone(), format!("{PASSWORD}{}", phone.code(&world))]
    {
        assert_eq!(open(&secret).await.err(), Some(LoginError::Failed));
    }
    let who = phone.log_in(&world).await;
    let token = world.run(&who, "token.create", json!({})).await.unwrap()["token"].clone();
    open(token.as_str().unwrap()).await.unwrap();
    running.abort();
}

async fn nothing_of_it_is_in_the_trail_and_it_goes_with_its_owner(world: World) {
    let (name, who) = anna(&world).await;
    let phone = Phone::of(&world, &who).await;
    phone.refused(&world, None).await;
    phone.refused(&world, Some("0000-0000")).await;
    phone.log_in(&world).await;
    log_in(&world, &name, PASSWORD, Some(&phone.recovery_codes[0])).await.unwrap();
    world.must("second-factor.reset", json!({ "name": name })).await;
    let records = async |operation: &str| {
        let asked = json!({ "customer": "a", "limit": 1000, "operation": operation });
        world.run(&world.system, "audit.search", asked).await.unwrap()["items"].as_array().unwrap().clone()
    };
    // Records of logins are written in batches: one before it was set up, and the four since.
    let logins = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = records("login").await;
            if found.len() >= 5 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    });
    let logins = logins.await.expect("the records");
    let mut outcomes: Vec<String> =
        logins.iter().map(|one| format!("{} {}", one["outcome"], one["after"]["second_factor"])).collect();
    outcomes.sort();
    let expected = [
        "\"done\" \"code\"",
        "\"done\" \"recovery-code\"",
        "\"done\" null",
        "\"second-factor-required\" null",
        "\"wrong-second-factor\" null",
    ];
    assert_eq!(outcomes, expected);
    for operation in ["second-factor.enrol", "second-factor.confirm", "second-factor.reset"] {
        assert_eq!(records(operation).await.len(), 1, "{operation}");
    }
    let all = world.must("audit.search", json!({ "limit": 1000 })).await.to_string();
    for hidden in phone.recovery_codes.iter().chain([&phone.secret]) {
        assert!(!all.contains(hidden.as_str()), "{all}");
    }
    // With its owner, once that is purged.
    let who = log_in(&world, &name, PASSWORD, None).await.unwrap();
    Phone::of(&world, &who).await;
    let count = "SELECT (SELECT count(*) FROM second_factor) + (SELECT count(*) FROM recovery_code)";
    assert_eq!(world.integer(count).await, 11);
    world.must("administrator.delete", json!({ "name": name })).await;
    assert_eq!(world.integer(count).await, 11);
    let now = world.clock.now();
    let purge = world.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            for key in purge::due(conn, purge::Kind::Administrator, now).await? {
                purge::slice(conn, purge::Kind::Administrator, key, now, now).await?;
            }
            Ok::<_, StorageError>(())
        })
    });
    purge.await.unwrap();
    assert_eq!(world.integer(count).await, 0);
}
