//! How the numbers of a value are spread, channel by channel.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::number::Normal;

/// How many standard deviations a channel is taken to reach to each side of its mean, where nothing but these two is
/// known (Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section 5).
pub const REACH: f64 = 6.0;

/// How the numbers of a channel are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
    /// The lowest number to expect.
    pub min: f64,
    /// The highest number to expect.
    pub max: f64,
}

impl Spread {
    /// That of a normal distribution, [`REACH`] standard deviations to each side.
    pub fn normal(n: Normal) -> Spread {
        Spread { mean: n.mean, std: n.std, min: n.mean - REACH * n.std, max: n.mean + REACH * n.std }
    }

    /// Mean and standard deviation.
    pub fn moments(&self) -> Normal {
        Normal { mean: self.mean, std: self.std }
    }

    /// The largest magnitude to expect.
    pub fn magnitude(&self) -> f64 {
        self.max.max(-self.min)
    }

    /// After multiplication with a factor.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Spread {
        let (a, b) = (self.min * factor, self.max * factor);
        Spread { mean: self.mean * factor, std: self.std * factor.abs(), min: a.min(b), max: a.max(b) }
    }

    /// After an addition.
    #[must_use]
    pub fn shifted(&self, by: f64) -> Spread {
        Spread { mean: self.mean + by, std: self.std, min: self.min + by, max: self.max + by }
    }
}

/// The channels of a value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Channels {
    /// The axis along which they lie.
    pub axis: usize,
    /// Their spreads, in their order.
    pub spreads: Vec<Spread>,
}

impl Channels {
    /// From the lowest number to the highest to expect in any channel.
    pub fn reach(&self) -> (f64, f64) {
        let widest = |(low, high): (f64, f64), s: &Spread| (low.min(s.min), high.max(s.max));
        self.spreads.iter().fold((f64::INFINITY, f64::NEG_INFINITY), widest)
    }

    /// What few samples show, widened to what more would: every channel reaches [`REACH`] deviations to each side of its
    /// mean, but not past zero where no sample did.
    #[must_use]
    pub fn widened(&self) -> Channels {
        let wide = |s: &Spread| {
            let n = Spread::normal(s.moments());
            let min = if s.min < 0.0 { s.min.min(n.min) } else { s.min };
            let max = if s.max > 0.0 { s.max.max(n.max) } else { s.max };
            Spread { min, max, ..*s }
        };
        Channels { axis: self.axis, spreads: self.spreads.iter().map(wide).collect() }
    }
}

/// What is known of the channels of values, by the values' names: from batch normalizations, or from samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    values: BTreeMap<String, Channels>,
    /// Those that samples showed.
    seen: BTreeSet<String>,
}

impl Statistics {
    /// What is known of the value.
    pub fn get(&self, value: &str) -> Option<&Channels> {
        self.values.get(value)
    }

    /// Every value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Channels)> {
        self.values.iter().map(|(n, c)| (n.as_str(), c))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Notes what is known of a value, in place of what was known before.
    pub fn insert(&mut self, value: &str, channels: Channels) {
        self.values.insert(value.to_owned(), channels);
    }

    /// Notes what samples showed of a value, in place of what was known before.
    pub fn insert_seen(&mut self, value: &str, channels: Channels) {
        self.insert(value, channels);
        self.seen.insert(value.to_owned());
    }

    /// Whether samples showed what is known of a value; or else training left it.
    pub fn was_seen(&self, value: &str) -> bool {
        self.seen.contains(value)
    }

    /// Notes that a value goes by another name.
    pub fn rename(&mut self, value: &str, name: &str) {
        if let Some(channels) = self.values.remove(value) {
            self.values.insert(name.to_owned(), channels);
        }
        if self.seen.remove(value) {
            self.seen.insert(name.to_owned());
        }
    }

    /// Changes every channel of a value; nothing happens where it is not known.
    pub fn change(&mut self, value: &str, mut change: impl FnMut(usize, &mut Spread)) {
        if let Some(channels) = self.values.get_mut(value) {
            channels.spreads.iter_mut().enumerate().for_each(|(c, s)| change(c, s));
        }
    }
}
