//! What the target alone leaves float, by what a node is and how large.

use super::Policy;
use crate::model::{Graph, NodeExt, NodeProto};
use crate::rule::{OpRule, Role};
use crate::target::{Attention, Extents, Placement};

/// The most nodes between a Softmax and the product that reads it.
const MOST_BETWEEN: usize = 16;

/// Why a node stays float where Q/DQ stand at inputs alone: the runtime works on what is around it.
pub(super) fn fused(policy: &Policy, node: &NodeProto, rule: &OpRule) -> Option<String> {
    if policy.target.placement != Placement::Inputs {
        return None;
    }
    let name = &policy.target.name;
    match rule.role {
        Role::Bound => Some(format!("target `{name}` fuses it with what is before it")),
        Role::Pass if !node.is("Gather") => Some(format!("target `{name}` moves Q/DQ past it")),
        _ => None,
    }
}

/// Why the target does not want a node of an operator that it wants.
pub(super) fn refusal(graph: &Graph, policy: &Policy, node: &NodeProto, rule: &OpRule) -> Option<String> {
    let target = &policy.target;
    if rule.role == Role::Compute && !may_multiply(graph, target.attention, node) {
        return Some(format!("target `{}` leaves this product of attention float", target.name));
    }
    let mut small = target.excluded.iter().filter(|s| s.operators.iter().any(|op| node.is(op))).peekable();
    small.peek()?;
    let extents = extents(graph, node);
    let reason = small.find_map(|s| s.refuses(&extents))?;
    Some(format!("{reason} on target `{}`", target.name))
}

/// Whether a product of two activations is among those that are quantized.
fn may_multiply(graph: &Graph, attention: Attention, node: &NodeProto) -> bool {
    let activation = |slot: usize| node.input_at(slot).is_some_and(|n| !graph.is_constant(n));
    let product = node.is("MatMul") && activation(0) && activation(1);
    match attention {
        Attention::All => true,
        Attention::Scores => !product || !(0..2).any(|slot| out_of_softmax(graph, node.input_at(slot))),
        Attention::None => !product,
    }
}

/// Whether the value is what a Softmax made, moved at most.
fn out_of_softmax(graph: &Graph, value: Option<&str>) -> bool {
    let mut value = value;
    for _ in 0..MOST_BETWEEN {
        let Some(node) = value.and_then(|v| graph.producer(v)).and_then(|(id, _)| graph.node(id)) else { return false };
        if node.is("Softmax") {
            return true;
        }
        let moves = OpRule::of(node).is_some_and(|r| r.role == Role::Pass);
        value = node.input_at(0).filter(|_| moves);
    }
    false
}

/// The extents of a node that multiplies, as far as the model states them.
fn extents(graph: &Graph, node: &NodeProto) -> Extents {
    let dims = |slot: usize| node.input_at(slot).and_then(|n| graph.stated_dims(n)).unwrap_or_default();
    let constant = node.input_at(1).is_some_and(|n| graph.is_constant(n));
    let (a, b) = (dims(0), dims(1));
    let at = |dims: &[Option<usize>], from_end: usize| dims.len().checked_sub(from_end).and_then(|i| dims[i]);
    let first = node.input_at(0).is_some_and(|n| graph.is_input(n));
    if node.is("MatMul") {
        // With one matrix for all, what comes before are rows too.
        let rows = match (constant, a.split_last()) {
            (true, Some((_, rows))) => rows.iter().copied().product(),
            _ => at(&a, 2),
        };
        return Extents { rows, inputs: at(&b, 2).or(at(&a, 1)), outputs: at(&b, 1), first, ..Extents::default() };
    }
    if node.is("Gemm") {
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        let rows = at(&a, if flag("transA") { 1 } else { 2 });
        let (inputs, outputs) = if flag("transB") { (at(&b, 1), at(&b, 2)) } else { (at(&b, 2), at(&b, 1)) };
        return Extents { rows, inputs, outputs, first, ..Extents::default() };
    }
    let kernel = b.iter().skip(2).flatten().copied().collect();
    let grouped = node.int("group").unwrap_or(1) > 1;
    let dim = |axis: usize| b.get(axis).copied().flatten();
    Extents { rows: None, inputs: dim(1), outputs: dim(0), kernel, grouped, first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, Tensor, ValueInfoProto, attribute};
    use crate::proto::tensor_shape_proto::{Dimension, dimension};
    use crate::proto::{TensorShapeProto, TypeProto, type_proto};

    /// A graph with an input `x` of that shape, 0 for a symbol, and a weight `w`.
    fn graph(x: &[i64], w: &[usize]) -> Graph {
        let dim =
            |&n: &i64| Dimension { value: (n > 0).then_some(dimension::Value::DimValue(n)), ..Dimension::default() };
        let shape = Some(TensorShapeProto { dim: x.iter().map(dim).collect() });
        let tensor = type_proto::Tensor { elem_type: Some(1), shape };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        let input = ValueInfoProto { name: Some("x".into()), r#type: Some(kind), ..ValueInfoProto::default() };
        let weight = Tensor::from_f32(w.to_vec(), vec![1.0; w.iter().product()]).to_proto("w");
        Graph::from_proto(GraphProto { input: vec![input], initializer: vec![weight], ..GraphProto::default() })
            .unwrap()
    }

    fn node(op: &str) -> NodeProto {
        NodeProto { op_type: Some(op.into()), input: vec!["x".into(), "w".into()], ..NodeProto::default() }
    }

    #[test]
    fn extents_are_those_of_the_product() {
        let found = |op: &str, x: &[i64], w: &[usize]| {
            let e = extents(&graph(x, w), &node(op));
            (e.rows, e.inputs, e.outputs)
        };
        assert_eq!(found("MatMul", &[2, 5, 16], &[16, 32]), (Some(10), Some(16), Some(32)));
        assert_eq!(found("MatMul", &[0, 5, 16], &[16, 32]), (None, Some(16), Some(32)));
        assert_eq!(found("Gemm", &[1, 16], &[16, 10]), (Some(1), Some(16), Some(10)));
        assert_eq!(found("Conv", &[1, 3, 8, 8], &[32, 3, 3, 1]), (None, Some(3), Some(32)));
        let mut gemm = node("Gemm");
        gemm.set(attribute::int("transB", 1));
        let e = extents(&graph(&[7, 16], &[10, 16]), &gemm);
        assert_eq!((e.rows, e.inputs, e.outputs, e.first), (Some(7), Some(16), Some(10), true));
        assert_eq!(extents(&graph(&[1, 3, 8, 8], &[32, 3, 3, 1]), &node("Conv")).kernel, [3, 1]);
    }
}
