//! Black-box tests: a real daemon per test, its sockets, its command line, and other people's programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod support;

#[path = "blackbox/backups.rs"]
mod backups;
#[path = "blackbox/bad_input.rs"]
mod bad_input;
#[path = "blackbox/catalogs.rs"]
mod catalogs;
#[path = "blackbox/cli.rs"]
mod cli;
#[path = "blackbox/codes.rs"]
mod codes;
#[path = "blackbox/content_access.rs"]
mod content_access;
#[path = "blackbox/crash.rs"]
mod crash;
#[path = "blackbox/crash_offload.rs"]
mod crash_offload;
#[path = "blackbox/crash_packing.rs"]
mod crash_packing;
#[path = "blackbox/crash_restore.rs"]
mod crash_restore;
#[path = "blackbox/cut_off.rs"]
mod cut_off;
#[path = "blackbox/delivery.rs"]
mod delivery;
#[path = "blackbox/events.rs"]
mod events;
#[path = "blackbox/full_disk.rs"]
mod full_disk;
#[path = "blackbox/imap_clients.rs"]
mod imap_clients;
#[path = "blackbox/imap_folders.rs"]
mod imap_folders;
#[path = "blackbox/imap_messages.rs"]
mod imap_messages;
#[path = "blackbox/imap_model.rs"]
mod imap_model;
#[path = "blackbox/imap_session.rs"]
mod imap_session;
#[path = "blackbox/import.rs"]
mod import;
#[path = "blackbox/jobs.rs"]
mod jobs;
#[path = "blackbox/listed.rs"]
mod listed;
#[path = "blackbox/logins.rs"]
mod logins;
#[path = "blackbox/metadata.rs"]
mod metadata;
#[path = "blackbox/modes.rs"]
mod modes;
#[path = "blackbox/moves.rs"]
mod moves;
#[path = "blackbox/nodes.rs"]
mod nodes;
#[path = "blackbox/offload.rs"]
mod offload;
#[path = "blackbox/offload_faults.rs"]
mod offload_faults;
#[path = "blackbox/offload_run.rs"]
mod offload_run;
#[path = "blackbox/operation.rs"]
mod operation;
#[path = "blackbox/packs.rs"]
mod packs;
#[path = "blackbox/parts.rs"]
mod parts;
#[path = "blackbox/pop3_clients.rs"]
mod pop3_clients;
#[path = "blackbox/postfix.rs"]
mod postfix;
#[path = "blackbox/quickstart.rs"]
mod quickstart;
#[path = "blackbox/quota.rs"]
mod quota;
#[path = "blackbox/rebuild.rs"]
mod rebuild;
#[path = "blackbox/registry.rs"]
mod registry;
#[path = "blackbox/restart.rs"]
mod restart;
#[path = "blackbox/restore.rs"]
mod restore;
#[path = "blackbox/round_trip.rs"]
mod round_trip;
#[path = "blackbox/samples.rs"]
mod samples;
#[path = "blackbox/storage_report.rs"]
mod storage_report;
#[path = "blackbox/stories.rs"]
mod stories;
#[path = "blackbox/summaries.rs"]
mod summaries;
#[path = "blackbox/system.rs"]
mod system;
#[path = "blackbox/timeouts.rs"]
mod timeouts;
#[path = "blackbox/transfer.rs"]
mod transfer;
#[path = "blackbox/undelete.rs"]
mod undelete;
#[path = "blackbox/upgrade.rs"]
mod upgrade;
#[path = "blackbox/volumes.rs"]
mod volumes;
#[path = "blackbox/zones.rs"]
mod zones;
