//! Looks for the proof of pending domains by itself, ever more rarely, until they are verified or a month old.
//!
//! # Consistency
//! What is looked at is claimed by setting when it is due again, so that several nodes share the work. A domain that is
//! proven is verified by the operation `domain.verify` as the system, with its audit record.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::domain_proof::{Found, next_look, proves};
use crate::base::clock::Timestamp;
use crate::base::id::public_id;
use crate::service::context::{Authenticated, Authentication, Identity};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management, RunOptions, operation};
use crate::storage::metadata::domain_check::{self, Check, Due};
use crate::storage::metadata::lane::Priority;

/// How often it is looked what is due.
const INTERVAL: Duration = Duration::from_secs(30);
/// Domains looked at in one go.
const SLICE: i64 = 16;
/// A new domain is left alone for so long: its record has yet to be set.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// Older domains are looked at on request only.
const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The background look.
pub struct DomainChecks {
    management: Management,
}

impl DomainChecks {
    /// For the domains of `management`.
    pub fn new(management: &Management) -> Self {
        Self { management: management.clone() }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "pending domains could not be looked at; it is tried again");
            }
        }
    }

    /// Looks at everything that is due; answers how many domains were verified.
    ///
    /// # Errors
    /// When the database fails; what was claimed is due again at its time.
    pub async fn pass(&self) -> Result<usize> {
        let mut verified = 0;
        loop {
            let due = self.claim().await?;
            let is_last = i64::try_from(due.len()).is_ok_and(|count| count < SLICE);
            for domain in due {
                verified += usize::from(self.look(domain).await?);
            }
            if is_last {
                return Ok(verified);
            }
        }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.management.inner
    }

    async fn claim(&self) -> Result<Vec<Due>> {
        let now = self.inner().clock.now();
        let claim = self.inner().database.write(Priority::Background, move |conn| {
            Box::pin(async move {
                let due =
                    domain_check::due(conn, now, now.minus(FIRST_LOOK), now.minus(AGE_MAX), SLICE).await?;
                for domain in &due {
                    let failures = domain.failures + 1;
                    // What came of it before stays until something else has.
                    let before = domain_check::of(conn, domain.domain).await?;
                    let outcome = before.map_or_else(|| "absent".to_owned(), |check| check.outcome);
                    let check = Check { checked_at: now, outcome, failures };
                    domain_check::keep(conn, domain.domain, &check, next_look(now, failures)).await?;
                }
                Ok::<_, ServiceError>(due)
            })
        });
        claim.await
    }

    /// Whether it is verified now.
    async fn look(&self, due: Due) -> Result<bool> {
        let inner = self.inner();
        let text = inner.lookups.text(&due.public_id, due.customer);
        let now = inner.clock.now();
        let outcome = match inner.lookups.look(&due.name).await {
            Found::Texts(texts) if proves(&texts, &text) => return self.verify(&due).await,
            Found::Texts(_) => "absent",
            Found::Failed(why) => {
                tracing::debug!(domain = due.name, why, "the proof of a domain could not be looked for");
                "unreachable"
            }
        };
        self.keep(&due, outcome, now).await?;
        Ok(false)
    }

    async fn keep(&self, due: &Due, outcome: &'static str, now: Timestamp) -> Result<()> {
        let (domain, failures) = (due.domain, due.failures + 1);
        let write = self.inner().database.write(Priority::Background, move |conn| {
            Box::pin(async move {
                let check = Check { checked_at: now, outcome: outcome.to_owned(), failures };
                domain_check::keep(conn, domain, &check, next_look(now, failures)).await?;
                Ok::<_, ServiceError>(())
            })
        });
        write.await
    }

    async fn verify(&self, due: &Due) -> Result<bool> {
        let Some(operation) = operation("domain.verify") else { return Ok(false) };
        let system =
            Authentication { identity: Identity::System, authenticated: Authenticated::Peer { uid: 0 } };
        let context = system.context(None, public_id(), None);
        let request = json!({ "domain": due.name, "customer": due.code });
        let done = (operation.run)(&self.management, context, request, RunOptions::default()).await;
        match done {
            Ok(answer) => Ok(answer.get("outcome").is_some_and(|outcome| outcome == "verified")),
            // Deleted or moved meanwhile.
            Err(error) if error.refusal().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
