//! Catalogs on SQLite and on PostgreSQL.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::id::StoreId;
use posthouse::storage::Result;
use posthouse::storage::bodies::Bodies;
use posthouse::storage::catalogs::record::{self, section};
use posthouse::storage::catalogs::restore::Remains;
use posthouse::storage::catalogs::{Catalogs, Written};
use posthouse::storage::metadata::catalog;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;

use super::metadata::on_both;
use crate::packs::{NOW, delivery, numbers, set_up, start};

on_both!(only_changed_mailboxes_are_written, outdated_mailboxes_are_written_whole);

async fn deliver(database: &Database, bodies: &Bodies, text: &'static str) {
    let original = Bytes::from_static(text.as_bytes());
    let place = bodies.place(original.clone(), &[posthouse::base::id::MailboxId(1)], NOW).await.unwrap();
    assert!(database.deliver(delivery(bodies, &original, &place)).await.unwrap()[0].is_ok());
}

/// How many messages the catalogs on the volume have.
async fn catalogued(folder: &Path) -> usize {
    let remains = Remains { folder: folder.join("main"), remote: None, scratch: folder.to_owned() };
    let (current, wrong) = remains.current().await;
    assert_eq!(wrong, Vec::<String>::new());
    let mut count = 0;
    for catalog in current.unwrap().catalogs {
        let mut reader = remains.catalog(&catalog).await.unwrap();
        while let Some((kind, plain)) = reader.next_section().unwrap() {
            if kind == section::MESSAGES {
                count += record::rows(&plain).unwrap().1.len();
            }
        }
    }
    count
}

async fn only_changed_mailboxes_are_written(database: Database) {
    set_up(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let (bodies, packer) = start(&database, folder.path()).await;
    deliver(&database, &bodies, "Subject: one\r\n\r\n").await;
    packer.pack_everything(NOW).await.unwrap();
    let (catalogs, volume) = (Catalogs::new(bodies.clone()), bodies.volumes().get(StoreId(1)).await.unwrap());
    let written = catalogs.write(&volume, NOW).await.unwrap();
    assert_eq!((written.mailboxes, written.files), (1, 2), "{written:?}");
    assert_eq!(catalogued(folder.path()).await, 1);
    assert_eq!(catalogs.write(&volume, NOW).await.unwrap(), Written::default());
    assert_eq!(numbers(&database, "SELECT count(*) FROM pack WHERE is_covered = 0").await, [0]);
    deliver(&database, &bodies, "Subject: two\r\n\r\n").await;
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!(catalogs.write(&volume, later).await.unwrap().mailboxes, 1);
    assert_eq!(catalogued(folder.path()).await, 2);
    let mut files = Catalogs::files(&bodies, &volume).await.unwrap();
    files.retain(|file| !folder.path().join("main").join(&file.name).exists());
    assert_eq!(files, [], "all of them are there");
    assert_eq!(numbers(&database, "SELECT count(*) FROM catalog WHERE state <> 'present'").await, [0]);
}

async fn outdated_mailboxes_are_written_whole(database: Database) {
    set_up(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let (bodies, _) = start(&database, folder.path()).await;
    deliver(&database, &bodies, "Subject: one\r\n\r\n").await;
    let (catalogs, volume) = (Catalogs::new(bodies.clone()), bodies.volumes().get(StoreId(1)).await.unwrap());
    catalogs.write(&volume, NOW).await.unwrap();
    let outdate = database
        .write(Priority::Interactive, |conn| Box::pin(async move { catalog::outdate(conn, &[1]).await }));
    let outdated: Result<()> = outdate.await;
    outdated.unwrap();
    assert_eq!(catalogs.write(&volume, NOW).await.unwrap().mailboxes, 1);
    assert_eq!(numbers(&database, "SELECT count(*) FROM catalog_entry").await, [1]);
    // A mailbox that is gone leaves the catalogs.
    let gone = database.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            for text in ["DELETE FROM message", "DELETE FROM folder", "DELETE FROM mailbox"] {
                conn.execute(text, Vec::new()).await?;
            }
            Ok(())
        })
    });
    let gone: Result<()> = gone.await;
    gone.unwrap();
    assert_eq!(catalogs.write(&volume, NOW).await.unwrap().gone, 1);
    assert_eq!(catalogued(folder.path()).await, 0);
}
