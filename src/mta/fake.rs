//! A directory and a login service for tests.

use secrecy::ExposeSecret;

use super::sasl::{Came, Verify};
use super::socketmap::Directory;
use crate::base::address::Address;
use crate::service::delivery::DeliveryRefusal;
use crate::service::login::LoginError;
use crate::wire::sasl::Credentials;

/// Knows `tim@x.example` and a few others.
pub(super) struct Fake;

impl Verify for Fake {
    async fn verify(&self, credentials: &Credentials, came: Came) -> Result<Address, LoginError> {
        match (credentials.username.as_str(), credentials.password.expose_secret()) {
            ("held@x.example", _) => Err(LoginError::Held),
            ("careful@x.example", _) if !came.is_private() => Err(LoginError::TlsRequired),
            ("careful@x.example", "secret") => "careful@x.example".parse().map_err(|_| LoginError::Failed),
            ("tim@x.example", _) if came.source.is_none() => Err(LoginError::TooMany),
            ("tim@x.example", "secret") => "tim@x.example".parse().map_err(|_| LoginError::Failed),
            _ => Err(LoginError::Failed),
        }
    }
}

impl Directory for Fake {
    async fn is_local_domain(&self, domain: &str) -> Result<bool, DeliveryRefusal> {
        if domain == "down.example" {
            return Err(DeliveryRefusal::Unavailable);
        }
        Ok(domain == "x.example")
    }

    async fn recipient_state(&self, address: &str) -> Result<(), DeliveryRefusal> {
        match address {
            "tim@x.example" => Ok(()),
            "full@x.example" => Err(DeliveryRefusal::OverQuota("mailbox limit".into())),
            "held@x.example" => Err(DeliveryRefusal::Suspended),
            "tim@down.example" => Err(DeliveryRefusal::Unavailable),
            address if address.ends_with("@x.example") => Err(DeliveryRefusal::UnknownMailbox),
            _ => Err(DeliveryRefusal::NotLocal),
        }
    }

    async fn sender_logins(&self, address: &str) -> Result<Vec<Address>, DeliveryRefusal> {
        Ok(match address {
            "info@x.example" => {
                ["tim@x.example", "bo@x.example"].iter().filter_map(|login| login.parse().ok()).collect()
            }
            _ => Vec::new(),
        })
    }
}
