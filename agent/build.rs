//! Tells the program when it was built: the time by which signed things are judged is never before that.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // https://reproducible-builds.org/specs/source-date-epoch/
    let told = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|secs| secs.parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo::rustc-env=HEDGE_BUILT_AT={}", told.unwrap_or_else(now));
}
