//! Log-mel spectrograms.
//!
//! All sums are in 64-bit floats with a scalar Fourier transform, so that machines with other vector units give the same
//! result but for the last bit of a rounding to 32 bits.
//!
//! Sources: S. Davis, P. Mermelstein, 1980 (mel spectra); M. Slaney, Auditory Toolbox, 1998; the HTK Book, 3.4, 5.4.

use std::sync::Arc;

use hedge_bundle::transform::{Edges, Log, LogMel, MelScale, Window};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlannerScalar};

/// Where Slaney's scale turns from linear to logarithmic, in Hz.
const BREAK_HZ: f64 = 1000.0;
/// Hz of a mel below.
const LINEAR_HZ: f64 = 200.0 / 3.0;
/// The logarithm of the factor between mels above: 27 of them from 1 to 6.4 kHz.
const LOG_STEP: f64 = 1.856_297_990_365_626_2 / 27.0;

/// A spectrogram of given measures.
pub(super) struct Mel {
    transform: LogMel,
    window: Vec<f64>,
    /// Of each bin: the first frequency that counts, and the weights from there on.
    filters: Vec<(usize, Vec<f64>)>,
    fft: Arc<dyn Fft<f64>>,
}

impl Mel {
    pub(super) fn new(transform: &LogMel, sample_rate: u32) -> Self {
        Mel {
            window: window(transform.shape, transform.window as usize),
            filters: filters(transform, f64::from(sample_rate)),
            fft: FftPlannerScalar::new().plan_fft_forward(transform.n_fft as usize),
            transform: transform.clone(),
        }
    }

    pub(super) fn bins(&self) -> usize {
        self.filters.len()
    }

    /// The fewest samples that make a frame.
    pub(super) fn fewest_samples(&self) -> usize {
        match self.transform.pad {
            Edges::Inside => self.window.len(),
            Edges::Zeros => 1,
            // Mirroring takes that many on each side, without the one in the middle.
            Edges::Reflect => self.n_fft() / 2 + 1,
        }
    }

    /// The frames that `samples` samples make; 0 where they are too few.
    pub(super) fn frames(&self, samples: usize) -> usize {
        if samples < self.fewest_samples() {
            return 0;
        }
        let padded = match self.transform.pad {
            Edges::Inside => samples - self.window.len(),
            Edges::Zeros | Edges::Reflect => samples + 2 * (self.n_fft() / 2) - self.n_fft(),
        };
        padded / self.transform.hop as usize + 1
    }

    /// `[frames, bins]`
    pub(super) fn apply(&self, samples: &[f32]) -> Vec<f32> {
        let zero = Complex::new(0.0, 0.0);
        let mut buffer = vec![zero; self.n_fft()];
        let mut scratch = vec![zero; self.fft.get_inplace_scratch_len()];
        let frames = self.frames(samples.len());
        let mut values = Vec::with_capacity(frames * self.bins());
        for frame in 0..frames {
            self.fill(samples, frame, &mut buffer);
            self.fft.process_with_scratch(&mut buffer, &mut scratch);
            let half = &buffer[..=self.n_fft() / 2];
            let spectrum: Vec<f64> = half.iter().map(|value| self.strength(value.norm_sqr())).collect();
            values.extend(self.filters.iter().map(|filter| self.logarithm(filtered(&spectrum, filter))));
        }
        values
    }

    /// The windowed samples of one frame. Where in the buffer they stand turns phases only, which nobody looks at.
    fn fill(&self, samples: &[f32], frame: usize, buffer: &mut [Complex<f64>]) {
        let lead = match self.transform.pad {
            Edges::Inside => 0,
            Edges::Zeros | Edges::Reflect => self.n_fft() / 2 - (self.n_fft() - self.window.len()) / 2,
        };
        let start = frame * self.transform.hop as usize;
        buffer.fill(Complex::new(0.0, 0.0));
        for (index, (value, weight)) in buffer.iter_mut().zip(&self.window).enumerate() {
            value.re = weight * self.sample(samples, start + index, lead);
        }
    }

    /// The sample at `index - lead`, or what stands there outside of the sound.
    fn sample(&self, samples: &[f32], index: usize, lead: usize) -> f64 {
        let last = samples.len() - 1;
        let at = match (index.checked_sub(lead), self.transform.pad) {
            (Some(at), _) if at <= last => at,
            (_, Edges::Inside | Edges::Zeros) => return 0.0,
            (None, Edges::Reflect) => lead - index,
            (Some(at), Edges::Reflect) => (2 * last).saturating_sub(at),
        };
        samples.get(at).map_or(0.0, |&sample| f64::from(sample))
    }

    fn strength(&self, power: f64) -> f64 {
        if self.transform.power == 2 { power } else { power.sqrt() }
    }

    fn logarithm(&self, value: f64) -> f32 {
        let floor = f64::from(self.transform.floor);
        let log = match self.transform.log {
            Log::Ln => value.max(floor).ln(),
            Log::LnPlus => (value + floor).ln(),
            Log::Log10 => value.max(floor).log10(),
            Log::Db => 10.0 * value.max(floor).log10(),
        };
        log as f32
    }

    fn n_fft(&self) -> usize {
        self.transform.n_fft as usize
    }
}

fn filtered(spectrum: &[f64], (first, weights): &(usize, Vec<f64>)) -> f64 {
    spectrum[*first..].iter().zip(weights).map(|(value, weight)| value * weight).sum()
}

fn window(shape: Window, length: usize) -> Vec<f64> {
    let cosine = |index: usize| (std::f64::consts::TAU * index as f64 / length as f64).cos();
    let value = |index| match shape {
        Window::Hann => 0.5 - 0.5 * cosine(index),
        Window::Hamming => 0.54 - 0.46 * cosine(index),
        Window::Rectangular => 1.0,
    };
    (0..length).map(value).collect()
}

/// A triangle a bin, from the centre of the one below to the centre of the one above.
fn filters(transform: &LogMel, sample_rate: f64) -> Vec<(usize, Vec<f64>)> {
    let scale = transform.scale;
    let high = transform.high_hz.map_or(sample_rate / 2.0, f64::from);
    let (low, high) = (to_mel(f64::from(transform.low_hz), scale), to_mel(high, scale));
    let bins = transform.bins as usize;
    let step = (high - low) / (bins + 1) as f64;
    let edge = |index: usize| to_hz(low + step * index as f64, scale);
    let filter = |bin: usize| {
        let (left, centre, right) = (edge(bin), edge(bin + 1), edge(bin + 2));
        let height = if transform.area_norm { 2.0 / (right - left) } else { 1.0 };
        let weight = |index: usize| {
            let hz = index as f64 * sample_rate / f64::from(transform.n_fft);
            height * ((hz - left) / (centre - left)).min((right - hz) / (right - centre)).max(0.0)
        };
        let weights: Vec<f64> = (0..=transform.n_fft as usize / 2).map(weight).collect();
        // A bin may lie between two frequencies: then it has no weights.
        let first = weights.iter().position(|&weight| weight > 0.0).unwrap_or(0);
        let end = weights.iter().rposition(|&weight| weight > 0.0).map_or(first, |last| last + 1);
        (first, weights[first..end].to_vec())
    };
    (0..bins).map(filter).collect()
}

fn to_mel(hz: f64, scale: MelScale) -> f64 {
    match scale {
        MelScale::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
        MelScale::Slaney if hz < BREAK_HZ => hz / LINEAR_HZ,
        MelScale::Slaney => BREAK_HZ / LINEAR_HZ + (hz / BREAK_HZ).ln() / LOG_STEP,
    }
}

fn to_hz(mel: f64, scale: MelScale) -> f64 {
    let turn = BREAK_HZ / LINEAR_HZ;
    match scale {
        MelScale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        MelScale::Slaney if mel < turn => mel * LINEAR_HZ,
        MelScale::Slaney => BREAK_HZ * ((mel - turn) * LOG_STEP).exp(),
    }
}
