//! A full disk: mail is deferred with 452, what is there can be read, and mail flows again when there is room.
//!
//! The disk is full in two ways: a small file system in memory is (where one can be mounted, at least in a namespace of
//! the test's own), and each file may not grow any more (everywhere).

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Setup};
use crate::support::wait_for;

/// Marks a test that runs in a mount namespace of its own.
const IN_NAMESPACE: &str = "POSTHOUSE_TEST_NAMESPACE";
/// Most messages delivered until the disk must be full.
const MESSAGES_MAX: u64 = 2_000;

/// Runs one test of this file again where it may mount, in a user and mount namespace of its own. Nothing that it
/// mounts outlives it.
fn run_in_namespace(test: &str) {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]);
        command
    };
    if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: namespaces are not permitted here; the test with a limit on files runs everywhere"
        );
        return;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").map_or("", |(_, module)| module));
    let mut again = unshare();
    again.arg(std::env::current_exe().expect("this program")).args([&name, "--exact", "--nocapture"]);
    let finished = crate::support::programs::run(again.env(IN_NAMESPACE, "1"), b"").ok();
    assert!(finished.stdout.contains("1 passed"), "{}", finished.stdout);
}

/// A file system of its own in memory.
fn mount_small_disk(mebibytes: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "posthouse-test"])
        .arg(dir.path())
        .status();
    assert!(mounted.is_ok_and(|status| status.success()), "mount");
    dir
}

/// Takes up all space there is.
fn fill(file: &Path) {
    use std::io::Write;
    let mut filler = std::fs::File::create(file).expect("filler");
    for block in [1 << 20, 1 << 12, 1] {
        let zeros = vec![0; block];
        while filler.write(&zeros).is_ok_and(|written| written > 0) {}
    }
}

/// Sets how large a file of the daemon may become, or that there is no bound.
pub(super) fn limit_files(daemon: &Daemon, octets_max: Option<u64>) {
    let pid = daemon.pid().and_then(|pid| Pid::from_raw(pid as i32)).expect("the daemon runs");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: octets_max, maximum: None }).expect("prlimit");
}

/// Size of the largest file in a folder.
pub(super) fn largest_file(folder: PathBuf) -> u64 {
    let entries = std::fs::read_dir(folder).expect("data directory");
    entries.map(|entry| entry.expect("entry").metadata().expect("metadata").len()).max().unwrap_or(0)
}

/// Delivers until `fill` shows, then sees what is refused and what is not, then makes room.
fn mail_is_deferred_until_there_is_room(
    mut daemon: Daemon,
    fill: impl FnOnce(&Daemon),
    make_room: impl FnOnce(&Daemon),
) {
    daemon.deliver("alice@acme.test", &message(5_000, 1));
    fill(&daemon);
    let mut lmtp = daemon.lmtp();
    let mut accepted = 1;
    let refused = (0..MESSAGES_MAX).find_map(|number| {
        let replies = lmtp.deliver("", &["alice@acme.test"], &message(20_000, number)).expect("LMTP");
        accepted += u32::from(replies[0].is_ok());
        (!replies[0].is_ok()).then(|| replies[0].codes())
    });
    assert_eq!(refused.as_deref(), Some("452 4.3.1"));
    // A checkpoint may make a little room at any time.
    let mut smtp = daemon.smtp();
    let refused = (0..MESSAGES_MAX).find_map(|number| {
        let replies = smtp.deliver("", &["alice@acme.test"], &message(20_000, number)).expect("SMTP");
        accepted += u32::from(replies[0].is_ok());
        (!replies[0].is_ok()).then(|| replies[0].codes())
    });
    assert_eq!(refused.as_deref(), Some("452 4.3.1"));
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(accepted));
    assert!(session.bodies("1").remove(0).1.ends_with(&message(5_000, 1)));
    let refused = (0..MESSAGES_MAX).find_map(|number| {
        let answer = session.append("INBOX", "", &message(20_000, number)).expect("APPEND");
        accepted += u32::from(answer.status == "OK");
        (answer.status != "OK").then_some(answer.status)
    });
    assert_eq!(refused.as_deref(), Some("NO"));
    assert!(daemon.is_running());
    make_room(&daemon);
    wait_for("mail to flow again", || {
        let replies = lmtp.deliver("", &["alice@acme.test"], &message(20_000, 11)).expect("LMTP");
        replies[0].is_ok().then_some(())
    });
    assert_eq!(session.append("INBOX", "", &message(20_000, 12)).expect("APPEND").status, "OK");
    assert_eq!(session.select("INBOX").exists(), Some(accepted + 2));
    daemon.kill();
    daemon.start_again();
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(accepted + 2));
    assert_eq!(session.bodies("1:*").len(), accepted as usize + 2);
}

#[test]
fn full_disk_defers_mail_and_recovers_by_itself() {
    if std::env::var_os(IN_NAMESPACE).is_none() {
        return run_in_namespace("full_disk_defers_mail_and_recovers_by_itself");
    }
    let disk = mount_small_disk(96);
    let parent = Some(disk.path().to_owned());
    let daemon = Daemon::with_alice(Setup { parent, ..Setup::default() });
    let filler = disk.path().join("filler");
    mail_is_deferred_until_there_is_room(
        daemon,
        |_| fill(&filler),
        |_| std::fs::remove_file(&filler).expect("make room"),
    );
}

#[test]
fn files_that_may_not_grow_defer_mail_and_it_recovers_by_itself() {
    mail_is_deferred_until_there_is_room(
        Daemon::with_alice(Setup::default()),
        |daemon| limit_files(daemon, Some(largest_file(daemon.data_dir()) + (1 << 20))),
        |daemon| limit_files(daemon, None),
    );
}
