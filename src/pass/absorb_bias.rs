//! What a bias lifts far above a ReLU moves into the next layer.

use super::layer_bias::LayerBias;
use super::refusal::{Refusal, float_constant, held, no, settle};
use super::{Context, Effect, Pass};
use crate::calibrate::Statistics;
use crate::error::Result;
use crate::model::{Graph, Model, NodeExt, NodeId, NodeProto};
use crate::rule::ChannelIndex;

/// Lowers the channels of a ReLU that are hardly ever zero: `c = max(0, mean - 3 std)` goes from the bias in front of it
/// into the biases behind it.
///
/// Equalization can leave a layer with large biases, and with them activations whose numbers all lie far above zero. As
/// long as `x >= c`, `relu(x) = relu(x - c) + c` and `W relu(x) + b = W relu(x - c) + (b + W c)`. For a normal channel that
/// holds of 99.865 % of the numbers.
///
/// - **Does**: changes the biases on both sides of a Relu, or of a Clip from 0 up, and [`Context::statistics`] alike. What
///   holds other numbers than before gets another name.
/// - **Skips when** nothing is known of what goes in, or no channel is that high; something beside a layer with a bias comes
///   before it or reads it; a layer behind it pads its input: a padded 0 would have to become `-c`.
/// - **Before**: `h = W1 x + b1`, `y = W2 relu(h) + b2`. **After**: `h' = W1 x + (b1 - c)`, `y = W2 relu(h') + (b2 + W2 c)`.
/// - **Source**: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section
///   4.1.3, equations 12 to 15 (which do not speak of padding).
#[derive(Debug, Clone, Copy)]
pub struct AbsorbBias;

/// How many standard deviations below the mean numbers may lie and still be taken to stay above zero.
const MARGIN: f64 = 3.0;

impl Pass for AbsorbBias {
    fn name(&self) -> &'static str {
        "absorb-bias"
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        for id in model.graph.node_ids() {
            if model.graph.node(id).is_some_and(|n| n.is("Relu") || n.is("Clip")) {
                let outcome = read(&model.graph, id, &cx.statistics);
                let outcome = outcome.and_then(|moves| Ok(moves.apply(&mut model.graph, &mut cx.statistics)?));
                settle(outcome, self, model, id, cx)?;
            }
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

/// What is to be moved.
struct Moves {
    input: String,
    output: String,
    lowered: Vec<f64>,
    before: LayerBias,
    behind: Vec<(LayerBias, Vec<f64>)>,
}

fn read(graph: &Graph, id: NodeId, statistics: &Statistics) -> Result<Moves, Refusal> {
    let Some(relu) = graph.node(id) else { return no("it was removed") };
    let (Some(input), Some(output)) = (relu.input_at(0), relu.output_at(0)) else {
        return no("its input or output is missing");
    };
    if relu.is("Clip") {
        let low = float_constant(graph, relu, 1, "lower bound")?.f64s()?;
        if low.iter().any(|&x| x != 0.0) || relu.input_at(2).is_some() {
            return no("it has another bound than 0 below");
        }
    }
    let Some(known) = statistics.get(input).filter(|k| k.axis == 1) else {
        return no(format!("nothing is known of the channels of `{input}`"));
    };
    let lowered: Vec<f64> = known.spreads.iter().map(|s| (s.mean - MARGIN * s.std).max(0.0)).collect();
    if lowered.iter().all(|&c| c == 0.0) {
        return no("no channel lies that high");
    }
    if let Some(reason) = held(graph, input) {
        return no(reason);
    }
    let Some((layer, 0)) = graph.producer(input) else { return no("no layer comes before it") };
    let (weight, _, outputs) = layer_weight(graph, layer)?;
    if outputs.channels() != lowered.len() {
        return no("the layer before it has another number of channels");
    }
    let before = LayerBias::of(graph, layer, lowered.len(), &weight)?.map_err(Refusal::Skip)?;
    if graph.is_pinned(output) {
        return no(format!("`{output}` is a graph output, or captured"));
    }
    let mut behind = Vec::new();
    for at in graph.uses(output) {
        let (weight, inputs, outputs) = layer_weight(graph, at.node)?;
        let Some(node) = graph.node(at.node).filter(|_| at.slot == 0 && inputs.channels() == lowered.len()) else {
            return no(format!("{} reads it otherwise than by its channels", graph.label(at.node)));
        };
        if pads(node) {
            return no(format!("{} pads it", graph.label(at.node)));
        }
        let bias = LayerBias::of(graph, at.node, outputs.channels(), &weight)?.map_err(Refusal::Skip)?;
        let mut raised = weight.f64s()?;
        inputs.scale(&mut raised, &lowered);
        let alpha = if node.is("Gemm") { node.float("alpha").unwrap_or(1.0) } else { 1.0 };
        behind.push((bias, outputs.sums(&raised).into_iter().map(|x| x * f64::from(alpha)).collect()));
    }
    Ok(Moves { input: input.to_owned(), output: output.to_owned(), lowered, before, behind })
}

/// The constant weight of a Conv, ConvTranspose or Gemm, and its channels.
fn layer_weight(graph: &Graph, id: NodeId) -> Result<(crate::model::Tensor, ChannelIndex, ChannelIndex), Refusal> {
    let Some(node) = graph.node(id).filter(|n| ["Conv", "ConvTranspose", "Gemm"].iter().any(|op| n.is(op))) else {
        return no(format!("{} is no layer with a bias", graph.label(id)));
    };
    let weight = float_constant(graph, node, 1, "weight")?;
    let indices = (ChannelIndex::inputs(node, weight.shape()), ChannelIndex::outputs(node, weight.shape()));
    match indices {
        (Some(inputs), Some(outputs)) if node.int("transA").unwrap_or(0) == 0 => Ok((weight, inputs, outputs)),
        _ => no(format!("the weight of {} has an unusual shape", graph.label(id))),
    }
}

/// Whether part of a kernel may see padded zeros. What ConvTranspose leaves out at the edges counts as that.
fn pads(node: &NodeProto) -> bool {
    let auto = !matches!(node.string("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID");
    let explicit = node.ints("pads").is_some_and(|p| p.iter().any(|&x| x != 0));
    let wide = node.is("ConvTranspose") && node.ints("kernel_shape").is_none_or(|k| k.iter().any(|&x| x != 1));
    auto || explicit || wide
}

impl Moves {
    fn apply(self, graph: &mut Graph, statistics: &mut Statistics) -> Result<()> {
        let down: Vec<f64> = self.lowered.iter().map(|c| -c).collect();
        self.before.shift(graph, &down)?;
        for (bias, up) in &self.behind {
            bias.shift(graph, up)?;
        }
        statistics.change(&self.input, |c, s| *s = s.shifted(down[c]));
        statistics.change(&self.output, |c, s| {
            *s = s.shifted(down[c]);
            s.min = s.min.max(0.0);
        });
        for value in [&self.input, &self.output] {
            let name = format!("{value}_lowered");
            statistics.rename(value, &graph.rename_value(value, &name)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{floats, graph, model, node};
    use super::*;
    use crate::calibrate::{Channels, Spread};
    use crate::events::Silent;
    use crate::model::attribute;
    use crate::number::Normal;

    fn numbers(model: &Model, name: &str) -> Vec<f64> {
        model.graph.constant(name).unwrap().unwrap().f64s().unwrap()
    }

    /// `x -> Conv -> a -> Relu -> b -> Gemm-like Conv -> y` with what is known of `a`.
    fn run(nodes: Vec<NodeProto>, outputs: &str) -> (Model, usize, Vec<super::super::Skipped>, Statistics) {
        let constants = vec![
            floats("w1", &[2, 1, 1, 1], &[1.0, 1.0]),
            floats("b1", &[2], &[10.0, 1.0]),
            floats("w2", &[1, 2, 1, 1], &[2.0, 5.0]),
            floats("b2", &[1], &[0.5]),
            floats("zero", &[], &[0.0]),
            floats("six", &[], &[6.0]),
        ];
        let mut m = model(13, graph("x", nodes, constants, outputs));
        let mut cx = Context::new(None, &Silent);
        let spread = |mean, std| Spread::normal(Normal { mean, std });
        let spreads = vec![spread(10.0, 2.0), spread(1.0, 2.0)];
        cx.statistics.insert("a", Channels { axis: 1, spreads });
        let changed = super::super::run(&AbsorbBias, &mut m, &mut cx).unwrap();
        (m, changed, cx.skipped, cx.statistics)
    }

    #[test]
    fn what_lies_high_moves_behind() {
        for cut in [node("Relu", "a", "b", &[]), node("Clip", "a zero", "b", &[])] {
            let nodes = vec![node("Conv", "x w1 b1", "a", &[]), cut, node("Conv", "b w2 b2", "y", &[])];
            let (m, changed, _, statistics) = run(nodes, "y");
            assert_eq!(changed, 1);
            // mean - 3 std = 4 of the first channel, which counts twice behind.
            assert_eq!((numbers(&m, "b1"), numbers(&m, "b2")), (vec![6.0, 1.0], vec![8.5]));
            assert_eq!(statistics.get("a_lowered").unwrap().spreads[0].mean, 6.0);
        }
    }

    #[test]
    fn a_bias_is_made_where_there_is_none() {
        let nodes = vec![node("Conv", "x w1", "a", &[]), node("Relu", "a", "b", &[]), node("Conv", "b w2", "y", &[])];
        let (m, changed, ..) = run(nodes, "y");
        assert_eq!((changed, numbers(&m, "a_bias"), numbers(&m, "y_bias")), (1, vec![-4.0, 0.0], vec![8.0]));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let conv = || node("Conv", "x w1 b1", "a", &[]);
        let relu = || node("Relu", "a", "b", &[]);
        let next = |attributes: &[_]| node("Conv", "b w2 b2", "y", attributes);
        let cases = [
            (vec![conv(), relu(), next(&[attribute::ints("pads", &[1, 1, 1, 1])])], "y", "pads it"),
            (vec![conv(), relu(), next(&[attribute::string("auto_pad", "SAME_UPPER")])], "y", "pads it"),
            (vec![conv(), relu(), next(&[])], "y b", "graph output"),
            (vec![conv(), relu(), next(&[]), node("Abs", "b", "z", &[])], "y z", "no layer with a bias"),
            (vec![conv(), node("Clip", "a zero six", "b", &[]), next(&[])], "y", "another bound"),
            (vec![conv(), relu(), next(&[]), node("Abs", "a", "z", &[])], "y z", "read in 2 places"),
            (vec![conv(), node("Abs", "a", "c", &[]), node("Relu", "c", "b", &[]), next(&[])], "y", "nothing is known"),
        ];
        for (nodes, outputs, reason) in cases {
            let (_, changed, skipped, _) = run(nodes, outputs);
            assert!(changed == 0 && skipped[0].reason.contains(reason), "{reason}: {skipped:?}");
        }
    }
}
