//! Scales channels: what both sides hold is multiplied and divided, and bounds in between follow.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::MulAssign;

use rayon::prelude::*;

use super::{Context, Effect, Pass};
use crate::calibrate::{Spread, Statistics};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{At, DataType, Graph, Model, NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::number::Normal;
use crate::rule::ChannelIndex;
use crate::scaling::{Bound, Group};

/// What becomes of a ReLU6 or Clip whose channels are scaled by different factors, and so would need different bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// A bound a channel, by Min and Max with constants: the function stays the same. Runtimes compute these in float.
    Exact,
    /// One bound for all channels, the lowest that cuts off nothing that was not cut off before: the highest number that
    /// any channel holds after the old bound. A channel whose own bound was lower is cut off later than before. Where
    /// statistics say that no channel reaches its bound, it goes.
    Loose,
}

/// Divides the channels of groups by factors, one a channel, positive and finite.
///
/// - **Does**: divides what makes the channels and what is added to them, multiplies what reads them, moves the bounds of
///   ReLU6 and Clip on the way as [`Bounds`] says, and scales [`Context::statistics`] alike. What holds other numbers than
///   before gets another name.
/// - **Before**: `y = W2 relu(W1 x + b1)`. **After**: `y = (W2 S) relu((S^-1 W1) x + S^-1 b1)`.
/// - **Source**: `f(s x) = s f(x)` for `s > 0`; Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias
///   Correction*, 2019, equations 5 to 7.
#[derive(Debug, Clone)]
pub struct Rescale<'a> {
    /// Groups of the model's own [`Scaling`](crate::scaling::Scaling), with the factors of their channels.
    pub groups: Vec<(&'a Group, Vec<f64>)>,
    /// What becomes of bounds.
    pub bounds: Bounds,
}

impl Pass for Rescale<'_> {
    fn name(&self) -> &'static str {
        "rescale"
    }

    fn effect(&self) -> Effect {
        match self.bounds {
            Bounds::Exact => Effect::Rounding,
            Bounds::Loose => Effect::Lossy,
        }
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        for (group, factors) in &self.groups {
            if factors.len() != group.channels || factors.iter().any(|f| !(f.is_finite() && *f > 0.0)) {
                let what = format!("{} channels need as many factors, all positive and finite", group.channels);
                return Err(Error::new(ErrorKind::Usage, what));
            }
        }
        let loosened = rescale(&mut model.graph, &self.groups, self.bounds, &mut cx.statistics)?;
        for (node, reason) in loosened {
            cx.skip(self, model, node, reason);
        }
        cx.changed += self.groups.len();
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

/// The channels of a constant, and what each is multiplied with.
type Scaled = (ChannelIndex, Vec<f64>);

/// Returns the bounds whose function changed, with what changed: none with [`Bounds::Exact`].
fn rescale(
    graph: &mut Graph,
    groups: &[(&Group, Vec<f64>)],
    bounds: Bounds,
    statistics: &mut Statistics,
) -> Result<Vec<(NodeId, String)>> {
    let mut work: BTreeMap<Use, (&[usize], Vec<Scaled>)> = BTreeMap::new();
    for (group, factors) in groups {
        for (site, times) in group.sites() {
            let own = Group::spread(&site.channels, factors).into_iter().map(|s| if times { s } else { 1.0 / s });
            let entry = work.entry(site.at).or_insert_with(|| (&site.shape, Vec::new()));
            entry.1.push((site.index, own.collect()));
        }
    }
    let work: Vec<_> = work.into_iter().collect();
    let scaled: Vec<Result<(String, Tensor)>> =
        work.par_iter().map(|(at, (shape, factors))| multiplied(graph, *at, shape, factors)).collect();
    for ((at, _), scaled) in work.iter().zip(scaled) {
        let (name, tensor) = scaled.at(|| graph.label(at.node))?;
        graph.give_constant(*at, &name, &tensor)?;
    }
    let mut loosened = Vec::new();
    for (group, factors) in groups {
        for bound in &group.bounds {
            match bounds {
                Bounds::Exact => each_its_own(graph, bound, factors)?,
                Bounds::Loose => loosened.extend(one_for_all(graph, bound, factors, statistics)?),
            }
        }
    }
    let mut scaled_values = BTreeSet::new();
    for (group, factors) in groups {
        for member in &group.values {
            let own = Group::spread(&member.channels, factors);
            statistics.change(&member.value, |c, s| *s = s.scaled(own.get(c).map_or(1.0, |f| 1.0 / f)));
            scaled_values.insert(member.value.as_str());
        }
    }
    for value in scaled_values {
        let name = format!("{value}_scaled");
        statistics.rename(value, &graph.rename_value(value, &name)?);
    }
    Ok(loosened)
}

/// The constant at that place under its name, every element multiplied by the factors of its channels.
fn multiplied(graph: &Graph, at: Use, shape: &[usize], factors: &[Scaled]) -> Result<(String, Tensor)> {
    let name = graph.node(at.node).and_then(|n| n.input_at(at.slot)).unwrap_or_default().to_owned();
    let missing = || Error::new(ErrorKind::InvalidModel, format!("`{name}` is not a constant"));
    let tensor = graph.constant(&name)?.ok_or_else(missing)?;
    let multiplied = match tensor.dtype() {
        DataType::Float => {
            let narrow = |f: &[f64]| f.iter().map(|&f| f as f32).collect();
            Tensor::from_f32(shape.to_vec(), times(tensor.f32s()?.into_owned(), shape, factors, narrow))
        }
        wide => Tensor::from_f64(wide, shape.to_vec(), &times(tensor.f64s()?, shape, factors, <[f64]>::to_vec))?,
    };
    Ok((name, multiplied))
}

/// The numbers, a single one repeated to fill the shape, multiplied by the factors of their channels.
fn times<T: Copy + Default + MulAssign>(
    mut x: Vec<T>,
    shape: &[usize],
    factors: &[Scaled],
    own: impl Fn(&[f64]) -> Vec<T>,
) -> Vec<T> {
    let whole = shape.iter().product();
    if x.len() != whole {
        x = vec![x.first().copied().unwrap_or_default(); whole];
    }
    for (index, factors) in factors {
        index.scale(&mut x, &own(factors));
    }
    x
}

/// The single number all bounds would be, where the channels are scaled alike.
fn uniform(factors: &[f64]) -> Option<f64> {
    let first = *factors.first()?;
    factors.iter().all(|f| *f == first).then_some(first)
}

/// Puts Min and Max with a bound a channel in the place of a Clip.
fn each_its_own(graph: &mut Graph, bound: &Bound, factors: &[f64]) -> Result<()> {
    let own = Group::spread(&bound.channels, factors);
    if let Some(s) = uniform(&own) {
        return set_bounds(graph, bound, f64::from(bound.low) / s, f64::from(bound.high) / s);
    }
    let Some(node) = graph.node(bound.node).cloned() else { return Ok(()) };
    let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { return Ok(()) };
    let mut shape = vec![own.len()];
    shape.resize(bound.rank - bound.axis, 1);
    let mut steps: Vec<(&str, Option<Tensor>)> = Vec::new();
    for (op, limit) in [("Max", bound.low), ("Min", bound.high)] {
        if op == "Max" && limit == 0.0 {
            steps.push(("Relu", None));
        } else if limit.is_finite() {
            let limits = own.iter().map(|s| f64::from(limit) / s).collect::<Vec<_>>();
            steps.push((op, Some(Tensor::from_f64(bound_type(graph, bound), shape.clone(), &limits)?)));
        }
    }
    let (mut value, last) = (input.to_owned(), steps.len() - 1);
    for (i, (op, limits)) in steps.into_iter().enumerate() {
        let made = if i == last { output.to_owned() } else { graph.fresh_name(&format!("{output}_bounded")) };
        let limits = limits.map(|t| graph.add_constant(&format!("{output}_{}", op.to_lowercase()), &t));
        let step = NodeProto {
            name: Some(graph.fresh_name(&format!("{output}_{op}"))),
            op_type: Some(op.to_owned()),
            input: std::iter::once(value).chain(limits).collect(),
            output: vec![made.clone()],
            ..Default::default()
        };
        value = made;
        match i == last {
            true => graph.edit(bound.node, |n| *n = step)?,
            false => drop(graph.insert(At::Before(bound.node), step)?),
        }
    }
    Ok(())
}

/// The element type of a Clip's bounds.
fn bound_type(graph: &Graph, bound: &Bound) -> DataType {
    let bounds = graph.node(bound.node).into_iter().flat_map(|n| n.input.iter().skip(1));
    bounds.filter_map(|name| graph.stated_dtype(name)).next().unwrap_or(DataType::Float)
}

/// Moves the bounds of a Clip to where no channel is cut off before its own bound.
fn one_for_all(
    graph: &mut Graph,
    bound: &Bound,
    factors: &[f64],
    statistics: &Statistics,
) -> Result<Option<(NodeId, String)>> {
    let own = Group::spread(&bound.channels, factors);
    let (low, high) = (f64::from(bound.low), f64::from(bound.high));
    if let Some(s) = uniform(&own) {
        set_bounds(graph, bound, low / s, high / s)?;
        return Ok(None);
    }
    let known = reaches(graph, bound, statistics);
    let (new_low, new_high) = loosened(bound, &own, known);
    let reach = |c: usize| known.map_or((f64::NEG_INFINITY, f64::INFINITY), |k| (k[c].min, k[c].max));
    let each = || (0..own.len()).map(|c| (reach(c), own[c]));
    // One part in a million is float rounding.
    let past = |a: f64, b: f64| a > b * (1.0 + 1e-6);
    let freed = each().filter(|&(r, s)| {
        (r.1 > high && past(new_high, high / s)) || (r.0 < low && low != 0.0 && past(-new_low, -low / s))
    });
    let channels = freed.count();
    set_bounds(graph, bound, new_low, new_high)?;
    let what = format!("{channels} of {} channels may pass where it used to cut them off", own.len());
    Ok((channels > 0).then_some((bound.node, what)))
}

/// What is known of the channels in front of a bound.
fn reaches<'a>(graph: &Graph, bound: &Bound, statistics: &'a Statistics) -> Option<&'a [Spread]> {
    let known = statistics.get(graph.node(bound.node)?.input_at(0)?)?;
    (known.spreads.len() == bound.channels.len()).then_some(&known.spreads)
}

/// The bounds that cut off no channel, divided by its factor, before its own bound.
fn loosened(bound: &Bound, own: &[f64], known: Option<&[Spread]>) -> (f64, f64) {
    let (low, high) = (f64::from(bound.low), f64::from(bound.high));
    let reach = |c: usize| known.map_or((f64::NEG_INFINITY, f64::INFINITY), |k| (k[c].min, k[c].max));
    let each = || (0..own.len()).map(|c| (reach(c), own[c]));
    let new_high = match each().any(|(r, _)| r.1 > high) {
        true => each().map(|(r, s)| r.1.min(high) / s).fold(0.0, f64::max),
        false => f64::INFINITY,
    };
    let new_low = match each().any(|(r, _)| r.0 < low) {
        _ if low == 0.0 => 0.0,
        true => each().map(|(r, s)| r.0.max(low) / s).fold(0.0, f64::min),
        false => f64::NEG_INFINITY,
    };
    (new_low, new_high)
}

/// How much [`Bounds::Loose`] changes what comes out of the bounds of a group: the mean square of the change over that of
/// the value, both after scaling, at the bound where it is largest. Channels are taken for normal; a bound of whose
/// channels nothing is known counts nothing.
pub(super) fn change(graph: &Graph, group: &Group, factors: &[f64], statistics: &Statistics) -> f64 {
    let square = |n: Normal| n.mean * n.mean + n.std * n.std;
    let one = |bound: &Bound| {
        let own = Group::spread(&bound.channels, factors);
        let known = reaches(graph, bound, statistics).filter(|_| uniform(&own).is_none())?;
        let (low, high) = (f64::from(bound.low), f64::from(bound.high));
        let (new_low, new_high) = loosened(bound, &own, Some(known));
        let (mut changed, mut signal) = (0.0, 0.0);
        for (spread, s) in known.iter().zip(&own) {
            let Normal { mean, std } = spread.moments();
            let above = Normal { mean: mean - high, std }.clipped(0.0, (new_high * s - high).max(0.0));
            let below = Normal { mean: low - mean, std }.clipped(0.0, (low - new_low * s).max(0.0));
            signal += square(Normal { mean, std }.clipped(low, high)) / (s * s);
            changed += if high.is_finite() { square(above) / (s * s) } else { 0.0 };
            changed += if low.is_finite() && low != 0.0 { square(below) / (s * s) } else { 0.0 };
        }
        (signal > 0.0).then(|| changed / signal)
    };
    group.bounds.iter().filter_map(one).fold(0.0, f64::max)
}

/// Gives a Clip these bounds; an infinite one is left out.
fn set_bounds(graph: &mut Graph, bound: &Bound, low: f64, high: f64) -> Result<()> {
    let dtype = bound_type(graph, bound);
    for (slot, value) in [(1, low), (2, high)] {
        let at = Use { node: bound.node, slot };
        if value.is_finite() {
            let name = graph.node(at.node).and_then(|n| n.input_at(slot)).unwrap_or("bound").to_owned();
            graph.give_constant(at, &name, &Tensor::from_f64(dtype, vec![], &[value])?)?;
        } else if graph.node(at.node).is_some_and(|n| n.input_at(slot).is_some()) {
            graph.set_input(at, "")?;
        }
    }
    graph.edit(bound.node, |n| {
        while n.input.last().is_some_and(String::is_empty) {
            n.input.pop();
        }
    })
}
