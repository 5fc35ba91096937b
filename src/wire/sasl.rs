//! SASL as a server: PLAIN (RFC 4616) and LOGIN, in base 64 as SMTP, IMAP and POP3 carry it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Longest base 64 response taken, in octets: three fields of [`FIELD_OCTETS_MAX`] and their separators.
pub const RESPONSE_OCTETS_MAX: usize = 4096;
/// Longest name or password, in octets (RFC 4616 section 2 asks for 255 at least).
const FIELD_OCTETS_MAX: usize = 1000;

/// The mechanisms, as announced.
pub const MECHANISMS: [&str; 2] = ["PLAIN", "LOGIN"];

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    /// No such mechanism here.
    #[error("unsupported authentication mechanism")]
    Mechanism,
    /// The client sent `*`.
    #[error("authentication cancelled")]
    Cancelled,
    /// Not base 64, or not the message that the mechanism expects.
    #[error("malformed authentication response")]
    Malformed,
    /// The client asked to act as somebody else (RFC 4616: an authzid other than its own identity).
    #[error("acting as another mailbox is not allowed here")]
    Authorization,
}

/// What the client proved to know, still to be verified.
#[derive(Debug)]
pub struct Credentials {
    /// The name: a full address.
    pub username: String,
    /// The password.
    pub password: SecretString,
    /// The mailbox that the client asks to open with them, when it is not its own (RFC 4616: the authzid). Only an
    /// exchange begun with [`Exchange::start_acting`] has one.
    pub acts_as: Option<String>,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send this challenge (base 64, perhaps empty) and pass the answer to [`Exchange::respond`].
    Challenge(&'static str),
    /// Verify these.
    Done(Credentials),
}

enum State {
    /// Whether the client may ask to act as somebody else.
    Plain {
        acting: bool,
    },
    LoginName,
    LoginPassword(String),
    Ended,
}

/// An exchange in progress.
pub struct Exchange(State);

impl Exchange {
    /// Starts `mechanism` (any case), with the initial response if the client sent one; `=` stands for an empty
    /// one (RFC 4954 section 4, RFC 4959 section 3, RFC 5034 section 4).
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn start(mechanism: &str, initial: Option<&[u8]>) -> Result<(Self, Step), SaslError> {
        Self::begin(mechanism, initial, false)
    }

    /// As [`Self::start`], where a client may ask to act as somebody else: whoever calls this must decide about it.
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn start_acting(mechanism: &str, initial: Option<&[u8]>) -> Result<(Self, Step), SaslError> {
        Self::begin(mechanism, initial, true)
    }

    fn begin(mechanism: &str, initial: Option<&[u8]>, acting: bool) -> Result<(Self, Step), SaslError> {
        let mut exchange = if mechanism.eq_ignore_ascii_case("PLAIN") {
            Self(State::Plain { acting })
        } else if mechanism.eq_ignore_ascii_case("LOGIN") {
            Self(State::LoginName)
        } else {
            return Err(SaslError::Mechanism);
        };
        let step = match initial {
            Some(b"=") => exchange.respond(b"")?,
            Some(initial) => exchange.respond(initial)?,
            // The prompts are the customary ones: "Username:" and "Password:".
            None if matches!(exchange.0, State::LoginName) => Step::Challenge("VXNlcm5hbWU6"),
            None => Step::Challenge(""),
        };
        Ok((exchange, step))
    }

    /// Takes a response line without its end.
    ///
    /// # Errors
    /// See [`SaslError`]; the exchange is over.
    pub fn respond(&mut self, line: &[u8]) -> Result<Step, SaslError> {
        if line == b"*" {
            return Err(SaslError::Cancelled);
        }
        if line.len() > RESPONSE_OCTETS_MAX {
            return Err(SaslError::Malformed);
        }
        let decoded = Zeroizing::new(STANDARD.decode(line).map_err(|_| SaslError::Malformed)?);
        match std::mem::replace(&mut self.0, State::Ended) {
            State::Plain { acting } => plain(&decoded, acting).map(Step::Done),
            State::LoginName => {
                let username = field(&decoded)?.to_owned();
                self.0 = State::LoginPassword(username);
                Ok(Step::Challenge("UGFzc3dvcmQ6"))
            }
            State::LoginPassword(username) => {
                let password = SecretString::from(field(&decoded)?);
                Ok(Step::Done(Credentials { username, password, acts_as: None }))
            }
            State::Ended => Err(SaslError::Malformed),
        }
    }
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 section 2).
fn plain(message: &[u8], acting: bool) -> Result<Credentials, SaslError> {
    let mut fields = message.split(|&byte| byte == 0);
    let (Some(authorization), Some(username), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(SaslError::Malformed);
    };
    let (username, password) = (field(username)?, field(password)?);
    let acts_as = match authorization {
        [] => None,
        own if own.eq_ignore_ascii_case(username.as_bytes()) => None,
        other if acting => Some(field(other)?.to_owned()),
        _ => return Err(SaslError::Authorization),
    };
    Ok(Credentials { username: username.to_owned(), password: SecretString::from(password), acts_as })
}

/// A name or password: UTF-8, not empty, bounded, without NUL.
fn field(octets: &[u8]) -> Result<&str, SaslError> {
    if octets.is_empty() || octets.len() > FIELD_OCTETS_MAX || octets.contains(&0) {
        return Err(SaslError::Malformed);
    }
    std::str::from_utf8(octets).map_err(|_| SaslError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn done(step: Step) -> (String, String) {
        match step {
            Step::Done(credentials) => {
                (credentials.username, credentials.password.expose_secret().to_owned())
            }
            Step::Challenge(challenge) => panic!("challenge {challenge}"),
        }
    }

    fn encoded(message: &[u8]) -> Vec<u8> {
        STANDARD.encode(message).into_bytes()
    }

    #[test]
    fn plain_with_and_without_initial_response() {
        let message = encoded(b"\0tim@x.example\0tanstaaf tanstaaf");
        let (_, step) = Exchange::start("plain", Some(&message)).unwrap();
        let expected = ("tim@x.example".to_owned(), "tanstaaf tanstaaf".to_owned());
        assert_eq!(done(step), expected);

        let (mut exchange, step) = Exchange::start("PLAIN", None).unwrap();
        assert!(matches!(step, Step::Challenge("")));
        assert_eq!(done(exchange.respond(&message).unwrap()), expected);
        assert_eq!(exchange.respond(&message).unwrap_err(), SaslError::Malformed);
    }

    #[test]
    fn plain_may_name_only_its_own_identity_as_authzid() {
        let own = encoded(b"Tim@x.example\0tim@x.example\0secret");
        assert!(Exchange::start("PLAIN", Some(&own)).is_ok());
        let other = encoded(b"bob@x.example\0tim@x.example\0secret");
        assert_eq!(Exchange::start("PLAIN", Some(&other)).err(), Some(SaslError::Authorization));
    }

    #[test]
    fn another_authzid_comes_out_only_where_somebody_decides_about_it() {
        let acts_as = |message: &[u8]| match Exchange::start_acting("PLAIN", Some(&encoded(message))) {
            Ok((_, Step::Done(credentials))) => Ok(credentials.acts_as),
            Ok((_, Step::Challenge(challenge))) => panic!("challenge {challenge}"),
            Err(error) => Err(error),
        };
        assert_eq!(acts_as(b"bob@x.example\0anna@ACME-4f2k\0secret"), Ok(Some("bob@x.example".to_owned())));
        assert_eq!(acts_as(b"Tim@x.example\0tim@x.example\0secret"), Ok(None));
        assert_eq!(acts_as(b"\0tim@x.example\0secret"), Ok(None));
        assert_eq!(acts_as(b"\xff\0anna@ACME-4f2k\0secret"), Err(SaslError::Malformed));
        let long = [&[b'b'; FIELD_OCTETS_MAX + 1][..], b"\0anna\0secret"].concat();
        assert_eq!(acts_as(&long), Err(SaslError::Malformed));
    }

    #[test]
    fn login_asks_for_name_and_password() {
        let (mut exchange, step) = Exchange::start("LOGIN", None).unwrap();
        assert!(matches!(step, Step::Challenge("VXNlcm5hbWU6")));
        let step = exchange.respond(&encoded(b"tim@x.example")).unwrap();
        assert!(matches!(step, Step::Challenge("UGFzc3dvcmQ6")));
        let step = exchange.respond(&encoded("gehe\u{ef}m".as_bytes())).unwrap();
        assert_eq!(done(step), ("tim@x.example".to_owned(), "gehe\u{ef}m".to_owned()));

        let (mut exchange, _) = Exchange::start("LOGIN", Some(&encoded(b"tim@x.example"))).unwrap();
        assert_eq!(exchange.respond(b"*").unwrap_err(), SaslError::Cancelled);
    }

    #[test]
    fn malformed_responses_are_refused() {
        for response in [
            &b"not base 64!"[..],
            b"",
            b"=",
            &encoded(b""),
            &encoded(b"\0\0"),
            &encoded(b"\0user\0"),
            &encoded(b"\0\0password"),
            &encoded(b"user\0password"),
            &encoded(b"\0user\0pass\0word"),
            &encoded(b"\0user\0\xff\xfe"),
            &vec![b'A'; RESPONSE_OCTETS_MAX + 4],
        ] {
            let result = Exchange::start("PLAIN", Some(response));
            assert_eq!(result.err(), Some(SaslError::Malformed), "{response:?}");
        }
        assert_eq!(Exchange::start("CRAM-MD5", None).err(), Some(SaslError::Mechanism));
    }

    proptest! {
        #[test]
        fn arbitrary_responses_never_panic(mechanism in "PLAIN|LOGIN", responses in any::<Vec<Vec<u8>>>()) {
            let (mut exchange, _) = Exchange::start(&mechanism, None).unwrap();
            for response in responses {
                let _ = exchange.respond(&response);
                let _ = exchange.respond(&encoded(&response));
            }
        }
    }
}
