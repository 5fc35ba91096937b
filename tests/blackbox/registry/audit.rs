//! The audit trail: who reads which record, and what of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthouse::base::clock::Timestamp;
use posthouse::service::context::Authentication;
use posthouse::service::registry::operations;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::audit::{Record, Search, insert, statement};
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::matrix::{Names, request};
use super::{World, on_both, refusal};

on_both!(
    records_of_a_moved_customer_are_read_then_and_now_but_not_beside,
    move_is_recorded_for_all_whom_it_concerns,
    no_record_names_what_stands_above_or_beside_the_reader,
    own_records_are_told_whole,
    nothing_is_found_by_what_is_not_shown,
    pages_tell_nothing_of_records_outside_the_scope,
    search_within_a_customer_reads_its_own_records_only,
    pruning_leaves_nothing_in_the_scope_of_what_went,
);

/// The records that this reader finds.
async fn trail(world: &World, who: &Authentication, asked: Value) -> Vec<Value> {
    let mut asked = asked;
    asked["limit"] = json!(1000);
    let found = world.run(who, "audit.search", asked).await.unwrap();
    assert!(found["cursor"].is_null());
    found["items"].as_array().unwrap().clone()
}

/// (operation, customer, target) of the changes that this reader finds, oldest first.
async fn changes(world: &World, who: &Authentication) -> Vec<(String, String, String)> {
    let text = |record: &Value, member: &str| record[member].as_str().unwrap().to_owned();
    let mut found: Vec<_> = trail(world, who, json!({}))
        .await
        .iter()
        .filter(|record| record["operation"] != "audit.search" && record["operation"] != "whoami")
        .map(|record| (text(record, "operation"), text(record, "customer"), text(record, "target")))
        .collect();
    found.reverse();
    found
}

fn line(operation: &str, customer: &str, target: &str) -> (String, String, String) {
    (operation.to_owned(), customer.to_owned(), target.to_owned())
}

async fn records_of_a_moved_customer_are_read_then_and_now_but_not_beside(world: World) {
    let old = world.aboard("old", "old.example").await;
    let beside = world.aboard("old/beside", "beside.example").await;
    let new = world.aboard("new", "new.example").await;
    let unit = world.aboard("old/unit", "unit.example").await;
    world.must("customer.create", json!({ "path": "old/unit/desk" })).await;
    world.run(&unit, "customer.rename", json!({ "path": "unit/desk", "name": "Desk" })).await.unwrap();
    world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    world.run(&unit, "customer.rename", json!({ "path": "unit/desk", "name": "Later" })).await.unwrap();
    let renames = async |who: &Authentication| {
        let found = trail(&world, who, json!({ "operation": "customer.rename" })).await;
        found.iter().map(|one| one["customer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Newest first. Each is told the path of its time from where they see it.
    assert_eq!(renames(&unit).await, ["unit/desk", "unit/desk"]);
    assert_eq!(renames(&new).await, ["new/unit/desk", "unit/desk"]);
    assert_eq!(renames(&old).await, ["old/unit/desk"]);
    assert_eq!(renames(&beside).await, [""; 0]);
    assert_eq!(renames(&world.system).await, ["new/unit/desk", "old/unit/desk"]);
    // Moved on: those who had it for a while keep the records of that time.
    let third = world.aboard("third", "third.example").await;
    world.must("customer.move", json!({ "path": "new/unit", "to": "third" })).await;
    assert_eq!(renames(&new).await, ["new/unit/desk"]);
    assert_eq!(renames(&third).await, ["unit/desk", "unit/desk"]);
    assert_eq!(renames(&unit).await, ["unit/desk", "unit/desk"]);
}

async fn move_is_recorded_for_all_whom_it_concerns(world: World) {
    let old = world.aboard("old", "old.example").await;
    let new = world.aboard("new", "new.example").await;
    let unit = world.aboard("old/unit", "unit.example").await;
    let old_login = world.run(&old, "whoami", json!({})).await.unwrap()["name"].clone();
    let granted = json!({ "name": old_login, "role": "viewer", "customer": "old/unit" });
    world.must("administrator.grant", granted).await;
    world.must("customer.move", json!({ "path": "old/unit", "to": "new" })).await;
    let moves =
        async |who: &Authentication| trail(&world, who, json!({ "operation": "customer.move" })).await;
    let told = |record: &Value| {
        [
            &record["target"],
            &record["after"]["from"],
            &record["after"]["to"],
            &record["after"]["grants_ended"][0],
        ]
        .map(|text| text.as_str().unwrap_or_else(|| panic!("{record}")).to_owned())
    };
    let seen = moves(&unit).await;
    assert_eq!(seen.len(), 1);
    let expected = ["customer unit below customer elsewhere", "elsewhere", "elsewhere", "viewer of provider"];
    assert_eq!(told(&seen[0]), expected);
    assert_eq!((&seen[0]["actor"], &seen[0]["after"]["customers"]), (&json!("provider"), &json!(1)));
    let seen = moves(&old).await;
    assert_eq!(seen.len(), 1);
    let ended = format!("viewer of {}", old_login.as_str().unwrap());
    let expected = ["customer old/unit below customer elsewhere", "old", "elsewhere", ended.as_str()];
    assert_eq!(told(&seen[0]), expected);
    // The new place has a record of its own, which stays when the customer moves on.
    let expected = ["customer unit below customer new", "elsewhere", "new", "viewer of provider"];
    let seen = moves(&new).await;
    assert_eq!(seen.iter().map(told).collect::<Vec<_>>(), [expected, expected]);
    assert_eq!(seen.iter().map(|one| one["customer"].clone()).collect::<Vec<_>>(), ["new", "unit"]);
    world.must("customer.move", json!({ "path": "new/unit", "to": "/" })).await;
    let places: Vec<Value> = moves(&new).await.iter().map(|one| one["customer"].clone()).collect();
    assert_eq!(places, ["new/unit", "new"]);
}

/// One of everything at `hiddentop/middle`, an administrator above it, one beside it, and a reader in it.
async fn below_hidden(world: &World) -> (Names, Authentication, Authentication) {
    world.must("customer.create", json!({ "path": "hiddentop", "name": "hidden name" })).await;
    let mut names = Names::make(world, "middle").await;
    world.must("customer.create", json!({ "path": "hiddentop/hiddenbeside" })).await;
    world.must("customer.move", json!({ "path": "middle", "to": "hiddentop" })).await;
    names.path = "hiddentop/middle".to_owned();
    names.deleted_path = names.deleted_path.replace("middle/", "hiddentop/middle/");
    let asked = json!({ "name": "hiddenboss", "customer": "hiddentop", "role": "admin", "delegable": true });
    let boss = world.must("administrator.create", asked).await;
    let boss = world.login(&boss["token"]).await;
    let asked = json!({ "name": "reader", "customer": "hiddentop/middle", "role": "auditor" });
    let reader = world.must("administrator.create", asked).await;
    (names, boss, world.login(&reader["token"]).await)
}

async fn no_record_names_what_stands_above_or_beside_the_reader(world: World) {
    let (names, boss, reader) = below_hidden(&world).await;
    let boss_login = world.run(&boss, "whoami", json!({})).await.unwrap()["name"].clone();
    let granted = json!({ "name": boss_login, "role": "viewer", "customer": names.path });
    world.must("administrator.grant", granted.clone()).await;
    // Whatever comes of it: each operation, done or refused, by one from above and by the system.
    for who in [&boss, &world.system] {
        for operation in operations() {
            let Some(asked) = request(operation.name, &names) else { continue };
            if operation.name != "customer.delete" {
                let _ = world.run(who, operation.name, asked).await;
            }
        }
    }
    world.must("administrator.revoke", granted).await;
    world.must("customer.create", json!({ "path": "hiddentop/middle/leaving" })).await;
    let away = json!({ "path": "hiddentop/middle/leaving", "to": "hiddentop/hiddenbeside" });
    world.run(&boss, "customer.move", away).await.unwrap();
    let coming = json!({ "path": "hiddentop/hiddenbeside/leaving", "to": "hiddentop/middle" });
    world.run(&boss, "customer.move", coming).await.unwrap();
    world.run(&boss, "quota.verify", json!({ "customer": "hiddentop/middle" })).await.unwrap();
    let found = trail(&world, &reader, json!({})).await;
    let changed = operations().iter().filter(|operation| operation.mutates);
    let recorded = |name: &str| found.iter().any(|record| record["operation"] == name);
    let count = changed.filter(|operation| recorded(operation.name)).count();
    assert!(count > 25, "only {count} operations are in the trail");
    for record in &found {
        let text = record.to_string();
        assert!(!text.contains("hidden") && !text.contains("boss"), "{text}");
        assert!(!text.chars().any(char::is_control) && !text.contains("\\u00"), "{text}");
    }
    // From above the same records have their names.
    let above = trail(&world, &boss, json!({})).await;
    assert!(above.iter().any(|record| record["customer"] == "hiddentop/middle"));
    assert!(above.iter().any(|record| record["actor"] == boss_login));
}

async fn own_records_are_told_whole(world: World) {
    let (_, boss, reader) = below_hidden(&world).await;
    let limit = json!({ "path": "hiddentop/middle", "mailboxes": 7 });
    world.run(&boss, "customer.limit", limit).await.unwrap();
    let rename = json!({ "path": "hiddentop/middle", "name": "Middle Earth", "slug": "centre" });
    world.run(&boss, "customer.rename", rename).await.unwrap();
    let wrong = json!({ "path": "hiddentop/centre/nowhere", "name": "x" });
    assert_eq!(refusal(world.run(&boss, "customer.rename", wrong).await), "not-found");
    world.mailbox("new@middle.example").await;
    world.must("mailbox.suspend", json!({ "address": "new@middle.example", "reason": "unpaid" })).await;
    let found = trail(&world, &reader, json!({})).await;
    let of = |name: &str| {
        found.iter().find(|record| record["operation"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(of("customer.limit")["after"]["mailboxes"], 7);
    assert_eq!(of("customer.limit")["target"], "customer middle");
    let renamed = of("customer.rename");
    assert_eq!((&renamed["before"]["slug"], &renamed["after"]["slug"]), (&json!("middle"), &json!("centre")));
    assert_eq!(renamed["after"]["name"], "Middle Earth");
    assert_eq!(of("mailbox.create")["after"]["address"], "new@middle.example");
    assert_eq!(of("mailbox.suspend")["after"]["items"][0]["reason"], "unpaid");
    assert_eq!(of("administrator.create")["after"][1], "auditor");
    // What somebody was refused is theirs, in their words.
    let mine = trail(&world, &boss, json!({ "mine": true, "outcome": "not-found" })).await;
    assert_eq!(mine[0]["target"], "customer hiddentop/centre/nowhere does not exist");
    let system = trail(&world, &world.system, json!({ "mine": true, "operation": "mailbox.create" })).await;
    assert!(system.iter().all(|record| record["actor"] == "system") && system.len() > 1);
}

async fn nothing_is_found_by_what_is_not_shown(world: World) {
    let (names, boss, reader) = below_hidden(&world).await;
    world.run(&boss, "customer.limit", json!({ "path": names.path, "mailboxes": 7 })).await.unwrap();
    for (field, hidden, shown) in [
        ("actor", "boss", "provider"),
        ("actor", "system", "Provider"),
        ("target", "hiddentop", "customer middle"),
        ("text", "hiddentop", "middle.example"),
        ("text", "hiddenbeside", "mailboxes"),
        ("text", "/1/", "customer middle"),
    ] {
        let nothing = trail(&world, &reader, json!({ field: hidden })).await;
        assert!(nothing.iter().all(|record| record["actor"] != "provider"), "{field} {hidden}: {nothing:?}");
        assert!(!trail(&world, &reader, json!({ field: shown })).await.is_empty(), "{field} {shown}");
    }
    let from_above = trail(&world, &boss, json!({ "actor": "HIDDENBOSS", "text": "hiddentop/middle" })).await;
    assert_eq!(from_above.len(), 1);
}

async fn pages_tell_nothing_of_records_outside_the_scope(world: World) {
    let a = world.aboard("a", "a.example").await;
    world.aboard("b", "b.example").await;
    for index in 0..7 {
        world.mailbox(&format!("m{index}@a.example")).await;
        for foreign in 0..5 {
            world.mailbox(&format!("m{index}-{foreign}@b.example")).await;
        }
    }
    let pages = async |asked: Value| {
        let (mut sizes, mut cursors, mut seen) = (Vec::new(), Vec::<String>::new(), Vec::new());
        loop {
            let mut asked = asked.clone();
            asked["cursor"] = cursors.last().map_or(Value::Null, |cursor| json!(cursor));
            let page = world.run(&a, "audit.search", asked).await.unwrap();
            let items = page["items"].as_array().unwrap();
            sizes.push(items.len());
            seen.extend(items.iter().map(|item| item["target"].clone()));
            match page["cursor"].as_str() {
                Some(cursor) => cursors.push(cursor.to_owned()),
                None => return (sizes, cursors, seen),
            }
        }
    };
    // Seven records fill pages of three, whatever lies between them; the last page says that it is the last.
    for more in [json!({}), json!({ "text": "@a.example" }), json!({ "actor": "provider" })] {
        let mut asked = json!({ "operation": "mailbox.create", "limit": 3 });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (sizes, cursors, seen) = pages(asked).await;
        assert_eq!(sizes, [3, 3, 1]);
        assert!(seen.iter().all(|target| target == "domain a.example"), "{seen:?}");
        // A cursor is sealed: the keys of records, which count what others did, are not in it.
        for cursor in cursors {
            let octets = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            assert_eq!(octets.len(), 12 + 32);
            assert!(serde_json::from_slice::<Value>(&octets[12..]).is_err());
        }
    }
    // One that was made up is no better than none, nor is one of another list.
    let text = "SELECT max(id) FROM audit";
    let id = world.integer(text).await.to_string();
    let mut made_up = vec![0; 12];
    made_up.extend(format!("{id:<32}").into_bytes());
    let other = world.run(&a, "mailbox.list", json!({ "limit": 1 })).await.unwrap()["cursor"].clone();
    for cursor in [json!(URL_SAFE_NO_PAD.encode(made_up)), other, json!("x")] {
        let asked = json!({ "operation": "mailbox.create", "cursor": cursor });
        assert_eq!(refusal(world.run(&a, "audit.search", asked).await), "invalid");
    }
}

fn record(number: i64, node_path: &str) -> Record {
    Record {
        id: 0,
        public_id: format!("record {number}"),
        at: Timestamp::from_secs(1_000_000 + number),
        node_path: node_path.to_owned(),
        customer_path: "provider/x".to_owned(),
        actor_id: Some(number % 7),
        actor: "somebody".to_owned(),
        actor_path: "/1/".to_owned(),
        authenticated: String::new(),
        source: String::new(),
        operation: "mailbox.create".to_owned(),
        target: String::new(),
        before: None,
        after: None,
        outcome: "done".to_owned(),
        request_id: String::new(),
        on_behalf: None,
        is_chained: false,
    }
}

/// Writes 20,000 records, ten of them of customer 777, and says so to the planner.
async fn fill(world: &World) {
    let written: Result<(), StorageError> = world
        .database
        .write(Priority::Interactive, |conn| {
            Box::pin(async move {
                let path = |number: i64| match number % 2_000 {
                    0 => "/1/777/".to_owned(),
                    other => format!("/1/{}/", 1_000 + other % 50),
                };
                let records: Vec<Record> = (0..20_000).map(|number| record(number, &path(number))).collect();
                insert(conn, &records).await?;
                conn.execute("ANALYZE", Vec::new()).await.map(drop)
            })
        })
        .await;
    written.unwrap();
}

async fn search_within_a_customer_reads_its_own_records_only(world: World) {
    fill(&world).await;
    let searches = [
        Search { limit: 101, ..Search::default() },
        Search { limit: 101, operation: Some("mailbox.".to_owned()), ..Search::default() },
        Search {
            limit: 1000,
            outcome: Some("refused".to_owned()),
            before_id: Some(9_999),
            ..Search::default()
        },
        Search { limit: 101, since: Some(Timestamp::from_secs(1)), ..Search::default() },
    ];
    for search in searches {
        let work = world.database.read(move |conn| {
            let (text, params) = statement(&search, Some(777), 0);
            Box::pin(async move {
                let (explain, column) =
                    if conn.is_postgres() { ("EXPLAIN", 0) } else { ("EXPLAIN QUERY PLAN", 3) };
                let plan = conn.rows(format!("{explain} {text}"), params.clone()).await?;
                let plan: Result<Vec<String>, _> = plan.iter().map(|row| row.text(column)).collect();
                Ok((conn.is_postgres(), plan?.join("\n")))
            })
        });
        let (is_postgres, plan) = work.await.map_err(|error: StorageError| error).unwrap();
        let (range, point, forbidden) = if is_postgres {
            (
                "audit_scope_pkey",
                "Index Cond: (id = s.audit_id)",
                ["Seq Scan", "Scan Backward using audit_pkey"],
            )
        } else {
            ("SEARCH s USING PRIMARY KEY (customer_id=? AND audit_id>?", "SEARCH a USING", ["SCAN", "B-TREE"])
        };
        assert!(plan.contains(range) && plan.contains(point), "{plan}");
        assert!(forbidden.iter().all(|word| !plan.contains(word)), "{plan}");
    }
}

async fn pruning_leaves_nothing_in_the_scope_of_what_went(world: World) {
    fill(&world).await;
    let pruned: Result<u64, StorageError> = world
        .database
        .write(Priority::Background, |conn| {
            Box::pin(async move {
                let before = Timestamp::from_secs(1_000_000 + 500);
                let from = Timestamp::from_secs(0);
                let pruned =
                    posthouse::storage::metadata::purge::audit(conn, from, before, |_| before, &[]).await?;
                Ok(pruned.removed)
            })
        })
        .await;
    assert!(pruned.unwrap() > 400);
    let orphans = "SELECT count(*) FROM audit_scope WHERE audit_id NOT IN (SELECT id FROM audit)";
    assert_eq!(world.integer(orphans).await, 0);
    assert!(world.integer("SELECT count(*) FROM audit_scope WHERE customer_id = 777").await > 5);
}

async fn changes_of(world: &World, who: &Authentication, operation: &str) -> Vec<(String, String, String)> {
    changes(world, who).await.into_iter().filter(|(name, ..)| name == operation).collect()
}

mod lines {
    //! What a record says in a few words.

    use serde_json::json;

    use super::{World, changes_of, line, on_both};

    on_both!(creation_is_recorded_above_and_at_what_was_made);

    async fn creation_is_recorded_above_and_at_what_was_made(world: World) {
        let a = world.aboard("a", "a.example").await;
        world.run(&a, "customer.create", json!({ "path": "a/b" })).await.unwrap();
        let expected = [
            line("customer.create", "a", "customer elsewhere"),
            line("customer.create", "a", "customer a"),
            line("customer.create", "a/b", "customer a"),
        ];
        assert_eq!(changes_of(&world, &a, "customer.create").await, expected);
    }
}
