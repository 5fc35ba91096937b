//! The log of logins to mailboxes: what is counted, for whom to see, and how long.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

async fn attempt(world: &World, service: Service, name: &str, word: &str, source: Option<IpAddr>) -> bool {
    world.login.password(service, name, &SecretString::from(word), source).await.is_ok()
}

fn address(number: u8) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
}

async fn logins(world: &World, who: &Authentication, fields: Value) -> Value {
    world.run(who, "mailbox.logins", fields).await.unwrap()
}

/// Service, source, successes and failures of each line.
fn lines(answer: &Value) -> Vec<(String, String, i64, i64)> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let count = |item: &Value, name: &str| item[name].as_i64().unwrap();
    let line = |item: &Value| {
        (text(item, "service"), text(item, "source"), count(item, "successes"), count(item, "failures"))
    };
    answer["items"].as_array().unwrap().iter().map(line).collect()
}

fn line(service: &str, source: &str, successes: i64, failures: i64) -> (String, String, i64, i64) {
    (service.to_owned(), source.to_owned(), successes, failures)
}

pub async fn logins_are_counted_by_service_source_and_hour(world: World) {
    let whose = json!({ "address": "x@a.example" });
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(1)).await);
    assert!(attempt(&world, Service::Imap, "X@A.example", WORD, address(1)).await);
    assert!(!attempt(&world, Service::Imap, "x@a.example", "wrong", address(1)).await);
    assert!(!attempt(&world, Service::Pop3, "x@a.example", "wrong", None).await);
    assert!(!attempt(&world, Service::Imap, "nobody@a.example", WORD, address(1)).await);
    assert!(!attempt(&world, Service::Imap, "x@nowhere.example", WORD, address(1)).await);
    assert!(lines(&logins(&world, &world.a, whose.clone()).await).is_empty(), "nothing is written yet");
    world.login.flush().await;
    world.login.flush().await;
    let first = [line("pop3", "unix", 0, 1), line("imap", "192.0.2.1", 2, 1)];
    let answer = logins(&world, &world.a, whose.clone()).await;
    assert_eq!(lines(&answer), first);
    assert_eq!(answer["items"][1]["hour"], "2001-09-09T01:00:00Z");
    assert_eq!(answer["items"][1]["last_at"], "2001-09-09T01:46:40Z");
    assert_eq!(world.number("SELECT count(*) FROM login_log").await, 2, "unknown names have no lines");
    // The same line again, and a new one in the next hour. Who may not come in is counted as refused.
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(1)).await);
    world.clock.advance(HOUR);
    let asked = json!({ "mailbox": "x@a.example", "switch": "imap", "reason": "test" });
    world.run(&world.a, "hold.add", asked).await.unwrap();
    assert!(!attempt(&world, Service::Imap, "x@a.example", WORD, address(2)).await);
    world.login.flush().await;
    let all = [line("imap", "192.0.2.2", 0, 1), line("pop3", "unix", 0, 1), line("imap", "192.0.2.1", 3, 1)];
    assert_eq!(lines(&logins(&world, &world.a, whose.clone()).await), all);
    // Page by page, and from a time on.
    let (mut found, mut asked) = (Vec::new(), json!({ "address": "x@a.example", "limit": 1 }));
    loop {
        let page = logins(&world, &world.a, asked.clone()).await;
        found.extend(lines(&page));
        if page["cursor"].is_null() {
            break;
        }
        asked["cursor"] = page["cursor"].clone();
    }
    assert_eq!(found, all);
    let since = json!({ "address": "x@a.example", "since": "1m" });
    assert_eq!(lines(&logins(&world, &world.a, since).await), all[..1]);
    // Nobody else's.
    let theirs = world.run(&world.b, "mailbox.logins", whose).await.unwrap_err();
    assert_eq!(theirs.refusal(), Some("not-found"));
}

pub async fn further_sources_of_an_hour_share_a_line(world: World) {
    for number in 0..60 {
        assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(number)).await);
        // Some together, some one by one.
        if number > 40 {
            world.login.flush().await;
        }
    }
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(0)).await);
    world.login.flush().await;
    let found = lines(&logins(&world, &world.a, json!({ "address": "x@a.example" })).await);
    assert!(found.len() <= 33, "{found:?}");
    assert_eq!(found.iter().map(|(_, _, successes, _)| successes).sum::<i64>(), 61);
    let others = found.iter().find(|(_, source, ..)| source == "other").expect("a line of the others");
    assert!(others.2 >= 60 - 32, "{found:?}");
    // The next hour has room again.
    world.clock.advance(HOUR);
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(59)).await);
    world.login.flush().await;
    let next = logins(&world, &world.a, json!({ "address": "x@a.example", "since": "1s" })).await;
    assert_eq!(lines(&next), [line("imap", "192.0.2.59", 1, 0)]);
}

pub async fn logins_that_cannot_be_written_are_written_later(world: World) {
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(1)).await);
    world.execute("ALTER TABLE login_log RENAME TO elsewhere").await;
    world.login.flush().await;
    assert!(attempt(&world, Service::Imap, "x@a.example", WORD, address(1)).await);
    world.login.flush().await;
    world.execute("ALTER TABLE elsewhere RENAME TO login_log").await;
    world.login.flush().await;
    let found = logins(&world, &world.a, json!({ "address": "x@a.example" })).await;
    assert_eq!(lines(&found), [line("imap", "192.0.2.1", 2, 0)]);
}

pub async fn logins_stay_with_the_customer_and_go_after_their_time(world: World) {
    for name in ["x@a.example", "x@b.example"] {
        assert!(attempt(&world, Service::Imap, name, WORD, address(1)).await);
    }
    world.login.flush().await;
    // What was done while the domain belonged to `a` is not told to `b`.
    let asked = json!({ "domain": "a.example", "to": "b" });
    world.run(&world.system, "domain.move", asked).await.unwrap();
    assert!(attempt(&world, Service::Pop3, "x@a.example", WORD, address(2)).await);
    world.login.flush().await;
    let (whose, new) = (json!({ "address": "x@a.example" }), line("pop3", "192.0.2.2", 1, 0));
    assert_eq!(lines(&logins(&world, &world.b, whose.clone()).await), std::slice::from_ref(&new));
    let all = logins(&world, &world.system, whose).await;
    assert_eq!(lines(&all), [new, line("imap", "192.0.2.1", 1, 0)]);
    // `b` keeps them for 10 days, everybody else for 90; not those of a mailbox that may lose nothing.
    let set = json!({ "path": "b", "key": "login_log.retention", "value": "10" });
    assert_eq!(
        world.run(&world.b, "setting.set", set.clone()).await.unwrap_err().refusal(),
        Some("forbidden")
    );
    world.run(&world.system, "setting.set", set).await.unwrap();
    let hold = json!({ "mailbox": "x@b.example", "reason": "case 7" });
    let hold = world.run(&world.system, "legal-hold.add", hold).await.unwrap();
    let housekeeping = world.housekeeping();
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 10)).await.unwrap().logins, 0);
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 11)).await.unwrap().logins, 1);
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 89)).await.unwrap().logins, 0);
    world.run(&world.system, "legal-hold.release", json!({ "id": hold["id"] })).await.unwrap();
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 91)).await.unwrap().logins, 2);
    assert_eq!(world.number("SELECT count(*) FROM login_log").await, 0);
    let set = json!({ "path": "b", "key": "login_log.retention", "value": "3653" });
    world.run(&world.system, "setting.set", set).await.unwrap();
    // They go with their mailbox, and what is still counted for it afterwards is not written.
    assert!(attempt(&world, Service::Imap, "x@b.example", WORD, address(1)).await);
    world.login.flush().await;
    assert!(attempt(&world, Service::Imap, "x@b.example", WORD, address(1)).await);
    world.run(&world.system, "mailbox.delete", json!({ "address": "x@b.example" })).await.unwrap();
    let removed = housekeeping.pass(NOW.plus(DAY * 31)).await.unwrap();
    assert_eq!((removed.mailboxes, removed.logins), (1, 0));
    world.login.flush().await;
    assert_eq!(world.number("SELECT count(*) FROM login_log").await, 0);
}
