//! Stores that are stopped, packs that are read back, and packs in which damage was found.

use super::*;
use crate::base::progress::Progress as Watch;
use crate::storage::metadata::delivery::Refused;
use crate::storage::metadata::store::{self, StoreState};
use crate::storage::offload::{Offloaded, Offloader};
use crate::storage::verify::{Verification, verify};

const STORE: StoreId = StoreId(1);
const FIRST: MailboxId = MailboxId(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Provider {
    async fn set_state(&self, state: StoreState) {
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { store::set_state(conn, STORE, state).await })
        });
        let set: Result<()> = write.await;
        set.unwrap();
    }

    /// Changes an octet in the middle of every pack file; answers how many.
    fn damage(&self) -> usize {
        let files = files(self.folder.path());
        for file in &files {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }
        files.len()
    }
}

async fn check(bodies: &Bodies, so_far: Verification, watch: &Watch) -> (Result<Verification>, Vec<String>) {
    let mut positions = Vec::new();
    let each = |done: &Verification| positions.push(serde_json::to_string(done).unwrap());
    let done = verify(bodies, STORE, 100, so_far, (NOW, watch), each).await;
    (done, positions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_read_only_stores_are_left_alone() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 10).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.fill(&bodies, 10).await;
    let body = *provider.expected.keys().next().unwrap();
    for state in [StoreState::Stopped, StoreState::ReadOnly] {
        provider.set_state(state).await;
        assert_eq!(packer.pack_everything(NOW).await.unwrap().packs, 0, "{state:?}");
        let read = bodies.read(body).await;
        assert_eq!(matches!(read, Err(StorageError::Busy(_))), state == StoreState::Stopped, "{read:?}");
        let offloader = Offloader::new(bodies.clone());
        let asked = offloader.compact_now(STORE, NOW, &Watch::default()).await;
        assert!(matches!(asked, Err(StorageError::Busy(_))), "{asked:?}");
        assert_eq!(offloader.look(NOW).await.unwrap(), Offloaded::default());
        let refused = provider.deliver(&bodies, "x".into(), &[FIRST]).await;
        assert_eq!(refused, [Err(Refused::StoreClosed)], "{state:?}");
        let large = Bytes::from(random_bytes(3 << 20));
        assert_eq!(provider.deliver(&bodies, large, &[FIRST]).await, [Err(Refused::StoreClosed)]);
    }
    provider.set_state(StoreState::Draining).await;
    assert_eq!(packer.pack_everything(NOW).await.unwrap().bodies, 10);
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_goes_on_behind_the_last_pack() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    for _ in 0..4 {
        provider.fill(&bodies, 12).await;
        packer.pack_everything(NOW).await.unwrap();
    }
    let damaged = provider.damage() as u64;
    let (whole, positions) = check(&bodies, Verification::default(), &Watch::default()).await;
    let whole = whole.unwrap();
    assert_eq!((whole.packs, whole.bodies, whole.damage, positions.len()), (4, 48, damaged, 4));
    assert!(whole.damaged.iter().all(|damage| damage.body.is_some()), "{whole:?}");
    assert_eq!(provider.number("SELECT count(*) FROM pack WHERE damaged_bodies = 1").await, 4);
    let half: Verification = serde_json::from_str(&positions[1]).unwrap();
    assert_eq!(half.packs, 2);
    let (rest, positions) = check(&bodies, half, &Watch::default()).await;
    assert_eq!((rest.unwrap(), positions.len()), (whole, 2));
    let cancelled = Watch::default();
    cancelled.cancel();
    let (ended, _) = check(&bodies, Verification::default(), &cancelled).await;
    assert!(matches!(ended, Err(StorageError::Interrupted(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pack_with_damage_rests_for_a_day() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.fill(&bodies, 20).await;
    packer.pack_everything(NOW).await.unwrap();
    let half: Vec<BodyId> = provider.expected.keys().copied().skip(9).take(10).collect();
    provider.delete(&half).await;
    // The last octets of the last frame: its body lives.
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    let last = provider.number("SELECT max(pack_offset) FROM body").await as usize;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[last + 90] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let offloader = Offloader::new(bodies.clone());
    let first = offloader.look(NOW).await.unwrap();
    assert_eq!((first.rewritten, first.damaged), (1, 1), "{first:?}");
    assert_eq!(provider.number("SELECT damaged_bodies FROM pack WHERE damaged_at IS NOT NULL").await, 1);
    assert_eq!(offloader.look(NOW.plus(MINUTE)).await.unwrap(), Offloaded::default());
    let later = offloader.look(NOW.plus(MINUTE * 60 * 24)).await.unwrap();
    assert_eq!((later.rewritten, later.damaged), (1, 1), "{later:?}");
}
