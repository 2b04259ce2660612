//! Bodies too large for one message: a device offers one on `q/`, a gateway grants it on `r/`, and the parts go to that gateway
//! alone on `u/{gateway}/{device}` (on a shared subscription they would scatter).
//!
//! ```text
//! device                                   gateway
//!   q/{model}/{device}   offer   ────────>           room for it?
//!                        grant   <────────           r/{device}: who grants, which parts it has already
//!   u/{gateway}/{device} part 0  ────────>
//!   u/{gateway}/{device} part 1  ────────>  …        when all are there: size, digest, then the query that they make
//!                        verdict <────────           r/{device}
//!
//! offer {0: id (16 bytes), 1: model (text), 2: edge digest (32 bytes), 3: attempt (uint8), 4: deadline_ms (uint32),
//!        5: boot (uint64), ?7: purpose (uint), 8: {0: size (uint32), 1: part_bytes (uint32), 2: digest (32 bytes)}}
//! grant {0: 4, 1: id (16 bytes), 2: gateway (text), 3: held (bytes: part i is bit i % 8 of byte i / 8)}
//! part  {0: id (16 bytes), 1: index (uint32), 2: crc32c (uint32), 3: data (bytes)}
//! ```
//!
//! What the parts make is the body of a [`Query`] under larger caps; the digest is SHA-256 of that body. All parts but the last
//! have `part_bytes` bytes. An offer has the keys of a query except 6 (inputs), so a gateway that knows no offers refuses it as
//! a query without inputs, and the device answers by itself.

use bytes::Bytes;

use crate::cbor::{self, Key, Reader, required};
use crate::error::{DecodeError, EncodeError};
use crate::ids::{BootId, Digest, GatewayId, ModelId, RequestId};
use crate::limits::{MAX_PART_BYTES, MAX_REPLY_BYTES, MAX_TEXT_BYTES, MAX_UPLOAD_BYTES, MIN_PART_BYTES};
use crate::query::{Fields, ONE_MESSAGE, Purpose, Query};

pub(crate) const OFFER: &str = "offer";
const GRANT: &str = "grant";
const PART: &str = "part";

/// The kind of a grant among replies.
const GRANT_KIND: u64 = 4;

/// Bytes of a part's message beside its data: map, keys, id, index, checksum and the header of the data.
const PART_OVERHEAD: usize = 48;

/// What comes on `q/{model}/{device}`.
#[derive(Clone, PartialEq, Debug)]
pub enum Ask {
    /// A whole query.
    Query(Query),
    /// The offer of one that is too large for a message.
    Offer(Offer),
}

/// A device has a query of this size; may it send it?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Names the request; a retry has the same.
    pub id: RequestId,
    /// The cloud model asked.
    pub model: ModelId,
    /// The edge model that the device runs.
    pub edge: Digest,
    /// 0 for the first try, 1 for a retry.
    pub attempt: u8,
    /// How long the device still waits for the verdict, from the moment of sending.
    pub deadline_ms: u32,
    /// The device's run.
    pub boot: BootId,
    /// Who waits for the verdict.
    pub purpose: Purpose,
    /// What would come.
    pub body: BodyPlan,
}

/// A body and how it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyPlan {
    size: u32,
    part_bytes: u32,
    digest: Digest,
}

/// A gateway has room: send it the parts that it does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Which request.
    pub id: RequestId,
    /// Who takes the parts.
    pub gateway: GatewayId,
    /// What it has already, from before a connection broke.
    pub held: PartSet,
}

/// A piece of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which request.
    pub id: RequestId,
    /// Which piece, from 0.
    pub index: u32,
    /// Its bytes, whose checksum was right where the part was decoded.
    pub data: Bytes,
}

/// Some of the parts of a body.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartSet {
    /// Part i is bit i % 8 of byte i / 8; no zero bytes at the end.
    bits: Vec<u8>,
}

impl BodyPlan {
    /// How `body` is cut into parts of `part_bytes`.
    ///
    /// # Errors
    ///
    /// It is larger than any receiver would take, or the parts are smaller or larger than allowed.
    pub fn of(body: &[u8], part_bytes: usize) -> Result<Self, EncodeError> {
        if body.len() > MAX_UPLOAD_BYTES {
            return Err(EncodeError::TooLarge { message: OFFER, limit: MAX_UPLOAD_BYTES, size: body.len() });
        }
        let part_bytes = u32::try_from(part_bytes.clamp(MIN_PART_BYTES, MAX_PART_BYTES)).expect("at most 64 KiB");
        let size = u32::try_from(body.len()).expect("the cap is below 4 GiB");
        Ok(Self { size, part_bytes, digest: Digest::of(body) })
    }

    /// Bytes of the whole body.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// How many parts there are.
    pub fn parts(&self) -> u32 {
        self.size.div_ceil(self.part_bytes)
    }

    /// Where a part stands in the body; `None` where there is no such part.
    pub fn range(&self, index: u32) -> Option<std::ops::Range<usize>> {
        let start = index.checked_mul(self.part_bytes).filter(|&start| start < self.size)?;
        let end = self.size.min(start.saturating_add(self.part_bytes));
        Some(start as usize..end as usize)
    }

    /// Whether this is the body that was offered.
    pub fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.size() && Digest::of(body) == self.digest
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut size, mut part_bytes, mut digest) = (None, None, None);
        reader.map("offered body", |reader, key| {
            match key {
                0 => size = Some(reader.u32("size of the offered body")?),
                1 => part_bytes = Some(reader.u32("bytes of a part")?),
                2 => digest = Some(Digest(reader.fixed("digest of the offered body")?)),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        let size = required(size, "offered body", 0, "size")?;
        let part_bytes = required(part_bytes, "offered body", 1, "part_bytes")?;
        within("size of the offered body", size, 1, MAX_UPLOAD_BYTES, "1 to 8392704")?;
        within("bytes of a part", part_bytes, MIN_PART_BYTES, MAX_PART_BYTES, "4096 to 65536")?;
        Ok(Self { size, part_bytes, digest: required(digest, "offered body", 2, "digest")? })
    }
}

fn within(field: &'static str, value: u32, min: usize, max: usize, expected: &'static str) -> Result<(), DecodeError> {
    match (min..=max).contains(&(value as usize)) {
        true => Ok(()),
        false => Err(DecodeError::Range { field, expected, value: value.to_string() }),
    }
}

impl Ask {
    /// Reads a body; the inputs of a query share its memory.
    pub fn decode_shared(body: &Bytes) -> Result<Self, DecodeError> {
        Fields::read(body, ONE_MESSAGE)?.ask()
    }
}

impl Offer {
    /// The offer of `query`, whose body is `body`.
    pub fn of(query: &Query, body: BodyPlan) -> Self {
        Self {
            id: query.id,
            model: query.model.clone(),
            edge: query.edge,
            attempt: query.attempt,
            deadline_ms: query.deadline_ms,
            boot: query.boot,
            purpose: query.purpose,
            body,
        }
    }

    /// The body of the message on `q/`.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(192, |writer| {
            let audit = self.purpose != Purpose::Answer;
            writer.map(if audit { 8 } else { 7 })?;
            writer.u8(0)?.bytes(self.id.as_bytes())?;
            writer.u8(1)?.str(self.model.as_str())?;
            writer.u8(2)?.bytes(self.edge.as_bytes())?;
            writer.u8(3)?.u8(self.attempt)?;
            writer.u8(4)?.u32(self.deadline_ms)?;
            writer.u8(5)?.u64(self.boot.0)?;
            if audit {
                writer.u8(7)?.u64(self.purpose.code())?;
            }
            writer.u8(8)?.map(3)?;
            writer.u8(0)?.u32(self.body.size)?;
            writer.u8(1)?.u32(self.body.part_bytes)?;
            writer.u8(2)?.bytes(self.body.digest.as_bytes())?.ok()
        })
    }
}

impl Grant {
    /// The body of the message on `r/`.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(96 + self.held.bits.len(), |writer| {
            writer.map(4)?.u8(0)?.u64(GRANT_KIND)?;
            writer.u8(1)?.bytes(self.id.as_bytes())?;
            writer.u8(2)?.str(self.gateway.as_str())?;
            writer.u8(3)?.bytes(&self.held.bits)?.ok()
        })
    }

    /// Reads the body of a message on `r/`, where it is a grant; `None`: it may be a [`crate::Reply`].
    pub fn decode(body: &Bytes) -> Option<Result<Self, DecodeError>> {
        match Self::read(body) {
            Err(DecodeError::Unknown { .. }) => None,
            read => Some(read),
        }
    }

    fn read(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(GRANT, body, MAX_REPLY_BYTES)?;
        let (mut kind, mut id, mut gateway, mut held) = (None, None, None, None);
        reader.map(GRANT, |reader, key| {
            match (kind, key) {
                (None, 0) => kind = Some(granted(reader.u64("reply kind")?)?),
                (Some(()), 1) => id = Some(RequestId::from_bytes(reader.fixed("request id")?)),
                (Some(()), 2) => gateway = Some(GatewayId::parse(reader.text("gateway", MAX_TEXT_BYTES)?)?),
                (Some(()), 3) => held = Some(PartSet::from_bits(&reader.bytes("parts held")?)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(GRANT)?;
        required(kind, GRANT, 0, "kind")?;
        Ok(Grant {
            id: required(id, GRANT, 1, "id")?,
            gateway: required(gateway, GRANT, 2, "gateway")?,
            held: required(held, GRANT, 3, "held")?,
        })
    }
}

fn granted(kind: u64) -> Result<(), DecodeError> {
    match kind {
        GRANT_KIND => Ok(()),
        code => Err(DecodeError::Unknown { what: "reply kind", code }),
    }
}

impl Part {
    /// Cuts a part out of `body`, without a copy; `None` where there is no such part.
    pub fn cut(id: RequestId, plan: &BodyPlan, body: &Bytes, index: u32) -> Option<Self> {
        let range = plan.range(index).filter(|range| range.end <= body.len())?;
        Some(Part { id, index, data: body.slice(range) })
    }

    /// The body of the message on `u/`.
    pub fn encode(&self) -> Vec<u8> {
        cbor::write(PART_OVERHEAD + self.data.len(), |writer| {
            writer.map(4)?;
            writer.u8(0)?.bytes(self.id.as_bytes())?;
            writer.u8(1)?.u32(self.index)?;
            writer.u8(2)?.u32(crc32c::crc32c(&self.data))?;
            writer.u8(3)?.bytes(&self.data)?.ok()
        })
    }

    /// Reads a body; the data share its memory.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(PART, body, MAX_PART_BYTES + PART_OVERHEAD)?;
        let (mut id, mut index, mut crc, mut data) = (None, None, None, None);
        reader.map(PART, |reader, key| {
            match key {
                0 => id = Some(RequestId::from_bytes(reader.fixed("request id")?)),
                1 => index = Some(reader.u32("part index")?),
                2 => crc = Some(reader.u32("part checksum")?),
                3 => data = Some(reader.bytes("part data")?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(PART)?;
        let (id, index) = (required(id, PART, 0, "id")?, required(index, PART, 1, "index")?);
        let (crc, data) = (required(crc, PART, 2, "crc32c")?, required(data, PART, 3, "data")?);
        match crc32c::crc32c(&data) == crc {
            true => Ok(Part { id, index, data }),
            false => Err(DecodeError::Checksum { message: PART }),
        }
    }
}

impl PartSet {
    /// Whether `index` is in it.
    pub fn contains(&self, index: u32) -> bool {
        self.bits.get(index as usize / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Adds `index`; false if it was in it. The caller has checked that there is such a part.
    pub fn insert(&mut self, index: u32) -> bool {
        let byte = index as usize / 8;
        if byte >= self.bits.len() {
            self.bits.resize(byte + 1, 0);
        }
        let new = !self.contains(index);
        self.bits[byte] |= 1 << (index % 8);
        new
    }

    /// How many are in it.
    pub fn len(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    fn from_bits(bits: &[u8]) -> Result<Self, DecodeError> {
        let limit = MAX_UPLOAD_BYTES.div_ceil(MIN_PART_BYTES).div_ceil(8);
        if bits.len() > limit {
            return Err(DecodeError::OverLimit { what: "parts held", limit: limit as u64, actual: bits.len() as u64 });
        }
        let used = bits.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok(Self { bits: bits[..used].to_vec() })
    }
}

#[cfg(test)]
mod tests;
