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
pub mod durable;
pub mod http;
pub mod needs;
pub mod npy;
#[cfg(target_os = "linux")]
pub mod process;
pub mod program;
pub mod proxy;
pub mod python;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(10);

/// The repository's root folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the repository").to_owned()
}

/// Tells the figures of a long run, past libtest's capture: whoever asks for it wants them.
pub fn say(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A number that a variable of the environment may give, which makes a run a long one.
///
/// # Panics
///
/// If it is there and no number.
#[must_use]
pub fn asked(variable: &str) -> Option<usize> {
    let asked = std::env::var(variable).ok()?;
    Some(asked.parse().unwrap_or_else(|_| panic!("{variable} is {asked:?}, not a number")))
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
