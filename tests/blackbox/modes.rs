//! What the daemon writes is for its own user alone: mail and password hashes.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::corpus::{dense_message, message};
use crate::support::daemon::{Daemon, Setup};

/// Permission bits of everything at and below `path`.
fn modes(path: &Path, found: &mut BTreeMap<PathBuf, u32>) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    found.insert(path.to_owned(), metadata.permissions().mode() & 0o777);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("directory") {
            modes(&entry.expect("entry").path(), found);
        }
    }
}

#[test]
fn files_and_sockets_are_closed_to_other_users() {
    let mut daemon = Daemon::with_alice(Setup::default());
    daemon.deliver("alice@acme.test", &message(3_000, 1));
    daemon.deliver("alice@acme.test", &dense_message(1_700_000, 2));
    daemon.posthouse(&["store", "pack"]).ok();
    let copy = daemon.dir().join("copy");
    daemon.posthouse(&["backup", "create", copy.to_str().expect("path")]).ok();
    let mut found = BTreeMap::new();
    for path in [daemon.data_dir(), copy] {
        modes(&path, &mut found);
    }
    let has = |end: &str| found.keys().any(|path| path.to_string_lossy().ends_with(end));
    for end in ["data/metadata.db", "data/metadata.db-wal", "data/node", ".pack", "copy/index-1"] {
        assert!(has(end), "no {end} among {found:#?}");
    }
    let open: Vec<_> = found.iter().filter(|(_, mode)| **mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:#?}");
    // Sockets have the mode that is meant for them; on the admin socket the kernel says who asks.
    for socket in [daemon.dir().join("lmtp.sock"), daemon.admin_socket()] {
        let metadata = std::fs::metadata(socket).expect("socket");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    }
    daemon.stop();
}
