//! Where codes come from.

use super::table::{IntegerOp, Output};
use crate::model::{DataType, Graph, Linear, NodeExt, NodeId, NodeProto};
use crate::rule::{OpRule, Role};

/// Where codes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An initializer.
    Constant,
    /// An input of the graph.
    Input,
    /// QuantizeLinear.
    Quantize(NodeId),
    /// DynamicQuantizeLinear.
    Dynamic(NodeId),
    /// Another node.
    Node(NodeId),
    /// Nothing in this graph.
    Outside,
}

/// Whether the operator moves the elements of its first input and changes none of them.
pub fn moves(node: &NodeProto) -> bool {
    node.is("Identity") || OpRule::of(node).is_some_and(|r| r.role == Role::Pass)
}

/// Whether a Resize makes numbers that are not among its input's (ai.onnx, Resize-10 to -19).
pub(super) fn interpolates(node: &NodeProto) -> bool {
    let nearest = node.string("mode").is_none_or(|mode| mode == "nearest");
    node.is("Resize") && !(nearest && node.string("coordinate_transformation_mode") != Some("tf_crop_and_resize"))
}

/// Where codes come from; operators that only move them are seen through.
pub fn source(graph: &Graph, codes: &str) -> Source {
    let mut value = codes;
    // A graph has no cycle: this ends.
    loop {
        if graph.is_constant(value) {
            return Source::Constant;
        }
        if graph.is_input(value) {
            return Source::Input;
        }
        let Some((id, _)) = graph.producer(value) else { return Source::Outside };
        let Some(node) = graph.node(id) else { return Source::Outside };
        match node.input_at(0) {
            _ if Linear::quantizes(node) => return Source::Quantize(id),
            _ if node.is("DynamicQuantizeLinear") => return Source::Dynamic(id),
            Some(input) if moves(node) => value = input,
            _ => return Source::Node(id),
        }
    }
}

/// How many axes codes have: as the file states it, or as many as a Transpose that makes them exchanges.
pub(super) fn rank(graph: &Graph, codes: &str) -> Option<usize> {
    let exchanged = || graph.producer(codes).and_then(|(id, _)| graph.node(id)?.ints("perm").map(<[i64]>::len));
    graph.stated_rank(codes).or_else(exchanged)
}

/// The element type of codes, by what makes them, or else by what the file states; `None` where neither says.
pub fn code_type(graph: &Graph, codes: &str) -> Option<DataType> {
    let mut value = codes;
    loop {
        let Some(node) = graph.producer(value).and_then(|(id, _)| graph.node(id)) else {
            return graph.stated_dtype(value);
        };
        let zero = |slot: usize| node.input_at(slot).map(|z| graph.stated_dtype(z));
        value = match IntegerOp::of(node) {
            _ if Linear::quantizes(node) => {
                let stated = node.int("output_dtype").filter(|&d| d != 0).and_then(|d| i32::try_from(d).ok());
                let stated = stated.and_then(|d| DataType::try_from(d).ok());
                return zero(2).unwrap_or(Some(stated.unwrap_or(DataType::Uint8)));
            }
            _ if node.is("DynamicQuantizeLinear") => return Some(DataType::Uint8),
            Some(IntegerOp { output: Output::Codes(_, slot), .. }) if node.input_at(*slot).is_some() => {
                return zero(*slot).flatten();
            }
            Some(op) if matches!(op.output, Output::Codes(..)) => node.input_at(op.operands(node).first()?.codes)?,
            None if moves(node) => node.input_at(0)?,
            _ => return graph.stated_dtype(value),
        };
    }
}
