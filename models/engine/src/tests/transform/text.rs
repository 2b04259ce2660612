//! Text.

use super::*;
use crate::transform::TextError;

const WORDS: (&str, &str) = ("tokenizer.json", include_str!("tokenizer.json"));
const PAIRS: (&str, &str) = ("bpe.json", include_str!("bpe.json"));

fn with(more: &str, takes: &[&str]) -> Result<Pipeline, TransformError> {
    let transform = format!(r#"{{"kind": "text", "tokenizer": "tokenizer.json", "ids": "ids", {more}}}"#);
    pipeline(&format!(r#"[{{"name": "x", "transform": {transform}}}]"#), takes, &[WORDS])
}

fn rows(texts: &[&str]) -> Vec<Vec<NamedTensor>> {
    texts.iter().map(|text| raw(bytes(text.as_bytes()))).collect()
}

fn numbers(output: &NamedTensor) -> Vec<i64> {
    output.tensor.to_vec().unwrap()
}

#[test]
fn text_becomes_ids_mask_and_types_as_the_reference_tokenizer_makes_them() {
    let more = r#""max_tokens": 8, "mask": "mask", "types": "types""#;
    let pipeline = with(more, &["ids", "mask", "types"]).unwrap();
    let outputs = pipeline.apply_rows(rows(&["Hello hedges!", "world"])).unwrap();
    assert_eq!(outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["ids", "mask", "types"]);
    assert_eq!(outputs[0].tensor.shape(), [2, 6]);
    assert_eq!(numbers(&outputs[0]), [2, 4, 6, 7, 8, 3, 2, 5, 3, 0, 0, 0]);
    assert_eq!(numbers(&outputs[1]), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    assert_eq!(numbers(&outputs[2]), [0; 12]);
}

#[test]
fn rows_are_cut_and_filled_to_the_length_that_the_manifest_says() {
    let pipeline = with(r#""max_tokens": 5, "pad": "max", "dtype": "INT32""#, &["ids"]).unwrap();
    let outputs = pipeline.apply_rows(rows(&["hello world hello world hello", "world", ""])).unwrap();
    let expected = [2, 4, 5, 4, 3, 2, 5, 3, 0, 0, 2, 3, 0, 0, 0];
    assert_eq!(outputs[0].tensor, Tensor::from_slice(&[3, 5], &expected.map(|id: i32| id)).unwrap());
}

#[test]
fn byte_pairs_are_merged_and_a_text_without_tokens_is_refused() {
    let transform = r#"{"kind": "text", "tokenizer": "bpe.json", "ids": "ids", "max_tokens": 8, "pad_token": "<pad>"}"#;
    let inputs = format!(r#"[{{"name": "x", "transform": {transform}}}]"#);
    let pipeline = pipeline(&inputs, &["ids"], &[PAIRS]).unwrap();
    assert_eq!(numbers(&pipeline.apply_rows(rows(&["lowlo", "l"])).unwrap()[0]), [4, 3, 0, 5]);
    let error = pipeline.apply_rows(rows(&["low", ""])).unwrap_err();
    assert!(matches!(error, TransformError::Row { row: 1, why: RowError::Text(TextError::Empty), .. }), "{error}");
}

#[test]
fn text_that_is_too_long_not_utf8_or_no_text_is_refused() {
    let pipeline = with(r#""max_tokens": 5, "max_bytes": 4"#, &["ids"]).unwrap();
    let refused = |tensor| apply(&pipeline, tensor).unwrap_err().to_string();
    assert!(refused(bytes(b"hello")).contains("5 bytes; the model takes 4"));
    assert!(refused(bytes(b"a\xff")).contains("byte 1"));
    assert!(refused(Tensor::zeros(DType::U8, vec![1, 2]).unwrap()).contains("is no text"));
    assert!(refused(Tensor::zeros(DType::I8, vec![2]).unwrap()).contains("is no text"));
}

#[test]
fn a_tokenizer_that_cannot_work_is_refused_when_it_is_set_up() {
    let why = |outcome: Result<Pipeline, TransformError>| outcome.err().expect("it is refused").to_string();
    assert!(why(with(r#""max_tokens": 2"#, &["ids"])).contains("adds 2 special tokens"));
    assert!(why(with(r#""max_tokens": 9, "pad_token": "<pad>""#, &["ids"])).contains("no token \"<pad>\""));
    let inputs =
        r#"[{"name": "x", "transform": {"kind": "text", "tokenizer": "t.json", "ids": "ids", "max_tokens": 8}}]"#;
    assert!(why(pipeline(inputs, &["ids"], &[("t.json", "{}")])).contains("no tokenizer that can be read"));
}
