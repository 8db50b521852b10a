//! Q/DQ between a layer and its activation.

use super::{Cost, Rule, Scene};
use crate::model::{NodeExt, NodeId, NodeProto};
use crate::rule::{OpRule, Role};

/// A ReLU or Clip that reads the dequantized output of a layer.
///
/// Source: NVIDIA TensorRT, "Working with Quantized Types", Q/DQ placement: no pair between a convolution and the
/// activation that is fused into it.
pub const RULE: Rule = Rule {
    name: "pair-before-bound",
    costs: Cost::Speed,
    why: "the layer and its activation cannot become one kernel, and what the activation cuts off takes codes",
    way_out: "quantize behind the activation only; with affine codes it vanishes into their range",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let bound = |node: &NodeProto| OpRule::of(node).is_some_and(|r| r.role == Role::Bound);
    let found = |(id, node): (NodeId, &NodeProto)| {
        let (_, dequantize) = scene.activation(node.input_at(0)?)?;
        let (_, quantize) = scene.producer(dequantize.input_at(0)?)?;
        let (_, layer) = scene.producer(quantize.input_at(0)?)?;
        let computes = OpRule::of(layer).is_some_and(|r| r.role == Role::Compute);
        computes.then(|| (id, format!("a Q/DQ pair stands between it and `{}` ({})", layer.title(), layer.operator())))
    };
    scene.graph.nodes().filter(|(_, n)| bound(n)).filter_map(found).collect()
}
