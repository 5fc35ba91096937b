//! What every room uses and what knows no room: ids, addresses, time, secrets, configuration, TLS, telemetry.

pub mod address;
pub mod backup_settings;
pub mod civil;
pub mod clock;
pub mod config;
pub mod dns;
pub mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod id;
pub mod network;
pub mod post;
pub mod progress;
pub mod proof;
pub mod secret;
pub mod signing;
pub mod size;
pub mod store_settings;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod totp;
