//! The list of all operations.

use super::operate::Operate;
use super::schema::TypeSchema;
use super::{Operation, run};
use crate::service::audit::{AuditProve, AuditSearch, AuditVerify};
use crate::service::directory::{
    administrator_state, administrators, aliases, credentials, customer_life, customer_limits, customers,
    domain_move, domain_proof, domains, holds, identity, legal_holds, mailbox_deletion, mailboxes, sessions,
    tokens,
};
use crate::service::notices::{NoticeList, NoticeRead};
use crate::service::quota::verify::QuotaVerify;
use crate::service::reports::QuotaReportRun;
use crate::service::reports::bill;
use crate::service::reports::storage::StorageReportRun;
use crate::service::reports::usage::UsageReportRun;
use crate::service::settings::operations as settings;
use crate::service::settings::template_operations as templates;
use crate::service::trace::TraceFind;
use crate::service::{backup, events, jobs, moves, placement, server, stores, undelete, webhooks};

const fn declare<O: Operate>() -> Operation {
    Operation {
        name: O::NAME,
        method: O::METHOD,
        path: O::PATH,
        permission: O::PERMISSION,
        mutates: O::MUTATES,
        starts_job: O::STARTS_JOB,
        watched: O::WATCHED,
        followed: O::FOLLOWED,
        summary: O::SUMMARY,
        request: TypeSchema::of::<O::Request>,
        response: TypeSchema::of::<O::Response>,
        run: run::run::<O>,
        #[cfg(any(test, feature = "fuzzing"))]
        has_shape: |fields| run::parse::<O::Request>(fields).is_ok(),
    }
}

static OPERATIONS: &[Operation] = &[
    declare::<identity::WhoAmI>(),
    declare::<NoticeList>(),
    declare::<NoticeRead>(),
    declare::<AuditSearch>(),
    declare::<AuditProve>(),
    declare::<events::EventList>(),
    declare::<webhooks::WebhookCreate>(),
    declare::<webhooks::WebhookList>(),
    declare::<webhooks::WebhookShow>(),
    declare::<webhooks::WebhookTest>(),
    declare::<webhooks::WebhookEnable>(),
    declare::<webhooks::WebhookDelete>(),
    declare::<AuditVerify>(),
    declare::<QuotaReportRun>(),
    declare::<StorageReportRun>(),
    declare::<UsageReportRun>(),
    declare::<bill::BillRun>(),
    declare::<bill::PriceSet>(),
    declare::<bill::PriceShow>(),
    declare::<bill::PriceListRun>(),
    declare::<TraceFind>(),
    declare::<customers::CustomerCreate>(),
    declare::<customers::CustomerList>(),
    declare::<customers::CustomerShow>(),
    declare::<customers::CustomerRename>(),
    declare::<customer_limits::CustomerLimit>(),
    declare::<placement::CustomerStore>(),
    declare::<customer_life::CustomerMove>(),
    declare::<customer_life::CustomerDelete>(),
    declare::<customer_life::CustomerUndelete>(),
    declare::<holds::CustomerSuspend>(),
    declare::<holds::CustomerResume>(),
    declare::<holds::HoldAdd>(),
    declare::<holds::HoldList>(),
    declare::<holds::HoldRelease>(),
    declare::<legal_holds::LegalHoldAdd>(),
    declare::<legal_holds::LegalHoldList>(),
    declare::<legal_holds::LegalHoldRelease>(),
    declare::<settings::SettingList>(),
    declare::<settings::SettingSet>(),
    declare::<settings::SettingUnset>(),
    declare::<settings::SettingLock>(),
    declare::<settings::SettingUnlock>(),
    declare::<templates::TemplateCreate>(),
    declare::<templates::TemplateList>(),
    declare::<templates::TemplateShow>(),
    declare::<templates::TemplateUpdate>(),
    declare::<templates::TemplateDelete>(),
    declare::<domains::DomainCreate>(),
    declare::<domains::DomainList>(),
    declare::<domains::DomainShow>(),
    declare::<domains::DomainAlias>(),
    declare::<domains::DomainCatchAll>(),
    declare::<domains::DomainLimit>(),
    declare::<domain_proof::DomainDns>(),
    declare::<domain_proof::DomainVerify>(),
    declare::<domains::DomainConfirm>(),
    declare::<domains::DomainDelete>(),
    declare::<domains::DomainUndelete>(),
    declare::<domain_move::DomainMove>(),
    declare::<domain_move::DomainAccept>(),
    declare::<mailboxes::MailboxCreate>(),
    declare::<mailboxes::MailboxList>(),
    declare::<mailboxes::MailboxShow>(),
    declare::<mailboxes::MailboxRename>(),
    declare::<mailboxes::MailboxPassword>(),
    declare::<mailboxes::MailboxQuota>(),
    declare::<holds::MailboxSuspend>(),
    declare::<holds::MailboxResume>(),
    declare::<mailbox_deletion::MailboxDelete>(),
    declare::<mailboxes::MailboxUndelete>(),
    declare::<moves::mailbox::MailboxMove>(),
    declare::<undelete::MessageDeleted>(),
    declare::<undelete::MessageUndelete>(),
    declare::<undelete::FolderUndelete>(),
    declare::<aliases::AliasCreate>(),
    declare::<aliases::AliasList>(),
    declare::<aliases::AliasDelete>(),
    declare::<administrators::AdministratorCreate>(),
    declare::<administrators::AdministratorList>(),
    declare::<administrators::AdministratorShow>(),
    declare::<administrators::AdministratorGrant>(),
    declare::<administrators::AdministratorRevoke>(),
    declare::<administrators::AdministratorEffective>(),
    declare::<administrator_state::AdministratorEnable>(),
    declare::<administrator_state::AdministratorDisable>(),
    declare::<administrator_state::AdministratorDelete>(),
    declare::<administrator_state::AdministratorUndelete>(),
    declare::<credentials::AdministratorPassword>(),
    declare::<tokens::TokenCreate>(),
    declare::<tokens::TokenList>(),
    declare::<tokens::TokenRevoke>(),
    declare::<sessions::SessionList>(),
    declare::<sessions::SessionClose>(),
    declare::<jobs::JobList>(),
    declare::<jobs::JobShow>(),
    declare::<jobs::JobCancel>(),
    declare::<QuotaVerify>(),
    declare::<stores::show::StoreList>(),
    declare::<stores::show::StoreShow>(),
    declare::<stores::settings::StoreCreate>(),
    declare::<stores::settings::StoreSet>(),
    declare::<stores::state::StoreStop>(),
    declare::<stores::state::StoreReadOnly>(),
    declare::<stores::start::StoreStart>(),
    declare::<stores::pack::StorePack>(),
    declare::<stores::work::StoreOffload>(),
    declare::<stores::work::StoreCompact>(),
    declare::<stores::verify::StoreVerify>(),
    declare::<stores::verify::StoreProbe>(),
    declare::<moves::drain::StoreDrain>(),
    declare::<server::nodes::ServerList>(),
    declare::<server::nodes::ServerShow>(),
    declare::<server::nodes::ServerHistory>(),
    declare::<server::orders::ServerRestart>(),
    declare::<server::orders::ServerStop>(),
    declare::<backup::BackupCreate>(),
    declare::<backup::BackupVerify>(),
    declare::<backup::BackupTest>(),
    declare::<backup::BackupPrune>(),
    declare::<backup::BackupList>(),
    declare::<backup::BackupShow>(),
    declare::<backup::MailboxRestore>(),
];

/// All operations.
pub fn operations() -> &'static [Operation] {
    OPERATIONS
}

/// The operation of this name.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}
