//! ENVELOPE: the fields of a header that listings show (RFC 3501 section 7.4.2).

use super::super::summary::{Envelope, EnvelopeAddress, RawText};
use super::address::address_list;
use super::field::{Field, Fields, unfold};

/// The envelope that a header gives (RFC 3501 section 7.4.2).
pub fn envelope(header: &[u8]) -> Envelope {
    let mut fields = EnvelopeFields::default();
    for field in Fields::new(header) {
        fields.take(&field);
    }
    fields.finish()
}

/// Collects the fields of an envelope. Address fields that occur several times count together, so that no address
/// is hidden; of texts the first counts.
#[derive(Default)]
pub(super) struct EnvelopeFields(Envelope);

impl EnvelopeFields {
    pub(super) fn take(&mut self, field: &Field<'_>) {
        let envelope = &mut self.0;
        // The length tells most other fields apart without a comparison.
        if !matches!(field.name.len(), 2..=4 | 6..=8 | 10 | 11) {
            return;
        }
        let text = |target: &mut Option<RawText>| {
            target.get_or_insert_with(|| unfold(field.value).into_owned());
        };
        let addresses = |target: &mut Vec<EnvelopeAddress>| target.append(&mut address_list(field.value));
        // Lowered in place: headers have many fields, and this is done for each of a folder.
        let mut name = [0_u8; 11];
        let Some(name) = name.get_mut(..field.name.len()) else { return };
        name.copy_from_slice(field.name);
        name.make_ascii_lowercase();
        match &*name {
            b"date" => text(&mut envelope.date),
            b"subject" => text(&mut envelope.subject),
            b"from" => addresses(&mut envelope.from),
            b"sender" => addresses(&mut envelope.sender),
            b"reply-to" => addresses(&mut envelope.reply_to),
            b"to" => addresses(&mut envelope.to),
            b"cc" => addresses(&mut envelope.cc),
            b"bcc" => addresses(&mut envelope.bcc),
            b"in-reply-to" => text(&mut envelope.in_reply_to),
            b"message-id" => text(&mut envelope.message_id),
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Envelope {
        let mut envelope = self.0;
        for field in [&mut envelope.sender, &mut envelope.reply_to] {
            if field.is_empty() {
                field.clone_from(&envelope.from);
            }
        }
        envelope
    }
}
