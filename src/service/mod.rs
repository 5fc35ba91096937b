//! The services: who may, and what happens. They know no wire words and write no SQL.

pub mod audit;
pub mod authority;
pub mod backup;
pub mod context;
pub mod delivery;
pub mod directory;
pub mod error;
mod events;
pub mod housekeeping;
pub mod jobs;
pub mod login;
pub mod mailstore;
pub mod metering;
pub mod moves;
pub mod notices;
mod placement;
pub mod quota;
pub mod rebuild;
pub mod registry;
pub mod reports;
pub mod server;
pub mod settings;
pub mod stores;
pub mod trace;
mod undelete;
pub mod webhooks;
