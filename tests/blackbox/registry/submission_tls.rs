//! Demanding TLS for the passwords of those who send.

use posthouse::service::context::Service;
use posthouse::service::login::LoginError;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{World, on_both, refusal};

on_both!(password_in_the_clear_is_refused_where_tls_is_demanded_for_submission);

const ADDRESS: &str = "x@b.example";

async fn password_in_the_clear_is_refused_where_tls_is_demanded_for_submission(world: World) {
    let above = world.aboard("a", "a.example").await;
    let own = world.aboard("a/b", "b.example").await;
    world.mailbox(ADDRESS).await;
    let send = async |word: &str, is_private: bool| {
        let source = Some([192, 0, 2, 9].into());
        let sent = world.logins.submission(ADDRESS, &SecretString::from(word), source, is_private).await;
        sent.map(drop)
    };
    let set = |place: Value, value: &str| {
        let mut asked = json!({ "key": "submission.tls", "value": value });
        asked.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        asked
    };
    // Unless it is demanded it is for the MTA to say.
    assert_eq!(send("secret", false).await, Ok(()));
    for place in [json!({ "path": "b" }), json!({ "domain": "b.example" }), json!({ "mailbox": ADDRESS })] {
        world.run(&own, "setting.set", set(place.clone(), "required")).await.unwrap();
        assert_eq!(send("secret", false).await, Err(LoginError::TlsRequired), "{place}");
        assert_eq!(send("secret", true).await, Ok(()), "{place}");
        // Only who knows the password is told.
        assert_eq!(send("wrong", false).await, Err(LoginError::Failed), "{place}");
        // Other ways in see to it themselves.
        let word = SecretString::from("secret");
        world.logins.password(Service::Imap, ADDRESS, &word, None).await.unwrap();
        let mut unset = place.clone();
        unset["key"] = json!("submission.tls");
        world.run(&own, "setting.unset", unset).await.unwrap();
        assert_eq!(send("secret", false).await, Ok(()), "{place}");
    }
    // What is locked above holds, whatever is set below.
    world.run(&own, "setting.set", set(json!({ "mailbox": ADDRESS }), "off")).await.unwrap();
    world.run(&above, "setting.lock", set(json!({ "path": "a" }), "required")).await.unwrap();
    assert_eq!(send("secret", false).await, Err(LoginError::TlsRequired));
    let refused = refusal(world.run(&own, "setting.set", set(json!({ "path": "b" }), "off")).await);
    assert!(matches!(refused, "forbidden" | "conflict"), "{refused}");
}
