//! Many objects in one call: each row is what its single operation is, in its rights, its effects and its records.

use posthouse::service::context::Authentication;
use posthouse::service::registry::RunOptions;
use posthouse::storage::StorageError;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    rows_of_every_type_are_made_changed_and_found_unchanged,
    a_row_that_fails_leaves_the_others_and_nothing_of_itself,
    rows_may_what_their_operations_may,
    what_belongs_to_others_fails_as_what_does_not_exist,
    every_change_has_its_own_record_and_every_refusal,
    a_dry_run_changes_nothing_and_takes_its_context_for_granted,
    what_was_not_expected_is_not_done,
    mailboxes_without_a_password_are_made_and_passwords_set_on_demand,
    batches_are_bounded,
    the_largest_limits_overflow_nothing,
    names_have_one_form_and_nothing_hidden,
);

/// Outcomes of the rows, one word each; of those that fail, the code and field.
fn outcomes(answer: &Value) -> Vec<String> {
    let one = |result: &Value| match result["code"].as_str() {
        None => result["outcome"].as_str().unwrap().to_owned(),
        Some(code) => {
            assert_eq!(result["outcome"], "failed", "{result}");
            assert!(result["message"].as_str().is_some_and(|message| !message.is_empty()), "{result}");
            format!("{code}:{}", result["field"].as_str().unwrap_or_default())
        }
    };
    answer["results"].as_array().unwrap().iter().map(one).collect()
}

async fn import(world: &World, who: &Authentication, rows: &Value) -> Value {
    let answer = world.run(who, "import.batch", json!({ "rows": rows })).await;
    answer.unwrap_or_else(|error| panic!("{rows}: {error:?}"))
}

async fn tried(world: &World, who: &Authentication, request: Value) -> Value {
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    world.run_with(who, "import.batch", request, options, None).await.unwrap()
}

/// One of everything.
fn everything() -> Value {
    json!([
        { "type": "customer", "path": "gov", "name": "Government", "kind": "state", "bytes": 1_i64 << 40 },
        { "type": "customer", "path": "gov/health", "mailboxes": 10, "contact": "it@gov.example" },
        { "type": "domain", "domain": "gov.example", "customer": "gov", "mailbox_default": 1 << 30 },
        { "type": "domain", "domain": "www.gov.example", "customer": "gov", "alias_of": "gov.example" },
        { "type": "domain", "domain": "health.example", "customer": "gov/health", "state": "pending" },
        { "type": "mailbox", "address": "it@gov.example", "name": "IT", "password_hash": PASSWORD_HASH },
        { "type": "mailbox", "address": "big@gov.example", "quota": null, "messages": 5 },
        { "type": "alias", "address": "all@gov.example", "targets": ["it@gov.example", "big@gov.example"] },
        { "type": "administrator", "name": "carla", "customer": "gov", "contact": "carla@other.example",
          "roles": [{ "role": "admin", "delegable": true },
                    { "role": "helpdesk", "customer": "gov/health", "expires_at": "2030-01-01T00:00:00Z" }] },
        { "type": "administrator", "name": "dora", "customer": "gov", "enabled": false,
          "roles": [{ "role": "manager", "customer": "gov/health" }] },
    ])
}

async fn rows_of_every_type_are_made_changed_and_found_unchanged(world: World) {
    let rows = everything();
    let answer = import(&world, &world.system, &rows).await;
    assert_eq!(outcomes(&answer), vec!["created"; 10], "{answer}");
    assert_eq!((&answer["created"], &answer["failed"]), (&json!(10), &json!(0)));
    let again = import(&world, &world.system, &rows).await;
    assert_eq!(outcomes(&again), vec!["unchanged"; 10], "{again}");

    let shown = world.must("mailbox.show", json!({ "address": "it@gov.example" })).await;
    assert_eq!((&shown["bytes_max"], &shown["name"]), (&json!(1 << 30), &json!("IT")));
    let shown = world.must("mailbox.show", json!({ "address": "big@gov.example" })).await;
    assert_eq!((&shown["bytes_max"], &shown["messages_max"]), (&Value::Null, &json!(5)));
    let shown = world.must("domain.show", json!({ "domain": "health.example" })).await;
    assert_eq!(shown["state"], "pending");
    let dora = world.must("administrator.show", json!({ "name": "dora" })).await;
    let grants = dora["grants"].as_array().unwrap();
    assert_eq!(
        (grants.len(), &grants[0]["customer"], &dora["enabled"]),
        (1, &json!("gov/health"), &json!(false))
    );
    assert_eq!(world.integer("SELECT count(*) FROM token").await, 0, "no tokens that nobody has seen");

    let changes = json!([
        { "type": "customer", "path": "gov/health", "name": "Health", "mailboxes": null, "contact": null },
        { "type": "domain", "domain": "gov.example", "catch_all": "it@gov.example", "bytes": 5 },
        { "type": "domain", "domain": "health.example", "state": "verified" },
        { "type": "mailbox", "address": "IT@GOV.example", "name": "Information", "quota": 7 },
        { "type": "alias", "address": "all@gov.example", "targets": ["big@gov.example"] },
        { "type": "administrator", "name": "carla", "customer": "gov", "enabled": false,
          "roles": [{ "role": "admin" }, { "role": "auditor", "customer": "/" }] },
    ]);
    let answer = import(&world, &world.system, &changes).await;
    assert_eq!(outcomes(&answer), vec!["changed"; 6], "{answer}");
    let fields = |index: usize| -> Vec<&str> {
        let changes = answer["results"][index]["changes"].as_array().unwrap();
        changes.iter().map(|change| change["field"].as_str().unwrap()).collect()
    };
    assert_eq!(fields(0), ["name", "contact", "mailboxes"]);
    assert_eq!(fields(1), ["catch_all", "bytes"]);
    assert_eq!(fields(3), ["name", "quota"]);
    assert_eq!(answer["results"][3]["changes"][1], json!({ "field": "quota", "from": 1 << 30, "to": 7 }));
    assert_eq!(fields(5), ["roles", "roles", "enabled"]);
    let again = import(&world, &world.system, &changes).await;
    assert_eq!(outcomes(&again), vec!["unchanged"; 6], "{again}");
    let alias = world.must("alias.list", json!({ "domain": "gov.example" })).await;
    assert_eq!(alias["items"][0]["targets"], json!(["big@gov.example"]));
}

async fn a_row_that_fails_leaves_the_others_and_nothing_of_itself(world: World) {
    world.aboard("a", "a.example").await;
    world.must("customer.limit", json!({ "path": "a", "mailboxes": 2 })).await;
    let rows = json!([
        { "type": "mailbox", "address": "one@a.example" },
        { "type": "mailbox", "address": "two@nowhere.example" },
        { "type": "mailbox", "address": "no at sign" },
        { "type": "mailbox", "address": "short@a.example", "password": "short" },
        { "type": "mailbox", "address": "hash@a.example", "password_hash": "{PLAIN}x" },
        { "type": "customer", "path": "a/b", "messages": -1 },
        { "type": "customer", "path": "a/c\u{202e}d" },
        { "type": "customer", "path": "a/e", "name": "pay\u{200d}pal" },
        { "type": "mailbox", "address": "zero\u{200b}width@a.example" },
        { "type": "alias", "address": "loop@a.example", "targets": ["loop@a.example"] },
        { "type": "alias", "address": "away@a.example", "targets": ["x@elsewhere.example"] },
        { "type": "administrator", "name": "x", "customer": "a", "roles": [{ "role": "wizard" }] },
        { "type": "mailbox", "address": "two@a.example" },
        { "type": "mailbox", "address": "three@a.example" },
        { "type": "alias", "address": "list@a.example", "targets": ["one@a.example"] },
    ]);
    let answer = import(&world, &world.system, &rows).await;
    let expected = [
        "created",
        "not_found:",
        "invalid:address",
        "invalid:password",
        "invalid:password_hash",
        "invalid:messages",
        "invalid:path",
        "invalid:name",
        "invalid:address",
        "invalid:targets",
        "invalid:targets",
        "invalid:role",
        "created",
        "over_quota:",
        "created",
    ];
    assert_eq!(outcomes(&answer), expected, "{answer}");
    // The customer had been made when its limit was refused.
    let customers = world.must("customer.list", json!({ "customer": "a" })).await;
    assert_eq!(customers["items"].as_array().unwrap().len(), 1, "{customers}");
    let mailboxes = world.must("mailbox.list", json!({})).await;
    assert_eq!(mailboxes["items"].as_array().unwrap().len(), 2, "{mailboxes}");
}

async fn rows_may_what_their_operations_may(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("box@a.example").await;
    let mut callers = Vec::new();
    for role in ["manager", "helpdesk", "auditor"] {
        let asked = json!({ "name": role, "customer": "a", "role": role });
        let made = world.must("administrator.create", asked).await;
        callers.push(world.login(&made["token"]).await);
    }
    let rows = json!([
        { "type": "mailbox", "address": "new@a.example" },
        { "type": "mailbox", "address": "box@a.example", "quota": 5 },
        { "type": "mailbox", "address": "box@a.example", "name": "" },
        { "type": "customer", "path": "a/b" },
        { "type": "customer", "path": "a", "bytes": 5 },
        { "type": "domain", "domain": "b.example", "customer": "a" },
        { "type": "alias", "address": "list@a.example", "targets": ["box@a.example"] },
        { "type": "administrator", "name": "chief", "customer": "a" },
        { "type": "administrator", "name": "evil", "customer": "a", "roles": [{ "role": "admin" }] },
    ]);
    let no = "forbidden:";
    let expected = [
        ["created", "changed", "unchanged", no, no, no, "created", no, no],
        [no, no, "unchanged", no, no, no, no, no, no],
        [no, no, "unchanged", no, no, no, no, "unchanged", no],
    ];
    for (caller, expected) in callers.iter().zip(expected) {
        let request = json!({ "rows": rows });
        assert_eq!(outcomes(&tried(&world, caller, request).await), expected);
    }
    // Billing sees the customer and may not learn of a mailbox by comparing.
    let asked = json!({ "name": "billing", "customer": "a", "role": "billing" });
    let billing = world.login(&world.must("administrator.create", asked).await["token"]).await;
    let rows = json!([{ "type": "mailbox", "address": "box@a.example", "name": "" }]);
    assert_eq!(outcomes(&import(&world, &billing, &rows).await), [no]);
    // The customer's own administrator cannot lift its limit, nor give more than it has.
    let asked = json!({ "name": "boss", "customer": "a", "role": "admin", "delegable": true });
    let made = world.must("administrator.create", asked).await;
    let boss = world.login(&made["token"]).await;
    let rows = json!([
        { "type": "customer", "path": "a", "bytes": 5 },
        { "type": "customer", "path": "a/b", "bytes": 5 },
        { "type": "administrator", "name": "x", "customer": "a", "roles": [{ "role": "system-admin" }] },
        { "type": "administrator", "name": "y", "customer": "a/b", "roles": [{ "role": "admin" }] },
    ]);
    assert_eq!(outcomes(&import(&world, &boss, &rows).await), [no, "created", "invalid:role", "created"]);
    // A token that is confined is so in every row.
    let code = made["name"].as_str().expect("a name").to_owned();
    let asked = json!({ "name": code, "permissions": ["mailbox.read", "mailbox.quota"] });
    let confined = world.login(&world.must("token.create", asked).await["token"]).await;
    let rows = json!([
        { "type": "mailbox", "address": "box@a.example", "quota": 9 },
        { "type": "mailbox", "address": "other@a.example" },
        { "type": "customer", "path": "a/c" },
    ]);
    assert_eq!(outcomes(&import(&world, &confined, &rows).await), ["changed", no, no]);
}

async fn what_belongs_to_others_fails_as_what_does_not_exist(world: World) {
    world.aboard("b", "b.example").await;
    world.mailbox("box@b.example").await;
    world.must("alias.create", json!({ "address": "list@b.example", "targets": ["box@b.example"] })).await;
    let made = world.must("customer.show", json!({ "path": "b" })).await;
    let code = made["code"].as_str().unwrap();
    world.aboard("a", "a.example").await;
    let asked = json!({ "name": "boss", "customer": "a", "role": "admin", "delegable": true });
    let boss = world.login(&world.must("administrator.create", asked).await["token"]).await;
    let rows = |path: &str, domain: &str| {
        json!([
            { "type": "customer", "path": path, "name": "x" },
            { "type": "customer", "path": format!("{path}/c") },
            { "type": "domain", "domain": domain, "customer": path, "bytes": 5 },
            { "type": "domain", "domain": domain, "bytes": 5 },
            { "type": "mailbox", "address": format!("box@{domain}"), "quota": 5 },
            { "type": "mailbox", "address": format!("new@{domain}") },
            { "type": "alias", "address": format!("list@{domain}"), "targets": ["x@a.example"] },
            { "type": "alias", "address": "x@a.example", "targets": [format!("box@{domain}")] },
            { "type": "administrator", "name": "chief", "customer": path },
            { "type": "administrator", "name": "x", "customer": "a",
              "roles": [{ "role": "viewer", "customer": path }] },
        ])
    };
    let answers = |answer: Value, path: &str, domain: &str| {
        answer["results"].to_string().replace(path, "PATH").replace(domain, "DOMAIN")
    };
    let theirs = answers(import(&world, &boss, &rows(code, "b.example")).await, code, "b.example");
    let nobodys = answers(import(&world, &boss, &rows("zzzzzz", "z.example")).await, "zzzzzz", "z.example");
    assert_eq!(theirs, nobodys);
    let shown = world.must("mailbox.list", json!({})).await;
    assert_eq!(shown["items"].as_array().unwrap().len(), 1, "{shown}");
}

async fn every_change_has_its_own_record_and_every_refusal(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("box@a.example").await;
    let before = world.integer("SELECT count(*) FROM audit").await;
    let rows = json!([
        { "type": "mailbox", "address": "new@a.example" },
        { "type": "mailbox", "address": "box@a.example", "name": "Box", "quota": 5 },
        { "type": "mailbox", "address": "box@a.example", "name": "Box" },
        { "type": "mailbox", "address": "new@a.example", "quota": -5 },
        { "type": "customer", "path": "a/b", "messages": -1 },
    ]);
    import(&world, &world.system, &rows).await;
    let search = world.must("audit.search", json!({ "customer": "a", "limit": 50 })).await;
    let count = |operation: &str, outcome: &str| {
        let items = search["items"].as_array().unwrap().iter();
        items.filter(|one| one["operation"] == operation && one["outcome"] == outcome).count()
    };
    assert_eq!(count("mailbox.create", "done"), 2, "{search}");
    assert_eq!(count("mailbox.rename", "done"), 1);
    assert_eq!(count("mailbox.quota", "done"), 1);
    assert_eq!(count("mailbox.quota", "invalid"), 1);
    // What was undone with its row left no record of having been done; that it was refused did.
    assert_eq!((count("customer.create", "done"), count("customer.limit", "invalid")), (1, 1));
    // Three changes, two refusals, the batch; the search comes later.
    let more = world.integer("SELECT count(*) FROM audit WHERE operation NOT LIKE 'audit.%'").await - before;
    assert_eq!(more, 6);
}

async fn a_dry_run_changes_nothing_and_takes_its_context_for_granted(world: World) {
    let records = world.integer("SELECT count(*) FROM audit").await;
    let answer = tried(&world, &world.system, json!({ "rows": everything() })).await;
    assert_eq!(outcomes(&answer), vec!["created"; 10], "{answer}");
    assert_eq!(world.integer("SELECT count(*) FROM customer").await, 1);
    assert_eq!(world.integer("SELECT count(*) FROM mailbox").await, 0);
    assert_eq!(world.integer("SELECT count(*) FROM audit").await, records);
    let Value::Array(mut rows) = everything() else { panic!("rows") };
    let last = rows.split_off(7);
    let alone = tried(&world, &world.system, json!({ "rows": last })).await;
    assert_eq!(outcomes(&alone), vec!["not_found:"; 3], "{alone}");
    let request = json!({ "rows": last, "context": rows, "without_hashing": true });
    let with_context = tried(&world, &world.system, request.clone()).await;
    assert_eq!(outcomes(&with_context), vec!["created"; 3], "{with_context}");
    assert_eq!(refusal(world.run(&world.system, "import.batch", request).await), "invalid");
    // Passwords are looked at and not hashed.
    let rows = json!([
        { "type": "customer", "path": "a" },
        { "type": "domain", "domain": "a.example", "customer": "a" },
        { "type": "mailbox", "address": "x@a.example", "password": "long enough" },
        { "type": "mailbox", "address": "y@a.example", "password": "short" },
    ]);
    let answer = tried(&world, &world.system, json!({ "rows": rows, "without_hashing": true })).await;
    assert_eq!(outcomes(&answer)[2..], ["created", "invalid:password"]);
}

async fn what_was_not_expected_is_not_done(world: World) {
    world.aboard("a", "a.example").await;
    world.mailbox("box@a.example").await;
    let rows = json!([
        { "type": "mailbox", "address": "box@a.example", "quota": 7 },
        { "type": "mailbox", "address": "new@a.example" },
    ]);
    let planned = tried(&world, &world.system, json!({ "rows": rows })).await;
    let expected: Vec<Value> = planned["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!({ "outcome": one["outcome"], "changes": one.get("changes").cloned().unwrap_or(json!([])) }))
        .collect();
    // Somebody is faster.
    world.must("mailbox.quota", json!({ "address": "box@a.example", "quota": 5 })).await;
    world.mailbox("new@a.example").await;
    let request = json!({ "rows": rows, "expected": expected });
    let answer = world.run(&world.system, "import.batch", request.clone()).await.unwrap();
    assert_eq!(outcomes(&answer), ["precondition_failed:"; 2], "{answer}");
    let shown = world.must("mailbox.show", json!({ "address": "box@a.example" })).await;
    assert_eq!(shown["bytes_max"], 5);
    world.must("mailbox.quota", json!({ "address": "box@a.example", "quota": null })).await;
    let answer = world.run(&world.system, "import.batch", request).await.unwrap();
    assert_eq!(outcomes(&answer), ["changed", "precondition_failed:"], "{answer}");
}

/// The hash of the only mailbox.
async fn stored_hash(world: &World) -> String {
    let text = "SELECT password_hash FROM mailbox";
    let read = world
        .database
        .read(|conn| Box::pin(async move { conn.row(text, Vec::new()).await?.expect("a mailbox").text(0) }));
    read.await.map_err(|error: StorageError| error).expect("its hash")
}

async fn mailboxes_without_a_password_are_made_and_passwords_set_on_demand(world: World) {
    world.aboard("a", "a.example").await;
    let row = |more: Value| {
        let mut row = json!({ "type": "mailbox", "address": "x@a.example" });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([row])
    };
    let answer = import(&world, &world.system, &row(json!({}))).await;
    assert_eq!(outcomes(&answer), ["created"]);
    assert_eq!(stored_hash(&world).await, "");
    let with_hash = row(json!({ "password_hash": PASSWORD_HASH }));
    assert_eq!(outcomes(&import(&world, &world.system, &with_hash).await), ["unchanged"]);
    let set = json!({ "rows": with_hash, "passwords": "set" });
    for expected in ["changed", "unchanged"] {
        let answer = world.run(&world.system, "import.batch", set.clone()).await.unwrap();
        assert_eq!(outcomes(&answer), [expected]);
        assert_eq!(stored_hash(&world).await, PASSWORD_HASH);
        assert!(!answer.to_string().contains("SSHA"), "{answer}");
    }
    let set = json!({ "rows": row(json!({ "password": "correct horse" })), "passwords": "set" });
    let answer = world.run(&world.system, "import.batch", set).await.unwrap();
    assert_eq!(outcomes(&answer), ["changed"]);
    assert!(stored_hash(&world).await.starts_with("$argon2id$"));
    let trail = world.must("audit.search", json!({ "limit": 100 })).await.to_string();
    assert!(
        !trail.contains("SSHA") && !trail.contains("argon2") && !trail.contains("correct horse"),
        "{trail}"
    );
}

async fn batches_are_bounded(world: World) {
    let row = json!({ "type": "mailbox", "address": "x@a.example" });
    let request = json!({ "rows": vec![row.clone(); 501] });
    assert_eq!(refusal(world.run(&world.system, "import.batch", request).await), "invalid");
    let row = json!({ "type": "mailbox", "address": "x@a.example", "password": "long enough" });
    let request = json!({ "rows": vec![row; 101] });
    assert_eq!(refusal(world.run(&world.system, "import.batch", request).await), "invalid");
    let request = json!({ "rows": [{ "type": "mailbox", "address": "x@a.example", "color": "red" }] });
    assert_eq!(refusal(world.run(&world.system, "import.batch", request).await), "invalid");
}

async fn the_largest_limits_overflow_nothing(world: World) {
    let most = i64::MAX;
    let customer = |path: &str| {
        json!({ "type": "customer", "path": path, "bytes": most, "messages": most, "mailboxes": most, "aliases": most,
                "domains": most, "customers": most, "administrators": most, "bytes_guarantee": null })
    };
    let mailbox =
        |address: &str| json!({ "type": "mailbox", "address": address, "quota": most, "messages": most });
    let rows = json!([
        customer("a"),
        customer("a/b"),
        { "type": "domain", "domain": "b.example", "customer": "a/b", "bytes": most, "messages": most,
          "mailbox_default": most },
        mailbox("x@b.example"),
        mailbox("y@b.example"),
    ]);
    let answer = import(&world, &world.system, &rows).await;
    assert_eq!(outcomes(&answer), vec!["created"; 5], "{answer}");
    assert_eq!(outcomes(&import(&world, &world.system, &rows).await), vec!["unchanged"; 5]);
    world.use_octets("x@b.example", most / 2).await;
    let report = world.must("report.quota", json!({ "customer": "a" })).await;
    assert!(report.to_string().contains(&(most / 2).to_string()), "{report}");
    world.must("customer.show", json!({ "path": "a" })).await;
    let row = json!([{ "type": "customer", "path": "a", "bytes": 9_223_372_036_854_775_808_u64 }]);
    let refused = world.run(&world.system, "import.batch", json!({ "rows": row })).await;
    assert_eq!(refusal(refused), "invalid");
}

async fn names_have_one_form_and_nothing_hidden(world: World) {
    world.aboard("a", "a.example").await;
    // One name, composed and decomposed.
    let rows = json!([
        { "type": "domain", "domain": "b\u{fc}cher.example", "customer": "a" },
        { "type": "mailbox", "address": "j\u{f6}rg@bu\u{308}cher.example", "name": "Jo\u{308}rg" },
        { "type": "customer", "path": "a/b", "name": "e\u{301}" },
    ]);
    assert_eq!(outcomes(&import(&world, &world.system, &rows).await), vec!["created"; 3]);
    let again = json!([
        { "type": "domain", "domain": "XN--BCHER-KVA.example", "customer": "a" },
        { "type": "mailbox", "address": "JO\u{308}RG@b\u{fc}cher.example.", "name": "J\u{f6}rg" },
        { "type": "customer", "path": "a/b", "name": "\u{e9}" },
    ]);
    assert_eq!(outcomes(&import(&world, &world.system, &again).await), vec!["unchanged"; 3]);
    let shown = world.must("domain.show", json!({ "domain": "b\u{fc}cher.example" })).await;
    assert_eq!(
        (&shown["name"], &shown["unicode"]),
        (&json!("xn--bcher-kva.example"), &json!("b\u{fc}cher.example"))
    );
    let before = world.must("customer.list", json!({})).await;
    for (operation, request, field) in [
        ("customer.create", json!({ "path": "a/c", "name": "\u{202e}evil" }), "name"),
        ("customer.create", json!({ "path": "a/\u{430}" }), "path"),
        ("customer.rename", json!({ "path": "a", "name": "a\u{200b}" }), "name"),
        ("customer.rename", json!({ "path": "a", "kind": "\u{2066}k" }), "kind"),
        ("domain.create", json!({ "domain": "a\u{202e}.example", "customer": "a" }), "domain"),
        ("domain.create", json!({ "domain": "a\u{200d}b.example", "customer": "a" }), "domain"),
        ("mailbox.create", json!({ "address": "a\u{2060}b@a.example" }), "address"),
        ("mailbox.create", json!({ "address": "ab@a.example", "name": "A\u{7f}" }), "name"),
        ("alias.create", json!({ "address": "a\u{feff}@a.example", "targets": ["x@a.example"] }), "address"),
        ("administrator.create", json!({ "name": "\u{430}nna", "customer": "a" }), "name"),
        ("hold.add", json!({ "path": "a", "switch": "imap", "reason": "x\u{200f}" }), "reason"),
    ] {
        match world.run(&world.system, operation, request.clone()).await {
            Err(posthouse::service::error::ServiceError::Invalid { field: found, message }) => {
                assert_eq!(found, field, "{operation} {request}");
                assert!(!message.is_empty());
            }
            other => panic!("{operation} {request}: {other:?}"),
        }
    }
    assert_eq!(world.must("customer.list", json!({})).await, before, "nothing was changed");
}
