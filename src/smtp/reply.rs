//! What is answered: code, enhanced code (RFC 3463), text.

use std::borrow::Cow;

use super::Dialect;
use super::data::Fault;
use crate::service::delivery::DeliveryRefusal;

/// Longest text of a reply, so that the line stays below 512 octets (RFC 5321 section 4.5.3.1.5).
const TEXT_CHARACTERS_MAX: usize = 400;

/// A reply of one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub code: u16,
    /// Enhanced status code; empty where RFC 2034 section 4 has none.
    pub enhanced: &'static str,
    pub text: Cow<'static, str>,
}

impl Reply {
    pub const SYNTAX: Self = fixed(500, "5.5.2", "Syntax error");
    pub const UNKNOWN: Self = fixed(500, "5.5.1", "Command not recognised");
    pub const LINE_TOO_LONG: Self = fixed(500, "5.5.2", "Command line too long");
    pub const NOT_IMPLEMENTED: Self = fixed(502, "5.5.1", "Command not implemented");
    pub const NOT_A_MAIL_CLIENT: Self = fixed(421, "4.7.0", "This is a mail server, closing connection");
    pub const ARGUMENT_UNEXPECTED: Self = fixed(501, "5.5.4", "This command takes no argument");
    pub const ARGUMENT_MISSING: Self = fixed(501, "5.5.4", "An argument is missing");
    pub const GREETING_ARGUMENT: Self = fixed(501, "5.5.4", "Expected your host name or address literal");
    pub const SENDER_SYNTAX: Self = fixed(501, "5.1.7", "Syntax: MAIL FROM:<address> [parameters]");
    pub const RECIPIENT_SYNTAX: Self = fixed(501, "5.1.3", "Syntax: RCPT TO:<address>");
    pub const BDAT_SYNTAX: Self = fixed(501, "5.5.4", "Syntax: BDAT octets [LAST]");
    pub const PARAMETER_VALUE: Self = fixed(501, "5.5.4", "Parameter value not valid");
    pub const PARAMETER_REPEATED: Self = fixed(501, "5.5.4", "Parameter given twice");
    pub const PARAMETER_UNKNOWN: Self = fixed(555, "5.5.4", "Parameter not recognised");
    pub const ADDRESS_NOT_ASCII: Self = fixed(553, "5.6.7", "Address needs SMTPUTF8");
    pub const SEQUENCE_GREETING: Self = fixed(503, "5.5.1", "Introduce yourself first");
    pub const SEQUENCE_MAIL: Self = fixed(503, "5.5.1", "Need MAIL first");
    pub const SEQUENCE_NESTED: Self = fixed(503, "5.5.1", "Sender already given");
    pub const SEQUENCE_BDAT: Self = fixed(503, "5.5.1", "Not after BDAT; continue with BDAT or RSET");
    pub const NO_RECIPIENTS: Self = fixed(503, "5.5.1", "No valid recipients");
    pub const TOO_MANY_RECIPIENTS: Self = fixed(452, "4.5.3", "Too many recipients");
    pub const TOO_MANY_ERRORS: Self = fixed(421, "4.7.0", "Too many errors, closing connection");
    pub const TIMEOUT: Self = fixed(421, "4.4.2", "Timeout, closing connection");
    pub const SHUTDOWN: Self = fixed(421, "4.3.2", "Shutting down, try again later");
    pub const BYE: Self = fixed(221, "2.0.0", "Bye");
    pub const OK: Self = fixed(250, "2.0.0", "OK");
    pub const SENDER_OK: Self = fixed(250, "2.1.0", "Sender OK");
    pub const RECIPIENT_OK: Self = fixed(250, "2.1.5", "Recipient OK");
    pub const CANNOT_VERIFY: Self = fixed(252, "2.5.2", "Send some mail, it will be checked then");
    pub const HELP: Self = fixed(214, "2.0.0", "See RFC 5321 and RFC 2033");
    pub const START_DATA: Self = fixed(354, "", "End data with <CR><LF>.<CR><LF>");
    pub const START_TLS: Self = fixed(220, "2.0.0", "Ready to start TLS");
    pub const TLS_ACTIVE: Self = fixed(503, "5.5.1", "TLS is already on");
    pub const TLS_INJECTION: Self = fixed(554, "5.5.1", "Nothing may follow STARTTLS before the handshake");

    /// A message is larger than `octets_max`.
    pub fn too_large(octets_max: u64) -> Self {
        let text = format!("The message is larger than {octets_max} octets");
        Self { code: 552, enhanced: "5.3.4", text: text.into() }
    }

    /// A message was stored.
    pub fn stored(recipient: Option<&str>, id: &str) -> Self {
        let text = match recipient {
            Some(recipient) => format!("<{}> stored as {id}", printable(recipient)),
            None => format!("Stored as {id}"),
        };
        Self { code: 250, enhanced: "2.0.0", text: text.into() }
    }

    /// A message whose bytes cannot be taken.
    pub fn fault(fault: Fault, octets_max: u64) -> Self {
        match fault {
            Fault::BareCr => fixed(550, "5.6.0", "Message refused: CR without LF (RFC 5321 section 2.3.8)"),
            Fault::BareLf => fixed(550, "5.6.0", "Message refused: LF without CR (RFC 5321 section 2.3.8)"),
            Fault::Nul => fixed(550, "5.6.0", "Message refused: contains NUL (RFC 5321 section 4.5.2)"),
            Fault::TooLarge => Self::too_large(octets_max),
            Fault::Memory => fixed(452, "4.3.1", "Too many messages at once, try again later"),
        }
    }

    /// The one place where a refusal becomes a reply.
    pub fn refusal(refusal: &DeliveryRefusal, dialect: Dialect) -> Self {
        let (code, enhanced) = match (refusal, dialect) {
            (DeliveryRefusal::NotLocal, Dialect::Smtp) => (550, "5.7.1"),
            (DeliveryRefusal::NotLocal, Dialect::Lmtp) => (550, "5.1.2"),
            (DeliveryRefusal::UnknownMailbox, _) => (550, "5.1.1"),
            (DeliveryRefusal::Suspended, _) => (450, "4.2.1"),
            (DeliveryRefusal::OverQuota(_), _) => (452, "4.2.2"),
            (DeliveryRefusal::Full(_), _) => (552, "5.2.2"),
            (DeliveryRefusal::TooLarge { .. }, _) => (552, "5.3.4"),
            (DeliveryRefusal::Loop(_), _) => (554, "5.4.6"),
            (DeliveryRefusal::Unavailable, _) => (451, "4.3.0"),
            (DeliveryRefusal::Misdirected(_), _) => (451, "4.3.5"),
            (DeliveryRefusal::StorageFull, _) => (452, "4.3.1"),
            (DeliveryRefusal::Sibling, _) => (452, "4.3.0"),
        };
        Self { code, enhanced, text: capitalised(&refusal.to_string()).into() }
    }

    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// Writes the line.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self.code.to_string().as_bytes());
        if !self.enhanced.is_empty() {
            into.push(b' ');
            into.extend_from_slice(self.enhanced.as_bytes());
        }
        into.push(b' ');
        into.extend_from_slice(printable(&self.text).as_bytes());
        into.extend_from_slice(b"\r\n");
    }
}

const fn fixed(code: u16, enhanced: &'static str, text: &'static str) -> Reply {
    Reply { code, enhanced, text: Cow::Borrowed(text) }
}

/// Replies are one line of printable text, whatever a name or limit is called.
fn printable(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_CHARACTERS_MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let replaced = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    Cow::Owned(text.chars().take(TEXT_CHARACTERS_MAX).map(replaced).collect())
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
