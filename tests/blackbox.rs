//! Black-box tests: a real daemon per test, its sockets, its command line, and other people's programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod support;

#[path = "blackbox/samples.rs"]
mod samples;
