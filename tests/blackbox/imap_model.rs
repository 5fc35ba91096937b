//! Random commands from several sessions and deliveries in between, compared with a simple model step by step: no
//! session ever sees a folder that is not the model's, loses count, or is told of an expunge where RFC 3501 section
//! 7.4.1 forbids it.

use std::collections::BTreeSet;

use crate::support::Random;
use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::imap::{Answer, Imap};

const READER: &str = "alice@acme.test";
const FOLDERS: [&str; 2] = ["INBOX", "Filed"];
const FLAGS: [&str; 4] = ["\\Answered", "\\Flagged", "\\Seen", "project"];
const SESSIONS: usize = 3;
const STEPS: usize = 400;

/// A message as the model knows it.
#[derive(Clone, Debug)]
struct Message {
    uid: u64,
    number: u64,
    flags: BTreeSet<String>,
}

/// A folder as it should be.
#[derive(Default)]
struct Folder {
    messages: Vec<Message>,
    uid_last: u64,
}

impl Folder {
    fn add(&mut self, number: u64, flags: BTreeSet<String>) {
        self.uid_last += 1;
        self.messages.push(Message { uid: self.uid_last, number, flags });
    }
}

/// A session and the messages that it has been told of.
struct Session {
    imap: Imap,
    folder: usize,
    view: Vec<u64>,
}

struct World<'d> {
    daemon: &'d Daemon,
    random: Random,
    folders: [Folder; 2],
    sessions: Vec<Session>,
    next_number: u64,
}

impl<'d> World<'d> {
    fn new(daemon: &'d Daemon, seed: u64) -> Self {
        let sessions = (0..SESSIONS)
            .map(|index| {
                let mut imap = daemon.imap(READER);
                let folder = index % FOLDERS.len();
                imap.select(FOLDERS[folder]);
                Session { imap, folder, view: Vec::new() }
            })
            .collect();
        Self { daemon, random: Random::new(seed), folders: Default::default(), sessions, next_number: 0 }
    }

    fn step(&mut self) {
        let session = self.random.below(SESSIONS);
        match self.random.below(11) {
            0 | 1 => self.append(session),
            2 => self.deliver(),
            3 | 4 => self.store(session),
            5 => self.transfer(session, "COPY"),
            6 => self.transfer(session, "MOVE"),
            7 => self.expunge(session),
            8 => self.reselect(session),
            9 => self.fetch(session),
            _ => self.compare(session),
        }
    }

    fn content(&mut self) -> (u64, Vec<u8>) {
        self.next_number += 1;
        (self.next_number, message(600, self.next_number))
    }

    fn some_flags(&mut self) -> BTreeSet<String> {
        let bits = self.random.below(1 << FLAGS.len());
        let chosen = FLAGS.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
        chosen.map(|(_, flag)| (*flag).to_owned()).collect()
    }

    /// A message that the session knows and that is still there.
    fn known(&mut self, session: usize) -> Option<usize> {
        let Session { folder, view, .. } = &self.sessions[session];
        let messages = &self.folders[*folder].messages;
        let both: Vec<usize> = (0..messages.len()).filter(|&i| view.contains(&messages[i].uid)).collect();
        (!both.is_empty()).then(|| both[self.random.below(both.len())])
    }

    /// Runs a command and follows what the session is told.
    fn command(&mut self, session: usize, text: &str, may_expunge: bool) -> Answer {
        let answer = self.sessions[session].imap.command(text).expect(text).ok();
        self.follow(session, &answer, may_expunge, text);
        answer
    }

    fn follow(&mut self, session: usize, answer: &Answer, may_expunge: bool, text: &str) {
        for line in &answer.untagged {
            let Some(number) = line.number().map(|number| number as usize) else { continue };
            match line.keyword() {
                "EXPUNGE" => {
                    assert!(may_expunge, "EXPUNGE in answer to {text}");
                    let Session { folder, view, .. } = &mut self.sessions[session];
                    let gone = view.remove(number - 1);
                    let messages = &self.folders[*folder].messages;
                    assert!(messages.iter().all(|message| message.uid != gone), "{gone} is still there");
                }
                "EXISTS" => self.grow(session, number),
                _ => {}
            }
        }
    }

    /// The session was told that its folder has `count` messages now.
    fn grow(&mut self, session: usize, count: usize) {
        let Session { folder, view, imap } = &mut self.sessions[session];
        assert!(count >= view.len(), "EXISTS went down without EXPUNGE");
        let (known, last) = (view.len(), view.last().copied().unwrap_or(0));
        let model = self.folders[*folder].messages.iter().map(|message| message.uid);
        let new: Vec<u64> = model.filter(|uid| *uid > last).collect();
        if count - known == new.len() {
            view.extend(new);
            return;
        }
        // Some came and went before the session was told of either; it may be told of both, in this order.
        let answer = imap.command(&format!("FETCH {}:* (UID)", known + 1)).expect("FETCH").ok();
        view.resize(count, 0);
        for line in answer.all("FETCH") {
            let number = line.number().expect("number") as usize;
            view[number - 1] = line.item_number("UID").expect("UID");
        }
        assert!(new.iter().all(|uid| view.contains(uid)), "{new:?} are missing in {view:?}");
    }

    fn append(&mut self, session: usize) {
        let (number, content) = self.content();
        let (target, flags) = (self.random.below(FOLDERS.len()), self.some_flags());
        let list = flags.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let answer =
            self.sessions[session].imap.append(FOLDERS[target], &list, &content).expect("APPEND").ok();
        self.folders[target].add(number, flags);
        let uid = answer.code("APPENDUID").and_then(|code| code.split_once(' ')?.1.parse().ok());
        assert_eq!(uid, Some(self.folders[target].uid_last));
        self.follow(session, &answer, true, "APPEND");
    }

    fn deliver(&mut self) {
        let (number, content) = self.content();
        self.daemon.deliver(READER, &content);
        self.folders[0].add(number, BTreeSet::new());
    }

    fn store(&mut self, session: usize) {
        let Some(index) = self.known(session) else { return };
        let mut flags = self.some_flags();
        if self.random.below(4) == 0 {
            flags.insert("\\Deleted".to_owned());
        }
        let message = &mut self.folders[self.sessions[session].folder].messages[index];
        let list = flags.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let mode = ["", "+", "-"][self.random.below(3)];
        match mode {
            "" => message.flags = flags,
            "+" => message.flags.extend(flags),
            _ => message.flags.retain(|flag| !flags.contains(flag)),
        }
        let command = format!("UID STORE {} {mode}FLAGS ({list})", message.uid);
        self.command(session, &command, true);
    }

    fn transfer(&mut self, session: usize, verb: &str) {
        let Some(index) = self.known(session) else { return };
        let from = self.sessions[session].folder;
        let to = self.random.below(FOLDERS.len());
        let message = self.folders[from].messages[index].clone();
        if verb == "MOVE" {
            self.folders[from].messages.remove(index);
        }
        self.folders[to].add(message.number, message.flags);
        let answer = self.command(session, &format!("UID {verb} {} {}", message.uid, FOLDERS[to]), true);
        let code = answer.code("COPYUID").expect("COPYUID");
        let uids: Vec<&str> = code.split(' ').skip(1).collect();
        assert_eq!(uids, [message.uid.to_string(), self.folders[to].uid_last.to_string()]);
    }

    /// Whether messages go that the session was not yet told of is the server's choice, so it is told before.
    fn expunge(&mut self, session: usize) {
        self.compare(session);
        let folder = &mut self.folders[self.sessions[session].folder];
        folder.messages.retain(|message| !message.flags.contains("\\Deleted"));
        self.command(session, "EXPUNGE", true);
        self.compare(session);
    }

    fn reselect(&mut self, session: usize) {
        let folder = self.random.below(FOLDERS.len());
        let answer = self.sessions[session].imap.select(FOLDERS[folder]);
        let (model, session) = (&self.folders[folder], &mut self.sessions[session]);
        assert_eq!(answer.exists(), Some(model.messages.len() as u32));
        assert_eq!(answer.code("UIDNEXT"), Some((model.uid_last + 1).to_string()));
        session.folder = folder;
        session.view = model.messages.iter().map(|message| message.uid).collect();
    }

    /// By message number, so that nothing may be expunged under it (RFC 3501 section 7.4.1).
    fn fetch(&mut self, session: usize) {
        let Some(index) = self.known(session) else { return };
        let Session { folder, view, .. } = &self.sessions[session];
        let message = self.folders[*folder].messages[index].clone();
        let number = view.iter().position(|uid| *uid == message.uid).expect("known") + 1;
        let answer = self.command(session, &format!("FETCH {number} (UID BODY.PEEK[])"), false);
        let line = answer.all("FETCH").find(|line| !line.literals.is_empty()).expect("FETCH response");
        assert_eq!((line.number(), line.item_number("UID")), (Some(number as u32), Some(message.uid)));
        let subject = format!("Subject: Message number {}\r\n", message.number);
        assert!(String::from_utf8_lossy(&line.literals[0]).contains(&subject));
    }

    /// After NOOP the session sees exactly the model.
    fn compare(&mut self, session: usize) {
        self.command(session, "NOOP", true);
        let model = &self.folders[self.sessions[session].folder].messages;
        let uids: Vec<u64> = model.iter().map(|message| message.uid).collect();
        assert_eq!(self.sessions[session].view, uids, "what the session was told differs from what is there");
        if model.is_empty() {
            return;
        }
        let answer = self.sessions[session].imap.command("FETCH 1:* (UID FLAGS)").expect("FETCH").ok();
        let seen: Vec<(u64, BTreeSet<String>)> = answer
            .all("FETCH")
            .map(|line| {
                let flags = line.flags().expect("FLAGS");
                let flags = flags.into_iter().filter(|flag| flag != "\\Recent").collect();
                (line.item_number("UID").expect("UID"), flags)
            })
            .collect();
        let expected: Vec<(u64, BTreeSet<String>)> =
            model.iter().map(|message| (message.uid, message.flags.clone())).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn sessions_see_what_the_model_says() {
    for (database, seed) in Database::all().into_iter().zip([1, 2]) {
        let daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
        daemon.imap(READER).command("CREATE Filed").expect("CREATE").ok();
        let mut world = World::new(&daemon, seed);
        for _ in 0..STEPS {
            world.step();
        }
        for session in 0..SESSIONS {
            world.compare(session);
        }
    }
}
