//! The times at which people may log in: who is bound by them, and that running sessions end with them, whichever way
//! the clock goes.

use std::time::Duration;

use posthouse::base::civil::{Hours, Schedule, Zone};
use posthouse::base::clock::Timestamp;
use posthouse::service::context::{Authentication, Service};
use posthouse::service::login::{Login, LoginError, MailSession};
use secrecy::SecretString;
use serde_json::json;

use super::{World, on_both, refusal};

on_both!(
    sessions_end_with_the_window_and_when_the_clock_steps,
    window_that_is_set_ends_what_runs_outside_of_it,
    administrators_are_let_in_by_the_windows_of_their_home,
);

const PATIENCE: Duration = Duration::from_secs(60);
/// Friday, 2027-01-15, 08:00 in UTC; 09:00 in Vienna.
const FRIDAY: Timestamp = Timestamp::from_secs(1_800_000_000);
const HOUR: i64 = 3_600;

fn after(secs: i64) -> Timestamp {
    Timestamp::from_secs(FRIDAY.secs() + secs)
}

struct Owners {
    login: Login,
    _task: tokio::task::JoinHandle<()>,
}

impl Drop for Owners {
    fn drop(&mut self) {
        self._task.abort();
    }
}

impl Owners {
    fn new(world: &World) -> Self {
        let login = Login::new(world.database.clone(), world.clock.clone());
        let running = login.clone();
        Self { login, _task: tokio::spawn(async move { running.run().await }) }
    }

    async fn log_in(&self, address: &str) -> Result<MailSession, LoginError> {
        let word = SecretString::from("secret");
        self.login.password(Service::Imap, address, &word, None).await
    }
}

async fn ends(session: &MailSession) {
    tokio::time::timeout(PATIENCE, session.ended()).await.expect("the session ends");
}

/// Whether the session still runs once everything that happened has been looked at: another one that must end does.
async fn goes_on(owners: &Owners, session: &MailSession) -> bool {
    owners.login.sessions().iter().any(|one| one.id == session.id())
        && tokio::time::timeout(Duration::from_millis(1), session.ended()).await.is_err()
}

async fn set(world: &World, who: &Authentication, path: &str, key: &str, value: &str) {
    let asked = json!({ "path": path, "key": key, "value": value });
    world.run(who, "setting.set", asked).await.unwrap();
}

async fn sessions_end_with_the_window_and_when_the_clock_steps(world: World) {
    world.aboard("a", "a.example").await;
    world.aboard("a/b", "b.example").await;
    world.mailbox("x@b.example").await;
    world.mailbox("free@a.example").await;
    world.clock.set(FRIDAY);
    set(&world, &world.system, "a", "time_zone", "Europe/Vienna").await;
    set(&world, &world.system, "a/b", "login.windows", "Mon-Fri 08:00-17:00; not Fri 12:00-13:00").await;
    let owners = Owners::new(&world);
    let free = owners.log_in("free@a.example").await.unwrap();
    // It is 09:00 in Vienna.
    let session = owners.log_in("x@b.example").await.unwrap();
    world.clock.set(after(3 * HOUR - 1));
    assert!(goes_on(&owners, &session).await);
    world.clock.set(after(3 * HOUR));
    ends(&session).await;
    assert_eq!(owners.log_in("x@b.example").await.err(), Some(LoginError::OutsideWindow));
    // After the break, until the evening.
    world.clock.set(after(4 * HOUR));
    let session = owners.log_in("x@b.example").await.unwrap();
    world.clock.set(after(8 * HOUR));
    ends(&session).await;
    // A clock that steps back into the window admits again; one that steps to before it ends what runs.
    world.clock.set(after(4 * HOUR));
    let session = owners.log_in("x@b.example").await.unwrap();
    world.clock.set(after(-2 * HOUR));
    ends(&session).await;
    world.clock.set(after(24 * HOUR));
    assert_eq!(owners.log_in("x@b.example").await.err(), Some(LoginError::OutsideWindow), "Saturday");
    assert!(goes_on(&owners, &free).await, "whom no window binds");
}

async fn window_that_is_set_ends_what_runs_outside_of_it(world: World) {
    let top = world.aboard("top", "top.example").await;
    let low = world.aboard("top/low", "low.example").await;
    world.mailbox("x@low.example").await;
    world.mailbox("y@low.example").await;
    let owners = Owners::new(&world);
    let x = owners.log_in("x@low.example").await.unwrap();
    let y = owners.log_in("y@low.example").await.unwrap();
    // For one mailbox, by its customer; for the customer, by the one above.
    let asked = json!({ "mailbox": "x@low.example", "key": "login.windows", "value": "Sat-Sun 00:00-24:00" });
    world.run(&low, "setting.set", asked).await.unwrap();
    ends(&x).await;
    assert!(goes_on(&owners, &y).await);
    let asked = json!({ "path": "low", "key": "login.windows", "value": "Sat-Sun 00:00-24:00" });
    assert_eq!(refusal(world.run(&low, "setting.set", asked).await), "forbidden");
    set(&world, &top, "top/low", "login.windows", "Sat-Sun 00:00-24:00").await;
    ends(&y).await;
    // A lock above opens it again, whatever is set below.
    let asked = json!({ "path": "top", "key": "login.windows", "value": "always" });
    world.run(&world.system, "setting.lock", asked).await.unwrap();
    owners.log_in("x@low.example").await.unwrap();
}

async fn administrators_are_let_in_by_the_windows_of_their_home(world: World) {
    let top = world.must("customer.create", json!({ "path": "top", "admin": "chief" })).await;
    let low = world.must("customer.create", json!({ "path": "top/low", "admin": "chief" })).await;
    let (top_word, low_word) = (top["token"].as_str().unwrap(), low["token"].as_str().unwrap());
    let (top, low) = (world.login(&top["token"]).await, world.login(&low["token"]).await);
    world.clock.set(FRIDAY);
    set(&world, &top, "top/low", "login.windows_administrators", "Fri 07:00-09:00").await;
    assert!(world.management.is_still_admitted(&low).await.unwrap());
    world.clock.set(after(HOUR));
    assert!(!world.management.is_still_admitted(&low).await.unwrap());
    assert!(world.management.authenticate_token(low_word, None).await.unwrap().is_none());
    // Staff above are not bound, also where they act.
    assert!(world.management.authenticate_token(top_word, None).await.unwrap().is_some());
    assert!(world.management.is_still_admitted(&top).await.unwrap());
    assert!(world.management.is_still_admitted(&world.system).await.unwrap());
    // Owners of mailboxes have windows of their own, and nobody opens the window that binds themselves.
    world.clock.set(FRIDAY);
    let asked = json!({ "path": "low", "key": "login.windows_administrators", "value": "always" });
    assert_eq!(refusal(world.run(&low, "setting.set", asked).await), "forbidden");
    world
        .run(&top, "setting.unset", json!({ "path": "top/low", "key": "login.windows_administrators" }))
        .await
        .unwrap();
    world.clock.set(after(HOUR));
    assert!(world.management.authenticate_token(low_word, None).await.unwrap().is_some());
    // Administration that is switched off keeps them out at any time.
    set(&world, &top, "top/low", "service.admin", "off").await;
    assert!(world.management.authenticate_token(low_word, None).await.unwrap().is_none());
    assert!(!world.management.is_still_admitted(&low).await.unwrap());
    assert!(world.management.authenticate_token(top_word, None).await.unwrap().is_some());
}

#[test]
fn windows_follow_the_clock_on_the_wall_through_changes_to_summer_time() {
    let vienna = Zone::named("Europe/Vienna").unwrap();
    let allowed = |text: &str, at: &str| {
        let schedule = Schedule::parse(text).unwrap();
        assert_eq!(Schedule::parse(&schedule.to_string()).unwrap(), schedule, "{text}");
        schedule.allows(vienna.wall_time(Timestamp::parse_rfc3339(at).unwrap()))
    };
    // Sunday, 2027-03-28: 02:00 becomes 03:00 at 01:00 in UTC. Half of the window does not occur.
    let spring = "Sun 02:30-03:30";
    for (at, expected) in [
        ("2027-03-28T00:59:59Z", false),
        ("2027-03-28T01:00:00Z", true),
        ("2027-03-28T01:29:59Z", true),
        ("2027-03-28T01:30:00Z", false),
    ] {
        assert_eq!(allowed(spring, at), expected, "{at}");
    }
    // Sunday, 2027-10-31: 03:00 becomes 02:00 at 01:00 in UTC. The hour comes twice and counts both times.
    let autumn = "Sun 02:00-03:00";
    for (at, expected) in [
        ("2027-10-30T23:59:59Z", false),
        ("2027-10-31T00:00:00Z", true),
        ("2027-10-31T01:00:00Z", true),
        ("2027-10-31T01:59:59Z", true),
        ("2027-10-31T02:00:00Z", false),
    ] {
        assert_eq!(allowed(autumn, at), expected, "{at}");
    }
    // Over midnight, and over the end of the week.
    let night = "Sun 22:00-06:00";
    for (at, expected) in [
        ("2027-01-17T20:59:00Z", false),
        ("2027-01-17T21:00:00Z", true),
        ("2027-01-18T04:59:00Z", true),
        ("2027-01-18T05:00:00Z", false),
        ("2027-01-18T21:30:00Z", false),
    ] {
        assert_eq!(allowed(night, at), expected, "{at}");
    }
    assert!(allowed("Sat-Mon 00:00-24:00", "2027-01-18T10:00:00Z"));
    assert!(!allowed("Sat-Mon 00:00-24:00", "2027-01-19T10:00:00Z"));
    assert!(!allowed("not Mon-Sun 00:00-24:00", "2027-01-19T10:00:00Z"));
}

#[test]
fn schedules_and_hours_that_make_no_sense_are_refused() {
    let long = vec!["Mon 08:00-09:00"; 51].join("; ");
    for text in [
        "",
        ";",
        "Mon",
        "Mon 8-9",
        "Mon 08:00",
        "Mon 08:00-08:00",
        "Mon 24:00-08:00",
        "Mon 08:60-09:00",
        "Mon 08:00-24:01",
        "Mon-Tue-Wed 08:00-09:00",
        "Day 08:00-09:00",
        "not",
        "not always",
        "Mon 08:00-09:00;",
        "Mon 08:00-09:00\u{200b}",
        "Mon +8:00-09:00",
        &long,
        &"x".repeat(100_000),
    ] {
        assert!(Schedule::parse(text).is_err(), "{text}");
    }
    for text in
        ["", "-", "22:00", "22:00-", "-07:00", "22:00-22:00", "99999999999:00-07:00", "2\u{664}:00-07:00"]
    {
        assert!(Hours::parse(text).is_err(), "{text}");
    }
    for name in
        ["", "Europe", "Europe/../UTC", "/etc/localtime", "Europe/Vienna\0", "CET-1CEST,M3.5.0,M10.5.0/3"]
    {
        assert!(Zone::named(name).is_err(), "{name}");
    }
    assert_eq!(Zone::named("utc").unwrap().name(), "UTC");
}
