//! The session: takes a command, lets the state it is in execute it, answers. States own what belongs to
//! them and are consumed by each command, so that a command in the wrong state has nothing to work on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::client::Client;
use super::command::{Command, Tagged};
use super::outcome::{Done, Failure, Outcome, Verdict, answer};
use super::parse::{Malformed, parse};
use super::receive::Received;
use super::selected::Selected;
use super::{ImapServices, append, auth, fetch, folder, idle, list, quota, search, store, transfer};
use crate::base::id::random_text;
use crate::service::login::MailSession;
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// Who is logged in.
pub struct Account {
    /// The proof of it, and the registration of this session.
    pub session: MailSession,
    /// Whether the client has asked for mod-sequences (RFC 7162 section 3.1).
    pub condstore: bool,
}

/// The states of RFC 3501 section 3.
pub enum State {
    /// Before login.
    NotAuthenticated,
    /// Logged in.
    Authenticated(Box<Account>),
    /// A folder is open.
    Selected(Box<Selected>),
}

impl State {
    /// Who is logged in, if anybody.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Self::NotAuthenticated => None,
            Self::Authenticated(account) => Some(account),
            Self::Selected(selected) => Some(&selected.account),
        }
    }
}

/// A session between two commands.
pub struct Session {
    /// The client.
    pub client: Client,
    /// What it works with.
    pub services: Arc<ImapServices>,
    /// Tells when the server ends.
    pub shutdown: Shutdown,
    /// Failed logins so far.
    pub failed_logins: u32,
    malformed: u32,
    opened: Instant,
}

/// Why a session ends.
pub enum End {
    /// With these last words.
    Bye(&'static str),
    /// After LOGOUT: everything is said.
    Logout,
    /// The connection is gone.
    Gone,
}

/// Runs one session to its end.
pub fn run(
    connection: Connection,
    shutdown: Shutdown,
    services: Arc<ImapServices>,
) -> impl Future<Output = ()> + Send {
    let client = Client::new(connection, services.limits.write_timeout);
    let opened = Instant::now();
    // Boxed: a future holds what it was given and what it made of it, each time it is passed on.
    let mut session =
        Box::new(Session { client, services, shutdown, failed_logins: 0, malformed: 0, opened });
    async move {
        let id = random_text(8);
        tracing::debug!(session = %id, source = ?session.client.connection.source(), "IMAP session opened");
        match session.serve().await {
            End::Bye(text) => {
                tracing::debug!(session = %id, text, "IMAP session ended by the server");
                session.client.untagged("BYE", None, text);
                Box::pin(session.client.close()).await;
            }
            End::Logout => {
                tracing::debug!(session = %id, "IMAP session ended by the client");
                Box::pin(session.client.close()).await;
            }
            End::Gone => tracing::debug!(session = %id, "IMAP connection ended"),
        }
    }
}

impl Session {
    async fn serve(&mut self) -> End {
        let greeting = format!("CAPABILITY {}", auth::capabilities(self, false));
        self.client.untagged("OK", Some(&greeting), "Posthouse is ready");
        let mut state = State::NotAuthenticated;
        loop {
            if self.client.flush().await.is_err() {
                return End::Gone;
            }
            let received = match self.receive(&state).await {
                Ok(received) => received,
                Err(end) => return end,
            };
            let step = match received {
                Received::Refused(verdict) => self.judge(verdict).map(|()| state),
                Received::Command(bytes, room) => {
                    // Boxed, so that a waiting session does not carry the largest command's state.
                    let step = Box::pin(self.step(state, bytes)).await;
                    drop(room);
                    step
                }
            };
            state = match step {
                Ok(state) => state,
                Err(end) => return end,
            };
        }
    }

    /// When a client must have logged in.
    pub fn login_deadline(&self) -> Instant {
        self.opened + self.services.limits.login_timeout
    }

    /// Executes one command and answers it.
    async fn step(&mut self, state: State, bytes: Bytes) -> Result<State, End> {
        let Tagged { tag, command } = match parse(bytes) {
            Ok(tagged) => tagged,
            Err(Malformed { tag, error }) => {
                let tag = tag.unwrap_or_else(|| Bytes::from_static(b"*"));
                let verdict = answer(&mut self.client.out, &tag, Err(error.into()));
                self.judge(verdict)?;
                return Ok(state);
            }
        };
        if command == Command::Logout {
            // RFC 3501 section 6.1.3, any state.
            self.client.untagged("BYE", None, "logging out");
            answer(&mut self.client.out, &tag, Ok(Done::new("LOGOUT completed")));
            return Err(End::Logout);
        }
        let (state, outcome) = self.execute(state, &tag, command).await;
        let verdict = answer(&mut self.client.out, &tag, outcome);
        self.judge(verdict)?;
        Ok(state)
    }

    fn judge(&mut self, verdict: Verdict) -> Result<(), End> {
        match verdict {
            Verdict::Fine => self.malformed = 0,
            Verdict::Mistake => self.malformed += 1,
            Verdict::Bye(text) => return Err(End::Bye(text)),
            Verdict::Gone => return Err(End::Gone),
        }
        if self.malformed >= self.services.limits.malformed_max {
            return Err(End::Bye("too many malformed commands"));
        }
        if self.failed_logins >= self.services.limits.failed_logins_max {
            return Err(End::Bye("too many failed logins"));
        }
        Ok(())
    }

    /// Lets the state execute the command.
    async fn execute(&mut self, state: State, tag: &Bytes, command: Command) -> (State, Outcome) {
        match (state, command) {
            // RFC 3501 section 6.1, any state; NOOP also tells what is new in the folder.
            (state, Command::Capability) => {
                let capabilities = auth::capabilities(self, state.account().is_some());
                self.client.out.extend_from_slice(b"* CAPABILITY ");
                self.client.out.extend_from_slice(capabilities.as_bytes());
                self.client.out.extend_from_slice(b"\r\n");
                (state, Ok(Done::new("CAPABILITY completed")))
            }
            (state, Command::Id) => {
                // RFC 2971, any state.
                let id = concat!(
                    "* ID (\"name\" \"Posthouse\" \"version\" \"",
                    env!("CARGO_PKG_VERSION"),
                    "\")\r\n"
                );
                self.client.out.extend_from_slice(id.as_bytes());
                (state, Ok(Done::new("ID completed")))
            }
            (State::NotAuthenticated, Command::Noop) => {
                (State::NotAuthenticated, Ok(Done::new("NOOP completed")))
            }
            (State::NotAuthenticated, command) => Box::pin(auth::execute(self, tag, command)).await,
            (state, Command::StartTls | Command::Authenticate { .. } | Command::Login { .. }) => {
                (state, Err(Failure::Malformed("already logged in".to_owned())))
            }
            (State::Authenticated(mut account), command) => match command {
                Command::Select { .. } => Box::pin(folder::select(self, account, command)).await,
                Command::Noop | Command::Idle => {
                    let outcome = if command == Command::Idle {
                        Box::pin(idle::idle(self, &account)).await
                    } else {
                        Ok(Done::new("NOOP completed"))
                    };
                    (State::Authenticated(account), outcome)
                }
                command => {
                    account.condstore |= command.asks_for_mod_seq();
                    let outcome = Box::pin(self.account_command(&mut account, command)).await;
                    (State::Authenticated(account), outcome)
                }
            },
            (State::Selected(selected), command) => self.selected(selected, tag, command).await,
        }
    }

    /// Authenticated state (RFC 3501 section 6.3), also available with a folder open.
    async fn account_command(&mut self, account: &mut Account, command: Command) -> Outcome {
        let owner = account.session.owner();
        let (client, mail) = (&mut self.client, &self.services.mail);
        match command {
            Command::Enable(names) => {
                // RFC 5161 section 3.1: only what was not on yet is told.
                let condstore = names.iter().any(|name| name == "CONDSTORE");
                let fresh = condstore && !account.condstore;
                account.condstore |= condstore;
                client.out.extend_from_slice(if fresh {
                    b"* ENABLED CONDSTORE\r\n"
                } else {
                    b"* ENABLED\r\n"
                });
                Ok(Done::new("ENABLE completed"))
            }
            Command::Namespace => {
                // RFC 2342 section 5: personal folders only.
                client.out.extend_from_slice(b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n");
                Ok(Done::new("NAMESPACE completed"))
            }
            Command::Create { folder, special_use } => {
                folder::create(mail, owner, &folder, special_use).await
            }
            Command::Delete(folder) => {
                folder::delete(mail, owner, &folder).await?;
                Ok(Done::new("DELETE completed"))
            }
            Command::Rename { from, to } => folder::rename(mail, owner, &from, &to).await,
            Command::Subscribe { folder, subscribed } => {
                folder::subscribe(mail, owner, &folder, subscribed).await
            }
            Command::List(list) => list::list(client, &self.services, owner, &list).await,
            Command::Lsub { reference, pattern } => {
                list::lsub(client, mail, owner, &reference, &pattern).await
            }
            Command::Status { folder, items } => {
                folder::status(client, &self.services, owner, &folder, &items).await
            }
            Command::Append { folder, messages } => append::append(mail, owner, &folder, messages).await,
            Command::QuotaOfRoot(root) => quota::of_root(client, mail, owner, &root).await,
            Command::QuotaRootsOf(folder) => quota::roots_of(client, mail, owner, &folder).await,
            // RFC 9208 section 4.1.3: QUOTASET is not offered.
            Command::QuotaSet => Err(Failure::refused("NOPERM", "quotas are set by the administration")),
            _ => Err(Failure::Malformed("select a folder first".to_owned())),
        }
    }

    /// Selected state (RFC 3501 section 6.4).
    async fn selected(
        &mut self,
        mut selected: Box<Selected>,
        tag: &Bytes,
        command: Command,
    ) -> (State, Outcome) {
        let outcome = match command {
            Command::Select { .. } => {
                // RFC 3501 section 6.3.1: whatever comes of it, the present folder is closed. RFC 7162
                // section 3.2.11 marks where its responses end.
                let account = selected.account;
                drop(selected.view);
                self.client.untagged("OK", Some("CLOSED"), "the previous folder is closed");
                return Box::pin(folder::select(self, account, command)).await;
            }
            Command::Unselect => {
                // RFC 3691: like CLOSE, but nothing is expunged.
                return (State::Authenticated(selected.account), Ok(Done::new("UNSELECT completed")));
            }
            Command::Close => return Box::pin(folder::close(*selected)).await,
            Command::Idle => Box::pin(idle::idle_selected(self, &mut selected)).await,
            Command::Delete(name) => {
                // Compared by id: since SELECT the folder may have been renamed, and its name given to another.
                let owner = selected.account.session.owner();
                let deleted = folder::delete(&self.services.mail, owner, &name).await;
                if deleted.as_ref().is_ok_and(|&id| id == selected.view.folder().id) {
                    self.client.untagged("OK", Some("CLOSED"), "the selected folder is deleted");
                    return (State::Authenticated(selected.account), Ok(Done::new("DELETE completed")));
                }
                deleted.map(|_| Done::new("DELETE completed"))
            }
            Command::Enable(names) => {
                if names.iter().any(|name| name == "CONDSTORE") && !selected.account.condstore {
                    selected.condstore_enable(&mut self.client.out);
                    self.client.out.extend_from_slice(b"* ENABLED CONDSTORE\r\n");
                } else {
                    self.client.out.extend_from_slice(b"* ENABLED\r\n");
                }
                Ok(Done::new("ENABLE completed"))
            }
            command => Box::pin(self.selected_command(&mut selected, tag, command)).await,
        };
        (State::Selected(selected), outcome)
    }

    /// A command that leaves the folder open; afterwards the client is told what is new there.
    async fn selected_command(&mut self, selected: &mut Selected, tag: &Bytes, command: Command) -> Outcome {
        let client = &mut self.client;
        let expunges = match &command {
            Command::Fetch(fetch) => fetch.by_uid,
            Command::Store(store) => store.by_uid,
            Command::Search { by_uid, .. } => *by_uid,
            _ => true,
        };
        if command.asks_for_mod_seq() {
            selected.condstore_enable(&mut client.out);
        }
        let outcome = match command {
            // RFC 3501 sections 6.1.2 and 6.4.1: a checkpoint is at every answer here.
            Command::Noop => Ok(Done::new("NOOP completed")),
            Command::Check => Ok(Done::new("CHECK completed")),
            Command::Expunge(set) => transfer::expunge(selected, set.as_ref()).await,
            Command::Search { program, by_uid } => {
                search::search(client, selected, tag, &program, by_uid).await
            }
            Command::Fetch(fetch) => fetch::fetch(client, selected, &fetch).await,
            Command::Store(store) => store::store(client, selected, &store).await,
            Command::Copy(transfer) => transfer::copy(selected, &transfer).await,
            Command::Move(transfer) => transfer::move_to(client, selected, &transfer).await,
            command => self.account_command(&mut selected.account, command).await,
        };
        if !matches!(outcome, Err(Failure::Malformed(_) | Failure::Disconnected | Failure::Bye(_))) {
            match selected.sync(&mut self.client, expunges).await {
                // What is new can wait; what was asked is done.
                Ok(()) | Err(Failure::Service(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        outcome
    }
}
