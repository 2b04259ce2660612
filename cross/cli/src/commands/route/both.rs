//! Both models of a task, asked by a program rather than by command-line arguments: `hedge demo` certifies by them.

use std::path::PathBuf;

use anyhow::Result;
use hedge_certify::Subject;
use hedge_engine::DeviceChoice;
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits;

use super::duo::Asked;
use super::models::{Loaded, Models};

/// An edge and a cloud model of the digits task, loaded.
pub(crate) struct Both(Loaded);

impl Both {
    /// Loads the files `edge` and `cloud`, bundles or ONNX.
    pub(crate) fn load(edge: PathBuf, cloud: PathBuf, device: DeviceChoice) -> Result<Self> {
        Models { bundle: Some(edge), teacher: Some(cloud), device }.load().map(Self)
    }

    /// How many images to ask about at once.
    pub(crate) fn batch(&self) -> usize {
        self.0.duo.batch()
    }

    /// What both say to each of the images.
    pub(crate) fn ask(&mut self, images: &[Tensor]) -> Result<Vec<Asked>> {
        self.0.duo.ask(&[NamedTensor::new(digits::INPUT, Tensor::stack(images)?)])
    }

    /// What a certificate by their answers is about, on devices of `device_class`.
    pub(crate) fn subject(&self, device_class: &str) -> Subject {
        self.0.subject(device_class.to_owned())
    }
}
