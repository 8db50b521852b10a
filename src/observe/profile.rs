//! Everything that methods may ask about a value.

use super::{Classes, Histogram, MovingAverage, Observer};

/// What was seen of a value, in bounded memory. Profiles merge exactly, in any order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// Where its numbers lie.
    pub histogram: Histogram,
    /// Its extremes, averaged over the samples.
    pub average: MovingAverage,
    /// Its classes, if it holds scores.
    pub classes: Classes,
}

impl Profile {
    /// The profile of the numbers of a weight.
    pub fn of(x: &[f32]) -> Profile {
        Profile { histogram: Histogram::of(x), ..Profile::default() }
    }

    /// Takes in what the value was in a sample after which `age` others come; `classes` is how many scores a row has,
    /// if the value holds scores.
    pub fn see(&mut self, x: &[f32], classes: Option<usize>, age: usize) {
        if let Some(extremes) = self.histogram.see(x) {
            self.average.see(extremes, age);
        }
        if let Some(classes) = classes {
            self.classes.see(x, classes);
        }
    }

    /// Takes in what another saw.
    pub fn merge(&mut self, other: &Profile) {
        self.histogram.merge(&other.histogram);
        self.average.merge(&other.average);
        self.classes.merge(&other.classes);
    }
}
