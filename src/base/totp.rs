//! Time-based one-time passwords (RFC 6238) as authenticators make them unless told otherwise: HMAC-SHA-1, six digits,
//! a new one every 30 seconds.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use subtle::ConstantTimeEq;

use super::clock::Timestamp;

/// Octets of a secret: as long as the tag that it makes (RFC 4226 section 4, R6).
pub const SECRET_OCTETS: usize = 20;
/// How long a code is the present one, in seconds (RFC 6238 section 4.1).
const STEP_SECS: i64 = 30;
/// Digits of a code.
const DIGITS: u32 = 6;
/// Steps before and after the present one whose codes are taken: clocks differ, and people type (RFC 6238 section 5.2).
const STEPS_APART_MAX: i64 = 1;
/// Letters of base 32 (RFC 4648 section 6).
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The number of a step of 30 seconds since 1970.
pub fn step(at: Timestamp) -> i64 {
    at.secs().div_euclid(STEP_SECS)
}

/// The code of a step.
pub fn code(secret: &[u8], step: i64) -> String {
    code_of(secret, step, DIGITS)
}

/// Whether a text has the form of a code.
pub fn is_code(text: &str) -> bool {
    u32::try_from(text.len()) == Ok(DIGITS) && text.bytes().all(|octet| octet.is_ascii_digit())
}

/// The step whose code `given` is, of those that are near enough to `now` and come after `last`, the step whose code
/// was taken last. Takes the same time whatever is given.
pub fn matching_step(secret: &[u8], given: &str, now: Timestamp, last: Option<i64>) -> Option<i64> {
    let present = step(now);
    let mut found = None;
    for step in present.saturating_sub(STEPS_APART_MAX)..=present.saturating_add(STEPS_APART_MAX) {
        let is_same: bool = code(secret, step).as_bytes().ct_eq(given.as_bytes()).into();
        if is_same && found.is_none() && last.is_none_or(|last| step > last) {
            found = Some(step);
        }
    }
    found
}

/// What an authenticator is told, as text or as a QR code: the key URI that all of them understand. `issuer` is who
/// asks for the codes, `account` for whom they are.
pub fn key_uri(secret: &[u8], issuer: &str, account: &str) -> String {
    let (issuer, account) = (percent_encoded(issuer), percent_encoded(account));
    let secret = base32(secret);
    format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}\
         &period={STEP_SECS}"
    )
}

/// Base 32 without padding (RFC 4648 section 6), as people type secrets.
pub fn base32(octets: &[u8]) -> String {
    let letter = |bits: u64| BASE32.get((bits & 31) as usize).map_or('A', |&letter| char::from(letter));
    let mut text = String::with_capacity(octets.len().div_ceil(5) * 8);
    for group in octets.chunks(5) {
        let bits =
            group.iter().fold(0, |bits, &octet| bits << 8 | u64::from(octet)) << (8 * (5 - group.len()));
        let letters = (group.len() * 8).div_ceil(5);
        text.extend((0..letters).map(|number| letter(bits >> (35 - 5 * number))));
    }
    text
}

/// RFC 4226 section 5.3 with the number of the step as counter.
fn code_of(secret: &[u8], step: i64, digits: u32) -> String {
    let tag = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().copied().unwrap_or_default() & 15);
    let truncated = tag.iter().skip(offset).take(4).fold(0, |bits: u32, &octet| bits << 8 | u32::from(octet));
    let number = (truncated & 0x7fff_ffff) % 10_u32.saturating_pow(digits);
    format!("{number:0width$}", width = digits as usize)
}

/// RFC 3986 section 2.1.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(octet));
        } else {
            encoded.push_str(&format!("%{octet:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238 appendix B.
    const SECRET: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (secs, expected) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let step = step(Timestamp::from_secs(secs));
            assert_eq!(code_of(SECRET, step, 8), expected, "{secs}");
            assert_eq!(code(SECRET, step), expected.split_at(2).1, "{secs}");
        }
    }

    /// RFC 4226 appendix D.
    #[test]
    fn codes_are_those_of_rfc_4226() {
        let expected = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583"];
        for (counter, expected) in (0..).zip(expected) {
            assert_eq!(code(SECRET, counter), expected);
        }
    }

    #[test]
    fn code_is_taken_one_step_around_and_once() {
        let at = |step: i64| Timestamp::from_secs(step * STEP_SECS);
        let given = code(SECRET, 100);
        for (now, taken) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(matching_step(SECRET, &given, at(now), None).is_some(), taken, "{now}");
        }
        assert_eq!(matching_step(SECRET, &given, at(100), Some(99)), Some(100));
        assert_eq!(matching_step(SECRET, &given, at(100), Some(100)), None);
        // The clock went back: what was taken is not taken again, nor what comes before it.
        assert_eq!(matching_step(SECRET, &code(SECRET, 99), at(99), Some(100)), None);
        for wrong in ["", "0", "0000000", "28708", "wrongs"] {
            assert_eq!(matching_step(SECRET, wrong, at(1), None), None, "{wrong}");
        }
        assert!(is_code("012345") && !is_code("12345") && !is_code("12345a") && !is_code("１23"));
    }

    #[test]
    fn moments_before_1970_and_at_the_ends_of_time_have_steps() {
        assert_eq!(step(Timestamp::from_secs(-1)), -1);
        for end in [i64::MIN, i64::MAX] {
            assert_eq!(code(SECRET, end).len(), 6);
            assert_eq!(matching_step(SECRET, "wrong", Timestamp(end), None), None);
        }
    }

    /// RFC 4648 section 10, without the padding.
    #[test]
    fn base_32_is_that_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn uri_names_issuer_and_account() {
        assert_eq!(
            key_uri(SECRET, "mail host", "carla@ACM-1"),
            "otpauth://totp/mail%20host:carla%40ACM-1?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=mail%20host\
             &algorithm=SHA1&digits=6&period=30"
        );
    }
}
