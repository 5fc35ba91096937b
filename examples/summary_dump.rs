//! Prints ENVELOPE and BODYSTRUCTURE of message files as Posthouse computes them, one JSON line a file, for
//! comparison with another server's answers (`tests/mime_oracle.py`). With `--time` it measures instead.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool for developers")]

use std::time::Instant;

use posthouse::service::mailstore::summary::{Envelope, EnvelopeAddress, Part, Summary, summarize};
use serde_json::{Value, json};

fn text(octets: &[u8]) -> Value {
    // One character for each octet, so that nothing is lost.
    Value::String(octets.iter().map(|octet| char::from(*octet)).collect())
}

fn optional(octets: Option<&Vec<u8>>) -> Value {
    octets.map_or(Value::Null, |octets| text(octets))
}

fn addresses(addresses: &[EnvelopeAddress]) -> Value {
    if addresses.is_empty() {
        return Value::Null;
    }
    addresses
        .iter()
        .map(|address| {
            json!([
                optional(address.name.as_ref()),
                null_route(),
                optional(address.mailbox.as_ref()),
                optional(address.host.as_ref())
            ])
        })
        .collect()
}

fn null_route() -> Value {
    Value::Null
}

fn envelope(envelope: &Envelope) -> Value {
    json!([
        optional(envelope.date.as_ref()),
        optional(envelope.subject.as_ref()),
        addresses(&envelope.from),
        addresses(&envelope.sender),
        addresses(&envelope.reply_to),
        addresses(&envelope.to),
        addresses(&envelope.cc),
        addresses(&envelope.bcc),
        optional(envelope.in_reply_to.as_ref()),
        optional(envelope.message_id.as_ref()),
    ])
}

fn parameters(parameters: &[(Vec<u8>, Vec<u8>)]) -> Value {
    if parameters.is_empty() {
        return Value::Null;
    }
    parameters.iter().flat_map(|(name, value)| [text(name), text(value)]).collect()
}

fn structure(part: &Part, body: &[u8]) -> Value {
    let disposition = part
        .disposition
        .as_ref()
        .map_or(Value::Null, |(kind, values)| json!([text(kind), parameters(values)]));
    let language: Value = if part.language.is_empty() {
        Value::Null
    } else {
        part.language.iter().map(|tag| text(tag)).collect()
    };
    let mut items = Vec::new();
    if part.is_type("multipart", "") {
        items.extend(part.parts.iter().map(|part| structure(part, body)));
        items.extend([text(&part.subtype), parameters(&part.parameters), disposition, language]);
        items.push(optional(part.location.as_ref()));
        return Value::Array(items);
    }
    let content = part.content(body);
    // The other server counts bare line feeds as two octets.
    let bare = content
        .iter()
        .enumerate()
        .filter(|(at, octet)| **octet == b'\n' && (*at == 0 || content[*at - 1] != b'\r'));
    items.extend([text(&part.media_type), text(&part.subtype), parameters(&part.parameters)]);
    items.extend([optional(part.id.as_ref()), optional(part.description.as_ref()), text(&part.encoding)]);
    items.push(json!(content.len() + bare.count()));
    if let [enclosed] = part.parts.as_slice() {
        items.extend([
            enclosed.envelope.as_ref().map_or(Value::Null, |value| envelope(value)),
            structure(enclosed, body),
        ]);
        items.push(json!(part.lines));
    } else if part.is_type("text", "") {
        items.push(json!(part.lines));
    }
    items.extend([optional(part.md5.as_ref()), disposition, language, optional(part.location.as_ref())]);
    Value::Array(items)
}

fn main() {
    let mut files: Vec<_> = std::env::args().skip(1).collect();
    let measure = files.first().is_some_and(|first| first == "--time");
    if measure {
        files.remove(0);
        return time(&files);
    }
    for file in files {
        let body = std::fs::read(&file).unwrap();
        let summary = summarize(&body);
        let name = file.rsplit('/').next().unwrap();
        println!("{}", json!([name, envelope(&summary.envelope), structure(&summary.root, &body)]));
    }
}

fn time(files: &[String]) {
    let bodies: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let octets: usize = bodies.iter().map(Vec::len).sum();
    let start = Instant::now();
    let summaries: Vec<Summary> = bodies.iter().map(|body| summarize(body)).collect();
    let micros = start.elapsed().as_micros() as f64 / bodies.len() as f64;
    println!("{} messages, {} octets each, {micros:.1} us each", bodies.len(), octets / bodies.len());
    drop(summaries);
}
