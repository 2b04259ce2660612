//! What a model says about a set of samples, and what that is worth.

use hedge_certify::Score;
use hedge_engine::{Model, RunError};
use hedge_tensor::{NamedTensor, Tensor, TensorError};
use thiserror::Error;

/// Why a model could not be evaluated.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// The model failed.
    #[error("the model failed on samples {from}..{to}")]
    Run {
        /// The first sample of the batch.
        from: usize,
        /// One past the last.
        to: usize,
        /// Why.
        #[source]
        source: RunError,
    },
    /// The model has no such output.
    #[error("the model has no output '{output}'; it has {}", present.join(", "))]
    NoOutput {
        /// The output asked for.
        output: String,
        /// The outputs there are.
        present: Vec<String>,
    },
    /// The output is no table of logits.
    #[error("output '{output}' is {shape:?} for {rows} samples; a row of logits for each is needed")]
    NotLogits {
        /// The output.
        output: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many samples there were.
        rows: usize,
    },
    /// Samples do not stack, or logits are of another type than `f32`.
    #[error("samples or logits cannot be used")]
    Tensor(#[from] TensorError),
}

/// A model's logits for each sample, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct Predictions {
    logits: Vec<Vec<f32>>,
}

impl Predictions {
    /// Runs `model` on `rows`, each the value of `input` for one sample, in batches of `batch`.
    pub fn of(
        model: &mut Model,
        input: &str,
        rows: &[Tensor],
        output: &str,
        batch: usize,
    ) -> Result<Self, EvaluateError> {
        let mut logits = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(batch.max(1)) {
            let inputs = [NamedTensor::new(input, Tensor::stack(chunk)?)];
            let table = run_output(model, &inputs, output).map_err(|error| shift(error, logits.len()))?;
            let width = match table.shape() {
                &[count, width] if count == chunk.len() && width > 0 => width,
                shape => {
                    return Err(EvaluateError::NotLogits {
                        output: output.to_owned(),
                        shape: shape.to_vec(),
                        rows: chunk.len(),
                    });
                }
            };
            logits.extend(table.to_vec::<f32>()?.chunks(width).map(<[f32]>::to_vec));
        }
        Ok(Predictions { logits })
    }

    /// The logits of each sample.
    pub fn logits(&self) -> &[Vec<f32>] {
        &self.logits
    }

    /// The class of each sample.
    pub fn classes(&self) -> impl Iterator<Item = usize> {
        self.logits.iter().map(|row| hedge_certify::top_class(row))
    }

    /// The share of samples whose class is their label; `None` without samples.
    pub fn accuracy(&self, labels: &[u8]) -> Option<f64> {
        share(self.classes().zip(labels).map(|(class, &label)| class == usize::from(label)))
    }

    /// The share of samples on which both models name the same class; `None` without samples.
    pub fn agreement(&self, other: &Predictions) -> Option<f64> {
        share(self.classes().zip(other.classes()).map(|(own, other)| own == other))
    }

    /// For each sample, the score and whether the other model agrees: what thresholds and certificates are made of.
    pub fn pairs(&self, score: Score, other: &Predictions) -> Vec<(f32, bool)> {
        let agree = self.classes().zip(other.classes()).map(|(own, other)| own == other);
        self.logits.iter().map(|row| score.of(row)).zip(agree).collect()
    }
}

/// The share of `true`.
fn share(hits: impl Iterator<Item = bool>) -> Option<f64> {
    let (hits, count) = hits.fold((0usize, 0usize), |(hits, count), hit| (hits + usize::from(hit), count + 1));
    (count > 0).then(|| hits as f64 / count as f64)
}

/// One run of `model`, of which only `output` is of interest.
pub(crate) fn run_output(model: &mut Model, inputs: &[NamedTensor], output: &str) -> Result<Tensor, EvaluateError> {
    let rows = inputs.first().and_then(|input| input.tensor.shape().first().copied()).unwrap_or(1);
    let outputs = model.run(inputs).map_err(|source| EvaluateError::Run { from: 0, to: rows, source })?;
    let present: Vec<String> = outputs.iter().map(|named| named.name.clone()).collect();
    let found = outputs.into_iter().find(|named| named.name == output);
    found.map(|named| named.tensor).ok_or_else(|| EvaluateError::NoOutput { output: output.to_owned(), present })
}

/// Counts samples from the first of all instead of the first of the batch.
fn shift(error: EvaluateError, done: usize) -> EvaluateError {
    match error {
        EvaluateError::Run { from, to, source } => EvaluateError::Run { from: from + done, to: to + done, source },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(rows: &[[f32; 2]]) -> Predictions {
        Predictions { logits: rows.iter().map(|row| row.to_vec()).collect() }
    }

    #[test]
    fn accuracy_and_agreement_are_shares_of_samples() {
        let edge = predictions(&[[1., 0.], [0., 1.], [1., 0.], [0., 3.]]);
        let cloud = predictions(&[[1., 0.], [0., 1.], [0., 1.], [2., 0.]]);
        assert_eq!(edge.accuracy(&[0, 1, 0, 0]), Some(0.75));
        assert_eq!(edge.agreement(&cloud), Some(0.5));
        let pairs = edge.pairs(Score::Margin, &cloud);
        assert_eq!(pairs.iter().map(|pair| pair.1).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(pairs[3].0 > pairs[2].0);
    }

    #[test]
    fn without_samples_there_is_no_share() {
        assert_eq!(predictions(&[]).accuracy(&[]), None);
    }
}
