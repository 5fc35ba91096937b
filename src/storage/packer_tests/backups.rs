//! Backups of packs and database: incremental, checked, cut off anywhere, removed, brought back.

use super::*;
use crate::base::backup_settings::BackupsKept;
use crate::base::clock::Clock;
use crate::base::progress::Progress as Watch;
use crate::storage::backup::{
    self, BackupError, Source, Taken, Target, fetch_database, new_id, prune, restore_packs, try_out, verify,
};
use crate::storage::metadata::restore;
use crate::storage::offload::Offloader;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ONE: BackupsKept = BackupsKept { last: 1, daily: 0, weekly: 0, monthly: 0 };

/// A provider with a directory for backups.
struct Safe {
    provider: Provider,
    bodies: Bodies,
    packer: Packer,
    source: Source,
    target: Target,
}

impl Safe {
    async fn new() -> Self {
        let provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        let folder = provider.folder.path().join("safe");
        std::fs::create_dir(&folder).unwrap();
        let target = Target::directory(&folder, &Metrics::new());
        let source = source_of(&provider, &bodies, Clock::manual(NOW));
        Self { provider, bodies, packer, source, target }
    }

    /// More mail, in a pack of its own.
    async fn fill(&mut self, count: usize) {
        self.provider.fill(&self.bodies, count).await;
        self.packer.pack_everything(NOW).await.unwrap();
    }

    async fn take(&self) -> Taken {
        self.source.clock.advance(DAY);
        backup::take(&self.source, &self.target, &[new_id(self.source.clock.now())]).await.unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.provider.folder.path().join("safe")
    }

    async fn ids(&self) -> Vec<String> {
        let backups = self.target.backups(&self.source.progress).await.unwrap();
        backups.into_iter().map(|entry| entry.id).collect()
    }

    /// Every backup is whole, and there is nothing at the target that none of them names.
    async fn check(&self) {
        let mut named: BTreeSet<PathBuf> = ["index-0", "index-1"].map(PathBuf::from).into();
        for id in self.ids().await {
            let checked = verify(&self.source, &self.target, &id, "").await.unwrap();
            assert_eq!(checked.damages, 0, "{checked:?}");
            let snapshot = Path::new("snapshots").join(&id);
            named.extend(["manifest.json.zst", "metadata.db.zst"].map(|name| snapshot.join(name)));
            let manifest = self.target.manifest_of(&id, &self.source.progress).await.unwrap();
            named.extend(
                manifest.packs.iter().map(|pack| Path::new("packs").join(format!("{}.pack", pack.name))),
            );
        }
        let mut there = all_files(&self.folder());
        there.extend(["index-0", "index-1"].map(PathBuf::from));
        assert_eq!(there, named);
        assert_eq!(self.provider.number("SELECT count(*) FROM backup_object").await, 0);
        assert_eq!(self.provider.number("SELECT count(*) FROM pin").await, 0);
        let rows = self.provider.number("SELECT count(*) FROM backup").await;
        assert_eq!(rows, self.ids().await.len() as i64);
    }

    /// Runs `work` up to the point, and ends it there; then the daemon is started again.
    async fn crash<F>(&mut self, point: u8, work: impl FnOnce(Source, Target) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (fault, reached) = Fault::at(point);
        let mut source = self.source.clone();
        source.fault = Some(Arc::new(fault));
        let running = tokio::spawn(work(source, self.target.clone()));
        reached.notified().await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        self.provider.execute("DELETE FROM pin").await;
        (self.bodies, self.packer) = self.provider.start().await;
        self.source = source_of(&self.provider, &self.bodies, self.source.clock.clone());
    }
}

fn source_of(provider: &Provider, bodies: &Bodies, clock: Clock) -> Source {
    Source::new(bodies.clone(), clock, Watch::default(), 1, provider.folder.path().join("scratch"))
}

/// All files below a folder, by their names in it.
fn all_files(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(one) = folders.pop() {
        for entry in std::fs::read_dir(&one).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_backup_copies_only_what_is_new_and_both_are_whole() {
    let mut safe = Safe::new().await;
    safe.fill(50).await;
    let first = safe.take().await;
    assert_eq!((first.new_packs, first.entry.packs), (1, 1));
    safe.fill(30).await;
    let second = safe.take().await;
    assert_eq!((second.new_packs, second.entry.packs), (1, 2));
    assert!(second.entry.octets > second.entry.new_octets);
    assert_eq!(second.entry.counts.messages, 80);
    safe.check().await;
    for (taken, bodies) in [(&first, 50), (&second, 80)] {
        let tried = try_out(&safe.source, &safe.target, &taken.entry.id, 0).await.unwrap();
        assert_eq!((tried.bodies, tried.wrong.as_slice()), (bodies, &[] as &[String]));
    }
    let sample = try_out(&safe.source, &safe.target, &second.entry.id, 10).await.unwrap();
    assert!(sample.bodies >= 5 && sample.bodies <= 20, "{}", sample.bodies);
    assert!(!safe.source.scratch.exists());
    // What the target has lost is copied again.
    let pack = all_files(&safe.folder().join("packs")).pop_first().unwrap();
    std::fs::remove_file(safe.folder().join("packs").join(pack)).unwrap();
    assert_eq!(safe.take().await.new_packs, 1);
    safe.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_remembered_and_a_cut_off_index_falls_back() {
    let mut safe = Safe::new().await;
    safe.fill(50).await;
    let (first, second) = (safe.take().await.entry.id, safe.take().await.entry.id);
    let pack = all_files(&safe.folder().join("packs")).pop_first().unwrap();
    let pack = safe.folder().join("packs").join(pack);
    let mut content = std::fs::read(&pack).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&pack, &content).unwrap();
    let checked = verify(&safe.source, &safe.target, &second, "").await.unwrap();
    assert_eq!((checked.damages, checked.files), (1, 2));
    let tried = try_out(&safe.source, &safe.target, &second, 0).await.unwrap();
    assert_eq!((tried.wrong.len(), tried.bodies), (1, 49), "{:?}", tried.wrong);
    let backups = safe.target.backups(&safe.source.progress).await.unwrap();
    let good: Vec<bool> = backups.iter().map(|entry| entry.is_good()).collect();
    assert_eq!(good, [true, false]);
    // Both index objects say the same of what there is; the newer one is cut off.
    let (even, odd) = (safe.folder().join("index-0"), safe.folder().join("index-1"));
    for (newest, other) in [(&even, &odd), (&odd, &even)] {
        let content = std::fs::read(newest).unwrap();
        std::fs::write(newest, &content[..content.len() / 2]).unwrap();
        assert_eq!(safe.ids().await, [first.clone(), second.clone()], "{}", other.display());
        std::fs::write(newest, content).unwrap();
    }
    for index in [&even, &odd] {
        std::fs::write(index, "nonsense").unwrap();
    }
    let refused = safe.target.backups(&safe.source.progress).await.unwrap_err();
    assert!(matches!(refused, BackupError::Damaged { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pack_that_is_nowhere_is_named_and_the_rest_is_in_the_backup() {
    let mut safe = Safe::new().await;
    safe.fill(20).await;
    let lost = files(safe.provider.folder.path()).pop_first().unwrap();
    safe.fill(20).await;
    std::fs::remove_file(&lost).unwrap();
    let taken = safe.take().await;
    assert_eq!((taken.missing.len(), taken.entry.packs), (1, 1));
    assert!(lost.display().to_string().contains(&taken.missing[0]));
    assert!(!taken.entry.is_good());
    let tried = try_out(&safe.source, &safe.target, &taken.entry.id, 0).await.unwrap();
    assert!(!tried.wrong.is_empty());
    assert_eq!(tried.bodies, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_while_a_backup_is_taken_leaves_the_others_and_no_rubbish() {
    for point in 1..=6 {
        let mut safe = Safe::new().await;
        safe.fill(20).await;
        let first = safe.take().await.entry.id;
        safe.fill(20).await;
        safe.source.clock.advance(DAY);
        let id = new_id(safe.source.clock.now());
        let attempts = vec![id.clone()];
        let own = attempts.clone();
        safe.crash(point, |source, target| async move {
            backup::take(&source, &target, &own).await.unwrap();
        })
        .await;
        let there = if point == 6 { vec![first, id.clone()] } else { vec![first] };
        assert_eq!(safe.ids().await, there, "point {point}");
        for id in &there {
            assert_eq!(verify(&safe.source, &safe.target, id, "").await.unwrap().damages, 0);
        }
        // The job goes on: with what was copied, or with what it has done.
        let again = vec![id.clone(), new_id(safe.source.clock.now())];
        let taken = backup::take(&safe.source, &safe.target, &again).await.unwrap();
        assert_eq!(taken.new_packs, u64::from(point < 3), "point {point}");
        assert_eq!(safe.ids().await.len(), 2, "point {point}");
        assert_eq!(taken.entry.id == id, point == 6);
        // The rows of the last one go with the next that is taken or removed.
        prune(&safe.source, &safe.target, BackupsKept { last: 9, ..ONE }).await.unwrap();
        safe.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_abandoned_backup_wrote_is_removed() {
    let mut safe = Safe::new().await;
    safe.fill(20).await;
    let attempts = vec![new_id(safe.source.clock.now())];
    safe.crash(5, |source, target| async move {
        backup::take(&source, &target, &attempts).await.unwrap();
    })
    .await;
    assert!(all_files(&safe.folder()).len() >= 3);
    prune(&safe.source, &safe.target, ONE).await.unwrap();
    assert_eq!(all_files(&safe.folder()), BTreeSet::new());
    safe.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_keeps_what_others_name_and_goes_on_after_a_crash() {
    for point in [0, 7, 8, 9] {
        let mut safe = Safe::new().await;
        safe.fill(20).await;
        safe.take().await;
        // The first pack is superseded: only the first backup names it.
        let all: Vec<BodyId> = safe.provider.expected.keys().copied().collect();
        safe.provider.delete(&all).await;
        safe.provider.execute("DELETE FROM message").await;
        safe.packer.remove_dead(NOW).await.unwrap();
        safe.fill(20).await;
        let middle = safe.take().await;
        assert_eq!(middle.entry.packs, 1);
        safe.fill(10).await;
        let last = safe.take().await.entry.id;
        if point > 0 {
            safe.crash(point, |source, target| async move {
                prune(&source, &target, ONE).await.unwrap();
            })
            .await;
        }
        let pruned = prune(&safe.source, &safe.target, ONE).await.unwrap();
        if point == 0 {
            assert_eq!((pruned.backups.len(), pruned.packs), (2, 1));
        }
        assert_eq!(safe.ids().await, std::slice::from_ref(&last), "point {point}");
        safe.check().await;
        let tried = try_out(&safe.source, &safe.target, &last, 0).await.unwrap();
        assert_eq!((tried.bodies, tried.wrong.len()), (30, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_that_is_being_read_stays_until_it_is_not() {
    let mut safe = Safe::new().await;
    safe.fill(20).await;
    let first = safe.take().await.entry.id;
    safe.take().await;
    for text in [
        "INSERT INTO job (id, public_id, kind, customer_id, is_system, target, request, asker, actor, state, created_at,
                          updated_at)
         VALUES (7, 'j7', 'backup.test', 1, 1, '', '', '', '', 'running', 0, 0)",
    ] {
        safe.provider.execute(text).await;
    }
    let mut reader = safe.source.clone();
    (reader.job, reader.scratch) = (7, safe.provider.folder.path().join("reader"));
    let opened = backup::open(&reader, &safe.target, &first).await.unwrap();
    let pruned = prune(&safe.source, &safe.target, ONE).await.unwrap();
    assert_eq!((pruned.in_use.as_slice(), pruned.backups.len()), (&[first.clone()][..], 0));
    for (body, original) in &safe.provider.expected {
        assert_eq!(&opened.bodies.read(*body).await.unwrap(), original);
    }
    opened.close().await;
    // Whoever begins now finds it gone already.
    let late = backup::open(&safe.source, &safe.target, &first).await.err().unwrap();
    assert!(matches!(late, BackupError::Unknown { .. }), "{late}");
    safe.provider.execute("UPDATE job SET state = 'done'").await;
    let pruned = prune(&safe.source, &safe.target, ONE).await.unwrap();
    assert_eq!(pruned.backups, [first]);
    safe.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_in_object_storage_alone_are_in_the_backup_and_come_back_without_it() {
    let mut safe = Safe::new().await;
    safe.provider.offloads(&safe.bodies, &[]).await;
    safe.fill(40).await;
    Offloader::new(safe.bodies.clone()).offload_now(StoreId(1), NOW, &Watch::default()).await.unwrap();
    safe.packer.remove_dead(NOW).await.unwrap();
    assert!(files(safe.provider.folder.path()).is_empty(), "only in object storage");
    safe.provider.fill(&safe.bodies, 10).await;
    let taken = safe.take().await;
    assert_eq!((taken.missing.len(), taken.entry.packs), (0, 1));
    safe.check().await;
    std::fs::remove_dir_all(safe.provider.bucket()).unwrap();

    let progress = Watch::default();
    let manifest = safe.target.manifest_of(&taken.entry.id, &progress).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metadata.db");
    fetch_database(&safe.target, &manifest, &file, &progress).await.unwrap();
    let folders = std::collections::HashMap::from([("main".to_owned(), folder.path().join("main/packs"))]);
    for kept in [0, 1] {
        let restored = restore_packs(&safe.target, &manifest, &folders, &progress).await.unwrap();
        assert_eq!((restored.packs, restored.kept, restored.damaged.len()), (1, kept, 0));
    }
    let database = Database::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let write = database.write(Priority::Interactive, |conn| Box::pin(restore::packs_are_local(conn)));
    let done: Result<()> = write.await;
    done.unwrap();
    let node = Node { id: "other".to_owned(), epoch: 1 };
    let volumes = Volumes::new(database, folder.path().to_owned(), Metrics::new());
    let bodies = Bodies::new(volumes, Codec::default(), node);
    assert_eq!(safe.provider.expected.len(), 50);
    for (body, original) in &safe.provider.expected {
        assert_eq!(&bodies.read(*body).await.unwrap(), original, "body {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_installation_is_kept_out() {
    let mut safe = Safe::new().await;
    safe.fill(5).await;
    safe.take().await;
    let other = Safe::new().await;
    let refused = backup::take(&other.source, &safe.target, &[new_id(NOW)]).await.unwrap_err();
    assert!(matches!(refused, BackupError::Foreign(_)), "{refused}");
    let refused = prune(&other.source, &safe.target, ONE).await.unwrap_err();
    assert!(matches!(refused, BackupError::Foreign(_)), "{refused}");
    safe.check().await;
}
