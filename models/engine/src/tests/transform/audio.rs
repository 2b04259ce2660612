//! Sound.

use super::golden::{MEL_INSIDE, MEL_REFLECT, MEL_ZEROS};
use super::*;
use crate::transform::AudioError;

/// Of a mel spectrogram: the reference rounds to five places, and its quietest bins are rounding themselves.
const TOLERANCE: f32 = 2e-3;

fn with(features: &str, more: &str) -> Pipeline {
    one(&format!(r#"{{"kind": "audio", "sample_rate": 8000, "features": {features}{more}}}"#))
}

fn mel(measures: &str, more: &str) -> Pipeline {
    with(&format!(r#"{{"kind": "log-mel", "n_fft": 128, "hop": 80, "bins": 6, {measures}}}"#), more)
}

fn tones() -> Tensor {
    let tone = |hz: f64, n: usize| (std::f64::consts::TAU * hz * n as f64 / 8000.0).sin();
    let samples: Vec<f32> = (0..400).map(|n| (0.5 * tone(440.0, n) + 0.25 * tone(1300.0, n)) as f32).collect();
    Tensor::from_slice(&[400], &samples).unwrap()
}

fn samples(values: &[f32]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

#[test]
fn a_centred_slaney_spectrogram_is_librosas() {
    let tensor = apply(&mel(r#""window": 100, "pad": "zeros""#, ""), tones()).unwrap();
    assert_eq!(tensor.shape(), [1, 6, 6]);
    close(&tensor, &MEL_ZEROS, TOLERANCE);
}

#[test]
fn a_mirrored_htk_spectrogram_of_magnitudes_is_librosas() {
    let measures = r#""window": 100, "shape": "hamming", "pad": "reflect", "scale": "htk", "area_norm": false, "power": 1,
        "log": "db", "low_hz": 60, "high_hz": 3800"#;
    let tensor = apply(&mel(measures, ""), tones()).unwrap();
    close(&tensor, &MEL_REFLECT, TOLERANCE);
}

#[test]
fn a_spectrogram_within_the_sound_is_librosas_in_either_layout() {
    let measures = r#""window": 128, "shape": "rectangular", "log": "ln-plus", "floor": 1e-3"#;
    let tensor = apply(&mel(measures, r#", "channel": true"#), tones()).unwrap();
    assert_eq!(tensor.shape(), [1, 1, 6, 4]);
    close(&tensor, &MEL_INSIDE, TOLERANCE);
    let turned = apply(&mel(&format!(r#"{measures}, "layout": "frames-bins""#), ""), tones()).unwrap();
    assert_eq!(turned.shape(), [1, 4, 6]);
    let (bins, frames) = (tensor.to_vec::<f32>().unwrap(), turned.to_vec::<f32>().unwrap());
    assert!((0..24).all(|i| bins[i] == frames[i % 4 * 6 + i / 4]));
}

#[test]
fn samples_are_numbers_cut_or_filled_to_their_length() {
    let pipeline = with(r#"{"kind": "samples"}"#, r#", "samples": 3"#);
    let whole = Tensor::from_slice(&[2], &[i16::MIN, 16_384]).unwrap();
    let tensor = apply(&pipeline, whole).unwrap();
    assert_eq!((tensor.shape(), tensor.to_vec::<f32>().unwrap()), (&[1, 3][..], vec![-1.0, 0.5, 0.0]));
    let two = Tensor::from_slice(&[2, 4], &[1f32, 2., 3., 4., 5., 6., 7., 8.]).unwrap();
    assert_eq!(apply(&pipeline, two).unwrap().to_vec::<f32>().unwrap(), [1., 2., 3., 5., 6., 7.]);
}

#[test]
fn frames_overlap_by_their_hop_and_an_unfilled_one_is_left_out() {
    let pipeline = with(r#"{"kind": "frames", "length": 3, "hop": 2}"#, "");
    let tensor = apply(&pipeline, samples(&[1., 2., 3., 4., 5., 6.])).unwrap();
    assert_eq!((tensor.shape(), tensor.to_vec::<f32>().unwrap()), (&[1, 2, 3][..], vec![1., 2., 3., 3., 4., 5.]));
}

#[test]
fn silence_has_the_floor_and_no_sound_is_too_short() {
    let pipeline = mel(r#""window": 128, "floor": 1.0"#, "");
    close(&apply(&pipeline, samples(&[0.0; 128])).unwrap(), &[0.0; 6], 0.0);
    let short = [
        (pipeline, 127, 128),
        (mel(r#""window": 100, "pad": "zeros""#, ""), 0, 1),
        (mel(r#""window": 100, "pad": "reflect""#, ""), 64, 65),
        (with(r#"{"kind": "frames", "length": 3, "hop": 2}"#, ""), 2, 3),
    ];
    for (pipeline, given, least) in short {
        let error = apply(&pipeline, samples(&vec![0.5; given])).unwrap_err();
        let expected = AudioError::TooShort { samples: given, needed: least };
        assert!(matches!(error, TransformError::Row { why: RowError::Audio(why), .. } if why == expected));
        apply(&pipeline, samples(&vec![0.5; least])).unwrap();
    }
}

#[test]
fn what_is_no_sound_is_refused() {
    let pipeline = with(r#"{"kind": "samples"}"#, "");
    assert!(apply(&pipeline, bytes(b"RIFF")).unwrap_err().to_string().contains("is no sound"));
    let deep = Tensor::zeros(DType::F32, vec![1, 1, 4]).unwrap();
    assert!(apply(&pipeline, deep).unwrap_err().to_string().contains("is no sound"));
    let error = apply(&pipeline, samples(&[0.0, f32::NAN])).unwrap_err().to_string();
    assert!(error.contains("sample 1 is NaN"), "{error}");
}
