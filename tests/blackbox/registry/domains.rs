//! Domains of one name, alias domains, and what a deletion tells of.

use posthouse::service::registry::RunOptions;
use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    alias_domain_waits_for_the_domain_it_stands_for,
    domains_of_one_name_are_told_apart_by_their_customer,
    deleting_tells_what_leads_there,
    report_over_leaves_out_everything_below_it,
    changed_objects_are_told_from_conflicts,
);

/// A pending domain of a customer's own making.
async fn pending(
    world: &World,
    who: &posthouse::service::context::Authentication,
    customer: &str,
    name: &str,
) {
    let asked = json!({ "domain": name, "customer": customer });
    assert_eq!(world.run(who, "domain.create", asked).await.unwrap()["state"], "pending");
}

async fn alias_domain_waits_for_the_domain_it_stands_for(world: World) {
    let a = world.aboard("a", "a.example").await;
    pending(&world, &a, "a", "new.example").await;
    let asked = json!({ "domain": "other.example", "alias_of": "new.example" });
    let made = world.run(&a, "domain.alias", asked).await.unwrap();
    assert_eq!((&made["state"], &made["alias_of"]), (&json!("pending"), &json!("new.example")));
    let refused = world.run(&world.system, "domain.confirm", json!({ "domain": "other.example" })).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.refusal(), Some("conflict"));
    assert!(refused.to_string().contains("new.example, which it stands for, is pending"), "{refused}");
    // Not even a system administrator's is verified before what it stands for.
    let asked = json!({ "domain": "third.example", "alias_of": "new.example" });
    assert_eq!(world.must("domain.alias", asked).await["state"], "pending");
    world.must("domain.confirm", json!({ "domain": "new.example" })).await;
    for name in ["other.example", "third.example"] {
        assert_eq!(world.must("domain.confirm", json!({ "domain": name })).await["state"], "verified");
    }
}

async fn domains_of_one_name_are_told_apart_by_their_customer(world: World) {
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "b.example").await;
    pending(&world, &a, "a", "new.example").await;
    pending(&world, &b, "b", "new.example").await;
    let system = &world.system;
    let unclear = world.run(system, "domain.show", json!({ "domain": "new.example" })).await.unwrap_err();
    assert_eq!(unclear.refusal(), Some("conflict"));
    assert!(unclear.to_string().contains("several customers have a domain new.example"), "{unclear}");
    for path in ["a", "b"] {
        let asked = json!({ "domain": "new.example", "customer": path });
        assert_eq!(world.must("domain.show", asked).await["customer"], path);
        let asked = json!({ "address": "x@new.example", "customer": path, "password_hash": PASSWORD_HASH });
        assert_eq!(world.must("mailbox.create", asked).await["customer"], path);
        let asked = json!({ "address": "y@new.example", "customer": path, "targets": ["x@new.example"] });
        assert_eq!(world.must("alias.create", asked).await["customer"], path);
        let asked = json!({ "domain": "new.example", "customer": path, "bytes": 5 });
        assert_eq!(world.must("domain.limit", asked).await["customer"], path);
        let listed = world.must("mailbox.list", json!({ "domain": "new.example", "customer": path })).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    }
    // Each of the two sees one alone, and the other's is not there for it.
    assert_eq!(
        world.run(&a, "domain.show", json!({ "domain": "new.example" })).await.unwrap()["customer"],
        "a"
    );
    let foreign = json!({ "domain": "new.example", "customer": "b" });
    assert_eq!(refusal(world.run(&a, "domain.show", foreign).await), "not-found");
    // A verified one is meant where nobody says which.
    world.must("domain.confirm", json!({ "domain": "new.example", "customer": "b" })).await;
    assert_eq!(world.must("domain.show", json!({ "domain": "new.example" })).await["customer"], "b");
    world.must("domain.delete", json!({ "domain": "new.example", "customer": "a" })).await;
    world.must("domain.delete", json!({ "domain": "new.example" })).await;
    let unclear = world.run(system, "domain.undelete", json!({ "domain": "new.example" })).await;
    assert_eq!(refusal(unclear), "conflict");
    let back = world.must("domain.undelete", json!({ "domain": "new.example", "customer": "a" })).await;
    assert_eq!((&back["customer"], &back["state"]), (&json!("a"), &json!("pending")));
}

async fn deleting_tells_what_leads_there(world: World) {
    world.aboard("a", "a.example").await;
    world.must("domain.create", json!({ "domain": "b.example", "customer": "a" })).await;
    world.must("domain.alias", json!({ "domain": "c.example", "alias_of": "a.example" })).await;
    for address in ["x_1@a.example", "xy1@a.example", "z@b.example"] {
        world.mailbox(address).await;
    }
    for (address, target) in [
        ("one@a.example", "x_1@a.example"),
        ("two@b.example", "x_1+detail@a.example"),
        ("three@b.example", "x_1@c.example"),
        ("four@a.example", "xy1@a.example"),
    ] {
        world.must("alias.create", json!({ "address": address, "targets": [target] })).await;
    }
    world.must("domain.catch-all", json!({ "domain": "b.example", "address": "x_1@a.example" })).await;
    let dry = RunOptions { dry_run: true, ..RunOptions::default() };
    let asked = json!({ "address": "x_1@a.example" });
    let planned = world.run_with(&world.system, "mailbox.delete", asked, dry.clone(), None).await.unwrap();
    assert_eq!(planned["aliases"], json!(["one@a.example", "three@b.example", "two@b.example"]));
    assert_eq!(planned["catch_alls"], json!(["b.example"]));
    world.must("mailbox.show", json!({ "address": "x_1@a.example" })).await;
    world.must("domain.delete", json!({ "domain": "c.example" })).await;
    let asked = json!({ "domain": "a.example" });
    let planned = world.run_with(&world.system, "domain.delete", asked, dry.clone(), None).await.unwrap();
    let counts = |names: &[&str]| names.iter().map(|name| planned[name].clone()).collect::<Vec<Value>>();
    let names = ["mailboxes", "aliases", "aliases_here", "catch_alls_here"];
    assert_eq!(counts(&names), [json!(2), json!(2), json!(1), json!(1)]);
    let planned =
        world.run_with(&world.system, "customer.delete", json!({ "path": "a" }), dry, None).await.unwrap();
    assert_eq!((&planned["mailboxes"], &planned["aliases"]), (&json!(3), &json!(4)));
}

async fn report_over_leaves_out_everything_below_it(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/low", "low.example").await;
    world.aboard("b", "b.example").await;
    for address in ["x@a.example", "y@a.example", "z@low.example", "w@b.example"] {
        world.mailbox(address).await;
        world.must("mailbox.quota", json!({ "address": address, "quota": 1000 })).await;
    }
    world.must("domain.limit", json!({ "domain": "low.example", "bytes": 500 })).await;
    world.must("domain.limit", json!({ "domain": "a.example", "bytes": 5000 })).await;
    world.must("customer.limit", json!({ "path": "a/low", "bytes": 600 })).await;
    world.must("customer.limit", json!({ "path": "a", "bytes": 100_000 })).await;
    world.use_octets("z@low.example", 490).await;
    world.use_octets("x@a.example", 900).await;
    let report = async |over: Option<i64>| {
        let mut asked = json!({ "customer": "a" });
        if let Some(over) = over {
            asked["over"] = over.into();
        }
        world.must("report.quota", asked).await
    };
    let names = |report: &Value, list: &str, name: &str| -> Vec<String> {
        let lines = report[list].as_array().unwrap().iter();
        lines.map(|line| line[name].as_str().unwrap().to_owned()).collect()
    };
    let all = report(None).await;
    assert_eq!(names(&all, "domains", "domain"), ["a.example", "low.example"]);
    assert_eq!(names(&all, "customers", "customer"), ["a", "a/low"]);
    assert_eq!((&all["total"]["mailboxes"], &all["total"]["used"]), (&json!(3), &json!(1390)));
    assert_eq!(all["customers"][0]["used"], 1390);
    let over = report(Some(80)).await;
    assert_eq!(names(&over, "items", "address"), ["x@a.example"]);
    assert_eq!(names(&over, "domains", "domain"), ["low.example"]);
    assert_eq!(names(&over, "customers", "customer"), ["a/low"]);
    assert!(over.get("total").is_none(), "{over}");
    let none = report(Some(99)).await;
    for list in ["items", "domains", "customers"] {
        assert_eq!(none[list], json!([]), "{list}");
    }
}

async fn changed_objects_are_told_from_conflicts(world: World) {
    world.aboard("a", "a.example").await;
    let shown = world.must("domain.show", json!({ "domain": "a.example" })).await;
    let etag = shown["etag"].as_str().unwrap().to_owned();
    let limit = async |etag: &str, bytes: i64| {
        let options = RunOptions { if_match: Some(etag.to_owned()), ..RunOptions::default() };
        let asked = json!({ "domain": "a.example", "bytes": bytes });
        world.run_with(&world.system, "domain.limit", asked, options, None).await
    };
    limit(&etag, 1000).await.unwrap();
    let late = limit(&etag, 2000).await.unwrap_err();
    assert_eq!(late.refusal(), Some("changed"));
    assert_eq!(late.to_string(), "domain a.example was changed; read it again");
    assert_eq!(world.must("domain.show", json!({ "domain": "a.example" })).await["bytes_max"], 1000);
}
