//! The clip with the least squared error, by Newton's method.

use super::{Density, Histogram};
use crate::number::{Range, Scheme};

/// Turns after which the iteration has long come to rest.
const TURNS: usize = 100;

/// The clip `s` of magnitudes at which rounding and cutting off cost the same at the margin.
///
/// Source: C. Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation for Improved Quantization-aware
/// Training", ICML 2022, equation 6: `s' = E[|x| 1{|x|>s}] / (c E[1{0<|x|<=s}] + E[1{|x|>s}])`, with
/// `c = 4^-B / 3` where codes have a sign and a quarter of that where they do not. Here `c` comes from the step that
/// the scheme makes of the range, which has one step less than it has codes; where numbers of one sign end before `s`,
/// that end stays, and the other one alone moves.
pub(super) fn range(histogram: &Histogram, scheme: &Scheme) -> Option<Range> {
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    let density = Density::of(histogram);
    let filled = density.total() - density.zeros();
    let steps = scheme.steps();
    // Ends beyond the numbers do not move.
    let (low, high) = (-f64::from(whole.min()), f64::from(whole.max()));
    let (low, high) = if scheme.symmetric { (low.max(high), low.max(high)) } else { (low, high) };
    let ((_, below), (_, above)) = (density.below(0.0), density.above(0.0));
    let mut s = if filled > 0.0 { (below + above) / filled } else { 0.0 };
    for _ in 0..TURNS {
        let ((m, below), (n, above)) = (density.below(s), density.above(s));
        let (cut, sum) = (m + n, below + above);
        // The squared error of rounding is (width / steps)^2 / 12, with a width of `ends * s + rest`.
        let ends = f64::from(u8::from(s < low)) + f64::from(u8::from(s < high));
        let rest = if s < low { 0.0 } else { low } + if s < high { 0.0 } else { high };
        let round = ends / (12.0 * steps * steps) * (filled - cut);
        let next = ((sum - round * rest) / (cut + round * ends)).max(0.0);
        if !next.is_finite() || (next - s).abs() <= 1e-9 * s {
            break;
        }
        s = next;
    }
    Some(whole.clamp(-s as f32, s as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::aciq::{gauss_clip, laplace_clip};
    use crate::observe::samples::{gauss, laplace};

    fn clip(x: &[f32], format: Format, symmetric: bool) -> f64 {
        let scheme = Scheme::new(format, symmetric, Granularity::Tensor);
        range(&Histogram::of(x), &scheme).unwrap().magnitude().into()
    }

    #[test]
    fn finds_the_closed_forms_of_gauss_and_laplace() {
        let cases =
            [("gauss", gauss(200_000), gauss_clip as fn(f64) -> f64), ("laplace", laplace(1_000_000), laplace_clip)];
        for (name, x, closed) in cases {
            let relu: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
            let minus: Vec<f32> = relu.iter().map(|x| -x).collect();
            for (what, got, want) in [
                ("symmetric", clip(&x, Format::INT8, true), closed(254.0)),
                ("affine", clip(&x, Format::UINT8, false), closed(255.0)),
                ("after ReLU", clip(&relu, Format::UINT8, false), closed(510.0)),
                ("after ReLU, symmetric", clip(&relu, Format::INT8, true), closed(254.0)),
                ("mirrored", clip(&minus, Format::UINT8, false), closed(510.0)),
            ] {
                assert!((got / want - 1.0).abs() < 0.01, "{name} {what}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn the_far_end_moves_alone() {
        // Numbers below zero are small, as those behind a Swish are.
        let x: Vec<f32> = laplace(100_000).iter().map(|&x| if x < 0.0 { 0.03 * x } else { x }).collect();
        let scheme = Scheme::new(Format::UINT8, false, Granularity::Tensor);
        let range = range(&Histogram::of(&x), &scheme).unwrap();
        let lowest = Histogram::of(&x).extremes().min();
        assert_eq!(range.min(), lowest);
        let error = |high: f32| {
            let grid = crate::number::Grid::fit(&scheme, Range::new(lowest, high).unwrap());
            Density::of(&Histogram::of(&x)).error(grid, 2.0)
        };
        assert!(error(range.max()) < error(1.1 * range.max()) && error(range.max()) < error(0.9 * range.max()));
    }

    #[test]
    fn numbers_without_a_tail_are_not_cut_off() {
        let even: Vec<f32> = (0..10_000).map(|i| i as f32 / 5000.0 - 1.0).collect();
        assert!(clip(&even, Format::INT8, true) > 0.99);
        assert_eq!(clip(&[3.0; 10], Format::UINT8, false), 3.0);
        assert_eq!(clip(&[0.0; 10], Format::UINT8, false), 0.0);
    }
}
