//! Who may open mailboxes that are not theirs, until when, and what others learn of it.

use std::net::IpAddr;
use std::time::Duration;

use posthouse::service::content_access::ContentAccess;
use posthouse::service::context::{Authentication, Service};
use posthouse::service::login::{LoginError, MailSession};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    mailbox_is_opened_by_who_may_read_there_and_by_nobody_else,
    access_ends_with_the_grant_and_lasts_where_the_root_allows_it,
    access_ends_with_the_login_window_of_the_administrator_not_of_the_owner,
    token_opens_mailboxes_from_its_networks_with_what_it_is_confined_to,
    records_and_sessions_are_shown_to_those_who_see_the_mailbox,
);

/// The password behind [`PASSWORD_HASH`].
const SECRET: &str = "secret";
const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(60);

/// `up` with `up/a` and `up/b`, each with a mailbox; an administrator who may read in `up/a`.
struct Readers {
    world: World,
    chief: Authentication,
    name: String,
    _run: tokio::task::JoinHandle<()>,
}

impl Drop for Readers {
    fn drop(&mut self) {
        self._run.abort();
    }
}

impl Readers {
    async fn new(world: World) -> Self {
        let chief = world.aboard("up", "up.example").await;
        for name in ["a", "b"] {
            let domain = format!("{name}.example");
            world.must("customer.create", json!({ "path": format!("up/{name}"), "domain": domain })).await;
            world.mailbox(&format!("x@{domain}")).await;
        }
        let allowed = ["mailbox.read", "content.read"];
        let role = json!({ "name": "reader", "customer": "up", "base": "viewer", "permissions": allowed });
        world.must("role.create", role).await;
        let made = json!({ "name": "anna", "customer": "up", "role": "viewer" });
        let name = world.must("administrator.create", made).await["name"].as_str().unwrap().to_owned();
        world.must("administrator.password", json!({ "name": name, "password_hash": PASSWORD_HASH })).await;
        let logins = world.logins.clone();
        let _run = tokio::spawn(async move { logins.run().await });
        Self { world, chief, name, _run }
    }

    fn grant(&self, expires_at: Option<&str>) -> Value {
        json!({ "name": self.name, "role": "reader", "customer": "up/a", "expires_at": expires_at })
    }

    async fn open_with(
        &self,
        address: &str,
        name: &str,
        secret: &str,
        source: Option<&str>,
    ) -> Result<MailSession, LoginError> {
        let source: Option<IpAddr> = source.map(|text| text.parse().unwrap());
        let access = ContentAccess::new(&self.world.management);
        access.open(Service::Imap, address, name, &SecretString::from(secret), source).await
    }

    async fn open(&self, address: &str) -> Result<MailSession, LoginError> {
        self.open_with(address, &self.name, SECRET, None).await
    }

    async fn refused(&self, address: &str) -> LoginError {
        self.open(address).await.err().unwrap_or_else(|| panic!("{address} is opened"))
    }

    async fn records(&self, who: &Authentication, operation: &str) -> Vec<Value> {
        let asked = json!({ "operation": operation });
        let found = self.world.run(who, "audit.search", asked).await.unwrap();
        found["items"].as_array().unwrap().clone()
    }
}

async fn ends(session: &MailSession) {
    tokio::time::timeout(PATIENCE, session.ended()).await.expect("the session ends");
}

/// Whether a session is still among those that run after one that must end has ended.
fn runs(readers: &Readers, session: &MailSession) -> bool {
    readers.world.logins.sessions().iter().any(|one| one.id == session.id())
}

async fn mailbox_is_opened_by_who_may_read_there_and_by_nobody_else(world: World) {
    let readers = Readers::new(world).await;
    let world = &readers.world;
    for address in ["x@a.example", "x@b.example", "nobody@a.example", "x@nowhere.example", "", "x"] {
        assert_eq!(readers.refused(address).await, LoginError::Failed, "{address}");
    }
    world.must("administrator.grant", readers.grant(Some("7d"))).await;
    let session = readers.open("X@A.example").await.unwrap();
    assert_eq!(session.owner().address().to_string(), "x@a.example");
    assert!(session.owner().may_change().await.is_err());
    // It is no login of the owner: it has records of its own.
    world.logins.flush().await;
    assert_eq!(world.integer("SELECT count(*) FROM login_log").await, 0);
    for address in ["x@b.example", "nobody@a.example"] {
        assert_eq!(readers.refused(address).await, LoginError::Failed, "{address}");
    }
    for (name, secret) in
        [(&readers.name[..], "wrong"), ("anna", SECRET), ("nobody@zzzz", SECRET), ("", SECRET)]
    {
        let refused = readers.open_with("x@a.example", name, secret, None).await.err();
        assert_eq!(refused, Some(LoginError::Failed), "{name}");
    }
    // That a mailbox is suspended is told to who may read in it.
    let hold = json!({ "mailbox": "x@a.example", "switch": "login", "reason": "test" });
    let hold = world.must("hold.add", hold).await;
    ends(&session).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Held);
    world.must("hold.release", json!({ "id": hold["id"] })).await;
    let session = readers.open("x@a.example").await.unwrap();
    // A ceiling takes it away, above the grant or below.
    let ceiling = json!({ "path": "up", "role": "admin" });
    world.must("ceiling.set", ceiling).await;
    ends(&session).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Failed);
    world.must("ceiling.clear", json!({ "path": "up" })).await;
    // The mailbox's own password is no matter.
    let session = readers.open("x@a.example").await.unwrap();
    world.must("mailbox.delete", json!({ "address": "x@a.example" })).await;
    ends(&session).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Failed);
}

async fn access_ends_with_the_grant_and_lasts_where_the_root_allows_it(world: World) {
    let readers = Readers::new(world).await;
    let world = &readers.world;
    // Nobody gives for longer than 30 days, unless the root allows it.
    for lasting in [None, Some("31d")] {
        let outcome = world.run(&world.system, "administrator.grant", readers.grant(lasting)).await;
        assert_eq!(refusal(outcome), "invalid", "{lasting:?}");
    }
    world.must("administrator.grant", readers.grant(Some("30d"))).await;
    let session = readers.open("x@a.example").await.unwrap();
    world.clock.advance(DAY * 29);
    let other = readers.open("x@a.example").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), session.ended()).await.is_err());
    world.clock.advance(DAY);
    ends(&session).await;
    ends(&other).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Failed);
    let allowed = |value: &str| json!({ "path": "up", "key": "content.permanent_allowed", "value": value });
    let outcome = world.run(&readers.chief, "setting.set", allowed("on")).await;
    assert_eq!(refusal(outcome), "forbidden");
    world.must("setting.set", allowed("on")).await;
    world.must("administrator.grant", readers.grant(None)).await;
    let session = readers.open("x@a.example").await.unwrap();
    world.clock.advance(DAY * 300);
    let again = readers.open("x@a.example").await.unwrap();
    assert!(runs(&readers, &session));
    world.must("setting.set", allowed("off")).await;
    ends(&session).await;
    ends(&again).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Failed);
}

async fn access_ends_with_the_login_window_of_the_administrator_not_of_the_owner(world: World) {
    let readers = Readers::new(world).await;
    let world = &readers.world;
    world.must("administrator.grant", readers.grant(Some("30d"))).await;
    let set = |path: &str, key: &str, value: &str| json!({ "path": path, "key": key, "value": value });
    // The clock stands at Friday, 08:00 UTC.
    world.must("setting.set", set("up/a", "login.windows", "Mon 08:00-09:00")).await;
    let session = readers.open("x@a.example").await.unwrap();
    world.must("setting.set", set("up", "login.windows_administrators", "Fri 07:00-09:00")).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), session.ended()).await.is_err());
    world.clock.advance(Duration::from_secs(3_600));
    ends(&session).await;
    assert_eq!(readers.refused("x@a.example").await, LoginError::Failed);
}

async fn token_opens_mailboxes_from_its_networks_with_what_it_is_confined_to(world: World) {
    let readers = Readers::new(world).await;
    let world = &readers.world;
    world.must("administrator.grant", readers.grant(Some("7d"))).await;
    let token = async |permission: &str| {
        let networks = ["192.0.2.0/24"];
        let asked = json!({ "name": readers.name, "permissions": [permission], "networks": networks });
        let made = world.must("token.create", asked).await;
        (made["token"].as_str().unwrap().to_owned(), made["id"].clone())
    };
    let ((reads, id), (lists, _)) = (token("content.read").await, token("mailbox.read").await);
    let (inside, outside) = (Some("192.0.2.7"), Some("198.51.100.7"));
    let session = readers.open_with("x@a.example", &readers.name, &reads, inside).await.unwrap();
    for (name, token, source) in [
        (&readers.name[..], &reads, outside),
        (&readers.name, &reads, None),
        (&readers.name, &lists, inside),
        ("anna", &reads, inside),
    ] {
        let refused = readers.open_with("x@a.example", name, token, source).await.err();
        assert_eq!(refused, Some(LoginError::Failed), "{name} from {source:?}");
    }
    world.must("token.revoke", json!({ "id": id })).await;
    ends(&session).await;
    let refused = readers.open_with("x@a.example", &readers.name, &reads, inside).await.err();
    assert_eq!(refused, Some(LoginError::Failed));
}

async fn records_and_sessions_are_shown_to_those_who_see_the_mailbox(world: World) {
    let readers = Readers::new(world).await;
    let world = &readers.world;
    let admin = async |name: &str, customer: &str| {
        let made = json!({ "name": name, "customer": customer, "role": "admin" });
        world.login(&world.must("administrator.create", made).await["token"]).await
    };
    let (of_a, of_b) = (admin("al", "up/a").await, admin("bo", "up/b").await);
    // What is refused where one sees nothing is one's own customer's business and nobody else's.
    let outsider = json!({ "name": "out", "customer": "up/b", "role": "viewer" });
    let outsider = world.must("administrator.create", outsider).await["name"].as_str().unwrap().to_owned();
    world.must("administrator.password", json!({ "name": outsider, "password_hash": PASSWORD_HASH })).await;
    let refused = readers.open_with("x@a.example", &outsider, SECRET, None).await.err();
    assert_eq!(refused, Some(LoginError::Failed));
    assert_eq!(readers.records(&of_a, "content.read").await, [] as [Value; 0]);
    let found = readers.records(&of_b, "content.read").await;
    assert_eq!((&found[0]["outcome"], &found[0]["actor"]), (&json!("not-found"), &json!(outsider)));
    assert_eq!(found[0]["target"], "mailbox x@a.example", "words that the actor's own side is told");

    world.must("administrator.grant", readers.grant(Some("7d"))).await;
    let _session = readers.open("x@a.example").await.unwrap();
    let found = readers.records(&of_a, "content.read").await;
    assert_eq!(found.len(), 1);
    let (target, actor, customer) = (&found[0]["target"], &found[0]["actor"], &found[0]["customer"]);
    assert_eq!((target, actor), (&json!("mailbox x@a.example"), &json!("provider")), "{customer}");
    assert_eq!(found[0]["after"], json!({ "service": "imap", "writes": false }));
    assert_eq!(readers.records(&of_b, "content.read").await.len(), 1);
    let found = readers.records(&readers.chief, "content.read").await;
    assert_eq!(found[0]["actor"], json!(readers.name));
    for (who, shown) in [(&readers.chief, &readers.name[..]), (&of_a, "provider")] {
        let listed = world.run(who, "session.list", json!({})).await.unwrap();
        assert_eq!(listed["items"][0]["administrator"], shown, "{listed}");
    }
    let listed = world.run(&of_b, "session.list", json!({})).await.unwrap();
    assert_eq!(listed["items"], json!([]));
    // The owner's own administrators may close it.
    world.run(&of_a, "session.close", json!({ "address": "x@a.example" })).await.unwrap();
    ends(&_session).await;
}
