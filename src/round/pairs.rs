//! Two columns at a time, where one alone does not help.
//!
//! At a local optimum of single moves a step of `a` in column `j` costs `c = 2 a g_j + a^2 H_jj >= 0`, and turns the slope of
//! column `k` into `g_k + a H_jk`; a step of `b` there then gives back `2 |b| |g_k + a H_jk| - b^2 H_kk` at best. Where that
//! is more than `c` the pair is taken. The cheapest first steps are tried first, and only so many.

use multiversion::multiversion;

use super::descent::{Effort, NOISE, descend_row};
use super::problem::{Panel, code_of, real};

/// Moves pairs in every row for as long as that helps, within the effort.
pub(super) fn descend(panel: &mut Panel, diagonal: &[f64], effort: Effort) {
    for row in 0..panel.rows {
        let mut looks = effort.pairs;
        while looks > 0 && step(panel, row, diagonal, &mut looks) {
            descend_row(panel, row, diagonal, effort.sweeps);
        }
    }
}

/// The first pair that helps, moved; whether there was one.
fn step(panel: &mut Panel, row: usize, diagonal: &[f64], looks: &mut usize) -> bool {
    let columns = panel.problem.columns;
    let base = row * columns;
    // What a step of one code gives back: `slope * twice - own`. Columns that cannot move never give back enough.
    let steps = (0..columns).map(|j| f64::from(panel.grid(row, j).scale));
    let (twice, own): (Vec<f64>, Vec<f64>) =
        steps.zip(diagonal).map(|(s, &h)| if h > 0.0 { (2.0 * s, s * s * h) } else { (0.0, f64::INFINITY) }).unzip();
    let mut first: Vec<(f64, usize, i32)> = Vec::with_capacity(2 * columns);
    for (j, &h) in diagonal.iter().enumerate() {
        let (grid, code) = (panel.grid(row, j), panel.codes[base + j]);
        let slope = panel.slopes[base + j] * twice[j];
        if h > 0.0 && code < grid.highest {
            first.push((own[j] + slope, j, 1));
        }
        if h > 0.0 && code > grid.lowest {
            first.push((own[j] - slope, j, -1));
        }
    }
    let count = (*looks).min(first.len());
    if count > 0 && count < first.len() {
        first.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        first.truncate(count);
    }
    first.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut back = vec![0.0; columns];
    for (cost, j, up) in first {
        *looks -= 1;
        let by = f64::from(up) * f64::from(panel.grid(row, j).scale);
        let slopes = &panel.slopes[base..base + columns];
        given_back(&mut back, slopes, panel.problem.moment(j), by, &twice, &own);
        let helps = |(k, back): (usize, &f64)| (*back > cost + NOISE * own[j] && k != j).then_some((k, *back));
        let mut best: Vec<(usize, f64)> = back.iter().enumerate().filter_map(helps).collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (k, _) in best {
            // Its best code once the first has moved, which may be more than one step away, or out of reach.
            let (grid, now, h) = (panel.grid(row, k), panel.codes[base + k], diagonal[k]);
            let slope = panel.slopes[base + k] + by * panel.problem.moment(j)[k];
            let code = code_of(grid, real(grid, now) - slope / h);
            let second = (f64::from(code) - f64::from(now)) * f64::from(grid.scale);
            if cost + second * (2.0 * slope + second * h) < -NOISE * own[j] {
                let code_of_first = panel.codes[base + j] + up;
                panel.set(row, j, code_of_first);
                panel.set(row, k, code);
                return true;
            }
        }
    }
    false
}

/// What a step of one code in each column gives back at best, once the slopes have moved by `by` times a row of `H`.
#[multiversion(targets = "simd")]
fn given_back(back: &mut [f64], slopes: &[f64], moments: &[f64], by: f64, twice: &[f64], own: &[f64]) {
    let inputs = slopes.iter().zip(moments).zip(twice.iter().zip(own));
    back.iter_mut().zip(inputs).for_each(|(back, ((g, h), (twice, own)))| {
        *back = (g + by * h).abs() * twice - own;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::descent::polish;
    use crate::round::made::{KINDS, Made};

    #[test]
    fn no_two_steps_are_better() {
        for kind in KINDS {
            let made = Made::new(2, 18, kind, 8);
            let problem = made.problem();
            let mut panel = Panel::nearest(&problem, 0..2);
            polish(&mut panel, Effort { sweeps: 200, pairs: usize::MAX, exact: (0, 0) });
            for (row, cost) in panel.costs().into_iter().enumerate() {
                for (j, k) in (0..18).flat_map(|j| (0..j).map(move |k| (j, k))) {
                    for (a, b) in [(1, 1), (1, -1), (-1, 1), (-1, -1)] {
                        let (at, base) = ([(j, a), (k, b)], row * 18);
                        let code = |column: usize| {
                            let step: i32 = at.iter().filter(|(c, _)| *c == column).map(|(_, step)| step).sum();
                            panel.codes[base + column] + step
                        };
                        let reach = |c: usize| {
                            let grid = panel.grid(row, c);
                            (grid.lowest..=grid.highest).contains(&code(c))
                        };
                        if reach(j) && reach(k) {
                            let moved = Panel::of(&problem, row..row + 1, |_, column| code(column));
                            assert!(moved.costs()[0] > cost * (1.0 - 1e-6), "{kind:?}: {j} by {a}, {k} by {b}");
                        }
                    }
                }
            }
        }
    }
}
