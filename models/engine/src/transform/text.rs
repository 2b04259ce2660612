//! Text: tokens by a Hugging Face tokenizer, and rows of equal length.

use hedge_bundle::transform::{Pad, TextTransform};
use hedge_tensor::{DType, Tensor};
use thiserror::Error;
use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

/// A text that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TextError {
    /// Not bytes.
    #[error("{dtype} {shape:?} is no text: give UTF-8 as UINT8 [bytes]")]
    Form {
        /// The type given.
        dtype: DType,
        /// The shape given.
        shape: Vec<usize>,
    },
    /// Beyond the bound of the manifest.
    #[error("the text has {bytes} bytes; the model takes {most}: shorten it")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// Not UTF-8.
    #[error("the text is not UTF-8: byte {at} is none of its")]
    NotUtf8 {
        /// Which byte.
        at: usize,
    },
    /// The tokenizer gave up.
    #[error("the text cannot be tokenized: {0}")]
    Tokenizer(String),
    /// Without tokens there is no row.
    #[error("the text has no tokens; send some")]
    Empty,
}

/// A text transform.
pub(super) struct Text {
    transform: TextTransform,
    tokenizer: Tokenizer,
    pad_id: i64,
}

/// The tokens of a row.
pub(super) struct Tokens {
    ids: Vec<i64>,
    types: Vec<i64>,
}

impl Text {
    pub(super) fn new(transform: &TextTransform, file: &[u8]) -> Result<Self, String> {
        let name = &transform.tokenizer;
        let mut tokenizer =
            Tokenizer::from_bytes(file).map_err(|error| format!("{name} is no tokenizer that can be read: {error}"))?;
        let most = transform.max_tokens as usize;
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        // The tokenizer subtracts one from the other.
        if special >= most {
            return Err(format!("{name} adds {special} special tokens, which leaves none of max_tokens {most}"));
        }
        let truncation = TruncationParams { max_length: most, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| format!("{name}: {error}"))?;
        // Rows are made equally long here: whether that is needed depends on the batch.
        tokenizer.with_padding(None);
        let pad = &transform.pad_token;
        let pad_id = tokenizer
            .token_to_id(pad)
            .ok_or_else(|| format!("{name} has no token {pad:?}; name the one that fills as pad_token"))?;
        Ok(Text { transform: transform.clone(), tokenizer, pad_id: i64::from(pad_id) })
    }

    /// The bytes that one row becomes at most.
    pub(super) fn bytes_of_row(&self) -> usize {
        // Ids, mask and types.
        3 * self.transform.max_tokens as usize * self.transform.dtype.size_bytes()
    }

    pub(super) fn encode(&self, row: &Tensor) -> Result<Tokens, TextError> {
        let &[bytes] = row.shape() else { return Err(form(row)) };
        if row.dtype() != DType::U8 {
            return Err(form(row));
        }
        let most = self.transform.max_bytes as usize;
        if bytes > most {
            return Err(TextError::TooLong { bytes, most });
        }
        let text = std::str::from_utf8(row.bytes()).map_err(|error| TextError::NotUtf8 { at: error.valid_up_to() })?;
        let encoding = self.tokenizer.encode_fast(text, self.transform.special_tokens);
        let encoding = encoding.map_err(|error| TextError::Tokenizer(error.to_string()))?;
        if encoding.is_empty() && self.transform.pad == Pad::Longest {
            return Err(TextError::Empty);
        }
        let numbers = |numbers: &[u32]| numbers.iter().map(|&number| i64::from(number)).collect();
        Ok(Tokens { ids: numbers(encoding.get_ids()), types: numbers(encoding.get_type_ids()) })
    }

    /// One `[N, tokens]` for each input of the model, with its name.
    pub(super) fn batch(&self, rows: &[Tokens]) -> Vec<(&str, Tensor)> {
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let length = if self.transform.pad == Pad::Max { self.transform.max_tokens as usize } else { longest };
        let tensor = |row: &dyn Fn(&Tokens) -> Vec<i64>, fill: i64| {
            let mut values = Vec::with_capacity(rows.len() * length);
            for (index, tokens) in rows.iter().enumerate() {
                values.extend(row(tokens));
                values.resize((index + 1) * length, fill);
            }
            self.tensor(&[rows.len(), length], &values)
        };
        let mut outputs = vec![(self.transform.ids.as_str(), tensor(&|row| row.ids.clone(), self.pad_id))];
        if let Some(mask) = &self.transform.mask {
            outputs.push((mask, tensor(&|row| vec![1; row.ids.len()], 0)));
        }
        if let Some(types) = &self.transform.types {
            outputs.push((types, tensor(&|row| row.types.clone(), 0)));
        }
        outputs
    }

    fn tensor(&self, shape: &[usize], values: &[i64]) -> Tensor {
        let tensor = if self.transform.dtype == DType::I32 {
            // A tokenizer's ids have 32 bits; one that needs all of them has more tokens than there are words.
            let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
            Tensor::from_slice(shape, &narrow)
        } else {
            Tensor::from_slice(shape, values)
        };
        tensor.expect("as many values as the shape says")
    }
}

fn form(row: &Tensor) -> TextError {
    TextError::Form { dtype: row.dtype(), shape: row.shape().to_vec() }
}
