//! Samples through the engine, every watched value through an observer: ranges come out.
//!
//! [`calibrate`] does it; [`RangesFile`] keeps what came out, and merges what was learned of several shares of the samples.

mod channels;
mod data_free;
pub mod file;
mod moments;
mod propagate;
mod statistics;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Seen, spread};
use crate::model::{GraphProto, Tensor, first_value};
use crate::number::{Range, Scheme};
use crate::observe::{Method, MinMax, Observer, Profile};
use crate::sample::Samples;

pub(crate) use channels::SampleChannels;
pub use channels::measure_channels;
pub use data_free::data_free_ranges;
pub use file::RangesFile;
pub use moments::{FloatSide, PatchMoments};
pub(crate) use moments::{MOST_MOMENTS, Tap, gather_moments};
pub use propagate::propagate;
pub use statistics::{Channels, REACH, Spread, Statistics};

/// What calibration learned of the float values of a model, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges {
    values: BTreeMap<String, Stats>,
    taken: BTreeSet<String>,
}

/// How much is remembered of each value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// Its extremes.
    #[default]
    Extremes,
    /// A profile, of which every method makes a range.
    Profile,
}

impl Keep {
    /// As much as the method asks for.
    pub fn for_method(method: Method) -> Keep {
        if method.needs_extremes_only() { Keep::Extremes } else { Keep::Profile }
    }
}

/// What was seen of one value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// The smallest finite number; `None` if there was none.
    pub min: Option<f32>,
    /// The largest finite number; `None` if there was none.
    pub max: Option<f32>,
    /// How many numbers were seen.
    pub count: u64,
    /// How many of them were infinite or not a number.
    pub non_finite: u64,
    /// The shape; `None` for sizes that changed from sample to sample.
    pub shape: Vec<Option<usize>>,
    /// Where its numbers lie, if that was asked for.
    #[serde(skip)]
    pub profile: Option<Profile>,
}

impl Stats {
    /// Everything that was seen; `None` when nothing finite was.
    pub fn range(&self) -> Option<Range> {
        Range::new(self.min?, self.max?)
    }

    fn merge(&mut self, other: Stats) {
        let pick = |a: Option<f32>, b: Option<f32>, of: fn(f32, f32) -> f32| match (a, b) {
            (Some(a), Some(b)) => Some(of(a, b)),
            (a, b) => a.or(b),
        };
        self.min = pick(self.min, other.min, f32::min);
        self.max = pick(self.max, other.max, f32::max);
        self.count += other.count;
        self.non_finite += other.non_finite;
        self.shape = common(std::mem::take(&mut self.shape), other.shape.into_iter());
        self.profile = match (self.profile.take(), other.profile) {
            (Some(mut mine), Some(its)) => {
                mine.merge(&its);
                Some(mine)
            }
            _ => None,
        };
    }

    /// The range that a method chooses for a scheme; `None` when nothing finite was seen.
    ///
    /// Errors when the method asks for a profile and none was kept.
    pub fn fit(&self, method: Method, scheme: &Scheme) -> Result<Option<Range>> {
        match &self.profile {
            _ if method.needs_extremes_only() => Ok(self.range()),
            Some(profile) => Ok(method.range(profile, scheme)),
            None => Err(Error::new(ErrorKind::Data, format!("`{method}` needs a histogram, and none was kept"))),
        }
    }
}

impl Ranges {
    /// What was seen of the value; `None` if it was not watched or is no float.
    pub fn get(&self, value: &str) -> Option<&Stats> {
        self.values.get(value)
    }

    /// Cuts off what lies outside of two ends, which 0 lies between; returns whether anything did. What was seen is not
    /// changed otherwise: a profile keeps its numbers.
    pub fn limit(&mut self, value: &str, (low, high): (f64, f64)) -> bool {
        let Some(stats) = self.values.get_mut(value) else { return false };
        let (Some(min), Some(max)) = (stats.min, stats.max) else { return false };
        let (low, high) = (low.min(0.0) as f32, high.max(0.0) as f32);
        let limited = (min.max(low), max.min(high));
        if limited == (min, max) || limited.0 >= limited.1 {
            return false;
        }
        (stats.min, stats.max) = (Some(limited.0), Some(limited.1));
        true
    }

    /// Takes in what was seen in other samples. The order of merging does not matter.
    pub fn merge(&mut self, other: Ranges) {
        for (name, stats) in other.values {
            match self.values.entry(name) {
                Entry::Vacant(place) => drop(place.insert(stats)),
                Entry::Occupied(mut mine) => mine.get_mut().merge(stats),
            }
        }
        self.taken.extend(other.taken);
    }

    /// Counts a branch among those that samples took.
    pub fn take(&mut self, branch: &GraphProto) {
        self.taken.extend(first_value(branch).map(str::to_owned));
    }

    /// Whether a sample took this branch, or might have: one that makes no value cannot be told from others.
    pub fn took(&self, branch: &GraphProto) -> bool {
        first_value(branch).is_none_or(|v| self.taken.contains(v))
    }

    /// Every value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Stats)> {
        self.values.iter().map(|(n, s)| (n.as_str(), s))
    }
}

/// What one thread remembers of one value.
struct Memory {
    extremes: MinMax,
    profile: Option<Profile>,
    /// Whether the value may hold scores of classes along its last axis.
    scores: bool,
    shape: Option<Vec<Option<usize>>>,
}

impl Memory {
    fn new(keep: Keep, scores: bool) -> Memory {
        let profile = (keep == Keep::Profile).then(Profile::default);
        Memory { extremes: MinMax::default(), profile, scores, shape: None }
    }

    fn see(&mut self, seen: &Seen<'_>, age: usize) {
        match &mut self.profile {
            Some(profile) => {
                let classes = seen.shape.last().copied().filter(|_| self.scores && seen.shape.len() > 1);
                profile.see(seen.numbers, classes, age);
            }
            None => self.extremes.observe(seen.numbers),
        }
        let shape = seen.shape.iter().copied().map(Some);
        self.shape = Some(match self.shape.take() {
            Some(known) => common(known, shape),
            None => shape.collect(),
        });
    }

    fn merge(&mut self, other: Memory) {
        self.extremes.merge(&other.extremes);
        if let (Some(mine), Some(its)) = (&mut self.profile, &other.profile) {
            mine.merge(its);
        }
        self.shape = match (self.shape.take(), other.shape) {
            (Some(a), Some(b)) => Some(common(a, b.into_iter())),
            (a, b) => a.or(b),
        };
    }

    fn into_stats(self) -> Stats {
        let extremes = self.profile.as_ref().map_or(&self.extremes, |p| p.histogram.extremes());
        let finite = extremes.count() > extremes.non_finite();
        Stats {
            min: finite.then(|| extremes.min()),
            max: finite.then(|| extremes.max()),
            count: extremes.count(),
            non_finite: extremes.non_finite(),
            shape: self.shape.unwrap_or_default(),
            profile: self.profile,
        }
    }
}

/// The sizes that two shapes share; `None` where they differ, and everywhere if one has more axes.
fn common(mut a: Vec<Option<usize>>, b: impl ExactSizeIterator<Item = Option<usize>>) -> Vec<Option<usize>> {
    if a.len() != b.len() {
        return vec![None; a.len().max(b.len())];
    }
    a.iter_mut().zip(b).filter(|(a, b)| *a != b).for_each(|(a, _)| *a = None);
    a
}

/// Runs the samples in `picks` and remembers the watched values. Memory does not depend on the number of samples,
/// and the outcome does not depend on the number of threads.
pub fn calibrate(
    runner: &Runner<'_>,
    samples: &dyn Samples,
    picks: &[usize],
    keep: Keep,
    events: &dyn Events,
) -> Result<Ranges> {
    let beside = Beside { calibrated: runner.watch().len(), see: |_: &mut (), _: Seen<'_>| {}, end: |(), _| Ok(()) };
    Ok(calibrate_beside(runner, samples, picks, keep, events, beside)?.0)
}

/// What else is made of the samples that calibrate.
pub(crate) struct Beside<See, End> {
    /// So many of the watched values, the first ones, are calibrated.
    pub calibrated: usize,
    /// Takes note of a watched value in what is kept of a sample.
    pub see: See,
    /// Makes something of what was kept of a sample and its outputs.
    pub end: End,
}

/// As [`calibrate`], with something else made of every sample: that in the order of the samples.
pub(crate) fn calibrate_beside<T: Default, R: Send>(
    runner: &Runner<'_>,
    samples: &dyn Samples,
    picks: &[usize],
    keep: Keep,
    events: &dyn Events,
    beside: Beside<impl Fn(&mut T, Seen<'_>) + Sync, impl Fn(T, Vec<Tensor>) -> Result<R> + Sync>,
) -> Result<(Ranges, Vec<R>)> {
    if picks.is_empty() {
        return Err(Error::new(ErrorKind::Data, "there are no samples to calibrate with"));
    }
    let outputs = runner.output_names();
    let watch = &runner.watch()[..beside.calibrated];
    let memories = || watch.iter().map(|name| Memory::new(keep, outputs.contains(name))).collect::<Vec<Memory>>();
    let make = || Ok((runner.worker(), memories()));
    let (workers, made) = spread(picks.len(), events, make, |(worker, memories), i| {
        let at = || format!("sample {}", picks[i]);
        let sample = samples.get(picks[i])?;
        let age = samples.len() - 1 - picks[i];
        let mut kept = T::default();
        let mut see = |seen: Seen<'_>| {
            if let Some(memory) = memories.get_mut(seen.value) {
                memory.see(&seen, age);
            }
            (beside.see)(&mut kept, seen);
        };
        let outputs = worker.run(&sample, &mut see).at(at)?;
        (beside.end)(kept, outputs).at(at)
    })?;
    let mut total = memories();
    for (_, memories) in workers {
        total.iter_mut().zip(memories).for_each(|(all, one)| all.merge(one));
    }
    let seen = watch.iter().zip(total).filter(|(_, m)| m.shape.is_some());
    let values = seen.map(|(name, m)| (name.clone(), m.into_stats())).collect();
    Ok((Ranges { values, taken: runner.taken() }, made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_keep_what_they_share_in_any_order() {
        let shapes: [&[usize]; 3] = [&[1, 3, 8], &[1, 4, 8], &[1, 3]];
        let merge = |order: [usize; 3]| {
            let shape = |i: usize| shapes[i].iter().copied().map(Some).collect::<Vec<_>>();
            order[1..].iter().fold(shape(order[0]), |all, &i| common(all, shape(i).into_iter()))
        };
        assert_eq!(common(vec![Some(1), Some(3)], [Some(1), Some(4)].into_iter()), [Some(1), None]);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            assert_eq!(merge(order), [None; 3]);
        }
    }
}
