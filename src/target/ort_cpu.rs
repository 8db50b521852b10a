//! ONNX Runtime's CPU provider on x86.

use std::sync::LazyLock;

use super::{Attention, BiasForm, Placement, ResidualAdd, Target, names};
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
    opset: 13,
    activations: Format::UINT8,
    // Numbers of tables are simulated in float.
    activation_formats: ([Format::UINT8, Format::INT8, Format::UINT16, Format::INT16].into_iter())
        .chain(Format::POWERS)
        .collect(),
    wide_kernels: false,
    symmetric_activations: false,
    minimum_range: 0.0,
    weights: Format::INT8,
    // Of the tables it has kernels for all types but float4e2m1.
    weight_formats: (Format::ALL.into_iter().filter(|f| f.bits <= 16))
        .chain(Format::TABLES.into_iter().filter(|&f| f != Format::E2M1))
        .collect(),
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
    ]),
    float_output: names(["Gemm", "MatMul"]),
    tables: true,
    everywhere: false,
    fused_bounds: false,
    residual_add: ResidualAdd::Both,
    attention: Attention::All,
    tied: names([]),
    fixed_outputs: vec![],
    excluded: vec![],
});
