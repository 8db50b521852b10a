//! Q/DQ that the opset does not know.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeId, NodeProto, domain_of, dtype_name, format_of};

/// A Q/DQ node of ONNX's own domain that needs a later opset: several scales need 13 (before, there is no axis), blocks 21,
/// codes of other types the opset that brought them.
///
/// Source: ONNX, changes of QuantizeLinear and DequantizeLinear in opsets 10, 13, 19, 21, 23 and 25.
pub const RULE: Rule = Rule {
    name: "old-opset",
    costs: Cost::Portability,
    why: "runtimes that go by the opset refuse the node, or take the first scale for all channels",
    way_out: "raise the opset of the model, or quantize per tensor in 8 bits",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let linear = Linear::read(scene.graph, node).ok()?;
        let (needed, what) = match (&linear.blocks, format_of(linear.dtype)) {
            (Some(_), _) => (21, "scales of blocks".to_owned()),
            (None, Some(format)) if format.opset > 10 => {
                (format.opset, format!("codes of type {}", dtype_name(linear.dtype)))
            }
            _ if linear.scales.len() > 1 => (13, format!("{} scales along an axis", linear.scales.len())),
            _ => return None,
        };
        (scene.opset < needed).then(|| (id, format!("{what} in opset {}, which came with {needed}", scene.opset)))
    };
    let own = |n: &NodeProto| domain_of(n.domain()).is_empty() && (Linear::quantizes(n) || Linear::dequantizes(n));
    scene.graph.nodes().filter(|(_, n)| own(n)).filter_map(found).collect()
}
