//! A mail server under load: where it listens, what it costs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::wait_for;

/// Mailboxes that mail is delivered to, `user0` to `user31`.
pub const USERS: usize = 32;
/// The mailbox that holds the corpus.
pub const READER: &str = "reader@bench.test";
/// The mailbox with the large folder.
pub const HOARDER: &str = "hoarder@bench.test";

/// The address of a mailbox that mail is delivered to.
pub fn user(number: usize) -> String {
    format!("user{}@bench.test", number % USERS)
}

/// What the workloads need to know of a server.
pub trait Host: Sync {
    /// For the head of the table.
    fn name(&self) -> &str;
    /// `host:port` of LMTP.
    fn lmtp(&self) -> String;
    /// `host:port` of IMAP in clear.
    fn imap(&self) -> String;
    /// The first process; all others descend from it.
    fn pid(&self) -> u32;
    /// Where mail and metadata lie.
    fn files(&self) -> PathBuf;
    /// Brings background work on stored mail to its end.
    fn settle(&self) {}
    /// The password of every mailbox.
    fn password(&self) -> &str {
        PASSWORD
    }
}

/// The server under development.
pub struct Posthouse {
    daemon: Daemon,
}

impl Posthouse {
    /// Starts it with all mailboxes.
    pub fn start() -> Self {
        let configuration =
            "[limits]\nconnections_max = 100000\nconnections_per_address_max = 100000\n".to_owned();
        let daemon = Daemon::with(Setup { configuration, ..Setup::default() });
        daemon.customer("bench", "bench.test");
        for address in (0..USERS).map(user).chain([READER.to_owned(), HOARDER.to_owned()]) {
            daemon.mailbox(&address);
        }
        Self { daemon }
    }
}

impl Host for Posthouse {
    fn name(&self) -> &str {
        "Posthouse"
    }

    fn lmtp(&self) -> String {
        self.daemon.address("lmtp").to_owned()
    }

    fn imap(&self) -> String {
        self.daemon.address("imap").to_owned()
    }

    fn pid(&self) -> u32 {
        self.daemon.pid().expect("the daemon runs")
    }

    fn files(&self) -> PathBuf {
        self.daemon.data_dir()
    }

    fn settle(&self) {
        self.daemon.posthouse(&["store", "pack"]).ok();
        // An idle log is cut and free pages are given back, a little later: until nothing changes any more.
        let octets = |name| std::fs::metadata(self.files().join(name)).map_or(0, |data| data.len());
        let mut seen = (0, std::time::Instant::now());
        wait_for("the database to come to rest", || {
            let now = octets("metadata.db") + octets("metadata.db-wal");
            if now != seen.0 {
                seen = (now, std::time::Instant::now());
            }
            (octets("metadata.db-wal") < 1 << 20 && seen.1.elapsed().as_secs() >= 15).then_some(())
        });
    }
}

/// The unit of proc_pid_stat(5): USER_HZ, which is 100 on every architecture that Linux runs servers on.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process and all its descendants, the ended ones included.
pub fn cpu_seconds(root: u32) -> f64 {
    let ticks: u64 = family(root).iter().filter_map(|pid| cpu_ticks(*pid)).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// CPU seconds of this process, the load generator.
pub fn own_cpu_seconds() -> f64 {
    cpu_ticks(std::process::id()).unwrap_or(0) as f64 / TICKS_PER_SECOND
}

/// Fields 14 to 17 of proc_pid_stat(5): user and system time, own and of children that were waited for.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    Some(behind_name.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// Memory of a process and all its descendants in octets, shared pages divided among those that share them.
pub fn proportional_octets(root: u32) -> u64 {
    let of = |pid: u32| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    family(root).into_iter().filter_map(of).sum::<u64>() * 1024
}

fn family(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    family
}

/// Octets of the blocks that the files below `folder` occupy, hard links once.
pub fn allocated_octets(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    let mut octets = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(data) = entry.metadata() else { continue };
            if seen.insert((data.dev(), data.ino())) {
                octets += data.blocks() * 512;
            }
            if data.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    octets
}
