//! An inference response: from rows' answers to a body.
//!
//! Response parameters describe the weakest row (`hedge_agent_core::weakest`), so that a batch never claims more than each of
//! its rows is worth.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hedge_agent_core::{Answer, Origin, weakest};
use hedge_tensor::{NamedTensor, Tensor};
use serde_json::{Map, Value, json};

use super::binary::{HEADER_LENGTH, encode_strings};
use super::error::ApiError;
use super::json;
use super::request::{OutputWish, SOURCE_OUTPUT, STATUS_OUTPUT};
use crate::model::ServedModel;

/// What a response tells beside the outputs.
pub(crate) struct ResponseFacts<'a> {
    pub(crate) model: &'a ServedModel,
    pub(crate) id: Option<&'a str>,
    pub(crate) answers: &'a [Answer],
}

/// One output on its way out.
enum Output {
    Tensor(Tensor),
    Strings(Vec<&'static str>),
}

/// Refuses outputs that the model does not have.
pub(crate) fn check_outputs(model: &ServedModel, wishes: Option<&[OutputWish]>) -> Result<(), ApiError> {
    for wish in wishes.unwrap_or_default() {
        let known = matches!(wish.name.as_str(), SOURCE_OUTPUT | STATUS_OUTPUT)
            || model.signature.outputs.iter().any(|port| port.name == wish.name);
        if !known {
            let names: Vec<&str> = model.signature.outputs.iter().map(|port| port.name.as_str()).collect();
            return Err(ApiError::unknown(format!(
                "model {:?} has no output {:?}; it has {}, and {SOURCE_OUTPUT} and {STATUS_OUTPUT}",
                model.settings.name,
                wish.name,
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// The response: `outputs` are the model's, all rows together.
pub(crate) fn build(
    facts: &ResponseFacts<'_>,
    outputs: &[NamedTensor],
    wishes: Option<Vec<OutputWish>>,
    binary_by_default: bool,
) -> Response {
    let wishes = wishes.unwrap_or_else(|| {
        outputs.iter().map(|output| OutputWish { name: output.name.clone(), binary: binary_by_default }).collect()
    });
    let mut binary = Vec::new();
    let mut any_binary = false;
    let mut listed = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let Some(output) = find(facts.answers, outputs, &wish.name) else { continue };
        any_binary |= wish.binary;
        listed.push(describe(&wish, &output, &mut binary));
    }
    let mut head = json!({
        "model_name": facts.model.settings.name,
        "model_version": facts.model.version,
        "parameters": parameters(facts),
        "outputs": listed,
    });
    if let Some(id) = facts.id {
        head["id"] = id.into();
    }
    respond(head.to_string().into_bytes(), any_binary.then_some(binary))
}

fn find(answers: &[Answer], outputs: &[NamedTensor], name: &str) -> Option<Output> {
    // A model's own output of the same name comes first.
    if let Some(output) = outputs.iter().find(|output| output.name == name) {
        return Some(Output::Tensor(output.tensor.clone()));
    }
    match name {
        SOURCE_OUTPUT => Some(Output::Strings(answers.iter().map(|answer| answer.source.name()).collect())),
        STATUS_OUTPUT => Some(Output::Strings(answers.iter().map(|answer| answer.status.name()).collect())),
        _ => None,
    }
}

fn describe(wish: &OutputWish, output: &Output, binary: &mut Vec<u8>) -> Value {
    let (datatype, shape) = match output {
        Output::Tensor(tensor) => (tensor.dtype().oip_name(), tensor.shape().to_vec()),
        Output::Strings(strings) => ("BYTES", vec![strings.len()]),
    };
    let mut described = json!({ "name": wish.name, "datatype": datatype, "shape": shape });
    if wish.binary {
        let start = binary.len();
        match output {
            Output::Tensor(tensor) => binary.extend_from_slice(tensor.bytes()),
            Output::Strings(strings) => binary.extend_from_slice(&encode_strings(strings)),
        }
        described["parameters"] = json!({ "binary_data_size": binary.len() - start });
    } else {
        described["data"] = match output {
            Output::Tensor(tensor) => json::elements(tensor),
            Output::Strings(strings) => json!(strings),
        };
    }
    described
}

fn parameters(facts: &ResponseFacts<'_>) -> Value {
    let Some(answer) = weakest(facts.answers) else { return json!({}) };
    let (digest, device) = match &answer.origin {
        Origin::Edge { stand_in } => (facts.model.digest, facts.model.device_label(*stand_in).to_owned()),
        Origin::Cloud { digest, gateway: Some(gateway) } => (*digest, format!("gateway {gateway}")),
        Origin::Cloud { digest, gateway: None } => (*digest, "gateway".to_owned()),
    };
    let mut parameters = Map::new();
    let mut put = |key: &str, value: Value| parameters.insert(format!("hedge.{key}"), value);
    put("source", answer.source.name().into());
    put("status", answer.status.name().into());
    put("reason", answer.reason.name().into());
    // Rounded to what an f32 holds, so that the number does not look more precise than it is.
    let confidence = answer.confidence.and_then(|score| score.to_string().parse::<f64>().ok());
    if let Some(confidence) = confidence {
        put("confidence", confidence.into());
    }
    put("model", digest.to_string().into());
    put("device", device.into());
    Value::Object(parameters)
}

fn respond(head: Vec<u8>, binary: Option<Vec<u8>>) -> Response {
    let length = head.len();
    let Some(binary) = binary else {
        let mut response = Response::new(Body::from(head));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    };
    let mut body = head;
    body.extend_from_slice(&binary);
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    response
}
