//! The committed files: that they are what the manifest says, and that what it says of them is true.

use bytes::Bytes;
use hedge_engine::{DeviceChoice, Model};
use hedge_graph::{Dim, Graph, file_digest};
use hedge_tensor::DType;

use super::recipe::{hex, record};
use super::*;

fn graph(file: &'static [u8]) -> Graph {
    Graph::read(Bytes::from_static(file)).unwrap()
}

fn model(file: &'static [u8]) -> Model {
    Model::load(graph(file), DeviceChoice::Cpu, None).unwrap()
}

#[test]
fn the_manifest_is_of_these_files() {
    let manifest = manifest();
    assert_eq!(manifest.seed, SEED);
    assert_eq!(manifest.edge.sha256, hex(&file_digest(edge_onnx())));
    assert_eq!(manifest.cloud.sha256, hex(&file_digest(cloud_onnx())));
    assert_eq!(manifest.data_sha256, hex(&file_digest(data::file())));
    assert_eq!(manifest.edge.parameters, graph(edge_onnx()).parameters());
    assert_eq!(manifest.cloud.parameters, graph(cloud_onnx()).parameters());
    assert_eq!(manifest.labels, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn the_splits_are_the_ones_that_were_measured() {
    let splits = manifest().splits;
    assert_eq!(splits.tune, record(Split::Tune, SEED, TUNE_SAMPLES));
    assert_eq!(splits.test, record(Split::Test, SEED, TEST_SAMPLES));
}

#[test]
fn the_pair_is_small_beside_large() {
    let manifest = manifest();
    assert!(manifest.edge.parameters <= 10_000, "{}", manifest.edge.parameters);
    assert!(manifest.cloud.parameters >= 15 * manifest.edge.parameters);
    assert!(edge_onnx().len() + cloud_onnx().len() + data::file().len() < 2 << 20);
}

#[test]
fn both_models_take_the_same_bytes_and_give_logits() {
    for file in [edge_onnx(), cloud_onnx()] {
        let graph = graph(file);
        let input = graph.input(INPUT).unwrap();
        assert_eq!(input.dtype, Some(DType::U8));
        let canvas = Dim::Known(CANVAS);
        assert_eq!(input.shape, Some(vec![Dim::named("N"), Dim::Known(1), canvas.clone(), canvas]));
        let output = graph.output(OUTPUT).unwrap();
        assert_eq!(output.dtype, Some(DType::F32));
        assert_eq!(output.shape, Some(vec![Dim::named("N"), Dim::Known(CLASSES)]));
    }
}

#[test]
fn on_fresh_requests_the_cloud_is_clearly_better_and_mostly_of_the_same_mind() {
    const FRESH_SEED: u64 = 20_000;
    const SAMPLES: usize = 2000;
    let stream = FieldStream::new(Split::Test, FRESH_SEED);
    let answers = Answers::to(stream, SAMPLES, &mut model(edge_onnx()), &mut model(cloud_onnx())).unwrap();
    let manifest = manifest();
    let fresh = answers.measure(manifest.threshold).unwrap();
    assert!(fresh.cloud_accuracy - fresh.edge_accuracy >= 0.04, "{fresh:?}");
    assert!((0.90..=0.97).contains(&fresh.agreement), "{fresh:?}");
    // The threshold is no certificate: that many samples leave the share uncertain by this much (three deviations).
    assert!(fresh.system_disagreement <= manifest.target_disagreement + 0.005, "{fresh:?}");
    assert!((fresh.offload - manifest.test.offload).abs() <= 0.04, "{fresh:?}");
    assert!(fresh.system_accuracy >= fresh.cloud_accuracy - 0.01, "{fresh:?}");
}
