//! The clock that the outbox counts on: the machine's own since it was started, and which start that was.
//!
//! Linux tells both in `/proc`, so a life goes on exactly over a restart of the process. Where it does not, each process is
//! taken for a new start of the machine, and what was left when it was last written down counts.

use std::fs;
use std::time::{Duration, Instant};

use hedge_wire::{BootId, Digest};

/// Time since the machine was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineClock {
    start: Instant,
    before: Duration,
    boot: BootId,
}

impl MachineClock {
    pub(crate) fn new() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let up = fs::read_to_string("/proc/uptime").ok().and_then(|text| uptime(&text));
        let (boot, before) = match boot.zip(up) {
            Some((boot, up)) => (id(&boot), up),
            None => (BootId(crate::random::bits()), Duration::ZERO),
        };
        Self { start: Instant::now(), before, boot }
    }

    pub(crate) fn now(&self) -> Duration {
        self.before.saturating_add(self.start.elapsed())
    }

    /// The moment `at` on the process's own clock.
    pub(crate) fn instant(&self, at: Duration) -> Option<Instant> {
        self.start.checked_add(at.saturating_sub(self.before))
    }

    pub(crate) fn boot(&self) -> BootId {
        self.boot
    }
}

fn uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn id(text: &str) -> BootId {
    let Digest(digest) = Digest::of(text.trim().as_bytes());
    BootId(u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_of_one_start_of_the_machine_agree_about_time_and_start() {
        let (first, second) = (MachineClock::new(), MachineClock::new());
        if cfg!(target_os = "linux") {
            assert_eq!(first.boot(), second.boot());
            assert!(first.now().abs_diff(second.now()) < Duration::from_secs(1));
        }
        let (now, later) = (first.now(), first.now());
        assert!(now <= later && first.instant(later) >= first.instant(now));
    }

    #[test]
    fn uptimes_that_are_none_are_told_apart() {
        assert_eq!(uptime("350735.47 234388.90\n"), Some(Duration::from_secs_f64(350_735.47)));
        for text in ["", "soon", "-1.0 2", "NaN 1"] {
            assert_eq!(uptime(text), None, "{text}");
        }
        assert_ne!(id("a\n"), id("b\n"));
        assert_eq!(id("a\n"), id("a"));
    }
}
