//! The README's first command: `quickstart --demo` ends with a serving host, and the lines that it prints work when
//! they are pasted into a shell.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::daemon::PROGRAM;
use crate::support::programs::{need, run, wait, write};
use crate::support::{PATIENCE, wait_for};

/// A running demo and what it printed.
struct Demo {
    child: Child,
    printed: Vec<String>,
}

impl Demo {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["quickstart", "--demo", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start posthouse");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut printed = Vec::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let is_last = line.contains("Ctrl-C");
            printed.push(line);
            if is_last {
                break;
            }
        }
        assert!(!printed.is_empty(), "nothing was printed");
        Self { child, printed }
    }

    /// Runs the printed line that contains `word` in a shell.
    #[track_caller]
    fn paste(&self, word: &str) -> String {
        let line = self.printed.iter().find(|line| line.starts_with("  ") && line.contains(word));
        let line = line.unwrap_or_else(|| panic!("no line with {word} in {:#?}", self.printed));
        run(Command::new("sh").args(["-c", line]), b"").ok().stdout
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        wait(&mut self.child, PATIENCE);
    }
}

/// A configuration on free ports, which quickstart leaves as it is, so that the test can run beside another host.
fn configure(dir: &Path) {
    let listeners: Vec<TcpListener> =
        (0..7).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let names = ["lmtp", "smtp", "imap", "imaps", "pop3", "pop3s", "http"];
    let mut text = format!("[data]\ndir = \"{}\"\n\n[listen]\n", dir.display());
    for (name, listener) in names.iter().zip(&listeners) {
        text.push_str(&format!("{name} = [\"{}\"]\n", listener.local_addr().expect("address")));
    }
    text.push_str("socketmap = []\nsasl = []\n");
    text.push_str(&format!("\n[database]\nurl = \"sqlite:{}/metadata.db\"\n", dir.display()));
    text.push_str(&format!("\n[admin]\nsocket = \"{}/admin.sock\"\n", dir.display()));
    write(&dir.join("posthouse.toml"), text);
}

#[test]
fn demo_serves_what_it_prints_and_starts_again_as_it_was() {
    let Some(_) = need("curl", "curl") else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    configure(dir.path());
    let demo = Demo::start(dir.path());
    let newest = "curl --user";
    let before = demo.paste(newest);
    assert!(before.contains("Subject:"), "{before}");
    demo.paste("curl smtp://");
    let read = wait_for("the message that was sent", || {
        let read = demo.paste(newest);
        (read != before).then_some(read)
    });
    assert!(read.contains("This came in over SMTP."), "{read}");
    assert!(demo.paste("customer list --tree").contains("health"));
    assert!(demo.paste("report quota").contains("anna@health.example"));
    let customers: serde_json::Value = serde_json::from_str(&demo.paste("/v1/customers")).expect("JSON");
    assert!(customers.to_string().contains("gov/health"), "{customers}");
    let printed = demo.printed.clone();
    drop(demo);
    let again = Demo::start(dir.path());
    assert_eq!(again.printed, printed);
    assert!(again.paste(newest).contains("This came in over SMTP."));
}

#[test]
fn quickstart_writes_its_configuration_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temporary directory");
    configure(dir.path());
    let demo = Demo::start(dir.path());
    for name in ["admin.token", "demo.password"] {
        let mode = std::fs::metadata(dir.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is readable by others: {mode:o}");
    }
    drop(demo);
}
