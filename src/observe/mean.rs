//! The clip at a multiple of the mean magnitude.

use super::{Density, Histogram, Observer};
use crate::number::Range;

/// What lies within `k` times the mean of `|x|`, zeros counted, as far as the bins tell it.
///
/// Source: H. Yu et al., "Low-bit Quantization Needs Good Distribution", CVPR workshops 2020, equation 5 (scale-clip), for
/// weights.
pub(super) fn range(histogram: &Histogram, k: f64) -> Option<Range> {
    let whole = histogram.range()?;
    let density = Density::of(histogram);
    let ((_, below), (_, above)) = (density.below(0.0), density.above(0.0));
    let clip = k * (below + above) / density.total();
    Some(whole.clamp(-clip as f32, clip as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::samples::laplace;

    #[test]
    fn the_ends_are_a_multiple_of_the_mean_magnitude() {
        let mut x = laplace(5000);
        x.extend([0.0; 1000]);
        let mean = x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / x.len() as f64;
        for k in [1.0, 2.0, 5.0] {
            let range = range(&Histogram::of(&x), k).unwrap();
            for end in [-range.min(), range.max()] {
                assert!((f64::from(end) / (k * mean) - 1.0).abs() < 1e-3, "{k}: {range:?} of {mean}");
            }
        }
        let whole = range(&Histogram::of(&x), 1e6).unwrap();
        assert_eq!(whole, Histogram::of(&x).range().unwrap());
        assert!(range(&Histogram::of(&[]), 2.0).is_none());
    }
}
