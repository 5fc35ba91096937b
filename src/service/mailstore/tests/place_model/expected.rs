//! What there should be in a mailbox, and how it is compared with what there is.

use super::*;

/// A message: which body it has, and all of its octets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Letter {
    pub(super) body: (CustomerId, u32),
    pub(super) octets: Bytes,
}

/// What there should be in a mailbox.
pub(super) struct Expected {
    pub(super) house: House,
    /// By UID.
    pub(super) there: BTreeMap<u32, Letter>,
    /// What came since the last look, in no order.
    pub(super) came: Vec<Letter>,
    /// What can come back.
    pub(super) gone: Vec<Letter>,
    uid_max: u32,
}

impl Expected {
    pub(super) fn new(house: House) -> Self {
        Self { house, there: BTreeMap::new(), came: Vec::new(), gone: Vec::new(), uid_max: 0 }
    }

    fn picked(&self, mask: u8) -> Vec<Uid> {
        let picked = self.there.keys().enumerate().filter(|(at, _)| mask >> (at % 8) & 1 == 1);
        picked.map(|(_, uid)| Uid(*uid)).collect()
    }

    pub(super) async fn copy(&mut self, mask: u8) {
        let uids = self.picked(mask);
        if uids.is_empty() {
            return;
        }
        self.house.select("INBOX").await.copy(&uids, &name("INBOX")).await.unwrap();
        let copies: Vec<Letter> = uids.iter().map(|uid| self.there[&uid.0].clone()).collect();
        self.came.extend(copies);
    }

    pub(super) async fn expunge(&mut self, mask: u8) {
        let uids = self.picked(mask);
        if uids.is_empty() {
            return;
        }
        remove(&mut self.house.select("INBOX").await, &uids).await;
        self.gone.extend(uids.iter().filter_map(|uid| self.there.remove(&uid.0)));
    }

    /// What was there is there under its UID; what came has UIDs above all that ever were.
    pub(super) async fn compare(&mut self) {
        let view = self.house.select("INBOX").await;
        let mut came = Vec::new();
        let mut found = BTreeMap::new();
        for (uid, octets) in read_all(&view).await {
            let octets = octets.unwrap_or_else(|error| panic!("UID {uid}: {error}"));
            if uid > self.uid_max {
                came.push((octets, uid));
            } else {
                found.insert(uid, octets);
            }
        }
        let there: BTreeMap<u32, Bytes> =
            self.there.iter().map(|(uid, letter)| (*uid, letter.octets.clone())).collect();
        assert!(found == there, "{:?}, expected {:?}", found.keys(), there.keys());
        came.sort_unstable();
        self.came.sort_unstable_by(|one, other| one.octets.cmp(&other.octets));
        assert_eq!(came.len(), self.came.len(), "what came");
        for ((octets, uid), letter) in came.into_iter().zip(self.came.drain(..)) {
            assert!(octets == letter.octets, "UID {uid}");
            self.there.insert(uid, letter);
            self.uid_max = self.uid_max.max(uid);
        }
    }
}

/// Every message with its UID.
pub(super) async fn read_all(
    view: &FolderView,
) -> Vec<(u32, std::result::Result<Bytes, crate::service::error::ServiceError>)> {
    let (mut rest, mut read) = (view.uids(), Vec::new());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(view.chunk_len(rest));
        rest = after;
        read.extend(view.messages(chunk).await.unwrap().into_iter().map(|(uid, octets)| (uid.0, octets)));
    }
    read
}
