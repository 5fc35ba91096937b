//! A server is seen, restarted and stopped: a successor takes over while clients of every kind come and go, a successor
//! that cannot leaves the old one serving, and an order to stop ends it.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::imap::Imap;
use crate::support::smtp::{Dialect, Smtp};
use crate::support::{PATIENCE, http, wait_for};

/// Acknowledged messages that must have come before a restart and after it.
const MESSAGES: usize = 20;

/// Whether a connection was not taken: the one thing that must not happen.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | NotFound | TimedOut | WouldBlock)
}

/// What the clients went through.
#[derive(Default)]
struct Story {
    stop: AtomicBool,
    refusals: Mutex<Vec<String>>,
    /// Numbers of the messages that were acknowledged.
    acknowledged: Mutex<Vec<u64>>,
    next: AtomicU64,
    logins: AtomicU64,
    /// When the admin socket answered, and which start of the daemon did.
    answers: Mutex<Vec<(Instant, i64)>>,
}

impl Story {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn broken(&self, who: &str, error: &io::Error) {
        // A session that ends at a safe point is no refusal.
        if is_refusal(error) {
            self.refusals.lock().unwrap().push(format!("{who}: {error}"));
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Delivers one message after the other, each over a connection of its own.
    fn deliver(&self, address: &str) {
        while self.goes_on() {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let message = format!("Subject: {number}\r\nMessage-ID: <{number}@restart.test>\r\n\r\nbody\r\n");
            let delivered = Smtp::open(address, Dialect::Lmtp).and_then(|mut session| {
                session.deliver("sender@example.test", &["alice@acme.test"], message.as_bytes())
            });
            match delivered {
                Ok(replies) if replies.iter().all(|reply| reply.is_ok()) => {
                    self.acknowledged.lock().unwrap().push(number);
                }
                Ok(_) => {}
                Err(error) => self.broken("LMTP", &error),
            }
        }
    }

    fn read(&self, address: &str) {
        while self.goes_on() {
            let login = format!("LOGIN alice@acme.test \"{PASSWORD}\"");
            let answered = Imap::open(address).and_then(|mut session| {
                session.command(&login)?;
                session.command("SELECT INBOX")
            });
            match answered {
                Ok(_) => drop(self.logins.fetch_add(1, Ordering::SeqCst)),
                Err(error) => self.broken("IMAP", &error),
            }
        }
    }

    fn administer(&self, socket: &str) {
        while self.goes_on() {
            match http::request(socket, "GET", "/v1/server", &[], None) {
                Ok(response) if response.status == 200 => {
                    let epoch = response.json()["epoch"].as_i64().expect("an epoch");
                    self.answers.lock().unwrap().push((Instant::now(), epoch));
                }
                Ok(_) => {}
                Err(error) => self.broken("admin", &error),
            }
        }
    }

    /// From the last answer of a start to the first of the next.
    fn gap(&self, epoch: i64) -> Duration {
        let answers = self.answers.lock().unwrap();
        let at = |wanted: i64| answers.iter().filter(move |(_, epoch)| *epoch == wanted).map(|(at, _)| *at);
        let (last, first) = (at(epoch).max().expect("before"), at(epoch + 1).min().expect("after"));
        first.saturating_duration_since(last)
    }
}

fn epoch(daemon: &Daemon) -> i64 {
    daemon.json(&["server", "show"])[0]["epoch"].as_i64().expect("an epoch")
}

/// Restarts the daemon and waits until the successor is the only one.
fn restart(daemon: &mut Daemon) {
    let before = daemon.pid().expect("a process");
    let shown = daemon.json(&["server", "restart"]);
    daemon.adopt(before);
    assert_eq!(shown[0]["pid"].as_u64(), daemon.pid().map(u64::from), "{shown:?}");
}

#[test]
fn restart_under_load_refuses_no_connection_and_loses_no_message() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let mut idle = daemon.imap("alice@acme.test");
    idle.select("INBOX");
    idle.start("IDLE").expect("IDLE");
    idle.read_line().expect("continuation");
    let first = epoch(&daemon);
    let story = Story::default();
    let (tcp, imap) = (daemon.address("lmtp").to_owned(), daemon.address("imap").to_owned());
    let unix = format!("unix:{}", daemon.dir().join("lmtp.sock").display());
    let admin = format!("unix:{}", daemon.admin_socket().display());
    let listeners = daemon.listeners().clone();
    std::thread::scope(|scope| {
        for address in [&tcp, &unix] {
            scope.spawn(|| story.deliver(address));
        }
        scope.spawn(|| story.read(&imap));
        scope.spawn(|| story.administer(&admin));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                let wanted = story.acknowledged() + MESSAGES;
                wait_for("deliveries", || (story.acknowledged() >= wanted).then_some(()));
                restart(&mut daemon);
            }
            let (wanted, logins) = (story.acknowledged() + MESSAGES, story.logins.load(Ordering::SeqCst));
            wait_for("deliveries", || (story.acknowledged() >= wanted).then_some(()));
            wait_for("logins", || (story.logins.load(Ordering::SeqCst) > logins).then_some(()));
            wait_for("an answer", || {
                story.answers.lock().unwrap().iter().any(|(_, epoch)| *epoch == first + 2).then_some(())
            });
        }));
        story.stop.store(true, Ordering::SeqCst);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(*story.refusals.lock().unwrap(), Vec::<String>::new());
    for restart in 0..2 {
        let gap = story.gap(first + restart);
        println!("gap of restart {}: {} ms", restart + 1, gap.as_millis());
        assert!(gap < PATIENCE, "{gap:?}");
    }
    let rest = String::from_utf8(idle.connection.rest().expect("the server closes")).expect("text");
    assert!(rest.contains("* BYE"), "{rest}");
    let now: HashMap<String, Vec<String>> = {
        let text = std::fs::read(daemon.data_dir().join("listeners.json")).expect("listeners.json");
        serde_json::from_slice(&text).expect("JSON")
    };
    assert_eq!(now, listeners, "every listener stays where it was");

    let mut found: HashMap<u64, usize> = HashMap::new();
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    for (_, body) in session.bodies("1:*") {
        let text = String::from_utf8(body).expect("text");
        let number = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
        *found.entry(number.parse().expect("a number")).or_default() += 1;
    }
    for number in story.acknowledged.lock().unwrap().iter() {
        assert_eq!(found.get(number), Some(&1), "message {number}");
    }
    assert!(found.values().all(|&copies| copies == 1), "{found:?}");
    daemon.stop();
    assert!(!daemon.admin_socket().exists(), "the last one takes the sockets with it");
    assert!(!daemon.data_dir().join("daemon.pid").exists());
}

#[test]
fn successor_that_cannot_take_over_leaves_the_old_one_serving() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let (pid, first) = (daemon.pid(), epoch(&daemon));
    let file = daemon.configuration_file();
    let good = std::fs::read_to_string(&file).expect("configuration");

    // It does not get ready: nothing is interrupted.
    std::fs::write(&file, format!("{good}\n[nonsense]\nkey = 1\n")).expect("configuration");
    let mut session = daemon.imap("alice@acme.test");
    let refused = daemon.posthouse(&["server", "restart"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("serves on as it was"), "{}", refused.stderr);
    session.command("NOOP").expect("NOOP").ok();
    assert_eq!((epoch(&daemon), daemon.is_running()), (first, true));

    // It fails with the data directory in its hands: the old one takes it back.
    let lost = daemon.dir().join("nowhere/metadata.db");
    let url = format!("url = \"sqlite:{}\"", lost.display());
    let broken: Vec<&str> =
        good.lines().map(|line| if line.starts_with("url = ") { url.as_str() } else { line }).collect();
    std::fs::write(&file, broken.join("\n")).expect("configuration");
    let refused = daemon.posthouse(&["server", "restart"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let rest = String::from_utf8(session.connection.rest().expect("the server closes")).expect("text");
    assert!(rest.contains("* BYE"), "{rest}");
    let shown = daemon.json(&["server", "show"]);
    assert_eq!(shown[0]["pid"].as_u64(), pid.map(u64::from), "{shown:?}");
    assert_eq!(shown[0]["state"], "serving", "{shown:?}");
    assert!(shown[0]["restart_error"].is_string(), "{shown:?}");
    let text = std::fs::read_to_string(daemon.data_dir().join("daemon.pid")).expect("daemon.pid");
    assert_eq!(text.trim().parse().ok(), pid);
    daemon.deliver("alice@acme.test", b"Subject: still here\r\n\r\nbody\r\n");
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));

    // With the mistake gone it goes through, and what the configuration says now counts.
    let more = daemon.dir().join("more.sock");
    let listen = format!("imap = [\"127.0.0.1:0\", \"unix:{}\"]", more.display());
    let changed: Vec<&str> =
        good.lines().map(|line| if line.starts_with("imap = ") { listen.as_str() } else { line }).collect();
    let changed = changed.join("\n").replace("imaps = [\"127.0.0.1:0\"]\n", "");
    assert!(changed.contains(&listen), "{changed}");
    std::fs::write(&file, changed).expect("configuration");
    restart(&mut daemon);
    let mut session = Imap::open(&format!("unix:{}", more.display())).expect("the new listener");
    session.command("NOOP").expect("NOOP").ok();
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
    assert!(daemon.json(&["server", "show"])[0].get("restart_error").is_none());
}

#[test]
fn servers_are_seen_with_their_history_and_stopped() {
    let mut daemon = Daemon::with_alice(Setup::default());
    let _session = daemon.imap("alice@acme.test");
    let shown = &daemon.json(&["server", "show"])[0];
    assert_eq!(shown["used"]["connections"]["imap"], 1, "{shown}");
    assert!(shown["used"]["resident_octets"].as_u64() > Some(1 << 20), "{shown}");
    let disks = shown["used"]["disks"].as_array().expect("disks");
    assert!(disks.iter().any(|disk| disk["store"] == "main"), "{shown}");
    assert!(disks.iter().all(|disk| disk["octets"].as_u64() >= disk["free_octets"].as_u64()), "{shown}");
    let samples = wait_for("the first sample", || {
        let samples = daemon.json(&["server", "history", "--since", "1h"]);
        (!samples.is_empty()).then_some(samples)
    });
    assert!(samples[0]["cpu_percent"].is_number() && samples[0]["waiting"]["deliveries"] == 0, "{samples:?}");
    let node = shown["node"].as_str().expect("a name").to_owned();
    let listed = daemon.json(&["server", "list"]);
    assert_eq!((listed.len(), &listed[0]["node"]), (1, &shown["node"]));
    assert_eq!(listed[0]["state"], "serving");
    assert_eq!(daemon.posthouse(&["server", "show", "elsewhere"]).status.code(), Some(3));
    assert_eq!(daemon.posthouse(&["server", "restart", "elsewhere"]).status.code(), Some(3));
    let tried = daemon.posthouse(&["server", "restart", "--dry-run"]).ok();
    let tried: Value = serde_json::from_str(&tried.stdout).expect("JSON");
    assert_eq!(tried["wanted"], "restart");
    assert!(daemon.json(&["server", "show"])[0].get("wanted").is_none());

    daemon.posthouse(&["server", "stop", &node, "--yes"]).ok();
    daemon.ended();
    assert!(!daemon.admin_socket().exists());
    daemon.start_again();
    let again = &daemon.json(&["server", "show"])[0];
    assert_eq!((&again["node"], &again["state"]), (&shown["node"], &Value::from("serving")));
    assert!(again.get("wanted").is_none(), "an order counts once: {again}");
}
