//! Weights become codes by what they do to the outputs of their layers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::solve::solve;

use crate::calibrate::{MOST_MOMENTS, PatchMoments, gather_moments};
use crate::error::{Place, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Graph, Model, NodeExt, NodeId, Tensor, Use, captures};
use crate::number::{QuantParams, decibels};
use crate::pass::{self, Context, CorrectBias, Insert, has_bias};
use crate::plan::{Part, Plan, Reconstructed};
use crate::round::Rounding;
use crate::rule::{ChannelIndex, Patches, WeightMatrix};
use crate::sample::Samples;

/// What became of a weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundRow {
    /// The layer.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The method that most of its rows owe their codes to.
    pub method: &'static str,
    /// How far the covariances of what it reads were drawn to zero, from 0 to 1, so that the codes hold for other samples too.
    pub shrinkage: f64,
    /// How far the weights follow what quantization in front makes of what it reads, from 0 to 1.
    pub retargeted: f64,
    /// The power of the error of the layer's output relative to that of the output, on the samples, with the nearest codes;
    /// `None` where the output is 0.
    pub before: Option<f64>,
    /// The same with the codes that were chosen.
    pub after: Option<f64>,
}

impl RoundRow {
    /// By how many dB the output came nearer.
    pub fn gain_db(&self) -> Option<f64> {
        self.before.zip(self.after).map(|(before, after)| decibels(before, after))
    }
}

/// What runs samples.
pub(super) struct Source<'a> {
    pub samples: &'a dyn Samples,
    pub picks: &'a [usize],
    pub executor: &'a dyn Executor,
    pub events: &'a dyn Events,
}

/// A weight to be rounded.
pub(super) struct Layer {
    pub initializer: String,
    /// Where it is read; several layers may share a weight.
    pub uses: Vec<Use>,
    pub patches: Patches,
    pub matrix: WeightMatrix,
    pub weight: Tensor,
    pub params: QuantParams,
    /// Whether a bias can make good what rounding does to the mean.
    pub biased: bool,
    /// How many layers lie in front of it on the longest way, where stages ask for it.
    pub depth: usize,
}

/// How codes are chosen stage after stage.
pub(super) struct Stages<'a> {
    /// How many there are at most.
    pub count: usize,
    /// Makes the model in which the weights that have codes by now have them, and all others are float.
    pub partly: &'a dyn Fn(&Reconstructed) -> Result<Model>,
}

/// Chooses codes for the weights of the plan, in the graph itself and not in its bodies, by the second moments of what their
/// layers read; with `corrects`, errors of the mean are left to biases.
///
/// With stages, layers read what comes behind the codes of the stages before theirs. The first ones of a stage make good what they
/// can of what those lost. Then scales and codes take turns, too, which costs time.
///
/// Formats of fewer than 8 bits get scales that are searched for, too, and those with tables of their own other tables. Left to
/// the nearest codes are weights of operators without patches ([`Patches`]), and those whose inputs the samples never show.
pub(super) fn reconstruct(
    model: &Model,
    plan: &Plan,
    rounding: &Rounding,
    corrects: bool,
    stages: Option<Stages<'_>>,
    source: &Source<'_>,
) -> Result<(Reconstructed, Vec<RoundRow>)> {
    let (mut found, mut rows) = (Reconstructed::new(), Vec::new());
    let mut layers = layers(&model.graph, plan, corrects)?;
    let in_stages = match &stages {
        Some(stages) => in_stages(&model.graph, &mut layers, stages.count),
        None => vec![&layers[..]],
    };
    // What is to be made good is what weights do: values that saturate do so in front of float weights too.
    let without = stages.as_ref().map(|stages| (stages.partly)(&found)).transpose()?;
    let exact = without.as_ref().unwrap_or(model);
    for stage in in_stages {
        let depth = stage.first().map_or(0, |layer| layer.depth);
        let partly = stages.as_ref().filter(|_| !found.is_empty()).map(|stages| stages.partly);
        let moved = partly.map(|partly| partly(&found)).transpose()?;
        let mut rest = stage;
        while !rest.is_empty() {
            let count = fitting(&model.graph, rest, moved.is_some());
            let (now, later) = rest.split_at(count);
            let moments = moments_of(&model.graph, exact, moved.as_ref(), now, source)?;
            for (layer, halves) in now.iter().zip(moments) {
                let Some(mut halves) = halves else { continue };
                if layer.depth > depth {
                    // What it reads here is not what it will read behind the layers of its own stage, and what those make good
                    // is not to be made good twice.
                    halves.iter_mut().for_each(|half| half.float = None);
                }
                let at = || format!("initializer `{}`", layer.initializer);
                let (weight, row) = solve(&model.graph, layer, halves, rounding, stages.is_some()).at(at)?;
                found.insert(layer.initializer.clone(), weight);
                rows.push(row);
            }
            rest = later;
        }
    }
    Ok((found, rows))
}

/// Sorts layers by depth, and splits them into at most so many stages of about as many layers each. Layers of one depth are in
/// one stage.
fn in_stages<'a>(graph: &Graph, layers: &'a mut [Layer], count: usize) -> Vec<&'a [Layer]> {
    let depths = depths(graph, layers);
    layers.iter_mut().for_each(|l| l.depth = depths.get(&l.initializer).copied().unwrap_or(0));
    layers.sort_by_key(|l| l.depth);
    let layers = &*layers;
    let stage = |layer: &Layer| layers.partition_point(|l| l.depth < layer.depth) * count / layers.len().max(1);
    layers.chunk_by(|a, b| stage(a) == stage(b)).collect()
}

/// How many layers a sample has passed through before it comes to a weight, by the weight's name: the most on any way.
fn depths(graph: &Graph, layers: &[Layer]) -> BTreeMap<String, usize> {
    let weights: BTreeMap<NodeId, &str> =
        layers.iter().flat_map(|l| l.uses.iter().map(|at| (at.node, l.initializer.as_str()))).collect();
    let (mut of_value, mut of_weight): (BTreeMap<&str, usize>, BTreeMap<String, usize>) = Default::default();
    for (id, node) in graph.nodes() {
        let reads = node.input.iter().map(String::as_str).chain(captures(node));
        let mut depth = reads.filter_map(|x| of_value.get(x)).max().copied().unwrap_or(0);
        if let Some(&weight) = weights.get(&id) {
            let of_weight = of_weight.entry(weight.to_owned()).or_default();
            *of_weight = depth.max(*of_weight);
            depth += 1;
        }
        of_value.extend(node.output.iter().map(|y| (y.as_str(), depth)));
    }
    of_weight
}

/// A prepared model with the codes that were chosen by now and float weights elsewhere. `decide` plans a model with given weights.
pub(super) fn partly(
    prepared: &Model,
    weights: &Reconstructed,
    decide: impl Fn(&Model, &Reconstructed) -> Result<Plan>,
    events: &dyn Events,
) -> Result<Model> {
    let mut model = prepared.clone();
    let mut cx = Context::new(None, events);
    let plan = |model: &Model| {
        let mut plan = decide(model, weights)?;
        plan.keep_chosen_weights();
        Ok(plan)
    };
    let first = plan(&model)?;
    pass::run(&CorrectBias { plan: &first }, &mut model, &mut cx)?;
    let plan = plan(&model)?;
    pass::run(&Insert { plan: &plan }, &mut model, &mut cx)?;
    Ok(model)
}

fn layers(graph: &Graph, plan: &Plan, corrects: bool) -> Result<Vec<Layer>> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut places: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for (&at, decision) in plan.constants.iter().filter(|(_, d)| d.part == Part::Weight) {
        let Some(node) = graph.node(at.node) else { continue };
        let Some(weight) = graph.constant(&decision.initializer)? else { continue };
        let shape = weight.shape();
        let Some((patches, matrix)) = Patches::of(node, shape).zip(WeightMatrix::of(node, shape)) else { continue };
        if let Some(place) = places.get(decision.initializer.as_str()) {
            // Codes that several layers share are chosen for all of them, if they read it alike.
            let known = place.map(|place| &mut layers[place]);
            match known.filter(|l| (&l.patches, &l.matrix, &l.params) == (&patches, &matrix, &decision.params)) {
                Some(layer) => layer.uses.push(at),
                None => drop(places.insert(&decision.initializer, None)),
            }
            continue;
        }
        places.insert(&decision.initializer, Some(layers.len()));
        // The taps of a transposed convolution share a bias: it cannot make good the mean of each.
        let own = ChannelIndex::outputs(node, shape).is_some_and(|c| c.channels() == matrix.groups * matrix.rows);
        let biased = corrects && own && has_bias(graph, at.node, &weight)?;
        let (initializer, params) = (decision.initializer.clone(), decision.params.clone());
        layers.push(Layer { initializer, uses: vec![at], patches, matrix, weight, params, biased, depth: 0 });
    }
    layers.retain(|l| places.get(l.initializer.as_str()).is_some_and(Option::is_some));
    layers.iter_mut().for_each(|l| l.biased &= l.uses.len() == 1);
    Ok(layers)
}

/// The value and the patches that a layer reads at one place.
fn tap<'a>(graph: &'a Graph, layer: &'a Layer, at: Use) -> (&'a str, &'a Patches) {
    (graph.node(at.node).and_then(|n| n.input_at(0)).unwrap_or_default(), &layer.patches)
}

/// How many of the layers, the first ones, have moments that fit together. At least one.
fn fitting(graph: &Graph, layers: &[Layer], beside: bool) -> usize {
    let mut taps = Vec::new();
    let mut bytes = 0;
    for (i, layer) in layers.iter().enumerate() {
        for &at in &layer.uses {
            let tap = tap(graph, layer, at);
            if !taps.contains(&tap) {
                taps.push(tap);
                bytes += PatchMoments::size(&layer.patches, beside);
            }
        }
        if bytes > MOST_MOMENTS && i > 0 {
            return i;
        }
    }
    layers.len()
}

/// The moments of each layer, in halves, those of all places where its weight is read together. Nodes of the graph, which holds
/// the layers, are those of the models.
///
/// With a model whose values were moved, they are those of what the layers read there, beside what they read in the other.
fn moments_of(
    graph: &Graph,
    exact: &Model,
    moved: Option<&Model>,
    layers: &[Layer],
    source: &Source<'_>,
) -> Result<Vec<Option<[PatchMoments; 2]>>> {
    let (mut values, mut taps): (Vec<&str>, Vec<(usize, Patches)>) = (Vec::new(), Vec::new());
    let mut readers = Vec::new();
    let mut wanted = Vec::new();
    for layer in layers {
        let mut of_layer = Vec::new();
        for &at in &layer.uses {
            let (value, patches) = tap(graph, layer, at);
            let value = values.iter().position(|v| *v == value).unwrap_or_else(|| {
                values.push(value);
                readers.push(at.node);
                values.len() - 1
            });
            let known = taps.iter().position(|(v, p)| (*v, p) == (value, patches));
            of_layer.push(known.unwrap_or_else(|| {
                taps.push((value, patches.clone()));
                taps.len() - 1
            }));
        }
        wanted.push(of_layer);
    }
    // What is quantized goes by another name where it is read.
    let names = |model: &Model| {
        let read = |id: &NodeId| model.graph.node(*id).and_then(|n| n.input_at(0)).unwrap_or_default().to_owned();
        readers.iter().map(read).collect::<Vec<String>>()
    };
    let exact = Runner::up_to(source.executor, exact, names(exact))?;
    let moved = moved.map(|moved| Runner::up_to(source.executor, moved, names(moved))).transpose()?;
    let (runner, beside) = match &moved {
        Some(moved) => (moved, Some(&exact)),
        None => (&exact, None),
    };
    let mut found = gather_moments(runner, beside, &taps, source.samples, source.picks, source.events)?;
    let mut left = vec![0; found.len()];
    wanted.iter().flatten().for_each(|&tap| left[tap] += 1);
    let mut of_layers = Vec::with_capacity(layers.len());
    for taps in wanted {
        let mut total: Option<[PatchMoments; 2]> = None;
        for tap in taps {
            left[tap] -= 1;
            let one = if left[tap] == 0 { found[tap].take() } else { found[tap].clone() };
            total = match (total, one) {
                (Some(mut total), Some(one)) => {
                    total.iter_mut().zip(&one).for_each(|(total, one)| total.merge(one));
                    Some(total)
                }
                (total, one) => total.or(one),
            };
        }
        of_layers.push(total);
    }
    Ok(of_layers)
}
