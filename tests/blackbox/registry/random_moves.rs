//! After any moves there is one hierarchy: one root, no cycle, and everything that is derived is what it would be if it
//! were worked out anew. A move that is refused changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use posthouse::params;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions};
use posthouse::storage::StorageError;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::dump::{difference, dump};
use super::{World, on_both};

on_both!(hierarchy_stays_one_tree_after_any_moves,);

/// Customers of a case; the first is above the others.
const CUSTOMERS: usize = 8;

/// What is moved where; a domain of the customer or the customer itself.
#[derive(Clone, Copy, Debug)]
struct Move {
    what: usize,
    to: usize,
    is_domain: bool,
    is_dry: bool,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = (0..CUSTOMERS, 0..=CUSTOMERS, prop::bool::weighted(0.25), prop::bool::weighted(0.2));
    let one = one.prop_map(|(what, to, is_domain, is_dry)| Move { what, to, is_domain, is_dry });
    prop::collection::vec(one, 4..20)
}

/// Keys of each customer's parent.
async fn parents(world: &World) -> BTreeMap<i64, Option<i64>> {
    let read = world.database.read(|conn| {
        Box::pin(async move {
            let rows = conn.rows("SELECT id, parent_id FROM customer", params![]).await?;
            rows.iter().map(|row| Ok((row.int(0)?, row.int_opt(1)?))).collect()
        })
    });
    read.await.map_err(|error: StorageError| error).unwrap()
}

/// One root, and everybody comes to it by going up.
fn is_one_tree(parents: &BTreeMap<i64, Option<i64>>) -> bool {
    let roots: Vec<i64> = parents.iter().filter(|(_, parent)| parent.is_none()).map(|(&id, _)| id).collect();
    let [root] = roots[..] else { return false };
    parents.keys().all(|&from| {
        let (mut at, mut seen) = (from, BTreeSet::new());
        while let Some(Some(parent)) = parents.get(&at) {
            if !seen.insert(at) {
                return false;
            }
            at = *parent;
        }
        at == root
    })
}

/// The hierarchy as it is shown, with everything that is counted.
async fn shown(world: &World, management: &Management) -> Vec<Value> {
    let operation = posthouse::service::registry::operation("customer.list").unwrap();
    let context = world.system.context(None, "request".to_owned(), None);
    let asked = json!({ "limit": 1_000 });
    let listed = (operation.run)(management, context, asked, RunOptions::default()).await.unwrap();
    listed["items"].as_array().unwrap().clone()
}

/// Codes of the customers of a case, each with a domain of its own, below each other as it comes.
async fn customers(world: &World, case: usize) -> Vec<String> {
    let mut codes: Vec<String> = Vec::new();
    for number in 0..CUSTOMERS {
        let above = if number == 0 { None } else { codes.get((number * 7 + case) % number.min(4)) };
        let slug = format!("c{case}-{number}");
        let path = above.map_or(slug.clone(), |above| format!("{above}/{slug}"));
        let asked = json!({ "path": path, "domain": format!("{slug}.example"), "admin": "chief" });
        let made = world.must("customer.create", asked).await;
        world.mailbox(&format!("x@{slug}.example")).await;
        codes.push(made["code"].as_str().unwrap().to_owned());
        world.use_octets(&format!("x@{slug}.example"), 100).await;
    }
    for code in codes.iter().skip(case % 2).step_by(2) {
        let limits =
            json!({ "path": code, "bytes": 900, "mailboxes": 4, "customers": 5, "bytes_guarantee": 150 });
        // One that the limits above do not admit is left out.
        let _ = world.run(&world.system, "customer.limit", limits).await;
    }
    codes
}

async fn run_case(
    world: &World,
    case: usize,
    moves: &[Move],
    counts: &[AtomicUsize; 2],
) -> Result<(), TestCaseError> {
    let codes = customers(world, case).await;
    for one in moves {
        let to = codes.get(one.to).map_or("/", String::as_str);
        let (operation, asked) = if one.is_domain {
            ("domain.move", json!({ "domain": format!("c{case}-{}.example", one.what), "to": to }))
        } else {
            ("customer.move", json!({ "path": codes[one.what], "to": to }))
        };
        let before = dump(world).await;
        let options = RunOptions { dry_run: one.is_dry, ..RunOptions::default() };
        let outcome = world.run_with(&world.system, operation, asked.clone(), options, None).await;
        let is_done = outcome.is_ok() && !one.is_dry;
        counts[usize::from(is_done)].fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &outcome {
            let refusal = error.refusal();
            prop_assert!(
                matches!(refusal, Some("conflict" | "over-quota" | "limit")),
                "{operation} {asked}: {error:?}"
            );
        }
        if !is_done {
            prop_assert_eq!(difference(&before, &dump(world).await), None, "{} {}", operation, asked);
        }
        prop_assert!(is_one_tree(&parents(world).await), "{operation} {asked}");
        // Whoever looks at it for the first time sees what those see who have it in memory.
        let fresh =
            Management::open(world.database.clone(), world.clock.clone(), ManagementOptions::default());
        let fresh = fresh.await.unwrap();
        prop_assert_eq!(shown(world, &fresh).await, shown(world, &world.management).await);
    }
    // What is counted along the paths is what a count from nothing gives.
    let sums = sums(world).await;
    for (customer, [recorded, counted]) in sums {
        prop_assert_eq!(recorded, counted, "octets of customer {}", customer);
    }
    Ok(())
}

/// Of each customer with a counter: what it says, and the sum of the mailboxes below.
async fn sums(world: &World) -> BTreeMap<i64, [i64; 2]> {
    let read = world.database.read(|conn| {
        Box::pin(async move {
            let text = "WITH RECURSIVE up (mailbox, octets, customer_id) AS (
                            SELECT m.id, m.bytes_used, d.customer_id
                            FROM mailbox m JOIN domain d ON d.id = m.domain_id
                            UNION ALL
                            SELECT up.mailbox, up.octets, c.parent_id FROM up
                            JOIN customer c ON c.id = up.customer_id WHERE c.parent_id IS NOT NULL)
                        SELECT u.customer_id, u.bytes_used, CAST(coalesce(sum(up.octets), 0) AS BIGINT)
                        FROM customer_usage u LEFT JOIN up ON up.customer_id = u.customer_id
                        GROUP BY u.customer_id, u.bytes_used";
            let rows = conn.rows(text, params![]).await?;
            rows.iter().map(|row| Ok((row.int(0)?, [row.int(1)?, row.int(2)?]))).collect()
        })
    });
    read.await.map_err(|error: StorageError| error).unwrap()
}

async fn hierarchy_stays_one_tree_after_any_moves(world: World) {
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 60 } else { 4 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 40, ..Config::default() };
    let (case, counts) = (AtomicUsize::new(0), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let outcome = TestRunner::new(config).run(&moves(), |moves| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(run_case(&world, case, &moves, &counts))
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let [refused, done] = counts.map(AtomicUsize::into_inner);
    assert!(refused > 3 && done > 3, "{refused} refused, {done} done");
}
