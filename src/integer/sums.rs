//! ConvInteger and MatMulInteger: the sums of products of codes, and the Cast and Mul behind that scale them.

use super::form::{Form, Input, from_tensors, params};
use super::source::{Source, source};
use super::table::{IntegerOp, Output};
use crate::error::{Refusal, no};
use crate::model::{DataType, Graph, NodeExt, NodeId, NodeProto, Tensor};

/// The two nodes behind the sums.
struct Tail {
    cast: NodeId,
    scaled: NodeId,
    /// What the sums are multiplied with.
    factor: String,
}

/// The float form of
///
/// ```text
/// sums = MatMulInteger(a, w, a_zero, w_zero)
/// y    = Mul(Cast(sums), Mul(a_scale, w_scale))
/// ```
///
/// with `a` and `a_scale` from DynamicQuantizeLinear, as onnxruntime's dynamic quantization writes it; and of the same
/// with a constant scale of `a`, or a constant product.
pub(super) fn read(graph: &Graph, id: NodeId, node: &NodeProto, op: &IntegerOp) -> Result<Form, Refusal> {
    let Some(tail) = tail(graph, node) else {
        return no("its sums do not go through one Cast and one Mul with the scales");
    };
    let (Some(a), Some(w)) = (node.input_at(0), node.input_at(1)) else { return no("one of its inputs is missing") };
    let Some(scale) = scale_of(graph, a) else { return no(format!("what quantizes `{a}` is not known")) };
    let input = params(graph, a, &scale, node.input_at(2), None)?;
    let weight = match rest(graph, &tail.factor, &scale)? {
        Rest::Value(name) => params(graph, w, &name, node.input_at(3), None)?,
        Rest::Constant(factor) => {
            let axis = graph.stated_rank(w).and_then(|rank| op.channel_axis(node, rank));
            let Some(count) = along_channels(graph, node, w, &factor) else {
                return no("its sums are multiplied with numbers that are not one a channel");
            };
            let Some(flat) = factor.reshaped(if count == 1 { vec![] } else { vec![count] }) else {
                return no("its scale does not hold its numbers");
            };
            let zero = match node.input_at(3) {
                None => None,
                Some(name) => match graph.constant(name)?.filter(|_| !graph.is_input(name)) {
                    None => return no(format!("the zero point `{name}` of `{w}` is not a constant")),
                    some => some,
                },
            };
            from_tensors(graph, w, flat, zero, axis, (None, None))?
        }
    };
    let Some(float) = op.float else { return no("no operator on floats computes the same") };
    Ok(Form {
        op: float,
        attributes: node.attribute.clone(),
        inputs: vec![Input::Codes(a.to_owned(), input), Input::Codes(w.to_owned(), weight)],
        flattened: None,
        plus: None,
        output: None,
        at: tail.scaled,
        gone: vec![id, tail.cast],
        spare: graph.producer(&tail.factor).map(|(id, _)| id).into_iter().collect(),
    })
}

fn tail(graph: &Graph, node: &NodeProto) -> Option<Tail> {
    let cast = graph.only_use(node.output_at(0)?)?.node;
    let cast_node = graph.node(cast).filter(|n| n.is("Cast") && n.int("to") == Some(DataType::Float as i64))?;
    let scaled = graph.only_use(cast_node.output_at(0)?)?;
    let product = graph.node(scaled.node).filter(|n| n.is("Mul"))?;
    let factor = product.input_at(1 - scaled.slot.min(1))?.to_owned();
    Some(Tail { cast, scaled: scaled.node, factor })
}

/// The value that holds the scale of codes.
fn scale_of(graph: &Graph, codes: &str) -> Option<String> {
    match source(graph, codes) {
        Source::Dynamic(id) => graph.node(id)?.output_at(1).map(str::to_owned),
        Source::Quantize(id) => graph.node(id)?.input_at(1).map(str::to_owned),
        _ => None,
    }
}

/// What is left of a factor without the scale of the activations.
enum Rest {
    Value(String),
    Constant(Tensor),
}

fn rest(graph: &Graph, factor: &str, scale: &str) -> Result<Rest, Refusal> {
    let one = || Rest::Constant(Tensor::from_f32(vec![], vec![1.0]));
    let as_rest = |name: &str| -> Result<Rest, Refusal> {
        Ok(match graph.constant(name)?.filter(|t| t.is_float() && !graph.is_input(name)) {
            Some(t) => Rest::Constant(t),
            None => Rest::Value(name.to_owned()),
        })
    };
    if factor == scale {
        return Ok(one());
    }
    if let Some(product) = graph.producer(factor).and_then(|(id, _)| graph.node(id)).filter(|n| n.is("Mul")) {
        return match (product.input_at(0), product.input_at(1)) {
            (Some(a), Some(b)) if a == scale => as_rest(b),
            (Some(a), Some(b)) if b == scale => as_rest(a),
            _ => no(format!("`{factor}` is not the product of the scales")),
        };
    }
    let (Some(whole), Some(part)) = (graph.constant(factor)?, graph.constant(scale)?) else {
        return no(format!("`{factor}` is not the product of the scales"));
    };
    if graph.is_input(factor) || graph.is_input(scale) || !whole.is_float() || !part.is_float() || part.len() != 1 {
        return no(format!("`{factor}` is not the product of the scales"));
    }
    let part = part.f32s()?[0];
    let weight = whole.f32s()?.iter().map(|f| f / part).collect();
    Ok(Rest::Constant(Tensor::from_f32(whole.shape().to_vec(), weight)))
}

/// How many numbers the factor has, if it has one for all, or one for each output channel: in the columns of a product
/// of matrices, in axis 1 of a convolution's output.
fn along_channels(graph: &Graph, node: &NodeProto, weight: &str, factor: &Tensor) -> Option<usize> {
    if factor.len() == 1 {
        return Some(1);
    }
    let behind = match node.op_type() {
        "ConvInteger" => graph.stated_rank(weight)?.checked_sub(2)?,
        _ => 0,
    };
    let place = factor.shape().len().checked_sub(1 + behind)?;
    let others = factor.shape().iter().enumerate().filter(|&(axis, _)| axis != place);
    others.into_iter().all(|(_, &n)| n == 1).then(|| factor.shape()[place])
}

/// The nodes that scale the sums of ConvInteger or MatMulInteger: the Cast, the Mul behind it, and the product of the
/// scales; none for other nodes.
pub fn scaling_nodes(graph: &Graph, node: &NodeProto) -> Vec<NodeId> {
    if IntegerOp::of(node).is_none_or(|op| op.output != Output::Sums) {
        return Vec::new();
    }
    let Some(tail) = tail(graph, node) else { return Vec::new() };
    let product = graph.producer(&tail.factor).filter(|&(id, _)| graph.node(id).is_some_and(|n| n.is("Mul")));
    [Some(tail.cast), Some(tail.scaled), product.map(|(id, _)| id)].into_iter().flatten().collect()
}
