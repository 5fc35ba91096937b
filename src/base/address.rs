//! E-mail addresses and domain names in the one form in which they are stored and compared.

use std::fmt;
use std::str::FromStr;

use super::text::{composed, hidden_character};

/// Longest local part in octets (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_PART_OCTETS_MAX: usize = 64;
/// Longest domain in octets (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_OCTETS_MAX: usize = 255;

/// Why a text is no address or no domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`.
    #[error("an address has the form localpart@domain")]
    NoDomain,
    /// The part before the `@` is empty, too long, or has characters that no mailbox may have.
    #[error("the part before the @ is empty, longer than 64 octets, or has a forbidden character")]
    LocalPart,
    /// The part before the `@` has a character that is not seen.
    #[error("the part before the @ has an invisible character, U+{:04X}", u32::from(*.0))]
    Hidden(char),
    /// The domain is no valid (internationalised) host name.
    #[error("the domain is not a valid domain name")]
    Domain,
}

/// A domain name: lower case, internationalised labels as A-labels (RFC 5890), no final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The A-label form, as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form for people, with U-labels.
    pub fn unicode(&self) -> String {
        idna::domain_to_unicode(&self.0).0
    }
}

impl FromStr for DomainName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if ascii.is_empty() || ascii.len() > DOMAIN_OCTETS_MAX || !ascii.split('.').all(label_ok) {
            return Err(AddressError::Domain);
        }
        Ok(Self(ascii.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for DomainName {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(domain: DomainName) -> Self {
        domain.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The character between a mailbox's local part and its detail (RFC 5233).
pub const DETAIL_SEPARATOR: char = '+';

/// An address `localpart@domain`; the local part in lower case, since Posthouse compares without case, and in
/// normalization form C (RFC 6532 section 3.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: DomainName,
}

impl Address {
    /// Builds an address from a local part and a domain.
    ///
    /// # Errors
    /// [`AddressError::LocalPart`] when the local part is empty, too long or has a forbidden character,
    /// [`AddressError::Hidden`] when it has one that is not seen.
    pub fn new(local: &str, domain: DomainName) -> Result<Self, AddressError> {
        let local = composed(&local.to_lowercase());
        let forbidden = |c: char| c.is_control() || c.is_whitespace() || "()<>[]:;@\\,\"".contains(c);
        let dots_wrong = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        if local.is_empty() || local.len() > LOCAL_PART_OCTETS_MAX || dots_wrong || local.contains(forbidden)
        {
            return Err(AddressError::LocalPart);
        }
        if let Some(hidden) = hidden_character(&local) {
            return Err(AddressError::Hidden(hidden));
        }
        Ok(Self { local, domain })
    }

    /// The whole local part, detail included.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &DomainName {
        &self.domain
    }

    /// Local part without detail, and the detail: `user+lists` gives `("user", Some("lists"))` (RFC 5233).
    pub fn user_and_detail(&self) -> (&str, Option<&str>) {
        match self.local.split_once(DETAIL_SEPARATOR) {
            Some((user, detail)) if !user.is_empty() => (user, Some(detail)),
            _ => (&self.local, None),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoDomain)?;
        let unquoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(local);
        Self::new(unquoted, domain.parse()?)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_stored_in_lower_case_with_a_labels() {
        let address: Address = "Jörg+Lists@BÜCHER.example.".parse().unwrap();
        assert_eq!(address.to_string(), "jörg+lists@xn--bcher-kva.example");
        assert_eq!(address.user_and_detail(), ("jörg", Some("lists")));
    }

    #[test]
    fn what_looks_the_same_is_the_same_address() {
        let composed: Address = "j\u{f6}rg@b\u{fc}cher.example".parse().unwrap();
        let decomposed: Address = "jo\u{308}rg@bu\u{308}cher.example".parse().unwrap();
        assert_eq!(composed, decomposed);
        for hidden in ["a\u{200b}b@x.example", "a\u{202e}b@x.example", "pay\u{200d}pal@x.example"] {
            assert!(matches!(hidden.parse::<Address>(), Err(AddressError::Hidden(_))), "{hidden:?}");
        }
    }

    #[test]
    fn domains_have_one_form() {
        for text in
            ["b\u{fc}cher.example", "bu\u{308}cher.example", "B\u{dc}CHER.example", "xn--bcher-kva.example"]
        {
            assert_eq!(text.parse::<DomainName>().unwrap().as_str(), "xn--bcher-kva.example", "{text:?}");
        }
        // U+200B and U+00AD are mapped to nothing (UTS 46), the others refused.
        for wrong in
            ["a\u{202e}b.example", "a\u{200d}b.example", "a b.example", "a_b.example", "\u{5d0}1a.example"]
        {
            assert!(wrong.parse::<DomainName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "a",
            "@x.example",
            "a@",
            "a b@x.example",
            "a@-x.example",
            "a@x..example",
            "a\r@x.example",
            ".a@x.example",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
