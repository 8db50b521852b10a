//! DynamicQuantizeLSTM becomes LSTM.

use crate::error::{Refusal, Result, no};
use crate::model::{Graph, Model, NodeExt, NodeId, NodeProto, Tensor, format_of};
use crate::pass::refusal::settle;
use crate::pass::{Context, Effect, Pass};

/// Turns onnxruntime's DynamicQuantizeLSTM into the LSTM that it was made from.
///
/// The codes of `W` and `R` are `[directions, input or hidden, 4 hidden]`, with one scale a direction, or one for each of
/// the `4 hidden` gates; LSTM wants floats `[directions, 4 hidden, input or hidden]`. The rounding of the input and of
/// the hidden state, by the range they have in each step, goes.
///
/// - **Does**: replaces the node and its two weights.
/// - **Skips when** weights, scales or zero points are no constants, or do not fit each other.
/// - **Before**: `y = DynamicQuantizeLSTM(x, W, R, b, .., W_scale, W_zero, R_scale, R_zero)`.
///   **After**: `y = LSTM(x, W', R', b, ..)`.
/// - **Source**: onnxruntime, docs/ContribOperators.md, com.microsoft.DynamicQuantizeLSTM; operator LSTM-14.
#[derive(Debug, Clone, Copy)]
pub struct FloatLstm;

impl Pass for FloatLstm {
    fn name(&self) -> &'static str {
        "float-lstm"
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        for id in model.graph.node_ids() {
            let is_it = |n: &NodeProto| n.op_type() == "DynamicQuantizeLSTM" && n.domain() == "com.microsoft";
            if model.graph.node(id).is_some_and(is_it) {
                let outcome = rewrite(&mut model.graph, id);
                settle(outcome, self, model, id, cx)?;
            }
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

fn rewrite(graph: &mut Graph, id: NodeId) -> Result<(), Refusal> {
    let Some(node) = graph.node(id) else { return Ok(()) };
    let weights = [weight(graph, node, 1, 8, 9)?, weight(graph, node, 2, 10, 11)?];
    let mut input: Vec<String> = node.input.iter().take(8).cloned().collect();
    for (name, value) in input[1..3].iter_mut().zip(&weights) {
        *name = graph.add_constant(&format!("{name}_dequantized"), value);
    }
    while input.last().is_some_and(String::is_empty) {
        input.pop();
    }
    graph.edit(id, |n| {
        n.op_type = Some("LSTM".to_owned());
        n.domain = None;
        n.input = input;
    })?;
    Ok(())
}

/// The weight in that slot, as LSTM takes it.
fn weight(graph: &Graph, node: &NodeProto, slot: usize, scale: usize, zero: usize) -> Result<Tensor, Refusal> {
    let constant = |slot: usize| -> Result<Tensor, Refusal> {
        let Some(name) = node.input_at(slot) else { return no("one of its inputs is missing") };
        match graph.constant(name)?.filter(|_| !graph.is_input(name)) {
            Some(tensor) => Ok(tensor),
            None => no(format!("`{name}` is not a constant")),
        }
    };
    let (codes, scales, zeros) = (constant(slot)?, constant(scale)?, constant(zero)?);
    let (Some(_), [directions, rows, gates]) = (format_of(codes.dtype()), codes.shape()) else {
        return no("its weights are no codes of three axes");
    };
    let (directions, rows, gates) = (*directions, *rows, *gates);
    let fits = |t: &Tensor| t.len() == directions || t.len() == directions * gates;
    if !scales.is_float() || zeros.dtype() != codes.dtype() || !fits(&scales) || !fits(&zeros) {
        return no("scales and zero points do not fit its weights");
    }
    let (codes, zeros) = (codes.codes()?, zeros.codes()?);
    let scales = scales.f32s()?;
    let place = |len: usize, d: usize, g: usize| if len == directions { d } else { d * gates + g };
    let mut floats = Vec::with_capacity(codes.len());
    for d in 0..directions {
        for g in 0..gates {
            let (scale, zero) = (scales[place(scales.len(), d, g)], zeros[place(zeros.len(), d, g)]);
            let column = codes[d * rows * gates..].iter().skip(g).step_by(gates).take(rows);
            floats.extend(column.map(|&code| (i64::from(code) - i64::from(zero)) as f32 * scale));
        }
    }
    Ok(Tensor::from_f32(vec![directions, gates, rows], floats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DataType;
    use crate::pass::sketch::{self, floats, graph, lines, node};

    fn lstm(scale: &str) -> Model {
        let codes = |name: &str, shape: &[usize], first: u8| {
            let bytes: Vec<u8> = (first..).take(shape.iter().product()).collect();
            Tensor::new(DataType::Int8, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
        };
        let gates: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        let constants = vec![
            codes("w", &[2, 2, 4], 0),
            codes("r", &[2, 1, 4], 0),
            codes("z", &[2], 1),
            floats("s", &[2], &[0.5, 2.0]),
            floats("ss", &[2, 4], &gates),
            floats("wrong", &[3], &[1.0; 3]),
        ];
        let inputs = format!("x w r _ _ _ _ _ {scale} z s z");
        let node = NodeProto { domain: Some("com.microsoft".into()), ..node("DynamicQuantizeLSTM", &inputs, "y", &[]) };
        sketch::model(14, graph("x", vec![node], constants, "y"))
    }

    #[test]
    fn weights_are_turned_and_scaled_by_direction_or_gate() {
        let mut m = lstm("s");
        assert_eq!(sketch::run(&FloatLstm, &mut m).unwrap(), (1, vec![]));
        assert_eq!(lines(&m.graph.to_proto()), ["y = LSTM(x, w_dequantized, r_dequantized)"]);
        let w = m.graph.constant("w_dequantized").unwrap().unwrap();
        assert_eq!(w.shape(), [2, 4, 2]);
        // Codes 0 .. 8 less 1 at scale 0.5, then 8 .. 16 less 2 at scale 2; the columns one after the other.
        assert_eq!(w.f32s().unwrap()[..4], [-0.5, 1.5, 0.0, 2.0]);
        assert_eq!(w.f32s().unwrap()[8..12], [12.0, 20.0, 14.0, 22.0]);
        let mut m = lstm("ss");
        sketch::run(&FloatLstm, &mut m).unwrap();
        let w = m.graph.constant("w_dequantized").unwrap().unwrap();
        assert_eq!(w.f32s().unwrap()[..6], [-1.0, 3.0, 0.0, 8.0, 3.0, 15.0]);
    }

    #[test]
    fn what_does_not_fit_stays() {
        for (scale, why) in
            [("wrong", "do not fit"), ("x", "`x` is not a constant"), ("_", "missing"), ("z", "do not fit")]
        {
            let mut m = lstm(scale);
            let (changed, skipped) = sketch::run(&FloatLstm, &mut m).unwrap();
            assert!(changed == 0 && skipped[0].reason.contains(why), "{skipped:?}");
        }
    }
}
