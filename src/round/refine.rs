//! Scales and codes in turn, each the best there is while the other stays.
//!
//! With the codes held, the objective is quadratic in each scale. Codes that stand for levels `q` (0 on other grids), and leave the
//! slope `g = (W' - W) H` on their row, are best on
//!
//! ```text
//! s - (q g^T) / (q H q^T) = (q H w^T - q c) / (q H q^T),   c: the slope that the columns on other grids leave
//! ```
//!
//! summed over the rows of a grid; grids along a row take it one after the other. Then the codes descend from where they are.
//! AdaQuant (Hubara et al. 2021) learns both together, by gradient descent.

use rayon::prelude::*;

use super::algebra;
use super::descent::{self, Effort};
use super::problem::{Panel, Problem, level, real};
use super::scales::{TOGETHER, teams, with_scale};
use super::{GridOf, Rounded};
use crate::error::{Error, ErrorKind, Result};
use crate::number::Grid;

/// At most so many turns.
const TURNS: usize = 4;
/// A turn that gains less than this share of the objective is the last.
const NEEDED: f64 = 1e-3;

/// Codes that were chosen, with the scales that are best for them, and polished on those: the grids and the codes, none
/// of them worse than before.
///
/// Zero points stay. Errors as [`seek_scales`](super::seek_scales), and when there is not a code for each weight.
pub fn refine<'a>(problem: &Problem<'a>, rounded: Rounded) -> Result<(Vec<Grid<'a>>, Rounded)> {
    let (places, teams) = teams(problem)?;
    if rounded.codes.len() != problem.weights.len() {
        let what = format!("{} codes for {} weights", rounded.codes.len(), problem.weights.len());
        return Err(Error::new(ErrorKind::InvalidModel, what));
    }
    let wanted = problem.rows.div_ceil(2).min(TOGETHER);
    let together = (wanted * teams.len()).div_ceil(problem.rows.max(1)).max(1);
    let parts: Vec<Part> =
        teams.par_chunks(together).map(|teams| Part::of(problem, teams, places, &rounded.codes).refined()).collect();
    let mut grids = problem.grids.to_vec();
    let mut refined = Rounded { after: 0.0, ..rounded };
    for part in parts {
        refined.after += part.cost;
        for (grids_of, base) in part.grids.chunks(places.max(1)).zip(&part.bases) {
            grids[*base..base + places].copy_from_slice(grids_of);
        }
        for (codes, row) in part.codes.chunks(problem.columns.max(1)).zip(&part.rows) {
            refined.codes[row * problem.columns..(row + 1) * problem.columns].copy_from_slice(codes);
        }
    }
    Ok((grids, refined))
}

/// Some teams of rows, each of which shares its grids, with a problem of their own.
struct Part<'p, 'a> {
    whole: &'p Problem<'a>,
    rows: Vec<usize>,
    weights: Vec<f32>,
    /// The first grid of each team in the whole problem.
    bases: Vec<usize>,
    /// The first grid of each row in `grids`.
    row_base: Vec<usize>,
    /// The columns on each place.
    columns: Vec<Vec<usize>>,
    /// The grids of each team, `[teams, places]`.
    grids: Vec<Grid<'a>>,
    codes: Vec<i32>,
    /// The objective.
    cost: f64,
}

impl<'p, 'a> Part<'p, 'a> {
    fn of(whole: &'p Problem<'a>, teams: &[Vec<usize>], places: usize, codes: &[i32]) -> Part<'p, 'a> {
        let n = whole.columns;
        let rows: Vec<usize> = teams.concat();
        let bases: Vec<usize> =
            teams.iter().filter_map(|rows| rows.first()).map(|&r| whole.grid_of.row_base[r]).collect();
        let mut columns = vec![Vec::new(); places];
        whole.grid_of.place.iter().enumerate().for_each(|(column, &place)| columns[place].push(column));
        Part {
            whole,
            weights: rows.iter().flat_map(|&row| whole.row(row)).copied().collect(),
            row_base: teams.iter().enumerate().flat_map(|(t, rows)| vec![t * places; rows.len()]).collect(),
            columns,
            grids: bases.iter().flat_map(|&base| &whole.grids[base..base + places]).copied().collect(),
            codes: rows.iter().flat_map(|&row| &codes[row * n..(row + 1) * n]).copied().collect(),
            rows,
            bases,
            cost: f64::INFINITY,
        }
    }

    fn problem<'b>(&'b self, grids: &'b [Grid<'b>]) -> Problem<'b> {
        Problem {
            weights: &self.weights,
            rows: self.rows.len(),
            columns: self.whole.columns,
            grids,
            grid_of: GridOf { row_base: &self.row_base, place: self.whole.grid_of.place },
            moments: self.whole.moments,
        }
    }

    /// Takes turns.
    fn refined(mut self) -> Part<'p, 'a> {
        let panel = |grids, codes: &[i32]| -> (Vec<f64>, Vec<f64>, f64) {
            let problem = self.problem(grids);
            let panel = Panel::of(&problem, 0..problem.rows, |row, column| codes[row * problem.columns + column]);
            let cost = panel.costs().iter().sum();
            (panel.errors, panel.slopes, cost)
        };
        let (mut errors, mut slopes, given) = panel(&self.grids, &self.codes);
        let mut best = (self.grids.clone(), self.codes.clone(), given);
        for _ in 0..TURNS {
            let mut grids = best.0.clone();
            self.refit(&mut grids, &best.1, &mut errors, &mut slopes);
            let problem = self.problem(&grids);
            let mut polished =
                Panel { problem: &problem, start: 0, rows: problem.rows, codes: best.1.clone(), errors, slopes };
            descent::polish(&mut polished, Effort::default());
            let cost = polished.costs().iter().sum::<f64>();
            let Panel { codes, errors: left, slopes: leaning, .. } = polished;
            (errors, slopes) = (left, leaning);
            let before = best.2;
            if cost < before {
                best = (grids, codes, cost);
            }
            if cost >= before * (1.0 - NEEDED) {
                break;
            }
        }
        (self.grids, self.codes, self.cost) = best;
        self
    }

    /// Gives each grid its best scale, and moves errors and slopes along.
    fn refit(&self, grids: &mut [Grid], codes: &[i32], errors: &mut [f64], slopes: &mut [f64]) {
        let (n, rows) = (self.whole.columns, self.rows.len());
        let places = self.columns.len();
        for (place, columns) in self.columns.iter().enumerate().filter(|(_, columns)| !columns.is_empty()) {
            let size = columns.len();
            // What the codes are before the scale, and that times the moments.
            let mut steps = Vec::with_capacity(rows * size);
            for (row, codes) in codes.chunks_exact(n).enumerate() {
                let grid = grids[self.row_base[row] + place];
                steps.extend(columns.iter().map(|&j| level(grid, codes[j])));
            }
            let moments: Vec<f64> = columns.iter().flat_map(|&j| self.whole.moment(j)).copied().collect();
            let mut leaning = vec![0.0; rows * n];
            algebra::product(&mut leaning, &steps, &moments, [rows, size, n]);
            // Of each team.
            let (mut across, mut along) = (vec![0.0; self.bases.len()], vec![0.0; self.bases.len()]);
            for row in 0..rows {
                let team = self.row_base[row] / places;
                for (&step, &j) in steps[row * size..(row + 1) * size].iter().zip(columns) {
                    across[team] += step * slopes[row * n + j];
                    along[team] += step * leaning[row * n + j];
                }
            }
            let mut by = vec![0.0; self.bases.len()];
            for (team, by) in by.iter_mut().enumerate() {
                let grid = &mut grids[team * places + place];
                let scale = f64::from(grid.scale) - across[team] / along[team];
                if along[team] > 0.0 && scale.is_finite() && scale > 0.0 {
                    let moved = with_scale(*grid, scale);
                    *by = f64::from(moved.scale) - f64::from(grid.scale);
                    *grid = moved;
                }
            }
            for row in 0..rows {
                let (team, base) = (self.row_base[row] / places, row * n);
                if by[team] != 0.0 {
                    algebra::add_times(&mut slopes[base..base + n], &leaning[base..base + n], by[team]);
                    let grid = grids[team * places + place];
                    for &j in columns {
                        errors[base + j] = real(grid, codes[base + j]) - f64::from(self.weights[base + j]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::made::{KINDS, Kind, Made, Shared};
    use crate::round::{Rounding, objective, round, seek_scales};

    #[test]
    fn never_worse_and_what_it_says() {
        for (seed, kind) in (0..4).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
            let mut made = Made::new(9, 22, kind, seed);
            made.inputs.chunks_exact_mut(22).for_each(|x| x[4] = 0.0);
            made.gather();
            let problem = made.problem();
            for rounding in [Rounding::Nearest, Rounding::Descent] {
                let rounded = round(&problem, &rounding).unwrap();
                let (grids, refined) = refine(&problem, rounded.clone()).unwrap();
                assert!(refined.after <= rounded.after, "{kind:?}: {} {}", refined.after, rounded.after);
                let cost = objective(&Problem { grids: &grids, ..problem }, &refined.codes);
                assert!((cost - refined.after).abs() <= 1e-6 * cost, "{kind:?}: {cost}, not {}", refined.after);
                for (i, (a, b)) in grids.iter().zip(problem.grids).enumerate() {
                    assert_eq!((a.zero, a.lowest, a.highest), (b.zero, b.lowest, b.highest), "{i}");
                }
                for (i, code) in refined.codes.iter().enumerate() {
                    let grid = problem.grid(i / 22, i % 22);
                    assert!((grid.lowest..=grid.highest).contains(code));
                }
            }
        }
    }

    #[test]
    fn no_other_scale_of_a_grid_is_better_for_its_codes() {
        for kind in [Kind::rows(4), KINDS[3], KINDS[5], Kind { shared: Shared::Blocks(8), ..Kind::rows(3) }] {
            let made = Made::new(6, 24, kind, 5);
            let problem = made.problem();
            let codes = round(&problem, &Rounding::Descent).unwrap().codes;
            let teams = teams(&problem).unwrap();
            let part = Part::of(&problem, &teams.1, teams.0, &codes);
            let own = part.problem(&part.grids);
            let mut panel = Panel::of(&own, 0..6, |row, column| part.codes[row * 24 + column]);
            let mut grids = part.grids.clone();
            // One after the other comes to rest where each is best.
            for _ in 0..200 {
                part.refit(&mut grids, &part.codes, &mut panel.errors, &mut panel.slopes);
            }
            let cost = |grids: &[Grid]| objective(&Problem { grids, ..own }, &part.codes);
            for at in 0..grids.len() {
                for factor in [0.99, 1.01] {
                    let mut other = grids.clone();
                    other[at] = with_scale(other[at], f64::from(other[at].scale) * factor);
                    assert!(cost(&other) > cost(&grids), "{kind:?}: grid {at} by {factor}");
                }
            }
        }
    }

    #[test]
    fn codes_on_searched_scales_come_nearer() {
        let mut gains = 0.0;
        for seed in 0..8 {
            let made = Made::new(16, 40, Kind::rows(4), seed);
            let grids = seek_scales(&made.problem()).unwrap();
            let problem = Problem { grids: &grids, ..made.problem() };
            let rounded = round(&problem, &Rounding::AUTO).unwrap();
            let (_, refined) = refine(&problem, rounded.clone()).unwrap();
            gains += (rounded.after / refined.after).log10() * 10.0 / 8.0;
        }
        assert!(gains > 0.1, "{gains} dB");
    }

    #[test]
    fn codes_must_fit() {
        let made = Made::new(2, 5, KINDS[0], 1);
        let rounded = round(&made.problem(), &Rounding::Nearest).unwrap();
        let few = Rounded { codes: vec![0; 3], ..rounded };
        assert_eq!(refine(&made.problem(), few).unwrap_err().to_string(), "3 codes for 10 weights");
    }
}
