//! A device's request for a verdict, on `q/{model}/{device}`.
//!
//! ```text
//! {0: id (16 bytes), 1: model (text), 2: edge digest (32 bytes), 3: attempt (uint8), 4: deadline_ms (uint32),
//!  5: boot (uint64), 6: inputs [tensor, …], ?7: purpose (uint)}
//! ```
//!
//! The device is not in the body: a gateway takes it from the topic, which the broker's access rules bind to the sender.

use bytes::Bytes;
use hedge_tensor::NamedTensor;

use crate::cbor::{self, Key, Reader, required};
use crate::error::{DecodeError, EncodeError};
use crate::ids::{BootId, Digest, ModelId, RequestId};
use crate::limits::{MAX_QUERY_BYTES, MAX_TENSOR_BYTES, MAX_TEXT_BYTES, MAX_UPLOAD_BYTES, MAX_UPLOAD_TENSOR_BYTES};
use crate::tensors;
use crate::upload::{Ask, BodyPlan, OFFER, Offer};

const QUERY: &str = "query";

/// One row that the edge model did not answer well enough.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    /// Names the request; a retry has the same, and the receiver deduplicates by it.
    pub id: RequestId,
    /// The cloud model asked.
    pub model: ModelId,
    /// The edge model that the device runs.
    pub edge: Digest,
    /// 0 for the first try, 1 for a retry.
    pub attempt: u8,
    /// How long the device still waits, from the moment of sending: clocks are not compared.
    pub deadline_ms: u32,
    /// The device's run.
    pub boot: BootId,
    /// What the client sent, by the model's input names. One row: every leading dimension is 1, or the model's own shape
    /// where it has no batch axis.
    pub inputs: Vec<NamedTensor>,
    /// Who waits for the verdict. Sent only where it is not [`Purpose::Answer`]; a gateway that does not know the key answers
    /// an audit like any other query.
    pub purpose: Purpose,
}

/// What a verdict is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Purpose {
    /// A client waits for it.
    #[default]
    Answer,
    /// Nobody waits: the device has answered by itself and compares later. Served when nothing else waits.
    Audit,
}

impl Purpose {
    pub(crate) fn code(self) -> u64 {
        match self {
            Purpose::Answer => 0,
            Purpose::Audit => 1,
        }
    }

    fn from_code(code: u64) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Purpose::Answer),
            1 => Ok(Purpose::Audit),
            _ => Err(DecodeError::Unknown { what: "purpose", code }),
        }
    }
}

impl Query {
    /// The body. [`Query::encode_checked`] also says whether it may be sent.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(128 + tensors::capacity(&self.inputs), |writer| {
            let audit = self.purpose != Purpose::Answer;
            writer.map(if audit { 8 } else { 7 })?;
            writer.u8(0)?.bytes(self.id.as_bytes())?;
            writer.u8(1)?.str(self.model.as_str())?;
            writer.u8(2)?.bytes(self.edge.as_bytes())?;
            writer.u8(3)?.u8(self.attempt)?;
            writer.u8(4)?.u32(self.deadline_ms)?;
            writer.u8(5)?.u64(self.boot.0)?;
            writer.u8(6)?;
            tensors::write(writer, &self.inputs)?;
            match audit {
                true => writer.u8(7)?.u64(self.purpose.code())?.ok(),
                false => Ok(()),
            }
        })
    }

    /// The body, where any receiver would take it in one message.
    pub fn encode_checked(&self) -> Result<Vec<u8>, EncodeError> {
        self.encode_within(ONE_MESSAGE)
    }

    /// The body, where any receiver would take it in parts.
    ///
    /// It is the same for every attempt and every run of the device, so that what a gateway holds of it counts after a restart
    /// as well: attempt, deadline and run are those of the [`Offer`].
    pub fn encode_upload(&self) -> Result<Vec<u8>, EncodeError> {
        Self { attempt: 0, deadline_ms: 0, boot: BootId(0), ..self.clone() }.encode_within(IN_PARTS)
    }

    fn encode_within(&self, caps: Caps) -> Result<Vec<u8>, EncodeError> {
        tensors::check(&self.inputs, caps.tensors)?;
        let body = self.encode();
        match body.len() <= caps.body {
            true => Ok(body),
            false => Err(EncodeError::TooLarge { message: QUERY, limit: caps.body, size: body.len() }),
        }
    }

    /// Reads a body; the inputs are copied.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_shared(&Bytes::copy_from_slice(body))
    }

    /// Reads a body whose memory the inputs then share.
    pub fn decode_shared(body: &Bytes) -> Result<Self, DecodeError> {
        Fields::read(body, ONE_MESSAGE)?.query()
    }

    /// Reads a body that came in parts; the inputs share its memory.
    pub fn decode_upload(body: &Bytes) -> Result<Self, DecodeError> {
        Fields::read(body, IN_PARTS)?.query()
    }
}

/// How large a query may be.
#[derive(Clone, Copy)]
pub(crate) struct Caps {
    body: usize,
    /// Of all tensors, once decompressed.
    tensors: usize,
}

pub(crate) const ONE_MESSAGE: Caps = Caps { body: MAX_QUERY_BYTES, tensors: MAX_TENSOR_BYTES };
const IN_PARTS: Caps = Caps { body: MAX_UPLOAD_BYTES, tensors: MAX_UPLOAD_TENSOR_BYTES };

/// The fields of a query or of an offer of one, as far as they were there.
#[derive(Default)]
pub(crate) struct Fields {
    id: Option<RequestId>,
    model: Option<ModelId>,
    edge: Option<Digest>,
    attempt: Option<u8>,
    deadline_ms: Option<u32>,
    boot: Option<BootId>,
    inputs: Option<Vec<NamedTensor>>,
    purpose: Option<Purpose>,
    offered: Option<BodyPlan>,
}

impl Fields {
    pub(crate) fn read(body: &Bytes, caps: Caps) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(QUERY, body, caps.body)?;
        let mut fields = Self::default();
        reader.map(QUERY, |reader, key| {
            match key {
                0 => fields.id = Some(RequestId::from_bytes(reader.fixed("request id")?)),
                1 => fields.model = Some(ModelId::parse(reader.text("model", MAX_TEXT_BYTES)?)?),
                2 => fields.edge = Some(Digest(reader.fixed("edge digest")?)),
                3 => fields.attempt = Some(reader.u8("attempt")?),
                4 => fields.deadline_ms = Some(reader.u32("deadline_ms")?),
                5 => fields.boot = Some(BootId(reader.u64("boot")?)),
                6 => fields.inputs = Some(tensors::read(reader, caps.tensors)?),
                7 => fields.purpose = Some(Purpose::from_code(reader.u64("purpose")?)?),
                8 => fields.offered = Some(BodyPlan::read(reader)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(QUERY)?;
        Ok(fields)
    }

    /// Inputs make it a query, whatever else there is: so reads a gateway that knows no offers.
    pub(crate) fn ask(self) -> Result<Ask, DecodeError> {
        match (&self.inputs, self.offered) {
            (None, Some(body)) => self.offer(body).map(Ask::Offer),
            _ => self.query().map(Ask::Query),
        }
    }

    fn query(self) -> Result<Query, DecodeError> {
        Ok(Query {
            id: required(self.id, QUERY, 0, "id")?,
            model: required(self.model, QUERY, 1, "model")?,
            edge: required(self.edge, QUERY, 2, "edge")?,
            attempt: required(self.attempt, QUERY, 3, "attempt")?,
            deadline_ms: required(self.deadline_ms, QUERY, 4, "deadline_ms")?,
            boot: required(self.boot, QUERY, 5, "boot")?,
            inputs: required(self.inputs, QUERY, 6, "inputs")?,
            purpose: self.purpose.unwrap_or_default(),
        })
    }

    fn offer(self, body: BodyPlan) -> Result<Offer, DecodeError> {
        Ok(Offer {
            id: required(self.id, OFFER, 0, "id")?,
            model: required(self.model, OFFER, 1, "model")?,
            edge: required(self.edge, OFFER, 2, "edge")?,
            attempt: required(self.attempt, OFFER, 3, "attempt")?,
            deadline_ms: required(self.deadline_ms, OFFER, 4, "deadline_ms")?,
            boot: required(self.boot, OFFER, 5, "boot")?,
            purpose: self.purpose.unwrap_or_default(),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use hedge_tensor::Tensor;

    use super::*;
    use crate::testing::{assert_hardened, from_hex, with_unknown_key};

    fn query() -> Query {
        Query {
            id: RequestId::from_bytes(*b"0123456789abcdef"),
            model: ModelId::parse("digits").unwrap(),
            edge: Digest([0xe1; 32]),
            attempt: 1,
            deadline_ms: 250,
            boot: BootId(7),
            inputs: vec![NamedTensor::new("image", Tensor::from_slice(&[1, 1, 2, 2], &[0u8, 7, 15, 16]).unwrap())],
            purpose: Purpose::Answer,
        }
    }

    /// The example of docs/protocol.md.
    const GOLDEN: &str = "a7
        00 50 30313233343536373839616263646566
        01 66 646967697473
        02 5820 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
        03 01
        04 18fa
        05 07
        06 81 a4
            00 65 696d616765
            01 01
            02 84 01 01 02 02
            03 44 00070f10";

    #[test]
    fn a_query_is_hardened_around_its_golden_bytes() {
        assert_hardened(&query(), GOLDEN, Query::encode, Query::decode_shared);
    }

    /// The same, asked as an audit: one more key.
    fn audit_golden() -> String {
        GOLDEN.replacen("a7", "a8", 1) + " 07 01"
    }

    #[test]
    fn an_audit_is_a_query_with_one_more_key() {
        let audit = Query { purpose: Purpose::Audit, ..query() };
        assert_hardened(&audit, &audit_golden(), Query::encode, Query::decode_shared);
    }

    #[test]
    fn a_purpose_of_zero_reads_as_an_absent_one_and_an_unknown_one_is_named() {
        let with = |code: &str| from_hex(&audit_golden().replace("07 01", &format!("07 {code}")));
        assert_eq!(Query::decode(&with("00")).unwrap(), query());
        assert_eq!(Query::decode(&with("02")), Err(DecodeError::Unknown { what: "purpose", code: 2 }));
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        assert_eq!(Query::decode_shared(&with_unknown_key(query().encode())).unwrap(), query());
    }

    #[test]
    fn an_oversized_body_is_refused_by_sender_and_receiver() {
        let large = vec![0; MAX_QUERY_BYTES + 1];
        assert!(matches!(Query::decode(&large), Err(DecodeError::TooLarge { .. })));

        let mut state = 1u32;
        let noise: Vec<u32> = (0..MAX_QUERY_BYTES / 4)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state ^ (state >> 16)
            })
            .collect();
        let tensor = Tensor::from_slice(&[1, noise.len()], &noise).unwrap();
        let query = Query { inputs: vec![NamedTensor::new("x", tensor)], ..query() };
        assert!(matches!(query.encode_checked(), Err(EncodeError::TooLarge { .. })));
        assert!(matches!(Query::decode(&query.encode()), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_missing_field_and_a_foreign_id_are_named() {
        assert_eq!(Query::decode(&[0xa0]), Err(DecodeError::Missing { message: "query", key: 0, field: "id" }));
        let short_id = from_hex("a1 00 4f 303132333435363738396162636465");
        assert!(matches!(Query::decode(&short_id), Err(DecodeError::WrongLength { expected: 16, actual: 15, .. })));
        let foreign = from_hex("a1 01 63 412f2b");
        assert!(matches!(Query::decode(&foreign), Err(DecodeError::Id(_))));
    }

    #[test]
    fn the_envelope_adds_little_to_the_tensor() {
        let mut query = query();
        let empty = Query { inputs: Vec::new(), ..query.clone() }.encode().len();
        query.inputs = vec![NamedTensor::new("image", Tensor::from_slice(&[1, 64], &[3u8; 64]).unwrap())];
        assert!(query.encode().len() - empty - 64 <= 24, "{}", query.encode().len() - empty);
    }
}
