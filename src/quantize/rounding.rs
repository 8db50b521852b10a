//! Weights become codes by what they do to the outputs of their layers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::calibrate::{PatchMoments, gather_moments};
use crate::error::{Place, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{DataType, Graph, Model, NodeExt, Tensor, Use};
use crate::number::{Grid, QuantParams, decibels};
use crate::pass::has_bias;
use crate::plan::{ChosenCodes, Part, Plan, Reconstructed};
use crate::round::{GridOf, Problem, Rounding, objective, round, seek_scales};
use crate::rule::{ChannelIndex, Patches, WeightMatrix};
use crate::sample::Samples;

/// How many bytes the moments of layers may take together. A layer whose moments are larger is taken by itself; what does
/// not fit together takes another run of the samples.
const MOST_BYTES: usize = 384 << 20;

/// What became of a weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundRow {
    /// The layer.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The method that most of its rows owe their codes to.
    pub method: &'static str,
    /// The power of the error of the layer's output relative to that of the output, with the nearest codes; `None` where the
    /// output is 0.
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
struct Layer {
    initializer: String,
    /// Where it is read; several layers may share a weight.
    uses: Vec<Use>,
    patches: Patches,
    matrix: WeightMatrix,
    weight: Tensor,
    params: QuantParams,
    /// Whether a bias can make good what rounding does to the mean.
    biased: bool,
}

/// Chooses codes for the weights of the plan, in the graph itself and not in its bodies, by the second moments of what their
/// layers read; with `corrects`, errors of the mean are left to biases.
///
/// Formats of fewer than 8 bits get scales that are searched for, too. Left to the nearest codes are weights of operators
/// without patches ([`Patches`]), and those whose inputs the samples never show.
pub(super) fn reconstruct(
    model: &Model,
    plan: &Plan,
    rounding: &Rounding,
    corrects: bool,
    source: &Source<'_>,
) -> Result<(Reconstructed, Vec<RoundRow>)> {
    let (mut found, mut rows) = (Reconstructed::new(), Vec::new());
    let layers = layers(&model.graph, plan, corrects)?;
    let mut rest = &layers[..];
    while !rest.is_empty() {
        let count = fitting(&model.graph, rest);
        let (now, later) = rest.split_at(count);
        let moments = moments_of(model, now, source)?;
        for (layer, moments) in now.iter().zip(moments) {
            let Some(moments) = moments else { continue };
            let at = || format!("initializer `{}`", layer.initializer);
            let (weight, row) = solve(&model.graph, layer, &moments, rounding).at(at)?;
            found.insert(layer.initializer.clone(), weight);
            rows.push(row);
        }
        rest = later;
    }
    Ok((found, rows))
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
        layers.push(Layer { initializer, uses: vec![at], patches, matrix, weight, params, biased });
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
fn fitting(graph: &Graph, layers: &[Layer]) -> usize {
    let mut taps = Vec::new();
    let mut bytes = 0;
    for (i, layer) in layers.iter().enumerate() {
        for &at in &layer.uses {
            let tap = tap(graph, layer, at);
            if !taps.contains(&tap) {
                taps.push(tap);
                bytes += PatchMoments::size(&layer.patches);
            }
        }
        if bytes > MOST_BYTES && i > 0 {
            return i;
        }
    }
    layers.len()
}

/// The moments of each layer, those of all places where its weight is read together.
fn moments_of(model: &Model, layers: &[Layer], source: &Source<'_>) -> Result<Vec<Option<PatchMoments>>> {
    let graph = &model.graph;
    let (mut values, mut taps): (Vec<&str>, Vec<(usize, Patches)>) = (Vec::new(), Vec::new());
    let mut wanted = Vec::new();
    for layer in layers {
        let mut of_layer = Vec::new();
        for &at in &layer.uses {
            let (value, patches) = tap(graph, layer, at);
            let value = values.iter().position(|v| *v == value).unwrap_or_else(|| {
                values.push(value);
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
    let watch = values.into_iter().map(str::to_owned).collect();
    let runner = Runner::new(source.executor, model, watch)?;
    let mut found = gather_moments(&runner, &taps, source.samples, source.picks, source.events)?;
    let mut left = vec![0; found.len()];
    wanted.iter().flatten().for_each(|&tap| left[tap] += 1);
    let mut of_layers = Vec::with_capacity(layers.len());
    for taps in wanted {
        let mut total: Option<PatchMoments> = None;
        for tap in taps {
            left[tap] -= 1;
            let one = if left[tap] == 0 { found[tap].take() } else { found[tap].clone() };
            total = match (total, one) {
                (Some(mut total), Some(one)) => {
                    total.merge(&one);
                    Some(total)
                }
                (total, one) => total.or(one),
            };
        }
        of_layers.push(total);
    }
    Ok(of_layers)
}

/// The grids of one matrix of a layer, and where each stands among those of the weight.
struct Grids {
    grids: Vec<Grid>,
    places: Vec<usize>,
    row_base: Vec<usize>,
    place: Vec<usize>,
}

impl Grids {
    /// `group_of` tells the group of each element of the weight, as its granularity counts them.
    fn of(layer: &Layer, group: usize, group_of: &[usize]) -> Grids {
        let WeightMatrix { rows, columns, .. } = layer.matrix;
        let at = |row: usize, column: usize| group_of[layer.matrix.place(group, row, column)];
        let first = if rows * columns > 0 { at(0, 0) } else { 0 };
        let unique = |mut all: Vec<usize>| {
            all.sort_unstable();
            all.dedup();
            all
        };
        // What lies between the first grid of a row and that of a column is the same in all rows.
        let bases: Vec<usize> = (0..rows).map(|row| at(row, 0)).collect();
        let offsets: Vec<usize> = (0..columns).map(|column| at(0, column) - first).collect();
        let (known_bases, known_offsets) = (unique(bases.clone()), unique(offsets.clone()));
        let places: Vec<usize> = known_bases.iter().flat_map(|b| known_offsets.iter().map(move |o| b + o)).collect();
        let rank = |known: &[usize], all: &[usize], step: usize| {
            all.iter().map(|x| known.partition_point(|k| k < x) * step).collect::<Vec<usize>>()
        };
        Grids {
            grids: places.iter().map(|&c| Grid::of(&layer.params, c)).collect(),
            row_base: rank(&known_bases, &bases, known_offsets.len()),
            place: rank(&known_offsets, &offsets, 1),
            places,
        }
    }
}

/// The parameters and codes of a layer.
fn solve(
    graph: &Graph,
    layer: &Layer,
    moments: &PatchMoments,
    rounding: &Rounding,
) -> Result<((QuantParams, ChosenCodes), RoundRow)> {
    let Layer { matrix, weight, params, .. } = layer;
    let products = if layer.biased { Cow::Owned(moments.centered()) } else { Cow::Borrowed(&moments.products) };
    let (x, shape) = (weight.f32s()?, weight.shape());
    let mut group_of = vec![0; x.len()];
    params.granularity().each_run(shape, |span, groups| match groups.len() {
        1 => group_of[span].fill(groups.start),
        _ => group_of[span].iter_mut().zip(groups).for_each(|(of, group)| *of = group),
    })?;
    // A scale that matrices share cannot be searched for in one of them, and those of other types than float are rounded.
    let size = matrix.rows * matrix.columns;
    let mut owner = vec![None; params.scales().len()];
    let alone = group_of.iter().enumerate().all(|(i, &c)| *owner[c].get_or_insert(i / size) == i / size);
    let seeks = params.format().bits < 8 && alone && weight.dtype() == DataType::Float;
    let one = |group: usize| -> Result<_> {
        let part = matrix.matrix(group, &x);
        let mut grids = Grids::of(layer, group, &group_of);
        let Grids { row_base, place, .. } = &grids;
        let problem = Problem {
            weights: &part,
            rows: matrix.rows,
            columns: matrix.columns,
            grids: &grids.grids,
            grid_of: GridOf { row_base, place },
            moments: &products[group],
        };
        // What zeros would lose is all there is.
        let zeros: Vec<i32> =
            row_base.iter().flat_map(|b| place.iter().map(move |p| b + p)).map(|g| grids.grids[g].zero).collect();
        let power = objective(&Problem { moments: &moments.products[group], ..problem }, &zeros);
        let mut before = None;
        let mut better = None;
        if seeks {
            before = Some(round(&problem, &Rounding::Nearest)?.before);
            better = Some(seek_scales(&problem)?);
        }
        let problem = Problem { grids: better.as_deref().unwrap_or(&grids.grids), ..problem };
        let rounded = round(&problem, rounding)?;
        let before = before.unwrap_or(rounded.before);
        grids.grids = better.unwrap_or(grids.grids);
        Ok((grids, rounded, before, power))
    };
    let solved: Vec<_> = (0..matrix.groups).into_par_iter().map(one).collect::<Result<_>>()?;
    let mut codes = vec![0; x.len()];
    let mut scales = params.scales().to_vec();
    let (mut before, mut after, mut power) = (0.0, 0.0, 0.0);
    let mut methods: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (group, (grids, rounded, was, of_output)) in solved.into_iter().enumerate() {
        matrix.put(group, &rounded.codes, &mut codes);
        grids.places.iter().zip(&grids.grids).for_each(|(&at, grid)| scales[at] = grid.scale);
        (before, after, power) = (before + was, after + rounded.after, power + of_output);
        *methods.entry(rounded.method).or_default() += 1;
    }
    let method = methods.into_iter().max_by_key(|(_, count)| *count).map_or("nearest", |(name, _)| name);
    let node = layer.uses.first().and_then(|at| graph.node(at.node));
    let relative = |error: f64| (power > 0.0).then(|| error / power);
    let row = RoundRow {
        node: node.map_or_else(String::new, |n| n.title().to_owned()),
        operator: node.map_or_else(String::new, |n| n.operator()),
        method,
        before: relative(before),
        after: relative(after),
    };
    let means = layer.biased.then(|| moments.means().into());
    Ok(((params.with_scales(scales)?, ChosenCodes { codes: codes.into(), means }), row))
}
