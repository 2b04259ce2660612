//! The field stream: what a cheap camera would see of the digits.
//!
//! A sample is a base image, drawn bilinearly onto a canvas of 16x16 under a random rotation, scale and shift, with a
//! random exposure, on a grey pedestal, with noise whose strength differs from sample to sample; then rounded to bytes.
//! Clean digits would be too easy to need a cloud: the ranges below are chosen so that a few thousand parameters get
//! most samples right, but clearly fewer than many times as many do.
//!
//! The stream is a function of (split, seed, conditions) alone, on every platform: it uses only operations that IEEE 754
//! defines exactly (no sine, no logarithm) and draws from ChaCha8 in a fixed order. Splits of the same seed differ; streams of
//! one split and seed under other [`Conditions`] draw the same random numbers, as long as all digits occur in both.

use std::borrow::Cow;

use hedge_tensor::{DType, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::conditions::{Classes, Conditions};
use super::data::{BASE, BaseImage, LARGEST_GREY, Role, images};

/// Height and width of a sample.
pub const CANVAS: usize = 16;

/// Canvas pixels per pixel of the base image.
const SCALE: (f32, f32) = (1.4, 1.8);
/// The largest shift in canvas pixels, each way.
const SHIFT: f32 = 1.5;
/// The brightness of the ink.
const EXPOSURE: (f32, f32) = (0.6, 1.0);
/// The brightness of the paper.
const PEDESTAL: f32 = 0.1;

/// What samples are drawn for. All but [`Split::Train`] draw from the same base images, so that they are exchangeable,
/// which is what a certificate asks of its calibration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Split {
    /// To train models on; the only split that draws from the training images.
    Train,
    /// To choose thresholds on.
    Tune,
    /// To calibrate certificates on.
    Calibration,
    /// To audit a running system with.
    Audit,
    /// To measure what is reported.
    Test,
}

impl Split {
    /// The name in manifests and on command lines; also what tells the streams of one seed apart.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Tune => "tune",
            Split::Calibration => "calibration",
            Split::Audit => "audit",
            Split::Test => "test",
        }
    }

    fn role(self) -> Role {
        match self {
            Split::Train => Role::Train,
            Split::Tune | Split::Calibration | Split::Audit | Split::Test => Role::Field,
        }
    }
}

/// One request: an image and what it truly shows.
#[derive(Clone, PartialEq, Debug)]
pub struct FieldSample {
    /// The model's input: bytes of shape [1, 1, 16, 16].
    pub image: Tensor,
    /// The digit, 0..9.
    pub label: u8,
    /// The index of the base image in the data set.
    pub base: usize,
}

/// An endless stream of samples.
#[derive(Clone, Debug)]
pub struct FieldStream {
    bases: Cow<'static, [BaseImage]>,
    conditions: Conditions,
    rng: ChaCha8Rng,
}

impl FieldStream {
    /// The stream of `split` and `seed`.
    pub fn new(split: Split, seed: u64) -> Self {
        FieldStream::under(Conditions::default(), split, seed)
    }

    /// The stream of `split` and `seed` under other conditions than those of training.
    pub fn under(conditions: Conditions, split: Split, seed: u64) -> Self {
        let key =
            Sha256::new().chain_update("hedge digits ").chain_update(split.name()).chain_update(seed.to_le_bytes());
        let all = images().of(split.role());
        let occurs = |base: &&BaseImage| conditions.classes.contains(base.label);
        let bases = match conditions.classes {
            Classes::ALL => Cow::Borrowed(all),
            _ => all.iter().filter(occurs).copied().collect(),
        };
        FieldStream { bases, conditions, rng: ChaCha8Rng::from_seed(key.finalize().into()) }
    }

    /// The SHA-256 over the first `count` samples: label and image bytes of each.
    pub fn checksum(self, count: usize) -> [u8; 32] {
        let mut hash = Sha256::new();
        for sample in self.take(count) {
            hash.update([sample.label]);
            hash.update(sample.image.bytes());
        }
        hash.finalize().into()
    }

    /// Uniform in [0, 1), of 24 bits: what an `f32` holds exactly.
    fn unit(&mut self) -> f32 {
        const STEP: f32 = 1.0 / (1 << 24) as f32;
        (self.rng.next_u32() >> 8) as f32 * STEP
    }

    fn within(&mut self, (low, high): (f32, f32)) -> f32 {
        low + (high - low) * self.unit()
    }

    fn base(&mut self) -> BaseImage {
        let count = self.bases.len() as u64;
        // The high half of the product is below `count`; its bias of count / 2^32 is of no account.
        let index = (u64::from(self.rng.next_u32()) * count) >> 32;
        self.bases[index as usize]
    }

    /// Nearly normal with deviation 1: the sum of four uniform numbers (Irwin-Hall), which needs no logarithm.
    fn noise(&mut self) -> f32 {
        const TO_UNIT_DEVIATION: f32 = 1.732_050_8;
        let sum = self.unit() + self.unit() + self.unit() + self.unit();
        (sum - 2.0) * TO_UNIT_DEVIATION
    }

    fn pose(&mut self) -> Pose {
        let tangent = self.within((-self.conditions.half_angle, self.conditions.half_angle));
        let scale = self.within(SCALE);
        let norm = 1.0 + tangent * tangent;
        Pose {
            cos: (1.0 - tangent * tangent) / norm / scale,
            sin: 2.0 * tangent / norm / scale,
            dx: self.within((-SHIFT, SHIFT)),
            dy: self.within((-SHIFT, SHIFT)),
        }
    }
}

impl Iterator for FieldStream {
    type Item = FieldSample;

    fn next(&mut self) -> Option<FieldSample> {
        let base = self.base();
        let pose = self.pose();
        let exposure = self.within(EXPOSURE);
        let deviation = self.within(self.conditions.noise);
        let mut pixels = Vec::with_capacity(CANVAS * CANVAS);
        for y in 0..CANVAS {
            for x in 0..CANVAS {
                let ink = pose.ink(&base, x, y) * exposure;
                let value = PEDESTAL + ink + self.noise() * deviation;
                // A float-to-integer cast saturates, as a sensor does.
                pixels.push((value * 255.0).round() as u8);
            }
        }
        let image = Tensor::new(DType::U8, vec![1, 1, CANVAS, CANVAS], pixels.into())
            .expect("as many pixels as the canvas has");
        Some(FieldSample { image, label: base.label, base: base.index })
    }
}

/// Where a pixel of the canvas lies in the base image: rotation and scale about the centre, then a shift.
struct Pose {
    cos: f32,
    sin: f32,
    dx: f32,
    dy: f32,
}

impl Pose {
    /// The ink at a pixel of the canvas, 0..1.
    fn ink(&self, base: &BaseImage, x: usize, y: usize) -> f32 {
        const CANVAS_CENTRE: f32 = (CANVAS - 1) as f32 / 2.0;
        const BASE_CENTRE: f32 = (BASE - 1) as f32 / 2.0;
        let (u, v) = (x as f32 - CANVAS_CENTRE - self.dx, y as f32 - CANVAS_CENTRE - self.dy);
        bilinear(base, self.cos * u + self.sin * v + BASE_CENTRE, self.cos * v - self.sin * u + BASE_CENTRE)
    }
}

/// The base image between its pixels; white outside.
fn bilinear(base: &BaseImage, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let row = |y| grey(base, left, y) * (1.0 - right_share) + grey(base, left + 1.0, y) * right_share;
    row(top) * (1.0 - bottom_share) + row(top + 1.0) * bottom_share
}

fn grey(base: &BaseImage, x: f32, y: f32) -> f32 {
    const RANGE: std::ops::Range<f32> = 0.0..BASE as f32;
    if !RANGE.contains(&x) || !RANGE.contains(&y) {
        return 0.0;
    }
    f32::from(base.grey[y as usize * BASE + x as usize]) / f32::from(LARGEST_GREY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits::Drift;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_stream_is_the_same_bytes_everywhere() {
        assert_eq!(
            hex(FieldStream::new(Split::Test, 1).checksum(100)),
            "ebb280dc71355cb8d82c697f32d5b4fe7fe0590632db4a92809fe9a9f7c197b4"
        );
        assert_eq!(
            hex(FieldStream::new(Split::Train, 1).checksum(100)),
            "8e7570c403092b0bc9836e03e293e6e47d859db546c951b9f969001d967fb406"
        );
    }

    #[test]
    fn conditions_change_the_images_and_only_those() {
        let calm = |seed| FieldStream::new(Split::Test, seed).take(20).collect::<Vec<_>>();
        let under = |drift: Drift| FieldStream::under(drift.conditions(), Split::Test, 1).take(20).collect::<Vec<_>>();
        assert_eq!(under(Drift::None), calm(1));
        for drift in [Drift::LessNoise, Drift::Rotation, Drift::Noise, Drift::Harmful] {
            let pairs: Vec<_> = calm(1).into_iter().zip(under(drift)).collect();
            assert!(pairs.iter().all(|(calm, other)| calm.base == other.base), "{drift}");
            assert!(pairs.iter().all(|(calm, other)| calm.image != other.image), "{drift}");
        }
    }

    #[test]
    fn only_the_digits_that_occur_are_drawn() {
        let conditions = Conditions { classes: Classes::of(&[4, 9]).unwrap(), ..Conditions::default() };
        let labels: std::collections::HashSet<u8> =
            FieldStream::under(conditions, Split::Audit, 1).take(200).map(|sample| sample.label).collect();
        assert_eq!(labels, [4, 9].into());
    }

    #[test]
    fn splits_and_seeds_give_different_streams() {
        let splits = [Split::Train, Split::Tune, Split::Calibration, Split::Audit, Split::Test];
        let streams = splits.into_iter().flat_map(|split| [FieldStream::new(split, 1), FieldStream::new(split, 2)]);
        let checksums: std::collections::HashSet<_> = streams.map(|stream| stream.checksum(3)).collect();
        assert_eq!(checksums.len(), 2 * splits.len());
    }

    #[test]
    fn only_training_draws_training_images() {
        let bases = |split| FieldStream::new(split, 3).take(2000).map(|sample| sample.base).collect::<Vec<_>>();
        let train: std::collections::HashSet<usize> = bases(Split::Train).into_iter().collect();
        for split in [Split::Tune, Split::Calibration, Split::Audit, Split::Test] {
            assert!(bases(split).iter().all(|base| !train.contains(base)), "{}", split.name());
        }
    }

    #[test]
    fn samples_are_rows_that_vary() {
        let samples: Vec<FieldSample> = FieldStream::new(Split::Tune, 1).take(50).collect();
        for sample in &samples {
            assert_eq!((sample.image.dtype(), sample.image.shape()), (DType::U8, &[1, 1, CANVAS, CANVAS][..]));
            assert!(sample.label < 10);
            let bytes = sample.image.bytes();
            assert!(bytes.iter().max() > bytes.iter().min());
        }
        assert!(samples.windows(2).all(|pair| pair[0].image != pair[1].image));
    }

    #[test]
    fn the_noise_has_mean_0_and_deviation_1() {
        let mut stream = FieldStream::new(Split::Test, 5);
        let noise: Vec<f64> = (0..20_000).map(|_| f64::from(stream.noise())).collect();
        let mean = noise.iter().sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
