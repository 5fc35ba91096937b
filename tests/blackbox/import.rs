//! Files of customers, domains, mailboxes, aliases and administrators, in and out over the command line: good ones,
//! every kind of bad one, and files that say how things are to be.

use std::process::Command;

use serde_json::{Value, json};

use super::support::Random;
use super::support::daemon::{Daemon, PROGRAM, Setup};
use super::support::imap::Imap;
use super::support::programs::{Finished, run};

/// A hash of `secret` (SSHA), so that tests do not wait for argon2.
const HASH: &str = "{SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0";

fn with_input(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(daemon.dir()).env("NO_COLOR", "1");
    command.env("POSTHOUSE_SOCKET", daemon.admin_socket()).env_remove("POSTHOUSE_TOKEN_FILE");
    run(&mut command, input)
}

fn posthouse(daemon: &Daemon, arguments: &[&str]) -> Finished {
    with_input(daemon, arguments, b"")
}

/// Writes a file into the daemon's directory and imports it.
fn import(daemon: &Daemon, name: &str, content: impl AsRef<[u8]>, more: &[&str]) -> (i32, Value) {
    std::fs::write(daemon.dir().join(name), content).expect("a file");
    let arguments: Vec<&str> = ["--json", "import", name].iter().chain(more).copied().collect();
    let finished = posthouse(daemon, &arguments);
    let code = finished.status.code().expect("a code");
    let answer = serde_json::from_str(&finished.stdout);
    (code, answer.unwrap_or_else(|error| panic!("{error}: {} {}", finished.stdout, finished.stderr)))
}

fn counts(answer: &Value) -> [i64; 4] {
    ["created", "changed", "unchanged", "failed"].map(|name| answer[name].as_i64().expect(name))
}

/// What is wrong, by line, in words.
fn errors(answer: &Value) -> Vec<(u64, String)> {
    let one = |error: &Value| {
        let text = |name: &str| error[name].as_str().unwrap_or_default();
        (error["line"].as_u64().unwrap_or(0), format!("{} {}", text("field"), text("message")))
    };
    answer["errors"].as_array().expect("errors").iter().map(one).collect()
}

fn export(daemon: &Daemon, more: &[&str]) -> String {
    let arguments: Vec<&str> = ["export"].iter().chain(more).copied().collect();
    posthouse(daemon, &arguments).ok().stdout
}

/// A file of rows, each with its own fields.
fn csv(rows: &[&[(&str, &str)]]) -> String {
    let mut columns: Vec<&str> = rows.iter().flat_map(|row| row.iter().map(|(name, _)| *name)).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut text = format!("\u{feff}{}\r\n", columns.join(","));
    for row in rows {
        let field = |column: &&str| {
            let value = row.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value);
            format!("\"{}\"", value.replace('"', "\"\""))
        };
        text.push_str(&format!("{}\r\n", columns.iter().map(field).collect::<Vec<_>>().join(",")));
    }
    text
}

/// A provider, in an order in which almost everything comes before what it needs.
fn provider() -> String {
    csv(&[
        &[
            ("type", "administrator"),
            ("name", "carla"),
            ("customer", "gov"),
            ("contact", "carla@other.test"),
            ("roles", "admin delegable; helpdesk at gov/health until 2037-01-01T00:00:00Z"),
        ],
        &[
            ("type", "administrator"),
            ("name", "dora"),
            ("customer", "gov"),
            ("roles", "manager at gov/health"),
            ("enabled", "no"),
        ],
        &[("type", "alias"), ("address", "everybody@gov.test"), ("targets", "all@gov.test")],
        &[("type", "alias"), ("address", "all@gov.test"), ("targets", "info@gov.test jörg@bücher.test")],
        &[
            ("type", "mailbox"),
            ("address", "info@gov.test"),
            ("name", "Information, \"the\" desk"),
            ("quota", "2GiB"),
            ("password_hash", HASH),
        ],
        &[
            ("type", "mailbox"),
            ("address", "jörg@bücher.test"),
            ("name", "'=cmd()|' /C calc'!A0"),
            ("quota", "none"),
        ],
        &[("type", "domain"), ("domain", "www.gov.test"), ("customer", "gov"), ("alias_of", "gov.test")],
        &[
            ("type", "domain"),
            ("domain", "gov.test"),
            ("customer", "gov"),
            ("catch_all", "everybody@gov.test"),
            ("mailbox_default", "1GiB"),
        ],
        &[("type", "domain"), ("domain", "bücher.test"), ("customer", "gov")],
        &[("type", "domain"), ("domain", "health.test"), ("customer", "gov/health"), ("state", "pending")],
        &[
            ("type", "customer"),
            ("path", "gov/health"),
            ("name", "保健"),
            ("kind", "department"),
            ("contact", "it@health.test"),
            ("mailboxes", "10"),
        ],
        &[("type", "customer"), ("path", "gov"), ("name", "Government"), ("kind", "state")],
    ])
}

#[test]
fn a_provider_comes_in_from_a_file_in_any_order_and_out_again() {
    for database in super::support::daemon::Database::all() {
        let daemon = Daemon::with(Setup { database, ..Setup::default() });
        let file = provider();
        let (code, answer) = import(&daemon, "provider.csv", &file, &["--dry-run"]);
        assert_eq!((code, counts(&answer)), (0, [12, 0, 0, 0]), "{answer}");
        assert_eq!(daemon.json(&["customer", "list"]).len(), 1, "a dry run changes nothing");
        let (code, answer) = import(&daemon, "provider.csv", &file, &[]);
        assert_eq!((code, counts(&answer)), (0, [12, 0, 0, 0]), "{answer}");
        let (code, answer) = import(&daemon, "provider.csv", &file, &[]);
        assert_eq!((code, counts(&answer)), (0, [0, 0, 12, 0]), "{answer}");

        let mailboxes = daemon.json(&["mailbox", "list"]);
        assert_eq!(mailboxes[1]["address"], "jörg@xn--bcher-kva.test");
        assert_eq!(mailboxes[1]["name"], "=cmd()|' /C calc'!A0");
        let csv = export(&daemon, &[]);
        assert!(csv.contains("'=cmd()|' /C calc'!A0") && !csv.contains(",=cmd"), "{csv}");
        assert!(!csv.contains("SSHA"), "{csv}");

        let other = Daemon::start();
        for (name, exported) in
            [("again.csv", csv.clone()), ("again.jsonl", export(&daemon, &["--format", "jsonl"]))]
        {
            let (code, answer) = import(&other, name, exported, &[]);
            assert_eq!((code, &answer["failed"]), (0, &json!(0)), "{answer}");
            assert_eq!(export(&other, &[]), csv);
        }
        let jsonl = export(&daemon, &["--type", "customers,mailboxes", "--format", "jsonl"]);
        assert_eq!(jsonl.lines().count(), 5, "{jsonl}");
        let (code, _) = import(
            &other,
            "below.jsonl",
            export(&daemon, &["--format", "jsonl", "--customer", "gov"]),
            &["--customer", "gov"],
        );
        assert_eq!(code, 8, "its domains have a customer already");
    }
}

#[test]
fn lines_that_cannot_be_understood_are_all_named_and_nothing_is_changed() {
    let daemon = Daemon::start();
    let header = "type,path,address,quota,mailboxes,name\n";
    let file = [
        header.as_bytes(),
        b"customer,acme,,,,Acme\n",
        b"mailbox,,a@acme.test,lots,,\n",
        b"mailbox,,,1GiB,,\n",
        b"customer,over,,,9223372036854775808,\n",
        b"mailbox,,b@acme.test,99999999TiB,,\n",
        b"wizard,,,,,\n",
        b"mailbox,x,c@acme.test,,,\n",
        b"mailbox,,d@acme.test\n",
        b"mailbox,,e\0@acme.test,,,\n",
        b"mailbox,,f@acme.test,,,\xff\xfe\n",
        b"customer,ACME,,,,\n",
        b",,g@acme.test,,,\n",
        b"mailbox,,h@acme.test,,,\"two\nlines\"\n",
    ]
    .concat();
    let (code, answer) = import(&daemon, "bad.csv", &file, &[]);
    assert_eq!(code, 2, "{answer}");
    let expected = [
        (3, "quota"),
        (4, "address missing"),
        (5, "mailboxes expected a number"),
        (6, "quota"),
        (7, "type expected customer, domain"),
        (8, "path a mailbox has none"),
        (9, "3 fields, but the header has 6"),
        (10, "address has a control character, U+0000"),
        (11, "name not UTF-8"),
        (12, "was on line 2 already"),
        (13, "type missing"),
        (14, "name has a control character, U+000A"),
    ];
    let found = errors(&answer);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, text), (expected_line, word)) in found.iter().zip(expected) {
        assert!(*line == expected_line && text.contains(word), "{line}: {text}, not {expected_line}: {word}");
    }
    for (header, word) in [
        ("type,adress\n", "did you mean address?"),
        ("type,colour\n", "known are"),
        ("address\na@b.test\n", "--type"),
        ("type,name,name\n", "twice"),
        ("type;path;name\n", "commas"),
        ("", "empty"),
        ("type,path\ncustomer,\"open\n", "never ends"),
    ] {
        let (code, answer) = import(&daemon, "header.csv", header, &[]);
        assert!(code == 2 && errors(&answer)[0].1.contains(word), "{header}: {answer}");
    }
    let jsonl = [
        r#"{"type":"customer","path":"acme"}"#,
        "",
        "nonsense",
        "[1]",
        r#"{"type":"customer","path":"b","bytes":1e999}"#,
        r#"{"type":"customer","path":"c","bytes":-5}"#,
        r#"{"type":"customer","path":"d","colour":1}"#,
    ]
    .join("\n");
    let (code, answer) = import(&daemon, "bad.jsonl", jsonl, &[]);
    let lines: Vec<u64> = errors(&answer).iter().map(|(line, _)| *line).collect();
    assert_eq!((code, lines), (2, vec![3, 4, 5, 6, 7]), "{answer}");
    assert_eq!(daemon.json(&["customer", "list"]).len(), 1, "nothing was changed");
}

#[test]
fn no_export_has_a_field_that_a_spreadsheet_would_calculate() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    for local in ["=cmd", "x"] {
        daemon.mailbox(&format!("{local}@acme.test"));
    }
    let rename =
        ["customer", "rename", "acme", "--name", "=HYPERLINK(\"http://evil.test\")", "--kind", "@SUM(A1)"];
    daemon.posthouse(&rename).ok();
    let mut texts = vec![export(&daemon, &[])];
    for report in ["quota", "usage", "bill", "storage"] {
        // Without --json, which would win over the format.
        let asked = ["report", report, "--customer", "acme", "--format", "csv"];
        texts.push(posthouse(&daemon, &asked).ok().stdout);
    }
    assert!(texts[0].contains("'=cmd@acme.test") && texts[1].contains("'=cmd@acme.test"), "{texts:?}");
    for text in texts {
        assert!(text.contains(','), "{text}");
        for field in text.lines().flat_map(|line| line.split(',')) {
            let field = field.trim_start_matches('"');
            let is_number = field.trim_end_matches('"').parse::<f64>().is_ok();
            assert!(is_number || !field.starts_with(['=', '+', '-', '@', '\t', '\r']), "{field} in\n{text}");
        }
    }
}

#[test]
fn a_line_of_10_mib_is_an_error_that_names_it() {
    let daemon = Daemon::start();
    let long = "x".repeat(10 << 20);
    for (name, file) in [
        ("long.csv", format!("type,path,name\ncustomer,acme,Acme\ncustomer,b,{long}\n")),
        (
            "long.jsonl",
            format!(
                "{}\n{}\n",
                json!({ "type": "customer", "path": "acme" }),
                json!({ "type": "customer", "path": "b", "name": long })
            ),
        ),
    ] {
        let (code, answer) = import(&daemon, name, file, &[]);
        let found = errors(&answer);
        assert_eq!((code, found.len()), (2, 1), "{answer}");
        assert!(found[0].1.contains("longer than 524288 octets"), "{found:?}");
        assert!(matches!(found[0].0, 2 | 3), "{found:?}");
    }
    assert_eq!(daemon.json(&["customer", "list"]).len(), 1, "nothing was changed");
}

#[test]
fn rows_that_are_refused_leave_the_others_and_the_import_can_be_run_again() {
    let daemon = Daemon::with_alice(Setup::default());
    posthouse(&daemon, &["customer", "limit", "acme", "--mailboxes", "120"]).ok();
    let mut rows = String::from("address,password_hash\n");
    for number in 0..150 {
        rows.push_str(&format!("user{number}@acme.test,{HASH}\n"));
    }
    rows.push_str("pay\u{200d}pal@acme.test,\nevil\u{202e}@acme.test,\nnobody@elsewhere.test,\n");
    let (code, answer) = import(&daemon, "many.csv", &rows, &["--type", "mailboxes"]);
    assert_eq!((code, counts(&answer)), (8, [119, 0, 0, 34]), "{answer}");
    let found = errors(&answer);
    assert!(found[0].0 == 121 && found[0].1.contains("limit of customer acme"), "{:?}", found[0]);
    assert!(found[31].1.contains("U+200D") && found[32].1.contains("U+202E"), "{:?}", &found[31..]);
    assert!(found[33].1.contains("does not exist"), "{:?}", found[33]);
    posthouse(&daemon, &["customer", "limit", "acme", "--mailboxes", "none"]).ok();
    let good = rows.split("pay\u{200d}").next().expect("rows");
    let (code, answer) = import(&daemon, "many.csv", good, &["--type", "mailboxes"]);
    assert_eq!((code, counts(&answer)), (0, [31, 0, 119, 0]), "{answer}");
    let people = posthouse(&daemon, &["import", "many.csv", "--type", "mailboxes", "--dry-run"]).ok();
    assert!(
        people.stderr.contains("dry run, nothing was changed: 0 created, 0 changed, 150 unchanged, 0 failed")
    );
    // From a pipe there is one look: what cannot be understood is left out.
    let input = "type,address,quota\nmailbox,piped@acme.test,1GiB\nmailbox,bad@acme.test,lots\n";
    let piped = with_input(&daemon, &["--json", "import", "-"], input.as_bytes());
    assert_eq!(piped.status.code(), Some(8), "{}", piped.stderr);
    posthouse(&daemon, &["mailbox", "show", "piped@acme.test"]).ok();
}

#[test]
fn imported_passwords_log_in_and_mailboxes_without_one_do_not() {
    let daemon = Daemon::with_alice(Setup::default());
    let bcrypt = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";
    let rows = [
        json!({ "type": "mailbox", "address": "plain@acme.test", "password": "correct horse" }),
        json!({ "type": "mailbox", "address": "bcrypt@acme.test", "password_hash": bcrypt }),
        json!({ "type": "mailbox", "address": "none@acme.test" }),
        json!({ "type": "mailbox", "address": "short@acme.test", "password": "short" }),
        json!({ "type": "mailbox", "address": "wrong@acme.test", "password_hash": "{CRAM-MD5}0123" }),
    ];
    let file: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let (code, answer) = import(&daemon, "passwords.jsonl", &file, &[]);
    assert_eq!((code, counts(&answer)), (8, [3, 0, 0, 2]), "{answer}");
    let login = |address: &str| {
        let mut session = Imap::open(daemon.address("imap")).expect("IMAP");
        session.command(&format!("LOGIN {address} \"correct horse\"")).expect("an answer").status == "OK"
    };
    assert!(login("plain@acme.test") && login("bcrypt@acme.test"));
    assert!(!login("none@acme.test"));
    let file =
        json!({ "type": "mailbox", "address": "none@acme.test", "password": "correct horse" }).to_string();
    let (code, answer) = import(&daemon, "later.jsonl", &file, &[]);
    assert_eq!((code, counts(&answer)), (0, [0, 0, 1, 0]), "passwords are for new mailboxes: {answer}");
    let (code, answer) = import(&daemon, "later.jsonl", &file, &["--passwords", "set"]);
    assert_eq!((code, counts(&answer)), (0, [0, 1, 0, 0]), "{answer}");
    assert!(login("none@acme.test"));
}

/// How a part of the hierarchy is to be.
const DESIRED: &str = r#"
customer = "gov"

[customers."gov"]
name = "Government"
[customers."gov/health"]
kind = "department"
mailboxes = 10

[domains."gov.test"]
customer = "gov"
catch_all = "info@gov.test"
[domains."health.test"]
customer = "gov/health"
mailbox_default = "1GiB"

[mailboxes."info@gov.test"]
quota = "2GiB"
[mailboxes."old@gov.test"]
[mailboxes."it@health.test"]
name = "IT"

[aliases."all@gov.test"]
targets = ["info@gov.test"]

[administrators."gov/carla"]
roles = ["admin delegable", "helpdesk at gov/health"]
"#;

#[test]
fn what_a_file_says_is_planned_and_applied() {
    let daemon = Daemon::start();
    let write = |text: &str| std::fs::write(daemon.dir().join("gov.toml"), text).expect("a file");
    let plan = |more: &[&str]| {
        let arguments: Vec<&str> = ["--json", "plan", "gov.toml"].iter().chain(more).copied().collect();
        let finished = posthouse(&daemon, &arguments);
        let answer: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        (finished.status.code().expect("a code"), answer)
    };
    let apply = |more: &[&str]| posthouse(&daemon, &[&["apply", "gov.toml"][..], more].concat());
    write(DESIRED);
    let (code, planned) = plan(&["--exit-code"]);
    assert_eq!((code, &planned["create"], &planned["failed"]), (9, &json!(9), &json!(0)), "{planned}");
    assert_eq!(apply(&[]).status.code(), Some(2), "without a terminal it wants --yes");
    assert_eq!(daemon.json(&["customer", "list"]).len(), 1);
    let shown = apply(&["--yes"]).ok().stdout;
    assert!(shown.contains("+ mailbox info@gov.test\n    quota: 2 GiB\n"), "{shown}");
    let (code, planned) = plan(&["--exit-code"]);
    assert_eq!((code, &planned["unchanged"]), (0, &json!(9)), "{planned}");
    assert!(apply(&[]).ok().stderr.contains("0 to create, 0 to change, 0 to delete, 9 as they are to be"));

    // Somebody changes something by hand, the file something else, and what it no longer names is to go.
    posthouse(&daemon, &["mailbox", "quota", "info@gov.test", "3GiB"]).ok();
    posthouse(&daemon, &["customer", "create", "gov/extra"]).ok();
    posthouse(&daemon, &["customer", "create", "outside"]).ok();
    posthouse(&daemon, &["admin", "grant", "carla", "--role", "auditor", "--customer", "gov"]).ok();
    let changed =
        DESIRED.replace("name = \"IT\"", "name = \"Helpdesk\"").replace("[mailboxes.\"old@gov.test\"]\n", "");
    write(&changed);
    let (code, planned) = plan(&[]);
    assert_eq!((code, &planned["change"], &planned["delete"]), (0, &json!(2), &json!(0)), "{planned}");
    let (_, planned) = plan(&["--prune"]);
    let expected =
        ["role auditor at gov of administrator carla of gov", "mailbox old@gov.test", "customer gov/extra"];
    assert_eq!(planned["deletions"], json!(expected), "{planned}");
    let shown = posthouse(&daemon, &["plan", "gov.toml"]).ok().stdout;
    assert!(shown.contains("~ mailbox info@gov.test\n    quota: 3 GiB -> 2 GiB\n"), "{shown}");
    apply(&["--yes", "--prune"]).ok();
    let (code, planned) = plan(&["--exit-code", "--prune"]);
    assert_eq!(code, 0, "{planned}");
    posthouse(&daemon, &["mailbox", "undelete", "old@gov.test"]).ok();
    posthouse(&daemon, &["customer", "show", "outside"]).ok();
}

#[test]
fn files_that_cannot_be_so_change_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    let write = |text: &str| std::fs::write(daemon.dir().join("x.toml"), text).expect("a file");
    for (text, word) in [
        (
            "[mailboxes.\"a@acme.test\"]\npassword = \"hunter22\"\n",
            "x.toml:2: password: such a file holds no secrets",
        ),
        ("[mailboxes.\"a@acme.test\"]\nqouta = 1\n", "did you mean quota?"),
        ("customers = 5\n", "expected tables"),
        ("[customers.\"a", "x.toml:1"),
    ] {
        write(text);
        let finished = posthouse(&daemon, &["apply", "x.toml", "--yes"]);
        assert!(finished.status.code() == Some(2) && finished.stderr.contains(word), "{}", finished.stderr);
        assert!(!finished.stderr.contains("hunter22"));
    }
    write(
        "customer = \"acme\"\n[mailboxes.\"new@acme.test\"]\n[mailboxes.\"a@elsewhere.test\"]\n\
         [customers.\"other\"]\n",
    );
    let finished = posthouse(&daemon, &["apply", "x.toml", "--yes"]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("x.toml:3: mailbox a@elsewhere.test"), "{}", finished.stderr);
    assert!(finished.stderr.contains("x.toml:4: customer other: is not below acme"), "{}", finished.stderr);
    assert_eq!(daemon.json(&["mailbox", "list"]).len(), 1);
}

#[test]
fn what_exists_is_written_as_a_file_from_which_nothing_differs() {
    let daemon = Daemon::start();
    let (code, answer) = import(&daemon, "provider.csv", provider(), &[]);
    assert_eq!(code, 0, "{answer}");
    let file = export(&daemon, &["--format", "plan"]);
    std::fs::write(daemon.dir().join("all.toml"), &file).expect("a file");
    let finished = posthouse(&daemon, &["plan", "all.toml", "--exit-code", "--prune"]);
    assert_eq!(finished.status.code(), Some(0), "{}\n{}\n{file}", finished.stdout, finished.stderr);
    let other = Daemon::start();
    std::fs::write(other.dir().join("all.toml"), &file).expect("a file");
    posthouse(&other, &["apply", "all.toml", "--yes"]).ok();
    assert_eq!(export(&other, &["--format", "plan"]), file);
}

/// Texts as people write them, and as people who mean harm do.
const NAMES: [&str; 12] = [
    "Anna",
    "=1+1",
    "+49 30 1",
    "-5",
    "@import",
    "'quoted'",
    "''=x",
    "a, \"b\"",
    "none",
    "保健 省",
    "می\u{200c}خواهم",
    "ACME; Ltd",
];

/// The rows of a random part of the hierarchy, in random order.
fn random_rows(random: &mut Random, top: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut customers = vec![top.to_owned()];
    for number in 0..random.below(6) {
        let above = customers[random.below(customers.len())].clone();
        customers.push(format!("{above}/c{number}"));
    }
    let limit = |random: &mut Random| match random.below(3) {
        0 => Value::Null,
        1 => json!(i64::MAX),
        _ => json!(50 + random.below(1 << 40)),
    };
    for (number, path) in customers.iter().enumerate() {
        let name = NAMES[random.below(NAMES.len())];
        rows.push(
            json!({ "type": "customer", "path": path, "name": name, "kind": "k", "bytes": limit(random),
                          "mailboxes": limit(random), "customers": limit(random) }),
        );
        let domain = format!("d{number}.{}.test", top.replace('/', "-"));
        let local: Vec<String> = (0..random.below(4)).map(|one| format!("bücher{one}@{domain}")).collect();
        let mut row =
            json!({ "type": "domain", "domain": domain, "customer": path, "mailbox_default": limit(random) });
        if let Some(address) = local.last().filter(|_| random.below(2) == 0) {
            row["catch_all"] = json!(address);
        }
        rows.push(row);
        if random.below(2) == 0 {
            let name = format!("a.{domain}");
            rows.push(json!({ "type": "domain", "domain": name, "customer": path, "alias_of": domain }));
        }
        for address in &local {
            let name = NAMES[random.below(NAMES.len())];
            rows.push(json!({ "type": "mailbox", "address": address, "name": name, "quota": limit(random) }));
        }
        if let Some(first) = local.first() {
            rows.push(json!({ "type": "alias", "address": format!("all@{domain}"), "targets": local }));
            let targets = [format!("all@{domain}"), first.clone()];
            rows.push(json!({ "type": "alias", "address": format!("more@{domain}"), "targets": targets }));
        }
        let place = customers[random.below(customers.len())].clone();
        let role = json!({ "role": "manager", "customer": place, "delegable": random.below(2) == 0 });
        let (name, enabled) = (format!("n{number}"), random.below(2) == 0);
        rows.push(json!({ "type": "administrator", "name": name, "customer": path, "enabled": enabled,
                          "roles": [role] }));
    }
    for index in (1..rows.len()).rev() {
        rows.swap(index, random.below(index + 1));
    }
    rows
}

#[test]
fn random_hierarchies_come_out_as_they_went_in() {
    let (daemon, other) = (Daemon::start(), Daemon::start());
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let top = format!("t{seed}");
        let file: String = random_rows(&mut random, &top).iter().map(|row| format!("{row}\n")).collect();
        let (code, answer) = import(&daemon, "random.jsonl", &file, &["--dry-run"]);
        assert_eq!((code, &answer["failed"]), (0, &json!(0)), "{seed}: {answer}\n{file}");
        let (code, answer) = import(&daemon, "random.jsonl", &file, &[]);
        assert_eq!((code, &answer["changed"]), (0, &json!(0)), "{seed}: {answer}\n{file}");
        let (_, answer) = import(&daemon, "random.jsonl", &file, &[]);
        assert_eq!(counts(&answer)[2], file.lines().count() as i64, "{seed}: {answer}\n{file}");
        let csv = export(&daemon, &["--customer", &top]);
        let jsonl = export(&daemon, &["--customer", &top, "--format", "jsonl"]);
        let (code, answer) = import(&other, "random.csv", &csv, &[]);
        assert_eq!(code, 0, "{seed}: {answer}\n{csv}");
        assert_eq!(export(&other, &["--customer", &top, "--format", "jsonl"]), jsonl, "{seed}");
        assert_eq!(export(&other, &["--customer", &top]), csv, "{seed}");
    }
}
