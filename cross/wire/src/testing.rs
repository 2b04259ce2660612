//! What the tests of all messages do to a body: hold it against golden bytes, cut it, flip it, follow it with more.

use bytes::Bytes;

use crate::DecodeError;

/// The bytes written in `hex`; white space is ignored.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.as_chunks::<2>().0.iter().map(|pair| u8::try_from(16 * pair[0] + pair[1]).unwrap()).collect()
}

/// `bytes` in hex.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asserts that `encoded` is the golden `hex` and that it survives what a network and an attacker do: every truncation and
/// every extension is refused, and no flipped bit makes the decoder panic. Flips that still decode must decode to a value that
/// encodes again (`recode`), so that nothing half-read escapes.
pub(crate) fn assert_hardened<T: PartialEq + std::fmt::Debug>(
    value: &T,
    hex: &str,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&Bytes) -> Result<T, DecodeError>,
) {
    let golden = from_hex(hex);
    assert_eq!(to_hex(&encode(value)), to_hex(&golden), "golden bytes changed");
    assert_eq!(&decode(&Bytes::from(golden.clone())).unwrap(), value, "round trip");

    for length in 0..golden.len() {
        let cut = Bytes::copy_from_slice(&golden[..length]);
        assert!(decode(&cut).is_err(), "truncated to {length} bytes");
    }
    for extra in [&[0u8][..], &[0xff], &golden] {
        let longer = Bytes::from([&golden, extra].concat());
        assert!(matches!(decode(&longer), Err(DecodeError::Trailing { .. })), "followed by {extra:?}");
    }
    for position in 0..golden.len() * 8 {
        let mut flipped = golden.clone();
        flipped[position / 8] ^= 1 << (position % 8);
        if let Ok(other) = decode(&Bytes::from(flipped)) {
            let again = decode(&Bytes::from(encode(&other))).unwrap();
            assert_eq!(again, other, "bit {position} flipped");
        }
    }
}

/// A body with one more key, larger than all known ones: what a sender one minor version ahead writes.
pub(crate) fn with_unknown_key(mut body: Vec<u8>) -> Bytes {
    assert!((0xa0..0xb7).contains(&body[0]), "a short map");
    body[0] += 1;
    body.extend(from_hex("1863 82 01 a1 00 43 010203"));
    Bytes::from(body)
}
