//! The directory: customers, domains, mailboxes, aliases, administrators, grants, tokens and holds, each operation
//! a type that the registry lists.

pub(in crate::service) mod identity;
pub(in crate::service) mod page;
pub(in crate::service) mod scope;
