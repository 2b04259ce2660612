//! A model as it is shipped: ONNX with a manifest, golden vectors and input transforms as data.
