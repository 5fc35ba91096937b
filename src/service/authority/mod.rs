//! Authority: who may do what where.
//!
//! `effective(who, node)` is the union of the permissions of active grants at the node or any ancestor, of which the
//! ceilings on the path to the node leave something. Somebody's grants are their own and those of the groups they are
//! in. A grant is inactive outside its time, while a `manage` hold stands at its customer or above, and when its
//! customer, or the home of the group that holds it, is deleted. Everything is derived from the database inside the
//! transaction that acts on it, so that a revocation counts for the next request.
//!
//! What may be passed on is asked before ceilings, on both sides alike: a ceiling limits what everybody can do at a
//! place, not who stands above whom. Lifting one therefore asks for what people there get back
//! (`directory/ceilings.rs`).
//!
//! `system.*` counts at the root only, or in zones (`zone.rs`), and no ceiling takes it away. `content.*` is no
//! built-in role's; a system administrator decides who first has it, and a grant of it ends after 30 days unless the
//! root allows permanent ones.

mod cache;
mod caller;
mod permission;
mod role;
#[cfg(test)]
mod tests;
mod tree;
mod tree_update;
mod zone;

pub(in crate::service) use cache::Authority;
pub(in crate::service) use caller::{
    ActiveGrant, CONTENT_LASTS_MAX, Caller, Held, Standing, activate, begins_at, counting, delegable, given,
    granted, is_brief, permissions_at,
};
pub use permission::{Permission, PermissionSet};
pub use role::Role;
pub(in crate::service) use role::custom_permissions;
pub(in crate::service) use tree::{CustomerNode, Tree};
pub(in crate::service) use zone::{ZoneGrant, Zones};
