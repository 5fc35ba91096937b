//! Metadata: all SQL lives here, a file per aggregate.
//!
//! # Consistency
//! One database, SQLite or PostgreSQL, is the truth. Changes run through [`database::Database::write`] (one closure,
//! one transaction or savepoint) or the set-based [`database::Database::deliver`]; their answers come after commit.
//!
//! # Crash consistency
//! SQLite runs in WAL mode with `synchronous=FULL`; PostgreSQL refuses to serve with `fsync=off`. What was answered
//! survives power loss.
//!
//! # Retries
//! Deadlocks and serialization failures on PostgreSQL run the closure again (it must not have other effects);
//! a connection lost during COMMIT is an error, never a success.

pub mod administrator;
pub mod alias;
pub mod audit;
pub mod audit_index;
pub mod backup;
pub mod body;
pub mod catalog;
pub mod catalog_content;
pub mod changes;
pub mod content;
pub mod credential;
pub mod customer;
pub mod customer_count;
pub mod database;
pub mod deleted_folder;
pub mod delivery;
pub mod dictionary;
pub mod domain;
pub mod domain_check;
pub mod domain_move;
pub mod erasure;
pub mod event;
pub mod expiry;
pub mod folder;
pub mod grant;
pub mod group;
pub mod hold;
pub mod home;
pub mod instance;
pub mod invitation;
pub mod job;
pub mod lane;
pub mod legal_hold;
pub mod login_log;
pub mod mailbox;
pub mod message;
pub mod metering;
pub mod node;
pub mod notice;
pub mod pack;
mod packed;
pub mod part;
pub mod pin;
pub mod placement;
pub mod pool;
mod portable;
mod postgres;
pub mod price;
pub mod purge;
pub mod quota;
pub mod quota_mark;
pub mod rebuild;
pub mod rebuild_bodies;
pub mod recipient;
pub mod recount;
pub mod report;
pub mod request;
pub mod restore;
pub mod rewrite;
pub mod role;
pub mod savepoint;
mod schema;
pub mod scope;
pub mod scope_usage;
pub mod seal;
pub mod second_factor;
pub mod setting;
pub mod snapshot;
pub mod spending;
pub mod sql;
mod sqlite;
pub mod stage;
pub mod store;
pub mod summary;
pub mod summary_block;
pub mod tally;
pub mod template;
pub mod token;
pub mod tombstone;
pub mod trace;
pub mod tree_change;
pub mod trial;
pub mod volume;
pub mod webhook;
pub mod zone;
