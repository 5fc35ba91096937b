//! IDLE (RFC 2177): the client is told of changes as they happen, until it says DONE.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::outcome::{Done, Failure, Outcome};
use super::selected::Selected;
use super::session::{Account, Session};
use crate::service::mailstore::view::FolderView;
use crate::wire::line::LineError;

/// Longest line that can end IDLE.
const DONE_OCTETS_MAX: usize = 64;
/// Wait after the service could not say what is new.
const RETRY: Duration = Duration::from_secs(1);

/// What ended a wait.
enum Woken {
    Changed,
    Done,
}

/// IDLE with a folder open.
pub async fn idle_selected(session: &mut Session, selected: &mut Selected) -> Outcome {
    let deadline = begin(session);
    loop {
        match selected.sync(&mut session.client, true).await {
            Err(Failure::Service(_)) => sleep(RETRY).await,
            other => other?,
        }
        session.client.flush().await?;
        match wait(session, &selected.account, Some(&selected.view), deadline).await? {
            Woken::Changed => {}
            Woken::Done => return Ok(Done::new("IDLE completed")),
        }
    }
}

/// IDLE without one: there is nothing to tell.
pub async fn idle(session: &mut Session, account: &Account) -> Outcome {
    let deadline = begin(session);
    session.client.flush().await?;
    wait(session, account, None, deadline).await?;
    Ok(Done::new("IDLE completed"))
}

fn begin(session: &mut Session) -> Instant {
    session.client.out.extend_from_slice(b"+ idling\r\n");
    Instant::now() + session.services.limits.inactivity_timeout
}

async fn wait(
    session: &mut Session,
    account: &Account,
    view: Option<&FolderView>,
    deadline: Instant,
) -> Result<Woken, Failure> {
    let Session { client, shutdown, .. } = session;
    let changed = async {
        match view {
            Some(view) => view.changed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = shutdown.requested() => Err(Failure::Bye("the server is shutting down")),
        () = account.session.ended() => Err(Failure::Bye("this session was ended by the administration")),
        line = client.reader.line(&mut client.connection, DONE_OCTETS_MAX) => match line {
            Ok(line) if line.text.trim_ascii().eq_ignore_ascii_case(b"DONE") => Ok(Woken::Done),
            Ok(_) => Err(Failure::Malformed("expected DONE".to_owned())),
            Err(LineError::TooLong) => Err(Failure::Bye("expected DONE")),
            Err(_) => Err(Failure::Disconnected),
        },
        () = changed => Ok(Woken::Changed),
        () = sleep_until(deadline) => Err(Failure::Bye("autologout: idle for too long")),
    }
}
