//! Training steps.

use hedge_graph::{Dim, Graph, GraphBuilder};
use hedge_tensor::{DType, Tensor};

use super::{floats, named};
use crate::train::{AdamW, Target, TrainError, Trainer};
use crate::{DeviceChoice, Model};

/// Two classes from two numbers, starting from nothing.
fn linear() -> Graph {
    let mut builder = GraphBuilder::new("linear");
    let x = builder.input("x", DType::F32, &[Dim::named("N"), 2.into()]);
    let weight = builder.init("w", Tensor::zeros(DType::F32, vec![2, 2]).unwrap());
    let bias = builder.init("b", Tensor::zeros(DType::F32, vec![2]).unwrap());
    builder.op_as("logits", "Gemm", &[&x, &weight, &bias], &[]);
    builder.output("logits", DType::F32, &[Dim::named("N"), 2.into()]);
    builder.finish().expect("the graph is well formed")
}

fn target(labels: &[u8]) -> Target<'_> {
    Target { labels, teacher_logits: None, temperature: 1.0, soft_weight: 0.0 }
}

fn trainer() -> Trainer {
    Trainer::new(&linear(), &["w".to_owned(), "b".to_owned()], AdamW::default()).unwrap()
}

#[test]
fn the_first_loss_of_an_untrained_classifier_is_the_logarithm_of_its_classes() {
    let inputs = named("x", floats(&[2, 2], &[1., 0., 0., 1.]));
    let loss = trainer().step(&inputs, &target(&[0, 1]), 0.1).unwrap();
    assert!((loss - std::f32::consts::LN_2).abs() < 1e-6);
}

#[test]
fn steps_lower_the_loss_and_the_exported_graph_has_what_was_learnt() {
    let mut trainer = trainer();
    let inputs = named("x", floats(&[2, 2], &[1., 0., 0., 1.]));
    let losses: Vec<f32> = (0..50).map(|_| trainer.step(&inputs, &target(&[0, 1]), 0.1).unwrap()).collect();
    assert!(losses[49] < 0.1 * losses[0], "{losses:?}");
    let mut model = Model::load(trainer.export().unwrap(), DeviceChoice::Cpu, None).unwrap();
    let logits = model.run(&inputs).unwrap()[0].tensor.to_vec::<f32>().unwrap();
    assert!(logits[0] > logits[1] && logits[3] > logits[2]);
}

#[test]
fn a_student_follows_its_teacher_against_the_labels() {
    let mut trainer = trainer();
    let inputs = named("x", floats(&[1, 2], &[1., 1.]));
    let teacher = floats(&[1, 2], &[0., 8.]);
    let target = Target { labels: &[0], teacher_logits: Some(&teacher), temperature: 2.0, soft_weight: 1.0 };
    (0..50).for_each(|_| {
        trainer.step(&inputs, &target, 0.1).unwrap();
    });
    let mut model = Model::load(trainer.export().unwrap(), DeviceChoice::Cpu, None).unwrap();
    let logits = model.run(&inputs).unwrap()[0].tensor.to_vec::<f32>().unwrap();
    assert!(logits[1] > logits[0]);
}

#[test]
fn parameters_and_targets_that_do_not_fit_are_named() {
    let unknown = Trainer::new(&linear(), &["v".to_owned()], AdamW::default()).err();
    assert_eq!(unknown, Some(TrainError::Parameter { name: "v".to_owned() }));
    let inputs = named("x", floats(&[1, 2], &[1., 0.]));
    assert!(matches!(trainer().step(&inputs, &target(&[0, 1]), 0.1), Err(TrainError::Target { .. })));
    assert!(matches!(trainer().step(&inputs, &target(&[7]), 0.1), Err(TrainError::Target { .. })));
}
