//! The records of a search, newest first, in slices: by way of the index, or one after the other where that can't tell.

use crate::service::error::Result;
use crate::storage::metadata::audit::{self, Record, Search};
use crate::storage::metadata::audit_index::{self, Wanted};
use crate::storage::metadata::sql::Conn;

/// Keys that are taken from the index, and from what is not in it yet, in one go.
const KEYS: usize = 256;

/// Gives slices of records that fit a search as far as the database can tell.
pub(super) struct Candidates {
    search: Search,
    /// How to ask the index.
    index: Option<Wanted>,
    /// Keys that were found in the index and not looked at yet, the newest last.
    keys: Vec<i64>,
    /// Down to where they are complete.
    complete: i64,
    slice: usize,
    looked_at: usize,
    is_done: bool,
}

impl Candidates {
    /// Records of `search`, which begins at its position; `terms` are what the index is asked for. A slice has about as
    /// many records as a page.
    pub fn new(search: Search, terms: Option<Vec<Vec<i64>>>, page: usize) -> Self {
        let index = terms.map(|groups| Wanted { groups, since: search.since, until: search.until });
        let complete = search.before_id.unwrap_or(i64::MAX);
        let slice = page.saturating_add(1).clamp(16, KEYS);
        Self { search, index, keys: Vec::new(), complete, slice, looked_at: 0, is_done: false }
    }

    /// How many records were looked at.
    pub fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// Everything from here on was given; nothing when that is all there is.
    pub fn position(&self) -> Option<i64> {
        self.search.before_id.filter(|_| !self.is_done || !self.keys.is_empty())
    }

    /// The next slice, which may be empty; nothing at the end.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next(&mut self, conn: &mut Conn) -> Result<Option<Vec<Record>>> {
        if self.is_done && self.keys.is_empty() {
            return Ok(None);
        }
        let records = match self.index.is_some() {
            true => self.by_index(conn).await?,
            false => self.one_by_one(conn).await?,
        };
        Ok(Some(records))
    }

    async fn one_by_one(&mut self, conn: &mut Conn) -> Result<Vec<Record>> {
        let records = audit::search(conn, &self.search).await?;
        self.looked_at += records.len();
        self.is_done = i64::try_from(records.len()).unwrap_or(i64::MAX) < self.search.limit;
        self.search.before_id = records.last().map(|record| record.id).or(self.search.before_id);
        Ok(records)
    }

    async fn by_index(&mut self, conn: &mut Conn) -> Result<Vec<Record>> {
        if self.keys.is_empty() {
            self.look_up(conn).await?;
        }
        let keys = self.keys.split_off(self.keys.len().saturating_sub(self.slice));
        self.looked_at += keys.len();
        // All that were found are looked at before more are looked up.
        let position = if self.keys.is_empty() { Some(self.complete) } else { keys.first().copied() };
        self.search.before_id = position;
        // What is looked through grows, as long as nothing was found in it.
        self.slice = (self.slice * 2).min(KEYS);
        Ok(audit::matching(conn, &self.search, &keys).await?)
    }

    /// Takes further keys from the index and from what is not in it yet, as far as both are complete.
    async fn look_up(&mut self, conn: &mut Conn) -> Result<()> {
        let Some(wanted) = &mut self.index else { return Ok(()) };
        let before = self.complete;
        let indexed = audit_index::find(conn, wanted, before, KEYS).await?;
        let queued = audit_index::unindexed(conn, &self.search.places, before, KEYS).await?;
        let queued_until = queued.last().copied().filter(|_| queued.len() >= KEYS);
        let until = indexed.until.max(queued_until);
        self.is_done = until.is_none();
        self.complete = until.unwrap_or(0);
        let mut keys: Vec<i64> = indexed.keys.into_iter().chain(queued).collect();
        keys.retain(|&key| key >= self.complete);
        keys.sort_unstable();
        keys.dedup();
        self.keys = keys;
        Ok(())
    }
}
