//! Webhooks: a customer's events sent to another system, each as a signed POST.
//!
//! What is sent, and how it is signed, is as the Standard Webhooks convention says (standardwebhooks.com): headers
//! `webhook-id`, `webhook-timestamp` and `webhook-signature`, HMAC-SHA256 over the three with the body.
//!
//! # Consistency
//! The audit trail is the queue: a hook has a position in it and gets what was changed at its customer and below since
//! then, in that order, one event at a time. The position moves after an event was taken, so that each arrives at least
//! once; its id tells a second copy from another event. Nothing else is kept, so nothing can grow without bound.
//!
//! # Retries
//! An event that is not taken (anything but 2xx) is sent again after 5 s, then after twice as long each time up to an
//! hour, each by up to a fifth more or less. A hook that has taken nothing for a day, or that answers 410 (Gone), is
//! switched off, and its customer is told.

mod operations;
mod send;
mod signature;

pub(in crate::service) use operations::{
    WebhookCreate, WebhookDelete, WebhookEnable, WebhookList, WebhookShow,
};
pub use send::Webhooks;
pub(in crate::service) use send::{Testing, WebhookTest};
