//! Modified UTF-7, in which folder names travel (RFC 3501 section 5.1.3).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &IMAP_MUTF7,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The UTF-8 text of a name in modified UTF-7, or nothing if it is malformed. Names that some clients send as
/// plain UTF-8 are taken as they are; `&` has its meaning in both.
pub fn decode(name: &[u8]) -> Option<String> {
    let mut rest = std::str::from_utf8(name).ok()?;
    let mut text = String::with_capacity(rest.len());
    while let Some((plain, shifted)) = rest.split_once('&') {
        text.push_str(plain);
        let (encoded, after) = shifted.split_once('-')?;
        if encoded.is_empty() {
            text.push('&');
        } else {
            let octets = BASE64.decode(encoded).ok()?;
            if octets.len() % 2 != 0 {
                return None;
            }
            let units =
                octets.chunks_exact(2).map(|pair| pair.iter().fold(0, |sum, &o| sum << 8 | u16::from(o)));
            for character in char::decode_utf16(units) {
                text.push(character.ok()?);
            }
        }
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// The name in modified UTF-7: printable ASCII only.
pub fn encode(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if matches!(character, ' '..='~') {
            name.push(character);
            if character == '&' {
                name.push('-');
            }
            rest = rest.get(1..).unwrap_or_default();
        } else {
            let end = rest.find(|c| matches!(c, ' '..='~')).unwrap_or(rest.len());
            let (run, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            let octets: Vec<u8> = run.encode_utf16().flat_map(u16::to_be_bytes).collect();
            // Writing to a String cannot fail.
            let _ = write!(name, "&{}-", BASE64.encode(octets));
            rest = after;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_standard_round_trip() {
        for (name, text) in [
            ("~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
            ("&Jjo-!", "☺!"),
            ("A&-B", "A&B"),
            ("Entw&APw-rfe", "Entwürfe"),
            ("&2D3eAA-", "😀"),
            ("INBOX", "INBOX"),
            ("", ""),
        ] {
            assert_eq!(decode(name.as_bytes()).as_deref(), Some(text));
            assert_eq!(encode(text), name);
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in ["A&B", "&", "&AAA-x&", "&2D0-", "&=-", "&A-", "&!!-"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decode(b"\xff"), None);
        assert_eq!(decode("Entwürfe".as_bytes()).as_deref(), Some("Entwürfe"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_round_trips(text in "\\PC{0,40}") {
            proptest::prop_assert_eq!(decode(encode(&text).as_bytes()), Some(text));
        }

        #[test]
        fn arbitrary_octets_never_panic(name in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = decode(&name);
        }
    }
}
