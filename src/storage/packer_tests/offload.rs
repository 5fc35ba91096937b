//! Packs in object storage, here a directory that is used as one.

use super::*;
use crate::base::progress::Progress as Watch;
use crate::storage::metadata::store;
use crate::storage::offload::{Offloaded, Offloader};

const STORE: StoreId = StoreId(1);
const DAYS: Duration = Duration::from_secs(24 * 60 * 60);

impl Provider {
    /// Gives the mail store a bucket and these settings.
    pub(super) async fn offloads(&self, bodies: &Bodies, settings: &[(&str, &str)]) {
        let bucket = self.bucket();
        std::fs::create_dir_all(&bucket).unwrap();
        let endpoint = format!("file://{}", self.folder.path().display());
        let mut wanted = StoreSettings::default();
        let fixed = [("offload.endpoint", endpoint.as_str()), ("offload.bucket", "bucket")];
        for (name, value) in fixed.iter().chain(settings) {
            wanted.set(name, value).unwrap();
        }
        let write = self.database.write(Priority::Interactive, move |conn| {
            let wanted = wanted.clone();
            Box::pin(async move { store::set(conn, STORE, &StoreSettings::default(), &wanted).await })
        });
        let set: Result<()> = write.await;
        set.unwrap();
        bodies.volumes().refresh().await.unwrap();
    }

    pub(super) fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    fn objects(&self) -> usize {
        let entries = std::fs::read_dir(self.bucket()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).count()
    }

    async fn read_all(&self, bodies: &Bodies) {
        for (body, original) in &self.expected {
            assert_eq!(&bodies.read(*body).await.unwrap(), original, "body {body}");
        }
    }

    /// Every pack is known, every file and object belongs to one, and living and dead bodies are counted.
    async fn check_places(&self) {
        let wrong =
            "SELECT count(*) FROM pack p WHERE p.local_state = 'removing' OR p.remote_state = 'uploading'
                       OR (p.local_state = 'absent' AND p.remote_state = 'absent')
                       OR p.bodies - p.dead_bodies <> (SELECT count(*) FROM body b WHERE b.pack_id = p.id)";
        assert_eq!(self.number(wrong).await, 0);
        let local = self.number("SELECT count(*) FROM pack WHERE local_state = 'present'").await;
        assert_eq!(files(self.folder.path()).len() as i64, local);
        let remote = self.number("SELECT count(*) FROM pack WHERE remote_state = 'present'").await;
        assert_eq!(self.objects() as i64, remote);
        assert_eq!(self.number("SELECT count(*) FROM pack_intent").await, 0);
    }
}

async fn offload(bodies: &Bodies) -> Offloaded {
    Offloader::new(bodies.clone()).offload_now(STORE, NOW, &Watch::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offloaded_bodies_are_read_back_and_leave_the_volume() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    for _ in 0..5 {
        provider.fill(&bodies, 60).await;
        packer.pack_everything(NOW).await.unwrap();
    }
    let done = offload(&bodies).await;
    assert_eq!((done.rewritten, done.uploaded, done.removed), (5, 1, 1), "merged into one: {done:?}");
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 5);
    provider.check_places().await;
    assert!(files(provider.folder.path()).is_empty());
    let sorted = "SELECT scope_id, mailbox_id, id FROM body ORDER BY pack_offset";
    let order: Vec<[i64; 3]> =
        provider.rows(sorted).await.iter().map(|row| [0, 1, 2].map(|at| row.int(at).unwrap())).collect();
    assert!(order.is_sorted(), "bodies of one mailbox are together");
    provider.read_all(&bodies).await;
    assert_eq!(offload(&bodies).await, Offloaded::default(), "nothing is done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_says_when_packs_go() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let policy =
        [("offload.when", "after-days"), ("offload.after_days", "3"), ("offload.keep_local_days", "2")];
    provider.offloads(&bodies, &policy).await;
    provider.fill(&bodies, 50).await;
    packer.pack_everything(NOW).await.unwrap();
    let offloader = Offloader::new(bodies.clone());
    assert_eq!(offloader.look(NOW.plus(DAYS * 2)).await.unwrap().uploaded, 0, "too young");
    let done = offloader.look(NOW.plus(DAYS * 3)).await.unwrap();
    assert_eq!((done.uploaded, done.removed), (1, 0));
    let done = offloader.look(NOW.plus(DAYS * 4)).await.unwrap();
    assert_eq!((done.uploaded, done.removed), (0, 0), "the local copy is kept for two days");
    assert_eq!(offloader.look(NOW.plus(DAYS * 5)).await.unwrap().removed, 1);
    provider.check_places().await;
    provider.read_all(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_of_the_offloader_loses_and_leaks_nothing() {
    for point in 1..=8 {
        let mut provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        provider.offloads(&bodies, &[]).await;
        for _ in 0..2 {
            // More than one slice is re-pointed.
            provider.fill(&bodies, if point == 8 { 160 } else { 40 }).await;
            packer.pack_everything(NOW).await.unwrap();
        }
        let mut offloader = Offloader::new(bodies.clone());
        let (fault, reached) = Fault::at(point);
        offloader.fault = Some(fault);
        let pass = tokio::spawn(async move { offloader.offload_now(STORE, NOW, &Watch::default()).await });
        reached.notified().await;
        pass.abort();
        assert!(pass.await.unwrap_err().is_cancelled());
        provider.read_all(&bodies).await;
        let (bodies, packer) = provider.start().await;
        packer.clean_up(NOW).await.unwrap();
        provider.read_all(&bodies).await;
        offload(&bodies).await;
        packer.remove_dead(NOW).await.unwrap();
        provider.check_places().await;
        assert!(files(provider.folder.path()).is_empty(), "point {point}");
        provider.read_all(&bodies).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_is_away_loses_nothing_and_comes_back() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    provider.fill(&bodies, 40).await;
    packer.pack_everything(NOW).await.unwrap();
    offload(&bodies).await;
    let first: Vec<BodyId> = provider.expected.keys().copied().collect();
    let away = provider.folder.path().join("away");
    std::fs::rename(provider.bucket(), &away).unwrap();
    for body in &first {
        let error = bodies.read(*body).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    }
    provider.fill(&bodies, 40).await;
    packer.pack_everything(NOW).await.unwrap();
    let offloader = Offloader::new(bodies.clone());
    assert!(offloader.offload_now(STORE, NOW, &Watch::default()).await.is_err());
    for body in provider.expected.keys().filter(|body| !first.contains(body)) {
        bodies.read(*body).await.unwrap();
    }
    std::fs::rename(&away, provider.bucket()).unwrap();
    // Until the next try everything fails at once.
    let mut tries = 0;
    while offloader.offload_now(STORE, NOW, &Watch::default()).await.is_err() {
        tries += 1;
        assert!(tries < 200, "it does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    packer.remove_dead(NOW).await.unwrap();
    provider.check_places().await;
    provider.read_all(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_leaves_out_what_is_dead_wherever_the_pack_is() {
    for is_remote in [false, true] {
        let mut provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        provider.offloads(&bodies, &[]).await;
        provider.fill(&bodies, 200).await;
        packer.pack_everything(NOW).await.unwrap();
        if is_remote {
            offload(&bodies).await;
        }
        let before = provider.number("SELECT sum(octets) FROM pack").await;
        let deleted: Vec<BodyId> = provider.expected.keys().copied().step_by(2).collect();
        provider.delete(&deleted).await;
        let offloader = Offloader::new(bodies.clone());
        let done = offloader.look(NOW).await.unwrap();
        assert_eq!(done.rewritten, 1, "half of the pack is dead");
        packer.remove_dead(NOW).await.unwrap();
        if is_remote {
            assert_eq!(provider.objects(), 0, "the old object went");
            offload(&bodies).await;
        }
        provider.check_places().await;
        provider.read_all(&bodies).await;
        let after = provider.number("SELECT sum(octets) FROM pack").await;
        assert!(after * 10 < before * 7, "{before} {after}");
        assert_eq!(offloader.look(NOW).await.unwrap(), Offloaded::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_older_settings_are_compressed_anew() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[("compression.level", "1"), ("compression.dictionary", "false")]).await;
    let text =
        "Subject: a page\r\n\r\n".to_owned() + &"<td class=\"price\">always the same</td>\r\n".repeat(40);
    for number in 0..50 {
        provider.deliver(&bodies, format!("{text}{number}").into(), &[MailboxId(1)]).await;
    }
    packer.pack_everything(NOW).await.unwrap();
    let before = provider.number("SELECT sum(octets) FROM pack").await;
    provider.offloads(&bodies, &[("compression.level", "19")]).await;
    let offloader = Offloader::new(bodies.clone());
    assert_eq!(offloader.look(NOW).await.unwrap().rewritten, 1);
    assert_eq!(offloader.look(NOW).await.unwrap().rewritten, 0, "once is enough");
    packer.remove_dead(NOW).await.unwrap();
    let after = provider.number("SELECT sum(octets) FROM pack").await;
    assert!(after < before, "{before} {after}");
    provider.read_all(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_while_packs_move_give_the_original() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    provider.fill(&bodies, 200).await;
    let expected = provider.expected.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = tokio::spawn({
        let (bodies, stop) = (bodies.clone(), Arc::clone(&stop));
        async move {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (body, original) in &expected {
                    assert_eq!(&bodies.read(*body).await.unwrap(), original);
                }
                rounds += 1;
            }
            rounds
        }
    });
    packer.pack_everything(NOW).await.unwrap();
    let offloader = Offloader::new(bodies.clone());
    offloader.offload_now(STORE, NOW, &Watch::default()).await.unwrap();
    offloader.compact_now(STORE, NOW, &Watch::default()).await.unwrap();
    offloader.offload_now(STORE, NOW, &Watch::default()).await.unwrap();
    // Files of superseded packs stay as long as the grace of a real packer, so that nobody reads into nothing.
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
    packer.remove_dead(NOW).await.unwrap();
    provider.read_all(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pack_that_cannot_be_read_does_not_keep_the_others() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    let mut before = BTreeSet::new();
    for _ in 0..3 {
        provider.fill(&bodies, 20).await;
        packer.pack_everything(NOW).await.unwrap();
        let lost = files(provider.folder.path()).difference(&before).next().unwrap().clone();
        if before.len() == 1 {
            // The second of three loses its end.
            let bytes = std::fs::read(&lost).unwrap();
            std::fs::write(&lost, bytes.split_at(bytes.len() / 2).0).unwrap();
        }
        before = files(provider.folder.path());
    }
    let (bodies, _) = provider.start().await;
    let done = offload(&bodies).await;
    assert_eq!((done.rewritten, done.uploaded), (2, 1), "{done:?}");
    let readable =
        provider.number("SELECT count(*) FROM body WHERE pack_id IN (SELECT id FROM pack WHERE tier = 1)");
    assert_eq!(readable.await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_copies_stay_while_a_backup_pins_them() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    provider.fill(&bodies, 20).await;
    packer.pack_everything(NOW).await.unwrap();
    let pin =
        "INSERT INTO pin (id, node_id, created_at, expires_at) VALUES ('p', 'local', 0, 9000000000000000)";
    provider.execute(pin).await;
    let done = offload(&bodies).await;
    assert_eq!((done.uploaded, done.removed), (1, 0), "{done:?}");
    provider.execute("DELETE FROM pin").await;
    assert_eq!(offload(&bodies).await.removed, 1);
    provider.read_all(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_of_a_pack_that_went_while_it_was_sent_is_deleted() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.offloads(&bodies, &[]).await;
    provider.fill(&bodies, 20).await;
    packer.pack_everything(NOW).await.unwrap();
    let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut offloader = Offloader::new(bodies.clone());
    offloader.fault = Some(Fault { point: 2, reached: Arc::clone(&reached), go_on: Arc::clone(&go_on) });
    let pass = tokio::spawn(async move { offloader.offload_now(STORE, NOW, &Watch::default()).await });
    reached.notified().await;
    assert_eq!(provider.objects(), 1);
    let all: Vec<BodyId> = provider.expected.keys().copied().collect();
    provider.delete(&all).await;
    provider.execute("DELETE FROM pack_dictionary").await;
    provider.execute("DELETE FROM pack").await;
    go_on.notify_one();
    pass.await.unwrap().unwrap();
    assert_eq!(provider.objects(), 0);
}
