//! The harness of the tests that run Hedge's programs as they are shipped: each its own process, reached only through its
//! command line, its files, HTTP and MQTT.
//!
//! It is not a place for logic that a program needs, and it links none of the programs' crates, so that what is tested is
//! what a user starts. Ports are chosen by the system, randomness has a seed, and each wait has a bound and says what it
//! waited for.

pub mod binaries;
pub mod broker;
pub mod daemons;
pub mod digits;
pub mod http;
pub mod needs;
pub mod npy;
pub mod program;
pub mod python;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(10);

/// The repository's root folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the repository").to_owned()
}

/// Asks `probe` until it gives something.
///
/// # Panics
///
/// If it still gives nothing after `limit`: `what` is the message.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}
