//! What is computed once at delivery so that listing never reads a body: envelope, structure, raw header, preview.
//!
//! Offsets are octets from the first octet of the body, that is after the trace lines.

use crate::base::clock::Timestamp;

/// Largest raw header kept in the summary, in octets.
pub const HEADER_OCTETS_MAX: usize = 64 * 1024;

/// A header field value in the raw form in which it stood (unfolded, MIME encoded words kept), as ENVELOPE wants it.
pub type RawText = Vec<u8>;

/// One address of an address field (RFC 3501 section 7.4.2); group syntax as there.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct EnvelopeAddress {
    /// Display name, encoded words kept.
    pub name: Option<RawText>,
    /// Local part; for the start of a group its name; nothing for the end of a group.
    pub mailbox: Option<RawText>,
    /// Domain; nothing for group markers.
    pub host: Option<RawText>,
}

/// ENVELOPE (RFC 3501 section 7.4.2).
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Envelope {
    /// Date.
    pub date: Option<RawText>,
    /// Subject.
    pub subject: Option<RawText>,
    /// From.
    pub from: Vec<EnvelopeAddress>,
    /// Sender, defaulted to From.
    pub sender: Vec<EnvelopeAddress>,
    /// Reply-To, defaulted to From.
    pub reply_to: Vec<EnvelopeAddress>,
    /// To.
    pub to: Vec<EnvelopeAddress>,
    /// Cc.
    pub cc: Vec<EnvelopeAddress>,
    /// Bcc.
    pub bcc: Vec<EnvelopeAddress>,
    /// In-Reply-To.
    pub in_reply_to: Option<RawText>,
    /// Message-ID.
    pub message_id: Option<RawText>,
}

/// One MIME part with everything BODYSTRUCTURE tells and where its bytes are.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// Media type, as written (`text`).
    pub media_type: RawText,
    /// Subtype, as written (`plain`).
    pub subtype: RawText,
    /// Parameters of Content-Type in order.
    pub parameters: Vec<(RawText, RawText)>,
    /// Content-ID.
    pub id: Option<RawText>,
    /// Content-Description.
    pub description: Option<RawText>,
    /// Content-Transfer-Encoding, `7bit` when absent.
    pub encoding: RawText,
    /// Content-MD5.
    pub md5: Option<RawText>,
    /// Content-Disposition and its parameters.
    pub disposition: Option<(RawText, Vec<(RawText, RawText)>)>,
    /// Content-Language.
    pub language: Vec<RawText>,
    /// Content-Location.
    pub location: Option<RawText>,
    /// First octet of the part's MIME header.
    pub header_start: u32,
    /// First octet of the part's content, after the blank line.
    pub body_start: u32,
    /// One past the last octet of the content.
    pub body_end: u32,
    /// Number of lines of the content.
    pub lines: u32,
    /// Parts of a multipart; the single part of an enclosed message/rfc822.
    pub parts: Vec<Part>,
    /// Envelope of an enclosed message/rfc822.
    pub envelope: Option<Box<Envelope>>,
}

/// The summary of a body.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// ENVELOPE.
    pub envelope: Envelope,
    /// The root part: for a multipart message the multipart itself.
    pub root: Part,
    /// The raw header with the blank line that ends it; nothing when longer than [`HEADER_OCTETS_MAX`].
    pub header: Option<Vec<u8>>,
    /// Length of the raw header with its blank line, in octets.
    pub header_octets: u32,
    /// The Date header: seconds since 1970 and the day it names in its own time zone.
    pub sent: Option<(i64, i32)>,
    /// First 200 characters of text for previews.
    pub preview: String,
}

impl Summary {
    /// The Date header as a moment.
    pub fn sent_at(&self) -> Option<Timestamp> {
        self.sent.map(|(secs, _)| Timestamp::from_secs(secs))
    }
}

/// Computes the summary of a body of any bytes. Never fails and never panics: what cannot be understood is described
/// as RFC 2045 section 5.2 says, as `text/plain`. Depth and number of parts are bounded.
pub fn summarize(body: &[u8]) -> Summary {
    let _ = body;
    todo!("mime")
}
