//! QuantizeLinear right behind DequantizeLinear.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeExt, NodeId, NodeProto, bits};

/// Codes that are turned into floats and right back: for nothing with the same parameters, rounded twice with others. Where
/// the width changes, neighbours compute in different ones, and kernels convert codes so.
pub const RULE: Rule = Rule {
    name: "double-rounding",
    costs: Cost::Accuracy,
    why: "nothing is computed between the two, so the second rounding can only lose",
    way_out: "take the pair out, or quantize once with the parameters that the readers want",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let value = node.input_at(0)?;
        let (_, dequantize) = scene.dequantize(value)?;
        let same = match (Linear::read(scene.graph, node), Linear::read(scene.graph, dequantize)) {
            (Ok(to), Ok(from)) if bits(to.dtype) != bits(from.dtype) => return None,
            (Ok(to), Ok(from)) => to == from,
            // Parameters that are computed are the same where they are the same values.
            _ => node.input.get(1..) == dequantize.input.get(1..),
        };
        let what = if same { "the pair does nothing" } else { "rounds a second time, to other parameters" };
        Some((id, format!("`{value}` comes out of `{}`: {what}", dequantize.title())))
    };
    scene.graph.nodes().filter(|(_, n)| Linear::quantizes(n)).filter_map(found).collect()
}
