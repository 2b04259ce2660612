//! The training loop: batches in, a trained graph out.

use hedge_engine::Model;
use hedge_engine::train::{AdamW, Target, TrainError, Trainer};
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use thiserror::Error;

use crate::evaluate::{EvaluateError, run_output};

/// How a model is trained.
#[derive(Clone, PartialEq, Debug)]
pub struct Recipe {
    /// Optimizer steps, one batch each.
    pub steps: usize,
    /// The learning rate at the end of the warm-up.
    pub peak_rate: f64,
    /// Steps over which the learning rate rises from 0, linearly; it then falls to 0 along a cosine.
    pub warm_up: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// What the student learns from its teacher; `None` trains on labels alone.
    pub distillation: Option<Distillation>,
}

/// How much of the loss comes from the teacher (Hinton et al., 2015, "Distilling the knowledge in a neural network").
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Distillation {
    /// What both models' logits are divided by before the softmax.
    pub temperature: f32,
    /// The teacher's share of the loss, 0..1; the labels have the rest.
    pub soft_weight: f32,
}

/// What one step learns from.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The model's inputs, a leading dimension of the batch's size each.
    pub inputs: Vec<NamedTensor>,
    /// The true class of each row.
    pub labels: Vec<u8>,
}

/// How far training is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress<'a> {
    /// What is being trained, as the caller named it.
    pub stage: &'a str,
    /// Steps done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The loss of this step's batch.
    pub loss: f32,
}

/// Why training stopped.
#[derive(Debug, Error)]
pub enum FitError {
    /// The batches ended early.
    #[error("{stage}: the data ended after {step} of {steps} batches")]
    DataEnded {
        /// What was being trained.
        stage: String,
        /// Batches there were.
        step: usize,
        /// Batches asked for.
        steps: usize,
    },
    /// The loss is no number any more.
    #[error("{stage}: the loss became {loss} at step {step}; lower the learning rate")]
    Diverged {
        /// What was being trained.
        stage: String,
        /// The step.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// A recipe distils, but there is nobody to learn from, or the other way round.
    #[error("{stage}: a teacher and a recipe with distillation go together; one of them is missing")]
    Teacher {
        /// What was to be trained.
        stage: String,
    },
    /// The teacher could not answer.
    #[error("{stage}: the teacher failed")]
    TeacherRun {
        /// What was being trained.
        stage: String,
        /// Why.
        #[source]
        source: EvaluateError,
    },
    /// The step itself failed.
    #[error("{stage}: a training step failed")]
    Train {
        /// What was being trained.
        stage: String,
        /// Why.
        #[source]
        source: TrainError,
    },
}

/// A model to learn from, and which of its outputs holds the logits.
pub struct Teacher<'a> {
    /// The larger model.
    pub model: &'a mut Model,
    /// The name of its output.
    pub output: &'a str,
}

/// Trains the constants `trainable` of `graph`, one batch a step, and returns the trained graph.
pub fn fit(
    stage: &str,
    graph: &Graph,
    trainable: &[String],
    recipe: &Recipe,
    mut batches: impl Iterator<Item = Batch>,
    mut teacher: Option<Teacher<'_>>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Graph, FitError> {
    if teacher.is_some() != recipe.distillation.is_some() {
        return Err(FitError::Teacher { stage: stage.to_owned() });
    }
    let failed = |source| FitError::Train { stage: stage.to_owned(), source };
    let optimizer = AdamW { weight_decay: recipe.weight_decay, ..AdamW::default() };
    let mut trainer = Trainer::new(graph, trainable, optimizer).map_err(failed)?;
    let steps = recipe.steps;
    for step in 0..steps {
        let batch = batches.next().ok_or_else(|| FitError::DataEnded { stage: stage.to_owned(), step, steps })?;
        let soft = teach(stage, teacher.as_mut(), &batch)?;
        let target = target(recipe, &batch, soft.as_ref());
        let loss = trainer.step(&batch.inputs, &target, recipe.rate(step)).map_err(failed)?;
        if !loss.is_finite() {
            return Err(FitError::Diverged { stage: stage.to_owned(), step, loss });
        }
        progress(Progress { stage, step: step + 1, steps, loss });
    }
    trainer.export().map_err(failed)
}

impl Recipe {
    /// The learning rate of a step.
    fn rate(&self, step: usize) -> f64 {
        if step < self.warm_up {
            return self.peak_rate * (step + 1) as f64 / self.warm_up as f64;
        }
        let length = self.steps.saturating_sub(self.warm_up).max(1) as f64;
        let done = (step - self.warm_up) as f64 / length;
        self.peak_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

fn teach(stage: &str, teacher: Option<&mut Teacher<'_>>, batch: &Batch) -> Result<Option<Tensor>, FitError> {
    let answer = teacher.map(|teacher| run_output(teacher.model, &batch.inputs, teacher.output));
    answer.transpose().map_err(|source| FitError::TeacherRun { stage: stage.to_owned(), source })
}

fn target<'a>(recipe: &Recipe, batch: &'a Batch, soft: Option<&'a Tensor>) -> Target<'a> {
    let (temperature, soft_weight) = recipe.distillation.map_or((1.0, 0.0), |d| (d.temperature, d.soft_weight));
    Target { labels: &batch.labels, teacher_logits: soft, temperature, soft_weight }
}

#[cfg(test)]
mod tests {
    use hedge_engine::DeviceChoice;
    use hedge_graph::{Dim, GraphBuilder};
    use hedge_tensor::DType;

    use super::*;
    use crate::Predictions;
    use crate::init::Initializer;

    /// Two inputs, two classes, a hidden layer.
    fn network(seed: u64) -> Graph {
        let mut weights = Initializer::new(seed);
        let mut b = GraphBuilder::new("two classes");
        let x = b.input("x", DType::F32, &[Dim::named("N"), Dim::Known(2)]);
        let hidden = b.init("hidden", weights.kaiming(&[8, 2]).unwrap());
        let bias = b.init("bias", Tensor::zeros(DType::F32, vec![8]).unwrap());
        let out = b.init("out", weights.kaiming(&[2, 8]).unwrap());
        let h = b.op("Gemm", &[&x, &hidden, &bias], &[("transB", 1.into())]);
        let h = b.op("Relu", &[&h], &[]);
        b.op_as("y", "Gemm", &[&h, &out], &[("transB", 1.into())]);
        b.output("y", DType::F32, &[Dim::named("N"), Dim::Known(2)]);
        b.finish().unwrap()
    }

    fn trainable() -> Vec<String> {
        ["hidden", "bias", "out"].map(str::to_owned).to_vec()
    }

    /// The exclusive or: no model without a hidden layer gets it right.
    fn exclusive_or() -> Batch {
        let x = Tensor::from_slice(&[4, 2], &[0f32, 0., 0., 1., 1., 0., 1., 1.]).unwrap();
        Batch { inputs: vec![NamedTensor::new("x", x)], labels: vec![0, 1, 1, 0] }
    }

    fn recipe(steps: usize, distillation: Option<Distillation>) -> Recipe {
        Recipe { steps, peak_rate: 0.05, warm_up: 5, weight_decay: 0.0, distillation }
    }

    fn accuracy(graph: &Graph) -> f64 {
        let batch = exclusive_or();
        let mut model = Model::load(graph.clone(), DeviceChoice::Cpu, None).unwrap();
        let rows = batch.inputs[0].tensor.rows().unwrap();
        Predictions::of(&mut model, "x", &rows, "y", 3).unwrap().accuracy(&batch.labels).unwrap()
    }

    #[test]
    fn a_model_learns_and_another_learns_from_it() {
        let mut losses = Vec::new();
        let mut watch = |now: Progress<'_>| losses.push(now.loss);
        let data = || std::iter::repeat_with(exclusive_or);
        let first = fit("first", &network(3), &trainable(), &recipe(200, None), data(), None, &mut watch).unwrap();
        assert!(losses.len() == 200 && losses[199] < 0.1 * losses[0], "{:?} -> {:?}", losses[0], losses[199]);
        assert_eq!(accuracy(&first), 1.0);

        // All of the second one's knowledge comes from the first: the labels have no weight.
        let all_soft = Some(Distillation { temperature: 2.0, soft_weight: 1.0 });
        let mut model = Model::load(first.clone(), DeviceChoice::Cpu, None).unwrap();
        let teacher = Some(Teacher { model: &mut model, output: "y" });
        let wrong = || Batch { labels: vec![1, 0, 0, 1], ..exclusive_or() };
        let data = std::iter::repeat_with(wrong);
        let second =
            fit("second", &network(5), &trainable(), &recipe(200, all_soft), data, teacher, &mut |_| ()).unwrap();
        assert_eq!(accuracy(&second), 1.0);
    }

    #[test]
    fn training_twice_gives_the_same_weights() {
        let train = || {
            let data = std::iter::repeat_with(exclusive_or);
            fit("model", &network(3), &trainable(), &recipe(20, None), data, None, &mut |_| ()).unwrap()
        };
        assert_eq!(train().write(), train().write());
    }

    #[test]
    fn data_that_ends_early_and_a_missing_teacher_are_named() {
        let data = std::iter::repeat_with(exclusive_or).take(3);
        let error = fit("short", &network(3), &trainable(), &recipe(5, None), data, None, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "short: the data ended after 3 of 5 batches");

        let distilling = recipe(5, Some(Distillation { temperature: 2.0, soft_weight: 0.5 }));
        let data = std::iter::repeat_with(exclusive_or);
        let error = fit("pupil", &network(3), &trainable(), &distilling, data, None, &mut |_| ()).unwrap_err();
        assert!(matches!(error, FitError::Teacher { stage } if stage == "pupil"));
    }

    #[test]
    fn a_loss_that_is_no_number_stops_the_training() {
        let mut broken = network(3);
        broken.initializers.insert("out".into(), Tensor::from_slice(&[2, 8], &[f32::NAN; 16]).unwrap());
        let data = std::iter::repeat_with(exclusive_or);
        let error = fit("wild", &broken, &trainable(), &recipe(5, None), data, None, &mut |_| ()).unwrap_err();
        assert!(matches!(error, FitError::Diverged { .. }), "{error}");
    }

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let recipe = Recipe { steps: 100, peak_rate: 0.1, warm_up: 10, weight_decay: 0.0, distillation: None };
        let rates: Vec<f64> = (0..100).map(|step| recipe.rate(step)).collect();
        assert!(rates[..10].windows(2).all(|pair| pair[0] < pair[1]));
        assert!((rates[9] - 0.1).abs() < 1e-12 && (rates[10] - 0.1).abs() < 1e-12);
        assert!(rates[10..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(rates[99] > 0.0 && rates[99] < 0.001);
    }

    #[test]
    fn a_recipe_without_warm_up_or_shorter_than_it_has_a_rate_at_every_step() {
        for (steps, warm_up) in [(1, 0), (5, 10), (10, 10)] {
            let recipe = Recipe { steps, peak_rate: 0.1, warm_up, weight_decay: 0.0, distillation: None };
            assert!((0..steps).all(|step| recipe.rate(step) > 0.0));
        }
    }
}
