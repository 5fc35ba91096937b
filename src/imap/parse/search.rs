//! SEARCH (RFC 3501 section 6.4.4) with the return options of RFC 4731 and MODSEQ of RFC 7162 section 3.1.5.

use bytes::Bytes;

use super::values;
use crate::base::id::ModSeq;
use crate::imap::command::{Command, DateComparison, Key, SearchProgram, SearchReturn};
use crate::imap::lexer::{Lexer, Result, SyntaxError};
use crate::imap::sequence::SequenceSet;
use crate::service::mailstore::types::FlagBits;

/// Deepest nesting of parentheses, NOT and OR.
const DEPTH_MAX: usize = 50;
/// Most keys in one search.
const KEYS_MAX: usize = 1_000;
/// Longest searched text in octets.
const TEXT_OCTETS_MAX: usize = 8_192;

/// Reads the arguments of SEARCH.
pub fn search(lexer: &mut Lexer, by_uid: bool) -> Result<Command> {
    lexer.space()?;
    let mut options = None;
    if lexer.accept_word("RETURN") {
        lexer.space()?;
        options = Some(return_options(lexer)?);
        lexer.space()?;
    }
    let mut charset = None;
    if lexer.accept_word("CHARSET") {
        lexer.space()?;
        charset = Some(lexer.astring("a charset")?);
        lexer.space()?;
    }
    let mut reader = KeyReader { lexer, keys: 0 };
    let mut keys = vec![reader.key(0)?];
    while reader.lexer.accept(b' ') {
        if reader.lexer.is_end() {
            break;
        }
        keys.push(reader.key(0)?);
    }
    Ok(Command::Search { program: SearchProgram { options, charset, keys }, by_uid })
}

fn return_options(lexer: &mut Lexer) -> Result<SearchReturn> {
    let mut options = SearchReturn::default();
    let count = values::list(lexer, 10, |lexer| {
        match lexer.keyword("a return option")?.as_str() {
            "MIN" => options.min = true,
            "MAX" => options.max = true,
            "ALL" => options.all = true,
            "COUNT" => options.count = true,
            _ => return Err(SyntaxError("unknown return option".to_owned())),
        }
        Ok(())
    })?
    .len();
    // RFC 4731 section 3.1: an empty list means ALL.
    options.all |= count == 0;
    Ok(options)
}

struct KeyReader<'a> {
    lexer: &'a mut Lexer,
    keys: usize,
}

impl KeyReader<'_> {
    fn key(&mut self, depth: usize) -> Result<Key> {
        self.keys += 1;
        if depth > DEPTH_MAX || self.keys > KEYS_MAX {
            return Err(SyntaxError("the search is too deep or has too many keys".to_owned()));
        }
        if self.lexer.accept(b'(') {
            let mut keys = vec![self.key(depth + 1)?];
            while !self.lexer.accept(b')') {
                self.lexer.space()?;
                keys.push(self.key(depth + 1)?);
            }
            return Ok(Key::And(keys));
        }
        if self.lexer.peek().is_some_and(SequenceSet::starts_with) {
            return Ok(Key::Sequence(SequenceSet::parse(self.lexer)?));
        }
        let name = self.lexer.keyword("a search key")?;
        if let Some(key) = flag_key(&name) {
            return Ok(key);
        }
        match name.as_str() {
            "NOT" => {
                self.lexer.space()?;
                Ok(Key::Not(Box::new(self.key(depth + 1)?)))
            }
            "OR" => {
                self.lexer.space()?;
                let left = self.key(depth + 1)?;
                self.lexer.space()?;
                Ok(Key::Or(Box::new(left), Box::new(self.key(depth + 1)?)))
            }
            name => {
                self.lexer.space()?;
                self.key_with_value(name)
            }
        }
    }

    fn key_with_value(&mut self, name: &str) -> Result<Key> {
        let date = |lexer: &mut Lexer, sent, comparison| {
            Ok(Key::Date { sent, comparison, day: values::date(lexer)? })
        };
        match name {
            "UID" => Ok(Key::Uid(SequenceSet::parse(self.lexer)?)),
            "KEYWORD" => Ok(Key::Keyword(values::keyword(self.lexer)?.into())),
            "UNKEYWORD" => Ok(not(Key::Keyword(values::keyword(self.lexer)?.into()))),
            "LARGER" => Ok(Key::Larger(self.lexer.number64()?)),
            "SMALLER" => Ok(Key::Smaller(self.lexer.number64()?)),
            "BEFORE" => date(self.lexer, false, DateComparison::Before),
            "ON" => date(self.lexer, false, DateComparison::On),
            "SINCE" => date(self.lexer, false, DateComparison::Since),
            "SENTBEFORE" => date(self.lexer, true, DateComparison::Before),
            "SENTON" => date(self.lexer, true, DateComparison::On),
            "SENTSINCE" => date(self.lexer, true, DateComparison::Since),
            "HEADER" => {
                let field = self.text()?;
                self.lexer.space()?;
                Ok(Key::Header(field, self.text()?))
            }
            "BCC" | "CC" | "FROM" | "SUBJECT" | "TO" => {
                Ok(Key::Header(Bytes::copy_from_slice(name.as_bytes()), self.text()?))
            }
            "BODY" => Ok(Key::Body(self.text()?)),
            "TEXT" => Ok(Key::Text(self.text()?)),
            "MODSEQ" => self.mod_seq(),
            _ => Err(SyntaxError("unknown search key".to_owned())),
        }
    }

    fn text(&mut self) -> Result<Bytes> {
        let text = self.lexer.astring("a text to search for")?;
        if text.len() > TEXT_OCTETS_MAX {
            return Err(SyntaxError(format!("expected a text of at most {TEXT_OCTETS_MAX} octets")));
        }
        Ok(text)
    }

    /// `MODSEQ ["/flags/\Seen" all] 1`: mod-sequences are kept per message, so the entry makes no difference
    /// (RFC 7162 section 3.1.5).
    fn mod_seq(&mut self) -> Result<Key> {
        if self.lexer.peek() == Some(b'"') {
            self.lexer.string("an entry name")?;
            self.lexer.space()?;
            match self.lexer.keyword("an entry type")?.as_str() {
                "ALL" | "PRIV" | "SHARED" => {}
                _ => return Err(SyntaxError::expected("all, priv or shared")),
            }
            self.lexer.space()?;
        }
        Ok(Key::ModSeq(ModSeq(self.lexer.number64()?)))
    }
}

fn not(key: Key) -> Key {
    Key::Not(Box::new(key))
}

fn flag_key(name: &str) -> Option<Key> {
    Some(match name {
        "ALL" => Key::All,
        "ANSWERED" => Key::Flag(FlagBits::ANSWERED),
        "DELETED" => Key::Flag(FlagBits::DELETED),
        "DRAFT" => Key::Flag(FlagBits::DRAFT),
        "FLAGGED" => Key::Flag(FlagBits::FLAGGED),
        "SEEN" => Key::Flag(FlagBits::SEEN),
        "UNANSWERED" => not(Key::Flag(FlagBits::ANSWERED)),
        "UNDELETED" => not(Key::Flag(FlagBits::DELETED)),
        "UNDRAFT" => not(Key::Flag(FlagBits::DRAFT)),
        "UNFLAGGED" => not(Key::Flag(FlagBits::FLAGGED)),
        "UNSEEN" => not(Key::Flag(FlagBits::SEEN)),
        "RECENT" => Key::Recent,
        "OLD" => not(Key::Recent),
        "NEW" => Key::And(vec![Key::Recent, not(Key::Flag(FlagBits::SEEN))]),
        _ => return None,
    })
}
