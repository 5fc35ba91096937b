//! Sending: who is due, what is next, one POST after the other; and `webhook.test`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::operations::{OneWebhook, WebhookRequest};
use super::signature;
use crate::base::clock::Timestamp;
use crate::base::id::{public_id, random_bytes};
use crate::base::post::{Poster, Target};
use crate::service::audit::places_of;
use crate::service::authority::{Caller, Permission, PermissionSet};
use crate::service::error::{Result, ServiceError};
use crate::service::events::{Event, is_change, is_wanted};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::notices::{self, Kind, To};
use crate::service::registry::{Inner, Management, Operate, Targeted as _, Tx, declare};
use crate::service::server::starting;
use crate::service::settings::standing;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::event;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::webhook::{self, Sent, WebhookRow};

/// How often it looks for hooks that are due.
const INTERVAL: Duration = Duration::from_millis(500);
/// Hooks that are looked at in one go, and that are sent to at a time.
const HOOKS_PAGE: i64 = 500;
const HOOKS_TOGETHER: usize = 16;
/// Most events that are sent to a hook before others have their turn.
const EVENTS_TOGETHER: usize = 50;
/// Time between two events to the same hook.
const PACE: Duration = Duration::from_millis(20);
/// How long a hook is held: longer than what is sent in one go may take.
const LEASE: Duration = Duration::from_secs(60);
/// After this time no further event is begun.
const TURN_MAX: Duration = Duration::from_secs(30);
/// Time before the second attempt, which doubles each time, and at most.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// How long nothing is taken before a hook is switched off.
const FAILING_MAX: Duration = Duration::from_secs(86_400);
/// Hooks of which it is remembered how far they were looked at.
const KNOWN_MAX: usize = 50_000;
/// Longest text of an outcome, in characters.
const OUTCOME_CHARACTERS_MAX: usize = 200;
/// The status of a hook that wants nothing any more.
const GONE: u16 = 410;

/// Sends the events of webhooks.
pub struct Webhooks {
    poster: Poster,
    node: String,
    /// How far hooks were looked at for which there was nothing: by key, with their position then.
    idle: Mutex<HashMap<i64, (i64, i64)>>,
}

/// What one attempt came to.
struct Attempt {
    is_taken: bool,
    is_gone: bool,
    outcome: String,
}

impl Webhooks {
    /// Sends with `poster`; `node` is this node's name.
    pub fn new(poster: Poster, node: String) -> Self {
        Self { poster, node, idle: Mutex::default() }
    }

    pub(super) fn poster(&self) -> &Poster {
        &self.poster
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(&self, management: Management) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass(&management).await {
                tracing::error!(%error, "webhooks could not be looked at; it is tried again");
            }
        }
    }

    /// Sends what is due.
    ///
    /// # Errors
    /// When the database fails; hooks that do not take what is sent are no errors.
    pub async fn pass(&self, management: &Management) -> Result<()> {
        let inner = &management.inner;
        let mut after = 0;
        loop {
            let now = inner.clock.now();
            let read = inner.database.read(move |conn| {
                Box::pin(
                    async move { Ok::<_, ServiceError>(webhook::due(conn, now, after, HOOKS_PAGE).await?) },
                )
            });
            let due = read.await?;
            let Some(last) = due.last() else { return Ok(()) };
            after = last.id;
            let turns = stream::iter(due).map(|hook| self.turn(inner, hook));
            let outcomes: Vec<Result<()>> = turns.buffer_unordered(HOOKS_TOGETHER).collect().await;
            outcomes.into_iter().collect::<Result<()>>()?;
        }
    }

    /// Sends what there is for one hook, as far as its turn goes.
    async fn turn(&self, inner: &Arc<Inner>, hook: WebhookRow) -> Result<()> {
        let (events, position) = self.next_events(inner, &hook).await?;
        if events.is_empty() {
            let mut known = self.looked_at();
            if known.len() >= KNOWN_MAX {
                // Many were deleted since; what is forgotten is looked at anew.
                known.clear();
            }
            known.insert(hook.id, (hook.position, position));
            return Ok(());
        }
        let (node, now) = (self.node.clone(), inner.clock.now());
        let (held, until) = (hook.clone(), now.plus(LEASE));
        let write = inner.database.write(Priority::Background, move |conn| {
            let (node, held) = (node.clone(), held.clone());
            Box::pin(
                async move { Ok::<_, ServiceError>(webhook::lease(conn, &held, &node, now, until).await?) },
            )
        });
        if !write.await? {
            return Ok(());
        }
        let begun = Instant::now();
        let mut sent = Sent { position: hook.position, delivered: 0, outcome: String::new(), failed: None };
        let count = events.len();
        for (index, (key, event)) in events.into_iter().enumerate() {
            if begun.elapsed() > TURN_MAX {
                break;
            }
            let attempt = self.send(inner, &hook, &event.id, &event.kind, &event).await;
            sent.outcome = attempt.outcome;
            if !attempt.is_taken {
                let attempts = if sent.delivered > 0 { 0 } else { hook.attempts };
                let since = hook.failing_since.filter(|_| sent.delivered == 0);
                sent.failed = Some(retry(attempts, since, inner.clock.now(), attempt.is_gone));
                break;
            }
            // Behind the last one everything is passed over that is nothing for this hook.
            sent.position = if index + 1 == count { position } else { key };
            sent.delivered += 1;
            tokio::time::sleep(PACE).await;
        }
        self.keep(inner, &hook, sent).await
    }

    fn looked_at(&self) -> std::sync::MutexGuard<'_, HashMap<i64, (i64, i64)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next events with their keys, and the position behind them.
    async fn next_events(&self, inner: &Arc<Inner>, hook: &WebhookRow) -> Result<(Vec<(i64, Event)>, i64)> {
        let known = self.looked_at().get(&hook.id).copied();
        let from =
            known.filter(|(position, _)| *position == hook.position).map_or(hook.position, |(_, to)| to);
        let kinds: Vec<String> = serde_json::from_str(&hook.kinds).unwrap_or_default();
        let (services, customer) = (Arc::clone(inner), hook.customer);
        let read = inner.database.read(move |conn| {
            Box::pin(async move {
                let tree = services.authority.tree(conn, TreeLock::None).await?;
                let reader = Caller::looking_on(tree, Some(customer), PermissionSet::EMPTY);
                let is_asked_for =
                    move |name: &str, outcome: &str| is_change(name, outcome) && is_wanted(&kinds, name);
                let places = places_of(conn, &reader.tree, &[customer]).await?;
                let page = event::after(conn, &places, from, EVENTS_TOGETHER, is_asked_for).await?;
                if page.records.is_empty() {
                    return Ok::<_, ServiceError>((Vec::new(), page.position));
                }
                // Who may not manage at present has nothing sent; it comes later.
                let node = reader.tree.node(customer);
                let is_stopped = node.is_none_or(|node| node.is_gone || node.is_stopped);
                let standing = standing::of_administrator(conn, customer).await?;
                if is_stopped || standing.off.contains("admin") {
                    return Ok((Vec::new(), from));
                }
                let events = page.records.into_iter().map(|one| (one.id, Event::new(&reader, one)));
                Ok((events.collect(), page.position))
            })
        });
        read.await
    }

    async fn send(
        &self,
        inner: &Inner,
        hook: &WebhookRow,
        id: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Attempt {
        let now = inner.clock.now();
        let body = json!({ "type": kind, "timestamp": now, "data": data }).to_string();
        let headers = [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", now.secs().to_string()),
            ("webhook-signature", signature::signature(&hook.secret, id, now, &body)),
        ];
        let outcome = match Target::parse(&hook.url) {
            Ok(target) => self.poster.post(&target, &headers, body).await.map_err(|error| error.to_string()),
            Err(wrong) => Err(wrong),
        };
        match outcome {
            Ok(status) => Attempt {
                is_taken: (200..300).contains(&status),
                is_gone: status == GONE,
                outcome: status.to_string(),
            },
            Err(why) => Attempt {
                is_taken: false,
                is_gone: false,
                outcome: why.chars().take(OUTCOME_CHARACTERS_MAX).collect(),
            },
        }
    }

    /// Notes what came of a turn; tells the customer of a hook that is switched off.
    async fn keep(&self, inner: &Inner, hook: &WebhookRow, sent: Sent) -> Result<()> {
        let now = inner.clock.now();
        let done = Arc::new((hook.clone(), sent, self.node.clone()));
        let write = inner.database.write(Priority::Background, move |conn| {
            let done = Arc::clone(&done);
            Box::pin(async move {
                let (hook, sent, node) = &*done;
                let is_ours = webhook::sent(conn, hook.id, node, sent, now).await?;
                if is_ours && sent.failed == Some(None) {
                    tracing::warn!(webhook = hook.public_id, outcome = sent.outcome, "a webhook is switched off");
                    let host = Target::parse(&hook.url).map(|target| target.host().to_owned());
                    let host = host.unwrap_or_default();
                    let subject = format!("Webhook {} is switched off", hook.public_id);
                    let text = format!(
                        "Nothing was taken by the webhook {} to {host} for a day, or it does not want anything any \
                         more. The last attempt came to: {}.\n\nWhen it works again, switch it on with: posthouse \
                         webhook enable {}\nIt goes on where it stopped.",
                        hook.public_id, sent.outcome, hook.public_id
                    );
                    let to = To::Customer(hook.customer);
                    notices::give(conn, to, Kind::WebhookOff, (&subject, &text), now).await?;
                }
                Ok::<_, ServiceError>(())
            })
        });
        write.await
    }
}

/// When an event that was not taken is sent again; nothing when never.
fn retry(attempts: i64, since: Option<Timestamp>, now: Timestamp, is_gone: bool) -> Option<Timestamp> {
    if is_gone || since.is_some_and(|since| since.plus(FAILING_MAX) <= now) {
        return None;
    }
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(20);
    let pause = RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX);
    // 80 to 120 percent, so that hooks that failed together do not come back together.
    let jitter = random_bytes(1).first().copied().map_or(100, |octet| 80 + u32::from(octet) * 40 / 255);
    Some(now.plus(pause * jitter / 100))
}

/// `webhook.test`.
pub(in crate::service) struct WebhookTest;

impl Operate for WebhookTest {
    declare! { "webhook.test", Post, "/v1/webhooks/{id}/test", WebhookManage, changes,
    "Send an event that says that it is a test, and tell what came of it" }
    const STARTS_JOB: bool = true;
    type Request = WebhookRequest;
    type Response = Job;
    type Target = OneWebhook;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookRequest) -> Result<OneWebhook> {
        OneWebhook::find(tx, &request.id).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneWebhook, request: WebhookRequest) -> Result<Job> {
        let asked = TestingRequest { id: request.id };
        enqueue::<Testing>(tx, target.customer(), &target.label(), &asked).await
    }
}

/// Which webhook to test.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::service) struct TestingRequest {
    id: String,
}

/// What came of a test.
#[derive(Serialize)]
pub(in crate::service) struct TestReport {
    /// Whether it was taken.
    delivered: bool,
    /// The status, or why there is none.
    outcome: String,
    /// How long it took.
    milliseconds: u64,
}

/// The work of `webhook.test`.
pub(in crate::service) struct Testing;

impl Work for Testing {
    const KIND: &'static str = WebhookTest::NAME;
    const PERMISSION: Permission = WebhookTest::PERMISSION;
    type Request = TestingRequest;
    type Report = TestReport;

    async fn run(context: JobContext, request: TestingRequest, _: String) -> Outcome<TestReport> {
        let webhooks = Arc::clone(context.inner.webhooks.get().ok_or_else(starting)?);
        let read = context.inner.database.read(move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(webhook::by_public_id(conn, &request.id).await?) })
        });
        let gone = || ServiceError::NotFound { what: "webhook".to_owned() };
        let hook = read.await?.filter(|hook| hook.customer == context.customer).ok_or_else(gone)?;
        let begun = Instant::now();
        let data = json!({ "webhook": hook.public_id });
        let attempt = webhooks.send(&context.inner, &hook, &public_id(), WebhookTest::NAME, &data).await;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(TestReport { delivered: attempt.is_taken, outcome: attempt.outcome, milliseconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_ever_later_for_a_day() {
        let now = Timestamp::from_secs(1_000_000);
        for (attempts, secs) in [(0, 5), (1, 10), (4, 80), (30, 3_600), (i64::MAX, 3_600)] {
            let pause = retry(attempts, None, now, false).unwrap().0 - now.0;
            assert!((secs * 800_000..=secs * 1_200_000).contains(&pause), "{attempts}: {pause}");
        }
        assert_eq!(retry(3, Some(now.minus(FAILING_MAX)), now, false), None);
        assert!(retry(3, Some(now.minus(FAILING_MAX / 2)), now, false).is_some());
        assert_eq!(retry(0, None, now, true), None);
    }
}
