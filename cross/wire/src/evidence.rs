//! What a device has found out about its edge model, on `f/{device}`: audits, the scores it saw, labels.
//!
//! ```text
//! {0: boot (uint64), 1: seq (uint64), 2: subject, 3: contract (uint), 4: alpha (float64), 5: class_version (uint64),
//!  ?6: certificate (32 bytes), 7: audits [{0: score (float32), 1: differs (bool), 2: propensity (float32)}, …],
//!  8: histogram [uint32, …], 9: labels [label, …], ?10: offloaded (uint32)}
//!
//! subject {0: model (text), 1: edge digest (32 bytes), 2: cloud digest (32 bytes), 3: class (text),
//!          4: transforms (32 bytes), 5: comparison (text)}
//! label   {0: role (uint), 1: differs (bool), 2: margin, 3: msp, 4: entropy (float32), 5: predicted class (uint32),
//!          6: top [float32 × 5]}
//! ```
//!
//! The device is not in the body: the topic says who it is. Boot and sequence number name a message for good, so that one
//! which comes twice counts once. Outputs are compared on the device, which has both; only `differs` travels.

use bytes::Bytes;

use crate::cbor::{self, Key, Reader, Writer, required};
use crate::error::{DecodeError, EncodeError};
use crate::ids::{BootId, Digest, GroupId, Hash16, ModelId};
use crate::limits::{MAX_AUDITS, MAX_BINS, MAX_EVIDENCE_BYTES, MAX_LABELS, MAX_SUBJECT_TEXT_BYTES, MAX_TEXT_BYTES};

type WriteResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

const EVIDENCE: &str = "evidence";
const SUBJECT: &str = "route subject";
const AUDIT: &str = "audit";
const LABEL: &str = "label";

/// How many logits a label carries: those after the largest.
const TOP: usize = 5;

/// Evidence of one device since its message before.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// The device's run.
    pub boot: BootId,
    /// Counts this run's messages; none has another's number.
    pub seq: u64,
    /// What the evidence is about.
    pub subject: RouteSubject,
    /// Which risk the audits measure.
    pub contract: Contract,
    /// The bound that the device's certificates promise, 0..1.
    pub alpha: f64,
    /// The version of the class state that the device had when all of this came about; 0: none yet.
    pub class_version: u64,
    /// The certificate in force, by its id (SHA-256); audits and scores without one prove nothing.
    pub certificate: Option<Digest>,
    /// Verdicts on answers that were already given, in order; at most [`MAX_AUDITS`].
    pub audits: Vec<AuditLabel>,
    /// How many scores fell into each bin of the certificate's grid, from the highest: at or above the first threshold,
    /// between the first and the second, …, below the last (or no number). Empty where there is no certificate.
    pub histogram: Vec<u32>,
    /// Labels for the next certificate, in order; at most [`MAX_LABELS`].
    pub labels: Vec<RouteLabel>,
    /// Under the system contract, how many offloaded requests the audit coin chose: they enter as agreement, without an
    /// entry in `audits`. Sent only where it is not 0.
    pub offloaded: u32,
}

/// Between whom, and how compared, outputs may differ: evidence of two different ones does not mix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouteSubject {
    /// The cloud model's id.
    pub model: ModelId,
    /// The edge model.
    pub edge: Digest,
    /// The cloud model whose verdicts these are.
    pub cloud: Digest,
    /// The device's class: devices whose edge models see like data and compute alike.
    pub class: GroupId,
    /// The input transforms, by the SHA-256 of their description.
    pub transforms: Digest,
    /// When two outputs differ, as the bundle names it; at most [`MAX_SUBJECT_TEXT_BYTES`].
    pub comparison: String,
}

/// Of which requests a certificate bounds the share whose local answer differs from the cloud's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Contract {
    /// Of all.
    System,
    /// Of those that were answered locally.
    Local,
}

/// A verdict on an answer that was already given.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AuditLabel {
    /// The edge model's score of the request.
    pub score: f32,
    /// Whether a local answer was given that differs from the cloud's.
    pub differs: bool,
    /// With which probability the request was audited, above 0 and at most 1.
    pub propensity: f32,
}

/// A request whose both answers are known, for the next certificate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RouteLabel {
    /// What it is for; thrown before the answers were known.
    pub role: SplitRole,
    /// Whether the edge model's output differs from the cloud's.
    pub differs: bool,
    /// What the edge model's output looks like.
    pub features: LabelFeatures,
}

/// What a label is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SplitRole {
    /// The agreement head is fitted on it.
    Fit,
    /// Score and grid are chosen on it.
    Tune,
    /// The certificate is computed from it.
    Calibration,
}

/// What scores are computed from. A model that gives no numbers has NaN in them; such labels count as well.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LabelFeatures {
    /// The margin between the two largest probabilities.
    pub margin: f32,
    /// The largest probability.
    pub msp: f32,
    /// The entropy of the probabilities, in nats.
    pub entropy: f32,
    /// The predicted class.
    pub class: u32,
    /// The second to the sixth largest logit, descending, relative to the largest.
    pub top: [f32; TOP],
}

impl Evidence {
    /// The body. [`Evidence::encode_checked`] also says whether it may be sent.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = 320 + 16 * self.audits.len() + 5 * self.histogram.len() + 64 * self.labels.len();
        cbor::write(capacity, |writer| {
            writer.map(9 + u64::from(self.certificate.is_some()) + u64::from(self.offloaded > 0))?;
            writer.u8(0)?.u64(self.boot.0)?;
            writer.u8(1)?.u64(self.seq)?;
            writer.u8(2)?;
            self.subject.write(writer)?;
            writer.u8(3)?.u64(self.contract.code())?;
            writer.u8(4)?.f64(self.alpha)?;
            writer.u8(5)?.u64(self.class_version)?;
            if let Some(certificate) = &self.certificate {
                writer.u8(6)?.bytes(certificate.as_bytes())?;
            }
            writer.u8(7)?.array(self.audits.len() as u64)?;
            self.audits.iter().try_for_each(|audit| audit.write(writer))?;
            writer.u8(8)?.array(self.histogram.len() as u64)?;
            self.histogram.iter().try_for_each(|&count| writer.u32(count)?.ok())?;
            writer.u8(9)?.array(self.labels.len() as u64)?;
            self.labels.iter().try_for_each(|label| label.write(writer))?;
            match self.offloaded {
                0 => Ok(()),
                offloaded => writer.u8(10)?.u32(offloaded)?.ok(),
            }
        })
    }

    /// The body, where any receiver would take it.
    pub fn encode_checked(&self) -> Result<Vec<u8>, EncodeError> {
        let within = |what, limit, actual| match actual <= limit {
            true => Ok(()),
            false => Err(EncodeError::OverLimit { what, limit, actual }),
        };
        within("number of audits", MAX_AUDITS, self.audits.len())?;
        within("number of bins", MAX_BINS, self.histogram.len())?;
        within("number of labels", MAX_LABELS, self.labels.len())?;
        within("length of the comparison", MAX_SUBJECT_TEXT_BYTES, self.subject.comparison.len())?;
        let body = self.encode();
        match body.len() <= MAX_EVIDENCE_BYTES {
            true => Ok(body),
            false => Err(EncodeError::TooLarge { message: EVIDENCE, limit: MAX_EVIDENCE_BYTES, size: body.len() }),
        }
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_shared(&Bytes::copy_from_slice(body))
    }

    /// Reads a body without copying it first.
    pub fn decode_shared(body: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(EVIDENCE, body, MAX_EVIDENCE_BYTES)?;
        let (mut boot, mut seq, mut subject, mut contract, mut alpha) = (None, None, None, None, None);
        let (mut class_version, mut certificate, mut audits, mut histogram, mut labels, mut offloaded) =
            (None, None, None, None, None, None);
        reader.map(EVIDENCE, |reader, key| {
            match key {
                0 => boot = Some(BootId(reader.u64("boot")?)),
                1 => seq = Some(reader.u64("seq")?),
                2 => subject = Some(RouteSubject::read(reader)?),
                3 => contract = Some(Contract::from_code(reader.u64("contract")?)?),
                4 => alpha = Some(read_alpha(reader)?),
                5 => class_version = Some(reader.u64("class_version")?),
                6 => certificate = Some(Digest(reader.fixed("certificate id")?)),
                7 => audits = Some(reader.array("number of audits", MAX_AUDITS, AuditLabel::read)?),
                8 => histogram = Some(reader.array("number of bins", MAX_BINS, |reader| reader.u32("histogram"))?),
                9 => labels = Some(reader.array("number of labels", MAX_LABELS, RouteLabel::read)?),
                10 => offloaded = Some(reader.u32("offloaded")?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        reader.finish(EVIDENCE)?;
        Ok(Evidence {
            boot: required(boot, EVIDENCE, 0, "boot")?,
            seq: required(seq, EVIDENCE, 1, "seq")?,
            subject: required(subject, EVIDENCE, 2, "subject")?,
            contract: required(contract, EVIDENCE, 3, "contract")?,
            alpha: required(alpha, EVIDENCE, 4, "alpha")?,
            class_version: required(class_version, EVIDENCE, 5, "class_version")?,
            certificate,
            audits: required(audits, EVIDENCE, 7, "audits")?,
            histogram: required(histogram, EVIDENCE, 8, "histogram")?,
            labels: required(labels, EVIDENCE, 9, "labels")?,
            offloaded: offloaded.unwrap_or_default(),
        })
    }
}

impl RouteSubject {
    /// The level by which its class state's topic tells it from others of the class: 64-bit FNV-1a over its encoding. Names,
    /// does not prove: a reader compares the subject in the body.
    pub fn hash(&self) -> Hash16 {
        let bytes = cbor::write(256, |writer| self.write(writer));
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Hash16(hash.to_be_bytes())
    }

    pub(crate) fn write(&self, writer: &mut Writer) -> WriteResult {
        writer.map(6)?;
        writer.u8(0)?.str(self.model.as_str())?;
        writer.u8(1)?.bytes(self.edge.as_bytes())?;
        writer.u8(2)?.bytes(self.cloud.as_bytes())?;
        writer.u8(3)?.str(self.class.as_str())?;
        writer.u8(4)?.bytes(self.transforms.as_bytes())?;
        writer.u8(5)?.str(&self.comparison)?.ok()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut model, mut edge, mut cloud, mut class, mut transforms, mut comparison) =
            (None, None, None, None, None, None);
        reader.map(SUBJECT, |reader, key| {
            match key {
                0 => model = Some(ModelId::parse(reader.text("model", MAX_TEXT_BYTES)?)?),
                1 => edge = Some(Digest(reader.fixed("edge digest")?)),
                2 => cloud = Some(Digest(reader.fixed("cloud digest")?)),
                3 => class = Some(GroupId::parse(reader.text("class", MAX_TEXT_BYTES)?)?),
                4 => transforms = Some(Digest(reader.fixed("transforms digest")?)),
                5 => comparison = Some(reader.text("comparison", MAX_SUBJECT_TEXT_BYTES)?.to_owned()),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        Ok(RouteSubject {
            model: required(model, SUBJECT, 0, "model")?,
            edge: required(edge, SUBJECT, 1, "edge")?,
            cloud: required(cloud, SUBJECT, 2, "cloud")?,
            class: required(class, SUBJECT, 3, "class")?,
            transforms: required(transforms, SUBJECT, 4, "transforms")?,
            comparison: required(comparison, SUBJECT, 5, "comparison")?,
        })
    }
}

impl Contract {
    fn code(self) -> u64 {
        match self {
            Contract::System => 0,
            Contract::Local => 1,
        }
    }

    fn from_code(code: u64) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Contract::System),
            1 => Ok(Contract::Local),
            _ => Err(DecodeError::Unknown { what: "contract", code }),
        }
    }
}

impl SplitRole {
    fn code(self) -> u64 {
        match self {
            SplitRole::Fit => 0,
            SplitRole::Tune => 1,
            SplitRole::Calibration => 2,
        }
    }

    fn from_code(code: u64) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(SplitRole::Fit),
            1 => Ok(SplitRole::Tune),
            2 => Ok(SplitRole::Calibration),
            _ => Err(DecodeError::Unknown { what: "role of a label", code }),
        }
    }
}

impl AuditLabel {
    fn write(&self, writer: &mut Writer) -> WriteResult {
        writer.map(3)?.u8(0)?.f32(self.score)?.u8(1)?.bool(self.differs)?.u8(2)?.f32(self.propensity)?.ok()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut score, mut differs, mut propensity) = (None, None, None);
        reader.map(AUDIT, |reader, key| {
            match key {
                0 => score = Some(reader.f32("score")?),
                1 => differs = Some(reader.bool("differs")?),
                2 => propensity = Some(read_propensity(reader)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        Ok(AuditLabel {
            score: required(score, AUDIT, 0, "score")?,
            differs: required(differs, AUDIT, 1, "differs")?,
            propensity: required(propensity, AUDIT, 2, "propensity")?,
        })
    }
}

impl RouteLabel {
    fn write(&self, writer: &mut Writer) -> WriteResult {
        let LabelFeatures { margin, msp, entropy, class, top } = &self.features;
        writer.map(7)?;
        writer.u8(0)?.u64(self.role.code())?.u8(1)?.bool(self.differs)?;
        writer.u8(2)?.f32(*margin)?.u8(3)?.f32(*msp)?.u8(4)?.f32(*entropy)?.u8(5)?.u32(*class)?;
        writer.u8(6)?.array(TOP as u64)?;
        top.iter().try_for_each(|&logit| writer.f32(logit)?.ok())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut role, mut differs, mut margin, mut msp, mut entropy, mut class, mut top) =
            (None, None, None, None, None, None, None);
        reader.map(LABEL, |reader, key| {
            match key {
                0 => role = Some(SplitRole::from_code(reader.u64("role")?)?),
                1 => differs = Some(reader.bool("differs")?),
                2 => margin = Some(reader.f32("margin")?),
                3 => msp = Some(reader.f32("msp")?),
                4 => entropy = Some(reader.f32("entropy")?),
                5 => class = Some(reader.u32("predicted class")?),
                6 => top = Some(read_top(reader)?),
                _ => return Ok(Key::Unknown),
            }
            Ok(Key::Known)
        })?;
        Ok(RouteLabel {
            role: required(role, LABEL, 0, "role")?,
            differs: required(differs, LABEL, 1, "differs")?,
            features: LabelFeatures {
                margin: required(margin, LABEL, 2, "margin")?,
                msp: required(msp, LABEL, 3, "msp")?,
                entropy: required(entropy, LABEL, 4, "entropy")?,
                class: required(class, LABEL, 5, "class")?,
                top: required(top, LABEL, 6, "top")?,
            },
        })
    }
}

fn read_alpha(reader: &mut Reader<'_>) -> Result<f64, DecodeError> {
    let alpha = reader.f64("alpha")?;
    match alpha > 0.0 && alpha < 1.0 {
        true => Ok(alpha),
        false => Err(DecodeError::Range { field: "alpha", expected: "between 0 and 1", value: alpha.to_string() }),
    }
}

fn read_propensity(reader: &mut Reader<'_>) -> Result<f32, DecodeError> {
    let propensity = reader.f32("propensity")?;
    let error =
        || DecodeError::Range { field: "propensity", expected: "above 0 and at most 1", value: propensity.to_string() };
    (propensity > 0.0 && propensity <= 1.0).then_some(propensity).ok_or_else(error)
}

fn read_top(reader: &mut Reader<'_>) -> Result<[f32; TOP], DecodeError> {
    let top = reader.array("top", TOP, |reader| reader.f32("top"))?;
    let actual = top.len();
    top.try_into().map_err(|_| DecodeError::WrongLength { field: "top", expected: TOP, actual })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_hardened, from_hex, to_hex, with_unknown_key};

    pub(crate) fn subject() -> RouteSubject {
        RouteSubject {
            model: ModelId::parse("digits").unwrap(),
            edge: Digest([0xe1; 32]),
            cloud: Digest([0xc1; 32]),
            class: GroupId::parse("cam").unwrap(),
            transforms: Digest([0x71; 32]),
            comparison: "top-class".to_owned(),
        }
    }

    fn evidence() -> Evidence {
        Evidence {
            boot: BootId(7),
            seq: 3,
            subject: subject(),
            contract: Contract::Local,
            alpha: 0.0625,
            class_version: 9,
            certificate: Some(Digest([0xce; 32])),
            audits: vec![AuditLabel { score: 0.75, differs: true, propensity: 0.25 }],
            histogram: vec![500, 0],
            labels: vec![RouteLabel {
                role: SplitRole::Calibration,
                differs: false,
                features: LabelFeatures {
                    margin: 0.5,
                    msp: 0.75,
                    entropy: 0.25,
                    class: 4,
                    top: [0.0, -2.0, -3.0, -4.0, -5.0],
                },
            }],
            offloaded: 0,
        }
    }

    /// The example of docs/protocol.md.
    const GOLDEN: &str = "aa
        00 07
        01 03
        02 a6
            00 66 646967697473
            01 5820 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
            02 5820 c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1
            03 63 63616d
            04 5820 7171717171717171717171717171717171717171717171717171717171717171
            05 69 746f702d636c617373
        03 01
        04 fb 3fb0000000000000
        05 09
        06 5820 cececececececececececececececececececececececececececececececece
        07 81 a3 00 fa 3f400000 01 f5 02 fa 3e800000
        08 82 1901f4 00
        09 81 a7
            00 02
            01 f4
            02 fa 3f000000
            03 fa 3f400000
            04 fa 3e800000
            05 04
            06 85 fa 00000000 fa c0000000 fa c0400000 fa c0800000 fa c0a00000";

    #[test]
    fn evidence_is_hardened_around_its_golden_bytes() {
        assert_hardened(&evidence(), GOLDEN, Evidence::encode, Evidence::decode_shared);
    }

    #[test]
    fn fields_of_a_later_version_are_skipped_and_a_certificate_is_optional() {
        assert_eq!(Evidence::decode_shared(&with_unknown_key(evidence().encode())).unwrap(), evidence());
        let without = Evidence { certificate: None, audits: vec![], histogram: vec![], ..evidence() };
        assert_eq!(Evidence::decode(&without.encode()).unwrap(), without);
    }

    #[test]
    fn offloaded_requests_that_the_coin_chose_take_one_more_key() {
        let system = Evidence { contract: Contract::System, offloaded: 12, ..evidence() };
        let golden = GOLDEN.replacen("aa", "ab", 1).replacen("03 01\n", "03 00\n", 1) + " 0a 0c";
        assert_hardened(&system, &golden, Evidence::encode, Evidence::decode_shared);
    }

    #[test]
    fn a_label_without_numbers_still_counts() {
        let mut evidence = evidence();
        evidence.labels[0].features.margin = f32::NAN;
        let read = Evidence::decode(&evidence.encode()).unwrap();
        assert!(read.labels[0].features.margin.is_nan());
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused_by_their_field() {
        let with = |from: &str, to: &str| Evidence::decode(&from_hex(&GOLDEN.replacen(from, to, 1)));
        for propensity in ["00000000", "be800000", "40000000", "7fc00000"] {
            let error = with("02 fa 3e800000", &format!("02 fa {propensity}")).unwrap_err();
            assert!(matches!(error, DecodeError::Range { field: "propensity", .. }), "{error}");
        }
        for alpha in ["0000000000000000", "3ff0000000000000", "7ff8000000000000"] {
            let error = with("3fb0000000000000", alpha).unwrap_err();
            assert!(matches!(error, DecodeError::Range { field: "alpha", .. }), "{error}");
        }
        assert!(matches!(with("03 01", "03 02"), Err(DecodeError::Unknown { what: "contract", .. })));
        assert!(matches!(with("00 02\n", "00 03\n"), Err(DecodeError::Unknown { what: "role of a label", .. })));
        let four = with("06 85 fa 00000000", "06 84");
        assert!(matches!(four, Err(DecodeError::WrongLength { field: "top", expected: 5, actual: 4 })));
    }

    #[test]
    fn the_fullest_message_fits_and_a_fuller_one_is_refused_on_both_sides() {
        let base = evidence();
        let full = Evidence {
            audits: vec![base.audits[0]; MAX_AUDITS],
            histogram: vec![u32::MAX; MAX_BINS],
            labels: vec![base.labels[0]; MAX_LABELS],
            ..base
        };
        let body = full.encode_checked().unwrap();
        assert_eq!(Evidence::decode(&body).unwrap(), full);
        let over = |change: fn(&mut Evidence)| {
            let mut evidence = full.clone();
            change(&mut evidence);
            assert!(matches!(evidence.encode_checked(), Err(EncodeError::OverLimit { .. })));
            assert!(matches!(Evidence::decode(&evidence.encode()), Err(DecodeError::OverLimit { .. })));
        };
        over(|evidence| evidence.audits.push(evidence.audits[0]));
        over(|evidence| evidence.histogram.push(1));
        over(|evidence| evidence.labels.push(evidence.labels[0]));
        let large = vec![0; MAX_EVIDENCE_BYTES + 1];
        assert!(matches!(Evidence::decode(&large), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_subject_s_hash_is_fixed_and_tells_subjects_apart() {
        assert_eq!(to_hex(&subject().hash().0), subject().hash().to_string());
        let others = [
            RouteSubject { edge: Digest([0xe2; 32]), ..subject() },
            RouteSubject { cloud: Digest([0xe1; 32]), ..subject() },
            RouteSubject { class: GroupId::parse("cal").unwrap(), ..subject() },
            RouteSubject { comparison: "top-k".to_owned(), ..subject() },
        ];
        for other in others {
            assert_ne!(other.hash(), subject().hash(), "{other:?}");
        }
    }
}
