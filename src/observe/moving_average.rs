//! Extremes of slices, averaged over the samples.

use crate::number::{ExactSum, Range};

/// How much a new sample counts beside all before it.
const CONSTANT: f64 = 0.01;

/// The exponential moving average of the extremes of slices: the later a sample, the more it counts.
///
/// A slice has the weight `0.99^age`, where its age is how many samples come after it, and the average is the weighted
/// mean: what `a' = a + 0.01 (x - a)`, begun at zero and freed of that beginning, comes to (B. Jacob et al.,
/// "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section
/// 3.1; D. P. Kingma and J. Ba, "Adam", ICLR 2015, section 3). As the ages are known beforehand, slices may come in any
/// order and averages may be merged: sums run without rounding.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MovingAverage {
    low: ExactSum,
    high: ExactSum,
    weight: ExactSum,
}

impl MovingAverage {
    /// The average with these sums: of weighted minima, weighted maxima, and weights.
    pub fn from_sums([low, high, weight]: [ExactSum; 3]) -> MovingAverage {
        MovingAverage { low, high, weight }
    }

    /// The sums of weighted minima, weighted maxima, and weights.
    pub fn sums(&self) -> [&ExactSum; 3] {
        [&self.low, &self.high, &self.weight]
    }

    /// Takes in the extremes of a slice from a sample after which `age` others come.
    pub fn see(&mut self, (min, max): (f32, f32), age: usize) {
        let weight = power(1.0 - CONSTANT, age);
        self.low.add(f64::from(min) * weight);
        self.high.add(f64::from(max) * weight);
        self.weight.add(weight);
    }

    /// Takes in what another saw of the same samples, or of others.
    pub fn merge(&mut self, other: &MovingAverage) {
        self.low.merge(&other.low);
        self.high.merge(&other.high);
        self.weight.merge(&other.weight);
    }

    /// From the average minimum to the average maximum; `None` before anything was seen.
    pub fn range(&self) -> Option<Range> {
        let mean = |sum: &ExactSum| (sum.value() / self.weight.value()) as f32;
        Range::new(mean(&self.low), mean(&self.high))
    }
}

/// `base^exponent` by squaring, so that every platform rounds alike.
fn power(mut base: f64, mut exponent: usize) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            power *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_recursion_without_its_beginning() {
        let slices: Vec<(f32, f32)> = (0..300).map(|i| (-((i * 7) % 11) as f32, ((i * 5) % 13) as f32)).collect();
        let (mut low, mut high, mut weight) = (0.0, 0.0, 0.0);
        for &(min, max) in &slices {
            low += CONSTANT * (f64::from(min) - low);
            high += CONSTANT * (f64::from(max) - high);
            weight += CONSTANT * (1.0 - weight);
        }
        let mut average = MovingAverage::default();
        slices.iter().enumerate().for_each(|(i, &s)| average.see(s, slices.len() - 1 - i));
        let range = average.range().unwrap();
        assert!((f64::from(range.min()) - low / weight).abs() < 1e-5);
        assert!((f64::from(range.max()) - high / weight).abs() < 1e-5);
        assert_eq!(MovingAverage::default().range(), None);
    }

    #[test]
    fn order_and_merging_do_not_matter() {
        let slices: Vec<(f32, f32)> =
            (0..50).map(|i| (-(i as f32).sin().abs(), (i as f32).cos().abs() * 3.0)).collect();
        let (mut forth, mut odd, mut even) =
            (MovingAverage::default(), MovingAverage::default(), MovingAverage::default());
        slices.iter().enumerate().for_each(|(i, &s)| forth.see(s, 49 - i));
        for (i, &s) in slices.iter().enumerate().rev() {
            if i % 2 == 0 { even.see(s, 49 - i) } else { odd.see(s, 49 - i) }
        }
        even.merge(&odd);
        assert_eq!(forth, even);
    }
}
