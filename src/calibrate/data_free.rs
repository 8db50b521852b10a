//! Ranges of activations without samples: from what training left in batch normalizations.

use std::collections::BTreeMap;

use super::{Ranges, Statistics, Stats};
use crate::number::Range;

/// The ranges of the values in `watch`: of those in `given` as they are there, of the others from their lowest to their
/// highest channel ([`REACH`](super::REACH) standard deviations around the mean, and what cuts leave of that). Values of which
/// nothing is known are left out.
///
/// Source: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section 5.
pub fn data_free_ranges(watch: &[String], statistics: &Statistics, given: &BTreeMap<String, Range>) -> Ranges {
    let range = |value: &String| {
        if let Some(range) = given.get(value) {
            return Some((range.min(), range.max()));
        }
        let (low, high) = statistics.get(value)?.reach();
        Some((low as f32, high as f32))
    };
    let stats = |(min, max)| Stats {
        min: Some(min),
        max: Some(max),
        count: 0,
        non_finite: 0,
        shape: Vec::new(),
        profile: None,
    };
    let values = watch.iter().filter_map(|v| Some((v.clone(), stats(range(v)?)))).collect();
    Ranges { values, ..Ranges::default() }
}
