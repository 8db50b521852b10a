//! Qualcomm's NPUs.

use std::sync::LazyLock;

use super::{Attention, BiasForm, FixedOutput, Placement, ResidualAdd, Target, names};
use crate::number::Format;

/// Qualcomm's Hexagon tensor processor through ONNX Runtime's QNN provider, as onnxruntime's tool prepares models for it
/// (`get_qnn_qdq_config`, onnxruntime/python/tools/quantization/execution_providers/qnn).
///
/// Everything is quantized wherever it stands, since what stays float leaves the processor. Ranges are at least 1e-4 wide
/// (`MinimumRealRange`). The weight of a MatMul has one scale. With 16 bits, Sigmoid and Tanh have scales and zero points of
/// their own. A ReLU or Clip is one with the operator before it, as the configurations of AIMET for this processor list them. Biases are folded at the scale of the accumulator whatever the model says, so they are written at that.
pub static QNN: LazyLock<Target> = LazyLock::new(|| Target {
    name: "qnn".into(),
    about: "Qualcomm NPUs through ONNX Runtime's QNN provider: uint8 or uint16 activations, everything quantized"
        .into(),
    opset: 13,
    activations: Format::UINT8,
    activation_formats: vec![Format::UINT8, Format::UINT16, Format::INT16],
    wide_kernels: true,
    symmetric_activations: false,
    minimum_range: 1e-4,
    weights: Format::INT8,
    weight_formats: vec![Format::INT8, Format::UINT8, Format::INT4],
    power_scales: false,
    per_channel: true,
    per_tensor_operators: names(["MatMul"]),
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
        "Div",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
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
        "Where",
    ]),
    float_output: names([]),
    tables: true,
    everywhere: true,
    fused_bounds: true,
    residual_add: ResidualAdd::Both,
    attention: Attention::All,
    tied: names([]),
    fixed_outputs: vec![
        fixed("Sigmoid", Format::UINT16, 1.0 / 65536.0, 0),
        fixed("Sigmoid", Format::INT16, 1.0 / 32768.0, 0),
        fixed("Tanh", Format::UINT16, 1.0 / 32768.0, 32768),
        fixed("Tanh", Format::INT16, 1.0 / 32768.0, 0),
    ],
    excluded: vec![],
});

fn fixed(operator: &str, format: Format, scale: f64, zero_point: i32) -> FixedOutput {
    FixedOutput { operator: operator.into(), format, scale, zero_point }
}
