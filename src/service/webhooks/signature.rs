//! How what is sent is signed.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::base::clock::Timestamp;
use crate::base::id::random_bytes;

/// What every secret begins with.
const PREFIX: &str = "whsec_";
/// Random octets of a secret.
const SECRET_OCTETS: usize = 32;

/// A new secret.
pub(super) fn secret() -> String {
    format!("{PREFIX}{}", STANDARD.encode(random_bytes(SECRET_OCTETS)))
}

/// The header's value for a message with this id and body that is sent now.
pub(super) fn signature(secret: &str, id: &str, now: Timestamp, body: &str) -> String {
    let key = secret.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let tag = sign(&Key::new(HMAC_SHA256, &key), format!("{id}.{}.{body}", now.secs()).as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the convention's reference libraries.
    #[test]
    fn signature_is_that_of_the_convention() {
        let body = "{\"test\": 2432232314}";
        let made = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp::from_secs(1_614_265_330),
            body,
        );
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_ne!(secret(), secret());
        assert!(secret().starts_with(PREFIX));
    }
}
