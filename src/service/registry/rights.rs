//! What somebody may, for whoever wants to know without doing anything.

use std::sync::Arc;

use super::management::Management;
use crate::base::id::CustomerId;
use crate::service::authority::{Caller, Permission};
use crate::service::context::Authentication;
use crate::service::error::ServiceError;
use crate::storage::metadata::customer::TreeLock;

/// What one caller may, as of the moment when it was read. It tells nothing of what the caller does not see, and is no
/// proof: an operation reads it anew.
pub struct Rights(Caller);

impl Rights {
    /// The visible customer at a path, or with a short code.
    pub fn customer(&self, path: &str) -> Option<CustomerId> {
        self.0.resolve(path).ok().map(|node| node.id)
    }

    /// Whether the caller has a permission at a customer.
    pub fn may(&self, at: CustomerId, permission: Permission) -> bool {
        self.0.may(Some(at), permission)
    }
}

impl Management {
    /// What somebody may now.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn rights(&self, who: &Authentication) -> Result<Rights, ServiceError> {
        let now = self.inner.clock.now();
        let context = who.context(None, String::new(), None);
        let inner = Arc::clone(&self.inner);
        let read = self.inner.database.read(move |conn| {
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::None).await?;
                let caller = Caller::read(conn, tree, context.identity.clone(), now).await?;
                Ok(Rights(caller.confined(context.only())))
            })
        });
        read.await
    }
}
