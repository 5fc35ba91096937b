//! Who may name whom; where SQL and S3 live; how long files and lines may be; the two sets of migrations.

use std::path::Path;

use super::paths::{Named, module_of, named};
use super::{files, read};

/// The rooms by floor. A room may name those on lower floors and itself, never one above or beside.
const FLOORS: [&[&str]; 6] = [
    &["base"],
    &["storage"],
    &["service"],
    &["wire"],
    &["imap", "pop3", "smtp", "mta", "admin", "managesieve", "console"],
    &["daemon", "fuzz"],
];

/// Where a file is a question about the design.
const FILE_LINES_MAX: usize = 600;
/// rustfmt wraps code at 110; comments and strings, which it leaves alone, get a little more.
const LINE_COLUMNS_MAX: usize = 120;

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Why `path` may not be named in the module `here`, or nothing.
fn offence(here: &[String], path: &[String]) -> Option<String> {
    // The program and the map of the house see everything.
    let room = here.first()?;
    let [root, other, rest @ ..] = path else { return None };
    if root != "crate" && root != "posthouse" {
        return None;
    }
    if room == "cli" {
        let registry = other == "service" && rest.first().is_some_and(|next| next == "registry");
        let is_other_room = floor(other).is_some() && other != "base" && !registry;
        return is_other_room.then(|| format!("cli may use base and service::registry, not {other}"));
    }
    if other == "cli" {
        return Some(format!("{room} may not name cli"));
    }
    let (own, named) = (floor(room)?, floor(other)?);
    (room != other && named >= own).then(|| format!("{room} may not name {other}: it is not below"))
}

#[test]
fn rooms_name_only_rooms_below_them() {
    let mut offences = Vec::new();
    for file in files("src", "rs") {
        let here = module_of(&file);
        for Named { segments, line } in named(&read(&file), &file) {
            if let Some(why) = offence(&here, &segments) {
                offences.push(format!("{}:{line}: {} ({why})", file.display(), segments.join("::")));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn arrows_up_and_sideways_are_noticed() {
    let check = |here: &str, path: &str| {
        let split = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
        offence(&split(here), &split(path)).is_some()
    };
    assert!(check("base::id", "crate::storage::Result"));
    assert!(check("imap::fetch", "crate::pop3::Session"));
    assert!(check("wire", "crate::imap"));
    assert!(check("cli::mailbox", "crate::service::login::Login"));
    assert!(check("cli", "crate::daemon"));
    assert!(check("service", "crate::cli"));
    assert!(!check("imap", "crate::service::login::Login"));
    assert!(!check("imap::fetch", "crate::imap::parse"));
    assert!(!check("cli::mailbox", "crate::service::registry::Operation"));
    assert!(!check("daemon", "crate::smtp"));
}

/// Every room is on a floor, so that a new one cannot escape the rule.
#[test]
fn every_room_has_a_floor() {
    for file in files("src", "rs") {
        let Some(room) = module_of(&file).into_iter().next() else { continue };
        assert!(room == "cli" || floor(&room).is_some(), "{}: add the room to FLOORS", file.display());
    }
}

/// Fails for each file that names the crate `library` outside of `allowed`.
fn only_below(library: &str, allowed: &[&str]) {
    let mut offences = Vec::new();
    for file in files("src", "rs") {
        if allowed.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        for Named { segments, line } in named(&read(&file), &file) {
            if segments[0] == library {
                offences.push(format!("{}:{line}: {}", file.display(), segments.join("::")));
            }
        }
    }
    assert!(offences.is_empty(), "{library} is only for {allowed:?}\n{}", offences.join("\n"));
}

#[test]
fn sql_stays_in_the_metadata_room() {
    // The error conversion of storage has to name the driver's error.
    only_below("sqlx", &["src/storage/metadata", "src/storage/mod.rs"]);
}

#[test]
fn s3_stays_in_the_remote_room() {
    only_below("aws_sdk_s3", &["src/storage/remote"]);
}

#[test]
fn files_and_lines_are_not_too_long() {
    let mut offences = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, "rs")) {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{}: {lines} lines", file.display()));
        }
        for (index, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX {
                offences.push(format!("{}:{}: {} columns", file.display(), index + 1, line.chars().count()));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |folder: &str| -> Vec<String> {
        let files = files(folder, "sql");
        files.iter().filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect()
    };
    let sqlite = names("migrations/sqlite");
    assert!(!sqlite.is_empty(), "migrations/sqlite is empty");
    assert_eq!(sqlite, names("migrations/postgres"));
    let numbers: Vec<&str> = sqlite.iter().filter_map(|name| Some(name.split_once('_')?.0)).collect();
    assert_eq!(numbers.len(), sqlite.len(), "a migration is NUMBER_name.sql: {sqlite:?}");
    assert!(numbers.is_sorted_by(|a, b| a < b), "two migrations have one number: {sqlite:?}");
}

/// Every file says what it is for (the map of the house and the modules alike).
#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent: Vec<String> = files("src", "rs")
        .into_iter()
        .filter(|file| !file.ends_with("tests.rs") && !opens_with_document(&read(file)))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "without //! at the top:\n{}", silent.join("\n"));
}

fn opens_with_document(text: &str) -> bool {
    text.lines().find(|line| !line.trim().is_empty()).is_none_or(|line| line.starts_with("//!"))
}

#[test]
fn own_paths_are_resolved_from_the_place_of_the_file() {
    assert_eq!(module_of(Path::new("src/imap/mod.rs")), ["imap"]);
    assert_eq!(module_of(Path::new("src/imap/fetch.rs")), ["imap", "fetch"]);
    assert!(module_of(Path::new("src/lib.rs")).is_empty());
}
