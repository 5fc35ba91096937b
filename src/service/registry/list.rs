//! The list of all operations.

use super::operate::Operate;
use super::schema::TypeSchema;
use super::{Operation, run};
use crate::service::audit::AuditSearch;
use crate::service::directory::identity;
use crate::service::reports::QuotaReportRun;
use crate::service::trace::TraceFind;

const fn declare<O: Operate>() -> Operation {
    Operation {
        name: O::NAME,
        method: O::METHOD,
        path: O::PATH,
        permission: O::PERMISSION,
        mutates: O::MUTATES,
        summary: O::SUMMARY,
        request: TypeSchema::of::<O::Request>,
        response: TypeSchema::of::<O::Response>,
        run: run::run::<O>,
    }
}

static OPERATIONS: &[Operation] = &[
    declare::<identity::WhoAmI>(),
    declare::<AuditSearch>(),
    declare::<QuotaReportRun>(),
    declare::<TraceFind>(),
];

/// All operations.
pub fn operations() -> &'static [Operation] {
    OPERATIONS
}

/// The operation of this name.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}
