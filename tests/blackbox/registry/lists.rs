//! Lists over more customers than a statement names: page after page, everything that is in the scope comes once and in
//! order, and nothing else.

use std::collections::BTreeSet;

use super::*;
use crate::support::postgres::Postgres;

/// Below one customer; some have a domain, some domains have mailboxes and aliases.
const CUSTOMERS: usize = 1_300;

const FILL: [&str; 8] = [
    "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
     SELECT 1001, 'p1001', id, 'wide', 'Wide', 'wide01', 0 FROM customer WHERE parent_id IS NULL",
    "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
     SELECT 1002, 'p1002', id, 'other', 'Other', 'other1', 0 FROM customer WHERE parent_id IS NULL",
    "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1300)
     SELECT 2000 + i, 'q' || i, 1001, 'c' || i, 'C', 'c' || i, 0 FROM n",
    "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1300)
     SELECT 2000 + i, 'd' || i, 2000 + i, 'd' || i || '.test', CASE WHEN i % 5 = 0 THEN 'pending' ELSE 'verified' END, 0
     FROM n WHERE i % 2 = 0",
    "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
     SELECT 5000 + i, 'e' || i, 1002, 'd' || i || '.other.test', 'verified', 0 FROM n",
    // The same name as a pending one of another customer.
    "UPDATE domain SET name = 'd1300.test' WHERE id = 5001",
    "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id, uid_validity_next, created_at)
     SELECT 'm' || d.id || l.part, d.id, l.part, 'x', s.id, 1, 0
     FROM domain d CROSS JOIN (SELECT 'a' AS part UNION ALL SELECT 'b' UNION ALL SELECT 'c') l
          CROSS JOIN (SELECT min(id) AS id FROM store) s WHERE d.id % 6 < 4",
    "INSERT INTO alias (public_id, domain_id, local_part, created_at)
     SELECT 'l' || d.id, d.id, 'all', 0 FROM domain d WHERE d.id % 7 = 0",
];

async fn sql(world: &World, text: &'static str) -> Vec<String> {
    let work = world.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let rows = conn.rows(text, params![]).await?;
            rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, StorageError>>()
        })
    });
    work.await.unwrap()
}

/// Everything in a list, in pages of odd sizes.
async fn all(
    world: &World,
    who: &Authentication,
    operation: &'static str,
    field: &str,
    limit: usize,
) -> Vec<String> {
    let (mut found, mut request) = (Vec::new(), json!({ "limit": limit }));
    loop {
        let page = world.run(who, operation, request.clone()).await.unwrap();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        found.extend(items.iter().map(|item| item[field].as_str().unwrap().to_owned()));
        match page.get("cursor") {
            Some(cursor) => request["cursor"] = cursor.clone(),
            None => return found,
        }
    }
}

async fn lists_are_complete(world: World) {
    for text in FILL {
        sql(&world, text).await;
    }
    sql(&world, "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'").await;
    let wide =
        world.must("administrator.create", json!({ "name": "w", "customer": "wide", "role": "admin" })).await;
    let wide = world.login(&wide["token"]).await;
    for (who, scope) in [(&world.system, "TRUE"), (&wide, "d.customer_id > 2000")] {
        let expected = |text: &str| text.replace("SCOPE", scope);
        for (operation, field, text) in [
            ("domain.list", "name", "SELECT d.name FROM domain d WHERE SCOPE"),
            (
                "mailbox.list",
                "address",
                "SELECT m.local_part || '@' || d.name FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE SCOPE",
            ),
            (
                "alias.list",
                "address",
                "SELECT a.local_part || '@' || d.name FROM alias a JOIN domain d ON d.id = a.domain_id WHERE SCOPE",
            ),
        ] {
            let mut expected = sql(&world, expected(text).leak()).await;
            expected.sort_unstable();
            for limit in [97, 1_000] {
                let mut found = all(&world, who, operation, field, limit).await;
                let domains: Vec<&str> = found
                    .iter()
                    .map(|name| name.rsplit_once('@').map_or(name.as_str(), |(_, name)| name))
                    .collect();
                assert!(domains.is_sorted(), "{operation}");
                found.sort_unstable();
                assert!(found == expected, "{operation}: {} of {}", found.len(), expected.len());
            }
        }
        let found = all(&world, who, "customer.list", "code", 211).await;
        assert!(found.len() >= CUSTOMERS);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
    }
    // A domain that moves away while somebody pages through it.
    let page = world.run(&wide, "mailbox.list", json!({ "limit": 2 })).await.unwrap();
    sql(&world, "UPDATE domain SET customer_id = 1002 WHERE name = 'd10.test'").await;
    let rest =
        world.run(&wide, "mailbox.list", json!({ "limit": 2, "cursor": page["cursor"] })).await.unwrap();
    assert!(!rest.to_string().contains("@d10.test"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_over_many_customers_are_complete_on_sqlite() {
    lists_are_complete(World::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_over_many_customers_are_complete_on_postgres() {
    let Some(postgres) = Postgres::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    lists_are_complete(World::open(&postgres.url(), dir).await).await;
}
