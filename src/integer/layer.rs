//! Float operators that compute, between DequantizeLinear and QuantizeLinear, as operators on codes.

use super::around::{Codes, Quantized, behind, dequantizer, in_front};
use super::made::{Input, Made};
use super::source::rank;
use super::table::{IntegerOp, MS, OPERATORS, Operands, Output, Style};
use crate::error::{Refusal, no};
use crate::model::{
    AttributeProto, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, attribute, dtype_name,
};
use crate::rule::OpRule;

/// Reads an operator that computes; the reason where it has no form on codes.
pub(super) fn read(graph: &Graph, id: NodeId, node: &NodeProto, opset: i64, contrib: bool) -> Result<Made, Refusal> {
    let Some(output) = node.output_at(0) else { return no("it has no output") };
    let behind = match behind(graph, output) {
        Err(Refusal::Fail(e)) => return Err(e.into()),
        other => other,
    };
    let op = form(node, behind.as_ref().err(), contrib)?;
    layer(graph, id, node, op, behind.ok(), opset)
}

/// The operator on codes that computes what the node computes; `floats` says why no codes can come out, where that is so.
fn form(node: &NodeProto, floats: Option<&Refusal>, contrib: bool) -> Result<&'static IntegerOp, Refusal> {
    let like = if !contrib && is_plain_product(node) { "MatMul" } else { node.op_type() };
    let own = node.is(node.op_type());
    let known = |op: &&IntegerOp| own && op.float == Some(like) && op.style == Style::QOperator && op.has_kernel();
    let forms: Vec<&'static IntegerOp> = OPERATORS.iter().filter(known).collect();
    if forms.is_empty() {
        return no("there is no operator on codes for it");
    }
    let writes = |op: &&&IntegerOp| match (floats, op.output) {
        (_, Output::Sums) => false,
        (None, output) => matches!(output, Output::Codes(..)),
        (Some(_), output) => output == Output::Floats || op.op == "QGemm",
    };
    let mut fit: Vec<&'static IntegerOp> = forms.iter().filter(writes).copied().collect();
    fit.sort_by_key(|op| op.is_foreign());
    match (fit.first(), floats) {
        (None, Some(Refusal::Skip(why))) => no(why.clone()),
        (Some(op), Some(Refusal::Skip(why))) if op.is_foreign() && !contrib => {
            no(format!("{why}, and what computes on codes and writes floats, {}, is onnxruntime's own", op.op))
        }
        (Some(op), _) if op.is_foreign() && !contrib => {
            no(format!("its operator on codes, {}, is onnxruntime's own", op.op))
        }
        (Some(op), _) => Ok(op),
        (None, _) => no("there is no operator on codes for it"),
    }
}

/// Whether the node is a Gemm that MatMul could take the place of.
fn is_plain_product(node: &NodeProto) -> bool {
    let set = |name: &str| node.int(name).unwrap_or(0) != 0;
    node.is("Gemm")
        && node.input_at(2).is_none()
        && node.float("alpha").unwrap_or(1.0) == 1.0
        && !set("transA")
        && !set("transB")
}

/// The node on codes.
fn layer(
    graph: &Graph,
    id: NodeId,
    node: &NodeProto,
    op: &'static IntegerOp,
    behind: Option<Quantized>,
    opset: i64,
) -> Result<Made, Refusal> {
    let operands = match op.operands {
        Operands::Each(list) => list.to_vec(),
        Operands::Triples(_) => op.triples(node.input.len().saturating_sub(op.before)),
    };
    let mut codes = Vec::with_capacity(operands.len());
    for slot in op.before..op.before + operands.len() {
        match node.input_at(slot) {
            Some(value) => codes.push(in_front(graph, value)?),
            None => return no("one of its inputs is missing"),
        }
    }
    let Some(activation) = codes.first().map(|c| c.linear.dtype) else { return no("it has no inputs") };
    for (operand, codes) in operands.iter().zip(&codes) {
        let dtype = codes.linear.dtype;
        if dtype != activation && !(operand.weight && dtype == DataType::Int8) {
            let (found, beside) = (dtype_name(dtype), dtype_name(activation));
            return no(format!("no kernel takes `{}` in {found} beside {beside}", codes.name));
        }
        match operand.weight {
            true => check_channels(graph, node, op, codes)?,
            false => codes.per_tensor().map(drop)?,
        }
    }
    if let Some(made) = behind.as_ref().filter(|b| b.codes.linear.dtype != activation) {
        let (made, read) = (dtype_name(made.codes.linear.dtype), dtype_name(activation));
        return no(format!("no kernel reads {read} and writes {made}"));
    }
    let bias = match OpRule::of(node).and_then(|r| r.bias).and_then(|slot| node.input_at(slot)) {
        Some(name) => Some(bias(graph, node, name, op, &codes)?),
        None => None,
    };

    let mut inputs: Vec<Input> = node.input.iter().take(op.before).cloned().map(Input::Value).collect();
    let mut put = |slot: usize, input: Input| {
        while inputs.len() <= slot {
            inputs.push(Input::Value(String::new()));
        }
        inputs[slot] = input;
    };
    for (operand, codes) in operands.iter().zip(codes) {
        let zero = codes.zero();
        put(operand.codes, Input::Value(codes.name));
        operand.scale.into_iter().for_each(|slot| put(slot, Input::Value(codes.scale.clone())));
        if let Some(slot) = operand.zero {
            put(slot, zero?);
        }
    }
    if let (Some(slot), Some(bias)) = (op.bias, bias) {
        put(slot, bias);
    }
    let (mut gone, mut twins, mut output) = (Vec::new(), Vec::new(), node.output.clone());
    if let (Output::Codes(scale, zero), Some(made)) = (op.output, behind) {
        put(zero, made.codes.zero()?);
        put(scale, Input::Value(made.codes.scale));
        twins = made.twins.into_iter().map(|twin| (twin, made.codes.name.clone())).collect();
        (gone, output) = (made.gone, vec![made.codes.name]);
    }
    let made = NodeProto {
        name: node.name.clone(),
        op_type: Some(op.op.to_owned()),
        domain: op.is_foreign().then(|| MS.to_owned()),
        output,
        attribute: attributes(node, op, opset)?,
        doc_string: node.doc_string.clone(),
        ..Default::default()
    };
    Ok(Made { at: id, node: made, inputs, gone, twins })
}

impl Codes {
    /// The zero point, for an operator that must have it.
    fn zero(&self) -> Result<Input, Refusal> {
        if let Some(zero) = &self.zero {
            return Ok(Input::Value(zero.clone()));
        }
        let shape = if self.linear.scales.len() > 1 { vec![self.linear.scales.len()] } else { vec![] };
        let zeros = vec![0; self.linear.scales.len()];
        Ok(Input::Constant(format!("{}_zero_point", self.name), Tensor::new(self.linear.dtype, shape, zeros.into())?))
    }
}

/// A weight may have a scale for each output channel, and has one zero point.
fn check_channels(graph: &Graph, node: &NodeProto, op: &IntegerOp, weight: &Codes) -> Result<(), Refusal> {
    let (name, linear) = (&weight.name, &weight.linear);
    if linear.scales.len() == 1 {
        return Ok(());
    }
    let rank = rank(graph, name);
    let lies = rank.and_then(|rank| linear.params(rank).ok()?.axis());
    if lies.is_none() || lies != rank.and_then(|rank| op.channel_axis(node, rank)) {
        return no(format!("the {} scales of `{name}` are not those of output channels", linear.scales.len()));
    }
    match linear.zero_points.windows(2).all(|z| z[0] == z[1]) {
        true => Ok(()),
        false => no(format!("the channels of `{name}` have zero points of their own")),
    }
}

/// The bias in int32 at the scale of the sums, `alpha * x_scale * w_scale`, and zero point 0.
fn bias(graph: &Graph, node: &NodeProto, name: &str, op: &IntegerOp, codes: &[Codes]) -> Result<Input, Refusal> {
    let (Some(_), [x, w]) = (op.bias, codes) else { return no(format!("{} takes no bias", op.op)) };
    if node.float("beta").unwrap_or(1.0) != 1.0 {
        return no(format!("its bias is multiplied with {}", node.float("beta").unwrap_or(1.0)));
    }
    let factor = x.linear.scales[0] * node.float("alpha").unwrap_or(1.0);
    let scales: Vec<f32> = w.linear.scales.iter().map(|w| factor * w).collect();
    let (reals, base) = match dequantizer(graph, name) {
        Some(dequantize) => {
            let stored = dequantize.input_at(0).unwrap_or_default();
            let Some(codes) = graph.constant(stored)? else { return no(format!("its bias `{name}` is no constant")) };
            let linear = Linear::read(graph, dequantize)?;
            let exact = linear.scales.iter().zip(scales.iter().cycle()).all(|(a, b)| a == b)
                && (scales.len() == 1
                    || lies_last(&linear, codes.shape().len()) && linear.scales.len() == scales.len());
            if codes.dtype() == DataType::Int32 && exact && linear.zero_points.iter().all(|&z| z == 0) {
                return Ok(Input::Value(stored.to_owned()));
            }
            (linear.dequantize(&codes)?, stored)
        }
        None => match graph.constant(name)?.filter(Tensor::is_float) {
            Some(reals) => (reals, name),
            None => return no(format!("its bias `{name}` is no constant")),
        },
    };
    if scales.len() > 1 && reals.shape().last() != Some(&scales.len()) {
        return no(format!("its bias `{name}` does not hold one number a channel"));
    }
    let code = |(x, scale): (&f32, &f32)| (f64::from(*x) / f64::from(*scale)).round_ties_even();
    let sums: Vec<f64> = reals.f32s()?.iter().zip(scales.iter().cycle()).map(code).collect();
    if !sums.iter().all(|s| (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(s)) {
        return no(format!("its bias `{name}` is too large for int32 at the scale of the sums"));
    }
    let bytes: Vec<u8> = sums.iter().flat_map(|&s| (s as i32).to_le_bytes()).collect();
    Ok(Input::Constant(format!("{base}_int32"), Tensor::new(DataType::Int32, reals.shape().to_vec(), bytes.into())?))
}

/// Whether the scales lie along the last axis.
fn lies_last(linear: &Linear, rank: usize) -> bool {
    linear.params(rank).is_ok_and(|p| p.axis().is_some_and(|axis| axis + 1 == rank))
}

/// The attributes of the operator on codes.
fn attributes(node: &NodeProto, op: &IntegerOp, opset: i64) -> Result<Vec<AttributeProto>, Refusal> {
    let mut attributes = node.attribute.clone();
    let mut without = |name: &str| attributes.retain(|a| a.name() != name);
    match op.op {
        "QGemm" => without("beta"),
        "QLinearMatMul" => attributes.clear(),
        "QLinearAveragePool" => {
            if node.ints("dilations").is_some_and(|d| d.iter().any(|&d| d != 1)) {
                return no("QLinearAveragePool has no dilations");
            }
            without("dilations");
        }
        // It is asked which Softmax is meant: that over one axis, or the older one over all axes from this one on.
        "QLinearSoftmax" => {
            without("axis");
            let axis = node.int("axis").unwrap_or(if opset < 13 { 1 } else { -1 });
            attributes.extend([attribute::int("axis", axis), attribute::int("opset", opset)]);
        }
        _ => {}
    }
    Ok(attributes)
}
