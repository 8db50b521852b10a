//! What happens to which operator at which opset: the handwritten tables.

use super::scope::Scope;
use super::{
    axes, batch_norm, clip, dft, dropout, erf, grid_sample, group_norm, pad, resize, roi_align, scan, scatter, slice,
    softmax, split, top_k,
};
use crate::error::Result;
use crate::model::NodeId;

/// How a node of an operator gets from the opset before to this one.
pub(super) struct Step {
    /// The operator.
    pub(super) op: &'static str,
    /// The first opset of the new form.
    pub(super) to: i64,
    /// Writes the new form in place of the old one, or refuses.
    pub(super) convert: fn(&mut Scope, NodeId) -> Result<()>,
}

const fn step(op: &'static str, to: i64, convert: fn(&mut Scope, NodeId) -> Result<()>) -> Step {
    Step { op, to, convert }
}

/// The steps, by opset, then by name.
pub(super) const STEPS: &[Step] = &[
    step("BatchNormalization", 9, batch_norm::spatial_only),
    step("Scan", 9, scan::refuse_batched),
    step("Upsample", 9, resize::scales_to_input),
    step("Dropout", 10, dropout::without_float_mask),
    step("Slice", 10, slice::bounds_to_inputs),
    step("TopK", 10, top_k::k_to_input),
    step("Upsample", 10, resize::upsample_to_resize_10),
    step("Clip", 11, clip::bounds_to_inputs),
    step("Pad", 11, pad::pads_to_input),
    step("Resize", 11, resize::state_coordinates),
    step("Scatter", 11, scatter::to_scatter_elements),
    step("Upsample", 11, resize::upsample_to_resize),
    step("Dropout", 12, dropout::ratio_to_input),
    step("Erf", 13, erf::refuse_integers),
    step("Hardmax", 13, softmax::over_one_axis),
    step("LogSoftmax", 13, softmax::over_one_axis),
    step("ReduceSum", 13, axes::to_input),
    step("Resize", 13, resize::leave_out_empty_inputs),
    step("Softmax", 13, softmax::over_one_axis),
    step("Split", 13, split::sizes_to_input),
    step("Squeeze", 13, axes::to_input),
    step("Unsqueeze", 13, axes::to_input),
    step("BatchNormalization", 14, batch_norm::inference_only),
    step("RoiAlign", 16, roi_align::state_coordinates),
    step("ReduceL1", 18, axes::to_input),
    step("ReduceL2", 18, axes::to_input),
    step("ReduceLogSum", 18, axes::to_input),
    step("ReduceLogSumExp", 18, axes::to_input),
    step("ReduceMax", 18, axes::to_input),
    step("ReduceMean", 18, axes::to_input),
    step("ReduceMin", 18, axes::to_input),
    step("ReduceProd", 18, axes::to_input),
    step("ReduceSumSquare", 18, axes::to_input),
    step("Split", 18, split::state_how_many),
    step("DFT", 20, dft::axis_to_input),
    step("GridSample", 20, grid_sample::rename_modes),
    step("GroupNormalization", 21, group_norm::scale_each_channel),
];

/// Changes of form that leave models as they are: what is new may be left out, and then means what the form before
/// meant.
///
/// | new | left out, it means |
/// |---|---|
/// | ArgMax, ArgMin 12 `select_last_index` | the first of equal values, as before |
/// | Attention 24 `nonpad_kv_seqlen`, 25 `left_window_size`, `right_window_size` | no padding, no window |
/// | AveragePool 10 `ceil_mode`, 19 `dilations`; LpPool 18; MaxPool 8 `Indices`, `storage_order`, 10 | floor, 1 |
/// | Cast, CastLike 19 `saturate`, 24 `round_mode` | concerns only 8-bit floats, which are newer than the form before |
/// | Constant 11 `sparse_value`, 12 `value_*` | `value` is given |
/// | DepthToSpace 11 `mode` | depth first, as before |
/// | DequantizeLinear 13 `axis`, 21 `block_size`, 23 `output_dtype` | one scale; no blocks; the type of the scale |
/// | GRU, LSTM, RNN 14 `layout` | sequence first |
/// | GatherND 12 `batch_dims` | 0 |
/// | Gemm 11 `C` may be left out | it is given |
/// | OptionalHasElement 18 `input` may be left out | it is given |
/// | Pad 18 `axes`, Resize 18 `axes`, `antialias`, `keep_aspect_ratio_policy` | all axes, none, stretched to the sizes |
/// | QuantizeLinear 13 `axis`, 19 `saturate`, 21 `block_size`, `output_dtype`, 23 `precision` | as DequantizeLinear |
/// | Reshape 14 `allowzero` | 0 copies the dimension |
/// | ScatterElements, ScatterND 16 `reduction` | none |
/// | Shape 15 `start`, `end` | the whole shape |
/// | TopK 11 `largest`, `sorted` | the largest, sorted |
pub(super) const GREW: &[(&str, i64)] = &[
    ("ArgMax", 12),
    ("ArgMin", 12),
    ("Attention", 24),
    ("Attention", 25),
    ("AveragePool", 10),
    ("AveragePool", 19),
    ("Cast", 19),
    ("Cast", 24),
    ("CastLike", 19),
    ("CastLike", 24),
    ("Constant", 11),
    ("Constant", 12),
    ("DepthToSpace", 11),
    ("DequantizeLinear", 13),
    ("DequantizeLinear", 21),
    ("DequantizeLinear", 23),
    ("GRU", 14),
    ("GatherND", 12),
    ("Gemm", 11),
    ("LSTM", 14),
    ("LpPool", 18),
    ("MaxPool", 8),
    ("MaxPool", 10),
    ("OptionalHasElement", 18),
    ("Pad", 18),
    ("QuantizeLinear", 13),
    ("QuantizeLinear", 19),
    ("QuantizeLinear", 21),
    ("QuantizeLinear", 23),
    ("RNN", 14),
    ("Reshape", 14),
    ("Resize", 18),
    ("ScatterElements", 16),
    ("ScatterND", 16),
    ("Shape", 15),
    ("TopK", 11),
];

#[cfg(test)]
mod tests {
    use super::super::{NEWEST, unknown_change};
    use super::*;
    use crate::schema;

    #[test]
    fn every_change_of_form_is_known() {
        for operator in schema::domain("").unwrap().operators() {
            assert_eq!(unknown_change(operator, 7, NEWEST), None, "{}", operator.name);
        }
    }

    #[test]
    fn the_tables_are_sorted_and_speak_of_changes_that_happened() {
        assert!(GREW.windows(2).all(|w| w[0] < w[1]));
        assert!(STEPS.windows(2).all(|w| (w[0].to, w[0].op) < (w[1].to, w[1].op)));
        for (op, to) in STEPS.iter().map(|s| (s.op, s.to)).chain(GREW.iter().copied()) {
            let late = op == "Upsample" && to == 11;
            assert!(schema::operator(op).unwrap().changes().any(|v| v == to) || late, "{op} {to}");
        }
    }

    #[test]
    fn no_change_is_listed_twice() {
        assert!(GREW.iter().all(|&(op, to)| !STEPS.iter().any(|s| s.op == op && s.to == to)));
    }
}
