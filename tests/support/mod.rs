//! What the black-box tests and the benchmarks share: a real daemon on a temporary directory, small clients of our
//! own for every protocol it speaks, real mail to send, and the look-out for other programs.
//!
//! The clients are deliberately plain: blocking, strict about framing, with a time limit on every read, and they
//! share no code with the server, so that a mistake cannot hide on both sides.
#![allow(dead_code, reason = "the tests and the benchmarks use different parts")]

pub mod authenticator;
pub mod corpus;
pub mod daemon;
pub mod dns;
pub mod http;
pub mod imap;
pub mod moto;
pub mod pop3;
pub mod postgres;
pub mod programs;
pub mod receiver;
pub mod s3;
pub mod smtp;
pub mod stream;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen before it fails. Generous: it is only ever used up by a
/// failure, and test runs share their cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest pause between two looks at something that cannot tell of its change.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits until `condition` gives a value; fails after [`PATIENCE`]. For what cannot be waited for otherwise, such as
/// another program's state: it is asked at once, then after pauses that double.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    wait_until(what, || condition().ok_or("not yet"))
}

/// As [`wait_for`]; what stands in the way is told by the failure.
#[track_caller]
pub fn wait_until<T, E: std::fmt::Display>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let obstacle = match attempt() {
            Ok(value) => return value,
            Err(obstacle) => obstacle,
        };
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}: {obstacle}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_AGAIN);
    }
}

/// A small deterministic random generator (SplitMix64), so that a failing run can be repeated.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
