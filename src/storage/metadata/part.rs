//! Parts: attachments that several bodies of one scope and store share. A part is a body of its own, which is
//! found by the BLAKE3 of its bytes; its references are the rows of `body_part`, one for each body that it is in.
//!
//! # Consistency
//! Rows of bodies and parts are locked together, ascending by id. A body gets its parts in the transaction that
//! re-points it, and only if each of them is there: a part that ended meanwhile leaves the body as it was. The last
//! body that ends takes its parts with it, in the same transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::pack::{Framed, Placed};
use super::sql::{Conn, Value, ids};
use crate::base::id::{BodyId, PackId, StoreId};
use crate::params;
use crate::storage::Result;

/// BLAKE3 of a part's bytes.
pub type PartHash = [u8; 32];

/// A part that was written to a pack and has no row yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPart {
    /// The customer within which it is shared.
    pub scope: i64,
    /// The mail store.
    pub store: StoreId,
    /// Hash of its bytes.
    pub hash: PartHash,
    /// How many they are.
    pub octets: u64,
    /// Mailbox of the first message that it is in.
    pub mailbox: i64,
    /// Folder of that message.
    pub folder: i64,
    /// Its frame.
    pub frame: Framed,
}

/// The parts among `hashes` that a scope has in a store.
///
/// # Errors
/// What the database says.
pub async fn known(
    conn: &mut Conn,
    scope: i64,
    store: StoreId,
    hashes: &[PartHash],
) -> Result<Vec<(PartHash, BodyId)>> {
    let mut known = Vec::new();
    let mut rest = hashes;
    while !rest.is_empty() {
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let list: Vec<String> = (3..).take(chunk.len()).map(|number| format!("${number}")).collect();
        let text = format!(
            "SELECT hash, body_id FROM part WHERE scope_id = $1 AND store_id = $2 AND hash IN ({})",
            list.join(", ")
        );
        let mut params = params![scope, store];
        params.extend(chunk.iter().map(|hash| Value::from(&hash[..])));
        for row in conn.rows(text, params).await? {
            if let Ok(hash) = PartHash::try_from(row.blob(0)?) {
                known.push((hash, BodyId(row.int(1)?)));
            }
        }
    }
    Ok(known)
}

/// What becomes of the parts when bodies are re-pointed.
#[derive(Default, Debug)]
pub(super) struct Plan {
    /// Bodies that can't be re-pointed now: one of their parts is gone, or another has come between.
    pub(super) blocked: BTreeSet<BodyId>,
    /// Parts that got their row in `part` and need one in `body`.
    inserted: BTreeSet<BodyId>,
}

/// Locks bodies and their parts, and inserts those of `new` that are needed and not there.
///
/// # Errors
/// What the database says.
pub(super) async fn plan(
    conn: &mut Conn,
    placed: &[Placed],
    new: &BTreeMap<BodyId, NewPart>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    if placed.iter().all(|placed| placed.parts.is_empty()) {
        return Ok(plan);
    }
    let all = placed.iter().flat_map(|placed| placed.parts.iter().copied().chain([placed.frame.body]));
    let all: BTreeSet<i64> = all.map(|body| body.0).collect();
    let lock = conn.for_update();
    let text = format!("SELECT id, pack_id FROM body WHERE id IN IDS($1) ORDER BY id{lock}");
    let (mut there, mut fresh) = (BTreeSet::new(), BTreeSet::new());
    for row in conn.rows(text, vec![ids(all)]).await? {
        there.insert(BodyId(row.int(0)?));
        if row.int_opt(1)?.is_none() {
            fresh.insert(BodyId(row.int(0)?));
        }
    }
    let can_be = |part: &BodyId| there.contains(part) || new.contains_key(part);
    let wanted = placed.iter().filter(|placed| fresh.contains(&placed.frame.body));
    let wanted = wanted.filter(|placed| placed.parts.iter().all(can_be));
    let missing: BTreeSet<BodyId> =
        wanted.flat_map(|placed| &placed.parts).filter(|part| !there.contains(part)).copied().collect();
    for part in missing.iter().filter_map(|part| new.get(part)) {
        // Another with the same bytes may have come between.
        let text = "INSERT INTO part (body_id, scope_id, store_id, hash) VALUES ($1, $2, $3, $4)
                    ON CONFLICT DO NOTHING";
        if conn.execute(text, params![part.frame.body, part.scope, part.store, &part.hash[..]]).await? == 1 {
            plan.inserted.insert(part.frame.body);
        }
    }
    let is_there = |part: &BodyId| there.contains(part) || plan.inserted.contains(part);
    let blocked = placed.iter().filter(|placed| !placed.parts.iter().all(is_there));
    plan.blocked = blocked.map(|placed| placed.frame.body).collect();
    Ok(plan)
}

/// Notes which parts the bodies `moved` are made of; answers how many parts came alive in the pack, and their
/// stored octets.
///
/// # Errors
/// What the database says.
pub(super) async fn attach(
    conn: &mut Conn,
    pack: PackId,
    plan: Plan,
    moved: &[&Placed],
    new: &BTreeMap<BodyId, NewPart>,
) -> Result<(i64, i64)> {
    let (mut uses, mut references) = (Vec::new(), BTreeMap::<BodyId, i64>::new());
    for placed in moved {
        for part in &placed.parts {
            uses.push(params![placed.frame.body, *part]);
            *references.entry(*part).or_insert(0) += 1;
        }
    }
    conn.insert_rows("INSERT INTO body_part (body_id, part_id)", 2, uses).await?;
    let (mut rows, mut octets, mut unused) = (Vec::new(), 0_i64, Vec::new());
    for id in plan.inserted {
        match (new.get(&id), references.remove(&id)) {
            (Some(part), Some(count)) => {
                let length = i64::try_from(part.octets).unwrap_or(i64::MAX);
                let frame = part.frame;
                octets += i64::from(frame.stored_octets);
                rows.push(params![
                    id,
                    part.scope,
                    part.store,
                    length,
                    frame.stored_octets,
                    count,
                    pack,
                    frame.offset,
                    part.mailbox,
                    part.folder
                ]);
            }
            // The body that needed it was blocked by another part.
            _ => unused.push(id.0),
        }
    }
    let alive = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let head = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id,
                                  pack_offset, mailbox_id, folder_id)";
    conn.insert_rows(head, 10, rows).await?;
    if !unused.is_empty() {
        conn.execute("DELETE FROM part WHERE body_id IN IDS($1)", vec![ids(unused)]).await?;
    }
    let rows = references.into_iter().map(|(part, count)| vec![part.0, count]).collect();
    let text = "UPDATE body SET reference_count = reference_count + v.column2";
    conn.update_from_values(text, "body.id", 2, rows).await?;
    Ok((alive, octets))
}

/// Takes the parts off bodies that end; answers how many references each of them loses.
///
/// # Errors
/// What the database says.
pub(super) async fn detach(conn: &mut Conn, bodies: &[i64]) -> Result<BTreeMap<BodyId, i64>> {
    let text = "DELETE FROM body_part WHERE body_id IN IDS($1) RETURNING part_id";
    let mut references = BTreeMap::new();
    for row in conn.rows(text, vec![ids(bodies.iter().copied())]).await? {
        *references.entry(BodyId(row.int(0)?)).or_insert(0) += 1;
    }
    Ok(references)
}
