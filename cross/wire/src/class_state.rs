//! What the devices of a class may rely on for one edge and one cloud model: retained on `dg/{class}/{hash16}`, signed.
//!
//! ```text
//! body    signature (64 bytes), then the state
//! state   {0: subject (as in evidence), 1: version (uint64), 2: revoked [certificate id (32 bytes), …],
//!          3: boost_until_unix_secs (uint64), ?4: certificate (bytes, one zstd frame), ?5: its decompressed size (uint)}
//! ```
//!
//! The signature is Ed25519 over `hedge/1 class state`, a zero byte, the tenant, a zero byte and the state. It is checked
//! before anything is parsed. An empty retained body (which deletes the message at the broker) is no state.

use bytes::Bytes;

use crate::cbor::{self, Key, Reader, required};
use crate::error::{DecodeError, EncodeError};
use crate::evidence::RouteSubject;
use crate::ids::{Digest, TenantId};
use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_RETAINED_BYTES, MAX_REVOKED};
use crate::signing::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::topic::Topic;

const STATE: &str = "class state";

/// What a signature says that its bytes are.
const CONTEXT: &str = "hedge/1 class state";

/// Bytes left for the state.
const MAX_STATE_BYTES: usize = MAX_RETAINED_BYTES - SIGNATURE_BYTES;

/// Certificates are compressed once and sent to many.
const ZSTD_LEVEL: i32 = 12;

/// The word of a gateway to a class of devices. A device obeys the highest version that it has seen, across restarts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassState {
    /// Whom it is about.
    pub subject: RouteSubject,
    /// Grows with every state, also across restarts of the gateway.
    pub version: u64,
    /// Certificates that are void, by id; at most [`MAX_REVOKED`].
    pub revoked: Vec<Digest>,
    /// Until when devices audit more often, in seconds since 1970; 0: they need not. A wrong clock costs audits, no promise.
    pub boost_until_unix_secs: u64,
    /// The class's certificate as JSON; at most [`MAX_CERTIFICATE_BYTES`].
    pub certificate: Option<Vec<u8>>,
}

impl ClassState {
    /// Where it is retained.
    pub fn topic(&self) -> Topic {
        Topic::ClassState { class: self.subject.class.clone(), subject: self.subject.hash() }
    }

    /// The signed retained body, where brokers retain it and any receiver would take it.
    pub fn encode_signed(&self, tenant: &TenantId, key: &SigningKey) -> Result<Vec<u8>, EncodeError> {
        let revoked = self.revoked.len();
        if revoked > MAX_REVOKED {
            return Err(EncodeError::OverLimit {
                what: "number of revoked certificates",
                limit: MAX_REVOKED,
                actual: revoked,
            });
        }
        let certificate = self.certificate.as_ref().map_or(0, Vec::len);
        if certificate > MAX_CERTIFICATE_BYTES {
            let limit = MAX_CERTIFICATE_BYTES;
            return Err(EncodeError::OverLimit { what: "bytes of the certificate", limit, actual: certificate });
        }
        let state = self.encode_state();
        let body = [&key.sign(CONTEXT, tenant, &state)[..], &state].concat();
        match body.len() <= MAX_RETAINED_BYTES {
            true => Ok(body),
            false => Err(EncodeError::TooLarge { message: STATE, limit: MAX_RETAINED_BYTES, size: body.len() }),
        }
    }

    /// Reads a retained body that `key` has signed for `tenant`.
    pub fn decode_signed(body: &[u8], tenant: &TenantId, key: &PublicKey) -> Result<Self, DecodeError> {
        let size = body.len();
        if size > MAX_RETAINED_BYTES {
            return Err(DecodeError::TooLarge { message: STATE, limit: MAX_RETAINED_BYTES, size });
        }
        let unsigned = DecodeError::Signature { message: STATE };
        let Some((signature, state)) = body.split_at_checked(SIGNATURE_BYTES) else { return Err(unsigned) };
        if !key.verifies(CONTEXT, tenant, state, signature) {
            return Err(unsigned);
        }
        Self::decode_state(&Bytes::copy_from_slice(state))
    }

    fn encode_state(&self) -> Vec<u8> {
        let frame = self.certificate.as_ref().map(|json| (compress(json), json.len() as u64));
        let capacity = 320 + 34 * self.revoked.len() + frame.as_ref().map_or(0, |(frame, _)| frame.len());
        cbor::write(capacity, |writer| {
            writer.map(if frame.is_some() { 6 } else { 4 })?;
            writer.u8(0)?;
            self.subject.write(writer)?;
            writer.u8(1)?.u64(self.version)?;
            writer.u8(2)?.array(self.revoked.len() as u64)?;
            self.revoked.iter().try_for_each(|id| writer.bytes(id.as_bytes())?.ok())?;
            writer.u8(3)?.u64(self.boost_until_unix_secs)?;
            match &frame {
                Some((frame, size)) => writer.u8(4)?.bytes(frame)?.u8(5)?.u64(*size)?.ok(),
                None => Ok(()),
            }
        })
    }

    fn decode_state(state: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(STATE, state, MAX_STATE_BYTES)?;
        let (mut subject, mut version, mut revoked, mut boost, mut frame, mut size) =
            (None, None, None, None, None, None);
        reader.map(STATE, |reader, key| {
            match key {
                0 => subject = Some(RouteSubject::read(reader)?),
                1 => version = Some(reader.u64("version")?),
                2 => {
                    let id = |reader: &mut Reader<'_>| Ok(Digest(reader.fixed("certificate id")?));
                    revoked = Some(reader.array("number of revoked certificates", MAX_REVOKED, id)?);
                }
                3 => boost = Some(reader.u64("boost_until_unix_secs")?),
                4 => frame = Some(reader.bytes("certificate")?),
                5 => size = Some(reader.u64("size of the certificate")?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(STATE)?;
        Ok(ClassState {
            subject: required(subject, STATE, 0, "subject")?,
            version: required(version, STATE, 1, "version")?,
            revoked: required(revoked, STATE, 2, "revoked")?,
            boost_until_unix_secs: required(boost, STATE, 3, "boost_until_unix_secs")?,
            certificate: match (frame, size) {
                (None, None) => None,
                (frame, size) => {
                    let frame = required(frame, STATE, 4, "certificate")?;
                    Some(decompress(&frame, required(size, STATE, 5, "size of the certificate")?)?)
                }
            },
        })
    }
}

fn compress(json: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(json, ZSTD_LEVEL).expect("zstd compresses any bytes into a buffer of its own bound")
}

/// Into a buffer of the declared size, which is checked first: a bomb fails, it does not grow.
fn decompress(frame: &[u8], size: u64) -> Result<Vec<u8>, DecodeError> {
    let expected =
        usize::try_from(size).ok().filter(|size| *size <= MAX_CERTIFICATE_BYTES).ok_or(DecodeError::OverLimit {
            what: "bytes of the certificate",
            limit: MAX_CERTIFICATE_BYTES as u64,
            actual: size,
        })?;
    let failed = |reason: String| DecodeError::Certificate { expected, reason };
    let json = zstd::bulk::decompress(frame, expected).map_err(|error| failed(error.to_string()))?;
    match json.len() == expected {
        true => Ok(json),
        false => Err(failed(format!("it has {} bytes", json.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, ModelId};
    use crate::testing::{assert_hardened, with_unknown_key};

    fn state() -> ClassState {
        ClassState {
            subject: RouteSubject {
                model: ModelId::parse("digits").unwrap(),
                edge: Digest([0xe1; 32]),
                cloud: Digest([0xc1; 32]),
                class: GroupId::parse("cam").unwrap(),
                transforms: Digest([0x71; 32]),
                comparison: "top-class".to_owned(),
            },
            version: 9,
            revoked: vec![Digest([0xce; 32])],
            boost_until_unix_secs: 1_800_000_000,
            certificate: Some(b"{}".to_vec()),
        }
    }

    fn tenant() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    /// The example of docs/protocol.md; the zstd frame holds `{}` as it is.
    const GOLDEN: &str = "a6
        00 a6
            00 66 646967697473
            01 5820 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
            02 5820 c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1
            03 63 63616d
            04 5820 7171717171717171717171717171717171717171717171717171717171717171
            05 69 746f702d636c617373
        01 09
        02 81 5820 cececececececececececececececececececececececececececececececece
        03 1a 6b49d200
        04 4b 28b52ffd 20 02 110000 7b7d
        05 02";

    #[test]
    fn a_state_is_hardened_around_its_golden_bytes() {
        assert_hardened(&state(), GOLDEN, ClassState::encode_state, ClassState::decode_state);
        let later = with_unknown_key(state().encode_state());
        assert_eq!(ClassState::decode_state(&later).unwrap(), state());
    }

    #[test]
    fn no_changed_cut_or_foreign_body_is_parsed() {
        let body = state().encode_signed(&tenant(), &key()).unwrap();
        let public = key().public();
        assert_eq!(ClassState::decode_signed(&body, &tenant(), &public).unwrap(), state());
        let refused = |body: &[u8], tenant: &TenantId, key: &PublicKey| {
            let error = ClassState::decode_signed(body, tenant, key).unwrap_err();
            assert_eq!(error, DecodeError::Signature { message: STATE });
        };
        for length in 0..body.len() {
            refused(&body[..length], &tenant(), &public);
        }
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(&flipped, &tenant(), &public);
        }
        refused(&[body.as_slice(), &[0]].concat(), &tenant(), &public);
        refused(&body, &TenantId::parse("other").unwrap(), &public);
        refused(&body, &tenant(), &SigningKey::from_seed(&[6; 32]).public());
        let large = vec![0; MAX_RETAINED_BYTES + 1];
        assert!(matches!(ClassState::decode_signed(&large, &tenant(), &public), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_certificate_shrinks_on_its_way_and_decompresses_into_what_was_declared_only() {
        let json = br#"{"threshold": 0.5, "grid": [0.9, 0.8, 0.7]}"#.repeat(500);
        let state = ClassState { certificate: Some(json), ..state() };
        let body = state.encode_signed(&tenant(), &key()).unwrap();
        assert!(body.len() < 1024, "{}", body.len());
        assert_eq!(ClassState::decode_signed(&body, &tenant(), &key().public()).unwrap(), state);

        let bomb = compress(&vec![b' '; 16 * MAX_CERTIFICATE_BYTES]);
        assert!(matches!(decompress(&bomb, 1 << 20), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(decompress(&bomb, u64::MAX), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(decompress(&bomb, 100), Err(DecodeError::Certificate { .. })));
        assert!(matches!(decompress(&compress(b"{}"), 3), Err(DecodeError::Certificate { .. })));
        assert!(matches!(decompress(b"{}", 2), Err(DecodeError::Certificate { .. })));
    }

    #[test]
    fn what_no_broker_retains_is_not_sent() {
        let revoked = |count| ClassState { revoked: vec![Digest([1; 32]); count], certificate: None, ..state() };
        assert!(revoked(MAX_REVOKED).encode_signed(&tenant(), &key()).is_ok());
        let error = revoked(MAX_REVOKED + 1).encode_signed(&tenant(), &key()).unwrap_err();
        assert!(matches!(error, EncodeError::OverLimit { .. }), "{error}");
        let mut state_of_noise = 1u32;
        let noise = (0..MAX_RETAINED_BYTES).map(|_| {
            state_of_noise = state_of_noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state_of_noise.to_be_bytes()[0]
        });
        let large = ClassState { certificate: Some(noise.collect()), ..state() };
        assert!(matches!(large.encode_signed(&tenant(), &key()), Err(EncodeError::TooLarge { .. })));
        let huge = ClassState { certificate: Some(vec![b' '; MAX_CERTIFICATE_BYTES + 1]), ..state() };
        assert!(matches!(huge.encode_signed(&tenant(), &key()), Err(EncodeError::OverLimit { .. })));
    }
}
