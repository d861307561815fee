//! How a delivery proves who sent it and when: `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">`, the form that
//! Stripe made common. The time is signed with the body, so that a copy of an old delivery can be told.

use aws_lc_rs::hmac;

/// The header that carries it.
pub(super) const HEADER: &str = "flagship-signature";

/// The header's value.
pub(super) fn sign(key: &[u8], unix_seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{unix_seconds}.").as_bytes());
    context.update(body);
    let tag = context.sign();
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={unix_seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_that_openssl_computed() {
        // printf '1767225600.{"event":"beforePromote"}' | openssl dgst -sha256 -hmac topsecret
        let signature = sign(b"topsecret", 1_767_225_600, br#"{"event":"beforePromote"}"#);
        assert_eq!(
            signature,
            "t=1767225600,v1=4420f19d9a1fc207c0605d0eee1c1dbdb3420649e0cd954b24f736c9f9265a5e"
        );
    }

    #[test]
    fn time_key_and_body_all_count() {
        let base = sign(b"k", 1, b"body");
        for other in [sign(b"l", 1, b"body"), sign(b"k", 2, b"body"), sign(b"k", 1, b"Body")] {
            let hex = |text: &str| text.split_once("v1=").unwrap().1.to_owned();
            assert_ne!(hex(&base), hex(&other));
        }
    }
}
