//! The same over the admin socket of real daemons: what the HTTP room adds tells nothing either.
//!
//! Two daemons do not act in the same moment, and each does by itself what it does: brings notices into mailboxes,
//! looks for proofs of domains, sends to webhooks, seals the trail. So reads, trials and refusals are asked for again
//! until both answer alike; of a change, which is done once, [`told`] leaves out what may be under way. What is
//! counted by the hour may fall into two: a comparison during which an hour ended has no meaning, and begins anew.

use std::time::Duration;

use posthouse::base::clock::Clock;
use posthouse::service::registry::{Method, Operation};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::answers::Matching;
use super::asking::{Ask, Asked, ask};
use super::prepared::{OUTSIDE, Prepared};
use super::runtime;
use super::told::{level, told};
use crate::support::daemon::{Daemon, Setup};
use crate::support::http::{Response, over_socket};
use crate::support::wait_until;

/// Worlds: each is a sequence of requests to two daemons.
const WORLDS: usize = 50;
const REQUESTS: usize = 12;
/// How often a comparison begins anew. It takes minutes at most, so that hours do not end in many of them.
const TRIES_MAX: usize = 3;

/// A daemon that serves a prepared database.
fn serve(prepared: &Prepared) -> Daemon {
    let file = prepared.file();
    let copy = move |folder: &std::path::Path, _: &str| {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::copy(&file, folder.join("metadata.db")).unwrap();
    };
    Daemon::with(Setup { prepare: Some(Box::new(copy)), ..Setup::default() })
}

fn encoded(text: &str) -> String {
    let octet = |octet: u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(octet).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(octet).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Asks a daemon for an operation.
fn ask_daemon(daemon: &Daemon, token: &str, operation: &Operation, fields: &Value, is_dry: bool) -> Response {
    let mut fields = fields.as_object().unwrap().clone();
    let mut path = operation.path.to_owned();
    for name in operation.path_parameters() {
        let value = fields.remove(name).unwrap_or(json!("none"));
        path = path.replace(&format!("{{{name}}}"), &encoded(&shown(&value)));
    }
    let (method, in_query) = match operation.method {
        Method::Get => ("GET", true),
        Method::Delete => ("DELETE", true),
        Method::Post => ("POST", false),
        Method::Put => ("PUT", false),
        Method::Patch => ("PATCH", false),
    };
    let mut query: Vec<String> = Vec::new();
    if in_query {
        let pairs = fields.iter().filter(|(_, value)| !value.is_null());
        query.extend(pairs.map(|(name, value)| format!("{name}={}", encoded(&shown(value)))));
    }
    if is_dry {
        query.push("dry_run=true".to_owned());
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let body = (!in_query).then_some(Value::Object(fields));
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    over_socket(&daemon.admin_socket(), method, &path, &headers, body.as_ref()).unwrap()
}

/// Two daemons that serve worlds which those inside cannot tell apart.
struct Pair<'p> {
    prepared: [&'p Prepared; 2],
    daemons: [Daemon; 2],
    matching: Matching,
    /// The hour since 1970 in which it began.
    hour: i64,
    answered: u32,
}

/// The comparison has no meaning, for this reason.
struct Void(String);

fn hour() -> i64 {
    Clock::system().now().secs().div_euclid(3_600)
}

impl<'p> Pair<'p> {
    fn new(prepared: [&'p Prepared; 2]) -> Self {
        let hour = hour();
        let daemons = prepared.map(serve);
        let mut matching = Matching::of(&prepared[0].inside, &prepared[1].inside);
        let node = |daemon: &Daemon| std::fs::read_to_string(daemon.data_dir().join("node")).unwrap();
        matching.name(node(&daemons[0]).trim(), node(&daemons[1]).trim());
        Self { prepared, daemons, matching, hour, answered: 0 }
    }

    /// Goes through worlds; answers how many requests were not refused.
    fn compare(mut self, runner: &mut TestRunner) -> Result<u32, Void> {
        for round in 0..WORLDS / 2 {
            self.happen_elsewhere(round);
            for _ in 0..REQUESTS {
                self.ask(ask().new_tree(runner).unwrap().current())?;
            }
        }
        Ok(self.answered)
    }

    /// Something else in each.
    fn happen_elsewhere(&self, round: usize) {
        for (side, (daemon, prepared)) in self.daemons.iter().zip(self.prepared).enumerate() {
            let name = format!("{OUTSIDE}-{round}-{side}");
            let asked = json!({ "path": format!("{}/{name}", prepared.above),
                "domain": format!("{name}.example"), "admin": "chief" });
            let made = daemon.api("POST", "/v1/customers", Some(&asked));
            assert_eq!(made.status, 201, "{}", made.json());
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<(), Void> {
        let Asked { operation, mut fields, options } = ask.of(self.prepared, &self.matching);
        if operation.name == "audit.search" {
            // Records of reads, which are left out, stand where they happened to be written: no page ends among them.
            fields.iter_mut().for_each(|fields| fields["limit"] = json!(1_000));
        }
        // A job ends when it ends: that one would be started is compared.
        let is_dry = options.dry_run || (operation.starts_job && operation.mutates);
        let is_change = operation.mutates && !is_dry;
        let what = format!("{} {} by {}", operation.name, fields[0], ask.who);
        wait_until(&what, || {
            let asked = self.daemons.iter().zip(self.prepared).zip(&fields);
            let responses: Vec<Response> = asked
                .map(|((daemon, prepared), fields)| {
                    let token = &prepared.people[ask.who % prepared.people.len()].token;
                    ask_daemon(daemon, token, operation, fields, is_dry)
                })
                .collect();
            let [left, right] =
                level([&responses[0], &responses[1]].map(|one| told(operation.name, is_change, one)));
            let mut matching = self.matching.clone();
            let Err(difference) = matching.same(&left, &right) else {
                self.matching = matching;
                self.answered += responses.iter().map(|one| u32::from(one.status < 300)).sum::<u32>();
                return Ok(Ok(()));
            };
            let is_void = hour() != self.hour || (is_change && responses.iter().any(|one| one.status >= 500));
            if is_void {
                return Ok(Err(Void(format!("{what}: at {difference}"))));
            }
            let is_done = is_change && responses.iter().any(|one| one.status < 300);
            assert!(!is_done, "{what}: at {difference}");
            Err(difference)
        })
    }
}

#[test]
fn worlds_over_the_socket_give_the_same_answers() {
    let runtime = runtime();
    let begun = Clock::system().now().minus(Duration::from_secs(60));
    let prepared = runtime.block_on(Prepared::all(begun));
    let mut runner = TestRunner::deterministic();
    let mut answered = 0;
    for (one, other) in [(0, 1), (2, 3)] {
        let pair = [&prepared[one], &prepared[other]];
        let mut void = Vec::new();
        let compared = (0..TRIES_MAX).find_map(|_| match Pair::new(pair).compare(&mut runner) {
            Ok(answered) => Some(answered),
            Err(Void(why)) => {
                void.push(why);
                None
            }
        });
        answered += compared.unwrap_or_else(|| panic!("nothing could be compared: {void:#?}"));
    }
    assert!(answered > 200, "only {answered} requests were answered");
}
