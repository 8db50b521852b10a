//! Extremes of everything that was seen.

use super::Observer;
use crate::number::{Range, min_max};

/// Remembers the smallest and largest finite number, and counts those that are not finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinMax {
    min: f32,
    max: f32,
    count: u64,
    non_finite: u64,
}

impl Default for MinMax {
    fn default() -> Self {
        MinMax { min: f32::INFINITY, max: f32::NEG_INFINITY, count: 0, non_finite: 0 }
    }
}

impl MinMax {
    /// The smallest finite number; `+inf` before there was one.
    pub fn min(&self) -> f32 {
        self.min
    }

    /// The largest finite number; `-inf` before there was one.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// How many numbers were seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them were infinite or not a number.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// Takes in what is known of a slice: the extremes of its finite numbers, and how many finite and other ones it has.
    pub(super) fn take_in(&mut self, min: f32, max: f32, finite: u64, non_finite: u64) {
        // Zeros of either sign are one number.
        self.min = self.min.min(min + 0.0);
        self.max = self.max.max(max + 0.0);
        self.count += finite + non_finite;
        self.non_finite += non_finite;
    }
}

impl Observer for MinMax {
    fn observe(&mut self, x: &[f32]) {
        let (min, max, non_finite) = min_max(x);
        self.take_in(min, max, x.len() as u64 - non_finite, non_finite);
    }

    fn merge(&mut self, other: &Self) {
        self.take_in(other.min, other.max, other.count - other.non_finite, other.non_finite);
    }

    fn range(&self) -> Option<Range> {
        Range::new(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_is_seeing() {
        let (mut all, mut a, mut b) = (MinMax::default(), MinMax::default(), MinMax::default());
        for (half, x) in [(&mut a, [1.0, -2.0, f32::NAN]), (&mut b, [3.0, 0.5, f32::INFINITY])] {
            all.observe(&x);
            half.observe(&x);
        }
        b.merge(&a);
        assert_eq!(all, b);
        assert_eq!((all.min(), all.max(), all.count(), all.non_finite()), (-2.0, 3.0, 6, 2));
        assert_eq!(all.range(), Range::new(-2.0, 3.0));
        assert_eq!(MinMax::default().range(), None);
    }
}
