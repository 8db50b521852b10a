//! The parameters and codes of one layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::codebook::choose_tables;
use super::matrix::Matrix;
use super::retarget::{Inputs, retarget};
use super::rounding::{Layer, RoundRow};
use super::shrink::{best_share, shrunk};
use crate::calibrate::PatchMoments;
use crate::error::Result;
use crate::model::{DataType, Graph, NodeExt};
use crate::number::{Grid, QuantParams, StoredScales, dequantize};
use crate::plan::ChosenCodes;
use crate::round::{Problem, Rounded, Rounding, objective, refine, round, seek_scales};

/// The parameters and codes of a layer by the moments of both halves of its samples. With `refines`, scales and codes take
/// turns at the end.
pub(super) fn solve(
    graph: &Graph,
    layer: &Layer,
    halves: [PatchMoments; 2],
    rounding: &Rounding,
    refines: bool,
) -> Result<((QuantParams, ChosenCodes), RoundRow)> {
    let weights = layer.weight.f32s()?;
    let (mut matrices, alone) = Matrix::all(layer, &weights)?;
    let of_halves = halves.each_ref().map(|half| Inputs::of(half, layer.biased));
    let [mut all, other] = halves;
    all.merge(&other);
    drop(other);
    let inputs = Inputs::of(&all, layer.biased);
    let retargeted = retarget(&mut matrices, &inputs, &of_halves);
    let share = best_share(&matrices, &of_halves)?;
    drop(of_halves);
    let known = |group: usize| shrunk(&inputs.moments[group], layer.matrix.columns, share);
    let (params, rounded) = match layer.params.tables() {
        Some(_) => {
            let known: Vec<Vec<f64>> = (0..matrices.len()).map(known).collect();
            choose_tables(layer, &matrices, &known, rounding)?
        }
        None => choose_scales(layer, &matrices, alone, known, rounding, refines)?,
    };

    // The objective on the samples: of zeros, where what is lost is all there is, of the nearest codes, and of the chosen ones.
    let costs = |(group, (matrix, rounded)): (usize, (&Matrix<'_>, &Rounded))| -> Result<[f64; 3]> {
        let given = matrix.problem(&inputs.moments[group]);
        let power = objective(&Problem { moments: &all.products[group], ..given }, &matrix.zeros());
        let before = round(&given, &Rounding::Nearest)?.before;
        Ok([power, before, objective(&Problem { grids: &matrix.grids_of(&params), ..given }, &rounded.codes)])
    };
    let costs: Vec<[f64; 3]> = matrices.par_iter().zip(&rounded).enumerate().map(costs).collect::<Result<_>>()?;

    let mut codes = vec![0; layer.weight.shape().iter().product()];
    let mut methods: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (group, rounded) in rounded.iter().enumerate() {
        layer.matrix.put(group, &rounded.codes, &mut codes);
        *methods.entry(rounded.method).or_default() += 1;
    }
    let method = methods.into_iter().max_by_key(|(_, count)| *count).map_or("nearest", |(name, _)| name);
    let [power, before, after] = [0, 1, 2].map(|i| costs.iter().map(|cost| cost[i]).sum::<f64>());
    let relative = |error: f64| (power > 0.0).then(|| error / power);
    let node = layer.uses.first().and_then(|at| graph.node(at.node));
    let row = RoundRow {
        node: node.map_or_else(String::new, |n| n.title().to_owned()),
        operator: node.map_or_else(String::new, |n| n.operator()),
        method,
        shrinkage: share,
        retargeted,
        before: relative(before),
        after: relative(after),
    };
    let shift = match layer.biased {
        true => Some(shift(layer, &all, &weights, &dequantize(&codes, layer.weight.shape(), &params)?)),
        false => None,
    };
    Ok(((params, ChosenCodes { codes: codes.into(), shift }), row))
}

/// The scales of a layer and the codes of its matrices, by moments of what each of these reads.
fn choose_scales(
    layer: &Layer,
    matrices: &[Matrix<'_>],
    alone: bool,
    known: impl Fn(usize) -> Vec<f64> + Sync,
    rounding: &Rounding,
    refines: bool,
) -> Result<(QuantParams, Vec<Rounded>)> {
    // A scale that matrices share cannot be searched for in one of them, and those that are no floats are rounded.
    let exact = *layer.params.stored_scales() == StoredScales::Floats;
    let seeks = exact && layer.params.format().bits < 8 && alone && layer.weight.dtype() == DataType::Float;
    let scales_of = |grids: &[Grid<'_>]| grids.iter().map(|grid| grid.scale).collect::<Vec<f32>>();
    let one = |(group, matrix): (usize, &Matrix<'_>)| -> Result<(Vec<f32>, Rounded)> {
        let known = known(group);
        let given = matrix.problem(&known);
        if !seeks {
            return Ok((scales_of(given.grids), round(&given, rounding)?));
        }
        let grids = seek_scales(&given)?;
        let sought = Problem { grids: &grids, ..given };
        let rounded = round(&sought, rounding)?;
        if !(refines && rounding.polishes()) {
            return Ok((scales_of(&grids), rounded));
        }
        let (grids, refined) = refine(&sought, rounded)?;
        Ok((scales_of(&grids), refined))
    };
    let chosen: Vec<(Vec<f32>, Rounded)> = matrices.par_iter().enumerate().map(one).collect::<Result<_>>()?;
    let mut scales = layer.params.scales().to_vec();
    for (matrix, (of_matrix, _)) in matrices.iter().zip(&chosen) {
        matrix.places.iter().zip(of_matrix).for_each(|(&at, &scale)| scales[at] = scale);
    }
    let params = if exact { layer.params.with_scales(scales)? } else { layer.params.clone() };
    Ok((params, chosen.into_iter().map(|(_, rounded)| rounded).collect()))
}

/// What the outputs are off by on average, row after row: `W' E[x] - W E[f]`, where `f` is what the layer reads in the float
/// model, `x` where that was not gathered.
fn shift(layer: &Layer, moments: &PatchMoments, exact: &[f32], rounded: &[f32]) -> Arc<[f64]> {
    let matrix = &layer.matrix;
    let float = moments.float.as_ref().map_or(&moments.sums, |f| &f.sums);
    let count = moments.count.max(1.0);
    let row = |(group, row): (usize, usize)| {
        let off = (0..matrix.columns).map(|column| {
            let at = matrix.place(group, row, column);
            f64::from(rounded[at]) * moments.sums[group][column] - f64::from(exact[at]) * float[group][column]
        });
        off.sum::<f64>() / count
    };
    (0..matrix.groups).flat_map(|group| (0..matrix.rows).map(move |row| (group, row))).map(row).collect()
}
