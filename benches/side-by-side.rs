//! Posthouse and Dovecot side by side: same machine, same file system, fsync on in both, same users, same mail.
//!
//! `cargo bench --bench side-by-side` runs every workload several times on each server in turn and prints each
//! server's median and spread and the ratio; with `-- --write` it puts the table into `docs/benchmarks.md`.
//! `-- --rounds N` and `-- --only WORD` (also several) narrow a run. `POSTHOUSE_TEST_CORPUS` names the folder with
//! real mail; without it the messages are made here. Nothing here passes or fails: the figures decide what is kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "side_by_side/dovecot.rs"]
mod dovecot;
#[path = "side_by_side/host.rs"]
mod host;
#[allow(dead_code, reason = "the measurements of mail stores use more of it")]
#[path = "side_by_side/report.rs"]
mod report;
#[path = "side_by_side/workloads.rs"]
mod workloads;

use host::Host;
use report::Table;

struct Options {
    rounds: usize,
    /// Words of which a workload's name must contain one; none means all workloads.
    only: Vec<String>,
    write: bool,
}

fn options() -> Options {
    let mut options = Options { rounds: 5, only: Vec::new(), write: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                let rounds = arguments.next().and_then(|number| number.parse().ok());
                options.rounds = rounds.expect("--rounds takes a number");
            }
            "--only" => options.only.extend(arguments.next()),
            "--write" => options.write = true,
            // What cargo itself adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn main() {
    let options = options();
    let mut hosts: Vec<Box<dyn Host>> = vec![Box::new(host::Posthouse::start())];
    for format in [dovecot::Format::Maildir, dovecot::Format::Mdbox] {
        hosts.extend(dovecot::Dovecot::start(format).map(|host| Box::new(host) as Box<dyn Host>));
    }
    let mut table = Table::new(hosts.iter().map(|host| host.name().to_owned()).collect());
    for workload in workloads::all() {
        let wanted = options.only.iter().any(|word| workload.name.contains(word.as_str()));
        if !wanted && !options.only.is_empty() {
            continue;
        }
        let rounds = if workload.once { 1 } else { options.rounds };
        for round in 0..rounds {
            for (index, host) in hosts.iter().enumerate() {
                eprintln!("{}, round {} of {rounds}, {}", workload.name, round + 1, host.name());
                for figure in (workload.run)(host.as_ref()) {
                    table.add(index, figure);
                }
            }
        }
    }
    let text = table.markdown();
    println!("{text}");
    if options.write {
        report::write_document(&text, options.rounds);
    }
}
