//! The clip that changes the distribution least.

use super::Histogram;
use crate::number::{Range, Scheme};

/// The range for which the distribution of the codes is nearest to that of the numbers: the least Kullback-Leibler
/// divergence among all clips at the edges of bins.
///
/// Source: S. Migacz, "8-bit Inference with TensorRT", GPU Technology Conference 2017, slides 24 to 38. For each clip the
/// reference is the histogram inside it with what is cut off added to its last bin; the candidate is the histogram
/// inside it, without what is cut off, in as many levels as there are codes, each level spread evenly over those of
/// its bins that the reference does not leave empty.
///
/// What differs, so that it holds beyond symmetric int8: the edges of levels are spread evenly where the bins are no
/// multiple of the levels. Zeros are left out, since they are codes in every range. Symmetric schemes look at magnitudes
/// with the codes of one sign; affine ones at both ends, cut at the same magnitude, where the numbers reach it. Clips
/// where the candidate misses a bin of the reference are infinitely far and never taken. Where there are no
/// more bins than levels nothing is cut off.
pub(super) fn range(histogram: &Histogram, scheme: &Scheme) -> Option<Range> {
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    let (below, above) = (histogram.below(), histogram.above());
    let outermost = below.len().max(above.len());
    let (counts, zero, levels) = if scheme.symmetric {
        let folded = (0..outermost).map(|i| {
            let inner = below.len().checked_sub(i + 1).map_or(0, |i| below[i]);
            above.get(i).copied().unwrap_or(0) + inner
        });
        (folded.collect::<Vec<u64>>(), 0, scheme.format.max - scheme.format.middle() + 1)
    } else {
        ([below, above].concat(), below.len(), scheme.format.max.saturating_sub(scheme.format.min).saturating_add(1))
    };
    let levels = usize::try_from(levels).unwrap_or(usize::MAX);
    let bins = Prefix::of(&counts);
    let mut best = (f64::INFINITY, outermost);
    for clip in (1..=outermost).rev() {
        let (first, end) = (zero.saturating_sub(clip), (zero + clip).min(counts.len()));
        if end - first <= levels {
            break;
        }
        if bins.least(first, end, levels) >= best.0 {
            continue;
        }
        let divergence = bins.divergence(&counts, first, end, levels);
        if divergence < best.0 {
            best = (divergence, clip);
        }
    }
    let magnitude = (best.1 as f64 * histogram.width()) as f32;
    Some(whole.clamp(-magnitude, magnitude))
}

/// Running sums over bins.
struct Prefix {
    counts: Vec<f64>,
    /// `n ln n`.
    entropies: Vec<f64>,
    /// Bins that are not empty.
    filled: Vec<f64>,
}

/// The first bin of a level.
fn edge(first: usize, end: usize, levels: usize, level: usize) -> usize {
    first + (level * (end - first)).div_ceil(levels)
}

fn n_ln_n(n: f64) -> f64 {
    if n > 0.0 { n * n.ln() } else { 0.0 }
}

impl Prefix {
    fn of(counts: &[u64]) -> Prefix {
        let running = |f: &dyn Fn(f64) -> f64| {
            let mut sum = 0.0;
            let mut sums = vec![0.0];
            sums.extend(counts.iter().map(|&n| {
                sum += f(n as f64);
                sum
            }));
            sums
        };
        Prefix {
            counts: running(&|n| n),
            entropies: running(&n_ln_n),
            filled: running(&|n| f64::from(u8::from(n > 0.0))),
        }
    }

    /// What the divergence is at least: that of the masses of the first level, the last one, and all between. (By the log
    /// sum inequality, putting bins together never makes a divergence larger.)
    fn least(&self, first: usize, end: usize, levels: usize) -> f64 {
        let sum = |a: usize, b: usize| self.counts[b] - self.counts[a];
        let (all, inside) = (self.counts[self.counts.len() - 1], sum(first, end));
        let (second, last) = (edge(first, end, levels, 1), edge(first, end, levels, levels - 1));
        let parts = [(first, second, self.counts[first]), (second, last, 0.0), (last, end, all - self.counts[end])];
        let term = |(a, b, cut): (usize, usize, f64)| {
            let (p, q) = ((sum(a, b) + cut) / all, sum(a, b) / inside);
            if p > 0.0 { p * (p / q).ln() } else { 0.0 }
        };
        parts.into_iter().map(term).sum()
    }

    /// The divergence of the candidate from the reference, for the bins from `first` to before `end`.
    fn divergence(&self, counts: &[u64], first: usize, end: usize, levels: usize) -> f64 {
        let sum = |sums: &[f64], a: usize, b: usize| sums[b] - sums[a];
        let (total, inside) = (self.counts[counts.len()], sum(&self.counts, first, end));
        let cut = (self.counts[first], total - self.counts[end]);
        // sum p ln p, with p = n / total.
        let last = end - 1;
        let mut reference = sum(&self.entropies, first, end);
        let mut ends = [(first, cut.0), (last, cut.1)];
        if first == last {
            ends = [(first, cut.0 + cut.1), (last, 0.0)];
        }
        for (bin, cut) in ends {
            reference += n_ln_n(counts[bin] as f64 + cut) - n_ln_n(counts[bin] as f64);
        }
        // sum p ln q, with q the same in all bins of a level.
        let mut cross = 0.0;
        for level in 0..levels {
            let (a, b) = (edge(first, end, levels, level), edge(first, end, levels, level + 1));
            let in_level = sum(&self.counts, a, b);
            let (mut mass, mut filled) = (in_level, sum(&self.filled, a, b));
            for (bin, cut) in ends {
                if (a..b).contains(&bin) && cut > 0.0 {
                    mass += cut;
                    filled += f64::from(u8::from(counts[bin] == 0));
                }
            }
            if mass > 0.0 {
                if in_level == 0.0 {
                    return f64::INFINITY;
                }
                cross += mass * (in_level / (filled * inside)).ln();
            }
        }
        (reference - cross) / total - total.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::Observer;
    use crate::observe::samples::{gauss, laplace};

    /// The procedure as it is told, bin by bin.
    fn divergence(counts: &[u64], first: usize, end: usize, levels: usize) -> f64 {
        let mut p: Vec<f64> = counts[first..end].iter().map(|&n| n as f64).collect();
        let bins = p.len();
        p[0] += counts[..first].iter().sum::<u64>() as f64;
        p[bins - 1] += counts[end..].iter().sum::<u64>() as f64;
        let (mut sums, mut filled) = (vec![0.0; levels], vec![0.0; levels]);
        for bin in 0..bins {
            sums[bin * levels / bins] += counts[first + bin] as f64;
            filled[bin * levels / bins] += f64::from(u8::from(p[bin] > 0.0));
        }
        let level = |bin: usize| bin * levels / bins;
        let share = |bin: usize| if p[bin] > 0.0 { sums[level(bin)] / filled[level(bin)] } else { 0.0 };
        let q: Vec<f64> = (0..bins).map(share).collect();
        let (all_p, all_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        let term = |(&p, &q): (&f64, &f64)| match (p > 0.0, q > 0.0) {
            (false, _) => 0.0,
            (true, false) => f64::INFINITY,
            (true, true) => p / all_p * ((p / all_p) / (q / all_q)).ln(),
        };
        p.iter().zip(&q).map(term).sum()
    }

    fn scheme(format: Format, symmetric: bool) -> Scheme {
        Scheme::new(format, symmetric, Granularity::Tensor)
    }

    fn cases() -> Vec<(&'static str, Vec<f32>)> {
        let mut outliers = gauss(20_000);
        outliers.iter_mut().step_by(2000).for_each(|x| *x = 30.0 * x.abs() + 5.0);
        vec![
            ("gauss", gauss(20_000)),
            ("laplace", laplace(20_000)),
            ("relu", laplace(20_000).iter().map(|x| x.max(0.0)).collect()),
            ("outliers", outliers),
            ("few", laplace(50)),
        ]
    }

    #[test]
    fn divergences_are_those_of_the_procedure() {
        for (name, x) in cases() {
            let h = Histogram::of(&x);
            let counts = [h.below(), h.above()].concat();
            let prefix = Prefix::of(&counts);
            let zero = h.below().len();
            for clip in (130..counts.len()).step_by(37) {
                let (first, end) = (zero.saturating_sub(clip), (zero + clip).min(counts.len()));
                let (got, want) = (prefix.divergence(&counts, first, end, 128), divergence(&counts, first, end, 128));
                assert!(got == want || (got - want).abs() < 1e-9, "{name}, {clip} bins: {got}, expected {want}");
                let least = prefix.least(first, end, 128);
                assert!(least <= want + 1e-9 && least > -1e-9, "{name}, {clip} bins: {least}, of {want}");
            }
        }
    }

    #[test]
    fn clips_are_those_of_trying_them_all() {
        for (name, x) in cases() {
            let h = Histogram::of(&x);
            for (scheme, levels) in [(scheme(Format::INT8, true), 128), (scheme(Format::UINT8, false), 256)] {
                let mut mirrored = h.below().to_vec();
                mirrored.reverse();
                mirrored.resize(mirrored.len().max(h.above().len()), 0);
                let (counts, zero) = if scheme.symmetric {
                    mirrored.iter_mut().zip(h.above()).for_each(|(a, b)| *a += b);
                    (mirrored, 0)
                } else {
                    ([h.below(), h.above()].concat(), h.below().len())
                };
                let window = |clip: usize| (zero - clip.min(zero), (zero + clip).min(counts.len()));
                let all = (1..=h.below().len().max(h.above().len())).filter(|&c| window(c).1 - window(c).0 > levels);
                let far = |&c: &usize| divergence(&counts, window(c).0, window(c).1, levels);
                let want = all.min_by(|a, b| far(a).total_cmp(&far(b))).unwrap();
                let got = range(&h, &scheme).unwrap().magnitude();
                let want = (want as f64 * h.width()).min(h.range().unwrap().magnitude().into());
                assert!((f64::from(got) - want).abs() <= h.width(), "{name} {levels}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn zeros_change_nothing_and_outliers_are_cut_off() {
        let [_, _, (_, relu), (_, outliers), _] = &cases()[..] else { panic!() };
        let dense: Vec<f32> = relu.iter().copied().filter(|x| *x > 0.0).collect();
        let uint8 = scheme(Format::UINT8, false);
        assert_eq!(range(&Histogram::of(relu), &uint8), range(&Histogram::of(&dense), &uint8));
        let h = Histogram::of(outliers);
        let clip = range(&h, &scheme(Format::INT8, true)).unwrap().magnitude();
        assert!(clip < 0.2 * h.range().unwrap().magnitude() && clip > 2.0, "{clip}");
    }

    #[test]
    fn more_levels_than_bins_leave_the_range_whole() {
        let h = Histogram::of(&laplace(1000));
        assert_eq!(range(&h, &scheme(Format::INT16, true)), h.range());
    }
}
