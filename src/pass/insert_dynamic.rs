//! Nodes behind codes of weights compute in integers, by the range that their input has in each run.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::integer::quantize_by_own_range;
use crate::model::{At, AttributeProto, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, attribute};
use crate::plan::{Plan, Verdict};

/// Puts MatMulInteger and ConvInteger in the place of the nodes that the plan calls dynamic, whose weights
/// [`Insert`](super::Insert) has stored as codes.
///
/// - **Does**: quantizes what they read with one DynamicQuantizeLinear a value, whatever the number of its readers;
///   multiplies the integer sums by the scale of the value times those of the weight; adds a bias in float. Gemm
///   becomes MatMul first: its `alpha` and `beta` become products, `transB`, and a Transpose before MatMul, turns the codes of the weight, `transA`
///   those of the value. Codes that others read too are turned in the graph, so that they are stored once. Padding of ConvInteger is with the zero point, which stands for 0.
/// - **Skips when** the plan says otherwise.
///
/// ```text
/// before: y = MatMul(x, DequantizeLinear(w, w_scale))
/// after:  q, x_scale, x_zero = DynamicQuantizeLinear(x), sums = MatMulInteger(q, w, x_zero),
///         y = Mul(Cast(sums), Mul(x_scale, w_scale))
/// ```
///
/// - **Source**: ai.onnx DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10, Gemm-13; the form that onnxruntime
///   fuses to DynamicQuantizeMatMul and MatMulIntegerToFloat (core/optimizer/matmul_integer_to_float.cc).
pub(super) fn insert_dynamic(graph: &mut Graph, plan: &Plan) -> Result<()> {
    let mut quantized = HashMap::new();
    for decision in plan.nodes.iter().filter(|d| d.verdict == Verdict::Dynamic) {
        let label = graph.label(decision.node);
        Rewrite::of(graph, decision.node).and_then(|r| r.write(graph, &mut quantized)).at(|| label)?;
    }
    Ok(())
}

/// A node whose weight comes out of DequantizeLinear.
struct Rewrite {
    id: NodeId,
    node: NodeProto,
    dequantize: NodeId,
    /// The Transpose between that and the node.
    turn: Option<NodeId>,
    codes: String,
    scale: String,
    /// The zero point, where it is not 0.
    zero: Option<String>,
}

impl Rewrite {
    fn of(graph: &Graph, id: NodeId) -> Result<Rewrite> {
        let missing = || Error::new(ErrorKind::InvalidModel, "its weight is not behind DequantizeLinear");
        let node = graph.node(id).ok_or_else(missing)?.clone();
        let (mut dequantize, _) = node.input_at(1).and_then(|w| graph.producer(w)).ok_or_else(missing)?;
        let turn = graph.node(dequantize).filter(|n| n.is("Transpose")).map(|n| (dequantize, n.input_at(0)));
        if let Some((_, weight)) = turn {
            (dequantize, _) = weight.and_then(|w| graph.producer(w)).ok_or_else(missing)?;
        }
        let turn = turn.map(|(id, _)| id);
        let linear = graph.node(dequantize).filter(|n| Linear::dequantizes(n)).ok_or_else(missing)?;
        let (codes, scale) = linear.input_at(0).zip(linear.input_at(1)).ok_or_else(missing)?;
        let zero = match linear.input_at(2) {
            Some(name) if Linear::read(graph, linear)?.zero_points.iter().any(|&z| z != 0) => Some(name.to_owned()),
            _ => None,
        };
        Ok(Rewrite { id, dequantize, turn, codes: codes.to_owned(), scale: scale.to_owned(), zero, node })
    }

    /// Writes the node in integers; `quantized` holds what was quantized already.
    fn write(self, graph: &mut Graph, quantized: &mut HashMap<String, [String; 3]>) -> Result<()> {
        let missing = || Error::new(ErrorKind::InvalidModel, "an input or its output is missing");
        let (x, y) = self.node.input_at(0).zip(self.node.output_at(0)).ok_or_else(missing)?;
        let bias = self.node.input_at(2).filter(|_| !self.node.is("MatMul")).map(str::to_owned);
        let [mut x_codes, x_scale, x_zero] = match quantized.get(x) {
            Some(names) => names.clone(),
            None => {
                let names = quantize_by_own_range(graph, self.id, x)?;
                quantized.insert(x.to_owned(), names.clone());
                names
            }
        };
        let (op, attributes) = match self.node.is("Conv") {
            true => ("ConvInteger", self.node.attribute.clone()),
            false => ("MatMulInteger", vec![]),
        };
        let (mut codes, mut scale) = (self.codes.clone(), self.scale.clone());
        let gemm = self.node.is("Gemm");
        if gemm && self.node.int("transA").unwrap_or(0) != 0 {
            let turned = graph.fresh_name(&format!("{x_codes}_transposed"));
            let node = named(graph, "Transpose", y, &[&x_codes], &turned, vec![attribute::ints("perm", &[1, 0])]);
            graph.insert(At::Before(self.id), node)?;
            x_codes = turned;
        }
        if self.turn.is_some() || gemm && self.node.int("transB").unwrap_or(0) != 0 {
            let real = graph.node(self.dequantize).and_then(|n| n.output_at(0)).unwrap_or_default();
            let read = graph.uses(&codes).len() > 1 || graph.uses(real).len() > 1;
            codes = match read || graph.is_shared(&codes) {
                // Codes are stored once: others read them as they are.
                true => {
                    let turned = graph.fresh_name(&format!("{codes}_transposed"));
                    let node = named(graph, "Transpose", y, &[&codes], &turned, vec![attribute::ints("perm", &[1, 0])]);
                    graph.insert(At::Before(self.id), node)?;
                    turned
                }
                false => {
                    let turned = transposed(&graph.constant(&codes)?.ok_or_else(missing)?)?;
                    graph.add_constant_beside(&self.codes, &self.codes, &turned)
                }
            };
        }
        // A number a channel stands in axis 1 of what a convolution makes.
        let rank = graph.stated_rank(&self.codes).filter(|_| self.node.is("Conv"));
        let column = rank.map(|rank| [vec![1, -1], vec![1; rank.saturating_sub(2)]].concat());
        if let Some(column) = &column {
            scale = along(graph, y, &scale, column)?;
        }
        let mut inputs = vec![x_codes.as_str(), &codes, &x_zero];
        inputs.extend(self.zero.as_deref());
        let alpha = self.node.float("alpha").filter(|&a| gemm && a != 1.0);
        let beta = self.node.float("beta").filter(|&b| gemm && b != 1.0);
        let bias = bias.filter(|_| beta != Some(0.0));

        let sums = graph.fresh_name(&format!("{y}_sums"));
        let integer = NodeProto {
            op_type: Some(op.to_owned()),
            domain: None,
            input: inputs.into_iter().map(str::to_owned).collect(),
            output: vec![sums.clone()],
            attribute: attributes,
            ..self.node.clone()
        };
        graph.edit(self.id, |n| *n = integer)?;
        let mut chain = Chain { at: self.id, steps: Vec::new() };
        chain.push("Cast", vec![sums], vec![attribute::int("to", DataType::Float as i64)]);
        let scales = graph.fresh_name(&format!("{y}_scale"));
        let product = named(graph, "Mul", &scales, &[&x_scale, &scale], &scales, vec![]);
        chain.at = graph.insert(At::After(self.id), product)?;
        chain.push("Mul", vec![scales], vec![]);
        if let Some(alpha) = alpha {
            chain.push("Mul", vec![scalar(graph, y, "alpha", alpha)], vec![]);
        }
        if let Some(mut bias) = bias {
            if let Some(column) = &column {
                bias = along(graph, y, &bias, column)?;
            }
            if let Some(beta) = beta {
                bias = scaled(graph, self.id, y, &bias, beta)?;
            }
            chain.push("Add", vec![bias], vec![]);
        }
        chain.write(graph, y)?;
        for id in self.turn.into_iter() {
            let turned = graph.node(id).and_then(|n| n.output_at(0)).unwrap_or_default().to_owned();
            if graph.uses(&turned).is_empty() && !graph.is_pinned(&turned) {
                graph.remove(id);
            }
        }
        let real = graph.node(self.dequantize).and_then(|n| n.output_at(0)).unwrap_or_default().to_owned();
        if graph.uses(&real).is_empty() && !graph.is_pinned(&real) {
            graph.remove(self.dequantize);
        }
        Ok(())
    }
}

/// Nodes behind one another, each of which reads what the one before it made and, behind that, its own inputs.
struct Chain {
    at: NodeId,
    steps: Vec<(&'static str, Vec<String>, Vec<AttributeProto>)>,
}

impl Chain {
    fn push(&mut self, op: &'static str, inputs: Vec<String>, attributes: Vec<AttributeProto>) {
        self.steps.push((op, inputs, attributes));
    }

    /// Puts them behind the node; the last one makes `y`.
    fn write(self, graph: &mut Graph, y: &str) -> Result<()> {
        let count = self.steps.len();
        let mut at = self.at;
        let mut made = None;
        for (i, (op, inputs, attributes)) in self.steps.into_iter().enumerate() {
            let inputs: Vec<String> = made.into_iter().chain(inputs).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let output = match i + 1 == count {
                true => y.to_owned(),
                false => graph.fresh_name(&format!("{y}_{}", op.to_lowercase())),
            };
            let node = named(graph, op, y, &inputs, &output, attributes);
            at = graph.insert(At::After(at), node)?;
            made = Some(output);
        }
        Ok(())
    }
}

/// A node of ONNX's own domain, named after `base`.
fn named(
    graph: &mut Graph,
    op: &str,
    base: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        name: Some(graph.fresh_name(&format!("{base}_{op}"))),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

fn scalar(graph: &mut Graph, y: &str, end: &str, x: f32) -> String {
    graph.add_constant(&format!("{y}_{end}"), &Tensor::from_f32(vec![], vec![x]))
}

/// The matrix with its axes exchanged.
fn transposed(codes: &Tensor) -> Result<Tensor> {
    let (&[rows, columns], 1) = (codes.shape(), crate::model::width(codes.dtype()).unwrap_or(0)) else {
        return Err(Error::new(ErrorKind::InvalidModel, "its codes are no matrix of bytes"));
    };
    let from = codes.bytes();
    let bytes: Vec<u8> = (0..columns).flat_map(|c| (0..rows).map(move |r| from[r * columns + c])).collect();
    Tensor::new(codes.dtype(), vec![columns, rows], bytes.into())
}

/// A value that holds a number a channel, in the shape that lets it meet axis 1 of what a convolution makes. A single
/// number meets all of them.
fn along(graph: &mut Graph, y: &str, value: &str, shape: &[i64]) -> Result<String> {
    let Some(constant) = graph.constant(value)?.filter(|_| !graph.is_input(value)) else {
        let column = graph.add_constant(&format!("{y}_channels"), &Tensor::from_i64(vec![shape.len()], shape.to_vec()));
        let made = graph.fresh_name(&format!("{value}_channels"));
        let node = named(graph, "Reshape", value, &[value, &column], &made, vec![]);
        let at = graph.producer(value).map_or(At::Start, |(id, _)| At::After(id));
        graph.insert(at, node)?;
        return Ok(made);
    };
    if constant.shape().is_empty() {
        return Ok(value.to_owned());
    }
    let wanted = shape.iter().map(|&n| if n < 0 { constant.len() } else { 1 }).collect();
    let fits = constant.reshaped(wanted);
    let fits = fits.ok_or_else(|| Error::new(ErrorKind::InvalidModel, format!("`{value}` cannot be reshaped")))?;
    Ok(graph.add_constant_beside(value, value, &fits))
}

/// A value times a number.
fn scaled(graph: &mut Graph, before: NodeId, y: &str, value: &str, by: f32) -> Result<String> {
    if let Some(constant) = graph.constant(value)?.filter(|_| !graph.is_input(value)) {
        let x = constant.f32s()?.iter().map(|x| x * by).collect();
        return Ok(graph.add_constant_beside(value, value, &Tensor::from_f32(constant.shape().to_vec(), x)));
    }
    let factor = scalar(graph, y, "beta", by);
    let made = graph.fresh_name(&format!("{value}_scaled"));
    let node = named(graph, "Mul", value, &[value, &factor], &made, vec![]);
    graph.insert(At::Before(before), node)?;
    Ok(made)
}
