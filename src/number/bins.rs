//! What a histogram asks of a slice: extremes and power sums in one pass, counts of bins in another.

use multiversion::multiversion;

/// The bins of a histogram.
pub const BINS: usize = 2048;

/// Numbers that are looked at together. The order in which sums run depends on it, and on nothing else.
const LANES: usize = 32;

/// Tables that neighbouring numbers are counted in, so that a run of equal ones does not wait for one counter.
const TABLES: usize = 4;

/// Numbers whose bins are found before they are counted.
const CHUNK: usize = 512;

/// Slots of a table: the bins, and behind them some that zeros go to in turn. Neighbouring zeros, of which there are many
/// behind a ReLU, so wait for no counter either.
const SLOTS: usize = 2 * BINS;

/// What one pass over numbers finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Survey {
    /// The smallest number; `+inf` if there is none.
    pub min: f32,
    /// The largest number; `-inf` if there is none.
    pub max: f32,
    /// The sums of `x`, `x^2`, `x^3` and `x^4`, in f64.
    pub powers: [f64; 4],
    /// Whether every number is finite. If not, nothing else here means anything.
    pub finite: bool,
}

/// Surveys a slice. The sums run in an order that the length alone decides, whatever the
/// processor.
#[multiversion(targets = "simd")]
pub fn survey(x: &[f32]) -> Survey {
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (mut first, mut second) = ([0f64; LANES], [0f64; LANES]);
    let (mut third, mut fourth) = ([0f64; LANES], [0f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            min[i] = if chunk[i] < min[i] { chunk[i] } else { min[i] };
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
        }
        for i in 0..LANES {
            let x = f64::from(chunk[i]);
            let square = x * x;
            first[i] += x;
            second[i] += square;
            third[i] += square * x;
            fourth[i] += square * square;
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        let x = f64::from(x);
        let square = x * x;
        first[i] += x;
        second[i] += square;
        third[i] += square * x;
        fourth[i] += square * square;
    }
    let powers = [first, second, third, fourth].map(|lanes| lanes.iter().sum());
    Survey {
        min: min.iter().chain(rest).fold(f32::INFINITY, |a, &b| a.min(b)),
        max: max.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b)),
        powers,
        // No fourth power of an f32 is too large for an f64: the sum is finite if all numbers are.
        finite: powers[3].is_finite(),
    }
}

/// The bin of each number, the first `below` of them being those below zero.
///
/// Bins are mirrored at zero: above it they are `[k, k + 1)` widths, below it `(-k - 1, -k]`, so that twice the width
/// puts two of them together. `inverse` is one over the width, a power of two: the product is exact wherever its
/// magnitude is not far below 1. Zeros have no bin, and get a slot behind all bins.
#[multiversion(targets = "simd")]
fn find_bins(x: &[f32; CHUNK], inverse: f32, below: i32, bins: &mut [i32; CHUNK]) {
    // Whole numbers below 2^22 are the last bits of their sum with this.
    const MAGIC: f32 = 12_582_912.0;
    let offset = below - MAGIC.to_bits() as i32;
    for i in 0..CHUNK {
        let whole = (x[i] * inverse).trunc() + MAGIC;
        let bin = whole.to_bits() as i32 + offset - i32::from(x[i] < 0.0);
        bins[i] = if x[i] == 0.0 { (BINS + i % LANES) as i32 } else { bin };
    }
}

/// Counts of bins, in several tables.
pub struct Tally {
    tables: Vec<[u32; SLOTS]>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { tables: vec![[0; SLOTS]; TABLES] }
    }
}

impl Tally {
    /// Counts numbers other than zero into bins of the width `1 / inverse`, a power of two, of which `below` lie below zero.
    ///
    /// Every number is finite and lies in one of the [`BINS`] bins; at most `u32::MAX` are counted until the tally is
    /// poured out.
    pub fn count(&mut self, x: &[f32], inverse: f32, below: usize) {
        let mut bins = [0; CHUNK];
        let (chunks, rest) = x.as_chunks::<CHUNK>();
        let mut last = [0.0; CHUNK];
        last[..rest.len()].copy_from_slice(rest);
        let whole = chunks.iter().map(|c| (c, CHUNK));
        for (chunk, len) in whole.chain((!rest.is_empty()).then_some((&last, rest.len()))) {
            find_bins(chunk, inverse, below as i32, &mut bins);
            let [a, b, c, d] = &mut self.tables[..] else { return };
            let (fours, ones) = bins[..len].as_chunks::<TABLES>();
            let slot = |bin: i32| bin as usize & (SLOTS - 1);
            for four in fours {
                a[slot(four[0])] += 1;
                b[slot(four[1])] += 1;
                c[slot(four[2])] += 1;
                d[slot(four[3])] += 1;
            }
            ones.iter().for_each(|&bin| a[slot(bin)] += 1);
        }
    }

    /// Adds the counts to those in `counts`, and starts anew.
    pub fn pour(&mut self, counts: &mut [u64; BINS]) {
        for table in &mut self.tables {
            counts.iter_mut().zip(table.iter()).for_each(|(all, &n)| *all += u64::from(n));
            table.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn surveys_say_what_is_there() {
        let s = survey(&[1.0, -2.0, 0.0, -0.0, 3.0]);
        assert_eq!((s.min, s.max, s.finite), (-2.0, 3.0, true));
        assert_eq!(s.powers, [2.0, 14.0, 20.0, 98.0]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 15, 16, 20] {
                let mut x = [1.0; 21];
                x[place] = bad;
                assert!(!survey(&x).finite);
            }
        }
        let none = survey(&[]);
        assert_eq!((none.min, none.max, none.finite), (f32::INFINITY, f32::NEG_INFINITY, true));
        assert!(survey(&[f32::MAX; 100]).finite);
    }

    #[test]
    fn zero_is_an_edge_and_bins_are_mirrored() {
        let mut tally = Tally::default();
        let mut counts = [0; BINS];
        tally.count(&[0.0, -0.0, 0.49, 0.5, 1.0, -0.49, -0.5, -1e-45, 1e-45], 2.0, 3);
        tally.pour(&mut counts);
        tally.pour(&mut counts);
        assert_eq!(counts[..7], [0, 1, 2, 2, 1, 1, 0]);
        assert_eq!(counts.iter().sum::<u64>(), 7);
    }

    proptest! {
        #[test]
        fn every_number_is_counted_where_it_lies(
            x in proptest::collection::vec(-1000f32..1000.0, 0..2000), exponent in 0i32..20,
        ) {
            // The numbers are scaled into the 1000 bins on each side.
            let width = 2f32.powi(exponent - 10);
            let x: Vec<f32> = x.iter().map(|x| x * width).collect();
            let mut tally = Tally::default();
            let mut counts = [0; BINS];
            tally.count(&x, width.recip(), 1000);
            tally.pour(&mut counts);
            let mut expected = [0; BINS];
            for &x in x.iter().filter(|x| **x != 0.0) {
                let whole = (f64::from(x) / f64::from(width)).trunc() as i64;
                expected[(if x < 0.0 { 999 } else { 1000 } + whole) as usize] += 1;
            }
            prop_assert_eq!(counts, expected);
        }

        #[test]
        fn sums_are_those_of_a_loop(x in proptest::collection::vec(-100f32..100.0, 0..300)) {
            let s = survey(&x);
            for (power, sum) in (1..).zip(s.powers) {
                let expected: f64 = x.iter().map(|&x| f64::from(x).powi(power)).sum();
                let size: f64 = x.iter().map(|&x| f64::from(x).abs().powi(power)).sum();
                prop_assert!((sum - expected).abs() <= 1e-12 * size);
            }
            prop_assert_eq!(s.min, x.iter().copied().fold(f32::INFINITY, f32::min));
            prop_assert_eq!(s.max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
