//! What a test needs beside Rust: used where it is found, said in one line where it is not.
//!
//! `HEDGE_REQUIRE` (words separated by spaces, such as `mosquitto vulkan`) names what may not be missing: there a test
//! fails instead of being skipped. `.ci/run` sets it to everything that it has installed.

use std::io::Write;

/// Passes `found` on. Where there is none, says in one line that the test was skipped.
///
/// # Panics
///
/// If `what` is missing and `HEDGE_REQUIRE` names it.
pub fn need<T>(what: &str, get: &str, found: Option<T>) -> Option<T> {
    if found.is_some() {
        return found;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(!is_required(what), "{what} is missing, but HEDGE_REQUIRE names it; get it with: {get}");
    // Past libtest's capture: a skipped test is not to look like one that passed.
    let _ = writeln!(std::io::stderr().lock(), "skipped {test}: needs {what} ({get})");
    None
}

/// Whether `HEDGE_REQUIRE` names `what`.
#[must_use]
pub fn is_required(what: &str) -> bool {
    std::env::var("HEDGE_REQUIRE").is_ok_and(|words| words.split_whitespace().any(|word| word == what))
}
