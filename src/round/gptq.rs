//! GPTQ: columns are rounded one after the other, and those still to come make up for the error of each.
//!
//! Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, ICLR 2023,
//! algorithm 1. With the upper triangle `U` of `H^-1 = U^T U`, rounding column `j` moves the later ones by
//!
//! ```text
//! w_k -= (w_j - w'_j) U_jk / U_jj,   k > j
//! ```
//!
//! What differs: `U` is never formed. With `H = R R^T`, `R` upper triangular, `U` is the inverse of `R`, and the weight
//! that column `j` has when its turn comes is, in terms of the original weights,
//!
//! ```text
//! w_j - (sum over i < j of (w'_i - w_i) R_ij) / R_jj
//! ```
//!
//! The codes are the same, one factorisation is all it takes, and no error of an inversion comes in. Blocks of columns take
//! the sum over earlier blocks in one matrix product, as in the paper. Grids are given, not fitted on the way.

use nalgebra::DMatrix;

use super::algebra;
use super::problem::{Panel, Problem, code_of, real};
use crate::error::{Error, ErrorKind, Result};

/// How GPTQ goes about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptqOptions {
    /// What is added to the diagonal of `H`, as a share of its mean: the paper's `percdamp`.
    pub damping: f64,
    /// How many columns take the sum over the earlier ones together. Changes speed alone.
    pub block: usize,
    /// Columns by falling diagonal of `H`, so that the inputs that matter most have the most others to make up for them;
    /// else in their own order.
    pub activation_order: bool,
}

impl GptqOptions {
    /// Damping 0.01, blocks of 64, activation order.
    pub const DEFAULT: GptqOptions = GptqOptions { damping: 0.01, block: 64, activation_order: true };
}

impl Default for GptqOptions {
    fn default() -> Self {
        GptqOptions::DEFAULT
    }
}

/// The triangle that carries errors from column to column.
pub(super) struct Factor {
    /// The columns, last to be rounded first.
    order: Vec<usize>,
    /// `L`, row by row, of `L L^T`, the damped moments in that order.
    lower: Vec<f64>,
}

impl Factor {
    /// Factorises the damped moments. `None` where no damping makes them positive definite.
    ///
    /// Errors when an option is out of bounds.
    pub(super) fn of(problem: &Problem, options: &GptqOptions) -> Result<Option<Factor>> {
        if !(options.damping.is_finite() && options.damping >= 0.0) || options.block == 0 {
            let what = format!("gptq cannot work with damping {} and blocks of {}", options.damping, options.block);
            return Err(Error::new(ErrorKind::Usage, what).hint("damping is at least 0, a block at least 1"));
        }
        let n = problem.columns;
        let diagonal = problem.diagonal();
        let mean = diagonal.iter().sum::<f64>() / n.max(1) as f64;
        let mut order: Vec<usize> = (0..n).collect();
        if options.activation_order {
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        }
        order.reverse();
        let mut damping = options.damping;
        // Rounding can leave a moment matrix slightly indefinite.
        for _ in 0..5 {
            let damped = DMatrix::from_fn(n, n, |a, b| {
                let (i, j) = (order[a], order[b]);
                match a == b {
                    // An input that is always 0 asks nothing of the others.
                    true if diagonal[i] == 0.0 => 1.0,
                    true => diagonal[i] + damping * mean,
                    false if diagonal[i] == 0.0 || diagonal[j] == 0.0 => 0.0,
                    false => problem.moments[i * n + j],
                }
            });
            if let Some(lower) = algebra::cholesky(damped) {
                return Ok(Some(Factor { order, lower: lower.transpose().as_slice().to_vec() }));
            }
            damping = damping.max(1e-6) * 10.0;
        }
        Ok(None)
    }
}

/// The rows from `start` on with the codes of GPTQ.
pub(super) fn round<'a>(
    problem: &'a Problem<'a>,
    start: usize,
    rows: usize,
    factor: &Factor,
    options: &GptqOptions,
) -> Panel<'a> {
    let n = problem.columns;
    let mut codes = vec![0; rows * n];
    // Errors by rank: the first column rounded is the last here, as in the factor.
    let mut errors = vec![0.0; rows * n];
    let mut high = n;
    while high > 0 {
        let low = high.saturating_sub(options.block);
        let (size, later) = (high - low, n - high);
        let done: Vec<f64> = errors.chunks_exact(n).flat_map(|row| &row[high..]).copied().collect();
        let mut carried = vec![0.0; rows * size];
        let triangle = &factor.lower[(high * n + low).min(factor.lower.len())..];
        algebra::product_with(&mut carried, &done, (triangle, n), [rows, later, size]);
        for row in 0..rows {
            let carried = &mut carried[row * size..(row + 1) * size];
            let errors = &mut errors[row * n..(row + 1) * n];
            let weights = problem.row(start + row);
            for rank in (low..high).rev() {
                let line = &factor.lower[rank * n..rank * n + n];
                let column = factor.order[rank];
                let w = f64::from(weights[column]);
                let grid = problem.grid(start + row, column);
                let code = code_of(grid, w - carried[rank - low] / line[rank]);
                let error = real(grid, code) - w;
                codes[row * n + column] = code;
                errors[rank] = error;
                algebra::add_times(&mut carried[..rank - low], &line[low..rank], error);
            }
        }
        high = low;
    }
    Panel::of(problem, start..start + rows, |row, column| codes[(row - start) * n + column])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::made::{KINDS, Made};

    /// The paper's algorithm by the book: the inverse by elimination, its upper Cholesky triangle, no blocks.
    fn by_the_book(problem: &Problem, options: &GptqOptions) -> Vec<i32> {
        let n = problem.columns;
        let mut order: Vec<usize> = (0..n).collect();
        if options.activation_order {
            order.sort_by(|&a, &b| problem.moment(b)[b].total_cmp(&problem.moment(a)[a]));
        }
        let mean = (0..n).map(|j| problem.moment(j)[j]).sum::<f64>() / n as f64;
        // [H | 1], to [1 | H^-1].
        let mut a = vec![vec![0.0; 2 * n]; n];
        for (i, row) in a.iter_mut().enumerate() {
            for j in 0..n {
                row[j] = problem.moment(order[i])[order[j]];
            }
            row[i] += options.damping * mean;
            row[n + i] = 1.0;
        }
        for i in 0..n {
            let pivot = a[i][i];
            a[i].iter_mut().for_each(|x| *x /= pivot);
            let line = a[i].clone();
            for (_, row) in a.iter_mut().enumerate().filter(|(k, _)| *k != i) {
                let by = row[i];
                row.iter_mut().zip(&line).for_each(|(x, y)| *x -= by * y);
            }
        }
        let mut upper = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in i..n {
                let sum: f64 = (0..i).map(|k| upper[k][i] * upper[k][j]).sum();
                let rest = a[i][n + j] - sum;
                upper[i][j] = if i == j { rest.sqrt() } else { rest / upper[i][i] };
            }
        }
        let mut codes = vec![0; problem.rows * n];
        for row in 0..problem.rows {
            let mut w: Vec<f64> = order.iter().map(|&j| f64::from(problem.row(row)[j])).collect();
            for i in 0..n {
                let grid = problem.grid(row, order[i]);
                let code = code_of(grid, w[i]);
                codes[row * n + order[i]] = code;
                let error = (w[i] - real(grid, code)) / upper[i][i];
                (i..n).for_each(|k| w[k] -= error * upper[i][k]);
            }
        }
        codes
    }

    #[test]
    fn the_codes_are_those_of_the_paper() {
        for (seed, kind) in (0..3).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
            let made = Made::new(4, 37, kind, seed);
            let problem = made.problem();
            for (activation_order, block) in [(true, 64), (true, 8), (false, 37), (false, 5)] {
                let options = GptqOptions { activation_order, block, ..GptqOptions::DEFAULT };
                let factor = Factor::of(&problem, &options).unwrap().unwrap();
                let codes = round(&problem, 1, 3, &factor, &options).codes;
                assert_eq!(codes, by_the_book(&problem, &options)[37..], "{seed} {kind:?} {options:?}");
            }
        }
    }

    #[test]
    fn dead_columns_are_left_alone() {
        let mut made = Made::new(2, 9, KINDS[0], 4);
        made.inputs.chunks_exact_mut(9).for_each(|x| x[3] = 0.0);
        made.gather();
        let problem = made.problem();
        let factor = Factor::of(&problem, &GptqOptions::DEFAULT).unwrap().unwrap();
        let panel = round(&problem, 0, 2, &factor, &GptqOptions::DEFAULT);
        (0..2)
            .for_each(|row| assert_eq!(panel.codes[row * 9 + 3], problem.grid(row, 3).code(made.weights[row * 9 + 3])));
    }
}
