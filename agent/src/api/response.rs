//! An inference response: from rows' answers to a body.
//!
//! Response parameters describe the weakest row ([`weakest_label`]), so that a batch never claims more than each of its rows is
//! worth.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hedge_engine::Signature;
use hedge_tensor::{NamedTensor, Tensor};
use serde_json::{Map, Value, json};

use super::binary::{HEADER_LENGTH, encode_strings};
use super::error::ApiError;
use super::json;
use super::request::{OutputWish, SOURCE_OUTPUT, STATUS_OUTPUT};
use crate::answered::{Answered, Label, weakest_label};
use crate::model::ServedModel;

/// What was asked, as far as the response repeats it.
pub(crate) struct Asked<'a> {
    pub(crate) model: &'a str,
    pub(crate) id: Option<&'a str>,
    /// The outputs asked for; all of the model's when none are named.
    pub(crate) outputs: Option<&'a [OutputWish]>,
    pub(crate) binary_outputs: bool,
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

/// The response to a request whose rows were answered so.
pub(crate) fn build(asked: &Asked<'_>, answers: &[Answered]) -> Result<Response, ApiError> {
    let outputs = answers.iter().map(|answered| answered.outputs.clone()).collect();
    let outputs = Signature::join(outputs).map_err(|error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the rows' outputs do not fit together: {error}; send the rows one by one"),
        )
    })?;
    let all = |binary| outputs.iter().map(move |output| OutputWish { name: output.name.clone(), binary });
    let wishes = asked.outputs.map_or_else(|| all(asked.binary_outputs).collect(), <[OutputWish]>::to_vec);
    let mut binary = Vec::new();
    let mut any_binary = false;
    let mut listed = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let Some(output) = find(answers, &outputs, &wish.name) else { continue };
        any_binary |= wish.binary;
        listed.push(describe(&wish, &output, &mut binary));
    }
    let label = weakest_label(answers);
    let mut head = json!({
        "model_name": asked.model,
        "model_version": label.map(|label| label.version.as_str()),
        "parameters": label.map_or_else(|| json!({}), parameters),
        "outputs": listed,
    });
    if let Some(id) = asked.id {
        head["id"] = id.into();
    }
    Ok(respond(head.to_string().into_bytes(), any_binary.then_some(binary)))
}

fn find(answers: &[Answered], outputs: &[NamedTensor], name: &str) -> Option<Output> {
    // A model's own output of the same name comes first.
    if let Some(output) = outputs.iter().find(|output| output.name == name) {
        return Some(Output::Tensor(output.tensor.clone()));
    }
    let labels = answers.iter().map(|answered| &answered.label);
    match name {
        SOURCE_OUTPUT => Some(Output::Strings(labels.map(|label| label.source.name()).collect())),
        STATUS_OUTPUT => Some(Output::Strings(labels.map(|label| label.status.name()).collect())),
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

fn parameters(label: &Label) -> Value {
    let mut parameters = Map::new();
    let mut put = |key: &str, value: Value| parameters.insert(format!("hedge.{key}"), value);
    put("source", label.source.name().into());
    put("status", label.status.name().into());
    put("reason", label.reason.name().into());
    // Rounded to what an f32 holds, so that the number does not look more precise than it is.
    let confidence = label.confidence.and_then(|score| score.to_string().parse::<f64>().ok());
    if let Some(confidence) = confidence {
        put("confidence", confidence.into());
    }
    put("model", label.model.as_str().into());
    put("device", label.device.as_str().into());
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
