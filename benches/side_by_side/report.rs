//! Collects figures and writes the table.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times, sizes.
    Lower,
    /// Reported so that the others can be judged.
    Neither,
}

/// One measurement.
pub struct Figure {
    workload: String,
    unit: String,
    better: Better,
    value: f64,
}

impl Figure {
    /// A figure of a workload.
    pub fn new(workload: &str, unit: &str, better: Better, value: f64) -> Self {
        Self { workload: workload.to_owned(), unit: unit.to_owned(), better, value }
    }
}

struct Row {
    workload: String,
    unit: String,
    better: Better,
    /// For each server, one value for each round.
    values: Vec<Vec<f64>>,
}

/// All measurements of a run; the first server is compared with each of the others.
pub struct Table {
    hosts: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    pub fn new(hosts: Vec<String>) -> Self {
        Self { hosts, rows: Vec::new() }
    }

    /// Enters a figure of the server with that index.
    pub fn add(&mut self, host: usize, figure: Figure) {
        let known =
            self.rows.iter().position(|row| row.workload == figure.workload && row.unit == figure.unit);
        let index = known.unwrap_or_else(|| {
            let values = vec![Vec::new(); self.hosts.len()];
            self.rows.push(Row {
                workload: figure.workload,
                unit: figure.unit,
                better: figure.better,
                values,
            });
            self.rows.len() - 1
        });
        self.rows[index].values[host].push(figure.value);
    }

    /// The table in Markdown: medians with (lowest–highest), and how many times better the first server is.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| workload | unit |");
        for host in &self.hosts {
            write!(text, " {host} |").ok();
        }
        for host in self.hosts.iter().skip(1) {
            write!(text, " better than {host} by |").ok();
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---:|".repeat(2 * self.hosts.len() - 1));
        text.push('\n');
        for row in &self.rows {
            write!(text, "| {} | {} |", row.workload, row.unit).ok();
            for values in &row.values {
                write!(text, " {} |", spread(values)).ok();
            }
            for other in row.values.iter().skip(1) {
                write!(text, " {} |", ratio(row.better, &row.values[0], other)).ok();
            }
            text.push('\n');
        }
        text
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn spread(values: &[f64]) -> String {
    let values = sorted(values);
    match (values.first(), median(&values), values.last()) {
        (Some(_), Some(middle), Some(_)) if values.len() == 1 => number(middle),
        (Some(low), Some(middle), Some(high)) => {
            format!("{} ({}–{})", number(middle), number(*low), number(*high))
        }
        _ => "—".to_owned(),
    }
}

/// The ratio of the medians, and from the least to the most favourable pair of rounds.
fn ratio(better: Better, ours: &[f64], theirs: &[f64]) -> String {
    if better == Better::Neither {
        return String::new();
    }
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    let of = |ours: f64, theirs: f64| if better == Better::Higher { ours / theirs } else { theirs / ours };
    let Some(((our_median, their_median), (our_low, our_high), (their_low, their_high))) = (|| {
        Some((
            (median(&ours)?, median(&theirs)?),
            (*ours.first()?, *ours.last()?),
            (*theirs.first()?, *theirs.last()?),
        ))
    })() else {
        return "—".to_owned();
    };
    let middle = of(our_median, their_median);
    // CPU time is counted in hundredths of a second; what took none cannot be compared.
    if !middle.is_finite() || our_low == 0.0 || their_low == 0.0 {
        return "—".to_owned();
    }
    if ours.len() == 1 {
        return format!("{middle:.2}");
    }
    let (one, two) = (of(our_low, their_high), of(our_high, their_low));
    format!("{middle:.2} ({:.2}–{:.2})", one.min(two), one.max(two))
}

/// Where the sections of the document begin that other programs, or people, have measured.
const SECTION: &str = "\n## ";

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md")
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The machine.
pub fn machine() -> String {
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo")
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib / (1 << 20));
    format!("{cores} cores of {processor}, {memory} GiB of memory")
}

/// The machine, and the mail that was used.
pub fn circumstances() -> String {
    let mail = match std::env::var("POSTHOUSE_TEST_CORPUS") {
        Ok(_) => "real mail",
        Err(_) => "generated messages",
    };
    format!("{}, corpus of {mail}", machine())
}

/// Writes a section of `docs/benchmarks.md` in place of the one with this heading, or behind the comparison.
pub fn write_section(heading: &str, text: &str) {
    let old = read(document());
    let heading = format!("{SECTION}{heading}\n");
    let section = format!("{heading}\n{text}");
    let (before, behind) = match old.split_once(&heading) {
        Some((before, old)) => (before, old.find(SECTION).and_then(|at| old.get(at..)).unwrap_or("")),
        None => match old.find(SECTION) {
            Some(at) => old.split_at(at),
            None => (old.as_str(), ""),
        },
    };
    crate::support::programs::write(&document(), format!("{before}{section}{behind}"));
}

/// Writes the comparison in `docs/benchmarks.md`; the sections behind it stay.
pub fn write_document(table: &str, rounds: usize) {
    let old = read(document());
    let behind = old.find(SECTION).and_then(|at| old.get(at..)).unwrap_or("");
    let text = format!(
        "# Benchmarks\n\n\
         Posthouse and Dovecot on one machine, in the same run, taking turns: the same file system, fsync on in \
         both, zstd level 3 in both, the same users and the same messages. Each figure is the median of the rounds \
         with the lowest and the highest in parentheses. A ratio above 1 means that Posthouse is better. Server and \
         load generator share the processor, so each one's CPU time is given apart.\n\n\
         ```\nPOSTHOUSE_TEST_CORPUS=FOLDER cargo bench --bench side-by-side -- --write\n```\n\n\
         runs all of it and writes this page; `-- --rounds N` and `-- --only WORD` narrow a run. Dovecot (packages \
         dovecot-imapd and dovecot-lmtpd) is left out where it is not installed.\n\n\
         Last run: {}, {rounds} rounds.\n\n{table}{behind}",
        circumstances()
    );
    crate::support::programs::write(&document(), text);
}
