//! Constants that are stored as codes become float constants.

use std::collections::HashMap;

use crate::error::{ErrorKind, Refusal, Result, no};
use crate::model::{Graph, Linear, Model, NodeExt, NodeId, Tensor, is_float};
use crate::pass::refusal::settle;
use crate::pass::{Context, Effect, Pass};

/// Replaces DequantizeLinear nodes that read constants by the floats they make.
///
/// - **Does**: `(code - zero point) * scale` for every element, rounded once to the type of the scale; the constant has
///   the name of the value that the node made. Nodes that make the same share it.
/// - **Skips when** scale or zero point are no constants, or of a kind that is not supported.
/// - **Before**: `w = DequantizeLinear(codes, scale, zero)`, `y = Conv(x, w)`. **After**: `y = Conv(x, w)`, `w` an
///   initializer.
/// - **Source**: operator DequantizeLinear-25.
#[derive(Debug, Clone, Copy)]
pub struct FoldCodes;

impl Pass for FoldCodes {
    fn name(&self) -> &'static str {
        "fold-codes"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let mut folded = HashMap::new();
        for id in model.graph.node_ids() {
            let reads_codes = |codes: &str| model.graph.is_constant(codes);
            if model.graph.node(id).is_some_and(|n| Linear::dequantizes(n) && n.input_at(0).is_some_and(reads_codes)) {
                let outcome = fold(&mut model.graph, id, &mut folded);
                settle(outcome, self, model, id, cx)?;
            }
        }
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

/// The inputs and the axis of a DequantizeLinear: what it makes depends on nothing else.
type Key = (Vec<String>, Option<i64>, Option<i64>);

fn fold(graph: &mut Graph, id: NodeId, folded: &mut HashMap<Key, String>) -> Result<(), Refusal> {
    let Some(node) = graph.node(id) else { return Ok(()) };
    let (Some(codes), Some(output)) = (node.input_at(0).map(str::to_owned), node.output_at(0).map(str::to_owned))
    else {
        return no("its input or output is missing");
    };
    let key = (node.input.clone(), node.int("axis"), node.int("block_size"));
    if let Some(known) = folded.get(&key)
        && !graph.is_pinned(&output)
    {
        graph.redirect(&output, known)?;
        graph.remove(id);
        return Ok(());
    }
    let real = match real(graph, id, &codes) {
        Ok(real) => real,
        Err(e) if e.kind() == ErrorKind::Malformed => return Err(e.into()),
        Err(e) => return no(e.to_string()),
    };
    graph.remove(id);
    graph.set_initializer(real.to_proto(&output));
    folded.insert(key, output);
    Ok(())
}

fn real(graph: &Graph, id: NodeId, codes: &str) -> Result<Tensor> {
    let missing = || crate::error::Error::new(ErrorKind::InvalidModel, "it is not there");
    let node = graph.node(id).ok_or_else(missing)?;
    let tensor = graph.constant(codes)?.ok_or_else(missing)?;
    let real = Linear::read(graph, node)?.dequantize(&tensor)?;
    let stated = node.int("output_dtype").filter(|&d| d != 0).and_then(|d| i32::try_from(d).ok());
    let scale = node.input_at(1).and_then(|s| graph.stated_dtype(s)).filter(|&d| is_float(d));
    match stated.and_then(|d| d.try_into().ok()).or(scale) {
        Some(dtype) if dtype != real.dtype() => Tensor::from_f64(dtype, real.shape().to_vec(), &real.f64s()?),
        _ => Ok(real),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, GraphProto, TensorProto, attribute};
    use crate::pass::sketch::{self, floats, graph, lines, model, node};

    fn codes(name: &str, dtype: DataType, shape: &[usize], bytes: &[u8]) -> TensorProto {
        Tensor::new(dtype, shape.to_vec(), bytes.to_vec().into()).unwrap().to_proto(name)
    }

    fn constants() -> Vec<TensorProto> {
        vec![
            codes("w", DataType::Int8, &[2, 2], &[1, 0xfe, 3, 0x80]),
            codes("u", DataType::Uint8, &[2], &[0, 255]),
            codes("i", DataType::Int32, &[1], &[0, 0, 0, 0x80]),
            codes("h", DataType::Int16, &[1], &[0, 0x80]),
            floats("s", &[], &[0.5]),
            floats("ss", &[2], &[0.5, 2.0]),
            floats("zero", &[], &[0.0]),
            floats("nan", &[], &[f32::NAN]),
            codes("z", DataType::Uint8, &[], &[128]),
            codes("zz", DataType::Int8, &[2], &[0, 1]),
            codes("one", DataType::Int8, &[], &[1]),
            Tensor::from_f64(DataType::Float16, vec![], &[0.1]).unwrap().to_proto("half"),
        ]
    }

    fn folded(nodes: Vec<crate::model::NodeProto>) -> (GraphProto, Vec<crate::pass::Skipped>) {
        let mut m = model(21, graph("x", nodes, constants(), "y"));
        let (_, skipped) = sketch::run(&FoldCodes, &mut m).unwrap();
        (m.graph.to_proto(), skipped)
    }

    #[test]
    fn every_format_and_grain_becomes_floats() {
        let axis = |a| vec![attribute::int("axis", a)];
        let cases = [
            (node("DequantizeLinear", "w s", "r", &[]), vec![0.5, -1.0, 1.5, -64.0]),
            (node("DequantizeLinear", "w ss", "r", &axis(0)), vec![0.5, -1.0, 6.0, -256.0]),
            (node("DequantizeLinear", "w ss zz", "r", &axis(-1)), vec![0.5, -6.0, 1.5, -258.0]),
            (node("DequantizeLinear", "u s z", "r", &[]), vec![-64.0, 63.5]),
            (node("DequantizeLinear", "u zero z", "r", &[]), vec![-0.0, 0.0]),
            (node("DequantizeLinear", "i s", "r", &[]), vec![-1073741824.0]),
            (node("DequantizeLinear", "h s", "r", &[]), vec![-16384.0]),
        ];
        for (dq, want) in cases {
            let (g, skipped) = folded(vec![dq, node("Foo", "x r", "y", &[])]);
            assert_eq!((lines(&g), skipped), (vec!["y = Foo(x, r)".to_owned()], vec![]));
            let [r] = &g.initializer[..] else { panic!("{:?}", g.initializer) };
            assert_eq!((r.name(), Tensor::from_proto(r).unwrap().f32s().unwrap().to_vec()), ("r", want));
        }
        let (g, _) = folded(vec![node("DequantizeLinear", "u half", "r", &[]), node("Foo", "x r", "y", &[])]);
        let r = Tensor::from_proto(&g.initializer[0]).unwrap();
        assert_eq!((r.dtype(), r.f32s().unwrap()[1]), (DataType::Float16, 25.5));
    }

    #[test]
    fn codes_that_several_nodes_read_are_written_once_for_each_scale() {
        let (g, _) = folded(vec![
            node("DequantizeLinear", "w s", "a", &[]),
            node("DequantizeLinear", "w s", "b", &[]),
            node("DequantizeLinear", "w ss", "c", &[attribute::int("axis", 0)]),
            node("Foo", "x a b c", "y", &[]),
        ]);
        assert_eq!(lines(&g), ["y = Foo(x, a, a, c)"]);
        assert_eq!(g.initializer.len(), 2);
    }

    #[test]
    fn what_cannot_be_read_stays_and_says_why() {
        for (dq, why) in [
            (node("DequantizeLinear", "w x", "r", &[]), "is not a constant"),
            (node("DequantizeLinear", "w nan", "r", &[]), "scale NaN is not"),
            (node("DequantizeLinear", "w ss one", "r", &[]), "2 scales but 1 zero points"),
            (node("DequantizeLinear", "w ss", "r", &[attribute::int("axis", 7)]), "axis"),
        ] {
            let (g, skipped) = folded(vec![dq, node("Foo", "x r", "y", &[])]);
            assert_eq!(g.node.len(), 2);
            assert!(skipped[0].reason.contains(why), "{skipped:?}");
        }
        let mut short = floats("s", &[2], &[1.0, 2.0]);
        short.dims = vec![3];
        let nodes = vec![node("DequantizeLinear", "w s", "r", &[]), node("Foo", "x r", "y", &[])];
        let mut m = model(13, graph("x", nodes, vec![codes("w", DataType::Int8, &[3], &[1, 2, 3]), short], "y"));
        let e = sketch::run(&FoldCodes, &mut m).unwrap_err().to_string();
        assert!(e.contains("tensor `s`") && e.contains("fill the shape"), "{e}");
    }
}
