//! A private Dovecot 2.3 with the same durability and compression: fsync always, zstd level 3.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::host::Host;
use crate::support::imap::Imap;
use crate::support::programs::{is_root, need, run, wait, write};
use crate::support::{PATIENCE, wait_for};

/// The arguments of a static passdb are split at spaces.
const PASSWORD: &str = "dovecot";

/// How it stores mail.
#[derive(Clone, Copy)]
pub enum Format {
    /// A file for each message.
    Maildir,
    /// Messages in larger files.
    Mdbox,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Maildir => "maildir",
            Self::Mdbox => "mdbox",
        }
    }
}

/// A running server.
pub struct Dovecot {
    dir: tempfile::TempDir,
    name: String,
    master: Child,
    lmtp: u16,
    imap: u16,
}

impl Dovecot {
    /// Starts one, or says what is missing.
    pub fn start(format: Format) -> Option<Self> {
        let program = need("dovecot", "dovecot-imapd dovecot-lmtpd")?;
        if !is_root() {
            eprintln!("skipped: only root can run Dovecot");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("dovecot-").tempdir().expect("temporary directory");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        std::fs::create_dir(dir.path().join("mail")).expect("mail folder");
        run(Command::new("chown").arg("mail:mail").arg(dir.path().join("mail")), b"").ok();
        let (lmtp, imap) = (free_port(), free_port());
        let file = dir.path().join("dovecot.conf");
        write(&file, configuration(&dir.path().display().to_string(), format, lmtp, imap));
        let master = Command::new(program)
            .arg("-F")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start dovecot");
        let host = Self { name: format!("Dovecot {}", format.name()), dir, master, lmtp, imap };
        wait_for("Dovecot to greet", || Imap::open(&host.imap()).ok());
        Some(host)
    }
}

impl Host for Dovecot {
    fn name(&self) -> &str {
        &self.name
    }

    fn lmtp(&self) -> String {
        format!("127.0.0.1:{}", self.lmtp)
    }

    fn imap(&self) -> String {
        format!("127.0.0.1:{}", self.imap)
    }

    fn pid(&self) -> u32 {
        self.master.id()
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("mail")
    }

    fn password(&self) -> &str {
        PASSWORD
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.master.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        wait(&mut self.master, PATIENCE);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("address").port()
}

/// As many processes ready as there are connections in the workloads, so that none waits for a fork.
fn configuration(dir: &str, format: Format, lmtp: u16, imap: u16) -> String {
    format!(
        "base_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\nprotocols = imap lmtp\nssl = no\n\
         disable_plaintext_auth = no\nlisten = 127.0.0.1\nfirst_valid_uid = 1\n\
         mail_location = {format}:{dir}/mail/%n\nmail_fsync = always\nmail_plugins = zlib\n\
         mail_max_userip_connections = 100000\ndefault_vsz_limit = 0\ndefault_client_limit = 20000\n\
         default_process_limit = 5000\nmdbox_rotate_size = 32M\n\
         plugin {{\n  zlib_save = zstd\n  zlib_save_level = 3\n}}\n\
         passdb {{\n  driver = static\n  args = password={PASSWORD}\n}}\n\
         userdb {{\n  driver = static\n  args = uid=mail gid=mail home={dir}/mail/%n allow_all_users=yes\n}}\n\
         namespace inbox {{\n  inbox = yes\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    port = {lmtp}\n  }}\n  \
         process_min_avail = 32\n  client_limit = 1\n  service_count = 0\n}}\n\
         service imap-login {{\n  inet_listener imap {{\n    port = {imap}\n  }}\n  \
         inet_listener imaps {{\n    port = 0\n  }}\n  service_count = 0\n  process_min_avail = 2\n}}\n\
         service imap {{\n  process_min_avail = 8\n  client_limit = 1\n}}\n",
        format = format.name(),
    )
}
