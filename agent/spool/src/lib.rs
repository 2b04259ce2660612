//! What the agent keeps on disk. At present that is the result [`Cache`]; it is the only crate that names sled.
//!
//! The cache is a copy of work that can be done again: nothing in it is worth a sync, and losing it costs time, never an
//! answer. It must therefore never be the reason why the agent does not start, stalls or answers wrongly: it is bounded
//! in bytes and age, each value carries a checksum over itself and its key, and a database that does not open, panics or
//! has grown too large is deleted and made anew.

mod cache;
mod clock;
mod index;
mod key;
mod store;
mod value;
mod writer;

pub use cache::{Cache, CacheConfig, CacheError, CacheStats};
pub use key::{DeviceKey, Key, RowDigest};
pub use value::{Entry, MAX_VALUE_BYTES};
