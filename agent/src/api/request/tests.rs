//! Requests that are read, and every way to be refused.

use axum::http::StatusCode;
use serde_json::json;

use super::*;

const LIMITS: Limits = Limits {
    deadline: Duration::from_millis(1000),
    max_deadline: Duration::from_millis(5000),
    max_tensor_bytes: 1 << 20,
    takes_bytes: false,
};

fn read(request: &Value) -> Result<InferRequest, ApiError> {
    InferRequest::read(request.to_string().as_bytes(), None, &LIMITS)
}

fn read_binary(request: &Value, data: &'static [u8]) -> Result<InferRequest, ApiError> {
    InferRequest::read(request.to_string().as_bytes(), Some(Bytes::from_static(data)), &LIMITS)
}

fn input() -> Value {
    json!({ "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1] })
}

/// Reads a request to a model that takes files or texts.
fn read_elements(input: &Value, data: Option<Bytes>) -> Result<InferRequest, ApiError> {
    let limits = Limits { takes_bytes: true, ..LIMITS };
    InferRequest::read(json!({ "inputs": [input] }).to_string().as_bytes(), data, &limits)
}

fn tensor(request: &InferRequest, index: usize) -> &Tensor {
    match &request.inputs[index].value {
        Given::Tensor(tensor) => tensor,
        Given::Elements(elements) => panic!("{elements:?} are no tensor"),
    }
}

fn binary_input(size: u64) -> Value {
    json!({ "name": "x", "shape": [2], "datatype": "INT16", "parameters": { "binary_data_size": size } })
}

fn with(key: &str, value: Value) -> Value {
    let mut request = json!({ "inputs": [input()] });
    request[key] = value;
    request
}

fn with_parameter(key: &str, value: Value) -> Value {
    with("parameters", Value::Object(Parameters::from_iter([(key.to_owned(), value)])))
}

fn with_input(key: &str, value: Value) -> Value {
    let mut changed = input();
    changed[key] = value;
    json!({ "inputs": [changed] })
}

#[track_caller]
fn refused(request: &Value, status: StatusCode, says: &str) {
    let error = read(request).expect_err("it must be refused");
    assert_eq!(error.status, status, "{}", error.message);
    assert!(error.message.contains(says), "{}", error.message);
}

#[test]
fn a_plain_request_gets_the_defaults() {
    let request = read(&json!({ "id": "42", "inputs": [input()] })).unwrap();
    assert_eq!(request.id.as_deref(), Some("42"));
    assert_eq!((request.wish.place, request.wish.allowed), (Place::Auto, LIMITS.deadline));
    assert_eq!(tensor(&request, 0).to_vec::<f32>().unwrap(), [0.5, 1.0]);
    assert_eq!((request.outputs, request.binary_outputs), (None, false));
}

#[test]
fn the_callers_wish_is_read_from_the_parameters() {
    let parameters = json!({ "hedge.place": "cloud", "hedge.deadline_ms": 50, "hedge.durable": false, "priority": 3 });
    let request = read(&with("parameters", parameters)).unwrap();
    assert!(!request.durable && read(&with_parameter("hedge.durable", json!(true))).unwrap().durable);
    assert_eq!((request.wish.place, request.wish.allowed), (Place::Cloud, Duration::from_millis(50)));
}

#[test]
fn a_wish_that_makes_no_sense_is_refused() {
    let bad = StatusCode::BAD_REQUEST;
    refused(&with_parameter("hedge.place", json!("moon")), bad, "\"auto\", \"edge\" or \"cloud\"");
    refused(&with_parameter("hedge.place", json!(1)), bad, "hedge.place");
    for deadline in [json!(0), json!(-1), json!(1.5), json!("50"), json!(5001), json!(1e300)] {
        refused(&with_parameter("hedge.deadline_ms", deadline), bad, "from 1 to 5000");
    }
    refused(&with_parameter("hedge.durable", json!("yes")), bad, "true or false");
    refused(&with_parameter("hedge.dedline_ms", json!(5)), bad, "\"hedge.deadline_ms\"");
    refused(&with_parameter("sequence_id", json!(7)), bad, "no state between requests");
    refused(&with_parameter("binary_data_output", json!("yes")), bad, "true or false");
}

#[test]
fn outputs_are_binary_where_they_or_the_request_say_so() {
    let mut request =
        with("outputs", json!([{ "name": "a" }, { "name": "b", "parameters": { "binary_data": false } }]));
    request["parameters"] = json!({ "binary_data_output": true });
    let outputs = read(&request).unwrap().outputs.unwrap();
    let wish = |name: &str, binary| OutputWish { name: name.into(), binary };
    assert_eq!(outputs, [wish("a", true), wish("b", false)]);
    assert_eq!(read(&with("outputs", json!([]))).unwrap().outputs, None, "none named means all");
}

#[test]
fn outputs_that_cannot_be_given_are_refused() {
    let bad = StatusCode::BAD_REQUEST;
    refused(&with("outputs", json!([{ "name": "a" }, { "name": "a" }])), bad, "asked for twice");
    let classes = json!([{ "name": "a", "parameters": { "classification": 3 } }]);
    refused(&with("outputs", classes), bad, "classification is not supported");
    let region = json!([{ "name": "a", "parameters": { "shared_memory_region": "r" } }]);
    refused(&with("outputs", region), bad, "shared_memory_region is not supported");
}

#[test]
fn inputs_that_are_not_what_they_say_are_refused() {
    let bad = StatusCode::BAD_REQUEST;
    refused(&with_input("shape", json!([1, 3])), bad, "takes 3 elements, but data has 2");
    refused(&with_input("shape", json!([1, -2])), bad, "none may be negative");
    refused(&with_input("shape", json!([1, 2.5])), bad, "not a valid JSON inference request");
    refused(&with_input("shape", json!([1e30])), bad, "not a valid JSON inference request");
    refused(&with_input("datatype", json!("FP33")), bad, "datatype \"FP33\" is not supported");
    refused(&with_input("datatype", json!("BYTES")), bad, "use one of BOOL");
    refused(&with_input("datatype", json!("UINT8")), bad, "element 0 is 0.5, which is no UINT8");
    refused(&with_input("data", json!(["a", "b"])), bad, "only numbers and booleans");
    refused(&with_input("data", json!(null)), bad, "neither data nor binary_data_size");
    refused(&with_input("parameters", json!({ "binary_data_size": 8 })), bad, "both data and binary_data_size");
    refused(&with_input("parameters", json!({ "shared_memory_region": "r" })), bad, "shared memory is not supported");
    refused(&json!({ "inputs": [input(), input()] }), bad, "given twice");
    refused(&json!({}), bad, "missing field `inputs`");
    refused(&json!([]), bad, "not a valid JSON inference request");
    refused(&json!({ "inputs": [{ "name": "x" }] }), bad, "missing field");
}

#[test]
fn a_size_that_is_only_declared_is_refused_before_anything_is_allocated() {
    let large = StatusCode::PAYLOAD_TOO_LARGE;
    refused(&with_input("shape", json!([1_000_000_000])), large, "more than 1048576 bytes");
    refused(&with_input("shape", json!([1_i64 << 40, 1_i64 << 40])), StatusCode::BAD_REQUEST, "too many elements");
    refused(&with_input("shape", json!([i64::MAX])), large, "more than 1048576 bytes");
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for text in ["", "{", "nonsense", "{\"inputs\": [{\"data\": [NaN]}]}", "\u{0}", "{\"inputs\":[]} {}"] {
        let error = InferRequest::read(text.as_bytes(), None, &LIMITS).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains("column"), "{}", error.message);
    }
    let nan = InferRequest::read(b"{\"inputs\":[{\"name\":\"x\",\"data\":[NaN]}]}", None, &LIMITS).unwrap_err();
    assert!(nan.message.contains("JSON has no NaN"), "{}", nan.message);
    assert!(InferRequest::read(&[0xff, 0xfe], None, &LIMITS).is_err());
}

#[test]
fn deep_json_is_an_error_and_no_overflow() {
    for deep in [
        "[".repeat(200_000),
        format!("{{\"parameters\":{}", "{\"a\":".repeat(200_000)),
        format!("{{\"inputs\":[{{\"data\":{}", "[".repeat(200_000)),
    ] {
        let error = InferRequest::read(deep.as_bytes(), None, &LIMITS).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn binary_inputs_take_their_bytes_in_order() {
    let request = read_binary(&json!({ "inputs": [binary_input(4)] }), &[1, 0, 2, 0]).unwrap();
    assert_eq!(tensor(&request, 0).to_vec::<i16>().unwrap(), [1, 2]);
}

#[test]
fn elements_of_any_length_are_read_as_texts_or_as_binary_data() {
    let elements = |request: InferRequest| match request.inputs.into_iter().next().unwrap().value {
        Given::Elements(elements) => elements,
        Given::Tensor(tensor) => panic!("{tensor:?} is no list of elements"),
    };
    let texts = json!({ "name": "x", "shape": [2, 1], "datatype": "BYTES", "data": [["a"], ["bc"]] });
    assert_eq!(elements(read_elements(&texts, None).unwrap()), ["a", "bc"]);
    let size = json!({ "binary_data_size": 6 });
    let binary = json!({ "name": "x", "shape": [1], "datatype": "BYTES", "parameters": size });
    let data = Bytes::from_static(&[2, 0, 0, 0, 0xff, 0xd8]);
    assert_eq!(elements(read_elements(&binary, Some(data)).unwrap()), [&[0xff, 0xd8][..]]);
}

#[test]
fn elements_that_are_not_what_they_say_are_refused() {
    let refused = |shape: Value, data: Value, status: StatusCode, says: &str| {
        let input = json!({ "name": "x", "shape": shape, "datatype": "BYTES", "data": data });
        let error = read_elements(&input, None).expect_err("it must be refused");
        assert_eq!(error.status, status, "{}", error.message);
        assert!(error.message.contains("input \"x\"") && error.message.contains(says), "{}", error.message);
    };
    let bad = StatusCode::BAD_REQUEST;
    refused(json!([1]), json!([1]), bad, "data holds numbers");
    refused(json!([2]), json!(["a"]), bad, "takes 2 elements, but data has 1");
    refused(json!([1, 2]), json!(["a", "b"]), bad, "neither [rows] nor [rows, 1]");
    refused(json!([5000]), json!([]), StatusCode::PAYLOAD_TOO_LARGE, "more than 4096");
    let input = json!({ "name": "x", "shape": [1], "datatype": "BYTES", "parameters": { "binary_data_size": 5 } });
    let error = read_elements(&input, Some(Bytes::from_static(&[2, 0, 0, 0, 1]))).unwrap_err();
    assert!(error.message.contains("declares 2 bytes, but only 1 follow"), "{}", error.message);
}

#[test]
fn binary_data_that_does_not_fit_is_refused() {
    let refused = |size: u64, data: &'static [u8], says: &str| {
        let error = read_binary(&json!({ "inputs": [binary_input(size)] }), data).expect_err("it must be refused");
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains(says), "{}", error.message);
    };
    refused(4, &[1, 0, 2], "only 3 follow; the body is truncated");
    refused(4, &[1, 0, 2, 0, 9], "1 bytes follow the last input");
    refused(3, &[1, 0, 2], "takes 4 bytes, but 3 were given");
    refused(u64::MAX, &[1, 0, 2], "truncated");
    let error = read(&json!({ "inputs": [binary_input(4)] })).unwrap_err();
    assert!(error.message.contains("no Inference-Header-Content-Length"), "{}", error.message);
    let flags = json!({ "name": "x", "shape": [1], "datatype": "BOOL", "parameters": { "binary_data_size": 1 } });
    let error = read_binary(&json!({ "inputs": [flags] }), &[2]).unwrap_err();
    assert!(error.message.contains("neither 0 nor 1"), "{}", error.message);
}
