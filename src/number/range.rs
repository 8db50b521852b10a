//! A range of real numbers that can be quantized.

use serde::{Deserialize, Serialize};

/// A finite range that holds zero: `min <= 0 <= max`.
///
/// Zero belongs to every range because padding, ReLU and masks produce it exactly, and must
/// get it back exactly after quantization.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    min: f32,
    max: f32,
}

impl Range {
    /// Nothing but zero.
    pub const ZERO: Range = Range { min: 0.0, max: 0.0 };

    /// The smallest range that holds zero and both bounds; `None` if a bound is not finite.
    pub fn new(min: f32, max: f32) -> Option<Range> {
        (min.is_finite() && max.is_finite()).then(|| Range { min: min.min(0.0), max: max.max(0.0) })
    }

    /// The lower bound, never above zero.
    pub fn min(self) -> f32 {
        self.min
    }

    /// The upper bound, never below zero.
    pub fn max(self) -> f32 {
        self.max
    }

    /// The largest magnitude inside.
    pub fn magnitude(self) -> f32 {
        self.max.max(-self.min)
    }

    /// The smallest range that covers both.
    #[must_use]
    pub fn hull(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// What of this range lies inside `[low, high]`, zero kept.
    #[must_use]
    pub fn clamp(self, low: f32, high: f32) -> Range {
        Range { min: self.min.max(low).min(0.0), max: self.max.min(high).max(0.0) }
    }
}
