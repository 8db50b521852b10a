//! Tables of a layer, found for what its outputs become.

use rayon::prelude::*;

use super::matrix::Matrix;
use super::rounding::Layer;
use crate::error::Result;
use crate::number::{Grid, Levels, QuantParams, Scheme, fit_tables};
use crate::round::{Problem, Rounded, Rounding, Tabled, refine_tables, round};

/// Inputs count at least so much of their mean: what they did not show on these samples they may show on others.
const LEAST: f64 = 0.01;

/// The tables and codes of a layer by the second moments of what each of its matrices reads.
///
/// There are two beginnings: the tables of the plan, which fit the weights, and those that are the best for weights that count as
/// much as the second moments of their inputs say (Kim et al., "SqueezeLLM: Dense-and-sparse quantization", 2024, equation 4).
/// Codes are chosen on both, and where the method polishes what it found, tables and codes take turns. What costs less is
/// taken, which is never more than the nearest codes on the tables of the plan.
pub(super) fn choose_tables(
    layer: &Layer,
    matrices: &[Matrix<'_>],
    moments: &[Vec<f64>],
    rounding: &Rounding,
) -> Result<(QuantParams, Vec<Rounded>)> {
    let cost = |(_, rounded): &(QuantParams, Vec<Rounded>)| rounded.iter().map(|r| r.after).sum::<f64>();
    let planned = take_turns(layer.params.clone(), matrices, moments, rounding)?;
    let weighed = take_turns(weigh(layer, matrices, moments)?, matrices, moments, rounding)?;
    Ok(if cost(&weighed) < cost(&planned) { weighed } else { planned })
}

/// The tables of clusters of weights that count as much as their inputs do.
fn weigh(layer: &Layer, matrices: &[Matrix<'_>], moments: &[Vec<f64>]) -> Result<QuantParams> {
    let shape = layer.weight.shape();
    let count = shape.iter().product();
    let (mut weights, mut counts) = (vec![0f32; count], vec![0f64; count]);
    for (group, (matrix, moments)) in matrices.iter().zip(moments).enumerate() {
        let columns = matrix.columns();
        let diagonal: Vec<f64> = moments.iter().step_by(columns + 1).map(|h| h.max(0.0)).collect();
        let mean = diagonal.iter().sum::<f64>() / columns.max(1) as f64;
        let of_row: Vec<f64> = diagonal.iter().map(|h| h + LEAST * mean).collect();
        layer.matrix.put(group, matrix.weights(), &mut weights);
        layer.matrix.put(group, &of_row.repeat(layer.matrix.rows), &mut counts);
    }
    // Where samples showed nothing at all, all weights count alike.
    let counts = counts.iter().any(|&c| c > 0.0).then_some(&counts[..]);
    fit_tables(&weights, counts, shape, &scheme_of(&layer.params))
}

/// The scheme of parameters that are tables.
fn scheme_of(params: &QuantParams) -> Scheme {
    Scheme { joined: params.joined(), ..Scheme::new(params.format(), true, params.granularity()) }
}

/// Codes on tables, and then those and the tables in turn.
fn take_turns(
    params: QuantParams,
    matrices: &[Matrix<'_>],
    moments: &[Vec<f64>],
    rounding: &Rounding,
) -> Result<(QuantParams, Vec<Rounded>)> {
    let grids: Vec<Vec<Grid<'_>>> = matrices.iter().map(|m| m.grids_of(&params)).collect();
    let tabled: Vec<Tabled<'_>> = matrices
        .iter()
        .zip(moments)
        .zip(&grids)
        .map(|((matrix, moments), grids)| Tabled {
            problem: Problem { grids, ..matrix.problem(moments) },
            table_of: &matrix.places,
        })
        .collect();
    let polishes = rounding.polishes();
    let rounded = tabled.par_iter().map(|one| round(&one.problem, rounding)).collect::<Result<Vec<Rounded>>>()?;
    let Some(tables) = params.tables().filter(|_| polishes) else { return Ok((params.clone(), rounded)) };
    // A number on each side of zero, and zero.
    let zero_stays = params.format().levels == Levels::TwoScales;
    let (tables, rounded) = refine_tables(&tabled, tables, zero_stays, rounded)?;
    Ok((QuantParams::with_tables(&scheme_of(&params), tables)?, rounded))
}
