//! Scales searched on the objective, with the codes nearest on each.
//!
//! Of the family of SeqMSE (AIMET: candidates of the scale, judged by the error at the layer's output), AdaQuant (Hubara et
//! al., *Accurate Post Training Quantization With Small Calibration Sets*, ICML 2021: scale and codes minimise
//! `|WX - W'X|^2` together) and FlexRound (Lee et al., ICML 2023). First by trying factors on the given scale; then, since the
//! objective is quadratic in the scale as long as the codes `q` stay (counted from zero's), in closed form:
//!
//! ```text
//! s = (q H w^T - q c) / (q H q^T),   c: the slope that the columns on other grids of the row leave
//! ```
//!
//! with new codes after each, for as long as that helps. Grids along a row are searched one after the other, each with the
//! errors that the others have by then. Zero points stay, and so real zero stays a code; both ends of the range move
//! in proportion.

use super::Problem;
use super::algebra;
use super::problem::real;
use crate::error::{Error, ErrorKind, Result};
use crate::number::Grid;
use rayon::prelude::*;

/// The factors that are tried first.
const FACTORS: std::ops::RangeInclusive<usize> = 6..=24;
/// What they are multiples of.
const FACTOR: f64 = 0.05;
/// So many rows are searched together.
pub(super) const TOGETHER: usize = 192;

/// The given grids with scales that leave a smaller objective when each weight takes its nearest code; where none does, as
/// they were.
///
/// Scales below the given ones are the clip of AWQ (Lin et al., *AWQ: Activation-aware Weight Quantization for LLM Compression
/// and Acceleration*, MLSys 2024): the largest weights of a block are cut off where the layer's output comes nearest.
///
/// Rows that share one of their grids must share all of them, in the same order (`row_base`). Errors as
/// [`round`](super::round), and when rows share some grids only.
pub fn seek_scales<'a>(problem: &Problem<'a>) -> Result<Vec<Grid<'a>>> {
    let (places, teams) = teams(problem)?;
    let mut grids = problem.grids.to_vec();
    // So many teams that their rows are worth a matrix product.
    let wanted = problem.rows.div_ceil(2).min(TOGETHER);
    let together = (wanted * teams.len()).div_ceil(problem.rows.max(1));
    let found: Vec<Vec<(usize, Grid<'a>)>> =
        teams.par_chunks(together.max(1)).map(|teams| Search::of(problem, teams, places).run()).collect();
    for (at, grid) in found.into_iter().flatten() {
        grids[at] = grid;
    }
    Ok(grids)
}

/// How many grids lie along a row, and the rows that share theirs, by the first of them.
///
/// Errors as [`round`](super::round), and when rows share some grids only.
pub(super) fn teams(problem: &Problem) -> Result<(usize, Vec<Vec<usize>>)> {
    problem.check()?;
    let places = problem.grid_of.place.iter().max().map_or(0, |last| last + 1);
    let base = |row: usize| problem.grid_of.row_base[row];
    let mut rows: Vec<usize> = (0..problem.rows).collect();
    rows.sort_by_key(|&row| base(row));
    let teams: Vec<Vec<usize>> = rows.chunk_by(|&a, &b| base(a) == base(b)).map(<[usize]>::to_vec).collect();
    if let Some(pair) = teams.windows(2).find(|pair| base(pair[1][0]) - base(pair[0][0]) < places) {
        let what =
            format!("rows from grid {} and from grid {} share some of {places}", base(pair[0][0]), base(pair[1][0]));
        return Err(Error::new(ErrorKind::Unsupported, what).hint("give rows the same grids or none in common"));
    }
    Ok((places, teams))
}

/// The search for some teams of rows. A team shares its grids.
struct Search<'p, 'a> {
    problem: &'p Problem<'a>,
    /// The rows of all teams, one team after the other.
    rows: Vec<usize>,
    /// The team of each row.
    team: Vec<usize>,
    /// The first grid of each team.
    bases: Vec<usize>,
    /// The columns on each place.
    columns: Vec<Vec<usize>>,
    /// The grids of each team, `[teams, places]`.
    grids: Vec<Grid<'a>>,
    /// `W' - W` and `(W' - W) H` of the grids so far, `[rows, columns]`.
    errors: Vec<f64>,
    slopes: Vec<f64>,
}

/// What a candidate makes of the columns of one place: sums over the rows of a team.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// The part of the objective that depends on the place: `e H e^T + 2 e c`.
    cost: f64,
    /// `q H w^T - q c` and `q H q^T`.
    across: f64,
    along: f64,
}

impl<'p, 'a> Search<'p, 'a> {
    fn of(problem: &'p Problem<'a>, teams: &[Vec<usize>], places: usize) -> Search<'p, 'a> {
        let rows: Vec<usize> = teams.concat();
        let team = teams.iter().enumerate().flat_map(|(t, rows)| vec![t; rows.len()]).collect();
        let bases: Vec<usize> =
            teams.iter().filter_map(|rows| rows.first()).map(|&r| problem.grid_of.row_base[r]).collect();
        let mut columns = vec![Vec::new(); places];
        problem.grid_of.place.iter().enumerate().for_each(|(column, &place)| columns[place].push(column));
        let grids = bases.iter().flat_map(|&base| &problem.grids[base..base + places]).copied().collect();
        let mut search = Search { problem, rows, team, bases, columns, grids, errors: Vec::new(), slopes: Vec::new() };
        search.refresh();
        search
    }

    /// Errors and slopes of the grids as they are.
    fn refresh(&mut self) {
        let n = self.problem.columns;
        self.errors = Vec::with_capacity(self.rows.len() * n);
        for (i, &row) in self.rows.iter().enumerate() {
            for (&w, &place) in self.problem.row(row).iter().zip(self.problem.grid_of.place) {
                let grid = self.grids[self.team[i] * self.columns.len() + place];
                self.errors.push(real(grid, grid.code(w)) - f64::from(w));
            }
        }
        self.slopes = vec![0.0; self.rows.len() * n];
        algebra::product(&mut self.slopes, &self.errors, self.problem.moments, [self.rows.len(), n, n]);
    }

    /// The objective of each team.
    fn costs(&self) -> Vec<f64> {
        let n = self.problem.columns.max(1);
        let mut costs = vec![0.0; self.bases.len()];
        for (i, (errors, slopes)) in self.errors.chunks_exact(n).zip(self.slopes.chunks_exact(n)).enumerate() {
            costs[self.team[i]] += errors.iter().zip(slopes).map(|(e, s)| e * s).sum::<f64>();
        }
        costs
    }

    /// The grids that are better than the given ones, and where they belong.
    fn run(mut self) -> Vec<(usize, Grid<'a>)> {
        let places = self.columns.len();
        let given = (self.grids.clone(), self.costs());
        for place in 0..places {
            self.seek(place);
        }
        self.refresh();
        let costs = self.costs();
        let better = |team: &usize| costs[*team] < given.1[*team] * (1.0 - 1e-12);
        let teams = (0..self.bases.len()).filter(better);
        teams
            .flat_map(|t| (0..places).map(move |p| (t, p)))
            .map(|(t, p)| (self.bases[t] + p, self.grids[t * places + p]))
            .collect()
    }

    /// Seeks the scales of one place, and moves errors and slopes to them.
    fn seek(&mut self, place: usize) {
        let (n, size) = (self.problem.columns, self.columns[place].len());
        if size == 0 {
            return;
        }
        let columns = &self.columns[place];
        let block: Vec<f64> = columns
            .iter()
            .flat_map(|&i| columns.iter().map(move |&j| (i, j)))
            .map(|(i, j)| self.problem.moment(i)[j])
            .collect();
        let gather = |from: &[f64]| -> Vec<f64> {
            from.chunks_exact(n).flat_map(|row| columns.iter().map(|&j| row[j])).collect()
        };
        let errors = gather(&self.errors);
        let mut inner = vec![0.0; errors.len()];
        algebra::product(&mut inner, &errors, &block, [self.rows.len(), size, size]);
        // What the other columns alone make of the slope.
        let others: Vec<f64> = gather(&self.slopes).iter().zip(&inner).map(|(all, own)| all - own).collect();
        let rows = self.rows.iter().map(|&row| self.problem.row(row));
        let weights: Vec<f64> = rows.flat_map(|row| columns.iter().map(|&j| f64::from(row[j]))).collect();
        let mut target = vec![0.0; weights.len()];
        algebra::product(&mut target, &weights, &block, [self.rows.len(), size, size]);
        let unit = block.iter().fold(0f64, |largest, h| largest.max(h.abs())).max(f64::MIN_POSITIVE);
        let block = block.into_iter().map(|h| (h / unit) as f32).collect();
        let place_of = Place { block, unit, others, weights, target, team: &self.team, size };
        let places = self.columns.len();
        let given: Vec<Grid<'a>> = (0..self.bases.len()).map(|t| self.grids[t * places + place]).collect();
        let mut best: Vec<(Grid<'a>, Outcome)> = given.iter().copied().zip(place_of.outcomes(&given)).collect();
        let attempt = |best: &mut Vec<(Grid<'a>, Outcome)>, scale: &dyn Fn(usize, (Grid, Outcome)) -> f64| {
            let scaled = |(t, now): (usize, &(Grid<'a>, Outcome))| with_scale(now.0, scale(t, *now));
            let grids: Vec<Grid<'a>> = best.iter().enumerate().map(scaled).collect();
            let outcomes = place_of.outcomes(&grids);
            let mut helped = false;
            for ((now, grid), outcome) in best.iter_mut().zip(grids).zip(outcomes) {
                if outcome.cost < now.1.cost {
                    *now = (grid, outcome);
                    helped = true;
                }
            }
            helped
        };
        for factor in FACTORS {
            attempt(&mut best, &|t, _| f64::from(given[t].scale) * factor as f64 * FACTOR);
        }
        for part in [-0.5, 0.5, -0.25, 0.25, -0.125, 0.125] {
            attempt(&mut best, &|t, now| f64::from(now.0.scale) + f64::from(given[t].scale) * part * FACTOR);
        }
        for _ in 0..8 {
            let closed = |_: usize, (grid, outcome): (Grid, Outcome)| match outcome.across / outcome.along {
                scale if scale.is_finite() && scale > 0.0 => scale,
                _ => f64::from(grid.scale),
            };
            if !attempt(&mut best, &closed) {
                break;
            }
        }
        for (t, (grid, _)) in best.into_iter().enumerate() {
            self.grids[t * places + place] = grid;
        }
        // The other places see what this one leaves.
        let moved: Vec<f64> = {
            let columns = &self.columns[place];
            let mut moved = Vec::with_capacity(self.rows.len() * size);
            for (i, &row) in self.rows.iter().enumerate() {
                let grid = self.grids[self.team[i] * places + place];
                for &j in columns {
                    let w = self.problem.row(row)[j];
                    let error = real(grid, grid.code(w)) - f64::from(w);
                    moved.push(error - self.errors[i * n + j]);
                    self.errors[i * n + j] = error;
                }
            }
            moved
        };
        if places > 1 {
            for (slopes, moved) in self.slopes.chunks_exact_mut(n).zip(moved.chunks_exact(size)) {
                for (&j, &by) in self.columns[place].iter().zip(moved) {
                    if by != 0.0 {
                        algebra::add_times(slopes, self.problem.moment(j), by);
                    }
                }
            }
        }
    }
}

/// The grid with another scale, which is a positive finite number.
pub(super) fn with_scale(grid: Grid<'_>, scale: f64) -> Grid<'_> {
    Grid { scale: (scale as f32).clamp(f32::MIN_POSITIVE, f32::MAX), ..grid }
}

/// The columns of one place, gathered.
struct Place<'a> {
    /// Their moments in `unit`, `[size, size]`: in f32, since what is found is judged in f64 in the end.
    block: Vec<f32>,
    unit: f64,
    /// The slope that the other columns leave, `[rows, size]`.
    others: Vec<f64>,
    /// `[rows, size]`.
    weights: Vec<f64>,
    /// The weights times the moments, `[rows, size]`.
    target: Vec<f64>,
    team: &'a [usize],
    size: usize,
}

impl Place<'_> {
    /// What a grid for each team makes of the columns.
    fn outcomes(&self, grids: &[Grid]) -> Vec<Outcome> {
        let (rows, size) = (self.team.len(), self.size);
        let mut errors = vec![0f32; rows * size];
        let weights = self.weights.chunks_exact(size).zip(self.team);
        for (errors, (weights, &t)) in errors.chunks_exact_mut(size).zip(weights) {
            let error = |w: f64| (real(grids[t], grids[t].code(w as f32)) - w) as f32;
            errors.iter_mut().zip(weights).for_each(|(e, &w)| *e = error(w));
        }
        let mut inner = vec![0f32; rows * size];
        algebra::product(&mut inner, &errors, &self.block, [rows, size, size]);
        let mut outcomes = vec![Outcome::default(); grids.len()];
        for (row, &t) in self.team.iter().enumerate() {
            let scale = f64::from(grids[t].scale);
            let outcome = &mut outcomes[t];
            for at in row * size..(row + 1) * size {
                let (error, inner) = (f64::from(errors[at]), f64::from(inner[at]) * self.unit);
                let q = (self.weights[at] + error) / scale;
                outcome.cost += error * (inner + 2.0 * self.others[at]);
                outcome.along += q * (self.target[at] + inner) / scale;
                outcome.across += q * (self.target[at] - self.others[at]);
            }
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::made::{KINDS, Kind, Made, Shared};
    use crate::round::objective;

    fn nearest(problem: &Problem) -> f64 {
        let n = problem.columns;
        let code = |i: usize| problem.grid(i / n, i % n).code(problem.weights[i]);
        objective(problem, &(0..problem.weights.len()).map(code).collect::<Vec<_>>())
    }

    /// The objective of the grids found against that of the grids given.
    fn gain(made: &Made) -> f64 {
        let problem = made.problem();
        let grids = seek_scales(&problem).unwrap();
        assert_eq!(grids.len(), problem.grids.len());
        for (a, b) in grids.iter().zip(problem.grids) {
            assert_eq!((a.zero, a.lowest, a.highest), (b.zero, b.lowest, b.highest));
        }
        nearest(&Problem { grids: &grids, ..problem }) / nearest(&problem)
    }

    #[test]
    fn never_worse_whatever_the_grids() {
        for (seed, kind) in (0..4).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
            let gain = gain(&Made::new(7, 18, kind, seed));
            assert!(gain <= 1.0, "{kind:?}: {gain}");
        }
    }

    #[test]
    fn outliers_no_longer_set_the_scale() {
        for kind in [
            Kind::rows(3),
            Kind::rows(4),
            Kind { shared: Shared::Tensor, ..Kind::rows(4) },
            Kind { shared: Shared::Blocks(16), ..Kind::rows(4) },
            Kind { signed: false, symmetric: false, ..Kind::rows(4) },
        ] {
            let mut made = Made::new(8, 64, kind, 3);
            made.weights.iter_mut().step_by(21).for_each(|w| *w *= 3.0);
            made.regrid(kind);
            let gain = gain(&made);
            assert!(gain < 0.8, "{kind:?}: {gain}");
        }
    }

    #[test]
    fn a_single_grid_is_as_good_as_a_fine_search() {
        let made = Made::new(1, 30, Kind::rows(4), 9);
        let problem = made.problem();
        let with = |factor: f64| {
            let grids = [with_scale(problem.grids[0], f64::from(problem.grids[0].scale) * factor)];
            nearest(&Problem { grids: &grids, ..problem })
        };
        let least = (300..1200).map(|i| with(f64::from(i) / 1000.0)).fold(f64::INFINITY, f64::min);
        let found = gain(&made) * nearest(&problem);
        assert!(found < 1.25 * least && least < 0.9 * nearest(&problem), "{found} {least}");
    }

    #[test]
    fn rows_that_share_some_grids_are_refused() {
        let mut made = Made::new(3, 8, Kind { shared: Shared::Blocks(4), ..Kind::rows(4) }, 9);
        made.row_base = vec![0, 1, 2];
        let e = seek_scales(&made.problem()).unwrap_err();
        assert_eq!(e.to_string(), "rows from grid 0 and from grid 1 share some of 2");
    }
}
