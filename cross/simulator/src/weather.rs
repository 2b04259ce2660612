//! What one seed's world is like: which faults there are and how many, how tight the bounds are, what the broker does.
//!
//! Each seed leaves some of it out, so that rare combinations come up in the pure form that a mixture of everything would hide.

use std::time::Duration;

use hedge_agent_core::OutboxSettings;
use hedge_gateway_core::{Limits, UploadLimits};

use crate::dice::{Dice, Stream};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[derive(Debug)]
pub(crate) struct Weather {
    /// How long there are faults and new requests.
    pub(crate) span: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) reconnect_cap: Duration,
    pub(crate) session_expiry: Duration,
    /// Publishes that may wait for the broker's word.
    pub(crate) link_queue: usize,

    /// Whether sessions and retained messages survive a restart of the broker.
    pub(crate) broker_keeps: bool,
    /// Whether a PUBACK says that nobody subscribes.
    pub(crate) broker_tells: bool,
    /// Whether what a dead gateway left unacknowledged goes to another one.
    pub(crate) broker_redispatches: bool,
    /// How likely a publish is rejected.
    pub(crate) rejections: f64,

    pub(crate) gateways: u16,
    /// When the gateways come up for the first time, after the beginning.
    pub(crate) gateways_come: Duration,
    pub(crate) limits: Limits,
    pub(crate) uploads: UploadLimits,
    /// Rows that the gateway's engine takes at a time.
    pub(crate) engine_room: usize,
    /// The longest that a model runs, in milliseconds.
    pub(crate) engine_millis: u64,

    pub(crate) outbox: OutboxSettings,
    /// How likely a payload cannot be read back.
    pub(crate) rot: f64,
    /// How likely a barrier is slow.
    pub(crate) slow_syncs: f64,
    /// How likely a timer is late by up to a second.
    pub(crate) late_timers: f64,

    /// Faults in the span, for each device or gateway, on average.
    pub(crate) faults: Faults,
    /// How likely power fails, or the process is killed, just after the store was handed a write.
    pub(crate) sudden: f64,
    /// Requests of each kind and device, at most.
    pub(crate) durable: usize,
    pub(crate) plain: usize,
}

/// How often, on average, within the span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) cuts: f64,
    pub(crate) holes: f64,
    pub(crate) one_way: f64,
    pub(crate) slow: f64,
    pub(crate) kills: f64,
    pub(crate) stops: f64,
    pub(crate) power_cuts: f64,
    pub(crate) full_disks: f64,
    pub(crate) revocations: f64,
    pub(crate) broker_restarts: f64,
    pub(crate) gateway_kills: f64,
    pub(crate) gateway_power_cuts: f64,
    pub(crate) gateway_drains: f64,
}

impl Weather {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Stream::Weather);
        let dice = &mut dice;
        let absent = dice.chance(0.15);
        Self {
            span: if absent { dice.millis(60_000..120_000) } else { dice.millis(20_000..80_000) },
            keepalive: secs(dice.pick(&[5, 10])),
            reconnect_cap: secs(dice.pick(&[1, 3])),
            session_expiry: secs(dice.pick(&[20, 300])),
            link_queue: dice.pick(&[2, 8, 300]),
            broker_keeps: dice.chance(0.5),
            broker_tells: dice.chance(0.5),
            broker_redispatches: dice.chance(0.5),
            rejections: dice.pick(&[0.0, 0.0, 0.01]),
            gateways: dice.pick(&[1, 2]),
            gateways_come: if absent { dice.millis(20_000..120_000) } else { dice.millis(0..2000) },
            limits: limits(dice),
            uploads: uploads(dice),
            engine_room: dice.pick(&[1, 8, 64]),
            engine_millis: dice.pick(&[20, 200, 4000]),
            outbox: outbox(dice),
            rot: dice.pick(&[0.0, 0.0, 0.02]),
            slow_syncs: dice.pick(&[0.0, 0.05]),
            late_timers: dice.pick(&[0.0, 0.05]),
            faults: Faults::of(dice),
            sudden: dice.pick(&[0.0, 0.01, 0.05]),
            durable: 1 + dice.below(4),
            plain: 1 + dice.below(4),
        }
    }
}

impl Faults {
    fn of(dice: &mut Dice) -> Self {
        let mut rate = |most: f64| if dice.chance(0.4) { 0.0 } else { most * dice.fraction() };
        Self {
            cuts: rate(1.0),
            holes: rate(0.7),
            one_way: rate(0.7),
            slow: rate(0.7),
            kills: rate(1.0),
            stops: rate(2.0),
            power_cuts: rate(1.0),
            full_disks: rate(0.5),
            revocations: rate(0.4),
            broker_restarts: rate(2.0),
            gateway_kills: rate(3.0),
            gateway_power_cuts: rate(1.5),
            gateway_drains: rate(1.5),
        }
    }
}

/// A queue with room, or one that fills up (but no body is larger than all of it: it would find it full for ever); a memory of replies that lasts, or one that does not.
fn limits(dice: &mut Dice) -> Limits {
    let roomy = Limits::default();
    let replies = dice.pick(&[roomy.replies, roomy.replies, 4]);
    match dice.chance(0.6) {
        true => Limits { replies, ..roomy },
        false => Limits {
            queue: 1 + dice.below(12),
            queue_bytes: dice.pick(&[40_000, 1 << 20]),
            queue_per_device: 1 + dice.below(2),
            running_per_model: 1 + dice.below(4),
            audits: 2,
            audits_per_device: 1,
            replies,
            ..roomy
        },
    }
}

fn uploads(dice: &mut Dice) -> UploadLimits {
    let roomy = UploadLimits::default();
    match dice.chance(0.6) {
        true => roomy,
        false => UploadLimits { uploads: 2, bytes: 60_000, uploads_per_device: 1, bytes_per_device: 50_000, ..roomy },
    }
}

/// As a device is configured, with waits in the scale of a history of minutes.
fn outbox(dice: &mut Dice) -> OutboxSettings {
    let settings = OutboxSettings {
        entries: dice.pick(&[2, 4, 64]),
        quota: dice.pick(&[2000, 60_000, 1 << 20]),
        running: dice.pick(&[1, 2, 16]),
        in_flight: dice.pick(&[1, 2, 32]),
        life: secs(dice.pick(&[40, 100, 300])),
        reply_within: secs(2),
        reply_cap: secs(10),
        backoff_base: Duration::from_millis(200),
        backoff_cap: secs(5),
        poison_after: 2,
        store_retry: Duration::from_millis(500),
        keep: secs(dice.pick(&[30, 100, 600])),
        results: dice.pick(&[1, 4, 64]),
        result_bytes: 0,
    };
    // An answer has 64 bytes.
    OutboxSettings { result_bytes: 64 * settings.results as u64, ..settings }
}
