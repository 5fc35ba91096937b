//! Events as programs follow them: a stream of lines that is scoped, goes on from a cursor, and ends with the right.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::http::{self, Lines};

/// A daemon with the customers `a` and `b`, and the administrator of each with a token.
fn daemon(database: Database) -> (Daemon, Vec<(String, String)>) {
    let daemon = Daemon::with(Setup { database, ..Setup::default() });
    let logins = ["a", "b"].map(|name| {
        let asked = json!({ "path": name, "domain": format!("{name}.test"), "admin": "chief" });
        let made = daemon.api("POST", "/v1/customers", Some(&asked)).json();
        let text = |member: &str| made[member].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        (text("administrator"), text("token"))
    });
    (daemon, logins.into())
}

fn follow(daemon: &Daemon, token: &str, query: &str) -> Lines {
    let bearer = format!("Bearer {token}");
    let address = format!("unix:{}", daemon.admin_socket().display());
    http::lines(&address, &format!("/v1/events{query}"), &[("Authorization", &bearer)]).unwrap()
}

fn mailbox(daemon: &Daemon, address: &str) {
    let asked = json!({ "address": address, "password": "correct horse battery" });
    let made = daemon.api("POST", "/v1/mailboxes", Some(&asked));
    assert_eq!(made.status, 201, "{}", made.json());
}

/// The next line with an event, and the cursor behind it.
fn event(lines: &mut Lines) -> (Value, String) {
    let mut event = None;
    loop {
        let line = lines.next().unwrap().expect("a line");
        assert!(line.get("error").is_none(), "{line}");
        match line.get("kind") {
            Some(_) => event = Some(line),
            None => {
                let cursor = line["cursor"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
                if let Some(event) = event {
                    return (event, cursor);
                }
            }
        }
    }
}

/// Reads on until the stream says that it is over, and why.
fn ended(mut lines: Lines) -> Value {
    let begun = Instant::now();
    let mut last = Value::Null;
    while let Some(line) = lines.next().unwrap() {
        last = line;
    }
    // A second, and what a busy machine takes for a look.
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(last["error"].is_object(), "{last}");
    last["error"].clone()
}

#[test]
fn events_are_followed_within_the_scope_and_from_a_cursor_on() {
    for database in Database::all() {
        let (daemon, logins) = daemon(database);
        let mut stream = follow(&daemon, &logins[0].1, "?kinds=mailbox.&limit=1");
        assert!(stream.next().unwrap().unwrap()["cursor"].is_string());
        mailbox(&daemon, "one@b.test");
        mailbox(&daemon, "two@a.test");
        mailbox(&daemon, "three@b.test");
        daemon.posthouse(&["customer", "limit", "a", "--mailboxes", "50"]).ok();
        daemon.posthouse(&["mailbox", "quota", "two@a.test", "1GiB"]).ok();
        let (first, cursor) = event(&mut stream);
        assert_eq!((&first["kind"], &first["actor"]), (&json!("mailbox.create"), &json!("provider")));
        assert_eq!((&first["customer"], &first["after"]["address"]), (&json!("a"), &json!("two@a.test")));
        let (second, _) = event(&mut stream);
        assert_eq!(second["kind"], "mailbox.quota");
        assert!(second["id"].is_string() && second["id"] != first["id"]);
        // Somebody who was away goes on behind what it has seen; somebody else's cursor means nothing.
        let mut again = follow(&daemon, &logins[0].1, &format!("?kinds=mailbox.&limit=1&cursor={cursor}"));
        assert_eq!(event(&mut again).0, second);
        let bearer = format!("Bearer {}", logins[1].1);
        let address = format!("unix:{}", daemon.admin_socket().display());
        let path = format!("/v1/events?kinds=mailbox.&cursor={cursor}");
        let refused = http::request(&address, "GET", &path, &[("Authorization", &bearer)], None).unwrap();
        assert_eq!(refused.status, 400, "{}", refused.json());
        // From the beginning, everything of its own, a page at a time.
        let mut cursor = String::new();
        let mut seen = Vec::new();
        loop {
            let from = if cursor.is_empty() { "since=1d".to_owned() } else { format!("cursor={cursor}") };
            let bearer = format!("Bearer {}", logins[1].1);
            let path = format!("/v1/events?limit=1&{from}");
            let page =
                http::request(&address, "GET", &path, &[("Authorization", &bearer)], None).unwrap().json();
            let items = page["items"].as_array().unwrap_or_else(|| panic!("{page}"));
            seen.extend(items.iter().map(|item| item["kind"].as_str().unwrap().to_owned()));
            cursor = page["cursor"].as_str().unwrap().to_owned();
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(seen, ["customer.create", "mailbox.create", "mailbox.create"]);
    }
}

#[test]
fn streams_end_with_the_right_to_them() {
    let (daemon, logins) = daemon(Database::Sqlite);
    let (login, token) = &logins[0];
    let open = || {
        let mut stream = follow(&daemon, token, "");
        assert!(stream.next().unwrap().unwrap()["cursor"].is_string());
        stream
    };
    let stream = open();
    daemon.posthouse(&["customer", "suspend", "a", "--switch", "manage", "--reason", "unpaid", "--yes"]).ok();
    let end = ended(stream);
    assert!(["forbidden", "not_found"].contains(&end["code"].as_str().unwrap()), "{end}");
    daemon.posthouse(&["customer", "resume", "a", "--reason", "unpaid"]).ok();
    let stream = open();
    daemon.posthouse(&["admin", "revoke", login, "--role", "admin", "--customer", "a", "--yes"]).ok();
    let end = ended(stream);
    assert!(["forbidden", "not_found"].contains(&end["code"].as_str().unwrap()), "{end}");
    daemon.posthouse(&["admin", "grant", login, "--role", "auditor", "--customer", "a"]).ok();
    let stream = open();
    daemon.posthouse(&["admin", "disable", login, "--yes"]).ok();
    assert_eq!(ended(stream)["code"], "unauthenticated");
    let mut daemon = daemon;
    daemon.posthouse(&["admin", "enable", login]).ok();
    let stream = {
        let mut stream = follow(&daemon, token, "");
        assert!(stream.next().unwrap().unwrap()["cursor"].is_string());
        stream
    };
    daemon.stop();
    assert_eq!(ended(stream)["retryable"], true);
}
