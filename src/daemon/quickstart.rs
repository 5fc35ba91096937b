//! A self-contained instance in one directory, with no questions asked: configuration, database, certificate, a first
//! administrator, and with `--demo` a small hierarchy with mailboxes and mail. Whatever is there already is left as
//! it is, so running it again just serves.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::demo::{CUSTOMERS, MAILBOXES, SAMPLES};
use super::{DaemonError, Rooms, run, runtime};
use crate::base::config::{self, Config};
use crate::base::id::{public_id, random_text};
use crate::base::size;
use crate::service::context::Authentication;
use crate::service::delivery::{Atomicity, Transmission};
use crate::service::error::ServiceError;
use crate::service::registry::{RunOptions, operation};

/// The first administrator's name.
const ADMINISTRATOR: &str = "admin";

/// Sets up an instance in `dir` unless it is there, and serves it; with `demo` it has customers, mailboxes and mail.
///
/// # Errors
/// As [`super::serve`].
pub fn quickstart(dir: &Path, demo: bool) -> Result<(), DaemonError> {
    let io = |error| DaemonError::Io { what: format!("cannot make {}", dir.display()), error };
    std::fs::create_dir_all(dir).map_err(io)?;
    let dir = dir.canonicalize().map_err(io)?;
    let file = dir.join("posthouse.toml");
    if !file.exists() {
        write_private(&file, &configuration(&dir))?;
    }
    let config = config::load(&file).map_err(DaemonError::Config)?;
    let instance = Instance { dir, config: config.clone(), demo };
    runtime()?.block_on(run(config, Some(file), |rooms| async move { instance.furnish(&rooms).await }))
}

/// The configuration file of a new instance: only what differs from the defaults.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "# Written by `posthouse quickstart`; yours to change. Every key with its default: config/example.toml\n\n\
         [data]\ndir = \"{dir}\"\n\n\
         [listen]\nlmtp = [\"127.0.0.1:2424\", \"unix:{dir}/lmtp.sock\"]\n\
         socketmap = [\"unix:{dir}/socketmap.sock\"]\nsasl = [\"unix:{dir}/sasl.sock\"]\n\n\
         [log]\nlevel = \"warn\"\n"
    )
}

fn write_private(path: &Path, text: &str) -> Result<(), DaemonError> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| DaemonError::Io { what: format!("cannot write {}", path.display()), error })
}

struct Instance {
    dir: PathBuf,
    config: Config,
    demo: bool,
}

impl Instance {
    /// Adds what is missing and tells how to connect.
    async fn furnish(&self, rooms: &Arc<Rooms>) -> Result<(), DaemonError> {
        let uid = rustix::process::geteuid().as_raw();
        let system =
            rooms.management.authenticate_peer(uid).await?.ok_or_else(|| ServiceError::Conflict {
                message: "this user is not the instance's system administrator".to_owned(),
            })?;
        let operator = Operator { rooms, system };
        self.first_administrator(&operator).await?;
        let password = if self.demo { Some(self.demo(&operator).await?) } else { None };
        self.tell(password.as_deref());
        Ok(())
    }

    async fn first_administrator(&self, operator: &Operator<'_>) -> Result<(), DaemonError> {
        let made = operator
            .ensure(
                "administrator.create",
                json!({ "name": ADMINISTRATOR, "customer": "/", "role": "system-admin" }),
            )
            .await?;
        let file = self.dir.join("admin.token");
        if made.is_some() || !file.exists() {
            let asked = json!({ "name": ADMINISTRATOR, "label": "quickstart" });
            let answer = operator.run("token.create", asked).await?;
            let token = answer.get("token").and_then(Value::as_str).unwrap_or_default();
            write_private(&file, &format!("{token}\n"))?;
        }
        Ok(())
    }

    /// The demo's customers, mailboxes and mail; answers the mailboxes' password.
    async fn demo(&self, operator: &Operator<'_>) -> Result<String, DaemonError> {
        let file = self.dir.join("demo.password");
        let password = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => {
                let password = random_text(12);
                write_private(&file, &format!("{password}\n"))?;
                password
            }
        };
        for &(path, name, kind, domain) in CUSTOMERS {
            let asked = json!({ "path": path, "name": name, "kind": kind, "domain": domain });
            operator.ensure("customer.create", asked).await?;
        }
        for &(address, name, limit) in MAILBOXES {
            let bytes = size::parse_size_limit(limit).ok().flatten();
            let asked = json!({ "address": address, "name": name, "password": password, "quota": bytes });
            if operator.ensure("mailbox.create", asked).await?.is_some() {
                operator.deliver_samples(address).await?;
            }
        }
        // Somebody reads the postmaster's mail; whoever was chosen since then stays.
        let root = operator.run("customer.show", json!({ "path": "/" })).await?;
        if root.get("contact").is_none_or(Value::is_null) {
            let contact = MAILBOXES.first().map(|(address, ..)| *address);
            operator.run("customer.rename", json!({ "path": "/", "contact": contact })).await?;
        }
        let message = self.dir.join("hello.eml");
        if !message.exists() {
            write_private(&message, HELLO)?;
        }
        Ok(password)
    }

    fn tell(&self, password: Option<&str>) {
        let listen = &self.config.listen;
        let first = |endpoints: &[crate::base::endpoint::Endpoint]| {
            endpoints.first().map(ToString::to_string).unwrap_or_else(|| "off".to_owned())
        };
        let (imap, pop3, smtp, lmtp) =
            (first(&listen.imap), first(&listen.pop3), first(&listen.smtp), first(&listen.lmtp));
        let dir = self.dir.display();
        let program = std::env::current_exe()
            .map_or_else(|_| "posthouse".to_owned(), |path| path.display().to_string());
        println!("Posthouse serves from {dir}\n");
        println!("  IMAP   {imap}   with TLS {}", first(&listen.imaps));
        println!("  POP3   {pop3}   with TLS {}", first(&listen.pop3s));
        println!("  LMTP   {lmtp}   and unix:{dir}/lmtp.sock");
        println!("  SMTP   {smtp}");
        println!("  admin  {}", self.config.admin.socket.display());
        let socket = self.config.admin.socket.display();
        let posthouse = format!("{program} --socket {socket}");
        println!("\nManage it:");
        println!("  {posthouse} customer list --tree");
        println!("  curl --unix-socket {socket} http://localhost/v1/customers");
        match password {
            Some(password) => {
                let login = format!("--user 'anna@health.example:{password}'");
                println!("\nRead the newest message of anna@health.example:");
                println!("  curl {login} 'imap://{imap}/INBOX;MAILINDEX=*'");
                println!("\nSend her one, then run the line above again:");
                let envelope = "--mail-from you@example.org --mail-rcpt anna@health.example";
                println!("  curl smtp://{smtp} {envelope} --upload-file {dir}/hello.eml");
                println!("\nThe quota report of her domain:");
                println!("  {posthouse} report quota --domain health.example");
            }
            None => {
                println!("\nBring a customer aboard:");
                println!("  {posthouse} customer create acme --domain acme.example --admin carla");
                println!("  {posthouse} mailbox create wile@acme.example --quota 2GiB");
                println!("\nSay who reads the postmaster's mail, once there is a mailbox for it:");
                println!("  {posthouse} customer rename / --contact wile@acme.example");
            }
        }
        println!("\nThe administrator's token is in {dir}/admin.token. Stop with Ctrl-C.");
    }
}

/// The message that the printed line sends.
const HELLO: &str = "From: you@example.org\r\nTo: anna@health.example\r\nSubject: Hello\r\n\
                     Message-ID: <hello@example.org>\r\n\r\nThis came in over SMTP.\r\n";

/// Runs operations of the registry as the instance's system administrator.
struct Operator<'a> {
    rooms: &'a Rooms,
    system: Authentication,
}

impl Operator<'_> {
    async fn run(&self, name: &str, request: Value) -> Result<Value, ServiceError> {
        let operation =
            operation(name).ok_or_else(|| ServiceError::Internal(format!("there is no operation {name}")))?;
        let context = self.system.context(None, public_id(), None);
        (operation.run)(&self.rooms.management, context, request, RunOptions::default()).await
    }

    /// Runs an operation that creates something; nothing when it is there already.
    async fn ensure(&self, name: &str, request: Value) -> Result<Option<Value>, ServiceError> {
        match self.run(name, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(ServiceError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn deliver_samples(&self, address: &str) -> Result<(), ServiceError> {
        let transmission = Transmission {
            protocol: "LMTP",
            greeting: "localhost".to_owned(),
            source: None,
            tls: None,
            id: public_id(),
        };
        let refused = |refusal| ServiceError::Unavailable(format!("sample mail: {refusal}"));
        let recipient =
            self.rooms.delivery.recipient(&transmission, "", address, 0).await.map_err(refused)?;
        for sample in SAMPLES.iter().filter(|sample| sample.to == address) {
            let message = Bytes::from(sample.text.replace('\n', "\r\n"));
            let recipients = std::slice::from_ref(&recipient);
            let answers = self
                .rooms
                .delivery
                .deliver(&transmission, "", recipients, message, Atomicity::PerRecipient)
                .await;
            for answer in answers {
                answer.map_err(refused)?;
            }
        }
        Ok(())
    }
}
