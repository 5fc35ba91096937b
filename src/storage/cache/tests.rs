use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A pack in object storage: its bytes, and what was asked of it.
struct Far {
    bytes: Bytes,
    asked: Mutex<Vec<Range<u64>>>,
    failures: AtomicU64,
}

impl Far {
    fn new(octets: u64) -> Self {
        let bytes =
            (0..octets).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u8).collect::<Vec<_>>().into();
        Self { bytes, asked: Mutex::default(), failures: AtomicU64::new(0) }
    }

    fn cut(&self, range: &Range<u64>) -> Bytes {
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().unwrap().clone()
    }

    async fn get(&self, range: Range<u64>) -> Result<Bytes> {
        self.asked.lock().unwrap().push(range.clone());
        tokio::task::yield_now().await;
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(StorageError::Busy("object storage is away"));
        }
        Ok(self.cut(&range))
    }
}

async fn read(cache: &RangeCache, name: PackName, far: &Far, wanted: &[Range<u64>]) -> Vec<Result<Bytes>> {
    let fetch = |range| far.get(range).boxed();
    cache.read(name, far.bytes.len() as u64, wanted, &fetch).await
}

async fn expect(cache: &RangeCache, name: PackName, far: &Far, wanted: &[Range<u64>]) {
    let got = read(cache, name, far, wanted).await;
    for (range, bytes) in wanted.iter().zip(got) {
        assert_eq!(bytes.unwrap(), far.cut(range), "{range:?}");
    }
}

fn cache(octets_max: u64) -> (tempfile::TempDir, RangeCache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = RangeCache::open(folder.path().join("cache"), octets_max).unwrap();
    (folder, cache)
}

#[tokio::test]
async fn range_is_fetched_once_and_read_again_from_disk() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(3 * MIB + 17));
    let wanted = [10..20, 200_000..400_000, 3 * MIB..3 * MIB + 17, 7..7];
    expect(&cache, name, &far, &wanted).await;
    let asked = far.asked().len();
    expect(&cache, name, &far, &wanted).await;
    assert_eq!(far.asked().len(), asked);
    assert!(cache.octets() <= 64 * MIB && cache.octets() > 0);
}

#[tokio::test]
async fn many_readers_of_one_range_cost_one_request() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(2 * MIB));
    let readers = (0..50).map(|_| expect(&cache, name, &far, std::slice::from_ref(&(5_000..90_000))));
    futures_util::future::join_all(readers).await;
    assert_eq!(far.asked(), std::slice::from_ref(&(0..BLOCK_OCTETS)));
}

#[tokio::test]
async fn reading_in_order_takes_few_large_requests() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(20 * MIB));
    // 2,000 messages of 10 KiB, 100 at a time, as a client downloads a folder.
    for chunk in 0..20 {
        let wanted: Vec<_> = (0..100).map(|n| (chunk * 100 + n) * 10_240).map(|at| at..at + 10_240).collect();
        expect(&cache, name, &far, &wanted).await;
    }
    assert!(far.asked().len() <= 7, "{:?}", far.asked());
}

#[tokio::test]
async fn small_gaps_are_fetched_and_large_ones_are_not() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(10 * MIB));
    let at = |block: u64| block * BLOCK_OCTETS..block * BLOCK_OCTETS + 5;
    expect(&cache, name, &far, &[at(1), at(4), at(30)]).await;
    let mut asked = far.asked();
    asked.sort_by_key(|range| range.start);
    assert_eq!(asked, [BLOCK_OCTETS..5 * BLOCK_OCTETS, 30 * BLOCK_OCTETS..31 * BLOCK_OCTETS]);
}

#[tokio::test]
async fn packs_used_longest_ago_go_first_and_the_bound_holds() {
    let (folder, cache) = cache(4 * MIB);
    let packs: Vec<_> = (0..10).map(|_| (PackName::random(), Far::new(MIB))).collect();
    for (name, far) in &packs {
        expect(&cache, *name, far, std::slice::from_ref(&(0..MIB))).await;
        assert!(cache.octets() <= 4 * MIB);
    }
    let files = std::fs::read_dir(folder.path().join("cache")).unwrap().count();
    assert_eq!(files, 4);
    let (name, far) = packs.last().unwrap();
    expect(&cache, *name, far, std::slice::from_ref(&(0..MIB))).await;
    assert_eq!(far.asked().len(), 1);
    let (name, far) = packs.first().unwrap();
    expect(&cache, *name, far, std::slice::from_ref(&(0..MIB))).await;
    assert_eq!(far.asked().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_kept_is_read_nevertheless() {
    let (folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(2 * MIB));
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    expect(&cache, name, &far, &[100..200, MIB..2 * MIB]).await;
    assert_eq!(cache.octets(), 0);
    let small = RangeCache::open(folder.path().join("cache"), MIB).unwrap();
    expect(&small, name, &far, std::slice::from_ref(&(0..2 * MIB))).await;
    assert!(small.octets() <= MIB);
}

#[tokio::test]
async fn file_that_was_removed_is_fetched_anew() {
    let (folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(MIB));
    expect(&cache, name, &far, std::slice::from_ref(&(0..100))).await;
    std::fs::remove_file(folder.path().join("cache").join(name.to_string())).unwrap();
    let lost = read(&cache, name, &far, std::slice::from_ref(&(0..100))).await;
    assert!(matches!(lost.first(), Some(Err(StorageError::Gone(_)))));
    expect(&cache, name, &far, std::slice::from_ref(&(0..100))).await;
    assert_eq!(far.asked().len(), 2);
}

#[tokio::test]
async fn failure_concerns_its_ranges_alone_and_passes() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(8 * MIB));
    expect(&cache, name, &far, std::slice::from_ref(&(0..100))).await;
    far.failures.store(1, Ordering::Relaxed);
    let wanted = [50..100, 4 * MIB..4 * MIB + 100];
    let got = read(&cache, name, &far, &wanted).await;
    assert!(matches!(got.as_slice(), [Ok(_), Err(StorageError::Busy(_))]));
    expect(&cache, name, &far, &wanted).await;
}

#[tokio::test]
async fn reader_that_is_dropped_leaves_nothing_loading() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(8 * MIB));
    let never = |_| futures_util::future::pending::<Result<Bytes>>().boxed();
    let wanted = [0..100, 4 * MIB..5 * MIB];
    let stuck = cache.read(name, 8 * MIB, &wanted, &never);
    let other = async {
        tokio::task::yield_now().await;
        expect(&cache, name, &far, &wanted).await;
    };
    let stuck = async { tokio::time::timeout(Duration::from_millis(20), stuck).await.is_err() };
    let (timed_out, ()) = tokio::join!(stuck, other);
    assert!(timed_out);
    assert!(!far.asked().is_empty());
}

#[tokio::test]
async fn range_outside_the_pack_is_refused() {
    let (_folder, cache) = cache(64 * MIB);
    let (name, far) = (PackName::random(), Far::new(1000));
    let got = read(&cache, name, &far, &[0..10, 990..1001]).await;
    assert!(matches!(got.as_slice(), [Ok(_), Err(StorageError::Corrupt(_))]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is read at once, by however many, with failures and little room: right bytes or an error.
    #[test]
    fn reads_give_the_right_bytes_or_an_error(
        reads in prop::collection::vec(prop::collection::vec((0_u64..3, 0_u64..3 * MIB, 0_u64..300_000), 1..6), 1..12),
        failures in 0_u64..4,
        room in 1_u64..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, cache) = cache(room * MIB / 2);
            let packs: Vec<_> = (0..3).map(|n| (PackName::random(), Far::new(2 * MIB + n * MIB / 2))).collect();
            packs.iter().for_each(|(_, far)| far.failures.store(failures, Ordering::Relaxed));
            let (cache, packs) = (&cache, &packs);
            let read_all = reads.iter().map(|wanted| async move {
                for (pack, start, length) in wanted {
                    let (name, far) = packs.get(*pack as usize).unwrap();
                    let octets = far.bytes.len() as u64;
                    let range = *start.min(&octets)..(start + length).min(octets);
                    if let [Ok(bytes)] = read(cache, *name, far, std::slice::from_ref(&range)).await.as_slice() {
                        assert_eq!(*bytes, far.cut(&range));
                    }
                }
            });
            futures_util::future::join_all(read_all).await;
            assert!(cache.octets() <= room * MIB / 2);
            packs.iter().for_each(|(_, far)| far.failures.store(0, Ordering::Relaxed));
            for (name, far) in packs {
                expect(cache, *name, far, std::slice::from_ref(&(0..far.bytes.len() as u64))).await;
            }
        });
    }
}
