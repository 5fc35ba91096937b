//! Holding and releasing, deleting and undeleting are identities: the database is afterwards what it was before, row by
//! row, whatever else was done to it. And what is refused or only tried changes nothing.

use posthouse::service::registry::{RunOptions, operations};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::dump::{difference, dump, dump_without};
use super::matrix::{Names, request};
use super::{World, on_both};

on_both!(undoing_leaves_the_database_as_it_was, what_is_refused_or_tried_changes_nothing,);

/// Tokens and one-time codes of what was deleted do not come back; numbers of objects that were counted on the way are
/// known afterwards.
const NOT_BACK: [&str; 3] = ["token", "invitation", "customer_count"];

/// What is done and undone; the index says to which of several.
#[derive(Clone, Debug)]
enum Pair {
    Hold(Index, Index),
    LegalHold(Index),
    Suspend(Index),
    SuspendMailbox(Index),
    Customer(Index),
    Domain(Index),
    Mailbox(Index),
    Administrator(Index),
    Enabled(Index),
}

fn pair() -> impl Strategy<Value = Pair> {
    let at = any::<Index>;
    prop_oneof![
        (at(), at()).prop_map(|(at, switch)| Pair::Hold(at, switch)),
        at().prop_map(Pair::LegalHold),
        at().prop_map(Pair::Suspend),
        at().prop_map(Pair::SuspendMailbox),
        at().prop_map(Pair::Customer),
        at().prop_map(Pair::Domain),
        at().prop_map(Pair::Mailbox),
        at().prop_map(Pair::Administrator),
        at().prop_map(Pair::Enabled),
    ]
}

impl Pair {
    /// What does it, and what undoes it; the latter may name what the former made.
    fn operations(&self, names: &[Names], number: usize) -> [(&'static str, Value); 2] {
        const SWITCHES: [&str; 6] = ["login", "receive", "send", "manage", "imap", "pop3"];
        let path = |at: &Index| json!({ "path": at.get(names).path });
        let address = |at: &Index| json!({ "address": at.get(names).address });
        let domain = |at: &Index| json!({ "domain": at.get(names).domain });
        let login = |at: &Index| json!({ "name": at.get(names).administrator });
        let with = |mut fields: Value, more: Value| {
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fields
        };
        let reason = json!({ "reason": format!("reason {number}") });
        match self {
            Self::Hold(at, switch) => {
                let held =
                    with(path(at), json!({ "switch": switch.get(&SWITCHES), "reason": reason["reason"] }));
                [("hold.add", held), ("hold.release", json!({}))]
            }
            Self::LegalHold(at) => {
                let held = json!({ "mailbox": at.get(names).address, "reason": reason["reason"] });
                [("legal-hold.add", held), ("legal-hold.release", json!({}))]
            }
            Self::Suspend(at) => [
                ("customer.suspend", with(path(at), reason.clone())),
                ("customer.resume", with(path(at), reason)),
            ],
            Self::SuspendMailbox(at) => [
                ("mailbox.suspend", with(address(at), reason.clone())),
                ("mailbox.resume", with(address(at), reason)),
            ],
            Self::Customer(at) => [("customer.delete", path(at)), ("customer.undelete", path(at))],
            Self::Domain(at) => [("domain.delete", domain(at)), ("domain.undelete", domain(at))],
            Self::Mailbox(at) => [("mailbox.delete", address(at)), ("mailbox.undelete", address(at))],
            Self::Administrator(at) => {
                [("administrator.delete", login(at)), ("administrator.undelete", login(at))]
            }
            Self::Enabled(at) => [("administrator.disable", login(at)), ("administrator.enable", login(at))],
        }
    }
}

/// Does all of it and undoes it in the opposite order, where it could be done.
async fn there_and_back(world: &World, names: &[Names], pairs: &[Pair]) -> Result<usize, TestCaseError> {
    let before = dump_without(world, &NOT_BACK).await;
    let mut undone_by = Vec::new();
    for (number, pair) in pairs.iter().enumerate() {
        let [(does, asked), (undoes, mut back)] = pair.operations(names, number);
        // What is deleted already, or in something deleted, cannot be found.
        let Ok(made) = world.run(&world.system, does, asked).await else { continue };
        if let Some(id) = made.get("id").filter(|_| undoes.ends_with(".release")) {
            back = json!({ "id": id });
        }
        undone_by.push((undoes, back));
    }
    let count = undone_by.len();
    while let Some((undoes, back)) = undone_by.pop() {
        world.clock.advance(std::time::Duration::from_secs(60));
        let undone = world.run(&world.system, undoes, back.clone()).await;
        prop_assert!(undone.is_ok(), "{undoes} {back}: {undone:?}");
    }
    let after = dump_without(world, &NOT_BACK).await;
    prop_assert_eq!(difference(&before, &after), None);
    Ok(count)
}

async fn undoing_leaves_the_database_as_it_was(world: World) {
    let mut names = vec![Names::make(&world, "a").await];
    names.push(Names::make(&world, "a/b").await);
    names.push(Names::make(&world, "c").await);
    for (index, one) in names.iter().enumerate() {
        let limits = json!({ "path": one.path, "bytes": 5_000, "messages": 50, "mailboxes": 9,
                             "bytes_guarantee": 1_000 });
        world.must("customer.limit", limits).await;
        world.use_octets(&one.address, 100 * (index as i64 + 1)).await;
    }
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 200 } else { 25 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let done = std::sync::atomic::AtomicUsize::new(0);
    let outcome = TestRunner::new(config).run(&prop::collection::vec(pair(), 1..8), |pairs| {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let count = there_and_back(&world, &names, &pairs).await?;
                done.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            })
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(done.into_inner() > 25, "hardly anything could be done");
}

/// Every operation, by somebody who may not, by somebody who may with what is not there, and as a trial.
async fn what_is_refused_or_tried_changes_nothing(world: World) {
    let names = Names::make(&world, "a").await;
    let other = Names::make(&world, "b").await;
    let asked = json!({ "name": "viewer", "customer": "a", "role": "viewer" });
    let viewer = world.must("administrator.create", asked).await;
    let viewer = world.login(&viewer["token"]).await;
    let mut before = dump(&world).await;
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    for operation in operations().iter().filter(|operation| operation.mutates) {
        let mut was_done = false;
        for said in [&names, &other, &Names::missing()] {
            let Some(asked) = request(operation.name, said) else { continue };
            let _ = world.run_with(&world.system, operation.name, asked.clone(), dry.clone(), None).await;
            was_done |= world.run(&viewer, operation.name, asked).await.is_ok();
        }
        let after = dump(&world).await;
        // A viewer may read notices and ask for things: that is done.
        if was_done {
            before = after;
        } else {
            assert_eq!(difference(&before, &after), None, "{}", operation.name);
        }
    }
}
