//! Who vouches for a message that devices obey: Ed25519 keys (RFC 8032).
//!
//! What is signed begins with a context and the tenant, so that a signature is worth nothing for another kind of message or
//! another tenant under the same key.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use thiserror::Error;

use crate::ids::{TenantId, from_hex};

/// Bytes of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// A key that signs. Its seed is the secret; it is never shown.
pub struct SigningKey(Ed25519KeyPair);

/// The key by which a device checks what a gateway signed; written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no public key: 64 hex digits are expected, as the gateway writes them into class-key.pub")]
pub struct KeyError {
    /// What was given, cut to 80 characters.
    pub text: String,
}

impl SigningKey {
    /// The key of 32 random bytes, which whoever calls keeps secret.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        SigningKey(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// The key that checks this one's signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// The signature over `body` as `context` of `tenant`.
    pub(crate) fn sign(&self, context: &str, tenant: &TenantId, body: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.0.sign(&signed(context, tenant, body));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl PublicKey {
    /// Whether `signature` is this key's over `body` as `context` of `tenant`.
    pub(crate) fn verifies(&self, context: &str, tenant: &TenantId, body: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&signed(context, tenant, body), signature).is_ok()
    }
}

/// Neither a context nor a tenant has a zero byte, so no two triples give the same bytes.
fn signed(context: &str, tenant: &TenantId, body: &[u8]) -> Vec<u8> {
    [context.as_bytes(), &[0], tenant.as_str().as_bytes(), &[0], body].concat()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_hex(text).map(PublicKey).ok_or_else(|| KeyError { text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::to_hex;

    #[test]
    fn keys_and_signatures_are_those_of_rfc_8032() {
        // Section 7.1, test 1: the public key of this seed.
        let seed: [u8; 32] = from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = SigningKey::from_seed(&seed);
        assert_eq!(key.public().to_string(), public);
        assert_eq!(public.parse(), Ok(key.public()));
        assert!(!format!("{key:?}").contains(&to_hex(&seed)[..16]));
    }

    #[test]
    fn a_signature_holds_for_its_key_context_tenant_and_body_only() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let signature = key.sign("a", &tenant("acme"), b"body");
        assert!(key.public().verifies("a", &tenant("acme"), b"body", &signature));
        assert!(!other.public().verifies("a", &tenant("acme"), b"body", &signature));
        assert!(!key.public().verifies("b", &tenant("acme"), b"body", &signature));
        assert!(!key.public().verifies("a", &tenant("acm"), b"body", &signature));
        assert!(!key.public().verifies("a", &tenant("acme"), b"bodi", &signature));
        assert!(!key.public().verifies("a", &tenant("acme"), b"body", &signature[..63]));
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_form_of_one() {
        for bad in ["", "d75a", &"g".repeat(64), &"a".repeat(66)] {
            let error = bad.parse::<PublicKey>().unwrap_err();
            assert!(error.to_string().contains("64 hex digits"), "{error}");
        }
    }
}
