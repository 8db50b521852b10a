//! tract.

use std::sync::LazyLock;

use super::{Attention, BiasForm, Placement, ResidualAdd, Target, names};
use crate::number::{Format, Storage};

/// tract 0.23.9. It computes what lies between Q/DQ in float, so that the model becomes small and not fast, and each pair
/// costs time: there are few. It reads formats of 8 bits alone. Its rewrite of DequantizeLinear, one operator and
/// QuantizeLinear into a table of 256 entries is wrong for Softmax: nothing but products reads what is dequantized.
pub static TRACT: LazyLock<Target> = LazyLock::new(|| Target {
    name: "tract".into(),
    about: "tract: 8 bits, Q/DQ on the inputs of products only; small, computed in float".into(),
    opset: 13,
    activations: Format::UINT8,
    activation_formats: ([Format::UINT8, Format::INT8].into_iter()).chain(Format::POWERS).collect(),
    wide_kernels: false,
    symmetric_activations: false,
    minimum_range: 0.0,
    weights: Format::INT8,
    weight_formats: ([Format::INT8, Format::UINT8].into_iter())
        .chain(Format::TABLES.into_iter().filter(|f| f.storage == Storage::U8))
        .collect(),
    power_scales: false,
    per_channel: true,
    per_tensor_operators: names([]),
    narrow_weights: true,
    bias: BiasForm::Float,
    placement: Placement::Inputs,
    operators: names(["Conv", "ConvTranspose", "Gemm", "MatMul"]),
    float_output: names([]),
    tables: true,
    everywhere: false,
    fused_bounds: true,
    residual_add: ResidualAdd::Both,
    attention: Attention::All,
    tied: names([]),
    fixed_outputs: vec![],
    excluded: vec![],
});
