//! What codes stand for before the scale: whole numbers, or the numbers of a sorted table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::{Format, Minifloat};

/// What the codes of a format stand for, before the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Levels {
    /// The code less the zero point.
    Linear,
    /// The finite numbers of a floating-point format; codes are their places in ascending order.
    Float(Minifloat),
    /// The 16 quantiles of a normal distribution of NF4, from -1 to 1 (Dettmers et al., "QLoRA", 2023, appendix E).
    NormalFloat,
    /// Zero, and powers of the base from 1 down with both signs (Miyashita et al., "Convolutional neural networks using
    /// logarithmic data representation", 2016; here with a code for zero, and rounding to the nearest number, not the
    /// nearest logarithm).
    Powers {
        /// Base sqrt 2, not 2.
        half: bool,
    },
    /// -1, 0 and 1 (Li et al., "Ternary weight networks", 2016).
    Ternary,
    /// -1 and 1 (Rastegari et al., "XNOR-Net", 2016, section 3.1).
    Binary,
    /// Means of clusters, found for each group of weights (Han et al., "Deep compression", 2016).
    Means,
    /// Zero and a number on each side of it, found for each group of weights (Zhu et al., "Trained ternary quantization",
    /// 2017).
    TwoScales,
}

/// The table of NF4 as `bitsandbytes` has it.
const NORMAL_FLOAT: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl Levels {
    /// Whether codes are places in a table.
    pub fn is_table(self) -> bool {
        self != Levels::Linear
    }

    /// Whether the table is found for the numbers at hand.
    pub fn is_fitted(self) -> bool {
        matches!(self, Levels::Means | Levels::TwoScales)
    }

    /// The table of a format with these levels, ascending; `None` where there is none, or none before the numbers are
    /// known.
    fn table(self, bits: u32) -> Option<Vec<f32>> {
        match self {
            Levels::Linear | Levels::Means | Levels::TwoScales => None,
            Levels::Float(float) => Some(float.ascending().into_iter().map(|code| float.real(code)).collect()),
            Levels::NormalFloat => Some(NORMAL_FLOAT.to_vec()),
            Levels::Powers { half } => {
                let count = (1i32 << (bits - 1)) - 1;
                let power = |k: i32| if half { 2f64.powf(-0.5 * f64::from(k)) } else { 2f64.powi(-k) };
                let above: Vec<f32> = (0..count).rev().map(|k| power(k) as f32).collect();
                Some(above.iter().rev().map(|x| -x).chain([0.0]).chain(above.iter().copied()).collect())
            }
            Levels::Ternary => Some(vec![-1.0, 0.0, 1.0]),
            Levels::Binary => Some(vec![-1.0, 1.0]),
        }
    }
}

static TABLES: LazyLock<BTreeMap<&'static str, Vec<f32>>> =
    LazyLock::new(|| Format::TABLES.into_iter().filter_map(|f| Some((f.name, f.levels.table(f.bits)?))).collect());

impl Format {
    /// The numbers that codes from 0 on stand for before the scale, ascending; `None` where codes are linear, and where
    /// the table is found for the numbers at hand.
    pub fn table(&self) -> Option<&'static [f32]> {
        if !self.levels.is_table() {
            return None;
        }
        TABLES.get(self.name).map(Vec::as_slice)
    }

    /// The largest magnitude that a code stands for when the scale is 1 and the zero point in the middle; 1 where the
    /// table is found for the numbers at hand.
    pub fn largest(&self) -> f64 {
        match (self.levels, self.table()) {
            (Levels::Linear, _) => f64::from(self.max) - f64::from(self.middle()),
            (_, Some(table)) => table.iter().fold(0.0, |m, &x| m.max(f64::from(x).abs())),
            (_, None) => 1.0,
        }
    }

    /// The smallest power of two that makes whole numbers within `limit` of all numbers of the table; `None` where there
    /// is none, or no table.
    pub fn whole(&self, limit: f32) -> Option<f32> {
        let table = self.table()?;
        (0..16)
            .map(|k| (1 << k) as f32)
            .find(|&by| table.iter().all(|&x| (x * by).fract() == 0.0 && (x * by).abs() <= limit))
    }
}

/// The place in an ascending table that is nearest to `x`; of two as near the one that is an even number of places from
/// zero, as floating-point numbers round to the even code. NaN has the first place.
#[inline]
pub fn nearest(table: &[f32], x: f64) -> usize {
    let above = table.partition_point(|&level| f64::from(level) < x).min(table.len().saturating_sub(1));
    let Some(below) = above.checked_sub(1).filter(|_| !x.is_nan()) else { return 0 };
    let (up, down) = (f64::from(table[above]) - x, x - f64::from(table[below]));
    let zero = || table.partition_point(|&level| level < 0.0);
    if up < down || (up == down && above.abs_diff(zero()) % 2 == 0) { above } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_ascend_and_have_a_number_for_each_code() {
        for format in Format::TABLES {
            let Some(table) = format.table() else {
                assert!(format.levels.is_fitted(), "{}", format.name);
                continue;
            };
            assert!(table.is_sorted_by(|a, b| a < b), "{}", format.name);
            assert_eq!(table.len() as i32, format.max + 1, "{}", format.name);
            assert!(table.len() <= 1 << format.bits, "{}", format.name);
        }
    }

    #[test]
    fn ties_go_to_the_even_place_from_zero() {
        let table = [-2.0, -1.0, 0.0, 1.0, 2.0, 4.0];
        let real = |x: f64| table[nearest(&table, x)];
        assert_eq!([0.5, 1.5, 3.0, -0.5, -1.5].map(real), [0.0, 2.0, 2.0, 0.0, -2.0]);
        assert_eq!([9.0, -9.0, f64::INFINITY, f64::NAN, 0.6].map(real), [4.0, -2.0, 4.0, -2.0, 1.0]);
    }

    #[test]
    fn whole_numbers_are_found_where_there_are() {
        let whole = |name: &str, limit| Format::by_name(name).unwrap().whole(limit);
        assert_eq!(whole("float4e2m1", 127.0), Some(2.0));
        assert_eq!(whole("float6e2m3", 127.0), Some(8.0));
        assert_eq!(whole("float6e3m2", 127.0), None);
        assert_eq!(whole("pow2-4", 127.0), Some(64.0));
        assert_eq!(whole("nf4", 127.0), None);
        assert_eq!(whole("ternary", 127.0), Some(1.0));
        assert_eq!(whole("int8", 127.0), None);
    }
}
