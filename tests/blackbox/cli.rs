//! The command line as people and scripts meet it: tables, JSON, exit codes, consent, secrets, manual pages; and the
//! admin socket below it.

use std::process::Command;

use serde_json::{Value, json};

use super::support::daemon::{Daemon, PROGRAM, Setup};
use super::support::http;
use super::support::programs::{Finished, run};

/// Runs the command line as at a prompt, without `--json`.
fn posthouse(daemon: &Daemon, arguments: &[&str]) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(daemon.dir()).env("NO_COLOR", "1");
    command.env("POSTHOUSE_SOCKET", daemon.admin_socket()).env_remove("POSTHOUSE_TOKEN_FILE");
    run(&mut command, b"")
}

#[track_caller]
fn fails(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let finished = posthouse(daemon, arguments);
    assert_eq!(finished.status.code(), Some(code), "{arguments:?}: {}", finished.stderr);
    assert_eq!(finished.stdout, "", "{arguments:?}: errors do not go where data goes");
    finished.stderr
}

#[test]
fn tables_are_for_people_and_json_for_programs() {
    let daemon = Daemon::with_alice(Setup::default());
    let table = posthouse(&daemon, &["mailbox", "list"]).ok().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ADDRESS          NAME  "), "{table}");
    assert!(lines[1].starts_with("alice@acme.test  "), "{table}");
    assert!(lines.iter().all(|line| !line.contains('\u{1b}') && line.trim_end() == *line), "{table}");

    let objects = daemon.json(&["mailbox", "list"]);
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["address"], "alice@acme.test");
    assert_eq!(objects[0]["bytes_used"], 0);

    let tree = posthouse(&daemon, &["customer", "list", "--tree"]).ok().stdout;
    assert!(tree.lines().any(|line| line == "└─ acme"), "{tree}");
}

#[test]
fn lists_of_several_pages_are_whole() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    for number in 0..3 {
        let body = json!({"path": format!("acme/c{number}")});
        assert_eq!(daemon.api("POST", "/v1/customers", Some(&body)).status, 201);
    }
    let first = daemon.api("GET", "/v1/customers?limit=2", None).json();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    let cursor = first["cursor"].as_str().expect("more pages");
    let next = daemon.api("GET", &format!("/v1/customers?limit=2&cursor={cursor}"), None).json();
    assert_ne!(first["items"][0], next["items"][0]);

    let accept = [("Accept", "application/x-ndjson")];
    let stream = http::over_socket(&daemon.admin_socket(), "GET", "/v1/customers?limit=2", &accept, None);
    let text = String::from_utf8(stream.expect("stream").body).expect("UTF-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 6, "the root, acme, three below it, and the end: {text}");
    assert_eq!(lines[5], json!({"end": {"count": 5}}));
    assert_eq!(daemon.json(&["customer", "list"]).len(), 5);
}

#[test]
fn exit_codes_tell_what_happened_and_each_error_what_to_do() {
    let daemon = Daemon::with_alice(Setup::default());
    for (arguments, code) in [
        (&["mailbox", "show", "nobody@acme.test"][..], 3),
        (&["mailbox", "show", "alice@elsewhere.test"], 3),
        (&["customer", "create", "acme"], 5),
        (&["mailbox", "quota", "alice@acme.test", "plenty"], 2),
        (&["mailbox", "quota", "alice@acme.test"], 2),
        (&["customer", "delete", "acme"], 2),
        (&["--socket", "nowhere.sock", "whoami"], 7),
        (&["--token-file", "nowhere.token", "whoami"], 2),
    ] {
        let stderr = fails(&daemon, arguments, code);
        assert!(stderr.contains("-> ") || stderr.contains("try '--help'") || code == 2, "{stderr}");
    }
    posthouse(&daemon, &["customer", "limit", "acme", "--customers", "0"]).ok();
    fails(&daemon, &["customer", "create", "acme/below"], 6);
    std::fs::write(daemon.dir().join("wrong.token"), "ph_wrong\n").expect("token file");
    fails(&daemon, &["--token-file", "wrong.token", "whoami"], 4);
}

#[test]
fn destruction_needs_consent_and_a_dry_run_changes_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    let planned = posthouse(&daemon, &["customer", "delete", "acme", "--dry-run"]).ok();
    assert!(planned.stderr.contains("Mailboxes       1"), "{}", planned.stderr);
    assert!(fails(&daemon, &["customer", "delete", "acme"], 2).contains("--yes"));
    posthouse(&daemon, &["mailbox", "show", "alice@acme.test"]).ok();

    posthouse(&daemon, &["customer", "delete", "acme", "--yes"]).ok();
    fails(&daemon, &["mailbox", "show", "alice@acme.test"], 3);
    posthouse(&daemon, &["customer", "undelete", "acme"]).ok();
    posthouse(&daemon, &["mailbox", "show", "alice@acme.test"]).ok();

    posthouse(&daemon, &["customer", "create", "other", "--dry-run"]).ok();
    fails(&daemon, &["customer", "show", "other"], 3);
}

#[test]
fn a_customers_administrator_sees_only_the_own_part() {
    let daemon = Daemon::with_alice(Setup::default());
    let created = daemon.json(&["customer", "create", "shop", "--domain", "shop.test", "--admin", "eve"]);
    let token = created[0]["token"].as_str().expect("the first administrator's token");
    std::fs::write(daemon.dir().join("eve.token"), format!("{token}\n")).expect("token file");
    let eve = |arguments: &[&str]| {
        let with_token: Vec<&str> = ["--token-file", "eve.token"].iter().chain(arguments).copied().collect();
        posthouse(&daemon, &with_token)
    };
    let domains = eve(&["--json", "domain", "list"]).ok().stdout;
    assert!(domains.contains("shop.test") && !domains.contains("acme"), "{domains}");
    assert_eq!(eve(&["mailbox", "list"]).ok().stdout, "", "alice is somebody else's");

    // What is another's and what does not exist are answered alike.
    let hidden = eve(&["mailbox", "show", "alice@acme.test"]);
    let absent = eve(&["mailbox", "show", "alice@gone.test"]);
    assert_eq!((hidden.status.code(), absent.status.code()), (Some(3), Some(3)));
    assert_eq!(hidden.stderr.replace("acme.test", "gone.test"), absent.stderr);
}

#[test]
fn quota_report_comes_as_table_csv_and_json() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    daemon.mailbox_with("alice@acme.test", &["--quota", "100KiB"]);
    daemon.mailbox("bob@acme.test");
    let message = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(5_000));
    daemon.deliver("alice@acme.test", message.as_bytes());

    let table = posthouse(&daemon, &["report", "quota", "--domain", "acme.test"]).ok().stdout;
    assert!(table.starts_with("ADDRESS") && table.contains("100 KiB"), "{table}");
    let csv = posthouse(&daemon, &["report", "quota", "--customer", "acme", "--format", "csv"]).ok().stdout;
    let kinds: Vec<&str> = csv.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(kinds, ["kind", "mailbox", "mailbox", "domain", "customer", "total"]);
    let report = daemon.json(&["report", "quota", "--domain", "acme.test", "--over", "50"]);
    let mailboxes = report[0]["mailboxes"].as_array().expect("mailboxes");
    assert_eq!(mailboxes.len(), 1, "{report:?}");
    assert_eq!(mailboxes[0]["address"], "alice@acme.test");
    assert!(mailboxes[0]["used"].as_i64().expect("octets") > 60_000);
    // What is not over it stands in none of the forms.
    let over = ["report", "quota", "--customer", "acme", "--over", "50"];
    let table = posthouse(&daemon, &over).ok().stdout;
    assert!(table.contains("alice@acme.test") && !table.contains("bob@"), "{table}");
    assert!(!table.contains("DOMAIN") && !table.contains("MAILBOXES"), "{table}");
    let csv = posthouse(&daemon, &[&over[..], &["--format", "csv"]].concat()).ok().stdout;
    let kinds: Vec<&str> = csv.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(kinds, ["kind", "mailbox"], "{csv}");
    let json = daemon.json(&over);
    assert_eq!((&json[0]["domains"], &json[0]["customers"]), (&json!([]), &json!([])));
}

#[test]
fn update_of_what_was_changed_meanwhile_is_a_failed_precondition() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    let socket = daemon.admin_socket();
    let path = "/v1/domains/acme.test/limits";
    let body = json!({ "bytes": 1000 });
    let headers = [("if-match", "\"stale\"")];
    let answer = http::over_socket(&socket, "PATCH", path, &headers, Some(&body)).expect("response");
    assert_eq!((answer.status, &answer.json()["code"]), (412, &json!("precondition_failed")));
    let shown = http::over_socket(&socket, "GET", "/v1/domains/acme.test", &[], None).expect("response");
    let etag = shown.header("etag").expect("an entity tag").to_owned();
    let headers = [("if-match", etag.as_str())];
    let answer = http::over_socket(&socket, "PATCH", path, &headers, Some(&body)).expect("response");
    assert_eq!(answer.status, 200);
}

#[test]
fn alias_domain_shows_its_state_when_it_is_made() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    let token = daemon.json(&["admin", "create", "carla", "--customer", "acme", "--role", "admin"]);
    let file = daemon.dir().join("carla.token");
    std::fs::write(&file, token[0]["token"].as_str().expect("a token")).expect("token file");
    let carla = ["--token-file", file.to_str().expect("a path")];
    let make = |name, more: &[&str]| {
        let words = [&carla[..], &["domain", "alias", name, "--of", "acme.test"], more].concat();
        posthouse(&daemon, &words).ok()
    };
    let table = make("one.test", &[]).stdout;
    assert!(table.contains("pending") && table.contains("acme.test"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&make("two.test", &["--json"]).stdout).expect("JSON");
    assert_eq!(json["state"], "pending");
}

#[test]
fn deleting_a_mailbox_names_what_leads_to_it() {
    let daemon = Daemon::with_alice(crate::support::daemon::Setup::default());
    daemon.posthouse(&["alias", "create", "sales@acme.test", "alice@acme.test"]).ok();
    daemon.posthouse(&["domain", "catch-all", "acme.test", "alice@acme.test"]).ok();
    let shown = posthouse(&daemon, &["mailbox", "delete", "alice@acme.test", "--dry-run"]).ok();
    assert!(shown.stderr.contains("sales@acme.test"), "{}", shown.stderr);
    assert!(shown.stderr.contains("Catch-all of"), "{}", shown.stderr);
}

#[test]
fn admin_socket_refuses_what_it_does_not_understand() {
    let daemon = Daemon::start();
    let socket = daemon.admin_socket();
    let problem = |method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>| {
        let response = http::over_socket(&socket, method, path, headers, body).expect("response");
        let kind = response.header("content-type").map(str::to_owned);
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}");
        let document = response.json();
        assert_eq!(document["status"], response.status);
        assert_eq!(document["request_id"].as_str(), response.header("x-request-id"));
        (response.status, document["code"].as_str().unwrap_or("").to_owned())
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(problem("GET", "/v1/nowhere", &[], None), code(404, "no_such_path"));
    assert_eq!(problem("DELETE", "/v1/whoami", &[], None), code(405, "no_such_method"));
    let unknown = json!({"path": "acme", "colour": "blue"});
    assert_eq!(problem("POST", "/v1/customers", &[], Some(&unknown)), code(400, "invalid"));
    let list = json!(["acme"]);
    assert_eq!(problem("POST", "/v1/customers", &[], Some(&list)), code(400, "malformed"));
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(problem("POST", "/v1/customers", &[], Some(&json!({"path": deep}))), code(400, "malformed"));
    let large = json!({"path": "x".repeat(1 << 20)});
    assert_eq!(problem("POST", "/v1/customers", &[], Some(&large)), code(413, "body_too_large"));
    let twice = json!({"path": "a"});
    assert_eq!(problem("PATCH", "/v1/customers/acme", &[], Some(&twice)), code(400, "invalid"));
    let wrong = [("Authorization", "Bearer ph_wrong")];
    assert_eq!(problem("GET", "/v1/nowhere", &wrong, None), code(401, "unauthenticated"));
    assert_eq!(daemon.api("GET", "/v1/openapi.json", None).json()["openapi"], "3.1.0");
}

#[test]
fn a_repeated_request_is_carried_out_once() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    let body = json!({"name": "eve", "customer": "acme", "role": "viewer"});
    let key = [("Idempotency-Key", "once")];
    let ask = |body: &Value| {
        let socket = daemon.admin_socket();
        http::over_socket(&socket, "POST", "/v1/administrators", &key, Some(body)).expect("response")
    };
    let (first, second) = (ask(&body), ask(&body));
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(second.json()["token"], Value::Null, "a secret is shown once");
    assert_eq!(daemon.json(&["admin", "list"]).len(), 1);
    let other = json!({"name": "mallory", "customer": "acme", "role": "viewer"});
    assert_eq!(ask(&other).status, 409, "another request under the same key");
}

#[test]
fn completions_manual_pages_and_configuration_need_no_daemon() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let alone = |arguments: &[&str]| run(Command::new(PROGRAM).args(arguments).current_dir(dir.path()), b"");
    for shell in ["bash", "zsh", "fish"] {
        assert!(alone(&["completions", shell]).ok().stdout.contains("posthouse"), "{shell}");
    }
    assert!(alone(&["man"]).ok().stdout.contains(".TH posthouse 1"));
    alone(&["man", "--dir", "pages"]).ok();
    assert!(dir.path().join("pages/posthouse-customer-create.1").exists());

    std::fs::write(dir.path().join("p.toml"), "[listen]\nimpa = []\n[limits]\nrecipients_max = 0\n")
        .expect("file");
    let checked = alone(&["config", "check", "--config", "p.toml"]);
    assert_eq!(checked.status.code(), Some(2));
    assert!(checked.stderr.contains("p.toml:2:1: unknown key \"listen.impa\": did you mean \"imap\"?"));
    assert!(checked.stderr.contains("p.toml:4:18: limits.recipients_max: 0 is out of range"));
}

#[test]
fn requests_are_asked_for_and_approved_and_what_happens_is_told() {
    let daemon = Daemon::with_alice(Setup::default());
    let token_of = |name: &str, role: &str| {
        let made = daemon.json(&["admin", "create", name, "--customer", "acme", "--role", role]);
        let file = format!("{name}.token");
        let token = made[0]["token"].as_str().expect("a token");
        std::fs::write(daemon.dir().join(&file), format!("{token}\n")).expect("token file");
        file
    };
    let (viewer, manager) = (token_of("vera", "viewer"), token_of("max", "manager"));
    let run_as = |file: &str, arguments: &[&str]| {
        let all: Vec<&str> = ["--token-file", file].iter().chain(arguments).copied().collect();
        daemon.json(&all)
    };
    let quota =
        ["request", "create", "mailbox.quota", "address=alice@acme.test", "quota=1GiB", "--reason", "more"];
    let made = run_as(&viewer, &quota);
    let id = made[0]["id"].as_str().expect("the request's id").to_owned();
    assert_eq!(run_as(&manager, &["request", "list", "--to-approve"])[0]["id"], json!(id));
    assert!(run_as(&viewer, &["request", "list", "--to-approve"]).is_empty());
    let told = posthouse(&daemon, &["--token-file", &manager, "whoami"]).ok();
    assert!(told.stderr.contains("A request waits for your approval: mailbox.quota"), "{}", told.stderr);
    let shown = posthouse(&daemon, &["--token-file", &manager, "request", "show", &id]).ok().stdout;
    assert!(shown.contains("quota: 1073741824") && shown.contains("more"), "{shown}");
    fails(&daemon, &["--token-file", &viewer, "request", "approve", &id], 4);
    assert_eq!(run_as(&manager, &["request", "approve", &id])[0]["state"], "done");
    assert_eq!(daemon.json(&["mailbox", "show", "alice@acme.test"])[0]["bytes_max"], 1 << 30);
    let notices = run_as(&viewer, &["notice", "list", "--unread"]);
    assert_eq!(notices[0]["kind"], "request-decided");
    run_as(&viewer, &["notice", "read", notices[0]["id"].as_str().expect("an id")]);
    assert!(run_as(&viewer, &["notice", "list", "--unread"]).is_empty());
    let process = daemon.json(&["process", "set", "acme", "role:auditor", "role:admin@/"]);
    assert_eq!(process[0]["steps"].as_array().map(Vec::len), Some(2), "{process:?}");
    daemon.json(&["process", "delete", "acme", "--yes"]);
    daemon.json(&["customer", "expire", "acme", "90d", "--on-expiry", "disable-login,delete+30d"]);
    let shown = daemon.json(&["customer", "show", "acme"]);
    assert_eq!(shown[0]["expiry"]["on_expiry"], json!(["disable-login", "delete+30d"]));
    // The owner of a mailbox finds in it that somebody else has set its password.
    let password = ["mailbox", "password", "alice@acme.test", "--password-stdin"];
    daemon.posthouse_with_input(&password, "another horse battery\n").ok();
    crate::support::wait_for("the notice", || {
        (daemon.json(&["mailbox", "show", "alice@acme.test"])[0]["messages_used"] != 0).then_some(())
    });
}
