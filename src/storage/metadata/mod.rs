//! Metadata: all SQL lives here, a file per aggregate.
