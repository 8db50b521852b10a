//! How many numbers lie where, in bounded memory and in one pass.

use super::{MinMax, Observer};
use crate::error::{Error, ErrorKind, Result};
use crate::number::{BINS, ExactSum, Moments, Range, Tally, survey};

/// Numbers that are looked at before they are counted: few enough to stay in the nearest cache.
const PIECE: usize = 1 << 13;

/// Slices from here on are counted in tables of their own first.
const LONG: usize = 1 << 14;

/// The least exponent of a width: one over it must be a finite f32.
const NARROWEST: i32 = -126;

/// A histogram of at most [`BINS`] bins, with the exact extremes, zeros and moments beside it.
///
/// The width of a bin is `2^exponent`: the least power of two, from `2^-126` on, that covers zero and all numbers
/// seen. It doubles when the range grows, and two bins become one. Bins are mirrored at zero, which is an edge:
/// bin `k` above it holds `[k, k + 1)` widths, bin `k` below it `(-k - 1, -k]`. Zeros are in no bin; they are counted
/// beside them.
///
/// All counts are integers, a bin of twice the width is two bins exactly, and the power sums of slices are added
/// without rounding: what comes out depends on the slices that were seen, and not on their order, on who saw
/// them, or on how they were merged. Numbers that are not finite are counted and otherwise left out.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    extremes: MinMax,
    zeros: u64,
    powers: [ExactSum; 4],
    bins: Bins,
}

/// The counts, and where they lie.
#[derive(Debug, Clone)]
struct Bins {
    exponent: i32,
    /// How many of the bins lie below zero; the bins from there on lie above it.
    below: usize,
    /// [`BINS`] counts from the lowest bin to the highest; empty until a number other than zero was seen.
    counts: Vec<u64>,
}

impl Default for Bins {
    fn default() -> Self {
        Bins { exponent: NARROWEST, below: 0, counts: Vec::new() }
    }
}

/// What a histogram is made of, to keep it and to make it again.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramParts {
    /// The smallest and the largest finite number; `None` if there is none.
    pub extremes: Option<(f32, f32)>,
    /// How many numbers were seen.
    pub count: u64,
    /// How many of them were not finite.
    pub non_finite: u64,
    /// How many were zero.
    pub zeros: u64,
    /// As [`Histogram::exponent`].
    pub exponent: i32,
    /// As [`Histogram::below`].
    pub below: Vec<u64>,
    /// As [`Histogram::above`].
    pub above: Vec<u64>,
    /// As [`Histogram::powers`].
    pub powers: [ExactSum; 4],
}

impl Histogram {
    /// The histogram that is made of these. Errors when they contradict each other.
    pub fn from_parts(parts: HistogramParts) -> Result<Histogram> {
        let wrong =
            |what: &str| Err(Error::new(ErrorKind::Malformed, format!("the histogram contradicts itself: {what}")));
        let (below, above) = (parts.below.len(), parts.above.len());
        let counted = parts.below.iter().chain(&parts.above).chain([&parts.zeros, &parts.non_finite]);
        if counted.copied().try_fold(0, u64::checked_add) != Some(parts.count) {
            return wrong("its counts do not add up");
        }
        let (min, max) = parts.extremes.unwrap_or((f32::INFINITY, f32::NEG_INFINITY));
        if parts.extremes.is_some() != (parts.count > parts.non_finite)
            || parts.extremes.is_some_and(|(a, b)| !(a <= b && a.is_finite() && b.is_finite()))
        {
            return wrong("its extremes are not those of its numbers");
        }
        let mut bins = Bins::default();
        if below + above > 0 {
            bins.make_room(min, max);
        }
        let ends = parts.below.first().is_none_or(|&n| n > 0) && parts.above.last().is_none_or(|&n| n > 0);
        let fits = parts.exponent == bins.exponent
            && below == needed(-min, bins.exponent)
            && above == needed(max, bins.exponent);
        if !(ends && fits) {
            return wrong("its bins are not those of its extremes");
        }
        if parts.powers.iter().any(|sum| !sum.value().is_finite()) {
            return wrong("its sums are not finite");
        }
        let inner = bins.counts.iter_mut().skip(bins.below - below);
        inner.zip(parts.below.iter().chain(&parts.above)).for_each(|(count, &n)| *count = n);
        let mut extremes = MinMax::default();
        extremes.take_in(min, max, parts.count - parts.non_finite, parts.non_finite);
        Ok(Histogram { extremes, zeros: parts.zeros, powers: parts.powers, bins })
    }

    /// The histogram of a slice.
    pub fn of(x: &[f32]) -> Histogram {
        let mut h = Histogram::default();
        h.observe(x);
        h
    }

    /// The extremes of the numbers, how many were seen, and how many of them were not finite.
    pub fn extremes(&self) -> &MinMax {
        &self.extremes
    }

    /// How many finite numbers were seen.
    pub fn finite(&self) -> u64 {
        self.extremes.count() - self.extremes.non_finite()
    }

    /// How many numbers were zero, of either sign.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The binary logarithm of the width of a bin.
    pub fn exponent(&self) -> i32 {
        self.bins.exponent
    }

    /// The width of a bin.
    pub fn width(&self) -> f64 {
        power_of_two(self.bins.exponent)
    }

    /// The counts above zero, outwards, to the bin that holds the largest number.
    pub fn above(&self) -> &[u64] {
        let Some(above) = self.bins.counts.get(self.bins.below..) else { return &[] };
        &above[..needed(self.extremes.max(), self.bins.exponent)]
    }

    /// The counts below zero, from the bin that holds the smallest number inwards.
    pub fn below(&self) -> &[u64] {
        let Some(below) = self.bins.counts.get(..self.bins.below) else { return &[] };
        &below[below.len() - needed(-self.extremes.min(), self.bins.exponent)..]
    }

    /// The sums of `x`, `x^2`, `x^3` and `x^4` over the finite numbers. Over one slice they run in f64; slices are added
    /// without rounding.
    pub fn powers(&self) -> &[ExactSum; 4] {
        &self.powers
    }

    /// Mean, standard deviation and kurtosis of the finite numbers, from the power sums.
    pub fn moments(&self) -> Moments {
        let (min, max) = (self.extremes.min(), self.extremes.max());
        if min == max {
            return Moments { mean: min.into(), std: 0.0, kurtosis: 0.0 };
        }
        Moments::of_powers(self.finite(), self.powers.each_ref().map(ExactSum::value))
    }

    /// Takes in more of the stream, as [`Observer::observe`], and returns the extremes of the finite numbers in it;
    /// `None` if there are none.
    pub fn see(&mut self, x: &[f32]) -> Option<(f32, f32)> {
        let mut tally = (x.len() >= LONG).then(Pending::default);
        let mut powers = [0.0; 4];
        let mut slice = MinMax::default();
        let mut finite = Vec::new();
        for piece in x.chunks(PIECE) {
            let (piece, found) = match survey(piece) {
                found if found.finite => (piece, found),
                _ => {
                    finite.clear();
                    finite.extend(piece.iter().copied().filter(|x| x.is_finite()));
                    slice.take_in(f32::INFINITY, f32::NEG_INFINITY, 0, (piece.len() - finite.len()) as u64);
                    (&finite[..], survey(&finite))
                }
            };
            slice.take_in(found.min, found.max, piece.len() as u64, 0);
            powers.iter_mut().zip(found.powers).for_each(|(sum, x)| *sum += x);
            self.zeros += found.zeros;
            if found.zeros < piece.len() as u64 {
                let low = self.extremes.min().min(slice.min());
                let high = self.extremes.max().max(slice.max());
                self.bins.count(piece, low, high, found.zeros, tally.as_mut());
            }
        }
        if let Some(tally) = &mut tally {
            self.bins.pour(tally);
        }
        self.powers.iter_mut().zip(powers).for_each(|(sum, x)| sum.add(x));
        self.extremes.merge(&slice);
        (slice.min() <= slice.max()).then(|| (slice.min(), slice.max()))
    }
}

impl Observer for Histogram {
    fn observe(&mut self, x: &[f32]) {
        self.see(x);
    }

    fn merge(&mut self, other: &Self) {
        self.extremes.merge(&other.extremes);
        self.zeros += other.zeros;
        self.powers.iter_mut().zip(&other.powers).for_each(|(sum, x)| sum.merge(x));
        if !other.bins.counts.is_empty() {
            self.bins.make_room(self.extremes.min(), self.extremes.max());
            self.bins.take(&other.bins);
        }
    }

    fn range(&self) -> Option<Range> {
        self.extremes.range()
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        (&self.extremes, self.zeros, &self.powers) == (&other.extremes, other.zeros, &other.powers)
            && (self.exponent(), self.below(), self.above()) == (other.exponent(), other.below(), other.above())
    }
}

/// Numbers that are counted in tables beside the bins, and how many of them are zeros, which the tables count too.
#[derive(Default)]
struct Pending {
    tally: Tally,
    zeros: u64,
}

impl Bins {
    /// Counts finite numbers, not all of them zero; `low` and `high` are the extremes of all that was ever counted.
    fn count(&mut self, x: &[f32], low: f32, high: f32, zeros: u64, pending: Option<&mut Pending>) {
        if let Some(pending) = pending {
            if !self.covers(low, high) {
                self.pour(pending);
                self.make_room(low, high);
            }
            pending.tally.count(x, self.inverse(), self.below);
            pending.zeros += zeros;
            return;
        }
        self.make_room(low, high);
        let (inverse, below) = (self.inverse(), self.below);
        for &x in x {
            let whole = (x.abs() * inverse) as usize;
            if x > 0.0 {
                self.counts[below + whole] += 1;
            } else if x < 0.0 {
                self.counts[below - 1 - whole] += 1;
            }
        }
    }

    /// Adds what is pending.
    fn pour(&mut self, pending: &mut Pending) {
        if let Some(counts) = self.counts.as_mut_slice().as_mut_array() {
            pending.tally.pour(counts);
            counts[self.below] -= std::mem::take(&mut pending.zeros);
        }
    }

    /// One over the width.
    fn inverse(&self) -> f32 {
        power_of_two(-self.exponent) as f32
    }

    /// Whether there are bins for numbers from `low` to `high`.
    fn covers(&self, low: f32, high: f32) -> bool {
        !self.counts.is_empty()
            && needed(-low, self.exponent) <= self.below
            && needed(high, self.exponent).max(1) <= BINS - self.below
    }

    /// Widens and moves the bins until they cover the numbers from `low` to `high` and zero.
    fn make_room(&mut self, low: f32, high: f32) {
        if self.covers(low, high) {
            return;
        }
        let bins = |exponent: i32| (needed(-low, exponent), needed(high, exponent).max(1));
        let mut exponent = self.exponent;
        while bins(exponent).0.saturating_add(bins(exponent).1) > BINS {
            exponent += 1;
        }
        let (below, above) = bins(exponent);
        // What is spare goes where numbers are already.
        let spare = BINS - below - above;
        let below = below + if below == 0 { 0 } else { spare / 2 };
        let old = std::mem::replace(self, Bins { exponent, below, counts: vec![0; BINS] });
        self.take(&old);
    }

    /// Adds the counts of narrower or equal bins, for which there is room.
    fn take(&mut self, other: &Bins) {
        let shift = (self.exponent - other.exponent) as u32;
        let wider = |whole: usize| whole.checked_shr(shift).unwrap_or(0);
        for (i, &n) in other.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let bin = match i.checked_sub(other.below) {
                Some(whole) => self.below + wider(whole),
                None => self.below - 1 - wider(other.below - 1 - i),
            };
            self.counts[bin] += n;
        }
    }
}

/// How many bins of this width numbers up to this magnitude take; none if there is nothing above zero.
fn needed(magnitude: f32, exponent: i32) -> usize {
    if magnitude > 0.0 { ((f64::from(magnitude) * power_of_two(-exponent)) as usize).saturating_add(1) } else { 0 }
}

/// `2^exponent`, exactly, for exponents from -1022 to 1023.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_width_is_the_least_that_covers() {
        let h = Histogram::of(&[0.5, 1.0, 2.0]);
        // 2 lies on the edge of the bin behind the 1024th of width 1/512.
        assert_eq!((h.exponent(), h.above().len(), h.below().len()), (-9, 1025, 0));
        assert_eq!((h.above()[256], h.above()[512], h.above()[1024]), (1, 1, 1));
        let h = Histogram::of(&[-3.0, 1.0]);
        assert_eq!((h.exponent(), h.above().len(), h.below().len()), (-8, 257, 769));
        assert_eq!((h.below()[0], h.above()[256]), (1, 1));
        let h = Histogram::of(&[f32::MAX, f32::MIN]);
        assert_eq!((h.exponent(), h.above().len(), h.below().len()), (118, 1024, 1024));
        let h = Histogram::of(&[1e-45, -1e-45]);
        assert_eq!((h.exponent(), h.above(), h.below()), (-126, &[1][..], &[1][..]));
    }

    #[test]
    fn zeros_are_in_no_bin() {
        let h = Histogram::of(&[0.0, -0.0]);
        assert_eq!((h.zeros(), h.above(), h.below(), h.finite()), (2, &[][..], &[][..], 2));
        let mut long = vec![0.0; 3 * LONG];
        long[LONG] = -1.0;
        let h = Histogram::of(&long);
        assert_eq!(
            (h.zeros(), h.below().iter().sum::<u64>(), h.above().iter().sum::<u64>()),
            (3 * LONG as u64 - 1, 1, 0)
        );
    }

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let mut x = vec![1.0; 20];
        (x[3], x[17]) = (f32::NAN, f32::INFINITY);
        let h = Histogram::of(&x);
        assert_eq!((h.extremes().count(), h.extremes().non_finite(), h.finite()), (20, 2, 18));
        assert_eq!((h.extremes().min(), h.extremes().max(), h.moments().mean), (1.0, 1.0, 1.0));
        let h = Histogram::of(&[f32::NAN]);
        assert_eq!((h.range(), h.finite()), (None, 0));
    }

    #[test]
    fn moments_are_those_of_two_passes() {
        let x: Vec<f32> = (0..50_000).map(|i| ((i * 7919) % 1000) as f32 * 0.01 - 3.0).collect();
        let mut h = Histogram::default();
        x.chunks(333).for_each(|part| h.observe(part));
        let (got, want) = (h.moments(), Moments::of(&x));
        assert!((got.mean - want.mean).abs() < 1e-12 && (got.std - want.std).abs() < 1e-12);
        assert!((got.kurtosis - want.kurtosis).abs() < 1e-12);
        let constant = Histogram::of(&[0.1; 1000]).moments();
        assert_eq!((constant.std, constant.kurtosis), (0.0, 0.0));
    }

    /// Slices of very different sizes and lengths.
    fn slices() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let numbers = |len| proptest::collection::vec(-1f32..1.0, 0..len);
        let sparse = numbers(60).prop_map(|x| x.iter().map(|x| if *x < 0.0 { 0.0 } else { *x }).collect());
        let slice = prop_oneof![numbers(50), sparse, numbers(3 * LONG).prop_map(|x| x.repeat(2))];
        let scaled = (slice, -40i32..40).prop_map(|(x, e)| x.iter().map(|x: &f32| x * 2f32.powi(e)).collect());
        proptest::collection::vec(scaled, 1..6)
    }

    fn parts(h: &Histogram) -> HistogramParts {
        let e = h.extremes();
        HistogramParts {
            extremes: (h.finite() > 0).then(|| (e.min(), e.max())),
            count: e.count(),
            non_finite: e.non_finite(),
            zeros: h.zeros(),
            exponent: h.exponent(),
            below: h.below().to_vec(),
            above: h.above().to_vec(),
            powers: h.powers().clone(),
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        let right = parts(&Histogram::of(&[-1.0, 0.0, 2.0, f32::NAN]));
        assert_eq!(Histogram::from_parts(right.clone()).unwrap(), Histogram::of(&[-1.0, 0.0, 2.0, f32::NAN]));
        assert_eq!(Histogram::from_parts(parts(&Histogram::default())).unwrap(), Histogram::default());
        let wrong: [fn(&mut HistogramParts); 10] = [
            |p| p.count += 1,
            |p| p.zeros = u64::MAX,
            |p| p.extremes = None,
            |p| p.extremes = Some((2.0, -1.0)),
            |p| p.extremes = Some((f32::NAN, 2.0)),
            |p| p.extremes = Some((-1.0, f32::INFINITY)),
            |p| p.exponent -= 1,
            |p| p.exponent = i32::MIN,
            |p| p.above.push(0),
            |p| p.powers[3] = ExactSum::of(&[f64::INFINITY]),
        ];
        for (i, spoil) in wrong.iter().enumerate() {
            let mut p = right.clone();
            spoil(&mut p);
            assert!(Histogram::from_parts(p).is_err(), "{i}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn order_and_merging_do_not_matter(slices in slices(), cut in 0usize..6) {
            let mut forth = Histogram::default();
            slices.iter().for_each(|x| forth.observe(x));
            let mut back = Histogram::default();
            slices.iter().rev().for_each(|x| back.observe(x));
            prop_assert!(forth == back);
            prop_assert!(Histogram::from_parts(parts(&forth)).unwrap() == forth);
            let (mut a, mut b) = (Histogram::default(), Histogram::default());
            for (i, x) in slices.iter().enumerate() {
                if i < cut { a.observe(x) } else { b.observe(x) }
            }
            let mut ab = a.clone();
            ab.merge(&b);
            b.merge(&a);
            prop_assert!(ab == forth);
            prop_assert!(b == forth);
        }

        #[test]
        fn every_number_lies_in_its_bin(slices in slices()) {
            let mut h = Histogram::default();
            slices.iter().for_each(|x| h.observe(x));
            let all: Vec<f64> = slices.iter().flatten().map(|&x| f64::from(x)).collect();
            prop_assert!(h.zeros() == all.iter().filter(|x| **x == 0.0).count() as u64);
            let side = |sign: f64| {
                let mut counts: Vec<u64> = Vec::new();
                for x in all.iter().map(|x| x * sign).filter(|x| *x > 0.0) {
                    let bin = (x / h.width()) as usize;
                    counts.resize(counts.len().max(bin + 1), 0);
                    counts[bin] += 1;
                }
                counts
            };
            prop_assert!(h.above() == side(1.0));
            let mut below = h.below().to_vec();
            below.reverse();
            prop_assert!(below == side(-1.0));
            let taken = below.len() + h.above().len().max(1);
            prop_assert!(taken <= BINS);
            // A width half as large would not do, unless it is the least there is.
            let (low, high) = (h.extremes().min(), h.extremes().max());
            let half = needed(-low, h.exponent() - 1).saturating_add(needed(high, h.exponent() - 1).max(1));
            prop_assert!(half > BINS || h.exponent() == NARROWEST);
        }
    }
}
