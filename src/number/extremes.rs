//! The smallest and the largest of many numbers.

use multiversion::multiversion;

/// The extremes of numbers in their total order (IEEE 754-2019, section 5.10), as integers of the same order: those are compared
/// lane by lane in any order, and infinities and NaN lie outside all that is finite.
#[derive(Clone, Copy)]
pub(super) struct Extremes {
    low: i32,
    high: i32,
}

impl Extremes {
    const NONE: Extremes = Extremes { low: ordered(f32::INFINITY), high: ordered(f32::NEG_INFINITY) };
    /// Of a zero.
    pub const ZERO: Extremes = Extremes { low: 0, high: 0 };

    /// Those of numbers; of none, all others are wider.
    #[inline(always)]
    pub fn of(x: &[f32]) -> Extremes {
        const LANES: usize = 32;
        let (mut low, mut high) = ([Extremes::NONE.low; LANES], [Extremes::NONE.high; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                low[i] = low[i].min(ordered(chunk[i]));
                high[i] = high[i].max(ordered(chunk[i]));
            }
        }
        let mut low = low.into_iter().fold(Extremes::NONE.low, i32::min);
        let mut high = high.into_iter().fold(Extremes::NONE.high, i32::max);
        for &x in rest {
            (low, high) = (low.min(ordered(x)), high.max(ordered(x)));
        }
        Extremes { low, high }
    }

    /// As [`Extremes::of`], with the instructions of the machine.
    pub fn of_run(x: &[f32]) -> Extremes {
        #[multiversion(targets = "simd")]
        fn of_run(x: &[f32]) -> Extremes {
            Extremes::of(x)
        }
        of_run(x)
    }

    /// Widens them by a number.
    #[inline(always)]
    pub fn see(&mut self, x: f32) {
        *self = self.with(Extremes { low: ordered(x), high: ordered(x) });
    }

    /// Those of both.
    #[inline(always)]
    pub fn with(self, other: Extremes) -> Extremes {
        Extremes { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The smallest and the largest number, `(+inf, -inf)` of none, and whether all were finite; if not, the two mean nothing.
    #[inline(always)]
    pub fn numbers(self) -> (f32, f32, bool) {
        let finite = self.low > Extremes::NONE.high && self.high < Extremes::NONE.low;
        // Both zeros are the positive one.
        let number = |place: i32| f32::from_bits((place ^ ((place >> 31) as u32 >> 1) as i32) as u32) + 0.0;
        (number(self.low), number(self.high), finite)
    }
}

/// The place of a number in the total order.
#[inline(always)]
const fn ordered(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_those_of_finite_numbers_wherever_they_stand() {
        assert_eq!(Extremes::of_run(&[]).numbers(), (f32::INFINITY, f32::NEG_INFINITY, true));
        for len in [1, 31, 32, 33, 100] {
            for at in 0..len {
                let mut x = vec![-1e-42; len];
                x[at] = -3.5;
                assert_eq!(Extremes::of_run(&x).numbers().0, -3.5);
                x[at] = f32::MAX;
                assert_eq!((Extremes::of_run(&x).numbers().1, Extremes::of_run(&x).numbers().2), (f32::MAX, true));
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    x[at] = bad;
                    assert!(!Extremes::of_run(&x).numbers().2, "{bad} at {at} of {len}");
                }
            }
        }
        let (low, high, _) = Extremes::of_run(&[-0.0, -0.0]).numbers();
        assert_eq!((low.to_bits(), high.to_bits()), (0, 0));
    }
}
