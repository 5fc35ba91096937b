//! Zones: rights over named mail stores and servers, and over nothing else.

use posthouse::params;
use posthouse::service::context::Authentication;
use posthouse::service::registry::operations;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(
    rights_in_a_zone_are_over_what_is_in_it,
    what_is_elsewhere_answers_as_what_is_not_there,
    what_concerns_more_than_one_store_or_server_stays_with_the_root,
    they_are_passed_on_within_the_zone_and_nowhere_else,
    who_says_what_is_in_a_zone_can_grant_all_that_is_granted_in_it,
    they_end_at_once,
    credentials_of_who_holds_them_take_as_much,
    a_zone_ends_with_the_grants_in_it,
    mailboxes_move_between_stores_of_the_zone,
    jobs_about_a_store_are_seen_by_those_who_see_it,
    they_are_told_where_they_count_and_kept_in_the_trail,
);

const STORE_ROLE: [&str; 6] = [
    "system.store.read",
    "system.store.update",
    "system.store.pack",
    "system.store.move",
    "system.zone.read",
    "mailbox.read",
];

async fn execute(world: &World, text: &'static str) {
    let write = world.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move { conn.execute(text, params![]).await })
    });
    write.await.map_err(|error: StorageError| error).unwrap();
}

/// Somebody new at a customer, with a role there.
async fn somebody(world: &World, name: &str, customer: &str, role: &str) -> (String, Authentication) {
    let asked = json!({ "name": name, "customer": customer, "role": role, "delegable": true });
    let made = world.must("administrator.create", asked).await;
    (made["name"].as_str().unwrap().to_owned(), world.login(&made["token"]).await)
}

async fn grant_in(world: &World, name: &str, role: &str, zone: &str, delegable: bool) {
    let asked = json!({ "name": name, "role": role, "zone": zone, "delegable": delegable });
    world.must("administrator.grant", asked).await;
}

/// Beside `main` the stores `east-1`, `east-2`, `west-1` and the servers `east-a` and `west-a`; zones `east` and
/// `west`; the customer `a`; a role `keeper` for stores. Answers a viewer at `a` who has everything in `east`.
async fn zones(world: &World) -> (String, Authentication) {
    execute(
        world,
        "INSERT INTO store (name, path, created_at)
         VALUES ('east-1', '/nowhere/e1', 0), ('east-2', '/nowhere/e2', 0), ('west-1', '/nowhere/w1', 0)",
    )
    .await;
    execute(
        world,
        "INSERT INTO node (id, epoch, started_at, seen_at, state)
         VALUES ('east-a', 1, 0, 1800000000000000, 'serving'), ('west-a', 1, 0, 1800000000000000, 'serving')",
    )
    .await;
    let asked = json!({ "name": "east", "stores": ["east-1", "east-2"], "servers": ["east-a"] });
    let made = world.must("zone.create", asked).await;
    assert_eq!(made["stores"], json!(["east-1", "east-2"]));
    world.must("zone.create", json!({ "name": "west", "stores": ["west-1"], "servers": ["west-a"] })).await;
    world.must("customer.create", json!({ "path": "a", "domain": "a.example" })).await;
    let asked =
        json!({ "name": "keeper", "customer": "/", "base": "system-admin", "permissions": STORE_ROLE });
    world.must("role.create", asked).await;
    let (name, who) = somebody(world, "zoe", "a", "viewer").await;
    grant_in(world, &name, "system-admin", "east", true).await;
    (name, who)
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item[field].as_str().expect("a name").to_owned()).collect()
}

async fn state(world: &World, store: &str) -> Value {
    world.must("store.show", json!({ "name": store })).await["state"].clone()
}

async fn rights_in_a_zone_are_over_what_is_in_it(world: World) {
    let (_, zoe) = zones(&world).await;
    let run = async |name: &str, asked: Value| world.run(&zoe, name, asked).await;
    assert_eq!(names(&run("store.list", json!({})).await.unwrap(), "name"), ["east-1", "east-2"]);
    assert_eq!(names(&run("server.list", json!({})).await.unwrap(), "node"), ["east-a"]);
    let listed = run("zone.list", json!({})).await.unwrap();
    assert_eq!(names(&listed, "name"), ["east"]);
    // Lists are cut into pages of what is seen.
    let first = run("store.list", json!({ "limit": 1 })).await.unwrap();
    assert_eq!(names(&first, "name"), ["east-1"]);
    let rest = run("store.list", json!({ "limit": 1, "cursor": first["cursor"] })).await.unwrap();
    assert_eq!((names(&rest, "name"), rest.get("cursor")), (vec!["east-2".to_owned()], None));
    for (name, asked) in [
        ("store.show", json!({ "name": "east-1" })),
        ("store.set", json!({ "name": "east-1", "settings": { "compression.level": "9" } })),
        ("store.read-only", json!({ "name": "east-1" })),
        ("store.stop", json!({ "name": "east-1" })),
        ("server.show", json!({ "node": "east-a" })),
        ("server.history", json!({ "node": "east-a" })),
        ("server.restart", json!({ "node": "east-a" })),
        ("zone.show", json!({ "name": "east" })),
    ] {
        run(name, asked.clone()).await.unwrap_or_else(|error| panic!("{name} {asked}: {error:?}"));
    }
    assert_eq!(state(&world, "east-1").await, "stopped");
    let wanted = "SELECT count(*) FROM node WHERE wanted = 'restart'";
    assert_eq!(world.integer(wanted).await, 1);
    // What belongs to the whole installation is not told with it.
    let server = run("server.show", json!({ "node": "east-a" })).await.unwrap();
    assert_eq!(server["warnings"], json!([]));
    assert!(run("zone.show", json!({ "name": "east" })).await.unwrap().get("grants").is_none());
}

async fn what_is_elsewhere_answers_as_what_is_not_there(world: World) {
    let (_, zoe) = zones(&world).await;
    let tells = |text: String, name: &str| text.replace(name, "NAME");
    let mut tried = 0;
    for operation in operations()
        .iter()
        .filter(|one| ["store.", "server.", "zone."].iter().any(|kind| one.name.starts_with(kind)))
    {
        let (field, elsewhere) = match operation.name.split_once('.').expect("two words") {
            ("server", _) => ("node", "west-a"),
            ("zone", _) => ("name", "west"),
            _ => ("name", "west-1"),
        };
        if operation.name.ends_with(".list")
            || operation.name.ends_with(".create")
            || operation.name == "store.pack"
        {
            continue;
        }
        let mut asked = json!({});
        if operation.name == "store.set" {
            asked["settings"] = json!({ "compression.level": "9" });
        }
        let mut answers = Vec::new();
        for name in [elsewhere, "missing"] {
            asked[field] = json!(name);
            let error = world.run(&zoe, operation.name, asked.clone()).await.unwrap_err();
            answers.push((error.refusal(), tells(error.to_string(), name)));
        }
        assert_eq!(answers[0], answers[1], "{}", operation.name);
        assert_eq!(answers[0].0, Some("not-found"), "{}", operation.name);
        tried += 1;
    }
    assert!(tried >= 15, "only {tried} operations were tried");
    // The server that answers is none of hers.
    let own = world.run(&zoe, "server.show", json!({})).await.unwrap_err();
    assert_eq!((own.refusal(), own.to_string().as_str()), (Some("not-found"), "server does not exist"));
    for to in ["west-1", "main", "missing"] {
        let asked = json!({ "name": "east-1", "to": to });
        assert_eq!(refusal(world.run(&zoe, "store.drain", asked).await), "not-found", "{to}");
    }
    // Who holds nothing anywhere is told the same of all names, as before.
    let (_, nobody) = somebody(&world, "nobody", "a", "admin").await;
    for name in ["east-1", "west-1", "missing"] {
        let refused = world.run(&nobody, "store.show", json!({ "name": name })).await;
        assert_eq!(refusal(refused), "forbidden");
        assert_eq!(refusal(world.run(&nobody, "zone.show", json!({ "name": name })).await), "not-found");
    }
}

async fn what_concerns_more_than_one_store_or_server_stays_with_the_root(world: World) {
    let (_, zoe) = zones(&world).await;
    for (name, asked) in [
        ("store.create", json!({ "name": "new", "path": "/nowhere/new" })),
        ("store.create", json!({ "name": "east-1", "path": "/nowhere/new" })),
        ("store.pack", json!({})),
        ("backup.create", json!({ "dir": "/nowhere" })),
        ("backup.list", json!({})),
        ("zone.create", json!({ "name": "new" })),
        ("zone.update", json!({ "name": "east", "add_stores": ["west-1"] })),
        ("zone.update", json!({ "name": "east", "remove_stores": ["east-1"] })),
        ("zone.delete", json!({ "name": "east" })),
        ("domain.confirm", json!({ "domain": "a.example" })),
        // Where object storage is reaches beyond the store.
        ("store.set", json!({ "name": "east-1", "settings": { "offload.endpoint": "file:///etc" } })),
        ("store.set", json!({ "name": "east-1", "settings": { "offload.access_key": "file:/etc/passwd" } })),
    ] {
        assert_eq!(refusal(world.run(&zoe, name, asked.clone()).await), "forbidden", "{name} {asked}");
    }
    // No customer is seen by it, and nothing of customers given.
    let (_, apart) = somebody(&world, "apart", "a", "viewer").await;
    let name = world.run(&apart, "whoami", json!({})).await.unwrap()["name"].clone();
    world.must("administrator.revoke", json!({ "name": name, "role": "viewer", "customer": "a" })).await;
    grant_in(&world, name.as_str().unwrap(), "system-admin", "east", false).await;
    assert_eq!(refusal(world.run(&apart, "customer.show", json!({ "path": "a" })).await), "not-found");
    assert_eq!(refusal(world.run(&apart, "customer.list", json!({})).await), "forbidden");
    assert_eq!(refusal(world.run(&apart, "audit.search", json!({})).await), "forbidden");
    assert_eq!(names(&world.run(&apart, "store.list", json!({})).await.unwrap(), "name").len(), 2);
    // A role at a customer below the root gives nothing over servers, as ever.
    let (_, admin) = somebody(&world, "admin", "a", "keeper").await;
    assert_eq!(refusal(world.run(&admin, "store.list", json!({})).await), "forbidden");
}

async fn they_are_passed_on_within_the_zone_and_nowhere_else(world: World) {
    let (_, zoe) = zones(&world).await;
    let (mate, mate_login) = somebody(&world, "mate", "a", "viewer").await;
    let granted = |name: &str, role: &str, zone: &str| json!({ "name": name, "role": role, "zone": zone });
    // Whoever grants must be let to grant to those at the other's home.
    let refused = world.run(&zoe, "administrator.grant", granted(&mate, "keeper", "east")).await;
    assert_eq!(refusal(refused), "forbidden");
    let chief = world.run(&zoe, "whoami", json!({})).await.unwrap()["name"].clone();
    let asked = json!({ "name": chief, "role": "admin", "customer": "a" });
    world.must("administrator.grant", asked).await;
    for (role, zone, wanted) in [
        ("keeper", "west", "not-found"),
        ("keeper", "missing", "not-found"),
        // Nothing of these counts in a zone.
        ("viewer", "east", "invalid"),
        ("admin", "east", "invalid"),
        ("nonsense", "east", "invalid"),
    ] {
        let refused = world.run(&zoe, "administrator.grant", granted(&mate, role, zone)).await;
        assert_eq!(refusal(refused), wanted, "{role} {zone}");
    }
    for asked in [
        json!({ "name": mate, "role": "keeper" }),
        json!({ "name": mate, "role": "keeper", "zone": "east", "customer": "a" }),
    ] {
        assert_eq!(refusal(world.run(&zoe, "administrator.grant", asked).await), "invalid");
    }
    // Not to the provider's staff, whom she does not see, and not at the root.
    let (above, _) = somebody(&world, "above", "/", "viewer").await;
    let refused = world.run(&zoe, "administrator.grant", granted(&above, "keeper", "east")).await;
    assert_eq!(refusal(refused), "not-found");
    let at_root = json!({ "name": mate, "role": "keeper", "customer": "/" });
    assert_eq!(refusal(world.run(&zoe, "administrator.grant", at_root).await), "not-found");
    let made = world.run(&zoe, "administrator.grant", granted(&mate, "keeper", "east")).await.unwrap();
    assert_eq!((&made["zone"], made.get("customer")), (&json!("east"), None));
    assert_eq!(names(&world.run(&mate_login, "store.list", json!({})).await.unwrap(), "name").len(), 2);
    // Keepers may do nothing with servers; who may see a store and not change it is told so.
    assert_eq!(refusal(world.run(&mate_login, "server.list", json!({})).await), "forbidden");
    assert_eq!(
        refusal(world.run(&mate_login, "server.show", json!({ "node": "east-a" })).await),
        "forbidden"
    );
    // What is not delegable is not passed on, nor for longer than it is held.
    let (third, _) = somebody(&world, "third", "a", "viewer").await;
    let asked = json!({ "name": mate, "role": "admin", "customer": "a" });
    world.must("administrator.grant", asked).await;
    let refused = world.run(&mate_login, "administrator.grant", granted(&third, "keeper", "east")).await;
    assert_eq!(refusal(refused), "forbidden");
    let asked =
        json!({ "name": third, "role": "keeper", "zone": "west", "delegable": true, "expires_at": "10d" });
    world.must("administrator.grant", asked).await;
    let asked = json!({ "name": third, "role": "admin", "customer": "a" });
    world.must("administrator.grant", asked).await;
    let asked = json!({ "name": "third", "label": "t" });
    let token = world.must("token.create", asked).await;
    let third_login = world.login(&token["token"]).await;
    for (until, is_done) in [(None, false), (Some("11d"), false), (Some("9d"), true)] {
        let asked = json!({ "name": mate, "role": "keeper", "zone": "west", "expires_at": until });
        let outcome = world.run(&third_login, "administrator.grant", asked).await;
        assert_eq!(outcome.is_ok(), is_done, "{until:?} {outcome:?}");
    }
    // Taking it back ends what hung on it: in that zone, and no more.
    let asked = json!({ "name": third, "role": "keeper", "zone": "west", "cascade": true });
    let ended = world.must("administrator.revoke", asked).await;
    assert_eq!(ended["also_ended"].as_array().unwrap().len(), 1, "{ended}");
    assert!(ended["also_ended"][0].as_str().unwrap().ends_with("at zone west"), "{ended}");
    let left = world.run(&mate_login, "whoami", json!({})).await.unwrap();
    let zones: Vec<&Value> = left["zones"].as_array().unwrap().iter().map(|zone| &zone["zone"]).collect();
    assert_eq!(zones, [&json!("east")]);
    // Groups hold them too.
    let group = world.run(&zoe, "group.create", json!({ "name": "ops", "customer": "a" })).await.unwrap();
    world.run(&zoe, "group.grant", granted(group["name"].as_str().unwrap(), "keeper", "east")).await.unwrap();
    let adding = json!({ "name": group["name"], "administrator": third });
    assert_eq!(refusal(world.run(&mate_login, "group.add", adding.clone()).await), "forbidden");
    world.run(&zoe, "group.add", adding).await.unwrap();
    assert_eq!(names(&world.run(&third_login, "store.list", json!({})).await.unwrap(), "name").len(), 2);
    world
        .run(&zoe, "group.revoke", granted(group["name"].as_str().unwrap(), "keeper", "east"))
        .await
        .unwrap();
    assert_eq!(refusal(world.run(&third_login, "store.list", json!({})).await), "forbidden");
}

async fn who_says_what_is_in_a_zone_can_grant_all_that_is_granted_in_it(world: World) {
    zones(&world).await;
    let permissions = ["system.zone.update", "system.zone.read", "administrator.grant"];
    let asked =
        json!({ "name": "warden", "customer": "/", "base": "system-admin", "permissions": permissions });
    world.must("role.create", asked).await;
    let (warden, login) = somebody(&world, "warden", "/", "warden").await;
    // An empty zone harms nobody; one in which something is granted takes all of that.
    world.run(&login, "zone.create", json!({ "name": "north", "stores": ["west-1"] })).await.unwrap();
    world.run(&login, "zone.update", json!({ "name": "north", "add_stores": ["main"] })).await.unwrap();
    for asked in [
        json!({ "name": "east", "add_stores": ["west-1"] }),
        json!({ "name": "east", "remove_stores": ["east-1"] }),
        json!({ "name": "east", "add_servers": ["west-a"] }),
    ] {
        assert_eq!(refusal(world.run(&login, "zone.update", asked).await), "forbidden");
    }
    assert_eq!(refusal(world.run(&login, "zone.delete", json!({ "name": "east" })).await), "forbidden");
    let own = json!({ "name": warden, "role": "keeper", "zone": "north" });
    assert_eq!(refusal(world.run(&login, "administrator.grant", own).await), "forbidden");
    world.run(&login, "zone.delete", json!({ "name": "north" })).await.unwrap();
    for (asked, wanted) in [
        (json!({ "name": "east" }), "conflict"),
        (json!({ "name": "East" }), "invalid"),
        (json!({ "name": "n", "stores": ["missing"] }), "not-found"),
        (json!({ "name": "n", "servers": ["missing"] }), "not-found"),
    ] {
        assert_eq!(refusal(world.run(&login, "zone.create", asked).await), wanted);
    }
    for asked in [
        json!({ "name": "missing", "add_stores": ["main"] }),
        json!({ "name": "east", "remove_stores": ["west-1"] }),
        json!({ "name": "east", "remove_servers": ["west-a"] }),
    ] {
        assert_eq!(refusal(world.run(&world.system, "zone.update", asked).await), "not-found");
    }
    let listed = world.must("zone.list", json!({ "limit": 1 })).await;
    assert_eq!(names(&listed, "name"), ["east"]);
    let rest = world.must("zone.list", json!({ "limit": 1, "cursor": listed["cursor"] })).await;
    assert_eq!((names(&rest, "name"), rest.get("cursor")), (vec!["west".to_owned()], None));
}

async fn they_end_at_once(world: World) {
    let (name, zoe) = zones(&world).await;
    let show = json!({ "name": "east-1" });
    let sees = async |who: &Authentication| world.run(who, "store.show", show.clone()).await;
    sees(&zoe).await.unwrap();
    // Another store comes and goes with the next request.
    let elsewhere = json!({ "name": "west-1" });
    world.must("zone.update", json!({ "name": "east", "add_stores": ["west-1"] })).await;
    world.run(&zoe, "store.stop", elsewhere.clone()).await.unwrap();
    world.must("zone.update", json!({ "name": "east", "remove_stores": ["west-1", "east-1"] })).await;
    assert_eq!(refusal(world.run(&zoe, "store.stop", elsewhere).await), "not-found");
    assert_eq!(refusal(sees(&zoe).await), "not-found");
    world.must("zone.update", json!({ "name": "east", "add_stores": ["east-1"] })).await;
    sees(&zoe).await.unwrap();
    // What a role says counts at once, and a token is confined by its own list.
    let (keeper, keeping) = somebody(&world, "keeper", "a", "viewer").await;
    grant_in(&world, &keeper, "keeper", "east", false).await;
    let asked = json!({ "name": keeper, "permissions": ["system.store.read"] });
    let token = world.must("token.create", asked).await;
    let confined = world.login(&token["token"]).await;
    sees(&confined).await.unwrap();
    assert_eq!(refusal(world.run(&confined, "store.stop", show.clone()).await), "forbidden");
    world.run(&keeping, "store.stop", show.clone()).await.unwrap();
    world.must("role.update", json!({ "name": "keeper", "remove": ["system.store.update"] })).await;
    assert_eq!(refusal(world.run(&keeping, "store.stop", show.clone()).await), "forbidden");
    // Times, as of other grants.
    let asked = json!({ "name": keeper, "role": "system-admin", "zone": "east", "not_before": "1d",
        "expires_at": "2d" });
    world.must("administrator.grant", asked).await;
    let day = std::time::Duration::from_secs(86_400);
    let nodes = async |who: &Authentication| world.run(who, "server.list", json!({})).await;
    assert_eq!(refusal(nodes(&keeping).await), "forbidden");
    world.clock.advance(day);
    nodes(&keeping).await.unwrap();
    world.clock.advance(day);
    assert_eq!(refusal(nodes(&keeping).await), "forbidden");
    let revoked = json!({ "name": name, "role": "system-admin", "zone": "east" });
    world.must("administrator.revoke", revoked.clone()).await;
    assert_eq!(refusal(sees(&zoe).await), "forbidden");
    assert_eq!(refusal(world.run(&world.system, "administrator.revoke", revoked).await), "not-found");
}

async fn credentials_of_who_holds_them_take_as_much(world: World) {
    let (name, _) = zones(&world).await;
    let (_, chief) = somebody(&world, "chief", "a", "admin").await;
    for (operation, asked) in [
        ("administrator.enable", json!({ "name": name })),
        ("administrator.password", json!({ "name": name, "password_hash": super::PASSWORD_HASH })),
        ("administrator.disable", json!({ "name": name })),
        ("administrator.delete", json!({ "name": name })),
    ] {
        assert_eq!(refusal(world.run(&chief, operation, asked).await), "forbidden", "{operation}");
    }
    let chief_name = world.run(&chief, "whoami", json!({})).await.unwrap()["name"].clone();
    grant_in(&world, chief_name.as_str().unwrap(), "system-admin", "east", true).await;
    let asked = json!({ "name": name, "password_hash": super::PASSWORD_HASH });
    world.run(&chief, "administrator.password", asked).await.unwrap();
    // Who comes back has what whoever brings it back could give.
    world.run(&chief, "administrator.delete", json!({ "name": name })).await.unwrap();
    let back = world.run(&chief, "administrator.undelete", json!({ "name": name })).await.unwrap();
    let zoned =
        |shown: &Value| shown["grants"].as_array().unwrap().iter().any(|grant| grant["zone"] == "east");
    assert!(zoned(&back), "{back}");
    world.must("administrator.delete", json!({ "name": name })).await;
    let (_, other) = somebody(&world, "other", "a", "admin").await;
    world.run(&other, "administrator.undelete", json!({ "name": name })).await.unwrap();
    assert!(!zoned(&world.must("administrator.show", json!({ "name": name })).await));
}

async fn a_zone_ends_with_the_grants_in_it(world: World) {
    let (name, zoe) = zones(&world).await;
    let tried = world
        .run_with(
            &world.system,
            "zone.delete",
            json!({ "name": "east" }),
            posthouse::service::registry::RunOptions { dry_run: true, ..Default::default() },
            None,
        )
        .await
        .unwrap();
    assert_eq!(tried["grants"].as_array().unwrap().len(), 1, "{tried}");
    world.run(&zoe, "store.list", json!({})).await.unwrap();
    world.must("zone.delete", json!({ "name": "east" })).await;
    assert_eq!(refusal(world.run(&zoe, "store.list", json!({})).await), "forbidden");
    assert_eq!(world.integer("SELECT count(*) FROM role_grant WHERE zone_id IS NOT NULL").await, 0);
    assert_eq!(state(&world, "east-1").await, "online");
    // One of the same name gives nothing back.
    world.must("zone.create", json!({ "name": "east", "stores": ["east-1"] })).await;
    assert_eq!(refusal(world.run(&zoe, "store.list", json!({})).await), "forbidden");
    grant_in(&world, &name, "keeper", "east", false).await;
    assert_eq!(names(&world.run(&zoe, "store.list", json!({})).await.unwrap(), "name"), ["east-1"]);
    // A customer that goes takes the grants of its people along.
    world.must("customer.delete", json!({ "path": "a" })).await;
    let shown = world.must("zone.show", json!({ "name": "east" })).await;
    assert!(shown["grants"].as_array().is_some(), "{shown}");
}

async fn mailboxes_move_between_stores_of_the_zone(world: World) {
    let (_, zoe) = zones(&world).await;
    let place = json!({ "path": "a", "allowed": ["main", "east-1", "west-1"] });
    world.must("customer.store", place).await;
    let hash = super::PASSWORD_HASH;
    for (address, store) in [("in@a.example", "east-1"), ("out@a.example", "main")] {
        let asked = json!({ "address": address, "password_hash": hash, "store": store });
        world.must("mailbox.create", asked).await;
    }
    let asked = |address: &str, store: &str| json!({ "address": address, "store": store });
    for (address, store, wanted) in [
        // From elsewhere, and to what she may name and not fill.
        ("out@a.example", "east-1", "forbidden"),
        ("in@a.example", "main", "forbidden"),
        ("in@a.example", "west-1", "forbidden"),
        ("in@a.example", "missing", "not-found"),
        ("missing@a.example", "east-2", "not-found"),
    ] {
        let refused = world.run(&zoe, "mailbox.move", asked(address, store)).await;
        assert_eq!(refusal(refused), wanted, "{address} {store}");
    }
    world.must("customer.store", json!({ "path": "a", "allowed": ["main"] })).await;
    let hidden = world.run(&zoe, "mailbox.move", asked("in@a.example", "west-1")).await;
    assert_eq!(refusal(hidden), "not-found", "as one that does not exist");
    world.run(&zoe, "mailbox.move", asked("in@a.example", "east-2")).await.unwrap();
    let shown = world.must("mailbox.show", json!({ "address": "in@a.example" })).await;
    assert_eq!(shown["store"], "east-2");
    // A store of the zone is emptied to another one of it, or to where its customers' mail goes.
    world.run(&zoe, "store.drain", json!({ "name": "east-2", "to": "east-1" })).await.unwrap();
    assert_eq!(state(&world, "east-2").await, "draining");
    let (_, keeper) = somebody(&world, "keeper", "a", "viewer").await;
    assert_eq!(
        refusal(world.run(&keeper, "mailbox.move", asked("in@a.example", "east-1")).await),
        "forbidden"
    );
}

async fn jobs_about_a_store_are_seen_by_those_who_see_it(world: World) {
    let (_, zoe) = zones(&world).await;
    let theirs = world.must("store.drain", json!({ "name": "west-1" })).await;
    let providers = world.must("store.drain", json!({ "name": "east-2" })).await;
    let own = world.run(&zoe, "store.drain", json!({ "name": "east-1" })).await.unwrap();
    let listed = names(&world.run(&zoe, "job.list", json!({})).await.unwrap(), "id");
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    assert_eq!(listed, [id(&own), id(&providers)]);
    // Of what somebody above does she learns that it runs, and cannot stop it.
    let shown = world.run(&zoe, "job.show", json!({ "id": providers["id"] })).await.unwrap();
    assert_eq!((&shown["kind"], &shown["actor"]), (&json!("store.drain"), &json!("provider")));
    assert!(shown.get("target").is_none(), "{shown}");
    assert_eq!(refusal(world.run(&zoe, "job.cancel", json!({ "id": providers["id"] })).await), "forbidden");
    for name in ["job.show", "job.cancel"] {
        assert_eq!(refusal(world.run(&zoe, name, json!({ "id": theirs["id"] })).await), "not-found");
    }
    // Somebody beside her with rights over the store and over her may.
    let (mate, mate_login) = somebody(&world, "mate", "a", "manager").await;
    let asked = json!({ "id": own["id"] });
    assert_eq!(refusal(world.run(&mate_login, "job.show", asked.clone()).await), "not-found");
    grant_in(&world, &mate, "keeper", "east", false).await;
    let shown = world.run(&mate_login, "job.show", asked.clone()).await.unwrap();
    assert_eq!(shown["target"], "store east-1");
    world.run(&mate_login, "job.cancel", asked).await.unwrap();
    // So many, and no more; the provider's own are counted apart.
    let text = "INSERT INTO job (public_id, kind, customer_id, is_system, target, request, asker, actor, state,
                                 created_at, updated_at, store_id)
                SELECT j.public_id || m.public_id || o.public_id || p.public_id, 'store.drain', j.customer_id, 1, '',
                       '{}', j.asker, '', 'waiting', 0, 0, j.store_id FROM job j, job m, job o, job p";
    execute(&world, text).await;
    assert_eq!(refusal(world.run(&zoe, "store.drain", json!({ "name": "east-1" })).await), "limit");
    world.must("quota.verify", json!({})).await;
}

async fn they_are_told_where_they_count_and_kept_in_the_trail(world: World) {
    let (name, zoe) = zones(&world).await;
    let me = world.run(&zoe, "whoami", json!({})).await.unwrap();
    assert_eq!(me["zones"][0]["zone"], "east");
    let permissions: Vec<&str> =
        me["zones"][0]["permissions"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(permissions.iter().all(|one| one.starts_with("system.")), "{permissions:?}");
    assert!(!permissions.contains(&"system.backup") && permissions.contains(&"system.server.control"));
    assert_eq!(me["grants"].as_array().unwrap().len(), 1);
    let asked = json!({ "name": name, "customer": "a" });
    let shown = world.must("administrator.effective", asked.clone()).await;
    assert_eq!(shown["zones"][0]["zone"], "east");
    assert!(!shown["permissions"].as_array().unwrap().iter().any(|one| one == "system.store.read"));
    // Those beside her who know nothing of the zone are told nothing of it.
    let (_, chief) = somebody(&world, "chief", "a", "admin").await;
    let beside = world.run(&chief, "administrator.effective", asked).await.unwrap();
    assert!(beside.get("zones").is_none(), "{beside}");
    for (operation, asked) in [
        ("administrator.show", json!({ "name": name })),
        ("grant.list", json!({})),
        ("administrator.list", json!({})),
    ] {
        let text = world.run(&chief, operation, asked).await.unwrap().to_string();
        assert!(!text.contains("east"), "{operation}: {text}");
    }
    let listed = world.must("grant.list", json!({})).await;
    let zoned: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().filter(|grant| grant.get("zone").is_some()).collect();
    assert_eq!((zoned.len(), &zoned[0]["holder"]), (1, &json!(name)));
    let listed = world.must("administrator.list", json!({ "customer": "a" })).await.to_string();
    assert!(listed.contains("system-admin at zone east"), "{listed}");
    assert_eq!(world.must("zone.show", json!({ "name": "east" })).await["grants"][0]["holder"], json!(name));
    // What she does stands in the provider's trail, and in her own.
    world.run(&zoe, "store.stop", json!({ "name": "east-1" })).await.unwrap();
    assert_eq!(refusal(world.run(&zoe, "store.stop", json!({ "name": "west-1" })).await), "not-found");
    let search = async |who: &Authentication, mut asked: Value| {
        asked["operation"] = json!("store.stop");
        let found = world.run(who, "audit.search", asked).await.unwrap();
        let items = found["items"].as_array().unwrap().clone();
        items.iter().map(|item| (item["outcome"].clone(), item["target"].clone())).collect::<Vec<_>>()
    };
    let done = (json!("done"), json!("store east-1"));
    let all = search(&world.system, json!({})).await;
    assert!(all.contains(&done) && all.len() == 2, "{all:?}");
    let at_home = search(&world.system, json!({ "customer": "a" })).await;
    assert_eq!(at_home.len(), 1, "the refusal, which is about nothing that she sees: {at_home:?}");
    assert!(search(&zoe, json!({ "mine": true })).await.contains(&done));
    let (_, auditor) = somebody(&world, "auditor", "a", "auditor").await;
    let theirs = search(&auditor, json!({})).await;
    assert!(!theirs.contains(&done), "{theirs:?}");
}
