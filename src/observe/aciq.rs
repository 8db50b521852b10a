//! The clip that theory gives for a Gauss or a Laplace distribution.

use std::f64::consts::{E, PI, SQRT_2};

use super::{Cell, Density, Histogram};
use crate::number::{Range, Scheme};

/// Halvings of the interval that holds the solution.
const TURNS: usize = 60;

/// The clip with the least expected squared error, if the numbers are distributed as Gauss or Laplace has it.
///
/// Source: R. Banner, Y. Nahshan, D. Soudry, "Post training 4-bit quantization of convolutional networks for
/// rapid-deployment", NeurIPS 2019, equations 5 and 6: the clip is `a` around the mean, where what cutting off and
/// rounding cost together is least. With `n` steps in the range, Laplace of scale `b` gives `a / b exp(a / b) = 3 n^2`.
/// What a ReLU left of a distribution around zero is half of it in half of the range: `a / b exp(a / b) = 12 n^2`.
///
/// The likeliest distribution is taken: Gauss or Laplace, around the mean or, where there is nothing below zero, the
/// half of one around zero. Zeros are left out: they are codes in every range.
pub(super) fn range(histogram: &Histogram, scheme: &Scheme) -> Option<Range> {
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    let density = Density::of(histogram);
    let count = density.total() - density.zeros();
    let [sum, squares] = [0, 1].map(|i| histogram.powers()[i].value() / count);
    let one_sided = extremes.min() >= 0.0 || extremes.max() <= 0.0;
    // Each candidate with the width of a Gauss distribution that is as likely: the narrowest is the likeliest.
    let laplace_as_gauss = (2.0 * E / PI).sqrt();
    let mut best: Option<(f64, f64, f64)> = None;
    for (mean, half) in [(sum, false), (0.0, true)] {
        if half && !one_sided {
            continue;
        }
        let std = (squares - 2.0 * mean * sum + mean * mean).max(0.0).sqrt();
        let deviation = deviations(&density, mean) / count;
        let part = if half { 0.5 } else { 1.0 };
        // Half a distribution has its half of a range alone, unless the range is symmetric whatever the numbers are.
        let steps = scheme.steps() * if half && !scheme.symmetric { 2.0 } else { 1.0 };
        let gauss = (part * std, mean, std * gauss_clip(steps));
        let laplace = (part * deviation * laplace_as_gauss, mean, deviation * laplace_clip(steps));
        for candidate in [gauss, laplace] {
            if candidate.0 > 0.0 && best.is_none_or(|b| candidate.0 < b.0) {
                best = Some(candidate);
            }
        }
    }
    let Some((_, mean, clip)) = best else { return Some(whole) };
    Some(whole.clamp((mean - clip).min(0.0) as f32, (mean + clip).max(0.0) as f32))
}

/// The sum of `|x - mean|` over all numbers but zeros.
fn deviations(density: &Density, mean: f64) -> f64 {
    let cell = |c: &Cell| {
        // The parts of the bin on both sides of the mean.
        let (left, right) = ((mean.min(c.high) - c.low).max(0.0), (c.high - mean.max(c.low)).max(0.0));
        let from_mean = |near: f64, far: f64| 0.5 * (near + far);
        let left = left * from_mean((mean - c.high).max(0.0), mean - c.low);
        let right = right * from_mean((c.low - mean).max(0.0), c.high - mean);
        c.count * (left + right) / (c.high - c.low)
    };
    density.cells().iter().map(cell).sum()
}

/// The clip of a Laplace distribution of scale 1: `a exp(a) = 3 steps^2`.
pub(super) fn laplace_clip(steps: f64) -> f64 {
    let target = (3.0 * steps * steps).ln();
    solve(|a| a + a.ln() - target)
}

/// The clip of a Gauss distribution of standard deviation 1: `a / (6 steps^2) = phi(a) - a Q(a)`, with its density `phi`
/// and its upper tail `Q`.
pub(super) fn gauss_clip(steps: f64) -> f64 {
    let density = |a: f64| (-0.5 * a * a).exp() / (2.0 * PI).sqrt();
    let tail = |a: f64| 0.5 * libm::erfc(a / SQRT_2);
    solve(|a| a / (6.0 * steps * steps) - (density(a) - a * tail(a)))
}

/// The zero of a rising function between 0 and 100, of which all these equations have one for up to 32 bits.
fn solve(f: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..TURNS {
        let middle = 0.5 * (low + high);
        if f(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::samples::{gauss, laplace};

    fn scheme(format: Format, symmetric: bool) -> Scheme {
        Scheme::new(format, symmetric, Granularity::Tensor)
    }

    #[test]
    fn clips_are_those_of_the_paper() {
        // The paper's table for 2, 3 and 4 bits, with as many steps as levels.
        for (bits, l, g) in [(2, 2.83, 1.71), (3, 3.89, 2.15), (4, 5.03, 2.55)] {
            let steps = f64::from(1 << bits);
            assert!((laplace_clip(steps) / l - 1.0).abs() < 0.005, "{bits} bits: {}", laplace_clip(steps));
            assert!((gauss_clip(steps) / g - 1.0).abs() < 0.005, "{bits} bits: {}", gauss_clip(steps));
        }
    }

    #[test]
    fn takes_the_distribution_that_fits() {
        let int8 = scheme(Format::INT8, true);
        for (x, clip) in [(gauss(100_000), gauss_clip(254.0)), (laplace(100_000), laplace_clip(254.0))] {
            let shifted: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
            let range = range(&Histogram::of(&shifted), &int8).unwrap();
            assert!((f64::from(range.max()) / (3.0 * clip) - 1.0).abs() < 0.01, "{range:?} for {clip}");
        }
    }

    #[test]
    fn what_a_relu_left_has_twice_the_levels() {
        for (x, clip) in [(gauss(100_000), gauss_clip(510.0)), (laplace(100_000), laplace_clip(510.0))] {
            let relu: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
            let range = range(&Histogram::of(&relu), &scheme(Format::UINT8, false)).unwrap();
            assert_eq!(range.min(), 0.0);
            let largest = f64::from(relu.iter().copied().fold(0.0, f32::max));
            assert!((f64::from(range.max()) / clip.min(largest) - 1.0).abs() < 0.01, "{range:?} for {clip}");
        }
    }

    #[test]
    fn the_range_lies_around_the_mean_and_inside_the_extremes() {
        let x: Vec<f32> = laplace(100_000).iter().map(|x| x - 20.0).collect();
        let range = range(&Histogram::of(&x), &scheme(Format::UINT8, false)).unwrap();
        assert_eq!(range.max(), 0.0);
        assert!((f64::from(range.min()) + 20.0 + laplace_clip(255.0)).abs() < 0.1, "{range:?}");
        let constant = super::range(&Histogram::of(&[2.0; 5]), &scheme(Format::UINT8, false)).unwrap();
        assert_eq!(constant.max(), 2.0);
    }
}
