//! Sound: samples, frames of samples, or a log-mel spectrogram.

use hedge_bundle::transform::{AudioTransform, Features, Frames, LogMel, MAX_SAMPLES, MelLayout};
use hedge_tensor::{DType, Tensor};
use thiserror::Error;

use super::mel::Mel;

/// Sound that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AudioError {
    /// Not PCM samples.
    #[error("{dtype} {shape:?} is no sound: give FP32 or INT16 as [samples] or [N, samples]")]
    Form {
        /// The type given.
        dtype: DType,
        /// The shape given.
        shape: Vec<usize>,
    },
    /// More samples than may be.
    #[error("the sound has {samples} samples; {MAX_SAMPLES} are allowed")]
    TooLong {
        /// How many.
        samples: usize,
    },
    /// Too few for one frame or window.
    #[error("the sound has {samples} samples; the model needs at least {needed}")]
    TooShort {
        /// How many.
        samples: usize,
        /// How many it takes.
        needed: usize,
    },
    /// A sample that is no number.
    #[error("sample {index} is NaN or an infinity; send finite numbers")]
    NotFinite {
        /// Which.
        index: usize,
    },
}

/// An audio transform.
pub(super) struct Audio {
    samples: Option<usize>,
    channel: bool,
    work: Work,
}

enum Work {
    Samples,
    Frames(Frames),
    Mel(Box<Mel>, MelLayout),
}

/// The sounds that `raw` holds: one, or several of the same length.
pub(super) fn rows(raw: &Tensor) -> Result<Vec<Tensor>, AudioError> {
    let form = || AudioError::Form { dtype: raw.dtype(), shape: raw.shape().to_vec() };
    if !matches!(raw.dtype(), DType::F32 | DType::I16) {
        return Err(form());
    }
    let rows = match *raw.shape() {
        [_] => vec![raw.clone()],
        [_, samples] => {
            let rows = raw.rows().map_err(|_| form())?.into_iter();
            rows.map(|row| row.reshaped(vec![samples]).map_err(|_| form())).collect::<Result<_, _>>()?
        }
        _ => return Err(form()),
    };
    match rows.iter().map(Tensor::len).find(|&samples| samples > MAX_SAMPLES as usize) {
        Some(samples) => Err(AudioError::TooLong { samples }),
        None => Ok(rows),
    }
}

impl Audio {
    pub(super) fn new(transform: &AudioTransform) -> Self {
        let work = match &transform.features {
            Features::Samples(_) => Work::Samples,
            Features::Frames(frames) => Work::Frames(*frames),
            Features::LogMel(mel) => mel_work(mel, transform.sample_rate),
        };
        let samples = transform.samples.map(|samples| samples as usize);
        Audio { samples, channel: transform.channel, work }
    }

    /// The bytes that one row becomes at most.
    pub(super) fn bytes_of_row(&self, rows: &[Tensor]) -> usize {
        let given = rows.iter().map(Tensor::len).max().unwrap_or(0);
        let samples = self.samples.unwrap_or(given);
        let values = match &self.work {
            Work::Samples => samples,
            Work::Frames(frames) => (samples / frames.hop as usize + 1).saturating_mul(frames.length as usize),
            Work::Mel(mel, _) => mel.frames(samples).saturating_mul(mel.bins()),
        };
        values.saturating_mul(size_of::<f32>())
    }

    /// `[1, …]`, with a channel dimension behind the first where the model takes one.
    pub(super) fn apply(&self, row: &Tensor) -> Result<Tensor, AudioError> {
        let mut samples = numbers(row)?;
        if let Some(count) = self.samples {
            samples.resize(count, 0.0);
        }
        let (shape, values) = match &self.work {
            Work::Samples => (vec![samples.len()], samples),
            Work::Frames(frames) => framed(&samples, *frames)?,
            Work::Mel(mel, layout) => spectrogram(&samples, mel, *layout)?,
        };
        let front: &[usize] = if self.channel { &[1, 1] } else { &[1] };
        let shape = [front, &shape].concat();
        Ok(Tensor::from_slice(&shape, &values).expect("as many values as the shape says"))
    }
}

fn mel_work(mel: &LogMel, sample_rate: u32) -> Work {
    Work::Mel(Box::new(Mel::new(mel, sample_rate)), mel.layout)
}

fn numbers(row: &Tensor) -> Result<Vec<f32>, AudioError> {
    if let Some(index) = row.first_non_finite() {
        return Err(AudioError::NotFinite { index });
    }
    let form = |_| AudioError::Form { dtype: row.dtype(), shape: row.shape().to_vec() };
    if row.dtype() == DType::I16 {
        let whole = row.to_vec::<i16>().map_err(form)?;
        return Ok(whole.into_iter().map(|sample| f32::from(sample) / 32_768.0).collect());
    }
    row.to_vec::<f32>().map_err(form)
}

fn framed(samples: &[f32], frames: Frames) -> Result<(Vec<usize>, Vec<f32>), AudioError> {
    let (length, hop) = (frames.length as usize, frames.hop as usize);
    let Some(last) = samples.len().checked_sub(length) else {
        return Err(AudioError::TooShort { samples: samples.len(), needed: length });
    };
    let count = last / hop + 1;
    let pieces = (0..count).flat_map(|frame| &samples[frame * hop..frame * hop + length]);
    Ok((vec![count, length], pieces.copied().collect()))
}

fn spectrogram(samples: &[f32], mel: &Mel, layout: MelLayout) -> Result<(Vec<usize>, Vec<f32>), AudioError> {
    if mel.frames(samples.len()) == 0 {
        return Err(AudioError::TooShort { samples: samples.len(), needed: mel.fewest_samples() });
    }
    let rows = mel.apply(samples);
    let (frames, bins) = (rows.len() / mel.bins(), mel.bins());
    Ok(match layout {
        MelLayout::FramesBins => (vec![frames, bins], rows),
        MelLayout::BinsFrames => {
            let column = |bin: usize| rows.iter().skip(bin).step_by(bins).copied();
            (vec![bins, frames], (0..bins).flat_map(column).collect())
        }
    })
}
