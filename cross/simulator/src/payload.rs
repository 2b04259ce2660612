//! What is asked and what is answered, so that a mix-up shows: an input carries who asked what, and every output repeats it.
//!
//! ```text
//! identity: device (16 bits) | number (16) | variant (8) | traits (8) | size in bytes (16)
//! inputs    U8 [1, size]: the identity's 8 bytes, then noise made from it
//! outputs   U8 [1, 16]: the identity, then the number of the run that computed them
//! ```
//!
//! Traits are part of the data, as with real inputs: whether the small model is sure of it, whether a model chokes on it,
//! whether it kills the process.

use bytes::Bytes;
use hedge_agent_core::outbox::HasBytes;
use hedge_agent_core::{Reason, Status};
use hedge_tensor::{DType, NamedTensor, Tensor};
use hedge_wire::Digest;

/// Input of one request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Payload(pub(crate) u64);

/// What is peculiar about an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Trait {
    /// The small model is sure of it.
    Sure = 1,
    /// Executing it kills the process.
    KillsExecution = 2,
    /// Sending it kills the process.
    KillsSending = 4,
    /// The cloud's verdict on it does not fit.
    BadVerdict = 8,
    /// The cloud's model fails on it.
    CloudFails = 16,
    /// The cloud's model does not take it.
    CloudRefuses = 32,
    /// The local model fails on it.
    EdgeFails = 64,
}

/// Bytes of the smallest inputs.
const LEAST: usize = 16;

impl Payload {
    pub(crate) fn new(device: u16, number: u16, variant: u8, traits: u8, size: usize) -> Self {
        let size = u64::try_from(size.clamp(LEAST, usize::from(u16::MAX))).expect("16 bits");
        Self(
            u64::from(device) << 48
                | u64::from(number) << 32
                | u64::from(variant) << 24
                | u64::from(traits) << 16
                | size,
        )
    }

    /// The same with another variant: other bytes under the same id.
    pub(crate) fn other(self) -> Self {
        Self(self.0 ^ 0xff << 24)
    }

    pub(crate) fn has(self, which: Trait) -> bool {
        (self.0 >> 16) as u8 & which as u8 != 0
    }

    pub(crate) fn bytes(self) -> usize {
        usize::from(self.0 as u16)
    }

    /// Names the payload; a real one is hashed.
    pub(crate) fn digest(self) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&self.0.to_le_bytes());
        Digest(digest)
    }

    pub(crate) fn inputs(self) -> Vec<NamedTensor> {
        vec![NamedTensor::new("x", bytes_tensor(self.data()))]
    }

    /// Reads inputs back; `None` where a single byte is not as it was.
    pub(crate) fn read(inputs: &[NamedTensor]) -> Option<Self> {
        let [input] = inputs else { return None };
        let bytes = input.tensor.bytes();
        let payload = Self(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?));
        (payload.data() == bytes[..]).then_some(payload)
    }

    fn data(self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.bytes() + 8);
        data.extend(self.0.to_le_bytes());
        let mut word = self.0;
        while data.len() < self.bytes() {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            data.extend(scrambled(word).to_le_bytes());
        }
        data.truncate(self.bytes());
        data
    }
}

/// The number of one model run anywhere in the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RunId(pub(crate) u64);

/// Outputs that `run` computed of `payload`.
pub(crate) fn outputs(payload: Payload, run: RunId) -> Vec<NamedTensor> {
    let data = [payload.0.to_le_bytes(), run.0.to_le_bytes()].concat();
    vec![NamedTensor::new("y", bytes_tensor(data))]
}

/// Outputs of a model with another signature.
pub(crate) fn misfit() -> Vec<NamedTensor> {
    vec![NamedTensor::new("z", bytes_tensor(vec![0; 3]))]
}

/// What outputs say; `None` where they do not fit the model.
pub(crate) fn read_outputs(outputs: &[NamedTensor]) -> Option<(Payload, RunId)> {
    let [output] = outputs else { return None };
    let (payload, run) = output.tensor.bytes().split_at_checked(8)?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
    Some((Payload(word(payload)?), RunId(word(run)?)))
}

/// What a caller gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Given {
    /// An answer.
    Answer {
        /// To what.
        payload: Payload,
        /// Who computed it.
        run: RunId,
        /// What it is worth.
        status: Status,
        /// Why.
        reason: Reason,
    },
    /// A failure.
    Failed,
}

impl HasBytes for Given {
    fn bytes(&self) -> u64 {
        match self {
            Given::Answer { .. } => 64,
            Given::Failed => 8,
        }
    }
}

fn bytes_tensor(data: Vec<u8>) -> Tensor {
    Tensor::new(DType::U8, vec![1, data.len()], Bytes::from(data)).expect("a byte for each element")
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014): noise that does not compress.
pub(crate) fn scrambled(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_of_an_input_shows() {
        let payload = Payload::new(7, 3, 1, Trait::Sure as u8 | Trait::BadVerdict as u8, 1000);
        assert!(payload.has(Trait::Sure) && payload.has(Trait::BadVerdict) && !payload.has(Trait::EdgeFails));
        assert_eq!(payload.bytes(), 1000);
        assert_eq!(Payload::read(&payload.inputs()), Some(payload));
        let mut data = payload.data();
        data[999] ^= 1;
        assert_eq!(Payload::read(&[NamedTensor::new("x", bytes_tensor(data))]), None);
        assert_ne!(payload.other().digest(), payload.digest());
        assert_eq!(payload.other().bytes(), payload.bytes());
    }

    #[test]
    fn outputs_say_what_they_are_about() {
        let payload = Payload::new(1, 2, 3, 0, 20);
        assert_eq!(read_outputs(&outputs(payload, RunId(9))), Some((payload, RunId(9))));
        assert_eq!(read_outputs(&misfit()), None);
    }
}
