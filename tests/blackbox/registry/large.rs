//! Many customers: the hierarchy in memory follows every change, and reports add up whatever way they are read.

use std::collections::BTreeSet;

use posthouse::base::id::CustomerId;
use posthouse::storage::metadata::customer::{TreeLock, tree_version};
use posthouse::storage::metadata::sql::Conn;
use posthouse::storage::metadata::tree_change::{TreeChanges, since, tree_changed};

use super::*;
use crate::support::Random;

on_both!(
    every_node_follows_every_change_of_the_hierarchy,
    way_to_a_version_names_what_changed_and_no_more,
    reports_on_many_customers_add_up_and_tell_what_they_leave_out,
    use_of_many_domains_adds_up_however_often_it_is_asked_for,
);

/// Customers of the wide world; one more of everything than a report has lines.
const CUSTOMERS: i64 = 10_001;

async fn executed(world: &World, texts: Vec<String>) {
    for text in texts {
        let write = world.database.write(Priority::Interactive, move |conn| {
            let text = text.clone();
            Box::pin(async move { conn.execute(text, Vec::new()).await.map(drop) })
        });
        write.await.map_err(|error: StorageError| error).unwrap();
    }
}

/// Paths of all customers that somebody sees, as one node lists them.
async fn listed(node: &Management, who: &Authentication) -> BTreeSet<String> {
    let context = who.context(None, "request".to_owned(), None);
    let run = operation("customer.list").unwrap().run;
    let page = run(node, context, json!({ "limit": 1_000 }), RunOptions::default()).await.unwrap();
    page["items"].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect()
}

/// Builds for tests compare each tree that was brought up to date with one that is read anew, so every step here is a
/// check; what is listed must be right besides.
async fn every_node_follows_every_change_of_the_hierarchy(world: World) {
    let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
    let other = Management::open(world.database.clone(), world.clock.clone(), options).await.unwrap();
    let mut random = Random::new(7);
    let mut there: Vec<String> = Vec::new();
    let (mut done, mut refused) = (0, 0);
    for step in 0..150 {
        let some = |random: &mut Random| match there.len() {
            0 => "/".to_owned(),
            count => there[random.below(count)].clone(),
        };
        let (one, two) = (some(&mut random), some(&mut random));
        let below = |slug: String| if one == "/" { slug } else { format!("{one}/{slug}") };
        let (name, fields) = match random.below(10) {
            0..4 => ("customer.create", json!({ "path": below(format!("n{step}")) })),
            4 => ("customer.rename", json!({ "path": one, "slug": format!("r{step}") })),
            5 => ("customer.move", json!({ "path": one, "to": two })),
            6 => ("customer.delete", json!({ "path": one })),
            7 => ("customer.undelete", json!({ "path": one })),
            8 => ("customer.suspend", json!({ "path": one, "switches": ["manage"], "reason": "late" })),
            _ => ("customer.resume", json!({ "path": one, "reason": "late" })),
        };
        let options = RunOptions { dry_run: random.below(4) == 0, ..RunOptions::default() };
        // Either node makes changes, and looks at once.
        let node = if random.below(2) == 0 { &world.management } else { &other };
        let context = world.system.context(None, "request".to_owned(), None);
        match (operation(name).unwrap().run)(node, context, fields.clone(), options).await {
            Ok(_) => done += 1,
            Err(error) => {
                error.refusal().unwrap_or_else(|| panic!("{name} {fields}: {error:?}"));
                refused += 1;
            }
        }
        let seen = listed(&world.management, &world.system).await;
        assert_eq!(seen, listed(&other, &world.system).await, "after {name} {fields}");
        there = seen.into_iter().filter(|path| path != "/").collect();
    }
    assert!(done > 50 && refused > 5, "{done} done, {refused} refused");
    let text = "SELECT count(*) FROM customer WHERE deleted_at IS NULL";
    assert_eq!(world.integer(text).await, there.len() as i64 + 1);
    other.close().await;
}

/// Marks customers as changed, and answers the version before and after.
async fn change(world: &World, customers: &[i64]) -> (String, String) {
    let customers = customers.to_vec();
    let write = world.database.write(Priority::Interactive, move |conn| {
        let customers = customers.clone();
        Box::pin(async move {
            let before = tree_version(conn, TreeLock::Exclusive).await?;
            tree_changed(conn, &customers).await?;
            Ok((before, tree_version(conn, TreeLock::None).await?))
        })
    });
    write.await.map_err(|error: StorageError| error).unwrap()
}

async fn way_from(world: &World, version: &str) -> Option<TreeChanges> {
    let version = version.to_owned();
    let read =
        world.database.read(|conn| Box::pin(async move { since(conn, |known| known == version).await }));
    read.await.map_err(|error: StorageError| error).unwrap()
}

async fn way_to_a_version_names_what_changed_and_no_more(world: World) {
    world.must("customer.create", json!({ "path": "one" })).await;
    world.must("customer.create", json!({ "path": "two" })).await;
    let [one, two] =
        ["one", "two"].map(|slug| format!("SELECT id FROM customer WHERE slug = '{slug}'").leak());
    let (one, two) = (world.integer(one).await, world.integer(two).await);
    let (first, second) = change(&world, &[one]).await;
    let (_, third) = change(&world, &[two, 999]).await;
    let keys = |way: &Option<TreeChanges>| -> BTreeSet<(i64, bool)> {
        way.as_ref().unwrap().customers.iter().map(|(id, row)| (id.0, row.is_some())).collect()
    };
    let way = way_from(&world, &second).await;
    assert_eq!(keys(&way), BTreeSet::from([(two, true), (999, false)]));
    assert_eq!(way.map(|way| (way.from, way.version)), Some((second.clone(), third.clone())));
    let way = way_from(&world, &first).await;
    assert_eq!(keys(&way), BTreeSet::from([(one, true), (two, true), (999, false)]));
    assert_eq!(way_from(&world, &third).await.unwrap().customers, []);
    assert_eq!(way_from(&world, "nothing").await, None);
    // What was undone leaves no trace.
    let undone: Result<(), StorageError> = world
        .database
        .write(Priority::Interactive, |conn: &mut Conn| {
            Box::pin(async move {
                tree_changed(conn, &[1]).await?;
                Err(StorageError::Gone("nothing"))
            })
        })
        .await;
    assert!(undone.is_err());
    assert_eq!(keys(&way_from(&world, &second).await).len(), 2);
    // Further back than the first look goes.
    for _ in 0..40 {
        change(&world, &[one]).await;
    }
    let way = way_from(&world, &third).await;
    assert_eq!(keys(&way), BTreeSet::from([(one, true)]));
    assert_eq!(way.unwrap().customers.first().map(|(id, _)| *id), Some(CustomerId(one)));
    // Too much at once, and what came after it.
    let (before, _) = change(&world, &(1..400).collect::<Vec<_>>()).await;
    let (after, _) = change(&world, &[one]).await;
    assert_eq!(way_from(&world, &before).await, None);
    assert_eq!(keys(&way_from(&world, &after).await), BTreeSet::from([(one, true)]));
}

/// Customers below one: every third has another below it; each with a domain and two mailboxes, some deleted.
fn wide() -> Vec<String> {
    let with = |into: &str, select: &str| {
        format!(
            "INSERT INTO {into} WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CUSTOMERS})
             {select}"
        )
    };
    vec![
        "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
         SELECT 20000, 'p20000', id, 'wide', 'Wide', 'wide01', 0 FROM customer WHERE parent_id IS NULL"
            .to_owned(),
        with(
            "customer (id, public_id, parent_id, slug, name, code, created_at)",
            "SELECT 20000 + i, 'q' || i, CASE WHEN i % 3 = 2 THEN 20000 + i - 1 ELSE 20000 END, 'c' || i, 'C',
                    'code' || i, 0 FROM n ORDER BY i",
        ),
        with(
            "domain (id, public_id, customer_id, name, state, created_at)",
            "SELECT 20000 + i, 'd' || i, 20000 + i, 'd' || i || '.test', 'verified', 0 FROM n",
        ),
        "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id, uid_validity_next,
                              created_at, bytes_used, messages_used, bytes_max, tombstone_octets, deleted_at)
         SELECT 'm' || d.id || l.part, d.id, l.part, 'x', s.id, 1, 0, d.id, 2, 100000, 3,
                CASE WHEN l.part = 'b' AND d.id % 2 = 0 THEN 5 END
         FROM domain d CROSS JOIN (SELECT 'a' AS part UNION ALL SELECT 'b') l
              CROSS JOIN (SELECT min(id) AS id FROM store) s WHERE d.id > 20000"
            .to_owned(),
        "INSERT INTO folder (mailbox_id, name, uid_validity, created_at)
         SELECT id, 'INBOX', 1, 0 FROM mailbox"
            .to_owned(),
        "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'".to_owned(),
    ]
}

fn line<'r>(report: &'r Value, list: &str, name: (&str, &str)) -> &'r Value {
    let lines = report[list].as_array().unwrap();
    lines.iter().find(|line| line[name.0] == name.1).unwrap_or_else(|| panic!("{} {}", list, name.1))
}

async fn reports_on_many_customers_add_up_and_tell_what_they_leave_out(world: World) {
    executed(&world, wide()).await;
    let octets =
        world.integer("SELECT CAST(sum(bytes_used) AS BIGINT) FROM mailbox WHERE deleted_at IS NULL").await;
    let mailboxes = world.integer("SELECT count(*) FROM mailbox WHERE deleted_at IS NULL").await;
    let report = world.must("report.quota", json!({ "limit": 3 })).await;
    let total =
        json!({ "domains": CUSTOMERS, "mailboxes": mailboxes, "used": octets, "messages": 2 * mailboxes });
    assert_eq!(report["total"], total);
    for (list, left_out, count) in
        [("domains", "domains_left_out", 1), ("customers", "customers_left_out", 3)]
    {
        let lines = report[list].as_array().unwrap().len() as i64;
        assert_eq!((lines, &report[left_out]), (10_000, &json!(count)), "{list}");
    }
    assert_eq!(line(&report, "customers", ("customer", "wide"))["used"], octets);
    // Those highest up have lines, and the same that they have in a report on few customers.
    for asked in ["wide/c1", "wide/c3"] {
        let alone = world.must("report.quota", json!({ "customer": asked })).await;
        let own = line(&alone, "customers", ("customer", asked));
        assert_eq!(line(&report, "customers", ("customer", asked)), own);
        assert!(alone.get("customers_left_out").is_none());
        assert_eq!(own["used"], alone["total"]["used"]);
    }
    let alone = world.must("report.quota", json!({ "customer": "wide/c1" })).await;
    // Customer 2 hangs below it; of every other domain one mailbox is deleted.
    assert_eq!(
        alone["total"],
        json!({ "domains": 2, "mailboxes": 3, "used": 20_001 * 2 + 20_002, "messages": 6 })
    );
    // Pages of mailboxes go on where the one before ended, and those that use much of a limit are found.
    let items = report["items"].as_array().unwrap();
    assert_eq!(items[0]["address"], "a@d1.test");
    let next = world.must("report.quota", json!({ "limit": 3, "cursor": report["cursor"] })).await;
    assert!(next.get("total").is_none() && next.get("domains").is_none());
    assert!(next["items"][0]["address"].as_str() > items[2]["address"].as_str());
    let over = world.must("report.quota", json!({ "over": 30, "limit": 1_000 })).await;
    assert_eq!(over["items"].as_array().unwrap().len(), 3, "{over}");
    assert_eq!(over["domains"], json!([]));
    let wrong = world.run(&world.system, "report.quota", json!({ "over": -1 })).await;
    assert_eq!(refusal(wrong), "invalid");

    let undelete = world
        .integer(
            "SELECT CAST(sum(tombstone_octets + CASE WHEN deleted_at IS NULL THEN 0 ELSE bytes_used END) AS BIGINT)
             FROM mailbox",
        )
        .await;
    let storage = world.must("report.storage", json!({})).await;
    let whole = line(&storage, "customers", ("customer", "wide"));
    assert_eq!((&whole["octets"], &whole["undelete_octets"]), (&json!(octets), &json!(undelete)));
    assert_eq!(storage["customers_left_out"], 3);
    let main = line(&storage, "stores", ("store", "main"));
    assert_eq!((&main["octets"], &main["mailboxes"]), (&json!(octets), &json!(mailboxes)));
    let alone = world.must("report.storage", json!({ "customer": "wide/c1" })).await;
    assert_eq!(
        line(&alone, "customers", ("customer", "wide/c1")),
        line(&storage, "customers", ("customer", "wide/c1"))
    );

    // Each mailbox is recorded to use something and has no message.
    let all = 2 * CUSTOMERS;
    let verified = world.job("quota.verify", json!({})).await;
    assert_eq!(
        (&verified["mailboxes"], &verified["drift"]),
        (&json!(all), &json!(all * 3)),
        "{}",
        verified["drifts"][0]
    );
    executed(
        &world,
        vec![
            "UPDATE mailbox SET bytes_used = 0, messages_used = 0, tombstone_octets = 0 WHERE id % 1000 <> 0"
                .to_owned(),
        ],
    )
    .await;
    let drifted = world.integer("SELECT count(*) FROM mailbox WHERE bytes_used <> 0").await;
    let verified = world.job("quota.verify", json!({ "repair": true })).await;
    assert_eq!((&verified["drift"], &verified["repaired"]), (&json!(drifted * 3), &json!(true)));
    assert_eq!(world.job("quota.verify", json!({})).await["drift"], 0);
}

/// What everything and what one customer is told to have used this month: octets and mailboxes times hours, messages.
async fn used(world: &World, customer: &str) -> [i64; 3] {
    let report = world.must("report.usage", json!({ "customer": customer })).await;
    let own = line(&report, "customers", ("customer", customer));
    ["byte_hours", "mailbox_hours", "messages_in"].map(|name| own[name].as_i64().unwrap())
}

async fn use_of_many_domains_adds_up_however_often_it_is_asked_for(world: World) {
    executed(&world, wide()).await;
    // The clock stands in the hour 500,000 since 1970; the month began 344 hours before.
    let month = 500_000 - 344;
    let mut fill = vec![
        "INSERT INTO usage_path (id, path, names)
         SELECT c.id,
                '/1/20000/' || CASE WHEN p.id = 20000 THEN '' ELSE CAST(p.id AS TEXT) || '/' END || c.id || '/',
                'provider/wide/' || CASE WHEN p.id = 20000 THEN '' ELSE p.slug || '/' END || c.slug
         FROM customer c JOIN customer p ON p.id = c.parent_id WHERE c.id > 20000"
            .replace("/1/", &format!("/{}/", world.integer("SELECT id FROM customer WHERE parent_id IS NULL").await)),
        "INSERT INTO usage_place (domain_id, path_id) SELECT id, customer_id FROM domain WHERE id > 20000".to_owned(),
    ];
    // Before the month, in it, and in the last hours: what was left before counts until the first line.
    for (hour, messages, bytes) in [(month - 9, 100, 7), (month + 10, 1, 5), (499_998, 2, 3), (499_999, 4, 2)]
    {
        fill.push(format!(
            "INSERT INTO usage_line (domain_id, start_hour, hours, path_id, byte_hours, mailbox_hours, messages_in,
                                     octets_in, bytes_after, mailboxes_after)
             SELECT id, {hour}, 1, customer_id, 50, 1, {messages}, 0, {bytes}, 1 FROM domain WHERE id > 20000"
        ));
    }
    fill.push("INSERT INTO instance (key, value) VALUES ('metered_hour', '499999')".to_owned());
    executed(&world, fill).await;
    // Two domains at and below c1; everywhere else as many as there are customers.
    let until = |bytes: i64| 10 * 7 + 50 + (499_998 - month - 11) * 5 + 50 + bytes;
    for (hours, _) in [(0, "at first"), (0, "again"), (1, "an hour later"), (7, "later"), (7, "again")] {
        executed(
            &world,
            vec![format!("UPDATE instance SET value = '{}' WHERE key = 'metered_hour'", 499_999 + hours)],
        )
        .await;
        let each = [until(50 + hours * 2), 344 + hours, 7];
        assert_eq!(used(&world, "wide").await, each.map(|one| one * CUSTOMERS), "after {hours}");
        assert_eq!(used(&world, "wide/c1").await, each.map(|one| one * 2), "after {hours}");
        assert_eq!(used(&world, "wide/c1/c2").await, each, "after {hours}");
    }
}
