//! Seeded chance. Each party throws dice of its own, so that what one does leaves the others' luck alone.

use std::ops::Range;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Who throws: the number of its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Weather,
    Broker,
    Path(u16),
    Gateway(u16),
    Device(u16),
}

/// One party's dice.
#[derive(Debug)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(match stream {
            Stream::Weather => 0,
            Stream::Broker => 1,
            Stream::Path(client) => 0x1_0000 + u64::from(client),
            Stream::Gateway(gateway) => 0x2_0000 + u64::from(gateway),
            Stream::Device(device) => 0x3_0000 + u64::from(device),
        });
        Self(generator)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn fraction(&mut self) -> f64 {
        self.0.random()
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_micros(self.0.random_range(range.start * 1000..range.end * 1000))
    }
}
