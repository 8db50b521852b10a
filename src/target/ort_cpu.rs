//! ONNX Runtime's CPU provider on x86.

use std::sync::LazyLock;

use super::Target;
use crate::number::Format;

/// ONNX Runtime's CPU provider. It fuses Q/DQ groups around these operators into QLinear kernels
/// (selectors in onnxruntime/core/optimizer/qdq_transformer), runs uint8 by int8 fastest on x86 with VNNI, and has
/// kernels for MatMul and Gemm that take integers and write float.
///
/// HardSigmoid, HardSwish, PRelu and Tanh have no integer kernel; they stand in the list because they sit between
/// quantized neighbours, which would otherwise fall out of integers with them. ConvTranspose is computed in float from
/// int8 weights.
pub static ORT_CPU: LazyLock<Target> = LazyLock::new(|| Target {
    name: "ort-cpu".into(),
    about: "ONNX Runtime on x86 CPUs with VNNI: uint8 activations, int8 weights per channel".into(),
    activations: Format::UINT8,
    symmetric_activations: false,
    weights: Format::INT8,
    per_channel: true,
    narrow_weights: true,
    operators: [
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
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "MatMul",
        "MaxPool",
        "Mul",
        "PRelu",
        "Pad",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
    .map(str::to_owned)
    .to_vec(),
    float_output: ["Gemm", "MatMul"].map(str::to_owned).to_vec(),
    opset: 13,
});
