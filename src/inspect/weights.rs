//! The weights of a model, a row each place where one is read.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::Serialize;

use super::coded::{Coding, Stored, picks_codes, stored};
use super::diagnosis::Diagnosis;
use super::formats::InFormat;
use super::statistics::{Statistics, measure};
use super::walk::Walk;
use crate::error::{Place, Result};
use crate::integer::{IntegerOp, Style, computes_on_codes};
use crate::model::{DataType, Linear, NodeExt, NodeProto, dtype_name};
use crate::rule::OpRule;

/// A weight where a node reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightRow {
    /// The node: its name, or its first output where it has none, behind those of the nodes around it.
    pub node: String,
    /// Its operator, `Conv`, with the domain unless that is ONNX's own.
    pub operator: String,
    /// The name of the constant.
    pub weight: String,
    /// The element type of the constant.
    pub dtype: String,
    /// Whether the constant is stored as a sparse tensor.
    pub sparse: bool,
    /// The shape of the constant.
    pub shape: Vec<usize>,
    /// The axis of the channels, counted from the front; `None` where there is none.
    pub axis: Option<usize>,
    /// What its numbers are like; those of codes are the reals they stand for, and have no SQNR.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// How it is quantized; `None` if it is float.
    pub coding: Option<Coding>,
    /// What a closer look told; `None` if there was none.
    #[serde(flatten)]
    pub diagnosis: Option<Diagnosis>,
    /// What it would lose in other formats; empty if that was not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<InFormat>,
    /// Its place among all rows, in the order of execution.
    #[serde(skip)]
    pub(super) place: usize,
}

impl WeightRow {
    /// The largest magnitude of its numbers; `None` if they are not known.
    pub fn magnitude(&self) -> Option<f32> {
        Some(self.statistics.max?.max(-self.statistics.min?))
    }

    /// How many elements the constant has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Constants in other places than a weight's are listed from this many elements on.
const LARGE: u64 = 1024;

/// A weight that was found.
struct Found {
    site: usize,
    axis: Option<usize>,
    /// Whether the operator takes weights there; it is a constant of another use otherwise.
    placed: bool,
    stored: Stored,
}

/// The rows, in the order of execution: float constants and codes in the place of a weight; tables that Gather reads;
/// the two weights of recurrent operators; and every other constant of at least 1024 elements and two dimensions
/// that is no bias, once, where it is read first.
///
/// Tensors are read where they lie, in parallel. Errors name node and tensor when data do not fit their shape.
pub(super) fn rows(walk: &Walk<'_>) -> Result<Vec<WeightRow>> {
    let found = find(walk)?;
    let rows: Vec<Result<WeightRow>> = found
        .par_iter()
        .enumerate()
        .map(|(place, f)| row(walk, f, place).at(|| walk.sites[f.site].node.label()))
        .collect();
    rows.into_iter().collect()
}

/// A weight that is visited.
pub(super) struct Seen<'a> {
    /// The node that reads it, behind those around it.
    pub path: &'a str,
    /// Its place in [`Walk::constants`].
    pub constant: usize,
    /// Its shape.
    pub shape: &'a [usize],
    /// Whether the operator takes weights there; it is a constant of another use otherwise.
    pub placed: bool,
    /// The axis of its channels.
    pub axis: Option<usize>,
    /// The axis along which its products are summed up.
    pub summed: Option<usize>,
}

/// Visits the weights of [`rows`] with the numbers of a float constant. In parallel; the order of what comes out is that of
/// the rows.
pub(super) fn floats<R: Send>(
    walk: &Walk<'_>,
    visit: impl Fn(&Seen<'_>, Option<&[f32]>) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let one = |found: &Found| {
        let (path, constant) = (walk.path(found.site), &walk.constants[found.stored.constant]);
        let shape = constant.shape()?;
        let summed = summed_axis(walk.sites[found.site].node, found, shape.len());
        let (constant_at, placed, axis) = (found.stored.constant, found.placed, found.axis);
        let weight = Seen { path: &path, constant: constant_at, shape: &shape, placed, axis, summed };
        let seen = match &found.stored.code {
            None => constant.floats(|x| visit(&weight, Some(x)))?.transpose()?,
            Some(_) => None,
        };
        constant.release();
        match seen {
            Some(seen) => Ok(seen),
            None => visit(&weight, None),
        }
    };
    let seen: Vec<Result<R>> = find(walk)?.par_iter().map(|f| one(f).at(|| walk.sites[f.site].node.label())).collect();
    seen.into_iter().collect()
}

/// The axis along which the products of a weight are summed up, or along which a row of a table lies.
fn summed_axis(node: &NodeProto, found: &Found, rank: usize) -> Option<usize> {
    let axis = found.axis?;
    match OpRule::of(node).filter(|r| r.weight_slot().is_some()) {
        Some(rule) => rule.summed_axis(node, rank),
        None if is_recurrent(node) => Some(2),
        None => (rank == 2).then_some(1 - axis.min(1)),
    }
}

fn find(walk: &Walk<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut elsewhere = HashSet::new();
    for (site, s) in walk.sites.iter().enumerate() {
        let node = s.node;
        if Linear::quantizes(node) || Linear::dequantizes(node) {
            continue;
        }
        let rule = OpRule::of(node);
        for slot in 0..node.input.len() {
            let Some(stored) = stored(walk, site, slot).at(|| node.label())? else { continue };
            let constant = &walk.constants[stored.constant];
            if !constant.is_float() && stored.code.is_none() {
                continue;
            }
            let shape = constant.shape()?;
            let wide = shape.iter().filter(|&&d| d > 1).count() > 1;
            let place = in_weight_slot(node, rule, slot, shape.len());
            let axis = match place {
                Some(axis) => axis,
                None if rule.is_some_and(|r| r.bias == Some(slot)) => continue,
                None if !wide || constant.elements()? < LARGE || !elsewhere.insert(stored.constant) => continue,
                None => None,
            };
            let code_axis = match &stored.code {
                Some(code) if axis.is_none() => code.facts(walk)?.axis,
                _ => None,
            };
            found.push(Found { site, axis: axis.or(code_axis), placed: place.is_some(), stored });
        }
    }
    Ok(found)
}

/// Whether a weight belongs in that slot of the node, and then the axis of its channels, if it has channels.
fn in_weight_slot(node: &NodeProto, rule: Option<&OpRule>, slot: usize, rank: usize) -> Option<Option<usize>> {
    if let Some(op) = IntegerOp::of(node).filter(|op| op.weights().any(|w| w.codes == slot)) {
        return Some(op.channel_axis(node, rank));
    }
    if let Some(rule) = rule.filter(|r| r.weight_slot() == Some(slot)) {
        return Some(rule.channel_axis(node, rank));
    }
    if is_recurrent(node) && (slot == 1 || slot == 2) {
        // W is [directions, gates * hidden, input], R is [directions, gates * hidden, hidden].
        return Some((rank == 3).then_some(1));
    }
    if node.is("Gather") && slot == 0 && rank > 1 {
        let axis = node.int("axis").unwrap_or(0);
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        return Some(usize::try_from(axis).ok().filter(|&a| a < rank));
    }
    None
}

/// Whether the node is a recurrent operator of ONNX.
pub(super) fn is_recurrent(node: &NodeProto) -> bool {
    ["GRU", "LSTM", "RNN"].into_iter().any(|op| node.is(op))
}

fn row(walk: &Walk<'_>, found: &Found, place: usize) -> Result<WeightRow> {
    let site = &walk.sites[found.site];
    let constant = &walk.constants[found.stored.constant];
    let shape = constant.shape()?;
    let (statistics, coding) = match &found.stored.code {
        None => (constant.floats(|x| measure(x, &shape, found.axis, true))?, None),
        Some(code) => {
            let reals = code.reals(walk, found.stored.constant)?;
            (reals.map(|x| measure(&x.f32s()?, &shape, found.axis, false)), Some(code.facts(walk)?))
        }
    };
    constant.release();
    Ok(WeightRow {
        node: walk.path(found.site),
        operator: site.node.operator(),
        weight: constant.name.to_owned(),
        dtype: dtype_name(constant.dtype()).to_owned(),
        sparse: constant.is_sparse(),
        shape,
        axis: found.axis,
        statistics: statistics.transpose()?.unwrap_or_default(),
        coding,
        diagnosis: None,
        formats: Vec::new(),
        place,
    })
}

/// How many parameters a model has: elements of its float constants, and of codes that stand for floats. Scales and
/// zero points do not count.
pub(super) fn parameters(walk: &Walk<'_>) -> Result<u64> {
    #[derive(Clone, Copy, Default)]
    struct Read {
        as_weight: bool,
        as_parameter_of_codes: bool,
        packed: Option<u64>,
    }
    let mut reads = vec![Read::default(); walk.constants.len()];
    for (site, s) in walk.sites.iter().enumerate() {
        let is_qdq = Linear::quantizes(s.node) || Linear::dequantizes(s.node);
        let entry = IntegerOp::of(s.node).filter(|op| op.is_layer());
        for slot in 0..s.inputs.len() {
            let Some(c) = walk.constant_at(site, slot) else { continue };
            let bias = walk.constants[c].dtype() == DataType::Int32;
            let weight = match entry {
                Some(op) => op.weights().any(|w| w.codes == slot) || (bias && computes_on_codes(s.node)),
                None if is_qdq => slot == 0,
                None if slot == 0 && picks_codes(walk, site) => true,
                None if computes_on_codes(s.node) => bias,
                None => walk.constants[c].holds_floats(),
            };
            reads[c].as_weight |= weight;
            reads[c].as_parameter_of_codes |= !weight;
            if let (Some(op), true) = (entry, weight)
                && op.style == Style::WeightOnly
            {
                reads[c].packed = stored(walk, site, slot)?.and_then(|s| s.code).and_then(|code| code.packed);
            }
        }
    }
    let mut sum = 0u64;
    for (constant, read) in walk.constants.iter().zip(reads) {
        if read.as_weight || (constant.holds_floats() && !read.as_parameter_of_codes) {
            let elements = constant.stored()?;
            sum = sum.saturating_add(read.packed.map_or(elements, |bits| elements.saturating_mul(8) / bits));
        }
    }
    Ok(sum)
}
