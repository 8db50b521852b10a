//! QuantizeLinear and DequantizeLinear that have no partner, as arithmetic.

use super::FAKE_QUANTIZE;
use super::unpack::held_as;
use crate::error::{Place, Result};
use crate::model::{
    At, AttributeProto, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, attribute, minifloat_of,
};
use crate::number::Format;

/// Writes such a node as operators that every engine has, one scale for all elements:
///
/// ```text
/// DequantizeLinear(q, scale, zero)  ->  Mul(Sub(Cast(q), zero), scale)
/// QuantizeLinear(x, scale, zero)    ->  Cast(Round(Add(Div(fake quantize(x), scale), zero)))
/// ```
///
/// The fake quantization in front rounds and cuts off as QuantizeLinear does; what is left to round after it is float
/// noise. Scale and zero point of a DequantizeLinear may be computed in the graph. Nodes with several scales, and
/// QuantizeLinear of integers or to 32 bits, stay. Errors as [`Linear::read`], and where codes are floats or in blocks.
pub(super) fn spell_out(graph: &mut Graph, id: NodeId) -> Result<()> {
    let Some(node) = graph.node(id) else { return Ok(()) };
    let (Some(x), Some(scale)) = (node.input_at(0).map(str::to_owned), node.input_at(1).map(str::to_owned)) else {
        return Ok(());
    };
    let zero = node.input_at(2).map(str::to_owned);
    let computed = graph.initializer(&scale).is_none();
    let mut steps = Steps { value: x.clone(), at: id, done: Vec::new() };
    if Linear::dequantizes(node) {
        let (scale, zero) = match computed {
            true => (scale, zero.map(|z| (z, true))),
            false => {
                let linear = Linear::read(graph, node)?;
                let ([s], [z]) = (&linear.scales[..], &linear.zero_points[..]) else { return Ok(()) };
                let (s, z) = (*s, *z);
                let scale = scalar(graph, &scale, s);
                (scale, if z == 0 { None } else { Some((scalar(graph, &format!("{x}_zero"), z as f32), false)) })
            }
        };
        steps.push(graph, "Cast", &[], &[attribute::int("to", DataType::Float as i64)]);
        if let Some((zero, cast)) = zero {
            let zero = match cast {
                true => steps.beside(graph, "Cast", &zero, &[attribute::int("to", DataType::Float as i64)]),
                false => zero,
            };
            steps.push(graph, "Sub", &[&zero], &[]);
        }
        steps.push(graph, "Mul", &[&scale], &[]);
    } else {
        if computed || graph.stated_dtype(&x) == Some(DataType::Int32) {
            return Ok(());
        }
        let linear = Linear::read(graph, node)?;
        let ([s], [z]) = (&linear.scales[..], &linear.zero_points[..]) else { return Ok(()) };
        let (s, z, dtype) = (*s, *z, linear.dtype);
        if matches!(dtype, DataType::Int32 | DataType::Uint32) {
            return Ok(());
        }
        // Codes that are floats are none to compute with.
        linear.format().at(|| graph.label(id))?;
        let fake = fake_quantize(&linear).at(|| graph.label(id))?;
        let (scale, zero) = (scalar(graph, &scale, s), scalar(graph, &format!("{x}_zero"), z as f32));
        steps.push(graph, FAKE_QUANTIZE, &[], &fake);
        steps.push(graph, "Div", &[&scale], &[]);
        steps.push(graph, "Add", &[&zero], &[]);
        steps.push(graph, "Round", &[], &[]);
        steps.push(graph, "Cast", &[], &[attribute::int("to", held_as(dtype) as i64)]);
    }
    steps.finish(graph)
}

fn scalar(graph: &mut Graph, base: &str, x: f32) -> String {
    graph.add_constant(base, &Tensor::from_f32(vec![], vec![x]))
}

/// Nodes in a row that take the place of one.
struct Steps {
    value: String,
    at: NodeId,
    done: Vec<NodeProto>,
}

impl Steps {
    fn node(graph: &mut Graph, op: &str, input: Vec<String>, attributes: &[AttributeProto]) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            output: vec![graph.fresh_name(&format!("{}_{}", input[0], op.to_lowercase()))],
            input,
            attribute: attributes.to_vec(),
            ..Default::default()
        }
    }

    /// The next step, on what the last one made.
    fn push(&mut self, graph: &mut Graph, op: &str, more: &[&str], attributes: &[AttributeProto]) {
        let input = std::iter::once(self.value.as_str()).chain(more.iter().copied()).map(str::to_owned).collect();
        let node = Self::node(graph, op, input, attributes);
        self.value = node.output[0].clone();
        self.done.push(node);
    }

    /// A step of its own; returns what it makes.
    fn beside(&mut self, graph: &mut Graph, op: &str, input: &str, attributes: &[AttributeProto]) -> String {
        let node = Self::node(graph, op, vec![input.to_owned()], attributes);
        let made = node.output[0].clone();
        self.done.push(node);
        made
    }

    /// Puts the steps in; the last one makes what the node made.
    fn finish(mut self, graph: &mut Graph) -> Result<()> {
        let Some(mut last) = self.done.pop() else { return Ok(()) };
        for step in self.done {
            graph.insert(At::Before(self.at), step)?;
        }
        graph.edit(self.at, |n| {
            last.name = n.name.take();
            last.output = std::mem::take(&mut n.output);
            *n = last;
        })
    }
}

/// The attributes of [`FAKE_QUANTIZE`]. Errors as [`Linear::params`].
pub(super) fn fake_quantize(params: &Linear) -> Result<Vec<AttributeProto>> {
    let format = match minifloat_of(params.dtype).and_then(Format::of_float) {
        Some(format) if params.blocks.is_none() => format,
        _ => params.params_of_any_rank()?.format(),
    };
    Ok(vec![
        attribute::string("format", format.name),
        attribute::floats("scales", &params.scales),
        attribute::ints("zero_points", &params.zero_points.iter().map(|&z| z.into()).collect::<Vec<_>>()),
        attribute::int("axis", params.axis),
    ])
}
