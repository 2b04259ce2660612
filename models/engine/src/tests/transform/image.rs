//! Images.

use super::golden::{LUMA, NEAREST_4X3, NEAREST_10X8, OPENCV_3X4, OPENCV_10X8, PIL_3X4, PIL_10X2};
use super::*;
use crate::transform::ImageError;

const PNG: &[u8] = include_bytes!("small.png");
const GRAY_PNG: &[u8] = include_bytes!("gray.png");
const JPEG: &[u8] = include_bytes!("flat.jpg");

fn pattern(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let value = |x: usize, y: usize, c: usize| (x * 37 + y * 91 + c * 53 + (x * y) % 7 * 29) as u8;
    let pixel = |x, y| (0..channels).map(move |c| value(x, y, c));
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

fn pixels(width: usize, height: usize, channels: usize) -> Tensor {
    Tensor::from_slice(&[height, width, channels], &pattern(width, height, channels)).unwrap()
}

/// What becomes of the pattern of 7 x 5 pixels.
fn resized(width: u32, height: u32, filter: &str) -> Vec<u8> {
    let step = format!(r#"{{"step": "resize", "width": {width}, "height": {height}, "filter": "{filter}"}}"#);
    let pipeline = one(&format!(r#"{{"kind": "image", "steps": [{step}], "layout": "nhwc", "dtype": "UINT8"}}"#));
    let tensor = apply(&pipeline, pixels(7, 5, 3)).unwrap();
    assert_eq!(tensor.shape(), [1, height as usize, width as usize, 3]);
    tensor.to_vec().unwrap()
}

fn first_channel(pixels: &[u8]) -> Vec<u8> {
    pixels.iter().step_by(3).copied().collect()
}

#[test]
fn antialiased_resizing_is_pillows_to_the_last_bit() {
    assert_eq!(resized(3, 4, "bilinear-antialias"), PIL_3X4);
    assert_eq!(resized(10, 2, "bilinear-antialias"), PIL_10X2);
}

#[test]
fn the_nearest_pixel_is_pillows() {
    assert_eq!(resized(4, 3, "nearest"), NEAREST_4X3);
    assert_eq!(first_channel(&resized(10, 8, "nearest")), NEAREST_10X8);
}

#[test]
fn plain_bilinear_resizing_is_opencvs_within_its_rounding() {
    let near = |actual: &[u8], expected: &[u8]| {
        assert_eq!(actual.len(), expected.len());
        assert!(actual.iter().zip(expected).all(|(a, e)| a.abs_diff(*e) <= 1), "{actual:?}");
    };
    near(&resized(3, 4, "bilinear"), &OPENCV_3X4);
    near(&first_channel(&resized(10, 8, "bilinear")), &OPENCV_10X8);
}

#[test]
fn gray_is_pillows_luma() {
    let pipeline = one(r#"{"kind": "image", "color": "gray", "dtype": "UINT8"}"#);
    let tensor = apply(&pipeline, pixels(7, 5, 3)).unwrap();
    assert_eq!((tensor.shape(), tensor.to_vec::<u8>().unwrap()), (&[1, 1, 5, 7][..], LUMA.to_vec()));
}

#[test]
fn a_png_decodes_to_its_pixels_and_a_gray_one_has_three_equal_channels() {
    let pipeline = one(r#"{"kind": "image", "layout": "nhwc", "dtype": "UINT8"}"#);
    let tensor = apply(&pipeline, bytes(PNG)).unwrap();
    assert_eq!((tensor.shape(), tensor.to_vec::<u8>().unwrap()), (&[1, 2, 3, 3][..], pattern(3, 2, 3)));
    let gray = apply(&pipeline, bytes(GRAY_PNG)).unwrap().to_vec::<u8>().unwrap();
    assert_eq!(gray, pattern(3, 2, 1).into_iter().flat_map(|value| [value; 3]).collect::<Vec<_>>());
}

#[test]
fn a_jpeg_of_one_colour_decodes_to_it() {
    let pipeline = one(r#"{"kind": "image", "color": "bgr", "layout": "nhwc", "dtype": "UINT8"}"#);
    let tensor = apply(&pipeline, bytes(JPEG)).unwrap();
    assert_eq!(tensor.shape(), [1, 8, 8, 3]);
    let expected = [50u8, 100, 200].repeat(64);
    assert!(tensor.bytes().iter().zip(expected).all(|(a, e)| a.abs_diff(e) <= 2), "{tensor:?}");
}

#[test]
fn values_are_scaled_shifted_and_divided_by_channel_in_either_layout() {
    let with = |layout| {
        one(&format!(r#"{{"kind": "image", "layout": "{layout}", "scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]}}"#))
    };
    let one_pixel = || Tensor::from_slice(&[1, 2, 3], &[10u8, 20, 30, 40, 50, 60]).unwrap();
    let planes = apply(&with("nchw"), one_pixel()).unwrap();
    assert_eq!(planes.shape(), [1, 3, 1, 2]);
    assert_eq!(planes.to_vec::<f32>().unwrap(), [4.0, 19.0, 4.0, 11.5, 3.0, 6.75]);
    let together = apply(&with("nhwc"), one_pixel()).unwrap();
    assert_eq!(together.to_vec::<f32>().unwrap(), [4.0, 4.0, 3.0, 19.0, 11.5, 6.75]);
    let half = one(r#"{"kind": "image", "dtype": "FP16", "scale": 0.5}"#);
    assert_eq!(apply(&half, one_pixel()).unwrap().to_doubles().unwrap()[0], 5.0);
}

#[test]
fn a_letterbox_keeps_proportions_and_fills_the_rest() {
    let step = r#"{"step": "letterbox", "width": 4, "height": 5, "fill": 9, "filter": "nearest"}"#;
    let pipeline = one(&format!(r#"{{"kind": "image", "color": "gray", "steps": [{step}], "dtype": "UINT8"}}"#));
    let image = Tensor::from_slice(&[1, 2, 1], &[100u8, 200]).unwrap();
    let tensor = apply(&pipeline, image).unwrap();
    let rows: Vec<Vec<u8>> = tensor.bytes().chunks(4).map(<[u8]>::to_vec).collect();
    let (fill, inner) = (vec![9; 4], vec![100, 100, 200, 200]);
    assert_eq!(rows, [fill.clone(), inner.clone(), inner, fill.clone(), fill]);
}

#[test]
fn the_middle_is_cut_as_torchvision_does_and_small_images_get_a_black_border() {
    let crop = |width: u32, height: u32| {
        let step = format!(r#"{{"step": "center-crop", "width": {width}, "height": {height}}}"#);
        one(&format!(r#"{{"kind": "image", "color": "gray", "steps": [{step}], "dtype": "UINT8"}}"#))
    };
    let row = |values: &[u8]| Tensor::from_slice(&[1, values.len(), 1], values).unwrap();
    let cut = |pipeline: &Pipeline, values: &[u8]| apply(pipeline, row(values)).unwrap().to_vec::<u8>().unwrap();
    // round(2.5) is 2 and round(1.5) is 2 in Python.
    assert_eq!(cut(&crop(2, 1), &[1, 2, 3, 4, 5, 6, 7]), [3, 4]);
    assert_eq!(cut(&crop(2, 1), &[1, 2, 3, 4, 5]), [3, 4]);
    assert_eq!(cut(&crop(4, 1), &[1, 2]), [0, 1, 2, 0]);
    assert_eq!(cut(&crop(1, 2), &[1, 2, 3]), [2, 0]);
}

#[test]
fn the_shorter_side_leads() {
    let pipeline = one(r#"{"kind": "image", "steps": [{"step": "resize-shorter", "side": 3}], "dtype": "UINT8"}"#);
    assert_eq!(apply(&pipeline, pixels(7, 5, 3)).unwrap().shape(), [1, 3, 3, 4]);
    assert_eq!(apply(&pipeline, pixels(5, 7, 3)).unwrap().shape(), [1, 3, 4, 3]);
    // A line of pixels would become a square kilometre.
    let long = one(r#"{"kind": "image", "steps": [{"step": "resize-shorter", "side": 4096}]}"#);
    let error = apply(&long, Tensor::zeros(DType::U8, vec![1, 60_000, 1]).unwrap()).unwrap_err();
    let expected = ImageError::Pixels { width: 245_760_000, height: 4096, step: 1 };
    assert!(matches!(error, TransformError::Row { why: RowError::Image(why), .. } if why == expected));
}

#[test]
fn files_and_pixels_of_several_samples_make_one_batch() {
    let pipeline = one(r#"{"kind": "image", "steps": [{"step": "resize", "width": 2, "height": 2}]}"#);
    let two = Tensor::zeros(DType::U8, vec![2, 3, 5, 3]).unwrap();
    let samples = vec![raw(bytes(PNG)), raw(two), raw(bytes(GRAY_PNG)), raw(pixels(7, 5, 1))];
    assert_eq!(pipeline.apply_rows(samples).unwrap()[0].tensor.shape(), [5, 3, 2, 2]);
}

#[test]
fn images_of_different_sizes_need_a_step_that_makes_them_equal() {
    let pipeline = one(r#"{"kind": "image"}"#);
    let error = pipeline.apply_rows(vec![raw(pixels(7, 5, 3)), raw(bytes(PNG))]).unwrap_err();
    assert!(matches!(error, TransformError::Stack { .. }), "{error}");
}

#[test]
fn what_is_no_image_is_refused() {
    let pipeline = one(r#"{"kind": "image"}"#);
    let refused = |tensor| apply(&pipeline, tensor).unwrap_err().to_string();
    for tensor in [
        Tensor::zeros(DType::F32, vec![2, 2, 3]).unwrap(),
        Tensor::zeros(DType::U8, vec![2, 2, 4]).unwrap(),
        Tensor::zeros(DType::U8, vec![2, 2]).unwrap(),
        Tensor::zeros(DType::U8, vec![]).unwrap(),
    ] {
        assert!(refused(tensor).contains("is no image"));
    }
    assert!(refused(Tensor::zeros(DType::U8, vec![0, 2, 3]).unwrap()).contains("2 x 0 pixels"));
    assert!(refused(bytes(b"GIF89a..")).contains("neither JPEG nor PNG"));
    assert!(refused(bytes(b"")).contains("neither JPEG nor PNG"));
}

#[test]
fn a_damaged_file_is_an_error_whatever_the_damage() {
    let pipeline = one(r#"{"kind": "image"}"#);
    for file in [PNG, JPEG] {
        for length in 0..file.len() {
            // A JPEG that ends early may decode to what is there; a panic is all that must not be.
            let _ = apply(&pipeline, bytes(&file[..length]));
            let mut flipped = file.to_vec();
            flipped[length] ^= 0x41;
            let _ = apply(&pipeline, bytes(&flipped));
        }
    }
    // A header that declares 2^31 pixels a side.
    let mut huge = PNG.to_vec();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(apply(&pipeline, bytes(&huge)).is_err());
}
