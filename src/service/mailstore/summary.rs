//! What is computed once at delivery so that listing never reads a body: envelope, structure, raw header, preview.
//!
//! Offsets are octets from the first octet of the body, that is after the trace lines.

use super::mime;
pub use super::summary_encoding::SummaryDecodeError;
use crate::base::clock::Timestamp;

/// Largest raw header kept in the summary, in octets.
pub const HEADER_OCTETS_MAX: usize = 64 * 1024;
/// Longest preview, in characters (RFC 8970 section 3.1 allows 256).
pub const PREVIEW_CHARACTERS_MAX: usize = 200;

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

impl Part {
    /// Value of the Content-Type parameter `name`, whatever its case.
    pub fn parameter(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }

    /// Whether this part is of type `media_type` and, unless empty, `subtype`; lower case.
    pub fn is_type(&self, media_type: &str, subtype: &str) -> bool {
        self.media_type.eq_ignore_ascii_case(media_type.as_bytes())
            && (subtype.is_empty() || self.subtype.eq_ignore_ascii_case(subtype.as_bytes()))
    }

    /// Its content as it stands in `body`.
    pub fn content<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        mime::cut(body, self.body_start, self.body_end)
    }

    /// This part and all below it, in the order in which they stand in the message.
    pub fn walk(&self) -> impl Iterator<Item = &Part> {
        let mut stack = vec![self];
        std::iter::from_fn(move || {
            let part = stack.pop()?;
            stack.extend(part.parts.iter().rev());
            Some(part)
        })
    }
}

/// Computes the summary of a body of any bytes. Never fails and never panics: what cannot be understood is described
/// as RFC 2045 section 5.2 says, as `text/plain`. Depth and number of parts are bounded.
pub fn summarize(body: &[u8]) -> Summary {
    let root = mime::structure::parse(body);
    let header = mime::cut(body, 0, root.body_start);
    let envelope = mime::envelope::envelope(header);
    let sent = sent_of(&envelope);
    let preview = preview(&root, body);
    Summary {
        envelope,
        header: (header.len() <= HEADER_OCTETS_MAX).then(|| header.to_vec()),
        header_octets: root.body_start,
        sent,
        preview,
        root,
    }
}

/// Time of sending that an envelope gives.
pub(super) fn sent_of(envelope: &Envelope) -> Option<(i64, i32)> {
    envelope.date.as_deref().and_then(mime::date::parse)
}

/// Octets of a text part that are looked at for the preview.
const PREVIEW_OCTETS_MAX: u32 = 4 * 1024;
/// Octets of an HTML part that are looked at: its text may come late.
const PREVIEW_HTML_OCTETS_MAX: u32 = 16 * 1024;

/// The beginning of the text that a reader would see: of the first plain text, else of the first HTML.
fn preview(root: &Part, body: &[u8]) -> String {
    let is_attachment = |part: &Part| {
        part.disposition.as_ref().is_some_and(|(kind, _)| kind.eq_ignore_ascii_case(b"attachment"))
    };
    let first =
        |subtype: &str| root.walk().find(|part| part.is_type("text", subtype) && !is_attachment(part));
    let start = |part: &Part, octets_max: u32| {
        let end = part.body_end.min(part.body_start.saturating_add(octets_max));
        mime::charset::part_text(part, mime::cut(body, part.body_start, end)).into_owned()
    };
    if let Some(part) = first("plain") {
        let text = start(part, PREVIEW_OCTETS_MAX);
        let unquoted = text.lines().filter(|line| !line.starts_with('>'));
        let preview = shorten(unquoted.flat_map(str::split_whitespace));
        if !preview.is_empty() {
            return preview;
        }
    }
    first("html").map_or_else(String::new, |part| {
        let html = start(part, PREVIEW_HTML_OCTETS_MAX);
        shorten(mime::charset::html_text(&html).split_whitespace())
    })
}

/// Words with one space between them, at most [`PREVIEW_CHARACTERS_MAX`] characters.
fn shorten<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut preview = String::new();
    let mut characters = 0;
    for word in words {
        if characters >= PREVIEW_CHARACTERS_MAX {
            break;
        }
        if !preview.is_empty() {
            preview.push(' ');
            characters += 1;
        }
        for character in word.chars().filter(|c| !c.is_control()).take(PREVIEW_CHARACTERS_MAX - characters) {
            preview.push(character);
            characters += 1;
        }
    }
    preview
}
