//! What daemons tell, without what differs between two of them that do not act in the same moment.

use posthouse::base::clock::Timestamp;
use serde_json::{Map, Value, json};

use super::answers::comparable;
use crate::support::http::Response;

/// Headers that say who asks when, and the length of a content that is compared itself.
const OF_THE_REQUEST: [&str; 3] = ["date", "x-request-id", "content-length"];
/// Members that say whether somebody has looked in the DNS yet, and what came of it.
const OF_LOOKING: [&str; 3] = ["outcome", "checked_at", "message"];
/// Members of a webhook that say how far sending is.
const OF_SENDING: [&str; 7] =
    ["state", "delivered", "delivered_at", "outcome", "attempts", "failing_since", "next_at"];
/// Members that count what is in mailboxes, where notices come by themselves. Reads agree about them in the end; what
/// tells of one moment, such as a change or a record of it, does not.
const OF_USE: [&str; 9] = [
    "bytes_used",
    "bytes_committed",
    "messages_used",
    "bytes",
    "messages",
    "used",
    "committed",
    "octets",
    "spent",
];
/// Members that count what compressed mail takes, in which there are random ids.
const OF_PACKING: [&str; 6] =
    ["stored_octets", "database_octets", "local_octets", "remote_octets", "saved_octets", "saved_percent"];
/// Where limits stand under names of [`OF_USE`].
const OF_LIMITS: [&str; 3] = ["limits", "gives", "fields"];
/// Letters of a time, as in 2026-11-22T17:45:00Z.
const TIME_LETTERS: usize = 20;

/// A response without all that. Of a change, and of what tells of changes, counts are left out.
pub fn told(name: &str, is_change: bool, response: &Response) -> Value {
    let headers = response.headers.iter().filter(|(name, _)| !OF_THE_REQUEST.contains(&name.as_str()));
    let headers: Vec<Value> = headers
        .map(|(name, value)| if name == "etag" { json!([name]) } else { json!([name, value]) })
        .collect();
    let mut body = timeless(comparable(name, response.json()));
    let tells_of_changes = ["audit.", "event.", "request.", "job."].iter().any(|kind| name.starts_with(kind));
    if is_change || tells_of_changes {
        uncounted(&mut body);
    }
    each_object(&mut body, &|members| members.retain(|name, _| !OF_PACKING.contains(&name.as_str())));
    let later: &[&str] = match name {
        "domain.dns" | "domain.verify" => &OF_LOOKING,
        name if name.starts_with("webhook.") => &OF_SENDING,
        _ => &[],
    };
    each_object(&mut body, &|members| {
        members.retain(|name, _| !later.contains(&name.as_str()));
        // What a record tells of a webhook or a domain, which may have been sent to or looked for before.
        for side in ["before", "after"] {
            each_object(members.get_mut(side).unwrap_or(&mut Value::Null), &|members| {
                members.retain(|name, _| !OF_SENDING.contains(&name.as_str()));
            });
        }
    });
    if name == "audit.prove" {
        let columns = body.get_mut("record").and_then(Value::as_array_mut).into_iter().flatten();
        for column in columns.filter(|column| column["name"] == "before" || column["name"] == "after") {
            // They may hold counts. That there are as many parts is compared.
            each_object(column, &|members| drop(members.remove("text")));
        }
    }
    if let Some(sealed) = body.get_mut("sealed").and_then(Value::as_object_mut) {
        sealed.remove("at_micros");
    }
    json!({ "status": response.status, "headers": headers, "body": body })
}

/// Two pages of records as far as both go: records of reads, which are left out, count among those looked at.
pub fn level(mut answers: [Value; 2]) -> [Value; 2] {
    let is_page_of_records = |answer: &Value| {
        let body = &answer["body"];
        let items = body["items"].as_array();
        let has_records = items.is_some_and(|items| items.iter().all(|item| item.get("actor").is_some()));
        let goes_on = body.get("more").map_or(body["cursor"].is_string(), |more| *more == true);
        has_records && goes_on
    };
    if !answers.iter().any(is_page_of_records) {
        return answers;
    }
    let length = |answer: &Value| answer["body"]["items"].as_array().map_or(0, Vec::len);
    let shorter = answers.iter().map(length).min().unwrap_or(0);
    for answer in &mut answers {
        let Some(body) = answer["body"].as_object_mut() else { continue };
        body.remove("more");
        body.remove("cursor");
        if let Some(items) = body.get_mut("items").and_then(Value::as_array_mut) {
            items.truncate(shorter);
        }
    }
    answers
}

/// Calls `change` for every object in a value, the outer ones first.
fn each_object(value: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            change(members);
            members.values_mut().for_each(|value| each_object(value, change));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| each_object(value, change)),
        _ => {}
    }
}

/// Leaves out counts of what is in mailboxes.
fn uncounted(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| !(value.is_number() && OF_USE.contains(&name.as_str())));
            let others = members.iter_mut().filter(|(name, _)| !OF_LIMITS.contains(&name.as_str()));
            others.for_each(|(_, value)| uncounted(value));
        }
        Value::Array(items) => items.iter_mut().for_each(uncounted),
        _ => {}
    }
}

/// Without times, also those within texts, and ids of requests.
fn timeless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_times(&text)),
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, _)| name != "request_id")
            .map(|(name, value)| (name, timeless(value)))
            .collect(),
        other => other,
    }
}

fn without_times(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let time = rest.get(..TIME_LETTERS).filter(|time| Timestamp::parse_rfc3339(time).is_ok());
        let (told, taken) =
            time.map_or((&rest[..first.len_utf8()], first.len_utf8()), |_| ("a time", TIME_LETTERS));
        kept.push_str(told);
        rest = &rest[taken..];
    }
    kept
}

#[test]
fn times_are_left_out_wherever_they_stand() {
    let text = "from 2026-11-22T17:45:00Z on, ü 2026-11-22T17:45:01Z2026-11-22";
    assert_eq!(without_times(text), "from a time on, ü a time2026-11-22");
}
