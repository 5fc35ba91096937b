//! Searching an open folder: what the folder table decides reads nothing; summaries are read by chunks for the
//! messages left open, and bodies one at a time for those that even a summary leaves open.

use super::search::{Candidate, Details, SearchKey, SearchText, Verdict, matches};
use super::types::MessageState;
use super::view::{FolderView, MessageSummary};
use crate::base::id::Uid;
use crate::service::error::Result;

/// Summaries in memory at once.
const CHUNK_SUMMARIES: usize = 256;

/// UIDs of the messages in the view that match, ascending.
pub(super) async fn search(view: &FolderView, key: &SearchKey) -> Result<Vec<Uid>> {
    let keywords = view.keywords();
    let candidate = |state: MessageState| Candidate {
        state,
        recent: view.is_recent(state.uid),
        keywords: &keywords,
        details: None,
        text: None,
    };
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for state in view.states(view.uids()) {
        match matches(key, &candidate(state)) {
            Verdict::Yes => found.push(state.uid),
            Verdict::No => {}
            Verdict::NeedsSummary | Verdict::NeedsBody => open.push(state),
        }
    }
    let mut by_summary = false;
    for chunk in open.chunks(CHUNK_SUMMARIES) {
        by_summary = true;
        let uids: Vec<Uid> = chunk.iter().map(|state| state.uid).collect();
        let mut states = chunk.iter();
        for summary in view.summaries(&uids).await? {
            let Some(state) = states.by_ref().find(|state| state.uid == summary.uid) else { break };
            let candidate = Candidate { details: Some(details(&summary)), ..candidate(*state) };
            let matched = match matches(key, &candidate) {
                Verdict::Yes => true,
                Verdict::No | Verdict::NeedsSummary => false,
                Verdict::NeedsBody => match view.body(summary.uid).await? {
                    Some(body) => {
                        let text = SearchText::new(&summary.summary, &body);
                        matches(key, &Candidate { text: Some(&text), ..candidate }) == Verdict::Yes
                    }
                    None => false,
                },
            };
            if matched {
                found.push(summary.uid);
            }
        }
    }
    if by_summary {
        found.sort_unstable();
    }
    Ok(found)
}

fn details(summary: &MessageSummary) -> Details<'_> {
    Details { internal_date: summary.internal_date, prefix: &summary.prefix, summary: &summary.summary }
}
