//! DequantizeLinear moves ahead of operators that only move codes.

use std::collections::HashMap;

use super::source::{interpolates, moves};
use crate::error::Result;
use crate::model::{At, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor};
use crate::number::QuantParams;

/// Lets what only moves elements move floats where a DequantizeLinear reads the codes it moves.
///
/// ```text
/// before: q = QuantizeLinear(x), m = MaxPool(q), y = DequantizeLinear(m)
/// after:  q = QuantizeLinear(x), d = DequantizeLinear(q), y = MaxPool(d)
/// ```
///
/// Exact, since all elements share a scale and their order is kept; or have one a column, where Gather picks whole rows
/// of a constant. What else reads the codes goes on doing so. A Pad gets the real number that its code stands for. Left
/// as they are: several scales elsewhere, Resize that interpolates, codes whose parameters are neither constants nor
/// those of DynamicQuantizeLinear.
pub(super) fn lift(graph: &mut Graph) -> Result<()> {
    let mut twins: HashMap<(NodeId, Vec<String>), NodeId> = HashMap::new();
    let mut queue: Vec<NodeId> = graph.node_ids();
    queue.reverse();
    while let Some(id) = queue.pop() {
        let Some(mover) = mover(graph, id)? else { continue };
        let Some(dequantize) = graph.remove(id) else { continue };
        let params: Vec<String> = dequantize.input[1..].to_vec();
        let real = dequantize.output[0].clone();
        let key = (mover.id, params.clone());
        if let Some(&twin) = twins.get(&key) {
            let made = graph.node(twin).and_then(|n| n.output.get(mover.slot).cloned()).unwrap_or_default();
            if made.is_empty() {
                graph.edit(twin, |n| n.output[mover.slot] = real)?;
            } else {
                let same = NodeProto {
                    name: dequantize.name,
                    op_type: Some("Identity".to_owned()),
                    input: vec![made.clone()],
                    output: vec![real.clone()],
                    ..Default::default()
                };
                let same = graph.insert(At::After(twin), same)?;
                graph.bypass(same, &made, &real)?;
            }
        } else {
            let Some(mut twin) = graph.node(mover.id).cloned() else { continue };
            let codes = twin.input[0].clone();
            let ahead = graph.fresh_name(&format!("{codes}_dequantized"));
            twin.name = Some(graph.fresh_name(&format!("{}_dequantized", twin.name())));
            twin.input[0] = ahead.clone();
            // Split must have all its outputs, or it is another Split.
            let split = twin.is("Split");
            for (slot, output) in twin.output.iter_mut().enumerate() {
                *output = match slot == mover.slot {
                    true => real.clone(),
                    false if split => graph.fresh_name(&format!("{output}_dequantized")),
                    false => String::new(),
                };
            }
            while twin.output.last().is_some_and(String::is_empty) {
                twin.output.pop();
            }
            if let Some(fill) = &mover.fill {
                let name = graph.add_constant(&format!("{real}_fill"), fill);
                twin.input.resize(twin.input.len().max(3), String::new());
                twin.input[2] = name;
            }
            let moved = NodeProto { input: [vec![codes], params].concat(), output: vec![ahead], ..dequantize };
            let place = mover.id;
            let twin = graph.insert(At::After(place), twin)?;
            let moved = graph.insert(At::Before(twin), moved)?;
            twins.insert(key, twin);
            queue.push(moved);
        }
        drop_unread(graph, mover.id);
    }
    Ok(())
}

/// An operator that moves codes to a DequantizeLinear.
struct Mover {
    id: NodeId,
    /// Which of its outputs.
    slot: usize,
    /// The real number that a Pad fills with.
    fill: Option<Tensor>,
}

/// What moves the codes that this DequantizeLinear reads, if it can change places with it.
fn mover(graph: &Graph, id: NodeId) -> Result<Option<Mover>> {
    let reads = |n: &&NodeProto| Linear::dequantizes(n) && n.output_at(0).is_some();
    let Some(dequantize) = graph.node(id).filter(reads) else { return Ok(None) };
    let (Some(codes), Some(name)) = (dequantize.input_at(0), dequantize.input_at(1)) else { return Ok(None) };
    let Some((by, slot)) = graph.producer(codes) else { return Ok(None) };
    let Some(node) = graph.node(by).filter(|n| moves(n) && n.input_at(0).is_some()) else { return Ok(None) };
    let constant = graph.initializer(name).is_some();
    if !constant && !computed(graph, name) {
        return Ok(None);
    }
    let mut params = None;
    // Columns are counted from behind, and are the same before and after.
    let columns = constant && dequantize.int("axis") == Some(-1) && keeps_last_axis(graph, node);
    if constant && !columns {
        match Linear::read(graph, dequantize).and_then(|l| l.params(0)) {
            Ok(p) if p.axis().is_none() => params = Some(p),
            _ => return Ok(None),
        }
    }
    if interpolates(node) {
        return Ok(None);
    }
    let mut fill = None;
    if fills(node) {
        let Some(params) = params else { return Ok(None) };
        let Some(real) = fill_of(graph, node, &params, name)? else { return Ok(None) };
        fill = Some(real);
    }
    Ok(Some(Mover { id: by, slot, fill }))
}

/// Whether the node is a Pad that fills with a number.
pub(super) fn fills(node: &NodeProto) -> bool {
    node.is("Pad") && node.string("mode").is_none_or(|mode| mode == "constant")
}

/// The real number that a Pad of codes with these parameters fills with, in the type of their scale; `None` where it is no
/// constant.
pub(super) fn fill_of(graph: &Graph, pad: &NodeProto, params: &QuantParams, scale: &str) -> Result<Option<Tensor>> {
    let code = match pad.input_at(2) {
        None => 0,
        Some(name) => match graph.constant(name)?.map(|t| t.i64s()) {
            Some(Ok(code)) if code.len() == 1 && !graph.is_input(name) => code[0],
            _ => return Ok(None),
        },
    };
    let (step, zero) = params.channel(0);
    let real = f64::from((code - i64::from(zero)) as f32 * step);
    Tensor::from_f64(graph.stated_dtype(scale).unwrap_or(DataType::Float), vec![], &[real]).map(Some)
}

/// Whether a Gather picks from a constant along another axis than its last.
fn keeps_last_axis(graph: &Graph, node: &NodeProto) -> bool {
    let Some(dims) = node.input_at(0).and_then(|t| graph.constant_dims(t)).filter(|_| node.is("Gather")) else {
        return false;
    };
    let (rank, axis) = (dims.len() as i64, node.int("axis").unwrap_or(0));
    rank > 1 && axis != -1 && axis != rank - 1
}

/// Whether the scale is the one that DynamicQuantizeLinear computes.
fn computed(graph: &Graph, scale: &str) -> bool {
    graph
        .producer(scale)
        .is_some_and(|(id, slot)| slot == 1 && graph.node(id).is_some_and(|n| n.is("DynamicQuantizeLinear")))
}

/// Removes a node that nothing reads any more.
pub(super) fn drop_unread(graph: &mut Graph, id: NodeId) {
    let unread = |name: &String| name.is_empty() || (graph.uses(name).is_empty() && !graph.is_pinned(name));
    if graph.node(id).is_some_and(|n| n.output.iter().all(unread)) {
        graph.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TensorProto, attribute};
    use crate::pass::sketch::{floats, graph, lines, model, node};

    fn lifted(nodes: Vec<NodeProto>, outputs: &str) -> (Vec<String>, Graph) {
        let byte = |name: &str, byte: u8| -> TensorProto {
            Tensor::new(DataType::Uint8, vec![], vec![byte].into()).unwrap().to_proto(name)
        };
        let constants = vec![
            floats("s", &[], &[0.5]),
            floats("t", &[], &[0.25]),
            floats("ss", &[2], &[0.5, 1.0]),
            byte("z", 10),
            byte("fill", 12),
            Tensor::from_i64(vec![2], vec![1, 1]).to_proto("n"),
            Tensor::new(DataType::Uint8, vec![3, 2], vec![1; 6].into()).unwrap().to_proto("table"),
        ];
        let mut m = model(13, graph("x", nodes, constants, outputs));
        lift(&mut m.graph).unwrap();
        m.graph.check().unwrap();
        (lines(&m.graph.to_proto()), m.graph)
    }

    fn q() -> NodeProto {
        node("QuantizeLinear", "x s z", "q", &[])
    }

    #[test]
    fn it_moves_ahead_of_a_row_of_movers() {
        let nodes = vec![
            q(),
            node("MaxPool", "q", "m", &[]),
            node("Transpose", "m", "t1", &[attribute::ints("perm", &[0])]),
            node("DequantizeLinear", "t1 s z", "y", &[]),
        ];
        let want = [
            "q = QuantizeLinear(x, s, z)",
            "q_dequantized = DequantizeLinear(q, s, z)",
            "m_dequantized = MaxPool(q_dequantized)",
            "y = Transpose(m_dequantized) perm=[0]",
        ];
        assert_eq!(lifted(nodes, "y").0, want);
    }

    #[test]
    fn scales_of_columns_move_ahead_of_what_picks_rows() {
        let pick = |axis: i64, scales: i64| {
            let gather = node("Gather", "table x", "g", &[attribute::int("axis", axis)]);
            lifted(vec![gather, node("DequantizeLinear", "g ss", "y", &[attribute::int("axis", scales)])], "y").0
        };
        let want =
            ["table_dequantized = DequantizeLinear(table, ss) axis=-1", "y = Gather(table_dequantized, x) axis=0"];
        assert_eq!(pick(0, -1), want);
        for (axis, scales) in [(1, -1), (-1, -1), (0, 1)] {
            assert_eq!(pick(axis, scales).last().unwrap(), &format!("y = DequantizeLinear(g, ss) axis={scales}"));
        }
    }

    #[test]
    fn what_else_reads_the_codes_goes_on_doing_so() {
        let nodes = vec![
            q(),
            node("MaxPool", "q", "m", &[]),
            node("DequantizeLinear", "m s z", "a", &[]),
            node("DequantizeLinear", "m s z", "b", &[]),
            node("DequantizeLinear", "m t z", "c", &[]),
            node("Foo", "m a b c", "y", &[]),
        ];
        let (lines, _) = lifted(nodes, "y");
        assert_eq!(
            lines,
            [
                "q = QuantizeLinear(x, s, z)",
                "m = MaxPool(q)",
                "q_dequantized_2 = DequantizeLinear(q, t, z)",
                "c = MaxPool(q_dequantized_2)",
                "q_dequantized = DequantizeLinear(q, s, z)",
                "a = MaxPool(q_dequantized)",
                "y = Foo(m, a, a, c)",
            ]
        );
    }

    #[test]
    fn every_output_of_a_split_is_lifted_together() {
        let nodes = vec![
            q(),
            node("Split", "q n", "a b", &[]),
            node("DequantizeLinear", "a s z", "c", &[]),
            node("DequantizeLinear", "b s z", "d", &[]),
            node("Foo", "c d", "y", &[]),
        ];
        let (lines, _) = lifted(nodes, "y");
        assert_eq!(
            lines[1..],
            [
                "q_dequantized = DequantizeLinear(q, s, z)",
                "c, b_dequantized = Split(q_dequantized, [1, 1])",
                "y = Foo(c, b_dequantized)",
            ]
        );
    }

    #[test]
    fn padding_is_the_number_that_its_code_stands_for() {
        let pad = |inputs: &str| vec![q(), node("Pad", inputs, "p", &[]), node("DequantizeLinear", "p s z", "y", &[])];
        for (inputs, want) in [("q n fill", 1.0), ("q n", -5.0)] {
            let (lines, graph) = lifted(pad(inputs), "y");
            assert_eq!(lines[2], "y = Pad(q_dequantized, [1, 1], y_fill)");
            assert_eq!(graph.constant("y_fill").unwrap().unwrap().f32s().unwrap()[..], [want]);
        }
        assert_eq!(lifted(pad("q n x"), "y").0[2], "y = DequantizeLinear(p, s, z)");
    }

    #[test]
    fn what_would_not_be_exact_stays() {
        let linear = [attribute::string("mode", "linear")];
        let cases = [
            vec![q(), node("Resize", "q _ n", "r", &linear), node("DequantizeLinear", "r s z", "y", &[])],
            vec![q(), node("MaxPool", "q", "r", &[]), node("DequantizeLinear", "r ss", "y", &[])],
            vec![q(), node("MaxPool", "q", "r", &[]), node("DequantizeLinear", "r x", "y", &[])],
            vec![q(), node("Foo", "q", "r", &[]), node("DequantizeLinear", "r s z", "y", &[])],
        ];
        for nodes in cases {
            let before = lines(&graph("", nodes.clone(), vec![], ""));
            let after = lifted(nodes, "y").0;
            assert_eq!(after.len(), before.len());
            assert!(after[2].contains("y = DequantizeLinear(r"), "{after:?}");
        }
    }
}
