//! One problem: weights, their grids and the moments of the input; and a panel of its rows with codes on them.

use std::ops::Range;

use super::algebra;
use crate::error::{Error, ErrorKind, Result};
use crate::number::{Grid, nearest};

/// Which grid a weight is on: `grids[row_base[row] + place[column]]`.
///
/// | granularity | `row_base` | `place` |
/// |---|---|---|
/// | per tensor | 0 | 0 |
/// | per row | the row | 0 |
/// | blocks of `B` columns | row x blocks in a row | column / `B` |
#[derive(Debug, Clone, Copy)]
pub struct GridOf<'a> {
    /// For each row the first of its grids.
    pub row_base: &'a [usize],
    /// For each column its grid's place among those of the row.
    pub place: &'a [usize],
}

/// One group of a layer: rows are outputs, columns are inputs. A grouped convolution is one problem a group.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// The weights, `[rows, columns]`, row by row.
    pub weights: &'a [f32],
    /// How many outputs.
    pub rows: usize,
    /// How many inputs of each output.
    pub columns: usize,
    /// The grids of the weights.
    pub grids: &'a [Grid<'a>],
    /// Which weight is on which of them.
    pub grid_of: GridOf<'a>,
    /// The second moments of the input, `[columns, columns]`: symmetric, positive semidefinite up to rounding. Inputs that
    /// are always 0 have rows and columns of zeros.
    pub moments: &'a [f64],
}

/// So many rows of a panel: enough for a matrix product to be worth its preparation, few enough to stay in the cache.
const PANEL: usize = 128;

impl<'a> Problem<'a> {
    /// The grid of a weight.
    #[inline]
    pub(super) fn grid(&self, row: usize, column: usize) -> Grid<'a> {
        self.grids[self.grid_of.row_base[row] + self.grid_of.place[column]]
    }

    /// The weights of a row.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.columns..(row + 1) * self.columns]
    }

    /// A row of the moments.
    #[inline]
    pub(super) fn moment(&self, column: usize) -> &[f64] {
        &self.moments[column * self.columns..(column + 1) * self.columns]
    }

    /// The moments of each input with itself, not below 0.
    pub(super) fn diagonal(&self) -> Vec<f64> {
        (0..self.columns).map(|j| self.moments[j * self.columns + j].max(0.0)).collect()
    }

    /// The rows in panels of about the same size, which depend on the problem alone; an even number of them where there is
    /// more than one.
    pub(super) fn panels(&self) -> Vec<Range<usize>> {
        let panels = match self.rows {
            0 => return Vec::new(),
            rows if rows * self.columns <= 1024 => 1,
            rows => rows.div_ceil(PANEL).next_multiple_of(2).min(rows),
        };
        (0..panels).map(|i| i * self.rows / panels..(i + 1) * self.rows / panels).collect()
    }

    /// Errors when the parts do not fit each other, and when a number is not one to compute with.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::InvalidModel, what));
        let Problem { rows, columns, grid_of, .. } = *self;
        if rows.checked_mul(columns) != Some(self.weights.len()) {
            return wrong(format!("{} weights do not fill {rows} rows of {columns} columns", self.weights.len()));
        }
        if columns.checked_mul(columns) != Some(self.moments.len()) {
            return wrong(format!("{} moments do not fit {columns} columns", self.moments.len()));
        }
        if (grid_of.row_base.len(), grid_of.place.len()) != (rows, columns) {
            let (bases, places) = (grid_of.row_base.len(), grid_of.place.len());
            return wrong(format!("grids for {bases} rows and {places} columns do not fit {rows} and {columns}"));
        }
        if let (Some(base), Some(place)) = (grid_of.row_base.iter().max(), grid_of.place.iter().max())
            && base.checked_add(*place).is_none_or(|last| last >= self.grids.len())
        {
            return wrong(format!(
                "{} grids, but a weight is on grid {}",
                self.grids.len(),
                base.saturating_add(*place)
            ));
        }
        for (i, grid) in self.grids.iter().enumerate() {
            if !(grid.scale.is_finite() && grid.scale > 0.0) {
                return wrong(format!("scale {} of grid {i} is not a positive finite number", grid.scale));
            }
            if grid.table.is_some_and(|t| t.is_empty() || (grid.lowest, grid.highest) != (0, t.len() as i32 - 1)) {
                return wrong(format!("grid {i} has codes {} to {} that miss its table", grid.lowest, grid.highest));
            }
            if grid.lowest > grid.highest {
                return wrong(format!("grid {i} has no codes: {} to {}", grid.lowest, grid.highest));
            }
        }
        if let Some(i) = self.weights.iter().position(|w| !w.is_finite()) {
            return wrong(format!("weight {} of row {} is {}", i % columns, i / columns, self.weights[i]));
        }
        if let Some(i) = self.moments.iter().position(|h| !h.is_finite()) {
            let what = format!("moment of inputs {} and {} is {}", i / columns, i % columns, self.moments[i]);
            return Err(Error::new(ErrorKind::Data, what));
        }
        Ok(())
    }
}

/// What a code stands for before the scale, in f64.
#[inline]
pub(super) fn level(grid: Grid<'_>, code: i32) -> f64 {
    match grid.table {
        Some(table) => usize::try_from(code).ok().and_then(|c| table.get(c)).map_or(f64::NAN, |&level| level.into()),
        None => f64::from(code) - f64::from(grid.zero),
    }
}

/// The real number of a code, in f64.
#[inline]
pub(super) fn real(grid: Grid<'_>, code: i32) -> f64 {
    level(grid, code) * f64::from(grid.scale)
}

/// The real number of a code after that of another, in f64.
#[inline]
pub(super) fn between(grid: Grid, from: i32, to: i32) -> f64 {
    match grid.table {
        Some(_) => real(grid, to) - real(grid, from),
        None => (f64::from(to) - f64::from(from)) * f64::from(grid.scale),
    }
}

/// The codes of the numbers nearest to a real number on both sides of it; both of the end where it lies beyond.
pub(super) fn around(grid: Grid, x: f64) -> (i32, i32) {
    let steps = x / f64::from(grid.scale);
    if let Some(table) = grid.table {
        let above = (table.partition_point(|&level| f64::from(level) <= steps) as i32).min(grid.highest);
        let below = (above - 1).max(grid.lowest);
        return if steps >= f64::from(table[table.len() - 1]) { (grid.highest, grid.highest) } else { (below, above) };
    }
    let at = |steps: f64| code_of(grid, steps * f64::from(grid.scale));
    (at(steps.floor()), at(steps.floor() + 1.0))
}

/// The code nearest to a real number, in f64, ties to even.
#[inline]
pub(super) fn code_of(grid: Grid, x: f64) -> i32 {
    if let Some(table) = grid.table {
        return nearest(table, x / f64::from(grid.scale)) as i32;
    }
    let steps = (x / f64::from(grid.scale)).round_ties_even() + f64::from(grid.zero);
    steps.max(f64::from(grid.lowest)).min(f64::from(grid.highest)) as i32
}

/// The objective of codes: `tr((W - W') H (W - W')^T)`, not below 0.
///
/// The problem must be one that [`round`](super::round) takes, and there must be a code for each weight; else it is NaN.
pub fn objective(problem: &Problem, codes: &[i32]) -> f64 {
    if problem.check().is_err() || codes.len() != problem.weights.len() {
        return f64::NAN;
    }
    let panels = problem.panels().into_iter();
    panels.map(|rows| Panel::of(problem, rows, |row, column| codes[row * problem.columns + column]).cost()).sum()
}

/// What errors `E` of weights, `[rows, columns]`, do to the outputs: `tr(E H E^T)` with moments `H`, `[columns, columns]`, not
/// below 0.
pub(crate) fn power_of_errors(errors: &[f64], moments: &[f64], columns: usize) -> f64 {
    let mut slopes = vec![0.0; errors.len()];
    algebra::product(&mut slopes, errors, moments, [errors.len() / columns.max(1), columns, columns]);
    powers(errors, &slopes, columns).sum()
}

/// The power of each row of errors at its output, with the product of errors and moments.
fn powers(errors: &[f64], slopes: &[f64], columns: usize) -> impl Iterator<Item = f64> {
    let rows = errors.chunks(columns.max(1)).zip(slopes.chunks(columns.max(1)));
    rows.map(|(errors, slopes)| errors.iter().zip(slopes).map(|(e, s)| e * s).sum::<f64>().max(0.0))
}

/// Neighbouring rows of a problem with codes on them. Rows below are counted inside the panel.
pub(super) struct Panel<'a> {
    pub(super) problem: &'a Problem<'a>,
    /// The first row.
    pub(super) start: usize,
    /// How many rows.
    pub(super) rows: usize,
    /// A code for each weight, `[rows, columns]`.
    pub(super) codes: Vec<i32>,
    /// `W' - W`, `[rows, columns]`.
    pub(super) errors: Vec<f64>,
    /// `(W' - W) H`, `[rows, columns]`: half the gradient of the objective.
    pub(super) slopes: Vec<f64>,
}

impl<'a> Panel<'a> {
    /// The rows with these codes, by row of the problem and column.
    pub(super) fn of(problem: &'a Problem<'a>, span: Range<usize>, code: impl Fn(usize, usize) -> i32) -> Panel<'a> {
        let (columns, rows) = (problem.columns, span.len());
        let mut codes = Vec::with_capacity(rows * columns);
        let mut errors = Vec::with_capacity(rows * columns);
        for row in span.clone() {
            for (column, &w) in problem.row(row).iter().enumerate() {
                let code = code(row, column);
                codes.push(code);
                errors.push(real(problem.grid(row, column), code) - f64::from(w));
            }
        }
        let mut slopes = vec![0.0; rows * columns];
        algebra::product(&mut slopes, &errors, problem.moments, [rows, columns, columns]);
        Panel { problem, start: span.start, rows, codes, errors, slopes }
    }

    /// The rows with the nearest codes.
    pub(super) fn nearest(problem: &'a Problem<'a>, span: Range<usize>) -> Panel<'a> {
        Panel::of(problem, span, |row, column| {
            problem.grid(row, column).code(problem.weights[row * problem.columns + column])
        })
    }

    /// The grid of a weight.
    #[inline]
    pub(super) fn grid(&self, row: usize, column: usize) -> Grid<'a> {
        self.problem.grid(self.start + row, column)
    }

    /// The codes.
    pub(super) fn codes(&self) -> Vec<i32> {
        self.codes.clone()
    }

    /// The objective of each row.
    pub(super) fn costs(&self) -> Vec<f64> {
        powers(&self.errors, &self.slopes, self.problem.columns).collect()
    }

    /// The objective of all rows.
    fn cost(&self) -> f64 {
        self.costs().iter().sum()
    }

    /// Gives a weight this code, and moves the slopes of its row.
    pub(super) fn set(&mut self, row: usize, column: usize, code: i32) {
        let columns = self.problem.columns;
        let at = row * columns + column;
        let by = between(self.grid(row, column), self.codes[at], code);
        self.codes[at] = code;
        self.errors[at] += by;
        algebra::add_times(&mut self.slopes[row * columns..(row + 1) * columns], self.problem.moment(column), by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_of_errors_is_that_of_what_they_make_of_inputs() {
        let (inputs, columns) = ([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -1.0], [-1.0, 0.5, 4.0]], 3);
        let errors = [0.1, -0.2, 0.3, 1.0, 0.0, -0.5];
        let moments: Vec<f64> =
            (0..9).map(|at| inputs.iter().map(|x| x[at / columns] * x[at % columns]).sum()).collect();
        let output = |row: &[f64], x: &[f64; 3]| row.iter().zip(x).map(|(e, x)| e * x).sum::<f64>();
        let direct: f64 = errors.chunks(3).flat_map(|row| inputs.iter().map(|x| output(row, x).powi(2))).sum();
        assert!((power_of_errors(&errors, &moments, columns) - direct).abs() < 1e-12 * direct);
        assert_eq!(power_of_errors(&[], &[], 0), 0.0);
    }
}
