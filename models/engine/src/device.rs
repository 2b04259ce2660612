//! What the probe finds, and which of it is fit to run a model.
//!
//! Only Vulkan, Metal and Direct3D 12 adapters are looked at: without a Vulkan driver wgpu would silently offer an OpenGL
//! software adapter. An adapter of type CPU (lavapipe, WARP) is 7 to 20 times slower than the CPU executor, so `auto`
//! refuses it; asked for a GPU by name, it is used and said loudly.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use burn::tensor::{DeviceKind as AdapterKind, wgpu::WgpuBackend};
use burn_backend::read_sync;
use burn_dispatch::DispatchDevice;
use thiserror::Error;

/// Which device a model should run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeviceChoice {
    /// The fastest that agrees with the CPU: hardware GPUs and the CPU are tried.
    #[default]
    Auto,
    /// A GPU, a software one if there is no other.
    Gpu,
    /// The CPU.
    Cpu,
}

/// A device name that is none of `auto`, `gpu` and `cpu`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no device {0:?}; use auto, gpu or cpu")]
pub struct UnknownDevice(String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(DeviceChoice::Auto),
            "gpu" => Ok(DeviceChoice::Gpu),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => Err(UnknownDevice(name.to_owned())),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DeviceChoice::Auto => "auto",
            DeviceChoice::Gpu => "gpu",
            DeviceChoice::Cpu => "cpu",
        })
    }
}

/// The class of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// The CPU, through burn-flex.
    Cpu,
    /// A graphics adapter, through wgpu.
    Gpu,
}

/// What the probe says of one device.
#[derive(Clone, PartialEq, Debug)]
pub struct DeviceInfo {
    /// The adapter's own name.
    pub name: String,
    /// The interface it is reached through: `flex`, `vulkan`, `metal`, `dx12`.
    pub api: String,
    /// Its class.
    pub kind: DeviceKind,
    /// Whether a graphics adapter is emulated on the CPU.
    pub software: bool,
    /// Whether `auto` would try it.
    pub accepted: bool,
    /// Why it is refused.
    pub why: Option<String>,
}

/// All that the probe found.
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeReport {
    /// The devices; the CPU is always there and comes first.
    pub found: Vec<DeviceInfo>,
}

/// A device that models can be prepared for.
#[derive(Clone, Debug)]
pub struct Device {
    info: DeviceInfo,
    adapter: Option<Adapter>,
    /// Which opening of the device is meant: one that failed is opened anew as the next.
    generation: u64,
}

/// The first opening of a device in a process.
const FIRST_GENERATION: u64 = 1;

/// How burn finds a graphics adapter again: its class and its index among the adapters of that class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Adapter {
    kind: AdapterKind,
    api: &'static str,
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        let info = DeviceInfo {
            name: "CPU".to_owned(),
            api: "flex".to_owned(),
            kind: DeviceKind::Cpu,
            software: false,
            accepted: true,
            why: None,
        };
        Device { info, adapter: None, generation: FIRST_GENERATION }
    }

    /// A device that only another executor than ours knows how to open.
    pub fn foreign(name: &str, api: &str) -> Self {
        let (name, api) = (name.to_owned(), api.to_owned());
        let info = DeviceInfo { name, api, kind: DeviceKind::Gpu, software: false, accepted: true, why: None };
        Device { info, adapter: None, generation: FIRST_GENERATION }
    }

    /// The same device as it is opened for the `generation`th time.
    pub(crate) fn at(&self, generation: u64) -> Self {
        Device { generation, ..self.clone() }
    }

    /// What tells it from the other devices of this machine.
    pub(crate) fn key(&self) -> String {
        format!("{} {:?}", self.label(), self.adapter)
    }

    /// The devices that `choice` allows, the CPU first where it is among them.
    pub fn candidates(choice: DeviceChoice) -> Vec<Device> {
        let gpus = || graphics_devices().iter().cloned();
        match choice {
            DeviceChoice::Cpu => vec![Device::cpu()],
            DeviceChoice::Auto => {
                std::iter::once(Device::cpu()).chain(gpus().filter(|device| device.info.accepted)).collect()
            }
            DeviceChoice::Gpu => {
                let (hardware, software): (Vec<_>, Vec<_>) = gpus().partition(|device| !device.info.software);
                if hardware.is_empty() { software } else { hardware }
            }
        }
    }

    /// Its class.
    pub fn kind(&self) -> DeviceKind {
        self.info.kind
    }

    /// The adapter's own name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Whether it is a graphics adapter emulated on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.software
    }

    /// What people and answers are told: `cpu (flex)`, `gpu (NVIDIA H100, vulkan)`.
    pub fn label(&self) -> String {
        Device::label_of(&self.info)
    }

    /// The label of a device that a probe found.
    pub fn label_of(info: &DeviceInfo) -> String {
        match info.kind {
            DeviceKind::Cpu => "cpu (flex)".to_owned(),
            DeviceKind::Gpu if info.software => format!("gpu ({}, {}, software)", info.name, info.api),
            DeviceKind::Gpu => format!("gpu ({}, {})", info.name, info.api),
        }
    }

    /// Burn's handle of the device, opened on first use.
    pub(crate) fn open(&self) -> Result<DispatchDevice, String> {
        match (&self.adapter, self.info.kind) {
            (Some(adapter), _) => open_adapter(adapter, self.generation),
            (None, DeviceKind::Cpu) => Ok(burn::tensor::Device::flex().as_dispatch().clone()),
            (None, DeviceKind::Gpu) => Err("burn does not know this device".to_owned()),
        }
    }
}

/// Looks at every device of this machine; opens none.
pub fn probe() -> ProbeReport {
    let found =
        std::iter::once(Device::cpu()).chain(graphics_devices().iter().cloned()).map(|device| device.info).collect();
    ProbeReport { found }
}

/// Bounds the threads that the CPU executor uses, for the whole process; only the first call, before any model has
/// run, takes effect. Says whether it did.
pub fn set_threads(threads: usize) -> bool {
    rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build_global().is_ok()
}

/// Adapters are looked for once in the life of a process: it costs milliseconds, and some drivers write to standard error
/// each time.
fn graphics_devices() -> &'static [Device] {
    static FOUND: OnceLock<Vec<Device>> = OnceLock::new();
    FOUND.get_or_init(|| adapters().into_iter().map(|(device, _)| device).collect())
}

fn adapters() -> Vec<(Device, wgpu::Adapter)> {
    let mut seen: HashMap<&'static str, usize> = HashMap::new();
    let found = read_sync(instance().enumerate_adapters(BACKENDS));
    found.into_iter().map(|adapter| (describe(&adapter, &mut seen), adapter)).collect()
}

const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// One for the life of the process: Vulkan loaders do not like instances that come and go beside others.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: BACKENDS,
            // The debugging flags of a debug build would log what the Vulkan loader says as errors.
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        })
    })
}

/// `seen` counts the adapters of each class so far: burn names them by class and index.
fn describe(adapter: &wgpu::Adapter, seen: &mut HashMap<&'static str, usize>) -> Device {
    let info = adapter.get_info();
    let class = class_name(info.device_type);
    let count = seen.entry(class).or_default();
    let index = *count;
    *count += 1;
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let why = software
        .then(|| "emulated on the CPU, slower than the CPU executor; `--device gpu` uses it all the same".to_owned());
    let api = api_name(info.backend);
    Device {
        info: DeviceInfo {
            name: info.name,
            api: api.to_owned(),
            kind: DeviceKind::Gpu,
            software,
            accepted: why.is_none(),
            why,
        },
        adapter: Some(Adapter { kind: adapter_kind(info.device_type, index), api }),
        generation: FIRST_GENERATION,
    }
}

fn class_name(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    }
}

fn adapter_kind(kind: wgpu::DeviceType, index: usize) -> AdapterKind {
    match kind {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::DiscreteGpu(index),
        wgpu::DeviceType::IntegratedGpu => AdapterKind::IntegratedGpu(index),
        wgpu::DeviceType::VirtualGpu => AdapterKind::VirtualGpu(index),
        wgpu::DeviceType::Cpu => AdapterKind::Cpu,
        wgpu::DeviceType::Other => AdapterKind::DefaultDevice,
    }
}

fn api_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        _ => "other",
    }
}

/// An adapter as it was opened last.
struct Opened {
    generation: u64,
    device: DispatchDevice,
    handle: wgpu::Device,
}

/// Burn refuses to open an adapter twice by the same selector, so what was opened is kept, for the life of the process or
/// until the device is opened anew after a fault.
fn open_adapter(adapter: &Adapter, generation: u64) -> Result<DispatchDevice, String> {
    let mut opened = opened();
    let fresh = match opened.get(adapter) {
        Some(open) if open.generation == generation => return Ok(open.device.clone()),
        Some(open) if open.generation > generation => return Err("it has been opened anew since".to_owned()),
        Some(lost) => {
            // Frees what is left on the card of the models that ran there; burn's own pools are never given back.
            lost.handle.destroy();
            reopen(adapter)?
        }
        None => open_by_selector(adapter)?,
    };
    let (device, handle) = fresh;
    opened.insert(adapter.clone(), Opened { generation, device: device.clone(), handle });
    Ok(device)
}

fn opened() -> MutexGuard<'static, HashMap<Adapter, Opened>> {
    static OPENED: OnceLock<Mutex<HashMap<Adapter, Opened>>> = OnceLock::new();
    OPENED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_by_selector(adapter: &Adapter) -> Result<(DispatchDevice, wgpu::Device), String> {
    let api = match adapter.api {
        "metal" => WgpuBackend::Metal,
        "dx12" => WgpuBackend::Dx12,
        _ => WgpuBackend::Vulkan,
    };
    let options = burn::tensor::Device::wgpu_options().device_kind(adapter.kind.clone()).graphics_api(api);
    let (device, setup) = options.init_with_setup().map_err(|error| error.to_string())?;
    Ok((device.as_dispatch().clone(), setup.device))
}

/// A selector names the client that burn once made for it, for ever, even when its device is lost. A set-up of our own gets
/// a new client: the same adapter, asked for another device.
fn reopen(adapter: &Adapter) -> Result<(DispatchDevice, wgpu::Device), String> {
    let found = adapters().into_iter().find(|(device, _)| device.adapter.as_ref() == Some(adapter));
    let (_, found) = found.ok_or_else(|| "the adapter is no longer there".to_owned())?;
    let descriptor = wgpu::DeviceDescriptor {
        // What burn asks for, without what only experiments use.
        required_features: found
            .features()
            .difference(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
            .difference(wgpu::Features::all_experimental_mask()),
        required_limits: found.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = read_sync(found.request_device(&descriptor)).map_err(|error| error.to_string())?;
    let setup = burn::tensor::wgpu::WgpuSetup {
        instance: instance().clone(),
        backend: found.get_info().backend,
        adapter: found,
        device: device.clone(),
        queue,
    };
    let opened = burn::tensor::Device::wgpu_options().setup(setup).init().map_err(|error| error.to_string())?;
    Ok((opened.as_dispatch().clone(), device))
}

/// Takes the device away under whoever uses it, as a driver's reset would; for tests of what happens then.
#[cfg(test)]
pub(crate) fn lose(device: &Device) -> bool {
    let lost = device.adapter.as_ref().and_then(|adapter| opened().get(adapter).map(|open| open.handle.clone()));
    lost.inspect(wgpu::Device::destroy).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_found_and_always_a_candidate_of_auto() {
        assert_eq!(probe().found[0].kind, DeviceKind::Cpu);
        assert_eq!(Device::candidates(DeviceChoice::Auto)[0].kind(), DeviceKind::Cpu);
    }

    #[test]
    fn auto_never_takes_a_software_gpu() {
        assert!(Device::candidates(DeviceChoice::Auto).iter().all(|device| !device.is_software()));
        assert!(probe().found.iter().filter(|device| device.software).all(|device| device.why.is_some()));
    }

    #[test]
    fn an_unknown_device_name_says_which_there_are() {
        let error = "tpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(error.to_string(), "there is no device \"tpu\"; use auto, gpu or cpu");
    }
}
