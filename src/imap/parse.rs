//! Reads a command (RFC 3501 section 9 and the extensions that this server announces). Pure: bytes in,
//! command out.

mod append;
mod fetch;
mod list;
mod search;
mod values;

pub use append::{AppendHead, append_head};

use bytes::Bytes;

use super::command::{Command, Store, Tagged, Transfer};
use super::lexer::{Lexer, Result, SyntaxError, is_astring_char};
use super::sequence::SequenceSet;
use crate::base::id::ModSeq;
use crate::service::mailstore::types::{Access, FlagMode};

/// Longest tag taken, in octets.
const TAG_OCTETS_MAX: usize = 200;
/// Most capability names in ENABLE.
const ENABLE_NAMES_MAX: usize = 100;
/// Most fields in ID (RFC 2971 section 3.3), and some for clients that cannot count.
const ID_FIELDS_MAX: usize = 60;

/// Why a command cannot be executed: the tag to answer with, if one could be read, and what is wrong.
#[derive(Debug)]
pub struct Malformed {
    /// The tag.
    pub tag: Option<Bytes>,
    /// What is wrong.
    pub error: SyntaxError,
}

/// Reads one command without its final line end.
///
/// # Errors
/// What `BAD` is answered with.
pub fn parse(bytes: Bytes) -> std::result::Result<Tagged, Malformed> {
    let mut lexer = Lexer::new(bytes);
    let tag = tag(&mut lexer).map_err(|error| Malformed { tag: None, error })?;
    match command(&mut lexer) {
        Ok(command) => Ok(Tagged { tag, command }),
        Err(error) => Err(Malformed { tag: Some(tag), error }),
    }
}

fn tag(lexer: &mut Lexer) -> Result<Bytes> {
    let tag = lexer.take_while(|octet| is_astring_char(octet) && octet != b'+');
    if tag.is_empty() || tag.len() > TAG_OCTETS_MAX {
        return Err(SyntaxError::expected("a tag"));
    }
    Ok(tag)
}

fn command(lexer: &mut Lexer) -> Result<Command> {
    lexer.space()?;
    let name = lexer.keyword("a command")?;
    let command = if name == "UID" {
        lexer.space()?;
        let name = lexer.keyword("a command after UID")?;
        uid_command(&name, lexer)?
    } else {
        plain_command(&name, lexer)?
    };
    lexer.end()?;
    Ok(command)
}

fn uid_command(name: &str, lexer: &mut Lexer) -> Result<Command> {
    match name {
        "FETCH" => fetch::fetch(lexer, true),
        "STORE" => store(lexer, true),
        "SEARCH" => search::search(lexer, true),
        "COPY" => Ok(Command::Copy(transfer(lexer, true)?)),
        "MOVE" => Ok(Command::Move(transfer(lexer, true)?)),
        "EXPUNGE" => {
            lexer.space()?;
            Ok(Command::Expunge(Some(SequenceSet::parse(lexer)?)))
        }
        _ => Err(SyntaxError("unknown command after UID".to_owned())),
    }
}

fn plain_command(name: &str, lexer: &mut Lexer) -> Result<Command> {
    Ok(match name {
        "CAPABILITY" => Command::Capability,
        "NOOP" => Command::Noop,
        "LOGOUT" => Command::Logout,
        "STARTTLS" => Command::StartTls,
        "NAMESPACE" => Command::Namespace,
        "IDLE" => Command::Idle,
        "CHECK" => Command::Check,
        "CLOSE" => Command::Close,
        "UNSELECT" => Command::Unselect,
        "EXPUNGE" => Command::Expunge(None),
        "ID" => id(lexer)?,
        "AUTHENTICATE" => authenticate(lexer)?,
        "LOGIN" => {
            let (username, password) = (argument(lexer, "a user name")?, argument(lexer, "a password")?);
            Command::Login { username, password }
        }
        "ENABLE" => enable(lexer)?,
        "SELECT" => list::select(lexer, Access::ReadWrite)?,
        "EXAMINE" => list::select(lexer, Access::ReadOnly)?,
        "CREATE" => list::create(lexer)?,
        "DELETE" => Command::Delete(folder(lexer)?),
        "RENAME" => Command::Rename { from: folder(lexer)?, to: folder(lexer)? },
        "SUBSCRIBE" => Command::Subscribe { folder: folder(lexer)?, subscribed: true },
        "UNSUBSCRIBE" => Command::Subscribe { folder: folder(lexer)?, subscribed: false },
        "LIST" => list::list(lexer)?,
        "LSUB" => list::lsub(lexer)?,
        "STATUS" => list::status(lexer)?,
        "APPEND" => append::append(lexer)?,
        "GETQUOTA" => Command::QuotaOfRoot(argument(lexer, "a quota root")?),
        "GETQUOTAROOT" => Command::QuotaRootsOf(folder(lexer)?),
        "SETQUOTA" => {
            // Refused whatever it asks: read only so far as to stay in step.
            lexer.take_while(|_| true);
            Command::QuotaSet
        }
        "SEARCH" => search::search(lexer, false)?,
        "FETCH" => fetch::fetch(lexer, false)?,
        "STORE" => store(lexer, false)?,
        "COPY" => Command::Copy(transfer(lexer, false)?),
        "MOVE" => Command::Move(transfer(lexer, false)?),
        _ => return Err(SyntaxError("unknown command".to_owned())),
    })
}

/// A space and an astring.
fn argument(lexer: &mut Lexer, what: &str) -> Result<Bytes> {
    lexer.space()?;
    lexer.astring(what)
}

/// A space and a folder name.
fn folder(lexer: &mut Lexer) -> Result<Bytes> {
    argument(lexer, "a folder name")
}

/// ID (RFC 2971 section 3.1). What clients say about themselves is read and forgotten.
fn id(lexer: &mut Lexer) -> Result<Command> {
    lexer.space()?;
    if lexer.accept_word("NIL") {
        return Ok(Command::Id);
    }
    lexer.expect(b'(')?;
    for index in 0..ID_FIELDS_MAX {
        if lexer.accept(b')') {
            return Ok(Command::Id);
        }
        if index > 0 {
            lexer.space()?;
        }
        lexer.string("a field name")?;
        lexer.space()?;
        lexer.nstring("a field value or NIL")?;
    }
    lexer.expect(b')')?;
    Ok(Command::Id)
}

fn authenticate(lexer: &mut Lexer) -> Result<Command> {
    lexer.space()?;
    let mechanism = lexer.keyword("a SASL mechanism")?;
    let initial = if lexer.accept(b' ') {
        let initial = lexer.take_while(|octet| !matches!(octet, b' ' | b'\r' | b'\n'));
        if initial.is_empty() {
            return Err(SyntaxError::expected("an initial response in base64, or ="));
        }
        Some(initial)
    } else {
        None
    };
    Ok(Command::Authenticate { mechanism, initial })
}

fn enable(lexer: &mut Lexer) -> Result<Command> {
    let mut names = Vec::new();
    while names.is_empty() || !lexer.is_end() {
        if names.len() == ENABLE_NAMES_MAX {
            return Err(SyntaxError("too many capability names".to_owned()));
        }
        lexer.space()?;
        names.push(lexer.keyword("a capability name")?);
    }
    Ok(Command::Enable(names))
}

fn transfer(lexer: &mut Lexer, by_uid: bool) -> Result<Transfer> {
    lexer.space()?;
    let set = SequenceSet::parse(lexer)?;
    Ok(Transfer { set, by_uid, folder: folder(lexer)? })
}

/// STORE (RFC 3501 section 6.4.6) with the modifier of RFC 7162 section 3.1.3.
fn store(lexer: &mut Lexer, by_uid: bool) -> Result<Command> {
    lexer.space()?;
    let set = SequenceSet::parse(lexer)?;
    lexer.space()?;
    let mut unchanged_since = None;
    if lexer.accept(b'(') {
        if !lexer.accept_word("UNCHANGEDSINCE") {
            return Err(SyntaxError::expected("UNCHANGEDSINCE"));
        }
        lexer.space()?;
        unchanged_since = Some(ModSeq(lexer.number64()?));
        lexer.expect(b')')?;
        lexer.space()?;
    }
    let mode = if lexer.accept(b'+') {
        FlagMode::Add
    } else if lexer.accept(b'-') {
        FlagMode::Remove
    } else {
        FlagMode::Replace
    };
    let silent = match lexer.keyword("FLAGS")?.as_str() {
        "FLAGS" => false,
        "FLAGS.SILENT" => true,
        _ => return Err(SyntaxError::expected("FLAGS or FLAGS.SILENT")),
    };
    lexer.space()?;
    let flags = values::flags(lexer)?;
    Ok(Command::Store(Store { set, by_uid, unchanged_since, mode, silent, flags }))
}

#[cfg(test)]
mod tests;
