//! Simulated devices, and the board on which they chalk up how they are.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_link::{Backoff, Birth, CleanStart, LinkConfig, LinkEvent, LinkHandle, Subscription, Will};
use hedge_wire::{BootId, DeviceId, DeviceStatus, TenantId, Topic, gateway_presence_filter};

/// One agent's link, without the agent.
pub(crate) struct Device {
    handle: LinkHandle,
}

/// What all devices report.
pub(crate) struct Board {
    up: AtomicUsize,
    downs: AtomicU64,
    failures: AtomicU64,
    since: Mutex<(Instant, Vec<Duration>)>,
}

impl Device {
    pub(crate) fn start(url: String, tenant: &TenantId, number: usize, cap: Duration, board: &Arc<Board>) -> Device {
        let device = DeviceId::parse(&format!("device-{number}")).expect("an id");
        let (handle, mut events) = hedge_link::start(config(url, tenant, &device, cap)).expect("a good configuration");
        let board = Arc::clone(board);
        tokio::spawn(async move {
            let mut up = false;
            while let Some(event) = events.next().await {
                match event {
                    LinkEvent::Up { .. } => {
                        up = true;
                        board.came_up();
                    }
                    LinkEvent::Down { .. } => {
                        board.went_down(std::mem::take(&mut up));
                    }
                    LinkEvent::Message(_) | LinkEvent::Published { .. } => {}
                }
            }
            if up {
                board.left();
            }
        });
        Device { handle }
    }

    pub(crate) async fn close(self) {
        self.handle.close().await;
    }
}

/// As agents connect, with smaller queues: nothing is asked here.
fn config(url: String, tenant: &TenantId, device: &DeviceId, cap: Duration) -> LinkConfig {
    let topic = Topic::DeviceStatus { device: device.clone() }.path(tenant);
    let says = |online| {
        let version = "0.1.0".to_owned();
        let status = DeviceStatus { device: device.clone(), boot: BootId(1), online, version, models: Vec::new() };
        Bytes::from(status.encode())
    };
    let filters = [Topic::Reply { device: device.clone() }.path(tenant), gateway_presence_filter(tenant)];
    LinkConfig {
        keepalive: Duration::from_secs(60),
        clean_start: CleanStart::FirstConnect,
        session_expiry: Duration::from_secs(300),
        subscriptions: filters.into_iter().map(Subscription::at_least_once).collect(),
        will: Some(Will { topic: topic.clone(), payload: says(false), retain: true, delay: Duration::from_secs(15) }),
        birth: Some(Birth { topic: topic.clone(), payload: says(true) }),
        farewell: Some(Birth { topic, payload: says(false) }),
        queue: 8,
        receive_max: 16,
        backoff: Backoff { cap, ..Backoff::default() },
        ..LinkConfig::new(url, device.as_str())
    }
}

impl Board {
    pub(crate) fn new() -> Board {
        Board {
            up: AtomicUsize::new(0),
            downs: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            since: Mutex::new((Instant::now(), Vec::new())),
        }
    }

    /// From now on times are counted anew.
    pub(crate) fn begin(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), Vec::new());
    }

    pub(crate) fn up(&self) -> usize {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn downs(&self) -> u64 {
        self.downs.load(Ordering::Relaxed)
    }

    /// First attempts that failed; later ones are not told by the link.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn came_up(&self) {
        self.up.fetch_add(1, Ordering::Relaxed);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let after = since.0.elapsed();
        since.1.push(after);
    }

    fn went_down(&self, was_up: bool) {
        if was_up {
            self.up.fetch_sub(1, Ordering::Relaxed);
            self.downs.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn left(&self) {
        self.up.fetch_sub(1, Ordering::Relaxed);
    }

    /// When half, 99 % and the last came up, in seconds.
    pub(crate) fn spread(&self) -> (f64, f64, f64) {
        let mut times = self.times();
        times.sort();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
        };
        (at(0.5), at(0.99), at(1.0))
    }

    /// How many came up in the second in which most did.
    pub(crate) fn busiest_second(&self) -> usize {
        let mut seconds = std::collections::BTreeMap::<u64, usize>::new();
        self.times().iter().for_each(|time| *seconds.entry(time.as_secs()).or_default() += 1);
        seconds.into_values().max().unwrap_or(0)
    }

    fn times(&self) -> Vec<Duration> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// How many files a process here may have open.
pub(crate) fn open_files_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

/// The most memory that a process had, and its processor time, as the system says.
pub(crate) fn usage(process: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let status = read("status");
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|line| line.split_whitespace().next());
    let peak_mib = peak.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
    let stat = read("stat");
    // Behind the name in parentheses; fields 14 and 15 of the whole, in hundredths of a second (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    format!("{peak_mib:.0} MiB, {:.1} s of CPU", ticks / 100.0)
}
