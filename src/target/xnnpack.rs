//! XNNPACK and what else follows TensorFlow Lite.

use std::sync::LazyLock;

use super::{Attention, BiasForm, FixedOutput, Placement, ResidualAdd, Target, names};
use crate::number::Format;

/// XNNPACK and other kernels that follow "TensorFlow Lite 8-bit quantization specification": int8 activations with a zero
/// point, int8 weights of -127 to 127 with a zero point of 0, one scale a channel, biases at the scale of the accumulator;
/// inputs and outputs of concatenation and pooling share scale and zero point; those of the outputs of LOGISTIC, SOFTMAX
/// and TANH are prescribed. A ReLU or Clip is the fused activation of the operator before it.
pub static XNNPACK: LazyLock<Target> = LazyLock::new(|| Target {
    name: "xnnpack".into(),
    about: "XNNPACK and what else follows TensorFlow Lite: int8 activations, int8 weights per channel, tied scales"
        .into(),
    opset: 13,
    activations: Format::INT8,
    activation_formats: vec![Format::INT8],
    wide_kernels: false,
    symmetric_activations: false,
    minimum_range: 0.0,
    weights: Format::INT8,
    weight_formats: vec![Format::INT8, Format::INT4],
    power_scales: false,
    per_channel: true,
    per_tensor_operators: names([]),
    narrow_weights: true,
    bias: BiasForm::Int32,
    placement: Placement::Around,
    operators: names([
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "LeakyRelu",
        "MatMul",
        "MaxPool",
        "Mul",
        "PRelu",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ]),
    float_output: names([]),
    tables: true,
    everywhere: false,
    fused_bounds: true,
    residual_add: ResidualAdd::Both,
    attention: Attention::All,
    tied: names(["AveragePool", "Concat"]),
    fixed_outputs: vec![
        fixed("Sigmoid", 1.0 / 256.0, -128),
        fixed("Softmax", 1.0 / 256.0, -128),
        fixed("Tanh", 1.0 / 128.0, 0),
    ],
    excluded: vec![],
});

fn fixed(operator: &str, scale: f64, zero_point: i32) -> FixedOutput {
    FixedOutput { operator: operator.into(), format: Format::INT8, scale, zero_point }
}
