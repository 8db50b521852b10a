//! Samples through the engine, every watched value through an observer: ranges come out.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Seen, spread};
use crate::number::{Range, Scheme};
use crate::observe::{Method, MinMax, Observer, Profile};
use crate::sample::Samples;

/// What calibration learned of the float values of a model, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges {
    values: BTreeMap<String, Stats>,
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
        self.see_shape(seen.shape.iter().copied().map(Some));
    }

    fn merge(&mut self, other: Memory) {
        self.extremes.merge(&other.extremes);
        if let (Some(mine), Some(its)) = (&mut self.profile, &other.profile) {
            mine.merge(its);
        }
        if let Some(shape) = other.shape {
            self.see_shape(shape.into_iter());
        }
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

    fn see_shape(&mut self, shape: impl Iterator<Item = Option<usize>> + Clone) {
        match &mut self.shape {
            None => self.shape = Some(shape.collect()),
            Some(known) if known.len() != shape.clone().count() => *known = vec![None; known.len()],
            Some(known) => known.iter_mut().zip(shape).for_each(|(k, s)| {
                if *k != s {
                    *k = None;
                }
            }),
        }
    }
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
    if picks.is_empty() {
        return Err(Error::new(ErrorKind::Data, "there are no samples to calibrate with"));
    }
    let outputs = runner.output_names();
    let memories =
        || runner.watch().iter().map(|name| Memory::new(keep, outputs.contains(name))).collect::<Vec<Memory>>();
    let make = || Ok((runner.worker(), memories()));
    let (workers, _) = spread(picks.len(), events, make, |(worker, memories), i| {
        let sample = samples.get(picks[i])?;
        let age = samples.len() - 1 - picks[i];
        worker.run(&sample, &mut |seen| memories[seen.value].see(&seen, age)).at(|| format!("sample {}", picks[i]))?;
        Ok(())
    })?;
    let mut total = memories();
    for (_, memories) in workers {
        total.iter_mut().zip(memories).for_each(|(all, one)| all.merge(one));
    }
    let seen = runner.watch().iter().zip(total).filter(|(_, m)| m.shape.is_some());
    Ok(Ranges { values: seen.map(|(name, m)| (name.clone(), m.into_stats())).collect() })
}
