//! Values that cannot be meant, in every operation that takes such: cycles, names that look like others, numbers whose
//! sums overflow, clocks that step. Each is refused with a word about which field, and nothing is changed.

use std::time::Duration;

use posthouse::base::clock::Timestamp;
use posthouse::service::error::ServiceError;
use posthouse::service::expiry::ExpiryPass;
use posthouse::service::metering::Metering;
use posthouse::service::registry::{Operation, RunOptions, operations};
use posthouse::service::requests::RequestPass;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::dump::{difference, dump};
use super::matrix::{Names, any_request};
use super::{PASSWORD_HASH, World, on_both};

on_both!(
    no_cycle_can_be_made,
    names_are_refused_or_brought_to_one_form,
    sums_that_overflow_are_refused_or_held_back,
    grants_and_tokens_end_whichever_way_the_clock_steps,
    whatever_a_field_says_is_answered,
);

/// Must be refused as `word`, and change nothing.
async fn refused(world: &World, operation: &str, asked: Value, words: &[&str]) {
    let before = dump(world).await;
    let outcome = world.run(&world.system, operation, asked.clone()).await;
    let shown = format!("{operation} {asked}: {outcome:?}");
    let word = match outcome {
        Ok(_) => panic!("not refused: {shown}"),
        Err(error) => error.refusal().unwrap_or_else(|| panic!("{shown}")),
    };
    assert!(words.contains(&word), "{shown}");
    assert_eq!(difference(&before, &dump(world).await), None, "{shown}");
}

async fn no_cycle_can_be_made(world: World) {
    world.aboard("a", "a.example").await;
    world.must("customer.create", json!({ "path": "a/b" })).await;
    world.must("customer.create", json!({ "path": "a/b/c" })).await;
    for (path, to) in [("a", "a"), ("a", "a/b"), ("a", "a/b/c"), ("a/b", "a/b/c"), ("/", "a"), ("/", "/")] {
        refused(&world, "customer.move", json!({ "path": path, "to": to }), &["conflict", "forbidden"]).await;
    }
    // Domains that stand for each other, and for themselves.
    world.must("domain.alias", json!({ "domain": "one.example", "alias_of": "a.example" })).await;
    for (domain, of) in [
        ("a.example", "a.example"),
        ("a.example", "one.example"),
        ("two.example", "one.example"),
        ("one.example", "one.example"),
    ] {
        let asked = json!({ "domain": domain, "alias_of": of });
        refused(&world, "domain.alias", asked, &["conflict", "invalid"]).await;
    }
    // Groups have administrators and no groups, whatever their names.
    let group = world.must("group.create", json!({ "name": "ops", "customer": "a" })).await;
    for member in [group["name"].clone(), json!("ops")] {
        let asked = json!({ "name": group["name"], "administrator": member });
        refused(&world, "group.add", asked, &["not-found"]).await;
    }
    // A role has no role for a base, so that none can be its own.
    let role = json!({ "name": "own", "customer": "a", "base": "own", "permissions": ["mailbox.read"] });
    refused(&world, "role.create", role, &["invalid", "not-found"]).await;
    // An alias does not lead to itself, and a request asks for no request.
    world.mailbox("x@a.example").await;
    let asked = json!({ "address": "l@a.example", "targets": ["L@A.example"] });
    refused(&world, "alias.create", asked, &["invalid"]).await;
    for operation in ["request.create", "request.approve", "process.set"] {
        let asked = json!({ "operation": operation, "fields": {} });
        refused(&world, "request.create", asked, &["invalid"]).await;
    }
}

/// Names that are not what they look like: marks of direction, joiners, fillers, tags, other scripts, lone marks.
const DECEITFUL: [&str; 18] = [
    "a\u{202e}b",
    "a\u{2066}b\u{2069}",
    "\u{200f}ab",
    "a\u{200b}b",
    "a\u{2060}b",
    "a\u{feff}b",
    "a\u{200d}b",
    "a\u{ad}b",
    "a\u{3164}b",
    "\u{e0041}ab",
    "a\u{0}b",
    "a\u{7f}b",
    "a\u{85}b",
    "a\nb",
    "a\rb",
    "a\tb",
    "a\u{2028}b",
    "a\u{115f}b",
];

async fn names_are_refused_or_brought_to_one_form(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("x@a.example").await;
    let before = dump(&world).await;
    for name in DECEITFUL {
        for (operation, asked) in [
            ("customer.create", json!({ "path": format!("a/{name}") })),
            ("customer.create", json!({ "path": "a/n", "name": name })),
            ("customer.create", json!({ "path": "a/n", "kind": name })),
            ("customer.create", json!({ "path": "a/n", "code": name })),
            ("customer.create", json!({ "path": "a/n", "admin": name })),
            ("customer.rename", json!({ "path": "a", "slug": name })),
            ("customer.rename", json!({ "path": "a", "contact": format!("{name}@a.example") })),
            (
                "mailbox.create",
                json!({ "address": format!("{name}@a.example"), "password_hash": PASSWORD_HASH }),
            ),
            ("mailbox.rename", json!({ "address": "x@a.example", "name": name })),
            ("alias.create", json!({ "address": format!("{name}@a.example"), "targets": ["x@a.example"] })),
            ("alias.create", json!({ "address": "l@a.example", "targets": [format!("{name}@a.example")] })),
            ("administrator.create", json!({ "name": name, "customer": "a" })),
            ("group.create", json!({ "name": name, "customer": "a" })),
            (
                "role.create",
                json!({ "name": name, "customer": "a", "base": "viewer",
                                    "permissions": ["mailbox.read"] }),
            ),
            ("template.create", json!({ "name": name, "customer": "a", "kind": "mailbox" })),
            ("hold.add", json!({ "path": "a", "switch": "imap", "reason": name })),
            ("legal-hold.add", json!({ "mailbox": "x@a.example", "reason": name })),
            (
                "request.create",
                json!({ "operation": "mailbox.rename", "reason": name,
                                       "fields": { "address": "x@a.example", "name": "X" } }),
            ),
        ] {
            let outcome = world.run(&world.system, operation, asked.clone()).await;
            let Err(error) = outcome else { panic!("{operation} {asked}: taken") };
            // What is named by it cannot exist, or the field is named.
            let word = error.refusal();
            assert!(matches!(word, Some("invalid" | "not-found")), "{operation} {asked}: {error:?}");
        }
    }
    // In a domain's name what IDNA ignores is left out, and the rest is refused.
    for name in DECEITFUL {
        for (operation, asked) in [
            ("domain.create", json!({ "domain": format!("{name}.example"), "customer": "a" })),
            ("domain.alias", json!({ "domain": format!("{name}.example"), "alias_of": "a.example" })),
        ] {
            let dry = RunOptions { dry_run: true, ..RunOptions::default() };
            match world.run_with(&world.system, operation, asked, dry, None).await {
                Ok(made) => assert_eq!(made["name"], "ab.example", "{name:?}"),
                Err(error) => assert_eq!(error.refusal(), Some("invalid"), "{name:?}"),
            }
        }
    }
    assert_eq!(difference(&before, &dump(&world).await), None);
    // One domain in each of its forms; what only looks like it is another one, told by its ASCII form.
    for (said, name) in [
        ("B\u{dc}CHER.example", "xn--bcher-kva.example"),
        ("bu\u{308}cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example.", "xn--bcher-kva.example"),
    ] {
        let asked = json!({ "domain": said, "customer": "a" });
        match world.run(&world.system, "domain.create", asked).await {
            Ok(made) => assert_eq!(made["name"], name),
            Err(error) => assert_eq!(error.refusal(), Some("conflict"), "{said}: {error}"),
        }
    }
    let mixed = json!({ "domain": "\u{430}.example", "customer": "a" });
    if let Ok(made) = world.run(&world.system, "domain.create", mixed).await {
        assert!(made["name"].as_str().unwrap().starts_with("xn--"), "{made}");
    }
}

async fn sums_that_overflow_are_refused_or_held_back(world: World) {
    let most = i64::MAX;
    world.aboard("a", "a.example").await;
    let limits = json!({ "path": "a", "bytes": most, "mailboxes": most, "bytes_overcommit_percent": 100,
                         "mailboxes_overcommit_percent": 100 });
    world.must("customer.limit", limits).await;
    let child =
        |name: &str, limit: i64| json!({ "path": format!("a/{name}"), "bytes": limit, "mailboxes": limit });
    world.must("customer.create", child("b", most)).await;
    // The sum of the limits is more than a number holds.
    refused(&world, "customer.create", child("c", most), &["over-quota"]).await;
    refused(&world, "customer.create", child("c", 1), &["over-quota"]).await;
    let percent = json!({ "path": "a", "bytes_overcommit_percent": most });
    let _ = world.run(&world.system, "customer.limit", percent).await;
    for negative in [-1, i64::MIN] {
        for field in ["bytes", "messages", "mailboxes", "bytes_guarantee", "bytes_overcommit_percent"] {
            refused(&world, "customer.limit", json!({ "path": "a", field: negative }), &["invalid"]).await;
        }
        let asked = json!({ "path": "a", "from": "2030-01", "currency": "EUR", "gib_month": negative,
                            "mailbox_month": 0, "messages_1000": 0 });
        refused(&world, "price.set", asked, &["invalid"]).await;
    }
    for number in ["9223372036854775808", "-9223372036854775809", "1e30", "1.5"] {
        let text = format!(r#"{{ "path": "a", "bytes": {number} }}"#);
        refused(&world, "customer.limit", serde_json::from_str(&text).unwrap(), &["invalid"]).await;
    }
    // Guarantees whose sum is more than a number holds.
    world
        .must(
            "customer.limit",
            json!({ "path": "a", "bytes_overcommit_percent": null,
        "mailboxes_overcommit_percent": null }),
        )
        .await;
    world
        .must(
            "customer.limit",
            json!({ "path": "a/b", "bytes_guarantee": most, "mailboxes_guarantee": most }),
        )
        .await;
    world.must("customer.create", child("c", most)).await;
    let asked = json!({ "path": "a/c", "bytes_guarantee": most });
    refused(&world, "customer.limit", asked, &["over-quota", "limit"]).await;
    let asked = json!({ "path": "a/c", "mailboxes_guarantee": most });
    refused(&world, "customer.limit", asked, &["over-quota", "limit"]).await;
    // Without any limit above, too.
    world.must("customer.limit", json!({ "path": "a", "bytes": null, "mailboxes": null })).await;
    for field in ["bytes_guarantee", "mailboxes_guarantee"] {
        let outcome = world.run(&world.system, "customer.limit", json!({ "path": "a/c", field: most })).await;
        assert!(outcome.is_ok() || outcome.is_err_and(|error| error.refusal().is_some()), "{field}");
    }
    // Prices times use: a bill that a number does not hold is said not to be one.
    let month = world.clock.now().to_string()[..7].to_owned();
    let asked = json!({ "path": "/", "from": month, "currency": "EUR", "gib_month": most, "mailbox_month": most,
                        "messages_1000": most });
    if world.run(&world.system, "price.set", asked).await.is_ok() {
        for number in 0..3 {
            world.mailbox(&format!("m{number}@a.example")).await;
            world.use_octets(&format!("m{number}@a.example"), most / 8).await;
        }
        world.clock.advance(Duration::from_secs(7_200));
        Metering::new(&world.management).pass(world.clock.now()).await.unwrap();
        let bill = world.run(&world.system, "report.bill", json!({ "month": month })).await;
        if let Err(error) = &bill {
            assert!(error.refusal().is_some(), "{error:?}");
        }
        world.must("report.usage", json!({ "month": month })).await;
        world.must("report.quota", json!({})).await;
    }
}

async fn grants_and_tokens_end_whichever_way_the_clock_steps(world: World) {
    world.aboard("a", "a.example").await;
    let asked = json!({ "name": "guest", "customer": "a", "role": "manager", "expires_at": "10d" });
    let made = world.must("administrator.create", asked).await;
    let guest = world.login(&made["token"]).await;
    let started = world.clock.now();
    let may = async || world.run(&guest, "mailbox.list", json!({ "customer": "a" })).await.is_ok();
    let day = Duration::from_secs(86_400);
    for (now, expected) in [
        (started.plus(day * 9), true),
        (started.plus(day * 11), false),
        (started.plus(day * 4_000), false),
        (started.plus(day), true),
        (started.minus(day * 400), true),
        (started.plus(day * 10), false),
    ] {
        world.clock.set(now);
        assert_eq!(may().await, expected, "{now}");
        for pass in 0..2 {
            ExpiryPass::new(&world.management).pass().await.unwrap_or_else(|error| panic!("{pass}: {error}"));
            RequestPass::new(&world.management).pass().await.unwrap();
        }
    }
    // Dates at the ends of time are dates, or no dates.
    for now in [Timestamp(0), Timestamp(i64::MIN), Timestamp(i64::MAX), started] {
        world.clock.set(now);
        for expires_at in
            ["30d", "99999999999999d", "18446744073709551615w", "9999-12-31T23:59:59Z", "-1d", ""]
        {
            let asked = json!({ "path": "a", "expires_at": expires_at });
            let outcome = world.run(&world.system, "customer.expire", asked).await;
            assert!(
                outcome.is_ok() || outcome.is_err_and(|error| error.refusal().is_some()),
                "{now} {expires_at}"
            );
            world.must("customer.expire", json!({ "path": "a", "expires_at": null })).await;
        }
        world.must("audit.search", json!({ "since": "99999999999d" })).await;
    }
}

/// A value of any kind, mostly one that cannot be meant.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!("/")),
        Just(json!("//")),
        Just(json!("..")),
        Just(json!("@")),
        Just(json!("a".repeat(70_000))),
        Just(json!("=cmd|' /C calc'!A0")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[[]]]])),
        Just(json!(true)),
        Just(json!(1.5)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        "\\PC{0,40}".prop_map(|text| json!(text)),
        ".{0,20}".prop_map(|text| json!(text)),
        (0..DECEITFUL.len()).prop_map(|index| json!(DECEITFUL[index])),
        prop::collection::vec(".{0,5}", 0..5).prop_map(|texts| json!(texts)),
    ]
}

/// Fields that the request may have.
fn fields(operation: &Operation) -> Vec<String> {
    let schema = serde_json::to_value((operation.request)().schema).unwrap();
    schema["properties"].as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

/// Any operation with any value in any field: there is an answer, and what is refused changes nothing.
async fn whatever_a_field_says_is_answered(world: World) {
    let names = Names::make(&world, "a").await;
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 20_000 } else { 400 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    let asks_others = ["webhook.test", "domain.verify"];
    let elsewhere: Vec<&Operation> = operations()
        .iter()
        .filter(|one| !asks_others.contains(&one.name))
        .filter(|one| !["store.", "server.", "backup."].iter().any(|kind| one.name.starts_with(kind)))
        .collect();
    let strategy = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), odd());
    let outcome = TestRunner::new(config).run(&strategy, |(which, field, value)| {
        let operation = *which.get(&elsewhere);
        let mut asked = any_request(operation.name, &names);
        let fields = fields(operation);
        if fields.is_empty() {
            return Ok(());
        }
        asked[field.get(&fields).as_str()] = value;
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(answered(&world, operation, asked))
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

async fn answered(world: &World, operation: &Operation, asked: Value) -> Result<(), TestCaseError> {
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let outcome = world.run_with(&world.system, operation.name, asked.clone(), options, None).await;
    if let Err(error) = outcome {
        let is_refusal = error.refusal().is_some() || matches!(error, ServiceError::Unavailable(_));
        prop_assert!(is_refusal, "{} {asked}: {error:?}", operation.name);
    }
    Ok(())
}
