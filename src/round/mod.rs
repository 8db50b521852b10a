//! From float weights to integer codes. Knows matrices, not ONNX.
//!
//! [`nearest`] looks at weights alone. The other methods look at what the layer makes of them: with inputs `X`
//! (`[columns, samples]`), weights `W` and what the codes stand for, `W'` (both `[rows, columns]`), the output moves by
//!
//! ```text
//! |WX - W'X|^2 = tr((W - W') H (W - W')^T),   H = X X^T
//! ```
//!
//! which is the objective here ([`objective`]). It needs the second moments `H` of the input and nothing else of the
//! samples. Rows of the sum do not touch each other: each is a closest vector problem of its own, and every method works
//! on rows, in parallel, with the same result for any number of threads.
//!
//! - `H` of a Gemm or MatMul comes from the rows of its input, of a Conv from the patches under its kernel; a grouped
//!   Conv is one [`Problem`] a group. Its unit does not matter: a mean is as good as a sum.
//! - Where the layer will see inputs `X'` that quantization upstream has already moved, the objective `|WX - W'X'|^2` is
//!   the same with `H = X' X'^T` and weights `W X X'^T H^-1`, up to a constant: [`Moved`] has the change of the weights.
//!
//! | method | file | source |
//! |---|---|---|
//! | [`Rounding::Nearest`] | `mod.rs` | |
//! | [`Rounding::Stochastic`] | `stochastic.rs` | Nagel et al. 2020, table 1 |
//! | [`Rounding::Descent`] | `descent.rs`, `pairs.rs`, `exact.rs` | COMQ 2024, QuantEase 2023; Schnorr and Euchner 1994 |
//! | [`Rounding::Gptq`] | `gptq.rs` | Frantar et al. 2023 |
//! | [`Rounding::AdaRound`] | `adaround.rs` | Nagel et al. 2020 |
//! | [`Rounding::Auto`] | `mod.rs` | the least of nearest and GPTQ, both polished |
//! | [`seek_scales`] | `scales.rs` | SeqMSE, AdaQuant, the clip of AWQ |
//! | [`refine`] | `refine.rs` | scales and codes in turn |
//! | [`refine_tables`] | `tables.rs` | tables and codes in turn: Stock et al. 2020 |
//!
//! All but nearest and stochastic end with the descent of [`Rounding::Descent`], which polishes what they found; and
//! none gives back a row of codes that is worse than nearest's.
//!
//! Reconstruction of blocks of layers (BRECQ, Li et al. 2021) replaces `H` of a layer by a Gauss-Newton matrix of the
//! block's output, one for each output channel or one for all of them. The second kind is a [`Problem`] as it stands.
//! For the first, [`Problem::moments`] is the one place to widen: every method reads it row by row.

mod adaround;
mod algebra;
mod descent;
mod exact;
mod gptq;
#[cfg(test)]
mod made;
mod method;
mod pairs;
mod problem;
mod refine;
mod retarget;
mod scales;
mod stochastic;
mod tables;

use rayon::prelude::*;

pub use adaround::AdaRoundOptions;
pub use gptq::GptqOptions;
pub use method::Rounding;
pub(crate) use problem::power_of_errors;
pub use problem::{GridOf, Problem, objective};
pub use refine::refine;
pub use retarget::{Fall, Moved};
pub use scales::seek_scales;
pub use tables::{Tabled, refine_tables};

use crate::error::Result;
use crate::number::{QuantParams, quantize};
use descent::Effort;
use gptq::Factor;
use problem::Panel;

/// Rounds each weight to the nearest code, ties to even.
///
/// `shape` is the tensor's; the parameters may be per channel along any axis of it.
pub fn nearest(weights: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<i32>> {
    quantize(weights, shape, params)
}

/// Codes, and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounded {
    /// A code for each weight, in the order of the weights.
    pub codes: Vec<i32>,
    /// The objective of the nearest codes.
    pub before: f64,
    /// The objective of these codes, never above `before`.
    pub after: f64,
    /// The name of the method that gave most of the rows: `nearest` where nothing was better.
    pub method: &'static str,
}

/// Codes of the rows of a panel by one method, and the objective of each row.
struct Attempt {
    method: &'static str,
    codes: Vec<i32>,
    costs: Vec<f64>,
}

/// What remains of the attempts on a panel: for each row the codes that cost least, and whose they are.
struct Best {
    codes: Vec<i32>,
    before: Vec<f64>,
    after: Vec<f64>,
    methods: Vec<&'static str>,
}

impl Best {
    fn of(nearest: Attempt) -> Best {
        let methods = vec![nearest.method; nearest.costs.len()];
        Best { codes: nearest.codes, before: nearest.costs.clone(), after: nearest.costs, methods }
    }

    /// Takes the rows that are better here, by more than sums in another order may differ.
    fn take(&mut self, attempt: &Attempt, columns: usize) {
        for (row, &cost) in attempt.costs.iter().enumerate() {
            if cost < self.after[row] * (1.0 - 1e-12) {
                let span = row * columns..(row + 1) * columns;
                self.codes[span.clone()].copy_from_slice(&attempt.codes[span]);
                self.after[row] = cost;
                self.methods[row] = attempt.method;
            }
        }
    }
}

/// The codes of a layer by a method.
///
/// Every row of the result costs at most what the nearest codes cost; weights outside the reach of their grid are clamped
/// to it. Errors when the parts of the problem do not fit each other, and when a weight, a moment or a scale is not a
/// finite number.
pub fn round(problem: &Problem, rounding: &Rounding) -> Result<Rounded> {
    problem.check()?;
    let factor = match rounding {
        Rounding::Gptq(options) => Factor::of(problem, options)?,
        Rounding::Auto { .. } => Factor::of(problem, &GptqOptions::default())?,
        _ => None,
    };
    let scaled = match rounding {
        Rounding::AdaRound(_) | Rounding::Auto { adaround: Some(_) } => Some(algebra::scaled(problem)),
        _ => None,
    };
    let panels: Vec<Best> = problem
        .panels()
        .into_par_iter()
        .map(|rows| {
            let start = rows.start;
            let mut panel = Panel::nearest(problem, rows);
            let attempt = |panel: &Panel, method| Attempt { method, codes: panel.codes(), costs: panel.costs() };
            let mut best = Best::of(attempt(&panel, "nearest"));
            let columns = problem.columns;
            let polish_nearest = |panel: &mut Panel, best: &mut Best| {
                descent::polish(panel, Effort::default());
                best.take(&attempt(panel, "descent"), columns);
            };
            let try_gptq = |best: &mut Best, options: &GptqOptions| {
                let Some(factor) = &factor else { return };
                let mut panel = gptq::round(problem, start, best.before.len(), factor, options);
                descent::polish(&mut panel, Effort::default());
                best.take(&attempt(&panel, "gptq"), columns);
            };
            let try_adaround = |best: &mut Best, options: &AdaRoundOptions| {
                let Some(moments) = &scaled else { return };
                let mut panel = adaround::round(problem, start, best.before.len(), moments, options);
                descent::polish(&mut panel, Effort::default());
                best.take(&attempt(&panel, "adaround"), columns);
            };
            match rounding {
                Rounding::Nearest => {}
                Rounding::Stochastic { tries, seed } => {
                    let found = stochastic::round(problem, start, best.before.len(), *tries, *seed);
                    best.take(&found, columns);
                }
                Rounding::Descent => polish_nearest(&mut panel, &mut best),
                Rounding::Gptq(options) => try_gptq(&mut best, options),
                Rounding::AdaRound(options) => try_adaround(&mut best, options),
                Rounding::Auto { adaround } => {
                    polish_nearest(&mut panel, &mut best);
                    try_gptq(&mut best, &GptqOptions::default());
                    if let Some(options) = adaround {
                        try_adaround(&mut best, options);
                    }
                }
            }
            best
        })
        .collect();
    let mut rounded = Rounded {
        codes: Vec::with_capacity(problem.weights.len()),
        before: 0.0,
        after: 0.0,
        method: Rounding::Nearest.name(),
    };
    let mut votes: Vec<(&'static str, usize)> = Vec::new();
    for best in panels {
        rounded.codes.extend(best.codes);
        rounded.before += best.before.iter().sum::<f64>();
        rounded.after += best.after.iter().sum::<f64>();
        for method in best.methods {
            match votes.iter_mut().find(|(name, _)| *name == method) {
                Some((_, rows)) => *rows += 1,
                None => votes.push((method, 1)),
            }
        }
    }
    // Of those with as many rows the first counts.
    if let Some((method, _)) = votes.into_iter().rev().max_by_key(|&(_, rows)| rows) {
        rounded.method = method;
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::made::{KINDS, Kind, Made, Shared};
    use super::*;
    use crate::number::Grid;

    /// Every method, the slow ones shortened.
    fn methods() -> Vec<Rounding> {
        let adaround = AdaRoundOptions { iterations: 60, ..AdaRoundOptions::DEFAULT };
        vec![
            Rounding::Nearest,
            Rounding::Stochastic { tries: 10, seed: 3 },
            Rounding::AdaRound(adaround),
            Rounding::Gptq(GptqOptions::DEFAULT),
            Rounding::Gptq(GptqOptions { activation_order: false, block: 3, ..GptqOptions::DEFAULT }),
            Rounding::Descent,
            Rounding::Auto { adaround: None },
            Rounding::Auto { adaround: Some(adaround) },
        ]
    }

    /// What every result must be.
    fn holds(problem: &Problem, rounding: &Rounding) -> Rounded {
        let rounded = round(problem, rounding).unwrap();
        assert_eq!(rounded.codes.len(), problem.weights.len());
        for (i, &code) in rounded.codes.iter().enumerate() {
            let grid = problem.grid(i / problem.columns, i % problem.columns);
            assert!((grid.lowest..=grid.highest).contains(&code), "{rounding}: {code} of {grid:?}");
        }
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (a.abs() + b.abs()) + 1e-12;
        assert!(rounded.after <= rounded.before, "{rounding}: {rounded:?}");
        let after = objective(problem, &rounded.codes);
        assert!(near(after, rounded.after), "{rounding}: {after} is not {}", rounded.after);
        let nearest: Vec<i32> = (0..problem.weights.len())
            .map(|i| problem.grid(i / problem.columns, i % problem.columns).code(problem.weights[i]))
            .collect();
        assert!(near(objective(problem, &nearest), rounded.before));
        rounded
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn nothing_is_worse_than_nearest(
            rows in 0usize..9, columns in 0usize..30, kind in 0..KINDS.len(), seed: u64, shift in -3f32..3.0, dead in 0usize..6,
        ) {
            let mut made = Made::new(rows, columns, KINDS[kind], seed);
            // Out of the reach of its grid, and inputs that are always 0.
            if let Some(w) = made.weights.first_mut() {
                *w += shift * 4.0;
            }
            for x in made.inputs.chunks_exact_mut(columns.max(1)) {
                x.iter_mut().take(dead).for_each(|x| *x = 0.0);
            }
            made.gather();
            for rounding in methods() {
                holds(&made.problem(), &rounding);
            }
        }
    }

    #[test]
    fn the_objective_is_the_error_of_the_output() {
        for kind in KINDS {
            let made = Made::new(5, 14, kind, 1);
            let problem = made.problem();
            let rounded = holds(&problem, &Rounding::Descent);
            let mut direct = 0.0;
            for row in 0..5 {
                for x in made.inputs.chunks_exact(14) {
                    let off = |j: usize| {
                        let at = row * 14 + j;
                        f64::from(problem.grid(row, j).real(rounded.codes[at])) - f64::from(made.weights[at])
                    };
                    direct += (0..14).map(|j| off(j) * x[j]).sum::<f64>().powi(2);
                }
            }
            assert!((direct - rounded.after).abs() < 1e-5 * direct, "{direct} {}", rounded.after);
        }
    }

    /// The least objective of a row over all choices of codes.
    fn brute_force(problem: &Problem, choices: &[Vec<i32>]) -> f64 {
        let n = problem.columns;
        let mut least = f64::INFINITY;
        let mut at = vec![0usize; n];
        loop {
            let error = |j: usize| {
                let grid = problem.grid(0, j);
                f64::from(choices[j][at[j]] - grid.zero) * f64::from(grid.scale) - f64::from(problem.weights[j])
            };
            let errors: Vec<f64> = (0..n).map(error).collect();
            let row = |i: usize| problem.moment(i).iter().zip(&errors).map(|(h, e)| h * e).sum::<f64>();
            least = least.min((0..n).map(|i| errors[i] * row(i)).sum());
            let Some(j) = (0..n).find(|&j| at[j] + 1 < choices[j].len()) else { return least };
            at[j] += 1;
            at[..j].fill(0);
        }
    }

    /// In how many of 100 seeds a method is not above all ways to go up or down, and all codes where those are few.
    fn optima(round: impl Fn(&Problem) -> f64) -> usize {
        let reached = |seed: &u64| {
            let bits = 2 + (seed % 3) as u32;
            // All codes of 5 or 6 weights, up or down for 8 to 12.
            let all = seed.is_multiple_of(2);
            let columns =
                if all { if bits == 4 { 4 } else { 5 + (seed / 2 % 2) as usize } } else { 8 + (seed / 2 % 5) as usize };
            let made = Made::new(1, columns, Kind::rows(bits), *seed);
            let problem = made.problem();
            let choices: Vec<Vec<i32>> = (0..columns)
                .map(|j| {
                    let grid = problem.grid(0, j);
                    let floor = (problem.weights[j] / grid.scale).floor() as i32;
                    let ends = |code: i32| (code + grid.zero).clamp(grid.lowest, grid.highest);
                    if all { (grid.lowest..=grid.highest).collect() } else { vec![ends(floor), ends(floor + 1)] }
                })
                .collect();
            round(&problem) <= brute_force(&problem, &choices) * (1.0 + 1e-9)
        };
        (0..100).filter(reached).count()
    }

    #[test]
    fn tiny_layers_reach_the_optimum() {
        let by = |rounding: Rounding| optima(|problem| holds(problem, &rounding).after);
        let (nearest, descent, auto) =
            (by(Rounding::Nearest), by(Rounding::Descent), by(Rounding::Auto { adaround: None }));
        assert!(nearest < 50, "nearest is no test: {nearest}");
        assert!(descent >= 95 && auto >= 95, "descent {descent}, auto {auto}");
    }

    #[test]
    fn pairs_come_close_to_the_optimum_without_the_search() {
        let by = |pairs: usize| {
            optima(|problem| {
                let mut panel = Panel::nearest(problem, 0..1);
                descent::polish(&mut panel, Effort { pairs, exact: (0, 0), ..Effort::default() });
                panel.costs()[0]
            })
        };
        let (single, double) = (by(0), by(1000));
        assert!(double >= 80 && double > single + 5, "{single} with one column at a time, {double} with two");
    }

    #[test]
    fn each_method_is_clearly_better_than_nearest() {
        let made = Made::new(24, 60, Kind::rows(4), 7);
        let after = |rounding: Rounding| {
            let rounded = holds(&made.problem(), &rounding);
            rounded.after / rounded.before
        };
        let descent = after(Rounding::Descent);
        let gptq = after(Rounding::Gptq(GptqOptions::DEFAULT));
        let adaround = after(Rounding::AdaRound(AdaRoundOptions::DEFAULT));
        let auto = after(Rounding::Auto { adaround: None });
        let stochastic = after(Rounding::Stochastic { tries: 300, seed: 0 });
        let all = format!("descent {descent:.3} gptq {gptq:.3} adaround {adaround:.3} auto {auto:.3} {stochastic:.3}");
        assert!(descent < 0.5 && gptq < 0.5 && adaround < 0.5, "{all}");
        assert!(auto <= descent && auto <= gptq && adaround < descent * 1.05, "{all}");
        assert!(stochastic < 1.0, "{all}");
    }

    #[test]
    fn threads_change_nothing() {
        let made = Made::new(150, 40, Kind { shared: Shared::Blocks(8), ..Kind::rows(4) }, 2);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let all = methods().iter().map(|m| round(&made.problem(), m).unwrap()).collect::<Vec<_>>();
                (all, seek_scales(&made.problem()).unwrap())
            })
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn weights_out_of_reach_are_clamped_and_made_up_for() {
        let mut made = Made::new(1, 8, Kind::rows(4), 5);
        made.weights[2] = 40.0;
        made.grids = vec![Grid::linear(0.4, 7, 0, 15)];
        let rounded = holds(&made.problem(), &Rounding::Descent);
        assert_eq!(rounded.codes[2], 15);
        assert!(rounded.after < 0.9 * rounded.before, "{rounded:?}");
    }

    #[test]
    fn dead_inputs_keep_their_nearest_codes() {
        let mut made = Made::new(3, 7, Kind::rows(4), 5);
        made.moments = vec![0.0; 49];
        for rounding in methods() {
            let rounded = holds(&made.problem(), &rounding);
            assert_eq!((rounded.before, rounded.after, rounded.method), (0.0, 0.0, "nearest"));
        }
        assert_eq!(seek_scales(&made.problem()).unwrap(), made.grids);
    }

    #[test]
    fn the_method_is_whose_codes_they_are() {
        let made = Made::new(9, 40, Kind::rows(4), 5);
        assert_eq!(round(&made.problem(), &Rounding::Descent).unwrap().method, "descent");
        assert_eq!(round(&made.problem(), &Rounding::Gptq(GptqOptions::DEFAULT)).unwrap().method, "gptq");
        assert_eq!(round(&made.problem(), &Rounding::Nearest).unwrap().method, "nearest");
    }

    #[test]
    fn what_cannot_be_computed_with_is_named() {
        let message = |change: &dyn Fn(&mut Made)| {
            let mut made = Made::new(3, 4, Kind::rows(4), 5);
            change(&mut made);
            let e = round(&made.problem(), &Rounding::Descent).unwrap_err().to_string();
            assert_eq!(seek_scales(&made.problem()).unwrap_err().to_string(), e);
            assert!(objective(&made.problem(), &[0; 12]).is_nan());
            e
        };
        assert_eq!(message(&|m| m.weights[6] = f32::NAN), "weight 2 of row 1 is NaN");
        assert_eq!(message(&|m| m.weights[6] = f32::INFINITY), "weight 2 of row 1 is inf");
        assert_eq!(message(&|m| m.moments[9] = f64::NAN), "moment of inputs 2 and 1 is NaN");
        assert_eq!(message(&|m| m.grids[1].scale = 0.0), "scale 0 of grid 1 is not a positive finite number");
        assert_eq!(message(&|m| m.grids[2].lowest = 90), "grid 2 has no codes: 90 to 7");
        assert_eq!(message(&|m| m.row_base[2] = 3), "3 grids, but a weight is on grid 3");
        assert_eq!(
            message(&|m| m.row_base[2] = usize::MAX),
            format!("3 grids, but a weight is on grid {}", usize::MAX)
        );
        assert_eq!(message(&|m| m.place.clear()), "grids for 3 rows and 0 columns do not fit 3 and 4");
        assert_eq!(message(&|m| m.rows = 2), "12 weights do not fill 2 rows of 4 columns");
        assert_eq!(message(&|m| m.moments.truncate(15)), "15 moments do not fit 4 columns");
        let made = Made::new(3, 4, Kind::rows(4), 5);
        let bad = GptqOptions { damping: f64::NAN, ..GptqOptions::DEFAULT };
        assert!(round(&made.problem(), &Rounding::Gptq(bad)).is_err());
    }

    #[test]
    fn numbers_at_the_ends_of_their_types_do_no_harm() {
        for (weight, moment, scale) in [(f32::MAX, 1e300, 1e-30), (1e-40, 1e-300, 1e-40), (f32::MIN, 1e300, f32::MAX)] {
            let mut made = Made::new(2, 5, Kind::rows(4), 5);
            made.weights.iter_mut().for_each(|w| *w = weight);
            made.moments.iter_mut().for_each(|h| *h *= moment);
            made.grids.iter_mut().for_each(|g| g.scale = scale);
            for rounding in methods() {
                let rounded = round(&made.problem(), &rounding).unwrap();
                assert!(rounded.codes.iter().all(|c| (-8..=7).contains(c)), "{rounding}");
            }
            seek_scales(&made.problem()).unwrap();
        }
    }

    #[test]
    fn moments_that_rounding_made_indefinite_do_no_harm() {
        let mut made = Made::new(4, 24, Kind::rows(4), 5);
        // Five samples span five of the 24 directions; noise of f32 makes the others negative here and there.
        made.inputs.truncate(5 * 24);
        made.gather();
        for (i, h) in made.moments.iter_mut().enumerate() {
            *h = f64::from(*h as f32) + 1e-6 * f64::from((i * 7919 % 13) as u32 as f32 - 6.0);
        }
        for i in 0..24 {
            for j in 0..i {
                made.moments[i * 24 + j] = made.moments[j * 24 + i];
            }
        }
        for rounding in methods() {
            holds(&made.problem(), &rounding);
        }
    }
}
