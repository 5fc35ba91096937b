//! APPEND (RFC 3501 section 6.3.11, RFC 3502).

use bytes::Bytes;

use super::{folder, tag, values};
use crate::imap::command::{AppendMessage, Command, WireName};
use crate::imap::lexer::{Lexer, Result, SyntaxError};

/// Most messages in one command.
const MESSAGES_MAX: usize = 1_000;

/// Reads the arguments of APPEND.
pub fn append(lexer: &mut Lexer) -> Result<Command> {
    let folder = folder(lexer)?;
    let mut messages = Vec::new();
    while messages.is_empty() || !lexer.is_end() {
        if messages.len() == MESSAGES_MAX {
            return Err(SyntaxError(format!("expected at most {MESSAGES_MAX} messages")));
        }
        let (flags, internal_date) = before_literal(lexer)?;
        if lexer.peek() == Some(b'~') {
            return Err(SyntaxError("binary literals are not supported".to_owned()));
        }
        messages.push(AppendMessage { flags, internal_date, bytes: lexer.literal()? });
    }
    Ok(Command::Append { folder, messages })
}

fn before_literal(
    lexer: &mut Lexer,
) -> Result<(crate::service::mailstore::types::FlagSet, Option<crate::base::clock::Timestamp>)> {
    lexer.space()?;
    let mut flags = crate::service::mailstore::types::FlagSet::default();
    if lexer.peek() == Some(b'(') {
        flags = values::flag_list(lexer)?;
        lexer.space()?;
    }
    let mut internal_date = None;
    if lexer.peek() == Some(b'"') {
        internal_date = Some(values::date_time(lexer)?);
        lexer.space()?;
    }
    Ok((flags, internal_date))
}

/// What a literal that has just been announced is for.
#[derive(PartialEq, Eq, Debug)]
pub enum AppendHead {
    /// A message for this folder.
    Message(WireName),
    /// Something else: an argument of this or another command.
    Argument,
}

/// Reads a command that is complete up to a literal's announcement and says whether a message is announced.
///
/// # Errors
/// When the command can be refused already.
pub fn append_head(so_far: &[u8]) -> Result<AppendHead> {
    let mut lexer = Lexer::new(Bytes::copy_from_slice(so_far.get(..HEAD_OCTETS_MAX).unwrap_or(so_far)));
    let is_append = tag(&mut lexer).is_ok()
        && lexer.space().is_ok()
        && lexer.keyword("a command").is_ok_and(|name| name == "APPEND");
    if !is_append || lexer.space().is_err() {
        return Ok(AppendHead::Argument);
    }
    // The announced literal has no octets yet: if it is the folder's name, reading that fails at the very
    // end.
    if lexer.peek() == Some(b'{') && lexer.clone().literal().is_err() {
        return Ok(AppendHead::Argument);
    }
    let folder = lexer.astring("a folder name")?;
    before_literal(&mut lexer)?;
    if lexer.peek() == Some(b'{') {
        Ok(AppendHead::Message(folder))
    } else {
        Err(SyntaxError::expected("a literal with the message"))
    }
}

/// As much of a command as holds the folder's name, flags and date of the first message. The arguments of
/// later messages are judged when the command is complete.
const HEAD_OCTETS_MAX: usize = 96 * 1024;
