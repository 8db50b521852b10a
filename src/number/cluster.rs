//! Tables that are found for the numbers at hand: means of clusters on a line, weighted.
//!
//! Numbers are sorted and summed up from the left, so that the cost and the mean of every stretch of them are differences
//! of two sums, whatever its length.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// At most so many entries of the table of the dynamic programme: what needs more is left to [`lloyd`].
const MOST_EXACT: usize = 1 << 24;

/// Rounds of Lloyd's at most; in practice centres stop moving earlier.
const ROUNDS: usize = 1000;

/// Sorted numbers with the sums of their weights.
struct Line {
    x: Vec<f64>,
    /// The sums of the weights, of the weighted numbers, and of their weighted squares, before each number and behind all.
    sums: Vec<[f64; 3]>,
    /// What was taken off the numbers, so that sums of squares stay small.
    middle: f64,
}

impl Line {
    /// Numbers with weights of at least 0; a number has weight 1 where there are none.
    fn of(x: &[f32], weights: Option<&[f64]>) -> Line {
        let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
        let mut all: Vec<(f64, f64)> = x.iter().enumerate().map(|(i, &x)| (f64::from(x), weight(i))).collect();
        all.retain(|&(_, w)| w > 0.0);
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (total, sum) = all.iter().fold((0.0, 0.0), |(total, sum), &(x, w)| (total + w, sum + w * x));
        let middle = if total > 0.0 { sum / total } else { 0.0 };
        let mut sums = vec![[0.0; 3]];
        let mut last = [0.0; 3];
        for (x, w) in &mut all {
            *x -= middle;
            last = [last[0] + *w, last[1] + *w * *x, last[2] + *w * *x * *x];
            sums.push(last);
        }
        Line { x: all.into_iter().map(|(x, _)| x).collect(), sums, middle }
    }

    /// The sums of the numbers from `start` to before `end`.
    fn sum(&self, start: usize, end: usize) -> [f64; 3] {
        let (a, b) = (self.sums[start], self.sums[end]);
        [b[0] - a[0], b[1] - a[1], b[2] - a[2]]
    }

    fn mean(&self, start: usize, end: usize) -> f64 {
        let [w, wx, _] = self.sum(start, end);
        if w > 0.0 { wx / w } else { self.x.get(start).copied().unwrap_or(0.0) }
    }

    /// What is lost when these numbers become their mean.
    fn cost(&self, start: usize, end: usize) -> f64 {
        let [w, wx, wxx] = self.sum(start, end);
        if w > 0.0 { (wxx - wx * wx / w).max(0.0) } else { 0.0 }
    }

    /// The means of the clusters that begin at these places, as a table of `count` numbers: the last one again where there
    /// are fewer clusters.
    fn table(&self, starts: &[usize], count: usize) -> Vec<f32> {
        let ends = starts.iter().skip(1).copied().chain([self.x.len()]);
        let clusters = starts.iter().copied().zip(ends).filter(|(start, end)| start < end);
        let mut table: Vec<f32> = clusters.map(|(start, end)| (self.mean(start, end) + self.middle) as f32).collect();
        table.sort_unstable_by(f32::total_cmp);
        let last = table.last().copied().unwrap_or(0.0);
        table.resize(count, last);
        table
    }
}

/// The table of `count` numbers with the least weighted sum of squared distances from `x`, ascending.
///
/// Exact where the dynamic programme fits into memory, by [`lloyd`] with that seed elsewhere. Numbers of weight 0 count for
/// nothing; there must be a weight for every number.
pub fn means(x: &[f32], weights: Option<&[f64]>, count: usize, seed: u64) -> Vec<f32> {
    let line = Line::of(x, weights);
    if line.x.len().saturating_mul(count) <= MOST_EXACT { exact(&line, count) } else { lloyd_on(&line, count, seed) }
}

/// The table of Lloyd's algorithm (Lloyd, "Least squares quantization in PCM", 1982) from the start of k-means++ (Arthur and
/// Vassilvitskii 2007): a local minimum of what [`means`] minimises.
pub fn lloyd(x: &[f32], weights: Option<&[f64]>, count: usize, seed: u64) -> Vec<f32> {
    lloyd_on(&Line::of(x, weights), count, seed)
}

fn lloyd_on(line: &Line, count: usize, seed: u64) -> Vec<f32> {
    let mut centers = start(line, count, seed);
    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        centers.sort_unstable_by(f64::total_cmp);
        let cut = |pair: &[f64]| line.x.partition_point(|&x| x <= 0.5 * (pair[0] + pair[1]));
        let now: Vec<usize> = std::iter::once(0).chain(centers.windows(2).map(cut)).collect();
        if now == starts {
            break;
        }
        let ends = now.iter().skip(1).copied().chain([line.x.len()]);
        for ((center, &start), end) in centers.iter_mut().zip(&now).zip(ends) {
            if start < end {
                *center = line.mean(start, end);
            }
        }
        starts = now;
    }
    line.table(&starts, count)
}

/// Centres drawn one after the other, each number as often as its weighted squared distance from the nearest one says.
fn start(line: &Line, count: usize, seed: u64) -> Vec<f64> {
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    let weight = |i: usize| line.sums[i + 1][0] - line.sums[i][0];
    let mut far: Vec<f64> = (0..line.x.len()).map(weight).collect();
    let mut centers = Vec::with_capacity(count);
    while centers.len() < count {
        let total: f64 = far.iter().sum();
        if total <= 0.0 {
            break;
        }
        let mut left = draw.random::<f64>() * total;
        let hit = far.iter().position(|f| {
            left -= f;
            left < 0.0
        });
        let center = line.x[hit.unwrap_or(far.len() - 1)];
        let first = centers.is_empty();
        centers.push(center);
        for (i, far) in far.iter_mut().enumerate() {
            let now = weight(i) * (line.x[i] - center).powi(2);
            *far = if first { now } else { far.min(now) };
        }
    }
    centers
}

/// The best table: the best clusters of the numbers up to each place are the best ones of fewer up to an earlier place and a
/// stretch behind it, and that place moves one way only (Grønlund et al., "Fast exact k-means, k-medians and Bregman
/// divergence clustering in 1D", 2017, section 3).
fn exact(line: &Line, count: usize) -> Vec<f32> {
    let n = line.x.len();
    if n == 0 || count == 0 {
        return vec![0.0; count];
    }
    let mut best: Vec<f64> = (0..=n).map(|end| line.cost(0, end)).collect();
    let mut from: Vec<Vec<u32>> = Vec::with_capacity(count);
    from.push(vec![0; n + 1]);
    for _ in 1..count {
        let (mut next, mut at) = (vec![0.0; n + 1], vec![0u32; n + 1]);
        let mut open = vec![(1, n, 0, n)];
        while let Some((low, high, first, last)) = open.pop() {
            if low > high {
                continue;
            }
            let end = low.midpoint(high);
            let (mut least, mut place) = (f64::INFINITY, first);
            for (start, best) in best.iter().enumerate().take(last.min(end) + 1).skip(first) {
                let cost = best + line.cost(start, end);
                if cost < least {
                    (least, place) = (cost, start);
                }
            }
            (next[end], at[end]) = (least, place as u32);
            open.push((low, end - 1, first, place));
            open.push((end + 1, high, place, last));
        }
        best = next;
        from.push(at);
    }
    let mut starts = Vec::with_capacity(count);
    let mut end = n;
    for at in from.iter().rev() {
        end = at[end] as usize;
        starts.push(end);
    }
    starts.reverse();
    line.table(&starts, count)
}

/// The scale of -1, 0 and 1 with the least weighted sum of squared distances from `x`, numbers with their weights, where each
/// becomes the nearest; 0 of zeros alone.
///
/// With the largest magnitudes kept the best scale is their mean, and what it saves their sum squared over their weight (Li
/// et al., "Ternary weight networks", 2016, equations 3 and 4, whose threshold 0.7 times the mean magnitude comes near the
/// best).
pub(super) fn ternary(x: impl Iterator<Item = (f32, f64)>) -> f32 {
    let mut sizes: Vec<(f64, f64)> = x.map(|(x, weight)| (f64::from(x.abs()), weight)).collect();
    sizes.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let (mut sum, mut weights, mut best) = (0.0, 0.0, (0.0, 0.0));
    for (size, weight) in sizes {
        (sum, weights) = (sum + size * weight, weights + weight);
        let saved = sum * sum / weights;
        if saved > best.0 {
            best = (saved, sum / weights);
        }
    }
    best.1 as f32
}

/// The scale of -1 and 1 with the least sum of squared distances from `x`: the mean magnitude (Rastegari et al., "XNOR-Net",
/// 2016, equation 6).
pub(super) fn binary(x: &[f32]) -> f32 {
    (x.iter().map(|&x| f64::from(x.abs())).sum::<f64>() / x.len().max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::nearest;
    use proptest::prelude::*;

    fn cost(x: &[f32], weights: Option<&[f64]>, table: &[f32]) -> f64 {
        let off = |x: f32| (f64::from(x) - f64::from(table[nearest(table, x.into())])).powi(2);
        x.iter().enumerate().map(|(i, &x)| weights.map_or(1.0, |w| w[i]) * off(x)).sum()
    }

    /// The least cost over all ways to cut the sorted numbers.
    fn brute_force(x: &[f32], weights: &[f64], count: usize) -> f64 {
        let line = Line::of(x, Some(weights));
        fn rest(line: &Line, from: usize, count: usize) -> f64 {
            if count == 1 {
                return line.cost(from, line.x.len());
            }
            let cuts = from..=line.x.len();
            cuts.map(|cut| line.cost(from, cut) + rest(line, cut, count - 1)).fold(f64::INFINITY, f64::min)
        }
        rest(&line, 0, count)
    }

    proptest! {
        #[test]
        fn the_programme_finds_the_best_clusters(
            numbers in proptest::collection::vec((-4f32..4.0, 0.1f64..3.0), 1..12), count in 1usize..5,
        ) {
            let (x, weights): (Vec<f32>, Vec<f64>) = numbers.into_iter().unzip();
            let table = means(&x, Some(&weights), count, 0);
            prop_assert_eq!(table.len(), count);
            let (found, least) = (cost(&x, Some(&weights), &table), brute_force(&x, &weights, count));
            prop_assert!((found - least).abs() <= 1e-5 * (1.0 + least), "{found} {least}");
            let local = cost(&x, Some(&weights), &lloyd(&x, Some(&weights), count, 3));
            prop_assert!(local >= least - 1e-5 * (1.0 + least));
        }

        #[test]
        fn no_scale_is_better_than_the_ternary_one(
            numbers in proptest::collection::vec((-4f32..4.0, 0f64..3.0), 1..40),
        ) {
            let (x, weights): (Vec<f32>, Vec<f64>) = numbers.iter().copied().unzip();
            let of = |scale: f32| cost(&x, Some(&weights), &[-scale, 0.0, scale]);
            let least = of(ternary(numbers.into_iter()));
            for i in 1..=200 {
                prop_assert!(of(i as f32 * 0.02) >= least - 1e-4, "{i}");
            }
        }
    }

    #[test]
    fn few_numbers_fill_a_table() {
        assert_eq!(means(&[3.0, 1.0, 3.0], None, 4, 0), [1.0, 3.0, 3.0, 3.0]);
        assert_eq!(lloyd(&[3.0, 1.0, 3.0], None, 4, 0), [1.0, 3.0, 3.0, 3.0]);
        assert_eq!(means(&[], None, 2, 0), [0.0, 0.0]);
        assert_eq!(means(&[1.0, 9.0], Some(&[1.0, 0.0]), 2, 0), [1.0, 1.0]);
    }
}
