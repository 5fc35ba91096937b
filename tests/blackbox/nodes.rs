//! Three nodes with four lanes each on one PostgreSQL deliver up to every kind of limit: none is ever passed, each is
//! reached to the octet, and what is recorded equals what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthouse::base::id::{CustomerId, DomainId, MailboxId};
use posthouse::params;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::Refused;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::quota::{self, Limited, OverLimit, QuotaOwner};
use posthouse::storage::metadata::recount;
use posthouse::storage::metadata::scope::Customers;
use posthouse::storage::metadata::sql::Conn;

use super::metadata::{message, number, open, provider};
use crate::support::postgres::Postgres;

const NODES: usize = 3;
/// Clients of each node.
const CLIENTS: usize = 16;
const MAILBOXES: i64 = 6;
/// Smaller and smaller messages fill a limit on octets to the last.
const SIZES: [usize; 3] = [97, 11, 1];

/// Where a limit is.
#[derive(Clone, Copy)]
enum Place {
    Mailbox(MailboxId),
    Domain,
    Customer(i64),
}

impl Place {
    fn owner(self) -> QuotaOwner {
        match self {
            Self::Mailbox(id) => QuotaOwner::Mailbox(id),
            Self::Domain => QuotaOwner::Domain(DomainId(1)),
            Self::Customer(id) => QuotaOwner::Customer(CustomerId(id)),
        }
    }

    /// Octets and messages that are there, whatever is recorded.
    fn counted(self) -> (String, String) {
        let of = match self {
            Self::Mailbox(id) => format!("WHERE mailbox_id = {id}"),
            // The one domain is below both customers.
            Self::Domain | Self::Customer(_) => String::new(),
        };
        let octets = format!("SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM message {of}");
        (octets, format!("SELECT count(*) FROM message {of}"))
    }
}

/// Sets or lifts limits on octets and messages as an administrator does, while mail flows.
async fn limit(database: &Database, place: Place, bytes: Option<i64>, messages: Option<i64>) {
    let write = database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let limited = bytes.is_some() || messages.is_some();
            match place {
                Place::Mailbox(id) => {
                    let text = "UPDATE mailbox SET bytes_max = $2, messages_max = $3 WHERE id = $1";
                    conn.execute(text, params![id, bytes, messages]).await.map(drop)
                }
                Place::Domain => {
                    let text = "UPDATE domain SET bytes_max = $1, messages_max = $2";
                    conn.execute(text, params![bytes, messages]).await?;
                    quota::follow_domain_limits(conn, DomainId(1), limited).await
                }
                Place::Customer(id) => {
                    let text = "UPDATE customer SET bytes_max = $2, messages_max = $3 WHERE id = $1";
                    conn.execute(text, params![id, bytes, messages]).await?;
                    let below: Vec<i64> = (id..=2).collect();
                    let change = Limited {
                        id: CustomerId(id),
                        subtree: below,
                        above: (1..id).rev().collect(),
                        limited,
                        guarantee: (None, None),
                    };
                    quota::follow_customer_limits(conn, &change).await?.unwrap();
                    Ok(())
                }
            }
        })
    });
    let set: Result<(), StorageError> = write.await;
    set.unwrap();
}

/// All clients of all nodes deliver to `mailboxes` until each of them is refused; gives the refusals.
async fn fill(nodes: &[Database], mailboxes: &[MailboxId], sizes: &'static [usize]) -> Vec<OverLimit> {
    let clients: Vec<_> = (0..NODES * CLIENTS)
        .map(|client| {
            let (database, mailbox) = (nodes[client % NODES].clone(), mailboxes[client % mailboxes.len()]);
            tokio::spawn(async move {
                let mut refusals = Vec::new();
                for &octets in sizes {
                    refusals.push(until_refused(&database, mailbox, octets).await);
                }
                refusals
            })
        })
        .collect();
    let mut refusals = Vec::new();
    for client in clients {
        refusals.extend(client.await.unwrap());
    }
    refusals
}

async fn until_refused(database: &Database, mailbox: MailboxId, octets: usize) -> OverLimit {
    for _ in 0..2_000 {
        let outcome = database.deliver(message(octets, &[mailbox], false)).await.unwrap();
        match outcome[..] {
            [Ok(_)] => {}
            [Err(Refused::OverQuota(over))] => return over,
            _ => panic!("{outcome:?}"),
        }
    }
    panic!("the limit was not applied");
}

async fn value(database: &Database, text: String) -> i64 {
    let read = database.read(|conn| {
        Box::pin(async move { conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("row"))?.int(0) })
    });
    read.await.unwrap()
}

/// Watches what is committed until it is told to stop: at no moment is there more than `limit`.
fn watch(database: &Database, text: String, limit: i64) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (database, stop) = (database.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let watcher = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let there = value(&database, text.clone()).await;
            assert!(there <= limit, "{there} of {limit}");
        }
    });
    (stop, watcher)
}

/// Everything that is recorded equals what is counted.
async fn recounted(conn: &mut Conn) -> Result<(), StorageError> {
    let mailboxes: Vec<i64> = (1..=MAILBOXES).collect();
    for mailbox in recount::mailboxes(conn, &mailboxes).await? {
        assert_eq!(mailbox.recorded, mailbox.counted(), "mailbox {}", mailbox.address);
        for folder in &mailbox.folders {
            assert_eq!(folder.recorded, folder.counted, "{} of {}", folder.name, mailbox.address);
        }
    }
    assert_eq!(recount::drifted(conn, &mailboxes).await?, Vec::<i64>::new());
    let customers = Customers::Few(vec![1, 2]);
    for domain in recount::domains(conn, &customers, 0).await?.owners {
        assert_eq!(domain.recorded, Some(domain.counted), "domain {}", domain.name);
    }
    for id in recount::limited_customers(conn, &customers).await? {
        let customer = recount::customer(conn, CustomerId(id)).await?.unwrap();
        assert_eq!(customer.recorded, Some(customer.counted), "customer {id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_reach_every_limit_exactly_and_pass_none() {
    let Some(postgres) = Postgres::start() else { return };
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(open(&postgres.url()).await);
    }
    let first = &nodes[0];
    let mailboxes = provider(first, MAILBOXES).await;
    let all = Place::Customer(1);
    // Counted everywhere from here on; these limits are never reached.
    for place in [Place::Domain, Place::Customer(1), Place::Customer(2)] {
        limit(first, place, Some(i64::MAX), None).await;
    }
    for place in [Place::Mailbox(mailboxes[0]), Place::Domain, Place::Customer(2), Place::Customer(1)] {
        let (octets, messages) = place.counted();
        let targets = if matches!(place, Place::Mailbox(_)) { &mailboxes[..1] } else { &mailboxes[1..] };
        let bytes_max = value(first, octets.clone()).await + 20_011;
        limit(first, place, Some(bytes_max), None).await;
        let (stop, watcher) = watch(first, octets.clone(), bytes_max);
        let refusals = fill(&nodes, targets, &SIZES).await;
        stop.store(true, Ordering::Relaxed);
        watcher.await.unwrap();
        let expected = OverLimit { owner: place.owner(), on_messages: false };
        assert!(refusals.iter().all(|over| *over == expected), "{refusals:?}");
        assert_eq!(value(first, octets).await, bytes_max);

        let messages_max = value(first, messages.clone()).await + 137;
        limit(first, place, None, Some(messages_max)).await;
        let refusals = fill(&nodes, targets, &SIZES[..1]).await;
        let expected = OverLimit { owner: place.owner(), on_messages: true };
        assert!(refusals.iter().all(|over| *over == expected), "{refusals:?}");
        assert_eq!(value(first, messages).await, messages_max);
        first.read(|conn| Box::pin(recounted(conn))).await.unwrap();
        limit(first, place, None, None).await;
    }
    // A first limit that is set while mail flows on all nodes, with those of the others in force above and below.
    let (octets, _) = all.counted();
    let bytes_max = value(first, octets.clone()).await + 400_000;
    let filling = fill(&nodes, &mailboxes, &SIZES);
    let limiting = async {
        limit(first, Place::Customer(2), None, Some(i64::MAX)).await;
        limit(first, Place::Domain, None, Some(i64::MAX)).await;
        limit(first, all, Some(bytes_max), None).await;
    };
    let (refusals, ()) = tokio::join!(filling, limiting);
    assert!(refusals.iter().all(|over| over.owner == all.owner()), "{refusals:?}");
    assert_eq!(value(first, octets).await, bytes_max);
    first.read(|conn| Box::pin(recounted(conn))).await.unwrap();
    assert_eq!(number(first, "SELECT count(*) FROM customer_usage").await, 2);
}
