//! The generated bindings of `proto/onnx-ml.proto`, and nothing else.
#![allow(missing_docs, rustdoc::all, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
