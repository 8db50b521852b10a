//! What quantization knows of each operator, as data. Sources: the operator's text in the ONNX specification,
//! and, for the roles, the placement rules of onnxruntime's QDQ tool.

mod bounds;
mod channel_index;
mod patches;
mod table;
mod table_rows;
mod weight_matrix;

use crate::model::{NodeExt, NodeProto};
use crate::number::Range;

pub use bounds::bounds;
pub use channel_index::ChannelIndex;
pub use patches::{Look, PatchView, Patches, Places};
pub use table::RULES;
pub use table_rows::{Twin, picks_rows, twins};
pub use weight_matrix::WeightMatrix;

/// What quantization knows of one operator of ONNX's own domain.
#[derive(Debug, Clone, Copy)]
pub struct OpRule {
    /// The operator.
    pub op: &'static str,
    /// What part it plays.
    pub role: Role,
    /// Which inputs are activations or constants in their place; indices, shape and mask inputs are not among them.
    pub data: Slots,
    /// The bias: an input that is added to the accumulated products.
    pub bias: Option<usize>,
    /// Along which axis a constant second input has its output channels.
    pub channels: Channels,
    /// The range the output has whatever the input is.
    pub output: Option<(f32, f32)>,
}

/// The part an operator plays in a quantized graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// Multiplies and accumulates: what quantization is for.
    Compute,
    /// Worth integers between quantized neighbours, and only there.
    Glue,
    /// Moves values without changing them: the output takes over the parameters of the input.
    Pass,
    /// Cuts values off: a quantized range can take its place.
    Bound,
    /// Stays float, and why.
    Float(&'static str),
}

/// Which inputs of a node are data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slots {
    /// The first so many.
    First(usize),
    /// All of them.
    All,
    /// From the first of these up to, not including, the second.
    Between(usize, usize),
}

/// Where a weight has its output channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Channels {
    /// The operator has no weight.
    None,
    /// This axis, counted from the front.
    Axis(usize),
    /// The second axis of a matrix. Integer kernels of MatMul take a scale a column for matrices only.
    Columns,
    /// Gemm: axis 0 where `transB` is set, else 1.
    Gemm,
}

impl OpRule {
    /// The rule of a node; `None` for operators that are not in the table, and for other domains.
    pub fn of(node: &NodeProto) -> Option<&'static OpRule> {
        RULES.iter().find(|r| node.is(r.op))
    }

    /// The slots of this node that are data.
    pub fn data_slots(&self, node: &NodeProto) -> impl Iterator<Item = usize> + use<> {
        let len = node.input.len();
        let (from, to) = match self.data {
            Slots::First(n) => (0, n),
            Slots::All => (0, len),
            Slots::Between(a, b) => (a, b),
        };
        from..to.min(len)
    }

    /// The slot that a weight stands in when it is a constant: the second input of what computes.
    pub fn weight_slot(&self) -> Option<usize> {
        (self.channels != Channels::None).then_some(1)
    }

    /// The axis of a weight of this rank along which its output channels lie; `None` where there is no such axis.
    ///
    /// A grouped ConvTranspose has `[C, M / groups, ...]` weights: index `i` of axis 1 belongs to the output channels
    /// `i`, `i + M / groups`, and so on.
    pub fn channel_axis(&self, node: &NodeProto, rank: usize) -> Option<usize> {
        let axis = match self.channels {
            Channels::None => return None,
            Channels::Axis(axis) => axis,
            Channels::Columns => (rank == 2).then_some(1)?,
            Channels::Gemm => usize::from(node.int("transB").unwrap_or(0) == 0),
        };
        (axis < rank && rank > 1).then_some(axis)
    }

    /// The axis of a weight of this rank along which the products are summed up; `None` where there is no such axis.
    pub fn summed_axis(&self, node: &NodeProto, rank: usize) -> Option<usize> {
        match self.channels {
            Channels::Axis(axis) if rank > 2 && axis < 2 => Some(1 - axis),
            Channels::Columns => rank.checked_sub(2),
            Channels::Gemm if rank == 2 => Some(usize::from(node.int("transB").unwrap_or(0) != 0)),
            _ => None,
        }
    }

    /// The range the output has whatever the input is.
    pub fn fixed_output(&self) -> Option<Range> {
        self.output.and_then(|(lo, hi)| Range::new(lo, hi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attribute;

    #[test]
    fn every_operator_has_one_rule_in_alphabetical_order() {
        assert!(RULES.windows(2).all(|w| w[0].op < w[1].op));
    }

    #[test]
    fn channels_lie_where_the_specification_says() {
        let node = |op: &str| NodeProto { op_type: Some(op.into()), ..Default::default() };
        let axis = |n: &NodeProto, rank| OpRule::of(n).unwrap().channel_axis(n, rank);
        assert_eq!(axis(&node("Conv"), 4), Some(0));
        assert_eq!(axis(&node("ConvTranspose"), 4), Some(1));
        assert_eq!(axis(&node("MatMul"), 2), Some(1));
        assert_eq!(axis(&node("MatMul"), 3), None);
        assert_eq!(axis(&node("MatMul"), 1), None);
        let mut gemm = node("Gemm");
        assert_eq!(axis(&gemm, 2), Some(1));
        gemm.set(attribute::int("transB", 1));
        assert_eq!(axis(&gemm, 2), Some(0));
    }
}
