//! What this process uses, as proc(5) tells.

use std::time::Duration;

/// Unit of times in `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture that this program runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Use of memory and processors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ProcessUse {
    /// Resident memory in octets.
    pub resident_octets: u64,
    /// Time on processors since the start, in user and system mode.
    pub cpu: Duration,
}

/// What this process uses now; zeros where the system does not tell.
pub fn process_use() -> ProcessUse {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    ProcessUse {
        resident_octets: resident(&read("/proc/self/status")).unwrap_or(0),
        cpu: cpu(&read("/proc/self/stat")).unwrap_or_default(),
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Fields 14 and 15, counted behind the name, which may hold spaces and parentheses.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(Duration::from_millis(ticks.checked_mul(1000)? / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_writes_whatever_the_process_is_called() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t3\n"), Some(2 << 20));
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 90 0 0 0 150 50 0 0 20 0 3 0 5 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!((resident(""), cpu("")), (None, None));
        assert!(process_use().resident_octets > 0);
    }
}
