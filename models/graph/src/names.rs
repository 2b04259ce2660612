//! Maps by names of values. Every pass looks every name up, so they hash faster than the standard library's; seeded anew in
//! each process like those, so that no file can be made beforehand whose names collide.

use foldhash::quality::RandomState;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
pub(crate) type HashSet<K> = std::collections::HashSet<K, RandomState>;
