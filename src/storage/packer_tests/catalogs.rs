//! Catalogs under crashes, and what they say of mailboxes.

use super::*;
use crate::storage::catalogs::record::{self, MailboxRecord, section};
use crate::storage::catalogs::restore::Remains;
use crate::storage::catalogs::{Catalogs, Current, Written};
use crate::storage::volumes::Volume;

/// Folder, UID, flags and body of a message.
type Message = (i64, i64, i64, i64);
/// Sections of entries, by mailbox and sequence.
type Entries = BTreeMap<(i64, u64), Vec<(u8, Vec<u8>)>>;

impl Provider {
    fn remains(&self) -> Remains {
        let folder = self.folder.path().join("main");
        Remains { folder: folder.clone(), remote: None, scratch: folder }
    }

    async fn volume(&self, bodies: &Bodies) -> Arc<Volume> {
        bodies.volumes().get(StoreId(1)).await.unwrap()
    }

    /// What CURRENT and the catalogs say: each mailbox's messages.
    async fn catalogued(&self) -> (Current, BTreeMap<i64, BTreeSet<Message>>) {
        let (current, wrong) = self.remains().current().await;
        assert_eq!(wrong, Vec::<String>::new());
        let current = current.unwrap();
        let mut found = Entries::new();
        for catalog in current.catalogs.iter().filter(|catalog| !catalog.is_directory) {
            let mut reader = self.remains().catalog(catalog).await.unwrap();
            let mut entry = None;
            while let Some((kind, plain)) = reader.next_section().unwrap() {
                if kind == section::MAILBOX {
                    let record: MailboxRecord = record::from_json(&plain).unwrap();
                    let key = (record.id, record.sequence);
                    entry = catalog.entries.contains(&key).then_some(key);
                }
                if let Some(key) = entry {
                    found.entry(key).or_default().push((kind, plain));
                }
            }
        }
        let mut mailboxes: BTreeMap<i64, BTreeMap<(i64, i64), Message>> = BTreeMap::new();
        for ((mailbox, _), sections) in found {
            let own = mailboxes.entry(mailbox).or_default();
            for (kind, plain) in sections {
                match kind {
                    section::MESSAGES => {
                        let (folder, rows) = record::rows(&plain).unwrap();
                        for row in rows {
                            let message = (folder, row.uid, row.flags.cast_signed(), row.body);
                            own.insert((folder, row.uid), message);
                        }
                    }
                    section::PRESENT => {
                        let (folder, ranges) = record::present(&plain).unwrap();
                        let is_there =
                            |uid: i64| ranges.iter().any(|(first, last)| (*first..=*last).contains(&uid));
                        own.retain(|(of, uid), _| *of != folder || is_there(*uid));
                    }
                    _ => {}
                }
            }
        }
        let messages = |(mailbox, own): (i64, BTreeMap<_, Message>)| (mailbox, own.into_values().collect());
        (current, mailboxes.into_iter().map(messages).collect())
    }

    async fn check_catalogs(&self) {
        let (current, found) = self.catalogued().await;
        let mut expected: BTreeMap<i64, BTreeSet<Message>> = BTreeMap::new();
        for row in self.rows("SELECT id FROM mailbox").await {
            expected.entry(row.int(0).unwrap()).or_default();
        }
        for row in self.rows("SELECT mailbox_id, folder_id, uid, flags, body_id FROM message").await {
            let [mailbox, folder, uid, flags, body] = [0, 1, 2, 3, 4].map(|at| row.int(at).unwrap());
            expected.entry(mailbox).or_default().insert((folder, uid, flags, body));
        }
        assert_eq!(found, expected);
        let named: BTreeSet<String> =
            current.catalogs.iter().map(|catalog| format!("{}.catalog", catalog.name)).collect();
        let files = std::fs::read_dir(self.folder.path().join("main/catalogs")).unwrap();
        let files: BTreeSet<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "CURRENT")
            .collect();
        assert_eq!(files, named, "no file is lost, none is left");
        let packs: BTreeSet<String> = current.packs.iter().map(|pack| pack.name.clone()).collect();
        let mut known = BTreeSet::new();
        for row in self.rows("SELECT public_id FROM pack").await {
            known.insert(row.text(0).unwrap());
        }
        assert_eq!(packs, known);
    }

    /// Some changes of each kind: flags, expunged messages, new ones.
    async fn change(&mut self, bodies: &Bodies) {
        self.fill(bodies, 6).await;
        self.execute("UPDATE folder SET mod_seq = mod_seq + 1").await;
        self.execute(
            "UPDATE message SET flags = flags + 2, mod_seq = (SELECT mod_seq FROM folder f WHERE f.id = folder_id)
             WHERE uid % 97 = 3",
        )
        .await;
        let gone = "DELETE FROM message
                    WHERE mailbox_id = 1 AND uid = (SELECT min(uid) FROM message WHERE mailbox_id = 1)";
        self.execute(gone).await;
        self.execute(
            "UPDATE folder SET mod_seq = mod_seq + 1,
                    messages = (SELECT count(*) FROM message m WHERE m.folder_id = folder.id)",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogs_say_what_the_database_says_and_only_changed_mailboxes_are_written() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 40).await;
    packer.pack_everything(NOW).await.unwrap();
    let (catalogs, volume) = (Catalogs::new(bodies.clone()), provider.volume(&bodies).await);
    let written = catalogs.write(&volume, NOW).await.unwrap();
    assert_eq!((written.mailboxes, written.files), (2, 2), "{written:?}");
    provider.check_catalogs().await;
    let (current, _) = provider.catalogued().await;
    assert!(current.packs.iter().all(|pack| pack.is_covered && pack.is_local));
    assert_eq!(catalogs.write(&volume, NOW).await.unwrap(), Written::default());
    assert_eq!(
        provider.catalogued().await.0.record.number,
        current.record.number,
        "nothing is written for nothing"
    );
    provider.deliver(&bodies, Bytes::from_static(b"Subject: x\r\n\r\n"), &[MailboxId(2)]).await;
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!(catalogs.write(&volume, later).await.unwrap().mailboxes, 1);
    provider.check_catalogs().await;
    let (current, _) = provider.catalogued().await;
    assert_eq!(current.record.at, later.0);
    // After a restore, say, they are not there any more.
    std::fs::remove_dir_all(provider.folder.path().join("main/catalogs")).unwrap();
    assert_eq!(catalogs.write(&volume, later).await.unwrap().mailboxes, 2);
    provider.check_catalogs().await;
}

/// Large mailboxes are written with what has changed; many small files are merged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_large_mailboxes_are_written_alone_and_files_stay_few() {
    let mut provider = Provider::new().await;
    let (bodies, _) = provider.start().await;
    for number in 0..1_500_u32 {
        let original = Bytes::from(format!("Subject: {number}\r\n\r\n"));
        let place = bodies.place(original.clone(), &[MailboxId(1)], NOW).await.unwrap();
        let target = DeliverTarget {
            mailbox: MailboxId(1),
            prefix: bodies.compress(&random_bytes(60)),
            recipient: String::new(),
        };
        let deliver = Deliver {
            at: NOW,
            octets: original.len() as u64 + 60,
            body: place,
            summary: bodies.compress(b"summary"),
            targets: vec![target],
            all_or_nothing: false,
            trace: TraceOrigin::default(),
            notice_mail: None,
        };
        provider.database.deliver(deliver).await.unwrap();
    }
    let (catalogs, volume) = (Catalogs::new(bodies.clone()), provider.volume(&bodies).await);
    let first = catalogs.write(&volume, NOW).await.unwrap();
    assert!(first.octets > 65_536, "{first:?}");
    for round in 1..30 {
        provider.change(&bodies).await;
        let written = catalogs.write(&volume, NOW.plus(Duration::from_secs(60 * round))).await.unwrap();
        assert!(written.octets < first.octets / 2, "round {round}: {written:?} after {first:?}");
        provider.check_catalogs().await;
        let (current, _) = provider.catalogued().await;
        assert!(current.catalogs.len() <= 12, "{} files", current.catalogs.len());
    }
    assert!(provider.number("SELECT count(*) FROM catalog_entry WHERE mailbox_id = 1").await > 2);
    // What is gone leaves the catalogs.
    for text in [
        "DELETE FROM message WHERE mailbox_id = 2",
        "DELETE FROM folder WHERE mailbox_id = 2",
        "DELETE FROM mailbox WHERE id = 2",
    ] {
        provider.execute(text).await;
    }
    let written = catalogs.write(&volume, NOW.plus(Duration::from_secs(6_000))).await.unwrap();
    assert_eq!(written.gone, 1);
    provider.check_catalogs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_while_catalogs_are_written_loses_and_leaks_nothing() {
    for point in 1..=4 {
        let mut provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        let volume = provider.volume(&bodies).await;
        provider.fill(&bodies, 30).await;
        Catalogs::new(bodies.clone()).write(&volume, NOW).await.unwrap();
        let before = provider.catalogued().await;
        provider.change(&bodies).await;
        provider.execute("UPDATE customer SET name = 'Q' WHERE id = 2").await;
        packer.pack_everything(NOW).await.unwrap();
        let reached = Arc::new(Notify::new());
        let mut catalogs = Catalogs::new(bodies.clone());
        catalogs.fault = Some(Fault { point, reached: Arc::clone(&reached), go_on: Arc::default() });
        let crashing = Arc::clone(&volume);
        let later = NOW.plus(Duration::from_secs(60));
        let pass = tokio::spawn(async move { catalogs.write(&crashing, later).await.map(drop) });
        reached.notified().await;
        pass.abort();
        assert!(pass.await.unwrap_err().is_cancelled());
        if point < 4 {
            assert_eq!(provider.catalogued().await, before, "the state before is there, whole");
        } else {
            assert_ne!(provider.catalogued().await, before);
        }
        let (bodies, _) = provider.start().await;
        let volume = provider.volume(&bodies).await;
        Catalogs::new(bodies).write(&volume, NOW.plus(Duration::from_secs(120))).await.unwrap();
        provider.check_catalogs().await;
    }
}
