//! Folders as a whole: SELECT, EXAMINE, CREATE, DELETE, RENAME, SUBSCRIBE, STATUS, CLOSE.

use super::ImapServices;
use super::client::Client;
use super::command::{Command, StatusItem};
use super::outcome::{Done, Failure, Outcome};
use super::selected::{Selected, numbered};
use super::session::{Account, Session, State};
use super::{respond, utf7};
use crate::base::id::FolderId;
use crate::service::context::Owner;
use crate::service::mailstore::MailStore;
use crate::service::mailstore::types::{
    Access, FlagBits, FolderName, FolderStatus, MessageState, SpecialUse,
};
use crate::service::mailstore::view::FolderView;

/// How many messages' states are asked for at a time.
pub const STATES_CHUNK: usize = 1_000;

/// The folder name that a client wrote in modified UTF-7.
///
/// # Errors
/// `NO [CANNOT]` for what can be no name.
pub fn name(wire: &[u8]) -> Result<FolderName, Failure> {
    let text = utf7::decode(wire)
        .ok_or_else(|| Failure::refused("CANNOT", "the folder name is not in modified UTF-7"))?;
    Ok(FolderName::parse(&text)?)
}

/// SELECT and EXAMINE (RFC 3501 sections 6.3.1 and 6.3.2), authenticated state.
pub async fn select(session: &mut Session, account: Box<Account>, command: Command) -> (State, Outcome) {
    let Command::Select { folder, access, condstore } = command else {
        return (State::Authenticated(account), Err(Failure::Malformed("expected SELECT".to_owned())));
    };
    let opened = async {
        let name = name(&folder)?;
        Ok::<_, Failure>(session.services.mail.folder_open(account.session.owner(), &name, access).await?)
    };
    match Box::pin(opened).await {
        Ok(view) => {
            let mut selected = Box::new(Selected::new(account, view));
            selected.account.condstore |= condstore;
            describe(&mut session.client.out, &mut selected);
            let done = match (access, selected.view.access()) {
                (Access::ReadWrite, Access::ReadWrite) => Done::with_code("READ-WRITE", "SELECT completed"),
                // An administrator who only reads.
                (Access::ReadWrite, Access::ReadOnly) => Done::with_code("READ-ONLY", "SELECT completed"),
                (Access::ReadOnly, _) => Done::with_code("READ-ONLY", "EXAMINE completed"),
            };
            (State::Selected(selected), Ok(done))
        }
        Err(failure) => (State::Authenticated(account), Err(failure)),
    }
}

/// What SELECT tells about the folder (RFC 3501 section 6.3.1, RFC 7162 section 3.1.2.1).
fn describe(out: &mut Vec<u8>, selected: &mut Selected) {
    selected.flags_tell(out);
    let view = &selected.view;
    numbered(out, u32::try_from(view.uids().len()).unwrap_or(u32::MAX), b"EXISTS");
    numbered(out, view.recent_count(), b"RECENT");
    if let Some(unseen) = first_unseen(view) {
        respond::status(out, b"*", "OK", Some(&format!("UNSEEN {unseen}")), "first unseen message");
    }
    let folder = view.folder();
    for (code, text) in [
        (format!("UIDVALIDITY {}", folder.uid_validity), "UIDs are valid"),
        (format!("UIDNEXT {}", folder.uid_next), "the next UID"),
        (format!("HIGHESTMODSEQ {}", folder.highest_mod_seq), "the highest mod-sequence"),
    ] {
        respond::status(out, b"*", "OK", Some(&code), text);
    }
}

/// Sequence number of the first message without `\Seen`.
fn first_unseen(view: &FolderView) -> Option<usize> {
    let unseen = |state: &MessageState| !state.flags.contains(FlagBits::SEEN);
    view.uids().chunks(STATES_CHUNK).enumerate().find_map(|(chunk, uids)| {
        let index = view.states(uids).iter().position(unseen)?;
        Some(chunk * STATES_CHUNK + index + 1)
    })
}

/// CLOSE (RFC 3501 section 6.4.2), selected state: expunges without telling, unless the folder is read-only.
pub async fn close(mut selected: Selected) -> (State, Outcome) {
    let outcome = match selected.view.access() {
        Access::ReadOnly => Ok(()),
        Access::ReadWrite => selected.view.expunge(None).await,
    };
    match outcome {
        Ok(()) => (State::Authenticated(selected.account), Ok(Done::new("CLOSE completed"))),
        Err(error) => (State::Selected(Box::new(selected)), Err(error.into())),
    }
}

/// CREATE (RFC 3501 section 6.3.3, RFC 6154 section 3), authenticated state.
pub async fn create(
    mail: &MailStore,
    owner: &Owner,
    folder: &[u8],
    special_use: Option<SpecialUse>,
) -> Outcome {
    mail.folder_create(owner, &name(folder)?, special_use).await?;
    Ok(Done::new("CREATE completed"))
}

/// DELETE (RFC 3501 section 6.3.4), authenticated state; answers which folder it was.
///
/// # Errors
/// `NO` when it is not there or cannot be deleted.
pub async fn delete(mail: &MailStore, owner: &Owner, folder: &[u8]) -> Result<FolderId, Failure> {
    let name = name(folder)?;
    if name.is_inbox() {
        return Err(Failure::refused("CANNOT", "INBOX cannot be deleted"));
    }
    Ok(mail.folder_delete(owner, &name).await?)
}

/// RENAME (RFC 3501 section 6.3.5), authenticated state.
pub async fn rename(mail: &MailStore, owner: &Owner, from: &[u8], to: &[u8]) -> Outcome {
    mail.folder_rename(owner, &name(from)?, &name(to)?).await?;
    Ok(Done::new("RENAME completed"))
}

/// SUBSCRIBE and UNSUBSCRIBE (RFC 3501 sections 6.3.6 and 6.3.7), authenticated state.
pub async fn subscribe(mail: &MailStore, owner: &Owner, folder: &[u8], subscribed: bool) -> Outcome {
    mail.folder_subscribe(owner, &name(folder)?, subscribed).await?;
    Ok(Done::new(if subscribed { "SUBSCRIBE completed" } else { "UNSUBSCRIBE completed" }))
}

/// STATUS (RFC 3501 section 6.3.10), authenticated state.
pub async fn status(
    client: &mut Client,
    services: &ImapServices,
    owner: &Owner,
    folder: &[u8],
    items: &[StatusItem],
) -> Outcome {
    let name = name(folder)?;
    let status = services.mail.folder_status(owner, &name).await?;
    status_write(&mut client.out, services, &name, &status, items);
    Ok(Done::new("STATUS completed"))
}

/// Writes the STATUS response of one folder.
pub fn status_write(
    out: &mut Vec<u8>,
    services: &ImapServices,
    name: &FolderName,
    status: &FolderStatus,
    items: &[StatusItem],
) {
    out.extend_from_slice(b"* STATUS ");
    respond::folder(out, name);
    out.extend_from_slice(b" (");
    for (index, item) in items.iter().enumerate() {
        let (word, number) = match item {
            StatusItem::Messages => ("MESSAGES", u64::from(status.messages)),
            StatusItem::Recent => ("RECENT", u64::from(status.recent)),
            StatusItem::UidNext => ("UIDNEXT", u64::from(status.uid_next.0)),
            StatusItem::UidValidity => ("UIDVALIDITY", u64::from(status.uid_validity.0)),
            StatusItem::Unseen => ("UNSEEN", u64::from(status.unseen)),
            StatusItem::HighestModSeq => ("HIGHESTMODSEQ", status.highest_mod_seq.0),
            StatusItem::Size => ("SIZE", status.octets),
            StatusItem::Deleted => ("DELETED", u64::from(status.deleted)),
            // RFC 9208 section 4.1.4 allows the sum of the sizes.
            StatusItem::DeletedStorage => ("DELETED-STORAGE", status.deleted_octets),
            StatusItem::AppendLimit => ("APPENDLIMIT", services.limits.message_octets_max),
        };
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word.as_bytes());
        out.push(b' ');
        respond::number(out, number);
    }
    out.extend_from_slice(b")\r\n");
}
