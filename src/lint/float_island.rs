//! Float nodes among integers.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeExt, NodeId, NodeProto};

/// A float node that reads nothing but dequantized codes and constants, and whose outputs are quantized right away.
pub const RULE: Rule = Rule {
    name: "float-island",
    costs: Cost::Speed,
    why: "codes are turned into floats for this node alone, and back",
    way_out: "if the runtime has an integer kernel for it, let it be quantized; else leave what is around it float and compare",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let reason = scene.float(id)?;
        let codes = |x: &&String| !x.is_empty() && scene.activation(x).is_some();
        let known = |x: &String| x.is_empty() || scene.graph.is_constant(x) || scene.dequantize(x).is_some();
        let outputs: Vec<&String> = node.output.iter().filter(|o| !o.is_empty()).collect();
        let island = node.input.iter().any(|x| codes(&x))
            && node.input.iter().all(known)
            && !outputs.is_empty()
            && outputs.iter().all(|o| scene.goes_into_codes(o));
        let other = !Linear::quantizes(node) && !Linear::dequantizes(node) && node.subgraphs().next().is_none();
        (island && other).then(|| (id, format!("computes in float between integers: {reason}")))
    };
    scene.graph.nodes().filter_map(found).collect()
}
