//! The bytes that the agent gives to the outbox's store: of a row that was handed in ([`Request`]) and of its end ([`End`]).
//!
//! ```text
//! offset  size  a record
//!      0     1  version = 1
//!      1     4  length of the head, little-endian
//!      5        the head, CBOR: what the record says, and of each tensor its name, dtype and shape
//!               the tensors' elements, one tensor behind the other
//! ```
//!
//! The store has checksums over them. Bytes that are sound and cannot be read are of another version.

use bytes::Bytes;
use hedge_agent_core::{Failure, Outputs, Place};
use hedge_tensor::{DType, NamedTensor, Tensor, element_count};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::answered::{Answered, Label};
use crate::api::{ApiError, OutputWish};

const VERSION: u8 = 1;
const HEAD_AT: usize = 5;

/// What a row's request and its end have in common: what it takes to make the response.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    /// The request's id.
    pub(crate) id: String,
    /// The model asked.
    pub(crate) model: String,
    /// Which row of the request this is, and how many there are.
    pub(crate) row: u32,
    pub(crate) rows: u32,
    /// The outputs asked for; all of the model's when none are named.
    pub(crate) outputs: Option<Vec<OutputWish>>,
    pub(crate) binary_outputs: bool,
}

/// A row that was handed in.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Request {
    pub(crate) about: About,
    pub(crate) place: Place,
    pub(crate) inputs: Vec<NamedTensor>,
}

/// A row's end.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct End {
    pub(crate) about: About,
    pub(crate) outcome: Result<Answered, Failed>,
}

/// Why a row has no answer, as its response says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failed {
    /// The HTTP status.
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        let ApiError { status, message, .. } = ApiError::from_failure(failure, None);
        Self { status: status.as_u16(), message }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestHead {
    about: About,
    /// 0 auto, 1 edge, 2 cloud.
    place: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndHead {
    about: About,
    answered: Option<Label>,
    failed: Option<Failed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<H> {
    head: H,
    tensors: Vec<TensorHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorHead {
    name: String,
    dtype: u8,
    shape: Vec<usize>,
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let place = match self.place {
            Place::Auto => 0,
            Place::Edge => 1,
            Place::Cloud => 2,
        };
        encode(RequestHead { about: self.about.clone(), place }, &self.inputs)
    }

    /// `None` for what is none.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let (RequestHead { about, place }, inputs) = decode(bytes)?;
        let place = match place {
            0 => Place::Auto,
            1 => Place::Edge,
            2 => Place::Cloud,
            _ => return None,
        };
        Some(Self { about, place, inputs })
    }
}

impl End {
    pub(crate) fn encode(&self) -> Bytes {
        let about = self.about.clone();
        match &self.outcome {
            Ok(Answered { outputs, label }) => {
                encode(EndHead { about, answered: Some(label.clone()), failed: None }, outputs)
            }
            Err(failed) => encode(EndHead { about, answered: None, failed: Some(failed.clone()) }, &[]),
        }
    }

    /// `None` for what is none.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let (EndHead { about, answered, failed }, outputs): (_, Outputs) = decode(bytes)?;
        let outcome = match (answered, failed) {
            (Some(label), None) => Ok(Answered { outputs, label }),
            (None, Some(failed)) => Err(failed),
            _ => return None,
        };
        Some(Self { about, outcome })
    }
}

fn encode<H: Serialize>(head: H, tensors: &[NamedTensor]) -> Bytes {
    let described = tensors.iter().map(|named| TensorHead {
        name: named.name.clone(),
        dtype: named.tensor.dtype().wire_code(),
        shape: named.tensor.shape().to_vec(),
    });
    let head = Head { head, tensors: described.collect() };
    let head = minicbor_serde::to_vec(head).expect("texts and numbers have a CBOR form");
    let data: usize = tensors.iter().map(|named| named.tensor.bytes().len()).sum();
    let mut out = Vec::with_capacity(HEAD_AT + head.len() + data);
    out.push(VERSION);
    out.extend_from_slice(&u32::try_from(head.len()).expect("a head is a few names").to_le_bytes());
    out.extend_from_slice(&head);
    tensors.iter().for_each(|named| out.extend_from_slice(named.tensor.bytes()));
    out.into()
}

/// The tensors share the memory of `bytes`.
fn decode<H: DeserializeOwned>(bytes: &Bytes) -> Option<(H, Vec<NamedTensor>)> {
    let (&version, rest) = bytes.split_first()?;
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let head_end = HEAD_AT.checked_add(length).filter(|&end| version == VERSION && end <= bytes.len())?;
    let Head { head, tensors } = minicbor_serde::from_slice(&bytes[HEAD_AT..head_end]).ok()?;
    let mut data = bytes.slice(head_end..);
    let read = tensors.into_iter().map(|TensorHead { name, dtype, shape }| {
        let dtype = DType::from_wire_code(dtype)?;
        let size = element_count(&shape)?.checked_mul(dtype.size_bytes()).filter(|&size| size <= data.len())?;
        Some(NamedTensor::new(name, Tensor::new(dtype, shape, data.split_to(size)).ok()?))
    });
    let tensors = read.collect::<Option<Vec<_>>>()?;
    data.is_empty().then_some((head, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_agent_core::{Reason, Source, Status};

    fn about() -> About {
        let outputs = Some(vec![OutputWish { name: "y".into(), binary: true }]);
        About { id: "7".into(), model: "m".into(), row: 1, rows: 2, outputs, binary_outputs: false }
    }

    fn request() -> Request {
        let inputs = vec![
            NamedTensor::new("a", Tensor::from_slice(&[1, 2], &[1_u8, 2]).unwrap()),
            NamedTensor::new("b", Tensor::scalar(1.0_f32)),
        ];
        Request { about: about(), place: Place::Cloud, inputs }
    }

    fn answered() -> End {
        let label = Label {
            source: Source::Cloud,
            status: Status::Cloud,
            reason: Reason::BelowThreshold,
            confidence: Some(0.5),
            model: "sha256:00".into(),
            device: "gateway g".into(),
            version: "1".into(),
        };
        let outputs = vec![NamedTensor::new("y", Tensor::from_slice(&[1, 2], &[3_i64, -4]).unwrap())];
        End { about: about(), outcome: Ok(Answered { outputs, label }) }
    }

    fn failed() -> End {
        End { about: about(), outcome: Err(Failed { status: 503, message: "no cloud".into() }) }
    }

    #[test]
    fn a_row_and_its_end_survive_the_disk() {
        assert_eq!(Request::decode(&request().encode()), Some(request()));
        for end in [answered(), failed()] {
            assert_eq!(End::decode(&end.encode()), Some(end));
        }
        assert_eq!(request().encode(), request().encode(), "a retry has the same digest");
    }

    /// What lies on the disks of devices is read by later versions.
    #[test]
    fn the_bytes_are_these() {
        let bare = About { outputs: None, ..about() };
        let inputs = vec![NamedTensor::new("a", Tensor::from_slice(&[1, 2], &[1_u8, 2]).unwrap())];
        let bytes = Request { about: bare, place: Place::Edge, inputs }.encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                // Version 1, a head of 103 bytes.
                "0167000000",
                // {"head": {"about": {"id": "7", "model": "m", "row": 1, "rows": 2, "outputs": null, "binary_outputs": false},
                "a26468656164a26561626f7574a66269646137656d6f64656c616d63726f770164726f777302676f757470757473f6",
                //  "place": 1}, "tensors": [{"name": "a", "dtype": 1, "shape": [1, 2]}]}, and 1, 2.
                "6e62696e6172795f6f757470757473f465706c616365016774656e736f727381a3646e616d656161656474797065016573",
                "686170658201020102"
            )
        );
    }

    #[test]
    fn bytes_that_are_cut_longer_or_of_another_version_are_no_record() {
        let whole = request().encode();
        for length in 0..whole.len() {
            assert_eq!(Request::decode(&whole.slice(..length)), None, "{length} bytes");
        }
        assert_eq!(Request::decode(&[whole.as_ref(), &[0]].concat().into()), None);
        assert_eq!(Request::decode(&[&[2], &whole[1..]].concat().into()), None);
        assert_eq!(End::decode(&whole), None);
    }

    #[test]
    fn a_flipped_bit_is_another_record_or_none_and_never_a_panic() {
        for end in [answered().encode(), failed().encode()] {
            for bit in 0..end.len() * 8 {
                let mut flipped = end.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(End::decode(&flipped.into()), End::decode(&end), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_shape_that_is_larger_than_the_data_is_refused_before_anything_is_made_of_it() {
        let head = Head {
            head: RequestHead { about: about(), place: 0 },
            tensors: vec![TensorHead { name: "a".into(), dtype: 1, shape: vec![usize::MAX / 4, 2] }],
        };
        let head = minicbor_serde::to_vec(head).unwrap();
        let bytes = [&[VERSION][..], &(head.len() as u32).to_le_bytes(), &head, &[0; 8]].concat();
        assert_eq!(Request::decode(&bytes.into()), None);
    }
}
