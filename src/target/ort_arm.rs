//! ONNX Runtime's CPU provider on ARM.

use std::sync::LazyLock;

use super::{ORT_CPU, Target};
use crate::number::Format;

/// ONNX Runtime's CPU provider on ARM64, whose dot products (SDOT, SMMLA) take int8 by int8; a QLinearConv with int8
/// activations needs int8 weights. The documentation of onnxruntime's tool asks for int8 by int8 there. Zero points are free.
pub static ORT_ARM: LazyLock<Target> = LazyLock::new(|| Target {
    name: "ort-arm".into(),
    about: "ONNX Runtime on ARM64 CPUs: int8 activations, int8 weights per channel".into(),
    activations: Format::INT8,
    weight_formats: ORT_CPU.weight_formats.iter().copied().filter(|&f| f.signed()).collect(),
    ..ORT_CPU.clone()
});
