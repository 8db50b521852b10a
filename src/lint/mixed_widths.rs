//! Activations of different widths at one node.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeId, NodeProto, dtype_name, format_of};

/// A node some of whose activations are codes of 8 bits, and others of 16.
///
/// Source: type checks of onnxruntime's qdq_selectors.cc (all activations of a group have one type).
pub const RULE: Rule = Rule {
    name: "mixed-widths",
    costs: Cost::Speed,
    why: "no kernel takes activations of two widths: the node computes in float",
    way_out: "give all activations of the node one format, and convert by a Q/DQ pair of its own where they meet others",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        if Linear::quantizes(node) || Linear::dequantizes(node) {
            return None;
        }
        let inputs = scene.data(node).into_iter().filter_map(|x| scene.activation(x)).map(|(_, n)| n);
        let outputs = node.output.iter().flat_map(|o| scene.quantizes(o)).map(|(_, n)| n);
        let types = inputs.chain(outputs).filter_map(|n| Some(Linear::read(scene.graph, n).ok()?.dtype));
        let bits = |dtype| format_of(dtype).map(|f| f.bits);
        let mut types: Vec<_> = types.filter(|&d| bits(d).is_some()).collect();
        types.sort_by_key(|&d| bits(d));
        let (narrow, wide) = (*types.first()?, *types.last()?);
        let mixed = bits(narrow) < bits(wide);
        mixed.then(|| (id, format!("its activations are {} and {}", dtype_name(narrow), dtype_name(wide))))
    };
    scene.graph.nodes().filter_map(found).collect()
}
