//! Domains are their customer's when the DNS says so.

use std::time::Duration;

use posthouse::service::context::{Authentication, Service};
use posthouse::service::directory::domain_checks::DomainChecks;
use posthouse::service::login::{Login, LoginError};
use posthouse::service::registry::{Management, ManagementOptions};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{World, on_both, refusal};
use crate::support::dns::{Dns, Reply};

on_both!(
    pending_domain_is_verified_by_its_record_and_does_nothing_before,
    conflict_is_told_to_who_has_proven_and_the_root_decides,
    whatever_the_dns_answers_is_understood_or_told,
    background_looks_ever_more_rarely_and_verifies,
    proof_of_another_customer_or_domain_is_none,
);

/// The world with a resolver that the test answers for.
async fn with_dns(world: World) -> (World, Dns) {
    let dns = Dns::start();
    let options = ManagementOptions {
        system_uids: vec![0],
        host_name: "mail.example".to_owned(),
        resolver: Some(dns.address),
        ..ManagementOptions::default()
    };
    let management = Management::open(world.database.clone(), world.clock.clone(), options).await.unwrap();
    management.attach_login(Login::new(world.database.clone(), world.clock.clone()));
    (World { management, ..world }, dns)
}

async fn pending(world: &World, who: &Authentication, customer: &str, name: &str) {
    let asked = json!({ "domain": name, "customer": customer });
    assert_eq!(world.run(who, "domain.create", asked).await.unwrap()["state"], "pending");
}

/// Where the proof must stand and what it must say.
async fn proof(world: &World, who: &Authentication, name: &str) -> (String, String) {
    let shown = world.run(who, "domain.dns", json!({ "domain": name })).await.unwrap();
    let records = shown["records"].as_array().unwrap();
    let record = records.iter().find(|record| record["purpose"] == "proof").expect("a record that proves");
    assert_eq!(record["type"], "TXT");
    (record["name"].as_str().unwrap().to_owned(), record["value"].as_str().unwrap().to_owned())
}

async fn verify(world: &World, who: &Authentication, name: &str) -> Value {
    world.run(who, "domain.verify", json!({ "domain": name })).await.unwrap()
}

async fn login(world: &World, address: &str) -> Option<LoginError> {
    let login = Login::new(world.database.clone(), world.clock.clone());
    login.password(Service::Imap, address, &SecretString::from("secret"), None).await.err()
}

async fn pending_domain_is_verified_by_its_record_and_does_nothing_before(world: World) {
    let (world, dns) = with_dns(world).await;
    let a = world.aboard("a", "a.example").await;
    pending(&world, &a, "a", "new.example").await;
    world.mailbox("x@new.example").await;
    let (name, text) = proof(&world, &a, "new.example").await;
    assert_eq!(name, "_posthouse.new.example");
    let absent = verify(&world, &a, "new.example").await;
    assert_eq!((&absent["outcome"], &absent["state"]), (&json!("absent"), &json!("pending")));
    assert_eq!((&absent["record"], &absent["text"]), (&json!(name), &json!(text)));
    assert_eq!(login(&world, "x@new.example").await, Some(LoginError::Failed));
    // Beside others, and cut into strings as DNS tools do.
    let (first, second) = text.split_at(20);
    let others = vec!["v=spf1 -all".to_owned()];
    dns.set(&name, Reply::Texts(vec![others, vec![first.to_owned(), second.to_owned()]]));
    let verified = verify(&world, &a, "new.example").await;
    assert_eq!((&verified["outcome"], &verified["state"]), (&json!("verified"), &json!("verified")));
    assert_eq!(login(&world, "x@new.example").await, None);
    // Once verified the record may go.
    dns.set(&name, Reply::Failed(3));
    assert_eq!(verify(&world, &a, "new.example").await["outcome"], "verified");
    let shown = world.run(&a, "domain.dns", json!({ "domain": "new.example" })).await.unwrap();
    let text = shown.to_string();
    assert!(!text.contains("posthouse-verification") && text.contains("10 mail.example."), "{text}");
    // A viewer sees what is to be set, and verifies nothing.
    let asked = json!({ "name": "viewer", "customer": "a", "role": "viewer" });
    let viewer = world.login(&world.must("administrator.create", asked).await["token"]).await;
    pending(&world, &a, "a", "other.example").await;
    proof(&world, &viewer, "other.example").await;
    let refused = world.run(&viewer, "domain.verify", json!({ "domain": "other.example" })).await;
    assert_eq!(refusal(refused), "forbidden");
}

async fn conflict_is_told_to_who_has_proven_and_the_root_decides(world: World) {
    let (world, dns) = with_dns(world).await;
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "taken.example").await;
    world.mailbox("x@taken.example").await;
    world.must("domain.alias", json!({ "domain": "also.example", "alias_of": "taken.example" })).await;
    for name in ["taken.example", "free.example"] {
        pending(&world, &a, "a", name).await;
    }
    // Before the proof both are told alike.
    let told = async |name: &str| {
        let told = verify(&world, &a, name).await;
        [&told["outcome"], &told["message"], &told["state"]]
            .map(|value| value.to_string().replace(name, "NAME"))
    };
    assert_eq!(told("taken.example").await, told("free.example").await);
    let (name, text) = proof(&world, &a, "taken.example").await;
    dns.set_text(&name, &text);
    let contested = verify(&world, &a, "taken.example").await;
    assert_eq!((&contested["outcome"], &contested["state"]), (&json!("contested"), &json!("pending")));
    assert!(!contested.to_string().contains("\"b\""), "{contested}");
    let show = async |who, customer| {
        let shown = world.run(who, "domain.show", json!({ "domain": "taken.example", "customer": customer }));
        shown.await.unwrap()["state"].clone()
    };
    assert_eq!((show(&a, "a").await, show(&b, "b").await), (json!("pending"), json!("verified")));
    assert_eq!(login(&world, "x@taken.example").await, None);
    let claim = json!({ "domain": "taken.example", "customer": "a", "displace": true });
    assert_eq!(refusal(world.run(&a, "domain.confirm", claim.clone()).await), "forbidden");
    let without = json!({ "domain": "taken.example", "customer": "a" });
    assert_eq!(refusal(world.run(&world.system, "domain.confirm", without).await), "conflict");
    assert_eq!(world.must("domain.confirm", claim).await["state"], "verified");
    assert_eq!((show(&a, "a").await, show(&b, "b").await), (json!("verified"), json!("pending")));
    // What was displaced does nothing any more, nor does what stands for it; it is in the trail of its customer.
    assert_eq!(login(&world, "x@taken.example").await, Some(LoginError::Failed));
    let alias = world.run(&b, "domain.show", json!({ "domain": "also.example" })).await.unwrap();
    assert_eq!(alias["state"], "pending");
    let trail = world.run(&b, "audit.search", json!({ "operation": "domain.confirm" })).await.unwrap();
    assert_eq!(trail["items"].as_array().unwrap().len(), 1, "{trail}");
}

async fn whatever_the_dns_answers_is_understood_or_told(world: World) {
    let (world, dns) = with_dns(world).await;
    let a = world.aboard("a", "a.example").await;
    let long = vec![vec!["x".repeat(255); 8]; 8];
    let mut cases = vec![
        ("failed", Reply::Failed(2), "unreachable"),
        ("refused", Reply::Failed(5), "unreachable"),
        ("garbage", Reply::Garbage, "unreachable"),
        ("silence", Reply::Silence, "unreachable"),
        ("long", Reply::OverTcp(long.clone()), "absent"),
        ("circle", Reply::Alias("_posthouse.circle.example".to_owned()), "absent"),
        ("nowhere", Reply::Alias("nothing.example".to_owned()), "absent"),
        ("alias", Reply::Alias("else.example".to_owned()), "verified"),
    ];
    for (word, _, _) in &cases {
        pending(&world, &a, "a", &format!("{word}.example")).await;
    }
    pending(&world, &a, "a", "cut-off.example").await;
    let (_, text) = proof(&world, &a, "cut-off.example").await;
    let among = [long, vec![vec![text]]].concat();
    cases.push(("cut-off", Reply::OverTcp(among), "verified"));
    let (_, text) = proof(&world, &a, "alias.example").await;
    dns.set("else.example", Reply::Alias("else-too.example".to_owned()));
    dns.set_text("else-too.example", &text);
    for (word, reply, outcome) in cases {
        dns.set(&format!("_posthouse.{word}.example"), reply);
        let told = verify(&world, &a, &format!("{word}.example")).await;
        assert_eq!(told["outcome"], outcome, "{word}: {told}");
    }
    // Two that lead to each other have no end.
    pending(&world, &a, "a", "round.example").await;
    dns.set("_posthouse.round.example", Reply::Alias("there.example".to_owned()));
    dns.set("there.example", Reply::Alias("_posthouse.round.example".to_owned()));
    let told = verify(&world, &a, "round.example").await;
    assert_eq!(told["outcome"], "unreachable", "{told}");
}

async fn background_looks_ever_more_rarely_and_verifies(world: World) {
    let (world, dns) = with_dns(world).await;
    let a = world.aboard("a", "a.example").await;
    pending(&world, &a, "a", "new.example").await;
    let checks = DomainChecks::new(&world.management);
    let minutes = |count: u64| world.clock.advance(Duration::from_secs(60 * count));
    assert_eq!((checks.pass().await.unwrap(), dns.questions()), (0, 0));
    // After 1 minute, then 1, 2, 4, 8 … minutes later.
    minutes(1);
    for expected in [1, 2, 2, 3, 3, 3, 3, 4] {
        assert_eq!((checks.pass().await.unwrap(), dns.questions()), (0, expected));
        minutes(1);
    }
    let shown = world.run(&a, "domain.dns", json!({ "domain": "new.example" })).await.unwrap();
    assert_eq!(shown["outcome"], "absent");
    let (name, text) = proof(&world, &a, "new.example").await;
    dns.set_text(&name, &text);
    minutes(8);
    assert_eq!(checks.pass().await.unwrap(), 1);
    let shown = world.run(&a, "domain.show", json!({ "domain": "new.example" })).await.unwrap();
    assert_eq!(shown["state"], "verified");
    let trail = world.run(&a, "audit.search", json!({ "operation": "domain.verify" })).await.unwrap();
    assert_eq!(trail["items"].as_array().unwrap().len(), 1, "{trail}");
    // Nothing of what is verified, deleted, or more than a month old is looked for.
    pending(&world, &a, "a", "old.example").await;
    pending(&world, &a, "a", "gone.example").await;
    world.run(&a, "domain.delete", json!({ "domain": "gone.example" })).await.unwrap();
    minutes(31 * 24 * 60);
    let before = dns.questions();
    assert_eq!((checks.pass().await.unwrap(), dns.questions()), (0, before));
}

async fn proof_of_another_customer_or_domain_is_none(world: World) {
    let (world, dns) = with_dns(world).await;
    let a = world.aboard("a", "a.example").await;
    let b = world.aboard("b", "b.example").await;
    for (who, customer) in [(&a, "a"), (&b, "b")] {
        pending(&world, who, customer, "new.example").await;
    }
    pending(&world, &a, "a", "other.example").await;
    let (name, of_a) = proof(&world, &a, "new.example").await;
    let (_, of_b) = proof(&world, &b, "new.example").await;
    let (_, of_other) = proof(&world, &a, "other.example").await;
    assert!(of_a != of_b && of_a != of_other);
    dns.set_text(&name, &of_other);
    assert_eq!(verify(&world, &a, "new.example").await["outcome"], "absent");
    dns.set_text(&name, &of_b);
    assert_eq!(verify(&world, &a, "new.example").await["outcome"], "absent");
    assert_eq!(verify(&world, &b, "new.example").await["outcome"], "verified");
    // Made anew, it must be proven anew.
    world.run(&b, "domain.delete", json!({ "domain": "new.example" })).await.unwrap();
    pending(&world, &b, "b", "new.example").await;
    assert_eq!(verify(&world, &b, "new.example").await["outcome"], "absent");
    // A domain that stands for a pending one waits, and then verifies by itself.
    pending(&world, &a, "a", "meant.example").await;
    world
        .run(&a, "domain.alias", json!({ "domain": "alias.example", "alias_of": "meant.example" }))
        .await
        .unwrap();
    let (name, text) = proof(&world, &a, "alias.example").await;
    dns.set_text(&name, &text);
    assert_eq!(verify(&world, &a, "alias.example").await["outcome"], "waiting");
    let (name, text) = proof(&world, &a, "meant.example").await;
    dns.set_text(&name, &text);
    assert_eq!(verify(&world, &a, "meant.example").await["outcome"], "verified");
    assert_eq!(verify(&world, &a, "alias.example").await["outcome"], "verified");
}
