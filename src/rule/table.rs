//! The table, in alphabetical order.

use super::Role::{Bound, Compute, Float, Glue, Pass};
use super::Slots::{All, Between, First};
use super::{Channels, OpRule, Role, Slots};

const fn rule(op: &'static str, role: Role, data: Slots) -> OpRule {
    OpRule { op, role, data, bias: None, channels: Channels::None, output: None }
}

const fn weighted(op: &'static str, channels: Channels, bias: Option<usize>) -> OpRule {
    OpRule { op, role: Compute, data: First(2), bias, channels, output: None }
}

const fn within(op: &'static str, low: f32, high: f32) -> OpRule {
    OpRule { op, role: Glue, data: First(1), bias: None, channels: Channels::None, output: Some((low, high)) }
}

const NORMALIZES: &str = "normalization needs the precision of float, and costs little";
const FLOAT_MATH: &str = "no runtime has an integer kernel for it";

/// Every operator that quantization knows.
///
/// Conv with `[M, C/groups, kH, kW]` weights has its channels on axis 0, ConvTranspose with `[C, M/groups, kH, kW]`
/// on axis 1 (ai.onnx, Conv-11, ConvTranspose-11).
pub const RULES: &[OpRule] = &[
    rule("Add", Glue, First(2)),
    rule("AveragePool", Glue, First(1)),
    rule("Clip", Bound, First(1)),
    rule("Concat", Glue, All),
    weighted("Conv", Channels::Axis(0), Some(2)),
    weighted("ConvTranspose", Channels::Axis(1), Some(2)),
    rule("DepthToSpace", Pass, First(1)),
    rule("Div", Glue, First(2)),
    rule("Erf", Float(FLOAT_MATH), First(1)),
    rule("Exp", Float(FLOAT_MATH), First(1)),
    rule("Flatten", Pass, First(1)),
    rule("Gather", Pass, First(1)),
    weighted("Gemm", Channels::Gemm, Some(2)),
    rule("GlobalAveragePool", Glue, First(1)),
    rule("GlobalMaxPool", Pass, First(1)),
    within("HardSigmoid", 0.0, 1.0),
    rule("HardSwish", Glue, First(1)),
    rule("InstanceNormalization", Float(NORMALIZES), First(1)),
    rule("LRN", Float(NORMALIZES), First(1)),
    rule("LayerNormalization", Float(NORMALIZES), First(1)),
    rule("LeakyRelu", Glue, First(1)),
    weighted("MatMul", Channels::Columns, None),
    rule("MaxPool", Pass, First(1)),
    rule("Mul", Glue, First(2)),
    rule("PRelu", Glue, First(2)),
    rule("Pad", Pass, First(1)),
    rule("Pow", Float(FLOAT_MATH), First(2)),
    rule("ReduceMean", Glue, First(1)),
    rule("Relu", Bound, First(1)),
    rule("Reshape", Pass, First(1)),
    rule("Resize", Pass, First(1)),
    within("Sigmoid", 0.0, 1.0),
    rule("Slice", Pass, First(1)),
    within("Softmax", 0.0, 1.0),
    rule("SpaceToDepth", Pass, First(1)),
    rule("Split", Pass, First(1)),
    rule("Sqrt", Float(FLOAT_MATH), First(1)),
    rule("Squeeze", Pass, First(1)),
    rule("Sub", Glue, First(2)),
    within("Tanh", -1.0, 1.0),
    rule("Transpose", Pass, First(1)),
    rule("Unsqueeze", Pass, First(1)),
    rule("Where", Glue, Between(1, 3)),
];
