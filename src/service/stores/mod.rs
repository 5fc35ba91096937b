//! Mail stores: the volumes on which mail is kept, as operators see and run them.

pub(in crate::service) mod pack;
pub(in crate::service) mod settings;
pub(in crate::service) mod show;
pub(in crate::service) mod start;
pub(in crate::service) mod state;
pub(in crate::service) mod verify;
pub(in crate::service) mod work;

use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::JobContext;
use crate::storage::metadata::store::{self, StoreRow};

/// The store that a job is about, as it is now.
async fn found(context: &JobContext, name: &str) -> Result<StoreRow> {
    let wanted = name.to_owned();
    let read = context
        .inner
        .database
        .read(|conn| Box::pin(async move { Ok::<_, ServiceError>(store::by_name(conn, &wanted).await?) }));
    read.await?.ok_or_else(|| absent("store", name))
}
