//! Weights for a layer whose inputs were moved.
//!
//! Behind what is quantized already a layer reads `X'` in place of `X`. What it makes of that is nearest to `W X` with weights
//! `W + D`, where `D` undoes in `X'` what it can of the move:
//!
//! ```text
//! |W X - (W + D) X'|^2 = |W (X - X')|^2 - 2 tr(D G^T) + tr(D M D^T),   G = W (X X'^T - X' X'^T),  M = X' X'^T
//! ```
//!
//! which is least for `D = G M^-1`. Of few samples that fits their noise; damped, `D = G (M + damping diag M)^-1`, and only in
//! part, it does not.
//!
//! Source: the asymmetric reconstruction of Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*,
//! ICML 2020, section 3.4, equation 25, with its least squares solution before rounding.

use nalgebra::DMatrix;

use super::algebra;

/// The inputs of a layer as they were moved.
#[derive(Debug, Clone, Copy)]
pub struct Moved<'a> {
    /// How many numbers an input has.
    pub columns: usize,
    /// `X' X'^T`, `[columns, columns]`, symmetric.
    pub moments: &'a [f64],
    /// `X X'^T`, `[columns, columns]`.
    pub cross: &'a [f64],
}

/// By how much the objective of a change of weights falls: `2 t linear - t^2 square` for `t` times the change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fall {
    /// `tr(D G^T)`.
    pub linear: f64,
    /// `tr(D M D^T)`.
    pub square: f64,
}

impl Fall {
    /// The part of the change that is best, from 0 to 1, and by how much the objective falls with it.
    pub fn best(&self) -> (f64, f64) {
        let part = self.linear / self.square;
        let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
        (part, part * (2.0 * self.linear - part * self.square))
    }
}

impl Moved<'_> {
    /// `W (X X'^T - X' X'^T)`, `[rows, columns]`.
    fn pull(&self, weights: &[f32]) -> Vec<f64> {
        let n = self.columns;
        let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let moved: Vec<f64> = self.cross.iter().zip(self.moments).map(|(c, m)| c - m).collect();
        let mut pull = vec![0.0; weights.len()];
        algebra::product(&mut pull, &weights, &moved, [weights.len() / n.max(1), n, n]);
        pull
    }

    /// The change of the weights, `[rows, columns]`, that makes good what it can of the move; `None` where the moments are none
    /// to divide by. Inputs that are always 0 change no weight.
    pub fn change(&self, weights: &[f32], damping: f64) -> Option<Vec<f64>> {
        let n = self.columns;
        if n == 0 {
            return None;
        }
        let mut damped = DMatrix::from_row_slice(n, n, self.moments);
        for i in 0..n {
            let own = damped[(i, i)];
            damped[(i, i)] = if own > 0.0 { own * (1.0 + damping) } else { 1.0 };
        }
        let factor = algebra::cholesky(damped)?;
        // Row by row is column by column of the transpose.
        let mut change = DMatrix::from_vec(n, weights.len() / n, self.pull(weights));
        let solved =
            factor.solve_lower_triangular_mut(&mut change) && factor.tr_solve_lower_triangular_mut(&mut change);
        let mut change: Vec<f64> = change.as_slice().to_vec();
        let dead: Vec<usize> = (0..n).filter(|&i| self.moments[i * n + i] <= 0.0).collect();
        change.chunks_exact_mut(n).for_each(|row| dead.iter().for_each(|&i| row[i] = 0.0));
        (solved && change.iter().all(|d| d.is_finite())).then_some(change)
    }

    /// What a change of these weights does on these inputs.
    pub fn fall(&self, weights: &[f32], change: &[f64]) -> Fall {
        let n = self.columns;
        let mut along = vec![0.0; change.len()];
        algebra::product(&mut along, change, self.moments, [change.len() / n.max(1), n, n]);
        let dot = |other: &[f64]| change.iter().zip(other).map(|(d, x)| d * x).sum::<f64>();
        Fall { linear: dot(&self.pull(weights)), square: dot(&along) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f64 {
        let mut x = (i as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn rows(m: &DMatrix<f64>) -> Vec<f64> {
        m.transpose().as_slice().to_vec()
    }

    /// Weights `[3, columns]` and inputs that a matrix and noise of that size moved.
    struct Case {
        weights: Vec<f32>,
        w: DMatrix<f64>,
        x: DMatrix<f64>,
        moved: DMatrix<f64>,
        moments: Vec<f64>,
        cross: Vec<f64>,
    }

    impl Case {
        fn new(columns: usize, samples: usize, by: f64) -> Case {
            let x = DMatrix::from_fn(columns, samples, |i, j| noise(i + columns * j));
            let a =
                DMatrix::from_fn(
                    columns,
                    columns,
                    |i, j| {
                        if i == j { 1.1 } else { 0.02 * noise(90_000 + i * columns + j) }
                    },
                );
            let moved = &a * &x + DMatrix::from_fn(columns, samples, |i, j| by * noise(500_000 + i + columns * j));
            let weights: Vec<f32> = (0..3 * columns).map(|i| noise(1_000_000 + i) as f32).collect();
            let w = DMatrix::from_row_slice(3, columns, &weights).map(f64::from);
            let (moments, cross) = (rows(&(&moved * moved.transpose())), rows(&(&x * moved.transpose())));
            Case { weights, w, x, moved, moments, cross }
        }

        fn inputs(&self) -> Moved<'_> {
            Moved { columns: self.w.ncols(), moments: &self.moments, cross: &self.cross }
        }

        fn objective(&self, change: &[f64], part: f64) -> f64 {
            let changed = &self.w + DMatrix::from_row_slice(3, self.w.ncols(), change) * part;
            (&self.w * &self.x - changed * &self.moved).norm_squared()
        }
    }

    #[test]
    fn a_known_change_of_all_inputs_is_undone() {
        let case = Case::new(6, 400, 0.0);
        let change = case.inputs().change(&case.weights, 1e-4).unwrap();
        let (before, after) = (case.objective(&change, 0.0), case.objective(&change, 1.0));
        assert!(after < 1e-4 * before, "{after}, {before} before");
    }

    #[test]
    fn the_objective_falls_as_foretold() {
        let case = Case::new(12, 60, 0.2);
        let before = case.objective(&[0.0; 36], 0.0);
        for damping in [0.0, 0.1, 1.0] {
            let change = case.inputs().change(&case.weights, damping).unwrap();
            let fall = case.inputs().fall(&case.weights, &change);
            for part in [0.25, 1.0] {
                let foretold = part * (2.0 * fall.linear - part * fall.square);
                let found = before - case.objective(&change, part);
                assert!((found - foretold).abs() < 1e-6 * before, "{found}, not {foretold}");
            }
            let (part, best) = fall.best();
            assert!(part > 0.0 && (best - (before - case.objective(&change, part))).abs() < 1e-6 * before);
        }
    }

    #[test]
    fn what_was_not_seen_stays() {
        let weights = [1.0, -2.0];
        let moved = |moments, cross| Moved { columns: 2, moments, cross };
        assert_eq!(moved(&[0.0; 4], &[0.0; 4]).change(&weights, 0.1), Some(vec![0.0; 2]));
        assert_eq!(moved(&[f64::NAN; 4], &[0.0; 4]).change(&weights, 0.1), None);
        assert_eq!(Moved { columns: 0, moments: &[], cross: &[] }.change(&[], 0.1), None);
        // The second input is always 0.
        let found = moved(&[4.0, 0.0, 0.0, 0.0], &[2.0, 0.0, 0.0, 0.0]).change(&weights, 0.0);
        assert_eq!(found, Some(vec![-0.5, 0.0]));
        assert_eq!(Fall::default().best(), (0.0, 0.0));
        assert_eq!(Fall { linear: -1.0, square: 2.0 }.best().0, 0.0);
    }
}
