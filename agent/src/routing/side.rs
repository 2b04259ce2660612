//! What certificates depend on of a loaded model and of this device.

use hedge_agent_core::route::EdgeSide;
use hedge_certify::{Fingerprint, Subject};
use hedge_engine::DeviceKind;
use hedge_wire::{Digest, GroupId, ModelId, RouteSubject};

/// The class of a device whose operator names none: the kind of device that runs the model, and the architecture of the
/// machine. Devices of one class are taken to compute alike.
///
/// `hedge route certify` uses the same, so that a certificate made on a like machine fits.
#[must_use]
pub fn default_device_class(kind: DeviceKind) -> String {
    let kind = match kind {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Gpu => "gpu",
    };
    format!("{kind}-{}", std::env::consts::ARCH.replace('_', "-"))
}

/// One loaded model as certificates and the gateway name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Side {
    pub(crate) cloud_model: ModelId,
    pub(crate) edge: Digest,
    pub(crate) class: GroupId,
    pub(crate) transforms: Fingerprint,
    pub(crate) comparison: String,
}

impl Side {
    /// The default class as an id of the protocol.
    pub(crate) fn default_class(kind: DeviceKind) -> GroupId {
        GroupId::parse(&default_device_class(kind)).expect("a kind and an architecture are letters, digits and dashes")
    }

    /// As the router knows it.
    pub(crate) fn edge_side(&self) -> EdgeSide {
        EdgeSide {
            edge: Fingerprint(self.edge.0),
            device_class: self.class.as_str().to_owned(),
            transforms: self.transforms,
            comparison: self.comparison.clone(),
        }
    }

    /// As the gateway knows it, against the cloud model of `subject`.
    pub(crate) fn on_the_wire(&self, subject: &Subject) -> RouteSubject {
        RouteSubject {
            model: self.cloud_model.clone(),
            edge: self.edge,
            cloud: Digest(subject.cloud.0),
            class: self.class.clone(),
            transforms: Digest(self.transforms.0),
            comparison: self.comparison.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_class_is_an_id() {
        for kind in [DeviceKind::Cpu, DeviceKind::Gpu] {
            assert_eq!(Side::default_class(kind).as_str(), default_device_class(kind));
        }
        assert!(default_device_class(DeviceKind::Cpu).starts_with("cpu-"));
    }
}
