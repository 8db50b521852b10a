//! Samples through the engine, every channel of the watched values measured by itself.

use std::collections::BTreeMap;

use super::{Channels, Spread, Statistics};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Seen, spread};
use crate::number::{min_max, power_sums};
use crate::sample::Samples;

/// Count, sum, sum of squares and extremes of a channel in one sample.
#[derive(Clone, Copy)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
    min: f32,
    max: f32,
}

impl Sums {
    const NONE: Sums = Sums { count: 0.0, sum: 0.0, squares: 0.0, min: f32::INFINITY, max: f32::NEG_INFINITY };

    fn add(&mut self, x: &[f32]) {
        let (sum, squares) = power_sums(x);
        let (min, max, bad) = min_max(x);
        self.sum += if bad > 0 { f64::NAN } else { sum };
        self.squares += squares;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        self.count += x.len() as f64;
    }

    fn add_one(&mut self, x: f32) {
        self.sum += f64::from(x);
        self.squares += f64::from(x) * f64::from(x);
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        self.count += 1.0;
    }

    fn merge(&mut self, other: &Sums) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn spread(&self) -> Spread {
        let mean = self.sum / self.count;
        let std = (self.squares / self.count - mean * mean).max(0.0).sqrt();
        Spread { mean, std, min: self.min.into(), max: self.max.into() }
    }
}

/// What one sample shows of the channels of values.
#[derive(Default)]
pub(crate) struct SampleChannels(BTreeMap<usize, Option<Vec<Sums>>>);

impl SampleChannels {
    /// Measures the channels of the value in that place along an axis.
    pub fn see(&mut self, place: usize, axis: usize, numbers: &[f32], shape: &[usize]) {
        self.0.insert(place, measure(numbers, shape, axis));
    }

    /// What samples show together of the channels of values along their axes. Left out are values that do not have the axis,
    /// whose number of channels changes, and that hold numbers that are not finite.
    pub fn gather(seen: &[SampleChannels], values: &[(String, usize)]) -> Statistics {
        let mut statistics = Statistics::default();
        for (place, (name, axis)) in values.iter().enumerate() {
            let mut parts = seen.iter().filter_map(|s| s.0.get(&place)).peekable();
            let Some(Some(first)) = parts.peek() else { continue };
            let mut total = vec![Sums::NONE; first.len()];
            let whole = parts.all(|part| match part {
                Some(part) if part.len() == total.len() => {
                    total.iter_mut().zip(part).for_each(|(t, p)| t.merge(p));
                    true
                }
                _ => false,
            });
            if whole && total.iter().all(|t| t.count > 0.0 && t.sum.is_finite() && t.squares.is_finite()) {
                statistics.insert(name, Channels { axis: *axis, spreads: total.iter().map(Sums::spread).collect() });
            }
        }
        statistics
    }
}

/// Runs the samples in `picks` and measures the channels of every watched value along its axis in `axes`, which are as
/// many as the runner watches values.
///
/// Left out are values that do not have the axis, whose number of channels changes, and that hold numbers that are not
/// finite. The outcome does not depend on the number of threads.
pub fn measure_channels(
    runner: &Runner<'_>,
    axes: &[usize],
    samples: &dyn Samples,
    picks: &[usize],
    events: &dyn Events,
) -> Result<Statistics> {
    if axes.len() != runner.watch().len() {
        return Err(Error::new(ErrorKind::Usage, "every watched value needs an axis"));
    }
    let (_, seen) = spread(
        picks.len(),
        events,
        || Ok(runner.worker()),
        |worker, i| {
            let sample = samples.get(picks[i])?;
            let mut found = SampleChannels::default();
            let mut see = |seen: Seen<'_>| found.see(seen.value, axes[seen.value], seen.numbers, seen.shape);
            worker.run(&sample, &mut see).at(|| format!("sample {}", picks[i]))?;
            Ok(found)
        },
    )?;
    let values: Vec<(String, usize)> = runner.watch().iter().cloned().zip(axes.iter().copied()).collect();
    Ok(SampleChannels::gather(&seen, &values))
}

fn measure(x: &[f32], shape: &[usize], axis: usize) -> Option<Vec<Sums>> {
    let channels = *shape.get(axis)?;
    let inner: usize = shape[axis + 1..].iter().product();
    if channels * inner == 0 {
        return None;
    }
    let mut sums = vec![Sums::NONE; channels];
    if inner == 1 {
        x.chunks(channels).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, &x)| s.add_one(x)));
        return Some(sums);
    }
    for (i, run) in x.chunks(inner).enumerate() {
        sums[i % channels].add(run);
    }
    Some(sums)
}
