//! A session that has a folder open, and how it is told what happens there.

use super::client::Client;
use super::outcome::Failure;
use super::respond;
use super::session::Account;
use crate::base::id::Uid;
use crate::service::mailstore::types::{Access, FlagBits, FolderEvent, KEYWORDS_MAX, MessageState};
use crate::service::mailstore::view::FolderView;

/// Selected state (RFC 3501 section 3.3).
pub struct Selected {
    /// Who is logged in.
    pub account: Box<Account>,
    /// The open folder.
    pub view: FolderView,
    /// How many of the folder's keywords the client has been told of.
    keywords_told: usize,
}

impl Selected {
    /// With `view` open.
    pub fn new(account: Box<Account>, view: FolderView) -> Self {
        Self { account, view, keywords_told: 0 }
    }

    /// Whether the folder may be changed.
    ///
    /// # Errors
    /// `NO` after EXAMINE, and for an administrator who only reads.
    pub async fn writable(&self) -> Result<(), Failure> {
        self.account.session.owner().may_change().await?;
        match self.view.access() {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Failure::refused("READ-ONLY", "the folder is open read-only")),
        }
    }

    /// Brings the view up to date and tells the client. Without `expunges` sequence numbers stay as they are:
    /// so during FETCH, STORE and SEARCH (RFC 3501 section 7.4.1).
    ///
    /// # Errors
    /// When the folder is gone the session must end: the client relies on having it open.
    pub async fn sync(&mut self, client: &mut Client, expunges: bool) -> Result<(), Failure> {
        for event in Box::pin(self.view.sync(expunges)).await? {
            match event {
                FolderEvent::Expunged { sequence, .. } => {
                    numbered(&mut client.out, sequence, b"EXPUNGE");
                }
                FolderEvent::Exists { messages, recent } => {
                    numbered(&mut client.out, messages, b"EXISTS");
                    numbered(&mut client.out, recent, b"RECENT");
                }
                FolderEvent::Flags { sequence, state } => {
                    self.keywords_tell(&mut client.out);
                    let mod_seq = self.account.condstore;
                    self.fetch_flags(&mut client.out, sequence, state, mod_seq);
                }
                FolderEvent::Keywords => self.keywords_tell(&mut client.out),
                FolderEvent::Gone => return Err(Failure::Bye("the selected folder was deleted")),
            }
            client.flush_if_large().await?;
        }
        Ok(())
    }

    /// Tells FLAGS and PERMANENTFLAGS if there are keywords that the client does not know.
    pub fn keywords_tell(&mut self, out: &mut Vec<u8>) {
        if self.view.keywords().len() > self.keywords_told {
            self.flags_tell(out);
        }
    }

    /// Tells FLAGS and PERMANENTFLAGS.
    pub fn flags_tell(&mut self, out: &mut Vec<u8>) {
        let keywords = self.view.keywords();
        self.keywords_told = keywords.len();
        let mut all = Vec::new();
        let every = keywords
            .iter()
            .take(KEYWORDS_MAX)
            .enumerate()
            .fold(FlagBits::SYSTEM.0, |bits, (index, _)| bits | FlagBits::keyword(index).0);
        respond::flags(&mut all, FlagBits(every), false, &keywords);
        out.extend_from_slice(b"* FLAGS ");
        out.extend_from_slice(&all);
        out.extend_from_slice(b"\r\n* OK [PERMANENTFLAGS ");
        match self.view.access() {
            Access::ReadOnly => out.extend_from_slice(b"()"),
            Access::ReadWrite => {
                if keywords.len() < KEYWORDS_MAX {
                    // New keywords can be made.
                    all.pop();
                    all.extend_from_slice(b" \\*)");
                }
                out.extend_from_slice(&all);
            }
        }
        out.extend_from_slice(b"] flags that can be changed\r\n");
    }

    /// Writes `* n FETCH (UID u FLAGS (…))`, with MODSEQ where wanted. The UID is always told: clients may
    /// rely on it in answers to UID commands (RFC 3501 section 6.4.8) and need it to keep their caches.
    pub fn fetch_flags(&self, out: &mut Vec<u8>, sequence: u32, state: MessageState, mod_seq: bool) {
        out.extend_from_slice(b"* ");
        respond::number(out, u64::from(sequence));
        out.extend_from_slice(b" FETCH (UID ");
        respond::number(out, u64::from(state.uid.0));
        out.extend_from_slice(b" FLAGS ");
        respond::flags(out, state.flags, self.view.is_recent(state.uid), &self.view.keywords());
        if mod_seq {
            out.extend_from_slice(b" MODSEQ (");
            respond::number(out, state.mod_seq.0);
            out.push(b')');
        }
        out.extend_from_slice(b")\r\n");
    }

    /// Sequence number of a message of the view.
    pub fn sequence(&self, uid: Uid) -> Option<u32> {
        let index = self.view.uids().binary_search(&uid).ok()?;
        u32::try_from(index + 1).ok()
    }

    /// The first command that needs mod-sequences switches them on and tells where the folder stands (RFC
    /// 7162 section 3.1).
    pub fn condstore_enable(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.account.condstore, true) {
            let code = format!("HIGHESTMODSEQ {}", self.view.highest_mod_seq());
            respond::status(out, b"*", "OK", Some(&code), "mod-sequences are told from now on");
        }
    }
}

/// Writes `* number WORD`.
pub fn numbered(out: &mut Vec<u8>, number: u32, word: &[u8]) {
    out.extend_from_slice(b"* ");
    respond::number(out, u64::from(number));
    out.push(b' ');
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}
