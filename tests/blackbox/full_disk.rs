//! A full disk: mail is deferred with 452, what is there can be read, and mail flows again when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Setup};
use crate::support::programs::is_root;
use crate::support::wait_for;

/// A small file system of its own in memory.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one, or says why not.
    fn mount(mebibytes: u32) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: only root can mount a small file system");
            return None;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "posthouse-test"])
            .arg(dir.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: mounting a small file system is not permitted here");
            return None;
        }
        Some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon's last files may still be closing.
        Command::new("umount").arg("-l").arg(self.dir.path()).status().ok();
    }
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

#[test]
fn full_disk_defers_mail_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(96) else { return };
    let mut daemon = Daemon::with_alice(Setup { parent: Some(disk.path()), ..Setup::default() });
    daemon.deliver("alice@acme.test", &message(5_000, 1));
    let filler = disk.path().join("filler");
    fill(&filler);
    let mut lmtp = daemon.lmtp();
    let mut accepted = 1;
    let refused = (0..2_000).find_map(|number| {
        let replies = lmtp.deliver("", &["alice@acme.test"], &message(20_000, number)).expect("LMTP");
        accepted += u32::from(replies[0].is_ok());
        (!replies[0].is_ok()).then(|| replies[0].codes())
    });
    assert_eq!(refused.as_deref(), Some("452 4.3.1"));
    let replies = daemon.smtp().deliver("", &["alice@acme.test"], &message(20_000, 9)).expect("SMTP");
    assert_eq!(replies[0].code, 452);
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(accepted));
    assert!(session.bodies("1").remove(0).1.ends_with(&message(5_000, 1)));
    let answer = session.append("INBOX", "", &message(20_000, 10)).expect("APPEND");
    assert_eq!(answer.status, "NO", "{}", answer.text);
    assert!(daemon.is_running());
    std::fs::remove_file(&filler).expect("make room");
    wait_for("mail to flow again", || {
        let replies = lmtp.deliver("", &["alice@acme.test"], &message(20_000, 11)).expect("LMTP");
        replies[0].is_ok().then_some(())
    });
    assert_eq!(session.select("INBOX").exists(), Some(accepted + 1));
    daemon.kill();
    daemon.start_again();
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(session.select("INBOX").exists(), Some(accepted + 1));
    assert_eq!(session.bodies("1:*").len(), accepted as usize + 1);
}
