//! Fuzz targets of this room.

use std::sync::PoisonError;

use super::fake::fake;
use super::{Limits, Server, session};
use crate::wire::fuzz::talk;

/// A whole session, before and after login: the same answers and the same deletions however the octets arrive.
pub fn sessions(input: &[u8]) {
    let logged_in = [b"USER tim\r\nPASS two words \r\n", input].concat();
    for input in [input, &logged_in] {
        assert_eq!(run(input, 1 << 16), run(input, 23));
    }
}

/// What is answered without the greeting, and how many messages are left.
fn run(input: &[u8], pipe_octets: usize) -> (Vec<u8>, usize) {
    let fake = fake();
    let server = Server::new(fake.clone(), None, Limits::default());
    let output = talk(input, pipe_octets, |connection, shutdown| session(server, connection, shutdown));
    assert!(output.starts_with(b"+OK") && output.ends_with(b"\r\n"), "{}", String::from_utf8_lossy(&output));
    let left = fake.0.lock().unwrap_or_else(PoisonError::into_inner).len();
    let quits = input.to_ascii_uppercase().windows(4).any(|word| word == b"QUIT");
    assert!(left == 3 || quits, "messages went away without QUIT");
    (output, left)
}
