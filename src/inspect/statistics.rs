//! What a weight's numbers are like, and what INT8 would make of them.

use serde::Serialize;

use crate::error::Result;
use crate::number::{
    Format, Granularity, Moments, QuantParams, Range, Scheme, decibels, min_max, min_max_channels, rounding_loss,
};

/// How the numbers of a weight are spread. Where there is a channel axis, a channel is one index along it.
///
/// In JSON an infinite ratio is `null`, as what is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// The smallest finite number; `None` if there is none.
    pub min: Option<f32>,
    /// The largest finite number; `None` if there is none.
    pub max: Option<f32>,
    /// How many numbers are NaN or infinite. Where there are any, kurtosis and SQNR are not known.
    pub non_finite: u64,
    /// Pearson's kurtosis: 3 for a Gauss distribution, more where few numbers are far out. `None` if all are equal.
    pub kurtosis: Option<f64>,
    /// The largest magnitude of the channel where that is largest, over that of the channel where it is smallest;
    /// channels of zeros are left out. `None` without a channel axis, or if all is zero.
    pub spread: Option<f64>,
    /// How many channels are all zero; `None` without a channel axis.
    pub dead_channels: Option<usize>,
    /// SQNR in dB of the numbers after rounding to INT8, symmetric, one scale for all; infinite if nothing is lost.
    pub sqnr_tensor_db: Option<f64>,
    /// SQNR in dB of the numbers after rounding to INT8, symmetric, one scale a channel; `None` without a channel axis.
    pub sqnr_channel_db: Option<f64>,
}

/// Symmetric INT8 as weights use it: `scale = max |x| / 127`, codes from -127 to 127.
pub(super) const INT8: Scheme = Scheme { narrow: true, ..Scheme::new(Format::INT8, true, Granularity::Tensor) };

/// The statistics of a tensor of this shape, which its numbers fill; `axis`, if there is one, lies inside it.
///
/// `rounded` says whether SQNRs are wanted. Sums run in f64 in a fixed order.
pub(super) fn measure(x: &[f32], shape: &[usize], axis: Option<usize>, rounded: bool) -> Result<Statistics> {
    let mut s = Statistics::default();
    if x.is_empty() {
        // The shape of no numbers may have more channels than can be counted to.
        return Ok(Statistics { dead_channels: axis.map(|_| 0), ..s });
    }
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    if let Some(axis) = axis {
        let mut channels = vec![(low, high); shape[axis]];
        s.non_finite = min_max_channels(x, shape, axis, &mut channels);
        let (mut widest, mut narrowest, mut dead) = (0f32, f32::INFINITY, 0);
        for &(min, max) in &channels {
            (low, high) = (low.min(min), high.max(max));
            let magnitude = max.max(-min);
            if magnitude == 0.0 {
                dead += 1;
            } else if magnitude > 0.0 {
                (widest, narrowest) = (widest.max(magnitude), narrowest.min(magnitude));
            }
        }
        s.dead_channels = Some(dead);
        s.spread = (widest > 0.0).then(|| f64::from(widest) / f64::from(narrowest));
        if rounded && s.non_finite == 0 && low <= high {
            let scheme = Scheme { granularity: Granularity::Channel { axis }, ..INT8 };
            s.sqnr_channel_db = Some(sqnr(x, shape, &scheme, &channels)?);
        }
    } else {
        (low, high, s.non_finite) = min_max(x);
    }
    if low <= high {
        (s.min, s.max) = (Some(low), Some(high));
    }
    if s.non_finite == 0 {
        let moments = Moments::of(x);
        s.kurtosis = (moments.std > 0.0).then_some(moments.kurtosis);
        if rounded && low <= high {
            s.sqnr_tensor_db = Some(sqnr(x, shape, &INT8, &[(low, high)])?);
        }
    }
    Ok(s)
}

/// The SQNR in dB of finite numbers that are rounded by this scheme to ranges with these extremes.
pub(super) fn sqnr(x: &[f32], shape: &[usize], scheme: &Scheme, extremes: &[(f32, f32)]) -> Result<f64> {
    let ranges: Vec<Range> = extremes.iter().map(|&(lo, hi)| Range::new(lo, hi).unwrap_or(Range::ZERO)).collect();
    let (signal, noise) = rounding_loss(x, shape, &QuantParams::from_ranges(scheme, &ranges)?)?;
    Ok(decibels(signal, noise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Drift, fake_quantize};
    use proptest::prelude::*;

    #[test]
    fn channels_are_measured_along_their_axis() {
        // Axis 1 of [2, 3]: the channels are (1, -2), (0, 0) and (100, 50).
        let s = measure(&[1.0, 0.0, 100.0, -2.0, 0.0, 50.0], &[2, 3], Some(1), true).unwrap();
        assert_eq!((s.min, s.max), (Some(-2.0), Some(100.0)));
        assert_eq!((s.spread, s.dead_channels), (Some(50.0), Some(1)));
        assert!(s.sqnr_channel_db > s.sqnr_tensor_db);
        let flat = measure(&[1.0, 0.0, 100.0, -2.0, 0.0, 50.0], &[2, 3], None, true).unwrap();
        assert_eq!((flat.spread, flat.dead_channels, flat.sqnr_channel_db), (None, None, None));
        assert_eq!(flat.sqnr_tensor_db, s.sqnr_tensor_db);
    }

    #[test]
    fn zeros_lose_nothing_and_emptiness_is_no_number() {
        let s = measure(&[0.0; 6], &[2, 3], Some(0), true).unwrap();
        assert_eq!((s.sqnr_tensor_db, s.sqnr_channel_db), (Some(f64::INFINITY), Some(f64::INFINITY)));
        assert_eq!((s.spread, s.kurtosis, s.dead_channels), (None, None, Some(2)));
        let s = measure(&[], &[0, 3], Some(0), true).unwrap();
        assert_eq!((s.min, s.max, s.dead_channels), (None, None, Some(0)));
        let s = measure(&[], &[usize::MAX, 0], Some(0), true).unwrap();
        assert_eq!((s.min, s.max), (None, None));
    }

    #[test]
    fn what_is_not_finite_is_counted() {
        let s = measure(&[1.0, f32::NAN, -2.0, f32::INFINITY], &[2, 2], Some(0), true).unwrap();
        assert_eq!((s.min, s.max, s.non_finite), (Some(-2.0), Some(1.0), 2));
        assert_eq!((s.kurtosis, s.sqnr_tensor_db, s.sqnr_channel_db), (None, None, None));
        assert_eq!(s.dead_channels, Some(0));
        let s = measure(&[f32::NAN; 2], &[2], None, true).unwrap();
        assert_eq!((s.min, s.max, s.non_finite), (None, None, 2));
    }

    proptest! {
        #[test]
        fn agrees_with_the_kernels_on_whole_tensors(
            (dims, x) in (1usize..4, 1usize..40, 1usize..4).prop_flat_map(|(a, b, c)| {
                (Just([a, b, c]), proptest::collection::vec(-100f32..100.0, a * b * c))
            }),
            axis in 0usize..3,
        ) {
            let got = measure(&x, &dims, Some(axis), true).unwrap();
            let inner: usize = dims[axis + 1..].iter().product();
            let mut ranges = vec![Range::new(0.0, 0.0).unwrap(); dims[axis]];
            for (i, &x) in x.iter().enumerate() {
                let r = &mut ranges[i / inner % dims[axis]];
                *r = Range::new(r.min().min(x), r.max().max(x)).unwrap();
            }
            let scheme = Scheme { granularity: Granularity::Channel { axis }, ..INT8 };
            let params = QuantParams::from_ranges(&scheme, &ranges).unwrap();
            let mut rounded = x.clone();
            fake_quantize(&mut rounded, &dims, &params).unwrap();
            let mut drift = Drift::default();
            drift.add(&x, &rounded);
            let (got, want) = (got.sqnr_channel_db.unwrap(), drift.sqnr());
            prop_assert!(got == want || (got - want).abs() < 1e-9, "{got} {want}");
        }
    }
}
