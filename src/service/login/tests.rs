//! Logins and sessions against a database.

use std::time::Duration;

use super::*;
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::StorageError;
use crate::storage::metadata::lane::Priority;

/// `correct horse`.
const SSHA: &str = "{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0";
const NOW: Timestamp = Timestamp::from_secs(1_000_000);

struct Fixture {
    login: Login,
    clock: Clock,
    database: Database,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&format!("sqlite:{}/m.db", folder.path().display())).await.unwrap();
        let clock = Clock::manual(NOW);
        let fixture =
            Self { login: Login::new(database.clone(), clock.clone()), clock, database, _folder: folder };
        for text in [
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at) VALUES
             (101, 'root', NULL, 'r', 'Root', 'R', 0), (102, 'below', 101, 'b', 'Below', 'B', 0)",
            "INSERT INTO store (id, name, path, created_at) VALUES (101, 'other', 'x', 0)",
            "INSERT INTO domain (id, public_id, customer_id, name, state, alias_of, created_at) VALUES
             (101, 'd1', 102, 'x.example', 'verified', NULL, 0), (102, 'd2', 102, 'y.example', 'verified', 101, 0),
             (103, 'd3', 102, 'pending.example', 'pending', NULL, 0)",
        ] {
            fixture.execute(text, None).await;
        }
        for (id, domain) in [(101, 101), (103, 103)] {
            let text = format!(
                "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id,
                 uid_validity_next, created_at) VALUES ({id}, 'm{id}', {domain}, 'a', '{SSHA}', 101, 1, 0)"
            );
            fixture.execute(text, None).await;
        }
        fixture
    }

    async fn execute(&self, text: impl Into<String>, touched: Option<Touched>) {
        let text = text.into();
        let done: std::result::Result<(), StorageError> = self
            .database
            .write(Priority::Interactive, move |conn| {
                let text = text.clone();
                Box::pin(async move {
                    conn.execute(text, params![]).await?;
                    if let Some(touched) = touched {
                        conn.touch(touched);
                    }
                    Ok(())
                })
            })
            .await;
        done.unwrap();
    }

    async fn hold(&self, target: &str, id: i64, switch: &str) {
        let text = format!(
            "INSERT INTO hold (public_id, {target}, switch, reason, actor, authority_customer_id, created_at)
             VALUES ('h-{target}-{switch}', {id}, '{switch}', 'test', 'test', 101, 0)"
        );
        self.execute(text, Some(Touched::Directory)).await;
    }

    async fn try_login(
        &self,
        service: Service,
        name: &str,
        word: &str,
    ) -> std::result::Result<MailSession, LoginError> {
        self.login
            .password(service, name, &SecretString::from(word), Some("192.0.2.1".parse().unwrap()))
            .await
    }

    async fn session(&self) -> MailSession {
        self.try_login(Service::Imap, "a@x.example", "correct horse").await.unwrap()
    }

    async fn error(&self, service: Service, name: &str, word: &str) -> Option<LoginError> {
        self.try_login(service, name, word).await.err()
    }
}

/// Whether the session ends; the time bounds only a failing test.
async fn ends(session: &MailSession) -> bool {
    tokio::time::timeout(Duration::from_secs(20), session.ended()).await.is_ok()
}

#[tokio::test]
async fn right_password_makes_a_session_that_is_listed_until_dropped() {
    let fixture = Fixture::new().await;
    for name in ["a@x.example", "A@X.Example", "a@y.example"] {
        let session = fixture.try_login(Service::Imap, name, "correct horse").await.unwrap();
        assert_eq!(session.owner().address().to_string(), "a@x.example");
        assert_eq!(session.owner().mailbox(), MailboxId(101));
        let listed = fixture.login.sessions();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id.as_str(), listed[0].since), (session.id(), NOW));
        drop(session);
        assert!(fixture.login.sessions().is_empty());
    }
}

#[tokio::test]
async fn everything_else_has_one_answer() {
    let fixture = Fixture::new().await;
    for (name, word) in [
        ("a@x.example", "wrong"),
        ("a@x.example", ""),
        ("b@x.example", "correct horse"),
        ("a@pending.example", "correct horse"),
        ("a@unknown.example", "correct horse"),
        ("a", "correct horse"),
        ("", ""),
    ] {
        assert_eq!(fixture.error(Service::Imap, name, word).await, Some(LoginError::Failed), "{name}");
    }
    fixture.execute("UPDATE mailbox SET deleted_at = 1 WHERE id = 101", None).await;
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "correct horse").await, Some(LoginError::Failed));
    assert!(fixture.login.sessions().is_empty());
}

#[tokio::test]
async fn holds_count_for_the_services_that_they_name() {
    let fixture = Fixture::new().await;
    let error = async |service| fixture.error(service, "a@x.example", "correct horse").await;
    fixture.hold("customer_id", 101, "pop3").await;
    assert_eq!(error(Service::Pop3).await, Some(LoginError::Held));
    assert_eq!(error(Service::Imap).await, None);
    fixture.hold("domain_id", 101, "send").await;
    assert_eq!(error(Service::Submission).await, Some(LoginError::Held));
    assert_eq!(error(Service::Imap).await, None);
    fixture.hold("mailbox_id", 101, "login").await;
    assert_eq!(error(Service::Imap).await, Some(LoginError::Held));
    // Whoever does not know the password does not learn of the hold.
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "wrong").await, Some(LoginError::Failed));
}

#[tokio::test]
async fn a_new_password_counts_at_once() {
    let fixture = Fixture::new().await;
    let session = fixture.session().await;
    let other = password::PasswordHash::new(&SecretString::from("other")).unwrap();
    let text = format!("UPDATE mailbox SET password_hash = '{}' WHERE id = 101", other.as_str());
    fixture.execute(text, Some(Touched::Mailbox(MailboxId(101)))).await;
    assert!(ends(&session).await);
    assert!(ends(&session).await, "may be awaited again");
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "correct horse").await, Some(LoginError::Failed));
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "other").await, None);
}

#[tokio::test]
async fn sessions_end_when_held_deleted_or_closed_and_not_otherwise() {
    let fixture = Fixture::new().await;
    let held = fixture.session().await;
    let pop3 = fixture.try_login(Service::Pop3, "a@x.example", "correct horse").await.unwrap();
    fixture.hold("customer_id", 101, "imap").await;
    assert!(ends(&held).await);
    drop(held);

    // The change concerns the other session, too. Sessions look one after the other, so when this test has had two
    // turns the session has had one, and goes on.
    tokio::select! {
        biased;
        () = pop3.ended() => panic!("a session that nothing concerns ended"),
        () = async {
            assert!(pop3.may_go_on().await);
            assert!(pop3.may_go_on().await);
        } => {}
    }
    assert!(fixture.login.session_close(pop3.id()));
    assert!(ends(&pop3).await);
    assert!(!fixture.login.session_close("unknown"));

    let deleted = fixture.try_login(Service::Pop3, "a@x.example", "correct horse").await.unwrap();
    fixture
        .execute("UPDATE domain SET deleted_at = 1 WHERE id = 101", Some(Touched::Mailbox(MailboxId(101))))
        .await;
    assert!(ends(&deleted).await);
    assert_eq!(fixture.login.mailbox_close(MailboxId(101)), 2);
}

#[tokio::test]
async fn last_login_is_written_by_flush() {
    let fixture = Fixture::new().await;
    let last = async || {
        let read =
            fixture.database.read(|conn| Box::pin(async { mailbox::by_id(conn, MailboxId(101)).await }));
        let row: std::result::Result<_, StorageError> = read.await;
        row.unwrap().unwrap().last_login_at
    };
    let _first = fixture.session().await;
    assert_eq!(last().await, None);
    fixture.login.flush().await;
    assert_eq!(last().await, Some(NOW));
    fixture.clock.advance(Duration::from_secs(60));
    let _second = fixture.session().await;
    fixture.login.flush().await;
    assert_eq!(last().await, Some(Timestamp::from_secs(1_000_060)));
}

#[tokio::test]
async fn guessing_is_refused_after_a_while() {
    let fixture = Fixture::new().await;
    let mut answers = Vec::new();
    for _ in 0..25 {
        answers.push(fixture.error(Service::Imap, "a@x.example", "wrong").await.unwrap());
    }
    assert_eq!(answers.first(), Some(&LoginError::Failed));
    assert_eq!(answers.last(), Some(&LoginError::TooMany));
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "correct horse").await, Some(LoginError::TooMany));
    fixture.clock.advance(Duration::from_secs(5 * 60));
    assert_eq!(fixture.error(Service::Imap, "a@x.example", "correct horse").await, None);
}

#[tokio::test]
async fn imported_hashes_become_argon2id_at_the_next_login_and_sessions_go_on() {
    /// `correct horse`, in SHA-512-crypt, bcrypt and SSHA.
    const IMPORTED: [&str; 3] = [
        "$6$saltstring$.r0X7ub5wGR2v4Xz7svCIozfnlorFh19V89t8KC9Umd81uGhFgsyTRNyzQDXDIm17fFcR9z3z7oBNdsyYBbtm/",
        "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e",
        SSHA,
    ];
    for imported in IMPORTED {
        let fixture = Fixture::new().await;
        fixture
            .execute(format!("UPDATE mailbox SET password_hash = '{imported}' WHERE id = 101"), None)
            .await;
        let stored = async || {
            let read =
                fixture.database.read(|conn| Box::pin(async { mailbox::by_id(conn, MailboxId(101)).await }));
            let row: std::result::Result<_, StorageError> = read.await;
            row.unwrap().unwrap().password_hash
        };
        // A wrong password changes nothing.
        assert_eq!(fixture.error(Service::Imap, "a@x.example", "wrong").await, Some(LoginError::Failed));
        assert_eq!(stored().await, imported);
        let (first, second) = tokio::join!(fixture.session(), fixture.session());
        let renewed = stored().await;
        assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{renewed}");
        // The same password goes on, and the hash is not made anew each time.
        assert!(first.may_go_on().await && second.may_go_on().await);
        let third = fixture.session().await;
        assert_eq!(stored().await, renewed);
        assert_eq!(fixture.error(Service::Imap, "a@x.example", "wrong").await, Some(LoginError::Failed));
        // Another password ends them all, as ever.
        fixture
            .execute(
                format!("UPDATE mailbox SET password_hash = '{SSHA}x' WHERE id = 101"),
                Some(Touched::Mailbox(MailboxId(101))),
            )
            .await;
        assert!(ends(&first).await && ends(&second).await && ends(&third).await);
    }
}
