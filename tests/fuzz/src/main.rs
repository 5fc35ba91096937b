//! libFuzzer over one of Posthouse's fuzz targets, named by `POSTHOUSE_FUZZ_TARGET`; with `list` all their names are
//! printed instead.
#![no_main]

use std::sync::OnceLock;

use posthouse::fuzz::TARGETS;

/// The target of this run.
static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() {
    let wanted = std::env::var("POSTHOUSE_FUZZ_TARGET").unwrap_or_default();
    if wanted == "list" {
        for target in &TARGETS {
            println!("{}", target.name);
        }
        std::process::exit(0);
    }
    match TARGETS.iter().find(|target| target.name == wanted) {
        Some(target) => _ = RUN.set(target.run),
        None => {
            eprintln!("POSTHOUSE_FUZZ_TARGET={wanted} names no target");
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(
    init: choose(),
    |input: &[u8]| {
        if let Some(run) = RUN.get() {
            run(input);
        }
    }
);
