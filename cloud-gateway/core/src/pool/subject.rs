//! Between the protocol's types and those of the statistics. The protocol's have no form on disk; a subject is kept as its
//! model's id and what a certificate says of it.

use hedge_certify::{Features, Fingerprint, Role, Subject};
use hedge_wire::{Digest, GroupId, LabelFeatures, ModelId, RouteSubject, SplitRole};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(subject: &RouteSubject, serializer: S) -> Result<S::Ok, S::Error> {
    (subject.model.as_str(), certified(subject)).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RouteSubject, D::Error> {
    let (model, subject) = <(String, Subject)>::deserialize(deserializer)?;
    Ok(RouteSubject {
        model: ModelId::parse(&model).map_err(D::Error::custom)?,
        edge: digest(subject.edge),
        cloud: digest(subject.cloud),
        class: GroupId::parse(&subject.device_class).map_err(D::Error::custom)?,
        transforms: digest(subject.transforms),
        comparison: subject.comparison,
    })
}

/// What a certificate says of a subject.
pub(crate) fn certified(subject: &RouteSubject) -> Subject {
    Subject {
        edge: fingerprint(subject.edge),
        cloud: fingerprint(subject.cloud),
        device_class: subject.class.as_str().to_owned(),
        transforms: fingerprint(subject.transforms),
        comparison: subject.comparison.clone(),
    }
}

pub(crate) fn fingerprint(digest: Digest) -> Fingerprint {
    Fingerprint(digest.0)
}

pub(crate) fn digest(fingerprint: Fingerprint) -> Digest {
    Digest(fingerprint.0)
}

pub(crate) fn role(role: SplitRole) -> Role {
    match role {
        SplitRole::Fit => Role::Fit,
        SplitRole::Tune => Role::Tune,
        SplitRole::Calibration => Role::Calibration,
    }
}

pub(crate) fn features(features: &LabelFeatures) -> Features {
    let LabelFeatures { margin, msp, entropy, class, top } = *features;
    Features { margin, msp, entropy, class, top }
}
