//! Messages and a folder come and go at random, while the mailbox moves between mail stores and its mail is packed;
//! what is there and what comes back is compared with a simple model, and at the end references, quotas and everything
//! else is counted again.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::undelete::{housekeeping, in_days, undelete_all, undelete_folder};
use super::*;
use crate::base::id::StoreId;
use crate::base::progress::Progress;
use crate::storage::homing::{Homing, Journey};
use crate::storage::metadata::home;
use crate::storage::packer::{Packer, PackerSettings};

/// What happens in a mailbox with INBOX and, at times, a folder A; masks pick messages by their place.
#[derive(Clone, Debug)]
enum Step {
    Append {
        in_a: bool,
        delivered: bool,
    },
    Copy {
        from_a: bool,
        mask: u8,
    },
    Move {
        from_a: bool,
        mask: u8,
    },
    Expunge {
        in_a: bool,
        mask: u8,
    },
    Delete,
    Create,
    Undelete,
    UndeleteFolder,
    Purge,
    Expire,
    /// The mailbox is placed on the other mail store; its bodies begin to follow beside what comes next.
    Place,
    Pack,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || (any::<bool>(), any::<u8>());
    prop_oneof![
        5 => (any::<bool>(), any::<bool>()).prop_map(|(in_a, delivered)| Step::Append { in_a, delivered }),
        2 => some().prop_map(|(from_a, mask)| Step::Copy { from_a, mask }),
        2 => some().prop_map(|(from_a, mask)| Step::Move { from_a, mask }),
        5 => some().prop_map(|(in_a, mask)| Step::Expunge { in_a, mask }),
        2 => Just(Step::Delete),
        2 => Just(Step::Create),
        3 => Just(Step::Undelete),
        1 => Just(Step::UndeleteFolder),
        1 => Just(Step::Purge),
        1 => Just(Step::Expire),
        3 => Just(Step::Place),
        2 => Just(Step::Pack),
    ]
}

/// What there should be, by the texts of messages.
#[derive(Default)]
struct Expected {
    inbox: Vec<String>,
    /// The folder A and which of that name it is.
    a: Option<(u32, Vec<String>)>,
    made: u32,
    /// Texts of what can come back, with the folder A in which they were; none for INBOX.
    gone: Vec<(Option<u32>, String)>,
    /// Deleted folders that can come back.
    deleted: Vec<u32>,
    number: u32,
}

impl Expected {
    fn folder(&mut self, a: bool) -> Option<&mut Vec<String>> {
        if a { self.a.as_mut().map(|(_, texts)| texts) } else { Some(&mut self.inbox) }
    }

    fn create(&mut self) -> &mut Vec<String> {
        if self.a.is_none() {
            self.made += 1;
            self.a = Some((self.made, Vec::new()));
        }
        &mut self.a.as_mut().unwrap().1
    }

    fn come_back(&mut self, wanted: impl Fn(Option<u32>) -> bool) {
        for (place, text) in std::mem::take(&mut self.gone) {
            if !wanted(place) {
                self.gone.push((place, text));
            } else if place.is_none() {
                self.inbox.push(text);
            } else {
                self.create().push(text);
            }
        }
    }
}

struct Scene {
    house: House,
    expected: Expected,
    /// The mail store on which the mailbox is placed.
    store: StoreId,
    /// Bodies on their way home.
    journeys: Vec<tokio::task::JoinHandle<Result<()>>>,
}

/// Brings all bodies of a mailbox home.
async fn bring(house: House) -> Result<()> {
    let (homing, progress) = (Homing::new(house.store.inner.bodies.clone(), None), Progress::default());
    homing.bring(house.owner.mailbox, &mut Journey::new(&progress, 0, in_days(0))).await
}

impl Scene {
    /// The messages that a mask picks, taken from what is expected, with their UIDs.
    async fn picked(&mut self, a: bool, mask: u8, take: bool) -> Option<(FolderView, Vec<Uid>, Vec<String>)> {
        self.expected.folder(a)?;
        let view = self.house.select(if a { "A" } else { "INBOX" }).await;
        let all = view.uids().to_vec();
        let uids: Vec<Uid> =
            all.iter().enumerate().filter(|(at, _)| mask >> (at % 8) & 1 == 1).map(|(_, uid)| *uid).collect();
        if uids.is_empty() {
            return None;
        }
        let mut texts = Vec::new();
        for chunk in uids.chunks(64) {
            texts.extend(
                view.messages(chunk)
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|(_, message)| text_of(&message.unwrap())),
            );
        }
        if take {
            let folder = self.expected.folder(a)?;
            for text in &texts {
                let at = folder.iter().position(|one| one == text).unwrap();
                folder.remove(at);
            }
        }
        Some((view, uids, texts))
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Append { in_a, delivered } => {
                self.expected.number += 1;
                let text = self.expected.number.to_string();
                if delivered {
                    self.house.deliver(&text).await;
                    self.expected.inbox.push(text);
                } else if self.expected.folder(in_a).is_some() {
                    self.house.append(if in_a { "A" } else { "INBOX" }, &[text.as_str()]).await;
                    self.expected.folder(in_a).unwrap().push(text);
                }
            }
            Step::Copy { from_a, mask } | Step::Move { from_a, mask } => {
                if self.expected.a.is_none() {
                    return;
                }
                let moves = matches!(step, Step::Move { .. });
                let Some((mut view, uids, texts)) = self.picked(from_a, mask, moves).await else { return };
                let target = name(if from_a { "INBOX" } else { "A" });
                if moves {
                    view.move_to(&uids, &target).await.unwrap();
                } else {
                    view.copy(&uids, &target).await.unwrap();
                }
                self.expected.folder(!from_a).unwrap().extend(texts);
            }
            Step::Expunge { in_a, mask } => {
                let Some((mut view, uids, texts)) = self.picked(in_a, mask, true).await else { return };
                remove(&mut view, &uids).await;
                let place = self.expected.a.as_ref().map(|(made, _)| *made).filter(|_| in_a);
                self.expected.gone.extend(texts.into_iter().map(|text| (place, text)));
            }
            Step::Delete => {
                if let Some((made, texts)) = self.expected.a.take() {
                    self.house.store.folder_delete(&self.house.owner, &name("A")).await.unwrap();
                    self.expected.gone.extend(texts.into_iter().map(|text| (Some(made), text)));
                    self.expected.deleted.push(made);
                }
            }
            Step::Create => {
                let created = self.house.store.folder_create(&self.house.owner, &name("A"), None).await;
                assert_eq!(created.is_ok(), self.expected.a.is_none());
                self.expected.create();
            }
            Step::Undelete => {
                undelete_all(&self.house).await;
                self.expected.come_back(|_| true);
            }
            Step::UndeleteFolder => {
                let last = self.expected.deleted.pop();
                assert_eq!(undelete_folder(&self.house, "A").await, last.is_some());
                if last.is_some() {
                    self.expected.create();
                    self.expected.come_back(|place| place == last);
                }
            }
            Step::Place => {
                self.store = StoreId(3 - self.store.0);
                let (mailbox, store) = (self.house.owner.mailbox, self.store);
                let write = self.house.database.write(Priority::Interactive, move |conn| {
                    Box::pin(async move { home::set_store(conn, &[mailbox], store, in_days(0)).await })
                });
                let placed: Result<()> = write.await;
                placed.unwrap();
                self.journeys.push(tokio::spawn(bring(self.house.clone())));
            }
            Step::Pack => {
                let packer = Packer::new(self.house.store.inner.bodies.clone(), PackerSettings::default());
                packer.pack_everything(in_days(0)).await.unwrap();
            }
            Step::Purge => while self.house.store.purge_slice().await.unwrap() {},
            Step::Expire => {
                housekeeping(&self.house).pass(in_days(31)).await.unwrap();
                self.expected.gone.clear();
                self.expected.deleted.clear();
            }
        }
    }

    /// Waits until all bodies are at home, in the mail store where they belong.
    async fn come_home(&mut self) {
        for journey in self.journeys.drain(..) {
            journey.await.unwrap().unwrap();
        }
        bring(self.house.clone()).await.unwrap();
        let (mailbox, store) = (self.house.owner.mailbox, self.store);
        let text = "SELECT count(*) FROM (SELECT mailbox_id, body_id FROM message
                                          UNION ALL SELECT mailbox_id, body_id FROM tombstone) r
                         JOIN body b ON b.id = r.body_id
                    WHERE r.mailbox_id = $1 AND b.store_id <> $2";
        let away: Result<i64> = self
            .house
            .database
            .read(|conn| {
                Box::pin(async move { conn.row(text, params![mailbox, store]).await?.unwrap().int(0) })
            })
            .await;
        assert_eq!(away.unwrap(), 0);
        assert_eq!(self.house.number("SELECT count(*) FROM homing").await, 0);
    }

    async fn compare(&mut self) {
        self.come_home().await;
        for (folder, wanted) in
            [("INBOX", Some(&self.expected.inbox)), ("A", self.expected.a.as_ref().map(|a| &a.1))]
        {
            let Some(wanted) = wanted else { continue };
            let view = self.house.select(folder).await;
            let mut found = Vec::new();
            for uids in view.uids().chunks(64) {
                found.extend(
                    view.messages(uids)
                        .await
                        .unwrap()
                        .into_iter()
                        .map(|(_, message)| text_of(&message.unwrap())),
                );
            }
            let mut wanted = wanted.clone();
            wanted.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, wanted, "{folder}");
        }
        self.house.check().await;
    }
}

fn text_of(message: &Bytes) -> String {
    let text = String::from_utf8_lossy(message);
    let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
    assert!(text.ends_with(&format!("\r\n\r\nbody of {subject}\r\n")), "{text}");
    subject
}

fn compare_with_model(url: &str, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let house = runtime.block_on(House::build(url));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let run = |steps: Vec<Step>| {
        let house = house.clone();
        let outcome = runtime.block_on(runtime.spawn(async move {
            let (house, expected) = (house.another_mailbox().await, Expected::default());
            let mut scene = Scene { house, expected, store: StoreId(1), journeys: Vec::new() };
            for step in steps {
                scene.run(step).await;
            }
            scene.compare().await;
        }));
        outcome.map_err(|error| TestCaseError::fail(error.to_string()))
    };
    TestRunner::new(config).run(&prop::collection::vec(step(), 1..40), run).unwrap();
}

#[test]
fn what_is_there_and_what_comes_back_is_what_the_model_says_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
    compare_with_model(&url, 32);
}

#[test]
fn what_is_there_and_what_comes_back_is_what_the_model_says_on_postgres() {
    let Some(postgres) = postgres::Postgres::start() else { return };
    compare_with_model(&postgres.url(), 8);
}
