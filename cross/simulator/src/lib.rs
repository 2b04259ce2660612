//! Deterministic simulation of Hedge: the real cores of agent and gateway, over a network, disks and clocks that fail.
//!
//! ```text
//!  callers ── device ×100: Outbox, Row, Upload, CloudView, Router ── disk with barriers, clocks that drift and restart
//!                │ bodies as `hedge-wire` writes them
//!             broker: sessions, shared subscriptions, retained presence, wills ── cuts, black holes, slow and one-way links
//!                │
//!             gateway ×1 or 2: Admission, Uploads ── an engine; killed, cut off, drained, back without a memory
//! ```
//!
//! One seed is one history: some virtual minutes, of which the first ones are full of faults, and the rest is for coming to rest.
//! [`Rule`]s are checked in every step; the first one broken ends the history, and the same seed breaks it again in the same step.
//! Nothing here reads a clock or rolls a die of its own.
//!
//! What is real: everything that decides and every byte on the wire. What is simulated, and therefore not tested: the shells (they do
//! here what the programs' shells do, in small), sled, rumqttc, brokers, models.

mod campaign;
mod clock;
mod counts;
mod device;
mod dice;
mod faults;
mod gateway;
mod id;
mod judge;
mod net;
mod payload;
mod plant;
mod queue;
mod shared;
mod store;
mod weather;
mod world;

pub use campaign::{Campaign, campaign, shrink};
pub use counts::{Counts, Happening};
pub use judge::{Rule, Violation};
pub use plant::Plant;
pub use world::{Outcome, Setup, simulate, trace};
