//! Rounding as comparisons: where each code begins.

use super::Grid;

impl Grid<'_> {
    /// For each code above the lowest the least float32 that becomes this code or a higher one: the code of `x` is the lowest
    /// plus how many thresholds are at most `x`. What [`Grid::code`] makes of every float32, NaN included, to the last bit.
    pub fn thresholds(self) -> Vec<f32> {
        (self.lowest + 1..=self.highest).map(|code| self.threshold(code)).collect()
    }

    /// Found by halving: codes never fall as numbers rise.
    fn threshold(self, code: i32) -> f32 {
        let infinity = i64::from(f32::INFINITY.to_bits());
        let (mut low, mut high) = (-infinity, infinity);
        while low < high {
            let middle = (low + high).div_euclid(2);
            if self.code(float(middle)) >= code { high = middle } else { low = middle + 1 }
        }
        float(low)
    }
}

/// The float32 numbers in ascending order, counted from 0.
fn float(place: i64) -> f32 {
    let size = f32::from_bits(place.unsigned_abs() as u32);
    if place < 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::number::{Format, Granularity, Range, Scheme};

    fn formats() -> impl Iterator<Item = Format> {
        Format::TABLES.into_iter().filter(|f| f.table().is_some()).chain([Format::INT4, Format::UINT8])
    }

    proptest! {
        #[test]
        fn counting_thresholds_gives_the_code(bits: Vec<u32>, magnitude in 1e-30f32..1e30) {
            for format in formats() {
                let scheme = Scheme::new(format, false, Granularity::Tensor);
                let grid = Grid::fit(&scheme, Range::new(-magnitude, magnitude).unwrap());
                let thresholds = grid.thresholds();
                let numbers = bits.iter().map(|&b| f32::from_bits(b)).chain(thresholds.clone());
                let around = numbers.flat_map(|x| [x, x.next_down(), x.next_up()]);
                for x in around.chain([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN]) {
                    let count = thresholds.iter().filter(|&&t| x >= t).count();
                    prop_assert_eq!(grid.lowest + count as i32, grid.code(x), "{} {}", format.name, x);
                }
            }
        }
    }
}
