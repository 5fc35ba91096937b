//! Fuzz targets of this room: what Postfix sends.

use std::sync::Arc;
use std::time::Duration;

use super::fake::Fake;
use super::{sasl, socketmap};
use crate::wire::fuzz::talk;

/// Longer than any input takes: time is not what is tried here.
const FIRST_TIMEOUT: Duration = Duration::from_secs(60);

/// A session of Dovecot's authentication protocol, with and without the introduction before it.
pub fn authentications(input: &[u8]) {
    let introduced = [b"VERSION\t1\t1\nCPID\t77\n", input].concat();
    for input in [input, &introduced] {
        let output = talk(input, 1 << 16, |connection, shutdown| {
            sasl::session(Arc::new(Fake), FIRST_TIMEOUT, connection, shutdown)
        });
        assert!(output.ends_with(b"\n"));
        let answers = String::from_utf8_lossy(&output);
        let known = ["VERSION", "MECH", "SPID", "CUID", "COOKIE", "DONE", "OK", "FAIL", "CONT"];
        for line in answers.lines() {
            assert!(line.split('\t').next().is_some_and(|word| known.contains(&word)), "{line:?}");
        }
    }
}

/// Look-ups: netstrings in, as many netstrings out at most.
pub fn lookups(input: &[u8]) {
    let run = |pipe_octets| {
        talk(input, pipe_octets, |connection, shutdown| {
            socketmap::session(Arc::new(Fake), FIRST_TIMEOUT, connection, shutdown)
        })
    };
    let output = run(1 << 16);
    assert_eq!(output, run(23));
    let mut rest = output.as_slice();
    while !rest.is_empty() {
        let end = rest.iter().position(|octet| *octet == b':').unwrap_or_default();
        let length: Option<usize> =
            rest.get(..end).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let after = length.and_then(|length| rest.get(end + 1 + length..)?.strip_prefix(b","));
        assert!(after.is_some(), "{}", String::from_utf8_lossy(&output));
        rest = after.unwrap_or_default();
    }
}
