//! The directory: customers, domains, mailboxes, aliases, administrators, grants, tokens and holds, each operation
//! a type that the registry lists.

pub(in crate::service) mod administrator_state;
pub(in crate::service) mod administrators;
pub(in crate::service) mod aliases;
pub(in crate::service) mod ceilings;
pub(in crate::service) mod codes;
pub(in crate::service) mod credentials;
pub(in crate::service) mod customer_life;
pub(in crate::service) mod customer_limits;
pub(in crate::service) mod customers;
pub mod domain_checks;
pub(in crate::service) mod domain_move;
pub(in crate::service) mod domain_proof;
pub(in crate::service) mod domains;
#[cfg(test)]
mod escalation_tests;
pub(in crate::service) mod grant_places;
pub(in crate::service) mod grants;
pub(in crate::service) mod groups;
pub(in crate::service) mod holdings;
pub(in crate::service) mod holds;
pub(in crate::service) mod identity;
pub(in crate::service) mod invitation_accept;
pub(in crate::service) mod invitations;
pub(in crate::service) mod legal_holds;
pub(in crate::service) mod mailbox_deletion;
pub(in crate::service) mod mailbox_logins;
pub(in crate::service) mod mailboxes;
mod move_effects;
pub(in crate::service) mod page;
pub(in crate::service) mod password_codes;
pub(in crate::service) mod passwords;
mod revocation;
pub(in crate::service) mod roles;
pub(in crate::service) mod scope;
pub(in crate::service) mod second_factor;
pub(in crate::service) mod sessions;
pub(in crate::service) mod targets;
pub(in crate::service) mod tokens;
