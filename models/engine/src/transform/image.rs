//! Images: decoded, brought to the model's size and channels, made numbers.

use std::io::Cursor;

use hedge_bundle::transform::{Color, ImageStep, ImageTransform, Layout};
use hedge_tensor::{DType, Tensor};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use thiserror::Error;

use super::float_tensor;
use super::resample::Pixels;

/// The most bytes of an image file.
const MAX_FILE_BYTES: usize = 32 << 20;
/// The longest side of an image, in pixels.
const MAX_SIDE: u32 = 16_384;
/// The most memory that decoding one image may take, in bytes: 64 megapixels in colour.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// A step that would make an image larger than this many pixels is refused.
const MAX_PIXELS: usize = 1 << 26;

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ImageError {
    /// Neither a file nor pixels.
    #[error(
        "{dtype} {shape:?} is no image: give a JPEG or PNG file as UINT8 [bytes], or pixels as UINT8 [H, W, C] with C = 1 or 3"
    )]
    Form {
        /// The type given.
        dtype: DType,
        /// The shape given.
        shape: Vec<usize>,
    },
    /// A file beyond the bound.
    #[error("the image file has {bytes} bytes; {MAX_FILE_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a JPEG or PNG file, or a damaged or too large one.
    #[error("the image cannot be decoded: {0}")]
    Decode(String),
    /// An image without pixels, or with too many.
    #[error("the image has {width} x {height} pixels at step {step}; 1 to {MAX_PIXELS} are allowed")]
    Pixels {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Which step makes it so, from 1; 0: as it came.
        step: usize,
    },
}

/// One image as it was given.
pub(super) enum Row {
    File(bytes::Bytes),
    Pixels(Tensor),
}

/// An image transform.
pub(super) struct Image {
    transform: ImageTransform,
    /// Of each channel of the model: (what is subtracted, what is divided by).
    normal: Vec<(f32, f32)>,
}

/// The images that `raw` holds: a file, or pixels of one or several.
pub(super) fn rows(raw: &Tensor) -> Result<Vec<Row>, ImageError> {
    let form = || ImageError::Form { dtype: raw.dtype(), shape: raw.shape().to_vec() };
    if raw.dtype() != DType::U8 {
        return Err(form());
    }
    match *raw.shape() {
        [bytes] if bytes > MAX_FILE_BYTES => Err(ImageError::TooLarge { bytes }),
        [_] => Ok(vec![Row::File(raw.bytes().clone())]),
        [height, width, 1 | 3] => {
            let pixels = raw.clone().reshaped(vec![1, height, width, raw.shape()[2]]).map_err(|_| form())?;
            Ok(vec![Row::Pixels(pixels)])
        }
        [_, _, _, 1 | 3] => Ok(raw.rows().map_err(|_| form())?.into_iter().map(Row::Pixels).collect()),
        _ => Err(form()),
    }
}

impl Image {
    pub(super) fn new(transform: &ImageTransform) -> Self {
        let at = |values: &[f32], channel: usize, default| match values {
            [] => default,
            [only] => *only,
            all => all[channel],
        };
        let channels = 0..transform.color.channels();
        let normal = channels.map(|c| (at(&transform.mean, c, 0.0), at(&transform.std, c, 1.0))).collect();
        Image { transform: transform.clone(), normal }
    }

    /// The bytes that one row becomes at most: those of the last step that fixes a size, or else of the largest image.
    pub(super) fn bytes_of_row(&self, rows: &[Row]) -> usize {
        let fixed = self.transform.steps.iter().rev().find_map(|step| match *step {
            ImageStep::Resize { width, height, .. }
            | ImageStep::CenterCrop { width, height }
            | ImageStep::Letterbox { width, height, .. } => Some(width as usize * height as usize),
            ImageStep::ResizeShorter { .. } => None,
        });
        let given = |row: &Row| match row {
            Row::Pixels(pixels) => pixels.len(),
            Row::File(_) => 0,
        };
        let pixels = fixed.unwrap_or_else(|| rows.iter().map(given).max().unwrap_or(0));
        pixels * self.transform.color.channels() * self.transform.dtype.size_bytes()
    }

    /// `[1, C, H, W]` or `[1, H, W, C]`.
    pub(super) fn apply(&self, row: &Row) -> Result<Tensor, ImageError> {
        let mut pixels = colored(&decoded(row)?, self.transform.color);
        check_size(&pixels, 0)?;
        for (index, step) in self.transform.steps.iter().enumerate() {
            pixels = stepped(&pixels, step, index + 1)?;
        }
        Ok(self.tensor(&pixels))
    }

    fn tensor(&self, pixels: &Pixels) -> Tensor {
        let Pixels { width, height, channels, .. } = *pixels;
        let (shape, data) = match self.transform.layout {
            Layout::Nhwc => ([1, height, width, channels], pixels.data.clone()),
            Layout::Nchw => ([1, channels, height, width], planes(pixels)),
        };
        let tensor = if self.transform.dtype == DType::U8 {
            Tensor::from_slice(&shape, &data)
        } else {
            float_tensor(self.transform.dtype, &shape, &self.numbers(&data, width * height))
        };
        tensor.expect("as many elements as pixels")
    }

    fn numbers(&self, data: &[u8], pixels: usize) -> Vec<f32> {
        let channels = self.normal.len();
        let scaled = |value: u8, (mean, std): (f32, f32)| (f32::from(value) * self.transform.scale - mean) / std;
        // One of 256 values a channel: each is computed once.
        let tables: Vec<[f32; 256]> =
            self.normal.iter().map(|&normal| std::array::from_fn(|value| scaled(value as u8, normal))).collect();
        let channel = |index: usize| match self.transform.layout {
            Layout::Nhwc => index % channels,
            Layout::Nchw => index / pixels,
        };
        data.iter().enumerate().map(|(index, &value)| tables[channel(index)][usize::from(value)]).collect()
    }
}

fn decoded(row: &Row) -> Result<Pixels, ImageError> {
    match row {
        Row::File(file) => decode(file),
        Row::Pixels(tensor) => {
            let &[_, height, width, channels] = tensor.shape() else {
                return Err(ImageError::Form { dtype: tensor.dtype(), shape: tensor.shape().to_vec() });
            };
            Ok(Pixels { width, height, channels, data: tensor.bytes().to_vec() })
        }
    }
}

fn decode(file: &[u8]) -> Result<Pixels, ImageError> {
    let fail = |error: &dyn std::fmt::Display| ImageError::Decode(error.to_string());
    let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| fail(&error))?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(ImageError::Decode("it is neither JPEG nor PNG".to_owned()));
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| fail(&error))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let gray = matches!(
        image,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
    );
    let (channels, data) = if gray { (1, image.into_luma8().into_raw()) } else { (3, image.into_rgb8().into_raw()) };
    Ok(Pixels { width, height, channels, data })
}

fn colored(pixels: &Pixels, color: Color) -> Pixels {
    let data: Vec<u8> = match (color, pixels.channels) {
        (Color::Gray, 1) | (Color::Rgb, 3) => return pixels.clone(),
        (Color::Rgb | Color::Bgr, 1) => pixels.data.iter().flat_map(|&value| [value; 3]).collect(),
        (Color::Bgr, _) => pixels.data.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [b, g, r]).collect(),
        (Color::Gray, _) => pixels.data.as_chunks::<3>().0.iter().map(|&rgb| luma(rgb)).collect(),
        (Color::Rgb, _) => pixels.data.clone(),
    };
    Pixels { channels: color.channels(), data, ..*pixels }
}

fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

fn planes(pixels: &Pixels) -> Vec<u8> {
    let channel = |channel: usize| pixels.data.iter().skip(channel).step_by(pixels.channels).copied();
    (0..pixels.channels).flat_map(channel).collect()
}

fn stepped(pixels: &Pixels, step: &ImageStep, index: usize) -> Result<Pixels, ImageError> {
    let side = |side: u32| side as usize;
    match *step {
        ImageStep::Resize { width, height, filter } => Ok(pixels.resized(side(width), side(height), filter)),
        ImageStep::ResizeShorter { side: shorter, filter } => {
            let (width, height) = shorter_side(pixels, side(shorter));
            check_size(&Pixels { width, height, channels: 1, data: Vec::new() }, index)?;
            Ok(pixels.resized(width, height, filter))
        }
        ImageStep::CenterCrop { width, height } => Ok(cropped(pixels, side(width), side(height))),
        ImageStep::Letterbox { width, height, fill, filter } => {
            let (width, height) = (side(width), side(height));
            let (inner_width, inner_height) = fitting(pixels, width, height);
            let inner = pixels.resized(inner_width, inner_height, filter);
            let mut canvas = Pixels::filled(width, height, pixels.channels, fill);
            canvas.paste(&inner, offset((width - inner_width) / 2), offset((height - inner_height) / 2));
            Ok(canvas)
        }
    }
}

/// The size whose shorter side is `side`, proportions kept.
fn shorter_side(pixels: &Pixels, side: usize) -> (usize, usize) {
    if pixels.width <= pixels.height {
        (side, side * pixels.height / pixels.width)
    } else {
        (side * pixels.width / pixels.height, side)
    }
}

/// The largest size within, proportions kept, each side at least 1.
fn fitting(pixels: &Pixels, width: usize, height: usize) -> (usize, usize) {
    let ratio = (width as f64 / pixels.width as f64).min(height as f64 / pixels.height as f64);
    let scaled = |side: usize, most: usize| ((side as f64 * ratio).round() as usize).clamp(1, most);
    (scaled(pixels.width, width), scaled(pixels.height, height))
}

fn cropped(pixels: &Pixels, width: usize, height: usize) -> Pixels {
    let mut canvas = Pixels::filled(width, height, pixels.channels, 0);
    canvas.paste(pixels, centred(width, pixels.width), centred(height, pixels.height));
    canvas
}

/// Where an image of size `inner` begins on one of size `outer` so that their middles meet.
fn centred(outer: usize, inner: usize) -> isize {
    if outer >= inner {
        return offset((outer - inner) / 2);
    }
    // Half a pixel goes to the even neighbour, as Python's round does.
    let (half, odd) = ((inner - outer) / 2, (inner - outer) % 2);
    -offset(half + usize::from(odd == 1 && half % 2 == 1))
}

/// Sides are at most [`MAX_PIXELS`].
fn offset(pixels: usize) -> isize {
    isize::try_from(pixels).unwrap_or(isize::MAX)
}

fn check_size(pixels: &Pixels, step: usize) -> Result<(), ImageError> {
    let Pixels { width, height, .. } = *pixels;
    let fits = width.checked_mul(height).is_some_and(|count| (1..=MAX_PIXELS).contains(&count));
    if fits { Ok(()) } else { Err(ImageError::Pixels { width, height, step }) }
}
