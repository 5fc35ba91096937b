//! An authenticator for second factors (RFC 6238), as people have it on their phones.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use posthouse::base::clock::Timestamp;

/// An authenticator with one secret.
pub struct Authenticator(Vec<u8>);

impl Authenticator {
    /// With the secret in base 32 (RFC 4648 section 6), as it is typed in.
    pub fn new(secret: &str) -> Self {
        let mut octets = Vec::new();
        let (mut bits, mut count) = (0_u32, 0);
        for letter in secret.bytes() {
            let five = if letter.is_ascii_uppercase() { letter - b'A' } else { letter - b'2' + 26 };
            (bits, count) = (bits << 5 | u32::from(five), count + 5);
            if count >= 8 {
                count -= 8;
                octets.push((bits >> count & 255) as u8);
            }
        }
        Self(octets)
    }

    /// The code that it shows then (RFC 4226 section 5.3).
    pub fn code(&self, at: Timestamp) -> String {
        let counter = (at.secs() / 30).to_be_bytes();
        let tag = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0), &counter);
        let offset = usize::from(tag.as_ref()[19] & 15);
        let four: [u8; 4] = tag.as_ref()[offset..offset + 4].try_into().expect("four octets");
        format!("{:06}", (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000)
    }
}
