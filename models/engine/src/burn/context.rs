//! The device a program runs on, and the types it computes integers and booleans in.

use burn_backend::{BoolDType, DeviceOps, IntDType};
use burn_dispatch::DispatchDevice;

/// What an operator needs to know besides its inputs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The device; under autodiff, burn's wrapper of it.
    pub(crate) device: DispatchDevice,
    /// The type of integers on the device: 64 bits on the CPU, 32 where shaders have no more.
    pub(crate) int: IntDType,
    /// The type of booleans on the device.
    pub(crate) bool: BoolDType,
}

impl Context {
    pub(crate) fn new(device: DispatchDevice) -> Self {
        let int = if is_cpu(&device) { IntDType::I64 } else { IntDType::I32 };
        let bool = device.defaults().bool_dtype;
        Context { device, int, bool }
    }

    /// The same computations on the CPU without autodiff, for shapes and other small integers.
    pub(crate) fn host() -> Self {
        Context {
            device: burn::tensor::Device::flex().as_dispatch().clone(),
            int: IntDType::I64,
            bool: BoolDType::Native,
        }
    }

    /// Whether the device is a graphics adapter, where tensors without dimensions do not exist (cubecl subtracts 1 from
    /// the rank): scalars stay on the host until they are given dimensions.
    pub(crate) fn is_gpu(&self) -> bool {
        !is_cpu(&self.device)
    }

    /// Whether operations are recorded for gradients.
    pub(crate) fn is_autodiff(&self) -> bool {
        matches!(self.device, DispatchDevice::Autodiff(_))
    }
}

fn is_cpu(device: &DispatchDevice) -> bool {
    matches!(device.clone().inner(), DispatchDevice::Flex(_))
}
