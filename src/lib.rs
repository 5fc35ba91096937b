//! Posthouse: a multi-tenant mail hosting daemon.
//!
//! This file is the map of the house. A room may name the rooms below it, never one above or beside:
//! `base` < `storage` < `service` < `wire` < protocols < `daemon`. The command line stands beside and talks to
//! the daemon over its socket. `tests/tidy.rs` enforces it.

pub mod base;
pub mod storage;

pub mod service;
pub mod wire;

pub mod admin;
pub mod imap;
pub mod mta;
pub mod pop3;
pub mod smtp;

pub mod cli;
pub mod daemon;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
