//! FETCH (RFC 3501 section 6.4.5) with the modifier of RFC 7162 section 3.1.4.1.

use super::values;
use crate::base::id::ModSeq;
use crate::imap::command::{Command, Fetch, FetchItem, FetchSection, Section, SectionText};
use crate::imap::lexer::{Lexer, Result, SyntaxError};
use crate::imap::respond;
use crate::imap::sequence::SequenceSet;

/// Most data items in one FETCH.
const ITEMS_MAX: usize = 200;
/// Most field names in one HEADER.FIELDS.
const FIELDS_MAX: usize = 500;
/// Deepest part number.
const PART_LEVELS_MAX: usize = 100;

/// Reads the arguments of FETCH.
pub fn fetch(lexer: &mut Lexer, by_uid: bool) -> Result<Command> {
    lexer.space()?;
    let set = SequenceSet::parse(lexer)?;
    lexer.space()?;
    let mut items = if lexer.peek() == Some(b'(') {
        values::list(lexer, ITEMS_MAX, item)?
    } else {
        match macro_items(lexer) {
            Some(items) => items,
            None => vec![item(lexer)?],
        }
    };
    if items.is_empty() {
        return Err(SyntaxError::expected("a data item"));
    }
    let mut changed_since = None;
    if lexer.accept(b' ') {
        values::list(lexer, 1, |lexer| {
            if !lexer.accept_word("CHANGEDSINCE") {
                return Err(SyntaxError::expected("CHANGEDSINCE"));
            }
            lexer.space()?;
            changed_since = Some(ModSeq(lexer.number64()?));
            Ok(())
        })?;
        // RFC 7162 section 3.1.4.1: MODSEQ is told as if it had been asked for.
        if changed_since.is_some() {
            add(&mut items, FetchItem::ModSeq);
        }
    }
    if by_uid {
        add(&mut items, FetchItem::Uid);
    }
    Ok(Command::Fetch(Fetch { set, by_uid, items, changed_since }))
}

fn add(items: &mut Vec<FetchItem>, item: FetchItem) {
    if !items.contains(&item) {
        items.insert(0, item);
    }
}

fn macro_items(lexer: &mut Lexer) -> Option<Vec<FetchItem>> {
    use FetchItem::{Body, Envelope, Flags, InternalDate, Size};
    if lexer.accept_word("FAST") {
        Some(vec![Flags, InternalDate, Size])
    } else if lexer.accept_word("ALL") {
        Some(vec![Flags, InternalDate, Size, Envelope])
    } else if lexer.accept_word("FULL") {
        Some(vec![Flags, InternalDate, Size, Envelope, Body])
    } else {
        None
    }
}

fn item(lexer: &mut Lexer) -> Result<FetchItem> {
    let name = lexer.take_while(|octet| octet.is_ascii_alphanumeric() || octet == b'.');
    let old = |name: &str, text, peek| {
        FetchItem::Section(FetchSection {
            section: Section { part: Vec::new(), text },
            peek,
            partial: None,
            label: name.as_bytes().to_vec(),
        })
    };
    Ok(match name.to_ascii_uppercase().as_slice() {
        b"FLAGS" => FetchItem::Flags,
        b"UID" => FetchItem::Uid,
        b"INTERNALDATE" => FetchItem::InternalDate,
        b"RFC822.SIZE" => FetchItem::Size,
        b"ENVELOPE" => FetchItem::Envelope,
        b"BODYSTRUCTURE" => FetchItem::BodyStructure,
        b"MODSEQ" => FetchItem::ModSeq,
        b"RFC822" => old("RFC822", SectionText::Whole, false),
        b"RFC822.HEADER" => old("RFC822.HEADER", SectionText::Header, true),
        b"RFC822.TEXT" => old("RFC822.TEXT", SectionText::Text, false),
        b"BODY" if lexer.peek() != Some(b'[') => FetchItem::Body,
        b"BODY" => section_item(lexer, false)?,
        b"BODY.PEEK" => section_item(lexer, true)?,
        _ => return Err(SyntaxError::expected("a data item of FETCH")),
    })
}

fn section_item(lexer: &mut Lexer, peek: bool) -> Result<FetchItem> {
    lexer.expect(b'[')?;
    let section = section(lexer)?;
    lexer.expect(b']')?;
    let mut label = label(&section);
    let mut partial = None;
    if lexer.accept(b'<') {
        let offset = lexer.number()?;
        lexer.expect(b'.')?;
        let count = lexer.number()?;
        if count == 0 {
            return Err(SyntaxError::expected("a count greater than zero"));
        }
        lexer.expect(b'>')?;
        partial = Some((offset, count));
        label.push(b'<');
        respond::number(&mut label, u64::from(offset));
        label.push(b'>');
    }
    Ok(FetchItem::Section(FetchSection { section, peek, partial, label }))
}

fn section(lexer: &mut Lexer) -> Result<Section> {
    let mut part = Vec::new();
    while lexer.peek().is_some_and(|octet| octet.is_ascii_digit()) {
        let number = lexer.number()?;
        if number == 0 || part.len() == PART_LEVELS_MAX {
            return Err(SyntaxError::expected("part numbers from 1, at most 100 levels"));
        }
        part.push(number);
        if !lexer.accept(b'.') {
            return Ok(Section { part, text: SectionText::Whole });
        }
    }
    let name = lexer.take_while(|octet| octet.is_ascii_alphanumeric() || octet == b'.');
    let text = match name.to_ascii_uppercase().as_slice() {
        b"" if part.is_empty() => SectionText::Whole,
        b"HEADER" => SectionText::Header,
        b"TEXT" => SectionText::Text,
        b"MIME" if !part.is_empty() => SectionText::Mime,
        b"HEADER.FIELDS" => SectionText::HeaderFields { names: field_names(lexer)?, not: false },
        b"HEADER.FIELDS.NOT" => SectionText::HeaderFields { names: field_names(lexer)?, not: true },
        _ => return Err(SyntaxError::expected("a section such as 1.2, HEADER, HEADER.FIELDS, TEXT or MIME")),
    };
    Ok(Section { part, text })
}

fn field_names(lexer: &mut Lexer) -> Result<Vec<bytes::Bytes>> {
    lexer.space()?;
    let names = values::list(lexer, FIELDS_MAX, |lexer| lexer.astring("a field name"))?;
    if names.is_empty() { Err(SyntaxError::expected("a field name")) } else { Ok(names) }
}

/// How the item is called in the answer.
fn label(section: &Section) -> Vec<u8> {
    let mut label = b"BODY[".to_vec();
    for (index, number) in section.part.iter().enumerate() {
        if index > 0 {
            label.push(b'.');
        }
        respond::number(&mut label, u64::from(*number));
    }
    if !section.part.is_empty() && section.text != SectionText::Whole {
        label.push(b'.');
    }
    match &section.text {
        SectionText::Whole => {}
        SectionText::Header => label.extend_from_slice(b"HEADER"),
        SectionText::Text => label.extend_from_slice(b"TEXT"),
        SectionText::Mime => label.extend_from_slice(b"MIME"),
        SectionText::HeaderFields { names, not } => {
            label.extend_from_slice(if *not { b"HEADER.FIELDS.NOT (" } else { b"HEADER.FIELDS (" });
            for (index, name) in names.iter().enumerate() {
                if index > 0 {
                    label.push(b' ');
                }
                respond::astring(&mut label, name);
            }
            label.push(b')');
        }
    }
    label.push(b']');
    label
}
