//! Steps toward accuracy, each kept only if it is measured to help.

use serde::Serialize;

use super::steps::limit;
use super::trial::{Gain, Scores, Trial};
use crate::calibrate::{Ranges, Statistics, propagate};
use crate::error::{Place, Result};
use crate::model::Model;
use crate::pass::{self, AbsorbBias, Bounds, Context, Equalize, Noise, Pass, Smooth, StepNoise};
use crate::plan::{Policy, Steps, Switch};

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRow {
    /// The step, by the name of its pass.
    pub step: &'static str,
    /// Whether it was taken.
    pub taken: bool,
    /// How many places it changed.
    pub places: usize,
    /// By how many dB it raised the SQNR in the trial, as the mean over samples and outputs (the first samples only, where
    /// those left no doubt); `None` where there was no trial.
    pub gain_db: Option<f64>,
}

/// Reshapes a prepared model and finds out whether its ranges shall be limited and its biases corrected; returns what became
/// of each step.
///
/// What is known of channels is left in `cx.statistics`. A model is tried with biases corrected, if they may be, and with
/// ranges limited where that is better: both make good much of what another step loses. Without a trial, what is left to
/// measuring is done, but for the absorption of biases, which does harm as often as good.
pub(super) fn reshape(
    prepared: &mut Model,
    policy: &Policy,
    steps: Steps,
    mut trial: Option<Trial<'_>>,
    cx: &mut Context<'_>,
) -> Result<Vec<StepRow>> {
    let mut rows = Vec::new();
    if steps == Steps::NONE {
        return Ok(rows);
    }
    let shapes = cx.executor.and_then(|e| e.shapes(prepared).ok()).unwrap_or_default();
    propagate(&prepared.graph, &shapes, &mut cx.statistics)?;
    let mut base = None;
    if let Some(trial) = &mut trial {
        // Training saw more than a few samples show: they speak only where it left nothing.
        let (ranges, measured) = trial.look(prepared, &shapes, &cx.statistics).at(|| "the trial".to_owned())?;
        base = Some(ranges);
        measured.iter().for_each(|(value, seen)| cx.statistics.insert_seen(value, seen.widened()));
    }
    let search = Search { steps, trial: trial.as_ref().filter(|_| steps.leaves_open()) };
    let mut best = search.look(prepared, base, &cx.statistics, None)?;
    let equalize = Equalize { shapes: &shapes, per_channel: policy.per_channel, bounds: Bounds::Loose };
    let codes = |bits: u32| 2f64.powi(bits as i32) - 1.0;
    let noise = StepNoise {
        activation_steps: codes(policy.activations.bits),
        weight_steps: codes(policy.weights.bits),
        per_channel: policy.per_channel,
    };
    let smooth = Smooth { noise: Noise::Steps(noise) };
    let tries: [(Switch, &dyn Pass, bool); 3] =
        [(steps.equalize, &equalize, true), (steps.absorb_bias, &AbsorbBias, false), (steps.smooth, &smooth, false)];
    for (switch, pass, untried) in tries.into_iter().filter(|(switch, ..)| *switch != Switch::Off) {
        let (mut other, known, skipped) = (prepared.clone(), cx.statistics.clone(), cx.skipped.len());
        let places = pass::run(pass, &mut other, cx)?;
        let tried = match places > 0 {
            true => search.look(&other, None, &cx.statistics, best.as_ref().filter(|_| switch == Switch::Auto))?,
            false => None,
        };
        let gain = tried.as_ref().zip(best.as_ref()).map(|(new, old)| Gain::of(&new.scores, &old.scores));
        let taken = places > 0 && switch.decide(gain, search.needed(), untried);
        if taken {
            *prepared = other;
            best = tried;
        } else {
            cx.statistics = known;
            cx.skipped.truncate(skipped);
        }
        rows.push(StepRow { step: pass.name(), taken, places, gain_db: gain.map(|g| g.mean) });
    }
    if steps.limit_ranges != Switch::Off {
        let limit = best.as_ref().map_or(Limit::default(), |b| b.limit);
        let taken = if best.is_some() { limit.taken } else { steps.limit_ranges == Switch::On };
        rows.push(StepRow { step: "limit-ranges", taken, places: limit.places, gain_db: limit.gain.map(|g| g.mean) });
    }
    if steps.correct_bias != Switch::Off {
        let mut gain = None;
        if let (Some(trial), Some(best)) = (search.trial, &best) {
            let without = trial.score(prepared, &best.ranges, None, Some(&best.scores))?;
            gain = Some(Gain::of(&without, &best.scores).turned());
        }
        let taken = steps.correct_bias.decide(gain, search.needed(), true);
        rows.push(StepRow { step: "correct-bias", taken, places: 0, gain_db: gain.map(|g| g.mean) });
    }
    Ok(rows)
}

/// What a trial made of a model.
struct Found {
    ranges: Ranges,
    scores: Scores,
    limit: Limit,
}

/// What became of the limits of ranges.
#[derive(Debug, Clone, Copy, Default)]
struct Limit {
    taken: bool,
    places: usize,
    gain: Option<Gain>,
}

/// How models are compared.
struct Search<'a> {
    steps: Steps,
    trial: Option<&'a Trial<'a>>,
}

impl Search<'_> {
    /// By how many dB a step must be better.
    fn needed(&self) -> f64 {
        self.trial.map_or(0.0, Trial::needed)
    }

    /// Tries a model, with ranges limited or not, whichever is better; `against` the best one so far.
    fn look(
        &self,
        model: &Model,
        ranges: Option<Ranges>,
        known: &Statistics,
        against: Option<&Found>,
    ) -> Result<Option<Found>> {
        let Some(trial) = self.trial else { return Ok(None) };
        let whole = ranges.map_or_else(|| trial.ranges(model), Ok)?;
        let corrected = (self.steps.correct_bias != Switch::Off).then_some(known);
        let score = |ranges: &Ranges, against: Option<&Scores>| trial.score(model, ranges, corrected, against);
        let against = against.map(|a| &a.scores);

        let mut narrow = whole.clone();
        let switch = self.steps.limit_ranges;
        let places = if switch == Switch::Off { 0 } else { limit(&mut narrow, known) };
        if places == 0 || switch == Switch::On {
            let (scores, taken) = (score(&narrow, against)?, switch == Switch::On);
            return Ok(Some(Found { ranges: narrow, scores, limit: Limit { taken, places, gain: None } }));
        }
        let limited = score(&narrow, against)?;
        // Those of a model that lost early are of few samples.
        let ahead = if limited.len() == trial.len() { Some(&limited) } else { against };
        let open = score(&whole, ahead)?;
        let gain = Gain::of(&open, &limited).turned();
        let taken = switch.decide(Some(gain), trial.needed(), false);
        let limit = Limit { taken, places, gain: Some(gain) };
        let (ranges, scores) = if taken { (narrow, limited) } else { (whole, open) };
        Ok(Some(Found { ranges, scores, limit }))
    }
}

impl Switch {
    /// Whether a step is taken that gained so much in a trial where `needed` is needed, and no target may lose as much; one
    /// that was not tried is taken if `untried`.
    fn decide(self, gain: Option<Gain>, needed: f64, untried: bool) -> bool {
        match self {
            Switch::Off => false,
            Switch::On => true,
            Switch::Auto => gain.map_or(untried, |g| g.mean > needed && g.least > -needed),
        }
    }
}
