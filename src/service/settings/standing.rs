//! What is off somewhere at present, by holds and by services that are switched off, and when people may log in.
//!
//! A hold has a reason, comes from somebody and goes by being released; a switched-off service is how things are
//! meant to be. For who asks both mean off.

use std::collections::BTreeSet;

use super::keys::{
    Key, LOGIN_WINDOWS, LOGIN_WINDOWS_ADMINISTRATORS, SERVICE_ADMIN, SERVICE_IMAP, SERVICE_POP3,
    SERVICE_SMTP, SERVICE_SUBMISSION, SUBMISSION_TLS, TIME_ZONE,
};
use super::kinds::{Demand, Kind, OnOff};
use super::resolve::{among, resolve};
use crate::base::civil::{Schedule, Zone};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::context::Service;
use crate::service::error::Result;
use crate::storage;
use crate::storage::metadata::setting::{self, At, Mark};
use crate::storage::metadata::sql::Conn;

/// The services with the keys that switch them.
static SERVICES: [(Service, &Key<OnOff>); 5] = [
    (Service::Imap, &SERVICE_IMAP),
    (Service::Pop3, &SERVICE_POP3),
    (Service::Smtp, &SERVICE_SMTP),
    (Service::Submission, &SERVICE_SUBMISSION),
    (Service::Admin, &SERVICE_ADMIN),
];

fn service_keys() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|(_, key)| key.declaration.name)
}

/// The services that are switched off according to marks on a path.
fn services_off(marks: &[Mark]) -> impl Iterator<Item = String> {
    SERVICES.iter().filter_map(|(service, key)| {
        let own = marks.iter().filter(|mark| mark.key == key.declaration.name);
        let is_off = resolve(own).text(&key.declaration) == OnOff(false).text();
        is_off.then(|| service.name().to_owned())
    })
}

/// The switches that are off at an object, by holds on it or above and by services that are switched off there.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn switches_off(conn: &mut Conn, at: At) -> storage::Result<BTreeSet<String>> {
    let keys: Vec<&'static str> = service_keys().collect();
    let (mut off, marks) = setting::along_with_holds(conn, at, &keys).await?;
    off.extend(services_off(&marks));
    Ok(off)
}

/// When somebody may log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct LoginWindows {
    schedule: Schedule,
    zone: Zone,
}

impl LoginWindows {
    /// Whether it is allowed at this moment.
    pub fn allow(&self, now: Timestamp) -> bool {
        self.schedule.allows(self.zone.wall_time(now))
    }
}

/// What somebody's login depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct Standing {
    /// The switches that are off.
    pub off: BTreeSet<String>,
    /// The times at which login is allowed; nothing where it always is.
    pub windows: Option<LoginWindows>,
    /// Whether passwords for submission are taken under TLS only.
    pub submission_tls: bool,
}

async fn standing(conn: &mut Conn, at: At, windows: &Key<Schedule>) -> Result<Standing> {
    let others = [windows.declaration.name, TIME_ZONE.declaration.name, SUBMISSION_TLS.declaration.name];
    let keys: Vec<&'static str> = service_keys().chain(others).collect();
    let (mut off, marks) = setting::along_with_holds(conn, at, &keys).await?;
    off.extend(services_off(&marks));
    let schedule = among(&marks, windows)?;
    let windows = if schedule.is_always() {
        None
    } else {
        Some(LoginWindows { schedule, zone: among(&marks, &TIME_ZONE)? })
    };
    let submission_tls = among(&marks, &SUBMISSION_TLS)? == Demand::Required;
    Ok(Standing { off, windows, submission_tls })
}

/// What the login of a mailbox's owner depends on.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn of_owner(conn: &mut Conn, at: At) -> Result<Standing> {
    standing(conn, at, &LOGIN_WINDOWS).await
}

/// What the login of administrators at home at a customer depends on.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn of_administrator(conn: &mut Conn, home: CustomerId) -> Result<Standing> {
    standing(conn, At::customer(home), &LOGIN_WINDOWS_ADMINISTRATORS).await
}
