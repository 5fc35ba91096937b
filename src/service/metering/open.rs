//! What the present month has come to so far, kept in memory.
//!
//! In a month a domain has some hundred lines, so a report on many domains would read millions. What they came to does
//! not change any more some hours later: it is added up once, and then hour by hour. What is younger is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sums::over;
use super::{Month, too_much};
use crate::service::error::Result;
use crate::storage::metadata::metering::{self, Counted};
use crate::storage::metadata::sql::Conn;

/// Hours that are not taken as settled yet: another node may still be closing them.
const YOUNG_HOURS: i64 = 2;

/// What a month came to before an hour, by place.
pub(super) struct Settled {
    pub month: Month,
    /// The hours before this one are in it.
    pub until: i64,
    pub sums: BTreeMap<i64, Counted>,
}

/// What a month came to, in two parts.
pub(super) struct Known {
    pub settled: Arc<Settled>,
    /// What all places came to since, if that was read on the way.
    pub young: Option<BTreeMap<i64, Counted>>,
}

/// Keeps what is settled of the present month.
#[derive(Default)]
pub(in crate::service) struct OpenMonth(tokio::sync::Mutex<Option<Arc<Settled>>>);

impl OpenMonth {
    /// What is settled of a month of which the hours before `until` are closed. Nothing when more is known than is
    /// asked for: then whoever asks was slow.
    ///
    /// # Errors
    /// When the database fails, or no number holds a sum.
    pub(super) async fn settled(&self, conn: &mut Conn, month: Month, until: i64) -> Result<Option<Known>> {
        let (first, next) = (month.first_hour(), month.next().first_hour());
        let closed = until.clamp(first, next);
        let until = until.saturating_sub(YOUNG_HOURS).clamp(first, next);
        let mut kept = self.0.lock().await;
        let known = kept.as_ref().filter(|known| known.month == month).map(Arc::clone);
        let (from, mut sums) = match &known {
            Some(known) if known.until > until => return Ok(None),
            Some(known) if known.until == until => {
                return Ok(Some(Known { settled: Arc::clone(known), young: None }));
            }
            Some(known) => (known.until, known.sums.clone()),
            None => (first, BTreeMap::new()),
        };
        let mut young = BTreeMap::new();
        let domains = metering::all_domains(conn).await?;
        for chunk in domains.chunks(metering::CHUNK_DOMAINS) {
            // The lines are read once for both parts.
            let lines = metering::lines(conn, chunk, from, closed).await?;
            for of_domain in lines.chunk_by(|one, other| one.domain == other.domain) {
                add(&mut sums, over(of_domain, from, until)?)?;
                add(&mut young, over(of_domain, until, closed)?)?;
            }
        }
        let settled = Arc::new(Settled { month, until, sums });
        *kept = Some(Arc::clone(&settled));
        Ok(Some(Known { settled, young: Some(young) }))
    }
}

fn add(sums: &mut BTreeMap<i64, Counted>, more: BTreeMap<i64, Counted>) -> Result<()> {
    for (place, more) in more {
        let sum = sums.entry(place).or_default();
        *sum = sum.plus(&more).ok_or_else(too_much)?;
    }
    Ok(())
}
