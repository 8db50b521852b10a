//! AdaRound: whether each weight goes up or down is learned by gradient descent.
//!
//! Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, ICML 2020, equations 21 to 24. A weight is
//! `floor + h(V)` steps with the rectified sigmoid `h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)`, zeta 1.1,
//! gamma -0.1, and `V` minimises
//!
//! ```text
//! |WX - W'X|^2 + lambda sum(1 - |2 h(V) - 1|^beta)
//! ```
//!
//! by Adam. Beta falls from 20 to 2, so that every `h` ends at 0 or 1; the first fifth of the iterations has no second term.
//!
//! What differs: the loss is on `H`, so its gradient `2 (W' - W) H` is that of all samples at once, nothing is drawn, and
//! hundreds of iterations do what takes 10,000 on batches. Every row's loss is in units of its own mean squared scale times
//! the mean of `H`'s diagonal, so that one lambda and one rate serve every layer; the paper's lambda 0.01 is in the unit of
//! the layer's output, and says nothing in this one. There is no activation function in the
//! loss. `V` starts from the fractional parts, as in the paper's code.

use multiversion::multiversion;

use super::algebra;
use super::problem::{Panel, Problem, around, real};

/// How AdaRound goes about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaRoundOptions {
    /// How many steps of Adam.
    pub iterations: u32,
    /// How much the second term weighs against the first, which is in units of the row's mean squared scale times the mean
    /// of `H`'s diagonal.
    pub lambda: f32,
    /// Beta at the end of the warm start, and after the last iteration; in between it falls evenly.
    pub beta: (f32, f32),
    /// The share of the iterations without the second term.
    pub warm_start: f32,
    /// The step of Adam.
    pub rate: f32,
}

impl AdaRoundOptions {
    /// The paper's beta and warm start; 200 iterations of steps ten times as large; lambda 1, in the unit of the row.
    pub const DEFAULT: AdaRoundOptions =
        AdaRoundOptions { iterations: 200, lambda: 1.0, beta: (20.0, 2.0), warm_start: 0.2, rate: 0.1 };
}

impl Default for AdaRoundOptions {
    fn default() -> Self {
        AdaRoundOptions::DEFAULT
    }
}

const ZETA: f32 = 1.1;
const GAMMA: f32 = -0.1;

/// Weights between two codes each, as columns of numbers.
struct Weights {
    /// The error of the code below, in the unit of the row.
    floor: Vec<f32>,
    /// From there to the code above, in the same unit; 0 where the grid has no room.
    step: Vec<f32>,
    /// What is learned.
    v: Vec<f32>,
    /// `sigmoid(v)`.
    sigmoid: Vec<f32>,
    /// Adam's means of the gradient and of its square.
    mean: Vec<f32>,
    square: Vec<f32>,
}

/// The rows from `start` on with the codes of AdaRound. `moments` is `H` in a unit in which its diagonal is about 1.
pub(super) fn round<'a>(
    problem: &'a Problem<'a>,
    start: usize,
    rows: usize,
    moments: &[f32],
    options: &AdaRoundOptions,
) -> Panel<'a> {
    let n = problem.columns;
    let ends = |row: usize, column: usize| {
        let grid = problem.grid(row, column);
        around(grid, f64::from(problem.row(row)[column]))
    };
    let none = || Vec::with_capacity(rows * n);
    let (mean, square) = (vec![0.0; rows * n], vec![0.0; rows * n]);
    let mut weights = Weights { floor: none(), step: none(), v: none(), sigmoid: none(), mean, square };
    for row in start..start + rows {
        let squares = (0..n).map(|j| f64::from(problem.grid(row, j).scale).powi(2));
        let unit = (squares.sum::<f64>() / n.max(1) as f64).sqrt();
        for (column, &w) in problem.row(row).iter().enumerate() {
            let grid = problem.grid(row, column);
            let (low, high) = ends(row, column);
            let (low, high) = (real(grid, low), real(grid, high));
            let part = if high > low { ((f64::from(w) - low) / (high - low)).clamp(0.0, 1.0) as f32 } else { 0.0 };
            let sigmoid = (part - GAMMA) / (ZETA - GAMMA);
            weights.floor.push(((low - f64::from(w)) / unit) as f32);
            weights.step.push(((high - low) / unit) as f32);
            weights.v.push((sigmoid / (1.0 - sigmoid)).ln());
            weights.sigmoid.push(sigmoid);
        }
    }
    let mut errors = vec![0f32; rows * n];
    let mut slopes = vec![0f32; rows * n];
    let warm = options.warm_start * options.iterations as f32;
    for iteration in 0..options.iterations {
        weights.errors(&mut errors);
        algebra::product(&mut slopes, &errors, moments, [rows, n, n]);
        let now = iteration as f32;
        let part = ((now - warm) / (options.iterations as f32 - warm).max(1.0)).clamp(0.0, 1.0);
        let beta = options.beta.0 + (options.beta.1 - options.beta.0) * part;
        let lambda = if now < warm { 0.0 } else { options.lambda };
        Adam::at(iteration + 1, options.rate).step(&mut weights, &slopes, lambda, beta);
    }
    Panel::of(problem, start..start + rows, |row, column| {
        let (low, high) = ends(row, column);
        if weights.sigmoid[(row - start) * n + column] >= 0.5 { high } else { low }
    })
}

impl Weights {
    /// `W' - W` of the heights as they are.
    fn errors(&self, errors: &mut [f32]) {
        let heights = self.sigmoid.iter().map(|&s| height(s));
        errors.iter_mut().zip(&self.floor).zip(&self.step).zip(heights).for_each(|(((e, f), s), h)| *e = f + s * h);
    }
}

/// The rectified sigmoid, of the sigmoid.
#[inline(always)]
fn height(sigmoid: f32) -> f32 {
    (sigmoid * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)
}

/// `2^x`, to 4e-6 of itself. The standard library's cannot be vectorised.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-126.0, 126.0);
    let whole = (x + MAGIC) - MAGIC;
    let part = (x - whole) * std::f32::consts::LN_2;
    // The Taylor series of e^x for |x| <= ln(2) / 2.
    let series = 1.0 + part * (1.0 + part * (1.0 / 2.0 + part * (1.0 / 6.0 + part * (1.0 / 24.0 + part / 120.0))));
    series * f32::from_bits(((whole as i32 + 127) as u32) << 23)
}

/// `log2(x)` for normal positive `x`, to 1e-5.
#[inline(always)]
fn log2(x: f32) -> f32 {
    // x = m 2^e with m from sqrt(1/2) to sqrt(2), and ln(m) = 2 artanh(z).
    const MIDDLE: i32 = std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32;
    let bits = x.to_bits() as i32;
    let exponent = (bits - MIDDLE) >> 23;
    let m = f32::from_bits((bits - (exponent << 23)) as u32);
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    let series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square / 7.0));
    exponent as f32 + 2.0 * std::f32::consts::LOG2_E * z * series
}

/// Adam (Kingma and Ba 2015, algorithm 1) at one iteration.
struct Adam {
    rate: f32,
    unbias: f32,
}

impl Adam {
    const DECAY: (f32, f32) = (0.9, 0.999);

    fn at(iteration: u32, rate: f32) -> Adam {
        let bias = |decay: f32| 1.0 - decay.powf(iteration as f32);
        Adam { rate: rate / bias(Adam::DECAY.0), unbias: 1.0 / bias(Adam::DECAY.1) }
    }

    /// One step of all weights, from half the gradient of the first term in `W'`.
    fn step(&self, weights: &mut Weights, slopes: &[f32], lambda: f32, beta: f32) {
        let Weights { step, v, sigmoid, mean, square, .. } = weights;
        learn([v, sigmoid, mean, square], [slopes, step], [lambda, beta, self.rate, self.unbias]);
    }
}

#[multiversion(targets = "simd")]
fn learn(
    [v, sigmoid, mean, square]: [&mut [f32]; 4],
    [slopes, step]: [&[f32]; 2],
    [lambda, beta, rate, unbias]: [f32; 4],
) {
    let state = v.iter_mut().zip(sigmoid).zip(mean.iter_mut().zip(square));
    for (((v, sigmoid), (mean, square)), (slope, step)) in state.zip(slopes.iter().zip(step)) {
        let wide = *sigmoid * (ZETA - GAMMA) + GAMMA;
        let off = 2.0 * wide - 1.0;
        let power = exp2((beta - 1.0) * log2(off.abs().max(1e-9)));
        let pull = 2.0 * lambda * beta * power.copysign(off);
        let open = (ZETA - GAMMA) * *sigmoid * (1.0 - *sigmoid);
        // Where the height is cut off at 0 or 1 it has no gradient.
        let gradient = if off.abs() < 1.0 { (2.0 * slope * step - pull) * open } else { 0.0 };
        *mean = Adam::DECAY.0 * *mean + (1.0 - Adam::DECAY.0) * gradient;
        *square = Adam::DECAY.1 * *square + (1.0 - Adam::DECAY.1) * gradient * gradient;
        *v -= rate * *mean / ((*square * unbias).sqrt() + 1e-8);
        *sigmoid = 1.0 / (1.0 + exp2(-std::f32::consts::LOG2_E * *v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_and_logarithms_are_close_to_those_of_the_library() {
        for i in -4000..4000 {
            let x = i as f32 / 50.0;
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 4e-6, "{x}: {}", exp2(x));
            assert!((log2(x.exp2()) - x).abs() < 2e-5, "{x}: {}", log2(x.exp2()));
        }
    }

    #[test]
    fn every_height_ends_at_a_code() {
        // One weight, all alone: up or down, whichever is nearer.
        for part in [0.02, 0.3, 0.45, 0.55, 0.9] {
            let grid = crate::number::Grid::linear(0.5, 0, -8, 7);
            let grid_of = super::super::GridOf { row_base: &[0], place: &[0] };
            let weights = [(2.0 + part) * 0.5];
            let problem = Problem { weights: &weights, rows: 1, columns: 1, grids: &[grid], grid_of, moments: &[3.0] };
            let panel = round(&problem, 0, 1, &[1.0], &AdaRoundOptions::DEFAULT);
            assert_eq!(panel.codes, [grid.code(weights[0])], "{part}");
        }
    }
}
