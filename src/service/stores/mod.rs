//! Mail stores: the volumes on which mail is kept, as operators see and run them.

pub(in crate::service) mod pack;
pub(in crate::service) mod show;
