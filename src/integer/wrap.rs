//! What moves codes moves floats, between DequantizeLinear and QuantizeLinear.

use super::lift::{fill_of, fills};
use super::outcome::{Outcome, on_codes};
use super::source::{interpolates, moves};
use crate::error::{Place, Result};
use crate::model::{At, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor};

/// Puts a DequantizeLinear in front of every node that moves codes which a QuantizeLinear makes, and a QuantizeLinear behind it.
///
/// ```text
/// before: m = MaxPool(q)
/// after:  m = QuantizeLinear(MaxPool(DequantizeLinear(q)))
/// ```
///
/// Exact. Codes keep their names; a Pad gets the real number that its code stands for. What moves codes that are constants or
/// inputs stays, and so it does where scale and zero point are no constants, or several. `tell` hears of each node that is
/// changed. Returns how many there were. Errors when a constant is broken.
pub(super) fn wrap(graph: &mut Graph, tell: &mut dyn FnMut(Outcome)) -> Result<usize> {
    let mut count = 0;
    for id in graph.node_ids() {
        let label = graph.label(id);
        let Some(mover) = mover(graph, id).at(|| label.clone())? else { continue };
        count += 1;
        let operator = graph.node(id).map(NodeExt::operator).unwrap_or_default();
        tell(Outcome { node: label, operator: on_codes(&operator), became: Ok(operator) });
        let Mover { linear, fill, outputs } = mover;
        let [scale, zero] = [1, 2].map(|slot| linear.input.get(slot).cloned().unwrap_or_default());
        let Some(codes) = graph.node(id).and_then(|n| n.input_at(0)).map(str::to_owned) else { continue };
        let plain = |name: &str| name.strip_suffix("_quantized").unwrap_or(name).to_owned();
        let real = graph.fresh_name(&format!("{}_dequantized", plain(&codes)));
        let node = |graph: &mut Graph, op: &str, base: &str, input: &str, output: &str| {
            let mut input = vec![input.to_owned(), scale.clone(), zero.clone()];
            input.truncate(if zero.is_empty() { 2 } else { 3 });
            NodeProto {
                name: Some(graph.fresh_name(&format!("{base}_{op}"))),
                op_type: Some(op.to_owned()),
                domain: linear.domain.clone(),
                input,
                output: vec![output.to_owned()],
                ..Default::default()
            }
        };
        let dequantize = node(graph, "DequantizeLinear", &codes, &codes, &real);
        graph.insert(At::Before(id), dequantize)?;
        let fill = fill.map(|fill| graph.add_constant(&format!("{real}_fill"), &fill));
        let floats: Vec<String> = outputs.iter().map(|o| graph.fresh_name(&format!("{}_float", plain(o)))).collect();
        graph.edit(id, |n| {
            n.input[0] = real;
            if let Some(fill) = fill {
                n.input.resize(n.input.len().max(3), String::new());
                n.input[2] = fill;
            }
            for (old, new) in outputs.iter().zip(&floats) {
                n.output.iter_mut().filter(|o| *o == old).for_each(|o| new.clone_into(o));
            }
        })?;
        for (codes, float) in outputs.iter().zip(&floats).rev() {
            let quantize = node(graph, "QuantizeLinear", codes, float, codes);
            graph.insert(At::After(id), quantize)?;
        }
    }
    Ok(count)
}

/// A node that moves codes.
struct Mover {
    /// The QuantizeLinear in front.
    linear: NodeProto,
    /// The real number that a Pad fills with.
    fill: Option<Tensor>,
    /// The outputs that are codes.
    outputs: Vec<String>,
}

fn mover(graph: &Graph, id: NodeId) -> Result<Option<Mover>> {
    let Some(node) = graph.node(id).filter(|n| moves(n) && !interpolates(n)) else { return Ok(None) };
    let Some(codes) = node.input_at(0) else { return Ok(None) };
    let most = if node.is("Split") { usize::MAX } else { 1 };
    let outputs: Vec<String> = node.output.iter().take(most).filter(|o| !o.is_empty()).cloned().collect();
    let in_front = graph.producer(codes).and_then(|(id, _)| graph.node(id)).filter(|n| Linear::quantizes(n));
    let Some(linear) = in_front else { return Ok(None) };
    let Ok(params) = Linear::read(graph, linear).and_then(|l| l.params(0)) else { return Ok(None) };
    if params.axis().is_some() || linear.int("output_dtype").unwrap_or(0) != 0 {
        return Ok(None);
    }
    let fill = match fills(node) {
        true => match fill_of(graph, node, &params, linear.input_at(1).unwrap_or_default())? {
            Some(fill) => Some(fill),
            None => return Ok(None),
        },
        false => None,
    };
    Ok(Some(Mover { linear: linear.clone(), fill, outputs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, attribute};
    use crate::pass::sketch::{floats, graph, lines, model, node};

    fn wrapped(nodes: Vec<NodeProto>, outputs: &str) -> (Vec<String>, Graph, usize) {
        let byte =
            |name: &str, byte: u8| Tensor::new(DataType::Uint8, vec![], vec![byte].into()).unwrap().to_proto(name);
        let table = Tensor::new(DataType::Uint8, vec![3, 1], vec![1, 2, 3].into()).unwrap().to_proto("table");
        let constants = vec![
            floats("s", &[], &[0.5]),
            byte("z", 10),
            byte("fill", 12),
            Tensor::from_i64(vec![2], vec![1, 1]).to_proto("n"),
            table,
        ];
        let mut m = model(13, graph("x", nodes, constants, outputs));
        let count = wrap(&mut m.graph, &mut |_| ()).unwrap();
        m.graph.check().unwrap();
        (lines(&m.graph.to_proto()), m.graph, count)
    }

    #[test]
    fn every_node_of_a_row_gets_a_pair() {
        let nodes = vec![
            node("QuantizeLinear", "x s z", "a_quantized", &[]),
            node("MaxPool", "a_quantized", "b_quantized", &[]),
            node("Split", "b_quantized n", "c d", &[]),
            node("DequantizeLinear", "c s z", "y", &[]),
            node("DequantizeLinear", "d s z", "w", &[]),
        ];
        let (lines, _, count) = wrapped(nodes, "y w");
        assert_eq!(count, 2);
        assert_eq!(
            lines,
            [
                "a_quantized = QuantizeLinear(x, s, z)",
                "a_dequantized = DequantizeLinear(a_quantized, s, z)",
                "b_float = MaxPool(a_dequantized)",
                "b_quantized = QuantizeLinear(b_float, s, z)",
                "b_dequantized = DequantizeLinear(b_quantized, s, z)",
                "c_float, d_float = Split(b_dequantized, [1, 1])",
                "c = QuantizeLinear(c_float, s, z)",
                "d = QuantizeLinear(d_float, s, z)",
                "y = DequantizeLinear(c, s, z)",
                "w = DequantizeLinear(d, s, z)",
            ]
        );
    }

    #[test]
    fn a_pad_fills_with_the_number_of_its_code() {
        let nodes = vec![node("QuantizeLinear", "x s z", "q", &[]), node("Pad", "q n fill", "y", &[])];
        let (lines, graph, _) = wrapped(nodes, "y");
        assert_eq!(lines[2], "y_float = Pad(q_dequantized, [1, 1], q_dequantized_fill)");
        assert_eq!(graph.constant("q_dequantized_fill").unwrap().unwrap().f32s().unwrap()[..], [1.0]);
    }

    #[test]
    fn what_has_no_known_parameters_stays() {
        let table = vec![node("Gather", "table x", "g", &[]), node("DequantizeLinear", "g s z", "y", &[])];
        assert_eq!(wrapped(table, "y").2, 0);
        let linear = [attribute::string("mode", "linear")];
        let q = || node("QuantizeLinear", "x s z", "q", &[]);
        for nodes in [
            vec![node("MaxPool", "x", "y", &[])],
            vec![q(), node("Resize", "q _ n", "y", &linear)],
            vec![q(), node("Pad", "q n x", "y", &[])],
            vec![node("QuantizeLinear", "x x", "q", &[]), node("Reshape", "q n", "y", &[])],
            vec![node("Foo", "x", "q", &[]), node("Reshape", "q n", "y", &[])],
        ] {
            let before = lines(&graph("", nodes.clone(), vec![], "")).len();
            let (after, _, count) = wrapped(nodes, "y");
            assert_eq!((after.len(), count), (before, 0), "{after:?}");
        }
    }
}
