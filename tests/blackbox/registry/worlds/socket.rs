//! The same over the admin socket of real daemons: what the HTTP room adds tells nothing either.

use std::time::Duration;

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::service::registry::{Method, Operation};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::answers::{Matching, comparable};
use super::asking::{Asked, ask};
use super::prepared::{OUTSIDE, Prepared};
use super::runtime;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http::{Response, over_socket};

/// Worlds: each is a sequence of requests to two daemons.
const WORLDS: usize = 50;
const REQUESTS: usize = 12;
/// Headers that say who asks when.
const OF_THE_REQUEST: [&str; 2] = ["date", "x-request-id"];

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

/// Members of what is known of a domain that say whether somebody has looked in the DNS yet.
const OF_LOOKING: [&str; 2] = ["outcome", "checked_at"];

/// Members of a webhook that say how far sending is.
const OF_SENDING: [&str; 6] = ["state", "delivered", "delivered_at", "outcome", "attempts", "failing_since"];

/// A response without what says who asked when, and without times: two daemons do not act in the same moment.
fn told(name: &str, response: &Response) -> Value {
    let headers: Vec<&(String, String)> =
        response.headers.iter().filter(|(name, _)| !OF_THE_REQUEST.contains(&name.as_str())).collect();
    let headers: Vec<Value> = headers
        .iter()
        .map(|(name, value)| if name == "etag" { json!([name]) } else { json!([name, value]) })
        .collect();
    let mut body = timeless(comparable(name, response.json()));
    if let Some(members) = body.as_object_mut().filter(|_| name.starts_with("domain.")) {
        members.retain(|name, _| !OF_LOOKING.contains(&name.as_str()));
    }
    if name.starts_with("webhook.") {
        let listed = body.get("items").and_then(Value::as_array).map_or(0, Vec::len);
        let shown = (0..listed).map(|at| format!("/items/{at}")).chain([String::new()]);
        for place in shown {
            if let Some(members) = body.pointer_mut(&place).and_then(Value::as_object_mut) {
                members.retain(|name, _| !OF_SENDING.contains(&name.as_str()) && name != "next_at");
            }
        }
    }
    json!({ "status": response.status, "headers": headers, "body": body })
}

fn timeless(value: Value) -> Value {
    match value {
        Value::String(text) if Timestamp::parse_rfc3339(&text).is_ok() => json!("a time"),
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, _)| name != "request_id")
            .map(|(name, value)| (name, timeless(value)))
            .collect(),
        other => other,
    }
}

#[test]
fn worlds_over_the_socket_give_the_same_answers() {
    let runtime = runtime();
    let begun = Clock::system().now().minus(Duration::from_secs(60));
    let prepared = runtime.block_on(Prepared::all(begun));
    let daemons: Vec<Daemon> = prepared.iter().map(serve).collect();
    let mut runner = TestRunner::deterministic();
    let mut answered = 0;
    for (one, other) in [(0, 1), (2, 3)] {
        let pair = [&prepared[one], &prepared[other]];
        let mut matching = Matching::of(&pair[0].inside, &pair[1].inside);
        for round in 0..WORLDS / 2 {
            // Something else happens elsewhere in each.
            for (side, daemon) in [&daemons[one], &daemons[other]].into_iter().enumerate() {
                let name = format!("{OUTSIDE}-{round}-{side}");
                let asked = json!({ "path": format!("{}/{name}", pair[side].above),
                    "domain": format!("{name}.example"), "admin": "chief" });
                let made = daemon.api("POST", "/v1/customers", Some(&asked));
                assert_eq!(made.status, 201, "{}", made.json());
            }
            for _ in 0..REQUESTS {
                let ask = ask().new_tree(&mut runner).unwrap().current();
                let Asked { operation, fields, options } = ask.of(pair, &matching);
                // Proofs of the trail are made of what others did in the same seconds, and it is in the order of
                // writing: reads are written together, a moment later. Worlds in one process, which share a clock,
                // compare it.
                if operation.name.starts_with("audit.") || operation.name == "event.list" {
                    continue;
                }
                // How far a job is differs from moment to moment, and whether a notice has reached the mailbox.
                let is_later = operation.starts_job || operation.name == "mailbox.password";
                let is_dry = options.dry_run || (is_later && operation.mutates);
                let mut answers = Vec::new();
                for (side, daemon) in [&daemons[one], &daemons[other]].into_iter().enumerate() {
                    let token = &pair[side].people[ask.who % pair[side].people.len()].token;
                    let response = ask_daemon(daemon, token, operation, &fields[side], is_dry);
                    answered += u32::from(response.status < 300);
                    answers.push(told(operation.name, &response));
                }
                let same = matching.same(&answers[0], &answers[1]);
                assert!(same.is_ok(), "{} {} by {}: at {same:?}", operation.name, fields[0], ask.who);
            }
        }
    }
    assert!(answered > 200, "only {answered} requests were answered");
}
