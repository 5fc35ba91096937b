//! What the header of one part says about its content (RFC 2045, RFC 2183, RFC 3282).

use super::super::summary::{Envelope, Part, RawText};
use super::envelope::EnvelopeFields;
use super::field::{Field, Fields, unfold};
use super::token::{Lexer, Parameter, is_atom, media_type, word_and_parameters};

/// What a part holds, as far as its structure goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Octets.
    Leaf,
    /// Parts.
    Multipart,
    /// Parts that are messages unless they say otherwise (RFC 2046 section 5.1.5).
    Digest,
    /// A message.
    Message,
}

/// The fields of the root part and the envelope, in one pass over the header of a message.
pub fn describe_message(header: &[u8]) -> (Part, Envelope) {
    let mut envelope = EnvelopeFields::default();
    let (part, ..) = describe_fields(header, None, Some(&mut envelope));
    (part, envelope.finish())
}

/// What the header of a part says: its fields, what it holds, and the boundary of a multipart.
pub(super) fn describe(header: &[u8], parent: Option<Kind>) -> (Part, Kind, Option<Vec<u8>>) {
    if parent != Some(Kind::Message) {
        return describe_fields(header, parent, None);
    }
    let mut envelope = EnvelopeFields::default();
    let (mut part, kind, boundary) = describe_fields(header, parent, Some(&mut envelope));
    part.envelope = Some(Box::new(envelope.finish()));
    (part, kind, boundary)
}

fn describe_fields(
    header: &[u8],
    parent: Option<Kind>,
    mut envelope: Option<&mut EnvelopeFields>,
) -> (Part, Kind, Option<Vec<u8>>) {
    let mut part = Part::default();
    let mut content_type = None;
    // The parts of a multipart are MIME by definition, messages only if they say so (RFC 2045 section 4).
    let mut is_mime = matches!(parent, Some(Kind::Multipart | Kind::Digest));
    for field in Fields::new(header) {
        if let Some(name) =
            field.name.split_at_checked(8).filter(|(start, _)| start.eq_ignore_ascii_case(b"content-"))
        {
            is_mime |= name.1.eq_ignore_ascii_case(b"type");
            content_field(&mut part, &mut content_type, name.1, &field);
        } else if field.is("mime-version") {
            is_mime = true;
        }
        if let Some(envelope) = envelope.as_deref_mut() {
            envelope.take(&field);
        }
    }
    if !is_mime {
        part = Part::default();
        content_type = None;
    }
    let understood = content_type.as_ref().and_then(|value| media_type(value));
    let (kind, boundary) = match understood {
        Some((kind, subtype, parameters)) => set_media_type(&mut part, kind, subtype, parameters),
        None if content_type.is_none() && parent == Some(Kind::Digest) => {
            set_media_type(&mut part, b"message".to_vec(), b"rfc822".to_vec(), Vec::new())
        }
        None => set_media_type(&mut part, b"text".to_vec(), b"plain".to_vec(), Vec::new()),
    };
    if part.encoding.is_empty() {
        part.encoding = b"7bit".to_vec();
    }
    (part, kind, boundary)
}

fn set_media_type(
    part: &mut Part,
    media_type: RawText,
    subtype: RawText,
    parameters: Vec<Parameter>,
) -> (Kind, Option<Vec<u8>>) {
    part.media_type = media_type;
    part.subtype = subtype;
    part.parameters = parameters;
    if part.media_type.eq_ignore_ascii_case(b"text") && part.parameter(b"charset").is_none() {
        // RFC 2045 section 5.2.
        part.parameters.push((b"charset".to_vec(), b"us-ascii".to_vec()));
    }
    if part.media_type.eq_ignore_ascii_case(b"multipart") {
        let boundary = part.parameter(b"boundary").map(|boundary| boundary.trim_ascii_end().to_vec());
        let kind = if part.subtype.eq_ignore_ascii_case(b"digest") { Kind::Digest } else { Kind::Multipart };
        return (kind, boundary.filter(|boundary| !boundary.is_empty()));
    }
    if part.media_type.eq_ignore_ascii_case(b"message") && part.subtype.eq_ignore_ascii_case(b"rfc822") {
        return (Kind::Message, None);
    }
    (Kind::Leaf, None)
}

/// Takes a Content-… field, `name` being what follows the hyphen; the first of each name counts.
fn content_field(part: &mut Part, content_type: &mut Option<Vec<u8>>, name: &[u8], field: &Field<'_>) {
    let text = || Some(unfold(field.value).into_owned());
    match name.to_ascii_lowercase().as_slice() {
        b"type" if content_type.is_none() => *content_type = Some(field.value.to_vec()),
        b"transfer-encoding" if part.encoding.is_empty() => {
            let mut lexer = Lexer::new(field.value);
            lexer.skip_white();
            let encoding = lexer.token();
            if lexer.peek().is_none() || is_known_encoding(encoding) {
                part.encoding = encoding.to_vec();
            }
        }
        b"id" if part.id.is_none() => part.id = text(),
        b"description" if part.description.is_none() => part.description = text(),
        b"md5" if part.md5.is_none() => part.md5 = text(),
        b"location" if part.location.is_none() => part.location = text(),
        b"disposition" if part.disposition.is_none() => part.disposition = word_and_parameters(field.value),
        b"language" if part.language.is_empty() => part.language = languages(field.value),
        _ => {}
    }
}

/// With garbage behind it, an encoding counts only if it is one of RFC 2045 section 6.1.
fn is_known_encoding(encoding: &[u8]) -> bool {
    let known = ["7bit", "8bit", "binary", "quoted-printable", "base64"];
    known.iter().any(|name| encoding.eq_ignore_ascii_case(name.as_bytes()))
}

/// Language tags separated by commas (RFC 3282).
fn languages(value: &[u8]) -> Vec<RawText> {
    let mut lexer = Lexer::new(value);
    let mut languages = Vec::new();
    loop {
        lexer.skip_white();
        let tag = lexer.run(is_atom);
        if tag.is_empty() {
            return languages;
        }
        languages.push(tag.to_vec());
        lexer.skip_white();
        if !lexer.accept(b',') {
            return languages;
        }
    }
}
