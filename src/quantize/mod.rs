//! The way of the data: from a float model and samples to a quantized model and what was found on the way.

mod codebook;
mod data_free;
mod decide;
mod facts;
mod matrix;
mod ranges;
mod reformed;
mod reshape;
mod retarget;
mod rounding;
mod shrink;
mod solve;
mod spare;
mod steps;
mod switches;
mod tables;
mod trial;
mod weights;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::calibrate::{Keep, Ranges, RangesFile, calibrate};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner, warm_up};
use crate::model::{Model, fingerprint};
use crate::number::{Range, Share};
use crate::pass::{self, Context, InlineFunctions, Insert, ToQOperator};
use crate::plan::{Emit, Plan, Policy, Reconstructed, Steps, Switch, watch_list};
use crate::sample::Samples;
use crate::validate::{compare, modern};
use trial::Trial;

pub use decide::{Decision, decide, decide_weights};
pub(crate) use facts::rows as node_rows;
pub use facts::{Counts, NodeRow, Report, Split, Stage, WeightFacts};
pub use ranges::learn_ranges;
pub use reformed::Reformed;
pub(crate) use reformed::{reformed, reformed_table, staying_table};
pub use reshape::StepRow;
pub use rounding::RoundRow;
pub use spare::{KeptReport, KeptRow};
pub use weights::{quantize_dynamic, quantize_weights};

/// The most samples that are held back for verification.
const HELD_BACK: usize = 16;

/// With fewer samples than this, all are used for both calibration and verification.
const FEW: usize = 10;

/// What to do.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// How to quantize, and what.
    pub policy: Policy,
}

/// A quantized model, and what was found on the way.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The model, to be written. (What was verified by running it was read back from the bytes that it is written as.)
    pub model: Model,
    /// The plan it was made by.
    pub plan: Plan,
    /// What was found.
    pub report: Report,
}

/// Measures stages one after the other.
pub(crate) struct Clock<'a> {
    events: &'a dyn Events,
    stages: Vec<Stage>,
    since: Instant,
}

impl<'a> Clock<'a> {
    pub(crate) fn new(events: &'a dyn Events) -> Clock<'a> {
        Clock { events, stages: Vec::new(), since: Instant::now() }
    }

    /// The stages, the last one ended.
    pub(crate) fn finish(mut self) -> Vec<Stage> {
        self.close();
        self.stages
    }

    pub(crate) fn stage(&mut self, name: &'static str) {
        self.close();
        self.events.stage(name);
        self.stages.push(Stage { name, seconds: 0.0 });
    }

    fn close(&mut self) {
        let spent: Duration = self.since.elapsed();
        if let Some(stage) = self.stages.last_mut() {
            stage.seconds = spent.as_secs_f64();
        }
        self.since = Instant::now();
    }
}

/// Keeps warnings for the report and hands them on.
pub(crate) struct Listening<'a> {
    inner: &'a dyn Events,
    warnings: std::sync::Mutex<Vec<String>>,
}

impl<'a> Listening<'a> {
    pub(crate) fn new(inner: &'a dyn Events) -> Listening<'a> {
        Listening { inner, warnings: Default::default() }
    }

    /// What was warned of.
    pub(crate) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner().unwrap_or_default()
    }
}

impl Events for Listening<'_> {
    fn stage(&self, name: &'static str) {
        self.inner.stage(name);
    }

    fn tick(&self, done: usize, total: usize) {
        self.inner.tick(done, total);
    }

    fn warn(&self, message: &str) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(message.to_owned());
        }
        self.inner.warn(message);
    }
}

/// Where the ranges of activations come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Samples: most of them calibrate, the others verify.
    Samples(&'a dyn Samples),
    /// What was learned before; samples, if there are any, verify.
    Ranges(&'a RangesFile, Option<&'a dyn Samples>),
    /// What training left in batch normalizations, and the ranges of inputs, by name, which it tells nothing of; samples,
    /// if there are any, verify. An input without a range stays float.
    Statistics(&'a BTreeMap<String, Range>, Option<&'a dyn Samples>),
}

/// Quantizes a model: prepares, calibrates, plans, inserts, and verifies by running both models.
///
/// What is quantized in the model already stays as it is, and the rest is quantized.
///
/// `model` is not changed. Errors when the model holds operators that cannot be raised to the opset that the
/// emitted nodes need, cannot be run by the engine, when samples do not fit it, and when nothing in it can be quantized.
pub fn quantize(
    model: &Model,
    samples: &dyn Samples,
    recipe: &Recipe,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Quantized> {
    quantize_from(model, Source::Samples(samples), recipe, executor, events)
}

/// As [`quantize()`], with samples or with ranges that were learned before. Without samples nothing is verified.
///
/// Errors also when the ranges are of another model, or lack a value that is needed.
pub fn quantize_from(
    model: &Model,
    source: Source<'_>,
    recipe: &Recipe,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Quantized> {
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);
    let policy = &recipe.policy;
    let mut cx = Context::new(Some(executor), &events);
    let original = modern(model);
    let decided = decide_on(model, &original, source, recipe, &mut cx, &mut clock)?;
    let Decided { prepared, plan, nodes, steps: taken, kept, rounding, split, verify, float } = decided;
    if plan.is_idle() {
        return Err(nothing_to_quantize(&nodes));
    }

    clock.stage("insert");
    let mut quantized = prepared;
    let weights = WeightFacts::of(&quantized.graph, &plan, policy)?;
    pass::run(&Insert { plan: &plan }, &mut quantized, &mut cx)?;
    if let Emit::QOperator { contrib } = policy.emit
        && pass::run(&ToQOperator { contrib }, &mut quantized, &mut cx)? == 0
    {
        events.warn("nothing could be written as an operator on codes: the model is in QDQ form");
    }
    let counts = facts::count(&plan);
    sign(&mut quantized, policy, &counts);

    if verify.is_some() {
        clock.stage("verify");
    }
    let written = read_back(quantized)?;
    let mut outputs = Vec::new();
    if let Some((samples, picks)) = &verify {
        let runner = Runner::new(executor, &written, Vec::new())?;
        outputs = compare(&float, &runner, *samples, picks, &events)?;
    }

    let report = Report {
        qdq: env!("CARGO_PKG_VERSION"),
        target: policy.target.name.clone(),
        engine: verify.is_some().then(|| executor.name()),
        opset: (model.opset(), written.opset()),
        size: (model.encoded_len(), written.encoded_len()),
        samples: (split.calibration + split.verification > 0).then_some(split),
        counts,
        nodes,
        weights,
        steps: taken,
        kept,
        rounding,
        reformed: reformed(&cx.reformed),
        skipped: std::mem::take(&mut cx.skipped),
        outputs,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Quantized { model: written, plan, report })
}

/// What is decided of a model, and nothing of it done.
struct Decided<'a> {
    prepared: Model,
    plan: Plan,
    nodes: Vec<NodeRow>,
    steps: Vec<StepRow>,
    kept: Option<KeptReport>,
    rounding: Vec<RoundRow>,
    split: Split,
    /// The samples that verify.
    verify: Option<(&'a dyn Samples, Vec<usize>)>,
    /// What runs the float model.
    float: Runner<'a>,
}

/// The way of the data up to the plan; `original` is the model as an engine takes it.
fn decide_on<'a>(
    model: &Model,
    original: &'a Model,
    source: Source<'a>,
    recipe: &Recipe,
    cx: &mut Context<'a>,
    clock: &mut Clock<'_>,
) -> Result<Decided<'a>> {
    let (policy, events) = (&recipe.policy, cx.events);
    let Some(executor) = cx.executor else { return Err(Error::new(ErrorKind::Usage, "there is no engine")) };

    let shown = matches!(source, Source::Samples(_));
    policy.check_choice(shown)?;
    policy.check_emit()?;
    clock.stage("prepare");
    let mut prepared = model.clone();
    check_patterns(model, policy, events)?;
    prepare(&mut prepared, policy.opset(), cx)?;

    let (mut steps, picks) = (policy.steps, split_of(&source));
    let picked = picks.0.clone();
    if let Source::Ranges(..) = source {
        let reshaping = [
            (&mut steps.equalize, "--equalize"),
            (&mut steps.absorb_bias, "--absorb-bias"),
            (&mut steps.smooth, "--smooth"),
        ];
        for (switch, option) in reshaping {
            if *switch == Switch::On {
                let what = "ranges that were learned before do not fit a model whose values are changed";
                return Err(Error::new(ErrorKind::Usage, what)
                    .hint(format!("leave out `{option} on`, or give samples in place of ranges")));
            }
            *switch = Switch::Off;
        }
    }
    clock.stage("reshape");
    if !policy.calibration.needs_extremes_only() || !matches!(source, Source::Samples(_)) {
        steps.limit_ranges = Switch::Off;
    }
    let trial = match (source, steps) {
        (_, Steps::NONE) => None,
        (Source::Samples(samples), _) => Some(Trial::new(original, &prepared, samples, &picks.0, policy, executor)),
        _ => None,
    };
    let mut taken = reshape::reshape(&mut prepared, policy, steps, trial, cx)?;

    clock.stage("calibrate");
    let watch = watch_list(&prepared.graph)?;
    let float = Runner::new(executor, original, Vec::new())?;
    let learned: Ranges;
    let (ranges, verify, split) = match source {
        Source::Samples(samples) => {
            let (calibration, verification, shared) = picks;
            let runner = Runner::new(executor, &prepared, watch)?;
            if let Some(&first) = calibration.first() {
                warm_up(&runner, &float, &samples.get(first).at(|| format!("sample {first}"))?);
            }
            let keep = Keep::for_method(policy.calibration);
            let mut all = calibrate(&runner, samples, &calibration, keep, events).at(|| "calibration".to_owned())?;
            if let Some(step) = taken.iter_mut().find(|s| s.step == "limit-ranges" && s.taken) {
                step.places = steps::limit(&mut all, &cx.statistics);
            }
            learned = all;
            let split = Split {
                source: samples.describe(),
                calibration: calibration.len(),
                verification: verification.len(),
                shared,
                before: false,
            };
            (&learned, Some((samples, verification)), split)
        }
        Source::Ranges(file, verify) => {
            let ranges = file.for_model(&fingerprint(model), watch.iter().map(String::as_str))?;
            let verify = verify.map(|samples| (samples, (0..samples.len()).collect::<Vec<usize>>()));
            let split = Split {
                source: verify.as_ref().map_or("learned before".to_owned(), |(samples, _)| samples.describe()),
                calibration: file.samples as usize,
                verification: verify.as_ref().map_or(0, |(_, all)| all.len()),
                shared: false,
                before: true,
            };
            (ranges, verify, split)
        }
        Source::Statistics(given, verify) => {
            learned = data_free::ranges(&prepared, &watch, given, cx)?;
            let verify = verify.map(|samples| (samples, (0..samples.len()).collect::<Vec<usize>>()));
            let split = Split {
                source: verify.as_ref().map_or("none".to_owned(), |(samples, _)| samples.describe()),
                calibration: 0,
                verification: verify.as_ref().map_or(0, |(_, all)| all.len()),
                shared: false,
                before: false,
            };
            (&learned, verify, split)
        }
    };
    for (value, stats) in ranges.iter().filter(|(_, s)| s.non_finite > 0) {
        let whose =
            prepared.graph.producer(value).map_or(String::new(), |(id, _)| format!(" of {}", prepared.graph.label(id)));
        events
            .warn(&format!("`{value}`{whose} held numbers that are not finite ({}); it stays float", stats.non_finite));
    }

    let (mut policy, mut kept) = (policy.clone(), None);
    if let (Source::Samples(samples), true) = (source, policy.choose_activations) {
        clock.stage("choose");
        let trial = Trial::new(original, &prepared, samples, &picked, &policy, executor);
        kept = Some(spare::spare(&prepared, ranges, &mut policy, trial)?);
    }
    let policy = &policy;

    clock.stage("plan");
    let mut plan = Plan::decide(&prepared.graph, ranges, policy)?;
    let nodes = facts::rows(&prepared.graph, &plan)?;
    if let Source::Statistics(given, _) = source {
        data_free::check(&prepared.graph, &plan, given, &cx.statistics)?;
    }
    let (mut weights, mut rounding) = (Reconstructed::new(), Vec::new());
    if let (Source::Samples(samples), true) = (source, policy.rounding.needs_moments()) {
        clock.stage("round");
        let corrects = taken.iter_mut().find(|s| s.step == "correct-bias");
        let source = rounding::Source { samples, picks: &picked, executor, events };
        let decide = |model: &Model, weights: &Reconstructed| Plan::decide_with(&model.graph, ranges, policy, weights);
        let partly = |weights: &Reconstructed| rounding::partly(&prepared, weights, decide, events);
        let stages = policy.stages.map(|count| rounding::Stages { count: count.get(), partly: &partly });
        (weights, rounding) =
            rounding::reconstruct(&prepared, &plan, &policy.rounding, corrects.is_some(), stages, &source)?;
        plan = Plan::decide_with(&prepared.graph, ranges, policy, &weights)?;
        // Codes that leave the mean to a bias count on it.
        corrects.into_iter().for_each(|step| step.taken = true);
    }
    if let Some(step) = taken.iter_mut().find(|s| s.step == "correct-bias" && s.taken) {
        (plan, step.places) = steps::correct(&mut prepared, plan, ranges, policy, &weights, cx)?;
    }
    Ok(Decided { prepared, plan, nodes, steps: taken, kept, rounding, split, verify, float })
}

/// The model as whoever opens the file gets it, which shares the file's bytes. One that does not fit a single file
/// stays as it is.
pub(crate) fn read_back(model: Model) -> Result<Model> {
    match model.to_bytes() {
        Ok(bytes) => Model::from_bytes(bytes.into()).at(|| "reading the written model back".to_owned()),
        Err(_) => Ok(model),
    }
}

/// Errors when a pattern of the policy means no node of the model. Nodes in functions go by the names that they have once
/// those are inlined.
fn check_patterns(model: &Model, policy: &Policy, events: &dyn Events) -> Result<()> {
    if policy.exclude.is_empty() && policy.only.is_empty() {
        return Ok(());
    }
    let mut inlined = model.clone();
    pass::run(&InlineFunctions, &mut inlined, &mut Context::new(None, events))?;
    policy.exclude.check(&inlined.graph)?;
    policy.only.check(&inlined.graph)
}

/// Makes a model ready to be quantized: the exact passes, and the opset that the emitted nodes need.
pub fn prepare(model: &mut Model, opset: i64, cx: &mut Context<'_>) -> Result<()> {
    for pass in pass::exact(opset) {
        pass::run(pass.as_ref(), model, cx)?;
    }
    Ok(())
}

/// The split of a source's samples; nothing where they only verify.
fn split_of(source: &Source<'_>) -> (Vec<usize>, Vec<usize>, bool) {
    match source {
        Source::Samples(samples) => split(samples.len()),
        _ => (Vec::new(), Vec::new(), false),
    }
}

/// Which samples calibrate and which verify: every n-th is held back, so that a folder sorted by class is split well.
fn split(count: usize) -> (Vec<usize>, Vec<usize>, bool) {
    let all: Vec<usize> = (0..count).collect();
    if count < FEW {
        return (all.clone(), all, true);
    }
    let held = (count / 5).min(HELD_BACK);
    let verification: Vec<usize> = (0..held).map(|i| (2 * i + 1) * count / (2 * held)).collect();
    let calibration = all.into_iter().filter(|i| verification.binary_search(i).is_err()).collect();
    (calibration, verification, false)
}

/// Says in the model's metadata who made it and how.
fn sign(model: &mut Model, policy: &Policy, counts: &Counts) {
    let kind = |format: crate::number::Format, symmetric: bool| {
        format!("{} {}", format.name, if symmetric { "symmetric" } else { "affine" })
    };
    model.set_metadata("qdq.version", env!("CARGO_PKG_VERSION"));
    model.set_metadata(
        "qdq.recipe",
        &format!(
            "target {}, activations {}, weights {} {} {}",
            policy.target.name,
            match (counts.pairs, counts.dynamic) {
                (0, 0) => "float".to_owned(),
                (0, _) => "uint8 affine per tensor dynamic".to_owned(),
                _ => {
                    let kind = kind(policy.activations, policy.symmetric_activations);
                    format!("{kind} per tensor {}", policy.calibration)
                }
            },
            kind(policy.weights, policy.weights.signed()),
            match policy.weight_format().share {
                Share::Tensor => "per tensor".to_owned(),
                Share::CHANNEL => "per channel".to_owned(),
                Share::Channels(count) => format!("per {count} channels"),
                Share::Block(size) => format!("per block of {size}"),
            },
            policy.weight_clip,
        ),
    );
}

fn nothing_to_quantize(nodes: &[NodeRow]) -> Error {
    let mut reasons: Vec<(String, usize)> = Vec::new();
    for node in nodes {
        let text = format!("{}: {}", node.operator, node.reason);
        match reasons.iter_mut().find(|(t, _)| *t == text) {
            Some((_, n)) => *n += 1,
            None => reasons.push((text, 1)),
        }
    }
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let already = nodes.iter().filter(|n| n.verdict == "already").count();
    if already > 0 {
        let what = format!("what can be quantized in the model is quantized already: {already} of its nodes");
        return Error::new(ErrorKind::Unsupported, what)
            .hint("to quantize it otherwise, turn it back to float first: `qdq dequantize`");
    }
    let list: Vec<String> = reasons.iter().take(5).map(|(t, n)| format!("{n} x {t}")).collect();
    Error::new(ErrorKind::Unsupported, format!("nothing in the model can be quantized ({})", list.join("; ")))
        .hint("`qdq explain` says of every node why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_hold_back_every_nth_and_share_when_there_are_few() {
        assert_eq!(split(3), (vec![0, 1, 2], vec![0, 1, 2], true));
        for count in [10, 11, 50, 100, 1000] {
            let (calibration, verification, shared) = split(count);
            assert!(!shared && verification.len() <= HELD_BACK && verification.len() * 4 <= calibration.len());
            let mut all = [calibration, verification].concat();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
