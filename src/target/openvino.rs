//! Intel OpenVINO.

use std::sync::LazyLock;

use super::{Attention, BiasForm, Placement, ResidualAdd, Target, names};
use crate::number::Format;

/// Intel OpenVINO, as NNCF quantizes for it (`nncf.quantization`, its hardware configuration for CPUs, and the patterns that
/// it ignores).
///
/// Quantizers stand at the inputs of quantized operators and never at outputs for their own sake; a ReLU is not moved past,
/// so that ranges behind it are not negative; a bias, a batch normalization and an activation belong to the operator before
/// them. Both inputs of an Add are quantized. The inputs of a Concat share one scale. The product of attention with what comes
/// out of Softmax stays float. Tables whose rows Gather picks are codes, as NNCF's are for embeddings
/// (`OVEmbeddingMetatype`). Weights are signed and symmetric, biases float: the plugin folds them into its kernels.
pub static OPENVINO: LazyLock<Target> = LazyLock::new(|| Target {
    name: "openvino".into(),
    about: "Intel OpenVINO: uint8 activations, Q/DQ on inputs only, float biases".into(),
    opset: 13,
    activations: Format::UINT8,
    activation_formats: vec![Format::UINT8, Format::INT8],
    wide_kernels: false,
    symmetric_activations: false,
    minimum_range: 0.0,
    weights: Format::INT8,
    weight_formats: vec![Format::INT8, Format::INT4, Format::UINT4],
    power_scales: false,
    per_channel: true,
    per_tensor_operators: names([]),
    narrow_weights: true,
    bias: BiasForm::Float,
    placement: Placement::Inputs,
    operators: names(["Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul"]),
    float_output: names([]),
    tables: true,
    everywhere: false,
    fused_bounds: true,
    residual_add: ResidualAdd::Both,
    attention: Attention::Scores,
    tied: names(["Concat"]),
    fixed_outputs: vec![],
    excluded: vec![],
});
