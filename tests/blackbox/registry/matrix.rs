//! Which role may run which operation: the committed table `tests/matrix/role-operation.txt` is compared with what
//! the operations do. Set `POSTHOUSE_WRITE_MATRIX=1` to write it anew.

use std::collections::BTreeMap;
use std::path::Path;

use posthouse::service::authority::{Permission, Role};
use posthouse::service::registry::{RunOptions, operations};
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(roles_may_run_what_the_matrix_says, callers_without_permission_are_refused);

/// Names of one of everything at a customer.
#[derive(Clone, Default)]
pub struct Names {
    pub path: String,
    pub code: String,
    pub domain: String,
    pub address: String,
    pub alias: String,
    pub administrator: String,
    pub hold: String,
    pub legal_hold: String,
    pub token: String,
    pub group: String,
    pub role: String,
    pub request: String,
    pub deleted_path: String,
    pub deleted_code: String,
    pub deleted_domain: String,
    pub deleted_address: String,
    pub deleted_administrator: String,
    pub record: String,
    pub webhook: String,
    pub invitation: String,
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl Names {
    /// Makes one of everything at a new customer.
    pub async fn make(world: &World, path: &str) -> Self {
        Self::make_called(world, path, &path.replace('/', "-")).await
    }

    /// As [`Self::make`], with this word in names that others may have too.
    pub async fn make_called(world: &World, path: &str, word: &str) -> Self {
        let domain = format!("{word}.example");
        let asked = json!({ "path": path, "domain": domain, "admin": "chief" });
        let made = world.must("customer.create", asked).await;
        let login = text(&made["administrator"]);
        let address = format!("box@{domain}");
        world.mailbox(&address).await;
        let alias = format!("alias@{domain}");
        world.must("alias.create", json!({ "address": alias, "targets": [address] })).await;
        let asked = json!({ "path": path, "switch": "pop3", "reason": "test" });
        let hold = text(&world.must("hold.add", asked).await["id"]);
        let asked = json!({ "mailbox": address, "reason": "test" });
        let legal_hold = text(&world.must("legal-hold.add", asked).await["id"]);
        let asked = json!({ "name": "basic", "customer": path, "kind": "mailbox" });
        world.must("template.create", asked).await;
        let token = text(&world.must("token.create", json!({ "name": login })).await["id"]);
        let group = world.must("group.create", json!({ "name": "ops", "customer": path })).await;
        let group = text(&group["name"]);
        let asked = json!({ "name": group, "role": "viewer", "customer": path });
        world.must("group.grant", asked).await;
        world.must("group.add", json!({ "name": group, "administrator": login })).await;
        // Names of roles are unique on a path.
        let asked = json!({ "name": format!("profile-{word}"), "customer": path, "base": "viewer",
            "permissions": ["mailbox.read"] });
        let role = text(&world.must("role.create", asked).await["name"]);
        let asked = json!({ "operation": "mailbox.delete", "fields": { "address": address } });
        let request = text(&world.must("request.create", asked).await["id"]);
        let deleted_path = format!("{path}/gone-{word}");
        let gone = world.must("customer.create", json!({ "path": deleted_path })).await;
        world.must("customer.delete", json!({ "path": deleted_path })).await;
        let deleted_domain = format!("gone.{domain}");
        world.must("domain.create", json!({ "domain": deleted_domain, "customer": path })).await;
        world.must("domain.delete", json!({ "domain": deleted_domain })).await;
        let deleted_address = format!("gone@{domain}");
        world.mailbox(&deleted_address).await;
        world.must("mailbox.delete", json!({ "address": deleted_address })).await;
        world.deleted_folders().await;
        let left = world.must("administrator.create", json!({ "name": "left", "customer": path })).await;
        let deleted_administrator = text(&left["name"]);
        world.must("administrator.delete", json!({ "name": deleted_administrator })).await;
        let asked = json!({ "customer": path, "operation": "hold.add", "limit": 1 });
        let record = text(&world.must("audit.search", asked).await["items"][0]["id"]);
        let asked = json!({ "customer": path, "url": format!("https://{domain}/") });
        let webhook = text(&world.must("webhook.create", asked).await["id"]);
        let asked = json!({ "address": format!("invited@{domain}"), "customer": path });
        let invitation = text(&world.must("invitation.create", asked).await["id"]);
        Self {
            invitation,
            webhook,
            record,
            path: path.to_owned(),
            code: text(&made["code"]),
            domain,
            address,
            alias,
            administrator: login,
            hold,
            legal_hold,
            token,
            group,
            role,
            request,
            deleted_path,
            deleted_code: text(&gone["code"]),
            deleted_domain,
            deleted_address,
            deleted_administrator,
        }
    }

    /// Names of the same form that nothing has.
    pub fn missing() -> Self {
        Self {
            record: "wwwwwwwwwwwwwwww".to_owned(),
            webhook: "vvvvvvvvvvvvvvvv".to_owned(),
            invitation: "uuuuuuuuuuuuuuuu".to_owned(),
            path: "zzzzzz".to_owned(),
            code: "zzzzzz".to_owned(),
            domain: "missing.example".to_owned(),
            address: "box@missing.example".to_owned(),
            alias: "alias@missing.example".to_owned(),
            administrator: "chief@zzzzzz".to_owned(),
            hold: "zzzzzzzzzzzzzzzz".to_owned(),
            legal_hold: "tttttttttttttttt".to_owned(),
            token: "yyyyyyyyyyyyyyyy".to_owned(),
            group: "ops@zzzzzz".to_owned(),
            role: "profile-z@zzzzzz".to_owned(),
            request: "xxxxxxxxxxxxxxxx".to_owned(),
            deleted_path: "xxxxxx".to_owned(),
            deleted_code: "xxxxxx".to_owned(),
            deleted_domain: "gone.missing.example".to_owned(),
            deleted_address: "gone@missing.example".to_owned(),
            deleted_administrator: "left@zzzzzz".to_owned(),
        }
    }

    /// Every name, in one order.
    pub fn each(&mut self) -> [&mut String; 20] {
        [
            &mut self.path,
            &mut self.code,
            &mut self.domain,
            &mut self.address,
            &mut self.alias,
            &mut self.administrator,
            &mut self.hold,
            &mut self.legal_hold,
            &mut self.token,
            &mut self.group,
            &mut self.role,
            &mut self.request,
            &mut self.deleted_path,
            &mut self.deleted_code,
            &mut self.deleted_domain,
            &mut self.deleted_address,
            &mut self.deleted_administrator,
            &mut self.record,
            &mut self.webhook,
            &mut self.invitation,
        ]
    }

    /// `text` with these names replaced, the longer ones first since they contain shorter ones.
    pub fn mask(&self, text: &str) -> String {
        let mut words = [
            (&self.deleted_address, "DELETED-ADDRESS"),
            (&self.deleted_domain, "DELETED-DOMAIN"),
            (&self.deleted_administrator, "DELETED-ADMINISTRATOR"),
            (&self.alias, "ALIAS"),
            (&self.address, "ADDRESS"),
            (&self.administrator, "ADMINISTRATOR"),
            (&self.domain, "DOMAIN"),
            (&self.hold, "HOLD"),
            (&self.legal_hold, "LEGAL-HOLD"),
            (&self.token, "TOKEN"),
            (&self.record, "RECORD"),
            (&self.webhook, "WEBHOOK"),
            (&self.invitation, "INVITATION"),
            (&self.group, "GROUP"),
            (&self.role, "ROLE"),
            (&self.request, "REQUEST"),
            (&self.deleted_path, "DELETED"),
            (&self.path, "CUSTOMER"),
        ];
        words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        words.iter().fold(text.to_owned(), |text, (word, mask)| text.replace(word.as_str(), mask))
    }
}

/// A request that names objects; nothing for operations that name none.
pub fn request(operation: &str, names: &Names) -> Option<Value> {
    let Names { path, domain, address, alias, administrator, hold, token, group, role, .. } = names;
    Some(match operation {
        "whoami"
        | "notice.read"
        | "store.list"
        | "store.show"
        | "store.pack"
        | "store.create"
        | "store.set"
        | "store.stop"
        | "store.read-only"
        | "store.start"
        | "store.offload"
        | "store.compact"
        | "store.drain"
        | "store.verify"
        | "store.probe"
        | "zone.create"
        | "zone.list"
        | "zone.show"
        | "zone.update"
        | "zone.delete"
        | "server.list"
        | "server.show"
        | "server.history"
        | "server.restart"
        | "server.stop"
        | "backup.create"
        | "backup.verify"
        | "backup.test"
        | "backup.prune"
        | "backup.list"
        | "backup.show"
        | "job.show"
        | "job.cancel"
        | "invitation.accept"
        | "mailbox.set-password"
        | "second-factor.enrol"
        | "second-factor.confirm"
        | "second-factor.recovery-codes"
        | "second-factor.remove" => {
            return None;
        }
        "customer.create" => json!({ "path": format!("{path}/new") }),
        "customer.list" | "domain.list" | "mailbox.list" | "alias.list" | "administrator.list"
        | "audit.search" | "report.quota" | "report.storage" | "report.usage" | "report.bill"
        | "price.list" | "spending.list" | "session.list" | "quota.verify" | "job.list" | "audit.verify"
        | "notice.list" | "grant.list" | "invitation.list" | "role.list" | "group.list" | "request.list"
        | "process.show" => {
            json!({ "customer": path })
        }
        "customer.show" | "customer.rename" | "customer.limit" | "customer.delete" | "customer.suspend"
        | "customer.resume" | "hold.list" => json!({ "path": path }),
        "event.list" | "webhook.list" => json!({ "customer": path }),
        "audit.prove" => json!({ "record": names.record }),
        "webhook.create" => json!({ "customer": path, "url": "https://hooks.example/" }),
        "webhook.show" | "webhook.test" | "webhook.enable" | "webhook.delete" => {
            json!({ "id": names.webhook })
        }
        "customer.store" => json!({ "path": path, "store": null }),
        "spending.set" => json!({ "path": path, "amount": 1_000, "currency": "EUR" }),
        "price.show" => json!({ "path": path }),
        "price.set" => json!({ "path": path, "from": "2030-01", "currency": "EUR", "gib_month": 10,
                               "mailbox_month": 100, "messages_1000": 0 }),
        "customer.move" => json!({ "path": path, "to": path }),
        "customer.undelete" => json!({ "path": names.deleted_path }),
        "request.create" => json!({ "operation": "mailbox.delete", "fields": { "address": address } }),
        "request.show" | "request.approve" | "request.reject" | "request.withdraw" => {
            json!({ "id": names.request })
        }
        "process.set" => json!({ "customer": path, "steps": [] }),
        "customer.expire" => json!({ "path": path, "expires_at": "30d" }),
        "mailbox.expire" => json!({ "address": address, "expires_at": "30d" }),
        "administrator.expire" => json!({ "name": administrator, "expires_at": "30d" }),
        "hold.add" => json!({ "path": path, "switch": "imap", "reason": "test" }),
        "hold.release" => json!({ "id": hold }),
        "legal-hold.add" => json!({ "mailbox": address, "reason": "test" }),
        "legal-hold.list" => json!({ "customer": path }),
        "legal-hold.release" => json!({ "id": names.legal_hold }),
        "template.create" => {
            json!({ "name": "new", "customer": path, "kind": "customer", "gives": { "bytes": 1 } })
        }
        "template.list" => json!({ "customer": path }),
        "template.show" | "template.delete" => json!({ "name": "basic", "customer": path }),
        "template.update" => json!({ "name": "basic", "customer": path, "gives": {} }),
        "setting.list" => json!({ "path": path }),
        "setting.set" => json!({ "path": path, "key": "time_zone", "value": "UTC" }),
        "setting.unset" | "setting.lock" | "setting.unlock" => json!({ "path": path, "key": "time_zone" }),
        "domain.create" => json!({ "domain": "brand-new.example", "customer": path }),
        "domain.alias" => json!({ "domain": "brand-new.example", "alias_of": domain }),
        "domain.show" | "domain.dns" | "domain.verify" | "domain.catch-all" | "domain.limit"
        | "domain.confirm" | "domain.delete" => {
            json!({ "domain": domain })
        }
        "domain.move" => json!({ "domain": domain, "to": path }),
        "domain.accept" => json!({ "domain": domain, "customer": path }),
        "domain.undelete" => json!({ "domain": names.deleted_domain }),
        "mailbox.create" => json!({ "address": format!("new@{domain}"), "password_hash": PASSWORD_HASH }),
        "mailbox.password" => json!({ "address": address, "password_hash": PASSWORD_HASH }),
        "mailbox.invite" | "mailbox.uninvite" => json!({ "address": address }),
        "invitation.create" => json!({ "address": format!("new@{domain}"), "customer": path }),
        "invitation.show" | "invitation.revoke" => json!({ "id": names.invitation }),
        "mailbox.show" | "mailbox.logins" | "mailbox.rename" | "mailbox.quota" | "mailbox.suspend"
        | "mailbox.resume" | "mailbox.delete" | "mailbox.restore" | "session.close" => {
            json!({ "address": address })
        }
        "mailbox.move" => json!({ "address": address, "store": "main" }),
        "mailbox.undelete" => json!({ "address": names.deleted_address }),
        "message.deleted" | "message.undelete" => json!({ "address": address }),
        "folder.undelete" => json!({ "address": address, "name": "Gone" }),
        "alias.create" => json!({ "address": format!("new@{domain}"), "targets": [address] }),
        "alias.update" => json!({ "address": alias, "targets": [address] }),
        "alias.delete" => json!({ "address": alias }),
        "import.batch" => json!({ "customer": path, "rows": [] }),
        "administrator.create" => json!({ "name": "new", "customer": path }),
        "administrator.show"
        | "administrator.enable"
        | "administrator.disable"
        | "administrator.delete"
        | "second-factor.reset"
        | "token.create"
        | "token.list" => json!({ "name": administrator }),
        "administrator.password" => json!({ "name": administrator, "password_hash": PASSWORD_HASH }),
        "administrator.undelete" => json!({ "name": names.deleted_administrator }),
        "administrator.grant" => json!({ "name": administrator, "role": "viewer", "customer": path }),
        "administrator.revoke" => json!({ "name": administrator, "role": "admin", "customer": path }),
        "administrator.effective" => json!({ "name": administrator, "customer": path }),
        "group.create" => json!({ "name": "new", "customer": path }),
        "group.show" | "group.delete" => json!({ "name": group }),
        "group.add" | "group.remove" => json!({ "name": group, "administrator": administrator }),
        "group.grant" | "group.revoke" => json!({ "name": group, "role": "viewer", "customer": path }),
        "role.create" => {
            json!({ "name": "new", "customer": path, "base": "viewer", "permissions": ["mailbox.read"] })
        }
        "role.show" | "role.update" | "role.delete" => json!({ "name": role }),
        "ceiling.show" | "ceiling.clear" => json!({ "path": path }),
        "ceiling.set" => json!({ "path": path, "permissions": ["mailbox.read"] }),
        "token.revoke" => json!({ "id": token }),
        "trace.search" => json!({ "query": address, "customer": path }),
        other => panic!("say here how {other} names what it acts on"),
    })
}

/// As [`request`], with fields that have the right shape for operations that name no object of a customer.
pub fn any_request(operation: &str, names: &Names) -> Value {
    request(operation, names).unwrap_or_else(|| match operation {
        "trace.search" => json!({ "query": names.address }),
        "store.create" => json!({ "name": "new", "path": "/nonexistent" }),
        "store.set" => json!({ "name": "main", "settings": {} }),
        name if name.starts_with("store.") && !matches!(name, "store.list" | "store.pack") => {
            json!({ "name": "main" })
        }
        "backup.create" | "backup.verify" | "backup.test" | "backup.prune" => {
            json!({ "dir": "/nonexistent" })
        }
        "zone.create" | "zone.show" | "zone.update" | "zone.delete" => json!({ "name": "none" }),
        "backup.show" => json!({ "id": "none" }),
        "second-factor.confirm" => json!({ "code": "000000" }),
        "job.show" | "job.cancel" => json!({ "id": "zzzzzzzzzzzzzzzz" }),
        _ => json!({}),
    })
}

/// The role may run it on its own customer: `yes`, `no`.
async fn allowed(
    world: &World,
    who: &posthouse::service::context::Authentication,
    name: &str,
    asked: &Value,
) -> bool {
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    match world.run_with(who, name, asked.clone(), options, None).await {
        Ok(_) => true,
        Err(error) => match error.refusal() {
            Some("forbidden") => false,
            // Authority comes before meaning: it would be allowed were it possible.
            Some("conflict" | "invalid" | "over-quota" | "limit") => true,
            other => panic!("{name} {asked}: {other:?} {error}"),
        },
    }
}

async fn roles_may_run_what_the_matrix_says(world: World) {
    let names = Names::make(&world, "a").await;
    let mut lines = BTreeMap::new();
    for &role in Role::ALL {
        let customer = if role == Role::SystemAdmin { "/" } else { "a" };
        let asked =
            json!({ "name": role.name(), "customer": customer, "role": role.name(), "delegable": true });
        let made = world.must("administrator.create", asked).await;
        let who = world.login(&made["token"]).await;
        let mut names = names.clone();
        if role == Role::Viewer || role == Role::Billing {
            // Their scope begins at `a`, as everybody's but the system administrator's.
            names.path = "a".to_owned();
        }
        for operation in operations() {
            let Some(asked) = request(operation.name, &names) else { continue };
            let yes = allowed(&world, &who, operation.name, &asked).await;
            lines.entry(operation.name).or_insert_with(Vec::new).push(if yes { "yes" } else { "-" });
        }
    }
    let heads: Vec<String> = Role::ALL.iter().map(|role| format!("{:>13}", role.name())).collect();
    let mut table = format!("{:<26}{}\n", "operation", heads.concat());
    for (operation, cells) in lines {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>13}")).collect();
        table.push_str(&format!("{operation:<26}{}\n", cells.concat()));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/matrix/role-operation.txt");
    if std::env::var_os("POSTHOUSE_WRITE_MATRIX").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(table, committed, "the roles changed; POSTHOUSE_WRITE_MATRIX=1 writes the table anew");
}

async fn callers_without_permission_are_refused(world: World) {
    let names = Names::make(&world, "a").await;
    let asked = json!({ "name": "nobody", "customer": "a", "role": "billing" });
    let made = world.must("administrator.create", asked).await;
    let nobody = world.login(&made["token"]).await;
    let asked = json!({ "name": made["name"], "customer": "a", "role": "billing" });
    world.must("administrator.revoke", asked).await;
    for operation in operations().iter().filter(|operation| operation.permission != Permission::Own) {
        let asked = any_request(operation.name, &names);
        // The caller's own things are its own: it sees itself, but nothing of the customer.
        let refused = refusal(world.run(&nobody, operation.name, asked).await);
        assert!(matches!(refused, "not-found" | "forbidden"), "{}: {refused}", operation.name);
    }
}
