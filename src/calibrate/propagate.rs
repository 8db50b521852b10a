//! What is known of some values tells something of those made from them.

use super::{Channels, Spread, Statistics};
use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeProto, Tensor};
use crate::number::Normal;
use crate::scaling::{Lay, Shapes};

/// The most channels that padding may make.
const MOST: usize = 1 << 20;

/// Follows statistics through what stands between layers, in the order of the nodes, and adds those of the values that
/// were not known.
///
/// What is cut off (Relu, Clip, LeakyRelu) is taken for normal before the cut; what is added (Add, Sub) for independent;
/// what is pooled or resized keeps its distribution, of which a maximum is then a lower bound. Known means and deviations
/// pass through everything that only moves values. Nothing is known of what a layer without normalization makes.
///
/// Source: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, appendix C.
pub fn propagate(graph: &Graph, shapes: &Shapes, statistics: &mut Statistics) -> Result<()> {
    for (_, node) in graph.nodes() {
        for output in 0..node.output.len() {
            let Some(name) = node.output_at(output).filter(|n| statistics.get(n).is_none()) else { continue };
            let name = name.to_owned();
            if let Some(channels) = derive(&View { graph, shapes, statistics, node }, output)? {
                statistics.insert(&name, channels);
            }
        }
    }
    Ok(())
}

/// A node, and what is known around it.
struct View<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    statistics: &'a Statistics,
    node: &'a NodeProto,
}

impl View<'_> {
    fn at(&self, slot: usize) -> Option<&Channels> {
        self.statistics.get(self.node.input_at(slot)?)
    }

    fn constant(&self, slot: usize) -> Result<Option<Tensor>> {
        let name = self.node.input_at(slot).filter(|n| !self.graph.is_input(n));
        Ok(name.map(|n| self.graph.constant(n)).transpose()?.flatten().filter(Tensor::is_float))
    }

    fn rank(&self, slot: usize) -> Option<usize> {
        let name = self.node.input_at(slot)?;
        self.shapes.get(name).map(Vec::len).or_else(|| self.graph.stated_rank(name))
    }

    /// A constant in that slot as one number a channel of another slot; `None` where it has another form.
    fn per_channel(&self, slot: usize, of: usize, channels: &Channels) -> Result<Option<Vec<f64>>> {
        let Some(tensor) = self.constant(slot)? else { return Ok(None) };
        let (x, count) = (tensor.f64s()?, channels.spreads.len());
        if let [only] = x[..] {
            return Ok(Some(vec![only; count]));
        }
        let fits = self.rank(of).and_then(|rank| (tensor.shape().len() + channels.axis).checked_sub(rank));
        let fits = fits.is_some_and(|place| tensor.shape().get(place) == Some(&count) && x.len() == count);
        Ok(fits.then_some(x))
    }
}

fn derive(v: &View<'_>, output: usize) -> Result<Option<Channels>> {
    let node = v.node;
    let each = |change: &dyn Fn(&Spread) -> Spread| {
        v.at(0).map(|c| Channels { axis: c.axis, spreads: c.spreads.iter().map(change).collect() })
    };
    Ok(match node.op_type() {
        op if !node.is(op) => None,
        "Relu" => each(&|s| cut(s, 0.0, f64::INFINITY)),
        "LeakyRelu" => {
            let slope = node.float("alpha").unwrap_or(0.01).into();
            each(&|s| leak(s, slope))
        }
        "PRelu" => match v.at(0) {
            Some(channels) => v.per_channel(1, 0, channels)?.map(|slopes| Channels {
                axis: channels.axis,
                spreads: channels.spreads.iter().zip(slopes).map(|(s, slope)| leak(s, slope)).collect(),
            }),
            None => None,
        },
        "Clip" => {
            let bound = |slot: usize, open: f64| -> Result<Option<f64>> {
                if node.input_at(slot).is_none() {
                    return Ok(Some(open));
                }
                Ok(v.constant(slot)?.map(|t| t.f64s()).transpose()?.and_then(|x| x.first().copied()))
            };
            match (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?) {
                (Some(low), Some(high)) if low <= high => each(&|s| cut(s, low, high)),
                _ => None,
            }
        }
        "Neg" => each(&|s| s.scaled(-1.0)),
        "Identity" | "Dropout" if output == 0 => v.at(0).cloned(),
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" if output == 0 => {
            v.at(0).filter(|c| c.axis < 2).cloned()
        }
        "Resize" if node.string("mode") != Some("cubic") => v.at(0).filter(|c| c.axis < 2).cloned(),
        "ReduceMean" => reduce(v)?,
        "Pad" => pad(v)?,
        "Slice" => slice(v)?,
        "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => moved(v),
        "Split" => split(v, output)?,
        "Concat" => concat(v),
        "Add" | "Sub" => add(v)?,
        "Mul" => multiply(v)?,
        _ => None,
    })
}

/// What a cut leaves of a spread.
fn cut(s: &Spread, low: f64, high: f64) -> Spread {
    let Normal { mean, std } = s.moments().clipped(low, high);
    Spread { mean, std, min: s.min.max(low).min(high), max: s.max.max(low).min(high) }
}

/// What a slope below zero leaves of a spread: `E[y] = E[x+] - slope E[x-]`, `E[y^2] = E[x+^2] + slope^2 E[x-^2]`.
fn leak(s: &Spread, slope: f64) -> Spread {
    let up = s.moments().clipped(0.0, f64::INFINITY);
    let down = Normal { mean: -s.mean, std: s.std }.clipped(0.0, f64::INFINITY);
    let mean = up.mean - slope * down.mean;
    let square = |n: Normal| n.std * n.std + n.mean * n.mean;
    let std = (square(up) + slope * slope * square(down) - mean * mean).max(0.0).sqrt();
    let at = |x: f64| if x < 0.0 { x * slope } else { x };
    let ends = [at(s.min), at(s.max), if s.min < 0.0 && s.max > 0.0 { 0.0 } else { at(s.min) }];
    let (min, max) = ends.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    Spread { mean, std, min, max }
}

/// The sum of two independent spreads: no wider than both together.
fn sum(a: &Spread, b: &Spread) -> Spread {
    let normal = Normal { mean: a.mean + b.mean, std: a.std.hypot(b.std) };
    let wide = Spread::normal(normal);
    Spread { min: wide.min.max(a.min + b.min), max: wide.max.min(a.max + b.max), ..wide }
}

fn add(v: &View<'_>) -> Result<Option<Channels>> {
    let sign = if v.node.is("Sub") { -1.0 } else { 1.0 };
    if let (Some(a), Some(b)) = (v.at(0), v.at(1)) {
        let alike = a.axis == b.axis && a.spreads.len() == b.spreads.len() && v.rank(0) == v.rank(1);
        let spreads = || a.spreads.iter().zip(&b.spreads).map(|(a, b)| sum(a, &b.scaled(sign))).collect();
        return Ok(alike.then(|| Channels { axis: a.axis, spreads: spreads() }));
    }
    for (value, constant) in [(0, 1), (1, 0)] {
        let Some(channels) = v.at(value) else { continue };
        let Some(added) = v.per_channel(constant, value, channels)? else { return Ok(None) };
        let (own, by) = if value == 0 { (1.0, sign) } else { (sign, 1.0) };
        let spreads = channels.spreads.iter().zip(added).map(|(s, x)| s.scaled(own).shifted(by * x)).collect();
        return Ok(Some(Channels { axis: channels.axis, spreads }));
    }
    Ok(None)
}

fn multiply(v: &View<'_>) -> Result<Option<Channels>> {
    for (value, constant) in [(0, 1), (1, 0)] {
        let Some(channels) = v.at(value) else { continue };
        let Some(factors) = v.per_channel(constant, value, channels)? else { continue };
        let spreads = channels.spreads.iter().zip(factors).map(|(s, x)| s.scaled(x)).collect();
        return Ok(Some(Channels { axis: channels.axis, spreads }));
    }
    Ok(None)
}

fn integers(v: &View<'_>, slot: usize) -> Result<Option<Vec<i64>>> {
    let Some(name) = v.node.input_at(slot) else { return Ok(None) };
    Ok(v.graph.constant(name)?.and_then(|t| t.i64s().ok()))
}

/// Counted from the front; `None` where the rank is not known.
fn front(v: &View<'_>, axis: i64) -> Option<usize> {
    let rank = v.rank(0)?;
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()
}

fn reduce(v: &View<'_>) -> Result<Option<Channels>> {
    let axes = match v.node.input_at(1) {
        Some(_) => integers(v, 1)?,
        None => v.node.ints("axes").map(<[i64]>::to_vec),
    };
    let axes: Option<Vec<usize>> = axes.and_then(|a| a.into_iter().map(|a| front(v, a)).collect());
    let (Some(channels), Some(axes)) = (v.at(0), axes) else { return Ok(None) };
    let gone = (0..channels.axis).filter(|a| axes.contains(a)).count();
    let axis = if v.node.int("keepdims").unwrap_or(1) == 0 { channels.axis - gone } else { channels.axis };
    Ok((!axes.contains(&channels.axis)).then(|| Channels { axis, spreads: channels.spreads.clone() }))
}

/// Pad puts zeros, or what is there, around; along the channels, channels of zeros.
fn pad(v: &View<'_>) -> Result<Option<Channels>> {
    let (Some(channels), Some(pads), Some(rank)) = (v.at(0), integers(v, 1)?, v.rank(0)) else { return Ok(None) };
    let zero = match v.constant(2)? {
        Some(fill) => fill.f64s()?.iter().all(|&x| x == 0.0),
        None => v.node.input_at(2).is_none(),
    };
    if pads.len() != 2 * rank || channels.axis >= rank || v.node.input_at(3).is_some() || !zero {
        return Ok(None);
    }
    let (Ok(before), Ok(after)) = (usize::try_from(pads[channels.axis]), usize::try_from(pads[channels.axis + rank]))
    else {
        return Ok(None);
    };
    let Some(grown) =
        before.checked_add(after).filter(|n| n.checked_add(channels.spreads.len()).is_some_and(|n| n <= MOST))
    else {
        return Ok(None);
    };
    if grown > 0 && v.node.string("mode").unwrap_or("constant") != "constant" {
        return Ok(None);
    }
    let none = |count| std::iter::repeat_n(Spread { mean: 0.0, std: 0.0, min: 0.0, max: 0.0 }, count);
    let spreads = none(before).chain(channels.spreads.iter().copied()).chain(none(after)).collect();
    Ok(Some(Channels { axis: channels.axis, spreads }))
}

/// Slice, but not along the channels.
fn slice(v: &View<'_>) -> Result<Option<Channels>> {
    let axes = match v.node.input_at(3) {
        Some(_) => integers(v, 3)?,
        None => integers(v, 1)?.map(|s| (0..s.len() as i64).collect()),
    };
    let (Some(channels), Some(axes)) = (v.at(0), axes) else { return Ok(None) };
    Ok(axes.iter().all(|&a| front(v, a).is_some_and(|a| a != channels.axis)).then(|| channels.clone()))
}

fn split(v: &View<'_>, output: usize) -> Result<Option<Channels>> {
    let (Some(channels), Some(axis)) = (v.at(0), front(v, v.node.int("axis").unwrap_or(0))) else { return Ok(None) };
    if axis != channels.axis {
        return Ok(Some(channels.clone()));
    }
    let (whole, parts) = (channels.spreads.len(), v.node.output.len().max(1));
    let sizes = match v.node.input_at(1) {
        Some(_) => integers(v, 1)?.unwrap_or_default().iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect(),
        None => vec![whole.div_ceil(parts); parts],
    };
    let start = sizes.iter().take(output).fold(0usize, |sum, n| sum.saturating_add(*n));
    let end = start.saturating_add(sizes.get(output).copied().unwrap_or(0)).min(whole);
    let part = channels.spreads.get(start..end).filter(|p| !p.is_empty());
    Ok(part.map(|p| Channels { axis, spreads: p.to_vec() }))
}

fn concat(v: &View<'_>) -> Option<Channels> {
    let parts: Vec<&Channels> = (0..v.node.input.len()).map(|slot| v.at(slot)).collect::<Option<_>>()?;
    let (first, axis) = (*parts.first()?, front(v, v.node.int("axis")?)?);
    let joined = axis == first.axis && parts.iter().all(|p| p.axis == axis);
    joined.then(|| Channels { axis, spreads: parts.iter().flat_map(|p| p.spreads.iter().copied()).collect() })
}

/// Where a transposition or reshape puts the channels.
fn moved(v: &View<'_>) -> Option<Channels> {
    let channels = v.at(0)?;
    let lay = Lay::along(channels.axis, (0..channels.spreads.len() as u32).collect());
    let lay = if v.node.is("Transpose") {
        let perm: Vec<usize> = match v.node.ints("perm") {
            Some(perm) => perm.iter().map(|&p| usize::try_from(p).ok()).collect::<Option<_>>()?,
            None => (0..v.rank(0)?).rev().collect(),
        };
        lay.transposed(&perm)?
    } else {
        let from = v.shapes.get(v.node.input_at(0)?)?;
        if *from.get(channels.axis)? != Some(channels.spreads.len()) {
            return None;
        }
        lay.reshaped(from, v.shapes.get(v.node.output_at(0)?)?)?
    };
    let [axis] = lay.axes[..] else { return None };
    Some(Channels { axis, spreads: lay.ids.iter().map(|&c| channels.spreads[c as usize]).collect() })
}
