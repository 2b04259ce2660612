//! What the agent keeps of a route across restarts: the router's own state and what the shell knows beside it.
//!
//! The bytes are a version, 1, then CBOR. They lie in a checked file (`hedge_agent_spool::RouteStore`); bytes that are right
//! and cannot be read are another version's, and the route starts from nothing.

use serde::{Deserialize, Serialize};

use super::history::History;

/// The first byte.
const VERSION: u8 = 1;

/// A route at rest.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The router, by its own encoding.
    pub(crate) router: Vec<u8>,
    pub(crate) history: History,
    /// The subject whose class state was obeyed last, and its version.
    pub(crate) obeyed: Option<([u8; 8], u64)>,
    /// When it was saved: the clock goes on from there.
    pub(crate) unix_secs: u64,
}

impl Saved {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // The router first and as it is: a list of numbers would take twice the space.
        let rest = Beside { history: &self.history, obeyed: self.obeyed, unix_secs: self.unix_secs };
        let rest = minicbor_serde::to_vec(rest).expect("texts and numbers have a CBOR form");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&(self.router.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.router);
        bytes.extend_from_slice(&rest);
        bytes
    }

    /// `None` for what is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk().filter(|_| version == VERSION)?;
        let length = u64::from_le_bytes(*length);
        let (router, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let BesideRead { history, obeyed, unix_secs } = minicbor_serde::from_slice(rest).ok()?;
        Some(Self { router: router.to_vec(), history, obeyed, unix_secs })
    }
}

#[derive(Serialize)]
struct Beside<'a> {
    history: &'a History,
    obeyed: Option<([u8; 8], u64)>,
    unix_secs: u64,
}

#[derive(Deserialize)]
struct BesideRead {
    history: History,
    obeyed: Option<([u8; 8], u64)>,
    unix_secs: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_agent_core::route::Transition;
    use std::time::Duration;

    #[test]
    fn a_route_survives_the_round_trip_and_nothing_else_is_one() {
        let mut history = History::default();
        history.add(&Transition::LabelsDropped { labels: 3 }, 7, Duration::from_secs(9));
        let saved = Saved { router: vec![1, 2, 3], history, obeyed: Some(([7; 8], 4)), unix_secs: 1_780_000_000 };
        let bytes = saved.encode();
        assert_eq!(Saved::decode(&bytes), Some(saved));
        for length in 0..bytes.len() {
            assert_eq!(Saved::decode(&bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(Saved::decode(&[2; 40]), None, "another version");
    }
}
