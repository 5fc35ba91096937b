//! Authority: who may do what where.
//!
//! `effective(who, node)` is the union of the permissions of active grants at the node or any ancestor. A grant is
//! inactive outside its time, while a `manage` hold stands at its customer or above, and when its customer is
//! deleted. Everything is derived from the database inside the transaction that acts on it, so that a revocation
//! counts for the next request.

mod caller;
mod permission;
mod role;
#[cfg(test)]
mod tests;
mod tree;

pub(in crate::service) use caller::{Caller, active_grants};
pub use permission::{Permission, PermissionSet};
pub use role::Role;
pub(in crate::service) use tree::{Authority, CustomerNode, Tree};
