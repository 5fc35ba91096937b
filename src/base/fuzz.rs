//! Fuzz targets of this room.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use super::address::{Address, DomainName};
use super::config;
use super::dns;
use super::endpoint::Endpoint;
use super::network::Network;
use super::size::{format_size, parse_duration, parse_size, parse_size_limit};

/// A configuration file: mistakes are told where they are.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Err(mistakes) = config::check(text) else { return };
    assert!(!mistakes.is_empty(), "refused without a reason");
    let lines = text.split('\n').count();
    for mistake in mistakes {
        assert!((1..=lines).contains(&mistake.line), "{mistake} of {lines} lines");
        assert!(mistake.column >= 1 && !mistake.message.is_empty());
    }
}

/// Addresses, domains, endpoints, networks, sizes and durations: what is understood is understood again as it is
/// written.
pub fn words(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    round_trip::<Address>(text);
    round_trip::<DomainName>(text);
    // It is shown without the permission bits.
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let shown = endpoint.to_string();
        assert_eq!(shown.parse::<Endpoint>().map(|again| again.to_string()), Ok(shown));
    }
    let _ = text.parse::<Network>();
    let _ = parse_duration(text);
    let _ = parse_size_limit(text);
    if let Ok(octets) = parse_size(text) {
        assert!(!format_size(octets).is_empty());
    }
}

/// Answers of the DNS: whatever they are, their texts are within the answer, and a name to go on at can be asked for or
/// is refused.
pub fn dns_answers(input: &[u8]) {
    const NAME: &str = "_posthouse.a.example";
    let (id, message) = match input.split_at_checked(2) {
        Some(([high, low], _)) => (u16::from_be_bytes([*high, *low]), input),
        _ => (0, input),
    };
    match dns::parse(message, id, NAME) {
        Ok(dns::Answer::Texts(texts)) => {
            assert!(texts.iter().map(Vec::len).sum::<usize>() <= message.len());
        }
        Ok(dns::Answer::Alias(name)) => {
            assert!(name != NAME && name.len() <= 255);
            let _ = dns::query(id, &name);
        }
        Ok(dns::Answer::Truncated | dns::Answer::Failed(_)) | Err(_) => {}
    }
}

fn round_trip<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}");
    }
}
