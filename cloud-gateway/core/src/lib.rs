//! What a gateway decides, without sockets, threads or a clock: `(state, event, now) -> actions`.
//!
//! A query arrives; the gateway answers at once (known already, busy, refused), or it admits the query, waits for the
//! model and answers then. [`Admission`] decides which; the shell around it decodes, runs models and publishes.
//!
//! ```text
//!             ┌ repeated ──────────────── Ack, Reply (the stored one)
//!  Arrived ───┼ in flight ─────────────── Ack                      the one reply will do for both
//!             ├ wrong, expired, no room ─ Ack, Reply (Refused, Busy)
//!             └ admitted ──────────────── Ack … Submit … Finished … Reply
//! ```
//!
//! A query that does not fit one message is offered, granted and put together by [`Uploads`], and then arrives like any other.
//!
//! [`Pool`] decides, by the evidence of many devices, what they may rely on.
//!
//! # Invariants of admission
//!
//! 1. Every arrival is acknowledged exactly once, in the answer to its own event.
//! 2. Every admitted query gets exactly one reply; every arrival that is not admitted and does not join one gets
//!    exactly one, at once.
//! 3. A query (device and id) is submitted at most once while its reply is remembered; see [`Limits`] for how long. A retry
//!    that is not remembered is run like a new one, and told apart ([`Arrival::Readmitted`]).
//! 4. Everything held is bounded by [`Limits`]: queries by number, bytes and share of one device, replies by number,
//!    bytes and age.
//! 5. An audit is submitted only while no answer waits for its model, and loses its place to an answer that needs it.

mod admission;
mod lane;
mod limits;
mod pool;
mod recent;
#[cfg(test)]
mod tests;
mod upload;

pub use self::{
    admission::{Action, Admission, Arrival, Event, Key, Outcome},
    limits::Limits,
    pool::{
        Ignored, InvalidPool, Pool, PoolAction, PoolCounts, PoolEvent, PoolNote, PoolSettings, RestoreError, Snapshot,
    },
    upload::{PartFault, UploadAction, UploadEvent, UploadLimits, Uploads},
};
