//! One daemon at a time on a data directory, and the name by which it knows itself.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::DaemonError;
use crate::base::id::random_text;

/// Longest node id read from the lock file, in octets.
const NODE_ID_OCTETS_MAX: u64 = 64;

/// The file that holds the number of the process which has the data directory.
const PID_FILE: &str = "daemon.pid";

/// Holds the data directory; released when the process ends, however it ends.
pub(super) struct DataLock {
    _file: File,
    pid_file: PathBuf,
    /// A random name for this node, the same at every start.
    pub(super) node: String,
}

impl DataLock {
    /// Makes the directory if need be, for its owner alone, and locks it.
    pub(super) fn take(dir: &Path) -> Result<Self, DaemonError> {
        let io = |what: &str| {
            let what = format!("{what} {}", dir.display());
            move |error| DaemonError::Io { what, error }
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).map_err(io("cannot make the data directory"))?;
        let path = dir.join("node");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(io("cannot open the lock in"))?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(io("cannot protect the lock in"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DaemonError::InUse { dir: dir.to_owned() })?;
        let mut node = String::new();
        (&file).take(NODE_ID_OCTETS_MAX).read_to_string(&mut node).map_err(io("cannot read the lock in"))?;
        if node.trim().is_empty() {
            node = random_text(12);
            file.write_all(node.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(io("cannot write the lock in"))?;
        }
        let pid_file = dir.join(PID_FILE);
        std::fs::write(&pid_file, format!("{}\n", std::process::id()))
            .map_err(io("cannot write the number of the process in"))?;
        Ok(Self { _file: file, pid_file, node: node.trim().to_owned() })
    }

    /// Lets go for good: no process stands behind the directory any more. Dropping it leaves the file with the number
    /// of the process to the next.
    pub(super) fn give_up(self) {
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_daemon_is_refused_and_the_node_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataLock::take(dir.path()).unwrap();
        assert!(matches!(DataLock::take(dir.path()), Err(DaemonError::InUse { .. })));
        let name = first.node.clone();
        drop(first);
        let second = DataLock::take(dir.path()).unwrap();
        assert_eq!(second.node, name);
        let pid = std::fs::read_to_string(dir.path().join(PID_FILE)).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());
        second.give_up();
        assert!(!dir.path().join(PID_FILE).exists());
    }
}
