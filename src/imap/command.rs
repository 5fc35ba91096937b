//! Commands as the client meant them: what the parser makes and the session executes.

use bytes::Bytes;

use super::sequence::SequenceSet;
use crate::base::clock::Timestamp;
use crate::base::id::ModSeq;
use crate::service::mailstore::search::Day;
use crate::service::mailstore::types::{Access, FlagBits, FlagMode, FlagSet, SpecialUse};

/// A folder name as it came over the wire: modified UTF-7 in general; judged when it is used.
pub type WireName = Bytes;

/// A command with the tag that its answer carries.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// The tag.
    pub tag: Bytes,
    /// The command.
    pub command: Command,
}

/// Every command this server knows.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// RFC 3501 section 6.1.1.
    Capability,
    /// RFC 3501 section 6.1.2.
    Noop,
    /// RFC 3501 section 6.1.3.
    Logout,
    /// RFC 2971.
    Id,
    /// RFC 3501 section 6.2.1.
    StartTls,
    /// RFC 3501 section 6.2.2, with the initial response of RFC 4959.
    Authenticate {
        /// SASL mechanism in upper case.
        mechanism: String,
        /// Initial response in base64 (`=` for an empty one).
        initial: Option<Bytes>,
    },
    /// RFC 3501 section 6.2.3.
    Login {
        /// User name.
        username: Bytes,
        /// Password.
        password: Bytes,
    },
    /// RFC 5161: capability names in upper case.
    Enable(Vec<String>),
    /// RFC 3501 sections 6.3.1 and 6.3.2.
    Select {
        /// Folder.
        folder: WireName,
        /// SELECT or EXAMINE.
        access: Access,
        /// The CONDSTORE parameter (RFC 7162 section 3.1.8).
        condstore: bool,
    },
    /// RFC 3501 section 6.3.3; RFC 6154 section 3.
    Create {
        /// Folder.
        folder: WireName,
        /// What it is for.
        special_use: Option<SpecialUse>,
    },
    /// RFC 3501 section 6.3.4.
    Delete(WireName),
    /// RFC 3501 section 6.3.5.
    Rename {
        /// Present name.
        from: WireName,
        /// New name.
        to: WireName,
    },
    /// RFC 3501 sections 6.3.6 and 6.3.7.
    Subscribe {
        /// Folder.
        folder: WireName,
        /// SUBSCRIBE or UNSUBSCRIBE.
        subscribed: bool,
    },
    /// RFC 3501 section 6.3.8, RFC 5258.
    List(List),
    /// RFC 3501 section 6.3.9.
    Lsub {
        /// Reference name.
        reference: WireName,
        /// Pattern.
        pattern: WireName,
    },
    /// RFC 3501 section 6.3.10.
    Status {
        /// Folder.
        folder: WireName,
        /// What is asked.
        items: Vec<StatusItem>,
    },
    /// RFC 3501 section 6.3.11, RFC 3502.
    Append {
        /// Folder.
        folder: WireName,
        /// Messages in order.
        messages: Vec<AppendMessage>,
    },
    /// RFC 2342.
    Namespace,
    /// RFC 2177.
    Idle,
    /// RFC 9208 section 4.1.1.
    QuotaOfRoot(Bytes),
    /// RFC 9208 section 4.1.2.
    QuotaRootsOf(WireName),
    /// RFC 9208 section 4.1.3; always refused.
    QuotaSet,
    /// RFC 3501 section 6.4.1.
    Check,
    /// RFC 3501 section 6.4.2.
    Close,
    /// RFC 3691.
    Unselect,
    /// RFC 3501 section 6.4.3; with UIDs RFC 4315 section 2.1.
    Expunge(Option<SequenceSet>),
    /// RFC 3501 section 6.4.4.
    Search {
        /// What is asked.
        program: SearchProgram,
        /// Whether UIDs are answered.
        by_uid: bool,
    },
    /// RFC 3501 section 6.4.5.
    Fetch(Fetch),
    /// RFC 3501 section 6.4.6.
    Store(Store),
    /// RFC 3501 section 6.4.7.
    Copy(Transfer),
    /// RFC 6851.
    Move(Transfer),
}

impl Command {
    /// Whether the command is one after which mod-sequences are told (RFC 7162 section 3.1). ENABLE and SELECT say so
    /// in their own answers.
    pub fn asks_for_mod_seq(&self) -> bool {
        match self {
            Self::Status { items, .. } => items.contains(&StatusItem::HighestModSeq),
            Self::List(list) => list.return_status.contains(&StatusItem::HighestModSeq),
            Self::Fetch(fetch) => fetch.changed_since.is_some() || fetch.items.contains(&FetchItem::ModSeq),
            Self::Store(store) => store.unchanged_since.is_some(),
            Self::Search { program, .. } => program.keys.iter().any(Key::asks_for_mod_seq),
            _ => false,
        }
    }
}

impl Key {
    /// Whether it compares mod-sequences. Depth is bounded by the parser.
    pub fn asks_for_mod_seq(&self) -> bool {
        match self {
            Self::ModSeq(_) => true,
            Self::And(keys) => keys.iter().any(Self::asks_for_mod_seq),
            Self::Or(left, right) => left.asks_for_mod_seq() || right.asks_for_mod_seq(),
            Self::Not(key) => key.asks_for_mod_seq(),
            _ => false,
        }
    }
}

/// LIST with the selection and return options of RFC 5258.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct List {
    /// Reference name.
    pub reference: WireName,
    /// Patterns.
    pub patterns: Vec<WireName>,
    /// Whether the command uses any syntax of RFC 5258.
    pub extended: bool,
    /// Select only subscribed names.
    pub select_subscribed: bool,
    /// Select only folders with a special use (RFC 6154 section 2).
    pub select_special_use: bool,
    /// Tell parents of selected folders that do not match themselves.
    pub select_recursive: bool,
    /// Return `\Subscribed`.
    pub return_subscribed: bool,
    /// Return STATUS of each folder (RFC 5819).
    pub return_status: Vec<StatusItem>,
}

/// A status data item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusItem {
    /// RFC 3501.
    Messages,
    /// RFC 3501.
    Recent,
    /// RFC 3501.
    UidNext,
    /// RFC 3501.
    UidValidity,
    /// RFC 3501.
    Unseen,
    /// RFC 7162 section 3.1.7.
    HighestModSeq,
    /// RFC 8438.
    Size,
    /// RFC 9208 section 4.1.4.
    Deleted,
    /// RFC 9208 section 4.1.4.
    DeletedStorage,
    /// RFC 7889 section 4.
    AppendLimit,
}

/// One message of APPEND.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendMessage {
    /// Flags.
    pub flags: FlagSet,
    /// INTERNALDATE.
    pub internal_date: Option<Timestamp>,
    /// The message.
    pub bytes: Bytes,
}

/// COPY and MOVE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Which messages.
    pub set: SequenceSet,
    /// Whether the set holds UIDs.
    pub by_uid: bool,
    /// Target folder.
    pub folder: WireName,
}

/// STORE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    /// Which messages.
    pub set: SequenceSet,
    /// Whether the set holds UIDs.
    pub by_uid: bool,
    /// UNCHANGEDSINCE (RFC 7162 section 3.1.3).
    pub unchanged_since: Option<ModSeq>,
    /// What to do with the flags.
    pub mode: FlagMode,
    /// Whether new flags need not be told.
    pub silent: bool,
    /// The flags.
    pub flags: FlagSet,
}

/// FETCH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Which messages.
    pub set: SequenceSet,
    /// Whether the set holds UIDs.
    pub by_uid: bool,
    /// What to tell of each; macros are expanded.
    pub items: Vec<FetchItem>,
    /// CHANGEDSINCE (RFC 7162 section 3.1.4.1).
    pub changed_since: Option<ModSeq>,
}

/// One thing to tell about a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchItem {
    /// FLAGS.
    Flags,
    /// UID.
    Uid,
    /// INTERNALDATE.
    InternalDate,
    /// RFC822.SIZE.
    Size,
    /// ENVELOPE.
    Envelope,
    /// BODYSTRUCTURE.
    BodyStructure,
    /// BODY without extension data.
    Body,
    /// MODSEQ (RFC 7162 section 3.1.4.2).
    ModSeq,
    /// BODY[…], RFC822, RFC822.HEADER, RFC822.TEXT.
    Section(FetchSection),
}

/// Bytes of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchSection {
    /// Which bytes.
    pub section: Section,
    /// Whether `\Seen` is left alone.
    pub peek: bool,
    /// `<offset.count>`.
    pub partial: Option<(u32, u32)>,
    /// How the item is called in the answer, for instance `BODY[1.MIME]<0>`.
    pub label: Vec<u8>,
}

/// A section specification (RFC 3501 section 6.4.5).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Section {
    /// Part numbers.
    pub part: Vec<u32>,
    /// What of the part.
    pub text: SectionText,
}

impl Section {
    /// Whether it is the whole message.
    pub fn is_whole(&self) -> bool {
        self.part.is_empty() && self.text == SectionText::Whole
    }
}

/// What of a part or message.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SectionText {
    /// All of it.
    #[default]
    Whole,
    /// HEADER.
    Header,
    /// HEADER.FIELDS and HEADER.FIELDS.NOT.
    HeaderFields {
        /// Field names.
        names: Vec<Bytes>,
        /// Whether the named ones are left out.
        not: bool,
    },
    /// TEXT.
    Text,
    /// MIME.
    Mime,
}

/// SEARCH.
#[derive(Clone, PartialEq, Debug)]
pub struct SearchProgram {
    /// Return options of RFC 4731; nothing for the plain answer.
    pub options: Option<SearchReturn>,
    /// Charset of the texts; nothing for US-ASCII.
    pub charset: Option<Bytes>,
    /// The keys, all of which must match.
    pub keys: Vec<Key>,
}

/// Return options of RFC 4731.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchReturn {
    /// Smallest number.
    pub min: bool,
    /// Largest number.
    pub max: bool,
    /// All numbers as a set.
    pub all: bool,
    /// How many.
    pub count: bool,
}

/// A search key; texts are in the client's charset.
#[derive(Clone, PartialEq, Debug)]
pub enum Key {
    /// ALL.
    All,
    /// All of these.
    And(Vec<Key>),
    /// OR.
    Or(Box<Key>, Box<Key>),
    /// NOT and the UN… keys.
    Not(Box<Key>),
    /// Sequence numbers.
    Sequence(SequenceSet),
    /// UID.
    Uid(SequenceSet),
    /// ANSWERED, DELETED, DRAFT, FLAGGED, SEEN.
    Flag(FlagBits),
    /// KEYWORD.
    Keyword(Bytes),
    /// RECENT.
    Recent,
    /// BEFORE, ON, SINCE and the SENT… keys.
    Date {
        /// Whether the Date header is meant instead of INTERNALDATE.
        sent: bool,
        /// How it compares.
        comparison: DateComparison,
        /// The day.
        day: Day,
    },
    /// LARGER.
    Larger(u64),
    /// SMALLER.
    Smaller(u64),
    /// HEADER, BCC, CC, FROM, SUBJECT, TO.
    Header(Bytes, Bytes),
    /// BODY.
    Body(Bytes),
    /// TEXT.
    Text(Bytes),
    /// MODSEQ (RFC 7162 section 3.1.5).
    ModSeq(ModSeq),
}

/// How a date key compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateComparison {
    /// Before the day.
    Before,
    /// On the day.
    On,
    /// On the day or later.
    Since,
}
