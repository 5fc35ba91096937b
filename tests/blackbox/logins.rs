//! Administrators who log in with a name and a password: over HTTP, and from the command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::daemon::{Daemon, Setup};
use crate::support::http;
use crate::support::programs::write;

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
