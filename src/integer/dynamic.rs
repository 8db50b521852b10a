//! Values that are quantized by the range that they have in each run.

use crate::error::Result;
use crate::model::{At, Graph, NodeId, NodeProto};

/// Puts a DynamicQuantizeLinear in front of a node, and returns the names of the codes, their scale and their zero
/// point, made from the value's: `x_quantized`, `x_scale`, `x_zero_point`.
///
/// The codes are uint8, both parameters of rank 0 (ai.onnx, DynamicQuantizeLinear-11).
pub fn quantize_by_own_range(graph: &mut Graph, before: NodeId, value: &str) -> Result<[String; 3]> {
    let names = ["quantized", "scale", "zero_point"].map(|end| graph.fresh_name(&format!("{value}_{end}")));
    let node = NodeProto {
        name: Some(graph.fresh_name(&format!("{value}_DynamicQuantizeLinear"))),
        op_type: Some("DynamicQuantizeLinear".to_owned()),
        input: vec![value.to_owned()],
        output: names.to_vec(),
        ..Default::default()
    };
    graph.insert(At::Before(before), node)?;
    Ok(names)
}
