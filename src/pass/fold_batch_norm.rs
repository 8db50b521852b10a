//! Batch normalization becomes part of the layer before it.

use super::refusal::{Refusal, float_constant, held, no, settle};
use super::{Context, Effect, Pass};
use crate::calibrate::{Channels, Spread, Statistics};
use crate::error::{Result, listed};
use crate::model::{At, Graph, Model, NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::number::Normal;
use crate::rule::ChannelIndex;

/// Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul right before it.
///
/// With `s = scale / sqrt(var + epsilon)` for each output channel, the weight `W` becomes `W * s` and the bias `b`
/// becomes `(b - mean) * s + B`, computed in f64 and rounded once to the weight's type. Output channels lie on axis 0
/// of a Conv weight `[M, C/g, ..]`, at `group * M/g + i` for axis 1 of a ConvTranspose weight `[C, M/g, ..]`, on the
/// columns of a Gemm (rows with `transB`) or MatMul weight `[K, N]`.
///
/// - **Does**: notes the mean and standard deviation of what comes out of each normalization, which training left in it, in
///   [`Context::statistics`]; changes the constants, adds a bias where there was none (to MatMul, as an Add), and lets the layer
///   produce what the normalization produced. A weight that something else reads too is copied first.
/// - **Skips when** another operator comes before it; the value between is read elsewhere, captured, or a graph output;
///   weight, bias or statistics are not constant; the normalization trains, has outputs for training or is not spatial;
///   shapes do not fit; the rank of a MatMul is not known to be 2; the folded numbers would not be finite.
/// - **Before**: `c = Conv(x, W, b)`, `y = BatchNormalization(c, scale, B, mean, var)`.
///   **After**: `y = Conv(x, W', b')`. `MatMul`, or `MatMul` and `Add` of a constant, become `MatMul` and `Add`.
/// - **Source**: operator BatchNormalization-15; Jacob et al., *Quantization and Training of Neural Networks for
///   Efficient Integer-Arithmetic-Only Inference*, 2018, section 3.2.
#[derive(Debug, Clone, Copy)]
pub struct FoldBatchNorm;

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let opset = model.opset();
        for id in model.graph.node_ids() {
            if model.graph.node(id).is_some_and(|n| n.is("BatchNormalization")) {
                note(&model.graph, id, opset, &mut cx.statistics)?;
                let outcome = read(&model.graph, id, opset).and_then(|fold| Ok(fold.apply(&mut model.graph)?));
                settle(outcome, self, model, id, cx)?;
            }
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

/// Notes how what a normalization makes was spread in training: around its bias, `|scale| sqrt(var / (var + epsilon))` far.
fn note(graph: &Graph, norm: NodeId, opset: i64, statistics: &mut Statistics) -> Result<()> {
    let Some((node, output)) = graph.node(norm).and_then(|n| Some((n, n.output_at(0)?))) else { return Ok(()) };
    let affine = match affine(graph, node, opset) {
        Ok(affine) => affine,
        Err(Refusal::Skip(_)) => return Ok(()),
        Err(Refusal::Fail(e)) => return Err(e.at(graph.label(norm))),
    };
    let spreads: Vec<Spread> = affine.spread.iter().map(|&n| Spread::normal(n)).collect();
    if spreads.iter().all(|s| s.min.is_finite() && s.max.is_finite()) {
        statistics.insert(output, Channels { axis: 1, spreads });
    }
    Ok(())
}

/// What is to be written.
struct Fold {
    norm: NodeId,
    /// What the normalization produces.
    output: String,
    layer: NodeId,
    weight: Tensor,
    /// Where the bias goes.
    bias_at: BiasAt,
    bias: Tensor,
}

/// Where a layer has its bias.
enum BiasAt {
    /// In this slot of the layer.
    Layer(usize),
    /// In this slot of an Add behind the layer.
    Add(Use),
    /// In an Add that does not exist yet.
    NewAdd,
}

/// `y = x * scale + shift`, an output channel each.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// What comes out of `N(mean, var)`.
    spread: Vec<Normal>,
}

fn read(graph: &Graph, norm: NodeId, opset: i64) -> Result<Fold, Refusal> {
    let Some(node) = graph.node(norm) else { return no("it was removed") };
    let affine = affine(graph, node, opset)?;
    let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else {
        return no("its input or output is missing");
    };
    let Some((before, 0)) = graph.producer(input) else { return no("no node comes before it") };
    let Some(producer) = graph.node(before) else { return no("no node comes before it") };
    let added = match producer.is("Add") {
        true => Some(added_constant(graph, before, producer)?),
        false => None,
    };
    let layer = added.as_ref().map_or(before, |a| a.layer);
    let Some(target) = graph.node(layer) else { return no("no node comes before it") };
    if let Some(reason) = held(graph, input) {
        return no(reason);
    }
    if let Some(reason) = target.output_at(0).and_then(|x| held(graph, x)) {
        return no(reason);
    }
    let bias_at = match target.op_type() {
        op if !target.is(op) => return no(format!("{} comes before it", graph.label(layer))),
        "Conv" | "ConvTranspose" | "Gemm" if added.is_none() => BiasAt::Layer(2),
        "MatMul" => {
            if [input, output].iter().find_map(|v| graph.stated_rank(v)) != Some(2) {
                return no("the rank of its input is not known to be 2, so its channels may not be the columns");
            }
            added.as_ref().map_or(BiasAt::NewAdd, |a| BiasAt::Add(a.constant))
        }
        _ => return no(format!("{} comes before it", graph.label(before))),
    };
    let weight = scaled(&float_constant(graph, target, 1, "layer's weight")?, target, &affine)?;
    let bias = match (&bias_at, &added) {
        (BiasAt::Layer(slot), _) if target.input_at(*slot).is_some() => {
            Some(float_constant(graph, target, *slot, "layer's bias")?)
        }
        (_, Some(added)) => Some(added.value.clone()),
        _ => None,
    };
    let factor = if target.is("Gemm") { target.float("beta").unwrap_or(1.0).into() } else { 1.0 };
    let bias = shifted(bias.as_ref(), factor, &weight, &affine)?;
    for (what, tensor) in [("weight", &weight), ("bias", &bias)] {
        if tensor.f64s()?.iter().any(|x| !x.is_finite()) {
            return no(format!("the folded {what} would not be finite"));
        }
    }
    Ok(Fold { norm, output: output.to_owned(), layer, weight, bias_at, bias })
}

/// The normalization at inference, as an affine map.
fn affine(graph: &Graph, node: &NodeProto, opset: i64) -> Result<Affine, Refusal> {
    let trains = match opset {
        ..=6 => node.int("is_test").unwrap_or(0) == 0,
        7..=13 => false,
        _ => node.int("training_mode").unwrap_or(0) != 0,
    };
    if trains {
        return no("it is in training mode");
    }
    if (1..node.output.len()).any(|i| node.output_at(i).is_some()) {
        return no("it has outputs for training");
    }
    if opset < 9 && node.int("spatial").unwrap_or(1) == 0 {
        return no("it is not spatial: each element has statistics of its own");
    }
    let of = |slot, what| float_constant(graph, node, slot, what).and_then(|t| Ok(t.f64s()?));
    let (gamma, beta, mean, var) = (of(1, "scale")?, of(2, "bias")?, of(3, "mean")?, of(4, "variance")?);
    if [&beta, &mean, &var].iter().any(|x| x.len() != gamma.len()) {
        return no("scale, bias, mean and variance do not have one length");
    }
    let epsilon: f64 = node.float("epsilon").unwrap_or(1e-5).into();
    let scale: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let shift = (0..gamma.len()).map(|c| beta[c] - mean[c] * scale[c]).collect();
    let normal = |c: usize| Normal { mean: beta[c], std: scale[c].abs() * var[c].max(0.0).sqrt() };
    let spread = (0..gamma.len()).map(normal).collect();
    Ok(Affine { scale, shift, spread })
}

/// An Add of a constant, and the layer before it.
struct Added {
    layer: NodeId,
    constant: Use,
    value: Tensor,
}

fn added_constant(graph: &Graph, id: NodeId, add: &NodeProto) -> Result<Added, Refusal> {
    for (slot, other) in [(1, 0), (0, 1)] {
        let Ok(value) = float_constant(graph, add, slot, "addend") else { continue };
        let Some((layer, 0)) = add.input_at(other).and_then(|x| graph.producer(x)) else { continue };
        if graph.node(layer).is_some_and(|n| n.is("MatMul")) {
            return Ok(Added { layer, constant: Use { node: id, slot }, value });
        }
    }
    no(format!("{} comes before it", graph.label(id)))
}

/// The weight, each output channel times its scale.
fn scaled(weight: &Tensor, layer: &NodeProto, affine: &Affine) -> Result<Tensor, Refusal> {
    let shape = weight.shape();
    let channels = affine.scale.len();
    let Some(index) = ChannelIndex::outputs(layer, shape).filter(|i| i.channels() == channels) else {
        return no(format!("a weight of shape {} does not fit {channels} channels", listed(shape)));
    };
    let mut x = weight.f64s()?;
    index.scale(&mut x, &affine.scale);
    Ok(Tensor::from_f64(weight.dtype(), shape.to_vec(), &x)?)
}

/// The bias times a factor, then normalized; its last axis becomes the channels.
fn shifted(bias: Option<&Tensor>, factor: f64, weight: &Tensor, affine: &Affine) -> Result<Tensor, Refusal> {
    let channels = affine.scale.len();
    let (shape, x) = match bias {
        Some(b) => (b.shape().to_vec(), b.f64s()?),
        None => (vec![1], vec![0.0]),
    };
    let last = shape.last().copied().unwrap_or(1);
    if shape.len() > 2 || (last != 1 && last != channels) || x.is_empty() {
        return no(format!("a bias of shape {} does not fit {channels} channels", listed(&shape)));
    }
    let mut whole = shape;
    whole.pop();
    let rows = whole.iter().product::<usize>();
    whole.push(channels);
    let new = |i: usize| {
        let (row, c) = (i / channels, i % channels);
        let old = x[if last == 1 { row } else { i }] * factor;
        old * affine.scale[c] + affine.shift[c]
    };
    Ok(Tensor::from_f64(weight.dtype(), whole, &(0..rows * channels).map(new).collect::<Vec<_>>())?)
}

impl Fold {
    fn apply(self, graph: &mut Graph) -> Result<()> {
        let Fold { norm, output, layer, weight, bias_at, bias } = self;
        let weight_name = graph.node(layer).and_then(|n| n.input_at(1)).unwrap_or("weight").to_owned();
        graph.give_constant(Use { node: layer, slot: 1 }, &weight_name, &weight)?;
        let bias_name = format!("{output}_bias");
        graph.remove(norm);
        match bias_at {
            BiasAt::Layer(slot) => {
                graph.give_constant(Use { node: layer, slot }, &bias_name, &bias)?;
                graph.edit(layer, |n| {
                    n.take("beta");
                    n.output[0] = output;
                })
            }
            BiasAt::Add(at) => {
                let product = graph.fresh_name(&format!("{output}_product"));
                graph.edit(layer, |n| n.output[0] = product.clone())?;
                graph.give_constant(at, &bias_name, &bias)?;
                graph.edit(at.node, |n| {
                    n.input[1 - at.slot] = product;
                    n.output[0] = output;
                })
            }
            BiasAt::NewAdd => {
                let product = graph.fresh_name(&format!("{output}_product"));
                graph.edit(layer, |n| n.output[0] = product.clone())?;
                let bias = graph.add_constant(&bias_name, &bias);
                let name = graph.fresh_name(&format!("{output}_add"));
                let add = NodeProto {
                    name: Some(name),
                    op_type: Some("Add".to_owned()),
                    input: vec![product, bias],
                    output: vec![output],
                    ..Default::default()
                };
                graph.insert(At::After(layer), add).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, lines, model, node, subgraph, value};
    use super::*;
    use crate::model::{AttributeProto, DataType, TensorProto, attribute};

    const GAMMA: [f32; 4] = [1.5, -0.5, 2.0, 0.25];
    const BETA: [f32; 4] = [0.1, 0.2, -0.3, 0.0];
    const MEAN: [f32; 4] = [0.5, -1.0, 0.0, 2.0];
    const VAR: [f32; 4] = [1.0, 0.25, 4.0, 0.01];

    fn statistics(n: usize) -> Vec<TensorProto> {
        [("g", GAMMA), ("b", BETA), ("m", MEAN), ("v", VAR)].map(|(name, x)| floats(name, &[n], &x[..n])).into()
    }

    fn norm(input: &str, output: &str) -> NodeProto {
        node("BatchNormalization", &format!("{input} g b m v"), output, &[])
    }

    /// The normalization itself, as the operator defines it.
    fn normalized(x: f64, c: usize) -> f64 {
        let (g, b, m, v) = (GAMMA[c] as f64, BETA[c] as f64, MEAN[c] as f64, VAR[c] as f64);
        (x - m) / (v + 1e-5f32 as f64).sqrt() * g + b
    }

    fn numbers(model: &Model, name: &str) -> Vec<f64> {
        model.graph.constant(name).unwrap().unwrap().f64s().unwrap()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + b.abs())
    }

    /// A layer over one pixel, which makes it a matrix product: `[channel](input) -> output`.
    struct Case {
        op: &'static str,
        shape: &'static [usize],
        attributes: Vec<AttributeProto>,
        bias: bool,
        /// The places of the weight that feed an output channel, with the input channel each.
        taps: fn(usize) -> Vec<(usize, usize)>,
        alpha: f64,
        beta: f64,
    }

    fn cases() -> Vec<Case> {
        let case =
            |op, shape, attributes, taps| Case { op, shape, attributes, bias: true, taps, alpha: 1.0, beta: 1.0 };
        vec![
            case("Conv", &[4, 2, 1, 1], vec![], |o| vec![(o * 2, 0), (o * 2 + 1, 1)]),
            Case { bias: false, ..case("Conv", &[4, 2, 1], vec![], |o| vec![(o * 2, 0), (o * 2 + 1, 1)]) },
            case("Conv", &[4, 1, 1, 1], vec![attribute::int("group", 2)], |o| vec![(o, o / 2)]),
            case("ConvTranspose", &[2, 4, 1, 1], vec![], |o| vec![(o, 0), (4 + o, 1)]),
            case("ConvTranspose", &[4, 2, 1, 1], vec![attribute::int("group", 2)], |o| {
                let (group, i) = (o / 2, o % 2);
                vec![(group * 4 + i, group * 2), (group * 4 + 2 + i, group * 2 + 1)]
            }),
            case("Gemm", &[2, 4], vec![], |o| vec![(o, 0), (4 + o, 1)]),
            Case {
                alpha: 0.5,
                beta: 3.0,
                ..case(
                    "Gemm",
                    &[4, 2],
                    vec![attribute::int("transB", 1), attribute::float("alpha", 0.5), attribute::float("beta", 3.0)],
                    |o| vec![(o * 2, 0), (o * 2 + 1, 1)],
                )
            },
        ]
    }

    #[test]
    fn a_folded_layer_computes_the_same() {
        let x = [0.7, -1.3, 0.2, 2.5];
        for case in cases() {
            let size = case.shape.iter().product::<usize>();
            let w: Vec<f32> = (0..size).map(|i| (i as f32 * 0.37).sin()).collect();
            let b = [0.3f32, -0.6, 0.9, 1.2];
            let mut constants = statistics(4);
            constants.push(floats("w", case.shape, &w));
            constants.push(floats("c", &[4], &b));
            let inputs = if case.bias { "x w c" } else { "x w" };
            let nodes = vec![node(case.op, inputs, "h", &case.attributes), norm("h", "y")];
            let mut m = model(15, graph("x", nodes, constants, "y"));
            assert_eq!(sketch::run(&FoldBatchNorm, &mut m).unwrap(), (1, vec![]), "{}", case.op);
            let folded = m.graph.nodes().next().unwrap().1.clone();
            assert_eq!((folded.output_at(0), m.graph.nodes().count()), (Some("y"), 1));
            assert_eq!(m.graph.initializers().count(), 2);
            let new_w = numbers(&m, folded.input_at(1).unwrap());
            let new_b = numbers(&m, folded.input_at(2).unwrap());
            for o in 0..4 {
                let sum = |w: &dyn Fn(usize) -> f64| (case.taps)(o).iter().map(|&(i, c)| w(i) * x[c]).sum::<f64>();
                let bias = if case.bias { b[o] as f64 * case.beta } else { 0.0 };
                let before = normalized(case.alpha * sum(&|i| w[i] as f64) + bias, o);
                let after = case.alpha * sum(&|i| new_w[i]) + new_b[o];
                assert!(close(after, before), "{} channel {o}: {after} for {before}", case.op);
            }
        }
    }

    #[test]
    fn behind_a_matrix_product_the_bias_is_an_addition() {
        let w: Vec<f32> = (0..8).map(|i| i as f32 - 3.0).collect();
        let adds = [(None, 0.0), (Some(node("Add", "h k", "s", &[])), 0.5), (Some(node("Add", "k h", "s", &[])), 0.5)];
        for (add, k) in adds {
            let mut constants = statistics(4);
            constants.extend([floats("w", &[2, 4], &w), floats("k", &[1], &[0.5])]);
            let last = if add.is_some() { "s" } else { "h" };
            let nodes = std::iter::once(node("MatMul", "x w", "h", &[])).chain(add).chain([norm(last, "y")]).collect();
            let mut g = graph("x", nodes, constants, "y");
            g.output = vec![value("y", Some(2))];
            let mut m = model(15, g);
            assert_eq!(sketch::run(&FoldBatchNorm, &mut m).unwrap(), (1, vec![]));
            let g = m.graph.to_proto();
            assert_eq!(lines(&g)[0], "y_product = MatMul(x, w)");
            let addend = g.node[1].input.iter().find(|i| *i != "y_product").unwrap();
            assert!(g.node[1].is("Add") && g.node[1].output == ["y"]);
            let (new_w, new_b) = (numbers(&m, "w"), numbers(&m, addend));
            for o in 0..4 {
                let before = normalized(0.7 * w[o] as f64 - 1.3 * w[4 + o] as f64 + k, o);
                assert!(close(0.7 * new_w[o] - 1.3 * new_w[4 + o] + new_b[o], before));
            }
        }
    }

    #[test]
    fn a_shared_weight_is_copied_and_half_precision_stays_half() {
        let half = Tensor::from_f64(DataType::Float16, vec![4, 1, 1], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let mut constants = statistics(4);
        constants.push(half.to_proto("w"));
        let nodes = vec![node("Conv", "x w", "h", &[]), norm("h", "y"), node("Conv", "x w", "z", &[])];
        let mut m = model(15, graph("x", nodes, constants, "y z"));
        assert_eq!(sketch::run(&FoldBatchNorm, &mut m).unwrap().0, 1);
        assert_eq!(lines(&m.graph.to_proto()), ["y = Conv(x, w_2, y_bias)", "z = Conv(x, w)"]);
        assert_eq!(m.graph.constant("w").unwrap(), Some(half));
        for name in ["w_2", "y_bias"] {
            assert_eq!(m.graph.constant(name).unwrap().unwrap().dtype(), DataType::Float16);
        }
    }

    #[test]
    fn two_normalizations_fold_one_after_the_other() {
        let mut constants = statistics(4);
        constants.push(floats("w", &[4, 1, 1], &[1.0; 4]));
        let nodes = vec![node("Conv", "x w", "h", &[]), norm("h", "i"), norm("i", "y")];
        let mut m = model(15, graph("x", nodes, constants, "y"));
        assert_eq!(sketch::run(&FoldBatchNorm, &mut m).unwrap(), (2, vec![]));
        let (w, b) = (numbers(&m, "w"), numbers(&m, "i_bias"));
        (0..4).for_each(|o| assert!(close(w[o] * 0.4 + b[o], normalized(normalized(0.4, o), o))));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let conv = || node("Conv", "x w", "h", &[]);
        let with = |attribute: AttributeProto| {
            let mut n = norm("h", "y");
            n.set(attribute);
            n
        };
        let body = graph("", vec![node("Neg", "h", "n", &[])], vec![], "n");
        let cases: Vec<(i64, Vec<NodeProto>, &str, &str)> = vec![
            (15, vec![norm("x", "y")], "y", "no node comes before it"),
            (15, vec![node("Relu", "x", "h", &[]), norm("h", "y")], "y", "Relu"),
            (15, vec![conv(), norm("h", "y")], "y h", "is a graph output"),
            (15, vec![conv(), norm("h", "y"), node("Neg", "h", "z", &[])], "y z", "read in 2 places"),
            (15, vec![conv(), norm("h", "y"), node("If", "x", "z", &[subgraph("g", body)])], "y z", "captured"),
            (15, vec![conv(), with(attribute::int("training_mode", 1))], "y", "training mode"),
            (9, vec![conv(), norm("h", "y o")], "y", "outputs for training"),
            (8, vec![conv(), with(attribute::int("spatial", 0))], "y", "not spatial"),
            (6, vec![conv(), norm("h", "y")], "y", "training mode"),
            (15, vec![node("Conv", "x x", "h", &[]), norm("h", "y")], "y", "weight `x` is a graph input"),
            (
                15,
                vec![node("Abs", "x", "d", &[]), node("Conv", "x d", "h", &[]), norm("h", "y")],
                "y",
                "not a constant",
            ),
            (15, vec![node("Conv", "x short", "h", &[]), norm("h", "y")], "y", "does not fit 4 channels"),
            (15, vec![node("Conv", "x huge", "h", &[]), norm("h", "y")], "y", "not be finite"),
            (15, vec![node("MatMul", "x m2", "h", &[]), norm("h", "y")], "y", "rank"),
            (15, vec![node("Add", "x g", "h", &[]), norm("h", "y")], "y", "Add"),
        ];
        for (opset, nodes, outputs, reason) in cases {
            let mut constants = statistics(4);
            constants.push(floats("w", &[4, 1, 1], &[1.0; 4]));
            constants.push(floats("short", &[3, 1, 1], &[1.0; 3]));
            constants.push(floats("huge", &[4, 1, 1], &[f32::MAX; 4]));
            constants.push(floats("m2", &[2, 4], &[1.0; 8]));
            let mut m = model(opset, graph("x", nodes, constants, outputs));
            let (changed, skipped) = sketch::run(&FoldBatchNorm, &mut m).unwrap();
            assert!(changed == 0 && skipped[0].reason.contains(reason), "{reason}: {skipped:?}");
        }
    }
}
