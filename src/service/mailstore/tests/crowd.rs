//! Many sessions at once on the same folders: whatever the order, nothing is lost, counted twice or leaked.

use super::*;
use crate::service::error::ServiceError;

on_both!(crowd_leaves_everything_counted_and_every_view_the_same);

const SESSIONS: usize = 6;
const ROUNDS: u32 = 25;

/// Deterministic, so that each session does the same in every run; how they interleave is up to the machine.
fn next(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 16
}

/// What a concurrent session may do to another's command.
fn expect<T>(result: std::result::Result<T, ServiceError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(ServiceError::NotFound { .. } | ServiceError::OverQuota { .. }) => None,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

async fn session(house: House, number: u32) {
    let mut seed = number;
    let folders = ["INBOX", "Other"];
    let mut view = house.select(folders[number as usize % 2]).await;
    for round in 0..ROUNDS {
        let target = name(folders[next(&mut seed) as usize % 2]);
        let pick = next(&mut seed);
        let uids: Vec<Uid> =
            view.uids().iter().copied().filter(|uid| (uid.0 + pick).is_multiple_of(3)).collect();
        match next(&mut seed) % 8 {
            0 => house.deliver(&format!("delivered {number} {round}")).await,
            1 | 2 => {
                let messages = vec![new_message(&format!("appended {number} {round}"), keyword("$New")); 2];
                expect(house.store.append(&house.owner, &target, messages).await);
            }
            3 => drop(expect(view.copy(&uids[..uids.len().min(8)], &target).await)),
            4 => drop(expect(view.move_to(&uids, &target).await)),
            5 => {
                let deleted = system(FlagBits::DELETED);
                view.flags_store(&uids, FlagMode::Add, &deleted, None, true).await.unwrap();
                view.expunge(None).await.unwrap();
            }
            _ => {
                let flags = FlagSet { system: FlagBits::SEEN, keywords: vec![format!("k{}", pick % 5)] };
                let mode = if pick.is_multiple_of(2) { FlagMode::Add } else { FlagMode::Remove };
                view.flags_store(&uids, mode, &flags, None, false).await.unwrap();
            }
        }
        view.sync(round.is_multiple_of(2)).await.unwrap();
    }
    view.sync(true).await.unwrap();
}

async fn crowd_leaves_everything_counted_and_every_view_the_same(house: House) {
    house.store.folder_create(&house.owner, &name("Other"), None).await.unwrap();
    house.append("INBOX", &["x"; 20]).await;
    let mut witness = house.select("INBOX").await;
    let sessions: Vec<_> =
        (0..SESSIONS).map(|number| tokio::spawn(session(house.clone(), number as u32))).collect();
    for session in sessions {
        session.await.unwrap();
    }
    witness.sync(true).await.unwrap();
    let fresh = house.rows(
        "SELECT m.uid, m.flags, m.mod_seq FROM message m JOIN folder f ON f.id = m.folder_id
                            WHERE f.name = 'INBOX' ORDER BY m.uid",
    );
    let fresh: Vec<_> =
        fresh.await.iter().map(|row| (row.int(0), row.int(1), row.int(2))).map(triple).collect();
    let seen = witness.states(witness.uids());
    let seen: Vec<_> = seen
        .iter()
        .map(|state| (i64::from(state.uid.0), state.flags.0.cast_signed(), state.mod_seq.0.cast_signed()))
        .collect();
    assert_eq!(seen, fresh);
}

fn triple(row: (Result<i64>, Result<i64>, Result<i64>)) -> (i64, i64, i64) {
    (row.0.unwrap(), row.1.unwrap(), row.2.unwrap())
}
