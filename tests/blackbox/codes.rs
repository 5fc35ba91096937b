//! One-time codes over the command line: invitations of administrators, and passwords that owners of mailboxes set.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::http;
use crate::support::pop3::Pop3;
use crate::support::programs::Finished;

const PASSWORD: &str = "another horse battery";

/// A file in the daemon's directory.
fn write(daemon: &Daemon, name: &str, text: &str) {
    std::fs::write(daemon.dir().join(name), format!("{text}\n")).expect("a file");
}

/// Uses a code, with a password of its holder's choice.
fn redeem(daemon: &Daemon, command: &[&str], code: &str) -> Finished {
    write(daemon, "code", code);
    let arguments = [command, &["--code-file", "code", "--password-stdin"]].concat();
    daemon.posthouse_with_input(&arguments, PASSWORD)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Whether a file below `dir` has these octets in it.
fn lies_in(dir: &Path, octets: &[u8]) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let found = if path.is_dir() {
            lies_in(&path, octets)
        } else {
            let content = std::fs::read(&path).unwrap_or_default();
            content.windows(octets.len()).any(|part| part == octets).then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn somebody_is_invited_and_becomes_an_administrator() {
    let daemon = Daemon::with_alice(Setup::default());
    let invite = ["invite", "create", "alice@acme.test", "--customer", "acme", "--role", "manager"];
    let made = &daemon.json(&invite)[0];
    let code = text(&made["secret"]);
    assert_eq!(daemon.json(&["invite", "list", "--customer", "acme"])[0]["name"], "alice");
    assert_eq!(daemon.json(&["invite", "show", &text(&made["id"])])[0]["roles"], json!(["manager"]));
    // The mailbox is told of it and has no code, whoever may read it; and nothing of the daemon has.
    crate::support::wait_for("the notice", || {
        (daemon.json(&["mailbox", "show", "alice@acme.test"])[0]["messages_used"] != 0).then_some(())
    });
    let told = daemon.pop3("alice@acme.test").retrieve(1).expect("the notice");
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("posthouse invite accept") && !told.contains(&code), "{told}");
    assert!(!daemon.log().contains(&code), "{}", daemon.log());
    assert_eq!(lies_in(&daemon.data_dir(), code.as_bytes()), None);

    let accepted = redeem(&daemon, &["invite", "accept"], &code).ok();
    let accepted: Value = serde_json::from_str(&accepted.stdout).expect("JSON");
    let name = text(&accepted["name"]);
    write(&daemon, "password", PASSWORD);
    let login = ["--login", &name, "--login-password-file", "password", "mailbox", "list"];
    assert_eq!(daemon.json(&login)[0]["address"], "alice@acme.test");
    let again = redeem(&daemon, &["invite", "accept"], &code);
    assert_eq!(again.status.code(), Some(4), "{}", again.stderr);
    assert!(again.stderr.contains("for a new one"), "{}", again.stderr);
    // A code that was used is answered as one that never was, and opens nothing.
    let ask = |code: &str, method: &str, path: &str| {
        let header = format!("Bearer {code}");
        let body = json!({ "password": PASSWORD });
        let body = (method == "POST").then_some(&body);
        let socket = daemon.admin_socket();
        let answer = http::over_socket(&socket, method, path, &[("Authorization", &header)], body);
        let answer = answer.expect("an answer");
        (answer.status, answer.json()["detail"].clone())
    };
    let unknown = format!("phc_{}", "a".repeat(40));
    let accept = "/v1/invitations/accept";
    assert_eq!(ask(&code, "POST", accept), ask(&unknown, "POST", accept));
    assert_eq!(ask(&code, "POST", accept).0, 401);
    assert_eq!(ask(&unknown, "GET", "/v1/whoami").0, 401);
    // One that is void while it is there, too.
    let made = &daemon.json(&["invite", "create", "bob@acme.test", "--customer", "acme"])[0];
    let void = text(&made["secret"]);
    assert_eq!(ask(&void, "GET", "/v1/whoami").0, 403);
    daemon.posthouse(&["domain", "delete", "acme.test", "--yes"]).ok();
    assert_eq!(ask(&void, "POST", accept), ask(&unknown, "POST", accept));
}

#[test]
fn owners_set_their_passwords_with_codes() {
    let daemon = Daemon::with_alice(Setup::default());
    let made = &daemon.json(&["mailbox", "invite", "alice@acme.test"])[0];
    let code = text(&made["secret"]);
    let hash = ["mailbox", "set-password", "--code-file", "code", "--password-hash-stdin"];
    write(&daemon, "code", &code);
    assert_eq!(
        daemon.posthouse_with_input(&hash, "{SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0").status.code(),
        Some(2)
    );
    redeem(&daemon, &["mailbox", "set-password"], &code).ok();
    let again = redeem(&daemon, &["mailbox", "set-password"], &code);
    assert_eq!(again.status.code(), Some(4), "{}", again.stderr);
    Pop3::login(daemon.address("pop3"), "alice@acme.test", PASSWORD).expect("the new password");
    assert!(!daemon.log().contains(&code), "{}", daemon.log());

    // Accounts that bring no password along.
    let rows = "type,address,password_hash\nmailbox,bob@acme.test,\nmailbox,carl@acme.test,\
                {SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0\nmailbox,dora@acme.test,\n";
    write(&daemon, "people.csv", rows.trim_end());
    let import = ["import", "people.csv", "--codes", "codes.csv"];
    daemon.posthouse(&[&import[..], &["--dry-run"]].concat()).ok();
    assert!(!daemon.dir().join("codes.csv").exists());
    daemon.posthouse(&import).ok();
    let file = daemon.dir().join("codes.csv");
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    let codes = std::fs::read_to_string(&file).expect("the file");
    let lines: Vec<Vec<&str>> = codes.lines().map(|line| line.split(',').collect()).collect();
    let addresses: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(addresses, ["address", "bob@acme.test", "dora@acme.test"], "{codes}");
    redeem(&daemon, &["mailbox", "set-password"], lines[2][1]).ok();
    Pop3::login(daemon.address("pop3"), "dora@acme.test", PASSWORD).expect("the new password");
    assert_eq!(lies_in(&daemon.data_dir(), lines[1][1].as_bytes()), None);
    // A file that is there is not written over.
    let second = daemon.posthouse(&import);
    assert_eq!(second.status.code(), Some(2), "{}", second.stderr);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), codes);
}
