//! Random commands from several sessions, compared step by step with a simple model, and at the end with a recount.
//! Each session has a client that knows only what it was told.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::service::error::ServiceError;
use crate::service::mailstore::types::MessageState;

const FOLDERS: [&str; 3] = ["INBOX", "A", "B"];
const SESSIONS: usize = 3;
/// Sequences that are tried on SQLite; a new database server is slower, so PostgreSQL gets fewer.
const CASES_SQLITE: u32 = 48;
const CASES_POSTGRES: u32 = 12;

#[derive(Clone, Debug)]
enum Command {
    Append {
        folder: usize,
        count: usize,
    },
    Deliver,
    Select {
        session: usize,
        folder: usize,
    },
    /// `mask` picks messages of the session by their place.
    Store {
        session: usize,
        mask: u16,
        mode: FlagMode,
        flags: u8,
        silent: bool,
    },
    Expunge {
        session: usize,
        mask: Option<u16>,
    },
    Copy {
        session: usize,
        mask: u16,
        target: usize,
    },
    Move {
        session: usize,
        mask: u16,
        target: usize,
    },
    Sync {
        session: usize,
        expunges: bool,
    },
    Delete {
        folder: usize,
    },
    Create {
        folder: usize,
    },
    RenameInbox,
}

fn command() -> impl Strategy<Value = Command> {
    let session = 0..SESSIONS;
    let folder = 0..FOLDERS.len();
    let mode = prop_oneof![Just(FlagMode::Replace), Just(FlagMode::Add), Just(FlagMode::Remove)];
    prop_oneof![
        4 => (folder.clone(), 1..4_usize).prop_map(|(folder, count)| Command::Append { folder, count }),
        2 => Just(Command::Deliver),
        3 => (session.clone(), folder.clone()).prop_map(|(session, folder)| Command::Select { session, folder }),
        6 => (session.clone(), any::<u16>(), mode, 0..32_u8, any::<bool>()).prop_map(
            |(session, mask, mode, flags, silent)| Command::Store { session, mask, mode, flags, silent }
        ),
        3 => (session.clone(), prop::option::of(any::<u16>()))
            .prop_map(|(session, mask)| Command::Expunge { session, mask }),
        2 => (session.clone(), any::<u16>(), folder.clone())
            .prop_map(|(session, mask, target)| Command::Copy { session, mask, target }),
        2 => (session.clone(), any::<u16>(), folder.clone())
            .prop_map(|(session, mask, target)| Command::Move { session, mask, target }),
        6 => (session, any::<bool>()).prop_map(|(session, expunges)| Command::Sync { session, expunges }),
        1 => (1..FOLDERS.len()).prop_map(|folder| Command::Delete { folder }),
        1 => (1..FOLDERS.len()).prop_map(|folder| Command::Create { folder }),
        1 => Just(Command::RenameInbox),
    ]
}

type Flags = BTreeSet<&'static str>;

const FLAG_NAMES: [&str; 5] = ["\\Seen", "\\Deleted", "\\Flagged", "one", "Two"];

fn flag_set(bits: u8) -> FlagSet {
    let mut set = FlagSet::default();
    for (index, name) in FLAG_NAMES.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1) {
        match index {
            0 => set.system.0 |= FlagBits::SEEN.0,
            1 => set.system.0 |= FlagBits::DELETED.0,
            2 => set.system.0 |= FlagBits::FLAGGED.0,
            _ => set.keywords.push((*name).to_owned()),
        }
    }
    set
}

fn flag_names(bits: u8) -> Flags {
    FLAG_NAMES.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1).map(|(_, name)| *name).collect()
}

fn names_of(flags: FlagBits, keywords: &[String]) -> Flags {
    let known = |name: &str| match name {
        "\\Seen" => flags.contains(FlagBits::SEEN),
        "\\Deleted" => flags.contains(FlagBits::DELETED),
        "\\Flagged" => flags.contains(FlagBits::FLAGGED),
        _ => {
            let index = keywords.iter().position(|keyword| keyword == name);
            index.is_some_and(|index| flags.contains(FlagBits::keyword(index)))
        }
    };
    FLAG_NAMES.into_iter().filter(|name| known(name)).collect()
}

fn change(flags: &mut Flags, mode: FlagMode, with: &Flags) {
    match mode {
        FlagMode::Replace => flags.clone_from(with),
        FlagMode::Add => flags.extend(with),
        FlagMode::Remove => flags.retain(|flag| !with.contains(flag)),
    }
}

#[derive(Clone, Debug)]
struct ModelMessage {
    uid: Uid,
    flags: Flags,
    text: String,
    octets: usize,
}

#[derive(Debug)]
struct ModelFolder {
    name: Option<String>,
    messages: Vec<ModelMessage>,
    uid_next: u32,
}

impl ModelFolder {
    fn new(name: &str) -> Self {
        Self { name: Some(name.to_owned()), messages: Vec::new(), uid_next: 1 }
    }

    fn add(&mut self, flags: Flags, text: String, octets: usize) -> Uid {
        let uid = Uid(self.uid_next);
        self.uid_next += 1;
        self.messages.push(ModelMessage { uid, flags, text, octets });
        uid
    }
}

/// A session with what its client was told.
struct Session {
    view: FolderView,
    folder: usize,
    told: Vec<(Uid, Flags)>,
}

struct World {
    house: House,
    folders: Vec<ModelFolder>,
    sessions: Vec<Option<Session>>,
    texts: usize,
}

impl World {
    fn new(house: House) -> Self {
        let sessions = (0..SESSIONS).map(|_| None).collect();
        Self { house, folders: vec![ModelFolder::new("INBOX")], sessions, texts: 0 }
    }

    fn find(&self, folder: usize) -> Option<usize> {
        self.folders.iter().position(|model| model.name.as_deref() == Some(FOLDERS[folder]))
    }

    fn text(&mut self) -> String {
        self.texts += 1;
        format!("message {}", self.texts)
    }

    async fn run(&mut self, command: Command) {
        match command {
            Command::Append { folder, count } => self.append(folder, count).await,
            Command::Deliver => {
                let text = self.text();
                self.house.deliver(&text).await;
                let octets = TRACE.len() + message_bytes(&text).len();
                let inbox = self.find(0).unwrap();
                self.folders[inbox].add(Flags::new(), text, octets);
            }
            Command::Select { session, folder } => self.select(session, folder).await,
            Command::Store { session, mask, mode, flags, silent } => {
                self.store(session, mask, mode, flags, silent).await;
            }
            Command::Expunge { session, mask } => self.expunge(session, mask).await,
            Command::Copy { session, mask, target } => self.transfer(session, mask, target, false).await,
            Command::Move { session, mask, target } => self.transfer(session, mask, target, true).await,
            Command::Sync { session, expunges } => self.sync(session, expunges).await,
            Command::Delete { folder } => {
                let done = self.house.store.folder_delete(&self.house.owner, &name(FOLDERS[folder])).await;
                match self.find(folder) {
                    Some(index) => {
                        done.unwrap();
                        self.folders[index].name = None;
                    }
                    None => assert!(matches!(done, Err(ServiceError::NotFound { .. }))),
                }
            }
            Command::Create { folder } => {
                let name = name(FOLDERS[folder]);
                let done = self.house.store.folder_create(&self.house.owner, &name, None).await;
                match self.find(folder) {
                    Some(_) => assert!(matches!(done, Err(ServiceError::Conflict { .. }))),
                    None => {
                        done.unwrap();
                        self.folders.push(ModelFolder::new(name.as_str()));
                    }
                }
            }
            Command::RenameInbox => self.rename_inbox().await,
        }
    }

    async fn append(&mut self, folder: usize, count: usize) {
        let texts: Vec<String> = (0..count).map(|_| self.text()).collect();
        let messages = texts.iter().map(|text| new_message(text, flag_set(1))).collect();
        let done = self.house.store.append(&self.house.owner, &name(FOLDERS[folder]), messages).await;
        let Some(index) = self.find(folder) else {
            assert!(matches!(done, Err(ServiceError::NotFound { .. })));
            return;
        };
        let model = &mut self.folders[index];
        let uids: Vec<Uid> = texts
            .into_iter()
            .map(|text| {
                let octets = message_bytes(&text).len();
                model.add(flag_names(1), text, octets)
            })
            .collect();
        assert_eq!(done.unwrap().uids, uids);
    }

    async fn select(&mut self, session: usize, folder: usize) {
        let done =
            self.house.store.folder_open(&self.house.owner, &name(FOLDERS[folder]), Access::ReadWrite).await;
        let Some(index) = self.find(folder) else {
            assert!(matches!(done, Err(ServiceError::NotFound { .. })));
            return;
        };
        let view = done.unwrap();
        let keywords = view.keywords();
        let told = view.states(view.uids()).into_iter();
        let told: Vec<_> = told.map(|state| (state.uid, names_of(state.flags, &keywords))).collect();
        assert_eq!(told, contents(&self.folders[index]));
        self.sessions[session] = Some(Session { view, folder: index, told });
    }

    /// The session's messages picked by `mask`.
    fn picked(&self, session: usize, mask: u16) -> Option<(usize, Vec<Uid>)> {
        let session = self.sessions[session].as_ref()?;
        let picked =
            session.view.uids().iter().enumerate().filter(|(index, _)| mask >> (index % 16) & 1 == 1);
        let uids = picked.map(|(_, uid)| *uid).collect();
        self.folders[session.folder].name.is_some().then_some((session.folder, uids))
    }

    async fn store(&mut self, session: usize, mask: u16, mode: FlagMode, flags: u8, silent: bool) {
        let Some((folder, uids)) = self.picked(session, mask) else { return };
        let session = self.sessions[session].as_mut().unwrap();
        let stored = session.view.flags_store(&uids, mode, &flag_set(flags), None, silent).await.unwrap();
        let mut done = Vec::new();
        for message in self.folders[folder].messages.iter_mut().filter(|one| uids.contains(&one.uid)) {
            change(&mut message.flags, mode, &flag_names(flags));
            done.push(message.uid);
        }
        assert_eq!((stored.done, stored.modified), (done, vec![]));
        if silent {
            for (_, told) in session.told.iter_mut().filter(|(uid, _)| uids.contains(uid)) {
                change(told, mode, &flag_names(flags));
            }
        }
    }

    async fn expunge(&mut self, session: usize, mask: Option<u16>) {
        let Some((folder, uids)) = self.picked(session, mask.unwrap_or(u16::MAX)) else { return };
        let session = self.sessions[session].as_mut().unwrap();
        session.view.expunge(mask.map(|_| &uids[..])).await.unwrap();
        let doomed = |one: &ModelMessage| uids.contains(&one.uid) && one.flags.contains("\\Deleted");
        self.folders[folder].messages.retain(|one| !doomed(one));
    }

    async fn transfer(&mut self, session: usize, mask: u16, target: usize, moving: bool) {
        let Some((folder, uids)) = self.picked(session, mask) else { return };
        let target_name = name(FOLDERS[target]);
        let session = self.sessions[session].as_mut().unwrap();
        let done = if moving {
            session.view.move_to(&uids, &target_name).await
        } else {
            session.view.copy(&uids, &target_name).await
        };
        let Some(target) = self.find(target) else {
            assert!(matches!(done, Err(ServiceError::NotFound { .. })), "{done:?}");
            return;
        };
        let chosen = self.folders[folder].messages.iter().filter(|one| uids.contains(&one.uid));
        let chosen: Vec<_> = chosen.cloned().collect();
        if moving {
            self.folders[folder].messages.retain(|one| !uids.contains(&one.uid));
        }
        let pairs: Vec<_> = chosen
            .into_iter()
            .map(|one| (one.uid, self.folders[target].add(one.flags, one.text, one.octets)))
            .collect();
        assert_eq!(done.unwrap().pairs, pairs);
    }

    async fn rename_inbox(&mut self) {
        let target = 1;
        let store = &self.house.store;
        let done = store.folder_rename(&self.house.owner, &name("INBOX"), &name(FOLDERS[target])).await;
        if self.find(target).is_some() {
            assert!(matches!(done, Err(ServiceError::Conflict { .. })));
            return;
        }
        done.unwrap();
        let mut folder = ModelFolder::new(FOLDERS[target]);
        let inbox = self.find(0).unwrap();
        for one in self.folders[inbox].messages.drain(..) {
            folder.add(one.flags, one.text, one.octets);
        }
        self.folders.push(folder);
    }

    async fn sync(&mut self, number: usize, expunges: bool) {
        let Some(session) = self.sessions[number].as_mut() else { return };
        let events = session.view.sync(expunges).await.unwrap();
        let model = &self.folders[session.folder];
        if model.name.is_none() {
            assert_eq!(events, [FolderEvent::Gone]);
            self.sessions[number] = None;
            return;
        }
        for event in events {
            session.hear(&event, expunges);
        }
        assert_eq!(session.told.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), session.view.uids());
        let present = contents(model);
        if expunges {
            assert_eq!(session.told, present);
        } else {
            let still = |told: &&(Uid, Flags)| present.iter().any(|(uid, _)| *uid == told.0);
            assert_eq!(session.told.iter().filter(still).cloned().collect::<Vec<_>>(), present);
        }
        session.check_states(model);
    }

    /// Counters of every folder, and the bytes of its newest message.
    async fn compare(&self) {
        for (index, folder) in FOLDERS.iter().enumerate() {
            let status = self.house.store.folder_status(&self.house.owner, &name(folder)).await;
            let Some(index) = self.find(index) else {
                assert!(matches!(status, Err(ServiceError::NotFound { .. })));
                continue;
            };
            let (status, model) = (status.unwrap(), &self.folders[index]);
            let count = |flag: &str| model.messages.iter().filter(|one| one.flags.contains(flag)).count();
            assert_eq!(status.messages as usize, model.messages.len());
            assert_eq!(status.unseen as usize, model.messages.len() - count("\\Seen"));
            assert_eq!(status.deleted as usize, count("\\Deleted"));
            assert_eq!(status.octets as usize, model.messages.iter().map(|one| one.octets).sum::<usize>());
            assert_eq!(status.uid_next.0, model.uid_next);
        }
        for session in self.sessions.iter().flatten() {
            let model = &self.folders[session.folder];
            if let Some(newest) = model.messages.last().filter(|_| model.name.is_some())
                && session.view.uids().contains(&newest.uid)
            {
                let bytes = session.view.message(newest.uid).await.unwrap();
                assert_eq!(bytes.len(), newest.octets);
                assert!(bytes.ends_with(&message_bytes(&newest.text)));
            }
        }
    }
}

impl Session {
    /// Does what a client does with an answer.
    fn hear(&mut self, event: &FolderEvent, expunges: bool) {
        match event {
            FolderEvent::Expunged { sequence, uid } => {
                assert!(expunges);
                let (gone, _) = self.told.remove(*sequence as usize - 1);
                assert_eq!(gone, *uid);
            }
            FolderEvent::Exists { messages, .. } => {
                assert!(*messages as usize > self.told.len());
                let new = &self.view.uids()[self.told.len()..];
                assert_eq!(self.told.len() + new.len(), *messages as usize);
                let keywords = self.view.keywords();
                let states = self.view.states(new);
                self.told
                    .extend(states.into_iter().map(|state| (state.uid, names_of(state.flags, &keywords))));
            }
            FolderEvent::Flags { sequence, state } => {
                let told = &mut self.told[*sequence as usize - 1];
                assert_eq!(told.0, state.uid);
                told.1 = names_of(state.flags, &self.view.keywords());
            }
            FolderEvent::Keywords => {}
            FolderEvent::Gone => panic!("the folder is there"),
        }
    }

    /// States are those of the model, also of messages that went but are still shown.
    fn check_states(&self, model: &ModelFolder) {
        let states: Vec<MessageState> = self.view.states(self.view.uids());
        assert_eq!(states.len(), self.view.uids().len());
        for state in states {
            if let Some(message) = model.messages.iter().find(|one| one.uid == state.uid) {
                assert_eq!(state.octets as usize, message.octets);
                assert!(state.mod_seq <= self.view.highest_mod_seq());
            }
        }
    }
}

fn contents(model: &ModelFolder) -> Vec<(Uid, Flags)> {
    model.messages.iter().map(|one| (one.uid, one.flags.clone())).collect()
}

/// Runs sequences of commands, each in a mailbox of its own.
fn compare_with_model(url: &str, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let house = runtime.block_on(House::build(url));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let commands = prop::collection::vec(command(), 1..60);
    let run = |commands: Vec<Command>| {
        let house = house.clone();
        let outcome = runtime.block_on(runtime.spawn(async move {
            let mut world = World::new(house.another_mailbox().await);
            for command in commands {
                world.run(command).await;
                world.compare().await;
            }
            for session in 0..SESSIONS {
                world.sync(session, true).await;
            }
            world.house.check().await;
        }));
        outcome.map_err(|error| TestCaseError::fail(error.to_string()))
    };
    TestRunner::new(config).run(&commands, run).unwrap();
}

#[test]
fn sessions_see_what_the_model_says_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
    compare_with_model(&url, CASES_SQLITE);
}

#[test]
fn sessions_see_what_the_model_says_on_postgres() {
    let Some(postgres) = postgres::Postgres::start() else { return };
    compare_with_model(&postgres.url(), CASES_POSTGRES);
}
