//! The range with the least error.

use super::{Density, Histogram};
use crate::number::{BINS, Grid, Range, Scheme};

/// Clips that are tried on the way to the first minimum, where one end is free.
const LINE: usize = 128;

/// Clips that are tried at each end, where both are free.
const SQUARE: usize = 24;

/// Minima among those that are looked at closely.
const MINIMA: usize = 3;

/// The range with the least mean of `|x - q(x)|^norm`, as [`Density::error`] predicts it, among those whose ends are
/// edges of bins.
///
/// Symmetric schemes have one clip, affine ones a clip at each end at which there are numbers, and with the two the
/// zero point, which is rounded as it will be. A coarse search over all clips is followed by a close one
/// around its best. With a norm of 2 it is the search of R. Banner et al., "Post training 4-bit quantization of
/// convolutional networks for rapid-deployment", NeurIPS 2019, on the numbers instead of a distribution; 2.4 is what
/// E. Frantar et al., "GPTQ", ICLR 2023, search weights with.
pub(super) fn range(histogram: &Histogram, scheme: &Scheme, norm: f64) -> Option<Range> {
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    let density = Density::of(histogram);
    let width = histogram.width();
    let error = |range: Range| density.error(Grid::fit(scheme, range), norm);
    let edge = |bins: usize| (bins as f64 * width) as f32;
    let (below, above) = (histogram.below().len(), histogram.above().len());
    let clipped = |low: usize, high: usize| whole.clamp(-edge(low), edge(high));
    if scheme.symmetric {
        let clip = line(below.max(above), |clip| error(clipped(clip, clip)));
        return Some(clipped(clip, clip));
    }
    if below == 0 || above == 0 {
        let clip = line(below.max(above), |clip| error(clipped(clip.min(below), clip.min(above))));
        return Some(clipped(clip.min(below), clip.min(above)));
    }
    let (low, high) = square(below, above, |low, high| error(clipped(low, high)));
    Some(clipped(low, high))
}

/// The clip of `1..=most` with the least error; the wider of equal ones. Zero if there is none.
fn line(most: usize, error: impl Fn(usize) -> f64) -> usize {
    let stride = most.div_ceil(LINE).max(1);
    let mut coarse: Vec<(f64, usize)> = (1..=most).rev().step_by(stride).map(|clip| (error(clip), clip)).collect();
    coarse.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some(&(mut least, mut best)) = coarse.first() else { return 0 };
    for &(_, minimum) in coarse.iter().take(MINIMA) {
        for clip in (minimum.saturating_sub(stride - 1).max(1)..(minimum + stride).min(most + 1)).rev() {
            let e = error(clip);
            if e < least {
                (least, best) = (e, clip);
            }
        }
    }
    best
}

/// The clips with the least error, at least one bin of both sides together.
fn square(below: usize, above: usize, error: impl Fn(usize, usize) -> f64) -> (usize, usize) {
    let steps = |most: usize| (0..=SQUARE).rev().map(move |i| (most * i).div_ceil(SQUARE));
    let mut coarse: Vec<(f64, (usize, usize))> = steps(below)
        .flat_map(|low| steps(above).map(move |high| (low, high)))
        .filter(|&(low, high)| low + high > 0)
        .map(|(low, high)| (error(low, high), (low, high)))
        .collect();
    coarse.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut best = (f64::INFINITY, (below, above));
    for &(mut least, mut at) in coarse.iter().take(MINIMA) {
        let mut stride = (BINS / SQUARE).next_power_of_two();
        while stride > 0 {
            let (low, high) = at;
            let lows = [low, low.saturating_sub(stride), (low + stride).min(below)];
            let highs = [high, high.saturating_sub(stride), (high + stride).min(above)];
            for (low, high) in lows.into_iter().flat_map(|low| highs.map(|high| (low, high))) {
                let e = if low + high > 0 { error(low, high) } else { f64::INFINITY };
                if e < least {
                    (least, at) = (e, (low, high));
                }
            }
            if at == (low, high) {
                stride /= 2;
            }
        }
        if least < best.0 {
            best = (least, at);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::Observer;
    use crate::observe::samples::{gauss, laplace};

    fn scheme(format: Format, symmetric: bool) -> Scheme {
        Scheme::new(format, symmetric, Granularity::Tensor)
    }

    fn cases() -> Vec<(&'static str, Vec<f32>)> {
        let relu = |x: Vec<f32>| x.iter().map(|x| x.max(0.0)).collect::<Vec<f32>>();
        let mut outliers = gauss(30_000);
        outliers.iter_mut().step_by(3000).for_each(|x| *x = 40.0 * x.abs() + 20.0);
        vec![
            ("gauss", gauss(30_000)),
            ("laplace", laplace(30_000)),
            ("relu", relu(laplace(30_000))),
            ("below zero", relu(gauss(30_000)).iter().map(|x| -x).collect()),
            ("relu6", gauss(30_000).iter().map(|x| (4.0 * x).clamp(0.0, 6.0)).collect()),
            ("outliers", outliers),
            ("few", laplace(9)),
            ("far", gauss(3000).iter().map(|x| x + 50.0).collect()),
        ]
    }

    #[test]
    fn one_clip_is_that_of_trying_them_all() {
        for (name, x) in cases() {
            let h = Histogram::of(&x);
            let density = Density::of(&h);
            for scheme in [scheme(Format::INT8, true), scheme(Format::UINT8, false)] {
                if !scheme.symmetric && !h.below().is_empty() && !h.above().is_empty() {
                    continue;
                }
                // Powers take long.
                for norm in if x.len() < 10_000 { vec![2.0, 2.4] } else { vec![2.0] } {
                    let got = range(&h, &scheme, norm).unwrap();
                    let error =
                        |clip: f32| density.error(Grid::fit(&scheme, h.range().unwrap().clamp(-clip, clip)), norm);
                    let edges = (1..=h.below().len().max(h.above().len())).map(|k| (k as f64 * h.width()) as f32);
                    let want = edges.min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
                    let want = want.min(h.range().unwrap().magnitude());
                    let apart = (got.magnitude() - want).abs();
                    assert!(f64::from(apart) <= h.width(), "{name} {scheme:?} {norm}: {got:?}, expected {want}");
                }
            }
        }
    }

    #[test]
    fn two_clips_are_as_good_as_the_best_of_all_pairs() {
        for (name, x) in cases() {
            let h = Histogram::of(&x);
            let density = Density::of(&h);
            let scheme = scheme(Format::UINT8, false);
            let error = |range: Range| density.error(Grid::fit(&scheme, range), 2.0);
            let whole = h.range().unwrap();
            let steps = |most: usize| (0..=64).map(move |i| (most * i).div_ceil(64));
            let pairs = steps(h.below().len()).flat_map(|a| steps(h.above().len()).map(move |b| (a, b)));
            let clipped = |(a, b)| whole.clamp((a as f64 * -h.width()) as f32, (b as f64 * h.width()) as f32);
            let least = pairs.filter(|&(a, b)| a + b > 0).map(|p| error(clipped(p))).min_by(f64::total_cmp).unwrap();
            let got = range(&h, &scheme, 2.0).unwrap();
            assert!(error(got) <= least * 1.000_001, "{name}: {got:?} leaves {}, and {least} is possible", error(got));
        }
    }

    #[test]
    fn rounding_the_numbers_themselves_agrees() {
        for (name, x) in cases() {
            let scheme = scheme(Format::INT8, true);
            let measured = |range: Range| {
                let grid = Grid::fit(&scheme, range);
                let square = |&x: &f32| f64::from(x - grid.real(grid.code(x))).powi(2);
                x.iter().map(square).sum::<f64>()
            };
            let h = Histogram::of(&x);
            let whole = h.range().unwrap();
            let got = measured(range(&h, &scheme, 2.0).unwrap());
            let clips = (1..=100).map(|i| whole.magnitude() * i as f32 / 100.0);
            let least = clips.map(|c| measured(whole.clamp(-c, c))).min_by(f64::total_cmp).unwrap();
            // The few numbers of a channel need not be spread evenly in their bins.
            let tolerance = if x.len() < 100 { 2.0 } else { 1.02 };
            assert!(got <= least * tolerance, "{name}: {got}, and {least} is possible");
        }
    }
}
