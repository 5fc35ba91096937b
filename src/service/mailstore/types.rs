//! Values that the mail store takes and gives.

use std::fmt;

use bytes::Bytes;

use crate::base::clock::Timestamp;
use crate::base::id::{ModSeq, Uid, UidValidity};

/// Separates the levels of a folder name.
pub const HIERARCHY_SEPARATOR: char = '/';
/// Longest folder name in octets of UTF-8.
pub const FOLDER_NAME_OCTETS_MAX: usize = 255;
/// Most levels of a folder name.
pub const FOLDER_LEVELS_MAX: usize = 32;
/// Most keywords one folder can have: they share a 64-bit word with the five system flags.
pub const KEYWORDS_MAX: usize = 59;

/// A folder's name in UTF-8, levels separated by `/`; `INBOX` in capitals whatever was given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FolderName(String);

/// Why a text is no folder name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FolderNameError {
    /// Empty, or an empty level.
    #[error("a folder name and its levels must not be empty")]
    Empty,
    /// Longer than [`FOLDER_NAME_OCTETS_MAX`] or deeper than [`FOLDER_LEVELS_MAX`].
    #[error("a folder name has at most 255 octets and 32 levels")]
    TooLong,
    /// Control characters, or the wildcards `%` and `*`.
    #[error("a folder name must not contain control characters, % or *")]
    Character,
}

impl FolderName {
    /// Checks and normalises a name given in UTF-8. One final separator is dropped (RFC 3501 section 6.3.3).
    ///
    /// # Errors
    /// See [`FolderNameError`].
    pub fn parse(text: &str) -> Result<Self, FolderNameError> {
        let text = text.strip_suffix(HIERARCHY_SEPARATOR).unwrap_or(text);
        if text.split(HIERARCHY_SEPARATOR).any(str::is_empty) {
            return Err(FolderNameError::Empty);
        }
        if text.len() > FOLDER_NAME_OCTETS_MAX || text.split(HIERARCHY_SEPARATOR).count() > FOLDER_LEVELS_MAX
        {
            return Err(FolderNameError::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c == '%' || c == '*') {
            return Err(FolderNameError::Character);
        }
        let (first, rest) = match text.split_once(HIERARCHY_SEPARATOR) {
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        let first = if first.eq_ignore_ascii_case("INBOX") { "INBOX" } else { first };
        Ok(Self(rest.map_or_else(|| first.to_owned(), |rest| format!("{first}/{rest}"))))
    }

    /// `INBOX`.
    pub fn inbox() -> Self {
        Self("INBOX".to_owned())
    }

    /// Whether this is `INBOX` itself.
    pub fn is_inbox(&self) -> bool {
        self.0 == "INBOX"
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name one level up, if there is one.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once(HIERARCHY_SEPARATOR).map(|(parent, _)| Self(parent.to_owned()))
    }
}

impl fmt::Display for FolderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a folder is for (RFC 6154).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialUse {
    /// `\Archive`
    Archive,
    /// `\Drafts`
    Drafts,
    /// `\Junk`
    Junk,
    /// `\Sent`
    Sent,
    /// `\Trash`
    Trash,
}

/// A folder in a listing.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Its name.
    pub name: FolderName,
    /// What it is for.
    pub special_use: Option<SpecialUse>,
    /// Whether it can be opened; a name that only holds children cannot.
    pub selectable: bool,
    /// Whether there are folders below it.
    pub has_children: bool,
    /// Whether its name is subscribed.
    pub subscribed: bool,
    /// Its counters.
    pub status: FolderStatus,
}

/// Counters of a folder (RFC 3501 section 6.3.10, RFC 7162, RFC 8438).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolderStatus {
    /// Messages in it.
    pub messages: u32,
    /// Messages no session has been told of as recent.
    pub recent: u32,
    /// Messages without `\Seen`.
    pub unseen: u32,
    /// Messages with `\Deleted`.
    pub deleted: u32,
    /// Sum of their sizes in octets: what EXPUNGE frees.
    pub deleted_octets: u64,
    /// The next UID.
    pub uid_next: Uid,
    /// UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// HIGHESTMODSEQ.
    pub highest_mod_seq: ModSeq,
    /// Sum of the messages' sizes in octets.
    pub octets: u64,
}

/// How a folder is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// SELECT.
    ReadWrite,
    /// EXAMINE.
    ReadOnly,
}

/// The five system flags and a folder's keywords as one word: bits 0–4 are the system flags, bit 5 + n is the
/// folder's keyword n. `\Recent` is a property of a view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct FlagBits(pub u64);

impl FlagBits {
    /// `\Seen`
    pub const SEEN: Self = Self(1);
    /// `\Answered`
    pub const ANSWERED: Self = Self(2);
    /// `\Flagged`
    pub const FLAGGED: Self = Self(4);
    /// `\Deleted`
    pub const DELETED: Self = Self(8);
    /// `\Draft`
    pub const DRAFT: Self = Self(16);
    /// All system flags.
    pub const SYSTEM: Self = Self(31);

    /// Whether all of `other` is set here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bit of the folder's keyword `index`.
    pub const fn keyword(index: usize) -> Self {
        Self(1 << (5 + index))
    }
}

/// Flags by name, as clients send them: system bits and keywords (case kept, compared without case).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlagSet {
    /// System flags; other bits are zero.
    pub system: FlagBits,
    /// Keywords.
    pub keywords: Vec<String>,
}

/// What STORE does with the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagMode {
    /// `FLAGS`
    Replace,
    /// `+FLAGS`
    Add,
    /// `-FLAGS`
    Remove,
}

/// A message as the folder table knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageState {
    /// UID.
    pub uid: Uid,
    /// Flags and keywords.
    pub flags: FlagBits,
    /// MODSEQ of its last change.
    pub mod_seq: ModSeq,
    /// RFC822.SIZE in octets.
    pub octets: u32,
}

/// A message to append.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The bytes exactly as sent; line ends are kept as they are.
    pub bytes: Bytes,
    /// Flags to set.
    pub flags: FlagSet,
    /// INTERNALDATE; now, if absent.
    pub internal_date: Option<Timestamp>,
}

/// Answer of an append (APPENDUID, RFC 4315).
#[derive(Clone, Debug)]
pub struct Appended {
    /// UIDVALIDITY of the folder.
    pub uid_validity: UidValidity,
    /// The new UIDs in the order of the messages.
    pub uids: Vec<Uid>,
}

/// Answer of a copy or move (COPYUID, RFC 4315): source and target UIDs pairwise, ascending by source.
#[derive(Clone, Debug)]
pub struct Copied {
    /// UIDVALIDITY of the target folder.
    pub uid_validity: UidValidity,
    /// (source, target) pairs.
    pub pairs: Vec<(Uid, Uid)>,
}

/// Answer of a flag change.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Messages that were changed or needed no change.
    pub done: Vec<Uid>,
    /// Messages left alone since they changed after UNCHANGEDSINCE (RFC 7162 section 3.1.3).
    pub modified: Vec<Uid>,
}

/// Use and own limits of a mailbox. Limits above it are not shown: their numbers belong to others.
#[derive(Clone, Copy, Debug)]
pub struct QuotaUse {
    /// Octets used.
    pub octets: u64,
    /// Most octets, if limited.
    pub octets_max: Option<u64>,
    /// Messages stored.
    pub messages: u64,
    /// Most messages, if limited.
    pub messages_max: Option<u64>,
}

/// What happened in a folder since a view last looked; sequence numbers are valid at the moment of each event when
/// the events are told in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderEvent {
    /// The message with this sequence number went away; later ones move down by one.
    Expunged {
        /// Its sequence number.
        sequence: u32,
        /// Its UID.
        uid: Uid,
    },
    /// The folder has this many messages now, of which `recent` are recent here.
    Exists {
        /// Number of messages.
        messages: u32,
        /// Number of recent messages in this view.
        recent: u32,
    },
    /// Flags or keywords of a message changed.
    Flags {
        /// Its sequence number.
        sequence: u32,
        /// Its present state.
        state: MessageState,
    },
    /// The folder's set of keywords grew: tell FLAGS and PERMANENTFLAGS again.
    Keywords,
    /// The folder was deleted or its UIDVALIDITY changed: the session must leave it.
    Gone,
}
