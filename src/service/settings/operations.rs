//! Listing, setting and locking settings. Whoever may set a key may lock it; the lock then belongs to the topmost
//! customer with that right, and only its authority, or one above, changes what is locked.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::keys::{Authority, Declaration, Reach, declarations};
use super::resolve::{Resolved, resolve};
use crate::base::id::CustomerId;
use crate::service::authority::{Permission, Tree};
use crate::service::directory::holds::{self, Holdable};
use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::hold::HoldOn;
use crate::storage::metadata::setting::{self, At, Mark};

/// Where a value comes from that nobody has set.
const DEFAULT: &str = "default";
/// Where a value comes from that was set where the caller does not see.
const ABOVE: &str = "inherited from above";

/// A setting as it is at an object.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Setting {
    key: String,
    /// What holds here.
    value: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'static str,
    /// Where that was set: a path, a domain or an address, `default`, or `inherited from above`.
    from: String,
    /// What is set here itself; it counts unless something is locked above.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<String>,
    /// Where it is locked: a path, a domain or an address, or `inherited from above`.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<String>,
    /// What it is for.
    help: &'static str,
}

/// What settings are looked at or changed.
pub(in crate::service) struct Place {
    on: Holdable,
}

impl Place {
    async fn find(tx: &mut Tx<'_>, names: &Names) -> Result<Self> {
        let Names { path, domain, mailbox } = names;
        let on = Holdable::find(tx, path.as_deref(), domain.as_deref(), mailbox.as_deref()).await?;
        Ok(Self { on })
    }

    fn at(&self) -> At {
        let customer = self.on.customer();
        match &self.on {
            Holdable::Customer(_) => At::customer(customer),
            Holdable::Domain(one) => At::domain(one.0.id, customer),
            Holdable::Mailbox(one) => At::mailbox(one.0.id, one.0.domain, customer),
        }
    }

    fn takes(&self, declaration: &Declaration) -> bool {
        declaration.reach == Reach::Mailboxes || matches!(self.on, Holdable::Customer(_))
    }

    /// What whoever sets this key here must hold.
    fn need(&self, tx: &Tx<'_>, declaration: &Declaration) -> Need {
        match (declaration.authority, &self.on) {
            (Authority::Root, _) => Need {
                at: None,
                permission: Permission::SystemRoot,
                delegable: false,
                until: None,
                zone: None,
            },
            (Authority::Above, Holdable::Customer(one)) => {
                Need::above(tx, one.id, Permission::CustomerSettings)
            }
            (Authority::Own, Holdable::Domain(one)) => Need::at(one.customer(), Permission::DomainUpdate),
            (Authority::Own, Holdable::Mailbox(one)) => Need::at(one.customer(), Permission::MailboxUpdate),
            (Authority::Own | Authority::Above, on) => Need::at(on.customer(), Permission::CustomerSettings),
        }
    }

    /// The name of what a mark on the path is on, as the caller may know it.
    fn name_of(&self, tx: &Tx<'_>, mark: &Mark, domain: &str) -> String {
        match (mark.on, &self.on) {
            (HoldOn::Customer(id), _) => tx.caller.path_of(id).unwrap_or_else(|| ABOVE.to_owned()),
            (HoldOn::Domain(_), _) => domain.to_owned(),
            (HoldOn::Mailbox(_), Holdable::Mailbox(one)) => one.0.address(),
            (HoldOn::Mailbox(_), _) => ABOVE.to_owned(),
        }
    }

    fn domain_name(&self) -> &str {
        match &self.on {
            Holdable::Customer(_) => "",
            Holdable::Domain(one) => &one.0.name,
            Holdable::Mailbox(one) => &one.0.domain_name,
        }
    }

    fn shown(&self, tx: &Tx<'_>, declaration: &'static Declaration, marks: &[Mark]) -> Setting {
        let path: Vec<&Mark> = marks.iter().filter(|mark| mark.key == declaration.name).collect();
        let resolved: Resolved<'_> = resolve(path.iter().copied());
        let name = |mark: &Mark| self.name_of(tx, mark, self.domain_name());
        let own = path.iter().find(|mark| mark.on == self.on.on());
        Setting {
            key: declaration.name.to_owned(),
            value: resolved.text(declaration).to_owned(),
            unit: declaration.unit,
            from: resolved.value.map_or_else(|| DEFAULT.to_owned(), name),
            own: own.and_then(|mark| mark.value.clone()),
            locked: resolved.lock.map(name),
            help: declaration.help,
        }
    }

    async fn show(&self, tx: &mut Tx<'_>, declaration: &'static Declaration) -> Result<Setting> {
        let marks = setting::along(tx.conn, self.at(), &[declaration.name]).await?;
        Ok(self.shown(tx, declaration, &marks))
    }
}

impl Targeted for Place {
    fn customer(&self) -> CustomerId {
        self.on.customer()
    }

    fn label(&self) -> String {
        self.on.label()
    }

    fn recorded(&self, tree: &Tree) -> String {
        self.on.recorded(tree)
    }
}

/// The key of this name.
fn declared(name: &str) -> Result<&'static Declaration> {
    declarations().into_iter().find(|one| one.name == name).ok_or_else(|| absent("setting", name))
}

/// Which settings to list.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SettingListRequest {
    /// Of this customer.
    path: Option<String>,
    /// Or of this domain.
    domain: Option<String>,
    /// Or of this mailbox.
    mailbox: Option<String>,
    /// Only this key.
    key: Option<String>,
}

/// What settings are of.
struct Names {
    path: Option<String>,
    domain: Option<String>,
    mailbox: Option<String>,
}

/// All settings of an object.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Settings {
    /// By key.
    items: Vec<Setting>,
}

/// `setting.list`.
pub(in crate::service) struct SettingList;

impl Operate for SettingList {
    declare! { "setting.list", Get, "/v1/settings", CustomerRead, reads,
    "List the settings of a customer, domain or mailbox, and where they come from" }
    type Request = SettingListRequest;
    type Response = Settings;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a SettingListRequest) -> Result<Place> {
        let SettingListRequest { path, domain, mailbox, .. } = request.clone();
        Place::find(tx, &Names { path, domain, mailbox }).await
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: SettingListRequest) -> Result<Settings> {
        if let Some(key) = &request.key {
            let declaration = declared(key)?;
            return Ok(Settings { items: vec![target.show(tx, declaration).await?] });
        }
        let marks = setting::along(tx.conn, target.at(), &[]).await?;
        let of_this = declarations().into_iter().filter(|declaration| target.takes(declaration));
        let items = of_this.map(|declaration| target.shown(tx, declaration, &marks)).collect();
        Ok(Settings { items })
    }
}

/// A key at an object, with what stands there.
pub(in crate::service) struct OneSetting {
    place: Place,
    declaration: &'static Declaration,
    own: Option<Mark>,
}

impl Targeted for OneSetting {
    fn customer(&self) -> CustomerId {
        self.place.customer()
    }

    fn label(&self) -> String {
        format!("{} of {}", self.declaration.name, self.place.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} of {}", self.declaration.name, self.place.recorded(tree))
    }
}

impl OneSetting {
    async fn find(tx: &mut Tx<'_>, names: &Names, key: &str) -> Result<Self> {
        let place = Place::find(tx, names).await?;
        let declaration = declared(key)?;
        let own = setting::own(tx.conn, place.on.on(), declaration.name).await?;
        Ok(Self { place, declaration, own })
    }

    /// The right to set the key here, and where it is locked here, the same right where the lock belongs.
    fn needs(&self, tx: &Tx<'_>) -> Vec<Need> {
        let need = self.place.need(tx, self.declaration);
        let lock = self.own.as_ref().and_then(|mark| mark.lock);
        let holder = lock.filter(|&holder| tx.caller.tree.covers(holder, self.customer()));
        let release = holder.map(|holder| Need::at(holder, need.permission));
        std::iter::once(need).chain(release).collect()
    }

    /// Refuses where something above has it locked, or the object has no such setting.
    async fn open(&self, tx: &mut Tx<'_>) -> Result<()> {
        if !self.place.takes(self.declaration) {
            let message = format!("{} is set for customers", self.declaration.name);
            return Err(ServiceError::Invalid { field: "key", message });
        }
        let marks = setting::along(tx.conn, self.place.at(), &[self.declaration.name]).await?;
        let on = self.place.on.on();
        let Some(lock) = resolve(marks.iter().filter(|mark| mark.on != on)).lock else { return Ok(()) };
        let place = match self.place.name_of(tx, lock, self.place.domain_name()) {
            above if above == ABOVE => "above".to_owned(),
            name => format!("at {name}"),
        };
        let message =
            format!("{} is locked {place}: what is set here would not count", self.declaration.name);
        Err(ServiceError::Conflict { message })
    }

    fn canonical(&self, value: &str) -> Result<String> {
        let wrong = |message| ServiceError::Invalid { field: "value", message };
        (self.declaration.canonical)(value).map_err(wrong)
    }

    /// Puts a value and a lock in the place of what stands here.
    async fn put(self, tx: &mut Tx<'_>, value: Option<String>, lock: Option<CustomerId>) -> Result<Setting> {
        let key = self.declaration.name;
        let recorded =
            |value: Option<&str>, is_locked: bool| json!({ "key": key, "value": value, "locked": is_locked });
        let own = self.own.as_ref();
        let old = own.and_then(|mark| mark.value.as_deref());
        tx.before = Some(recorded(old, own.is_some_and(|mark| mark.lock.is_some())));
        tx.after = Some(recorded(value.as_deref(), lock.is_some()));
        let mark = Mark { on: self.place.on.on(), key: self.declaration.name.to_owned(), value, lock };
        setting::put(tx.conn, &mark, tx.now).await?;
        self.place.show(tx, self.declaration).await
    }

    /// Who would own a lock that the caller sets here.
    fn locker(&self, tx: &Tx<'_>) -> CustomerId {
        holds::authority(tx, self.customer(), self.place.need(tx, self.declaration).permission)
    }
}

macro_rules! changing {
    ($(#[doc = $what:literal] $operation:ident $request:ident { $($(#[doc = $help:literal])* $field:ident: $kind:ty),* }
       $name:literal $method:ident $path:literal $summary:literal
       |$tx:ident, $target:ident, $asked:ident| $run:expr;)+) => {$(
        #[doc = $what]
        #[derive(Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::service) struct $request {
            /// The key.
            key: String,
            /// Of this customer.
            path: Option<String>,
            /// Or of this domain.
            domain: Option<String>,
            /// Or of this mailbox.
            mailbox: Option<String>,
            $($(#[doc = $help])* $field: $kind,)*
        }

        #[doc = $what]
        pub(in crate::service) struct $operation;

        impl Operate for $operation {
            declare! { $name, $method, $path, CustomerSettings, changes, $summary }
            type Request = $request;
            type Response = Setting;
            type Target = OneSetting;

            async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a $request) -> Result<OneSetting> {
                let $request { key, path, domain, mailbox, .. } = request.clone();
                OneSetting::find(tx, &Names { path, domain, mailbox }, &key).await
            }

            async fn needs<'a>(
                tx: &'a mut Tx<'_>,
                target: &'a OneSetting,
                _: &'a $request,
            ) -> Result<Vec<Need>> {
                Ok(target.needs(tx))
            }

            async fn run($tx: &mut Tx<'_>, $target: OneSetting, $asked: $request) -> Result<Setting> {
                $run
            }
        }
    )+};
}

changing! {
    /// A value to set.
    SettingSet SettingSetRequest {
        /// The value.
        value: String
    }
    "setting.set" Put "/v1/settings/{key}"
    "Set a setting of a customer, domain or mailbox; it holds there and below"
    |tx, target, request| {
        target.open(tx).await?;
        let value = target.canonical(&request.value)?;
        let lock = target.own.as_ref().and_then(|mark| mark.lock);
        target.put(tx, Some(value), lock).await
    };
    /// A value to take away.
    SettingUnset SettingUnsetRequest {}
    "setting.unset" Delete "/v1/settings/{key}"
    "Take a setting away: what is set above holds again"
    |tx, target, _request| {
        let lock = target.own.as_ref().and_then(|mark| mark.lock);
        target.put(tx, None, lock).await
    };
    /// What to lock.
    SettingLock SettingLockRequest {
        /// Set this value at the same time; default: what holds already.
        value: Option<String>
    }
    "setting.lock" Post "/v1/settings/{key}/lock"
    "Lock a setting: nothing that is set below counts any more"
    |tx, target, request| {
        target.open(tx).await?;
        let own = target.own.as_ref().and_then(|mark| mark.value.clone());
        let value = match &request.value {
            Some(value) => Some(target.canonical(value)?),
            None => own,
        };
        let locker = target.locker(tx);
        target.put(tx, value, Some(locker)).await
    };
    /// What to unlock.
    SettingUnlock SettingUnlockRequest {}
    "setting.unlock" Post "/v1/settings/{key}/unlock"
    "Unlock a setting: what is set below counts again"
    |tx, target, _request| {
        let value = target.own.as_ref().and_then(|mark| mark.value.clone());
        target.put(tx, value, None).await
    };
}
