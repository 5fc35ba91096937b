//! STORE (RFC 3501 section 6.4.6) with UNCHANGEDSINCE (RFC 7162 section 3.1.3), selected state.

use super::client::Client;
use super::command::Store;
use super::folder::STATES_CHUNK;
use super::outcome::{Done, Failure, Outcome};
use super::respond;
use super::selected::Selected;
use super::sequence::write_set;
use super::transfer;
use crate::base::id::Uid;

/// Changes flags and tells the new ones unless that is not wanted.
pub async fn store(client: &mut Client, selected: &mut Selected, store: &Store) -> Outcome {
    selected.writable().await?;
    let uids = transfer::uids(selected, &store.set, store.by_uid)?;
    if uids.is_empty() {
        return Ok(Done::new("STORE completed, no messages"));
    }
    // What is changed here is told here, not by the sync that follows.
    let stored =
        selected.view.flags_store(&uids, store.mode, &store.flags, store.unchanged_since, true).await?;
    selected.keywords_tell(&mut client.out);
    tell(client, selected, &stored.done, store.silent).await?;
    if !stored.modified.is_empty() {
        let mut code = b"MODIFIED ".to_vec();
        if store.by_uid {
            write_set(&mut code, stored.modified.iter().map(|uid| uid.0));
        } else {
            write_set(&mut code, stored.modified.iter().filter_map(|&uid| selected.sequence(uid)));
        }
        let code = String::from_utf8_lossy(&code).into_owned();
        return Ok(Done::with_code(code, "STORE completed, some messages were changed by others"));
    }
    if !store.by_uid && stored.done.len() < uids.len() {
        return Err(Failure::refused("EXPUNGEISSUED", "some of the messages are gone"));
    }
    Ok(Done::new("STORE completed"))
}

/// FLAGS of each message; with `.SILENT` only MODSEQ, which is always told once wanted (RFC 7162 section
/// 3.1.3).
async fn tell(client: &mut Client, selected: &Selected, done: &[Uid], silent: bool) -> Result<(), Failure> {
    let mod_seq = selected.account.condstore;
    if silent && !mod_seq {
        return Ok(());
    }
    for uids in done.chunks(STATES_CHUNK) {
        for state in selected.view.states(uids) {
            let Some(sequence) = selected.sequence(state.uid) else { continue };
            if silent {
                let out = &mut client.out;
                out.extend_from_slice(b"* ");
                respond::number(out, u64::from(sequence));
                out.extend_from_slice(b" FETCH (UID ");
                respond::number(out, u64::from(state.uid.0));
                out.extend_from_slice(b" MODSEQ (");
                respond::number(out, state.mod_seq.0);
                out.extend_from_slice(b"))\r\n");
            } else {
                selected.fetch_flags(&mut client.out, sequence, state, mod_seq);
            }
        }
        client.flush_if_large().await?;
    }
    Ok(())
}
