//! Dictionaries trained from a customer's own mail.
//!
//! A dictionary holds verbatim pieces of the mail it was trained on. So each is for the customer whose mail it was,
//! and for nobody else; there is none for all customers together but the shipped one, whose text was filtered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Packer;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId};
use crate::storage::background::background;
use crate::storage::metadata::dictionary;
use crate::storage::metadata::lane::Priority;
use crate::storage::pack::recipe::{self, PART_OCTETS_MIN};
use crate::storage::pack::{Codec, DICTIONARY_SHIPPED};
use crate::storage::{Result, StorageError};

/// Customers with less mail have too little to learn from.
const CUSTOMER_OCTETS_MIN: i64 = 20_000_000;
/// Longer text is compressed without dictionary.
const SAMPLE_OCTETS_MAX: usize = 64 * 1024;
/// Most bodies that are read for a dictionary.
const SAMPLES_MAX: i64 = 4_000;
/// Most bytes of them. (A dictionary wants about a hundred times its size to learn from.)
const SAMPLES_OCTETS_MAX: usize = 16 << 20;
/// Fewer bodies say nothing about the next.
const SAMPLES_MIN: usize = 64;
/// Size of a dictionary, where the gain on mail flattens.
const DICTIONARY_OCTETS: usize = 110 * 1024;
/// One in so many bodies is not learned from, but measured with.
const HELD_OUT_ONE_IN: usize = 4;
/// A dictionary that saves less is not worth its place.
const SAVING_PERCENT_MIN: u64 = 2;
/// How often customers are looked through.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// A customer's dictionary serves at least so long, and nothing is tried twice within this time.
const AGE_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What training a dictionary showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retrained {
    /// Bodies that it was trained on or measured with.
    pub samples: u64,
    /// Octets of the bodies to measure with, compressed as until now.
    pub octets_before: u64,
    /// The same, compressed with the new dictionary.
    pub octets_after: u64,
    /// Its number in frames, if it is used from now on.
    pub dictionary: Option<u32>,
}

/// Whose turn it is.
#[derive(Default, Debug)]
pub(super) struct Turns {
    next_at: Option<Timestamp>,
    customers: VecDeque<CustomerId>,
    /// When it was tried; those of which it is too long ago are forgotten.
    tried: BTreeMap<CustomerId, Timestamp>,
}

impl Packer {
    /// Trains one customer's dictionary, if it is time: customers are looked through once a day, the first time
    /// a day after the start, and nobody's turn comes again within 30 days. Deletes dictionaries that nothing
    /// needs any more.
    ///
    /// # Errors
    /// `Database`, or what reading bodies meets; the customer has to wait for the next turn then.
    pub async fn retrain_next(&self, now: Timestamp) -> Result<Option<Retrained>> {
        let mut turns = self.turns.lock().await;
        let next_at = *turns.next_at.get_or_insert(now.plus(INTERVAL));
        if turns.customers.is_empty() {
            if now < next_at {
                return Ok(None);
            }
            turns.next_at = Some(now.plus(INTERVAL));
            let database = self.bodies.database();
            self.bodies.prune_dictionaries(now).await?;
            let before = now.minus(AGE_MIN);
            let read = database.read(|conn| {
                Box::pin(async move { dictionary::candidates(conn, CUSTOMER_OCTETS_MIN, before).await })
            });
            turns.tried.retain(|_, tried| *tried > before);
            let candidates: Vec<CustomerId> = read.await?;
            let is_due = |customer: &CustomerId| !turns.tried.contains_key(customer);
            turns.customers = candidates.into_iter().filter(is_due).collect();
        }
        let Some(customer) = turns.customers.pop_front() else { return Ok(None) };
        turns.tried.insert(customer, now);
        self.retrain(customer, now).await
    }

    /// Trains a dictionary from the newest mail of a customer with at least 20 MB, and measures it with mail that it
    /// was not trained on. If that gets at least 2 % smaller than with the present dictionary, packs use the new one
    /// for this customer from now on. Nothing when there is too little mail, or no mail store wants it.
    ///
    /// # Errors
    /// `Database`, or what reading bodies meets; damaged bodies are left out.
    pub async fn retrain(&self, customer: CustomerId, now: Timestamp) -> Result<Option<Retrained>> {
        let volumes = self.writable_volumes().await?;
        let wanting = volumes.iter().map(|volume| &volume.store.settings.compression);
        let wanting = wanting.filter(|wanted| wanted.dictionary && wanted.retrain);
        let Some(level) = wanting.map(|wanted| wanted.level.cast_signed()).max() else { return Ok(None) };
        let samples = self.samples(customer).await?;
        if samples.len() < SAMPLES_MIN {
            return Ok(None);
        }
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(async move { dictionary::in_use(conn, &[customer.0]).await }));
        let present = read.await?.get(&customer.0).copied().unwrap_or(DICTIONARY_SHIPPED);
        self.bodies.learn([present].into()).await?;
        let (codec, count) = (self.bodies.codec().at_level(level), samples.len() as u64);
        let (trained, octets_before, octets_after) =
            background(move || train(&codec, present, &samples)).await?;
        let mut done = Retrained { samples: count, octets_before, octets_after, dictionary: None };
        if octets_after * 100 > octets_before * (100 - SAVING_PERCENT_MIN) {
            return Ok(Some(done));
        }
        let replace = self.bodies.database().write(Priority::Background, move |conn| {
            let trained = trained.clone();
            Box::pin(async move { dictionary::replace(conn, customer, &trained, now).await })
        });
        done.dictionary = replace.await?;
        tracing::info!(%customer, ?done, "a customer's mail is compressed with a dictionary of its own");
        Ok(Some(done))
    }

    /// Bodies of a customer as they would be compressed, the newest of each mailbox by its share of the mail.
    async fn samples(&self, customer: CustomerId) -> Result<Vec<Vec<u8>>> {
        let database = self.bodies.database();
        let read = database.read(|conn| Box::pin(async move { dictionary::mailboxes(conn, customer).await }));
        let mailboxes: Vec<(MailboxId, i64)> = read.await?;
        let all = mailboxes.iter().fold(0_i64, |sum, (_, octets)| sum.saturating_add(*octets));
        let (mut samples, mut octets) = (Vec::new(), 0);
        if all < CUSTOMER_OCTETS_MIN {
            return Ok(samples);
        }
        for (mailbox, own) in mailboxes {
            let share = own.saturating_mul(SAMPLES_MAX) / all.max(1);
            let (count, octets_max) = (share.max(1), SAMPLE_OCTETS_MAX as i64);
            let read = database.read(|conn| {
                Box::pin(async move { dictionary::samples(conn, customer, mailbox, octets_max, count).await })
            });
            let bodies: Vec<BodyId> = read.await?;
            for body in bodies {
                let original = match self.bodies.read(body).await {
                    Ok(original) => original,
                    // Deleted meanwhile, or reported by whoever checks the store.
                    Err(StorageError::Gone(_) | StorageError::Corrupt(_)) => continue,
                    Err(error) => return Err(error),
                };
                let sample = sample(&original);
                octets += sample.len();
                samples.push(sample);
                if octets >= SAMPLES_OCTETS_MAX {
                    return Ok(samples);
                }
            }
        }
        Ok(samples)
    }
}

/// What would be compressed of a body: base64 decoded, attachments apart.
fn sample(original: &[u8]) -> Vec<u8> {
    let runs = recipe::runs(original);
    let with_part = |run: &recipe::Run| (run.decoded.len() >= PART_OCTETS_MIN).then_some(BodyId(1));
    let recipe = recipe::encode(original, runs.iter().map(|run| (run, with_part(run))));
    recipe.unwrap_or_else(|| original.to_vec())
}

/// A dictionary, and the octets of the held-out samples with the present one and with the new one.
fn train(codec: &Codec, present: u32, samples: &[Vec<u8>]) -> Result<(Vec<u8>, u64, u64)> {
    /// A number for the time being, in a codec that nobody else uses.
    const CANDIDATE: u32 = u32::MAX;
    let numbered = || samples.iter().enumerate();
    let is_held_out = |number: usize| number.is_multiple_of(HELD_OUT_ONE_IN);
    let learned: Vec<&[u8]> =
        numbered().filter(|(number, _)| !is_held_out(*number)).map(|(_, sample)| sample.as_slice()).collect();
    let trained = zstd::dict::from_samples(&learned, DICTIONARY_OCTETS)
        .map_err(|error| StorageError::Io { what: "train a dictionary".to_owned(), error })?;
    let measuring = Codec::new(codec.level());
    measuring.learn(CANDIDATE, trained.clone())?;
    let held_out = numbered().filter(|(number, _)| is_held_out(*number)).map(|(_, sample)| sample);
    let (mut before, mut after) = (0, 0);
    for sample in held_out {
        before += codec.compress_with(sample, present).data.len() as u64;
        after += measuring.compress_with(sample, CANDIDATE).data.len() as u64;
    }
    Ok((trained, before, after))
}
