//! What every room uses and what knows no room: ids, addresses, time, secrets, configuration, TLS, telemetry.

pub mod address;
pub mod clock;
pub mod id;
pub mod tls;
