//! Nodes with Q/DQ on one side.

use super::{Cost, Rule, Scene};
use crate::model::{NodeExt, NodeId, NodeProto};
use crate::rule::{OpRule, Role};

/// A node that reads some of its data through DequantizeLinear and some as floats, or reads codes and whose output goes on in
/// float. Kernels that take codes take all of their data as codes, and but for those of Gemm and MatMul give codes.
///
/// What a plan made is left out: it puts Q/DQ where its target wants them.
///
/// Source: onnxruntime, core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc.
pub const RULE: Rule = Rule {
    name: "one-sided",
    costs: Cost::Speed,
    why: "integer kernels want Q/DQ at all data inputs and at the output: the node computes in float",
    way_out: "quantize the side that is missing, or none",
    look,
};

/// Operators whose integer kernels can write float.
const WRITES_FLOAT: [&str; 2] = ["Gemm", "MatMul"];

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    if scene.planned {
        return Vec::new();
    }
    let found = |(id, node): (NodeId, &NodeProto)| {
        let rule = OpRule::of(node).filter(|r| matches!(r.role, Role::Glue | Role::Compute))?;
        let data = scene.data(node);
        let floats: Vec<&&str> = data.iter().filter(|x| scene.dequantize(x).is_none()).collect();
        if !data.iter().any(|x| scene.activation(x).is_some()) {
            return None;
        }
        let output = node.output_at(0)?;
        let into_codes = scene.quantizes(output).next().is_some();
        if let Some(float) = floats.first() {
            return (into_codes || rule.role == Role::Compute)
                .then(|| (id, format!("reads `{float}` as floats, and other data as codes")));
        }
        let may = WRITES_FLOAT.iter().any(|op| node.is(op));
        (!may && !into_codes).then(|| (id, format!("reads codes, and its output `{output}` is not quantized")))
    };
    scene.graph.nodes().filter_map(found).collect()
}
