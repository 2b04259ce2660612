//! From a row of outputs to its score.

use hedge_certify::{Features, Score};
use hedge_engine::{Port, Signature};
use hedge_graph::Dim;
use hedge_tensor::{DType, NamedTensor, Tensor};

use crate::config::ModelSettings;

/// Which output holds the class logits, and what is computed from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scorer {
    output: String,
    score: Score,
}

/// A model whose answers cannot be scored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoScore {
    /// The configured output is not one.
    #[error(
        "score_output {name:?} is no output with class logits (FP32 [N, classes]) or a confidence (FP32 [N, 1]); the model's outputs are {has}"
    )]
    NotLogits {
        /// What was configured.
        name: String,
        /// The model's outputs.
        has: String,
    },
    /// None was configured and none or several could be meant.
    #[error(
        "{count} outputs could be class logits (FP32 [N, classes]) among {has}; name one as score_output, or set \
         offload = \"never\""
    )]
    Ambiguous {
        /// How many.
        count: usize,
        /// The model's outputs.
        has: String,
    },
}

impl Scorer {
    /// The scorer of a model; none for one that is never offloaded, promises nothing and has no obvious logits.
    pub(crate) fn choose(settings: &ModelSettings, signature: &Signature) -> Result<Option<Self>, NoScore> {
        let has = || signature.outputs.iter().map(text).collect::<Vec<_>>().join(", ");
        let chosen = match &settings.score_output {
            Some(name) => {
                let port = signature.outputs.iter().find(|port| port.name == *name && is_logits(port));
                Some(port.ok_or_else(|| NoScore::NotLogits { name: name.clone(), has: has() })?)
            }
            None => {
                let candidates: Vec<&Port> = signature.outputs.iter().filter(|port| is_logits(port)).collect();
                match candidates[..] {
                    [only] => Some(only),
                    _ if !settings.needs_score() => None,
                    _ => return Err(NoScore::Ambiguous { count: candidates.len(), has: has() }),
                }
            }
        };
        Ok(chosen.map(|port| Self { output: port.name.clone(), score: settings.score }))
    }

    /// The output that holds the logits.
    pub(crate) fn output(&self) -> &str {
        &self.output
    }

    /// The score of one row; none if the output is missing or not of numbers.
    pub(crate) fn score(&self, outputs: &[NamedTensor]) -> Option<f32> {
        self.logits(outputs).map(|logits| self.score.of(&logits))
    }

    /// What routing keeps of one row; none where it has no score.
    pub(crate) fn features(&self, outputs: &[NamedTensor]) -> Option<Features> {
        self.logits(outputs).map(|logits| Features::of(&logits))
    }

    fn logits(&self, outputs: &[NamedTensor]) -> Option<Vec<f32>> {
        let output = outputs.iter().find(|output| output.name == self.output)?;
        logits(&output.tensor)
    }
}

fn logits(tensor: &Tensor) -> Option<Vec<f32>> {
    match tensor.dtype() {
        DType::F32 => tensor.to_vec().ok(),
        DType::F16 => Some(tensor.to_vec::<half::f16>().ok()?.into_iter().map(f32::from).collect()),
        DType::F64 => Some(tensor.to_vec::<f64>().ok()?.into_iter().map(|logit| logit as f32).collect()),
        _ => None,
    }
}

/// Floats with one axis of classes beside the batch axis.
fn is_logits(port: &Port) -> bool {
    let one_row = |shape: &Vec<Dim>| shape.len() == 2 && !matches!(shape[0], Dim::Known(rows) if rows != 1);
    port.dtype.is_float() && port.shape.as_ref().is_some_and(one_row)
}

fn text(port: &Port) -> String {
    format!("{:?} {} {}", port.name, port.dtype, port.shape_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ModelSection};

    fn port(name: &str, dtype: DType, shape: Vec<Dim>) -> Port {
        Port { name: name.into(), dtype, shape: Some(shape) }
    }

    fn logits_port(name: &str) -> Port {
        port(name, DType::F32, vec![Dim::Named("N".into()), Dim::Known(10)])
    }

    fn signature(outputs: Vec<Port>) -> Signature {
        Signature { inputs: vec![], outputs, batched: true }
    }

    fn settings(section: ModelSection) -> ModelSettings {
        Config { models: vec![section], ..Config::default() }.resolve().unwrap().models.remove(0)
    }

    #[test]
    fn the_only_output_with_class_logits_is_the_score_output() {
        let boxes = port("boxes", DType::F32, vec![Dim::Named("N".into()), Dim::Known(4), Dim::Known(4)]);
        let signature = signature(vec![boxes, logits_port("logits")]);
        let scorer = Scorer::choose(&settings(ModelSection::offloading("m", "m.onnx", 0.5)), &signature);
        assert_eq!(scorer.unwrap().unwrap().output, "logits");
    }

    #[test]
    fn a_model_to_be_offloaded_needs_one_obvious_or_named_score_output() {
        let two = signature(vec![logits_port("a"), logits_port("b")]);
        let auto = ModelSection::offloading("m", "m.onnx", 0.5);
        assert!(matches!(Scorer::choose(&settings(auto.clone()), &two), Err(NoScore::Ambiguous { count: 2, .. })));
        let named = ModelSection { score_output: Some("b".into()), ..auto.clone() };
        assert_eq!(Scorer::choose(&settings(named), &two).unwrap().unwrap().output, "b");
        let wrong = ModelSection { score_output: Some("c".into()), ..auto };
        assert!(matches!(Scorer::choose(&settings(wrong), &two), Err(NoScore::NotLogits { .. })));
        assert_eq!(Scorer::choose(&settings(ModelSection::local("m", "m.onnx")), &two), Ok(None));
    }

    #[test]
    fn every_float_type_is_scored() {
        let scorer = Scorer { output: "y".into(), score: Score::Margin };
        let score = |tensor| scorer.score(&[NamedTensor::new("y", tensor)]);
        let expected = 0.5_f32.tanh();
        let near = |score: Option<f32>| assert!((score.unwrap() - expected).abs() < 1e-3, "{score:?}");
        near(score(Tensor::from_slice(&[1, 2], &[1.0_f32, 0.0]).unwrap()));
        near(score(Tensor::from_slice(&[1, 2], &[1.0_f64, 0.0]).unwrap()));
        near(score(Tensor::from_slice(&[1, 2], &[half::f16::ONE, half::f16::ZERO]).unwrap()));
        assert_eq!(score(Tensor::from_slice(&[1, 2], &[1_u8, 0]).unwrap()), None);
        assert_eq!(scorer.score(&[]), None);
    }
}
