//! Measures what mail takes up: `cargo run --release --example measure-packs -- CORPUS`.
//!
//! The senders are divided into four folds. The mail of each fold is delivered to ten mailboxes of one customer on
//! SQLite and packed, with a dictionary that was trained, through the filter, on the mail of the other three; the
//! figure that counts is that of the four folds together. All mail with the shipped dictionary, which was trained on
//! it, stands beside. Everything is measured with the settings of delivery and with those of packing. Printed are the
//! pack files, footers and all, in percent of the messages as received, and what the database holds for each message
//! afterwards.

#[path = "train-dictionary/corpus.rs"]
mod corpus;
#[path = "train-dictionary/filter.rs"]
mod filter;
#[path = "train-dictionary/train.rs"]
mod train;
#[path = "train-dictionary/windows.rs"]
mod windows;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use corpus::Mail;
use posthouse::base::clock::Timestamp;
use posthouse::base::id::{CustomerId, MailboxId};
use posthouse::base::store_settings::StoreSettings;
use posthouse::base::telemetry::metrics::Metrics;
use posthouse::service::mailstore::summary::summarize;
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{Deliver, DeliverTarget, TraceOrigin};
use posthouse::storage::metadata::dictionary;
use posthouse::storage::metadata::instance::{StoreSetup, ensure_stores, node_start};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::Node;
use posthouse::storage::pack::Codec;
use posthouse::storage::packer::{Packer, PackerSettings};
use posthouse::storage::volumes::Volumes;
use posthouse::storage::{Result, StorageError};

type AnyResult<T> = std::result::Result<T, Box<dyn Error>>;

const NOW: Timestamp = Timestamp::from_secs(1_000_000);
const CUSTOMER: CustomerId = CustomerId(1);
/// Mailboxes that the messages go to in turn.
const MAILBOXES: i64 = 10;

/// The settings of packs that are compared.
const DELIVERY: &[(&str, &str)] =
    &[("compression.level", "3"), ("compression.decode", "false"), ("compression.share", "false")];
const DECODING: &[(&str, &str)] = &[("compression.share", "false")];
const PACKING: &[(&str, &str)] = &[];

/// Into so many parts the senders are divided.
const FOLDS: u64 = 4;

#[tokio::main]
async fn main() -> AnyResult<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: measure-packs CORPUS")?;
    let mut mails = corpus::read(&folder)?;
    for (name, settings) in
        [("delivery", DELIVERY), ("level 9, decoded", DECODING), ("level 9, decoded, shared", PACKING)]
    {
        let measured = measure(&mails, settings, None).await?;
        measured.print(&format!("all, shipped dictionary, {name}"));
    }
    let settings = [("delivery", DELIVERY), ("level 9, decoded, shared", PACKING)];
    let mut sums = [Measured::default(); 2];
    for fold in 0..FOLDS {
        let (held_out, training): (Vec<Mail>, Vec<Mail>) =
            mails.into_iter().partition(|mail| train::fold_of_sender(mail, FOLDS) == fold);
        let dictionary = train::train(&training)?;
        for ((name, settings), sum) in settings.iter().zip(&mut sums) {
            let measured = measure(&held_out, settings, Some(&dictionary)).await?;
            measured.print(&format!("senders of fold {fold}, dictionary of the others, {name}"));
            sum.add(&measured);
        }
        mails = training;
        mails.extend(held_out);
    }
    for ((name, _), sum) in settings.iter().zip(&sums) {
        sum.print(&format!("all folds, dictionary of other senders, {name}"));
    }
    Ok(())
}

/// What mail took up.
#[derive(Clone, Copy, Default)]
struct Measured {
    messages: u64,
    /// Octets of the messages as received.
    raw: u64,
    files: u64,
    /// Octets of the pack files.
    packs: u64,
    /// Octets of the database, without free pages and without what it has before the first message.
    database: u64,
    /// Octets of the compressed summaries in it.
    summaries: u64,
    seconds: f64,
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.raw += other.raw;
        self.files += other.files;
        self.packs += other.packs;
        self.database += other.database;
        self.summaries += other.summaries;
        self.seconds += other.seconds;
    }

    fn print(&self, what: &str) {
        let Self { messages, raw, files, packs, database, summaries, seconds } = *self;
        println!(
            "{what}: {messages} messages, {raw} bytes; {files} packs, {packs} bytes, {:.1} %, {:.1} MB/s; database \
             {} bytes a message, {} without the compressed summary; in all {} bytes, {:.1} %",
            100.0 * packs as f64 / raw.max(1) as f64,
            raw as f64 / 1e6 / seconds,
            database / messages.max(1),
            database.saturating_sub(summaries) / messages.max(1),
            packs + database,
            100.0 * (packs + database) as f64 / raw.max(1) as f64,
        );
    }
}

async fn measure(mails: &[Mail], changed: &[(&str, &str)], trained: Option<&[u8]>) -> AnyResult<Measured> {
    let folder = tempfile::tempdir()?;
    let database = Database::open(&format!("sqlite:{}", folder.path().join("metadata.db").display())).await?;
    let mut settings = StoreSettings::default();
    for (name, text) in changed {
        settings.set(name, text)?;
    }
    let node = set_up(&database, settings).await?;
    if let Some(trained) = trained {
        let trained = trained.to_vec();
        let write = database.write(Priority::Interactive, move |conn| {
            let trained = trained.clone();
            Box::pin(async move { dictionary::replace(conn, CUSTOMER, &trained, NOW).await })
        });
        let _: Option<u32> = write.await?;
    }
    let empty = database_octets(&database, &folder.path().join("empty.db")).await?;
    let bodies = Bodies::new(
        Volumes::new(database.clone(), folder.path().to_owned(), Metrics::new()),
        Codec::default(),
        node,
    );
    let mut measured = Measured { messages: mails.len() as u64, ..Measured::default() };
    for (mail, mailbox) in mails.iter().zip((1..=MAILBOXES).cycle()) {
        measured.raw += mail.octets.len() as u64;
        deliver(&database, &bodies, mail, MailboxId(mailbox)).await?;
    }
    let started = Instant::now();
    let packer = Packer::new(bodies.clone(), PackerSettings::default());
    packer.pack_everything(NOW).await?;
    measured.seconds = started.elapsed().as_secs_f64();
    for prefix in std::fs::read_dir(bodies.pack_folder("main"))? {
        for file in std::fs::read_dir(prefix?.path())? {
            measured.packs += file?.metadata()?.len();
            measured.files += 1;
        }
    }
    measured.summaries = summary_octets(&database).await?;
    measured.database =
        database_octets(&database, &folder.path().join("full.db")).await?.saturating_sub(empty);
    Ok(measured)
}

/// Octets of a copy, which has no free pages.
async fn database_octets(database: &Database, copy: &Path) -> AnyResult<u64> {
    database.copy_to(copy).await?;
    Ok(copy.metadata()?.len())
}

/// Octets of all compressed summaries, alone or in blocks.
async fn summary_octets(database: &Database) -> Result<u64> {
    let read = database.read(|conn| {
        Box::pin(async move {
            let text = "SELECT (SELECT coalesce(sum(length(data)), 0) FROM summary)
                             + (SELECT coalesce(sum(length(data)), 0) FROM summary_block)";
            let row = conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("a sum"))?;
            row.number(0)
        })
    });
    read.await
}

/// Delivers a message.
async fn deliver(database: &Database, bodies: &Bodies, mail: &Mail, mailbox: MailboxId) -> Result<()> {
    let place = bodies.place(mail.octets.clone().into(), &[mailbox], NOW).await?;
    let summary = bodies.compress(&summarize(&mail.octets).encode());
    let prefix = "Return-Path: <someone@example.org>\r\nDelivered-To: someone@example.com\r\n\
                  Received: from mail.example.org (mail.example.org [192.0.2.1])\r\n\
                  \tby example.com with LMTP id 1;\r\n\
                  \tMon, 12 Jan 1970 13:46:40 +0000\r\n";
    let target = DeliverTarget {
        mailbox,
        prefix: bodies.compress(prefix.as_bytes()),
        recipient: "someone@example.com".to_owned(),
    };
    let deliver = Deliver {
        at: NOW,
        octets: mail.octets.len() as u64,
        body: place.clone(),
        summary,
        targets: vec![target],
        all_or_nothing: false,
        trace: TraceOrigin { sender: mail.sender.clone(), ..TraceOrigin::default() },
        notice_mail: None,
    };
    let outcome = database.deliver(deliver).await?;
    bodies.settle(&place).await?;
    if outcome.iter().all(std::result::Result::is_ok) { Ok(()) } else { Err(StorageError::Gone("mailbox")) }
}

/// One customer with its mailboxes, and the node.
async fn set_up(database: &Database, settings: StoreSettings) -> Result<Node> {
    let write = database.write(Priority::Interactive, move |conn| {
        let setup = StoreSetup {
            name: "main".to_owned(),
            path: "main".to_owned(),
            settings: settings.clone(),
            fixed: Vec::new(),
        };
        Box::pin(async move {
            ensure_stores(conn, &[setup], NOW).await?;
            for text in [
                "INSERT INTO customer (id, public_id, slug, name, code, created_at)
                 VALUES (1, 'c', 'p', 'P', 'P', 0)",
                "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
                 VALUES (1, 'd', 1, 'a.example', 'verified', 0)",
            ] {
                conn.execute(text, Vec::new()).await?;
            }
            for mailbox in 1..=MAILBOXES {
                let text = format!(
                    "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                                          uid_validity_next, created_at)
                     VALUES ({mailbox}, 'm{mailbox}', 1, 'x{mailbox}', 'x', 1, 2, 0)"
                );
                conn.execute(text, Vec::new()).await?;
                let text = format!(
                    "INSERT INTO folder (mailbox_id, name, uid_validity, created_at)
                     VALUES ({mailbox}, 'INBOX', 1, 0)"
                );
                conn.execute(text, Vec::new()).await?;
            }
            node_start(conn, "local", NOW).await
        })
    });
    let epoch: Result<i64> = write.await;
    Ok(Node { id: "local".to_owned(), epoch: epoch? })
}
