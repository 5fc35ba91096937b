//! The chains of the audit trail: whoever changes it afterwards, with all rights over the database, is found.

use posthouse::base::signing::SigningKey;

use super::*;

/// A sealer with its key and its published roots in this folder.
pub fn sealer(database: &Database, clock: &Clock, folder: &Path) -> Arc<Sealer> {
    let key = SigningKey::open_or_create(&folder.join("audit-signing.key")).unwrap();
    Arc::new(Sealer::new(database.clone(), clock.clone(), key, folder.join("audit-roots.jsonl")))
}

/// Three changes at `a` and two at `b`, sealed and published; in batches of their own.
async fn busy(world: &World) {
    for (who, name) in [(&world.a, "a"), (&world.b, "b"), (&world.a, "a"), (&world.b, "b"), (&world.a, "a")] {
        let request = json!({ "path": name, "messages": 1_000 });
        world.run(&world.system, "customer.limit", request).await.unwrap();
        let refused = world.run(who, "store.list", json!({})).await.unwrap_err();
        assert!(matches!(refused, ServiceError::Forbidden { .. }));
        world.clock.advance(Duration::from_secs(60));
        world.sealer.pass().await.unwrap();
    }
}

/// What `audit verify` finds, as words.
async fn findings(world: &World, who: &Authentication) -> Vec<String> {
    let report = world.job(who, "audit.verify", json!({})).await.unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(report["found"], findings.len());
    let word = |finding: &Value| format!("{} {}", finding["kind"].as_str().unwrap(), finding["record"]);
    findings.iter().map(word).collect()
}

/// The public id of the first record of this operation at or below a customer.
async fn first(world: &World, customer: &str, operation: &str) -> String {
    let wanted = json!({ "customer": customer, "operation": operation });
    let found = world.run(&world.system, "audit.search", wanted).await.unwrap();
    let items = found["items"].as_array().unwrap();
    items.last().unwrap()["id"].as_str().unwrap().to_owned()
}

async fn change(world: &World, text: &'static str, id: &str) {
    let id = id.to_owned();
    let write = world.database.write(Priority::Interactive, move |conn| {
        let id = id.clone();
        Box::pin(async move { conn.execute(text, posthouse::params![id]).await })
    });
    let changed: Result<u64> = write.await;
    assert_eq!(changed.unwrap(), 1);
}

pub async fn tampering_with_the_audit_trail_is_located(world: World) {
    busy(&world).await;
    let clean = world.job(&world.system, "audit.verify", json!({})).await.unwrap();
    assert_eq!(clean["found"], 0, "{clean}");
    assert!(clean["records"].as_u64().unwrap() >= 10, "{clean}");
    assert_eq!(clean["verified_until"], Value::from(world.clock.now().to_string()));
    // The start of this very job.
    assert_eq!(clean["waiting"], 1, "{clean}");
    world.sealer.pass().await.unwrap();
    assert_eq!(findings(&world, &world.a).await, Vec::<String>::new());

    let limit = first(&world, "a", "customer.limit").await;
    change(&world, "UPDATE audit SET actor = 'somebody else' WHERE public_id = $1", &limit).await;
    let changed = [format!("changed \"{limit}\"")];
    assert_eq!(findings(&world, &world.system).await, changed);
    assert_eq!(findings(&world, &world.a).await, changed);
    assert_eq!(findings(&world, &world.b).await, Vec::<String>::new());
    // Batches are counted, and made, by what everybody does: a customer is told of its own alone.
    let batch = |report: Value| report["findings"][0].get("batch").cloned();
    assert!(batch(world.job(&world.system, "audit.verify", json!({})).await.unwrap()).is_some());
    assert_eq!(batch(world.job(&world.a, "audit.verify", json!({})).await.unwrap()), None);
    world.sealer.pass().await.unwrap();
    let own = Value::from(world.clock.now().to_string());
    world.clock.advance(Duration::from_secs(60));
    world.run(&world.system, "customer.limit", json!({ "path": "b", "messages": 2_000 })).await.unwrap();
    world.sealer.pass().await.unwrap();
    let until = world.job(&world.a, "audit.verify", json!({})).await.unwrap()["verified_until"].clone();
    assert_eq!(until, own);
    let until = world.job(&world.system, "audit.verify", json!({})).await.unwrap()["verified_until"].clone();
    assert_ne!(until, own);
    change(&world, "UPDATE audit SET actor = 'system' WHERE public_id = $1", &limit).await;
    assert_eq!(findings(&world, &world.system).await, Vec::<String>::new());

    // Whoever also knows how seals are made rewrites all that follows, but not what was published.
    let before = world.number("SELECT count(*) FROM audit_seal").await;
    change(
        &world,
        "UPDATE audit SET outcome = 'done' WHERE public_id = $1",
        &first(&world, "b", "store.list").await,
    )
    .await;
    let hidden = first(&world, "b", "store.list").await;
    world.execute("DELETE FROM audit_seal").await;
    world.execute("DELETE FROM audit_head").await;
    world.execute("DELETE FROM audit_root WHERE batch > 0").await;
    let again = "INSERT INTO audit_unsealed
                 SELECT id FROM audit WHERE id NOT IN (SELECT audit_id FROM audit_unsealed)";
    world.execute(again).await;
    // A key and a file of its own: somebody else's hands.
    let elsewhere = tempfile::tempdir().unwrap();
    sealer(&world.database, &world.clock, elsewhere.path()).pass().await.unwrap();
    assert!(world.number("SELECT count(*) FROM audit_seal").await >= before);
    let found = findings(&world, &world.system).await;
    assert!(found.contains(&format!("rewritten \"{hidden}\"")), "{hidden}: {found:?}");
    assert!(found.iter().any(|found| found.starts_with("root")), "{found:?}");
}

pub async fn audit_trail_of_a_restored_database_tells_what_is_gone(world: World) {
    busy(&world).await;
    let gone = first(&world, "a", "customer.limit").await;
    change(
        &world,
        "DELETE FROM audit_scope WHERE audit_id = (SELECT id FROM audit WHERE public_id = $1)
                    AND customer_id = (SELECT id FROM customer WHERE parent_id IS NULL)",
        &gone,
    )
    .await;
    change(&world, "DELETE FROM audit WHERE public_id = $1", &gone).await;
    let found = findings(&world, &world.system).await;
    assert_eq!(found, [format!("missing \"{gone}\"")]);
    // What is older than what is kept may be gone.
    world.execute("UPDATE audit_seal SET at = 0").await;
    assert_eq!(findings(&world, &world.system).await, Vec::<String>::new());
    // A whole batch, as in a database that was taken back to an earlier state.
    let last = "DELETE FROM audit_seal WHERE batch = (SELECT max(batch) FROM audit_root)";
    world.execute(last).await;
    world.execute("DELETE FROM audit_root WHERE batch = (SELECT max(batch) FROM audit_root)").await;
    let found = findings(&world, &world.system).await;
    assert!(found.iter().filter(|found| found.starts_with("removed")).count() >= 2, "{found:?}");
    assert!(found.iter().any(|found| found.starts_with("inserted")), "{found:?}");
}

pub async fn tampering_with_what_was_not_published_yet_is_not_claimed_to_be_found(world: World) {
    let report = world.job(&world.system, "audit.verify", json!({})).await.unwrap();
    assert_eq!((&report["records"], &report["verified_until"]), (&json!(0), &Value::Null));
    assert!(report["waiting"].as_i64().unwrap() > 5, "{report}");
    // A record that nobody made through the program.
    busy(&world).await;
    world
        .execute(
            "INSERT INTO audit (public_id, at, node_path, customer_path, actor, actor_path, authenticated, source,
                                operation, target, outcome, request_id)
             SELECT 'forged', at, node_path, customer_path, actor, actor_path, authenticated, source, operation, target,
                    outcome, request_id FROM audit WHERE operation = 'customer.limit' ORDER BY id LIMIT 1",
        )
        .await;
    assert_eq!(findings(&world, &world.system).await, ["inserted \"forged\""]);
    assert_eq!(findings(&world, &world.a).await, ["inserted \"forged\""]);
}

/// What a proof shows, by column.
fn proven(proof: &Value) -> std::result::Result<HashMap<String, String>, String> {
    let proof: posthouse::base::proof::Proof = serde_json::from_value(proof.clone()).unwrap();
    let proven = posthouse::base::proof::check(&proof, Some(&proof.sealed.key.to_uppercase()));
    proven.map(|proven| proven.columns.into_iter().collect()).map_err(|error| error.to_string())
}

pub async fn records_are_proven_to_who_has_nothing_but_the_proof(world: World) {
    busy(&world).await;
    // Several chains in one batch.
    for name in ["b", "a", "b"] {
        let request = json!({ "path": name, "messages": 2_000 });
        world.run(&world.system, "customer.limit", request).await.unwrap();
    }
    let id = first(&world, "a", "mailbox.create").await;
    let waiting = {
        let found =
            world.run(&world.a, "audit.search", json!({ "operation": "customer.limit" })).await.unwrap();
        found["items"][0]["id"].clone()
    };
    let refused = world.run(&world.a, "audit.prove", json!({ "record": waiting })).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("conflict"), "{refused}");
    world.sealer.pass().await.unwrap();
    let found = world.run(&world.system, "audit.search", json!({ "limit": 1000 })).await.unwrap();
    let records = found["items"].as_array().unwrap();
    let mut proofs = 0;
    for record in records.iter().filter(|record| record["operation"] != "audit.search") {
        let proof = world.run(&world.system, "audit.prove", json!({ "record": record["id"] })).await.unwrap();
        let shown = proven(&proof).unwrap();
        for column in ["id", "operation", "actor", "outcome", "request_id"] {
            assert_eq!(shown[column], record[column].as_str().unwrap(), "{column} of {record}");
        }
        assert!(!proof.to_string().contains("hidden"), "{proof}");
        proofs += 1;
    }
    assert!(proofs > 10, "{proofs}");
    // Who reads below is told less, and so is whoever gets the proof.
    let proof = world.run(&world.a, "audit.prove", json!({ "record": id })).await.unwrap();
    let shown = proven(&proof).unwrap();
    assert_eq!((shown["node_path"].as_str(), shown["actor"].as_str()), ("…", "…"));
    assert_eq!((shown["customer_path"].as_str(), shown["operation"].as_str()), ("…a", "mailbox.create"));
    for word in ["system", "/1/", "provider", "peer uid", "batch\":"] {
        assert!(!proof.to_string().contains(word), "{word}: {proof}");
    }
    let refused = world.run(&world.b, "audit.prove", json!({ "record": id })).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("audit record {id} does not exist"));
    // Nor is anybody told by a record of their own.
    let own = first(&world, "a", "store.list").await;
    let proof = world.run(&world.a, "audit.prove", json!({ "record": own })).await.unwrap();
    let shown = proven(&proof).unwrap();
    assert_eq!((shown["customer_path"].as_str(), shown["outcome"].as_str()), ("…a", "forbidden"));
    assert!(!proof.to_string().contains("provider"), "{proof}");
    // What was changed since is no more what was sealed.
    change(&world, "UPDATE audit SET operation = 'mailbox.delete' WHERE public_id = $1", &id).await;
    let proof = world.run(&world.a, "audit.prove", json!({ "record": id })).await.unwrap();
    assert_eq!(proven(&proof).unwrap_err(), "the record differs from what was sealed");
    assert_eq!(findings(&world, &world.system).await, [format!("changed \"{id}\"")]);
}

pub async fn what_was_pruned_is_told_by_a_sealed_record_and_nothing_else(world: World) {
    busy(&world).await;
    world.sealer.pass().await.unwrap();
    let set = json!({ "path": "a", "key": "audit.retention", "value": "100" });
    world.run(&world.system, "setting.set", set).await.unwrap();
    let count = async |place: &str| {
        let asked = json!({ "customer": place, "operation": "customer.limit" });
        let found = world.run(&world.system, "audit.search", asked).await.unwrap();
        found["items"].as_array().unwrap().len()
    };
    let before = (count("a").await, count("b").await);
    assert!(before.0 > 1 && before.1 > 1);
    world.clock.advance(99 * DAY);
    world.housekeeping().pass(world.clock.now()).await.unwrap();
    assert_eq!((count("a").await, count("b").await), before);
    world.clock.advance(2 * DAY);
    world.housekeeping().pass(world.clock.now()).await.unwrap();
    assert_eq!((count("a").await, count("b").await), (0, before.1));
    world.sealer.pass().await.unwrap();
    let report = world.job(&world.system, "audit.verify", json!({})).await.unwrap();
    assert_eq!(report["found"], 0, "{report}");
    assert!(report["pruned"].as_u64().unwrap() > 3, "{report}");
    let told = first(&world, "a", "audit.prune").await;
    // Another customer's records are not covered by it, and neither is what came later.
    let gone = first(&world, "b", "customer.limit").await;
    change(&world, "DELETE FROM audit WHERE public_id = $1", &gone).await;
    assert_eq!(findings(&world, &world.system).await, [format!("missing \"{gone}\"")]);
    // Whoever makes it say more is found, together with what it then covers.
    let more = "UPDATE audit SET after = '{\"records\":9,\"until\":\"2040-01-01T00:00:00Z\",
                \"until_micros\":2208988800000000}' WHERE public_id = $1";
    change(&world, more, &told).await;
    let found = findings(&world, &world.system).await;
    assert!(found.contains(&format!("changed \"{told}\"")), "{found:?}");
}

/// A proof with its texts and digests left out, and its records' ways to their leaves: what can be counted in it.
fn shape(proof: &Value) -> Value {
    match proof {
        Value::Object(members) if members.contains_key("hidden") => json!("hidden"),
        Value::Object(members) if members.contains_key("left") || members.contains_key("right") => {
            json!("step")
        }
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(shape).collect(),
        other => json!(if other.is_string() { "text" } else { "number" }),
    }
}

/// Whoever reads below a customer finds the same proofs wherever it stands and whatever others do.
pub async fn proofs_tell_neither_how_deep_a_customer_is_nor_what_others_did(world: World) {
    let chief = async |path: &str, name: &str| {
        let asked = json!({ "path": path, "domain": format!("{name}.example"), "admin": "chief" });
        let made = world.run(&world.system, "customer.create", asked).await.unwrap();
        let token = made["token"].as_str().unwrap();
        world.management.authenticate_token(token, None).await.unwrap().unwrap()
    };
    let high = chief("high", "high").await;
    for path in ["one", "one/two", "one/two/three", "one/two/three/four"] {
        world.run(&world.system, "customer.create", json!({ "path": path })).await.unwrap();
    }
    let deep = chief("one/two/three/four/deep", "deep").await;
    let proof = async |who: &Authentication, path: &str, others: usize| {
        // What is below the reader, done from above; with it, more or less of others.
        for number in 0..others {
            let name = ["a", "b", "one", "one/two"][number % 4];
            world
                .run(&world.system, "customer.limit", json!({ "path": name, "messages": 3_000 }))
                .await
                .unwrap();
        }
        let asked = json!({ "path": format!("{path}/unit{others}"), "messages": 5 });
        world.run(&world.system, "customer.create", json!({ "path": asked["path"] })).await.unwrap();
        world.run(&world.system, "customer.limit", asked).await.unwrap();
        world.sealer.pass().await.unwrap();
        let wanted = json!({ "operation": "customer.limit", "limit": 1 });
        let found = world.run(who, "audit.search", wanted).await.unwrap();
        let record = found["items"][0]["id"].clone();
        let proof = world.run(who, "audit.prove", json!({ "record": record })).await.unwrap();
        let shown = proven(&proof).unwrap();
        let own = path.rsplit('/').next().unwrap();
        assert_eq!(shown["customer_path"], format!("…{own}/unit{others}"));
        assert_eq!(shown["target"], format!("customer …{own}/unit{others}"));
        shape(&proof)
    };
    let first = proof(&high, "high", 0).await;
    for others in [1, 2, 40] {
        assert_eq!(proof(&high, "high", others).await, first, "{others}");
    }
    for others in [0, 3, 40] {
        assert_eq!(proof(&deep, "one/two/three/four/deep", others).await, first, "{others}");
    }
    assert_eq!(first["sealed"]["path"].as_array().unwrap().len(), 8);
    let report = world.job(&world.system, "audit.verify", json!({})).await.unwrap();
    assert_eq!(report["found"], 0, "{report}");
}
