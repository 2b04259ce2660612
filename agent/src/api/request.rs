//! An inference request: from a body to named tensors, the caller's wish and the outputs asked for.
//!
//! Everything that can be refused without the model is refused here; whether inputs fit the model is
//! `hedge_engine::Signature`'s to say. Nothing is allocated by what a client declares: sizes are compared first.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::{Asking, Place};
use hedge_engine::transform::MAX_ROWS;
use hedge_tensor::{DType, Tensor, element_count};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::binary::{self, BinaryPart};
use super::error::ApiError;
use super::json::JsonData;
use crate::row::Wish;

/// The output tensors that say of each row where its answer came from and what it is worth.
pub(crate) const SOURCE_OUTPUT: &str = "hedge_source";
pub(crate) const STATUS_OUTPUT: &str = "hedge_status";

/// The protocol's name for elements of any length.
pub(crate) const BYTES: &str = "BYTES";

type Parameters = Map<String, Value>;

/// A request in typed form.
#[derive(Debug)]
pub(crate) struct InferRequest {
    pub(crate) id: Option<String>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) wish: Wish,
    /// Whether it is to be answered whatever happens, also after its deadline.
    pub(crate) durable: bool,
    /// The outputs asked for, in order; all of the model's when none are named.
    pub(crate) outputs: Option<Vec<OutputWish>>,
    /// Whether outputs are binary unless they say otherwise.
    pub(crate) binary_outputs: bool,
}

/// One input as it was sent.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) value: Given,
}

/// What was sent for an input.
#[derive(Debug)]
pub(crate) enum Given {
    /// Numbers or booleans.
    Tensor(Tensor),
    /// The elements of a BYTES tensor: files or texts, one a row.
    Elements(Vec<Bytes>),
}

/// One output asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputWish {
    pub(crate) name: String,
    pub(crate) binary: bool,
}

/// What a request may ask for and gets when it does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) deadline: Duration,
    pub(crate) max_deadline: Duration,
    /// The most bytes that a tensor may declare.
    pub(crate) max_tensor_bytes: usize,
    /// Whether the model takes anything as BYTES.
    pub(crate) takes_bytes: bool,
}

#[derive(Deserialize)]
struct RawRequest {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<RawInput>,
    outputs: Option<Vec<RawOutput>>,
}

#[derive(Deserialize)]
struct RawInput {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    data: Option<JsonData>,
}

#[derive(Deserialize)]
struct RawOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

impl InferRequest {
    /// Reads a request from its JSON and the binary data behind it.
    pub(crate) fn read(json: &[u8], binary: Option<Bytes>, limits: &Limits) -> Result<Self, ApiError> {
        let raw: RawRequest = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
        let (wish, durable) = wish(&raw.parameters, limits)?;
        let binary_outputs = flag(&raw.parameters, "binary_data_output")?.unwrap_or(false);
        let outputs = raw.outputs.filter(|outputs| !outputs.is_empty());
        Ok(Self {
            id: raw.id,
            inputs: read_inputs(raw.inputs, BinaryPart::new(binary), limits)?,
            wish,
            durable,
            outputs: outputs.map(|outputs| output_wishes(outputs, binary_outputs)).transpose()?,
            binary_outputs,
        })
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let hint = if error.is_data() {
        "see the Open Inference Protocol for a request's fields"
    } else {
        "JSON has no NaN or Infinity, and binary tensors need Inference-Header-Content-Length"
    };
    ApiError::bad(format!("the request is not a valid JSON inference request: {error}; {hint}"))
}

/// What the parameters ask for, and whether durably.
fn wish(parameters: &Parameters, limits: &Limits) -> Result<(Wish, bool), ApiError> {
    let mut wish = Wish { place: Place::Auto, allowed: limits.deadline, asking: Asking::Now };
    let mut durable = false;
    for (key, value) in parameters {
        match key.as_str() {
            "hedge.place" => wish.place = place(value)?,
            "hedge.deadline_ms" => wish.allowed = deadline(value, limits)?,
            "hedge.durable" => durable = is_durable(value)?,
            "sequence_id" | "sequence_start" | "sequence_end" => {
                return Err(ApiError::bad(format!(
                    "parameter {key:?}: models here keep no state between requests; omit it"
                )));
            }
            _ if key.starts_with("hedge.") => {
                return Err(ApiError::bad(format!(
                    "parameter {key:?} is unknown; there are \"hedge.place\", \"hedge.deadline_ms\" and \"hedge.durable\""
                )));
            }
            // Parameters of other servers (priority, timeout, …) mean nothing here.
            _ => {}
        }
    }
    Ok((wish, durable))
}

fn place(value: &Value) -> Result<Place, ApiError> {
    match value.as_str() {
        Some("auto") => Ok(Place::Auto),
        Some("edge") => Ok(Place::Edge),
        Some("cloud") => Ok(Place::Cloud),
        _ => Err(ApiError::bad(format!("hedge.place is {}; use \"auto\", \"edge\" or \"cloud\"", shown(value)))),
    }
}

fn deadline(value: &Value, limits: &Limits) -> Result<Duration, ApiError> {
    let most = limits.max_deadline.as_millis();
    match value.as_u64() {
        Some(millis) if millis > 0 && u128::from(millis) <= most => Ok(Duration::from_millis(millis)),
        _ => Err(ApiError::bad(format!("hedge.deadline_ms is {}; use a whole number from 1 to {most}", shown(value)))),
    }
}

fn is_durable(value: &Value) -> Result<bool, ApiError> {
    value.as_bool().ok_or_else(|| ApiError::bad(format!("hedge.durable is {}; use true or false", shown(value))))
}

fn read_inputs(raw: Vec<RawInput>, mut binary: BinaryPart, limits: &Limits) -> Result<Vec<Input>, ApiError> {
    let mut names = BTreeSet::new();
    let mut inputs = Vec::with_capacity(raw.len());
    for input in raw {
        if !names.insert(input.name.clone()) {
            return Err(ApiError::bad(format!("input {:?} is given twice; give it once", input.name)));
        }
        if input.parameters.keys().any(|key| key.starts_with("shared_memory")) {
            return Err(bad(&input.name, "shared memory is not supported; send the data in the request"));
        }
        let value = match input.datatype.as_str() {
            BYTES if limits.takes_bytes => Given::Elements(read_elements(&input, &mut binary)?),
            _ => Given::Tensor(read_tensor(&input, &mut binary, limits.max_tensor_bytes)?),
        };
        inputs.push(Input { name: input.name, value });
    }
    binary.finish()?;
    Ok(inputs)
}

fn bad(name: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::bad(format!("input {name:?}: {why}"))
}

/// Where an input's elements are.
enum Data<'a> {
    Json(&'a JsonData),
    Binary(Bytes),
}

/// The data of an input of `count` elements.
fn data<'a>(input: &'a RawInput, binary: &mut BinaryPart, count: usize) -> Result<Data<'a>, ApiError> {
    let bad = |why: &str| bad(&input.name, why);
    match (&input.data, input.parameters.get("binary_data_size")) {
        (Some(_), Some(_)) => Err(bad("has both data and binary_data_size; send one of them")),
        (None, None) => Err(bad("has neither data nor binary_data_size; send one of them")),
        (Some(data), None) if data.len() != count => {
            let (shape, got) = (&input.shape, data.len());
            Err(bad(&format!("shape {shape:?} takes {count} elements, but data has {got}")))
        }
        (Some(data), None) => Ok(Data::Json(data)),
        (None, Some(size)) => {
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let size = size.ok_or_else(|| bad("binary_data_size is not a number of bytes"))?;
            binary.take(&input.name, size).map(Data::Binary)
        }
    }
}

/// The elements of a BYTES tensor, one a row.
fn read_elements(input: &RawInput, binary: &mut BinaryPart) -> Result<Vec<Bytes>, ApiError> {
    let name = &input.name;
    let count = match *read_shape(&input.shape).map_err(|why| bad(name, why))? {
        [rows] | [rows, 1] => rows,
        _ => return Err(bad(name, format!("shape {:?} of BYTES is neither [rows] nor [rows, 1]", input.shape))),
    };
    if count > MAX_ROWS {
        return Err(ApiError::too_large(format!("input {name:?} has {count} rows, more than {MAX_ROWS}; send fewer")));
    }
    match data(input, binary, count)? {
        Data::Json(data) => data.texts().map_err(|error| bad(name, error)),
        Data::Binary(bytes) => binary::decode_elements(&bytes, count).map_err(|why| bad(name, why)),
    }
}

fn read_tensor(input: &RawInput, binary: &mut BinaryPart, max_bytes: usize) -> Result<Tensor, ApiError> {
    let name = &input.name;
    let bad = |why: String| bad(name, why);
    let dtype = DType::from_oip_name(&input.datatype).ok_or_else(|| {
        let known: Vec<&str> = DType::all().map(DType::oip_name).collect();
        bad(format!("datatype {:?} is not supported; use one of {}", input.datatype, known.join(", ")))
    })?;
    let shape = read_shape(&input.shape).map_err(bad)?;
    let count = element_count(&shape).ok_or_else(|| bad(format!("shape {:?} has too many elements", input.shape)))?;
    let declared = count.checked_mul(dtype.size_bytes());
    if declared.is_none_or(|bytes| bytes > max_bytes) {
        return Err(ApiError::too_large(format!(
            "input {name:?}: shape {shape:?} of {dtype} is more than {max_bytes} bytes (http.max_body_bytes); send fewer rows"
        )));
    }
    let data = match data(input, binary, count)? {
        Data::Json(data) => data.bytes(dtype).map_err(|error| bad(error.to_string()))?,
        Data::Binary(bytes) => bytes,
    };
    if dtype == DType::Bool && data.iter().any(|&byte| byte > 1) {
        return Err(bad("a BOOL element is neither 0 nor 1".into()));
    }
    Tensor::new(dtype, shape, data).map_err(|error| bad(error.to_string()))
}

fn read_shape(shape: &[i64]) -> Result<Vec<usize>, String> {
    let dims = shape.iter().map(|&dim| usize::try_from(dim).map_err(|_| dim));
    dims.collect::<Result<_, i64>>()
        .map_err(|dim| format!("shape {shape:?} has the dimension {dim}; none may be negative"))
}

fn output_wishes(raw: Vec<RawOutput>, binary_by_default: bool) -> Result<Vec<OutputWish>, ApiError> {
    let mut names = BTreeSet::new();
    raw.into_iter()
        .map(|output| {
            let name = output.name;
            if !names.insert(name.clone()) {
                return Err(ApiError::bad(format!("output {name:?} is asked for twice; ask once")));
            }
            for unsupported in ["classification", "shared_memory_region"] {
                if output.parameters.contains_key(unsupported) {
                    return Err(ApiError::bad(format!("output {name:?}: {unsupported} is not supported; omit it")));
                }
            }
            let binary = flag(&output.parameters, "binary_data")?.unwrap_or(binary_by_default);
            Ok(OutputWish { name, binary })
        })
        .collect()
}

fn flag(parameters: &Parameters, key: &str) -> Result<Option<bool>, ApiError> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(ApiError::bad(format!("parameter {key:?} is {}; use true or false", shown(other)))),
    }
}

/// A value for a message, cut: it may be as long as the request.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).chain("…".chars()).collect() } else { text }
}

#[cfg(test)]
mod tests;
