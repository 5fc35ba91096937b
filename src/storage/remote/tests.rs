//! One contract for every place for objects, and what happens when a server does wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::calls::CallLimits;
use super::s3::Bucket;
use super::store::PartSizes;
use super::throttle::Throttle;
use super::*;
use crate::base::secret::Secret;

#[path = "../../../tests/support/moto.rs"]
mod moto;
#[allow(dead_code, clippy::duplicate_mod, reason = "the black-box tests and other rooms use it too")]
#[path = "../../../tests/support/programs.rs"]
mod programs;
#[allow(dead_code, reason = "the black-box tests use more of it")]
#[path = "../../../tests/support/s3.rs"]
pub(crate) mod server;
use server::{Fault, S3Server};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// Content that looks the same nowhere.
fn content(octets: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&octets.to_le_bytes());
    let mut content = vec![0; octets];
    hasher.finalize_xof().fill(&mut content);
    content
}

fn settings(server: &S3Server) -> RemoteSettings {
    RemoteSettings {
        endpoint: Some(server.endpoint()),
        bucket: server::BUCKET.to_owned(),
        prefix: "some/where".to_owned(),
        access_key: Some(Secret::plain(server::ACCESS_KEY)),
        secret_key: Some(Secret::plain(server::SECRET_KEY)),
        response_timeout_secs: 10,
        total_timeout_secs: 30,
        ..RemoteSettings::default()
    }
}

/// Parts of 5 MiB, the least that servers take, for what is longer than 100,000 octets.
fn in_parts(settings: RemoteSettings) -> Remote {
    let sizes = PartSizes { whole_octets_max: 100_000, part_octets_min: 5 << 20, parts_max: 100 };
    let limits = CallLimits::of(&settings);
    let throttle = settings.upload_octets_per_sec.map(Throttle::new).map(Arc::new);
    Remote::over(Arc::new(Bucket::new(settings).with_parts(sizes)), limits, throttle, Metrics::new())
}

fn remote(server: &S3Server) -> Remote {
    Remote::s3(settings(server), Metrics::new()).unwrap()
}

fn file(dir: &Path, content: &[u8]) -> PathBuf {
    let path = dir.join("source");
    std::fs::write(&path, content).unwrap();
    path
}

/// What every place has to do.
async fn contract(remote: &Remote) {
    let dir = tempfile::tempdir().unwrap();
    let (one, target) = (key("a/b/one.pack"), dir.path().join("target"));
    for missing in [
        remote.head(&one).await.map(|_| ()),
        remote.get_range(&one, 0, 5).await.map(|_| ()),
        remote.get_bytes(&one, 100).await.map(|_| ()),
        remote.get_to_file(&one, 100, &target).await,
    ] {
        assert!(matches!(missing, Err(RemoteError::NotFound(_))), "{missing:?}");
    }
    remote.delete(&one).await.unwrap();
    for octets in [0, 1, 300_000, 11 << 20] {
        let content = content(octets);
        let (path, length) = (file(dir.path(), &content), octets as u64);
        let uploaded = remote.put_file(&one, &path, length).await.unwrap();
        assert_eq!((uploaded.octets, uploaded.blake3), (length, *blake3::hash(&content).as_bytes()));
        assert_eq!(remote.head(&one).await.unwrap().octets, length);
        remote.get_to_file(&one, length, &target).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), content);
        assert_eq!(remote.get_bytes(&one, length).await.unwrap(), content);
        remote.delete(&one).await.unwrap();
    }
    ranges(remote).await;
    wrong_expectations(remote, dir.path()).await;
    remote.probe().await.unwrap();
    assert_eq!(remote.health(), Health::Good);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

async fn ranges(remote: &Remote) {
    let (two, content) = (key("two.pack"), content(10_000));
    remote.put_bytes(&two, Bytes::from(content.clone())).await.unwrap();
    for (offset, length) in [(0, 1), (0, 10_000), (9_999, 1), (5_000, 2_500), (7, 0)] {
        let read = remote.get_range(&two, offset, length).await.unwrap();
        assert_eq!(read, content[offset as usize..(offset + length) as usize], "{length} at {offset}");
    }
    for (offset, length) in [(9_999, 2), (10_000, 1), (0, 10_001), (u64::MAX, 1)] {
        let error = remote.get_range(&two, offset, length).await.unwrap_err();
        assert_eq!(error.class(), "corrupt", "{length} at {offset}: {error}");
    }
    remote.delete(&two).await.unwrap();
    remote.delete(&two).await.unwrap();
}

async fn wrong_expectations(remote: &Remote, dir: &Path) {
    let (three, target) = (key("three.pack"), dir.join("three"));
    let path = file(dir, &content(1_000));
    for octets in [999, 1_001] {
        let error = remote.put_file(&three, &path, octets).await.unwrap_err();
        assert_eq!(error.class(), "local", "{error}");
    }
    remote.put_file(&three, &path, 1_000).await.unwrap();
    for octets in [0, 999, 1_001] {
        let error = remote.get_to_file(&three, octets, &target).await.unwrap_err();
        assert_eq!(error.class(), "corrupt", "{octets}: {error}");
        assert!(!target.exists());
    }
    let error = remote.get_bytes(&three, 999).await.unwrap_err();
    assert_eq!(error.class(), "corrupt", "{error}");
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let server = S3Server::start();
    contract(&remote(&server)).await;
}

#[tokio::test]
async fn a_bucket_keeps_the_contract_when_objects_go_in_parts() {
    let server = S3Server::start();
    contract(&in_parts(settings(&server))).await;
    assert!(server.requests().post > 0, "nothing went in parts");
}

#[tokio::test]
async fn a_bucket_of_another_server_keeps_the_contract() {
    let Some(server) = moto::Moto::start() else { return };
    let settings = RemoteSettings {
        endpoint: Some(server.endpoint()),
        bucket: moto::BUCKET.to_owned(),
        access_key: Some(Secret::plain("any")),
        secret_key: Some(Secret::plain("any")),
        storage_class: Some("STANDARD_IA".to_owned()),
        ..RemoteSettings::default()
    };
    contract(&Remote::s3(settings, Metrics::new()).unwrap()).await;
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract(&Remote::directory(dir.path(), Metrics::new())).await;
}

#[tokio::test]
async fn a_directory_that_is_not_mounted_is_no_missing_object_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not-mounted");
    let remote = Remote::directory(&root, Metrics::new());
    assert_eq!(remote.head(&key("x")).await.unwrap_err().class(), "unavailable");
    assert_eq!(remote.put_bytes(&key("x"), Bytes::new()).await.unwrap_err().class(), "unavailable");
    assert!(!root.exists());
}

#[tokio::test]
async fn a_whole_pack_costs_one_upload_and_keeps_to_its_prefix() {
    let server = S3Server::start();
    let remote = remote(&server);
    assert_eq!(server.requests(), server::Requests::default(), "nothing is asked before the first use");
    let dir = tempfile::tempdir().unwrap();
    let content = content(1 << 20);
    let uploaded = remote.put_file(&key("x.pack"), &file(dir.path(), &content), 1 << 20).await.unwrap();
    assert_eq!(uploaded.verified, Verified::Digest);
    let requests = server.requests();
    assert_eq!((requests.put, requests.head, requests.get, requests.post), (1, 1, 0, 0));
    assert_eq!(std::fs::read(server.bucket_folder().join("some/where/x.pack")).unwrap(), content);
}

#[tokio::test]
async fn passing_faults_are_overcome_by_themselves() {
    let server = S3Server::start();
    let remote = remote(&server);
    let dir = tempfile::tempdir().unwrap();
    let (one, content) = (key("one.pack"), content(200_000));
    let (path, target) = (file(dir.path(), &content), dir.path().join("target"));
    for fault in [Fault::Outage, Fault::Status(500), Fault::Status(503), Fault::NotStored] {
        server.fault_times(fault, 1);
        remote.put_file(&one, &path, 200_000).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        remote.delete(&one).await.unwrap();
    }
    remote.put_file(&one, &path, 200_000).await.unwrap();
    for fault in [Fault::Outage, Fault::Status(500), Fault::Reset, Fault::Truncated, Fault::WholeObject] {
        server.fault_times(fault, 2);
        let read = remote.get_range(&one, 1_000, 50_000).await;
        let read = read.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(read, content[1_000..51_000], "{fault:?}");
        server.fault_times(fault, 2);
        remote.get_to_file(&one, 200_000, &target).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(std::fs::read(&target).unwrap(), content, "{fault:?}");
    }
    assert_eq!(remote.health(), Health::Good);
}

#[tokio::test]
async fn lasting_faults_are_told_for_what_they_are() {
    let server = S3Server::start();
    let path_dir = tempfile::tempdir().unwrap();
    let (one, content) = (key("one.pack"), content(5_000));
    let path = file(path_dir.path(), &content);
    remote(&server).put_file(&one, &path, 5_000).await.unwrap();
    for (fault, class) in [
        (Fault::Status(403), "denied"),
        (Fault::Truncated, "corrupt"),
        (Fault::WholeObject, "corrupt"),
        (Fault::Reset, "unavailable"),
        (Fault::Status(500), "unavailable"),
        (Fault::Outage, "unavailable"),
    ] {
        server.fault(fault);
        let error = remote(&server).get_range(&one, 10, 100).await.unwrap_err();
        assert_eq!(error.class(), class, "{fault:?}: {error}");
        server.heal();
    }
    server.fault(Fault::NotStored);
    let error = remote(&server).put_file(&key("two.pack"), &path, 5_000).await.unwrap_err();
    assert_eq!(error.class(), "unavailable", "{error}");
}

#[tokio::test]
async fn wrong_keys_are_told_apart_from_outages() {
    let server = S3Server::start();
    let wrong_key = RemoteSettings { secret_key: Some(Secret::plain("wrong")), ..settings(&server) };
    let remote = Remote::s3(wrong_key, Metrics::new()).unwrap();
    let error = remote.probe().await.unwrap_err();
    assert_eq!(error.class(), "denied", "{error}");
    assert!(error.is_permanent());
    assert_eq!(remote.health(), Health::Refusing);
    let missing = std::path::PathBuf::from("/nowhere/secret");
    let unreadable = RemoteSettings { secret_key: Some(Secret::File(missing)), ..settings(&server) };
    let error = Remote::s3(unreadable, Metrics::new()).unwrap().head(&key("x")).await.unwrap_err();
    assert_eq!(error.class(), "denied", "{error}");
}

#[tokio::test]
async fn an_outage_costs_few_requests_and_no_waiting_until_it_is_over() {
    let server = S3Server::start();
    let remote = remote(&server);
    let one = key("one.pack");
    remote.put_bytes(&one, Bytes::from_static(b"content")).await.unwrap();
    server.fault(Fault::Outage);
    while remote.health() == Health::Good {
        assert_eq!(remote.get_range(&one, 0, 7).await.unwrap_err().class(), "unavailable");
    }
    assert_eq!(remote.health(), Health::Away);
    let before = server.requests().get;
    for _ in 0..100 {
        assert_eq!(remote.get_range(&one, 0, 7).await.unwrap_err().class(), "unavailable");
    }
    assert!(server.requests().get <= before + 2, "requests pile up");
    server.heal();
    let recovered = async {
        while remote.get_range(&one, 0, 7).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), recovered).await.expect("it recovers by itself");
    assert_eq!(remote.health(), Health::Good);
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let server = S3Server::start();
    let short = RemoteSettings { response_timeout_secs: 1, total_timeout_secs: 2, ..settings(&server) };
    let remote = Remote::s3(short, Metrics::new()).unwrap();
    server.fault(Fault::Silence);
    let start = std::time::Instant::now();
    for error in [
        remote.head(&key("x")).await.unwrap_err(),
        remote.put_bytes(&key("x"), Bytes::from_static(b"x")).await.unwrap_err(),
    ] {
        assert_eq!(error.class(), "unavailable", "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn uploads_keep_to_their_limit() {
    let server = S3Server::start();
    let slow = RemoteSettings { upload_octets_per_sec: Some(200_000), ..settings(&server) };
    let remote = Remote::s3(slow, Metrics::new()).unwrap();
    let start = std::time::Instant::now();
    remote.put_bytes(&key("x"), Bytes::from(content(400_000))).await.unwrap();
    // Two seconds at the limit, less the burst of half a second.
    assert!(start.elapsed() >= Duration::from_millis(1_400), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_upload_in_parts_that_fails_leaves_no_object_and_no_parts() {
    let server = S3Server::start();
    let remote = in_parts(settings(&server));
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &content(11 << 20));
    let name = key("x.pack");
    let upload = remote.put_file(&name, &path, 11 << 20);
    // Dropped when the first part is there.
    let halfway = async {
        while server.requests().put < 2 {
            tokio::task::yield_now().await;
        }
    };
    server.fault_times(Fault::Slow(Duration::from_millis(20)), u64::MAX);
    tokio::select! {
        _ = upload => panic!("done before it was interrupted"),
        () = halfway => {}
    }
    server.heal();
    let aborted = async {
        while server.requests().delete == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), aborted).await.expect("the parts are dropped");
    assert_eq!(remote.head(&key("x.pack")).await.unwrap_err().class(), "not-found");
}
