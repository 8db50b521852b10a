//! Operators on codes become float operators between DequantizeLinear and QuantizeLinear.

use std::collections::HashMap;

use super::dynamic::quantize_by_own_range;
use super::form::{self, Form, Input, Params};
use super::lift::{drop_unread, lift};
use super::outcome::Outcome;
use super::rows::lift_rows;
use super::source::{Source, source};
use super::table::{IntegerOp, Style, computes_on_codes};
use super::wrap::wrap;
use crate::error::{Place, Refusal, Result};
use crate::model::{At, AttributeProto, Graph, Linear, Model, NodeExt, NodeId, NodeProto, Tensor, attribute};

/// Rewrites every node of the graph that computes on codes; subgraphs stay.
///
/// ```text
/// before: y = QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b)
/// after:  y = QuantizeLinear(Conv(DequantizeLinear(x, ..), DequantizeLinear(w, ..), DequantizeLinear(b, ..)), ..)
/// ```
///
/// The bias is int32 at the scale `x_scale * w_scale`. Codes keep their names, so what is not rewritten goes on reading
/// them. DynamicQuantizeMatMul gets the DynamicQuantizeLinear that it stands for; the weight of MatMulNBits becomes a
/// float constant; and where operators only move codes, DequantizeLinear moves ahead of them.
///
/// Results are the same up to the order of float rounding. Returns how many nodes were rewritten; `left` is told of
/// every other one, and why. Errors when a constant is broken, and name node and tensor.
pub fn expand(model: &mut Model, left: &mut dyn FnMut(&Graph, NodeId, String)) -> Result<usize> {
    let opset = model.opset();
    let graph = &mut model.graph;
    let mut emitter = Emitter::default();
    let mut count = 0;
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| computes_on_codes(n) || IntegerOp::of(n).is_some()) else {
            continue;
        };
        let op = IntegerOp::of(node);
        match emitter.rewrite(graph, id, op, opset)? {
            None => count += 1,
            Some(reason) => left(graph, id, reason),
        }
    }
    lift(graph).and_then(|()| lift_rows(graph)).at(|| "moving DequantizeLinear ahead".to_owned())?;
    graph.drop_unused_initializers();
    Ok(count)
}

/// Rewrites the operators on codes of the graph that have constant parameters, as [`expand`] does, and lets what moves codes
/// move floats, between a DequantizeLinear and a QuantizeLinear of its own: afterwards the graph is in the form that
/// [`fold`](super::fold()) reads.
///
/// ```text
/// before: m = MaxPool(QLinearConv(x, ..))
/// after:  m = QuantizeLinear(MaxPool(DequantizeLinear(QuantizeLinear(Conv(DequantizeLinear(x, ..), ..)))))
/// ```
///
/// Weight-only operators, and operators whose activations are quantized by their own range, stay: they have no form in
/// between. `tell` hears of every operator on codes, and of what moves them. Returns how many nodes were rewritten. Errors as
/// [`expand`].
pub fn unfold(model: &mut Model, tell: &mut dyn FnMut(Outcome)) -> Result<usize> {
    let opset = model.opset();
    let graph = &mut model.graph;
    let mut emitter = Emitter::default();
    let mut count = 0;
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| computes_on_codes(n) || IntegerOp::of(n).is_some()) else {
            continue;
        };
        let (label, operator, op) = (graph.label(id), node.operator(), IntegerOp::of(node));
        let stays = match op.and_then(|op| not_static(graph, node, op)) {
            Some(reason) => Some(reason.to_owned()),
            None => emitter.rewrite(graph, id, op, opset)?,
        };
        count += usize::from(stays.is_none());
        let float = op.and_then(|op| op.float).unwrap_or_default().to_owned();
        tell(Outcome { node: label, operator, became: stays.map_or(Ok(float), Err) });
    }
    count += wrap(graph, tell)?;
    graph.drop_unused_initializers();
    Ok(count)
}

/// Why an operator on codes has no form with constant parameters.
fn not_static(graph: &Graph, node: &NodeProto, op: &IntegerOp) -> Option<&'static str> {
    let activation = op.operands(node).into_iter().find(|o| !o.weight).and_then(|o| node.input_at(o.codes));
    match op.style {
        Style::WeightOnly => Some("its weight alone is codes"),
        Style::Dynamic => Some(OWN_RANGE),
        _ if activation.is_some_and(|codes| matches!(source(graph, codes), Source::Dynamic(_))) => Some(OWN_RANGE),
        _ => None,
    }
}

const OWN_RANGE: &str = "what it reads is quantized by the range that it has in each run";

/// What was put into the graph already, to be shared.
#[derive(Default)]
struct Emitter {
    /// What codes with these parameters stand for: codes, scale, zero point and axis.
    real: HashMap<(String, String, String, Option<usize>), String>,
    /// Constants that were brought into form, by the name of the old one and their bytes and rank.
    formed: HashMap<(String, Vec<u8>, usize), String>,
    /// Float values that are quantized by their own range: codes, scale and zero point.
    dynamic: HashMap<String, [String; 3]>,
}

impl Emitter {
    /// Rewrites a node; the reason where it has to stay. Errors name the node.
    fn rewrite(&mut self, graph: &mut Graph, id: NodeId, op: Option<&IntegerOp>, opset: i64) -> Result<Option<String>> {
        let (label, Some(node)) = (graph.label(id), graph.node(id)) else { return Ok(None) };
        let form = match op {
            Some(op) => form::read(graph, id, node, op, opset),
            None => crate::error::no("what its inputs mean is not known"),
        };
        match form.and_then(|form| Ok(self.write(graph, id, form)?)) {
            Ok(()) => Ok(None),
            Err(Refusal::Skip(reason)) => Ok(Some(reason)),
            Err(Refusal::Fail(e)) => Err(e.at(label)),
        }
    }

    fn write(&mut self, graph: &mut Graph, id: NodeId, form: Form) -> Result<()> {
        let at = form.at;
        let mut input = Vec::with_capacity(form.inputs.len());
        for from in form.inputs {
            input.push(match from {
                Input::Value(name) => name,
                Input::Constant(base, value) => graph.add_constant(&base, &value),
                Input::Codes(codes, params) => self.dequantized(graph, at, &codes, params)?,
                Input::Dynamic(value) => self.by_own_range(graph, at, &value)?,
            });
        }
        while input.last().is_some_and(String::is_empty) {
            input.pop();
        }
        let name = graph.node(id).and_then(|n| n.name.clone());
        let result = graph.node(at).and_then(|n| n.output.first().cloned()).unwrap_or_default();
        for gone in form.gone {
            graph.remove(gone);
        }
        // What the float operator makes goes through at most three nodes more; the last one makes the result.
        let float = form.output.as_ref().map(|_| match plain(&result) {
            Some(name) => graph.fresh_name(name),
            None => graph.fresh_name(&format!("{result}_float")),
        });
        let sum = float.clone().unwrap_or_else(|| result.clone());
        let product = form.plus.as_ref().map(|_| graph.fresh_name(&format!("{result}_product")));
        let shaped = product.clone().unwrap_or_else(|| sum.clone());
        let flat = form.flattened.map(|_| graph.fresh_name(&format!("{result}_flat")));
        let mut behind = Vec::new();
        if let (Some(axis), Some(flat), Some(x)) = (form.flattened, &flat, input.first_mut()) {
            let shape = node_before(graph, at, "Shape", x, vec![])?;
            *x = node_before(graph, at, "Flatten", x, vec![attribute::int("axis", axis)])?;
            behind.push(("Reshape", [flat.clone(), shape], shaped.clone()));
        }
        if let (Some(product), Some(plus)) = (product, form.plus) {
            behind.push(("Add", [product, plus], sum));
        }
        let node = NodeProto {
            name: name.clone(),
            op_type: Some(form.op.to_owned()),
            input,
            output: vec![flat.unwrap_or(shaped)],
            attribute: form.attributes,
            ..Default::default()
        };
        graph.edit(at, |n| *n = node)?;
        for spare in form.spare {
            drop_unread(graph, spare);
        }
        let mut last = at;
        for (op, input, output) in behind {
            let node = NodeProto {
                name: Some(graph.fresh_name(&format!("{}_{op}", name.as_deref().unwrap_or(&result)))),
                op_type: Some(op.to_owned()),
                input: input.to_vec(),
                output: vec![output],
                ..Default::default()
            };
            last = graph.insert(At::After(last), node)?;
        }
        if let (Some(float), Some(params)) = (float, form.output) {
            let (scale, zero, axis) = self.names(graph, &result, params);
            let q = linear(graph, "QuantizeLinear", &result, [&float, &scale, &zero], &result, axis);
            graph.insert(At::After(last), q)?;
        }
        Ok(())
    }

    /// The value that codes stand for: a DequantizeLinear before the node, unless there is one already.
    fn dequantized(&mut self, graph: &mut Graph, at: NodeId, codes: &str, params: Params) -> Result<String> {
        let (scale, zero, axis) = self.names(graph, codes, params);
        let key = (codes.to_owned(), scale, zero, axis);
        if let Some(real) = self.real.get(&key) {
            return Ok(real.clone());
        }
        let real = match plain(codes) {
            Some(name) => graph.fresh_name(name),
            None => graph.fresh_name(&format!("{codes}_dequantized")),
        };
        let node = linear(graph, "DequantizeLinear", codes, [codes, &key.1, &key.2], &real, axis);
        graph.insert(At::Before(at), node)?;
        self.real.insert(key, real.clone());
        Ok(real)
    }

    /// The value, quantized by the range it has in each run and back.
    fn by_own_range(&mut self, graph: &mut Graph, at: NodeId, value: &str) -> Result<String> {
        let [codes, scale, zero] = match self.dynamic.get(value) {
            Some(names) => names.clone(),
            None => {
                let names = quantize_by_own_range(graph, at, value)?;
                self.dynamic.insert(value.to_owned(), names.clone());
                names
            }
        };
        self.dequantized(graph, at, &codes, Params::Computed(scale, zero))
    }

    /// The names of scale and zero point, and their axis.
    fn names(&mut self, graph: &mut Graph, base: &str, params: Params) -> (String, String, Option<usize>) {
        let (scale, zero, axis, names) = match params {
            Params::Computed(scale, zero) => return (scale, zero, None),
            Params::Constant { scale, zero, axis, names } => (scale, zero, axis, names),
        };
        let mut name = |known: Option<String>, end: &str, value: &Tensor| match known {
            Some(known) => known,
            None => {
                let key = (format!("{base}_{end}"), value.bytes().to_vec(), value.shape().len());
                self.formed.entry(key).or_insert_with_key(|k| graph.add_constant(&k.0, value)).clone()
            }
        };
        (name(names.0, "scale", &scale), name(names.1, "zero_point", &zero), axis)
    }
}

/// Puts a node in front of another, and returns the name of what it makes.
fn node_before(graph: &mut Graph, at: NodeId, op: &str, x: &str, attribute: Vec<AttributeProto>) -> Result<String> {
    let made = graph.fresh_name(&format!("{x}_{}", op.to_lowercase()));
    let node = NodeProto {
        name: Some(graph.fresh_name(&format!("{x}_{op}"))),
        op_type: Some(op.to_owned()),
        input: vec![x.to_owned()],
        output: vec![made.clone()],
        attribute,
        ..Default::default()
    };
    graph.insert(At::Before(at), node)?;
    Ok(made)
}

/// What a value was called before it was quantized, where its name tells: `conv1_quantized`.
fn plain(codes: &str) -> Option<&str> {
    codes.strip_suffix("_quantized").filter(|name| !name.is_empty())
}

/// A QuantizeLinear or DequantizeLinear, named after `base`.
fn linear(graph: &mut Graph, op: &str, base: &str, input: [&str; 3], output: &str, axis: Option<usize>) -> NodeProto {
    debug_assert!(input.iter().all(|i| !i.is_empty()));
    let node = NodeProto {
        name: Some(graph.fresh_name(&format!("{base}_{op}"))),
        op_type: Some(op.to_owned()),
        input: input.map(str::to_owned).to_vec(),
        output: vec![output.to_owned()],
        attribute: axis.map(|a| attribute::int("axis", a as i64)).into_iter().collect(),
        ..Default::default()
    };
    debug_assert!(Linear::quantizes(&node) || Linear::dequantizes(&node));
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, TensorProto};
    use crate::pass::sketch::{floats, graph, lines, model, node};

    fn ms(op: &str, inputs: &str, output: &str, attributes: &[AttributeProto]) -> NodeProto {
        NodeProto { domain: Some("com.microsoft".into()), ..node(op, inputs, output, attributes) }
    }

    fn codes(name: &str, dtype: DataType, shape: &[usize]) -> TensorProto {
        let width = crate::model::width(dtype).unwrap();
        let bytes = vec![1; shape.iter().product::<usize>() * width];
        Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
    }

    fn constants() -> Vec<TensorProto> {
        vec![
            floats("s", &[], &[0.5]),
            floats("one", &[1], &[0.25]),
            floats("two", &[2], &[0.5, 0.25]),
            floats("column", &[1, 2], &[0.5, 0.25]),
            floats("row", &[2, 1, 1], &[0.5, 0.25]),
            floats("three", &[3], &[1.0; 3]),
            floats("none", &[0], &[]),
            floats("zero", &[], &[0.0]),
            floats("f", &[2], &[1.0, 2.0]),
            codes("z", DataType::Uint8, &[]),
            codes("i", DataType::Int8, &[]),
            codes("ii", DataType::Int8, &[2]),
            codes("w", DataType::Int8, &[2, 3, 1, 1]),
            codes("m", DataType::Int8, &[3, 2]),
            codes("b", DataType::Int32, &[2]),
        ]
    }

    /// The nodes after rewriting, and what was left. Codes `x` and floats `v`, and whatever else is named, are inputs.
    fn expanded(opset: i64, nodes: Vec<NodeProto>) -> (Model, Vec<String>) {
        let last = nodes.last().unwrap().output[0].clone();
        let mut m = model(opset, graph("x v", nodes, constants(), &last));
        let mut left = Vec::new();
        expand(&mut m, &mut |_, _, reason| left.push(reason)).unwrap();
        m.graph.check().unwrap();
        (m, left)
    }

    fn becomes(opset: i64, nodes: Vec<NodeProto>, want: &[&str]) -> Model {
        let (m, left) = expanded(opset, nodes);
        assert_eq!((lines(&m.graph.to_proto()), left), (want.iter().map(|s| s.to_string()).collect(), vec![]));
        m
    }

    #[test]
    fn a_convolution_gets_a_bias_at_the_scale_of_its_sums() {
        let conv = node("QLinearConv", "x one z w two i s z b", "y", &[attribute::ints("pads", &[1, 1])]);
        let m = becomes(
            13,
            vec![conv],
            &[
                "x_dequantized = DequantizeLinear(x, x_scale, z)",
                "w_dequantized = DequantizeLinear(w, two, w_zero_point) axis=0",
                "b_dequantized = DequantizeLinear(b, b_scale, b_zero_point) axis=0",
                "y_float = Conv(x_dequantized, w_dequantized, b_dequantized) pads=[1, 1]",
                "y = QuantizeLinear(y_float, s, z)",
            ],
        );
        let constant = |name: &str| m.graph.constant(name).unwrap().unwrap();
        assert_eq!((constant("x_scale").shape(), constant("x_scale").f32s().unwrap()[0]), (&[][..], 0.25));
        assert_eq!(constant("b_scale").f32s().unwrap()[..], [0.125, 0.0625]);
        assert_eq!(
            (constant("w_zero_point").dtype(), constant("w_zero_point").bytes()[..].to_vec()),
            (DataType::Int8, vec![1, 1])
        );
    }

    #[test]
    fn operators_of_onnxruntime_become_those_of_onnx() {
        let d = "x_dequantized = DequantizeLinear(x, s, z)";
        let q = "y = QuantizeLinear(y_float, s, z)";
        becomes(
            13,
            vec![ms("QLinearAdd", "x s z x s z s z", "y", &[])],
            &[d, "y_float = Add(x_dequantized, x_dequantized)", q],
        );
        let leaky = ms("QLinearLeakyRelu", "x s z s z", "y", &[attribute::float("alpha", 0.1)]);
        becomes(13, vec![leaky], &[d, "y_float = LeakyRelu(x_dequantized) alpha=0.1", q]);
        let concat = ms("QLinearConcat", "s z x s z x s z", "y", &[attribute::int("axis", 1)]);
        becomes(13, vec![concat], &[d, "y_float = Concat(x_dequantized, x_dequantized) axis=1", q]);
        becomes(
            13,
            vec![ms("QLinearWhere", "v x s z x s z s z", "y", &[])],
            &[d, "y_float = Where(v, x_dequantized, x_dequantized)", q],
        );
        let mean =
            ms("QLinearReduceMean", "x s z s z", "y", &[attribute::ints("axes", &[2]), attribute::int("keepdims", 0)]);
        becomes(13, vec![mean.clone()], &[d, "y_float = ReduceMean(x_dequantized) axes=[2] keepdims=0", q]);
        becomes(18, vec![mean], &[d, "y_float = ReduceMean(x_dequantized, [2]) keepdims=0", q]);
        let softmax = |axis, opset| {
            ms("QLinearSoftmax", "x s z s z", "y", &[attribute::int("axis", axis), attribute::int("opset", opset)])
        };
        becomes(13, vec![softmax(1, 13)], &[d, "y_float = Softmax(x_dequantized) axis=1", q]);
        becomes(13, vec![softmax(-1, 11)], &[d, "y_float = Softmax(x_dequantized) axis=-1", q]);
        becomes(
            13,
            vec![softmax(1, 11)],
            &[
                d,
                "x_dequantized_shape = Shape(x_dequantized)",
                "x_dequantized_flatten = Flatten(x_dequantized) axis=1",
                "y_flat = Softmax(x_dequantized_flatten) axis=-1",
                "y_float = Reshape(y_flat, x_dequantized_shape)",
                q,
            ],
        );
        becomes(11, vec![softmax(1, 11)], &[d, "y_float = Softmax(x_dequantized) axis=1", q]);
        assert_eq!(expanded(11, vec![softmax(1, 13)]).1, ["it is the Softmax of opset 13, which opset 11 has not"]);
        let gemm = |inputs: &str| ms("QGemm", inputs, "y", &[attribute::float("alpha", 2.0)]);
        let w = "m_dequantized = DequantizeLinear(m, two, m_zero_point) axis=1";
        let m = becomes(
            13,
            vec![gemm("x s z m two i b")],
            &[
                d,
                w,
                "b_dequantized = DequantizeLinear(b, b_scale, b_zero_point) axis=0",
                "y = Gemm(x_dequantized, m_dequantized, b_dequantized) alpha=2",
            ],
        );
        assert_eq!(m.graph.constant("b_scale").unwrap().unwrap().f32s().unwrap()[..], [0.5, 0.25]);
        becomes(
            13,
            vec![gemm("x s z m two i _ s z")],
            &[d, w, "y_float = Gemm(x_dequantized, m_dequantized) alpha=2", q],
        );
    }

    #[test]
    fn names_that_were_quantized_are_named_as_before() {
        let nodes = vec![
            node("QuantizeLinear", "v s z", "p_quantized", &[]),
            ms("QLinearSigmoid", "p_quantized s z s z", "q_quantized", &[]),
            node("DequantizeLinear", "q_quantized s z", "y", &[]),
        ];
        becomes(
            13,
            nodes,
            &[
                "p_quantized = QuantizeLinear(v, s, z)",
                "p = DequantizeLinear(p_quantized, s, z)",
                "q = Sigmoid(p)",
                "q_quantized = QuantizeLinear(q, s, z)",
                "y = DequantizeLinear(q_quantized, s, z)",
            ],
        );
    }

    #[test]
    fn the_type_of_codes_without_a_zero_point_is_that_of_what_makes_them() {
        let nodes = vec![
            node("QuantizeLinear", "v s i", "q", &[]),
            node("Reshape", "q _", "r", &[]),
            ms("QLinearMul", "r s _ r s _ s _", "y", &[]),
        ];
        let (m, left) = expanded(13, nodes);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(m.graph.stated_dtype("y_zero_point"), Some(DataType::Int8));
        let (_, left) = expanded(13, vec![ms("QLinearMul", "x s _ x s _ s _", "y", &[])]);
        assert_eq!(left, ["the element type of `x` is not known"]);
    }

    #[test]
    fn sums_and_their_scaling_become_one_product() {
        let dynamic = node("DynamicQuantizeLinear", "v", "a as az", &[]);
        let cast = node("Cast", "t", "c", &[attribute::int("to", DataType::Float as i64)]);
        let (scale, scaled) = (node("Mul", "as two", "k", &[]), node("Mul", "c k", "y", &[]));
        let sums = node("MatMulInteger", "a m az ii", "t", &[]);
        let want = [
            "a, as, az = DynamicQuantizeLinear(v)",
            "a_dequantized = DequantizeLinear(a, as, az)",
            "m_dequantized = DequantizeLinear(m, m_scale, ii) axis=1",
            "y = MatMul(a_dequantized, m_dequantized)",
        ];
        // Twice: in the form of onnxruntime, and with the factors the other way round.
        let parts = vec![dynamic.clone(), sums.clone(), cast.clone(), scale, scaled];
        let want: Vec<String> = want.iter().map(|s| s.replace("ii", "m_zero_point")).collect();
        becomes(13, parts, &want.iter().map(String::as_str).collect::<Vec<_>>());
        let parts = vec![
            dynamic.clone(),
            sums.clone(),
            cast.clone(),
            node("Mul", "column as", "k", &[]),
            node("Mul", "k c", "y", &[]),
        ];
        becomes(13, parts, &want.iter().map(String::as_str).collect::<Vec<_>>());
        // A constant product, of which the scale of the activations is taken out again.
        let parts = vec![
            node("QuantizeLinear", "v s z", "a", &[]),
            node("MatMulInteger", "a m z i", "t", &[]),
            cast.clone(),
            node("Mul", "c two", "y", &[]),
        ];
        let (m, left) = expanded(13, parts);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(m.graph.constant("m_scale").unwrap().unwrap().f32s().unwrap()[..], [1.0, 0.5]);
        // A convolution has its channels in front of two other axes.
        let conv = |factor: &str| {
            vec![
                dynamic.clone(),
                node("ConvInteger", "a w az", "t", &[]),
                cast.clone(),
                node("Mul", &format!("as {factor}"), "k", &[]),
                node("Mul", "c k", "y", &[]),
            ]
        };
        assert!(
            lines(&expanded(13, conv("row")).0.graph.to_proto())
                .contains(&"y = Conv(a_dequantized, w_dequantized)".to_owned())
        );
        assert_eq!(expanded(13, conv("two")).1, ["its sums are multiplied with numbers that are not one a channel"]);
        let read_twice = vec![dynamic.clone(), sums.clone(), cast, node("Foo", "t c", "y", &[])];
        assert_eq!(expanded(13, read_twice).1, ["its sums do not go through one Cast and one Mul with the scales"]);
        assert_eq!(expanded(13, vec![dynamic, sums]).1.len(), 1);
    }

    #[test]
    fn fused_dynamic_products_are_taken_apart() {
        becomes(
            13,
            vec![ms("DynamicQuantizeMatMul", "v m two ii f", "y", &[])],
            &[
                "v_quantized, v_scale, v_zero_point = DynamicQuantizeLinear(v)",
                "v_2 = DequantizeLinear(v_quantized, v_scale, v_zero_point)",
                "m_dequantized = DequantizeLinear(m, two, ii) axis=1",
                "y_product = MatMul(v_2, m_dequantized)",
                "y = Add(y_product, f)",
            ],
        );
        let parts = vec![
            node("DynamicQuantizeLinear", "v", "a as az", &[]),
            ms("MatMulIntegerToFloat", "a m as two az ii", "y", &[]),
        ];
        becomes(
            13,
            parts,
            &[
                "a, as, az = DynamicQuantizeLinear(v)",
                "a_dequantized = DequantizeLinear(a, as, az)",
                "m_dequantized = DequantizeLinear(m, two, ii) axis=1",
                "y = MatMul(a_dequantized, m_dequantized)",
            ],
        );
    }

    #[test]
    fn what_has_no_float_form_stays_and_says_why() {
        let channels_last = [attribute::int("channels_last", 1)];
        let cases = [
            (ms("QLinearConv", "x s z w s i s z", "y", &channels_last), "its channels are last"),
            (ms("QLinearGlobalAveragePool", "x s z s z", "y", &channels_last), "its channels are last"),
            (ms("QAttention", "x w f s s", "y", &[]), "no single operator"),
            (ms("QLinearThing", "x s z", "y", &[]), "what its inputs mean is not known"),
            (ms("QLinearSigmoid", "x v z s z", "y", &[]), "the scale `v` of `x` is not a constant"),
            (ms("QLinearSigmoid", "x s v s z", "y", &[]), "the zero point `v` of `x` is not a constant"),
            (ms("QLinearSigmoid", "x zero z s z", "y", &[]), "scale 0 is not a positive finite number"),
            (ms("QLinearSigmoid", "x none z s z", "y", &[]), "differ in size"),
            (ms("QLinearSigmoid", "x two z s z", "y", &[]), "has 2 scales"),
            (ms("QLinearSigmoid", "x i z s z", "y", &[]), "the scale of `x` is int8"),
            (ms("QLinearSigmoid", "x s f s z", "y", &[]), "which is no format of codes"),
            (ms("QLinearSigmoid", "x s z two z", "y", &[]), "has 2 scales"),
            (ms("QLinearSigmoid", "x", "y", &[]), "`x` has no scale"),
            (ms("QLinearAdd", "x s z", "y", &[]), "one of its inputs is missing"),
            (ms("QLinearConcat", "s z x s z x", "y", &[]), "`x` has no scale"),
            (node("QLinearConv", "x s z w three i s z", "y", &[]), "`w` has 3 scales, which do not fit its channels"),
            (node("QLinearConv", "x s z v two ii s z", "y", &[]), "`v` has 2 scales"),
            (node("QLinearConv", "x s z w two ii s z m", "y", &[]), "its bias `m` is not int32"),
        ];
        for (node, why) in cases {
            let (m, left) = expanded(13, vec![node.clone()]);
            assert!(left.len() == 1 && left[0].contains(why), "{}: {left:?}", node.op_type());
            assert_eq!(m.graph.nodes().count(), 1, "{}", node.op_type());
        }
    }

    #[test]
    fn a_broken_constant_is_named() {
        let mut short = floats("s", &[1], &[1.0]);
        short.dims = vec![2];
        let mut m = model(
            13,
            graph(
                "x",
                vec![ms("QLinearSigmoid", "x s z s z", "y", &[])],
                vec![short, codes("z", DataType::Uint8, &[])],
                "y",
            ),
        );
        let e = expand(&mut m, &mut |_, _, _| {}).unwrap_err().to_string();
        assert!(e.starts_with("node of `y` (com.microsoft.QLinearSigmoid): tensor `s`: "), "{e}");
    }
}
