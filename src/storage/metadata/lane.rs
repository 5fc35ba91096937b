//! What a lane carries: jobs that run inside a transaction and are answered after its commit.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::sql::Conn;
use crate::storage::StorageError;

/// Which queue an operation waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Delivery, IMAP, POP3, administration: somebody waits.
    Interactive,
    /// Slices of long work somebody waits for: imports, STORE of a whole folder.
    Bulk,
    /// Packing, purging, housekeeping. One slice is at most 256 rows or about 5 ms.
    Background,
}

/// The future of one operation on a connection.
pub type Work<'c, T, E> = BoxFuture<'c, Result<T, E>>;

/// A job as the lane sees it, whatever it returns.
pub(super) trait Job: Send {
    /// Runs the operation and keeps its result; false when it failed and its savepoint must be undone.
    fn run<'c>(&'c mut self, conn: &'c mut Conn) -> BoxFuture<'c, bool>;
    /// Answers the caller: the result if the group was committed, else the error.
    fn answer(self: Box<Self>, committed: Result<(), StorageError>);
}

/// A closure with a place for its result.
pub(super) struct ClosureJob<F, T, E> {
    work: Arc<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> ClosureJob<F, T, E> {
    pub(super) fn new(work: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self { work: Arc::new(work), result: None, reply }
    }
}

impl<F, T, E> Job for ClosureJob<F, T, E>
where
    F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, E> + Send + Sync + 'static,
    T: Send + 'static,
    E: From<StorageError> + Send + 'static,
{
    fn run<'c>(&'c mut self, conn: &'c mut Conn) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let result = (self.work)(conn).await;
            let succeeded = result.is_ok();
            self.result = Some(result);
            succeeded
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), StorageError>) {
        let answer = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            // What the operation refused for its own reasons stays its answer, whatever became of the others.
            (Err(_), Some(Err(refusal))) => Err(refusal),
            (Err(error), _) => Err(error.into()),
            (Ok(()), None) => Err(StorageError::Busy("the operation was not run").into()),
        };
        // A caller that went away no longer wants the answer.
        let _ = self.reply.send(answer);
    }
}
