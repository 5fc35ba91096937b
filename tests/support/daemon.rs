//! A real daemon on a temporary directory: every listener on port 0, all state in one place, killed or stopped and
//! started again on the same files.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::http::{self, Response};
use super::imap::Imap;
use super::pop3::Pop3;
use super::postgres::Postgres;
use super::programs::{Finished, run, wait, write};
use super::smtp::{Dialect, Smtp};
use super::{PATIENCE, wait_for};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_posthouse");

/// The password of every mailbox that [`Daemon::mailbox`] makes.
pub const PASSWORD: &str = "correct horse battery";

/// Lines of standard error that are kept for the message of a failing test.
const LOG_LINES_MAX: usize = 40;

/// Which database the daemon runs on.
pub enum Database {
    /// A file below the data directory.
    Sqlite,
    /// A server of its own.
    Postgres(Postgres),
}

impl Database {
    /// SQLite, and PostgreSQL where it is installed.
    #[track_caller]
    pub fn all() -> Vec<Self> {
        std::iter::once(Self::Sqlite).chain(Postgres::start().map(Self::Postgres)).collect()
    }

    fn url(&self, dir: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite:{}", dir.join("data/metadata.db").display()),
            Self::Postgres(server) => server.url(),
        }
    }
}

/// Puts something into a data directory and a database.
pub type Prepare = Box<dyn FnOnce(&Path, &str)>;

/// What a daemon is started with.
pub struct Setup {
    /// The database.
    pub database: Database,
    /// Lines put at the end of the configuration file.
    pub configuration: String,
    /// Lines put into its section `[listen]`.
    pub listen: String,
    /// Variables of its environment.
    pub environment: HashMap<String, String>,
    /// Where the data directory is made; nothing for the system's temporary directory.
    pub parent: Option<PathBuf>,
    /// What happens before the first start, with the data directory and the database's URL.
    pub prepare: Option<Prepare>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            database: Database::Sqlite,
            configuration: String::new(),
            listen: String::new(),
            environment: HashMap::new(),
            parent: None,
            prepare: None,
        }
    }
}

/// A process that is nobody's child here.
struct Process {
    pid: Pid,
    /// Stands for this very process, whoever gets its number later.
    descriptor: OwnedFd,
}

impl Process {
    /// Nothing if it has ended.
    fn open(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.cast_signed())?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { pid, descriptor })
    }

    /// Whether it was started with this configuration.
    fn serves(&self, configuration: &Path) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero())).unwrap_or_default();
        let path = configuration.as_os_str().as_encoded_bytes();
        line.split(|octet| *octet == 0).any(|argument| argument == path)
    }

    /// Waits for its end; whether it came.
    fn ends(&self, patience: Duration) -> bool {
        let limit = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    /// Ends it at once.
    fn kill(&self) {
        pidfd_send_signal(&self.descriptor, Signal::KILL).ok();
        self.ends(PATIENCE);
    }
}

/// A daemon and its directory.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// The process that has taken over from `child`.
    successor: Option<Process>,
    log: Arc<Mutex<VecDeque<String>>>,
    listeners: HashMap<String, Vec<String>>,
    certificate_pem: String,
    /// Variables of its environment, from the next start on.
    pub environment: HashMap<String, String>,
    // Dropped last: the daemon talks to it until it ends.
    database: Database,
}

impl Daemon {
    /// A daemon on SQLite, serving, without customers.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// A serving daemon without customers.
    #[track_caller]
    pub fn with(setup: Setup) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("posthouse-");
        let dir = match &setup.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }
        .expect("temporary directory");
        let names = ["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("self-signed certificate");
        let certificate_pem = certified.cert.pem();
        write(&dir.path().join("certificate.pem"), &certificate_pem);
        write(&dir.path().join("key.pem"), certified.signing_key.serialize_pem());
        let url = setup.database.url(dir.path());
        let file = configuration(dir.path(), &url, &setup);
        if let Some(prepare) = setup.prepare {
            prepare(&dir.path().join("data"), &url);
        }
        write(&dir.path().join("posthouse.toml"), file);
        let mut daemon = Self {
            dir,
            child: None,
            successor: None,
            log: Arc::default(),
            listeners: HashMap::new(),
            certificate_pem,
            environment: setup.environment,
            database: setup.database,
        };
        daemon.start_again();
        daemon
    }

    /// A serving daemon with the customer `acme`, its domain `acme.test`, and a mailbox `alice@acme.test`.
    #[track_caller]
    pub fn with_alice(setup: Setup) -> Self {
        let daemon = Self::with(setup);
        daemon.customer("acme", "acme.test");
        daemon.mailbox("alice@acme.test");
        daemon
    }

    /// Where everything of this daemon lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The URL of the database.
    pub fn database_url(&self) -> String {
        self.database.url(self.dir.path())
    }

    /// The files in the packs folder of the only mail store.
    pub fn pack_files(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries(&self.data_dir().join("stores/main/packs")).map(|entry| entry.path());
        folders.flat_map(|folder| entries(&folder).map(|entry| entry.path()).collect::<Vec<_>>()).collect()
    }

    /// The configuration file.
    pub fn configuration_file(&self) -> PathBuf {
        self.dir.path().join("posthouse.toml")
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// The certificate that the daemon shows, for `localhost`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The process id while it runs; of a successor once [`Daemon::adopt`] knows it.
    pub fn pid(&self) -> Option<u32> {
        let adopted =
            self.successor.as_ref().map(|successor| successor.pid.as_raw_nonzero().get().cast_unsigned());
        adopted.or_else(|| self.child.as_ref().map(Child::id))
    }

    /// Memory of the daemon in KiB, as the kernel counts it: a field of `/proc/PID/status` such as `VmRSS`.
    #[track_caller]
    pub fn memory_kib(&self, field: &str) -> u64 {
        let pid = self.pid().expect("the daemon runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
        let line = status.lines().find(|line| line.starts_with(field)).expect("field of status");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Waits until a process other than `pid` has the data directory and serves; from now on that one is the daemon.
    /// The process that this test started must have ended with 0.
    #[track_caller]
    pub fn adopt(&mut self, pid: u32) {
        let file = self.data_dir().join("daemon.pid");
        let successor = wait_for("a successor", || {
            let text = std::fs::read_to_string(&file).ok()?;
            text.trim().parse::<u32>().ok().filter(|&other| other != pid)
        });
        let successor = Process::open(successor).expect("a running successor");
        if let Some(mut child) = self.child.take() {
            let status = wait(&mut child, PATIENCE);
            assert!(status.is_some_and(|status| status.success()), "hand-over: {status:?}\n{}", self.log());
        }
        let before = self.successor.replace(successor);
        assert!(before.is_none_or(|before| before.ends(PATIENCE)), "the predecessor goes on\n{}", self.log());
    }

    /// Starts the daemon on its directory and waits until it serves.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none() && self.successor.is_none(), "the daemon runs already");
        let listeners_file = self.data_dir().join("listeners.json");
        std::fs::remove_file(&listeners_file).ok();
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--config"])
            .arg(self.configuration_file())
            .current_dir(self.dir.path())
            .env("NO_COLOR", "1")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start posthouse");
        let stderr = child.stderr.take().expect("stderr is piped");
        self.child = Some(child);
        let (ready, is_ready) = mpsc::channel();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.trim() == "ready" {
                    ready.send(()).ok();
                }
                let mut log = log.lock().expect("log");
                if log.len() == LOG_LINES_MAX {
                    log.pop_front();
                }
                log.push_back(line);
            }
        });
        if is_ready.recv_timeout(PATIENCE).is_err() {
            panic!("the daemon did not become ready\n{}", self.log());
        }
        let text = std::fs::read(&listeners_file).expect("listeners.json after the ready line");
        self.listeners = serde_json::from_slice(&text).expect("listeners.json");
    }

    /// Ends the process at once, as a power failure would (the kernel's caches survive).
    pub fn kill(&mut self) {
        let text = std::fs::read_to_string(self.data_dir().join("daemon.pid")).unwrap_or_default();
        // A successor that no test has adopted; it holds the descriptor of this directory's files.
        if let Some(pid) = text.trim().parse::<u32>().ok().filter(|&pid| Some(pid) != self.pid())
            && let Some(process) =
                Process::open(pid).filter(|process| process.serves(&self.configuration_file()))
        {
            process.kill();
        }
        if let Some(successor) = self.successor.take() {
            successor.kill();
        }
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().expect("wait for the killed daemon");
        }
    }

    /// Asks the daemon to drain and end; fails when it does not end in time or not with 0.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(successor) = self.successor.take() {
            kill_process(successor.pid, Signal::TERM).expect("SIGTERM");
            assert!(successor.ends(PATIENCE), "stop\n{}", self.log());
        }
        let Some(mut child) = self.child.take() else { return };
        kill_process(Pid::from_child(&child), Signal::TERM).expect("SIGTERM");
        let status = wait(&mut child, PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "stop: {status:?}\n{}", self.log());
    }

    /// Waits for the end of a daemon that was asked to stop in another way; fails when it does not end with 0.
    #[track_caller]
    pub fn ended(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let status = wait(&mut child, PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "end: {status:?}\n{}", self.log());
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        let is_child =
            self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()));
        is_child || self.successor.as_ref().is_some_and(|successor| !successor.ends(Duration::ZERO))
    }

    /// The last lines that the daemon wrote to standard error.
    pub fn log(&self) -> String {
        let log = self.log.lock().expect("log");
        log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The first bound address of a listener: `127.0.0.1:PORT` or `unix:/path`.
    #[track_caller]
    pub fn address(&self, listener: &str) -> &str {
        let bound = self.listeners.get(listener).and_then(|addresses| addresses.first());
        bound.unwrap_or_else(|| panic!("no {listener} in {:?}", self.listeners))
    }

    /// The bound port of a TCP listener.
    #[track_caller]
    pub fn port(&self, listener: &str) -> u16 {
        let (_, port) = self.address(listener).rsplit_once(':').expect("a TCP address");
        port.parse().expect("a port")
    }

    /// All listeners by name.
    pub fn listeners(&self) -> &HashMap<String, Vec<String>> {
        &self.listeners
    }

    /// Runs the command line against this daemon.
    #[track_caller]
    pub fn posthouse(&self, arguments: &[&str]) -> Finished {
        self.posthouse_with_input(arguments, "")
    }

    /// As [`Daemon::posthouse`] with something on standard input.
    #[track_caller]
    pub fn posthouse_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let mut command = Command::new(PROGRAM);
        command.arg("--socket").arg(self.admin_socket()).arg("--json").args(arguments);
        command.current_dir(self.dir.path()).env("NO_COLOR", "1").env_remove("POSTHOUSE_SOCKET");
        // What the program keeps for its user stays here.
        command.env("HOME", self.dir.path()).env_remove("XDG_STATE_HOME");
        run(&mut command, input.as_bytes())
    }

    /// Runs a command that must succeed and gives the JSON documents that it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let finished = self.posthouse(arguments).ok();
        let documents = serde_json::Deserializer::from_str(&finished.stdout).into_iter();
        documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
    }

    /// Asks the admin API.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Response {
        http::over_socket(&self.admin_socket(), method, path, &[], body).expect("admin socket")
    }

    /// Starts a job and waits for its end, however long that takes; gives its report.
    #[track_caller]
    pub fn job(&self, path: &str) -> serde_json::Value {
        let started = self.api("POST", path, Some(&serde_json::json!({})));
        let mut job = started.json();
        assert_eq!(started.status, 202, "{job}");
        let place = format!("/v1/jobs/{}", job["id"].as_str().expect("the job's id"));
        let mut pause = Duration::from_millis(2);
        while ["waiting", "running"].contains(&job["state"].as_str().unwrap_or("")) {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
            job = self.api("GET", &place, None).json();
        }
        assert_eq!(job["state"], "done", "{job}\n{}", self.log());
        job["report"].clone()
    }

    /// Brings a customer with a domain aboard.
    #[track_caller]
    pub fn customer(&self, path: &str, domain: &str) {
        self.posthouse(&["customer", "create", path, "--domain", domain]).ok();
    }

    /// Makes a mailbox without limit and with [`PASSWORD`].
    #[track_caller]
    pub fn mailbox(&self, address: &str) {
        self.mailbox_with(address, &[]);
    }

    /// Makes a mailbox with more arguments, for instance `--quota`.
    #[track_caller]
    pub fn mailbox_with(&self, address: &str, arguments: &[&str]) {
        let mut all = vec!["mailbox", "create", address, "--password-stdin"];
        all.extend(arguments);
        self.posthouse_with_input(&all, PASSWORD).ok();
    }

    /// An LMTP session after LHLO.
    #[track_caller]
    pub fn lmtp(&self) -> Smtp {
        Smtp::open(self.address("lmtp"), Dialect::Lmtp).expect("LMTP session")
    }

    /// An SMTP session after EHLO.
    #[track_caller]
    pub fn smtp(&self) -> Smtp {
        Smtp::open(self.address("smtp"), Dialect::Smtp).expect("SMTP session")
    }

    /// An IMAP session of a mailbox made by [`Daemon::mailbox`].
    #[track_caller]
    pub fn imap(&self, user: &str) -> Imap {
        Imap::login(self.address("imap"), user, PASSWORD)
    }

    /// A POP3 session of a mailbox made by [`Daemon::mailbox`].
    #[track_caller]
    pub fn pop3(&self, user: &str) -> Pop3 {
        Pop3::login(self.address("pop3"), user, PASSWORD).expect("POP3 session")
    }

    /// Delivers over LMTP and fails unless the message is accepted.
    #[track_caller]
    pub fn deliver(&self, recipient: &str, message: &[u8]) {
        let replies = self.lmtp().deliver("sender@example.test", &[recipient], message).expect("LMTP");
        assert!(replies.iter().all(|reply| reply.is_ok()), "{replies:?}");
    }

    /// Waits until a folder holds `count` messages or more, told by IDLE.
    #[track_caller]
    pub fn wait_for_messages(&self, user: &str, folder: &str, count: u32) -> Imap {
        let mut session = self.imap(user);
        let mut exists = session.select(folder).exists();
        let tag = session.start("IDLE").expect("IDLE");
        session.read_line().expect("the continuation");
        while exists.is_none_or(|exists| exists < count) {
            let told = session.read_untagged();
            let told = told.unwrap_or_else(|error| panic!("{exists:?} of {count} messages: {error}"));
            if told.keyword() == "EXISTS" {
                exists = told.number();
            }
        }
        session.connection.send("DONE\r\n").expect("DONE");
        session.finish(&tag).expect("the end of IDLE").ok();
        assert_eq!(session.select(folder).exists(), Some(count));
        session
    }
}

/// A daemon that is killed at the end of a block, also when something before that fails: threads that use it until the
/// connection breaks come to their end.
pub struct KilledAtEnd<'a>(pub &'a mut Daemon);

impl std::ops::Deref for KilledAtEnd<'_> {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        self.0
    }
}

impl Drop for KilledAtEnd<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the daemon's last lines\n{}", self.log());
        }
    }
}

fn configuration(dir: &Path, database_url: &str, setup: &Setup) -> String {
    let dir = dir.display();
    let (listen, more) = (&setup.listen, &setup.configuration);
    // Nobody answers there: no test asks the DNS of the machine.
    let dns = if more.contains("[dns]") { "" } else { "[dns]\nresolver = \"127.0.0.1:9\"\n\n" };
    format!(
        "[data]\ndir = \"{dir}/data\"\n\n\
         [database]\nurl = \"{database_url}\"\n\n\
         [listen]\n\
         lmtp = [\"127.0.0.1:0\", \"unix:{dir}/lmtp.sock,mode=666\"]\n\
         smtp = [\"127.0.0.1:0\"]\nimap = [\"127.0.0.1:0\"]\nimaps = [\"127.0.0.1:0\"]\n\
         pop3 = [\"127.0.0.1:0\"]\npop3s = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]\n\
         socketmap = [\"127.0.0.1:0\"]\nsasl = [\"127.0.0.1:0\"]\n{listen}\n\
         [tls]\ncertificate = \"{dir}/certificate.pem\"\nkey = \"{dir}/key.pem\"\n\n\
         [admin]\nsocket = \"{dir}/admin.sock\"\n\n{dns}{more}\n"
    )
}
