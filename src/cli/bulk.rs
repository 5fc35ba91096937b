//! Many objects at once: `posthouse import`, `posthouse export`, `posthouse plan`, `posthouse apply`.

mod apply;
mod batches;
mod codes;
mod columns;
mod csv;
mod desired;
mod export;
mod feed;
mod import;
mod made;
mod report;
mod rows;

pub(super) use apply::{Apply, Plan};
pub(super) use export::Export;
pub(super) use import::Import;
