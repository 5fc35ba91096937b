//! The stored form of a [`Summary`]: one version octet, the parts and preview in postcard, then the raw header.
//!
//! Whatever the raw header says is read from it again (a few microseconds) instead of being stored twice: the
//! envelope, the time of sending, and the fields of the root part. The header stands last and as it was received,
//! so that a compression dictionary trained on mail fits it.

use serde::{Deserialize, Serialize};

use super::mime::content::describe_message;
use super::mime::structure::{DEPTH_MAX, PARTS_MAX};
use super::summary::{Envelope, Part, RawText, Summary, sent_of};

/// Version of the form; the first octet.
const VERSION: u8 = 1;

/// Why stored octets are no summary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SummaryDecodeError {
    /// Written by a version of the program that this one does not know.
    #[error("summary version {0} is not known")]
    Version(u8),
    /// Not what was written.
    #[error("summary is damaged: {0}")]
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    header_octets: u32,
    /// Whether the raw header follows; otherwise `long` has what it would tell.
    has_header: bool,
    preview: String,
    /// Sizes of the root part and of those below it in the order of the message.
    parts: Vec<StoredPart>,
    /// Only of a message whose header was too long to keep.
    long: Option<Box<Long>>,
}

/// What a header that is not kept would tell.
#[derive(Serialize, Deserialize)]
struct Long {
    envelope: Envelope,
    sent: Option<(i64, i32)>,
}

#[derive(Serialize, Deserialize)]
struct StoredPart {
    /// Number of parts directly below.
    parts: u16,
    /// From the end of the part before, or the start of the content of the part around, to the MIME header.
    gap: u32,
    header_octets: u32,
    body_octets: u32,
    lines: u32,
    /// Nothing for a root part whose header is kept.
    fields: Option<Box<Fields>>,
}

type Texts = Vec<(RawText, RawText)>;

#[derive(Serialize, Deserialize)]
struct Fields {
    media_type: RawText,
    subtype: RawText,
    parameters: Texts,
    encoding: RawText,
    disposition: Option<(RawText, Texts)>,
    id: Option<RawText>,
    /// Description, location, MD5, languages: rare, and together, so that their absence costs one octet.
    rare: Option<Box<RareFields>>,
    envelope: Option<Box<Envelope>>,
}

#[derive(Serialize, Deserialize)]
struct RareFields {
    description: Option<RawText>,
    location: Option<RawText>,
    md5: Option<RawText>,
    language: Vec<RawText>,
}

impl Summary {
    /// The stored form, not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut end = 0;
        flatten(&self.root, self.header.is_none(), &mut end, &mut parts);
        let stored = Stored {
            header_octets: self.header_octets,
            has_header: self.header.is_some(),
            preview: self.preview.clone(),
            parts,
            long: self
                .header
                .is_none()
                .then(|| Box::new(Long { envelope: self.envelope.clone(), sent: self.sent })),
        };
        let header = self.header.as_deref().unwrap_or_default();
        let mut octets = Vec::with_capacity(header.len() + 512);
        octets.push(VERSION);
        // Writing to memory fails only for lengths that nothing here reaches; what is then missing is found by
        // `decode`.
        let mut octets = postcard::to_extend(&stored, octets).unwrap_or_default();
        octets.extend_from_slice(header);
        octets
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When the octets were not written by [`Self::encode`] of this version or an older one.
    pub fn decode(octets: &[u8]) -> Result<Self, SummaryDecodeError> {
        let (version, rest) = octets.split_first().ok_or(SummaryDecodeError::Damaged("empty"))?;
        if *version != VERSION {
            return Err(SummaryDecodeError::Version(*version));
        }
        let (stored, header) = postcard::take_from_bytes::<Stored>(rest)
            .map_err(|_| SummaryDecodeError::Damaged("structure"))?;
        if stored.has_header && header.len() != stored.header_octets as usize {
            return Err(SummaryDecodeError::Damaged("header"));
        }
        if stored.parts.len() > PARTS_MAX + DEPTH_MAX {
            return Err(SummaryDecodeError::Damaged("number of parts"));
        }
        let described = stored.has_header.then(|| describe_message(header));
        let mut parts = stored.parts.into_iter();
        let mut end = 0;
        let mut root = unflatten(&mut parts, 0, &mut end)?;
        let mut envelope = None;
        if let Some((described, read)) = described {
            envelope = Some(read);
            root = Part {
                header_start: root.header_start,
                body_start: root.body_start,
                body_end: root.body_end,
                lines: root.lines,
                parts: root.parts,
                ..described
            };
        }
        let (envelope, sent) = match (stored.long, envelope) {
            (Some(long), _) => (long.envelope, long.sent),
            (None, envelope) => {
                let envelope = envelope.unwrap_or_default();
                let sent = sent_of(&envelope);
                (envelope, sent)
            }
        };
        Ok(Self {
            envelope,
            sent,
            root,
            header: stored.has_header.then(|| header.to_vec()),
            header_octets: stored.header_octets,
            preview: stored.preview,
        })
    }
}

/// Appends `part` and those below it; recursion is bounded by the depth of the tree. `end` is where the last part
/// ended.
fn flatten(part: &Part, with_fields: bool, end: &mut u32, parts: &mut Vec<StoredPart>) {
    let rare = RareFields {
        description: part.description.clone(),
        location: part.location.clone(),
        md5: part.md5.clone(),
        language: part.language.clone(),
    };
    let has_rare = part.description.is_some()
        || part.location.is_some()
        || part.md5.is_some()
        || !part.language.is_empty();
    let fields = with_fields.then(|| {
        Box::new(Fields {
            media_type: part.media_type.clone(),
            subtype: part.subtype.clone(),
            parameters: part.parameters.clone(),
            encoding: part.encoding.clone(),
            disposition: part.disposition.clone(),
            id: part.id.clone(),
            rare: has_rare.then(|| Box::new(rare)),
            envelope: part.envelope.clone(),
        })
    });
    parts.push(StoredPart {
        parts: u16::try_from(part.parts.len()).unwrap_or(u16::MAX),
        gap: part.header_start.wrapping_sub(*end),
        header_octets: part.body_start.wrapping_sub(part.header_start),
        body_octets: part.body_end.wrapping_sub(part.body_start),
        lines: part.lines,
        fields,
    });
    *end = part.body_start;
    for below in &part.parts {
        flatten(below, true, end, parts);
    }
    *end = part.body_end;
}

/// The reverse of [`flatten`]; refuses more than [`DEPTH_MAX`] levels and a few, whatever the octets say.
fn unflatten(
    stored: &mut impl Iterator<Item = StoredPart>,
    depth: usize,
    end: &mut u32,
) -> Result<Part, SummaryDecodeError> {
    if depth > DEPTH_MAX + 2 {
        return Err(SummaryDecodeError::Damaged("depth"));
    }
    let next = stored.next().ok_or(SummaryDecodeError::Damaged("parts"))?;
    let header_start = end.wrapping_add(next.gap);
    let body_start = header_start.wrapping_add(next.header_octets);
    let mut part = Part {
        header_start,
        body_start,
        body_end: body_start.wrapping_add(next.body_octets),
        lines: next.lines,
        ..Part::default()
    };
    if let Some(fields) = next.fields {
        part.media_type = fields.media_type;
        part.subtype = fields.subtype;
        part.parameters = fields.parameters;
        part.encoding = fields.encoding;
        part.disposition = fields.disposition;
        part.id = fields.id;
        part.envelope = fields.envelope;
        if let Some(rare) = fields.rare {
            part.description = rare.description;
            part.location = rare.location;
            part.md5 = rare.md5;
            part.language = rare.language;
        }
    }
    *end = body_start;
    part.parts = (0..next.parts).map(|_| unflatten(stored, depth + 1, end)).collect::<Result<_, _>>()?;
    *end = part.body_end;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::summary::{HEADER_OCTETS_MAX, summarize};
    use super::*;

    const MESSAGE: &str = "From: A <a@x>\r\nDate: Fri, 21 Nov 1997 09:55:06 -0600\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Language: de, en\r\n\r\nHallo Welt\r\n--b\r\n\
        Content-Type: message/rfc822\r\nContent-Disposition: attachment; filename=x.eml\r\n\r\nSubject: inner\r\n\
        Content-Type: text/html; charset=utf-8\r\n\r\n<b>x</b>\r\n--b--\r\n";

    #[test]
    fn what_is_decoded_equals_what_was_encoded() {
        let summary = summarize(MESSAGE.as_bytes());
        assert_eq!(summary.sent, Some((880_127_706, 10_186)));
        assert_eq!(summary.preview, "Hallo Welt");
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
    }

    #[test]
    fn a_header_too_long_to_keep_is_still_described() {
        let message = format!("X: {}\r\n{MESSAGE}", "x".repeat(HEADER_OCTETS_MAX));
        let summary = summarize(message.as_bytes());
        assert_eq!(summary.header, None);
        assert_eq!(summary.envelope.from.len(), 1);
        assert!(summary.encode().len() < 1_000);
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
    }

    #[test]
    fn damage_is_an_error() {
        let octets = summarize(MESSAGE.as_bytes()).encode();
        assert_eq!(Summary::decode(&[]), Err(SummaryDecodeError::Damaged("empty")));
        assert_eq!(Summary::decode(&[9]), Err(SummaryDecodeError::Version(9)));
        assert!(Summary::decode(&octets[..octets.len() - 1]).is_err());
        for at in 0..octets.len() {
            let mut damaged = octets.clone();
            damaged[at] ^= 0x55;
            let _ = Summary::decode(&damaged);
        }
    }

    /// Pieces of which MIME messages are made, so that random ones are not all plain text.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("\r\n"),
            Just("\n"),
            Just("--a"),
            Just("--ab--"),
            Just("--a--\r\n"),
            Just("--ab\r\n"),
            Just("--a\n"),
            Just("Content-Type: multipart/mixed; boundary=a\r\n"),
            Just("Content-Type: multipart/digest; boundary=\"ab\"\r\n\r\n"),
            Just("Content-Type: message/rfc822\r\n\r\n"),
            Just("Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
            Just("From: g: a <b@c>, \"d e\"@f;(x\r\n"),
            Just("Subject: =?utf-8?q?=C3?= \r\n\t=?utf-8?b?w7Y?="),
            Just("Date: 1 Jan 1970 00:00:00 +0000\r\n"),
            Just("Content-Disposition: a; b*0=c; b*1*=d\r\n"),
            Just("text"),
            Just("<p>&amp;"),
            Just("\0\u{fffd}"),
            Just(" "),
            Just("("),
            Just("\""),
            Just("\\"),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_message_is_summarized_and_survives_storage(body in message()) {
            let summary = summarize(&body);
            for part in summary.root.walk() {
                prop_assert!(part.header_start <= part.body_start && part.body_start <= part.body_end);
                prop_assert!(part.body_end as usize <= body.len());
                let lines = part.content(&body).iter().filter(|octet| **octet == b'\n').count();
                prop_assert_eq!(part.lines as usize, lines);
                for below in &part.parts {
                    prop_assert!(part.body_start <= below.header_start && below.body_end <= part.body_end);
                }
            }
            prop_assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        }

        #[test]
        fn any_octets_are_summarized(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let summary = summarize(&body);
            prop_assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        }
    }
}
