//! Many devices against one Mosquitto: how long they take to connect, to come back after the broker was killed, and what it costs.
//!
//! ```text
//! ulimit -n 20000; cargo run --release -p hedge-link --example fleet -- [DEVICES [CONNECTIONS_PER_SECOND]]
//! ```
//!
//! Every device connects as an agent does: a session that continues for 300 s, a status as its first word, the status "offline" as its
//! will after 15 s, two subscriptions. The bound of the backoff is twice the number of devices divided by the connections a
//! second that the broker is said to take (docs/operations.md). All devices are in this process and on this machine, so it
//! measures the broker and the way back, not a network.

#![allow(clippy::print_stdout, reason = "it is a program that reports")]

mod broker;
mod device;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hedge_link::{LinkConfig, LinkEvent, LinkEvents, LinkHandle, Subscription};
use hedge_wire::{DeviceId, DeviceStatus, TenantId, device_statuses_filter};

use crate::broker::Mosquitto;
use crate::device::{Board, Device};

/// For each step; a fleet that is not complete by then is reported as it is.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long the broker stays away.
const OUTAGE: Duration = Duration::from_secs(3);

/// Devices that are torn off, to see their wills.
const TORN_OFF: usize = 100;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().ok());
    let devices = arguments.next().flatten().unwrap_or(5000);
    let rate = arguments.next().flatten().unwrap_or(500);
    let files = device::open_files_limit();
    if files < devices + 200 {
        println!(
            "{devices} devices need {} open files, {files} are allowed; try `ulimit -n {}`",
            devices + 200,
            devices + 1000
        );
        return ExitCode::FAILURE;
    }
    let Some(mut broker) = Mosquitto::start().await else {
        println!("mosquitto does not start; install it (apt-get install mosquitto)");
        return ExitCode::FAILURE;
    };
    match run(&mut broker, devices, rate).await {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether every step came to its end.
async fn run(broker: &mut Mosquitto, devices: usize, rate: usize) -> bool {
    let tenant = TenantId::parse("fleet").expect("an id");
    let cap = Duration::from_secs_f64((2.0 * devices as f64 / rate as f64).max(1.0));
    println!("{devices} devices, one Mosquitto, {rate} connections/s assumed: waits of up to {cap:?}");
    let board = Arc::new(Board::new());
    let mut fleet: Vec<Device> =
        (0..devices).map(|number| Device::start(broker.url(), &tenant, number, cap, &board)).collect();

    let mut complete = step("all connected, all at once", broker, &board, devices).await;
    complete &= statuses("statuses retained", broker, &tenant, devices, 0).await;

    let lost = board.downs();
    broker.kill();
    tokio::time::sleep(OUTAGE).await;
    board.begin();
    broker.start_again().await;
    complete &= step("all back after the broker was killed", broker, &board, devices).await;
    println!("  links that went down: {}", board.downs() - lost);
    complete &= statuses("statuses said again", broker, &tenant, devices, 0).await;

    let torn_off: Vec<Device> = fleet.drain(..TORN_OFF.min(devices)).collect();
    let (torn_off_count, begin) = (torn_off.len(), Instant::now());
    drop(torn_off);
    complete &= statuses("wills of those torn off", broker, &tenant, devices - torn_off_count, torn_off_count).await;
    println!("  {:.1} s after they were torn off", begin.elapsed().as_secs_f64());

    let begin = Instant::now();
    let mut closing = tokio::task::JoinSet::new();
    fleet.into_iter().for_each(|device| drop(closing.spawn(device.close())));
    closing.join_all().await;
    println!("all said goodbye in {:.1} s", begin.elapsed().as_secs_f64());
    complete & statuses("statuses at the end", broker, &tenant, 0, devices).await
}

/// Waits until all devices are up and says how that went.
async fn step(what: &str, broker: &Mosquitto, board: &Board, devices: usize) -> bool {
    let begin = Instant::now();
    while board.up() < devices && begin.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (p50, p99, last) = board.spread();
    println!("{what}: {} of {devices} in {last:.1} s (p50 {p50:.1} s, p99 {p99:.1} s)", board.up());
    println!("  in the busiest second {} came up; {} attempts failed", board.busiest_second(), board.failures());
    println!("  peaks: broker {}, this process {}", broker.usage(), device::usage(std::process::id()));
    board.up() == devices
}

/// Reads the retained statuses until they are as many as expected.
async fn statuses(what: &str, broker: &Mosquitto, tenant: &TenantId, online: usize, offline: usize) -> bool {
    let config = LinkConfig {
        subscriptions: vec![Subscription::at_least_once(device_statuses_filter(tenant))],
        ..LinkConfig::new(broker.url(), "operator")
    };
    let (handle, mut events): (LinkHandle, LinkEvents) = hedge_link::start(config).expect("a good configuration");
    let mut known: BTreeMap<DeviceId, bool> = BTreeMap::new();
    let count = |known: &BTreeMap<DeviceId, bool>, wanted| known.values().filter(|&&online| online == wanted).count();
    let reading = async {
        while (count(&known, true), count(&known, false)) != (online, offline) {
            match events.next().await {
                Some(LinkEvent::Message(message)) => {
                    let status = DeviceStatus::decode(&message.payload).expect("the fleet's own status");
                    handle.ack(&message);
                    known.insert(status.device, status.online);
                }
                Some(_) => {}
                None => return,
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
    println!("{what}: {} online, {} offline", count(&known, true), count(&known, false));
    handle.close().await;
    in_time
}
