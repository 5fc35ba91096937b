//! QUOTA (RFC 9208): one root per mailbox, with STORAGE and MESSAGE where they are limited. Authenticated
//! state.

use super::client::Client;
use super::folder;
use super::outcome::{Done, Failure, Outcome};
use super::respond;
use crate::service::context::Owner;
use crate::service::mailstore::MailStore;
use crate::service::mailstore::types::QuotaUse;

/// Name of the quota root.
const ROOT: &[u8] = b"mailbox";
/// STORAGE is counted in units of this many octets (RFC 9208 section 5.1).
const STORAGE_UNIT_OCTETS: u64 = 1024;

/// GETQUOTA (RFC 9208 section 4.1.1).
pub async fn of_root(client: &mut Client, mail: &MailStore, owner: &Owner, root: &[u8]) -> Outcome {
    let used = mail.quota(owner).await?;
    if root != ROOT || !is_limited(&used) {
        return Err(Failure::refused("NONEXISTENT", "there is no such quota root"));
    }
    write(&mut client.out, &used);
    Ok(Done::new("GETQUOTA completed"))
}

/// GETQUOTAROOT (RFC 9208 section 4.1.2). A mailbox without limits has no root: a quota needs a resource.
pub async fn roots_of(client: &mut Client, mail: &MailStore, owner: &Owner, folder: &[u8]) -> Outcome {
    let name = folder::name(folder)?;
    mail.folder_status(owner, &name).await?;
    let used = mail.quota(owner).await?;
    let out = &mut client.out;
    out.extend_from_slice(b"* QUOTAROOT ");
    respond::folder(out, &name);
    if is_limited(&used) {
        out.push(b' ');
        respond::astring(out, ROOT);
        out.extend_from_slice(b"\r\n");
        write(out, &used);
    } else {
        out.extend_from_slice(b"\r\n");
    }
    Ok(Done::new("GETQUOTAROOT completed"))
}

fn is_limited(used: &QuotaUse) -> bool {
    used.octets_max.is_some() || used.messages_max.is_some()
}

fn write(out: &mut Vec<u8>, used: &QuotaUse) {
    out.extend_from_slice(b"* QUOTA ");
    respond::astring(out, ROOT);
    out.extend_from_slice(b" (");
    // What is used is rounded up, what may be used down, so that a full mailbox looks full.
    let storage = used
        .octets_max
        .map(|max| ("STORAGE", used.octets.div_ceil(STORAGE_UNIT_OCTETS), max / STORAGE_UNIT_OCTETS));
    let message = used.messages_max.map(|max| ("MESSAGE", used.messages, max));
    for (index, (name, used, max)) in [storage, message].into_iter().flatten().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
        for number in [used, max] {
            out.push(b' ');
            respond::number(out, number);
        }
    }
    out.extend_from_slice(b")\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(octets_max: Option<u64>, messages_max: Option<u64>) -> String {
        let mut out = Vec::new();
        write(&mut out, &QuotaUse { octets: 1025, octets_max, messages: 3, messages_max });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_limited_resources_are_told() {
        assert_eq!(written(Some(4096), Some(10)), "* QUOTA mailbox (STORAGE 2 4 MESSAGE 3 10)\r\n");
        assert_eq!(written(Some(4096), None), "* QUOTA mailbox (STORAGE 2 4)\r\n");
        assert_eq!(written(None, Some(10)), "* QUOTA mailbox (MESSAGE 3 10)\r\n");
    }
}
