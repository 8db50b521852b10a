//! Weights of layers that read behind what is quantized already.
//!
//! How far the weights follow what becomes of the inputs is found by trying, as it is for the moments (`shrink.rs`): a change
//! that was solved for on one half of the samples is judged on the other.

use rayon::prelude::*;

use super::matrix::Matrix;
use crate::calibrate::PatchMoments;
use crate::round::{Fall, Moved};

/// The dampings that are tried.
const DAMPINGS: [f64; 5] = [0.01, 0.05, 0.2, 1.0, 4.0];
/// So many matrices of a layer, and rows of each, are tried on.
const MATRICES: usize = 16;
const ROWS: usize = 32;

/// The moments of a layer's inputs by which its weights are chosen, for each of its matrices: as they are, or around their means.
pub(super) struct Inputs {
    pub count: f64,
    pub moments: Vec<Vec<f64>>,
    /// Those of the float model's with the others, where there are any.
    pub cross: Option<Vec<Vec<f64>>>,
}

impl Inputs {
    pub fn of(moments: &PatchMoments, centered: bool) -> Inputs {
        let count = moments.count;
        let float = moments.float.as_ref();
        match centered {
            true => {
                Inputs { count, moments: moments.centered(), cross: float.map(|f| f.centered(&moments.sums, count)) }
            }
            false => Inputs { count, moments: moments.products.clone(), cross: float.map(|f| f.products.clone()) },
        }
    }

    fn moved(&self, group: usize, columns: usize) -> Option<Moved<'_>> {
        let cross = self.cross.as_ref()?.get(group)?;
        Some(Moved { columns, moments: &self.moments[group], cross })
    }
}

/// Gives the matrices of a layer the weights that make of the inputs behind what is quantized most nearly what they make of those
/// in the float model, as far as that holds for other samples; returns how far, from 0 to 1.
///
/// With samples in one half only, and where no change is any good for others, the weights stay.
pub(super) fn retarget(matrices: &mut [Matrix<'_>], all: &Inputs, halves: &[Inputs; 2]) -> f64 {
    if all.cross.is_none() || halves.iter().any(|half| half.count == 0.0) {
        return 0.0;
    }
    let step = matrices.len().div_ceil(MATRICES).max(1);
    let some: Vec<(usize, Matrix<'_>)> =
        matrices.iter().enumerate().step_by(step).map(|(group, m)| (group, m.some_rows(ROWS))).collect();
    let trials: Vec<(usize, usize, &(usize, Matrix<'_>))> = (0..DAMPINGS.len())
        .flat_map(|damping| [0, 1].map(|half| (damping, half)))
        .flat_map(|(damping, half)| some.iter().map(move |one| (damping, half, one)))
        .collect();
    let judge = |&(damping, half, (group, matrix)): &(usize, usize, &(usize, Matrix<'_>))| -> Option<Fall> {
        let (weights, columns) = (matrix.weights(), matrix.columns());
        let change = halves[half].moved(*group, columns)?.change(weights, DAMPINGS[damping])?;
        let other = &halves[1 - half];
        let fall = other.moved(*group, columns)?.fall(weights, &change);
        // A patch counts as much in one half as in the other.
        Some(Fall { linear: fall.linear / other.count, square: fall.square / other.count })
    };
    let falls: Vec<Option<Fall>> = trials.par_iter().map(judge).collect();
    let of_damping = |falls: &[Option<Fall>]| {
        let total = falls.iter().try_fold(Fall::default(), |all, one| {
            one.map(|one| Fall { linear: all.linear + one.linear, square: all.square + one.square })
        });
        total.unwrap_or_default().best()
    };
    let judged = falls.chunks((2 * some.len()).max(1)).map(of_damping).zip(DAMPINGS);
    let Some(((part, gain), damping)) = judged.max_by(|a, b| a.0.1.total_cmp(&b.0.1)) else { return 0.0 };
    if !(part > 0.0 && gain > 0.0) {
        return 0.0;
    }
    matrices.par_iter_mut().enumerate().for_each(|(group, matrix)| {
        let change = all.moved(group, matrix.columns()).and_then(|m| m.change(matrix.weights(), damping));
        if let Some(change) = change {
            let changed = matrix.weights().iter().zip(change).map(|(&w, d)| (f64::from(w) + part * d) as f32).collect();
            matrix.set_weights(changed);
        }
    });
    part
}
