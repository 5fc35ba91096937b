//! Storing copies of notices: messages that are made here.

use bytes::Bytes;

use super::{Atomicity, Delivery, DeliveryRefusal, Recipient, Target, Transmission};
use crate::base::id::public_id;

impl Delivery {
    /// Stores a copy of a notice, made here, in a mailbox: with an empty reverse path, so that nothing ever answers it.
    /// It counts like any message; a hold on receiving does not keep it away. Stored already is as good as now.
    ///
    /// # Errors
    /// Why it could not be stored; it stays on its way.
    pub(in crate::service) async fn notice(
        &self,
        copy: i64,
        target: Target,
        message: Bytes,
    ) -> Result<(), DeliveryRefusal> {
        let transmission = Transmission {
            protocol: "local",
            greeting: self.inner.settings.host_name.clone(),
            source: None,
            tls: None,
            id: public_id(),
        };
        let recipient = Recipient { address: target.address.clone(), targets: vec![target] };
        let how = (Atomicity::PerRecipient, Some(copy));
        let answers = self.try_deliver(&transmission, "", &[recipient], message, how).await?;
        answers.into_iter().next().unwrap_or(Err(DeliveryRefusal::Unavailable)).map(drop)
    }

    /// The name of this host.
    pub(in crate::service) fn host_name(&self) -> &str {
        &self.inner.settings.host_name
    }
}
