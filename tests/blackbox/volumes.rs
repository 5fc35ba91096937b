//! Mail stores as an operator runs them: made, set, stopped, started, sent to object storage, read back.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::imap::body_of;
use crate::support::programs::Finished;
use crate::support::s3::{self, S3Server};
use crate::support::wait_for;

const ALICE: &str = "alice@acme.test";
const BOB: &str = "bob@acme.test";

fn message(subject: &str) -> Vec<u8> {
    format!("From: a@example.test\r\nSubject: {subject}\r\n\r\nthe text of {subject}\r\n").into_bytes()
}

fn show(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&["store", "show", name]).remove(0)
}

fn failed(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.status.code(), Some(code), "{} {}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains(words), "{} {}", finished.stdout, finished.stderr);
}

/// The bodies in INBOX, as IMAP gives them.
fn read_all(daemon: &Daemon, user: &str, count: usize) -> Vec<String> {
    let mut session = daemon.imap(user);
    session.select("INBOX");
    let bodies = session.bodies("1:*");
    assert_eq!(bodies.len(), count);
    bodies.into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect()
}

/// Whether the body of message 1 is unavailable, while its header and flags are there.
fn is_unavailable(daemon: &Daemon, user: &str) -> bool {
    let mut session = daemon.imap(user);
    session.select("INBOX");
    let header = session.command("FETCH 1 (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").unwrap().ok();
    assert!(header.untagged.iter().any(|line| !body_of(line).is_empty()), "{header:?}");
    let answer = session.command("FETCH 1 BODY.PEEK[TEXT]").unwrap();
    let is_away = answer.status == "NO" && answer.text.starts_with("[UNAVAILABLE]");
    assert!(is_away || answer.status == "OK", "{answer:?}");
    assert!(!is_away || answer.untagged.iter().all(|line| body_of(line).is_empty()), "{answer:?}");
    is_away
}

/// A store of its own at a path for bob, beside alice's.
fn with_second_store(setup: Setup) -> (Daemon, PathBuf) {
    let daemon = Daemon::with_alice(setup);
    let folder = daemon.dir().join("second");
    let path = folder.to_str().unwrap();
    daemon.posthouse(&["store", "create", "second", "--path", path, "packing.grace_minutes=0"]).ok();
    daemon.mailbox_with(BOB, &["--store", "second"]);
    (daemon, folder)
}

fn pack_files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries(&folder.join("packs")).map(|entry| entry.path());
    folders.flat_map(|folder| entries(&folder).map(|entry| entry.path()).collect::<Vec<_>>()).collect()
}

#[test]
fn store_is_made_and_set_at_run_time_on_both_databases() {
    for database in Database::all() {
        let (mut daemon, folder) = with_second_store(Setup { database, ..Setup::default() });
        assert!(folder.join("posthouse-store.json").is_file());
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&folder).unwrap());
        assert_eq!(mode & 0o777, 0o700);
        daemon.deliver(BOB, &message("one"));
        daemon.posthouse(&["store", "pack"]).ok();
        assert_eq!(pack_files(&folder).len(), 1);
        assert_eq!(daemon.pack_files().len(), 0);
        let before = show(&daemon, "second");
        assert_eq!(before["settings"]["packing.grace_minutes"], "0");
        daemon.posthouse(&["store", "set", "second", "compression.level=19", "cache.octets_max=1GiB"]).ok();
        daemon.posthouse(&["store", "set", "second", "cache.octets_max=", "--dry-run"]).ok();
        let after = show(&daemon, "second");
        assert_eq!(after["settings"]["compression.level"], "19");
        assert_eq!(after["settings"]["cache.octets_max"], (1_u64 << 30).to_string());
        assert_ne!(after["etag"], before["etag"]);
        // Twice, unknown, wrong, fixed, nested: each with its code.
        let inside = folder.join("inside");
        let inside = inside.to_str().unwrap();
        for (arguments, code, words) in [
            (vec!["create", "second", "--path", "/elsewhere"], 5, "exists"),
            (vec!["create", "third", "--path", inside], 5, "lie in one another"),
            (vec!["create", "third", "--path", folder.to_str().unwrap()], 5, "second"),
            (vec!["create", "third", "--path", "../up"], 2, "path"),
            (vec!["create", "third", "--path", "."], 2, "data directory"),
            (vec!["create", "Third", "--path", "third"], 2, "name"),
            (vec!["set", "third", "compression.level=3"], 3, "third"),
            (vec!["set", "second", "compression.level=20", "no.such=1"], 2, "no.such"),
            (vec!["stop", "third"], 3, "third"),
        ] {
            let arguments: Vec<&str> = ["store"].into_iter().chain(arguments).collect();
            failed(&daemon.posthouse(&arguments), code, words);
        }
        daemon.posthouse(&["store", "create", "third", "--path", "stores/third", "--dry-run"]).ok();
        assert!(!daemon.data_dir().join("stores/third").exists());
        daemon.posthouse(&["store", "create", "third", "--path", "stores/third"]).ok();
        assert!(daemon.data_dir().join("stores/third").is_dir());
        daemon.stop();
        daemon.start_again();
        assert_eq!(show(&daemon, "second")["settings"]["compression.level"], "19");
        assert_eq!(read_all(&daemon, BOB, 1).len(), 1);
    }
}

#[test]
fn settings_of_the_file_stay_and_secrets_are_never_shown() {
    let configuration = "[[store]]\nname = \"main\"\ncompression = { level = 5 }\n".to_owned();
    let daemon = Daemon::with_alice(Setup { configuration, ..Setup::default() });
    failed(&daemon.posthouse(&["store", "set", "main", "compression.level=3"]), 2, "configuration file");
    failed(&daemon.posthouse(&["store", "set", "main", "offload.secret_key=hunter2"]), 2, "secret");
    let set = ["store", "set", "main", "offload.bucket=mail", "--keys-stdin"];
    let set = daemon.posthouse_with_input(&set, "AKIDEXAMPLE\nhunter2\n").ok();
    let shown = show(&daemon, "main").to_string();
    let audit = daemon.posthouse(&["audit", "search", "--operation", "store."]).ok();
    assert!(audit.stdout.contains("offload.bucket"), "{}", audit.stdout);
    for text in [set.stdout, set.stderr, shown, audit.stdout] {
        assert!(!text.contains("hunter2") && !text.contains("AKIDEXAMPLE"), "{text}");
    }
    let etag = show(&daemon, "main")["etag"].as_str().unwrap().to_owned();
    let change = |etag: &str, level: &str| {
        let body = json!({ "settings": { "cache.octets_max": level } });
        let headers = [("if-match", format!("\"{etag}\""))];
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let socket = daemon.admin_socket();
        crate::support::http::over_socket(&socket, "PATCH", "/v1/stores/main", &headers, Some(&body)).unwrap()
    };
    assert_eq!(change(&etag, "2GiB").status, 200);
    assert_eq!(change(&etag, "3GiB").status, 412);
}

#[test]
fn stopped_store_defers_mail_and_comes_back_with_everything() {
    for database in Database::all() {
        let (mut daemon, folder) = with_second_store(Setup { database, ..Setup::default() });
        for subject in ["one", "two"] {
            daemon.deliver(BOB, &message(subject));
        }
        daemon.posthouse(&["store", "pack"]).ok();
        daemon.deliver(BOB, &message("three"));
        assert!(!is_unavailable(&daemon, BOB));
        daemon.posthouse(&["store", "stop", "second"]).ok();
        daemon.posthouse(&["store", "stop", "second"]).ok();
        assert!(is_unavailable(&daemon, BOB));
        let mut session = daemon.imap(BOB);
        assert_eq!(session.select("INBOX").exists(), Some(3));
        let fresh = session.command("FETCH 3 BODY.PEEK[]").unwrap();
        assert!(fresh.status == "NO" && fresh.text.starts_with("[UNAVAILABLE]"), "{fresh:?}");
        session.command("STORE 1 +FLAGS (\\Flagged)").unwrap().ok();
        let appended = session.append("INBOX", "", &message("four")).unwrap();
        assert!(appended.status == "NO" && appended.text.starts_with("[UNAVAILABLE]"), "{appended:?}");
        let refused = daemon.pop3(BOB).command("RETR 1").unwrap().unwrap_err();
        assert!(refused.contains("[SYS/TEMP]"), "{refused}");
        // Only the mailbox on the stopped store is deferred.
        let replies = daemon.lmtp().deliver("s@example.test", &[BOB, ALICE], &message("five")).unwrap();
        assert_eq!(replies[0].codes(), "451 4.3.0");
        assert!(replies[1].is_ok(), "{replies:?}");
        let replies = daemon.smtp().deliver("s@example.test", &[BOB], &message("six")).unwrap();
        assert_eq!(replies[0].codes(), "451 4.3.0");
        daemon.posthouse(&["store", "pack"]).ok();
        assert_eq!(pack_files(&folder).len(), 1);
        // A restart changes nothing.
        daemon.stop();
        daemon.start_again();
        assert!(is_unavailable(&daemon, BOB));
        failed(&daemon.posthouse(&["store", "read-only", "second"]), 5, "--read-only");
        // A pack that is missing is found before mail goes there again.
        let pack = pack_files(&folder).remove(0);
        let aside = folder.join("aside");
        std::fs::rename(&pack, &aside).unwrap();
        failed(&daemon.posthouse(&["store", "start", "second"]), 5, "pack");
        assert_eq!(show(&daemon, "second")["state"], "stopped");
        std::fs::rename(&aside, &pack).unwrap();
        daemon.posthouse(&["store", "start", "second"]).ok();
        let bodies = read_all(&daemon, BOB, 3);
        for (body, subject) in bodies.iter().zip(["one", "two", "three"]) {
            assert!(body.ends_with(&format!("the text of {subject}\r\n")), "{body}");
        }
        daemon.deliver(BOB, &message("seven"));
        assert_eq!(read_all(&daemon, ALICE, 1).len(), 1);
    }
}

#[test]
fn read_only_store_is_read_and_not_written() {
    let (daemon, folder) = with_second_store(Setup::default());
    daemon.deliver(BOB, &message("one"));
    daemon.posthouse(&["store", "pack"]).ok();
    daemon.deliver(BOB, &message("two"));
    daemon.posthouse(&["store", "read-only", "second"]).ok();
    assert_eq!(read_all(&daemon, BOB, 2).len(), 2);
    let replies = daemon.lmtp().deliver("s@example.test", &[BOB], &message("three")).unwrap();
    assert_eq!(replies[0].codes(), "451 4.3.0");
    daemon.posthouse(&["store", "pack"]).ok();
    assert_eq!(pack_files(&folder).len(), 1);
    failed(&daemon.posthouse(&["store", "compact", "second"]), 7, "read-only");
    let refused = daemon.posthouse_with_input(
        &["mailbox", "create", "carol@acme.test", "--store", "second", "--password-stdin"],
        "correct horse battery",
    );
    failed(&refused, 5, "read-only");
    daemon.posthouse(&["store", "start", "second"]).ok();
    daemon.deliver(BOB, &message("three"));
    daemon.posthouse(&["store", "pack"]).ok();
    assert_eq!(pack_files(&folder).len(), 2);
    assert_eq!(read_all(&daemon, BOB, 3).len(), 3);
}

#[test]
fn unmounted_volume_is_not_used_and_not_written_to() {
    let (mut daemon, folder) = with_second_store(Setup::default());
    daemon.deliver(BOB, &message("one"));
    daemon.posthouse(&["store", "pack"]).ok();
    daemon.stop();
    // What is seen where a volume is not mounted: an empty folder.
    let mounted = daemon.dir().join("mounted");
    std::fs::rename(&folder, &mounted).unwrap();
    std::fs::create_dir(&folder).unwrap();
    daemon.start_again();
    assert!(is_unavailable(&daemon, BOB));
    let replies = daemon.lmtp().deliver("s@example.test", &[BOB, ALICE], &message("two")).unwrap();
    assert_eq!(replies[0].codes(), "451 4.3.0");
    assert!(replies[1].is_ok(), "{replies:?}");
    let mut session = daemon.imap(BOB);
    let appended = session.append("INBOX", "", &message("three")).unwrap();
    assert!(appended.status == "NO" && appended.text.starts_with("[UNAVAILABLE]"), "{appended:?}");
    let trouble = show(&daemon, "second")["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("mounted"), "{trouble}");
    let ready = |daemon: &Daemon| {
        let answer = crate::support::http::request(daemon.address("http"), "GET", "/readyz", &[], None);
        let answer = answer.unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    let (status, text) = ready(&daemon);
    assert!(status == 200 && text.starts_with("degraded") && text.contains("second"), "{status} {text}");
    failed(&daemon.posthouse(&["store", "start", "second"]), 5, "mounted");
    daemon.posthouse(&["store", "pack"]).ok();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // Mounted again, it is used again by itself.
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&mounted, &folder).unwrap();
    wait_for("the store is used again", || show(&daemon, "second").get("trouble").is_none().then_some(()));
    assert_eq!(read_all(&daemon, BOB, 1).len(), 1);
    daemon.deliver(BOB, &message("four"));
    wait_for("ready", || (ready(&daemon).1 == "ready\n").then_some(()));
    // Another's folder is not used either, unless that is forced.
    std::fs::write(folder.join("posthouse-store.json"), r#"{"instance":"other","store":"second"}"#).unwrap();
    wait_for("the marker is seen", || show(&daemon, "second").get("trouble").map(drop));
    assert!(is_unavailable(&daemon, BOB));
    failed(&daemon.posthouse(&["store", "start", "second"]), 5, "another installation");
    daemon.posthouse(&["store", "start", "second", "--force"]).ok();
    assert_eq!(read_all(&daemon, BOB, 2).len(), 2);
}

#[test]
fn verify_finds_a_flipped_octet_and_shows_the_pack() {
    let (daemon, folder) = with_second_store(Setup::default());
    for number in 0..20 {
        daemon.deliver(BOB, &message(&format!("message number {number}")));
    }
    daemon.posthouse(&["store", "pack"]).ok();
    let clean = daemon.json(&["store", "verify", "second"]).remove(0);
    assert_eq!((clean["packs"].as_u64(), clean["bodies"].as_u64()), (Some(1), Some(20)));
    assert_eq!(clean["damage"], 0);
    let sampled = daemon.json(&["store", "verify", "second", "--sample", "1"]).remove(0);
    assert_eq!(sampled["packs"], 1);
    let pack = pack_files(&folder).remove(0);
    let whole = std::fs::read(&pack).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 3;
    flipped[middle] ^= 1;
    std::fs::write(&pack, &flipped).unwrap();
    let found = daemon.posthouse(&["store", "verify", "second", "--all"]);
    assert_eq!(found.status.code(), Some(8), "{} {}", found.stdout, found.stderr);
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(report["damage"], 1, "{report}");
    assert_eq!(report["bodies"], 20);
    let name = pack.file_stem().unwrap().to_str().unwrap();
    assert_eq!(report["damaged"][0]["pack"], name);
    assert!(report["damaged"][0]["body"].is_string(), "{report}");
    let shown = show(&daemon, "second");
    assert_eq!((&shown["damaged_packs"], &shown["damaged"][0]["pack"]), (&json!(1), &json!(name)));
    std::fs::write(&pack, &whole).unwrap();
    daemon.posthouse(&["store", "verify", "second"]).ok();
    assert_eq!(show(&daemon, "second")["damaged_packs"], 0);
    std::fs::remove_file(&pack).unwrap();
    let found = daemon.posthouse(&["store", "verify", "second"]);
    assert_eq!(found.status.code(), Some(8), "{} {}", found.stdout, found.stderr);
    failed(&daemon.posthouse(&["store", "verify", "nothing"]), 3, "nothing");
}

#[test]
fn packs_go_to_object_storage_on_command_and_are_read_and_verified_there() {
    let server = S3Server::start();
    let (daemon, folder) = with_second_store(Setup::default());
    failed(&daemon.posthouse(&["store", "offload", "second"]), 7, "object storage");
    let endpoint = format!("offload.endpoint={}", server.endpoint());
    let bucket = format!("offload.bucket={}", s3::BUCKET);
    let keys = format!("{}\n{}\n", s3::ACCESS_KEY, s3::SECRET_KEY);
    let set = ["store", "set", "second", &endpoint, &bucket, "--keys-stdin"];
    daemon.posthouse_with_input(&set, &keys).ok();
    for number in 0..10 {
        daemon.deliver(BOB, &message(&format!("message number {number}")));
        if number % 5 == 4 {
            daemon.posthouse(&["store", "pack"]).ok();
        }
    }
    let probed = daemon.json(&["store", "show", "second", "--probe"]);
    assert_eq!(probed.last().unwrap()["works"], true, "{probed:?}");
    let done = daemon.json(&["store", "offload", "second"]).remove(0);
    assert_eq!((done["uploaded"].as_u64(), done["removed"].as_u64()), (Some(1), Some(1)), "{done}");
    let shown = show(&daemon, "second");
    assert!(shown["remote_octets"].as_i64().unwrap() > 0, "{shown}");
    let bodies = read_all(&daemon, BOB, 10);
    assert!(bodies[9].ends_with("the text of message number 9\r\n"), "{}", bodies[9]);
    let report = daemon.json(&["store", "verify", "second"]).remove(0);
    assert_eq!((&report["bodies"], &report["damage"]), (&json!(10), &json!(0)), "{report}");
    // What is in object storage is not lost sight of.
    let lost = daemon.posthouse(&["store", "set", "second", "offload.prefix=elsewhere"]);
    failed(&lost, 5, "object storage");
    // Stopped, it asks object storage for nothing; damage there is found.
    daemon.posthouse(&["store", "stop", "second"]).ok();
    assert!(is_unavailable(&daemon, BOB));
    daemon.posthouse(&["store", "start", "second"]).ok();
    let length = shown["remote_octets"].as_u64().unwrap();
    let is_pack = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() == length);
    let object = server.objects("").into_iter().find(is_pack);
    let object = object.expect("the pack's object");
    let mut octets = std::fs::read(&object).unwrap();
    let middle = octets.len() / 3;
    octets[middle] ^= 1;
    std::fs::write(&object, octets).unwrap();
    let found = daemon.posthouse(&["store", "verify", "second"]);
    assert_eq!(found.status.code(), Some(8), "{} {}", found.stdout, found.stderr);
    assert!(found.stdout.contains("object storage"), "{}", found.stdout);
    daemon.posthouse(&["store", "set", "second", "compression.level=1"]).ok();
    assert_eq!(daemon.posthouse(&["store", "compact", "second"]).status.code(), Some(8));
    assert!(!pack_files(&folder).is_empty());
}
