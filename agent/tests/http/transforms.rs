//! Bundles whose manifests say how raw bytes become the model's inputs.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use hedge_bundle::{Draft, FileName, Manifest};
use hedge_graph::build::GraphBuilder;
use hedge_graph::{Dim, Graph};
use hedge_tensor::DType;
use serde_json::{Value, json};

use crate::client::{Response, get, post};
use crate::scene::{Scene, scene_with};

/// 3 x 2 RGB pixels: [`PIXELS`], and a column between them that the nearest of 2 x 2 pixels leaves out.
const PNG: &[u8] = include_bytes!("../../../models/engine/src/tests/transform/small.png");
const PIXELS: [u8; 12] = [0, 53, 106, 74, 127, 180, 91, 144, 197, 223, 20, 73];
const TOKENIZER: &[u8] = include_bytes!("../../../models/engine/src/tests/transform/tokenizer.json");
const IMAGE: &str = r#"{"kind": "image", "steps": [{"step": "resize", "width": 2, "height": 2, "filter": "nearest"}],
    "scale": 0.5, "mean": [1, 2, 3]}"#;
const TEXT: &str = r#"{"kind": "text", "tokenizer": "tokenizer.json", "ids": "ids", "max_tokens": 8}"#;
const SOUND: &str = r#"{"kind": "audio", "sample_rate": 8000, "samples": 4, "features": {"kind": "samples"}}"#;

/// `y = -x`, so that outputs tell what the model got.
fn negative(input: &str, dtype: DType, tail: &[Dim]) -> Graph {
    let shape: Vec<Dim> = [Dim::named("N")].into_iter().chain(tail.iter().cloned()).collect();
    let mut b = GraphBuilder::new("negative");
    let x = b.input(input, dtype, &shape);
    b.op_as("y", "Neg", &[&x], &[]);
    b.output("y", dtype, &shape);
    b.finish().unwrap()
}

fn put(folder: &Path, name: &str, graph: Graph, inputs: &str) {
    let manifest = format!(r#"{{"format": 1, "name": "{name}", "version": "1", "inputs": {inputs}}}"#);
    let mut draft = Draft::new(Manifest::read(manifest.as_bytes()).unwrap(), graph);
    if inputs.contains("tokenizer.json") {
        draft.add_file(FileName::parse("tokenizer.json").unwrap(), Bytes::from_static(TOKENIZER));
    }
    draft.write(&folder.join(format!("{name}.hedge"))).unwrap();
}

fn one(name: &str, transform: &str) -> String {
    format!(r#"[{{"name": "{name}", "transform": {transform}}}]"#)
}

async fn scene() -> (Scene, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let pixels = || negative("x", DType::F32, &[3.into(), 2.into(), 2.into()]);
    put(folder.path(), "image", pixels(), &one("x", IMAGE));
    put(folder.path(), "plain", pixels(), "[]");
    put(folder.path(), "text", negative("ids", DType::I64, &[Dim::named("tokens")]), &one("words", TEXT));
    put(folder.path(), "sound", negative("x", DType::F32, &[4.into()]), &one("x", SOUND));
    let path = folder.path().to_owned();
    let scene = scene_with(|config| {
        config.models.clear();
        config.repository.path = Some(path);
    })
    .await;
    (scene, folder)
}

fn ask(address: SocketAddr, model: &str, input: &Value) -> Response {
    let request = json!({ "inputs": [input] }).to_string();
    post(address, &format!("/v2/models/{model}/infer"), &[], request.as_bytes())
}

/// Sends elements with their lengths before them.
fn ask_binary(address: SocketAddr, model: &str, input: &str, elements: &[&[u8]]) -> Response {
    let mut data = Vec::new();
    for element in elements {
        data.extend_from_slice(&u32::try_from(element.len()).unwrap().to_le_bytes());
        data.extend_from_slice(element);
    }
    let parameters = json!({ "binary_data_size": data.len() });
    let input = json!({ "name": input, "shape": [elements.len(), 1], "datatype": "BYTES", "parameters": parameters });
    let head = json!({ "inputs": [input] }).to_string();
    let length = head.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    post(address, &format!("/v2/models/{model}/infer"), &headers, &[head.as_bytes(), &data].concat())
}

fn words(texts: &[&str]) -> Value {
    json!({ "name": "words", "shape": [texts.len()], "datatype": "BYTES", "data": texts })
}

#[track_caller]
fn output(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["outputs"][0].clone()
}

#[track_caller]
fn refused(response: &Response, status: u16, says: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert!(response.error().contains(says), "{}", response.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_shows_what_callers_give() {
    let (scene, _folder) = scene().await;
    scene
        .with(|address| {
            let model = |name: &str| get(address, &format!("/v2/models/{name}")).json();
            let image = model("image");
            assert_eq!(image["inputs"], json!([{ "name": "x", "datatype": "BYTES", "shape": [-1, 1] }]));
            assert_eq!(image["outputs"], json!([{ "name": "y", "datatype": "FP32", "shape": [-1, 3, 2, 2] }]));
            assert!(image["properties"]["hedge.input.x"].as_str().unwrap().contains("UINT8 [H, W, C]"));
            assert_eq!(model("text")["inputs"], json!([{ "name": "words", "datatype": "BYTES", "shape": [-1, 1] }]));
            assert_eq!(model("sound")["inputs"], json!([{ "name": "x", "datatype": "FP32", "shape": [-1, -1] }]));
            assert_eq!(model("plain")["inputs"][0]["datatype"], "FP32");
            assert!(model("plain")["properties"].get("hedge.input.x").is_none());
            let config = get(address, "/v2/models/image/config").json();
            assert_eq!(config["input"], json!([{ "name": "x", "data_type": "TYPE_STRING", "dims": [1] }]));
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_pixels_give_what_the_models_own_input_gives() {
    let (scene, _folder) = scene().await;
    scene
        .with(|address| {
            let pixels: Vec<u8> = PIXELS.into_iter().chain(0..12).collect();
            // What the manifest says, written out: NCHW of pixel * 0.5 - mean.
            let value = |row: usize, channel: usize, at: usize| {
                f64::from(pixels[row * 12 + at * 3 + channel]) * 0.5 - (channel as f64 + 1.0)
            };
            let own: Vec<f64> = (0..24).map(|i| value(i / 12, i / 4 % 3, i % 4)).collect();
            let own = json!({ "name": "x", "shape": [2, 3, 2, 2], "datatype": "FP32", "data": own });
            let expected = output(&ask(address, "plain", &own));
            let given = json!({ "name": "x", "shape": [2, 2, 2, 3], "datatype": "UINT8", "data": pixels });
            assert_eq!(output(&ask(address, "image", &given)), expected);

            let file = output(&ask_binary(address, "image", "x", &[PNG]));
            assert_eq!(file["shape"], json!([1, 3, 2, 2]));
            assert_eq!(file["data"].as_array().unwrap()[..], expected["data"].as_array().unwrap()[..12]);
            let raw = json!({ "name": "x", "shape": [PNG.len()], "datatype": "UINT8", "data": PNG });
            let again = ask(address, "image", &raw);
            assert_eq!(output(&again), file);
            assert_eq!(again.json()["parameters"]["hedge.source"], "cache", "the model's own input is the key");
            let both = output(&ask_binary(address, "image", "x", &[PNG, PNG]));
            assert_eq!(both["shape"], json!([2, 3, 2, 2]));
            assert_eq!(both["data"].as_array().unwrap()[12..], file["data"].as_array().unwrap()[..]);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_sound_become_the_models_inputs() {
    let (scene, _folder) = scene().await;
    scene
        .with(|address| {
            let texts = output(&ask(address, "text", &words(&["Hello hedges!", "world"])));
            assert_eq!(texts["shape"], json!([2, 6]));
            assert_eq!(texts["data"], json!([-2, -4, -6, -7, -8, -3, -2, -5, -3, 0, 0, 0]));
            assert_eq!(output(&ask_binary(address, "text", "words", &[b"Hello hedges!", b"world"])), texts);
            let sound = json!({ "name": "x", "shape": [1, 2], "datatype": "INT16", "data": [16384, -32768] });
            let sound = output(&ask(address, "sound", &sound));
            assert_eq!(sound["data"], json!([-0.5, 1.0, -0.0, -0.0]));
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_inputs_that_cannot_be_used_are_refused_with_their_row() {
    let (scene, _folder) = scene().await;
    scene
        .with(|address| {
            let image = |elements: &[&[u8]]| ask_binary(address, "image", "x", elements);
            refused(&image(&[PNG, b"no image"]), 400, "row 1 of input \"x\": the image cannot be decoded");
            refused(&image(&[&PNG[..PNG.len() / 2]]), 400, "row 0 of input \"x\"");
            refused(&image(&[]), 400, "no rows");
            refused(&image(&vec![&b""[..]; 257]), 413, "more than 256 (engine.queue_rows)");
            refused(&image(&vec![&b""[..]; 5000]), 413, "more than 4096");
            let latin = ask_binary(address, "text", "words", &[b"a", b"\xff"]);
            refused(&latin, 400, "row 1 of input \"words\": the text is not UTF-8");
            let own = json!({ "name": "x", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": vec![0; 12] });
            refused(&ask(address, "image", &own), 400, "is no image: give a JPEG or PNG file");
            let ids = json!({ "name": "ids", "shape": [1], "datatype": "BYTES", "data": ["a"] });
            refused(&ask(address, "text", &ids), 400, "\"words\" (UTF-8 text");
            let sound = json!({ "name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"] });
            refused(&ask(address, "sound", &sound), 400, "BYTES is for image files and texts; give sound at 8000 Hz");
            refused(&ask_binary(address, "plain", "x", &[PNG]), 400, "datatype \"BYTES\" is not supported");
        })
        .await;
    scene.agent.shutdown().await;
}
