//! ONNX Runtime's CPU provider on x86 without VNNI.

use std::sync::LazyLock;

use super::{ORT_CPU, Target};
use crate::number::Format;

/// ONNX Runtime's CPU provider on x86 with AVX2 or AVX-512, before VNNI. Its kernels multiply uint8 by int8 with
/// VPMADDUBSW, which saturates the sum of two products to int16: 255 * (127 + 127) does not fit, 255 * (64 + 64) does.
///
/// So weights have 7 bits: `reduce_range` of onnxruntime's tool, whose documentation asks for it on these machines. uint8
/// weights run in kernels that do not saturate, and are slower.
pub static ORT_CPU_NO_VNNI: LazyLock<Target> = LazyLock::new(|| Target {
    name: "ort-cpu-no-vnni".into(),
    about: "ONNX Runtime on x86 CPUs without VNNI: as `ort-cpu`, weights of 7 bits so that int16 does not saturate"
        .into(),
    weights: Format::INT7,
    weight_formats: ORT_CPU.weight_formats.iter().copied().filter(|&f| f != Format::INT8).collect(),
    ..ORT_CPU.clone()
});
