//! The parameters and codes of one layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::matrix::Matrix;
use super::retarget::{Inputs, retarget};
use super::rounding::{Layer, RoundRow};
use super::shrink::{best_share, shrunk};
use crate::calibrate::PatchMoments;
use crate::error::Result;
use crate::model::{DataType, Graph, NodeExt};
use crate::number::{Grid, QuantParams, StoredScales, dequantize};
use crate::plan::ChosenCodes;
use crate::round::{Rounded, Rounding, objective, refine, round, seek_scales};

/// What became of one matrix.
struct Solved {
    scales: Vec<f32>,
    rounded: Rounded,
    /// The objective on the samples: of zeros, of the nearest codes, and of those that were chosen.
    power: f64,
    before: f64,
    after: f64,
}

fn scales_of(grids: &[Grid<'_>]) -> Vec<f32> {
    grids.iter().map(|grid| grid.scale).collect()
}

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
    let products = &inputs.moments;
    // A scale that matrices share cannot be searched for in one of them, those that are no floats are rounded, and tables of
    // their own fit the weights as they are.
    let exact = *layer.params.stored_scales() == StoredScales::Floats && layer.params.tables().is_none();
    let seeks = exact && layer.params.format().bits < 8 && alone && layer.weight.dtype() == DataType::Float;
    let one = |(group, matrix): (usize, &mut Matrix<'_>)| -> Result<Solved> {
        // What zeros would lose is all there is.
        let power = objective(&matrix.problem(&all.products[group]), &matrix.zeros());
        let before = round(&matrix.problem(&products[group]), &Rounding::Nearest)?.before;
        let known = shrunk(&products[group], layer.matrix.columns, share);
        let mut scales = scales_of(&matrix.grids);
        if seeks {
            scales = scales_of(&seek_scales(&matrix.problem(&known))?);
            matrix.set_scales(scales.clone());
        }
        let mut rounded = round(&matrix.problem(&known), rounding)?;
        if seeks && refines && rounding.polishes() {
            let (grids, refined) = refine(&matrix.problem(&known), rounded)?;
            (rounded, scales) = (refined, scales_of(&grids));
            matrix.set_scales(scales.clone());
        }
        let after = objective(&matrix.problem(&products[group]), &rounded.codes);
        Ok(Solved { scales, rounded, power, before, after })
    };
    let solved: Vec<Solved> = matrices.par_iter_mut().enumerate().map(one).collect::<Result<_>>()?;

    let mut codes = vec![0; layer.weight.shape().iter().product()];
    let mut scales = layer.params.scales().to_vec();
    let mut methods: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (group, (matrix, solved)) in matrices.iter().zip(&solved).enumerate() {
        layer.matrix.put(group, &solved.rounded.codes, &mut codes);
        matrix.places.iter().zip(&solved.scales).for_each(|(&at, &scale)| scales[at] = scale);
        *methods.entry(solved.rounded.method).or_default() += 1;
    }
    let method = methods.into_iter().max_by_key(|(_, count)| *count).map_or("nearest", |(name, _)| name);
    let sum = |of: fn(&Solved) -> f64| solved.iter().map(of).sum::<f64>();
    let power = sum(|s| s.power);
    let relative = |error: f64| (power > 0.0).then(|| error / power);
    let node = layer.uses.first().and_then(|at| graph.node(at.node));
    let row = RoundRow {
        node: node.map_or_else(String::new, |n| n.title().to_owned()),
        operator: node.map_or_else(String::new, |n| n.operator()),
        method,
        shrinkage: share,
        retargeted,
        before: relative(sum(|s| s.before)),
        after: relative(sum(|s| s.after)),
    };
    let params = if exact { layer.params.with_scales(scales)? } else { layer.params.clone() };
    let shift = match layer.biased {
        true => Some(shift(layer, &all, &weights, &dequantize(&codes, layer.weight.shape(), &params)?)),
        false => None,
    };
    Ok(((params, ChosenCodes { codes: codes.into(), shift }), row))
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
