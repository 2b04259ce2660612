//! Input transforms as data: how the raw bytes that a caller has become the tensors that a model takes.
//!
//! They stand in the manifest, so that edge and cloud make the same tensors of the same bytes and a certificate can name
//! them. What they compute, to the rounding, is said at each; `hedge_engine::transform` executes them.
//!
//! ```json
//! {"kind": "image", "color": "rgb", "steps": [{"step": "resize-shorter", "side": 256}, {"step": "center-crop", "width": 224, "height": 224}],
//!  "layout": "nchw", "scale": 0.003921569, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
//! {"kind": "text", "tokenizer": "tokenizer.json", "max_tokens": 128, "ids": "input_ids", "mask": "attention_mask"}
//! {"kind": "audio", "sample_rate": 16000, "features": {"kind": "log-mel", "n_fft": 400, "window": 400, "hop": 160, "bins": 80}}
//! ```

use hedge_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::FileName;

/// The largest side of an image that a model takes, in pixels.
pub const MAX_SIDE: u32 = 4096;
/// The most geometric steps of an image.
pub const MAX_STEPS: usize = 8;
/// The most tokens of a row.
pub const MAX_TOKENS: u32 = 32_768;
/// The longest Fourier transform.
pub const MAX_FFT: u32 = 16_384;
/// The most mel bins.
pub const MAX_BINS: u32 = 512;
/// The most samples of a row of sound.
pub const MAX_SAMPLES: u32 = 1 << 25;

/// How raw bytes become tensors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Transform {
    /// A JPEG or PNG file, or pixels.
    Image(ImageTransform),
    /// UTF-8 text.
    Text(TextTransform),
    /// Sound as PCM samples.
    Audio(AudioTransform),
}

/// An image becomes `[N, C, H, W]` or `[N, H, W, C]`.
///
/// In this order: decode to 8 bits a channel (EXIF orientation and colour profiles are ignored; an alpha channel is
/// dropped), colour, the steps, `(pixel * scale - mean) / std`, element type, layout.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTransform {
    /// The channels that the model takes.
    #[serde(default)]
    pub color: Color,
    /// What is done to the image's size, in order.
    #[serde(default)]
    pub steps: Vec<ImageStep>,
    /// The order of dimensions.
    #[serde(default)]
    pub layout: Layout,
    /// What pixels (0..=255) are multiplied by.
    #[serde(default = "one")]
    pub scale: f32,
    /// Subtracted after scaling: one value, or one a channel in the model's order; empty: none.
    #[serde(default)]
    pub mean: Vec<f32>,
    /// Divided by after that: one value, or one a channel in the model's order; empty: none.
    #[serde(default)]
    pub std: Vec<f32>,
    /// The element type: `FP32`, `FP16`, or `UINT8` for pixels as they are.
    #[serde(default = "f32_type", with = "dtype")]
    pub dtype: DType,
}

/// The channels of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Color {
    /// Red, green, blue; of a gray image three times the same.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel: `(19595 R + 38470 G + 7471 B + 32768) / 65536`, the ITU-R 601 luma as PIL rounds it.
    Gray,
}

/// Where the channels stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[N, C, H, W]`
    #[default]
    Nchw,
    /// `[N, H, W, C]`
    Nhwc,
}

/// A change of an image's size; pixels stay 8 bits between steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageStep {
    /// To this size, whatever the proportions.
    Resize {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// How new pixels are made of old ones.
        #[serde(default)]
        filter: Filter,
    },
    /// Keeping proportions, until the shorter side is `side` long; the longer one is rounded down (torchvision's
    /// `Resize(side)`).
    ResizeShorter {
        /// Pixels.
        side: u32,
        /// How new pixels are made of old ones.
        #[serde(default)]
        filter: Filter,
    },
    /// The middle; black is added where the image is smaller (torchvision's `CenterCrop`: half a pixel goes to even).
    CenterCrop {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Keeping proportions, as large as fits in, with a border of `fill` around; an odd border is wider at the right and
    /// at the bottom.
    Letterbox {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// The border's value in every channel.
        #[serde(default)]
        fill: u8,
        /// How new pixels are made of old ones.
        #[serde(default)]
        filter: Filter,
    },
}

/// How pixels are resampled. Pixels have half-pixel centres in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The pixel under the new one's centre, rounded down (PIL's `NEAREST`).
    Nearest,
    /// Between the four nearest pixels, also when shrinking, in exact arithmetic, halves up (OpenCV's `INTER_LINEAR`,
    /// within its rounding of 1; torch's `interpolate(antialias=False)`).
    Bilinear,
    /// A triangle as wide as a new pixel, along rows and then along columns, each time rounded to 8 bits: PIL's `BILINEAR`,
    /// exactly (torchvision's default). Pillow 13 begins with columns where that is less work, and then differs by 1 here
    /// and there.
    #[default]
    BilinearAntialias,
}

/// Text becomes `[N, tokens]` of ids, with a mask and types where the model takes them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTransform {
    /// The bundle's file with the tokenizer (WordPiece, BPE, Unigram) in Hugging Face's JSON form.
    pub tokenizer: FileName,
    /// Tokens of a row at most, special ones included; what is beyond is cut off at the end.
    pub max_tokens: u32,
    /// The text of a row at most, in bytes; more is refused.
    #[serde(default = "max_text_bytes")]
    pub max_bytes: u32,
    /// How rows become equally long.
    #[serde(default)]
    pub pad: Pad,
    /// The token that fills.
    #[serde(default = "pad_token")]
    pub pad_token: String,
    /// Whether the tokenizer adds its special tokens (`[CLS]`, `[SEP]`).
    #[serde(default = "yes")]
    pub special_tokens: bool,
    /// The model's input for ids.
    pub ids: String,
    /// The model's input for the mask: 1 for tokens, 0 for filling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The model's input for token types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<String>,
    /// The element type of all of them: `INT64` or `INT32`.
    #[serde(default = "i64_type", with = "dtype")]
    pub dtype: DType,
}

/// How rows of tokens become equally long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pad {
    /// As long as the longest row of the batch.
    #[default]
    Longest,
    /// `max_tokens` long.
    Max,
}

/// PCM sound becomes samples, frames or a log-mel spectrogram, 32-bit floats.
///
/// Samples are `FP32` in -1..1, or `INT16`, which is divided by 32,768. One channel; whoever records converts the rate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioTransform {
    /// Samples a second that the model was made for.
    pub sample_rate: u32,
    /// Samples of a row: shorter ones get silence at the end, longer ones are cut. Absent: as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// What becomes of them.
    pub features: Features,
    /// Whether a dimension of 1 stands after the batch's, as convolutions take it.
    #[serde(default)]
    pub channel: bool,
}

/// What a model takes of sound.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Features {
    /// `[N, samples]`
    Samples(Samples),
    /// `[N, frames, length]`: pieces of `length` samples, `hop` apart; what does not fill a piece is left out.
    Frames(Frames),
    /// `[N, bins, frames]` or `[N, frames, bins]`
    LogMel(LogMel),
}

/// Sound as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {}

/// Pieces of sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frames {
    /// Samples of a piece.
    pub length: u32,
    /// Samples from one piece's begin to the next.
    pub hop: u32,
}

/// A log-mel spectrogram, in the terms of librosa's `melspectrogram`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMel {
    /// The length of the Fourier transform.
    pub n_fft: u32,
    /// Samples of a window, at most `n_fft`.
    pub window: u32,
    /// Samples from one window's begin to the next.
    pub hop: u32,
    /// The window's form.
    #[serde(default)]
    pub shape: Window,
    /// What stands before the first sample and after the last.
    #[serde(default)]
    pub pad: Edges,
    /// Mel bins.
    pub bins: u32,
    /// The lowest frequency, in Hz.
    #[serde(default)]
    pub low_hz: f32,
    /// The highest frequency, in Hz; absent: half the sample rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_hz: Option<f32>,
    /// Which mel scale.
    #[serde(default)]
    pub scale: MelScale,
    /// Whether each bin is divided by its width in Hz, halved (`norm="slaney"`).
    #[serde(default = "yes")]
    pub area_norm: bool,
    /// 2 for power, 1 for magnitude.
    #[serde(default = "two")]
    pub power: u8,
    /// The logarithm.
    #[serde(default)]
    pub log: Log,
    /// The least value that enters the logarithm (added to it by `ln-plus`).
    #[serde(default = "floor")]
    pub floor: f32,
    /// The order of bins and frames.
    #[serde(default)]
    pub layout: MelLayout,
}

/// The form of a window; both cosines are periodic (`fftbins=True`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// `0.5 - 0.5 cos`
    #[default]
    Hann,
    /// `0.54 - 0.46 cos`
    Hamming,
    /// All ones.
    Rectangular,
}

/// Where windows begin and end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edges {
    /// Windows lie within the sound (`center=False`).
    #[default]
    Inside,
    /// Windows are centred on multiples of the hop, with silence around the sound (`center=True, pad_mode="constant"`).
    Zeros,
    /// The same, with the sound mirrored at its ends (`pad_mode="reflect"`).
    Reflect,
}

/// A mel scale.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MelScale {
    /// Linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox; librosa's default).
    #[default]
    Slaney,
    /// `2595 log10(1 + f / 700)` (HTK).
    Htk,
}

/// A logarithm of a mel spectrogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    /// `ln(max(x, floor))`
    #[default]
    Ln,
    /// `ln(x + floor)`
    LnPlus,
    /// `log10(max(x, floor))`
    Log10,
    /// `10 log10(max(x, floor))`
    Db,
}

/// The order of a spectrogram's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MelLayout {
    /// `[N, bins, frames]`
    #[default]
    BinsFrames,
    /// `[N, frames, bins]`
    FramesBins,
}

impl Transform {
    /// The model's inputs that an input called `name` gives values to.
    pub fn feeds<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        match self {
            Transform::Image(_) | Transform::Audio(_) => vec![name],
            Transform::Text(text) => {
                let more = [text.mask.as_deref(), text.types.as_deref()];
                std::iter::once(text.ids.as_str()).chain(more.into_iter().flatten()).collect()
            }
        }
    }

    /// The element type of what it makes.
    pub fn dtype(&self) -> DType {
        match self {
            Transform::Image(image) => image.dtype,
            Transform::Text(text) => text.dtype,
            Transform::Audio(_) => DType::F32,
        }
    }

    /// The files of the bundle that it needs.
    pub fn assets(&self) -> Option<&FileName> {
        match self {
            Transform::Text(text) => Some(&text.tokenizer),
            Transform::Image(_) | Transform::Audio(_) => None,
        }
    }

    /// Whether its numbers are ones that it can be executed with; else what is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Transform::Image(image) => image.check(),
            Transform::Text(text) => text.check(),
            Transform::Audio(audio) => audio.check(),
        }
    }

    /// The kind's name, as it stands in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Transform::Image(_) => "image",
            Transform::Text(_) => "text",
            Transform::Audio(_) => "audio",
        }
    }
}

impl Color {
    /// Channels of a pixel.
    pub fn channels(self) -> usize {
        if self == Color::Gray { 1 } else { 3 }
    }
}

impl ImageTransform {
    fn check(&self) -> Result<(), String> {
        if self.steps.len() > MAX_STEPS {
            return Err(format!("it has {} steps; {MAX_STEPS} are allowed", self.steps.len()));
        }
        self.steps.iter().flat_map(ImageStep::sides).try_for_each(|side| within("a side", side, MAX_SIDE))?;
        let channels = self.color.channels();
        for (what, values) in [("mean", &self.mean), ("std", &self.std)] {
            if !matches!(values.len(), 0 | 1) && values.len() != channels {
                return Err(format!("{what} has {} values; give none, one, or {channels}", values.len()));
            }
        }
        let finite = self.mean.iter().chain(&self.std).chain([&self.scale]).all(|value| value.is_finite());
        if !finite || self.std.contains(&0.0) {
            return Err("scale, mean and std must be finite, and std not 0".to_owned());
        }
        match self.dtype {
            DType::F32 | DType::F16 => Ok(()),
            DType::U8 if self.scale == 1.0 && self.mean.is_empty() && self.std.is_empty() => Ok(()),
            DType::U8 => Err("UINT8 takes pixels as they are: leave scale, mean and std out".to_owned()),
            other => Err(format!("dtype is {other}; it may be FP32, FP16 or UINT8")),
        }
    }
}

impl ImageStep {
    fn sides(&self) -> Vec<u32> {
        match *self {
            ImageStep::ResizeShorter { side, .. } => vec![side],
            ImageStep::Resize { width, height, .. }
            | ImageStep::CenterCrop { width, height }
            | ImageStep::Letterbox { width, height, .. } => vec![width, height],
        }
    }
}

impl TextTransform {
    fn check(&self) -> Result<(), String> {
        within("max_tokens", self.max_tokens, MAX_TOKENS)?;
        within("max_bytes", self.max_bytes, MAX_TEXT)?;
        match self.dtype {
            DType::I64 | DType::I32 => Ok(()),
            other => Err(format!("dtype is {other}; it may be INT64 or INT32")),
        }
    }
}

impl AudioTransform {
    fn check(&self) -> Result<(), String> {
        within("sample_rate", self.sample_rate, MAX_RATE)?;
        within("samples", self.samples.unwrap_or(1), MAX_SAMPLES)?;
        match &self.features {
            Features::Samples(_) => Ok(()),
            Features::Frames(frames) => {
                within("length", frames.length, MAX_SAMPLES)?;
                within("hop", frames.hop, MAX_SAMPLES)
            }
            Features::LogMel(mel) => mel.check(self.sample_rate),
        }
    }
}

impl LogMel {
    fn check(&self, sample_rate: u32) -> Result<(), String> {
        within("n_fft", self.n_fft, MAX_FFT)?;
        within("window", self.window, self.n_fft)?;
        within("hop", self.hop, MAX_FFT)?;
        within("bins", self.bins, MAX_BINS)?;
        within("power", u32::from(self.power), 2)?;
        let half = sample_rate as f32 / 2.0;
        let high = self.high_hz.unwrap_or(half);
        if !(0.0 <= self.low_hz && self.low_hz < high && high <= half) {
            return Err(format!("low_hz {} and high_hz {high} must rise from 0 to {half} at most", self.low_hz));
        }
        if !(self.floor.is_finite() && self.floor > 0.0) {
            return Err("floor must be above 0".to_owned());
        }
        Ok(())
    }
}

/// The most bytes of a text that a manifest may allow.
const MAX_TEXT: u32 = 1 << 20;
/// The highest sample rate.
const MAX_RATE: u32 = 384_000;

fn within(what: &str, value: u32, most: u32) -> Result<(), String> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{what} is {value}; it may be 1 to {most}")) }
}

fn one() -> f32 {
    1.0
}

fn two() -> u8 {
    2
}

fn floor() -> f32 {
    1e-10
}

fn yes() -> bool {
    true
}

fn max_text_bytes() -> u32 {
    64 << 10
}

fn pad_token() -> String {
    "[PAD]".to_owned()
}

fn f32_type() -> DType {
    DType::F32
}

fn i64_type() -> DType {
    DType::I64
}

/// Element types by the names of the Open Inference Protocol.
mod dtype {
    use hedge_tensor::DType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    // serde's `with` gives a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.oip_name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        let name = String::deserialize(deserializer)?;
        DType::from_oip_name(&name).ok_or_else(|| D::Error::custom(format!("{name:?} is no element type such as FP32")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Transform {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let Transform::Image(image) = read(r#"{"kind": "image"}"#) else { panic!() };
        assert_eq!((image.color, image.layout, image.scale, image.dtype), (Color::Rgb, Layout::Nchw, 1.0, DType::F32));
        let text = read(r#"{"kind": "text", "tokenizer": "t.json", "max_tokens": 8, "ids": "ids", "mask": "mask"}"#);
        assert_eq!(text.feeds("text"), ["ids", "mask"]);
        let audio = read(
            r#"{"kind": "audio", "sample_rate": 16000, "features": {"kind": "log-mel", "n_fft": 512, "window": 400, "hop": 160, "bins": 40}}"#,
        );
        for transform in [Transform::Image(image), text, audio] {
            transform.check().unwrap();
            let json = serde_json::to_string(&transform).unwrap();
            assert_eq!(read(&json), transform);
        }
    }

    #[test]
    fn an_unknown_key_anywhere_is_refused() {
        for json in [
            r#"{"kind": "image", "colour": "rgb"}"#,
            r#"{"kind": "image", "steps": [{"step": "center-crop", "width": 1, "height": 1, "x": 1}]}"#,
            r#"{"kind": "video"}"#,
            r#"{"kind": "audio", "sample_rate": 1, "features": {"kind": "samples", "x": 1}}"#,
        ] {
            assert!(serde_json::from_str::<Transform>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_executed_are_refused() {
        for json in [
            r#"{"kind": "image", "std": [0]}"#,
            r#"{"kind": "image", "mean": [1, 2]}"#,
            r#"{"kind": "image", "dtype": "UINT8", "scale": 0.5}"#,
            r#"{"kind": "image", "dtype": "INT64"}"#,
            r#"{"kind": "image", "steps": [{"step": "resize", "width": 0, "height": 1}]}"#,
            r#"{"kind": "image", "steps": [{"step": "resize", "width": 5000, "height": 1}]}"#,
            r#"{"kind": "text", "tokenizer": "t", "max_tokens": 0, "ids": "i"}"#,
            r#"{"kind": "text", "tokenizer": "t", "max_tokens": 5, "ids": "i", "dtype": "FP32"}"#,
            r#"{"kind": "audio", "sample_rate": 0, "features": {"kind": "samples"}}"#,
            r#"{"kind": "audio", "sample_rate": 8000, "features": {"kind": "frames", "length": 5, "hop": 0}}"#,
            r#"{"kind": "audio", "sample_rate": 8000, "features": {"kind": "log-mel", "n_fft": 256, "window": 400, "hop": 1, "bins": 1}}"#,
            r#"{"kind": "audio", "sample_rate": 8000, "features": {"kind": "log-mel", "n_fft": 256, "window": 256, "hop": 1, "bins": 1, "high_hz": 5000}}"#,
        ] {
            assert!(read(json).check().is_err(), "{json}");
        }
    }
}
