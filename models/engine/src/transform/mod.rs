//! Input transforms at work: raw bytes in, a model's tensors out, the same on every machine.
//!
//! A bundle's manifest says what is done ([`hedge_bundle::transform`]); a [`Pipeline`] does it. What a caller gives is a *raw
//! input*, in one of these forms ([`RawKind`]):
//!
//! | kind | a row (one sample) | several rows at once |
//! | --- | --- | --- |
//! | tensor | what the model takes | the same with more rows |
//! | image | `UINT8 [bytes]`: a JPEG or PNG file | `UINT8 [H, W, C]` or `[N, H, W, C]`: pixels, C = 1 (gray) or 3 (RGB) |
//! | text | `UINT8 [bytes]`: UTF-8 | |
//! | pcm | `FP32` or `INT16 [samples]` | the same as `[N, samples]` |
//!
//! `hedge_tensor` has no element type for byte strings, so an element of an Open Inference Protocol `BYTES` tensor is
//! one `UINT8 [bytes]` tensor here; N elements are N rows for [`Pipeline::apply_rows`], which makes one batch of them.
//!
//! Everything is bounded: files, pixels, text, samples, rows and what comes of them. Nothing depends on time, threads or chance.

mod audio;
mod image;
mod mel;
mod resample;
mod text;

use hedge_bundle::{Bundle, FileName, Transform};
use hedge_tensor::{DType, NamedTensor, Tensor, TensorError};
use thiserror::Error;

use crate::{Port, Signature};

pub use self::audio::AudioError;
pub use self::image::ImageError;
pub use self::text::TextError;

/// The most rows of one call.
pub const MAX_ROWS: usize = 4096;
/// The most bytes that a call may make.
pub const MAX_OUTPUT_BYTES: usize = 1 << 30;

/// A bundle's transforms, ready to run.
pub struct Pipeline {
    inputs: Vec<Step>,
}

/// What a caller gives for one input.
#[derive(Clone, PartialEq, Debug)]
pub struct RawPort {
    /// The input's name in the manifest.
    pub name: String,
    /// What it is made of.
    pub kind: RawKind,
}

/// What a raw input is made of.
#[derive(Clone, PartialEq, Debug)]
pub enum RawKind {
    /// The model's own input: there is no transform.
    Tensor(Port),
    /// An image file, or pixels.
    Image,
    /// Text.
    Text,
    /// Samples of one channel of sound.
    Pcm {
        /// Samples a second.
        sample_rate: u32,
    },
}

/// Why raw inputs did not become a model's inputs.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TransformError {
    /// A transform cannot be set up.
    #[error("the transform of input {input:?} cannot be used: {why}")]
    Setup {
        /// Which input.
        input: String,
        /// What is wrong.
        why: String,
    },
    /// An input is missing, unknown or given twice.
    #[error("input {name:?} is {what}; the model takes {takes}")]
    Inputs {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: &'static str,
        /// What there is.
        takes: String,
    },
    /// More rows than a call may have.
    #[error("{rows} rows were given, {MAX_ROWS} are allowed; send them in parts")]
    TooManyRows {
        /// How many.
        rows: usize,
    },
    /// What comes of the rows is too large.
    #[error("input {input:?} makes more than {MAX_OUTPUT_BYTES} bytes of {rows} rows; send them in parts")]
    TooLarge {
        /// Which input.
        input: String,
        /// How many.
        rows: usize,
    },
    /// One row cannot be transformed.
    #[error("row {row} of input {input:?}: {why}")]
    Row {
        /// Which input.
        input: String,
        /// Which row, from 0.
        row: usize,
        /// What is wrong with it.
        why: RowError,
    },
    /// Rows do not become one tensor.
    #[error("the rows of input {input:?} do not fit together: {why}")]
    Stack {
        /// Which input.
        input: String,
        /// Why.
        why: TensorError,
    },
}

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RowError {
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Sound.
    #[error(transparent)]
    Audio(#[from] AudioError),
}

/// One input of the manifest and what is done with it.
struct Step {
    port: RawPort,
    work: Work,
}

enum Work {
    Pass,
    Image(image::Image),
    Text(Box<text::Text>),
    Audio(audio::Audio),
}

impl Pipeline {
    /// Sets up the transforms of `bundle`.
    pub fn new(bundle: &Bundle) -> Result<Pipeline, TransformError> {
        let signature = Signature::of(&bundle.graph);
        let inputs = bundle.manifest.inputs.iter();
        let step = |input: &hedge_bundle::Input| {
            let fail = |why| TransformError::Setup { input: input.name.clone(), why };
            let asset = |name: &FileName| {
                let bytes = bundle.asset(name).map(AsRef::as_ref);
                bytes.ok_or_else(|| format!("its file {name} is not in the bundle"))
            };
            let (kind, work) = match &input.transform {
                None => (RawKind::Tensor(port(&signature, &input.name)?), Work::Pass),
                Some(transform) => set_up(transform, asset).map_err(fail)?,
            };
            Ok(Step { port: RawPort { name: input.name.clone(), kind }, work })
        };
        Ok(Pipeline { inputs: inputs.map(step).collect::<Result<_, TransformError>>()? })
    }

    /// What callers give, in the order of the manifest.
    pub fn signature(&self) -> Vec<&RawPort> {
        self.inputs.iter().map(|step| &step.port).collect()
    }

    /// Whether any input is transformed; else raw inputs are the model's.
    pub fn is_identity(&self) -> bool {
        self.inputs.iter().all(|step| matches!(step.work, Work::Pass))
    }

    /// Makes the model's inputs of one sample, or of several where raw tensors hold several rows. Names come in any order.
    pub fn apply(&self, raw: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, TransformError> {
        self.apply_rows(vec![raw])
    }

    /// Makes the model's inputs, one batch, of samples.
    pub fn apply_rows(&self, samples: Vec<Vec<NamedTensor>>) -> Result<Vec<NamedTensor>, TransformError> {
        if samples.len() > MAX_ROWS {
            return Err(TransformError::TooManyRows { rows: samples.len() });
        }
        let mut columns: Vec<Vec<Tensor>> = self.inputs.iter().map(|_| Vec::with_capacity(samples.len())).collect();
        for sample in samples {
            self.arrange(sample, &mut columns)?;
        }
        let mut outputs = Vec::new();
        for (step, rows) in self.inputs.iter().zip(&columns) {
            outputs.extend(step.run(rows)?);
        }
        Ok(outputs)
    }

    /// Makes the model's inputs, one batch, of what is given for each input: its raw tensors one after the other, each of
    /// one row or several. Names come in any order.
    pub fn apply_columns(&self, given: Vec<(String, Vec<Tensor>)>) -> Result<Vec<NamedTensor>, TransformError> {
        let mut columns: Vec<Option<Vec<Tensor>>> = self.inputs.iter().map(|_| None).collect();
        for (name, tensors) in given {
            if tensors.len() > MAX_ROWS {
                return Err(TransformError::TooManyRows { rows: tensors.len() });
            }
            let Some(index) = self.inputs.iter().position(|step| step.port.name == name) else {
                return Err(self.wrong(name, "not one of the model's"));
            };
            if columns[index].replace(tensors).is_some() {
                return Err(self.wrong(name, "given twice"));
            }
        }
        let mut outputs = Vec::new();
        for (step, column) in self.inputs.iter().zip(columns) {
            let column = column.ok_or_else(|| self.wrong(step.port.name.clone(), "missing"))?;
            outputs.extend(step.run(&column)?);
        }
        Ok(outputs)
    }

    /// Puts one sample's inputs into the columns of their names.
    fn arrange(&self, sample: Vec<NamedTensor>, columns: &mut [Vec<Tensor>]) -> Result<(), TransformError> {
        let before: Vec<usize> = columns.iter().map(Vec::len).collect();
        for input in sample {
            let Some(index) = self.inputs.iter().position(|step| step.port.name == input.name) else {
                return Err(self.wrong(input.name, "not one of the model's"));
            };
            if columns[index].len() > before[index] {
                return Err(self.wrong(input.name, "given twice"));
            }
            columns[index].push(input.tensor);
        }
        match columns.iter().zip(&before).position(|(column, &before)| column.len() == before) {
            Some(index) => Err(self.wrong(self.inputs[index].port.name.clone(), "missing")),
            None => Ok(()),
        }
    }

    fn wrong(&self, name: String, what: &'static str) -> TransformError {
        let takes = self.inputs.iter().map(|step| format!("{:?} ({})", step.port.name, step.port.kind));
        TransformError::Inputs { name, what, takes: takes.collect::<Vec<_>>().join(", ") }
    }
}

impl std::fmt::Display for RawKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RawKind::Tensor(port) => write!(f, "{} {}", port.dtype, port.shape_text()),
            RawKind::Image => f.write_str("a JPEG or PNG file as UINT8 [bytes], or pixels as UINT8 [H, W, C]"),
            RawKind::Text => f.write_str("UTF-8 text as UINT8 [bytes]"),
            RawKind::Pcm { sample_rate } => write!(f, "sound at {sample_rate} Hz as FP32 or INT16 [samples]"),
        }
    }
}

fn set_up<'a>(
    transform: &Transform,
    asset: impl Fn(&FileName) -> Result<&'a [u8], String>,
) -> Result<(RawKind, Work), String> {
    // A manifest was checked when it was read; one that was made in code may not have been.
    transform.check()?;
    Ok(match transform {
        Transform::Image(image) => (RawKind::Image, Work::Image(image::Image::new(image))),
        Transform::Text(text) => (RawKind::Text, Work::Text(Box::new(text::Text::new(text, asset(&text.tokenizer)?)?))),
        Transform::Audio(audio) => {
            (RawKind::Pcm { sample_rate: audio.sample_rate }, Work::Audio(audio::Audio::new(audio)))
        }
    })
}

fn port(signature: &Signature, name: &str) -> Result<Port, TransformError> {
    let missing = || TransformError::Setup { input: name.to_owned(), why: "the model has no such input".to_owned() };
    signature.input(name).cloned().ok_or_else(missing)
}

impl Step {
    /// Makes one batch of the samples' raw tensors.
    fn run(&self, raw: &[Tensor]) -> Result<Vec<NamedTensor>, TransformError> {
        let name = &self.port.name;
        let outputs = match &self.work {
            Work::Pass => vec![(name.as_str(), self.stack(raw)?)],
            Work::Image(image) => {
                let rows = self.rows(raw, |tensor| Ok(image::rows(tensor)?))?;
                self.bounded(rows.len(), image.bytes_of_row(&rows))?;
                vec![(name.as_str(), self.stack(&self.each(&rows, |row| Ok(image.apply(row)?))?)?)]
            }
            Work::Audio(audio) => {
                let rows = self.rows(raw, |tensor| Ok(audio::rows(tensor)?))?;
                self.bounded(rows.len(), audio.bytes_of_row(&rows))?;
                vec![(name.as_str(), self.stack(&self.each(&rows, |row| Ok(audio.apply(row)?))?)?)]
            }
            Work::Text(text) => {
                self.bounded(raw.len(), text.bytes_of_row())?;
                text.batch(&self.each(raw, |row| Ok(text.encode(row)?))?)
            }
        };
        Ok(outputs.into_iter().map(|(name, tensor)| NamedTensor::new(name, tensor)).collect())
    }

    /// The rows of all samples, those that hold several taken apart.
    fn rows<R>(
        &self,
        raw: &[Tensor],
        rows: impl Fn(&Tensor) -> Result<Vec<R>, RowError>,
    ) -> Result<Vec<R>, TransformError> {
        let mut all = Vec::with_capacity(raw.len());
        for tensor in raw {
            all.extend(rows(tensor).map_err(|why| self.row(all.len(), why))?);
            if all.len() > MAX_ROWS {
                return Err(TransformError::TooManyRows { rows: all.len() });
            }
        }
        Ok(all)
    }

    fn each<R, T>(&self, rows: &[R], apply: impl Fn(&R) -> Result<T, RowError>) -> Result<Vec<T>, TransformError> {
        rows.iter().enumerate().map(|(index, row)| apply(row).map_err(|why| self.row(index, why))).collect()
    }

    fn row(&self, row: usize, why: RowError) -> TransformError {
        TransformError::Row { input: self.port.name.clone(), row, why }
    }

    fn stack(&self, rows: &[Tensor]) -> Result<Tensor, TransformError> {
        match rows {
            // One sample of a model without a batch may have no dimensions at all.
            [only] => Ok(only.clone()),
            rows => Tensor::stack(rows).map_err(|why| TransformError::Stack { input: self.port.name.clone(), why }),
        }
    }

    fn bounded(&self, rows: usize, bytes_of_row: usize) -> Result<(), TransformError> {
        if rows.checked_mul(bytes_of_row).is_some_and(|bytes| bytes <= MAX_OUTPUT_BYTES) {
            return Ok(());
        }
        Err(TransformError::TooLarge { input: self.port.name.clone(), rows })
    }
}

/// A tensor of `f32` values as `dtype`, which is a float type.
fn float_tensor(dtype: DType, shape: &[usize], values: &[f32]) -> Result<Tensor, TensorError> {
    if dtype == DType::F16 {
        let halves: Vec<half::f16> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
        return Tensor::from_slice(shape, &halves);
    }
    Tensor::from_slice(shape, values)
}
