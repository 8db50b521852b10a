//! Numbers of known distributions, and what formats make of them.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{Clip, QuantParams, WeightFormat, decibels, fit, rounding_loss};
use crate::error::Result;

/// A distribution around zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Normal, of standard deviation 1.
    Gauss,
    /// Of mean magnitude 1.
    Laplace,
    /// From -1 to 1.
    Uniform,
}

impl Distribution {
    /// Every distribution.
    pub const ALL: [Distribution; 3] = [Distribution::Gauss, Distribution::Laplace, Distribution::Uniform];

    /// So many numbers, the same ones for the same seed.
    pub fn draw(self, count: usize, seed: u64) -> Vec<f32> {
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        // Away from 0, whose logarithm is none.
        let mut unit = move || 1.0 - draw.random::<f64>();
        let one = |_| match self {
            // Box and Muller 1958.
            Distribution::Gauss => (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos(),
            Distribution::Laplace => -unit().ln() * if unit() > 0.5 { 1.0 } else { -1.0 },
            Distribution::Uniform => 2.0 * unit() - 1.0,
        };
        (0..count).map(one).map(|x| x as f32).collect()
    }
}

/// The shape of the numbers that formats are compared on: channels, and inputs of each.
const SHAPE: [usize; 2] = [32, 1024];

impl WeightFormat {
    /// The SQNR in dB on 32 channels of 1024 numbers each, at the best clip.
    pub fn sqnr(&self, distribution: Distribution) -> Result<f64> {
        let x = distribution.draw(SHAPE.iter().product(), 0);
        let (signal, noise) = rounding_loss(&x, &SHAPE, &self.at_best(&x)?)?;
        Ok(decibels(signal, noise))
    }

    fn at_best(&self, x: &[f32]) -> Result<QuantParams> {
        fit(x, &SHAPE, &self.scheme(&SHAPE, Some(0), Some(1)), Clip::Best, |scale| scale)
    }

    /// Bits a weight takes with its share of scales and tables, in a layer of 1024 channels of 1024 inputs each.
    pub fn bits_per_weight(&self) -> Result<f64> {
        let shape = [1024, 1024];
        let scheme = self.scheme(&shape, Some(0), Some(1));
        let groups = scheme.granularity.groups(&shape)? as u64;
        let count = (shape[0] * shape[1]) as u64;
        let bits = u64::from(self.format.bits);
        let zeros = if self.symmetric { 0 } else { groups * bits };
        let tables = if self.format.levels.is_fitted() { 32 * groups * (self.format.max as u64 + 1) } else { 0 };
        let scales = if tables > 0 { 0 } else { scheme.scales.bits(groups, scheme.granularity, &shape)? };
        Ok((count * bits + zeros + tables + scales) as f64 / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Grid, lloyd};

    const MILLION: usize = 1_000_000;

    fn sqnr(x: &[f32], table: &[f32], scale: f32) -> f64 {
        let highest = table.len() as i32 - 1;
        let grid = Grid { scale, zero: 0, lowest: 0, highest, table: Some(table) };
        let wide = |x: f32| f64::from(x);
        let loss = |&x: &f32| (wide(x) - wide(grid.real(grid.code(x)))).powi(2);
        decibels(x.iter().map(|&x| wide(x).powi(2)).sum(), x.iter().map(loss).sum())
    }

    /// The least over a line of scales.
    fn best(x: &[f32], table: &[f32], scales: std::ops::Range<u32>) -> f64 {
        let at = |i: u32| sqnr(x, table, i as f32 * 0.002);
        let coarse = scales.step_by(40).max_by(|&a, &b| at(a).total_cmp(&at(b))).unwrap();
        (coarse - 40..coarse + 40).step_by(8).map(at).fold(0.0, f64::max)
    }

    /// Max, "Quantizing for minimum distortion", 1960, tables I and II.
    #[test]
    fn quantizers_of_a_normal_distribution_are_as_good_as_can_be() {
        let x = Distribution::Gauss.draw(MILLION, 1);
        for (count, by_lloyd, uniform) in [(4, 9.30, 9.25), (8, 14.62, 14.27), (16, 20.22, 19.38)] {
            let table = lloyd(&x, None, count, 0);
            let found = sqnr(&x, &table, 1.0);
            assert!((found - by_lloyd).abs() < 0.05, "{count} levels: {found}");
            let half = 0.5 * (count as f32 - 1.0);
            let steps: Vec<f32> = (0..count).map(|i| i as f32 - half).collect();
            let found = best(&x[..MILLION / 5], &steps, 80..600);
            assert!((found - uniform).abs() < 0.05, "{count} steps: {found}");
        }
    }

    #[test]
    fn formats_differ_as_the_field_says() {
        let db = |name: &str, d| name.parse::<WeightFormat>().unwrap().sqnr(d).unwrap();
        let gauss = |name: &str| db(name, Distribution::Gauss);
        // Grids of integers hold zero: they are worse than mid-rise grids of as many levels, and better than one level less.
        assert!((8.0..9.25).contains(&gauss("int2")), "{}", gauss("int2"));
        assert!((13.5..14.27).contains(&gauss("int3")), "{}", gauss("int3"));
        assert!((19.0..19.38).contains(&gauss("int4")), "{}", gauss("int4"));
        // The best binary quantizer of a normal distribution: 1 / (1 - 2 / pi).
        assert!((gauss("binary") - 4.396).abs() < 0.1, "{}", gauss("binary"));
        // 6.02 dB a bit.
        assert!((db("int8/tensor", Distribution::Uniform) - 48.16).abs() < 0.2);
        assert!(gauss("kmeans4") > gauss("int4") && gauss("nvfp4") > gauss("mxfp4"));
        for name in ["nf4", "mxfp4", "nvfp4", "vsq4", "mx6", "pow2-4", "ternary", "ttq", "lpbq4", "mx9", "mxint8"] {
            assert!(gauss(name) > 6.0, "{name}: {}", gauss(name));
        }
    }

    #[test]
    fn bits_count_scales_and_tables() {
        let bits = |name: &str| name.parse::<WeightFormat>().unwrap().bits_per_weight().unwrap();
        let near = |name: &str, want: f64| assert!((bits(name) - want).abs() < 1e-3, "{name}: {}", bits(name));
        near("mxfp4", 4.25);
        near("mxfp8e4m3", 8.25);
        near("nvfp4", 4.5);
        near("mx9", 9.0);
        near("mx6", 6.0);
        near("mx4", 4.0);
        near("int4/b32", 5.0);
        near("uint4/b32", 5.125);
        near("vsq4", 4.25 + 32.0 / 1024.0);
        near("lpbq4", 4.0 + 4.0 / 64.0 + 32.0 / 1024.0);
        near("kmeans4", 4.0 + 512.0 / 1048576.0);
        near("int8/tensor", 8.0 + 32.0 / 1048576.0);
        // What a tensor takes is what its format says.
        for format in WeightFormat::ALL {
            let x = vec![0.5; 32 * 1024];
            let params = fit(&x, &SHAPE, &format.scheme(&SHAPE, Some(0), Some(1)), Clip::Max, |s| s).unwrap();
            let found = params.bits(x.len()) as f64 / x.len() as f64;
            assert!(
                found <= bits(format.name) + 0.6 && found >= f64::from(format.format.bits),
                "{}: {found}",
                format.name
            );
        }
        assert_eq!(Format::BINARY.bits, 1);
    }
}
