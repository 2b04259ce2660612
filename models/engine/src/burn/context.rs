//! The device a program runs on, and the types it computes in.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn_backend::{Backend, BoolDType, DType as BurnType, DeviceOps, IntDType};
use burn_dispatch::DispatchDevice;
use hedge_tensor::DType;

use super::B;
use super::buffers::Buffers;

/// What an operator needs to know besides its inputs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The device; under autodiff, burn's wrapper of it.
    pub(crate) device: DispatchDevice,
    /// The type of integers on the device: 64 bits on the CPU, 32 where shaders have no more.
    pub(crate) int: IntDType,
    /// The type of booleans on the device.
    pub(crate) bool: BoolDType,
    gpu: bool,
    /// Whether the device computes in 16 and in 64 bits; every device computes in 32.
    half: bool,
    double: bool,
    on_cpu: Arc<Mutex<BTreeSet<String>>>,
    on_threads: Arc<AtomicBool>,
    /// Memory for intermediate results on the CPU.
    pub(crate) buffers: Arc<Buffers>,
}

impl Context {
    pub(crate) fn new(device: DispatchDevice) -> Self {
        let gpu = !matches!(device.clone().inner(), DispatchDevice::Flex(_));
        let int = if gpu { IntDType::I32 } else { IntDType::I64 };
        let bool = device.defaults().bool_dtype;
        let half = !gpu || B::supports_dtype(&device, BurnType::F16);
        // Shaders add and multiply doubles on some adapters, but have no exponential or sine of them (SPIR-V's GLSL.std.450
        // ends at 32 bits): what compiles to one gives any number.
        let double = !gpu;
        Context {
            device,
            int,
            bool,
            gpu,
            half,
            double,
            on_cpu: Arc::default(),
            on_threads: Arc::default(),
            buffers: Arc::default(),
        }
    }

    /// The same computations on the CPU without autodiff, for shapes and other small integers.
    pub(crate) fn host() -> Self {
        Context::new(burn::tensor::Device::flex().as_dispatch().clone())
    }

    /// Whether the device is a graphics adapter, where tensors without dimensions do not exist (cubecl subtracts 1 from
    /// the rank): scalars stay on the host until they are given dimensions.
    pub(crate) fn is_gpu(&self) -> bool {
        self.gpu
    }

    /// Whether the device computes in this type, or in a wider one that gives the same numbers.
    pub(crate) fn has(&self, dtype: DType) -> bool {
        match dtype {
            DType::F16 => self.half,
            DType::F64 => self.double,
            _ => true,
        }
    }

    /// Notes that the node called `label` ran on the CPU although the program runs on a GPU.
    pub(crate) fn note_on_cpu(&self, label: &str) {
        let mut nodes = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if !nodes.contains(label) {
            nodes.insert(label.to_owned());
        }
    }

    /// Notes that an operator was worth to be spread over threads.
    pub(crate) fn note_threads(&self) {
        self.on_threads.store(true, Ordering::Relaxed);
    }

    /// Whether an operator was worth to be spread over threads so far.
    pub(crate) fn needs_threads(&self) -> bool {
        self.on_threads.load(Ordering::Relaxed)
    }

    /// The labels of the nodes that ran on the CPU so far.
    pub(crate) fn on_cpu(&self) -> Vec<String> {
        self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether this is the CPU without autodiff, where kernels of our own may stand in for burn's.
    pub(crate) fn is_plain_cpu(&self) -> bool {
        !self.gpu && !self.is_autodiff()
    }

    /// Whether operations are recorded for gradients.
    pub(crate) fn is_autodiff(&self) -> bool {
        matches!(self.device, DispatchDevice::Autodiff(_))
    }
}
