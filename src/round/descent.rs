//! Coordinate descent: each weight in turn to the code that is best while the others stay.
//!
//! The objective of a row is a quadratic form in its error `e = w' - w`. With the slope `g = e H`, moving column `j` by
//! `d` changes it by `2 d g_j + d^2 H_jj`, which is least at `d = -g_j / H_jj`: the best code of the column, any code and not
//! just a neighbour, is the one nearest to `w'_j - g_j / H_jj`. A sweep visits every column; a move costs one addition of
//! a row of `H` to the slope, no move costs nothing, and sweeps end when one has no moves.
//!
//! COMQ (Zhang et al., *COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization*, 2024) and QuantEase (Behdin
//! et al., *QuantEase: Optimization-based Quantization for Language Models*, 2023, equation 6). What differs: the descent
//! starts from codes, not from float weights; the slope is kept, not made anew; and where columns stop moving one at a
//! time, two of them move together (`pairs.rs`), or short rows are searched to the end (`exact.rs`).

use super::problem::{Panel, between, code_of, real};
use super::{exact, pairs};

/// How far a polish goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// At most so many sweeps.
    pub(super) sweeps: usize,
    /// In a row so many columns are moved for the sake of a second one; for each of them all others are looked at.
    pub(super) pairs: usize,
    /// Rows up to so many columns are searched to the end, in so many steps at most.
    pub(super) exact: (usize, usize),
}

impl Default for Effort {
    fn default() -> Self {
        Effort { sweeps: 50, pairs: 32, exact: (16, 10_000) }
    }
}

/// A gain below this share of what one step of the column alone costs is taken for rounding of the sums.
pub(super) const NOISE: f64 = 1e-9;

/// Moves the codes of a panel to a local optimum, and out of it where two columns together or a search find better.
pub(super) fn polish(panel: &mut Panel, effort: Effort) {
    let diagonal = panel.problem.diagonal();
    descend(panel, &diagonal, effort.sweeps);
    if panel.problem.columns <= effort.exact.0 {
        exact::search(panel, &diagonal, effort.exact.1);
    } else if panel.problem.grids.iter().all(|g| g.table.is_none()) {
        // Pairs move by steps of one size, which tables do not have.
        pairs::descend(panel, &diagonal, effort);
    }
}

/// Sweeps over all rows until nothing moves.
fn descend(panel: &mut Panel, diagonal: &[f64], sweeps: usize) {
    let mut rows: Vec<usize> = (0..panel.rows).collect();
    for _ in 0..sweeps {
        let mut moved = vec![false; panel.rows];
        // The rows side by side, so that each row of H is fetched once for all of them.
        for (column, &h) in diagonal.iter().enumerate() {
            if h > 0.0 {
                rows.iter().for_each(|&row| moved[row] |= settle(panel, row, column, h));
            }
        }
        rows.retain(|&row| moved[row]);
        if rows.is_empty() {
            break;
        }
    }
}

/// Sweeps over one row until nothing moves.
pub(super) fn descend_row(panel: &mut Panel, row: usize, diagonal: &[f64], sweeps: usize) {
    for _ in 0..sweeps {
        let alive = diagonal.iter().enumerate().filter(|(_, h)| **h > 0.0);
        let moves = alive.filter(|&(column, &h)| settle(panel, row, column, h)).count();
        if moves == 0 {
            break;
        }
    }
}

/// Gives one weight its best code; whether that is another one.
#[inline]
fn settle(panel: &mut Panel, row: usize, column: usize, h: f64) -> bool {
    let at = row * panel.problem.columns + column;
    let slope = panel.slopes[at];
    let grid = panel.grid(row, column);
    let scale = f64::from(grid.scale);
    // Most weights stay: then the slope is within half a step.
    if grid.table.is_none() && slope.abs() <= 0.5 * scale * h {
        return false;
    }
    let now = panel.codes[at];
    let code = code_of(grid, real(grid, now) - slope / h);
    let by = between(grid, now, code);
    let better = by * (2.0 * slope + by * h) < -NOISE * h * scale * scale;
    if better {
        panel.set(row, column, code);
    }
    better
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::made::{KINDS, Made};

    const SINGLE: Effort = Effort { sweeps: 200, pairs: 0, exact: (0, 0) };

    #[test]
    fn no_other_code_of_a_weight_is_better() {
        for kind in KINDS {
            let made = Made::new(3, 25, kind, 8);
            let problem = made.problem();
            let mut panel = Panel::nearest(&problem, 0..3);
            let before: f64 = panel.costs().iter().sum();
            polish(&mut panel, SINGLE);
            let after: f64 = panel.costs().iter().sum();
            assert!(after < before, "{kind:?}");
            for at in 0..75 {
                let grid = panel.grid(at / 25, at % 25);
                for code in grid.lowest..=grid.highest {
                    let was = panel.codes[at];
                    let with = |i: usize| if i == at { code } else { panel.codes[i] };
                    let moved = Panel::of(&problem, 0..3, |row, column| with(row * 25 + column));
                    let cost: f64 = moved.costs().iter().sum();
                    assert!(cost > after * (1.0 - 1e-6), "{kind:?}: {was} to {code}");
                }
            }
        }
    }

    #[test]
    fn slopes_that_are_kept_are_those_of_the_codes() {
        let made = Made::new(5, 70, KINDS[0], 8);
        let problem = made.problem();
        let mut panel = Panel::nearest(&problem, 0..5);
        polish(&mut panel, Effort::default());
        let fresh = Panel::of(&problem, 0..5, |row, column| panel.codes[row * 70 + column]);
        let largest = fresh.slopes.iter().fold(0f64, |m, s| m.max(s.abs()));
        let off = panel.slopes.iter().zip(&fresh.slopes).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-10 * largest, "{off} of {largest}");
    }
}
