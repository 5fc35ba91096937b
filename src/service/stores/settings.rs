//! Making mail stores and changing their settings while the daemon runs.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;

use super::show::{OneStore, Store, set_up};
use crate::base::store_settings::{OffloadSettings, StoreSettings, is_store_name, named};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted as _, Tx, declare};
use crate::service::server::starting;
use crate::storage::metadata::store::{self, StoreState};
use crate::storage::volumes::{Volumes, mount, remote_settings};

/// Longest path, in octets.
const PATH_OCTETS_MAX: usize = 1_024;
/// Settings that say where object storage is, or name files with its keys: they reach beyond the store, and so do the
/// rights that they take.
const PLACES: [&str; 8] = [
    "offload.endpoint",
    "offload.region",
    "offload.bucket",
    "offload.prefix",
    "offload.insecure_http",
    "offload.path_style",
    "offload.access_key",
    "offload.secret_key",
];
/// A file system that needs longer to make a folder is not taken.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);

/// A mail store to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreCreateRequest {
    /// Its name: a-z, 0-9, - and _.
    name: String,
    /// Its folder, on the daemon's machine: absolute, or below the data directory.
    path: String,
    /// Settings by name; the others have their defaults.
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

/// `store.create`.
pub(in crate::service) struct StoreCreate;

impl Operate for StoreCreate {
    declare! { "store.create", Post, "/v1/stores", SystemStoreUpdate, changes,
    "Make a mail store; its folder is made if it is not there" }
    type Request = StoreCreateRequest;
    type Response = Store;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreCreateRequest) -> Result<OneStore> {
        OneStore::find_anywhere(tx, &request.name, Self::PERMISSION).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreCreateRequest) -> Result<Store> {
        if !is_store_name(&request.name) {
            let message = "expected 1 to 63 of a-z, 0-9, - and _".to_owned();
            return Err(ServiceError::Invalid { field: "name", message });
        }
        if target.row().is_ok() {
            return Err(ServiceError::Conflict { message: format!("store {} exists already", request.name) });
        }
        let mut settings = StoreSettings::default();
        apply(&mut settings, &request.settings, &[])?;
        let volumes = tx.inner.bodies.get().ok_or_else(starting)?.volumes().clone();
        let path = place(tx, &volumes, &request.path).await?;
        let text = path.to_str().ok_or_else(|| invalid_path("no UTF-8"))?;
        let id = store::insert(tx.conn, &request.name, text, &settings, tx.now).await?;
        prepare_folder(&volumes, &path, &request.name, tx.dry_run).await?;
        store::set_marked(tx.conn, id).await?;
        let made = store::by_name(tx.conn, &request.name).await?.as_ref().map(set_up);
        let made = made.ok_or_else(|| ServiceError::Internal("a new mail store vanished".to_owned()))?;
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

fn invalid_path(what: &str) -> ServiceError {
    ServiceError::Invalid { field: "path", message: what.to_owned() }
}

/// Where the folder of a new store is, as the database shall have it: apart from all other stores' folders.
async fn place(tx: &mut Tx<'_>, volumes: &Volumes, asked: &str) -> Result<PathBuf> {
    let data_dir = volumes.data_dir().ok_or_else(starting)?;
    if asked.is_empty() || asked.len() > PATH_OCTETS_MAX || asked.chars().any(char::is_control) {
        return Err(invalid_path("expected 1 to 1024 octets without control characters"));
    }
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir);
    if !Path::new(asked).components().all(is_plain) {
        return Err(invalid_path("expected a path without .."));
    }
    let parts = data_dir.join(asked);
    let path: PathBuf = parts.components().filter(|part| *part != Component::CurDir).collect();
    if data_dir.starts_with(&path) {
        return Err(invalid_path("the data directory itself, or one above it, cannot be a mail store"));
    }
    for other in store::list(tx.conn).await? {
        let folder = volumes.store_folder(&other.path);
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        if folder == path {
            let message = format!("{} is the folder of store {}", path.display(), other.name);
            return Err(ServiceError::Conflict { message });
        }
        if path.starts_with(&folder) || folder.starts_with(&path) {
            let message =
                format!("{} and the folder of store {} lie in one another", path.display(), other.name);
            return Err(ServiceError::Conflict { message });
        }
    }
    Ok(path)
}

/// Looks at the folder of a new store, and makes and marks it unless that is only tried. One that was made for the same
/// name before, by a try that failed later, is taken as it is.
async fn prepare_folder(volumes: &Volumes, path: &Path, name: &str, dry_run: bool) -> Result<()> {
    let marker = volumes.marker(name).ok_or_else(starting)?;
    let folder = path.to_owned();
    let prepare = tokio::task::spawn_blocking(move || {
        let refused = |message: String| ServiceError::Conflict { message };
        if folder.exists() && !folder.is_dir() {
            return Err(refused(format!("{} is no folder", folder.display())));
        }
        match mount::Marker::read(&folder).map_err(refused)? {
            Some(found) if found != marker => {
                let message = format!("{} belongs to the mail store {:?}", folder.display(), found.store);
                return Err(refused(message));
            }
            _ if folder.join("packs").exists() => {
                return Err(refused(format!("{} holds packs already", folder.display())));
            }
            _ => {}
        }
        if dry_run {
            return Ok(());
        }
        // What is wrong with the path is the asker's to repair.
        marker.write(&folder).map_err(|error| refused(error.to_string()))
    });
    match tokio::time::timeout(FOLDER_PATIENCE, prepare).await {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(error)) => Err(ServiceError::Internal(error.to_string())),
        Err(_) => Err(ServiceError::Unavailable(format!("{} does not answer", path.display()))),
    }
}

/// Settings to change.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreSetRequest {
    /// The store's name.
    name: String,
    /// Settings by name; an empty text or `default` sets the default again.
    settings: BTreeMap<String, String>,
}

/// `store.set`.
pub(in crate::service) struct StoreSet;

impl Operate for StoreSet {
    declare! { "store.set", Patch, "/v1/stores/{name}", SystemStoreUpdate, changes,
    "Change settings of a mail store" }
    type Request = StoreSetRequest;
    type Response = Store;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreSetRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneStore,
        request: &'a StoreSetRequest,
    ) -> Result<Vec<Need>> {
        let reaches_beyond = request.settings.keys().any(|name| PLACES.contains(&name.as_str()));
        Ok(match reaches_beyond {
            true => vec![Need::at(target.customer(), Self::PERMISSION)],
            false => target.needs(Self::PERMISSION),
        })
    }

    async fn etag<'a>(_: &'a mut Tx<'_>, target: &'a OneStore) -> Result<Option<String>> {
        target.etag()
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreSetRequest) -> Result<Store> {
        let mut row = target.row()?.clone();
        let before = row.settings.clone();
        apply(&mut row.settings, &request.settings, &row.fixed)?;
        let place = |of: &OffloadSettings| (of.endpoint.clone(), of.bucket.clone(), of.prefix.clone());
        if place(&before.offload) != place(&row.settings.offload) && row.state != StoreState::Stopped {
            let (_, remote) = store::copies(tx.conn, row.id).await?;
            if remote > 0 {
                let message = format!(
                    "{remote} packs are in object storage: move them, and stop the store before you say where \
                     they are; its start looks whether they are there"
                );
                return Err(ServiceError::Conflict { message });
            }
        }
        tx.before = serde_json::to_value(set_up(target.row()?)).ok();
        store::set(tx.conn, row.id, &before, &row.settings).await?;
        let after = set_up(&row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// Changes settings, all or none.
///
/// # Errors
/// Everything that is wrong, at once. Values of secrets are not repeated.
fn apply(settings: &mut StoreSettings, changes: &BTreeMap<String, String>, fixed: &[String]) -> Result<()> {
    let (default, mut changed, mut wrong) = (StoreSettings::default(), settings.clone(), Vec::new());
    for (name, text) in changes {
        if named(name).is_none() {
            wrong.push(format!("there is no setting {name:?}"));
        } else if fixed.contains(name) {
            wrong.push(format!("{name} stands in the configuration file: change it there"));
        } else if text.is_empty() || text == "default" {
            changed.take(name, &default);
        } else if let Err(message) = changed.set(name, text) {
            wrong.push(format!("{name}: {message}"));
        }
    }
    if wrong.is_empty() {
        wrong.extend(changed.check().err().map(|(name, message)| format!("{name}: {message}")));
        let is_server = !changed.offload.endpoint.starts_with("file://");
        let server = remote_settings(&changed.offload).filter(|_| is_server);
        wrong.extend(server.and_then(|server| server.check().err()).map(|error| error.to_string()));
    }
    if wrong.is_empty() {
        *settings = changed;
        return Ok(());
    }
    Err(ServiceError::Invalid { field: "settings", message: wrong.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once_and_nothing_is_changed() {
        let mut settings = StoreSettings::default();
        let asked = changes(&[
            ("compression.level", "30"),
            ("no.such", "1"),
            ("cache.octets_max", "1GiB"),
            ("packing.age_min_secs", "5"),
        ]);
        let fixed = ["packing.age_min_secs".to_owned()];
        let error = apply(&mut settings, &asked, &fixed).unwrap_err().to_string();
        for part in ["compression.level", "no.such", "packing.age_min_secs stands in the configuration file"]
        {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(settings, StoreSettings::default());
    }

    #[test]
    fn defaults_come_back_and_contradictions_are_refused_without_telling_secrets() {
        let mut settings = StoreSettings::default();
        let asked = changes(&[("compression.level", "19"), ("offload.bucket", "mail")]);
        apply(&mut settings, &asked, &[]).unwrap();
        assert_eq!(settings.compression.level, 19);
        apply(&mut settings, &changes(&[("compression.level", "default"), ("offload.bucket", "")]), &[])
            .unwrap();
        assert_eq!(settings, StoreSettings::default());
        let asked = changes(&[("offload.bucket", "mail"), ("offload.secret_key", "hunter2")]);
        let error = apply(&mut settings, &asked, &[]).unwrap_err().to_string();
        assert!(error.contains("offload.access_key") && !error.contains("hunter2"), "{error}");
        for (name, text) in [("offload.when", "at-once"), ("offload.endpoint", "gopher://x")] {
            let mut asked = changes(&[(name, text)]);
            if name == "offload.endpoint" {
                asked.extend(changes(&[("offload.bucket", "mail")]));
            }
            assert!(apply(&mut settings, &asked, &[]).is_err(), "{name}");
        }
    }
}
