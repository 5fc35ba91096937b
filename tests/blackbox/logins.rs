//! Administrators who log in with a name and a password: over HTTP, and from the command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthouse::base::clock::Clock;
use serde_json::{Value, json};

use crate::support::authenticator::Authenticator;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::http;
use crate::support::imap::Imap;
use crate::support::programs::write;
use crate::support::wait_for;

/// The name of the administrator of `acme`.
fn carla(daemon: &Daemon) -> String {
    let asked = ["admin", "create", "carla", "--customer", "acme", "--role", "admin"];
    daemon.json(&asked)[0]["name"].as_str().unwrap().to_owned()
}

fn set_password(daemon: &Daemon, name: &str, password: &str) {
    daemon.posthouse_with_input(&["admin", "password", name, "--password-stdin"], password).ok();
}

/// Files with tokens that the command line keeps.
fn tokens(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.dir().join(".local/state/posthouse"));
    entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn command_line_exchanges_a_password_for_a_token_of_its_own() {
    let daemon = Daemon::with_alice(Setup::default());
    let name = carla(&daemon);
    let file = daemon.dir().join("password");
    write(&file, "correct horse battery\n");
    let file = file.to_str().unwrap().to_owned();
    let login = |more: &[&str]| {
        daemon.posthouse(&[&["--login", &name, "--login-password-file", &file], more].concat())
    };
    // Without a password nobody gets in.
    assert_eq!(login(&["whoami"]).status.code(), Some(4));
    assert!(tokens(&daemon).is_empty());
    set_password(&daemon, &name, "correct horse battery");
    let told = login(&["whoami"]).ok().stdout;
    assert!(told.contains(&name) && told.contains("\"token\""), "{told}");
    let [token] = tokens(&daemon).try_into().unwrap();
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    // From now on the password is not needed, except for what no token may do.
    std::fs::remove_file(&file).unwrap();
    login(&["mailbox", "list"]).ok();
    assert_eq!(daemon.posthouse(&["--login", &name, "mailbox", "list"]).status.code(), Some(0));
    assert_ne!(login(&["admin", "token", "create"]).status.code(), Some(0));
    write(std::path::Path::new(&file), "correct horse battery\n");
    login(&["admin", "token", "create", "--permission", "mailbox.read"]).ok();
    // Another password ends the token; the file with the old password is no use either.
    set_password(&daemon, &name, "another horse battery");
    assert_eq!(login(&["mailbox", "list"]).status.code(), Some(4));
    assert!(tokens(&daemon).is_empty());
    write(std::path::Path::new(&file), "another horse battery\n");
    login(&["mailbox", "list"]).ok();
}

#[test]
fn basic_authentication_replaces_the_peer() {
    let daemon = Daemon::with_alice(Setup::default());
    let name = carla(&daemon);
    set_password(&daemon, &name, "correct horse battery");
    let ask = |header: &str| {
        let headers = [("Authorization", header)];
        http::over_socket(&daemon.admin_socket(), "GET", "/v1/whoami", &headers, None).unwrap()
    };
    let basic =
        |name: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    let answer = ask(&basic(&name, "correct horse battery"));
    assert_eq!((answer.status, &answer.json()["name"]), (200, &name.clone().into()));
    // The peer may say what a bare name means.
    let answer = ask(&basic("carla", "correct horse battery"));
    assert_eq!((answer.status, &answer.json()["name"]), (200, &name.clone().into()));
    // Who gives something wrong is nobody, whoever the kernel names.
    for wrong in [basic(&name, "wrong"), basic("nobody@zzzz", "x"), basic("", ""), "Basic !".to_owned()] {
        assert_eq!(ask(&wrong).status, 401, "{wrong}");
    }
}

/// The code of a second factor that was begun, as its authenticator shows it at this moment. Where the test stands
/// still for longer than it is good, the next one is.
fn present_code(begun: &Value) -> String {
    let authenticator = Authenticator::new(begun["secret"].as_str().unwrap());
    authenticator.code(Clock::system().now())
}

#[test]
fn second_factor_is_set_up_and_asked_for_on_the_command_line() {
    let daemon = Daemon::with_alice(Setup::default());
    let name = carla(&daemon);
    set_password(&daemon, &name, "correct horse battery");
    let write_in = |file: &str, text: &str| write(&daemon.dir().join(file), text);
    write_in("password", "correct horse battery\n");
    let login = |more: &[&str]| {
        let who = ["--login", &name, "--login-password-file", "password"];
        daemon.posthouse(&[&who, more].concat())
    };
    let done = |more: &[&str]| -> Value { serde_json::from_str(&login(more).ok().stdout).unwrap() };
    // Demanded: nothing is open, and it is said what to do.
    let set = ["customer", "settings", "set", "acme", "login.second_factor", "required"];
    daemon.posthouse(&set).ok();
    let refused = login(&["mailbox", "list"]);
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("admin second-factor enrol"), "{}", refused.stderr);
    let begun = done(&["admin", "second-factor", "enrol"]);
    let confirm = |begun: &Value, more: &[&str]| {
        wait_for("the confirmation", || {
            write_in("code", &present_code(begun));
            let confirm = ["admin", "second-factor", "confirm", "--code-file", "code"];
            let confirmed = login(&[&confirm, more].concat());
            (confirmed.status.code() == Some(0))
                .then(|| -> Value { serde_json::from_str(&confirmed.stdout).unwrap() })
        })
    };
    let confirmed = confirm(&begun, &["--save-codes", "recovery"]);
    assert_eq!((&confirmed["saved_in"], confirmed.get("recovery_codes")), (&json!("recovery"), None));
    let mode = std::fs::metadata(daemon.dir().join("recovery")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let recovery = std::fs::read_to_string(daemon.dir().join("recovery")).unwrap();
    let recovery: Vec<&str> = recovery.lines().collect();
    assert_eq!(recovery.len(), 10);
    // A code is asked for once, and then there is a token.
    let refused = login(&["mailbox", "list"]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--login-code-file"), "{}", refused.stderr);
    write_in("code", "0000-0000\n");
    let refused = login(&["--login-code-file", "code", "mailbox", "list"]);
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("wait for the next code"), "{}", refused.stderr);
    write_in("code", recovery[0]);
    let listed = login(&["--login-code-file", "code", "mailbox", "list"]).ok();
    assert!(listed.stdout.contains("alice@acme.test"), "{}", listed.stdout);
    login(&["mailbox", "list"]).ok();
    // What takes the password takes a code, each time another one.
    let refused = login(&["--login-code-file", "code", "admin", "token", "create"]);
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    login(&["mailbox", "list"]).ok();
    write_in("code", recovery[1]);
    let token = done(&["--login-code-file", "code", "admin", "token", "create", "--label", "backup"]);
    assert!(token["token"].as_str().unwrap().starts_with("ph_"));
    assert_eq!(daemon.json(&["admin", "show", &name])[0]["recovery_codes_left"], 8);
    write_in("code", recovery[2]);
    let made = done(&["--login-code-file", "code", "admin", "second-factor", "recovery-codes"]);
    write_in("code", made["recovery_codes"][0].as_str().unwrap());
    assert_eq!(login(&["admin", "second-factor", "remove"]).status.code(), Some(2), "nobody was asked");
    done(&["--login-code-file", "code", "admin", "second-factor", "remove", "--yes"]);
    assert_eq!(daemon.json(&["admin", "list"])[0]["second_factor"], false);
    // Lost: somebody above takes it away.
    let begun = done(&["admin", "second-factor", "enrol"]);
    let confirmed = confirm(&begun, &[]);
    assert_eq!(confirmed["recovery_codes"].as_array().map(Vec::len), Some(10));
    daemon.posthouse(&["admin", "second-factor", "reset", &name, "--yes"]).ok();
    assert_eq!(daemon.posthouse(&["admin", "second-factor", "reset", &name, "--yes"]).status.code(), Some(5));
    let whoever = daemon.posthouse(&["admin", "second-factor", "enrol"]);
    assert_eq!(whoever.status.code(), Some(5), "{}", whoever.stderr);
    assert!(!daemon.log().contains(recovery[9]), "{}", daemon.log());
}

#[test]
fn code_comes_in_a_header_beside_the_password() {
    let daemon = Daemon::with_alice(Setup::default());
    let name = carla(&daemon);
    set_password(&daemon, &name, "correct horse battery");
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    let ask = |method: &str, path: &str, more: &[(&str, &str)], body: Option<&Value>| {
        let password = basic("correct horse battery");
        let headers = [&[("Authorization", password.as_str())], more].concat();
        let answer = http::over_socket(&daemon.admin_socket(), method, path, &headers, body).unwrap();
        (answer.status, answer.json())
    };
    let (status, begun) = ask("POST", "/v1/second-factor/enrol", &[], Some(&json!({})));
    assert_eq!(status, 200, "{begun}");
    let confirmed = wait_for("the confirmation", || {
        let code = json!({ "code": present_code(&begun) });
        let (status, confirmed) = ask("POST", "/v1/second-factor/confirm", &[], Some(&code));
        (status == 200).then_some(confirmed)
    });
    let whoami = |more: &[(&str, &str)]| {
        let (status, answer) = ask("GET", "/v1/whoami", more, None);
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let required = (401, "second_factor_required".to_owned());
    let wrong = (401, "second_factor_wrong".to_owned());
    assert_eq!(whoami(&[]), required);
    let codes: Vec<&str> =
        confirmed["recovery_codes"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    for code in ["", "0000-0000", "\u{fc}", &"1".repeat(10_000)] {
        assert_eq!(whoami(&[("Second-Factor", code)]), wrong, "{code}");
    }
    assert_eq!(whoami(&[("Second-Factor", codes[0]), ("Second-Factor", codes[1])]), wrong);
    assert_eq!(whoami(&[("Second-Factor", codes[0])]), (200, String::new()));
    assert_eq!(whoami(&[("Second-Factor", codes[0])]), wrong);
    // Without the right password nothing of it is told, code or not.
    for more in [&[][..], &[("Second-Factor", codes[1])]] {
        let password = basic("wrong horse");
        let headers = [&[("Authorization", password.as_str())], more].concat();
        let answer = http::over_socket(&daemon.admin_socket(), "GET", "/v1/whoami", &headers, None).unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("unauthenticated")));
    }
    // A code beside a token, or beside the peer, is no matter.
    let answer =
        http::over_socket(&daemon.admin_socket(), "GET", "/v1/whoami", &[("Second-Factor", "x")], None);
    assert_eq!(answer.unwrap().status, 200);
    daemon.posthouse(&["admin", "second-factor", "reset", &name, "--yes"]).ok();
    daemon.posthouse(&["customer", "settings", "lock", "acme", "login.second_factor", "required"]).ok();
    assert_eq!(whoami(&[]), (403, "second_factor_needed".to_owned()));
}

/// What a daemon takes at rest, in KiB.
const AT_REST_KIB_MAX: u64 = 60_000;
/// What checking one password takes.
const ARGON2_KIB: u64 = 19_456;

#[test]
fn memory_of_checked_passwords_goes_back_and_two_instances_are_small_again() {
    let instances = [Daemon::with(Setup::default()), Daemon::with(Setup::default())];
    let before = instances.each_ref().map(|daemon| daemon.memory_kib("RssAnon"));
    for daemon in &instances {
        daemon.customer("acme", "acme.test");
        let users: Vec<String> = (0..4).map(|number| format!("user{number}@acme.test")).collect();
        users.iter().for_each(|user| daemon.mailbox(user));
        std::thread::scope(|scope| {
            for user in &users {
                scope.spawn(|| drop(Imap::login(daemon.address("imap"), user, PASSWORD)));
            }
        });
    }
    for (daemon, before) in instances.iter().zip(before) {
        wait_for("the memory of the passwords to go back", || {
            let now = daemon.memory_kib("RssAnon");
            (now < before + ARGON2_KIB * 3 / 4 && now < AT_REST_KIB_MAX).then_some(())
        });
    }
}
