//! Measures: drift between a reference and what came of it, moments of a stream.

use multiversion::multiversion;
use rayon::prelude::*;
use serde::Serialize;

use super::kernel::PART;

/// `10 log10(signal / noise)` of two energies, in dB; infinite when there is no noise.
pub fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

/// Sums that tell how far a stream of numbers is from its reference. Sums run in f64, in the order of the calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Drift {
    signal: f64,
    noise: f64,
    other: f64,
    dot: f64,
    max_abs: f64,
    count: u64,
}

impl Drift {
    /// Adds numbers beside their reference; the slices are of one length. Where both are the same infinity, or both not a
    /// number, there is no drift: such pairs only count.
    pub fn add(&mut self, reference: &[f32], got: &[f32]) {
        debug_assert_eq!(reference.len(), got.len());
        for (&r, &g) in reference.iter().zip(got) {
            if !r.is_finite() && (r == g || (r.is_nan() && g.is_nan())) {
                continue;
            }
            let (r, g) = (f64::from(r), f64::from(g));
            let d = r - g;
            self.signal += r * r;
            self.noise += d * d;
            self.other += g * g;
            self.dot += r * g;
            // `max` would drop a NaN.
            if d.abs() > self.max_abs || d.is_nan() {
                self.max_abs = d.abs();
            }
        }
        self.count += reference.len() as u64;
    }

    /// Adds the sums of another stream.
    pub fn merge(&mut self, other: &Drift) {
        self.signal += other.signal;
        self.noise += other.noise;
        self.other += other.other;
        self.dot += other.dot;
        if other.max_abs > self.max_abs || other.max_abs.is_nan() {
            self.max_abs = other.max_abs;
        }
        self.count += other.count;
    }

    /// Signal to quantization noise ratio, `10 log10(sum ref^2 / sum (ref - got)^2)`, in dB; infinite when equal.
    pub fn sqnr(&self) -> f64 {
        decibels(self.signal, self.noise)
    }

    /// Cosine of the angle between the two streams as vectors; 1 when both are all zero.
    pub fn cosine(&self) -> f64 {
        let norms = (self.signal * self.other).sqrt();
        if norms == 0.0 { f64::from(self.signal == self.other) } else { self.dot / norms }
    }

    /// The largest absolute difference, in the values' own unit.
    pub fn max_abs(&self) -> f64 {
        self.max_abs
    }

    /// How many numbers were compared.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Sums that run side by side, so that they can be vectorised: the same ones on every machine. So many that the compiler
/// keeps the loop over them, which it vectorises, and does not take it apart into single numbers, which it pairs badly.
const LANES: usize = 32;

/// The sum of numbers in f64, in an order that their number alone decides.
#[multiversion(targets = "simd")]
pub fn sum(x: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += f64::from(chunk[i]);
        }
    }
    rest.iter().enumerate().for_each(|(i, &x)| sums[i] += f64::from(x));
    sums.iter().sum()
}

/// The sums of the second and of the fourth powers of what is left when `mean` is taken off.
#[multiversion(targets = "simd")]
fn powers(x: &[f32], mean: f64) -> (f64, f64) {
    let (mut second, mut fourth) = ([0f64; LANES], [0f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let d = f64::from(chunk[i]) - mean;
            let square = d * d;
            second[i] += square;
            fourth[i] += square * square;
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        let square = (f64::from(x) - mean).powi(2);
        second[i] += square;
        fourth[i] += square * square;
    }
    (second.iter().sum(), fourth.iter().sum())
}

/// Mean and central moments of numbers, in f64.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (of the population).
    pub std: f64,
    /// Pearson's kurtosis, 3 for a Gauss distribution; 0 when all numbers are equal.
    pub kurtosis: f64,
}

impl Moments {
    /// The moments of a slice, in two passes over it; zeros for an empty one.
    pub fn of(x: &[f32]) -> Moments {
        let n = x.len().max(1) as f64;
        let parts = || x.par_chunks(PART);
        let mean = parts().map(sum).collect::<Vec<f64>>().iter().sum::<f64>() / n;
        let powers: Vec<(f64, f64)> = parts().map(|x| powers(x, mean)).collect();
        let (m2, m4) = powers.into_iter().fold((0.0, 0.0), |sums, part| (sums.0 + part.0, sums.1 + part.1));
        Moments::central(mean, m2 / n, m4 / n)
    }

    /// The moments of `count` numbers whose sums of `x`, `x^2`, `x^3` and `x^4` these are; zeros for no numbers.
    ///
    /// With mean `m` and standard deviation `s`, rounding of the sums comes back `(m / s)^2` times as large in the
    /// variance, and `(m / s)^4` times as large in the kurtosis.
    pub fn of_powers(count: u64, powers: [f64; 4]) -> Moments {
        let n = count.max(1) as f64;
        let [mean, p2, p3, p4] = powers.map(|sum| sum / n);
        let m2 = (p2 - mean * mean).max(0.0);
        let m4 = (p4 - mean * (4.0 * p3 - mean * (6.0 * p2 - 3.0 * mean * mean))).max(0.0);
        Moments::central(mean, m2, m4)
    }

    fn central(mean: f64, m2: f64, m4: f64) -> Moments {
        Moments { mean, std: m2.sqrt(), kurtosis: if m2 == 0.0 { 0.0 } else { m4 / (m2 * m2) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_what_the_formula_says() {
        let mut d = Drift::default();
        d.add(&[3.0, 4.0], &[3.0, 4.5]);
        assert!((d.sqnr() - 20.0).abs() < 1e-9);
        assert_eq!(d.max_abs(), 0.5);
        assert!((d.cosine() - (9.0 + 18.0) / (5.0 * (9.0f64 + 20.25).sqrt())).abs() < 1e-12);
        assert_eq!(Drift::default().sqnr(), f64::INFINITY);
    }

    #[test]
    fn drift_does_not_hide_a_nan() {
        let mut d = Drift::default();
        d.add(&[1.0, 1.0], &[f32::NAN, 1.0]);
        assert!(d.max_abs().is_nan() && d.sqnr().is_nan());
        let mut same = Drift::default();
        same.add(&[f32::NEG_INFINITY, 2.0], &[f32::NEG_INFINITY, 2.0]);
        assert_eq!((same.max_abs(), same.count()), (0.0, 2));
    }

    #[test]
    fn kurtosis_of_two_points_is_one() {
        let m = Moments::of(&[-1.0, 1.0, -1.0, 1.0]);
        assert_eq!((m.mean, m.std, m.kurtosis), (0.0, 1.0, 1.0));
    }
}
