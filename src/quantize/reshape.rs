//! Steps toward accuracy, each kept only if it is measured to help.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::calibrate::{Keep, Ranges, Statistics, calibrate, measure_channels, propagate};
use crate::error::{Place, Result};
use crate::events::Silent;
use crate::exec::{Executor, Runner, Worker, spread};
use crate::model::{Graph, Model, NodeExt, Tensor};
use crate::number::Drift;
use crate::pass::{self, AbsorbBias, Bounds, Context, CorrectBias, Equalize, Insert, Pass};
use crate::plan::{Plan, Policy, Steps, Switch, watch_list};
use crate::rule::{OpRule, Role};
use crate::sample::Samples;
use crate::scaling::{Scaling, Shapes};

/// How many samples a trial calibrates with and compares. They are the same, so that it does not measure how well few
/// samples foretell the ranges of others.
const TRIAL: usize = 12;

/// A step must raise the SQNR in a trial by so many dB: less may be chance.
const NEEDED: f64 = 0.1;

/// The same in a trial of fewer samples than [`TRIAL`]: whatever fits ranges to those tighter looks good on them.
const NEEDED_OF_FEW: f64 = 1.0;

/// What an output counts that no quantization changed, in dB.
const UNTOUCHED: f64 = 100.0;

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRow {
    /// The step, by the name of its pass.
    pub step: &'static str,
    /// Whether it was taken.
    pub taken: bool,
    /// How many places it changed.
    pub places: usize,
    /// By how many dB it raised the SQNR in the trial, as the mean over samples and outputs; `None` where there was no
    /// trial.
    pub gain_db: Option<f64>,
}

/// Few samples, to try a step on.
pub(super) struct Trial<'a> {
    samples: &'a dyn Samples,
    executor: &'a dyn Executor,
    policy: &'a Policy,
    picks: Vec<usize>,
    targets: Targets,
    /// What the float model makes of them: a list for each sample.
    reference: Vec<Vec<Vec<f32>>>,
}

/// What a trial compares: outputs, and in the place of probabilities what they are made of. Those are near 0 or 1 for most
/// samples whatever is in front of them, and so few samples say little by them.
struct Targets {
    watch: Vec<String>,
    outputs: Vec<String>,
}

impl Targets {
    fn of(original: &Graph, prepared: &Graph) -> Targets {
        let (mut watch, mut outputs) = (Vec::new(), Vec::new());
        for output in original.outputs() {
            let node = original.producer(output.name()).and_then(|(id, _)| original.node(id));
            let made =
                node.filter(|n| ["Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh"].iter().any(|op| n.is(op)));
            match made.and_then(|n| n.input_at(0)) {
                Some(input) if original.producer(input).is_some() && prepared.producer(input).is_some() => {
                    watch.push(input.to_owned());
                }
                _ => outputs.push(output.name().to_owned()),
            }
        }
        watch.dedup();
        Targets { watch, outputs }
    }

    /// What a model makes of the samples. What is no float is empty.
    fn see(&self, runner: &Runner<'_>, samples: &dyn Samples, picks: &[usize]) -> Result<Vec<Vec<Vec<f32>>>> {
        let names = runner.output_names();
        let places: Vec<Option<usize>> = self.outputs.iter().map(|o| names.iter().position(|n| n == o)).collect();
        let one = |worker: &mut Worker<'_, '_>, i: usize| {
            let at = || format!("sample {}", picks[i]);
            let mut found = vec![Vec::new(); self.watch.len()];
            let sample = samples.get(picks[i]).at(at)?;
            let outputs = worker.run(&sample, &mut |seen| found[seen.value] = seen.numbers.to_vec()).at(at)?;
            for place in &places {
                let tensor = place.and_then(|p| outputs.get(p)).filter(|t| t.is_float());
                found.push(tensor.map(Tensor::f32s).transpose()?.map_or_else(Vec::new, |x| x.into_owned()));
            }
            Ok(found)
        };
        Ok(spread(picks.len(), &Silent, || Ok(runner.worker()), one)?.1)
    }
}

impl<'a> Trial<'a> {
    /// A trial on some of the samples in `picks`. `original` is the float model to compare with.
    pub fn new(
        original: &Model,
        prepared: &Model,
        samples: &'a dyn Samples,
        picks: &[usize],
        policy: &'a Policy,
        executor: &'a dyn Executor,
    ) -> Result<Trial<'a>> {
        let count = picks.len().min(TRIAL);
        let picks: Vec<usize> = (0..count).map(|i| picks[i * picks.len() / count]).collect();
        let targets = Targets::of(&original.graph, &prepared.graph);
        let runner = Runner::new(executor, original, targets.watch.clone())?;
        let reference = targets.see(&runner, samples, &picks)?;
        Ok(Trial { samples, executor, policy, picks, targets, reference })
    }

    /// The ranges of a prepared model.
    fn ranges(&self, prepared: &Model) -> Result<Ranges> {
        let runner = Runner::new(self.executor, prepared, watch_list(&prepared.graph)?)?;
        calibrate(&runner, self.samples, &self.picks, Keep::for_method(self.policy.calibration), &Silent)
    }

    /// The SQNR of a prepared model after quantization, in dB: for each target the mean of that of every sample by itself, so
    /// that none speaks for all.
    fn score(&self, prepared: &Model, ranges: &Ranges, corrected: Option<&Statistics>) -> Result<Vec<f64>> {
        let mut cx = Context::new(Some(self.executor), &Silent);
        let mut quantized = prepared.clone();
        let mut plan = Plan::decide(&quantized.graph, ranges, self.policy)?;
        if let Some(statistics) = corrected {
            cx.statistics = statistics.clone();
            plan = correct(&mut quantized, plan, ranges, self.policy, &mut cx)?.0;
        }
        pass::run(&Insert { plan: &plan }, &mut quantized, &mut cx)?;
        let runner = Runner::new(self.executor, &quantized, self.targets.watch.clone())?;
        let seen = self.targets.see(&runner, self.samples, &self.picks)?;
        let mut scores = vec![0.0; self.targets.watch.len() + self.targets.outputs.len()];
        for (right, found) in self.reference.iter().zip(&seen) {
            for ((score, right), found) in scores.iter_mut().zip(right).zip(found) {
                let mut drift = Drift::default();
                if right.len() == found.len() {
                    drift.add(right, found);
                }
                let db = drift.sqnr();
                *score += if db.is_nan() { -UNTOUCHED } else { db.clamp(-UNTOUCHED, UNTOUCHED) };
            }
        }
        scores.iter_mut().for_each(|s| *s /= self.picks.len().max(1) as f64);
        Ok(scores)
    }

    /// Measures the channels of every value that a step may want to know of, and of which nothing is known.
    fn measure(&self, model: &Model, shapes: &Shapes, known: &Statistics) -> Result<Statistics> {
        let axes = channel_axes(&model.graph, &Scaling::of(&model.graph, shapes)?);
        let unknown = axes.into_iter().filter(|(value, _)| known.get(value).is_none());
        let (watch, axes): (Vec<String>, Vec<usize>) = unknown.unzip();
        if watch.is_empty() {
            return Ok(Statistics::default());
        }
        let runner = Runner::new(self.executor, model, watch)?;
        measure_channels(&runner, &axes, self.samples, &self.picks, &Silent)
    }
}

/// The values whose channels steps look at, with the axis of each: what layers read, and what can be scaled.
fn channel_axes(graph: &Graph, scaling: &Scaling) -> BTreeMap<String, usize> {
    let mut axes = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let computes = OpRule::of(node).is_some_and(|r| r.role == Role::Compute);
        let Some(input) = node.input_at(0).filter(|x| computes && graph.initializer(x).is_none()) else { continue };
        let weight = node.input_at(1).is_some_and(|w| graph.initializer(w).is_some());
        let axis = if node.is("MatMul") { graph.stated_rank(input).and_then(|r| r.checked_sub(1)) } else { Some(1) };
        if let (Some(axis), true) = (axis, weight) {
            axes.insert(input.to_owned(), axis);
        }
    }
    for member in scaling.groups.iter().flat_map(|g| &g.values) {
        if let Some(axis) = member.axis {
            axes.insert(member.value.clone(), axis);
        }
    }
    axes
}

/// What a trial found of a model: its ranges, and the score of each target.
type Tried = (Ranges, Vec<f64>);

/// Reshapes a prepared model and finds out whether its ranges shall be limited and its biases corrected; returns what became
/// of each step.
///
/// What is known of channels is left in `cx.statistics`. Every step is tried on what the steps before it left, with biases
/// corrected, if they may be: correction makes good much of what another step loses. Without a trial, what is left to
/// measuring is done, but for the absorption of biases, which does harm as often as good.
pub(super) fn reshape(
    prepared: &mut Model,
    policy: &Policy,
    steps: Steps,
    trial: Option<&Trial<'_>>,
    cx: &mut Context<'_>,
) -> Result<Vec<StepRow>> {
    let mut rows = Vec::new();
    if steps == Steps::NONE {
        return Ok(rows);
    }
    let shapes = cx.executor.and_then(|e| e.shapes(prepared).ok()).unwrap_or_default();
    propagate(&prepared.graph, &shapes, &mut cx.statistics)?;
    if let Some(trial) = trial {
        // Training saw more than a few samples show: they speak only where it left nothing.
        let measured = trial.measure(prepared, &shapes, &cx.statistics).at(|| "measuring channels".to_owned())?;
        measured.iter().for_each(|(value, seen)| cx.statistics.insert_seen(value, seen.widened()));
    }
    let corrects = steps.correct_bias != Switch::Off;
    let trial = trial.filter(|_| steps.leaves_open());
    let try_out = |model: &Model, known: &Statistics| -> Result<Option<Tried>> {
        let Some(trial) = trial else { return Ok(None) };
        let ranges = trial.ranges(model)?;
        let score = trial.score(model, &ranges, corrects.then_some(known))?;
        Ok(Some((ranges, score)))
    };
    let needed = trial.map_or(0.0, |t| if t.picks.len() < TRIAL { NEEDED_OF_FEW } else { NEEDED });
    let mut best = try_out(prepared, &cx.statistics)?;
    let equalize = Equalize { shapes: &shapes, per_channel: policy.per_channel, bounds: Bounds::Loose };
    let tries: [(Switch, &dyn Pass, bool); 2] =
        [(steps.equalize, &equalize, true), (steps.absorb_bias, &AbsorbBias, false)];
    for (switch, pass, untried) in tries.into_iter().filter(|(switch, ..)| *switch != Switch::Off) {
        let (mut other, known, skipped) = (prepared.clone(), cx.statistics.clone(), cx.skipped.len());
        let places = pass::run(pass, &mut other, cx)?;
        let tried = if places > 0 { try_out(&other, &cx.statistics)? } else { None };
        let gain = Gain::of(&tried, &best);
        let taken = places > 0 && switch.decide(gain, needed, untried);
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
        let mut tried = None;
        let mut places = 0;
        if let (Some(trial), Some((ranges, _))) = (trial, &best) {
            let mut ranges = ranges.clone();
            places = limit(&mut ranges, &cx.statistics);
            if places > 0 {
                let score = trial.score(prepared, &ranges, corrects.then_some(&cx.statistics))?;
                tried = Some((ranges, score));
            }
        }
        let gain = Gain::of(&tried, &best);
        let taken = steps.limit_ranges.decide(gain, needed, false);
        if taken {
            best = tried.or(best);
        }
        rows.push(StepRow { step: "limit-ranges", taken, places, gain_db: gain.map(|g| g.mean) });
    }
    if corrects {
        let mut without = None;
        if let (Some(trial), Some((ranges, _))) = (trial, &best) {
            without = Some((ranges.clone(), trial.score(prepared, ranges, None)?));
        }
        let gain = Gain::of(&best, &without);
        let taken = steps.correct_bias.decide(gain, needed, true);
        rows.push(StepRow { step: "correct-bias", taken, places: 0, gain_db: gain.map(|g| g.mean) });
    }
    Ok(rows)
}

/// By how many dB scores differ.
#[derive(Debug, Clone, Copy)]
struct Gain {
    /// In the mean over all targets.
    mean: f64,
    /// In the target that gained least.
    least: f64,
}

impl Gain {
    fn of(new: &Option<Tried>, old: &Option<Tried>) -> Option<Gain> {
        let (new, old) = (&new.as_ref()?.1, &old.as_ref()?.1);
        let gains = || new.iter().zip(old).map(|(a, b)| a - b);
        let mean = gains().sum::<f64>() / new.len().max(1) as f64;
        Some(Gain { mean, least: gains().fold(f64::INFINITY, f64::min) })
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

/// Limits ranges to what training left of values in batch normalizations; returns how many became narrower.
///
/// A few numbers far out among those of many samples widen a range for all others. What training saw reaches
/// [`REACH`](crate::calibrate::REACH) standard deviations.
pub(super) fn limit(ranges: &mut Ranges, statistics: &Statistics) -> usize {
    let known = statistics.iter().filter(|(value, _)| !statistics.was_seen(value));
    known.filter(|(value, channels)| ranges.limit(value, channels.reach())).count()
}

/// Corrects the biases of what is planned, and plans again; returns the new plan and how many biases changed.
pub(super) fn correct(
    prepared: &mut Model,
    plan: Plan,
    ranges: &Ranges,
    policy: &Policy,
    cx: &mut Context<'_>,
) -> Result<(Plan, usize)> {
    let places = pass::run(&CorrectBias { plan: &plan }, prepared, cx)?;
    Ok((Plan::decide(&prepared.graph, ranges, policy)?, places))
}
