//! Loading and batching.

use std::time::Duration;

use hedge_tensor::{NamedTensor, Tensor};

use super::{affine, floats, model, named};
use crate::worker::{BatchPolicy, SubmitError, Worker};
use crate::{DeviceChoice, Golden, LoadError, Model, RunError};

fn policy(max_batch: usize, queue_rows: usize) -> BatchPolicy {
    BatchPolicy { max_batch, max_wait: Duration::from_secs(5), queue_rows }
}

fn row(value: f32) -> Vec<NamedTensor> {
    named("x", floats(&[1, 2], &[value, value]))
}

#[test]
fn a_model_answers_by_name_and_refuses_what_does_not_fit() {
    let mut model = model(&affine());
    let outputs = model.run(&named("x", floats(&[2, 2], &[1., 2., 3., 4.]))).unwrap();
    assert_eq!(outputs[0].name, "y");
    assert_eq!(outputs[0].tensor.to_vec::<f32>().unwrap(), [12., 24., 16., 28.]);
    assert!(matches!(model.run(&named("z", floats(&[1, 2], &[0., 0.]))), Err(RunError::Input(_))));
    assert!(matches!(model.run(&named("x", Tensor::scalar(1f32))), Err(RunError::Input(_))));
}

#[test]
fn a_device_that_does_not_give_the_golden_outputs_may_not_serve() {
    let inputs = named("x", floats(&[1, 2], &[1., 1.]));
    let golden = |y: &[f32]| Golden { inputs: inputs.clone(), outputs: named("y", floats(&[1, 2], y)) };
    assert!(Model::load(affine(), DeviceChoice::Cpu, Some(&golden(&[12., 22.]))).is_ok());
    let refused = Model::load(affine(), DeviceChoice::Cpu, Some(&golden(&[12., 22.5]))).err();
    assert!(matches!(refused, Some(LoadError::Refused { .. })));
}

#[test]
fn waiting_samples_share_a_run_and_each_gets_its_own_row() {
    let worker = Worker::spawn("test", model(&affine()), policy(3, 8)).unwrap();
    let answers: Vec<_> = (0..3u8).map(|value| worker.submit(row(f32::from(value))).unwrap()).collect();
    for (value, answer) in (0..3u8).zip(answers) {
        let output = answer.blocking_recv().unwrap().unwrap();
        assert_eq!(output.batch, 3);
        let expected = f32::from(value) * 2.0;
        assert_eq!(output.outputs[0].tensor.to_vec::<f32>().unwrap(), [expected + 10., expected + 20.]);
        assert_eq!(output.outputs[0].tensor.shape(), [1, 2]);
    }
}

#[test]
fn a_full_queue_refuses_at_once_instead_of_waiting() {
    // The worker takes the first sample and waits for a second that never fits in.
    let worker = Worker::spawn("test", model(&affine()), policy(64, 1)).unwrap();
    let mut kept = Vec::new();
    let refused = (0..64).find_map(|_| match worker.submit(row(0.)) {
        Ok(answer) => {
            kept.push(answer);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, None | Some(SubmitError::QueueFull { limit: 1 })));
    // Whatever was taken is answered once the queue closes.
    drop(worker);
    for answer in kept {
        assert!(answer.blocking_recv().unwrap().is_ok());
    }
}

#[test]
fn samples_of_different_shapes_are_run_apart() {
    use hedge_graph::{Dim, GraphBuilder};
    use hedge_tensor::DType;
    let free = [Dim::named("N"), Dim::named("L")];
    let mut builder = GraphBuilder::new("relu");
    let x = builder.input("x", DType::F32, &free);
    builder.op_as("y", "Relu", &[&x], &[]);
    builder.output("y", DType::F32, &free);
    let worker = Worker::spawn("test", model(&builder.finish().unwrap()), policy(8, 8)).unwrap();
    let short = worker.submit(named("x", floats(&[1, 1], &[-1.]))).unwrap();
    let long = worker.submit(named("x", floats(&[1, 2], &[-1., 1.]))).unwrap();
    drop(worker);
    assert_eq!(short.blocking_recv().unwrap().unwrap().outputs[0].tensor.to_vec::<f32>().unwrap(), [0.]);
    assert_eq!(long.blocking_recv().unwrap().unwrap().outputs[0].tensor.to_vec::<f32>().unwrap(), [0., 1.]);
}
