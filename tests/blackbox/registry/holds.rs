//! Holds: who is named to whom, and who may release them after a move.

use posthouse::service::context::Authentication;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(holds_name_nobody_above_the_reader, hold_of_a_lost_ancestor_goes_to_the_one_that_stays,);

/// (actor, authority) of each hold that the reader is shown there.
async fn shown(world: &World, who: &Authentication, asked: Value) -> Vec<(String, String)> {
    let held = world.run(who, "hold.list", asked).await.unwrap();
    let text = |hold: &Value, member: &str| hold[member].as_str().unwrap().to_owned();
    let holds = held["items"].as_array().unwrap().iter();
    holds.map(|hold| (text(hold, "actor"), text(hold, "authority"))).collect()
}

async fn login_of(world: &World, who: &Authentication) -> String {
    world.run(who, "whoami", json!({})).await.unwrap()["name"].as_str().unwrap().to_owned()
}

async fn holds_name_nobody_above_the_reader(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.mailbox("x@low.example").await;
    // At home above, with a grant below: the hold's authority is visible, its actor is not.
    let asked = json!({ "name": "upper", "customer": "top", "role": "billing" });
    let upper = world.must("administrator.create", asked).await;
    let granted = json!({ "name": upper["name"], "role": "admin", "customer": "top/low" });
    world.must("administrator.grant", granted).await;
    let upper = world.login(&upper["token"]).await;
    let (top_login, low_login, upper_login) =
        (login_of(&world, &top).await, login_of(&world, &low).await, login_of(&world, &upper).await);
    for (path, domain, mailbox) in [
        (json!("top/low"), Value::Null, Value::Null),
        (Value::Null, json!("low.example"), Value::Null),
        (Value::Null, Value::Null, json!("x@low.example")),
    ] {
        let asked = |path: &Value| json!({ "path": path, "domain": domain, "mailbox": mailbox });
        let own = if path.is_null() { Value::Null } else { json!("low") };
        for (who, path) in [(&world.system, &path), (&top, &path), (&upper, &path), (&low, &own)] {
            let mut add = asked(path);
            add["switch"] = json!("imap");
            add["reason"] = json!("test");
            world.run(who, "hold.add", add).await.unwrap();
        }
        let pair = |actor: &str, authority: &str| (actor.to_owned(), authority.to_owned());
        let above = pair("provider", "provider");
        let expected = [above.clone(), above.clone(), pair("provider", "low"), pair(&low_login, "low")];
        assert_eq!(shown(&world, &low, asked(&own)).await, expected);
        let expected =
            [above, pair(&top_login, "top"), pair(&upper_login, "top/low"), pair(&low_login, "top/low")];
        assert_eq!(shown(&world, &top, asked(&path)).await, expected);
        let expected = [
            pair("system", "/"),
            pair(&top_login, "top"),
            pair(&upper_login, "top/low"),
            pair(&low_login, "top/low"),
        ];
        assert_eq!(shown(&world, &world.system, asked(&path)).await, expected);
    }
    // Nor do the answers of suspending and resuming name them.
    let asked = json!({ "path": "top/low" });
    world.run(&top, "customer.suspend", asked).await.unwrap();
    let suspended = json!({ "path": "low", "reason": "ours", "switches": ["send"] });
    let answer = world.run(&low, "customer.suspend", suspended).await.unwrap().to_string();
    assert!(!answer.contains(&top_login) && !answer.contains(&upper_login) && answer.contains(&low_login));
    let resumed = world.run(&low, "customer.resume", json!({ "path": "low", "reason": "ours" })).await;
    let answer = resumed.unwrap().to_string();
    assert!(!answer.contains(&top_login) && !answer.contains(&upper_login) && !answer.contains("top"));
}

async fn hold_of_a_lost_ancestor_goes_to_the_one_that_stays(world: World) {
    let all = world.aboard("all", "all.example").await;
    let old = world.aboard("all/old", "old.example").await;
    let unit = world.aboard("all/old/unit", "unit.example").await;
    let new = world.aboard("all/new", "new.example").await;
    world.mailbox("x@unit.example").await;
    let asked = json!({ "path": "old/unit", "switch": "imap", "reason": "dispute" });
    let hold = world.run(&old, "hold.add", asked).await.unwrap()["id"].clone();
    let asked = json!({ "address": "x@unit.example", "switches": ["login"], "reason": "theft" });
    world.run(&old, "mailbox.suspend", asked).await.unwrap();
    world.run(&all, "customer.move", json!({ "path": "all/old/unit", "to": "all/new" })).await.unwrap();
    // Neither the customer itself nor its new administrators were given what was decided above them.
    for who in [&unit, &new] {
        let released = world.run(who, "hold.release", json!({ "id": hold })).await;
        assert_eq!(refusal(released), "forbidden");
        let asked = json!({ "address": "x@unit.example", "reason": "theft" });
        assert_eq!(refusal(world.run(who, "mailbox.resume", asked).await), "forbidden");
    }
    assert_eq!(refusal(world.run(&old, "hold.release", json!({ "id": hold })).await), "not-found");
    let nobody = ("provider".to_owned(), "provider".to_owned());
    assert_eq!(shown(&world, &unit, json!({ "path": "unit" })).await, [nobody]);
    world.run(&all, "hold.release", json!({ "id": hold })).await.unwrap();
    let asked = json!({ "address": "x@unit.example", "reason": "theft" });
    world.run(&all, "mailbox.resume", asked).await.unwrap();
}
