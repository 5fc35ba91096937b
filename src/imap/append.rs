//! APPEND (RFC 3501 section 6.3.11) of one or more messages (RFC 3502), authenticated state.

use super::command::AppendMessage;
use super::folder;
use super::outcome::{Done, Failure, Outcome};
use super::sequence::write_set;
use crate::service::context::Owner;
use crate::service::mailstore::MailStore;
use crate::service::mailstore::types::NewMessage;

/// Stores the messages, all or none, bytes exactly as they came. Size and quota were checked before each
/// literal; the service decides again.
pub async fn append(mail: &MailStore, owner: &Owner, folder: &[u8], messages: Vec<AppendMessage>) -> Outcome {
    let name = folder::name(folder)?;
    let mut new = Vec::with_capacity(messages.len());
    for AppendMessage { flags, internal_date, bytes } in messages {
        if bytes.is_empty() {
            return Err(Failure::refused("CANNOT", "an empty message cannot be stored"));
        }
        // RFC 3501 section 9: a literal holds CHAR8, which NUL is not; without BINARY it could not be
        // fetched.
        if memchr::memchr(0, &bytes).is_some() {
            return Err(Failure::refused("CANNOT", "a message with NUL octets cannot be stored"));
        }
        new.push(NewMessage { bytes, flags, internal_date });
    }
    let appended = mail.append(owner, &name, new).await.map_err(|error| Failure::from(error).try_create())?;
    let mut set = Vec::new();
    write_set(&mut set, appended.uids.iter().map(|uid| uid.0));
    let code = format!("APPENDUID {} {}", appended.uid_validity, String::from_utf8_lossy(&set));
    Ok(Done::with_code(code, "APPEND completed"))
}
