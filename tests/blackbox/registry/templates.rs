//! Templates: what new customers and mailboxes get, and who may say so.

use serde_json::{Value, json};

use super::{PASSWORD_HASH, World, on_both, refusal};

on_both!(
    template_gives_what_its_owner_may_give_to_whoever_creates_below,
    template_gives_nothing_that_its_maker_may_not_give,
    template_of_a_mailbox_gives_limits_and_services,
);

async fn template_gives_what_its_owner_may_give_to_whoever_creates_below(world: World) {
    let top = world.aboard("top", "top.example").await;
    let mid = world.aboard("top/mid", "mid.example").await;
    let gives = json!({
        "bytes": 1_000_000, "mailboxes": 3, "store": "main",
        "settings": [
            { "key": "time_zone", "value": "europe/vienna" },
            { "key": "service.pop3", "value": "off", "locked": true },
            { "key": "audit.retention", "value": "400" },
        ],
    });
    let made = json!({ "name": "small", "customer": "/", "kind": "customer", "gives": gives });
    let made = world.must("template.create", made).await;
    assert_eq!(made["gives"]["settings"][0]["value"], "Europe/Vienna");
    // Below it is usable, and tells neither whose it is nor the mail store.
    let listed = world.run(&mid, "template.list", json!({ "customer": "mid" })).await.unwrap();
    let item = &listed["items"][0];
    assert_eq!(
        (&item["name"], &item["customer"], &item["gives"]["store"]),
        (&json!("small"), &Value::Null, &Value::Null)
    );
    let asked = json!({ "path": "mid/new", "template": "small", "admin": "chief" });
    let new = world.run(&mid, "customer.create", asked).await.unwrap();
    assert_eq!(new["limits"]["bytes"], 1_000_000);
    assert_eq!(new["limits"]["mailboxes"], 3);
    let list = json!({ "path": "top/mid/new" });
    let settings = world.must("setting.list", list).await;
    let of = |key: &str| {
        settings["items"].as_array().unwrap().iter().find(|one| one["key"] == key).unwrap().clone()
    };
    assert_eq!(
        (of("time_zone")["value"].clone(), of("time_zone")["from"].clone()),
        (json!("Europe/Vienna"), json!("top/mid/new"))
    );
    assert_eq!(of("audit.retention")["value"], "400");
    assert_eq!(of("service.pop3")["locked"], "top/mid/new");
    // What the template has locked is its owner's: neither the new customer nor those between take it away.
    let chief = world.login(&new["token"]).await;
    for (who, path) in [(&chief, "new"), (&mid, "mid/new"), (&top, "top/mid/new")] {
        let unlock = json!({ "path": path, "key": "service.pop3" });
        assert_eq!(refusal(world.run(who, "setting.unlock", unlock).await), "forbidden");
    }
    // The nearest of one name counts; one from beside does not exist.
    let own = json!({ "name": "small", "customer": "mid", "kind": "customer", "gives": { "settings": [] } });
    world.run(&mid, "template.create", own).await.unwrap();
    let asked = json!({ "path": "mid/other", "template": "small" });
    let other = world.run(&mid, "customer.create", asked).await.unwrap();
    assert_eq!(other["limits"], json!({}));
    let beside = world.aboard("beside", "beside.example").await;
    let asked = json!({ "name": "own", "customer": "mid", "kind": "customer" });
    world.run(&mid, "template.create", asked).await.unwrap();
    for name in ["own", "none"] {
        let asked = json!({ "path": "beside/new", "template": name });
        assert_eq!(refusal(world.run(&beside, "customer.create", asked).await), "not-found");
        let asked = json!({ "customer": "beside", "name": name });
        assert_eq!(refusal(world.run(&beside, "template.show", asked).await), "not-found");
    }
    // Nothing follows a template afterwards.
    let asked = json!({ "name": "small", "customer": "/", "gives": { "bytes": 5 } });
    world.must("template.update", asked).await;
    world.must("template.delete", json!({ "name": "small", "customer": "/" })).await;
    let shown = world.must("customer.show", json!({ "path": "top/mid/new" })).await;
    assert_eq!(shown["limits"]["bytes"], 1_000_000);
}

async fn template_gives_nothing_that_its_maker_may_not_give(world: World) {
    let top = world.aboard("top", "top.example").await;
    let asked = json!({ "name": "mailer", "customer": "top", "role": "manager" });
    let manager = world.must("administrator.create", asked).await;
    let manager = world.login(&manager["token"]).await;
    let make = |gives: Value| json!({ "name": "t", "customer": "top", "kind": "customer", "gives": gives });
    // Managers give nothing; a customer's administrators nothing that is the root's, nor stores they do not know.
    assert_eq!(refusal(world.run(&manager, "template.create", make(json!({}))).await), "forbidden");
    let roots = json!({ "settings": [{ "key": "content.permanent_allowed", "value": "on" }] });
    assert_eq!(refusal(world.run(&top, "template.create", make(roots.clone())).await), "forbidden");
    assert_eq!(
        refusal(world.run(&top, "template.create", make(json!({ "store": "main" }))).await),
        "not-found"
    );
    world.run(&top, "template.create", make(json!({ "bytes": 10 }))).await.unwrap();
    let update = json!({ "name": "t", "customer": "top", "gives": roots });
    assert_eq!(refusal(world.run(&top, "template.update", update).await), "forbidden");
    // A template from above is not changed from below.
    let above = json!({ "name": "above", "customer": "/", "kind": "customer" });
    world.must("template.create", above).await;
    let asked = json!({ "name": "above", "customer": "top" });
    world.run(&top, "template.show", asked.clone()).await.unwrap();
    assert_eq!(refusal(world.run(&top, "template.delete", asked).await), "not-found");
    // Whatever it gives must fit where it is used.
    world.must("customer.limit", json!({ "path": "top", "customers": 0 })).await;
    let asked = json!({ "path": "top/new", "template": "t" });
    assert_eq!(refusal(world.run(&top, "customer.create", asked).await), "over-quota");
    for (gives, word) in [
        (json!({ "bytes": -1 }), "invalid"),
        (json!({ "settings": [{ "key": "time_zone", "value": "x" }] }), "invalid"),
        (json!({ "settings": [{ "key": "none", "value": "x" }] }), "not-found"),
        (
            json!({ "settings": [{ "key": "time_zone", "value": "UTC" }, { "key": "time_zone", "value": "UTC" }] }),
            "invalid",
        ),
    ] {
        let mut asked = make(gives);
        asked["name"] = json!("wrong");
        assert_eq!(refusal(world.run(&top, "template.create", asked.clone()).await), word, "{asked}");
    }
    assert_eq!(refusal(world.run(&top, "template.create", make(json!({}))).await), "conflict");
}

async fn template_of_a_mailbox_gives_limits_and_services(world: World) {
    let a = world.aboard("a", "a.example").await;
    let gives =
        json!({ "bytes": 500, "messages": 7, "settings": [{ "key": "service.imap", "value": "off" }] });
    let made = json!({ "name": "basic", "customer": "a", "kind": "mailbox", "gives": gives });
    world.run(&a, "template.create", made).await.unwrap();
    let with = |address: &str, more: Value| {
        let mut asked = json!({ "address": address, "password_hash": PASSWORD_HASH, "template": "basic" });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    let made = world.run(&a, "mailbox.create", with("x@a.example", json!({}))).await.unwrap();
    assert_eq!((&made["bytes_max"], &made["messages_max"]), (&json!(500), &json!(7)));
    let shown = world.run(&a, "mailbox.show", json!({ "address": "x@a.example" })).await.unwrap();
    assert_eq!(shown["switches_off"], json!(["imap"]));
    // What is said counts before what the template says.
    let made = world.run(&a, "mailbox.create", with("y@a.example", json!({ "quota": 900 }))).await.unwrap();
    assert_eq!((&made["bytes_max"], &made["messages_max"]), (&json!(900), &json!(7)));
    let asked = json!({ "path": "a/new", "template": "basic" });
    assert_eq!(refusal(world.run(&a, "customer.create", asked).await), "conflict");
    for gives in [json!({ "mailboxes": 1 }), json!({ "settings": [{ "key": "time_zone", "value": "UTC" }] })]
    {
        let asked = json!({ "name": "wrong", "customer": "a", "kind": "mailbox", "gives": gives });
        assert_eq!(refusal(world.run(&a, "template.create", asked).await), "invalid");
    }
}
