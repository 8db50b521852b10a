//! Short rows, searched to the end.
//!
//! With `H = R^T R`, `R` upper triangular, the objective of a row is a sum of squares, and the term of column `j` depends
//! on columns from `j` on alone. Depth first from the last column, codes of each by rising cost, a branch is left as soon
//! as its sum reaches the best one known: the enumeration of Schnorr and Euchner (*Lattice basis reduction: Improved
//! practical algorithms and solving subset sum problems*, Mathematical Programming 66, 1994), with codes kept on their
//! grid. The codes that the descent ended with are the first best, so most branches never open. A depthwise 3 x 3 kernel has 9
//! columns.

use nalgebra::DMatrix;

use super::algebra;
use super::problem::{Panel, code_of, real};
use crate::number::Grid;

/// Gives each row of the panel its best codes, or the best found within so many steps.
pub(super) fn search(panel: &mut Panel, diagonal: &[f64], steps: usize) {
    let n = panel.problem.columns;
    let mut alive: Vec<usize> = (0..n).filter(|&j| diagonal[j] > 0.0).collect();
    if alive.is_empty() {
        return;
    }
    // The columns that weigh most are decided first, as the last rank.
    alive.sort_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]));
    let mean = diagonal.iter().sum::<f64>() / alive.len() as f64;
    let moments = |a: usize, b: usize| panel.problem.moment(alive[a])[alive[b]];
    let size = alive.len();
    // So little that it decides between codes only where the moments do not.
    let damped = DMatrix::from_fn(size, size, |a, b| moments(a, b) + if a == b { 1e-9 * mean } else { 0.0 });
    let Some(lower) = algebra::cholesky(damped) else { return };
    let triangle = lower.transpose();
    for row in 0..panel.rows {
        let place = |&j: &usize| (panel.grid(row, j), f64::from(panel.problem.row(panel.start + row)[j]));
        let (grids, weights) = alive.iter().map(place).unzip();
        let codes: Vec<i32> = alive.iter().map(|&j| panel.codes[row * n + j]).collect();
        let mut search = Search {
            triangle: &triangle,
            grids,
            weights,
            codes: codes.clone(),
            errors: vec![0.0; size],
            best: codes,
            least: 0.0,
            steps,
        };
        search.least = search.cost() * (1.0 - 1e-9);
        let before = search.best.clone();
        search.descend(size, 0.0);
        let found = search.best;
        for ((&j, &code), &was) in alive.iter().zip(&found).zip(&before) {
            if code != was {
                panel.set(row, j, code);
            }
        }
    }
}

/// The state of a search of one row.
struct Search<'a> {
    triangle: &'a DMatrix<f64>,
    grids: Vec<Grid<'a>>,
    weights: Vec<f64>,
    codes: Vec<i32>,
    errors: Vec<f64>,
    best: Vec<i32>,
    least: f64,
    steps: usize,
}

impl Search<'_> {
    /// The sum of squares of the codes.
    fn cost(&self) -> f64 {
        let error = |j: usize| real(self.grids[j], self.codes[j]) - self.weights[j];
        let term = |j: usize| (j..self.codes.len()).map(|k| self.triangle[(j, k)] * error(k)).sum::<f64>().powi(2);
        (0..self.codes.len()).map(term).sum()
    }

    /// Decides the ranks below `rank`, those from it on being decided at this cost.
    fn descend(&mut self, rank: usize, cost: f64) {
        let Some(j) = rank.checked_sub(1) else {
            self.least = cost;
            self.best.copy_from_slice(&self.codes);
            return;
        };
        let later: f64 = (rank..self.codes.len()).map(|k| self.triangle[(j, k)] * self.errors[k]).sum();
        let own = self.triangle[(j, j)];
        let grid = self.grids[j];
        let middle = self.weights[j] - later / own;
        let nearest = code_of(grid, middle);
        // The codes around the middle, nearest first: one arm up and one down.
        let (mut up, mut down) = (nearest, nearest.checked_sub(1).filter(|c| *c >= grid.lowest));
        let mut up_open = true;
        while self.steps > 0 {
            let off = |code: i32| (real(grid, code) - middle).abs();
            let code = match (up_open, down) {
                (true, Some(down)) if off(down) < off(up) => down,
                (true, _) => up,
                (false, Some(down)) => down,
                (false, None) => return,
            };
            self.steps -= 1;
            let error = real(grid, code) - self.weights[j];
            let sum = cost + (later + own * error).powi(2);
            if sum >= self.least || sum.is_nan() {
                return;
            }
            self.codes[j] = code;
            self.errors[j] = error;
            self.descend(j, sum);
            if up_open && code == up {
                up_open = up < grid.highest;
                up = up.saturating_add(1);
            } else {
                down = code.checked_sub(1).filter(|c| *c >= grid.lowest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::made::{Kind, Made};

    /// Costs of the rows after a search from the nearest codes, in so many steps.
    fn searched(made: &Made, steps: usize) -> Vec<f64> {
        let problem = made.problem();
        let mut panel = Panel::nearest(&problem, 0..made.rows);
        search(&mut panel, &problem.diagonal(), steps);
        panel.costs()
    }

    #[test]
    fn where_it_starts_does_not_matter() {
        let made = Made::new(6, 9, Kind::rows(4), 3);
        let problem = made.problem();
        let mut panel = Panel::of(&problem, 0..6, |row, column| (row * 5 + column * 3) as i32 % 15 - 7);
        search(&mut panel, &problem.diagonal(), 1_000_000);
        for (a, b) in panel.costs().iter().zip(searched(&made, 1_000_000)) {
            assert!((a - b).abs() < 1e-6 * b, "{a} {b}");
        }
    }

    #[test]
    fn a_search_cut_short_keeps_what_it_has() {
        let made = Made::new(6, 12, Kind::rows(4), 3);
        let (none, some, all) = (searched(&made, 0), searched(&made, 40), searched(&made, 1_000_000));
        let nearest = Panel::nearest(&made.problem(), 0..6).costs();
        assert_eq!(none, nearest);
        assert!(some.iter().zip(&none).all(|(s, n)| s <= n) && all.iter().zip(&some).all(|(a, s)| *a <= s * 1.000001));
        assert!(all.iter().sum::<f64>() < 0.9 * none.iter().sum::<f64>());
    }
}
