//! How far second moments are drawn to their diagonal, so that codes hold for other samples too.
//!
//! Moments of few samples tell more than is true: in directions that those samples happen not to take, errors seem to cost
//! nothing, and methods that look at moments put them there. The cure is the one for covariances of few samples (Ledoit and
//! Wolf 2004; Schaefer and Strimmer 2005): `(1 - share) H + share diag(H)`. Which share is best depends on the samples, the
//! layer and the grid, and is found by trying: codes are chosen by the moments of one half of the samples and judged by
//! those of the other, and the other way round.

use rayon::prelude::*;

use super::matrix::Matrix;
use super::retarget::Inputs;
use crate::error::Result;
use crate::round::{Problem, Rounding, objective, round};

/// The shares that are tried.
const SHARES: [f64; 5] = [0.0, 0.05, 0.15, 0.35, 0.7];
/// So many matrices of a layer, and rows of each, are tried on.
const MATRICES: usize = 16;
const ROWS: usize = 16;

/// Moments whose other entries than the diagonal are smaller by a share.
pub(super) fn shrunk(moments: &[f64], columns: usize, share: f64) -> Vec<f64> {
    let mut shrunk: Vec<f64> = moments.iter().map(|x| x * (1.0 - share)).collect();
    for (i, (x, &full)) in shrunk.iter_mut().zip(moments).step_by(columns + 1).enumerate() {
        debug_assert!(i < columns);
        *x = full;
    }
    shrunk
}

/// The share that serves a layer best: codes chosen with it by the moments of either half of the samples cost least by those
/// of the other.
///
/// Where only one half saw anything, that of so many independent patches of noise.
pub(super) fn best_share(matrices: &[Matrix<'_>], halves: &[Inputs; 2]) -> Result<f64> {
    let Some(first) = matrices.first() else { return Ok(0.0) };
    let columns = first.columns();
    let counts = halves.each_ref().map(|half| half.count);
    if counts.contains(&0.0) {
        return Ok(columns as f64 / (columns as f64 + counts[0] + counts[1]));
    }
    let step = matrices.len().div_ceil(MATRICES);
    let some: Vec<(usize, Matrix<'_>)> =
        matrices.iter().enumerate().step_by(step).map(|(i, m)| (i, m.some_rows(ROWS))).collect();
    let trials: Vec<(f64, usize, &(usize, Matrix<'_>))> = SHARES
        .into_iter()
        .flat_map(|share| [0, 1].map(|half| (share, half)))
        .flat_map(|(share, half)| some.iter().map(move |one| (share, half, one)))
        .collect();
    let cost = |&(share, half, (group, matrix)): &(f64, usize, &(usize, Matrix<'_>))| -> Result<f64> {
        let known = shrunk(&halves[half].moments[*group], columns, share);
        let rounded = round(&matrix.problem(&known), &Rounding::Descent)?;
        // A patch counts as much in one half as in the other.
        let judge = Problem { moments: &halves[1 - half].moments[*group], ..matrix.problem(&known) };
        Ok(objective(&judge, &rounded.codes) / counts[1 - half])
    };
    let costs: Vec<f64> = trials.par_iter().map(cost).collect::<Result<_>>()?;
    let of_share = |i: usize| costs[i * 2 * some.len()..(i + 1) * 2 * some.len()].iter().sum::<f64>();
    let best = (0..SHARES.len()).min_by(|&a, &b| of_share(a).total_cmp(&of_share(b)));
    Ok(best.map_or(0.0, |best| SHARES[best]))
}
