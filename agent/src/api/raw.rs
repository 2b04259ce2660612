//! Raw inputs: what callers give where a bundle says how it becomes the model's inputs.
//!
//! An element of a `BYTES` tensor is one row, an image file or a text; pixels and sound come as tensors whose first
//! dimension may be the rows'. The model's own inputs are made of them before anything else looks at the request: rows, the
//! cache and offloads know those alone.

use hedge_engine::transform::{Pipeline, RawKind, RawPort, TransformError};
use hedge_engine::{Port, Signature};
use hedge_graph::Dim;
use hedge_tensor::{DType, NamedTensor, Tensor};

use super::error::ApiError;
use super::request::{BYTES, Given, Input};

/// What the protocol says of an input or output.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'static str,
    /// `None`: any number of dimensions.
    pub(super) shape: Option<Vec<Dim>>,
    /// What a raw input is, in words.
    pub(super) raw: Option<String>,
}

/// What callers give: raw inputs where there is a pipeline, else the model's own.
pub(super) fn inputs<'a>(pipeline: Option<&'a Pipeline>, signature: &'a Signature) -> Vec<Described<'a>> {
    let Some(pipeline) = pipeline else { return signature.inputs.iter().map(own).collect() };
    let rows = if signature.batched { Dim::Unknown } else { Dim::Known(1) };
    let described = |port: &'a RawPort| {
        let raw = |datatype, size| {
            let shape = Some(vec![rows.clone(), size]);
            Described { name: &port.name, datatype, shape, raw: Some(port.kind.to_string()) }
        };
        match &port.kind {
            RawKind::Tensor(port) => own(port),
            RawKind::Image | RawKind::Text => raw(BYTES, Dim::Known(1)),
            RawKind::Pcm { .. } => raw(DType::F32.oip_name(), Dim::Unknown),
        }
    };
    pipeline.signature().into_iter().map(described).collect()
}

/// One of the model's own inputs or outputs.
pub(super) fn own(port: &Port) -> Described<'_> {
    Described { name: &port.name, datatype: port.dtype.oip_name(), shape: port.shape.clone(), raw: None }
}

/// The tensors of a request to a model that takes nothing else.
pub(super) fn tensors(inputs: Vec<Input>) -> Result<Vec<NamedTensor>, ApiError> {
    let tensor = |input: Input| match input.value {
        Given::Tensor(tensor) => Ok(NamedTensor::new(input.name, tensor)),
        Given::Elements(_) => {
            Err(ApiError::bad(format!("input {:?}: datatype \"BYTES\" is not supported by this model", input.name)))
        }
    };
    inputs.into_iter().map(tensor).collect()
}

/// The model's inputs, made of raw ones of at most `max_rows` rows. Takes as long as decoding them does.
pub(super) fn transformed(
    pipeline: &Pipeline,
    inputs: Vec<Input>,
    max_rows: usize,
) -> Result<Vec<NamedTensor>, ApiError> {
    let ports = pipeline.signature();
    let mut columns = Vec::with_capacity(inputs.len());
    for Input { name, value } in inputs {
        // An unknown name is the pipeline's to refuse: it lists those that there are.
        let kind = ports.iter().find(|port| port.name == name).map(|port| &port.kind);
        let rows = rows(&name, kind, &value)?;
        if rows > max_rows {
            return Err(ApiError::too_large(format!(
                "input {name:?} has {rows} rows, more than {max_rows} (engine.queue_rows); send fewer at once"
            )));
        }
        let tensors = match value {
            Given::Tensor(tensor) => vec![tensor],
            Given::Elements(elements) => {
                let tensor = |element: bytes::Bytes| Tensor::new(DType::U8, vec![element.len()], element);
                let tensors = elements.into_iter().map(tensor).collect::<Result<_, _>>();
                tensors.map_err(|error| ApiError::bad(format!("input {name:?}: {error}")))?
            }
        };
        columns.push((name, tensors));
    }
    pipeline.apply_columns(columns).map_err(refusal)
}

/// How many rows an input has, as far as that can be told before it is decoded.
fn rows(name: &str, kind: Option<&RawKind>, value: &Given) -> Result<usize, ApiError> {
    match (kind, value) {
        (_, Given::Elements(elements)) if elements.is_empty() => {
            Err(ApiError::bad(format!("input {name:?} has no rows; send at least one")))
        }
        (Some(kind @ (RawKind::Tensor(_) | RawKind::Pcm { .. })), Given::Elements(_)) => {
            Err(ApiError::bad(format!("input {name:?}: BYTES is for image files and texts; give {kind}")))
        }
        (_, Given::Elements(elements)) => Ok(elements.len()),
        (Some(RawKind::Image), Given::Tensor(tensor)) if tensor.shape().len() == 4 => Ok(tensor.shape()[0]),
        (Some(RawKind::Pcm { .. }), Given::Tensor(tensor)) if tensor.shape().len() == 2 => Ok(tensor.shape()[0]),
        (_, Given::Tensor(_)) => Ok(1),
    }
}

fn refusal(error: TransformError) -> ApiError {
    match error {
        TransformError::TooManyRows { .. } | TransformError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        error => ApiError::bad(error.to_string()),
    }
}
