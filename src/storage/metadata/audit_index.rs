//! The index over the audit trail: which records have which term, as sets that are cut with each other.
//!
//! Keys of records are counted in *parts* of 32,768. For each term and part there is one row with the places of the
//! records in it; records of reads, which are forgotten much earlier, have rows of their own: a part is two *chunks*.
//! The rows of a chunk stand beside each other, so that filling the index writes few pages. A search goes through the
//! parts from the newest on, reads the rows of its terms for many parts at once, and cuts the sets: 10 million
//! records are 306 parts. What a term means is the service's (`audit/terms.rs`).
//!
//! When all records of a chunk are forgotten its rows are swept ([`dead`], [`sweep`]).
//!
//! # Consistency
//! A record is in the queue (`audit_unindexed`) from its own transaction on until all its terms are in the index, so it
//! is always found in one of them, and may be in both. Whoever fills the index holds the row of `audit_index`, so that
//! nobody overwrites what another node adds.

use std::collections::{BTreeMap, HashMap};

use super::audit::{self, COLUMNS_OF_RECORD, Record};
use super::packed;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::{Result, StorageError};

/// Bits of a place within a part.
const PLACE_BITS: u32 = 15;
/// The places of a part.
const PLACES: i64 = (1 << PLACE_BITS) - 1;
/// Words of the set of a part.
const WORDS: usize = 1 << (PLACE_BITS - 6);
/// Octets of a set with a bit for each place.
const BITMAP_OCTETS: usize = WORDS * 8;
/// Parts that are looked at together at first, and at most.
const WINDOW_MIN: i64 = 4;
const WINDOW_MAX: i64 = 256;

/// A set of places within a part.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Set(Box<[u64; WORDS]>);

impl Default for Set {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

/// Most places that are encoded without making a set of them: most terms have few.
const FEW_PLACES: usize = 64;

/// Ascending places as [`Set::encode`] would write them.
fn encoded(places: &[u16]) -> Vec<u8> {
    if places.len() > FEW_PLACES {
        return Set::of(places).encode();
    }
    let (mut octets, mut before) = (Vec::with_capacity(2 * places.len()), 0);
    for &place in places {
        push_step(&mut octets, u32::from(place.saturating_sub(before)));
        before = place;
    }
    octets
}

/// A difference of at most 15 bits, in one octet or two.
fn push_step(octets: &mut Vec<u8>, step: u32) {
    match step {
        0..0x80 => octets.extend(u8::try_from(step)),
        _ => octets.extend([(step & 0x7f) as u8 | 0x80, (step >> 7) as u8]),
    }
}

impl Set {
    fn of(places: &[u16]) -> Self {
        let mut set = Self::default();
        places.iter().for_each(|&place| set.insert(place));
        set
    }

    fn insert(&mut self, place: u16) {
        if let Some(word) = self.0.get_mut(usize::from(place >> 6)) {
            *word |= 1 << (place & 63);
        }
    }

    /// Adds what a row holds.
    ///
    /// # Errors
    /// `Corrupt`.
    fn add(&mut self, octets: &[u8]) -> Result<()> {
        if octets.len() == BITMAP_OCTETS {
            for (word, octets) in self.0.iter_mut().zip(octets.as_chunks::<8>().0) {
                *word |= u64::from_le_bytes(*octets);
            }
            return Ok(());
        }
        let corrupt = || StorageError::Corrupt("a row of the index over the audit trail".to_owned());
        let (mut place, mut rest) = (0_u32, octets.iter());
        while let Some(&first) = rest.next() {
            let mut step = u32::from(first & 0x7f);
            if first & 0x80 != 0 {
                let &second = rest.next().ok_or_else(corrupt)?;
                // A step has at most 15 bits: two octets, of which the second is whole.
                step |= u32::from(second) << 7;
            }
            place += step;
            let place = u16::try_from(place).ok().filter(|place| place >> PLACE_BITS == 0);
            self.insert(place.ok_or_else(corrupt)?);
        }
        Ok(())
    }

    /// The shorter of the two forms.
    fn encode(&self) -> Vec<u8> {
        let (mut octets, mut before) = (Vec::new(), 0);
        for place in self.places() {
            let step = place - before;
            before = place;
            push_step(&mut octets, step);
            if octets.len() >= BITMAP_OCTETS {
                return self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
            }
        }
        octets
    }

    fn cut(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word &= other);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Ascending.
    fn places(&self) -> impl DoubleEndedIterator<Item = u32> {
        let bits = |(index, word): (usize, &u64)| {
            let (index, word) = (index as u32, *word);
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

/// What to add: records by their keys, and their terms.
#[derive(Default, Debug)]
pub struct Batch {
    /// By chunk: terms with places, in one number each, so that they are sorted quickly.
    pairs: BTreeMap<i64, Vec<u64>>,
    /// By part: times of the first and the last record.
    parts: BTreeMap<i64, (Timestamp, Timestamp)>,
}

/// Chunk and term.
pub type RowKey = (i64, i64);

/// Rows of the index with the places that are to be in them.
pub type Rows = Vec<(RowKey, Vec<u16>)>;

impl Batch {
    /// Adds a record, in the order of keys.
    pub fn add(&mut self, record: i64, at: Timestamp, is_read: bool, terms: impl IntoIterator<Item = i64>) {
        let part = record >> PLACE_BITS;
        let place = (record & PLACES).cast_unsigned();
        let pairs = self.pairs.entry(chunk(part, is_read)).or_default();
        pairs.extend(terms.into_iter().map(|term| term.cast_unsigned() << PLACE_BITS | place));
        let (first, last) = self.parts.entry(part).or_insert((at, at));
        (*first, *last) = ((*first).min(at), (*last).max(at));
    }

    /// All its rows, in the order of chunks and terms. There are none in it then.
    pub fn take(&mut self) -> Rows {
        let mut rows = Rows::new();
        for (chunk, mut pairs) in std::mem::take(&mut self.pairs) {
            pairs.sort_unstable();
            for of_term in pairs.chunk_by(|one, other| one >> PLACE_BITS == other >> PLACE_BITS) {
                let Some(first) = of_term.first() else { continue };
                // Of values below 2^15.
                let places = of_term.iter().map(|pair| (pair & PLACES.cast_unsigned()) as u16).collect();
                rows.push(((chunk, (first >> PLACE_BITS).cast_signed()), places));
            }
        }
        rows
    }
}

fn chunk(part: i64, is_read: bool) -> i64 {
    part * 2 + i64::from(is_read)
}

/// Keys of records behind `after` that are not in the index, the oldest first; only such as stand in one part.
///
/// # Errors
/// When the database fails.
pub async fn waiting(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<i64>> {
    let text = format!(
        "SELECT {} FROM (SELECT audit_id FROM audit_unindexed WHERE audit_id > $1 ORDER BY audit_id LIMIT $2) AS w",
        packed::aggregate(&["w.audit_id"])
    );
    let row = conn.row(text, params![after, limit]).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let mut keys: Vec<i64> =
        packed::rows(row.text_opt(0)?.as_deref())?.into_iter().flat_map(|[key]| key).collect();
    keys.sort_unstable();
    let part = keys.first().map_or(0, |key| key >> PLACE_BITS);
    keys.truncate(keys.partition_point(|key| key >> PLACE_BITS == part));
    Ok(keys)
}

/// The records with these keys, ascending; those that are gone are left out.
///
/// # Errors
/// When the database fails.
pub async fn records(conn: &mut Conn, keys: impl IntoIterator<Item = i64>) -> Result<Vec<Record>> {
    let text = format!("SELECT {COLUMNS_OF_RECORD} FROM audit a WHERE a.id IN IDS($1) ORDER BY a.id");
    let rows = conn.rows(text, vec![ids(keys)]).await?;
    rows.iter().filter_map(|row| audit::record_opt(row, 0).transpose()).collect()
}

/// Adds rows to the index.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn write(conn: &mut Conn, rows: &[(RowKey, Vec<u16>)]) -> Result<()> {
    lock(conn).await?;
    let mut rest = rows;
    // Rows stand in the order of chunks: those of one chunk are read together.
    while let Some(((chunk, _), _)) = rest.first() {
        let chunk = *chunk;
        let end = rest.partition_point(|((other, _), _)| *other == chunk);
        let Some((own, others)) = rest.split_at_checked(end) else { break };
        rest = others;
        let text = "SELECT term, records FROM audit_term WHERE chunk = $1 AND term >= $2 AND term <= $3";
        let ends =
            own.first().zip(own.last()).map_or((0, 0), |(((_, first), _), ((_, last), _))| (*first, *last));
        let known = conn.rows(text, params![chunk, ends.0, ends.1]).await?;
        let known: HashMap<i64, Vec<u8>> =
            known.iter().map(|row| Ok((row.int(0)?, row.blob(1)?))).collect::<Result<_>>()?;
        let mut new = Vec::new();
        for ((_, term), places) in own {
            match known.get(term) {
                None => new.push(params![chunk, *term, encoded(places)]),
                Some(before) => {
                    let mut set = Set::of(places);
                    set.add(before)?;
                    let text = "UPDATE audit_term SET records = $3 WHERE chunk = $1 AND term = $2";
                    conn.execute(text, params![chunk, *term, set.encode()]).await?;
                }
            }
        }
        conn.insert_rows("INSERT INTO audit_term (chunk, term, records)", 3, new).await?;
    }
    Ok(())
}

async fn lock(conn: &mut Conn) -> Result<()> {
    let text = format!("SELECT id FROM audit_index WHERE id = 1{}", conn.for_update());
    conn.rows(text, Vec::new()).await.map(drop)
}

/// Notes that all rows of a batch are written: these records wait no longer.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn written(conn: &mut Conn, batch: &Batch, keys: &[i64]) -> Result<()> {
    lock(conn).await?;
    for (part, (first, last)) in &batch.parts {
        let text = "INSERT INTO audit_part (part, at_first, at_last) VALUES ($1, $2, $3)
                    ON CONFLICT (part) DO UPDATE SET swept = 0,
                        at_first = CASE WHEN excluded.at_first < audit_part.at_first THEN excluded.at_first
                                        ELSE audit_part.at_first END,
                        at_last = CASE WHEN excluded.at_last > audit_part.at_last THEN excluded.at_last
                                       ELSE audit_part.at_last END";
        conn.execute(text, params![*part, *first, *last]).await?;
    }
    let keys = ids(keys.iter().copied());
    conn.execute("DELETE FROM audit_unindexed WHERE audit_id IN IDS($1)", vec![keys]).await.map(drop)
}

/// What to look for in the index.
#[derive(Clone, Default, Debug)]
pub struct Wanted {
    /// A record has one of the terms of each group.
    pub groups: Vec<Vec<i64>>,
    /// Only parts with records from then on.
    pub since: Option<Timestamp>,
    /// Only parts with records before.
    pub until: Option<Timestamp>,
}

/// Keys of records, newest first, down to `until`; nothing when there is nothing further down.
#[derive(Debug)]
pub struct Found {
    /// The keys.
    pub keys: Vec<i64>,
    /// Everything that fits and has a key from here on is among them.
    pub until: Option<i64>,
}

/// The newest records below `before` that have the terms, at most `limit` of them. Some may be gone, and of some the
/// terms may only look the same.
///
/// # Errors
/// When the database fails.
pub async fn find(conn: &mut Conn, wanted: &mut Wanted, before: i64, limit: usize) -> Result<Found> {
    let (mut keys, mut window) = (Vec::new(), WINDOW_MIN);
    let mut below = (before.saturating_sub(1) >> PLACE_BITS).saturating_add(1);
    while keys.len() < limit {
        let text = "SELECT part FROM audit_part WHERE part < $1 AND at_last >= $2 AND at_first < $3
                    ORDER BY part DESC LIMIT $4";
        let since = wanted.since.map_or(i64::MIN, |at| at.0);
        let until = wanted.until.map_or(i64::MAX, |at| at.0);
        let rows = conn.rows(text, params![below, since, until, window]).await?;
        let parts: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
        let Some(&first) = parts.last() else { return Ok(Found { keys, until: None }) };
        let found = cut(conn, wanted, parts).await?;
        for (part, set) in found.iter().rev() {
            let places = set.places().rev().map(|place| (part << PLACE_BITS) + i64::from(place));
            keys.extend(places.filter(|key| *key < before));
        }
        below = first;
        window = (window * 4).min(WINDOW_MAX);
    }
    if keys.len() > limit {
        keys.truncate(limit);
        return Ok(Found { until: keys.last().copied(), keys });
    }
    Ok(Found { keys, until: Some(below << PLACE_BITS) })
}

/// The records in these parts that have a term of each group. Groups that were seen to cut most come first the next
/// time.
async fn cut(conn: &mut Conn, wanted: &mut Wanted, mut parts: Vec<i64>) -> Result<BTreeMap<i64, Set>> {
    let mut left: Option<BTreeMap<i64, Set>> = None;
    let mut weights = Vec::with_capacity(wanted.groups.len());
    for group in &wanted.groups {
        if let Some(left) = &left {
            parts = left.keys().copied().collect();
        }
        if parts.is_empty() {
            break;
        }
        let sets = union(conn, group, &parts).await?;
        weights.push(sets.values().map(Set::len).sum::<u64>());
        left = Some(match left {
            None => sets,
            Some(mut left) => {
                left.retain(|part, set| {
                    sets.get(part).inspect(|other| set.cut(other)).is_some() && !set.is_empty()
                });
                left
            }
        });
    }
    let mut order: Vec<usize> = (0..wanted.groups.len()).collect();
    // Those that were not looked at were not needed: they stay behind.
    order.sort_by_key(|&index| weights.get(index).copied().unwrap_or(u64::MAX));
    wanted.groups =
        order.iter().filter_map(|&index| wanted.groups.get_mut(index).map(std::mem::take)).collect();
    Ok(left.unwrap_or_default())
}

/// The records in these parts that have one of the terms.
async fn union(conn: &mut Conn, terms: &[i64], parts: &[i64]) -> Result<BTreeMap<i64, Set>> {
    let chunks = parts.iter().flat_map(|&part| [chunk(part, false), chunk(part, true)]);
    let mut sets: BTreeMap<i64, Set> = BTreeMap::new();
    let params = vec![ids(chunks), ids(terms.iter().copied())];
    let text = "SELECT chunk, records FROM audit_term WHERE chunk IN IDS($1) AND term IN IDS($2)";
    for row in conn.rows(text, params).await? {
        sets.entry(row.int(0)? >> 1).or_default().add(&row.blob(1)?)?;
    }
    Ok(sets)
}

/// Keys of records below `before` that are not in the index and have one of these customers on their path, newest
/// first.
///
/// # Errors
/// When the database fails.
pub async fn unindexed(conn: &mut Conn, places: &[i64], before: i64, limit: usize) -> Result<Vec<i64>> {
    // From the queue, which is short, to the customers: CROSS JOIN keeps SQLite to that order.
    let text = "SELECT DISTINCT u.audit_id FROM audit_unindexed u CROSS JOIN audit_scope s
                WHERE u.audit_id < $2 AND s.audit_id = u.audit_id AND s.customer_id IN IDS($1)
                ORDER BY u.audit_id DESC LIMIT $3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = conn.rows(text, params![ids(places.iter().copied()), before, limit]).await?;
    rows.iter().map(|row: &Row| row.int(0)).collect()
}

/// A part of which records are forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dead {
    /// The part.
    pub part: i64,
    /// Whether all its records are gone, not only those of reads.
    pub is_whole: bool,
}

/// Parts whose rows are to be swept, the oldest first, at most 64: those with nothing younger than `reads_since`,
/// before which all reads are gone.
///
/// # Errors
/// When the database fails.
pub async fn dead(conn: &mut Conn, reads_since: Timestamp) -> Result<Vec<Dead>> {
    let text = format!(
        "SELECT d.part, d.is_whole FROM (
             SELECT p.part, p.swept,
                    CAST(CASE WHEN EXISTS (SELECT 1 FROM audit a WHERE a.id >= p.part * {LENGTH}
                                           AND a.id < (p.part + 1) * {LENGTH}) THEN 0 ELSE 1 END AS BIGINT) AS is_whole
             FROM audit_part p WHERE p.at_last < $1
               AND NOT EXISTS (SELECT 1 FROM audit_unindexed u WHERE u.audit_id >= p.part * {LENGTH}
                               AND u.audit_id < (p.part + 1) * {LENGTH})) AS d
         WHERE d.is_whole = 1 OR d.swept = 0 ORDER BY d.part LIMIT 64",
        LENGTH = PLACES + 1
    );
    let rows = conn.rows(text, params![reads_since]).await?;
    rows.iter().map(|row| Ok(Dead { part: row.int(0)?, is_whole: row.int(1)? == 1 })).collect()
}

/// Removes some rows of a dead part, at most `limit` of each of its chunks; answers whether there may be more. When
/// there are none the part is known as swept, or is gone.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn sweep(conn: &mut Conn, dead: Dead, limit: i64) -> Result<bool> {
    lock(conn).await?;
    let mut more = false;
    let chunks = [chunk(dead.part, true), chunk(dead.part, false)];
    for chunk in chunks.into_iter().take(if dead.is_whole { 2 } else { 1 }) {
        let text = "DELETE FROM audit_term WHERE chunk = $1 AND term IN (
                        SELECT term FROM audit_term WHERE chunk = $1 ORDER BY term LIMIT $2)";
        more |= i64::try_from(conn.execute(text, params![chunk, limit]).await?) == Ok(limit);
    }
    if !more {
        let text = match dead.is_whole {
            true => "DELETE FROM audit_part WHERE part = $1",
            false => "UPDATE audit_part SET swept = 1 WHERE part = $1",
        };
        conn.execute(text, params![dead.part]).await?;
    }
    Ok(more)
}

/// How many rows there are, and how many octets they take; for measurements.
///
/// # Errors
/// When the database fails.
pub async fn size(conn: &mut Conn) -> Result<(i64, i64)> {
    let text = "SELECT count(*), CAST(coalesce(sum(length(records)), 0) AS BIGINT) FROM audit_term";
    let row = conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("a count"))?;
    Ok((row.int(0)?, row.int(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(places: impl IntoIterator<Item = u16>) -> Set {
        let mut set = Set::default();
        places.into_iter().for_each(|place| set.insert(place));
        set
    }

    #[test]
    fn sets_come_back_in_either_form() {
        let last = (1 << PLACE_BITS) - 1;
        let many: Vec<u16> = (0..last).filter(|place| place % 3 != 0).collect();
        for places in [vec![], vec![0], vec![last], vec![0, last], vec![1, 128, 129, 20_000], many] {
            let before = set(places.clone());
            assert_eq!(encoded(&places), before.encode());
            let mut after = Set::default();
            after.add(&before.encode()).unwrap();
            assert_eq!(after, before);
            let places: Vec<u32> = places.into_iter().map(u32::from).collect();
            assert_eq!(after.places().collect::<Vec<_>>(), places);
        }
        assert!(set(0..last).encode().len() == BITMAP_OCTETS);
        assert_eq!(set([5, 6]).encode(), [5, 1]);
    }

    #[test]
    fn what_is_no_set_is_corrupt() {
        for octets in [vec![0x80], vec![0xff, 0xff, 0xff, 0xff], vec![0x7f; 600]] {
            assert!(Set::default().add(&octets).is_err(), "{octets:?}");
        }
    }
}
