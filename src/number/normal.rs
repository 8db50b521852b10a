//! The normal distribution, and what remains of one behind a cut.

use serde::Serialize;

/// A normal distribution `N(mean, std^2)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Normal {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, not negative; 0 for a single point.
    pub std: f64,
}

/// The density of `N(0, 1)`.
fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() * std::f64::consts::FRAC_1_SQRT_2 * std::f64::consts::FRAC_2_SQRT_PI * 0.5
}

/// The share of `N(0, 1)` below `x`, exact in the lower tail.
fn below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

impl Normal {
    /// Mean and standard deviation of `min(max(x, low), high)`, for `low <= high`, either of which may be infinite.
    ///
    /// With `a = (low - mean) / std`, `b = (high - mean) / std`, density `p` and distribution `P` of `N(0, 1)`:
    ///
    /// ```text
    /// E[y]   = low P(a) + high (1 - P(b)) + mean (P(b) - P(a)) + std (p(a) - p(b))
    /// E[y^2] = low^2 P(a) + high^2 (1 - P(b)) + (mean^2 + std^2) (P(b) - P(a)) + std ((mean + low) p(a) - (mean + high) p(b))
    /// ```
    ///
    /// (Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, equations 19 and
    /// 38 to 42 with a ReLU or ReLU6 for the cut.) The result is no normal distribution any more; it is given as the one
    /// with these two moments.
    #[must_use]
    pub fn clipped(self, low: f64, high: f64) -> Normal {
        let Normal { mean, std } = self;
        // Around a centre inside the cut the terms do not cancel each other.
        let center = mean.max(low).min(high);
        if std <= 0.0 || !center.is_finite() {
            return Normal { mean: center, std: 0.0 };
        }
        let mean = mean - center;
        let (a, b) = ((low - center - mean) / std, (high - center - mean) / std);
        let inside = if a > 0.0 { below(-a) - below(-b) } else { below(b) - below(a) };
        let (mut first, mut second) = (mean * inside, (mean * mean + std * std) * inside);
        if low.is_finite() {
            let low = low - center;
            first += low * below(a) + std * density(a);
            second += low * low * below(a) + std * (mean + low) * density(a);
        }
        if high.is_finite() {
            let high = high - center;
            first += high * below(-b) - std * density(b);
            second += high * high * below(-b) - std * (mean + high) * density(b);
        }
        Normal { mean: center + first, std: (second - first * first).max(0.0).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and standard deviation behind the cut, by the midpoint rule over 12 standard deviations to each side.
    fn integrated(n: Normal, low: f64, high: f64) -> (f64, f64) {
        let steps = 400_000;
        let (mut weight, mut first, mut second) = (0.0, 0.0, 0.0);
        for i in 0..steps {
            let z = -12.0 + 24.0 * (f64::from(i) + 0.5) / f64::from(steps);
            let y = (n.mean + n.std * z).max(low).min(high);
            let p = density(z);
            weight += p;
            first += p * y;
            second += p * y * y;
        }
        let mean = first / weight;
        (mean, (second / weight - mean * mean).max(0.0).sqrt())
    }

    #[test]
    fn moments_are_what_integration_finds() {
        let inf = f64::INFINITY;
        for (mean, std) in [(0.0, 1.0), (2.5, 0.7), (-1.5, 1.0), (5.5, 2.0), (-4.0, 1.0), (30.0, 0.1)] {
            for (low, high) in [(0.0, inf), (0.0, 6.0), (-1.0, 1.0), (-inf, 2.0), (-inf, inf)] {
                let n = Normal { mean, std };
                let got = n.clipped(low, high);
                let want = integrated(n, low, high);
                let near = |a: f64, b: f64| (a - b).abs() < 2e-6 * (1.0 + b.abs());
                assert!(near(got.mean, want.0) && near(got.std, want.1), "{n:?} {low} {high}: {got:?} {want:?}");
            }
        }
    }

    /// Against quadrature with 40 digits (mpmath), one of them far out in the tail.
    #[test]
    fn moments_are_close_far_out() {
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-10;
        for (n, mean, std) in [
            (Normal { mean: 1.0, std: 2.0 }, 1.395_593_114_802_612_1, 1.487_871_909_074_906_8),
            (Normal { mean: -8.0, std: 1.0 }, 7.550_262_411_946_499e-17, 4.251_477_916_143_808e-9),
        ] {
            let relu = n.clipped(0.0, f64::INFINITY);
            assert!(near(relu.mean, mean) && near(relu.std, std), "{relu:?}");
        }
    }

    #[test]
    fn a_point_stays_a_point() {
        let point = Normal { mean: 7.0, std: 0.0 };
        assert_eq!(point.clipped(0.0, 6.0), Normal { mean: 6.0, std: 0.0 });
        assert_eq!(point.clipped(f64::NEG_INFINITY, f64::INFINITY), point);
    }
}
