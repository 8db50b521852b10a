//! Tables and codes in turn, each the best there is while the other stays.
//!
//! With the codes held, the objective is quadratic in the numbers of a table. Where `C` `[columns, numbers]` says which number
//! each weight of a row takes, and the row has the slope `g = (W' - W) H`, moving the numbers by `d` changes the objective by
//! `2 d C^T g + d C^T H C d^T`, summed over the rows on that table, which is least at
//!
//! ```text
//! (sum C^T H C) d = -sum C^T g
//! ```
//!
//! Tables along a row take it one after the other. Then the codes descend from where they are. The turns of Lloyd's algorithm
//! for what the layer makes of its input, not for the weights: product quantization does so with vectors (Stock et al., "And
//! the bit goes down: revisiting the quantization of neural networks", 2020, section 3.2).

use std::collections::BTreeMap;
use std::ops::Range;

use nalgebra::{Cholesky, DMatrix, DVector};
use rayon::prelude::*;

use super::descent::{self, Effort};
use super::problem::{Panel, Problem, real};
use super::{Rounded, algebra};
use crate::error::{Error, ErrorKind, Result};
use crate::number::Grid;

/// At most so many turns.
const TURNS: usize = 8;
/// A turn that gains less than this share of the objective is the last.
const NEEDED: f64 = 2e-3;
/// So much of the diagonal is added to the equations, where numbers that samples hardly tell apart would run away.
const DAMPING: f64 = 1e-3;

/// A problem whose grids are tables, which other problems may share.
#[derive(Debug, Clone, Copy)]
pub struct Tabled<'a> {
    /// The problem. Its grids have tables of one length, and scales of 1.
    pub problem: Problem<'a>,
    /// For each grid which of all tables it is.
    pub table_of: &'a [usize],
}

/// Codes that were chosen on `tables`, one after the other, with the tables that are best for them, and polished on those: the
/// tables, ascending, and the codes of each problem, together none worse than before.
///
/// With `zero_stays`, numbers that are 0 stay. Errors as [`round`](super::round), and when tables or codes do not fit the
/// problems.
pub fn refine_tables(
    problems: &[Tabled],
    tables: &[f32],
    zero_stays: bool,
    rounded: Vec<Rounded>,
) -> Result<(Vec<f32>, Vec<Rounded>)> {
    let size = check(problems, tables, &rounded)?;
    let of_problem = |(i, one): (usize, &Tabled)| one.problem.panels().into_iter().map(move |span| (i, span)).collect();
    let spans: Vec<Vec<(usize, Range<usize>)>> = problems.iter().enumerate().map(of_problem).collect();
    let spans = spans.concat();
    let mut owners = vec![0usize; tables.len() / size.max(1)];
    for (i, span) in &spans {
        problems[*i].used(span.clone()).into_iter().for_each(|table| owners[table] += 1);
    }
    let first = |(i, span): &(usize, Range<usize>)| {
        let problem = problems[*i].problem;
        let code = |row: usize, column: usize| rounded[*i].codes[row * problem.columns + column];
        let grids = problems[*i].on(tables, size);
        Part::of(*i, Panel::of(&Problem { grids: &grids, ..problem }, span.clone(), code))
    };
    let mut parts: Vec<Part> = spans.par_iter().map(first).collect();
    let total = |parts: &[Part]| parts.iter().map(|part| part.cost).sum::<f64>();
    let mut best = (tables.to_vec(), parts.clone(), total(&parts));
    let places = problems.iter().flat_map(|p| p.problem.grid_of.place).max().map_or(0, |last| last + 1);
    for _ in 0..TURNS {
        let mut turned = best.0.clone();
        for place in 0..places {
            let blocks: Vec<Block> = problems.par_iter().map(|one| Block::of(one, place)).collect();
            let normal =
                |part: &Part| part.normal(&problems[part.of], &blocks[part.of], size, &owners, &turned, zero_stays);
            let mut changes: BTreeMap<usize, Change> = BTreeMap::new();
            for (table, change) in parts.par_iter().map(normal).collect::<Vec<_>>().into_iter().flatten() {
                match (changes.get_mut(&table), change) {
                    (Some(Change::Open(all)), Change::Open(one)) => all.add(&one),
                    (_, change) => drop(changes.insert(table, change)),
                }
            }
            let mut orders: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
            for (table, change) in changes {
                let numbers = &mut turned[table * size..(table + 1) * size];
                let by = match change {
                    Change::Closed(by) => by,
                    Change::Open(normal) => normal.solve(numbers, zero_stays),
                };
                orders.extend(by.and_then(|by| moved(numbers, &by)).map(|order| (table, order)));
            }
            parts.par_iter_mut().for_each(|part| {
                let one = &problems[part.of];
                part.follow(one, &blocks[part.of], &one.on(&turned, size), &orders);
            });
        }
        let grids: Vec<Vec<Grid>> = problems.iter().map(|one| one.on(&turned, size)).collect();
        parts = parts
            .into_par_iter()
            .map(|part| {
                let problem = Problem { grids: &grids[part.of], ..problems[part.of].problem };
                let of = part.of;
                let mut panel = part.panel(&problem);
                descent::polish(&mut panel, Effort::default());
                Part::of(of, panel)
            })
            .collect();
        let (before, cost) = (best.2, total(&parts));
        if cost < before {
            best = (turned, parts.clone(), cost);
        }
        if cost.is_nan() || cost >= before * (1.0 - NEEDED) {
            break;
        }
    }
    let (tables, parts, _) = best;
    let mut refined: Vec<Rounded> =
        rounded.into_iter().map(|r| Rounded { codes: Vec::with_capacity(r.codes.len()), after: 0.0, ..r }).collect();
    for part in parts {
        refined[part.of].codes.extend(part.codes);
        refined[part.of].after += part.cost;
    }
    Ok((tables, refined))
}

/// How many numbers a table has. Errors when what belongs together does not fit.
fn check(problems: &[Tabled], tables: &[f32], rounded: &[Rounded]) -> Result<usize> {
    let wrong = |what: String| Err(Error::new(ErrorKind::InvalidModel, what));
    let size = problems.iter().find_map(|p| p.problem.grids.first()?.table).map_or(1, <[f32]>::len);
    if problems.len() != rounded.len() {
        return wrong(format!("{} results for {} problems", rounded.len(), problems.len()));
    }
    for (one, rounded) in problems.iter().zip(rounded) {
        one.problem.check()?;
        if rounded.codes.len() != one.problem.weights.len() {
            return wrong(format!("{} codes for {} weights", rounded.codes.len(), one.problem.weights.len()));
        }
        let fits = |(grid, &table): (&Grid, &usize)| {
            grid.scale == 1.0 && grid.table.is_some_and(|t| t.len() == size) && table < tables.len() / size
        };
        if one.table_of.len() != one.problem.grids.len() || !one.problem.grids.iter().zip(one.table_of).all(fits) {
            return wrong(format!("grids are no {} tables of {size} numbers each", tables.len() / size));
        }
    }
    Ok(size)
}

impl Tabled<'_> {
    /// Its grids, on these tables.
    fn on<'t>(&self, tables: &'t [f32], size: usize) -> Vec<Grid<'t>> {
        let grid = |(grid, &table): (&Grid, &usize)| Grid {
            scale: grid.scale,
            zero: grid.zero,
            lowest: grid.lowest,
            highest: grid.highest,
            table: Some(&tables[table * size..(table + 1) * size]),
        };
        self.problem.grids.iter().zip(self.table_of).map(grid).collect()
    }

    /// The tables that some of its rows are on, each once.
    fn used(&self, span: Range<usize>) -> Vec<usize> {
        let mut places = self.problem.grid_of.place.to_vec();
        places.sort_unstable();
        places.dedup();
        let of_row = |row: usize| places.iter().map(move |place| (row, place));
        let at = |(row, place): (usize, &usize)| self.table_of[self.problem.grid_of.row_base[row] + place];
        let mut used: Vec<usize> = span.flat_map(of_row).map(at).collect();
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// Moves the numbers of a table and puts them in order; returns where each number went. `None`, and nothing is moved, where
/// one would not be finite.
fn moved(numbers: &mut [f32], by: &[f64]) -> Option<Vec<i32>> {
    let to: Vec<f32> = numbers.iter().zip(by).map(|(&x, by)| (f64::from(x) + by) as f32).collect();
    if to.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut order: Vec<usize> = (0..to.len()).collect();
    order.sort_by(|&a, &b| to[a].total_cmp(&to[b]));
    let mut went = vec![0; to.len()];
    for (place, &from) in order.iter().enumerate() {
        numbers[place] = to[from];
        went[from] = place as i32;
    }
    Some(went)
}

/// The columns of a problem that are on one place, and the moments of these inputs with each other.
struct Block {
    place: usize,
    columns: Vec<usize>,
    moments: Vec<f64>,
}

impl Block {
    fn of(one: &Tabled, place: usize) -> Block {
        let of = one.problem.grid_of.place;
        let columns: Vec<usize> = (0..of.len()).filter(|&column| of[column] == place).collect();
        let moment = |&i: &usize| columns.iter().map(move |&j| (i, j));
        let moments = columns.iter().flat_map(moment).map(|(i, j)| one.problem.moment(i)[j]).collect();
        Block { place, columns, moments }
    }
}

/// The equations of one table: `[size, size]` and `[size]`.
#[derive(Clone)]
struct Normal {
    matrix: Vec<f64>,
    slope: Vec<f64>,
}

/// What is known of a table: its equations, or what solves them where no other part has a share in them.
enum Change {
    Open(Normal),
    Closed(Option<Vec<f64>>),
}

impl Normal {
    fn of(size: usize) -> Normal {
        Normal { matrix: vec![0.0; size * size], slope: vec![0.0; size] }
    }

    fn add(&mut self, other: &Normal) {
        self.matrix.iter_mut().zip(&other.matrix).for_each(|(a, b)| *a += b);
        self.slope.iter_mut().zip(&other.slope).for_each(|(a, b)| *a += b);
    }

    /// By how much the numbers move. Those that no weight takes stay, as do zeros where they are to.
    fn solve(mut self, numbers: &[f32], zero_stays: bool) -> Option<Vec<f64>> {
        let size = self.slope.len();
        for (k, &number) in numbers.iter().enumerate() {
            if (zero_stays && number == 0.0) || self.matrix[k * size + k] <= 0.0 {
                (0..size).for_each(|j| (self.matrix[k * size + j], self.matrix[j * size + k]) = (0.0, 0.0));
                (self.matrix[k * size + k], self.slope[k]) = (1.0, 0.0);
            }
            self.matrix[k * size + k] *= 1.0 + DAMPING;
        }
        let solved =
            Cholesky::new(DMatrix::from_row_slice(size, size, &self.matrix))?.solve(&DVector::from(self.slope));
        let by: Vec<f64> = solved.iter().map(|d| -d).collect();
        by.iter().all(|d| d.is_finite()).then_some(by)
    }
}

/// Some rows of a problem with codes on them.
#[derive(Clone)]
struct Part {
    /// Which problem.
    of: usize,
    start: usize,
    rows: usize,
    codes: Vec<i32>,
    errors: Vec<f64>,
    slopes: Vec<f64>,
    cost: f64,
}

impl Part {
    fn of(of: usize, panel: Panel) -> Part {
        let cost = panel.costs().iter().sum();
        let Panel { start, rows, codes, errors, slopes, .. } = panel;
        Part { of, start, rows, codes, errors, slopes, cost }
    }

    fn panel<'p>(self, problem: &'p Problem<'p>) -> Panel<'p> {
        let Part { start, rows, codes, errors, slopes, .. } = self;
        Panel { problem, start, rows, codes, errors, slopes }
    }

    /// Its share in the equations of the tables on one place, solved where there is no other.
    fn normal(
        &self,
        one: &Tabled,
        block: &Block,
        size: usize,
        owners: &[usize],
        tables: &[f32],
        zero_stays: bool,
    ) -> Vec<(usize, Change)> {
        let (n, wide) = (one.problem.columns, block.columns.len());
        if wide == 0 {
            return Vec::new();
        }
        let mut all: BTreeMap<usize, Normal> = BTreeMap::new();
        let mut leaning = vec![0.0; size * wide];
        for row in 0..self.rows {
            let table = one.table_of[one.problem.grid_of.row_base[self.start + row] + block.place];
            let normal = all.entry(table).or_insert_with(|| Normal::of(size));
            let codes: Vec<usize> = block.columns.iter().map(|&j| self.codes[row * n + j] as usize).collect();
            leaning.fill(0.0);
            for (&code, moments) in codes.iter().zip(block.moments.chunks_exact(wide)) {
                algebra::add_times(&mut leaning[code * wide..(code + 1) * wide], moments, 1.0);
            }
            for (matrix, leaning) in normal.matrix.chunks_exact_mut(size).zip(leaning.chunks_exact(wide)) {
                codes.iter().zip(leaning).for_each(|(&code, h)| matrix[code] += h);
            }
            block.columns.iter().zip(&codes).for_each(|(&j, &code)| normal.slope[code] += self.slopes[row * n + j]);
        }
        let change = |(table, normal): (usize, Normal)| match owners[table] {
            1 => (table, Change::Closed(normal.solve(&tables[table * size..(table + 1) * size], zero_stays))),
            _ => (table, Change::Open(normal)),
        };
        all.into_iter().map(change).collect()
    }

    /// Moves codes, errors and slopes to tables that were moved, whose numbers went to these places.
    fn follow(&mut self, one: &Tabled, block: &Block, grids: &[Grid], orders: &BTreeMap<usize, Vec<i32>>) {
        let (n, wide) = (one.problem.columns, block.columns.len());
        let mut by = vec![0.0; self.rows * wide];
        for (row, by) in by.chunks_exact_mut(wide.max(1)).enumerate() {
            let at = one.problem.grid_of.row_base[self.start + row] + block.place;
            let Some(order) = orders.get(&one.table_of[at]) else { continue };
            for (&j, by) in block.columns.iter().zip(by) {
                let code = &mut self.codes[row * n + j];
                *code = order[*code as usize];
                let error = real(grids[at], *code) - f64::from(one.problem.row(self.start + row)[j]);
                *by = error - self.errors[row * n + j];
                self.errors[row * n + j] = error;
            }
        }
        let moments: Vec<f64> = block.columns.iter().flat_map(|&j| one.problem.moment(j)).copied().collect();
        let mut leaning = vec![0.0; self.rows * n];
        algebra::product(&mut leaning, &by, &moments, [self.rows, wide, n]);
        self.slopes.iter_mut().zip(leaning).for_each(|(slope, by)| *slope += by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::means;
    use crate::round::made::{KINDS, Made, Shared};
    use crate::round::{Rounding, objective, round};

    /// Problems on tables that are found for their weights: one for all, one for each row, or one for each block.
    struct Owned {
        made: Vec<Made>,
        table_of: Vec<Vec<usize>>,
        tables: Vec<f32>,
        size: usize,
    }

    impl Owned {
        fn new(problems: usize, shared: Shared, size: usize, seed: u64) -> Owned {
            let kind = crate::round::made::Kind { shared, ..KINDS[0] };
            let made: Vec<Made> = (0..problems as u64).map(|i| Made::new(7, 20, kind, seed + i)).collect();
            let mut first = 0;
            let mut table_of = Vec::new();
            let (mut groups, alone) = (Vec::<Vec<f32>>::new(), !matches!(shared, Shared::Tensor));
            for made in &made {
                let count = made.grids.len();
                table_of.push((0..count).map(|i| if alone { first + i } else { 0 }).collect::<Vec<usize>>());
                first += count;
                groups.resize(if alone { first } else { 1 }, Vec::new());
                for (i, &w) in made.weights.iter().enumerate() {
                    let grid = made.row_base[i / 20] + made.place[i % 20];
                    groups[table_of[table_of.len() - 1][grid]].push(w);
                }
            }
            let tables = groups.iter().flat_map(|x| means(x, None, size, 0)).collect();
            Owned { made, table_of, tables, size }
        }

        fn on<'a>(&'a self, grids: &'a [Vec<Grid<'a>>]) -> Vec<Tabled<'a>> {
            let problem = |i: usize| Problem { grids: &grids[i], ..self.made[i].problem() };
            (0..self.made.len()).map(|i| Tabled { problem: problem(i), table_of: &self.table_of[i] }).collect()
        }

        fn grids<'a>(&'a self, tables: &'a [f32]) -> Vec<Vec<Grid<'a>>> {
            let table = |&t: &usize| Some(&tables[t * self.size..(t + 1) * self.size]);
            let grid = |t: &usize| Grid { table: table(t), ..Grid::linear(1.0, 0, 0, self.size as i32 - 1) };
            self.table_of.iter().map(|of| of.iter().map(grid).collect()).collect()
        }
    }

    const SHARED: [Shared; 3] = [Shared::Tensor, Shared::Row, Shared::Blocks(8)];

    #[test]
    fn never_worse_and_what_it_says() {
        for (seed, shared) in (0..4).flat_map(|seed| SHARED.map(|shared| (seed, shared))) {
            let owned = Owned::new(3, shared, 5, seed);
            let grids = owned.grids(&owned.tables);
            let problems = owned.on(&grids);
            for rounding in [Rounding::Nearest, Rounding::Descent] {
                let rounded: Vec<Rounded> = problems.iter().map(|p| round(&p.problem, &rounding).unwrap()).collect();
                let before: f64 = rounded.iter().map(|r| r.after).sum();
                let (tables, refined) = refine_tables(&problems, &owned.tables, false, rounded).unwrap();
                let after: f64 = refined.iter().map(|r| r.after).sum();
                assert!(after < before, "{shared:?} {rounding}: {after} {before}");
                assert!(tables.chunks(5).all(|t| t.is_sorted()));
                let grids = owned.grids(&tables);
                for (one, refined) in owned.on(&grids).iter().zip(&refined) {
                    let cost = objective(&one.problem, &refined.codes);
                    assert!((cost - refined.after).abs() <= 1e-6 * cost, "{shared:?}: {cost}, not {}", refined.after);
                }
            }
        }
    }

    #[test]
    fn no_other_number_of_a_table_is_better_for_its_codes() {
        for shared in SHARED {
            let owned = Owned::new(2, shared, 4, 9);
            let grids = owned.grids(&owned.tables);
            let problems = owned.on(&grids);
            let rounded: Vec<Rounded> =
                problems.iter().map(|p| round(&p.problem, &Rounding::Descent).unwrap()).collect();
            // Turns end where neither a table nor a code moves.
            let (tables, refined) = (0..40).fold((owned.tables.clone(), rounded), |(tables, rounded), _| {
                let grids = owned.grids(&tables);
                let (next, rounded) = refine_tables(&owned.on(&grids), &tables, false, rounded).unwrap();
                drop(grids);
                (next, rounded)
            });
            let cost = |tables: &[f32]| -> f64 {
                let grids = owned.grids(tables);
                owned.on(&grids).iter().zip(&refined).map(|(one, r)| objective(&one.problem, &r.codes)).sum()
            };
            let least = cost(&tables);
            for at in 0..tables.len() {
                for step in [-0.05, 0.05] {
                    let mut other = tables.clone();
                    other[at] += step;
                    assert!(cost(&other) > least * (1.0 - 1e-3), "{shared:?}: number {at} by {step}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_where_they_are_to() {
        let mut owned = Owned::new(1, Shared::Row, 3, 4);
        owned.tables.chunks_exact_mut(3).for_each(|t| t.copy_from_slice(&[-1.0, 0.0, 1.0]));
        let grids = owned.grids(&owned.tables);
        let problems = owned.on(&grids);
        let rounded = || vec![round(&problems[0].problem, &Rounding::Descent).unwrap()];
        let zeros = |tables: &[f32]| tables.iter().filter(|&&x| x == 0.0).count();
        assert_eq!(zeros(&refine_tables(&problems, &owned.tables, true, rounded()).unwrap().0), 7);
        assert_eq!(zeros(&refine_tables(&problems, &owned.tables, false, rounded()).unwrap().0), 0);
    }

    #[test]
    fn threads_change_nothing() {
        let owned = Owned::new(4, Shared::Tensor, 6, 2);
        let grids = owned.grids(&owned.tables);
        let problems = owned.on(&grids);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let rounded = problems.iter().map(|p| round(&p.problem, &Rounding::AUTO).unwrap()).collect();
            pool.install(|| refine_tables(&problems, &owned.tables, false, rounded).unwrap())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let owned = Owned::new(1, Shared::Row, 4, 1);
        let grids = owned.grids(&owned.tables);
        let problems = owned.on(&grids);
        let rounded = vec![round(&problems[0].problem, &Rounding::Nearest).unwrap()];
        let message = |tables: &[f32], rounded: Vec<Rounded>| {
            refine_tables(&problems, tables, false, rounded).unwrap_err().to_string()
        };
        assert_eq!(message(&owned.tables, vec![]), "0 results for 1 problems");
        let few = vec![Rounded { codes: vec![0; 3], ..rounded[0].clone() }];
        assert_eq!(message(&owned.tables, few), "3 codes for 140 weights");
        assert_eq!(message(&owned.tables[..8], rounded), "grids are no 2 tables of 4 numbers each");
    }
}
