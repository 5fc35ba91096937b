//! Dictionaries trained from a customer's own mail.

use super::*;
use crate::base::id::CustomerId;
use crate::storage::metadata::dictionary;
use crate::storage::pack::{DICTIONARY_SHIPPED, DICTIONARY_TRAINED, recover};

const CUSTOMER: CustomerId = CustomerId(2);

/// A message with what all mail of a customer has in common, and something of its own.
fn message(number: usize) -> Bytes {
    let own: String = random_bytes(150).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let common: String = (0..40)
        .map(|line: usize| {
            format!("Clause {line}: the tenant of unit {} shall {}.\r\n", line * 7, line * line * 31)
        })
        .collect();
    format!("Subject: lease {number}\r\n\r\n{own}\r\n{common}").into()
}

impl Provider {
    async fn lease(&mut self, bodies: &Bodies, count: usize) {
        for number in 0..count {
            self.deliver(bodies, message(number), &[MailboxId(1), MailboxId(2)]).await;
        }
        // As if there were more of it.
        self.execute("UPDATE mailbox SET bytes_used = 25000000").await;
    }

    async fn prune(&self) -> u64 {
        let write = self.database.write(Priority::Background, |conn| Box::pin(dictionary::prune(conn, NOW)));
        let done: Result<u64> = write.await;
        done.unwrap()
    }

    async fn dictionaries(&self) -> i64 {
        self.number("SELECT count(*) FROM dictionary").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customer_with_enough_mail_gets_a_dictionary_of_its_own() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.lease(&bodies, 200).await;
    let done = packer.retrain(CUSTOMER, NOW).await.unwrap().unwrap();
    assert_eq!(done.samples, 200);
    assert!(done.octets_after * 100 < done.octets_before * 98, "{done:?}");
    let trained = done.dictionary.unwrap();
    assert!(trained > DICTIONARY_TRAINED);
    packer.pack_everything(NOW).await.unwrap();
    // Whoever starts anew has to load it.
    let (bodies, packer) = provider.start().await;
    let mut expected = BTreeMap::new();
    for row in provider.rows("SELECT id, scope_id FROM body").await {
        let is_theirs = row.int(1).unwrap() == CUSTOMER.0;
        expected.insert(BodyId(row.int(0).unwrap()), if is_theirs { trained } else { DICTIONARY_SHIPPED });
    }
    bodies.learn([trained].into()).await.unwrap();
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    let frames = recover(bodies.codec(), &file).unwrap();
    assert_eq!(frames.len(), 400);
    for frame in frames {
        assert_eq!(frame.header.dictionary_id, expected[&frame.header.body], "of this customer alone");
    }
    provider.check(&bodies).await;
    let beside = provider.folder.path().join(format!("main/dictionaries/{trained}.dictionary"));
    assert!(beside.exists(), "it lies beside the packs");
    // It goes with its last frame, once it is out of use.
    provider.execute("UPDATE dictionary SET retired_at = 1").await;
    assert_eq!(provider.prune().await, 0);
    let all: Vec<BodyId> = provider.expected.keys().copied().collect();
    provider.delete(&all).await;
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 1);
    assert!(beside.exists(), "the pack's file is gone, its row with it; the dictionary's comes next");
    assert_eq!(bodies.prune_dictionaries(NOW).await.unwrap(), 1);
    assert_eq!(provider.dictionaries().await, 0);
    assert!(!beside.exists());
    assert_eq!(provider.number("SELECT count(*) FROM dictionary_place").await, 0);
}

/// Without a place for it beside the packs a dictionary is not used, and a pack that needs it is not made known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionary_that_cannot_be_put_beside_the_packs_is_not_used() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.lease(&bodies, 100).await;
    assert!(packer.retrain(CUSTOMER, NOW).await.unwrap().unwrap().dictionary.is_some());
    std::fs::create_dir_all(provider.folder.path().join("main")).unwrap();
    // A file stands where the folder has to be.
    std::fs::write(provider.folder.path().join("main/dictionaries"), b"").unwrap();
    packer.pack_everything(NOW).await.unwrap();
    let file = files(provider.folder.path()).into_iter().next().unwrap();
    let frames = recover(bodies.codec(), &file).unwrap();
    assert!(frames.iter().all(|frame| frame.header.dictionary_id == DICTIONARY_SHIPPED));
    provider.check(&bodies).await;
    assert_eq!(provider.number("SELECT count(*) FROM pack_dictionary").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_is_read_without_loading_its_dictionary_before_and_is_damaged_without_it() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.lease(&bodies, 100).await;
    assert!(packer.retrain(CUSTOMER, NOW).await.unwrap().unwrap().dictionary.is_some());
    packer.pack_everything(NOW).await.unwrap();
    let (anew, _) = provider.start().await;
    let theirs = BodyId(provider.number("SELECT min(id) FROM body WHERE scope_id = 2").await);
    assert_eq!(anew.read(theirs).await.unwrap(), provider.expected[&theirs]);
    provider.execute("DELETE FROM pack_dictionary").await;
    provider.execute("DELETE FROM dictionary").await;
    let (without, _) = provider.start().await;
    let error = without.read(theirs).await.unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt(what) if what.contains("dictionary")), "{error}");
    let others = BodyId(provider.number("SELECT min(id) FROM body WHERE scope_id = 3").await);
    assert_eq!(without.read(others).await.unwrap(), provider.expected[&others]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionary_that_saves_nothing_is_not_used() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    assert_eq!(packer.retrain(CUSTOMER, NOW).await.unwrap(), None, "no mail");
    for _ in 0..80 {
        provider.deliver(&bodies, random_bytes(3_000).into(), &[MailboxId(1)]).await;
    }
    assert_eq!(packer.retrain(CUSTOMER, NOW).await.unwrap(), None, "too little mail");
    provider.execute("UPDATE mailbox SET bytes_used = 25000000").await;
    // zstd may also find nothing in it at all.
    if let Ok(done) = packer.retrain(CUSTOMER, NOW).await {
        assert_eq!(done.unwrap().dictionary, None);
    }
    assert_eq!(provider.dictionaries().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_are_looked_through_once_a_day_and_not_again_for_a_month() {
    let mut provider = Provider::new().await;
    let (bodies, packer) = provider.start().await;
    provider.lease(&bodies, 100).await;
    let hours = |count: u64| NOW.plus(Duration::from_secs(count * 60 * 60));
    assert_eq!(packer.retrain_next(NOW).await.unwrap(), None, "not right after the start");
    assert_eq!(packer.retrain_next(hours(23)).await.unwrap(), None);
    assert!(packer.retrain_next(hours(24)).await.unwrap().is_some());
    assert!(packer.retrain_next(hours(24)).await.unwrap().is_some(), "the other customer");
    assert_eq!(provider.dictionaries().await, 2);
    assert_eq!(packer.retrain_next(hours(25)).await.unwrap(), None);
    assert_eq!(packer.retrain_next(hours(50)).await.unwrap(), None);
    assert!(packer.retrain_next(hours(24 * 33)).await.unwrap().is_some());
    assert_eq!(provider.number("SELECT count(*) FROM dictionary WHERE retired_at IS NULL").await, 2);
    // The bodies of a customer that is gone need no dictionary.
    provider.execute("DELETE FROM message").await;
    provider.execute("DELETE FROM folder").await;
    provider.execute("DELETE FROM mailbox").await;
    provider.execute("DELETE FROM domain").await;
    provider.execute("DELETE FROM customer WHERE id > 1").await;
    assert!(provider.prune().await >= 2);
    assert_eq!(provider.dictionaries().await, 0);
}
