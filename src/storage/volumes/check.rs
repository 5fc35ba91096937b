//! Looks at a mail store before mail goes there: folder, packs, object storage.

use std::path::Path;
use std::sync::Arc;

use super::Volume;
use crate::base::id::{PackId, StoreId, random_text};
use crate::base::progress::Progress;
use crate::storage::bodies::{Bodies, blocking};
use crate::storage::metadata::store;
use crate::storage::pack::PackName;
use crate::storage::remote::ObjectKey;
use crate::storage::{Result, StorageError};

/// Problems that are told.
const PROBLEMS_MAX: usize = 100;
/// Packs looked for at a time.
const PAGE_PACKS: i64 = 1_000;
/// Packs that are looked for in object storage.
const REMOTE_PACKS: i64 = 3;

/// What shall be possible afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Files are written.
    pub writes: bool,
    /// The folder is marked as the store's, whosever it was.
    pub takes_folder: bool,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// Packs looked for on the volume.
    pub packs: u64,
    /// What is wrong, for people; the first hundred.
    pub problems: Vec<String>,
}

impl Found {
    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

/// Whether folder and object storage of a store work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// `works`, `read` when nothing may be written, or what is wrong.
    pub folder: String,
    /// Octets that are free there for the daemon.
    pub free_octets: u64,
    /// `works`, `none`, or what is wrong.
    pub remote: String,
    /// How long object storage took to write, read and delete something small, in milliseconds.
    pub remote_millis: u64,
    /// Whether nothing is wrong.
    pub works: bool,
}

/// Writes, reads and removes something small in the folder of a store and in its object storage.
///
/// # Errors
/// What the database says.
pub async fn probe(bodies: &Bodies, store: StoreId) -> Result<Probed> {
    bodies.volumes().refresh().await?;
    let volume = bodies.volumes().get(store).await?;
    let place = bodies.volumes().store_folder(&volume.store.path);
    let folder = match bodies.volumes().look(&volume).await? {
        Err(what) => Err(what),
        Ok(()) if !volume.state.is_writable() => Ok("read"),
        Ok(()) => {
            let place = place.clone();
            blocking(move || try_writing(&place)).await.map(|()| "works").map_err(|error| error.to_string())
        }
    };
    let free = blocking(move || {
        let free = rustix::fs::statvfs(&place);
        Ok(free.map_or(0, |free| free.f_bavail.saturating_mul(free.f_frsize)))
    });
    let free_octets = free.await?;
    let (remote, remote_millis) = match volume.remote() {
        Err(_) if !volume.has_remote() => (Ok("none"), 0),
        Err(error) => (Err(error.to_string()), 0),
        Ok(remote) => match remote.probe().await {
            Ok(took) => (Ok("works"), u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            Err(error) => (Err(error.to_string()), 0),
        },
    };
    let works = folder.is_ok() && remote.is_ok();
    let told = |found: std::result::Result<&str, String>| found.map_or_else(|what| what, str::to_owned);
    Ok(Probed { folder: told(folder), free_octets, remote: told(remote), remote_millis, works })
}

/// Looks at a mail store on this node.
///
/// # Errors
/// What the database says; when it was asked to end.
pub async fn check(bodies: &Bodies, store: StoreId, wish: Wish, progress: &Progress) -> Result<Found> {
    bodies.volumes().refresh().await?;
    let volume = bodies.volumes().get(store).await?;
    let mut found = Found::default();
    let folder = bodies.volumes().store_folder(&volume.store.path);
    if let Some(marker) = bodies.volumes().marker(&volume.name) {
        if wish.takes_folder {
            let (place, marker) = (folder.clone(), marker.clone());
            if let Err(error) = blocking(move || marker.write(&place)).await {
                found.problem(error.to_string());
            }
        } else if let Err(what) = bodies.volumes().look(&volume).await? {
            found.problem(what);
            // Without its folder nothing else can be found either.
            return Ok(found);
        }
    }
    if wish.writes {
        let place = folder.clone();
        if let Err(error) = blocking(move || try_writing(&place)).await {
            found.problem(error.to_string());
        }
    }
    local_packs(bodies, store, &bodies.pack_folder(&volume.store.path), progress, &mut found).await?;
    progress.go_on()?;
    object_storage(bodies, &volume, wish, &mut found).await?;
    Ok(found)
}

/// Writes, reads and removes a small file.
///
/// # Errors
/// `Io` with what could not be done.
pub fn try_writing(folder: &Path) -> Result<()> {
    let path = folder.join(format!("probe-{}.tmp", random_text(16)));
    let failed = |what: &str| {
        let what = format!("{what} {}", path.display());
        move |error| StorageError::Io { what, error }
    };
    let content = random_text(64);
    let written = std::fs::write(&path, &content).map_err(failed("write"));
    let read = written.and_then(|()| std::fs::read(&path).map_err(failed("read")));
    let removed = std::fs::remove_file(&path).map_err(failed("remove"));
    let read = read?;
    removed?;
    if read == content.as_bytes() {
        return Ok(());
    }
    Err(StorageError::Corrupt(format!("{} does not hold what was written", path.display())))
}

/// Every pack that the database has on the volume is there with its length.
async fn local_packs(
    bodies: &Bodies,
    store: StoreId,
    folder: &Path,
    progress: &Progress,
    found: &mut Found,
) -> Result<()> {
    let mut after = PackId(0);
    loop {
        progress.go_on()?;
        let read = bodies
            .database()
            .read(|conn| Box::pin(async move { store::local_packs(conn, store, after, PAGE_PACKS).await }));
        let page: Vec<(PackId, PackName, u64)> = read.await?;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after = *last;
        found.packs += page.len() as u64;
        let place = folder.to_owned();
        let missing = blocking(move || Ok(missing(&place, &page))).await?;
        missing.into_iter().for_each(|what| found.problem(what));
        progress.advance(found.packs, None, "packs");
    }
}

fn missing(folder: &Path, packs: &[(PackId, PackName, u64)]) -> Vec<String> {
    let wrong = |(_, name, octets): &(PackId, PackName, u64)| match std::fs::metadata(name.path(folder)) {
        Ok(file) if file.len() == *octets => None,
        Ok(file) => Some(format!("pack {name} has {} octets, expected {octets}", file.len())),
        Err(error) => Some(format!("pack {name}: {error}")),
    };
    packs.iter().filter_map(wrong).collect()
}

async fn object_storage(bodies: &Bodies, volume: &Arc<Volume>, wish: Wish, found: &mut Found) -> Result<()> {
    let store = volume.store.store;
    let read = bodies
        .database()
        .read(|conn| Box::pin(async move { store::newest_remote_packs(conn, store, REMOTE_PACKS).await }));
    let packs: Vec<(PackName, u64)> = read.await?;
    let remote = match volume.remote() {
        Ok(remote) => remote,
        Err(_) if packs.is_empty() => return Ok(()),
        Err(error) => {
            found.problem(format!("packs are in object storage: {error}"));
            return Ok(());
        }
    };
    for (name, octets) in packs {
        match remote.head(&ObjectKey::of_pack(name)).await {
            Ok(head) if head.octets == octets => {}
            Ok(head) => {
                found.problem(format!(
                    "the object of pack {name} has {} octets, expected {octets}",
                    head.octets
                ));
            }
            Err(error) => found.problem(format!("object storage: pack {name}: {error}")),
        }
    }
    if wish.writes
        && let Err(error) = remote.probe().await
    {
        found.problem(format!("object storage: {error}"));
    }
    Ok(())
}
