use super::*;
use crate::base::store_settings;

const EXAMPLE: &str = include_str!("../../../config/example.toml");

fn mistakes(text: &str) -> Vec<String> {
    check(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn empty_file_is_a_configuration() {
    assert_eq!(check("").unwrap(), Config::default());
}

#[test]
fn example_shows_the_defaults() {
    let mut example = check(EXAMPLE).unwrap();
    let fixed = example.stores.iter_mut().flat_map(|store| std::mem::take(&mut store.fixed)).count();
    assert_eq!(fixed, store_settings::all().count());
    assert_eq!(example, Config::default());
}

/// Every key that is understood stands in the example, so that nobody has to read the source.
#[test]
fn example_shows_every_key() {
    let everything_unknown = "x=1\n[server]\nx=1\n[data]\nx=1\n[database]\nx=1\n[listen]\nx=1\n[tls]\nx=1\n\
        [[tls.certificates]]\ncertificate='a'\nkey='b'\nx=1\n[admin]\nx=1\n[limits]\nx=1\n[[store]]\nx=1\n\
        compression={x=1}\npacking={x=1}\ncompaction={x=1}\noffload={x=1}\ncache={x=1}\n\
        [log]\nx=1\n[retention]\nx=1\n[backup]\nx=1\n";
    let mut keys = 0;
    for mistake in mistakes(everything_unknown) {
        let (_, known) = mistake.split_once("known are ").unwrap_or_else(|| panic!("{mistake}"));
        for key in known.split(", ") {
            keys += 1;
            assert!(EXAMPLE.contains(key), "{key} is not in config/example.toml");
        }
    }
    assert!(keys > 40, "{keys}");
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_places() {
    let text = "[listen]\n\
        lmpt = [\"127.0.0.1:24\"]\n\
        imap = [\"nowhere\", \"127.0.0.1:143\", 7]\n\
        pop3 = \"127.0.0.1:110\"\n\
        smtp = [\"127.0.0.1:143\"]\n\
        [limits]\n\
        message_octets_max = \"50 apples\"\n\
        recipients_max = 0\n\
        login_timeout_secs = 99999999999999999999\n\
        [tls]\n\
        certificate = \"cert.pem\"\n\
        [storage]\n\
        [[store]]\n\
        name = \"Main\"\n\
        compression = { level = 30 }\n\
        [log]\n\
        format = \"xml\"\n\
        level = \"noisy\"\n\
        [admin]\n\
        administrators = { alice = \"a@R\", 1000 = 5, 1001 = \"bob@R\" }\n\
        [database]\n\
        url = \"mysql://x\"\n";
    let found = mistakes(text);
    let expected = [
        "2:1: unknown key \"listen.lmpt\": did you mean \"lmtp\"?",
        "3:8: listen.imap: 127.0.0.1:143 is used by smtp already",
        "3:9: listen.imap: \"nowhere\" is nowhere to listen",
        "3:37: listen.imap: expected text in quotes, found integer",
        "4:8: listen.pop3: expected a list such as",
        "7:22: limits.message_octets_max: \"50 apples\" is no size",
        "8:18: limits.recipients_max: 0 is out of range: expected 1 to 100000",
        "9:22: limits.login_timeout_secs: 99999999999999999999 is no number that fits",
        "11:15: tls.certificate: its key is missing",
        "12:2: unknown key \"storage\": did you mean \"store\"?",
        "14:8: store.name: expected 1 to 63 of",
        "15:25: store.compression.level: expected a number from 1 to 19, got \"30\"",
        "17:10: log.format: expected \"human\" or \"json\", found \"xml\"",
        "18:9: log.level: \"noisy\" is no level",
        "20:28: admin.administrators.alice: \"alice\" is no numeric user id",
        "20:42: admin.administrators.1000: expected text in quotes, found integer",
        "22:7: database.url: expected \"sqlite:PATH\" or",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn broken_lines_are_reported_beside_the_other_mistakes() {
    let found = mistakes("[data]\ndir = \n[limits]\nrecipients_max = \"x\"\n[data]\n");
    assert!(found.iter().any(|mistake| mistake.starts_with("2:")), "{found:?}");
    assert!(found.iter().any(|mistake| mistake.starts_with("4:18: limits.recipients_max")), "{found:?}");
    assert!(found.iter().any(|mistake| mistake.starts_with("5:")), "{found:?}");
}

#[test]
fn one_endpoint_cannot_serve_two_protocols_but_free_ports_can() {
    assert_eq!(mistakes("listen.imap = ['127.0.0.1:1143', '127.0.0.1:1143']").len(), 1);
    assert_eq!(mistakes("listen.sasl = ['127.0.0.1:1143']").len(), 1, "a default counts as well");
    assert!(check("listen.imap = ['127.0.0.1:0']\nlisten.pop3 = ['127.0.0.1:0']").is_ok());
    assert_eq!(mistakes(&format!("listen.lmtp = ['unix:/{}']", "x".repeat(200))).len(), 1);
}

#[test]
fn data_directory_moves_what_lies_in_it() {
    let config = check("data.dir = '/var/lib/posthouse'").unwrap();
    assert_eq!(config.database.url, Secret::plain("sqlite:/var/lib/posthouse/metadata.db"));
    assert_eq!(config.admin.socket, Path::new("/var/lib/posthouse/admin.sock"));
    assert_eq!(config.stores.first().unwrap().path, Path::new("/var/lib/posthouse/stores/main"));
    assert_eq!(config.tls.certificates.first().unwrap().key, Path::new("/var/lib/posthouse/key.pem"));
}

#[test]
fn secrets_come_from_text_file_or_credential() {
    let url = |text: &str| check(&format!("database.url = {text}")).map(|config| config.database.url);
    assert_eq!(url("{ file = '/run/url' }"), Ok(Secret::File("/run/url".into())));
    assert_eq!(url("{ credential = 'url' }"), Ok(Secret::Credential("url".to_owned())));
    for wrong in ["{ file = '/a', credential = 'b' }", "{}", "{ fiel = 'x' }", "7", "{ file = 7 }"] {
        assert!(url(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn several_certificates_and_stores() {
    let text = "[tls]\ncertificate = 'a.pem'\nkey = 'a.key'\n[[tls.certificates]]\ncertificate = 'b.pem'\n\
        key = 'b.key'\n[[store]]\nname = 'fast'\npath = '/fast'\n[[store]]\nname = 'cheap'\n\
        compression = { level = 12, dictionary = false }\n";
    let config = check(text).unwrap();
    assert_eq!((config.tls.certificates.len(), config.tls.is_self_signed), (2, false));
    let store = config.stores.get(1).unwrap();
    assert_eq!((store.settings.compression.level, store.settings.compression.dictionary), (12, false));
    assert_eq!(store.fixed, ["compression.level", "compression.dictionary"]);
    assert_eq!(mistakes(&format!("{text}[[store]]\nname = 'fast'")).len(), 1);
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "[\\[\\]a-z0-9=\"'{}.,# \n_]{0,200}") {
        let _ = check(&text);
    }
}
