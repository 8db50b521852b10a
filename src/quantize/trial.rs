//! Trials: few samples on which models are quantized and compared.

use std::collections::BTreeMap;

use super::steps::correct;
use crate::calibrate::{Beside, Keep, Ranges, SampleChannels, Statistics, calibrate, calibrate_beside};
use crate::error::{Place, Result};
use crate::events::Silent;
use crate::exec::{Executor, Runner, Seen, Worker, spread};
use crate::model::{Graph, Model, NodeExt, Tensor};
use crate::number::{Drift, Format};
use crate::pass::{self, Context, Insert};
use crate::plan::{Kept, Plan, Policy, Reconstructed, watch_list};
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

/// After every so many samples it is asked whether a trial is lost: its mean gain lies so many standard errors below 0.
const ROUND: usize = 4;
const LOST: f64 = 3.0;

/// What an output counts that no quantization changed, in dB.
const UNTOUCHED: f64 = 100.0;

/// Few samples, to try a step on.
pub(super) struct Trial<'a> {
    pub samples: &'a dyn Samples,
    pub executor: &'a dyn Executor,
    policy: Policy,
    pub picks: Vec<usize>,
    pub targets: Targets,
    /// What the float model makes of them: a list for each sample.
    pub reference: Vec<Vec<Vec<f32>>>,
}

/// What a trial compares: outputs, and in the place of probabilities what they are made of. Those are near 0 or 1 for most
/// samples whatever is in front of them, and so few samples say little by them.
pub(super) struct Targets {
    pub watch: Vec<String>,
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

    /// Where the outputs are among those of a runner.
    fn places(&self, runner: &Runner<'_>) -> Vec<Option<usize>> {
        let names = runner.output_names();
        self.outputs.iter().map(|o| names.iter().position(|n| n == o)).collect()
    }

    /// What was watched, and behind it the outputs in those places. What is no float is empty.
    fn with_outputs(
        &self,
        mut found: Vec<Vec<f32>>,
        places: &[Option<usize>],
        outputs: &[Tensor],
    ) -> Result<Vec<Vec<f32>>> {
        for place in places {
            let tensor = place.and_then(|p| outputs.get(p)).filter(|t| t.is_float());
            found.push(tensor.map(Tensor::f32s).transpose()?.map_or_else(Vec::new, |x| x.into_owned()));
        }
        Ok(found)
    }

    /// What a model makes of the samples.
    pub fn see(&self, runner: &Runner<'_>, samples: &dyn Samples, picks: &[usize]) -> Result<Vec<Vec<Vec<f32>>>> {
        let places = self.places(runner);
        let one = |worker: &mut Worker<'_, '_>, i: usize| {
            let at = || format!("sample {}", picks[i]);
            let mut found = vec![Vec::new(); self.watch.len()];
            let sample = samples.get(picks[i]).at(at)?;
            let outputs = worker.run(&sample, &mut |seen| found[seen.value] = seen.numbers.to_vec()).at(at)?;
            self.with_outputs(found, &places, &outputs)
        };
        Ok(spread(picks.len(), &Silent, || Ok(runner.worker()), one)?.1)
    }
}

impl<'a> Trial<'a> {
    /// A trial on some of the samples in `picks`. `original` is the float model.
    pub fn new(
        original: &Model,
        prepared: &Model,
        samples: &'a dyn Samples,
        picks: &[usize],
        policy: &Policy,
        executor: &'a dyn Executor,
    ) -> Trial<'a> {
        let count = picks.len().min(TRIAL);
        let picks: Vec<usize> = (0..count).map(|i| picks[i * picks.len() / count]).collect();
        let targets = Targets::of(&original.graph, &prepared.graph);
        let mut policy = policy.clone();
        if policy.rounding.needs_moments() && policy.weights.bits < 8 {
            // What few bits lose when each weight goes to its nearest code says little of what is left when codes are chosen.
            policy.weights = if policy.weights.signed() { Format::INT8 } else { Format::UINT8 };
        }
        Trial { samples, executor, policy, picks, targets, reference: Vec::new() }
    }

    /// Runs the prepared model, which still computes what the float model does, and keeps what others are compared with. Returns
    /// its ranges, and the channels of every value that a step may want to know of and of which nothing is known.
    pub fn look(&mut self, prepared: &Model, shapes: &Shapes, known: &Statistics) -> Result<(Ranges, Statistics)> {
        let axes = channel_axes(&prepared.graph, &Scaling::of(&prepared.graph, shapes)?);
        let unknown: Vec<(String, usize)> = axes.into_iter().filter(|(v, _)| known.get(v).is_none()).collect();
        let mut watch = watch_list(&prepared.graph)?;
        let (calibrated, targets) = (watch.len(), self.targets.watch.len());
        watch.extend(self.targets.watch.iter().cloned());
        watch.extend(unknown.iter().map(|(value, _)| value.clone()));
        let runner = Runner::new(self.executor, prepared, watch)?;
        let places = self.targets.places(&runner);
        let see = |(found, channels): &mut (BTreeMap<usize, Vec<f32>>, SampleChannels), seen: Seen<'_>| {
            let Some(place) = seen.value.checked_sub(calibrated) else { return };
            match place.checked_sub(targets) {
                None => drop(found.insert(place, seen.numbers.to_vec())),
                Some(place) => channels.see(place, unknown[place].1, seen.numbers, seen.shape),
            }
        };
        let end = |(mut found, channels): (BTreeMap<usize, Vec<f32>>, SampleChannels), outputs: Vec<Tensor>| {
            let watched = (0..targets).map(|place| found.remove(&place).unwrap_or_default()).collect();
            Ok((self.targets.with_outputs(watched, &places, &outputs)?, channels))
        };
        let keep = Keep::for_method(self.policy.calibration);
        let beside = Beside { calibrated, see, end };
        let (ranges, made) = calibrate_beside(&runner, self.samples, &self.picks, keep, &Silent, beside)?;
        let (reference, channels): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        self.reference = reference;
        Ok((ranges, SampleChannels::gather(&channels, &unknown)))
    }

    /// Runs the prepared model, which still computes what the float model does, and keeps what others are compared with.
    pub fn refer(&mut self, prepared: &Model) -> Result<()> {
        let runner = Runner::new(self.executor, prepared, self.targets.watch.clone())?;
        self.reference = self.targets.see(&runner, self.samples, &self.picks)?;
        Ok(())
    }

    /// From now on, these values are kept out of the format of activations.
    pub fn keep(&mut self, kept: BTreeMap<String, Kept>) {
        self.policy.kept = kept;
    }

    /// On how many samples it compares.
    pub fn len(&self) -> usize {
        self.picks.len()
    }

    /// By how many dB a step must be better.
    pub fn needed(&self) -> f64 {
        if self.len() < TRIAL { NEEDED_OF_FEW } else { NEEDED }
    }

    /// The ranges of a prepared model.
    pub fn ranges(&self, prepared: &Model) -> Result<Ranges> {
        let runner = Runner::new(self.executor, prepared, watch_list(&prepared.graph)?)?;
        calibrate(&runner, self.samples, &self.picks, Keep::for_method(self.policy.calibration), &Silent)
    }

    /// The SQNR of a prepared model after quantization, in dB: of each target for every sample by itself, so that none speaks
    /// for all. `against` are the scores of what it shall be better than: where it is clear early that it is not, the other
    /// samples are left out.
    pub fn score(
        &self,
        prepared: &Model,
        ranges: &Ranges,
        corrected: Option<&Statistics>,
        against: Option<&Scores>,
    ) -> Result<Scores> {
        let mut cx = Context::new(Some(self.executor), &Silent);
        let mut quantized = prepared.clone();
        let mut plan = Plan::decide(&quantized.graph, ranges, &self.policy)?;
        if let Some(statistics) = corrected {
            cx.statistics = statistics.clone();
            plan = correct(&mut quantized, plan, ranges, &self.policy, &Reconstructed::new(), &mut cx)?.0;
        }
        pass::run(&Insert { plan: &plan }, &mut quantized, &mut cx)?;
        let runner = Runner::new(self.executor, &quantized, self.targets.watch.clone())?;
        let mut scores = Scores::new();
        for (picks, references) in self.picks.chunks(ROUND).zip(self.reference.chunks(ROUND)) {
            let seen = self.targets.see(&runner, self.samples, picks)?;
            scores.extend(references.iter().zip(&seen).map(|(right, found)| compare(right, found)));
            if against.is_some_and(|old| Gain::of(&scores, old).is_lost()) {
                break;
            }
        }
        Ok(scores)
    }
}

/// The SQNR of each target in each sample, in dB.
pub(super) type Scores = Vec<Vec<f64>>;

/// The SQNR of each target of a sample.
fn compare(right: &[Vec<f32>], found: &[Vec<f32>]) -> Vec<f64> {
    let one = |(right, found): (&Vec<f32>, &Vec<f32>)| {
        let mut drift = Drift::default();
        if right.len() == found.len() {
            drift.add(right, found);
        }
        let db = drift.sqnr();
        if db.is_nan() { -UNTOUCHED } else { db.clamp(-UNTOUCHED, UNTOUCHED) }
    };
    right.iter().zip(found).map(one).collect()
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

/// By how many dB scores differ, over the samples that both saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gain {
    /// In the mean over all targets.
    pub mean: f64,
    /// How sure that is: its standard error.
    error: f64,
    /// In the target that gained least, and in that which gained most.
    pub least: f64,
    most: f64,
}

impl Gain {
    pub fn of(new: &Scores, old: &Scores) -> Gain {
        let count = new.len().min(old.len()).max(1) as f64;
        let targets = new.first().map_or(0, Vec::len).max(1);
        let mut of_targets = vec![0.0; targets];
        let mut of_samples = Vec::with_capacity(new.len());
        for (new, old) in new.iter().zip(old) {
            let gains = || new.iter().zip(old).map(|(a, b)| a - b);
            of_targets.iter_mut().zip(gains()).for_each(|(sum, gain)| *sum += gain / count);
            of_samples.push(gains().sum::<f64>() / targets as f64);
        }
        let mean = of_samples.iter().sum::<f64>() / count;
        let spread = of_samples.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        Gain {
            mean,
            error: (spread / count).sqrt(),
            least: of_targets.iter().copied().fold(f64::INFINITY, f64::min),
            most: of_targets.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// The gain of the old over the new.
    pub fn turned(self) -> Gain {
        Gain { mean: -self.mean, error: self.error, least: -self.most, most: -self.least }
    }

    /// Whether more samples would hardly turn a loss into a gain.
    fn is_lost(self) -> bool {
        self.mean < -LOST * self.error
    }
}
