//! Streams of requests to simulate with: pools with a known truth, mixed so that the truth is what is wanted.

use crate::{Contract, Grid, Labelled};

/// Requests that a run draws from with replacement, reduced to what a monitor sees of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    requests: Vec<Request>,
    accepted: u64,
    differing: u64,
}

/// One request of a pool: four bytes, so that pools stay in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Its bin in the grid.
    pub(crate) bin: u16,
    /// Whether it is answered locally.
    pub(crate) local: bool,
    /// Whether the local answer would differ from the cloud's.
    pub(crate) differs: bool,
}

/// A calm pool and a share of requests from a drifted one.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    base: &'a Pool,
    drifted: &'a Pool,
    weight: f64,
}

/// A pool or a mixture that cannot be made.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum StreamError {
    /// There is nothing to draw.
    #[error("a pool needs 1 to 4294967295 requests, not {0}")]
    Size(usize),
    /// The drifted pool does not differ often enough for the risk that is wanted, or the calm one differs too often.
    #[error("no mixture of risks {base} and {drifted} has risk {wanted}: use a drift that differs more often")]
    OutOfReach {
        /// Risk of the calm pool.
        base: f64,
        /// Risk of the drifted pool.
        drifted: f64,
        /// The risk that was asked for.
        wanted: f64,
    },
}

impl Pool {
    /// The pool of `labels` where scores of at least `threshold` are answered locally and `grid` is the certificate's.
    ///
    /// # Errors
    ///
    /// When there is no label, or more than 2^32 - 1.
    pub fn new(labels: &[Labelled], grid: &Grid, threshold: f32) -> Result<Self, StreamError> {
        if labels.is_empty() || u32::try_from(labels.len()).is_err() {
            return Err(StreamError::Size(labels.len()));
        }
        let requests: Vec<Request> = labels
            .iter()
            .map(|label| Request {
                bin: grid.bin(label.score) as u16,
                local: label.score >= threshold,
                differs: label.differs,
            })
            .collect();
        Ok(Self::of(requests))
    }

    /// Only those of its requests whose local answer differs; `None` where there are none.
    #[must_use]
    pub fn differing_only(&self) -> Option<Self> {
        let requests: Vec<Request> =
            self.requests.iter().copied().filter(|request| request.local && request.differs).collect();
        (!requests.is_empty()).then(|| Self::of(requests))
    }

    fn of(requests: Vec<Request>) -> Self {
        let accepted = requests.iter().filter(|request| request.local).count() as u64;
        let differing = requests.iter().filter(|request| request.local && request.differs).count() as u64;
        Self { requests, accepted, differing }
    }

    /// The true risk: the fraction that the contract names, in the pool.
    #[must_use]
    pub fn risk(&self, contract: Contract) -> f64 {
        contract.risk(self.differing, self.accepted, self.requests.len() as u64)
    }

    /// The fraction of its requests that are answered locally.
    #[must_use]
    pub fn local_share(&self) -> f64 {
        self.accepted as f64 / self.requests.len() as f64
    }

    fn differing_share(&self) -> f64 {
        self.differing as f64 / self.requests.len() as f64
    }

    /// How much the contract's fraction exceeds `risk`, in units of a request: negative below, 0 at it. Linear in mixtures.
    fn excess(&self, contract: Contract, risk: f64) -> f64 {
        match contract {
            Contract::System => self.differing_share() - risk,
            Contract::Local => self.differing_share() - risk * self.local_share(),
        }
    }
}

impl<'a> Stream<'a> {
    /// A stream of one pool.
    #[must_use]
    pub fn of(pool: &'a Pool) -> Self {
        Self { base: pool, drifted: pool, weight: 0.0 }
    }

    /// The mixture of two pools whose risk is exactly `risk` under the contract.
    ///
    /// # Errors
    ///
    /// When `risk` does not lie between the risks of the two.
    pub fn with_risk(base: &'a Pool, drifted: &'a Pool, contract: Contract, risk: f64) -> Result<Self, StreamError> {
        let (below, above) = (-base.excess(contract, risk), drifted.excess(contract, risk));
        let weight = below / (below + above);
        if below >= 0.0 && above >= 0.0 && weight.is_finite() {
            return Ok(Self { base, drifted, weight });
        }
        Err(StreamError::OutOfReach { base: base.risk(contract), drifted: drifted.risk(contract), wanted: risk })
    }

    /// The share of requests from the drifted pool, 0..1.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The true risk of the stream.
    #[must_use]
    pub fn risk(&self, contract: Contract) -> f64 {
        let differing = self.mean(Pool::differing_share);
        match contract {
            Contract::System => differing,
            Contract::Local if differing > 0.0 => differing / self.local_share(),
            Contract::Local => 0.0,
        }
    }

    /// The fraction of requests that are answered locally.
    #[must_use]
    pub fn local_share(&self) -> f64 {
        self.mean(Pool::local_share)
    }

    /// Draws a request with 64 random bits: half of them choose the pool, half the request.
    pub(crate) fn draw(&self, bits: u64) -> Request {
        let (high, low) = (bits >> 32, bits & 0xffff_ffff);
        let drifted = (high as f64) < self.weight * 4_294_967_296.0;
        let requests = if drifted { &self.drifted.requests } else { &self.base.requests };
        // Multiplying by the length maps the low bits evenly, up to one part in 2^32 / length.
        requests[((low * requests.len() as u64) >> 32) as usize]
    }

    fn mean(&self, of: impl Fn(&Pool) -> f64) -> f64 {
        self.weight * of(self.drifted) + (1.0 - self.weight) * of(self.base)
    }
}

/// SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014): a counter that is
/// hashed. One run needs 400,000 numbers, and a stream of its own that depends on nothing but seed, scenario and run.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of one run.
    pub(crate) fn of(seed: u64, scenario: u64, run: u64) -> Self {
        let mut state = Self(seed);
        for part in [scenario, run] {
            state = Self(state.next() ^ part);
        }
        Self(state.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on 0..1, 1 excluded, in steps of 2^-53.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / 9_007_199_254_740_992.0
    }
}
