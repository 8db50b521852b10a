//! How near the two largest scores of a sample are to each other.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::number::Grid;

/// The bits of an f32 that are left out where numbers are counted by size: 32 bins an octave remain.
const COARSE: u32 = 18;

/// Counts, by size, of the second largest scores of rows and of the gaps between the largest and the second.
///
/// A row is what lies along the last axis. Bins are 32 to the octave; rows with a score that is not a number are left
/// out. Memory depends on how many bins are filled, at most 8,192 of each, and not on how many rows were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Classes {
    /// How many rows have a second score of this bin; those not above zero are in bin 0.
    seconds: BTreeMap<u32, u64>,
    /// How many rows have a gap of this bin.
    gaps: BTreeMap<u32, u64>,
}

impl Classes {
    /// Counts as [`Classes::counts`] gives them. Errors when a bin is none of finite numbers.
    pub fn from_counts([seconds, gaps]: [BTreeMap<u32, u64>; 2]) -> Result<Classes> {
        let last = f32::MAX.to_bits() >> COARSE;
        match seconds.keys().chain(gaps.keys()).find(|bin| **bin > last) {
            Some(bin) => Err(Error::new(ErrorKind::Malformed, format!("there is no bin {bin} of scores"))),
            None => Ok(Classes { seconds, gaps }),
        }
    }

    /// The counts of second scores and of gaps. A bin is the number that the bits of an f32 make without the last 18.
    pub fn counts(&self) -> [&BTreeMap<u32, u64>; 2] {
        [&self.seconds, &self.gaps]
    }

    /// Takes in rows of `classes` scores; nothing if that is less than 2.
    pub fn see(&mut self, x: &[f32], classes: usize) {
        if classes < 2 {
            return;
        }
        for row in x.chunks_exact(classes) {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for &x in row {
                if x > first {
                    (first, second) = (x, first);
                } else if x > second {
                    second = x;
                }
            }
            if first.is_finite() && second.is_finite() && !row.iter().any(|x| x.is_nan()) {
                *self.seconds.entry(second.max(0.0).to_bits() >> COARSE).or_default() += 1;
                *self.gaps.entry((first - second).to_bits() >> COARSE).or_default() += 1;
            }
        }
    }

    /// Takes in what another saw.
    pub fn merge(&mut self, other: &Classes) {
        other.seconds.iter().for_each(|(&bin, n)| *self.seconds.entry(bin).or_default() += n);
        other.gaps.iter().for_each(|(&bin, n)| *self.gaps.entry(bin).or_default() += n);
    }

    /// Whether no row was seen.
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// In how many rows the largest score is expected to get the same code as the second: because both are cut off, or
    /// because the gap, which may lie anywhere in a step, holds no border between two codes.
    pub fn ties(&self, grid: Grid) -> f64 {
        let step = f64::from(grid.scale);
        let last = (f64::from(grid.highest) - f64::from(grid.zero) - 0.5) * step;
        let cut = self.seconds.iter().filter(|(bin, _)| middle(**bin) > last).map(|(_, &n)| n as f64).sum::<f64>();
        let joined = self.gaps.iter().map(|(&bin, &n)| n as f64 * (1.0 - middle(bin) / step).max(0.0)).sum::<f64>();
        cut + joined
    }
}

/// The middle of a bin.
fn middle(bin: u32) -> f64 {
    let edge = |bin: u32| f64::from(f32::from_bits(bin << COARSE));
    0.5 * (edge(bin) + edge(bin + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_their_two_largest() {
        let mut c = Classes::default();
        c.see(&[1.0, 4.0, 3.0, -1.0, -2.0, -5.0, 0.0, f32::NAN, 1.0], 3);
        c.see(&[1.0], 1);
        let bin = |x: f32| x.to_bits() >> COARSE;
        assert_eq!(c.counts()[0], &BTreeMap::from([(bin(3.0), 1), (0, 1)]));
        assert_eq!(c.counts()[1], &BTreeMap::from([(bin(1.0), 2)]));
        let mut twice = c.clone();
        twice.merge(&c);
        assert_eq!(twice.counts()[1], &BTreeMap::from([(bin(1.0), 4)]));
        assert!((middle(bin(3.0)) / 3.0 - 1.0).abs() < 0.02);
    }

    #[test]
    fn ties_are_what_is_cut_off_and_what_falls_into_one_step() {
        let mut c = Classes::default();
        c.see(&[10.0, 8.0], 2);
        let grid = |scale: f32| Grid::linear(scale, 0, -127, 127);
        assert_eq!(c.ties(grid(0.1)), 0.0);
        assert!((c.ties(grid(4.0)) - 0.5).abs() < 0.02);
        assert_eq!(c.ties(grid(0.05)), 1.0);
    }
}
