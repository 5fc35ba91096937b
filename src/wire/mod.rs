//! What the protocols share: listening, streams that can turn to TLS, bounded lines, SASL.
//!
//! A session gets a [`stream::Connection`] from [`listen::serve`] and reads it through one [`line::Reader`].
//! Neither holds a buffer while the client is silent.

pub mod bind;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod line;
pub mod listen;
pub mod proxy;
pub mod sasl;
pub mod stream;
