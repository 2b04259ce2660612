//! Which messages of evidence were counted: (device, boot, sequence number), each once.

use std::collections::BTreeMap;

use hedge_wire::{BootId, DeviceId};
use serde::{Deserialize, Serialize};

use super::Ignored;

/// Runs of a device whose numbers are remembered: a message of the run before may come after the first of this one.
const RUNS: usize = 4;

/// How far behind the latest a number may be and still be told apart from one that was counted.
const WINDOW: u64 = 64;

/// The devices of a class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Devices(BTreeMap<String, Device>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Device {
    heard_unix_secs: u64,
    /// The latest runs, the latest last.
    runs: Vec<Run>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Run {
    boot: u64,
    latest: u64,
    /// Bit i: `latest - i` was counted.
    counted: u64,
}

impl Devices {
    /// Remembers the message; an error where it does not count.
    pub(crate) fn count(
        &mut self,
        device: &DeviceId,
        boot: BootId,
        seq: u64,
        now: u64,
        max_devices: usize,
    ) -> Result<(), Ignored> {
        if !self.0.contains_key(device.as_str()) && self.0.len() >= max_devices {
            return Err(Ignored::Devices);
        }
        let known = self.0.entry(device.as_str().to_owned()).or_insert(Device { heard_unix_secs: now, runs: vec![] });
        known.heard_unix_secs = now;
        if let Some(run) = known.runs.iter_mut().find(|run| run.boot == boot.0) {
            return if run.count(seq) { Ok(()) } else { Err(Ignored::Repeated) };
        }
        if known.runs.len() == RUNS {
            known.runs.remove(0);
        }
        known.runs.push(Run { boot: boot.0, latest: seq, counted: 1 });
        Ok(())
    }

    /// Whether this device is the only one.
    pub(crate) fn is_only(&self, device: &DeviceId) -> bool {
        self.0.len() == 1 && self.0.contains_key(device.as_str())
    }

    /// Forgets devices that were last heard before `since`.
    pub(crate) fn forget(&mut self, since: u64) {
        self.0.retain(|_, device| device.heard_unix_secs >= since);
    }
}

impl Run {
    /// Whether the number is new; one too old to know is not.
    fn count(&mut self, seq: u64) -> bool {
        if let Some(ahead @ 1..) = seq.checked_sub(self.latest) {
            self.counted = if ahead < WINDOW { self.counted << ahead } else { 0 } | 1;
            self.latest = seq;
            return true;
        }
        let behind = self.latest - seq;
        let new = behind < WINDOW && self.counted & (1 << behind) == 0;
        if new {
            self.counted |= 1 << behind;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn device(number: usize) -> DeviceId {
        DeviceId::parse(&format!("d{number}")).unwrap()
    }

    #[test]
    fn each_number_of_each_run_of_each_device_counts_once_in_any_order() {
        let mut devices = Devices::default();
        let mut seen = BTreeSet::new();
        let mut state = 7_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (d, boot, seq) = ((state >> 33) as usize % 3, (state >> 40) % 2, (state >> 50) % 60);
            let counted = devices.count(&device(d), BootId(boot), seq, 0, 3).is_ok();
            assert_eq!(counted, seen.insert((d, boot, seq)), "{d} {boot} {seq}");
        }
        assert_eq!(seen.len(), 3 * 2 * 60);
    }

    #[test]
    fn a_number_too_far_behind_does_not_count_again() {
        let mut devices = Devices::default();
        let mut count = |seq| devices.count(&device(1), BootId(1), seq, 0, 1);
        assert_eq!(count(0), Ok(()));
        assert_eq!(count(1_000), Ok(()));
        assert_eq!(count(0), Err(Ignored::Repeated));
        assert_eq!(count(937), Ok(()));
        assert_eq!(count(936), Err(Ignored::Repeated));
        assert_eq!(count(u64::MAX), Ok(()));
    }

    #[test]
    fn there_is_room_again_when_a_device_was_silent_for_long() {
        let mut devices = Devices::default();
        assert_eq!(devices.count(&device(1), BootId(1), 0, 100, 1), Ok(()));
        assert_eq!(devices.count(&device(2), BootId(1), 0, 200, 1), Err(Ignored::Devices));
        devices.forget(150);
        assert_eq!(devices.count(&device(2), BootId(1), 0, 200, 1), Ok(()));
    }

    #[test]
    fn a_device_that_restarts_for_ever_is_remembered_by_its_last_runs() {
        let mut devices = Devices::default();
        for boot in 0..1_000 {
            assert_eq!(devices.count(&device(1), BootId(boot), 0, 0, 1), Ok(()));
        }
        assert_eq!(devices.0["d1"].runs.len(), RUNS);
        assert_eq!(devices.count(&device(1), BootId(999), 0, 0, 1), Err(Ignored::Repeated));
    }
}
