//! Channels are scaled so that the ranges of their neighbours become alike.

use std::collections::BTreeMap;

use multiversion::multiversion;

use super::rescale::change;
use super::{Bounds, Context, Effect, Pass, Rescale};
use crate::calibrate::Statistics;
use crate::error::Result;
use crate::model::{Graph, Model, NodeExt, NodeId, Tensor};
use crate::scaling::{Group, Part, Scaling, Shapes, Site};

/// Scales channels so that none wastes the range it shares with others: cross-layer equalization, with the ranges of
/// activations in it.
///
/// Every channel `i` of a [`Group`] has a range on the side that makes it, `m[i]`, and one on the side that reads it,
/// `r[i]`, each relative to the widest channel of its tensor. With `s[i] = sqrt(m[i] / r[i])` both become `sqrt(m[i] r[i])`
/// and the product of the two, which is what rounding to a common step loses, is least. `m[i]` is the largest of the
/// relative ranges of all weights that make the channel and of the activations that hold it (where
/// [`Context::statistics`] know them); `r[i]` the largest of those of all weights that read it. A group changes the
/// ranges of its neighbours, so all are visited in turn until none moves by more than five percent.
///
/// - **Does**: divides and multiplies weights, biases, gains of normalizations and statistics; moves the bounds of ReLU6
///   and Clip as [`Bounds`] says.
/// - **Ranges that do not count**: with a scale a channel of weights, what makes a channel has a scale of its own for
///   each, and so has a depthwise weight that reads it. Gains are not quantized.
/// - **Leaves alone**: with [`Bounds::Loose`], groups where looser bounds would change what comes out of them by more than
///   -40 dB, as far as statistics tell; with a scale a channel of weights, channels that several layers make together (a residual sum): then
///   there is nothing to gain but for the activations, whose ranges differ from sum to sum; channels that are all zero on one side; groups with weights that are not finite or past `1e30`.
///   Factors stay within `2^-16` and `2^16`.
/// - **Before**: `y = W2 relu(W1 x + b1)`. **After**: `y = (W2 S) relu((S^-1 W1) x + S^-1 b1)`.
/// - **Source**: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, equations
///   7 to 11 (two weights, no activations); Xiao et al., *SmoothQuant*, 2023, equation 4 (activations and one weight).
#[derive(Debug, Clone, Copy)]
pub struct Equalize<'a> {
    /// The shapes of the model's values; where one is missing, channels are not followed through what depends on it.
    pub shapes: &'a Shapes,
    /// Whether weights are going to have a scale a channel.
    pub per_channel: bool,
    /// What becomes of ReLU6 and Clip.
    pub bounds: Bounds,
}

/// The furthest a factor may be from 1, and how little a group may move before it counts as settled.
const FURTHEST: f64 = 65536.0;
const SETTLED: f64 = 0.05;
/// Weights with larger numbers are left alone: they could overflow.
const HUGE: f32 = 1e30;
/// No group is visited more often.
const SWEEPS: usize = 100;
/// A group stays as it is where a looser bound would change more than this part of the power of a value.
const MOST_CHANGED: f64 = 1e-4;
/// A range below this part of the widest is taken for zero.
const NOTHING: f64 = 1e-9;

impl Pass for Equalize<'_> {
    fn name(&self) -> &'static str {
        "equalize"
    }

    fn effect(&self) -> Effect {
        Rescale { groups: Vec::new(), bounds: self.bounds }.effect()
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let scaling = Scaling::of(&model.graph, self.shapes)?;
        let factors = factors(&model.graph, &scaling.groups, self.per_channel, &cx.statistics)?;
        let kept = |(group, factors): (_, Option<Vec<f64>>)| {
            let factors = factors?;
            let moved = self.bounds == Bounds::Loose;
            let changed = if moved { change(&model.graph, group, &factors, &cx.statistics) } else { 0.0 };
            (changed <= MOST_CHANGED).then_some((group, factors))
        };
        let groups = scaling.groups.iter().zip(factors).filter_map(kept).collect();
        Rescale { groups, bounds: self.bounds }.run(model, cx)
    }
}

/// The factors of every group; `None` for one that is left alone.
fn factors(
    graph: &Graph,
    groups: &[Group],
    per_channel: bool,
    statistics: &Statistics,
) -> Result<Vec<Option<Vec<f64>>>> {
    let mut weights = Weights { per_channel, ..Weights::default() };
    let mut sides = Vec::with_capacity(groups.len());
    for (g, group) in groups.iter().enumerate() {
        let sum = group.producers.iter().filter(|s| s.part == Part::Weight).count() > 1;
        sides.push(match per_channel && sum {
            true => None,
            false => Sides::of(graph, g, group, statistics, &mut weights)?,
        });
    }
    let mut settled = vec![false; groups.len()];
    for _ in 0..SWEEPS {
        for (g, side) in sides.iter_mut().enumerate() {
            let Some(side) = side.as_mut().filter(|_| !settled[g]) else { continue };
            let moved = side.visit(&mut weights);
            settled[g] = true;
            if moved > SETTLED {
                let touched = side.makers.iter().chain(&side.readers).flat_map(|end| &weights.all[end.weight].groups);
                touched.for_each(|&other| settled[other] = false);
            }
        }
        if settled.iter().zip(&sides).all(|(&settled, side)| settled || side.is_none()) {
            break;
        }
    }
    Ok(sides.into_iter().map(|s| s.map(|s| s.factors)).collect())
}

/// The weights whose ranges count, each once.
#[derive(Default)]
struct Weights {
    per_channel: bool,
    all: Vec<Weight>,
    places: BTreeMap<NodeId, usize>,
}

/// The magnitudes of a weight, the largest of each kernel, and what its channels were multiplied with so far.
struct Weight {
    /// Axis 1, and how many of axis 0 share the same channels on it.
    columns: usize,
    rows_a_group: usize,
    magnitudes: Vec<f32>,
    /// Whether the output channels lie on axis 0.
    outputs_first: bool,
    /// Factors of the channels on axis 0, and of those on axis 1 (of all groups).
    rows: Vec<f32>,
    across: Vec<f32>,
    /// The groups that multiply it.
    groups: Vec<usize>,
}

/// A weight that makes or reads the channels of a group.
struct End {
    weight: usize,
    outputs: bool,
    channels: Vec<Option<usize>>,
}

/// Both sides of a group.
struct Sides {
    makers: Vec<End>,
    readers: Vec<End>,
    /// The activations that hold the channels, with the magnitude that each channel reaches.
    held: Vec<(Vec<Option<usize>>, Vec<f64>)>,
    factors: Vec<f64>,
}

impl Weights {
    fn place(&mut self, graph: &Graph, site: &Site, group: usize) -> Result<Option<usize>> {
        let id = site.at.node;
        if let Some(&place) = self.places.get(&id) {
            self.all[place].groups.push(group);
            return Ok(Some(place));
        }
        let Some(node) = graph.node(id) else { return Ok(None) };
        let Some(tensor) = node.input_at(site.at.slot).map(|n| graph.constant(n)).transpose()?.flatten() else {
            return Ok(None);
        };
        let weight = Weight::of(node.op_type(), node.int("transB"), node.int("group"), &tensor, group)?;
        Ok(weight.map(|weight| {
            self.all.push(weight);
            self.places.insert(id, self.all.len() - 1);
            self.all.len() - 1
        }))
    }
}

impl Weight {
    fn of(
        op: &str,
        trans_b: Option<i64>,
        groups: Option<i64>,
        tensor: &Tensor,
        group: usize,
    ) -> Result<Option<Weight>> {
        let &[rows, columns, ..] = tensor.shape() else { return Ok(None) };
        let kernel: usize = tensor.shape()[2..].iter().product();
        let groups = usize::try_from(groups.unwrap_or(1)).unwrap_or(1).max(1);
        let x = tensor.f32s()?;
        let magnitudes: Vec<f32> = match kernel {
            1 => x.iter().map(|x| x.abs()).collect(),
            _ => x.chunks(kernel.max(1)).map(|k| k.iter().fold(0f32, |m, x| larger(m, x.abs()))).collect(),
        };
        // Counted to the end, which is faster than to look for the first.
        if x.iter().map(|x| u32::from(x.abs() > HUGE || x.is_nan())).sum::<u32>() > 0 {
            return Ok(None);
        }
        Ok(Some(Weight {
            columns,
            rows_a_group: (rows / groups).max(1),
            magnitudes,
            outputs_first: op == "Conv" || (op == "Gemm" && trans_b.unwrap_or(0) != 0),
            rows: vec![1.0; rows],
            across: vec![1.0; columns * groups],
            groups: vec![group],
        }))
    }

    /// The range of each output or input channel. With `own`, that of an input channel is relative to the widest of the
    /// same output channel, which has a scale of its own.
    fn ranges(&self, outputs: bool, own: bool) -> Vec<f32> {
        let mut found = vec![0f32; if outputs == self.outputs_first { self.rows.len() } else { self.across.len() }];
        if outputs == self.outputs_first {
            ranges_of_rows(self, &mut found);
        } else {
            ranges_of_columns(self, own, &mut found);
        }
        found
    }

    /// Each row of the magnitudes, and the place of the first of its columns in `across`.
    fn each_row(&self) -> impl Iterator<Item = (&[f32], usize)> {
        let base = |r: usize| r / self.rows_a_group * self.columns;
        self.magnitudes.chunks_exact(self.columns.max(1)).enumerate().map(move |(r, row)| (row, base(r)))
    }

    /// Takes note of what the channels of one side are multiplied with by now.
    fn set_factors(&mut self, outputs: bool, factors: impl Iterator<Item = f64>) {
        let side = if outputs == self.outputs_first { &mut self.rows } else { &mut self.across };
        side.iter_mut().zip(factors).for_each(|(f, s)| *f = s as f32);
    }
}

#[multiversion(targets = "simd")]
fn ranges_of_rows(weight: &Weight, found: &mut [f32]) {
    for ((row, base), (most, factor)) in weight.each_row().zip(found.iter_mut().zip(&weight.rows)) {
        *most = factor * widest(row, &weight.across[base..base + weight.columns]);
    }
}

#[multiversion(targets = "simd")]
fn ranges_of_columns(weight: &Weight, own: bool, found: &mut [f32]) {
    for ((row, base), factor) in weight.each_row().zip(&weight.rows) {
        let across = &weight.across[base..base + weight.columns];
        let factor = match own {
            true => Some(widest(row, across)).filter(|w| *w > 0.0).map_or(0.0, |w| 1.0 / w),
            false => *factor,
        };
        found[base..].iter_mut().zip(row).for_each(|(m, x)| *m = larger(*m, x * factor));
    }
    found.iter_mut().zip(&weight.across).for_each(|(m, f)| *m *= f);
}

/// The largest product of two rows.
#[inline(always)]
fn widest(row: &[f32], factors: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut most = [0f32; LANES];
    let ((chunks, rest), (of_chunks, of_rest)) = (row.as_chunks::<LANES>(), factors.as_chunks::<LANES>());
    for (x, f) in chunks.iter().zip(of_chunks) {
        for i in 0..LANES {
            most[i] = larger(most[i], x[i] * f[i]);
        }
    }
    let last = rest.iter().zip(of_rest).fold(0f32, |m, (x, f)| larger(m, x * f));
    most.into_iter().fold(last, larger)
}

/// The larger of two numbers that are not NaN; unlike `max` it becomes one instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Sides {
    fn of(
        graph: &Graph,
        number: usize,
        group: &Group,
        statistics: &Statistics,
        weights: &mut Weights,
    ) -> Result<Option<Sides>> {
        let (mut makers, mut readers) = (Vec::new(), Vec::new());
        for (site, reads) in group.sites().filter(|(s, _)| s.part == Part::Weight) {
            let Some(weight) = weights.place(graph, site, number)? else { return Ok(None) };
            let end = End { weight, outputs: !reads, channels: site.channels.clone() };
            if reads { readers.push(end) } else { makers.push(end) }
        }
        let mut held = Vec::new();
        for member in group.values.iter().filter(|m| !only_cut_off(graph, &m.value)) {
            let Some(known) = statistics.get(&member.value).filter(|k| Some(k.axis) == member.axis) else { continue };
            let reach: Vec<f64> = known.spreads.iter().map(|s| s.magnitude()).collect();
            if reach.len() == member.channels.len() && reach.iter().all(|x| x.is_finite()) {
                held.push((member.channels.clone(), reach));
            }
        }
        let known = !held.is_empty() || (!makers.is_empty() && !weights.per_channel);
        Ok(known.then(|| Sides { makers, readers, held, factors: vec![1.0; group.channels] }))
    }

    /// Takes the next step; returns by how much, at most, the logarithm of a factor moved.
    fn visit(&mut self, weights: &mut Weights) -> f64 {
        let count = self.factors.len();
        let (mut made, mut read) = (vec![0f64; count], vec![0f64; count]);
        if !weights.per_channel {
            for end in &self.makers {
                relative(
                    &mut made,
                    &end.channels,
                    weights.all[end.weight].ranges(true, false).into_iter().map(f64::from),
                );
            }
        }
        for (channels, reach) in &self.held {
            let own = Group::spread(channels, &self.factors);
            relative(&mut made, channels, reach.iter().zip(&own).map(|(r, s)| r / s));
        }
        let mut reads = false;
        for end in &self.readers {
            let weight = &weights.all[end.weight];
            if weights.per_channel && weight.outputs_first && weight.columns == 1 {
                continue;
            }
            let ranges = weight.ranges(false, weights.per_channel);
            relative(&mut read, &end.channels, ranges.into_iter().map(f64::from));
            reads = true;
        }
        let step = |m: f64, r: f64| match reads {
            true if m > NOTHING && r > NOTHING => Some(0.5 * (m.ln() - r.ln())),
            false if m > NOTHING => Some(m.ln()),
            _ => None,
        };
        let steps: Vec<Option<f64>> = made.iter().zip(&read).map(|(&m, &r)| step(m, r)).collect();
        let taken = steps.iter().flatten().count().max(1) as f64;
        let middle = steps.iter().flatten().sum::<f64>() / taken;
        let mut moved = 0f64;
        for (factor, step) in self.factors.iter_mut().zip(steps) {
            let Some(step) = step else { continue };
            let new = (*factor * (step - middle).exp()).clamp(1.0 / FURTHEST, FURTHEST);
            moved = moved.max((new / *factor).ln().abs());
            *factor = new;
        }
        for end in self.makers.iter().chain(&self.readers) {
            let own = Group::spread(&end.channels, &self.factors).into_iter();
            let own = own.map(|s| if end.outputs { 1.0 / s } else { s });
            weights.all[end.weight].set_factors(end.outputs, own);
        }
        moved
    }
}

/// Widens the ranges of the group's channels by those of a tensor, relative to the widest there.
fn relative(ranges: &mut [f64], channels: &[Option<usize>], found: impl Iterator<Item = f64> + Clone) {
    let widest = found.clone().fold(0.0, f64::max);
    if widest > 0.0 {
        for (channel, x) in channels.iter().zip(found) {
            if let Some(c) = *channel {
                ranges[c] = ranges[c].max(x / widest);
            }
        }
    }
}

/// Whether a value goes into nothing but a ReLU or Clip: then it is not quantized itself.
fn only_cut_off(graph: &Graph, value: &str) -> bool {
    let reader = graph.only_use(value).and_then(|at| graph.node(at.node));
    reader.is_some_and(|n| n.is("Relu") || n.is("Clip"))
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, model, node, value};
    use super::*;
    use crate::calibrate::{Channels, Spread};
    use crate::events::Silent;
    use crate::model::{Model, attribute};

    fn numbers(model: &Model, name: &str) -> Vec<f64> {
        model.graph.constant(name).unwrap().unwrap().f64s().unwrap()
    }

    fn run(per_channel: bool, model: &mut Model, statistics: Statistics) -> Statistics {
        let mut cx = Context::new(None, &Silent);
        cx.statistics = statistics;
        super::super::run(&Equalize { shapes: &Shapes::new(), per_channel, bounds: Bounds::Loose }, model, &mut cx)
            .unwrap();
        cx.statistics
    }

    /// `x -> Conv(w1, b1) -> a -> middle -> b -> Conv(w2) -> y`, on channels of one pixel.
    fn pair(middle: &str, w1: &[f32], w2: &[f32]) -> Model {
        let n = w1.len();
        let constants = vec![
            floats("w1", &[n, 1, 1, 1], w1),
            floats("b1", &[n], &vec![1.0; n]),
            floats("w2", &[1, n, 1, 1], w2),
            floats("zero", &[], &[0.0]),
            floats("six", &[], &[6.0]),
        ];
        let nodes = vec![
            node("Conv", "x w1 b1", "a", &[]),
            node(middle, "a zero six", "b", &[]),
            node("Conv", "b w2", "y", &[]),
        ];
        let mut g = graph("x", nodes, constants, "y");
        g.node[1].input.truncate(if middle == "Clip" { 3 } else { 1 });
        g.value_info = vec![value("a", Some(4))];
        model(13, g)
    }

    fn spreads(x: &[(f64, f64)]) -> Channels {
        Channels { axis: 1, spreads: x.iter().map(|&(min, max)| Spread { mean: 0.0, std: 1.0, min, max }).collect() }
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs())
    }

    #[test]
    fn both_sides_get_the_same_ranges() {
        let mut m = pair("Relu", &[4.0, 0.5, -1.0], &[0.1, 0.2, 0.9]);
        run(false, &mut m, Statistics::default());
        let (w1, w2) = (numbers(&m, "w1"), numbers(&m, "w2"));
        let relative = |w: &[f64]| {
            let most = w.iter().fold(0f64, |m, x| m.max(x.abs()));
            w.iter().map(|x| x.abs() / most).collect::<Vec<_>>()
        };
        assert!(close(&relative(&w1), &relative(&w2)), "{w1:?} {w2:?}");
        // The function and the biases follow.
        let (b1, products) = (numbers(&m, "b1"), w1.iter().zip(&w2).map(|(a, b)| a * b).collect::<Vec<_>>());
        assert!(close(&products, &[0.4, 0.1, -0.9]), "{products:?}");
        assert!(close(&b1.iter().zip(&w2).map(|(b, w)| b * w).collect::<Vec<_>>(), &[0.1, 0.2, 0.9]));
    }

    #[test]
    fn dead_tiny_and_huge_channels_do_no_harm() {
        let mut m = pair("Relu", &[0.0, 1.0, 1e-30, 1e30, 1.0], &[1.0, 0.0, 1e30, 1e-38, 1.0]);
        run(false, &mut m, Statistics::default());
        let (w1, w2) = (numbers(&m, "w1"), numbers(&m, "w2"));
        assert!(w1.iter().chain(&w2).all(|x| x.is_finite()));
        assert_eq!((w1[0], w2[0], w1[1], w2[1]), (0.0, 1.0, 1.0, 0.0));
        for wild in [f32::NAN, f32::INFINITY, 3e38] {
            let mut m = pair("Relu", &[wild, 1.0], &[1.0, 8.0]);
            run(false, &mut m, Statistics::default());
            assert_eq!(numbers(&m, "w2"), [1.0, 8.0]);
        }
    }

    #[test]
    fn a_depthwise_weight_with_a_scale_a_channel_lets_activations_have_their_way() {
        let constants = vec![
            floats("w1", &[3, 1, 1, 1], &[1.0, 2.0, 3.0]),
            floats("w2", &[3, 1, 1, 1], &[7.0, 1.0, 0.1]),
            floats("w3", &[1, 3, 1, 1], &[1.0, 1.0, 1.0]),
        ];
        let nodes = vec![
            node("Conv", "x w1", "a", &[]),
            node("Relu", "a", "b", &[]),
            node("Conv", "b w2", "c", &[attribute::int("group", 3)]),
            node("Sigmoid", "c", "d", &[]),
            node("Conv", "d w3", "y", &[]),
        ];
        let mut m = model(13, graph("x", nodes, constants, "y"));
        let mut statistics = Statistics::default();
        statistics.insert("b", spreads(&[(0.0, 1.0), (0.0, 10.0), (0.0, 100.0)]));
        let after = run(true, &mut m, statistics);
        let reach: Vec<f64> = after.get("b_scaled").unwrap().spreads.iter().map(|s| s.max).collect();
        assert!(close(&reach, &[10.0, 10.0, 10.0]), "{reach:?}");
        assert!(close(&numbers(&m, "w1"), &[10.0, 2.0, 0.3]));
        assert!(close(&numbers(&m, "w2"), &[0.7, 1.0, 1.0]));
    }

    #[test]
    fn a_bound_moves_to_where_nothing_new_is_cut_off() {
        // Channel 0 reaches its bound, channel 1 does not; afterwards both reach as far.
        let mut statistics = Statistics::default();
        statistics.insert("a", spreads(&[(-9.0, 9.0), (-3.0, 3.0)]));
        let reached = |model: &Model| numbers(model, &model.graph.nodes().nth(1).unwrap().1.input[2].clone());
        let mut m = pair("Clip", &[1.0, 4.0], &[1.0, 1.0]);
        let after = run(false, &mut m, statistics);
        let (w1, bound) = (numbers(&m, "w1"), reached(&m));
        let s = [1.0 / w1[0], 4.0 / w1[1]];
        assert!(close(&bound, &[(6.0 / s[0]).max(3.0 / s[1])]), "{bound:?} {s:?}");
        let scaled: Vec<f64> = after.get("a_scaled").unwrap().spreads.iter().map(|x| x.max).collect();
        assert!(close(&scaled, &[9.0 / s[0], 3.0 / s[1]]), "{scaled:?} {s:?}");
        // Where none reaches it, it goes.
        let mut statistics = Statistics::default();
        statistics.insert("a", spreads(&[(-9.0, 5.0), (-3.0, 3.0)]));
        let mut m = pair("Clip", &[1.0, 4.0], &[1.0, 1.0]);
        run(false, &mut m, statistics);
        assert_eq!(m.graph.nodes().nth(1).unwrap().1.input, ["a_scaled", "zero"]);
    }

    #[test]
    fn a_bound_a_channel_keeps_the_function() {
        let mut m = pair("Clip", &[1.0, 4.0], &[1.0, 1.0]);
        let pass = Equalize { shapes: &Shapes::new(), per_channel: false, bounds: Bounds::Exact };
        assert_eq!(sketch::run(&pass, &mut m).unwrap(), (1, vec![]));
        let lines = sketch::lines(&m.graph.to_proto());
        assert_eq!(lines[1..3], ["b_bounded = Relu(a_scaled)", "b_scaled = Min(b_bounded, b_min)"]);
        let (w1, bounds) = (numbers(&m, "w1"), numbers(&m, "b_min"));
        assert!(close(&bounds, &[6.0 * w1[0], 6.0 * w1[1] / 4.0]));
    }
}
