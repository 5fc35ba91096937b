//! Commands about folders: SELECT, CREATE, LIST, LSUB, STATUS.

use super::{argument, folder, values};
use crate::imap::command::{Command, List, StatusItem};
use crate::imap::lexer::{Lexer, Result, SyntaxError};
use crate::service::mailstore::types::{Access, SpecialUse};

/// Most patterns in one LIST.
const PATTERNS_MAX: usize = 100;
/// Most options or items in one list.
const OPTIONS_MAX: usize = 20;

/// Reads the arguments of SELECT and EXAMINE (parameters: RFC 4466 section 2.4).
pub fn select(lexer: &mut Lexer, access: Access) -> Result<Command> {
    let folder = folder(lexer)?;
    let mut condstore = false;
    if lexer.accept(b' ') {
        values::list(lexer, OPTIONS_MAX, |lexer| {
            if lexer.accept_word("CONDSTORE") {
                condstore = true;
                Ok(())
            } else {
                Err(SyntaxError::expected("CONDSTORE"))
            }
        })?;
    }
    Ok(Command::Select { folder, access, condstore })
}

/// Reads the arguments of CREATE (USE parameter: RFC 6154 section 3).
pub fn create(lexer: &mut Lexer) -> Result<Command> {
    let folder = folder(lexer)?;
    let mut special_use = None;
    if lexer.accept(b' ') {
        values::list(lexer, 1, |lexer| {
            if !lexer.accept_word("USE") {
                return Err(SyntaxError::expected("USE"));
            }
            lexer.space()?;
            // More than one use would need more than one place to keep them.
            let uses = values::list(lexer, 1, one_special_use)?;
            special_use = uses.into_iter().next();
            Ok(())
        })?;
    }
    Ok(Command::Create { folder, special_use })
}

fn one_special_use(lexer: &mut Lexer) -> Result<SpecialUse> {
    lexer.expect(b'\\')?;
    Ok(match lexer.keyword("a special use")?.as_str() {
        "ARCHIVE" => SpecialUse::Archive,
        "DRAFTS" => SpecialUse::Drafts,
        "JUNK" => SpecialUse::Junk,
        "SENT" => SpecialUse::Sent,
        "TRASH" => SpecialUse::Trash,
        _ => return Err(SyntaxError::expected("\\Archive, \\Drafts, \\Junk, \\Sent or \\Trash")),
    })
}

/// Reads the arguments of LSUB.
pub fn lsub(lexer: &mut Lexer) -> Result<Command> {
    let reference = argument(lexer, "a reference name")?;
    lexer.space()?;
    Ok(Command::Lsub { reference, pattern: lexer.list_mailbox()? })
}

/// Reads the arguments of LIST (RFC 3501 section 6.3.8, RFC 5258 section 6).
pub fn list(lexer: &mut Lexer) -> Result<Command> {
    let mut list = List::default();
    lexer.space()?;
    if lexer.peek() == Some(b'(') {
        list.extended = true;
        values::list(lexer, OPTIONS_MAX, |lexer| selection_option(lexer, &mut list))?;
        lexer.space()?;
    }
    if list.select_recursive && !list.select_subscribed && !list.select_special_use {
        return Err(SyntaxError("RECURSIVEMATCH needs another selection option".to_owned()));
    }
    list.reference = lexer.astring("a reference name")?;
    lexer.space()?;
    if lexer.peek() == Some(b'(') {
        list.extended = true;
        list.patterns = values::list(lexer, PATTERNS_MAX, Lexer::list_mailbox)?;
        if list.patterns.is_empty() {
            return Err(SyntaxError::expected("a pattern"));
        }
    } else {
        list.patterns.push(lexer.list_mailbox()?);
    }
    if lexer.accept(b' ') {
        list.extended = true;
        if !lexer.accept_word("RETURN") {
            return Err(SyntaxError::expected("RETURN"));
        }
        lexer.space()?;
        values::list(lexer, OPTIONS_MAX, |lexer| return_option(lexer, &mut list))?;
    }
    Ok(Command::List(list))
}

fn selection_option(lexer: &mut Lexer, list: &mut List) -> Result<()> {
    match lexer.keyword("a selection option")?.as_str() {
        "SUBSCRIBED" => list.select_subscribed = true,
        "SPECIAL-USE" => list.select_special_use = true,
        "RECURSIVEMATCH" => list.select_recursive = true,
        // There are no remote folders.
        "REMOTE" => {}
        _ => return Err(SyntaxError("unknown selection option".to_owned())),
    }
    Ok(())
}

fn return_option(lexer: &mut Lexer, list: &mut List) -> Result<()> {
    match lexer.keyword("a return option")?.as_str() {
        "SUBSCRIBED" => list.return_subscribed = true,
        // Both are always told.
        "CHILDREN" | "SPECIAL-USE" => {}
        "STATUS" => {
            lexer.space()?;
            list.return_status = status_items(lexer)?;
        }
        _ => return Err(SyntaxError("unknown return option".to_owned())),
    }
    Ok(())
}

/// Reads the arguments of STATUS.
pub fn status(lexer: &mut Lexer) -> Result<Command> {
    let folder = folder(lexer)?;
    lexer.space()?;
    Ok(Command::Status { folder, items: status_items(lexer)? })
}

fn status_items(lexer: &mut Lexer) -> Result<Vec<StatusItem>> {
    let items = values::list(lexer, OPTIONS_MAX, |lexer| {
        Ok(match lexer.keyword("a status data item")?.as_str() {
            "MESSAGES" => StatusItem::Messages,
            "RECENT" => StatusItem::Recent,
            "UIDNEXT" => StatusItem::UidNext,
            "UIDVALIDITY" => StatusItem::UidValidity,
            "UNSEEN" => StatusItem::Unseen,
            "HIGHESTMODSEQ" => StatusItem::HighestModSeq,
            "SIZE" => StatusItem::Size,
            "DELETED" => StatusItem::Deleted,
            "DELETED-STORAGE" => StatusItem::DeletedStorage,
            "APPENDLIMIT" => StatusItem::AppendLimit,
            _ => return Err(SyntaxError("unknown status data item".to_owned())),
        })
    })?;
    if items.is_empty() { Err(SyntaxError::expected("a status data item")) } else { Ok(items) }
}
