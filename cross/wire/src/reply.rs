//! What a gateway says to a request, on `r/{device}`.
//!
//! ```text
//! verdict {0: 1, 1: id (16 bytes), 2: cloud digest (32 bytes), 3: gateway (text), 4: outputs [tensor, …],
//!          5: queue_us (uint32), 6: model_us (uint32)}
//! busy    {0: 2, 1: id, 2: retry_ms (uint32)}
//! refused {0: 3, 1: id, 2: kind (uint), 3: message (text)}
//! ```
//!
//! Key 0 says which; keys ascend, so it is always read first. Kind 4 is a [`crate::Grant`], which ends nothing.

use bytes::Bytes;
use hedge_tensor::NamedTensor;

use crate::cbor::{self, Key, Reader, required};
use crate::error::{DecodeError, EncodeError};
use crate::ids::{Digest, GatewayId, RequestId};
use crate::limits::{MAX_REPLY_BYTES, MAX_TENSOR_BYTES, MAX_TEXT_BYTES};
use crate::tensors;

const REPLY: &str = "reply";
const VERDICT: u64 = 1;
const BUSY: u64 = 2;
const REFUSED: u64 = 3;

/// A gateway's reply. Every kind ends the gateway's work on the request.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The cloud model's answer.
    Verdict(Verdict),
    /// The gateway's queue is full; the same request may be sent again.
    Busy {
        /// Which request.
        id: RequestId,
        /// When, in milliseconds from now, a retry may succeed.
        retry_ms: u32,
    },
    /// The request will never be answered; sending it again does not help.
    Refused {
        /// Which request.
        id: RequestId,
        /// Why, for programs.
        kind: Refusal,
        /// Why, for people; cut to [`MAX_TEXT_BYTES`] when sent.
        message: String,
    },
}

/// The cloud model's outputs for one row.
#[derive(Clone, PartialEq, Debug)]
pub struct Verdict {
    /// Which request.
    pub id: RequestId,
    /// The model that answered.
    pub cloud: Digest,
    /// Who answered.
    pub gateway: GatewayId,
    /// By the model's output names; leading dimension 1.
    pub outputs: Vec<NamedTensor>,
    /// How long the request waited for its batch, in microseconds.
    pub queue_us: u32,
    /// How long the batch ran, in microseconds.
    pub model_us: u32,
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The gateway does not serve this model.
    UnknownModel,
    /// The inputs do not fit the model.
    BadInput,
    /// The device no longer waits.
    Expired,
    /// The gateway failed. A reason that this version does not know also reads as this.
    Internal,
}

impl Reply {
    /// Which request this answers.
    pub fn id(&self) -> RequestId {
        match self {
            Reply::Verdict(verdict) => verdict.id,
            Reply::Busy { id, .. } | Reply::Refused { id, .. } => *id,
        }
    }

    /// The body. [`Reply::encode_checked`] also says whether it may be sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Reply::Verdict(verdict) => verdict.encode(),
            Reply::Busy { id, retry_ms } => cbor::write(32, |writer| {
                writer.map(3)?.u8(0)?.u64(BUSY)?;
                writer.u8(1)?.bytes(id.as_bytes())?;
                writer.u8(2)?.u32(*retry_ms)?.ok()
            }),
            Reply::Refused { id, kind, message } => cbor::write(64 + message.len(), |writer| {
                writer.map(4)?.u8(0)?.u64(REFUSED)?;
                writer.u8(1)?.bytes(id.as_bytes())?;
                writer.u8(2)?.u64(kind.code())?;
                writer.u8(3)?.str(cbor::cut(message, MAX_TEXT_BYTES))?.ok()
            }),
        }
    }

    /// The body, where any receiver would take it.
    pub fn encode_checked(&self) -> Result<Vec<u8>, EncodeError> {
        if let Reply::Verdict(verdict) = self {
            tensors::check(&verdict.outputs, MAX_TENSOR_BYTES)?;
        }
        let body = self.encode();
        match body.len() <= MAX_REPLY_BYTES {
            true => Ok(body),
            false => Err(EncodeError::TooLarge { message: REPLY, limit: MAX_REPLY_BYTES, size: body.len() }),
        }
    }

    /// Reads a body; the outputs are copied.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_shared(&Bytes::copy_from_slice(body))
    }

    /// Reads a body whose memory the outputs then share.
    pub fn decode_shared(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(REPLY, body, MAX_REPLY_BYTES)?;
        let mut fields = Fields::default();
        reader.map(REPLY, |reader, key| fields.read(reader, key))?;
        reader.finish(REPLY)?;
        fields.reply()
    }
}

impl Verdict {
    fn encode(&self) -> Vec<u8> {
        cbor::write(128 + tensors::capacity(&self.outputs), |writer| {
            writer.map(7)?.u8(0)?.u64(VERDICT)?;
            writer.u8(1)?.bytes(self.id.as_bytes())?;
            writer.u8(2)?.bytes(self.cloud.as_bytes())?;
            writer.u8(3)?.str(self.gateway.as_str())?;
            writer.u8(4)?;
            tensors::write(writer, &self.outputs)?;
            writer.u8(5)?.u32(self.queue_us)?;
            writer.u8(6)?.u32(self.model_us)?.ok()
        })
    }
}

impl Refusal {
    fn code(self) -> u64 {
        match self {
            Refusal::UnknownModel => 1,
            Refusal::BadInput => 2,
            Refusal::Expired => 3,
            Refusal::Internal => 4,
        }
    }

    fn from_code(code: u64) -> Self {
        match code {
            1 => Refusal::UnknownModel,
            2 => Refusal::BadInput,
            3 => Refusal::Expired,
            _ => Refusal::Internal,
        }
    }
}

/// The fields of any kind of reply, as far as they were read.
#[derive(Default)]
struct Fields {
    kind: Option<u64>,
    id: Option<RequestId>,
    cloud: Option<Digest>,
    gateway: Option<GatewayId>,
    outputs: Option<Vec<NamedTensor>>,
    queue_us: Option<u32>,
    model_us: Option<u32>,
    retry_ms: Option<u32>,
    refusal: Option<Refusal>,
    message: Option<String>,
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, key: u64) -> Result<Key, DecodeError> {
        match (self.kind, key) {
            (None, 0) => self.kind = Some(known_kind(reader.u64("reply kind")?)?),
            (Some(_), 1) => self.id = Some(RequestId::from_bytes(reader.fixed("request id")?)),
            (Some(VERDICT), 2) => self.cloud = Some(Digest(reader.fixed("cloud digest")?)),
            (Some(VERDICT), 3) => self.gateway = Some(GatewayId::parse(reader.text("gateway", MAX_TEXT_BYTES)?)?),
            (Some(VERDICT), 4) => self.outputs = Some(tensors::read(reader, MAX_TENSOR_BYTES)?),
            (Some(VERDICT), 5) => self.queue_us = Some(reader.u32("queue_us")?),
            (Some(VERDICT), 6) => self.model_us = Some(reader.u32("model_us")?),
            (Some(BUSY), 2) => self.retry_ms = Some(reader.u32("retry_ms")?),
            (Some(REFUSED), 2) => self.refusal = Some(Refusal::from_code(reader.u64("refusal")?)),
            (Some(REFUSED), 3) => self.message = Some(reader.text("message", MAX_TEXT_BYTES)?.to_owned()),
            _ => return Ok(Key::Unknown),
        }
        Ok(Key::Known)
    }

    fn reply(self) -> Result<Reply, DecodeError> {
        let kind = required(self.kind, REPLY, 0, "kind")?;
        let id = required(self.id, REPLY, 1, "id")?;
        match kind {
            VERDICT => Ok(Reply::Verdict(Verdict {
                id,
                cloud: required(self.cloud, "verdict", 2, "cloud")?,
                gateway: required(self.gateway, "verdict", 3, "gateway")?,
                outputs: required(self.outputs, "verdict", 4, "outputs")?,
                queue_us: required(self.queue_us, "verdict", 5, "queue_us")?,
                model_us: required(self.model_us, "verdict", 6, "model_us")?,
            })),
            BUSY => Ok(Reply::Busy { id, retry_ms: required(self.retry_ms, "busy", 2, "retry_ms")? }),
            _ => Ok(Reply::Refused {
                id,
                kind: required(self.refusal, "refused", 2, "kind")?,
                message: required(self.message, "refused", 3, "message")?,
            }),
        }
    }
}

fn known_kind(kind: u64) -> Result<u64, DecodeError> {
    match kind {
        VERDICT | BUSY | REFUSED => Ok(kind),
        code => Err(DecodeError::Unknown { what: "reply kind", code }),
    }
}

#[cfg(test)]
mod tests {
    use hedge_tensor::Tensor;

    use super::*;
    use crate::testing::{assert_hardened, from_hex, with_unknown_key};

    const ID: [u8; 16] = *b"0123456789abcdef";

    fn verdict() -> Reply {
        Reply::Verdict(Verdict {
            id: RequestId::from_bytes(ID),
            cloud: Digest([0xc1; 32]),
            gateway: GatewayId::parse("gw-1").unwrap(),
            outputs: vec![NamedTensor::new("logits", Tensor::from_slice(&[1, 2], &[1.0f32, -2.0]).unwrap())],
            queue_us: 40,
            model_us: 1500,
        })
    }

    fn busy() -> Reply {
        Reply::Busy { id: RequestId::from_bytes(ID), retry_ms: 200 }
    }

    fn refused(kind: Refusal) -> Reply {
        Reply::Refused { id: RequestId::from_bytes(ID), kind, message: "no".to_owned() }
    }

    /// The examples of docs/protocol.md.
    const VERDICT_GOLDEN: &str = "a7
        00 01
        01 50 30313233343536373839616263646566
        02 5820 c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1
        03 64 67772d31
        04 81 a4
            00 66 6c6f67697473
            01 0a
            02 82 01 02
            03 48 0000803f000000c0
        05 1828
        06 1905dc";
    const BUSY_GOLDEN: &str = "a3 00 02 01 50 30313233343536373839616263646566 02 18c8";
    const REFUSED_GOLDEN: &str = "a4 00 03 01 50 30313233343536373839616263646566 02 02 03 62 6e6f";

    #[test]
    fn every_reply_is_hardened_around_its_golden_bytes() {
        assert_hardened(&verdict(), VERDICT_GOLDEN, Reply::encode, Reply::decode_shared);
        assert_hardened(&busy(), BUSY_GOLDEN, Reply::encode, Reply::decode_shared);
        assert_hardened(&refused(Refusal::BadInput), REFUSED_GOLDEN, Reply::encode, Reply::decode_shared);
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        for reply in [verdict(), busy(), refused(Refusal::Expired)] {
            assert_eq!(Reply::decode_shared(&with_unknown_key(reply.encode())).unwrap(), reply);
        }
    }

    #[test]
    fn refusals_keep_their_codes_and_unknown_ones_read_as_internal() {
        for kind in [Refusal::UnknownModel, Refusal::BadInput, Refusal::Expired, Refusal::Internal] {
            assert_eq!(Reply::decode(&refused(kind).encode()).unwrap(), refused(kind));
        }
        let later = from_hex("a4 00 03 01 50 30313233343536373839616263646566 02 1863 03 62 6e6f");
        assert_eq!(Reply::decode(&later).unwrap(), refused(Refusal::Internal));
    }

    #[test]
    fn a_kind_that_is_unknown_or_not_first_is_refused() {
        let unknown = from_hex("a2 00 04 01 50 30313233343536373839616263646566");
        assert_eq!(Reply::decode(&unknown), Err(DecodeError::Unknown { what: "reply kind", code: 4 }));
        let late = from_hex("a2 01 50 30313233343536373839616263646566 00 02");
        assert!(matches!(Reply::decode(&late), Err(DecodeError::KeyOrder { .. })));
        let absent = from_hex("a1 01 50 30313233343536373839616263646566");
        assert!(matches!(Reply::decode(&absent), Err(DecodeError::Missing { key: 0, .. })));
    }

    #[test]
    fn long_messages_are_cut_by_the_sender_and_oversized_bodies_refused() {
        let long =
            Reply::Refused { id: RequestId::from_bytes(ID), kind: Refusal::Internal, message: "é".repeat(1000) };
        let Reply::Refused { message, .. } = Reply::decode(&long.encode()).unwrap() else { panic!() };
        assert_eq!(message, "é".repeat(MAX_TEXT_BYTES / 2));
        assert!(matches!(Reply::decode(&vec![0; MAX_REPLY_BYTES + 1]), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn every_kind_says_which_request_it_answers() {
        for reply in [verdict(), busy(), refused(Refusal::Internal)] {
            assert_eq!(reply.id(), RequestId::from_bytes(ID));
        }
    }
}
