//! Activations whose channels differ much are divided, and the weights behind them multiplied.

mod code_noise;
mod step_noise;

use std::collections::BTreeMap;

use super::refusal::{Refusal, float_constant, no, settle};
use super::{Context, Effect, Pass};
use crate::calibrate::{Channels, Statistics};
use crate::error::Result;
use crate::model::{At, DataType, Graph, Model, NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::rule::{ChannelIndex, Patches, Twin, twins};

pub use code_noise::CodeNoise;
pub use step_noise::StepNoise;

/// Divides each channel of what MatMul and Gemm read by a factor and multiplies their weights by it, so that rounding adds less
/// noise to their outputs.
///
/// - **Does**: divides gain and bias of a LayerNormalization in front, or the constant that a Mul in front multiplies with (which
///   is how RMS normalization ends), where nothing else reads their output; else inserts a Mul. Multiplies the weights, and
///   notes the channels of the new value in [`Context::statistics`], where those of the old one are known.
/// - **Skips when** the measure of noise knows nothing of the channels, a weight is read elsewhere too (it would be stored
///   twice), numbers would no longer fit their type, or less than a fifth of the noise would go.
/// - **Before**: `y = x W`. **After**: `y = (x S^-1) (S W)`.
/// - **Source**: that of the measure.
#[derive(Clone, Copy)]
pub struct Smooth<'a> {
    /// The noise that the factors are to make small.
    pub noise: Noise<'a>,
}

/// What rounding is taken to do to the outputs of layers.
#[derive(Clone, Copy)]
pub enum Noise<'a> {
    /// Values and weights are rounded: SmoothQuant.
    Steps(StepNoise),
    /// Weights alone are: AWQ.
    Codes(CodeNoise<'a>),
}

/// The exponents that are tried, in twentieths.
const EXPONENTS: u32 = 20;
/// Factors stay within this and its inverse.
const FURTHEST: f64 = 65536.0;
/// The part of the noise that must not remain.
const WORTH: f64 = 0.8;

impl Pass for Smooth<'_> {
    fn name(&self) -> &'static str {
        "smooth"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let mut seen = Vec::new();
        let mut places = Vec::new();
        let twins = twins(&model.graph)?;
        for id in model.graph.node_ids() {
            let Some(node) = model.graph.node(id).filter(|n| n.is("MatMul") || n.is("Gemm")) else { continue };
            let Some(value) = node.input_at(0).filter(|x| !model.graph.is_constant(x)).map(str::to_owned) else {
                continue;
            };
            if seen.contains(&value) || node.input_at(1).is_none_or(|w| !model.graph.is_constant(w)) {
                continue;
            }
            match Place::of(&model.graph, id, &value, &twins) {
                Ok(place) => places.push(place),
                Err(refusal) => settle(Err(refusal), self, model, id, cx)?,
            }
            seen.push(value);
        }
        let chosen = match &self.noise {
            Noise::Steps(noise) => places.iter().map(|place| noise.factors(place, &cx.statistics)).collect(),
            Noise::Codes(noise) => noise.factors(model, &places, cx)?,
        };
        for (place, factors) in places.iter().zip(chosen) {
            let apply = |factors: Vec<f64>| place.apply(&mut model.graph, &factors, &mut cx.statistics);
            let outcome = factors.and_then(apply);
            settle(outcome, self, model, place.node, cx)?;
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

/// A value whose channels can be divided, and the weights that read it.
struct Place {
    /// The first of the nodes that read it, which stands for all.
    node: NodeId,
    value: String,
    channels: usize,
    /// How the weights read it.
    patches: Patches,
    weights: Vec<Weight>,
}

/// A weight that reads the channels.
struct Weight {
    at: Use,
    tensor: Tensor,
    inputs: ChannelIndex,
    outputs: ChannelIndex,
}

/// A constant to be read in the place of another.
type Edit = (Use, Tensor);

impl Place {
    fn of(graph: &Graph, id: NodeId, value: &str, twins: &BTreeMap<String, Twin>) -> Result<Place, Refusal> {
        let mut weights: Vec<Weight> = Vec::new();
        let mut patches = None;
        for at in graph.uses(value).iter().filter(|at| at.slot == 0) {
            let Some(node) = graph.node(at.node).filter(|n| layer(n)) else { continue };
            let Some(name) = node.input_at(1).filter(|w| graph.is_constant(w)) else { continue };
            let alone = graph.only_use(name).is_some() && !twins.contains_key(name);
            if !alone || !graph.captured_by(name).is_empty() || graph.is_shared(name) {
                return no(format!("`{name}` is read elsewhere too"));
            }
            let tensor = float_constant(graph, node, 1, "weight")?;
            let shape = tensor.shape();
            let channels = ChannelIndex::inputs(node, shape).zip(ChannelIndex::outputs(node, shape));
            let alike = |inputs: &ChannelIndex| weights.iter().all(|w| w.inputs.channels() == inputs.channels());
            let Some((inputs, outputs)) = channels.filter(|(inputs, _)| alike(inputs)) else {
                return no(format!("`{value}` is read otherwise than by its channels"));
            };
            patches = patches.or(Patches::of(node, shape));
            weights.push(Weight { at: Use { node: at.node, slot: 1 }, tensor, inputs, outputs });
        }
        let Some((patches, first)) = patches.zip(weights.first()) else {
            return no(format!("`{value}` is read otherwise than by its channels"));
        };
        Ok(Place { node: id, value: value.to_owned(), channels: first.inputs.channels(), patches, weights })
    }

    /// Divides the channels of the value, and multiplies those of the weights.
    fn apply(&self, graph: &mut Graph, factors: &[f64], statistics: &mut Statistics) -> Result<(), Refusal> {
        let inverse: Vec<f64> = factors.iter().map(|f| 1.0 / f).collect();
        let makers = self.makers(graph)?;
        let divided = makers.iter().flatten().map(|(at, tensor)| Ok((*at, multiplied(tensor, None, &inverse)?)));
        let scaled = self.weights.iter().map(|w| Ok((w.at, multiplied(&w.tensor, Some(w.inputs), factors)?)));
        let edits = divided.chain(scaled).collect::<Result<Vec<Edit>, Refusal>>()?;
        let dtype = self.weights.first().map_or(DataType::Float, |w| w.tensor.dtype());
        let ones = Tensor::from_f64(dtype, vec![inverse.len()], &vec![1.0; inverse.len()])?;
        let inverses = multiplied(&ones, None, &inverse)?;

        let name = format!("{}_smooth", self.value);
        let known = statistics.get(&self.value).cloned();
        let smooth = match makers {
            Some(_) => graph.rename_value(&self.value, &name)?,
            None => self.divided(graph, &name, &inverses)?,
        };
        for (at, tensor) in edits {
            let name = graph.node(at.node).and_then(|n| n.input_at(at.slot)).unwrap_or_default().to_owned();
            graph.give_constant(at, &name, &tensor)?;
        }
        if let Some(Channels { axis, spreads }) = known {
            let spreads = spreads.iter().zip(&inverse).map(|(s, &f)| s.scaled(f)).collect();
            statistics.insert_seen(&smooth, Channels { axis, spreads });
        }
        Ok(())
    }

    /// The constants that make the channels, where they can be divided in place of the value: gain and bias of a
    /// LayerNormalization, or the last factor of an RMS normalization.
    fn makers(&self, graph: &Graph) -> Result<Option<Vec<Edit>>> {
        let value = &self.value;
        let Some((id, 0)) = graph.producer(value).filter(|_| !graph.is_pinned(value)) else { return Ok(None) };
        let ours = |at: &Use| at.slot == 0 && self.weights.iter().any(|w| w.at.node == at.node);
        let Some(node) = graph.node(id).filter(|_| graph.uses(value).iter().all(ours)) else { return Ok(None) };
        let slots: Vec<usize> = match node.op_type() {
            "LayerNormalization" => (1..3).filter(|&s| node.input_at(s).is_some()).collect(),
            "Mul" => (0..2).filter(|&s| node.input_at(s).is_some_and(|x| graph.is_constant(x))).collect(),
            _ => return Ok(None),
        };
        let mut makers = Vec::new();
        for slot in slots {
            match float_constant(graph, node, slot, "factor") {
                Ok(tensor) if tensor.len() == self.channels && tensor.shape().last() == Some(&tensor.len()) => {
                    makers.push((Use { node: id, slot }, tensor));
                }
                Ok(_) | Err(Refusal::Skip(_)) => return Ok(None),
                Err(Refusal::Fail(e)) => return Err(e),
            }
        }
        Ok((!makers.is_empty()).then_some(makers))
    }

    /// Puts a Mul between the value and the readers.
    fn divided(&self, graph: &mut Graph, name: &str, inverses: &Tensor) -> Result<String> {
        let value = &self.value;
        let (output, node) = (graph.fresh_name(name), graph.fresh_name(&format!("{value}_Mul")));
        let factors = graph.add_constant_beside(value, &format!("{name}_factors"), inverses);
        let mul = NodeProto {
            name: Some(node),
            op_type: Some("Mul".to_owned()),
            input: vec![value.to_owned(), factors],
            output: vec![output.clone()],
            ..Default::default()
        };
        graph.insert(graph.producer(value).map_or(At::Start, |(id, _)| At::After(id)), mul)?;
        self.weights.iter().try_for_each(|w| graph.set_input(Use { slot: 0, ..w.at }, &output))?;
        Ok(output)
    }
}

fn layer(node: &NodeProto) -> bool {
    node.is("MatMul") || (node.is("Gemm") && node.int("transA").unwrap_or(0) == 0)
}

/// Factors of these logarithms, in the middle around 1; channels without one stay.
fn around_one(logs: &[Option<f64>]) -> Vec<f64> {
    let middle = logs.iter().flatten().sum::<f64>() / logs.iter().flatten().count().max(1) as f64;
    logs.iter().map(|l| l.map_or(1.0, |l| (l - middle).exp().clamp(1.0 / FURTHEST, FURTHEST))).collect()
}

/// The constant with its channels multiplied; without an index, its elements are the channels.
fn multiplied(tensor: &Tensor, index: Option<ChannelIndex>, factors: &[f64]) -> Result<Tensor, Refusal> {
    let mut x = tensor.f64s()?;
    match index {
        Some(index) => index.scale(&mut x, factors),
        None => x.iter_mut().zip(factors).for_each(|(x, f)| *x *= f),
    }
    let scaled = Tensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &x)?;
    match scaled.reals()?.iter().all(|x| x.is_finite()) {
        true => Ok(scaled),
        false => no("numbers would not fit their type"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::super::sketch::{floats, graph, model, node};
    use super::*;
    use crate::calibrate::Spread;
    use crate::events::Silent;

    const SMOOTH: Smooth<'_> =
        Smooth { noise: Noise::Steps(StepNoise { activation_steps: 255.0, weight_steps: 255.0, per_channel: true }) };

    /// Two MatMul that read a normalized value, whose first channel is large; `extra` reads it too.
    fn attention(extra: Option<NodeProto>) -> (Model, Statistics) {
        let weights = |from: usize| (0..12).map(|i| ((i * 7 + from) % 11) as f32 * 0.1 - 0.5).collect::<Vec<f32>>();
        let nodes = vec![
            node("LayerNormalization", "x gain bias", "n", &[]),
            node("MatMul", "n w1", "q", &[]),
            node("MatMul", "n w2", "k", &[]),
        ];
        let constants = vec![
            floats("gain", &[4], &[40.0, 1.0, 1.0, 0.5]),
            floats("bias", &[4], &[1.0, 0.0, 0.5, 0.0]),
            floats("w1", &[4, 3], &weights(0)),
            floats("w2", &[4, 3], &weights(5)),
        ];
        let outputs = if extra.is_some() { "q k e" } else { "q k" };
        let model = model(17, graph("x", nodes.into_iter().chain(extra).collect(), constants, outputs));
        let spread = |std: f64| Spread { mean: 0.0, std, min: -3.0 * std, max: 3.0 * std };
        let mut known = Statistics::default();
        known.insert("n", Channels { axis: 2, spreads: [40.0, 1.0, 1.0, 0.5].map(spread).to_vec() });
        (model, known)
    }

    fn numbers(model: &Model, at: &str, slot: usize) -> Vec<f64> {
        let (id, _) = model.graph.producer(at).unwrap();
        let name = model.graph.node(id).unwrap().input_at(slot).unwrap();
        model.graph.constant(name).unwrap().unwrap().f64s().unwrap()
    }

    #[test]
    fn gains_in_front_are_divided_and_the_product_stays() {
        let (before, known) = attention(None);
        let (mut after, mut cx) = (before.clone(), Context::new(None, &Silent));
        cx.statistics = known;
        assert_eq!(run(&SMOOTH, &mut after, &mut cx).unwrap(), 1);
        assert!(after.graph.nodes().all(|(_, n)| !n.is("Mul")));
        let normalized = after.graph.nodes().find(|(_, n)| n.is("LayerNormalization")).unwrap().1.output[0].clone();
        let gains = (numbers(&before, "n", 1), numbers(&after, &normalized, 1));
        let factors: Vec<f64> = gains.0.iter().zip(&gains.1).map(|(a, b)| a / b).collect();
        assert!(factors[0] > 4.0 * factors[1], "{factors:?}");
        for made in ["q", "k"] {
            let (old, new) = (numbers(&before, made, 1), numbers(&after, made, 1));
            for (i, (old, new)) in old.iter().zip(&new).enumerate() {
                assert!((old * factors[i / 3] - new).abs() < 1e-5, "{made} {i}");
            }
        }
        // What is known of the value follows it.
        let reach: Vec<f64> = cx.statistics.get(&normalized).unwrap().spreads.iter().map(|s| s.max).collect();
        assert!((reach[0] * factors[0] - 120.0).abs() < 1e-3 && reach[0] < 4.0 * reach[1], "{reach:?}");
    }

    #[test]
    fn where_something_else_reads_it_a_mul_divides() {
        let (before, known) = attention(Some(node("Relu", "n", "e", &[])));
        let (mut after, mut cx) = (before.clone(), Context::new(None, &Silent));
        cx.statistics = known;
        assert_eq!(run(&SMOOTH, &mut after, &mut cx).unwrap(), 1);
        assert_eq!(numbers(&after, "n", 1), numbers(&before, "n", 1));
        let (_, mul) = after.graph.nodes().find(|(_, n)| n.is("Mul")).unwrap();
        assert_eq!(mul.input[0], "n");
        assert_eq!(after.graph.uses(&mul.output[0]).len(), 2);
        assert_eq!(after.graph.uses("n").len(), 2);
    }

    #[test]
    fn what_is_alike_or_not_known_or_shared_stays() {
        let (before, known) = attention(None);
        let mut even = known.clone();
        even.change("n", |_, s| *s = Spread { mean: 0.0, std: 1.0, min: -3.0, max: 3.0 });
        let shared = attention(Some(node("MatMul", "x w1", "e", &[]))).0;
        let cases = [(&before, Statistics::default(), "nothing is known"), (&before, even, "alike enough")];
        for (model, statistics, why) in cases.into_iter().chain([(&shared, known, "read elsewhere too")]) {
            let (mut after, mut cx) = (model.clone(), Context::new(None, &Silent));
            cx.statistics = statistics;
            assert_eq!(run(&SMOOTH, &mut after, &mut cx).unwrap(), 0);
            assert!(cx.skipped.iter().any(|s| s.reason.contains(why)), "{why}: {:?}", cx.skipped);
            assert_eq!(after.to_bytes().unwrap(), model.to_bytes().unwrap());
        }
    }
}
