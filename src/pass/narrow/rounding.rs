//! What the narrow types do to every value, spelled out for engines that compute in float32.

use super::plan::moves;
use super::sites::sites;
use super::types::{Types, types};
use crate::error::Result;
use crate::exec::ROUND_FLOAT;
use crate::model::{
    AttributeExt, DataType, Graph, GraphProto, Model, ModelProto, NodeExt, NodeProto, attribute, dtype_name,
};
use crate::schema::ValueType;

/// The model with [`ROUND_FLOAT`] behind every node that makes float16 or bfloat16 values, bodies included.
///
/// Engines that widen such models ([`crate::exec::lower`]) then compute what one does that rounds the outcome of every
/// operator to its type, and accumulates inside of operators in float32. Nodes that only move values round nothing.
/// Errors when the graph breaks a rule.
pub fn rounding(model: &Model) -> Result<Model> {
    let mut names = model.graph.clone();
    let proto = model.to_proto();
    let types = proto.graph.as_ref().map(|g| types(g, &sites(&proto))).unwrap_or_default();
    let graph = proto.graph.as_ref().map(|g| rounded(g, &types, &mut names));
    Model::from_proto(ModelProto { graph, ..proto })
}

fn rounded(graph: &GraphProto, types: &Types, names: &mut Graph) -> GraphProto {
    let mut nodes = Vec::new();
    for node in &graph.node {
        let mut new = node.clone();
        for body in new.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut) {
            *body = rounded(body, types, names);
        }
        let mut after = Vec::new();
        // What comes out of bodies was rounded in them.
        let rounds = !moves(node) && node.subgraphs().next().is_none() && !node.is("Constant");
        for output in new.output.iter_mut().filter(|o| rounds && !o.is_empty()) {
            let dtype = match types.get(output.as_str()) {
                Some(&ValueType::Tensor(d @ (DataType::Float16 | DataType::Bfloat16))) => d,
                _ => continue,
            };
            let exact = names.fresh_name(&format!("{output}_exact"));
            after.push(NodeProto {
                name: Some(names.fresh_name(&format!("{output}_round"))),
                op_type: Some(ROUND_FLOAT.to_owned()),
                input: vec![exact.clone()],
                output: vec![std::mem::replace(output, exact)],
                attribute: vec![attribute::string("format", dtype_name(dtype))],
                ..Default::default()
            });
        }
        nodes.push(new);
        nodes.extend(after);
    }
    GraphProto { node: nodes, ..graph.clone() }
}
