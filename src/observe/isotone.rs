//! The clip that keeps the largest score the largest.

use super::{Classes, Histogram};
use crate::number::{Grid, Range, Scheme};

/// Clips to the octave that are tried.
const OCTAVE: i32 = 16;

/// Octaves that are tried, from the largest number down.
const OCTAVES: i32 = 6;

/// The range with the fewest expected ties between the two largest scores of a row ([`Classes::ties`]); the widest of
/// those. The lower end stays where the smallest number is.
///
/// A wide range has steps in which the two largest fall together, a narrow one cuts both off. What the quantized
/// scores are otherwise does not matter where only the largest is asked for.
///
/// Source: the isotone observer of PPQ (OpenPPL), which looks for a scale that keeps the order of the two largest of
/// each sample. Here gaps and second scores are counted by size, in bounded memory, and a gap that is smaller than a
/// step counts as far as it is likely to be lost.
pub(super) fn range(histogram: &Histogram, classes: &Classes, scheme: &Scheme) -> Option<Range> {
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    if whole.max() == 0.0 {
        return Some(whole);
    }
    let clipped = |i: i32| {
        let high = whole.max() * (-f64::from(i) / f64::from(OCTAVE)).exp2() as f32;
        if scheme.symmetric { whole.clamp(-high, high) } else { whole.clamp(f32::NEG_INFINITY, high) }
    };
    let ties = |i: i32| classes.ties(Grid::fit(scheme, clipped(i)));
    let fewest = (0..=OCTAVE * OCTAVES).map(|i| (ties(i), i)).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    fewest.map(|(_, i)| clipped(i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::samples::gauss;

    fn ties(x: &[f32], classes: usize, grid: Grid) -> usize {
        let row = |row: &&[f32]| {
            let mut codes: Vec<i32> = row.iter().map(|&x| grid.code(x)).collect();
            codes.sort_unstable();
            codes[classes - 1] == codes[classes - 2]
        };
        x.chunks_exact(classes).filter(row).count()
    }

    #[test]
    fn fewer_rows_lose_their_largest_than_with_all_of_the_range() {
        // Scores of ten classes near 1, and one huge number a hundred rows.
        let mut x: Vec<f32> = gauss(10_000).iter().map(|x| 0.3 * x + 1.0).collect();
        x.iter_mut().step_by(1000).for_each(|x| *x = 200.0);
        let (mut classes, histogram) = (Classes::default(), Histogram::of(&x));
        classes.see(&x, 10);
        for (format, symmetric) in [(Format::UINT8, false), (Format::INT8, true)] {
            let scheme = Scheme::new(format, symmetric, Granularity::Tensor);
            let range = range(&histogram, &classes, &scheme).unwrap();
            let whole = Range::new(histogram.extremes().min(), histogram.extremes().max()).unwrap();
            let (kept, lost) = (ties(&x, 10, Grid::fit(&scheme, range)), ties(&x, 10, Grid::fit(&scheme, whole)));
            assert!(kept < 60 && lost > 500, "{range:?}: {kept} ties of {lost}");
        }
    }

    #[test]
    fn nothing_is_cut_off_without_need() {
        let x = [1.0, 0.0, 0.0, 2.0];
        let mut classes = Classes::default();
        classes.see(&x, 2);
        let scheme = Scheme::new(Format::UINT8, false, Granularity::Tensor);
        assert_eq!(range(&Histogram::of(&x), &classes, &scheme), Range::new(0.0, 2.0));
    }
}
