//! NVIDIA TensorRT.

use std::sync::LazyLock;

use super::{Attention, BiasForm, Placement, ResidualAdd, Small, Target, Unless, names};
use crate::number::Format;

/// NVIDIA TensorRT with explicit quantization.
///
/// Its documentation ("Working with quantized types", Q/DQ placement recommendations) asks for: zero points of 0, int8
/// and never uint8; Q/DQ on the inputs of weighted layers and not on their outputs; nothing between a convolution and its
/// activation, which it fuses by itself; Q/DQ on the residual input of an Add, which is then fused into the convolution that
/// feeds the other; weights per channel, activations per tensor, biases in float. MaxPool and what moves values commute with
/// Q/DQ and are left to it.
///
/// The rest is what NVIDIA's Model Optimizer does (modelopt.onnx.quantization: `graph_utils`, `int8`): average pools, which do
/// not commute, are quantized between quantized layers; the inputs and the output of a Concat share a scale, so that no
/// requantization is left; an Add of two activations that no convolution takes in stays float; so do products of a vector
/// (M or N of 1), matrices with K or N below 16, and convolutions with few channels that it has no int8 kernel for.
/// Tables whose rows Gather picks stay float: its documentation tells of int8 constants in front of weighted layers alone.
pub static TENSORRT: LazyLock<Target> = LazyLock::new(|| Target {
    name: "tensorrt".into(),
    about: "NVIDIA TensorRT: symmetric int8, Q/DQ on the inputs of weighted layers and on residuals, float biases"
        .into(),
    opset: 13,
    activations: Format::INT8,
    activation_formats: vec![Format::INT8, Format::E4M3FN],
    wide_kernels: false,
    symmetric_activations: true,
    minimum_range: 0.0,
    weights: Format::INT8,
    weight_formats: vec![Format::INT8, Format::INT4, Format::E4M3FN, Format::E2M1],
    power_scales: true,
    per_channel: true,
    per_tensor_operators: names([]),
    narrow_weights: true,
    bias: BiasForm::Float,
    placement: Placement::Inputs,
    operators: names(["Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul"]),
    float_output: names([]),
    tables: false,
    everywhere: false,
    fused_bounds: true,
    residual_add: ResidualAdd::ResidualSide,
    attention: Attention::All,
    tied: names(["Concat"]),
    fixed_outputs: vec![],
    excluded: vec![
        Small { operators: names(["Gemm", "MatMul"]), rows: 2, inputs: 16, outputs: 16, unless: vec![] },
        Small {
            operators: names(["Conv"]),
            rows: 0,
            inputs: 16,
            outputs: 16,
            unless: vec![
                Unless { grouped: Some(false), multiple_of: 8, either: 16, square: true, ..Unless::default() },
                Unless { grouped: Some(false), multiple_of: 8, first: true, square: true, ..Unless::default() },
                Unless { grouped: Some(true), outputs_multiple_of: 8, kernel: 3, ..Unless::default() },
            ],
        },
    ],
});
