//! What `--keep` leaves behind, so that anyone can run the same inputs through the same models elsewhere.
//!
//! ```text
//! inputs.npy      UINT8 [n, 1, 16, 16]   what was sent, in the order of requests
//! labels.npy      UINT8 [n]              what the images show
//! outputs.npy     FP32  [n, 10]          the logits that came back; NaN where none did
//! requests.jsonl  n lines                where each came from: {"index", "phase", "id", "label", "repeat_of", "source",
//!                                        "status", "reason", "confidence", "model", "prediction",
//!                                        "cloud_prediction", "ms"}; "cloud_prediction" is the class that the cloud
//!                                        model gives, whoever answered; without an answer, what would describe it is
//!                                        null and there is an "error"
//! edge.onnx, cloud.onnx                  the models; their digests are what "model" names
//! certificate.json                       the certificate that the agent began with, if there was one
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hedge_certify::{Certificate, top_class};
use hedge_tensor::Tensor;
use hedge_zoo::digits;
use serde_json::{Value, json};

use super::client::{self, Reply};
use super::phases::{Outcome, Ran};
use super::script::Request;
use crate::failure::with_hint;
use crate::npy;

/// Makes the folder `to`, if need be.
pub(super) fn make_folder(to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| {
        with_hint(format!("{} cannot be made: {error}", to.display()), "give --keep a folder that can be written to")
    })
}

/// Writes everything into the folder `to`; `classes` are the cloud model's of all requests.
pub(super) fn write(
    to: &Path,
    requests: &[Request],
    classes: &[usize],
    ran: &[Ran],
    certificate: Option<&Certificate>,
) -> Result<()> {
    let outcomes: Vec<&Outcome> = ran.iter().flat_map(|ran| &ran.outcomes).collect();

    let images: Vec<Tensor> = requests.iter().map(|request| request.image.clone()).collect();
    npy::write(&to.join("inputs.npy"), &Tensor::stack(&images)?)?;
    let labels: Vec<u8> = requests.iter().map(|request| request.label).collect();
    npy::write(&to.join("labels.npy"), &Tensor::from_slice(&[labels.len()], &labels)?)?;
    let logits: Vec<f32> = outcomes.iter().flat_map(|outcome| logits(outcome)).collect();
    npy::write(&to.join("outputs.npy"), &Tensor::from_slice(&[outcomes.len(), digits::CLASSES], &logits)?)?;

    let mut lines = String::new();
    for ((request, &class), outcome) in requests.iter().zip(classes).zip(outcomes) {
        lines.push_str(&line(request, class, outcome).to_string());
        lines.push('\n');
    }
    save(&to.join("requests.jsonl"), lines.as_bytes())?;
    if let Some(certificate) = certificate {
        save(&to.join("certificate.json"), &certificate.to_json())?;
    }
    save(&to.join("edge.onnx"), digits::edge_onnx())?;
    save(&to.join("cloud.onnx"), digits::cloud_onnx())
}

fn logits(outcome: &Outcome) -> Vec<f32> {
    match &outcome.reply {
        Reply::Answer(answer) => answer.logits.clone(),
        Reply::Failed(_) | Reply::Nothing(_) => vec![f32::NAN; digits::CLASSES],
    }
}

fn line(request: &Request, cloud_class: usize, outcome: &Outcome) -> Value {
    let mut line = json!({
        "index": request.index,
        "phase": request.phase.name(),
        "id": client::id(request.index),
        "label": request.label,
        "repeat_of": request.repeat_of,
        "cloud_prediction": cloud_class,
        "ms": outcome.took.as_micros() as f64 / 1000.0,
    });
    match &outcome.reply {
        Reply::Answer(answer) => {
            line["source"] = answer.source.name().into();
            line["status"] = answer.status.name().into();
            line["reason"] = answer.reason.as_str().into();
            line["confidence"] = answer.confidence.into();
            line["model"] = answer.model.as_str().into();
            line["prediction"] = top_class(&answer.logits).into();
        }
        Reply::Failed(error) | Reply::Nothing(error) => {
            for key in ["source", "status", "reason", "confidence", "model", "prediction"] {
                line[key] = Value::Null;
            }
            line["error"] = error.as_str().into();
        }
    }
    line
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::{Answer, Source, Status};
    use super::super::script::{self, Phase};
    use super::*;

    fn outcome(index: usize, reply: Reply) -> Outcome {
        Outcome { index, took: Duration::from_micros(1500), reply }
    }

    fn answer(index: usize) -> Reply {
        let mut logits = vec![0.0; digits::CLASSES];
        logits[7] = 2.5;
        Reply::Answer(Answer {
            id: client::id(index),
            source: Source::Cache,
            status: Status::Cloud,
            reason: "below-threshold".into(),
            confidence: Some(0.5),
            model: "sha256:00".into(),
            logits,
        })
    }

    #[test]
    fn what_is_kept_is_one_row_and_one_line_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let requests: Vec<Request> = script::write(8, 1).into_iter().take(4).collect();
        let outcomes = vec![
            outcome(0, answer(0)),
            outcome(1, Reply::Failed("500: no".into())),
            outcome(2, answer(2)),
            outcome(3, answer(3)),
        ];
        let ran = [Ran { phase: Phase::Normal, outcomes, bytes_up: 0, took: Duration::ZERO }];
        let to = folder.path().join("new/kept");
        make_folder(&to).unwrap();
        write(&to, &requests, &[7, 1, 2, 3], &ran, None).unwrap();

        let outputs = npy::read(&to.join("outputs.npy")).unwrap();
        let outputs = (outputs.shape().to_vec(), outputs.to_vec::<f32>().unwrap());
        assert_eq!((outputs.0, outputs.1[7], outputs.1[10].is_nan()), (vec![4, 10], 2.5, true));
        let inputs = npy::read(&to.join("inputs.npy")).unwrap();
        assert_eq!(inputs.rows().unwrap()[2], requests[2].image);
        assert_eq!(npy::read(&to.join("labels.npy")).unwrap().to_vec::<u8>().unwrap()[3], requests[3].label);

        let text = fs::read_to_string(to.join("requests.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            (&lines[0]["source"], &lines[0]["prediction"], &lines[0]["ms"]),
            (&json!("cache"), &json!(7), &json!(1.5))
        );
        assert_eq!((&lines[0]["cloud_prediction"], &lines[3]["cloud_prediction"]), (&json!(7), &json!(3)));
        assert_eq!((&lines[0]["status"], &lines[0]["reason"]), (&json!("cloud"), &json!("below-threshold")));
        assert_eq!((&lines[1]["source"], &lines[1]["error"]), (&Value::Null, &json!("500: no")));
        assert!(lines[1].as_object().unwrap().contains_key("status") && lines[1]["status"].is_null());
        assert_eq!((&lines[2]["id"], &lines[2]["phase"]), (&json!("demo-000002"), &json!("cut")));
        assert_eq!(fs::read(to.join("edge.onnx")).unwrap(), digits::edge_onnx());
    }
}
