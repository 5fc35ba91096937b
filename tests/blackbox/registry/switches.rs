//! What is off: holds and switched-off services against a naive oracle, and that releasing undoes holding.

use std::collections::BTreeSet;

use posthouse::service::context::Authentication;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(what_is_off_is_what_a_naive_oracle_says_and_releasing_undoes_holding,);

/// The places from the top down: the provider, two customers, a domain, a mailbox.
const PLACES: usize = 5;
const SERVICES: [&str; 4] = ["imap", "pop3", "smtp", "submission"];
const SWITCHES: [&str; 6] = ["login", "receive", "send", "imap", "pop3", "submission"];

#[derive(Clone, Copy, Debug)]
enum What {
    Hold,
    Release,
    On,
    Off,
    Unset,
    Lock,
    Unlock,
}

fn place(case: usize, at: usize) -> Value {
    match at {
        0 => json!({ "path": "/" }),
        1 => json!({ "path": format!("c{case}") }),
        2 => json!({ "path": format!("c{case}/low") }),
        3 => json!({ "domain": format!("c{case}.example") }),
        _ => json!({ "mailbox": format!("x@c{case}.example") }),
    }
}

fn with(mut asked: Value, more: Value) -> Value {
    let members = more.as_object().unwrap().clone();
    asked.as_object_mut().unwrap().extend(members);
    asked
}

/// What stands at one place.
#[derive(Clone, Default)]
struct Stands {
    held: Vec<(usize, String)>,
    services: [Option<bool>; SERVICES.len()],
    locked: [bool; SERVICES.len()],
}

fn off(stands: &[Stands]) -> BTreeSet<String> {
    let mut off: BTreeSet<String> =
        stands.iter().flat_map(|one| &one.held).map(|(switch, _)| SWITCHES[*switch].to_owned()).collect();
    for (index, service) in SERVICES.iter().enumerate() {
        let end = stands.iter().position(|one| one.locked[index]).unwrap_or(PLACES - 1);
        let nearest = stands[..=end].iter().rev().find_map(|one| one.services[index]);
        if nearest == Some(false) {
            off.insert((*service).to_owned());
        }
    }
    off
}

async fn shown(world: &World, case: usize) -> BTreeSet<String> {
    let address = format!("x@c{case}.example");
    let shown = world.must("mailbox.show", json!({ "address": address })).await;
    shown["switches_off"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

async fn run_case(world: &World, case: usize, steps: &[(What, usize, usize)]) -> Result<(), TestCaseError> {
    world.aboard(&format!("c{case}"), &format!("other{case}.example")).await;
    world.aboard(&format!("c{case}/low"), &format!("c{case}.example")).await;
    world.mailbox(&format!("x@c{case}.example")).await;
    let before = shown(world, case).await;
    prop_assert!(before.is_empty());
    let mut stands = vec![Stands::default(); PLACES];
    for &(what, at, which) in steps {
        let (switch, service) = (which % SWITCHES.len(), which % SERVICES.len());
        let key = with(place(case, at), json!({ "key": format!("service.{}", SERVICES[service]) }));
        let is_locked_above = stands[..at].iter().any(|one| one.locked[service]);
        match what {
            What::Hold => {
                let asked = with(place(case, at), json!({ "switch": SWITCHES[switch], "reason": "test" }));
                let hold = world.must("hold.add", asked).await;
                stands[at].held.push((switch, hold["id"].as_str().unwrap().to_owned()));
            }
            What::Release => {
                if let Some((_, id)) = stands[at].held.pop() {
                    world.must("hold.release", json!({ "id": id })).await;
                }
            }
            What::On | What::Off => {
                let is_on = matches!(what, What::On);
                let asked = with(key, json!({ "value": if is_on { "on" } else { "off" } }));
                let outcome = world.run(&world.system, "setting.set", asked).await;
                prop_assert_eq!(outcome.is_err(), is_locked_above);
                if !is_locked_above {
                    stands[at].services[service] = Some(is_on);
                }
            }
            What::Unset => {
                world.must("setting.unset", key).await;
                stands[at].services[service] = None;
            }
            What::Lock => {
                let outcome = world.run(&world.system, "setting.lock", key).await;
                prop_assert_eq!(outcome.is_err(), is_locked_above);
                stands[at].locked[service] |= !is_locked_above;
            }
            What::Unlock => {
                world.must("setting.unlock", key).await;
                stands[at].locked[service] = false;
            }
        }
        prop_assert_eq!(shown(world, case).await, off(&stands), "after {:?}", (what, at, which));
    }
    // Releasing what was held and taking away what was set leaves nothing behind.
    for (at, stand) in stands.iter_mut().enumerate() {
        for (_, id) in stand.held.drain(..) {
            world.must("hold.release", json!({ "id": id })).await;
        }
        for service in SERVICES {
            let key = with(place(case, at), json!({ "key": format!("service.{service}") }));
            world.must("setting.unlock", key.clone()).await;
            world.must("setting.unset", key).await;
        }
    }
    prop_assert_eq!(shown(world, case).await, before);
    Ok(())
}

async fn what_is_off_is_what_a_naive_oracle_says_and_releasing_undoes_holding(world: World) {
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 160 } else { 8 };
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let what = prop_oneof![
        Just(What::Hold),
        Just(What::Release),
        Just(What::On),
        Just(What::Off),
        Just(What::Off),
        Just(What::Unset),
        Just(What::Lock),
        Just(What::Unlock),
    ];
    let strategy = prop::collection::vec((what, 0..PLACES, any::<usize>()), 1..20);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let result = runner.run(&strategy, |steps| {
        let case = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(run_case(&world, case, &steps))
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.integer("SELECT count(*) FROM hold").await, 0);
    assert_eq!(world.integer("SELECT count(*) FROM setting").await, 0);
}

pub async fn held_customer_does_not_release_itself(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.mailbox("x@low.example").await;
    let suspended = json!({ "path": "top/low", "reason": "unpaid" });
    let held = world.run(&top, "customer.suspend", suspended).await.unwrap();
    let try_all = async |who: &Authentication| {
        for hold in held["items"].as_array().unwrap() {
            let asked = json!({ "id": hold["id"] });
            assert_eq!(refusal(world.run(who, "hold.release", asked).await), "forbidden");
        }
        let asked = json!({ "path": "low", "reason": "unpaid" });
        assert_eq!(refusal(world.run(who, "customer.resume", asked).await), "forbidden");
    };
    try_all(&low).await;
    // Nor with an administrator that it makes for the purpose, nor by what it sets itself.
    let asked = json!({ "name": "helper", "customer": "low", "role": "admin" });
    let helper = world.run(&low, "administrator.create", asked).await.unwrap();
    try_all(&world.login(&helper["token"]).await).await;
    let asked = json!({ "path": "low", "key": "service.imap", "value": "on" });
    world.run(&low, "setting.set", asked).await.unwrap();
    let shown = world.run(&low, "mailbox.show", json!({ "address": "x@low.example" })).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["login", "receive", "send"]));
    // Its own holds it releases, and those above stay.
    let own = json!({ "path": "low", "switches": ["login"], "reason": "ours" });
    world.run(&low, "customer.suspend", own).await.unwrap();
    world.run(&low, "customer.resume", json!({ "path": "low", "reason": "ours" })).await.unwrap();
    let shown = world.run(&low, "customer.show", json!({ "path": "low" })).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["login", "receive", "send"]));
    // Whose management is stopped sees nothing any more.
    let stopped = json!({ "path": "top/low", "switches": ["manage"], "reason": "stop" });
    world.run(&top, "customer.suspend", stopped).await.unwrap();
    let asked = json!({ "path": "low", "reason": "stop" });
    assert_eq!(refusal(world.run(&low, "customer.resume", asked).await), "not-found");
    world.run(&top, "customer.resume", json!({ "path": "top/low", "reason": "stop" })).await.unwrap();
    let asked = json!({ "path": "low", "switch": "manage", "reason": "self" });
    assert_eq!(refusal(world.run(&low, "hold.add", asked).await), "forbidden");
}
