//! Offers, grants and parts as bytes.

use hedge_tensor::{NamedTensor, Tensor};

use super::*;
use crate::testing::{assert_hardened, from_hex, with_unknown_key};

const ID: [u8; 16] = *b"0123456789abcdef";

fn offer() -> Offer {
    Offer {
        id: RequestId::from_bytes(ID),
        model: ModelId::parse("digits").unwrap(),
        edge: Digest([0xe1; 32]),
        attempt: 1,
        deadline_ms: 30_000,
        boot: BootId(7),
        purpose: Purpose::Answer,
        body: BodyPlan { size: 200_000, part_bytes: 65_536, digest: Digest([0xb0; 32]) },
    }
}

fn grant() -> Grant {
    let mut held = PartSet::default();
    assert!(held.insert(0) && held.insert(9) && !held.insert(9));
    Grant { id: RequestId::from_bytes(ID), gateway: GatewayId::parse("gw-1").unwrap(), held }
}

fn part() -> Part {
    Part { id: RequestId::from_bytes(ID), index: 2, data: Bytes::from_static(b"123456789") }
}

/// The examples of docs/protocol.md.
const OFFER_GOLDEN: &str = "a7
    00 50 30313233343536373839616263646566
    01 66 646967697473
    02 5820 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
    03 01
    04 197530
    05 07
    08 a3
        00 1a 00030d40
        01 1a 00010000
        02 5820 b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
const GRANT_GOLDEN: &str = "a4
    00 04
    01 50 30313233343536373839616263646566
    02 64 67772d31
    03 42 0102";
/// The checksum of `123456789` is the check value of CRC-32C (RFC 3720, appendix B.4).
const PART_GOLDEN: &str = "a4
    00 50 30313233343536373839616263646566
    01 02
    02 1a e3069283
    03 49 313233343536373839";

fn decode_offer(body: &Bytes) -> Result<Offer, DecodeError> {
    match Ask::decode_shared(body)? {
        Ask::Offer(offer) => Ok(offer),
        Ask::Query(query) => panic!("{query:?}"),
    }
}

fn decode_grant(body: &Bytes) -> Result<Grant, DecodeError> {
    Grant::decode(body).unwrap_or(Err(DecodeError::Unknown { what: "reply kind", code: 0 }))
}

#[test]
fn offers_grants_and_parts_are_hardened_around_their_golden_bytes() {
    assert_hardened(&offer(), OFFER_GOLDEN, Offer::encode, decode_offer);
    assert_hardened(&grant(), GRANT_GOLDEN, Grant::encode, decode_grant);
    assert_hardened(&part(), PART_GOLDEN, Part::encode, Part::decode);
    let audit = Offer { purpose: Purpose::Audit, ..offer() };
    assert_eq!(decode_offer(&audit.encode().into()).unwrap(), audit);
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    assert_eq!(decode_offer(&with_unknown_key(offer().encode())).unwrap(), offer());
    assert_eq!(decode_grant(&with_unknown_key(grant().encode())).unwrap(), grant());
    assert_eq!(Part::decode(&with_unknown_key(part().encode())).unwrap(), part());
}

#[test]
fn a_query_is_still_a_query_and_a_reply_is_no_grant() {
    let query = Query {
        id: RequestId::from_bytes(ID),
        model: ModelId::parse("digits").unwrap(),
        edge: Digest([0xe1; 32]),
        attempt: 0,
        deadline_ms: 5,
        boot: BootId(7),
        inputs: vec![NamedTensor::new("x", Tensor::from_slice(&[1, 2], &[1u8, 2]).unwrap())],
        purpose: Purpose::Answer,
    };
    assert_eq!(Ask::decode_shared(&query.encode().into()).unwrap(), Ask::Query(query));
    let busy = crate::Reply::Busy { id: RequestId::from_bytes(ID), retry_ms: 200 };
    assert_eq!(Grant::decode(&busy.encode().into()), None);
    assert!(crate::Reply::decode(&grant().encode()).is_err(), "a device that knows no grants drops it");
}

/// So such a gateway says `BadInput`, and the device answers by itself.
#[test]
fn a_gateway_that_knows_no_offers_refuses_one_as_a_query_without_inputs() {
    assert_eq!(
        Query::decode(&offer().encode()),
        Err(DecodeError::Missing { message: "query", key: 6, field: "inputs" })
    );
}

#[test]
fn a_flipped_bit_in_the_data_of_a_part_is_found() {
    let mut body = part().encode();
    *body.last_mut().unwrap() ^= 4;
    assert_eq!(Part::decode(&body.into()), Err(DecodeError::Checksum { message: "part" }));
}

#[test]
fn sizes_outside_the_caps_are_refused_before_anything_is_kept_for_them() {
    let with = |size: u32, part_bytes: u32| Offer { body: BodyPlan { size, part_bytes, ..offer().body }, ..offer() };
    let largest = u32::try_from(MAX_UPLOAD_BYTES).unwrap();
    for (size, part_bytes) in [(0, 65_536), (largest + 1, 65_536), (u32::MAX, 65_536), (9, 4095), (9, 65_537), (9, 0)] {
        let decoded = decode_offer(&with(size, part_bytes).encode().into());
        assert!(matches!(decoded, Err(DecodeError::Range { .. })), "{size} {part_bytes}");
    }
    assert!(decode_offer(&with(largest, 4096).encode().into()).is_ok());
    assert!(BodyPlan::of(&vec![0; MAX_UPLOAD_BYTES + 1], MAX_PART_BYTES).is_err());

    let long = from_hex(&GRANT_GOLDEN.replace("42 0102", &format!("59 1000 {}", "01".repeat(4096))));
    assert!(matches!(decode_grant(&long.into()), Err(DecodeError::OverLimit { .. })));
    let large = Part { data: Bytes::from(vec![0; MAX_PART_BYTES]), index: u32::MAX, ..part() };
    assert_eq!(Part::decode(&large.encode().into()).unwrap(), large);
    let larger = Part { data: Bytes::from(vec![0; MAX_PART_BYTES + PART_OVERHEAD]), ..part() };
    assert!(matches!(Part::decode(&larger.encode().into()), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn parts_cover_the_body_without_gaps_and_there_are_no_more() {
    let body: Bytes = (0..100_000u32).map(|at| at as u8).collect::<Vec<_>>().into();
    for part_bytes in [1, 4096, 50_000, 65_536, 1 << 20] {
        let plan = BodyPlan::of(&body, part_bytes).unwrap();
        let cut = |index| Part::cut(RequestId::from_bytes(ID), &plan, &body, index);
        let together: Vec<u8> = (0..plan.parts()).flat_map(|index| cut(index).unwrap().data).collect();
        assert!(plan.matches(&together), "{part_bytes}");
        assert!(cut(plan.parts()).is_none() && cut(u32::MAX).is_none());
        assert!(!plan.matches(&together[1..]));
    }
}

#[test]
fn a_query_above_one_message_s_cap_passes_in_parts_and_has_a_cap_there_as_well() {
    let query = |bytes: usize| Query {
        id: RequestId::from_bytes(ID),
        model: ModelId::parse("digits").unwrap(),
        edge: Digest([0xe1; 32]),
        attempt: 0,
        deadline_ms: 5,
        boot: BootId(7),
        inputs: vec![NamedTensor::new("x", Tensor::from_slice(&[1, bytes], &vec![7u8; bytes]).unwrap())],
        purpose: Purpose::Answer,
    };
    let large = query(3 << 20);
    // It compresses well, but a bomb is what it says it is: each way has its own cap of decompressed bytes.
    assert!(matches!(large.encode_checked(), Err(EncodeError::OverLimit { .. })));
    let body = Bytes::from(large.encode_upload().unwrap());
    let without_what_the_offer_says = Query { attempt: 0, deadline_ms: 0, boot: BootId(0), ..large.clone() };
    assert_eq!(Query::decode_upload(&body).unwrap(), without_what_the_offer_says);
    let again = Query { attempt: 1, deadline_ms: 9, boot: BootId(8), ..large };
    assert_eq!(again.encode_upload().unwrap(), body, "every attempt and every run has the same body");
    assert!(matches!(Query::decode_shared(&body), Err(DecodeError::OverLimit { .. })));
    assert!(query(crate::limits::MAX_UPLOAD_TENSOR_BYTES + 1).encode_upload().is_err());
}
