//! Notices: what people are told, in their mailboxes and at the next login.

use posthouse::service::delivery::{Delivery, DeliverySettings};
use posthouse::service::expiry::ExpiryPass;
use posthouse::service::mailstore::intake::Intake;
use posthouse::service::notices::{Sender, Sent};

use super::*;

impl World {
    /// What brings notices into mailboxes.
    pub(super) fn sender(&self) -> Sender {
        let settings = DeliverySettings { host_name: "mail.example".to_owned(), message_octets_max: 1 << 20 };
        let intake = Intake::new(self.bodies.clone());
        let delivery =
            Delivery::new(self.database.clone(), self.clock.clone(), intake, Metrics::new(), settings);
        Sender::new(&self.management, delivery)
    }

    /// Messages in the mailbox `x` of this domain.
    async fn messages(&self, domain: &'static str) -> i64 {
        let read = self.database.read(move |conn| {
            Box::pin(async move {
                let text = "SELECT m.messages_used FROM mailbox m
                            JOIN domain d ON d.id = m.domain_id WHERE d.name = $1";
                let row = conn.row(text, vec![domain.into()]).await?;
                row.ok_or(StorageError::Gone("mailbox"))?.int(0)
            })
        });
        read.await.unwrap()
    }

    async fn reset(&self, who: &Authentication, address: &str) {
        let asked = json!({ "address": address, "password": "another horse battery" });
        self.run(who, "mailbox.password", asked).await.unwrap();
    }
}

const NOTHING: Sent = Sent { notices: 0, stored: 0, deferred: 0 };

pub(super) async fn password_set_by_an_administrator_ends_sessions_and_is_told_in_the_mailbox(world: World) {
    let word = SecretString::from(WORD);
    let session = world.login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let other = world.login.password(Service::Imap, "x@b.example", &word, None).await.unwrap();
    let sender = world.sender();
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let asked = json!({ "address": "x@a.example", "password": "another horse battery" });
    let context = world.a.context(None, "request".to_owned(), None);
    let tried = operation("mailbox.password").unwrap().run;
    tried(&world.management, context, asked.clone(), dry).await.unwrap();
    assert_eq!(sender.pass().await.unwrap(), NOTHING);
    assert!(tokio::time::timeout(Duration::from_millis(50), session.ended()).await.is_err());
    world.reset(&world.a, "x@a.example").await;
    tokio::time::timeout(Duration::from_secs(60), session.ended()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), other.ended()).await.is_err());
    // The same hash once more ends sessions too.
    let word = SecretString::from("another horse battery");
    let session = world.login.password(Service::Imap, "x@a.example", &word, None).await.unwrap();
    let hash = "{SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0";
    for _ in 0..2 {
        let asked = json!({ "address": "x@a.example", "password_hash": hash });
        world.run(&world.a, "mailbox.password", asked).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(60), session.ended()).await.unwrap();
    assert_eq!(sender.pass().await.unwrap(), Sent { notices: 3, stored: 3, deferred: 0 });
    assert_eq!((world.messages("a.example").await, world.messages("b.example").await), (3, 0));
    // It counts, its trace is there, and its reverse path is empty.
    assert!(world.number("SELECT bytes_used FROM mailbox WHERE id = 1").await > 500);
    let sent = "SELECT count(*) FROM delivery_trace WHERE sender = '' AND outcome = 'stored'";
    assert_eq!(world.number(sent).await, 3);
    let asked = json!({ "operation": "mailbox.password" });
    let found = world.run(&world.a, "audit.search", asked).await.unwrap();
    assert_eq!(found["items"][0]["after"], json!({ "content_capable": true }), "{found}");
}

pub(super) async fn notice_reaches_each_mailbox_once_however_often_it_is_tried(world: World) {
    let (one, other) = (world.sender(), world.sender());
    for _ in 0..20 {
        world.reset(&world.system, "x@a.example").await;
    }
    // Two senders see the same copies at the same time, and again after they have arrived.
    let (first, second) = tokio::join!(one.pass(), other.pass());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.notices + second.notices, 20);
    while one.pass().await.unwrap() != NOTHING {}
    assert_eq!(world.messages("a.example").await, 20);
    assert_eq!(world.number("SELECT count(*) FROM notice_mail").await, 0);
    // As a pass would that lost its answer: it finds the copy gone.
    assert_eq!(world.number("SELECT count(*) FROM notice").await, 20);
    let removed = world.housekeeping().pass(NOW.plus(DAY * 91)).await.unwrap();
    assert_eq!(removed.notices, 20);
    assert_eq!(world.number("SELECT count(*) FROM notice").await, 0);
}

pub(super) async fn notice_waits_for_room_and_goes_with_its_mailbox(world: World) {
    let quota = async |octets: Value| {
        world.run(&world.a, "mailbox.quota", json!({ "address": "x@a.example", "quota": octets })).await
    };
    quota(json!(0)).await.unwrap();
    world.reset(&world.a, "x@a.example").await;
    let sender = world.sender();
    assert_eq!(sender.pass().await.unwrap(), Sent { notices: 1, stored: 0, deferred: 1 });
    quota(Value::Null).await.unwrap();
    assert_eq!(sender.pass().await.unwrap(), NOTHING);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(sender.pass().await.unwrap(), Sent { notices: 0, stored: 1, deferred: 0 });
    assert_eq!(world.messages("a.example").await, 1);
    // A hold on receiving keeps no notice away; a deletion does.
    let hold = json!({ "mailbox": "x@a.example", "switch": "receive", "reason": "test" });
    world.run(&world.a, "hold.add", hold).await.unwrap();
    world.reset(&world.a, "x@a.example").await;
    assert_eq!(sender.pass().await.unwrap().stored, 1);
    assert_eq!(world.messages("a.example").await, 2);
    world.reset(&world.a, "x@a.example").await;
    world.run(&world.a, "mailbox.delete", json!({ "address": "x@a.example" })).await.unwrap();
    sender.pass().await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM notice_mail").await, 0);
    world.housekeeping().pass(NOW.plus(DAY * 31)).await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM notice").await, 0);
}

pub(super) async fn notice_for_a_customer_goes_to_its_contact_when_it_may_be_disturbed(world: World) {
    for (path, contact) in [("a", "x@a.example"), ("b", "somebody@elsewhere.example")] {
        world
            .run(&world.system, "customer.rename", json!({ "path": path, "contact": contact }))
            .await
            .unwrap();
    }
    // It is 01:46:40 in UTC.
    let quiet = json!({ "path": "a", "key": "notice.do_not_disturb", "value": "22:00-04:00" });
    world.run(&world.a, "setting.set", quiet).await.unwrap();
    let zone = json!({ "path": "a", "key": "time_zone", "value": "Atlantic/Azores" });
    world.run(&world.a, "setting.set", zone).await.unwrap();
    let pass = ExpiryPass::new(&world.management);
    for path in ["a", "b"] {
        world
            .run(&world.system, "customer.expire", json!({ "path": path, "expires_at": "9d" }))
            .await
            .unwrap();
    }
    let mailbox = json!({ "address": "x@b.example", "expires_at": "9d" });
    world.run(&world.b, "mailbox.expire", mailbox).await.unwrap();
    assert_eq!(pass.pass().await.unwrap(), 3);
    // Only the owner of a mailbox is told in it now; who logs in is told of the rest.
    let sender = world.sender();
    assert_eq!(sender.pass().await.unwrap(), Sent { notices: 3, stored: 1, deferred: 0 });
    for who in [&world.a, &world.b] {
        let me = world.run(who, "whoami", json!({})).await.unwrap();
        assert_eq!(
            (&me["notices"]["count"], &me["notices"]["newest"][0]["kind"]),
            (&json!(1), &json!("expiry-warning"))
        );
    }
    // 04:00 in the Azores is 04:00 in UTC in summer.
    world.clock.advance(Duration::from_secs(2 * 60 * 60));
    assert_eq!(sender.pass().await.unwrap(), NOTHING);
    world.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!(sender.pass().await.unwrap(), Sent { notices: 0, stored: 1, deferred: 0 });
    assert_eq!((world.messages("a.example").await, world.messages("b.example").await), (1, 1));
    world.clock.advance(DAY);
    assert_eq!(sender.pass().await.unwrap(), NOTHING);
}
