//! Inherited settings: what holds where, against a naive oracle; who may set and lock; and the table in the documents.

use std::path::Path;

use posthouse::service::context::Authentication;
use posthouse::service::error::ServiceError;
use posthouse::service::settings::{Authority, Reach, declarations};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(
    settings_hold_as_a_naive_oracle_says,
    locked_setting_is_not_changed_from_below,
    settings_are_told_without_what_stands_above,
    lock_of_a_lost_ancestor_goes_to_the_one_that_stays,
    passwords_are_as_long_as_the_setting_asks,
);

/// One step: what, by whose administrator, at which customer, with which value.
#[derive(Clone, Copy, Debug)]
enum What {
    Set,
    Unset,
    Lock,
    Unlock,
}

type Step = (What, usize, usize, usize, bool);

/// A key that customers set themselves and one that is set above them, with three values each.
const OWN: (&str, [&str; 3]) = ("time_zone", ["Europe/Vienna", "Asia/Tokyo", "America/New_York"]);
const ABOVE: (&str, [&str; 3]) = ("audit.retention", ["100", "200", "300"]);

/// What one customer has for a key: the value, and whose the lock is.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Stands {
    value: Option<usize>,
    lock: Option<usize>,
}

/// The oracle: each customer is a number, its parent a smaller one; 0 is the top of the case.
struct Oracle<'p> {
    parents: &'p [usize],
    stands: Vec<Stands>,
    is_above: bool,
}

impl Oracle<'_> {
    fn parent(&self, node: usize) -> Option<usize> {
        (node > 0).then(|| self.parents[node - 1] % node)
    }

    /// From the customer up to the top.
    fn upwards(&self, node: usize) -> Vec<usize> {
        std::iter::successors(Some(node), |&node| self.parent(node)).collect()
    }

    fn covers(&self, upper: usize, lower: usize) -> bool {
        self.upwards(lower).contains(&upper)
    }

    /// The value that holds: the topmost lock decides, else the nearest value.
    fn value(&self, node: usize) -> Option<usize> {
        let up = self.upwards(node);
        let locked = up.iter().rev().find(|&&one| self.stands[one].lock.is_some());
        let from = locked.copied().unwrap_or(node);
        self.upwards(from).into_iter().find_map(|one| self.stands[one].value)
    }

    /// What becomes of a step.
    fn step(&mut self, (what, who, at, value, with_value): Step) -> &'static str {
        if !self.covers(who, at) {
            return "not-found";
        }
        let needed = if self.is_above { self.parent(at) } else { Some(at) };
        if needed.is_none_or(|needed| !self.covers(who, needed))
            || self.stands[at].lock.is_some_and(|lock| !self.covers(who, lock))
        {
            return "forbidden";
        }
        let is_locked_above = self.upwards(at)[1..].iter().any(|&one| self.stands[one].lock.is_some());
        if is_locked_above && matches!(what, What::Set | What::Lock) {
            return "conflict";
        }
        let stands = &mut self.stands[at];
        match what {
            What::Set => stands.value = Some(value),
            What::Unset => stands.value = None,
            What::Lock => {
                stands.lock = Some(who);
                stands.value = if with_value { Some(value) } else { stands.value };
            }
            What::Unlock => stands.lock = None,
        }
        "done"
    }
}

fn outcome(result: Result<Value, ServiceError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(error) => error.refusal().unwrap_or("failed"),
    }
}

async fn run_case(
    world: &World,
    case: usize,
    parents: &[usize],
    steps: &[Step],
    is_above: bool,
) -> Result<(), TestCaseError> {
    let (key, values) = if is_above { ABOVE } else { OWN };
    let mut oracle = Oracle { parents, stands: vec![Stands::default(); parents.len() + 1], is_above };
    let mut codes = Vec::new();
    let mut administrators = Vec::new();
    for node in 0..=parents.len() {
        let above: Vec<String> =
            oracle.upwards(node).iter().rev().skip(1).map(|one| format!("n{one}")).collect();
        let path = std::iter::once(format!("case{case}")).chain(above).collect::<Vec<_>>().join("/");
        let made = world.must("customer.create", json!({ "path": path, "admin": "chief" })).await;
        codes.push(made["code"].as_str().unwrap().to_owned());
        administrators.push(world.login(&made["token"]).await);
    }
    for &step in steps {
        let (what, who, at, value, with_value) = step;
        let step = (what, who % codes.len(), at % codes.len(), value, with_value);
        let (who, at) = (&administrators[step.1], &codes[step.2]);
        let mut asked = json!({ "path": at, "key": key });
        let operation = match what {
            What::Set => "setting.set",
            What::Unset => "setting.unset",
            What::Lock => "setting.lock",
            What::Unlock => "setting.unlock",
        };
        if matches!(what, What::Set) || matches!(what, What::Lock) && with_value {
            asked["value"] = json!(values[value]);
        }
        let expected = oracle.step(step);
        let came = outcome(world.run(who, operation, asked).await);
        prop_assert_eq!(came, expected, "{:?}", step);
        for (node, code) in codes.iter().enumerate() {
            let listed = world.must("setting.list", json!({ "path": code, "key": key })).await;
            let default = if is_above { "3653" } else { "UTC" };
            let expected = oracle.value(node).map_or(default, |value| values[value]);
            prop_assert_eq!(
                listed["items"][0]["value"].as_str(),
                Some(expected),
                "n{} after {:?}",
                node,
                step
            );
        }
    }
    Ok(())
}

async fn settings_hold_as_a_naive_oracle_says(world: World) {
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 200 } else { 10 };
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let what = prop_oneof![
        Just(What::Set),
        Just(What::Set),
        Just(What::Unset),
        Just(What::Lock),
        Just(What::Unlock)
    ];
    let step = (what, 0..6_usize, 0..6_usize, 0..3_usize, any::<bool>());
    let strategy =
        (prop::collection::vec(any::<usize>(), 1..6), prop::collection::vec(step, 1..14), any::<bool>());
    let count = std::sync::atomic::AtomicUsize::new(0);
    let result = runner.run(&strategy, |(parents, steps, is_above)| {
        let case = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(run_case(&world, case, &parents, &steps, is_above))
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

async fn set(
    world: &World,
    who: &Authentication,
    path: &str,
    key: &str,
    value: &str,
) -> Result<Value, ServiceError> {
    world.run(who, "setting.set", json!({ "path": path, "key": key, "value": value })).await
}

async fn locked_setting_is_not_changed_from_below(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    set(&world, &low, "low", "password.length_min", "9").await.unwrap();
    let locked = json!({ "path": "low", "key": "password.length_min", "value": "14" });
    // What is locked at the customer by those above is theirs.
    world
        .run(&top, "setting.lock", json!({ "path": "top/low", "key": "password.length_min", "value": "14" }))
        .await
        .unwrap();
    assert_eq!(refusal(set(&world, &low, "low", "password.length_min", "8").await), "forbidden");
    for operation in ["setting.unset", "setting.unlock", "setting.lock"] {
        let mut asked = locked.clone();
        if operation != "setting.lock" {
            asked.as_object_mut().unwrap().remove("value");
        }
        assert_eq!(refusal(world.run(&low, operation, asked).await), "forbidden", "{operation}");
    }
    // What is locked above counts whatever is set below, and setting it there is refused with a reason.
    let asked = json!({ "path": "top", "key": "time_zone", "value": "Europe/Vienna" });
    set(&world, &low, "low", "time_zone", "Asia/Tokyo").await.unwrap();
    world.run(&top, "setting.lock", asked).await.unwrap();
    let refused = set(&world, &low, "low", "time_zone", "Asia/Tokyo").await.unwrap_err();
    assert_eq!(refused.to_string(), "time_zone is locked above: what is set here would not count");
    let refused = set(&world, &top, "top/low", "time_zone", "Asia/Tokyo").await.unwrap_err();
    assert_eq!(refused.to_string(), "time_zone is locked at top: what is set here would not count");
    let shown = world.run(&low, "setting.list", json!({ "path": "low", "key": "time_zone" })).await.unwrap();
    let shown = &shown["items"][0];
    assert_eq!(shown["value"], "Europe/Vienna");
    assert_eq!(shown["own"], "Asia/Tokyo");
    assert_eq!(shown["locked"], "inherited from above");
    // Unlocked again, what was set below counts again.
    world.run(&top, "setting.unlock", json!({ "path": "top", "key": "time_zone" })).await.unwrap();
    let shown = world.run(&low, "setting.list", json!({ "path": "low", "key": "time_zone" })).await.unwrap();
    assert_eq!(shown["items"][0]["value"], "Asia/Tokyo");
    // What constrains a customer is set above it, and what is the root's by system administrators alone.
    assert_eq!(refusal(set(&world, &low, "low", "audit.retention", "90").await), "forbidden");
    set(&world, &top, "top/low", "audit.retention", "4000").await.unwrap();
    for (who, path) in [(&low, "low"), (&top, "top"), (&top, "top/low")] {
        assert_eq!(refusal(set(&world, who, path, "content.permanent_allowed", "on").await), "forbidden");
    }
    set(&world, &world.system, "top/low", "content.permanent_allowed", "on").await.unwrap();
    // Wrong values and keys.
    for (key, value) in [
        ("time_zone", "Europe/Atlantis"),
        ("time_zone", "../../etc/passwd"),
        ("password.length_min", "7"),
        ("password.length_min", "-1"),
        ("password.length_min", "4294967296"),
        ("notice.do_not_disturb", "25:00-07:00"),
        ("notice.do_not_disturb", "07:00-07:00"),
        ("service.imap", "maybe"),
    ] {
        let refused =
            world.run(&world.system, "setting.set", json!({ "path": "top", "key": key, "value": value }));
        assert_eq!(refusal(refused.await), "invalid", "{key} {value}");
    }
    assert_eq!(refusal(set(&world, &top, "top", "no.such.key", "1").await), "not-found");
    let asked = json!({ "domain": "low.example", "key": "time_zone", "value": "UTC" });
    assert_eq!(refusal(world.run(&low, "setting.set", asked).await), "invalid");
}

async fn settings_are_told_without_what_stands_above(world: World) {
    world.aboard("secret", "secret.example").await;
    let low = world.aboard("secret/low", "low.example").await;
    set(&world, &world.system, "secret", "notice.do_not_disturb", "22:00-6:30").await.unwrap_err();
    set(&world, &world.system, "secret", "notice.do_not_disturb", "22:00-06:30").await.unwrap();
    let listed = world.run(&low, "setting.list", json!({ "path": "low" })).await.unwrap();
    assert!(!listed.to_string().contains("secret"), "{listed}");
    let items = listed["items"].as_array().unwrap();
    let of = |key: &str| items.iter().find(|item| item["key"] == key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(of("notice.do_not_disturb")["from"], "inherited from above");
    assert_eq!(of("notice.do_not_disturb")["value"], "22:00-06:30");
    assert_eq!(of("time_zone")["from"], "default");
    set(&world, &low, "low", "time_zone", "europe/vienna").await.unwrap();
    let listed = world.run(&low, "setting.list", json!({ "path": "low", "key": "time_zone" })).await.unwrap();
    assert_eq!(listed["items"][0]["from"], "low");
    assert_eq!(listed["items"][0]["value"], "Europe/Vienna");
    let listed = world.must("setting.list", json!({ "path": "secret/low", "key": "time_zone" })).await;
    assert_eq!(listed["items"][0]["from"], "secret/low");
}

async fn lock_of_a_lost_ancestor_goes_to_the_one_that_stays(world: World) {
    let all = world.aboard("all", "all.example").await;
    let old = world.aboard("all/old", "old.example").await;
    let unit = world.aboard("all/old/unit", "unit.example").await;
    let new = world.aboard("all/new", "new.example").await;
    let key = json!({ "path": "old/unit", "key": "time_zone", "value": "Asia/Tokyo" });
    world.run(&old, "setting.lock", key).await.unwrap();
    world.run(&all, "customer.move", json!({ "path": "all/old/unit", "to": "all/new" })).await.unwrap();
    for (who, path) in [(&unit, "unit"), (&new, "new/unit")] {
        assert_eq!(refusal(set(&world, who, path, "time_zone", "UTC").await), "forbidden");
    }
    set(&world, &all, "all/new/unit", "time_zone", "UTC").await.unwrap();
}

async fn passwords_are_as_long_as_the_setting_asks(world: World) {
    world.aboard("a", "a.example").await;
    let short = json!({ "address": "x@a.example", "password": "1234567" });
    assert_eq!(refusal(world.run(&world.system, "mailbox.create", short).await), "invalid");
    let eight = json!({ "address": "x@a.example", "password": "12345678" });
    world.must("mailbox.create", eight.clone()).await;
    set(&world, &world.system, "/", "password.length_min", "9").await.unwrap();
    assert_eq!(refusal(world.run(&world.system, "mailbox.password", eight).await), "invalid");
    // Characters are counted, not octets.
    let umlauts = json!({ "address": "x@a.example", "password": "äöüäöüäö" });
    assert_eq!(refusal(world.run(&world.system, "mailbox.password", umlauts).await), "invalid");
    world.must("mailbox.password", json!({ "address": "x@a.example", "password": "123456789" })).await;
}

/// `POSTHOUSE_WRITE_MATRIX=1` writes the table anew.
#[test]
fn table_of_settings_in_the_documents_is_the_table_of_keys() {
    let mut table = String::from(
        "| key | values | default | set by | for | what it is for |\n|---|---|---|---|---|---|\n",
    );
    for one in declarations() {
        let unit = if one.unit.is_empty() { String::new() } else { format!(" {}", one.unit) };
        let authority = match one.authority {
            Authority::Own => "the customer",
            Authority::Above => "the customer above",
            Authority::Root => "system administrators",
        };
        let reach = match one.reach {
            Reach::Customers => "customers",
            Reach::Mailboxes => "customers, domains, mailboxes",
        };
        let line = format!(
            "| `{}` | {}{unit} | {} | {authority} | {reach} | {} |\n",
            one.name,
            (one.values)(),
            one.default,
            one.help.trim()
        );
        table.push_str(&line);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (head, rest) = page.split_once("<!-- keys -->\n").expect("the beginning of the table");
    let (committed, tail) = rest.split_once("<!-- end -->").expect("the end of the table");
    if std::env::var_os("POSTHOUSE_WRITE_MATRIX").is_some() {
        let page = format!("{head}<!-- keys -->\n{table}<!-- end -->{tail}");
        std::fs::write(&file, page).unwrap();
        return;
    }
    assert_eq!(table, committed, "the keys changed; POSTHOUSE_WRITE_MATRIX=1 writes the table anew");
}
