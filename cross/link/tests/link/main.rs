//! The link against real brokers (the embedded one, and Mosquitto where it is installed) and against one that misbehaves by
//! script. Each trap of rumqttc that `docs/protocol.md` and the crate's documentation speak of is held by a test here.
//!
//! With `mosquitto` in the environment variable `HEDGE_REQUIRE`, a missing Mosquitto fails instead of being skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod contract;
mod embedded;
mod faults;
mod harness;
mod hostile;
mod mosquitto;
mod presence;
mod scripted;
