//! Numbers for Prometheus, in its text format. Rooms get a [`Metrics`] and count; the HTTP listener shows it.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Buckets for latencies, in seconds: a commit takes 0.1 ms on a quiet disk and several seconds on a dying one.
const LATENCY_SECS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];
/// Buckets for requests to object storage, in seconds: 10 ms nearby, a minute for a pack over a slow line.
const REMOTE_LATENCY_SECS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0];
/// Buckets for the number of jobs in one commit.
const GROUP_JOBS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Buckets for sizes of messages, in octets.
const MESSAGE_OCTETS: [f64; 9] = [1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6, 64e6];

/// A protocol, as a label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// LMTP.
    Lmtp,
    /// SMTP.
    Smtp,
    /// IMAP.
    Imap,
    /// POP3.
    Pop3,
    /// The SASL listener for an MTA.
    Sasl,
    /// The look-ups for an MTA.
    Socketmap,
    /// The admin socket.
    Admin,
    /// Metrics and health.
    Http,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Lmtp,
        Self::Smtp,
        Self::Imap,
        Self::Pop3,
        Self::Sasl,
        Self::Socketmap,
        Self::Admin,
        Self::Http,
    ];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lmtp => "lmtp",
            Self::Smtp => "smtp",
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Sasl => "sasl",
            Self::Socketmap => "socketmap",
            Self::Admin => "admin",
            Self::Http => "http",
        }
    }
}

impl EncodeLabelValue for Protocol {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.name())
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByProtocol {
    protocol: Protocol,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByOutcome {
    protocol: Protocol,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByStatus {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByRequest {
    request: &'static str,
    class: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByKind {
    request: &'static str,
}

/// The state of storage at one moment, measured when somebody asks for the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StorageLevels {
    /// Size of the database, in octets.
    pub database_octets: u64,
    /// Size of SQLite's write-ahead log, in octets; 0 on PostgreSQL.
    pub write_ahead_log_octets: u64,
    /// Packs.
    pub packs: u64,
    /// Octets in packs.
    pub pack_octets: u64,
    /// Bodies that no pack holds yet.
    pub fresh_bodies: u64,
}

/// The numbers; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    deliveries: Family<ByOutcome, Counter>,
    message_octets: Family<ByProtocol, Histogram, fn() -> Histogram>,
    sessions: Family<ByProtocol, Counter>,
    sessions_open: Family<ByProtocol, Gauge>,
    login_failures: Family<ByProtocol, Counter>,
    requests: Family<ByStatus, Counter>,
    commit_jobs: Histogram,
    commit_latency: Histogram,
    database_octets: Gauge,
    write_ahead_log_octets: Gauge,
    packs: Gauge,
    pack_octets: Gauge,
    fresh_bodies: Gauge,
    remote_requests: Family<ByRequest, Counter>,
    remote_octets: Family<ByKind, Counter>,
    remote_latency: Family<ByKind, Histogram, fn() -> Histogram>,
    remote_away: Gauge,
    backup_newest: Gauge,
    backup_tested: Gauge,
    backup_overdue: Gauge,
}

/// A session that is being counted as open until it is dropped.
pub struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All numbers at zero.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("posthouse"),
            deliveries: Family::default(),
            message_octets: Family::new_with_constructor(|| Histogram::new(MESSAGE_OCTETS)),
            sessions: Family::default(),
            sessions_open: Family::default(),
            login_failures: Family::default(),
            requests: Family::default(),
            commit_jobs: Histogram::new(GROUP_JOBS),
            commit_latency: Histogram::new(LATENCY_SECS),
            database_octets: Gauge::default(),
            write_ahead_log_octets: Gauge::default(),
            packs: Gauge::default(),
            pack_octets: Gauge::default(),
            fresh_bodies: Gauge::default(),
            remote_requests: Family::default(),
            remote_octets: Family::default(),
            remote_latency: Family::new_with_constructor(|| Histogram::new(REMOTE_LATENCY_SECS)),
            remote_away: Gauge::default(),
            backup_newest: Gauge::default(),
            backup_tested: Gauge::default(),
            backup_overdue: Gauge::default(),
        };
        inner.register();
        Self { inner: Arc::new(inner) }
    }

    /// Counts one recipient's answer. `outcome` is a short fixed word such as `accepted` or `over-quota`, never
    /// anything that came from outside.
    pub fn delivery(&self, protocol: Protocol, outcome: &'static str) {
        self.inner.deliveries.get_or_create(&ByOutcome { protocol, outcome }).inc();
    }

    /// Counts a message that was taken in.
    pub fn message(&self, protocol: Protocol, octets: u64) {
        self.inner.message_octets.get_or_create(&ByProtocol { protocol }).observe(octets as f64);
    }

    /// Counts a session for as long as the answer is kept.
    pub fn session(&self, protocol: Protocol) -> OpenSession {
        let label = ByProtocol { protocol };
        self.inner.sessions.get_or_create(&label).inc();
        let open = self.inner.sessions_open.get_or_create_owned(&label);
        open.inc();
        OpenSession(open)
    }

    /// Sessions that are open now.
    pub fn sessions_open(&self, protocol: Protocol) -> i64 {
        self.inner.sessions_open.get_or_create(&ByProtocol { protocol }).get()
    }

    /// Counts a failed login.
    pub fn login_failure(&self, protocol: Protocol) {
        self.inner.login_failures.get_or_create(&ByProtocol { protocol }).inc();
    }

    /// Counts an answer of the admin socket.
    pub fn request(&self, operation: &'static str, status: u16) {
        self.inner.requests.get_or_create(&ByStatus { operation, status }).inc();
    }

    /// Counts a commit of `jobs` jobs, which took `latency`.
    pub fn commit(&self, jobs: usize, latency: Duration) {
        self.inner.commit_jobs.observe(jobs as f64);
        self.inner.commit_latency.observe(latency.as_secs_f64());
    }

    /// Counts an attempt of a request to object storage. `request` and `class` are short fixed words.
    pub fn remote_request(&self, request: &'static str, class: &'static str, latency: Duration) {
        self.inner.remote_requests.get_or_create(&ByRequest { request, class }).inc();
        self.inner.remote_latency.get_or_create(&ByKind { request }).observe(latency.as_secs_f64());
    }

    /// Counts octets of objects that were sent or received.
    pub fn remote_octets(&self, request: &'static str, octets: u64) {
        self.inner.remote_octets.get_or_create(&ByKind { request }).inc_by(octets);
    }

    /// One more place of object storage is away, or one less.
    pub fn remote_away(&self, is_away: bool) {
        if is_away {
            self.inner.remote_away.inc()
        } else {
            self.inner.remote_away.dec()
        };
    }

    /// Shows how backups stand: when the newest good one was taken and when one was last tried out with success, in
    /// seconds since 1970 (0: never), and how many of these are overdue.
    pub fn backups(&self, newest_secs: i64, tested_secs: i64, overdue: usize) {
        self.inner.backup_newest.set(newest_secs);
        self.inner.backup_tested.set(tested_secs);
        self.inner.backup_overdue.set(i64::try_from(overdue).unwrap_or(i64::MAX));
    }

    /// Shows the state of storage.
    pub fn storage(&self, levels: StorageLevels) {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.inner.database_octets, levels.database_octets);
        set(&self.inner.write_ahead_log_octets, levels.write_ahead_log_octets);
        set(&self.inner.packs, levels.packs);
        set(&self.inner.pack_octets, levels.pack_octets);
        set(&self.inner.fresh_bodies, levels.fresh_bodies);
    }

    /// All numbers in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.inner.registry) {
            Ok(()) => text,
            // Writing to a String does not fail.
            Err(fmt::Error) => String::new(),
        }
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", version);
        registry.register(
            "deliveries",
            "Answers to recipients by protocol and outcome",
            self.deliveries.clone(),
        );
        registry.register_with_unit(
            "message_size",
            "Sizes of messages taken in",
            Unit::Bytes,
            self.message_octets.clone(),
        );
        registry.register("sessions", "Sessions begun", self.sessions.clone());
        registry.register("sessions_open", "Sessions at present", self.sessions_open.clone());
        registry.register("login_failures", "Failed logins", self.login_failures.clone());
        registry.register("admin_requests", "Answers of the admin socket", self.requests.clone());
        registry.register("commit_jobs", "Jobs per commit of the database", self.commit_jobs.clone());
        registry.register_with_unit(
            "commit_latency",
            "Time per commit of the database",
            Unit::Seconds,
            self.commit_latency.clone(),
        );
        for (name, help, gauge) in [
            ("database_size", "Size of the database", &self.database_octets),
            ("write_ahead_log_size", "Size of SQLite's write-ahead log", &self.write_ahead_log_octets),
            ("pack_size", "Octets in packs", &self.pack_octets),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        registry.register("packs", "Packs", self.packs.clone());
        registry.register("fresh_bodies", "Bodies that no pack holds yet", self.fresh_bodies.clone());
        self.register_remote();
    }

    fn register_remote(&mut self) {
        let registry = &mut self.registry;
        let help = "Attempts of requests to object storage by kind and outcome";
        registry.register("remote_requests", help, self.remote_requests.clone());
        let help = "Octets sent to and received from object storage";
        registry.register_with_unit("remote_content", help, Unit::Bytes, self.remote_octets.clone());
        let help = "Time per attempt of a request to object storage";
        registry.register_with_unit("remote_latency", help, Unit::Seconds, self.remote_latency.clone());
        let help = "Places of object storage that are away at present";
        registry.register("remote_away", help, self.remote_away.clone());
        let help = "When the newest good backup was taken, in seconds since 1970";
        registry.register("backup_newest", help, self.backup_newest.clone());
        let help = "When a backup was last tried out with success, in seconds since 1970";
        registry.register("backup_tested", help, self.backup_tested.clone());
        let help = "Whether backups (1) and trials of them (1 more) are overdue";
        registry.register("backup_overdue", help, self.backup_overdue.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_under_their_names() {
        let metrics = Metrics::new();
        metrics.delivery(Protocol::Lmtp, "accepted");
        metrics.delivery(Protocol::Lmtp, "accepted");
        metrics.message(Protocol::Lmtp, 5_000);
        metrics.login_failure(Protocol::Imap);
        metrics.commit(3, Duration::from_millis(4));
        metrics.request("customer.create", 201);
        metrics.storage(StorageLevels { database_octets: 77, ..StorageLevels::default() });
        metrics.remote_request("put", "ok", Duration::from_millis(30));
        metrics.remote_octets("put", 5);
        metrics.remote_away(true);
        metrics.backups(1_000, 500, 1);
        let session = metrics.session(Protocol::Pop3);
        let text = metrics.text();
        for line in [
            "posthouse_deliveries_total{protocol=\"lmtp\",outcome=\"accepted\"} 2",
            "posthouse_message_size_bytes_count{protocol=\"lmtp\"} 1",
            "posthouse_login_failures_total{protocol=\"imap\"} 1",
            "posthouse_commit_latency_seconds_count 1",
            "posthouse_admin_requests_total{operation=\"customer.create\",status=\"201\"} 1",
            "posthouse_database_size_bytes 77",
            "posthouse_sessions_open{protocol=\"pop3\"} 1",
            "posthouse_remote_requests_total{request=\"put\",class=\"ok\"} 1",
            "posthouse_remote_content_bytes_total{request=\"put\"} 5",
            "posthouse_remote_latency_seconds_count{request=\"put\"} 1",
            "posthouse_remote_away 1",
            "posthouse_backup_newest 1000",
            "posthouse_backup_tested 500",
            "posthouse_backup_overdue 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(metrics.sessions_open(Protocol::Pop3), 1);
        drop(session);
        assert!(metrics.text().contains("posthouse_sessions_open{protocol=\"pop3\"} 0"));
    }
}
