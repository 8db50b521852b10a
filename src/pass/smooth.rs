//! Activations whose channels differ much are divided, and the weights behind them multiplied.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::refusal::{Refusal, float_constant, no, settle};
use super::{Context, Effect, Pass};
use crate::calibrate::{Channels, Statistics};
use crate::error::Result;
use crate::model::{At, DataType, Graph, Model, NodeExt, NodeProto, Tensor, Use};
use crate::number::power_sums;
use crate::rule::{ChannelIndex, Twin, twins};

/// Divides each channel of what MatMul and Gemm read by a factor and multiplies their weights by it, so that few channels
/// with large numbers do not set the step of all others.
///
/// With `x[j]` the largest magnitude of channel `j` and `w[j]` that of the weights that read it, the factors are
/// `x[j]^a / w[j]^(1 - a)`. The exponent is chosen for each value, from 0 to 1 in twentieths, as the one with which rounding is
/// predicted to add least noise to the outputs of all its readers:
///
/// ```text
/// noise = step_x^2 / 12  sum_jk (s[j] w[j, k])^2  +  sum_k step_k^2 / 12  sum_j E[x[j]^2] / s[j]^2
/// ```
///
/// with one step for the value and one for each output channel of a weight (or for the whole weight).
///
/// - **Does**: divides gain and bias of a LayerNormalization in front, or the constant that a Mul in front multiplies with (which
///   is how RMS normalization ends), where nothing else reads their output; else inserts a Mul. Multiplies the weights, and
///   notes the channels of the new value in [`Context::statistics`].
/// - **Skips when** nothing is known of the channels, a weight is read elsewhere too (it would be stored twice), or less than a
///   fifth of the noise would go.
/// - **Before**: `y = x W`. **After**: `y = (x S^-1) (S W)`.
/// - **Source**: Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models*, 2023,
///   equations 3 and 4; the exponent is searched for each value instead of one half for all.
#[derive(Debug, Clone, Copy)]
pub struct Smooth {
    /// How many steps the range of an activation has: 255 for 8 bits.
    pub activation_steps: f64,
    /// The same for weights.
    pub weight_steps: f64,
    /// Whether weights have a step for each output channel.
    pub per_channel: bool,
}

/// The exponents that are tried, in twentieths.
const EXPONENTS: u32 = 20;
/// Factors stay within this and its inverse.
const FURTHEST: f64 = 65536.0;
/// The part of the noise that must not remain.
const WORTH: f64 = 0.8;

impl Pass for Smooth {
    fn name(&self) -> &'static str {
        "smooth"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        // The first of the nodes that read a value stands for all.
        let mut seen = Vec::new();
        let twins = twins(&model.graph)?;
        for id in model.graph.node_ids() {
            let Some(node) = model.graph.node(id).filter(|n| n.is("MatMul") || n.is("Gemm")) else { continue };
            let Some(value) = node.input_at(0).filter(|x| !model.graph.is_constant(x)).map(str::to_owned) else {
                continue;
            };
            if seen.contains(&value) || node.input_at(1).is_none_or(|w| !model.graph.is_constant(w)) {
                continue;
            }
            let outcome = self.read(&model.graph, &value, &cx.statistics, &twins);
            let outcome = outcome.and_then(|found| Ok(found.apply(&mut model.graph, &value, &mut cx.statistics)?));
            settle(outcome, self, model, id, cx)?;
            seen.push(value);
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

/// What is known of a value and its readers.
struct Found {
    weights: Vec<Weight>,
    /// What each channel is divided by.
    factors: Vec<f64>,
    known: Channels,
}

/// A weight that reads the channels.
struct Weight {
    at: Use,
    tensor: Tensor,
    inputs: ChannelIndex,
    outputs: ChannelIndex,
}

impl Smooth {
    fn read(
        &self,
        graph: &Graph,
        value: &str,
        statistics: &Statistics,
        twins: &BTreeMap<String, Twin>,
    ) -> Result<Found, Refusal> {
        let Some(known) = statistics.get(value) else {
            return no(format!("nothing is known of the channels of `{value}`"));
        };
        let count = known.spreads.len();
        let mut weights = Vec::new();
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
            let Some((inputs, outputs)) = channels.filter(|(inputs, _)| inputs.channels() == count) else {
                return no(format!("`{value}` is read otherwise than by its channels"));
            };
            weights.push(Weight { at: Use { node: at.node, slot: 1 }, tensor, inputs, outputs });
        }
        let numbers: Vec<_> = weights.iter().map(|w| w.tensor.f32s()).collect::<Result<_>>()?;
        let weights_of = || weights.iter().zip(&numbers).map(|(w, x)| (w, &**x));
        let mut read = vec![0f64; count];
        for (weight, x) in weights_of() {
            read.iter_mut().zip(weight.inputs.magnitudes(x)).for_each(|(most, m)| *most = most.max(m.into()));
        }
        let held: Vec<f64> = known.spreads.iter().map(|s| s.magnitude()).collect();
        let noise = |factors: &[f64]| weights_of().map(|(w, x)| self.noise(known, w, x, factors)).sum::<f64>();
        let found: Vec<(Vec<f64>, f64)> = (0..=EXPONENTS)
            .into_par_iter()
            .map(|exponent| {
                let factors = factors(&held, &read, f64::from(exponent) / f64::from(EXPONENTS));
                let noise = noise(&factors);
                (factors, noise)
            })
            .collect();
        let plain = noise(&vec![1.0; count]);
        let best = found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        match best.filter(|(_, noise)| *noise < WORTH * plain) {
            Some((factors, _)) => Ok(Found { weights, factors, known: known.clone() }),
            None => no("its channels are alike enough"),
        }
    }

    /// The noise that rounding is predicted to add to what a weight makes of the value, channels divided by factors.
    fn noise(&self, known: &Channels, weight: &Weight, x: &[f32], factors: &[f64]) -> f64 {
        let mut scaled = x.to_vec();
        weight.inputs.scale(&mut scaled, &factors.iter().map(|&f| f as f32).collect::<Vec<f32>>());
        let spreads = || known.spreads.iter().zip(factors).map(|(s, f)| s.scaled(1.0 / f));
        let (low, high) = spreads().fold((0.0, 0.0), |(low, high): (f64, f64), s| (low.min(s.min), high.max(s.max)));
        let step = (high - low) / self.activation_steps;
        let power: f64 = spreads().map(|s| s.mean * s.mean + s.std * s.std).sum();
        let widest = weight.outputs.magnitudes(&scaled);
        let steps = widest.iter().map(|&m| (2.0 * f64::from(m) / self.weight_steps).powi(2));
        let steps: f64 = match self.per_channel {
            true => steps.sum(),
            false => steps.fold(0.0, f64::max) * widest.len() as f64,
        };
        (step * step * power_sums(&scaled).1 + steps * power) / 12.0
    }
}

fn layer(node: &NodeProto) -> bool {
    node.is("MatMul") || (node.is("Gemm") && node.int("transA").unwrap_or(0) == 0)
}

/// `x^a / w^(1 - a)`, in the middle around 1; channels that hold nothing, or that nothing reads, stay.
fn factors(held: &[f64], read: &[f64], exponent: f64) -> Vec<f64> {
    let log = |(&x, &w): (&f64, &f64)| (x > 0.0 && w > 0.0).then(|| exponent * x.ln() - (1.0 - exponent) * w.ln());
    let logs: Vec<Option<f64>> = held.iter().zip(read).map(log).collect();
    let middle = logs.iter().flatten().sum::<f64>() / logs.iter().flatten().count().max(1) as f64;
    logs.iter().map(|l| l.map_or(1.0, |l| (l - middle).exp().clamp(1.0 / FURTHEST, FURTHEST))).collect()
}

impl Found {
    fn apply(&self, graph: &mut Graph, value: &str, statistics: &mut Statistics) -> Result<()> {
        let inverse: Vec<f64> = self.factors.iter().map(|f| 1.0 / f).collect();
        let name = format!("{value}_smooth");
        let smooth = match self.makers(graph, value)? {
            Some(makers) => {
                makers.iter().try_for_each(|(at, tensor)| multiply(graph, *at, tensor, None, &inverse))?;
                graph.rename_value(value, &name)?
            }
            None => self.divided(graph, value, &name, inverse)?,
        };
        for Weight { at, tensor, inputs, .. } in &self.weights {
            multiply(graph, *at, tensor, Some(*inputs), &self.factors)?;
        }
        let spreads = self.known.spreads.iter().zip(&self.factors).map(|(s, f)| s.scaled(1.0 / f)).collect();
        statistics.insert_seen(&smooth, Channels { axis: self.known.axis, spreads });
        Ok(())
    }

    /// The constants that make the channels, where they can be divided in place of the value: gain and bias of a
    /// LayerNormalization, or the last factor of an RMS normalization.
    fn makers(&self, graph: &Graph, value: &str) -> Result<Option<Vec<(Use, Tensor)>>> {
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
                Ok(tensor) if tensor.len() == self.factors.len() && tensor.shape().last() == Some(&tensor.len()) => {
                    makers.push((Use { node: id, slot }, tensor));
                }
                Ok(_) | Err(Refusal::Skip(_)) => return Ok(None),
                Err(Refusal::Fail(e)) => return Err(e),
            }
        }
        Ok((!makers.is_empty()).then_some(makers))
    }

    /// Puts a Mul between the value and the readers.
    fn divided(&self, graph: &mut Graph, value: &str, name: &str, inverse: Vec<f64>) -> Result<String> {
        let (output, node) = (graph.fresh_name(name), graph.fresh_name(&format!("{value}_Mul")));
        let dtype = self.weights.first().map_or(DataType::Float, |w| w.tensor.dtype());
        let factors = Tensor::from_f64(dtype, vec![inverse.len()], &inverse)?;
        let factors = graph.add_constant_beside(value, &format!("{name}_factors"), &factors);
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

/// Lets a node read a constant with its channels multiplied; without an index, its elements are the channels.
fn multiply(graph: &mut Graph, at: Use, tensor: &Tensor, index: Option<ChannelIndex>, factors: &[f64]) -> Result<()> {
    let name = graph.node(at.node).and_then(|n| n.input_at(at.slot)).unwrap_or_default().to_owned();
    let mut x = tensor.f64s()?;
    match index {
        Some(index) => index.scale(&mut x, factors),
        None => x.iter_mut().zip(factors).for_each(|(x, f)| *x *= f),
    }
    graph.give_constant(at, &name, &Tensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &x)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::super::sketch::{floats, graph, model, node};
    use super::*;
    use crate::calibrate::Spread;
    use crate::events::Silent;

    const SMOOTH: Smooth = Smooth { activation_steps: 255.0, weight_steps: 255.0, per_channel: true };

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
