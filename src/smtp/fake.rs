//! A delivery service for tests, which the recipients' names command.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Deliver;
use crate::base::address::Address;
use crate::base::id::{CustomerId, DomainId, FolderId, MailboxId, Uid};
use crate::service::delivery::{Atomicity, Delivered, DeliveryRefusal, Recipient, Target, Transmission};

/// What was delivered: protocol, sender, recipients, bytes.
pub(super) type Kept = Vec<(&'static str, String, Vec<String>, Vec<u8>)>;

/// Knows `*@x.example`; the local part says how it behaves.
#[derive(Clone, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<Kept>>);

impl Deliver for Fake {
    async fn recipient(
        &self,
        _: &Transmission,
        _: &str,
        address: &str,
        octets: u64,
    ) -> Result<Recipient, DeliveryRefusal> {
        let full = if address == "postmaster" { "postmaster@x.example" } else { address };
        let address: Address = full.parse().map_err(|_| DeliveryRefusal::UnknownMailbox)?;
        if address.domain().as_str() != "x.example" {
            return Err(DeliveryRefusal::NotLocal);
        }
        match address.local() {
            "nobody" => Err(DeliveryRefusal::UnknownMailbox),
            "held" => Err(DeliveryRefusal::Suspended),
            "full" => Err(DeliveryRefusal::OverQuota("mailbox limit".into())),
            "small" if octets > 100 => Err(DeliveryRefusal::TooLarge { octets_max: 100 }),
            _ => {
                let (mailbox, domain, customer) = (MailboxId(1), DomainId(1), CustomerId(1));
                let target = Target { mailbox, domain, customer, address: address.clone(), detail: None };
                Ok(Recipient { address, targets: vec![target] })
            }
        }
    }

    async fn deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        atomicity: Atomicity,
    ) -> Vec<Result<Vec<Delivered>, DeliveryRefusal>> {
        let delivered = Delivered { mailbox: MailboxId(1), folder: FolderId(1), uid: Uid(1) };
        let mut answers: Vec<Result<Vec<Delivered>, DeliveryRefusal>> = recipients
            .iter()
            .map(|recipient| match recipient.address.local() {
                "late" => Err(DeliveryRefusal::OverQuota("customer limit".into())),
                "loop" => Err(DeliveryRefusal::Loop("delivered here before".into())),
                _ => Ok(vec![delivered.clone()]),
            })
            .collect();
        if atomicity == Atomicity::AllOrNothing && answers.iter().any(Result::is_err) {
            for answer in &mut answers {
                if answer.is_ok() {
                    *answer = Err(DeliveryRefusal::Sibling);
                }
            }
        }
        let stored: Vec<String> = recipients
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .map(|(recipient, _)| recipient.address.to_string())
            .collect();
        if !stored.is_empty() {
            let kept = (transmission.protocol, sender.to_owned(), stored, message.to_vec());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        }
        answers
    }
}
