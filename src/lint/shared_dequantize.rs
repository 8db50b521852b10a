//! DequantizeLinear with several readers.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeExt, NodeId, NodeProto};

/// A DequantizeLinear of an activation that several nodes read, or a node and an output of the graph.
///
/// Source: onnxruntime's `EnsureUniqueDQForNodeUnit` (core/optimizer/qdq_transformer), which gives each reader its own before
/// it groups nodes; groups are made only where a DequantizeLinear has one reader.
pub const RULE: Rule = Rule {
    name: "shared-dequantize",
    costs: Cost::Portability,
    why: "runtimes that group a node with its own DequantizeLinear take none that others read; onnxruntime copies it first",
    way_out: "nothing for onnxruntime 1.15 and later; for others give each reader a DequantizeLinear of its own",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let value = node.output_at(0)?;
        scene.activation(value)?;
        let (readers, output) = (scene.graph.uses(value).len(), scene.graph.is_output(value));
        let beside = if output { " and the graph gives it" } else { "" };
        (readers + usize::from(output) > 1).then(|| (id, format!("{readers} inputs read `{value}`{beside}")))
    };
    scene.graph.nodes().filter(|(_, n)| Linear::dequantizes(n)).filter_map(found).collect()
}
