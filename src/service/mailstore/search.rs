//! What a message can be searched by: every key of RFC 3501 section 6.4.4, MODSEQ of RFC 7162, and dates.

use super::types::FlagBits;
use crate::base::id::{ModSeq, Uid};

/// A calendar day as days since 1970-01-01, without time zone (RFC 3501 ignores it in searches).
pub type Day = i32;

/// A search expression. Texts are UTF-8; the protocol room has decoded the client's charset.
#[derive(Clone, PartialEq, Debug)]
pub enum SearchKey {
    /// All of these (an empty list matches everything).
    And(Vec<SearchKey>),
    /// Either.
    Or(Box<SearchKey>, Box<SearchKey>),
    /// Not this.
    Not(Box<SearchKey>),
    /// Every message.
    All,
    /// UIDs in one of these inclusive ranges; the protocol room has resolved sequence numbers and `*`.
    Uids(Vec<(Uid, Uid)>),
    /// All of these system flags are set.
    Flags(FlagBits),
    /// This keyword is set.
    Keyword(String),
    /// Recent in the view.
    Recent,
    /// INTERNALDATE before, on, since a day.
    InternalBefore(Day),
    /// On.
    InternalOn(Day),
    /// Since.
    InternalSince(Day),
    /// Date header before, on, since a day.
    SentBefore(Day),
    /// On.
    SentOn(Day),
    /// Since.
    SentSince(Day),
    /// RFC822.SIZE larger than.
    Larger(u64),
    /// RFC822.SIZE smaller than.
    Smaller(u64),
    /// A header field contains the text (decoded, without case); an empty text asks for the field's presence.
    Header(String, String),
    /// The text part of the body contains the text (decoded, without case).
    Body(String),
    /// Header or body contains the text.
    Text(String),
    /// MODSEQ at least this.
    ModSeq(ModSeq),
}
