//! EXPUNGE, COPY and MOVE, selected state.

use super::client::Client;
use super::command::Transfer;
use super::folder;
use super::outcome::{Done, Failure, Outcome};
use super::selected::Selected;
use super::sequence::{SequenceSet, write_set};
use crate::base::id::Uid;
use crate::service::mailstore::types::Copied;

/// The UIDs of the view that a set names, ascending.
///
/// # Errors
/// `BAD` for sequence numbers that do not exist.
pub fn uids(selected: &Selected, set: &SequenceSet, by_uid: bool) -> Result<Vec<Uid>, Failure> {
    let view = selected.view.uids();
    let ranges = if by_uid { set.indexes_by_uid(view) } else { set.indexes_by_sequence(view)? };
    Ok(ranges.into_iter().filter_map(|range| view.get(range)).flatten().copied().collect())
}

/// EXPUNGE (RFC 3501 section 6.4.3) and UID EXPUNGE (RFC 4315 section 2.1). The client is told by the sync
/// that follows every command.
pub async fn expunge(selected: &mut Selected, set: Option<&SequenceSet>) -> Outcome {
    selected.writable().await?;
    match set {
        Some(set) => {
            let uids = uids(selected, set, true)?;
            selected.view.expunge(Some(&uids)).await?;
        }
        None => selected.view.expunge(None).await?,
    }
    Ok(Done::new("EXPUNGE completed"))
}

/// COPY (RFC 3501 section 6.4.7): all or nothing.
pub async fn copy(selected: &mut Selected, transfer: &Transfer) -> Outcome {
    let target = folder::name(&transfer.folder)?;
    let uids = uids(selected, &transfer.set, transfer.by_uid)?;
    if uids.is_empty() {
        return Ok(Done::new("COPY completed, no messages"));
    }
    let copied =
        selected.view.copy(&uids, &target).await.map_err(|error| Failure::from(error).try_create())?;
    match copy_code(&copied) {
        Some(code) => Ok(Done::with_code(code, "COPY completed")),
        None => nothing_left(transfer, "COPY completed, no messages"),
    }
}

/// MOVE (RFC 6851): COPYUID comes untagged before the messages go (section 4.3).
pub async fn move_to(client: &mut Client, selected: &mut Selected, transfer: &Transfer) -> Outcome {
    selected.writable().await?;
    let target = folder::name(&transfer.folder)?;
    let uids = uids(selected, &transfer.set, transfer.by_uid)?;
    if uids.is_empty() {
        return Ok(Done::new("MOVE completed, no messages"));
    }
    let moved =
        selected.view.move_to(&uids, &target).await.map_err(|error| Failure::from(error).try_create())?;
    match copy_code(&moved) {
        Some(code) => {
            client.untagged("OK", Some(&code), "moved");
            Ok(Done::new("MOVE completed"))
        }
        None => nothing_left(transfer, "MOVE completed, no messages"),
    }
}

/// Whoever names messages by sequence number has been told of them and learns that they went away meanwhile
/// (RFC 5530). Missing UIDs are no error (RFC 3501 section 6.4.8), nor is a part of the messages: COPYUID tells which
/// were there.
fn nothing_left(transfer: &Transfer, text: &'static str) -> Outcome {
    if transfer.by_uid {
        Ok(Done::new(text))
    } else {
        Err(Failure::refused("EXPUNGEISSUED", "the messages are gone"))
    }
}

/// `COPYUID` (RFC 4315 section 3); nothing when nothing was copied.
fn copy_code(copied: &Copied) -> Option<String> {
    if copied.pairs.is_empty() {
        return None;
    }
    let mut code = format!("COPYUID {} ", copied.uid_validity).into_bytes();
    write_set(&mut code, copied.pairs.iter().map(|(source, _)| source.0));
    code.push(b' ');
    write_set(&mut code, copied.pairs.iter().map(|(_, target)| target.0));
    String::from_utf8(code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::UidValidity;

    #[test]
    fn copyuid_keeps_the_order_of_the_pairs() {
        let pairs = [(3, 10), (4, 11), (9, 13), (10, 12)].map(|(a, b)| (Uid(a), Uid(b))).to_vec();
        let copied = Copied { uid_validity: UidValidity(7), pairs };
        assert_eq!(copy_code(&copied).as_deref(), Some("COPYUID 7 3:4,9:10 10:11,13,12"));
        assert_eq!(copy_code(&Copied { uid_validity: UidValidity(7), pairs: vec![] }), None);
    }
}
