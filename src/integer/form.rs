//! What a node on codes is in floats.

use super::packed;
use super::source::{Source, code_type, rank, source};
use super::sums;
use super::table::{IntegerOp, Operand, Output};
use crate::error::{Refusal, no};
use crate::model::{
    AttributeProto, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, attribute, dtype_name, format_of,
};
use crate::number::pack;

/// A float operator and the values around it.
pub(super) struct Form {
    /// The float operator.
    pub op: &'static str,
    pub attributes: Vec<AttributeProto>,
    pub inputs: Vec<Input>,
    /// The axis from which on the operator takes all axes of its input as one.
    pub flattened: Option<i64>,
    /// A float value that is added to what comes out.
    pub plus: Option<String>,
    /// The parameters of the QuantizeLinear behind; `None` where floats come out.
    pub output: Option<Params>,
    /// The node that the float operator takes the place of.
    pub at: NodeId,
    /// Other nodes whose work it does.
    pub gone: Vec<NodeId>,
    /// Nodes that go too, if nothing else reads what they make.
    pub spare: Vec<NodeId>,
}

/// An input of the float operator.
pub(super) enum Input {
    /// This value as it is; an empty name is an input left out.
    Value(String),
    /// What these codes stand for.
    Codes(String, Params),
    /// This float value, quantized by its own range and back.
    Dynamic(String),
    /// A constant, named after another.
    Constant(String, Tensor),
}

/// Scale and zero point of codes.
pub(super) enum Params {
    /// Constants: of rank 0, or of rank 1 along the axis. The names are those of initializers that hold just these.
    Constant { scale: Tensor, zero: Tensor, axis: Option<usize>, names: (Option<String>, Option<String>) },
    /// What DynamicQuantizeLinear computes: the names of scale and zero point.
    Computed(String, String),
}

/// Reads a node; the reason where it has no float form.
pub(super) fn read(graph: &Graph, id: NodeId, node: &NodeProto, op: &IntegerOp, opset: i64) -> Result<Form, Refusal> {
    let Some(float) = op.float else { return no("no single operator on floats computes the same") };
    if node.output_at(0).is_none() {
        return no("it has no output");
    }
    if node.int("channels_last").unwrap_or(0) != 0 {
        return no("its channels are last");
    }
    if op.output == Output::Sums {
        return sums::read(graph, id, node, op);
    }
    if op.op == "MatMulNBits" {
        return packed::read(graph, id, node);
    }
    let before = node.input.iter().take(op.before).cloned();
    let dynamic = op.op == "DynamicQuantizeMatMul";
    let mut inputs: Vec<Input> = before.map(|n| if dynamic { Input::Dynamic(n) } else { Input::Value(n) }).collect();
    for operand in op.operands(node) {
        let Some(codes) = node.input_at(operand.codes) else { return no("one of its inputs is missing") };
        let axis = channels(graph, node, op, operand);
        inputs.push(Input::Codes(codes.to_owned(), at(graph, node, codes, operand, axis)?));
    }
    let bias = op.bias.and_then(|slot| node.input_at(slot));
    let mut plus = None;
    match (bias, op.output) {
        (Some(bias), Output::Codes(..)) => inputs.push(accumulator_bias(graph, node, bias, &inputs)?),
        (Some(bias), _) => plus = Some(bias.to_owned()),
        (None, _) => {}
    }
    let output = match op.output {
        Output::Codes(scale, zero) if node.input_at(scale).is_some() => {
            let (codes, scale) = (node.output_at(0).unwrap_or_default(), node.input_at(scale).unwrap_or_default());
            Some(params(graph, codes, scale, node.input_at(zero), None)?)
        }
        _ => None,
    };
    let mut form = Form {
        op: float,
        attributes: node.attribute.clone(),
        inputs,
        flattened: None,
        plus,
        output,
        at: id,
        gone: Vec::new(),
        spare: Vec::new(),
    };
    adapt(&mut form, graph, node, opset)?;
    Ok(form)
}

/// The axis of the scales of an operand, where it may have several.
fn channels(graph: &Graph, node: &NodeProto, op: &IntegerOp, operand: Operand) -> Option<usize> {
    let rank = operand.codes_of(node).and_then(|codes| rank(graph, codes)).filter(|_| operand.weight)?;
    op.channel_axis(node, rank)
}

impl Operand {
    fn codes_of(self, node: &NodeProto) -> Option<&str> {
        node.input_at(self.codes)
    }
}

/// The parameters of an operand.
fn at(graph: &Graph, node: &NodeProto, codes: &str, slots: Operand, axis: Option<usize>) -> Result<Params, Refusal> {
    let Some(scale) = slots.scale.and_then(|s| node.input_at(s)) else {
        return no(format!("`{codes}` has no scale"));
    };
    params(graph, codes, scale, slots.zero.and_then(|z| node.input_at(z)), axis)
}

/// The parameters of codes, from the values that hold them.
pub(super) fn params(
    graph: &Graph,
    codes: &str,
    scale: &str,
    zero: Option<&str>,
    axis: Option<usize>,
) -> Result<Params, Refusal> {
    let Some(scales) = constant(graph, scale)? else {
        if let Source::Dynamic(made) = source(graph, codes)
            && let Some(made) = graph.node(made)
            && (made.output_at(1), made.output_at(2)) == (Some(scale), zero)
        {
            return Ok(Params::Computed(scale.to_owned(), zero.unwrap_or_default().to_owned()));
        }
        return no(format!("the scale `{scale}` of `{codes}` is not a constant"));
    };
    let zeros = match zero {
        None => None,
        Some(name) => match constant(graph, name)? {
            None => return no(format!("the zero point `{name}` of `{codes}` is not a constant")),
            some => some,
        },
    };
    let names = (Some(scale.to_owned()), zero.map(str::to_owned));
    from_tensors(graph, codes, scales, zeros, axis, names)
}

fn constant(graph: &Graph, name: &str) -> Result<Option<Tensor>, Refusal> {
    if graph.is_input(name) {
        return Ok(None);
    }
    Ok(graph.constant(name)?)
}

/// As [`params`], from the numbers; names are those of initializers that hold them.
pub(super) fn from_tensors(
    graph: &Graph,
    codes: &str,
    scales: Tensor,
    zeros: Option<Tensor>,
    axis: Option<usize>,
    names: (Option<String>, Option<String>),
) -> Result<Params, Refusal> {
    let Some(dtype) = zeros.as_ref().map(Tensor::dtype).or_else(|| code_type(graph, codes)) else {
        return no(format!("the element type of `{codes}` is not known"));
    };
    let Some(format) = format_of(dtype) else {
        return no(format!("`{codes}` is {}, which is no format of codes", dtype_name(dtype)));
    };
    if !scales.is_float() {
        return no(format!("the scale of `{codes}` is {}", dtype_name(scales.dtype())));
    }
    let count = scales.len().max(zeros.as_ref().map_or(1, Tensor::len));
    let axis = axis.filter(|_| count > 1);
    let stated = graph.initializer(codes).and_then(|t| t.dims.get(axis?).copied());
    match (count, axis) {
        (1, _) => {}
        (_, Some(_)) if stated.is_none_or(|n| n == count as i64) => {}
        _ => return no(format!("`{codes}` has {count} scales, which do not fit its channels")),
    }
    let shape = if count > 1 { vec![count] } else { vec![] };
    let mut zero_points = zeros.as_ref().map_or(Ok(vec![0]), Tensor::codes)?;
    if let [zero] = zero_points[..] {
        zero_points = vec![zero; count];
    }
    let scale_bytes = match scales.len() {
        1 => scales.bytes().repeat(count).into(),
        _ => scales.bytes().clone(),
    };
    if zero_points.len() != count || (scales.len() != 1 && scales.len() != count) {
        return no(format!("scale and zero point of `{codes}` differ in size"));
    }
    let same = |old: Option<&Tensor>, name: Option<String>| name.filter(|_| old.is_some_and(|t| t.shape() == shape));
    let names = (same(Some(&scales), names.0), same(zeros.as_ref(), names.1));
    let scale = Tensor::new(scales.dtype(), shape.clone(), scale_bytes)?;
    let zero = Tensor::new(dtype, shape, pack(format, &zero_points).into())?;
    // What could not be dequantized is not worth a rewrite.
    let linear = Linear::of(dtype, &scale, Some(&zero), axis.unwrap_or(0) as i64, None)?;
    if let Err(e) = linear.params(axis.map_or(1, |a| a + 1)) {
        return no(format!("`{codes}`: {e}"));
    }
    Ok(Params::Constant { scale, zero, axis, names })
}

/// A bias in int32 whose scale is that of the sums: the input's times the weight's.
fn accumulator_bias(graph: &Graph, node: &NodeProto, bias: &str, inputs: &[Input]) -> Result<Input, Refusal> {
    let [Input::Codes(_, Params::Constant { scale: x, .. }), Input::Codes(_, Params::Constant { scale: w, .. })] =
        inputs
    else {
        return no(format!("the scale of its bias `{bias}` is not a constant"));
    };
    if graph.stated_dtype(bias).is_some_and(|dtype| dtype != DataType::Int32) {
        return no(format!("its bias `{bias}` is not int32"));
    }
    let x = x.f32s()?.first().copied().unwrap_or(1.0) * node.float("alpha").unwrap_or(1.0);
    let scales: Vec<f32> = w.f32s()?.iter().map(|w| x * w).collect();
    let axis = graph.stated_rank(bias).and_then(|rank| rank.checked_sub(1)).filter(|_| scales.len() > 1);
    let shape = if scales.len() > 1 { vec![scales.len()] } else { vec![] };
    let scale = Tensor::from_f32(shape, scales);
    let zero = Tensor::new(DataType::Int32, vec![], vec![0; 4].into())?;
    Ok(Input::Codes(bias.to_owned(), from_tensors(graph, bias, scale, Some(zero), axis, (None, None))?))
}

/// What differs between the attributes of the two operators.
fn adapt(form: &mut Form, graph: &Graph, node: &NodeProto, opset: i64) -> Result<(), Refusal> {
    form.attributes.retain(|a| a.name() != "channels_last");
    match node.op_type() {
        // Before opset 13 Softmax ran over its axis and all behind it, and the attribute says what is meant.
        "QLinearSoftmax" => {
            let meant = node.int("opset").unwrap_or(1);
            let axis = node.int("axis").unwrap_or(-1);
            let rank = node.input_at(0).and_then(|x| graph.stated_rank(x));
            let last = axis == -1 || rank.is_some_and(|r| axis == r as i64 - 1);
            form.flattened = (meant < 13 && opset >= 13 && !last).then_some(axis);
            if meant >= 13 && opset < 13 && !last {
                return no(format!("it is the Softmax of opset {meant}, which opset {opset} has not"));
            }
            form.attributes.retain(|a| a.name() != "opset" && a.name() != "axis");
            // Its default is the last axis, and that of Softmax before opset 13 is axis 1.
            form.attributes.push(attribute::int("axis", if form.flattened.is_some() { -1 } else { axis }));
        }
        "QLinearReduceMean" if opset >= 18 => {
            let axes = form.attributes.iter().find(|a| a.name() == "axes").map(|a| a.ints.clone());
            form.attributes.retain(|a| a.name() != "axes");
            if let (Some(axes), Some(output)) = (axes, node.output_at(0)) {
                let axes = Tensor::from_i64(vec![axes.len()], axes);
                form.inputs.push(Input::Constant(format!("{output}_axes"), axes));
            }
        }
        "QGemm" if opset < 11 && form.inputs.len() < 3 => return no("Gemm takes no bias only since opset 11"),
        _ => {}
    }
    Ok(())
}
