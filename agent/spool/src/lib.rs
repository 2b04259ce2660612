//! What the agent keeps on disk: durable requests in the [`OutboxStore`], the result [`Cache`], the [`State`] of routing, and the
//! [`SlotFile`]. It is the only crate that names sled.
//!
//! The outbox is the one thing that must not be lost: it survives power cuts, damage and full disks, or names what did not.
//! The slots say which bundles served last, and what time it is at least; they are what a device begins from when everything else
//! is damaged. Both lie apart from the rest.
//!
//! The cache is a copy of work that can be done again: nothing in it is worth a sync, and losing it costs time, never an
//! answer. It must therefore never be the reason why the agent does not start, stalls or answers wrongly: it is bounded
//! in bytes and age, each value carries a checksum over itself and its key, and a database that does not open, panics or
//! has grown too large is deleted and made anew.
//!
//! The state lies in a folder of its own, which damage to the cache does not reach: a snapshot of each model's route, and
//! the audits that wait for the cloud. Damage there costs evidence, never an answer: a route whose snapshot is damaged starts
//! without a certificate.

mod audit;
mod audits;
mod cache;
mod clock;
mod index;
mod key;
mod lock;
mod outbox;
mod pending;
mod replace;
mod routes;
mod slots;
mod snapshot;
mod state;
mod state_writer;
mod store;
mod tensors;
mod value;
mod writer;

pub use audit::{Audit, MAX_AUDIT_BYTES};
pub use audits::{AuditQueue, AuditRefused, AuditStats, Leased, Lost, LostBecause};
pub use cache::{Cache, CacheConfig, CacheError, CacheStats};
pub use key::{DeviceKey, Key, RowDigest};
pub use outbox::{Damage, Found, INLINE_BYTES, Mark, OutboxConfig, OutboxError, OutboxStats, OutboxStore, StoreReport};
pub use routes::{NotSaved, RouteStats, RouteStore, Saving};
pub use slots::{MAX_SLOTS_BYTES, ModelSlots, Slot, SlotDamage, SlotError, SlotFile};
pub use snapshot::{DamagedSnapshot, MAX_SNAPSHOT_BYTES};
pub use state::{State, StateConfig, StateError};
pub use value::{Entry, MAX_VALUE_BYTES};
