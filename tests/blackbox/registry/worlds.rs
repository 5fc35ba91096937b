//! Non-interference: two worlds that are equal within somebody's scope and in all that is imposed on it from above, and
//! that differ elsewhere, give the same answers to the same requests. What is drawn at random (ids, codes, tokens,
//! cursors) may differ, but is renamed alike wherever it appears.
//!
//! `POSTHOUSE_TEST_FULL=1` tries 1,000 pairs of worlds instead of some, which takes about two and a half minutes of
//! processor time in a debug build.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::base::clock::Timestamp;
use posthouse::base::signing::SigningKey;
use posthouse::service::audit::Sealer;
use posthouse::service::expiry::ExpiryPass;
use posthouse::service::jobs::Runner;
use posthouse::service::metering::Metering;
use posthouse::service::registry::operations;
use posthouse::service::requests::RequestPass;
use posthouse::storage::metadata::pack::Node;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::World;

#[path = "worlds/answers.rs"]
mod answers;
#[path = "worlds/asking.rs"]
mod asking;
#[path = "worlds/prepared.rs"]
mod prepared;
#[path = "worlds/socket.rs"]
mod socket;
#[path = "worlds/told.rs"]
mod told;

use answers::{Matching, words};
use asking::{Ask, Step, ask, happen_outside, step};
use prepared::{OUTSIDE, Prepared};

/// When everything happens.
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
/// Pairs of worlds, and of them when everything is tried.
const PAIRS: u32 = 60;
const PAIRS_ALL: u32 = 1_000;

/// How often each operation was answered and refused.
type Tally = Mutex<BTreeMap<&'static str, [u32; 2]>>;

/// Two worlds that those inside cannot tell apart.
struct Pair<'p> {
    prepared: [&'p Prepared; 2],
    worlds: [World; 2],
    sealers: [Arc<Sealer>; 2],
    _keys: tempfile::TempDir,
    matching: Matching,
    /// Every request until now.
    said: String,
    tally: &'p Tally,
}

impl<'p> Pair<'p> {
    async fn new(prepared: [&'p Prepared; 2], tally: &'p Tally) -> Self {
        let [left, right] = prepared;
        let (worlds, keys) = ([left.open(NOW).await, right.open(NOW).await], prepared::folder());
        let sealers = ["left", "right"].map(|side| keys.path().join(side)).into_iter().zip(&worlds);
        let sealers: Vec<Arc<Sealer>> = sealers
            .map(|(file, world)| {
                let key = SigningKey::open_or_create(&file.with_extension("key")).unwrap();
                let sealer = Arc::new(Sealer::new(world.database.clone(), world.clock.clone(), key, file));
                world.management.attach_sealer(Arc::clone(&sealer));
                sealer
            })
            .collect();
        Self {
            prepared,
            worlds,
            sealers: sealers.try_into().unwrap_or_else(|_| panic!("two sealers")),
            _keys: keys,
            matching: Matching::of(&left.inside, &right.inside),
            said: String::new(),
            tally,
        }
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Ask(ask) => return self.ask(ask).await,
            Step::Outside { world, number } => {
                happen_outside(&self.worlds[world], self.prepared[world], number).await;
            }
            Step::Later { secs } => {
                for (world, sealer) in self.worlds.iter().zip(&self.sealers) {
                    sealer.pass().await.unwrap();
                    world.clock.advance(Duration::from_secs(secs.into()));
                    ExpiryPass::new(&world.management).pass().await.unwrap();
                    RequestPass::new(&world.management).pass().await.unwrap();
                    Metering::new(&world.management).pass(world.clock.now()).await.unwrap();
                    let node = Node { id: "node".to_owned(), epoch: 1 };
                    Runner::new(&world.management, node).run_all().await.unwrap();
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, ask: Ask) -> Result<(), TestCaseError> {
        let asked = ask.of(self.prepared, &self.matching);
        let name = asked.operation.name;
        let mut answers = Vec::new();
        for (world, (prepared, fields)) in self.worlds.iter().zip(self.prepared.iter().zip(&asked.fields)) {
            let who = &prepared.people[ask.who % prepared.people.len()].authentication;
            let outcome = world.run_with(who, name, fields.clone(), asked.options.clone(), None).await;
            count(self.tally, name, outcome.is_ok());
            let answer = answers::outcome(name, &outcome);
            // Those inside are told of others only what they have said themselves.
            self.said.push_str(&fields.to_string());
            let text = answer.to_string();
            let told = words(&text)
                .into_iter()
                .filter(|word| word.contains(OUTSIDE))
                .find(|word| !self.said.contains(word));
            prop_assert!(told.is_none(), "{name} {fields} tells of {told:?}: {answer}");
            answers.push(answer);
        }
        let same = self.matching.same(&answers[0], &answers[1]);
        prop_assert!(same.is_ok(), "{name} {} by {}: at {same:?}", asked.fields[0], ask.who);
        Ok(())
    }
}

fn count(tally: &Tally, name: &'static str, is_done: bool) {
    tally.lock().unwrap().entry(name).or_default()[usize::from(!is_done)] += 1;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn worlds_that_differ_elsewhere_give_the_same_answers() {
    let is_full = std::env::var_os("POSTHOUSE_TEST_FULL").is_some();
    let cases = if is_full { PAIRS_ALL } else { PAIRS };
    let runtime = runtime();
    let prepared = runtime.block_on(Prepared::all(NOW));
    let tally = Tally::default();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let strategy = (0..prepared.len(), 1..prepared.len(), prop::collection::vec(step(), 10..40));
    let outcome = TestRunner::new(config).run(&strategy, |(one, offset, steps)| {
        let pair = [&prepared[one], &prepared[(one + offset) % prepared.len()]];
        runtime.block_on(async {
            let mut pair = Pair::new(pair, &tally).await;
            for step in steps {
                pair.take(step).await?;
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let tally = tally.into_inner().unwrap();
    let [done, refused] = tally.values().fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
    assert!(done > 4 * cases && refused > 4 * cases, "{done} done and {refused} refused in {cases} pairs");
    assert!(!is_full || tally.len() == operations().len(), "only {} operations were tried", tally.len());
}

/// Every operation with every kind of name, by everybody.
#[test]
fn each_operation_answers_alike_whatever_is_elsewhere() {
    let runtime = runtime();
    let prepared = runtime.block_on(Prepared::all(NOW));
    let tally = Tally::default();
    let mut runner = TestRunner::deterministic();
    for (one, other) in [(0, 1), (2, 3)] {
        runtime.block_on(async {
            let mut pair = Pair::new([&prepared[one], &prepared[other]], &tally).await;
            for operation in 0..operations().len() {
                for who in 0..prepared[one].people.len() {
                    let drawn = ask().new_tree(&mut runner).unwrap().current();
                    let ask = Ask { operation, who, ..drawn };
                    pair.ask(ask).await.unwrap_or_else(|error| panic!("{ask:?}: {error}"));
                }
            }
        });
    }
    assert_eq!(tally.into_inner().unwrap().len(), operations().len());
}
