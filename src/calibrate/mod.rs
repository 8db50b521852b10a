//! Samples through the engine, every watched value through an observer: ranges come out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, spread};
use crate::model::{GraphProto, first_value};
use crate::number::Range;
use crate::observe::{MinMax, Observer};
use crate::sample::Samples;

/// What calibration learned of the float values of a model, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges {
    values: BTreeMap<String, Stats>,
    taken: BTreeSet<String>,
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
}

impl Stats {
    /// The range to quantize; `None` when nothing finite was seen.
    pub fn range(&self) -> Option<Range> {
        Range::new(self.min?, self.max?)
    }
}

impl Ranges {
    /// What was seen of the value; `None` if it was not watched or is no float.
    pub fn get(&self, value: &str) -> Option<&Stats> {
        self.values.get(value)
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
#[derive(Default)]
struct Memory {
    observer: MinMax,
    shape: Option<Vec<Option<usize>>>,
}

impl Memory {
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
pub fn calibrate(runner: &Runner<'_>, samples: &dyn Samples, picks: &[usize], events: &dyn Events) -> Result<Ranges> {
    if picks.is_empty() {
        return Err(Error::new(ErrorKind::Data, "there are no samples to calibrate with"));
    }
    let watched = runner.watch().len();
    let make = || Ok((runner.worker(), std::iter::repeat_with(Memory::default).take(watched).collect::<Vec<_>>()));
    let (workers, _) = spread(picks.len(), events, make, |(worker, memory), i| {
        let sample = samples.get(picks[i])?;
        worker
            .run(&sample, &mut |seen| {
                let memory = &mut memory[seen.value];
                memory.observer.observe(seen.numbers);
                memory.see_shape(seen.shape.iter().copied().map(Some));
            })
            .at(|| format!("sample {}", picks[i]))?;
        Ok(())
    })?;
    let mut total: Vec<Memory> = std::iter::repeat_with(Memory::default).take(watched).collect();
    for (_, memory) in workers {
        for (all, one) in total.iter_mut().zip(memory) {
            all.observer.merge(&one.observer);
            if let Some(shape) = one.shape {
                all.see_shape(shape.into_iter());
            }
        }
    }
    let seen = runner.watch().iter().zip(total).filter(|(_, m)| m.shape.is_some());
    let stats = seen.map(|(name, m)| {
        let finite = m.observer.count() > m.observer.non_finite();
        let stats = Stats {
            min: finite.then(|| m.observer.min()),
            max: finite.then(|| m.observer.max()),
            count: m.observer.count(),
            non_finite: m.observer.non_finite(),
            shape: m.shape.unwrap_or_default(),
        };
        (name.clone(), stats)
    });
    Ok(Ranges { values: stats.collect(), taken: runner.taken() })
}
