//! What the demonstration knows of agent and gateway: their HTTP APIs, as any client would use them.
//!
//! ```text
//! POST /v2/models/digits/infer
//! Inference-Header-Content-Length: H
//!
//! H bytes of JSON | 256 bytes of image        ->        JSON | 40 bytes of logits
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hedge_tensor::{DType, Tensor};
use hedge_zoo::digits;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::metrics::Metrics;
use super::script::{IN_FLIGHT, Request};
use super::story::Route;

const HEADER_LENGTH: &str = "inference-header-content-length";
/// Longer than any deadline of the demonstration: an answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one server.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

/// What came back for a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// An answer.
    Answer(Answer),
    /// An error, or an answer that makes no sense, and which.
    Failed(String),
    /// Nothing, and why.
    Nothing(String),
}

/// An answer and what it says of itself.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Answer {
    /// The request that it says it is for.
    pub(super) id: String,
    /// Who computed it.
    pub(super) source: Source,
    /// What it is worth.
    pub(super) status: Status,
    /// Why it comes from there.
    pub(super) reason: String,
    /// The score.
    pub(super) confidence: Option<f64>,
    /// The digest of the model.
    pub(super) model: String,
    /// The class logits.
    pub(super) logits: Vec<f32>,
}

/// Who computed an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// The local model.
    Edge,
    /// An earlier result.
    Cache,
    /// A gateway.
    Cloud,
}

/// What an answer is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Local, and inside a certificate.
    Certified,
    /// Local, and nothing bounds how often such answers differ from the cloud's.
    Uncertified,
    /// The cloud model's own.
    Cloud,
}

/// What the agent says of a model.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// Its digest.
    pub(super) digest: String,
    /// The device that it runs on.
    pub(super) device: String,
}

#[derive(Deserialize)]
struct Head {
    id: String,
    parameters: Parameters,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "hedge.source")]
    source: Source,
    #[serde(rename = "hedge.status")]
    status: Status,
    #[serde(rename = "hedge.reason")]
    reason: String,
    #[serde(rename = "hedge.confidence")]
    confidence: Option<f64>,
    #[serde(rename = "hedge.model")]
    model: String,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Metadata {
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "hedge.model")]
    digest: String,
    #[serde(rename = "hedge.device")]
    device: String,
}

impl Source {
    /// In the order of reports.
    pub(super) const ALL: [Source; 3] = [Source::Edge, Source::Cache, Source::Cloud];

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Source::Edge => "edge",
            Source::Cache => "cache",
            Source::Cloud => "cloud",
        }
    }
}

impl Status {
    /// The name in answers and reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Certified => "certified",
            Status::Uncertified => "uncertified",
            Status::Cloud => "cloud",
        }
    }
}

impl Client {
    /// A client of the server at `address`. A proxy in the environment is not asked: everything is on this machine.
    pub(super) fn new(address: std::net::SocketAddr) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(IN_FLIGHT).timeout(PATIENCE).build()?;
        Ok(Self { http, base: format!("http://{address}") })
    }

    /// Whether `path` answers 200.
    pub(super) async fn is_ok(&self, path: &str) -> Result<bool> {
        Ok(self.get(path).await?.status() == StatusCode::OK)
    }

    /// The server's metrics.
    pub(super) async fn metrics(&self) -> Result<Metrics> {
        let text = self.get("/metrics").await?.error_for_status()?.text().await?;
        Ok(Metrics::parse(&text))
    }

    /// What the agent says of the digits model.
    pub(super) async fn served(&self) -> Result<Served> {
        let path = format!("/v2/models/{}", digits::NAME);
        let body = self.get(&path).await?.error_for_status()?.bytes().await?;
        let Metadata { properties } = serde_json::from_slice(&body).context("the agent's model metadata")?;
        Ok(Served { digest: properties.digest, device: properties.device })
    }

    /// What the agent says of the digits model's certificates.
    pub(super) async fn route(&self) -> Result<Route> {
        let path = format!("/hedge/v1/models/{}/route", digits::NAME);
        let body = self.get(&path).await?.error_for_status()?.bytes().await?;
        serde_json::from_slice(&body).context("what the agent says of the model's route")
    }

    /// Asks for an inference.
    pub(super) async fn infer(&self, request: &Request) -> Reply {
        let (header, body) = encode(request);
        let url = format!("{}/v2/models/{}/infer", self.base, digits::NAME);
        let sent = self.http.post(url).header(HEADER_LENGTH, header).body(body).send().await;
        match sent {
            Ok(response) => read(response).await,
            Err(error) => Reply::Nothing(chain(&error)),
        }
    }

    async fn get(&self, path: &str) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.http.get(&url).send().await.with_context(|| format!("{url} does not answer"))
    }
}

/// The id of a request: the same in every run, so that runs can be compared.
pub(super) fn id(index: usize) -> String {
    format!("demo-{index:06}")
}

/// The length of the JSON, and the body.
fn encode(request: &Request) -> (usize, Bytes) {
    let image = &request.image;
    let head = json!({
        "id": id(request.index),
        "inputs": [{
            "name": digits::INPUT,
            "datatype": image.dtype().oip_name(),
            "shape": image.shape(),
            "parameters": { "binary_data_size": image.bytes().len() },
        }],
        "outputs": [{ "name": digits::OUTPUT, "parameters": { "binary_data": true } }],
    });
    let mut body = head.to_string().into_bytes();
    let header = body.len();
    body.extend_from_slice(image.bytes());
    (header, body.into())
}

async fn read(response: Response) -> Reply {
    let status = response.status();
    let length = response.headers().get(HEADER_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Reply::Nothing(chain(&error)),
    };
    if status != StatusCode::OK {
        return Reply::Failed(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    match decode(&body, length) {
        Ok(answer) => Reply::Answer(answer),
        Err(error) => Reply::Failed(format!("an answer that cannot be read: {error:#}")),
    }
}

fn decode(body: &Bytes, header: Option<usize>) -> Result<Answer> {
    let header = header.filter(|&length| length <= body.len()).context("Inference-Header-Content-Length")?;
    let head: Head = serde_json::from_slice(&body[..header])?;
    let [output] = &head.outputs[..] else { bail!("{} outputs", head.outputs.len()) };
    ensure!(
        output.name == digits::OUTPUT && output.shape == [1, digits::CLASSES],
        "output {} {:?}",
        output.name,
        output.shape
    );
    let dtype = DType::from_oip_name(&output.datatype).context("datatype")?;
    let logits = Tensor::new(dtype, output.shape.clone(), body.slice(header..))?.to_vec()?;
    let Parameters { source, status, reason, confidence, model } = head.parameters;
    Ok(Answer { id: head.id, source, status, reason, confidence, model, logits })
}

/// The error and what caused it: reqwest's own message names only the URL.
fn chain(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;

    fn answer(shape: &str, floats: usize) -> (Bytes, Option<usize>) {
        let head = format!(
            r#"{{"id":"demo-000001","model_name":"digits","parameters":{{"hedge.source":"cloud","hedge.status":"cloud",
            "hedge.reason":"below-threshold","hedge.confidence":0.5,"hedge.model":"sha256:00","hedge.device":"gateway g"}},
            "outputs":[{{"name":"logits","datatype":"FP32","shape":{shape},"parameters":{{"binary_data_size":40}}}}]}}"#
        );
        let mut body = head.clone().into_bytes();
        (0..floats).for_each(|n| body.extend_from_slice(&(n as f32).to_le_bytes()));
        (body.into(), Some(head.len()))
    }

    #[test]
    fn a_request_is_json_and_then_the_image() {
        let request = script::write(4, 1).remove(1);
        let (header, body) = encode(&request);
        let head: serde_json::Value = serde_json::from_slice(&body[..header]).unwrap();
        assert_eq!(head["id"], "demo-000001");
        assert_eq!(head["inputs"][0]["parameters"]["binary_data_size"], body.len() - header);
        assert_eq!(&body[header..], &request.image.bytes()[..]);
    }

    #[test]
    fn an_answer_is_read_with_what_it_says_of_itself() {
        let (body, header) = answer("[1,10]", 10);
        let answer = decode(&body, header).unwrap();
        assert_eq!((answer.id.as_str(), answer.source), ("demo-000001", Source::Cloud));
        assert_eq!((answer.status, answer.reason.as_str()), (Status::Cloud, "below-threshold"));
        assert_eq!((answer.confidence, answer.model.as_str()), (Some(0.5), "sha256:00"));
        assert_eq!(answer.logits[9], 9.0);
    }

    #[test]
    fn an_answer_of_another_shape_or_length_is_no_answer() {
        for (shape, floats) in [("[2,5]", 10), ("[1,10]", 9), ("[1,10]", 11)] {
            let (body, header) = answer(shape, floats);
            assert!(decode(&body, header).is_err(), "{shape} {floats}");
        }
        let (body, header) = answer("[1,10]", 10);
        assert!(decode(&body, None).is_err());
        assert!(decode(&body, Some(body.len() + 1)).is_err());
        assert!(decode(&body, header.map(|length| length - 1)).is_err());
    }
}
