//! Attachments that bodies share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::storage::pack::recipe::PART_OCTETS_MIN;

const FIRST: MailboxId = MailboxId(1);
const SECOND: MailboxId = MailboxId(2);

/// A message with attachments, as programs write them.
fn message(subject: &str, attachments: &[&[u8]]) -> Bytes {
    let mut text = format!("Subject: {subject}\r\nMIME-Version: 1.0\r\n\r\nText of {subject}\r\n");
    for attachment in attachments {
        text.push_str("--b\r\nContent-Transfer-Encoding: base64\r\n\r\n");
        for line in STANDARD.encode(attachment).as_bytes().chunks(76) {
            text.push_str(std::str::from_utf8(line).unwrap());
            text.push_str("\r\n");
        }
    }
    text.push_str("--b--\r\n");
    text.into()
}

impl Provider {
    /// The newest body of all, parts left out.
    fn newest(&self) -> BodyId {
        *self.expected.keys().next_back().unwrap()
    }

    async fn deliver_one(&mut self, bodies: &Bodies, original: Bytes, mailbox: MailboxId) -> BodyId {
        self.deliver(bodies, original, &[mailbox]).await;
        self.newest()
    }

    async fn parts(&self) -> i64 {
        self.number("SELECT count(*) FROM part").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachment_is_kept_once_for_each_customer() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let (shared, own) = (random_bytes(40_000), random_bytes(PART_OCTETS_MIN));
    let mut delivered = Vec::new();
    for subject in ["one", "two"] {
        let original = message(subject, &[&shared, &own, &shared]);
        delivered.push(provider.deliver_one(&bodies, original, FIRST).await);
    }
    provider.deliver_one(&bodies, message("other customer", &[&shared]), SECOND).await;
    let before = provider.number("SELECT CAST(sum(octets) AS BIGINT) FROM body").await;
    packer.pack_everything(NOW).await.unwrap();
    provider.check(&bodies).await;
    assert_eq!(provider.parts().await, 3, "two of one customer, one of the other");
    assert_eq!(provider.number("SELECT count(*) FROM body_part").await, 5);
    assert_eq!(provider.number("SELECT original_octets FROM pack").await, before);
    let pack = provider.number("SELECT octets FROM pack").await;
    assert!(pack < 2 * 40_000 + 16_384 + 3_000, "{pack} octets");
    // Later mail finds what is there already, in another pack.
    let later = provider.deliver_one(&bodies, message("later", &[&shared]), FIRST).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.check(&bodies).await;
    assert_eq!(provider.parts().await, 3);
    assert!(provider.number("SELECT octets FROM pack WHERE id = 2").await < 1_000);
    // A part stays until its last body ends.
    provider.delete(&delivered).await;
    provider.check(&bodies).await;
    assert_eq!(provider.parts().await, 2);
    provider.delete(&[later]).await;
    provider.check(&bodies).await;
    assert_eq!(provider.parts().await, 1);
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 1, "the pack that had nothing but the later message");
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_and_text_attachments_are_decoded_where_they_are() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let page = "<p>Much the same again and again.</p>".repeat(300);
    let original = message("page", &[page.as_bytes(), &random_bytes(PART_OCTETS_MIN - 1)]);
    let fresh = bodies.compress(&original).data.len() as i64;
    provider.deliver_one(&bodies, original, FIRST).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.check(&bodies).await;
    assert_eq!(provider.parts().await, 0);
    assert!(provider.number("SELECT stored_octets FROM body").await < fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_want_neither_decoding_nor_sharing_get_neither() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    for (settings, parts) in [
        (r#"{"compression.decode":"false"}"#, 0),
        (r#"{"compression.share":"false"}"#, 0),
        (r#"{"compression.decode":"true"}"#, 1),
    ] {
        let write = provider.database.write(Priority::Interactive, move |conn| {
            Box::pin(conn.execute("UPDATE store SET settings = $1", params![settings]))
        });
        let done: Result<u64> = write.await;
        done.unwrap();
        provider.deliver_one(&bodies, message("any", &[&random_bytes(20_000)]), FIRST).await;
        packer.pack_everything(NOW).await.unwrap();
        provider.check(&bodies).await;
        assert_eq!(provider.parts().await, parts, "{settings}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_with_shared_attachments_keeps_counts_right() {
    for point in 1..=4 {
        let mut provider = Provider::new().await;
        let (bodies, packer) = provider.start().await;
        let attachments: Vec<Vec<u8>> = (0..5).map(|_| random_bytes(17_000)).collect();
        for number in 0..300_usize {
            let attachment = &attachments[number % 5];
            let mailbox = if number % 7 == 0 { SECOND } else { FIRST };
            let attached: &[&[u8]] = if number % 3 == 0 { &[attachment] } else { &[] };
            provider.deliver(&bodies, message(&number.to_string(), attached), &[mailbox]).await;
        }
        provider.crash(packer, point).await;
        let (bodies, packer) = provider.start().await;
        packer.clean_up(NOW).await.unwrap();
        provider.check(&bodies).await;
        let deleted: Vec<BodyId> = provider.expected.keys().copied().step_by(2).collect();
        provider.delete(&deleted).await;
        provider.check(&bodies).await;
        packer.pack_everything(NOW).await.unwrap();
        assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 0);
        provider.check(&bodies).await;
        let all: Vec<BodyId> = provider.expected.keys().copied().collect();
        provider.delete(&all).await;
        packer.remove_dead(NOW).await.unwrap();
        provider.check(&bodies).await;
        assert_eq!(provider.number("SELECT count(*) FROM pack").await, 0, "point {point}");
        assert_eq!(provider.number("SELECT count(*) FROM body").await, 0, "point {point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_that_ends_while_a_pack_is_written_leaves_the_body_fresh() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let shared = random_bytes(30_000);
    let first = provider.deliver_one(&bodies, message("first", &[&shared]), FIRST).await;
    packer.pack_everything(NOW).await.unwrap();
    provider.deliver_one(&bodies, message("second", &[&shared]), FIRST).await;
    provider.deliver_one(&bodies, message("plain", &[]), FIRST).await;
    let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut held = provider.start().await.1;
    held.fault = Some(Fault { point: 3, reached: Arc::clone(&reached), go_on: Arc::clone(&go_on) });
    let pass = tokio::spawn(async move { held.pack_everything(NOW).await.unwrap() });
    reached.notified().await;
    provider.delete(&[first]).await;
    go_on.notify_one();
    pass.await.unwrap();
    provider.check(&bodies).await;
    assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 1, "the one with the attachment");
    assert_eq!(provider.parts().await, 0);
    packer.pack_everything(NOW).await.unwrap();
    assert_eq!(provider.number("SELECT count(*) FROM fresh_body").await, 0);
    assert_eq!(provider.parts().await, 1);
    provider.check(&bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_part_is_damage_of_its_bodies_alone() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    let shared = random_bytes(30_000);
    let with = provider.deliver_one(&bodies, message("with", &[&shared]), FIRST).await;
    packer.pack_everything(NOW).await.unwrap();
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    let later = provider.deliver_one(&bodies, message("later", &[&shared]), FIRST).await;
    let without = provider.deliver_one(&bodies, message("without", &[]), FIRST).await;
    packer.pack_everything(NOW).await.unwrap();
    let mut located = Vec::new();
    for body in [with, later, without] {
        let location = provider.database.read(|conn| Box::pin(locate(conn, body))).await.unwrap();
        located.push((body, location.unwrap()));
    }
    std::fs::write(&file, b"nothing").unwrap();
    let read = provider.start().await.0.read_located(located.clone()).await;
    assert!(read[..2].iter().all(|read| matches!(read, Err(StorageError::Corrupt(_)))), "{read:?}");
    assert_eq!(read[2].as_ref().unwrap(), &provider.expected[&without]);
    std::fs::remove_file(&file).unwrap();
    let read = provider.start().await.0.read_located(located).await;
    let is_missing =
        |read: &Result<Bytes>| matches!(read, Err(StorageError::Corrupt(what)) if what.contains("missing"));
    assert!(read[..2].iter().all(is_missing), "{read:?}");
    assert_eq!(read[2].as_ref().unwrap(), &provider.expected[&without]);
}
