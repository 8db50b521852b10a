//! Quantization of weights alone: no samples, no engine, and no more memory than the largest weights take.

use super::rounding::{Source, Stages, partly, reconstruct};
use super::{Clock, Listening, Quantized, Report, Split, check_patterns, facts, nothing_to_quantize, sign, split};
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, Scratch};
use crate::pass::{
    self, Context, CorrectBias, FreezeInputs, InlineFunctions, Insert, LiftConstants, Pass, RaiseOpset, UniqueNames,
};
use crate::plan::{Plan, Policy, Reconstructed, Switch, opset_of_weights};
use crate::sample::Samples;
use crate::validate::{compare, modern};

/// Stores the weights of nodes that multiply and accumulate as codes behind DequantizeLinear; everything computes in
/// float as before: float16 and bfloat16 weights have scales of their type, for which the model is raised to opset 19.
/// `model` is not changed.
///
/// With samples and an engine, the two models are run and compared; with none, nothing is run. Where the policy's rounding asks
/// for what layers read, most of the samples show it and the others are compared. With scratch space, codes
/// wait there for being written, so that memory holds the weights only that are being read.
///
/// Errors when the model holds operators that cannot be raised to the opset that the emitted nodes need, and when
/// there is no weight to quantize.
pub fn quantize_weights(
    model: &Model,
    policy: &Policy,
    verify: Option<(&dyn Samples, &dyn Executor)>,
    scratch: Option<Scratch>,
    events: &dyn Events,
) -> Result<Quantized> {
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);

    clock.stage("prepare");
    check_patterns(model, policy, &events)?;
    let mut quantized = model.clone();
    let mut cx = Context { scratch, ..Context::new(None, &events) };
    let passes: [&dyn Pass; 4] = [&FreezeInputs, &InlineFunctions, &UniqueNames, &LiftConstants];
    for pass in passes {
        pass::run(pass, &mut quantized, &mut cx)?;
    }
    let to = opset_of_weights(&quantized.graph, policy)?;
    pass::run(&RaiseOpset { to }, &mut quantized, &mut cx)?;

    clock.stage("plan");
    let mut plan = Plan::of_weights(&quantized.graph, policy)?;
    let (counts, nodes) = (facts::count(&plan), facts::rows(&quantized.graph, &plan)?);
    if plan.is_idle() {
        return Err(nothing_to_quantize(&nodes));
    }

    let picks = match verify {
        Some((samples, _)) if policy.rounding.needs_moments() => split(samples.len()),
        Some((samples, _)) => (Vec::new(), (0..samples.len()).collect(), false),
        None => (Vec::new(), Vec::new(), false),
    };
    let mut rounding = Vec::new();
    if let (Some((samples, executor)), true) = (verify, policy.rounding.needs_moments()) {
        clock.stage("round");
        let source = Source { samples, picks: &picks.0, executor, events: &events };
        let corrects = policy.steps.correct_bias != Switch::Off;
        let decide = |_: &Model, weights: &Reconstructed| {
            let mut plan = plan.clone();
            plan.take_weights(weights);
            Ok(plan)
        };
        let partly = |weights: &Reconstructed| partly(&quantized, weights, decide, &events);
        let stages = policy.stages.map(|count| Stages { count: count.get(), partly: &partly });
        let (weights, rows) = reconstruct(&quantized, &plan, &policy.rounding, corrects, stages, &source)?;
        plan.take_weights(&weights);
        rounding = rows;
        if corrects {
            pass::run(&CorrectBias { plan: &plan }, &mut quantized, &mut cx)?;
        }
    }

    clock.stage("insert");
    pass::run(&Insert { plan: &plan }, &mut quantized, &mut cx)?;
    sign(&mut quantized, policy, &counts);

    let mut outputs = Vec::new();
    if let Some((samples, executor)) = verify {
        clock.stage("verify");
        quantized = super::read_back(quantized)?;
        let original = modern(model);
        let runner = |model| Runner::new(executor, model, Vec::new());
        outputs = compare(&runner(&original)?, &runner(&quantized)?, samples, &picks.1, &events)?;
    }

    let report = Report {
        qdq: env!("CARGO_PKG_VERSION"),
        target: policy.target.name,
        engine: verify.map(|(_, e)| e.name()),
        opset: (model.opset(), quantized.opset()),
        size: (model.encoded_len(), quantized.encoded_len()),
        samples: verify.map(|(s, _)| Split {
            source: s.describe(),
            calibration: picks.0.len(),
            verification: picks.1.len(),
            shared: picks.2,
            before: false,
        }),
        counts,
        nodes,
        steps: Vec::new(),
        rounding,
        skipped: std::mem::take(&mut cx.skipped),
        outputs,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Quantized { model: quantized, plan, report })
}
