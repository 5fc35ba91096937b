//! Metering: what customers use over time. Once an hour the hour before is closed; deliveries pay nothing for it.
//!
//! What a domain's mailboxes hold at the end of an hour counts for that hour, its messages are those that the delivery
//! trace has of it. Days are folded after 35 days, months are frozen when they are over: what they came to stays,
//! whatever is purged or moved afterwards.

mod month;
mod open;
mod sums;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(in crate::service) use month::Month;
pub(in crate::service) use open::OpenMonth;
use sums::{Closing, DAY_HOURS, Received, folded, lines_of, too_much};

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::metering::{self, Counted, Line, Path, Sample};
use crate::storage::metadata::sql::Conn;

/// How often it looks whether an hour is over.
const INTERVAL: Duration = Duration::from_secs(60);
/// How soon it tries again what failed.
const AGAIN: Duration = Duration::from_secs(5);
/// An hour is closed so long after its end: what arrived in it is committed by then.
const GRACE: Duration = Duration::from_secs(120);
/// Hours that are made up for after nobody looked; the delivery trace is not kept for longer.
const HOURS_MAX: i64 = 14 * DAY_HOURS;
/// Days after which the lines of a day become one.
const FOLD_DAYS: i64 = 35;
/// Days before that are looked at again, so that none is left out after nobody looked.
const FOLD_AGAIN_DAYS: i64 = 14;
/// From so many domains on, what is settled of the present month is kept in memory.
const MANY_DOMAINS: usize = 1_000;
/// Months that are frozen at a time at most.
const MONTHS_MAX: usize = 24;

/// What a page of samples came to.
#[derive(Default)]
struct Found {
    lines: Vec<Line>,
    /// Domains with places where they were not before.
    places: Vec<(i64, i64)>,
    /// Domains that were purged.
    gone: Vec<i64>,
}

/// Closes hours and freezes months.
pub struct Metering {
    inner: Arc<Inner>,
}

impl Metering {
    /// For the customers of `management`.
    pub fn new(management: &Management) -> Self {
        Self { inner: Arc::clone(&management.inner) }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(self) {
        loop {
            let now = self.inner.clock.now();
            let done = async {
                self.pass(now).await?;
                self.settle(now).await
            };
            let pause = match done.await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "what customers use could not be metered; it is tried again");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Closes the hours that are over at `now`, folds old days and freezes months; answers how many lines were added.
    /// Several nodes may do it at once: who comes later changes nothing.
    ///
    /// # Errors
    /// When the database fails; what was done before stays, and the next pass goes on.
    pub async fn pass(&self, now: Timestamp) -> Result<usize> {
        let until = now.minus(GRACE).secs().div_euclid(3_600) - 1;
        let closed =
            self.read(|conn| Box::pin(async move { Ok(metering::closed_hour(conn).await?) })).await?;
        if closed.is_some_and(|closed| closed >= until) {
            return Ok(0);
        }
        let from = closed.map_or(until, |closed| (closed + 1).max(until - HOURS_MAX));
        let added = self.close(from, until).await?;
        self.write(move |conn| Box::pin(async move { Ok(metering::close_hour(conn, until).await?) })).await?;
        self.fold(until).await?;
        self.freeze(until).await?;
        Ok(added)
    }

    /// Adds up what is settled of the present month, so that nobody who reads a report has to wait for it.
    async fn settle(&self, now: Timestamp) -> Result<()> {
        let month = Month::of_hour(now.secs().div_euclid(3_600));
        let inner = Arc::clone(&self.inner);
        self.read(move |conn| {
            Box::pin(async move {
                let Some(closed) = metering::closed_hour(conn).await? else { return Ok(()) };
                if metering::all_domains(conn).await?.len() >= MANY_DOMAINS {
                    inner.open_month.settled(conn, month, closed + 1).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> crate::storage::metadata::lane::Work<'c, T, ServiceError>,
    {
        self.inner.database.read(work).await
    }

    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut Conn) -> crate::storage::metadata::lane::Work<'c, T, ServiceError>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
    {
        self.inner.database.write(Priority::Background, work).await
    }

    async fn close(&self, from: i64, until: i64) -> Result<usize> {
        let received: Received = self
            .read(|conn| Box::pin(async move { Ok(metering::received(conn, from, until + 1).await?) }))
            .await?;
        let mut places = self.places().await?;
        let (mut after, mut added) = (0, 0);
        loop {
            let page: Vec<Sample> =
                self.read(|conn| Box::pin(async move { Ok(metering::samples(conn, after).await?) })).await?;
            let Some(last) = page.last() else { return Ok(added) };
            after = last.domain;
            // After the samples: the customers of all of them are in it.
            let tree = self.tree().await?;
            let mut found = Found::default();
            for sample in page {
                let path = match sample.customer {
                    Some(customer) => self.place(&tree, CustomerId(customer), &mut places).await?,
                    None => None,
                };
                let closing = Closing { domain: sample.domain, last: sample.last, level: sample.level, path };
                let lines = lines_of(&closing, from, until, &received)?;
                let before = sample.last.map(|last| last.path);
                let new_place = |line: &&Line| before != Some(line.path);
                found.places.extend(lines.iter().filter(new_place).map(|line| (line.domain, line.path)));
                if sample.customer.is_none() {
                    found.gone.push(sample.domain);
                }
                found.lines.extend(lines);
            }
            added += found.lines.len();
            self.insert(found).await?;
        }
    }

    async fn insert(&self, found: Found) -> Result<()> {
        let Found { lines, places, gone } = found;
        for slice in places.chunks(metering::SLICE_LINES) {
            let slice = slice.to_vec();
            self.write(move |conn| {
                let slice = slice.clone();
                Box::pin(async move { Ok(metering::insert_places(conn, &slice).await?) })
            })
            .await?;
        }
        for slice in lines.chunks(metering::SLICE_LINES) {
            let slice = slice.to_vec();
            self.write(move |conn| {
                let slice = slice.clone();
                Box::pin(async move { Ok(metering::insert_lines(conn, &slice).await?) })
            })
            .await?;
        }
        if !gone.is_empty() {
            self.write(move |conn| {
                let gone = gone.clone();
                Box::pin(async move { Ok(metering::close_domains(conn, &gone).await?) })
            })
            .await?;
        }
        Ok(())
    }

    async fn tree(&self) -> Result<Arc<Tree>> {
        let inner = Arc::clone(&self.inner);
        self.read(move |conn| Box::pin(async move { inner.authority.tree(conn, TreeLock::None).await })).await
    }

    /// The keys of the places that are known, by their path.
    async fn places(&self) -> Result<HashMap<String, i64>> {
        let tree = self.tree().await?;
        let root = tree.root().map_or(0, |root| root.id.0);
        let paths: BTreeMap<i64, Path> =
            self.read(|conn| Box::pin(async move { Ok(metering::paths(conn, root).await?) })).await?;
        Ok(paths.into_iter().map(|(key, path)| (path.ids, key)).collect())
    }

    /// The key of the place where a customer is; nothing when it has just been purged.
    async fn place(
        &self,
        tree: &Tree,
        customer: CustomerId,
        places: &mut HashMap<String, i64>,
    ) -> Result<Option<i64>> {
        if tree.node(customer).is_none() {
            return Ok(None);
        }
        let path = tree.id_path(customer);
        if let Some(&key) = places.get(&path) {
            return Ok(Some(key));
        }
        let names: Vec<&str> = tree.path(customer).iter().map(|node| node.slug.as_str()).collect();
        let shared: Arc<(String, String)> = Arc::new((path.clone(), names.join("/")));
        let write = self.write(move |conn| {
            let shared = Arc::clone(&shared);
            Box::pin(async move { Ok(metering::path_key(conn, &shared.0, &shared.1).await?) })
        });
        let key = write.await?;
        places.insert(path, key);
        Ok(Some(key))
    }

    /// Folds the days that are old enough, once the day is over.
    async fn fold(&self, closed: i64) -> Result<()> {
        if (closed + 1) % DAY_HOURS != 0 {
            return Ok(());
        }
        let until = closed + 1 - FOLD_DAYS * DAY_HOURS;
        let from = until - FOLD_AGAIN_DAYS * DAY_HOURS;
        for domains in self.domains().await?.chunks(metering::CHUNK_DOMAINS) {
            let domains = domains.to_vec();
            let read = self.read(|conn| {
                Box::pin(async move { Ok(metering::lines_begun(conn, &domains, from, until).await?) })
            });
            let lines: Vec<Line> = read.await?;
            for of_domain in lines.chunk_by(|one, other| one.domain == other.domain) {
                let folds = folded(of_domain)?;
                if folds.is_empty() {
                    continue;
                }
                self.write(move |conn| {
                    let folds = folds.clone();
                    Box::pin(async move {
                        for fold in folds {
                            metering::fold(conn, fold).await?;
                        }
                        Ok(())
                    })
                })
                .await?;
            }
        }
        Ok(())
    }

    /// All domains that were ever counted.
    async fn domains(&self) -> Result<Vec<i64>> {
        let keys: Vec<i64> = self.places().await?.into_values().collect();
        self.read(|conn| Box::pin(async move { Ok(metering::domains(conn, &keys).await?) })).await
    }

    /// Freezes the months that are over.
    async fn freeze(&self, closed: i64) -> Result<()> {
        let over = Month::of_hour(closed + 1).previous();
        let frozen =
            self.read(|conn| Box::pin(async move { Ok(metering::frozen_month(conn).await?) })).await?;
        let mut month = frozen.map_or(over, |frozen| Month::of_number(frozen).next());
        for _ in 0..MONTHS_MAX {
            if month > over {
                break;
            }
            self.freeze_month(month).await?;
            month = month.next();
        }
        Ok(())
    }

    async fn freeze_month(&self, month: Month) -> Result<()> {
        let (from, until) = (month.first_hour(), month.next().first_hour());
        for domains in self.domains().await?.chunks(metering::CHUNK_DOMAINS) {
            let domains = domains.to_vec();
            let read =
                self.read(|conn| Box::pin(async move { domain_sums(conn, &domains, (from, until)).await }));
            for slice in read.await?.chunks(metering::SLICE_LINES) {
                let slice = slice.to_vec();
                self.write(move |conn| {
                    let slice = slice.clone();
                    Box::pin(async move { Ok(metering::insert_month(conn, month.number(), &slice).await?) })
                })
                .await?;
            }
        }
        self.write(move |conn| {
            Box::pin(async move { Ok(metering::freeze_month(conn, month.number()).await?) })
        })
        .await
    }
}

/// What domains came to in some hours, as (domain, place, sum).
async fn domain_sums(
    conn: &mut Conn,
    domains: &[i64],
    (from, until): (i64, i64),
) -> Result<Vec<(i64, i64, Counted)>> {
    let mut sums = Vec::new();
    let lines = metering::lines(conn, domains, from, until).await?;
    for of_domain in lines.chunk_by(|one, other| one.domain == other.domain) {
        let Some(first) = of_domain.first() else { continue };
        let over = sums::over(of_domain, from, until)?;
        sums.extend(over.into_iter().map(|(place, sum)| (first.domain, place, sum)));
    }
    Ok(sums)
}

/// What a month came to, or has come to so far.
pub(in crate::service) struct MonthSums {
    /// By place.
    pub sums: BTreeMap<i64, Counted>,
    /// How many hours of it are counted.
    pub hours: i64,
    /// Whether it is frozen.
    pub is_final: bool,
}

/// What a month came to in some places. Of many, what `open` keeps is not read again.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn month_sums(
    conn: &mut Conn,
    open: &OpenMonth,
    month: Month,
    places: &[i64],
) -> Result<MonthSums> {
    let frozen = metering::frozen_month(conn).await?;
    if frozen.is_some_and(|frozen| frozen >= month.number()) {
        let sums = metering::month(conn, month.number(), places).await?;
        return Ok(MonthSums { sums, hours: month.hours(), is_final: true });
    }
    let closed = metering::closed_hour(conn).await?.map_or(0, |closed| closed + 1);
    let (from, until) = (month.first_hour(), month.next().first_hour().min(closed));
    let mut sums: BTreeMap<i64, Counted> = BTreeMap::new();
    let wanted: HashSet<i64> = places.iter().copied().collect();
    let domains = if until > from { metering::domains(conn, places).await? } else { Vec::new() };
    let mut unread = from;
    if domains.len() >= MANY_DOMAINS
        && let Some(known) = open.settled(conn, month, until).await?
    {
        unread = known.settled.until;
        sums.extend(known.settled.sums.iter().filter(|(place, _)| wanted.contains(*place)));
        if let Some(young) = known.young {
            unread = until;
            for (place, more) in young.into_iter().filter(|(place, _)| wanted.contains(place)) {
                let sum = sums.entry(place).or_default();
                *sum = sum.plus(&more).ok_or_else(too_much)?;
            }
        }
    }
    if unread >= until {
        return Ok(MonthSums { sums, hours: (until - from).max(0), is_final: false });
    }
    for chunk in domains.chunks(metering::CHUNK_DOMAINS) {
        let page = domain_sums(conn, chunk, (unread, until)).await?;
        for (_, place, more) in page.into_iter().filter(|(_, place, _)| wanted.contains(place)) {
            let sum = sums.entry(place).or_default();
            *sum = sum.plus(&more).ok_or_else(too_much)?;
        }
    }
    Ok(MonthSums { sums, hours: (until - from).max(0), is_final: false })
}
