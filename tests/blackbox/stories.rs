//! Stories: pages of `docs/` that go with one kind of operator from the first command on. Each is run as it stands,
//! against a real daemon: what it shows is what happens. How a page is read stands in `stories/page.rs`.
//!
//! `POSTHOUSE_WRITE_STORIES=1` puts into the pages what their commands print now, where that is something else; what
//! varies has to be replaced by `…` then, and all of it to be read.

#[path = "stories/page.rs"]
mod page;
#[path = "stories/shell.rs"]
mod shell;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use posthouse::base::clock::{Clock, Timestamp};

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Setup};
use crate::support::dns::Dns;
use crate::support::programs::{need, run};
use page::{Event, Examples};
use shell::Shell;

/// The ports that listeners have by default, which is how the pages call them.
const PORTS: [(&str, u16); 7] = [
    ("lmtp", 2424),
    ("smtp", 2525),
    ("imap", 1143),
    ("imaps", 1993),
    ("pop3", 1110),
    ("pop3s", 1995),
    ("http", 1180),
];
/// Pause before a command that only looks is repeated.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long it is repeated once something else went wrong.
const IMPATIENCE: Duration = Duration::from_secs(2);
/// How the pages write an address.
const HOST: &str = "127.0.0.1:";

#[test]
fn government_hosts_its_departments() {
    tell("government.md");
}

#[test]
fn carrier_has_administrators_of_many_kinds() {
    tell("carrier.md");
}

#[test]
fn enterprise_has_departments_projects_approvals_and_bills() {
    tell("enterprise.md");
}

#[test]
fn managed_service_provider_has_customers_with_one_domain_each() {
    tell("managed-service.md");
}

#[test]
fn company_shares_rules_and_machines_and_keeps_mail_apart() {
    tell("company.md");
}

#[test]
fn instances_on_one_server_share_nothing() {
    if let Some(story) = Story::of("instances.md") {
        story.alone().run();
    }
}

/// Runs a page of `docs/`.
fn tell(name: &'static str) {
    if let Some(story) = Story::of(name) {
        story.run();
    }
}

/// A page, the daemon that it speaks of, and somebody at a shell.
struct Story {
    name: &'static str,
    page: PathBuf,
    events: Vec<Event>,
    folder: PathBuf,
    is_alone: bool,
    daemon: Option<Daemon>,
    dns: Dns,
    /// The ports of the page, and those that stand for them.
    ports: HashMap<u16, u16>,
    /// The library that moves a daemon's clock, where the page tells times.
    clock: Option<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Story {
    fn of(name: &'static str) -> Option<Self> {
        need("curl", "curl")?;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let events = page::events(&std::fs::read_to_string(&page).expect("the page"));
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("home");
        std::fs::create_dir(&folder).expect("home");
        let has_times = events.iter().any(|event| matches!(event, Event::Clock(_)));
        let clock = if has_times { Some(moved_clock(dir.path())?) } else { None };
        let (daemon, dns, ports) = (None, Dns::start(), HashMap::new());
        Some(Self { name, page, events, folder, is_alone: false, daemon, dns, ports, clock, _dir: dir })
    }

    /// The page starts daemons of its own.
    fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }
}

impl Story {
    /// Does what the page tells; fails with everything that went otherwise.
    fn run(mut self) {
        let mut examples = Examples::default();
        let (mut wrong, mut differing) = (Vec::new(), Vec::new());
        let events = std::mem::take(&mut self.events);
        let mut shell = self.begin(&events);
        for (index, event) in events.iter().enumerate() {
            let command = match event {
                Event::Clock(at) => {
                    self.turn(at);
                    continue;
                }
                Event::Proof(domain) => {
                    self.prove(domain);
                    continue;
                }
                Event::Command(command) => command,
            };
            let text = self.with_ports(&examples.fill(&command.text));
            let expected: Vec<String> = command.expected.iter().map(|line| self.with_ports(line)).collect();
            let is_asked_next =
                matches!(events.get(index + 1), Some(Event::Command(next)) if next.asks_for_status());
            let patience = if wrong.is_empty() { PATIENCE } else { IMPATIENCE };
            let until = Instant::now() + patience;
            let (printed, status, agrees) = loop {
                let (printed, status) = shell.run(&text);
                let ends_well = is_asked_next || (status != 0) == command.fails();
                let agrees = ends_well && examples.agree(&expected, &printed);
                // What happens in the background, such as the end of a project, may take a moment.
                if agrees || !command.looks() || Instant::now() > until {
                    break (printed, status, agrees);
                }
                std::thread::sleep(LOOK_AGAIN);
            };
            if !agrees {
                let (line, name) = (command.line, self.name);
                differing.push((command, examples.recognise(printed.trim_end())));
                wrong.push(format!(
                    "docs/{name}:{line}: $ {text}\nended with {status} and printed\n{printed}"
                ));
            }
        }
        if std::env::var_os("POSTHOUSE_WRITE_STORIES").is_some() {
            let page = std::fs::read_to_string(&self.page).expect("the page");
            std::fs::write(&self.page, page::rewritten(&page, &differing)).expect("write the page");
        }
        assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
    }

    /// Starts the daemon and a shell beside it.
    fn begin(&mut self, events: &[Event]) -> Shell {
        let mut environment = HashMap::new();
        if let Some(library) = &self.clock {
            environment.insert("LD_PRELOAD".to_owned(), library.display().to_string());
        }
        if let Some(Event::Clock(at)) = events.iter().find(|event| matches!(event, Event::Clock(_))) {
            environment.insert("CLOCK_AHEAD_SECS".to_owned(), ahead_secs(at));
        }
        if self.is_alone {
            return Shell::start(&self.folder, &[]);
        }
        let configuration =
            format!("[server]\nname = \"mail.example\"\n\n[dns]\nresolver = \"{}\"\n", self.dns.address);
        let daemon = Daemon::with(Setup { configuration, environment, ..Setup::default() });
        let shell =
            Shell::start(&self.folder, &[("POSTHOUSE_SOCKET", daemon.admin_socket().display().to_string())]);
        self.daemon = Some(daemon);
        shell
    }

    /// Starts the daemon again with another time, so that it looks at once at what is due.
    fn turn(&mut self, at: &str) {
        let Some(daemon) = &mut self.daemon else { return };
        daemon.stop();
        daemon.environment.insert("CLOCK_AHEAD_SECS".to_owned(), ahead_secs(at));
        daemon.start_again();
    }

    /// Sets the record that proves a domain.
    fn prove(&self, domain: &str) {
        let Some(daemon) = &self.daemon else { return };
        let told = daemon.json(&["domain", "dns", domain]);
        let record = &told[0]["records"][0];
        let text = |member: &str| {
            record[member].as_str().unwrap_or_else(|| panic!("{member} in {record}")).to_owned()
        };
        self.dns.set_text(&text("name"), &text("value"));
    }

    /// The text with ports on this machine that are free, or the daemon's.
    fn with_ports(&mut self, text: &str) -> String {
        let mut parts = text.split(HOST);
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let (port, rest) = part.split_at(end);
            filled.push_str(HOST);
            match port.parse() {
                Ok(port) => filled.push_str(&self.port(port).to_string()),
                Err(_) => filled.push_str(port),
            }
            filled.push_str(rest);
        }
        filled
    }

    fn port(&mut self, port: u16) -> u16 {
        let listener = PORTS.iter().find(|(_, usual)| *usual == port);
        match (&self.daemon, listener) {
            (Some(daemon), Some((name, _))) => daemon.port(name),
            _ => *self.ports.entry(port).or_insert_with(|| {
                let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
                free.local_addr().expect("its address").port()
            }),
        }
    }
}

/// Seconds by which a clock that shows `at` is ahead.
fn ahead_secs(at: &str) -> String {
    let at = Timestamp::parse_rfc3339(at).expect("a time");
    (at.secs() - Clock::system().now().secs()).to_string()
}

/// Compiles the library that moves a clock.
fn moved_clock(folder: &Path) -> Option<PathBuf> {
    let compiler = need("cc", "gcc")?;
    let library = folder.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blackbox/stories/clock.c");
    run(Command::new(compiler).args(["-shared", "-fPIC", "-O", "-o"]).arg(&library).arg(source), b"").ok();
    Some(library)
}
