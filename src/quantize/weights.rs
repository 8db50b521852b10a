//! Quantization of weights alone: no samples, no engine, and no more memory than the largest weights take.

use super::{Clock, Listening, Quantized, Report, Split, check_patterns, facts, nothing_to_quantize, sign};
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, Scratch};
use crate::pass::{self, Context, FreezeInputs, InlineFunctions, Insert, LiftConstants, Pass, RaiseOpset, UniqueNames};
use crate::plan::{Plan, Policy, opset_of_weights};
use crate::sample::Samples;
use crate::validate::{compare, modern};

/// Stores the weights of nodes that multiply and accumulate as codes behind DequantizeLinear; everything computes in
/// float as before: float16 and bfloat16 weights have scales of their type, for which the model is raised to opset 19.
/// `model` is not changed.
///
/// With samples and an engine, the two models are run and compared; with none, nothing is run. With scratch space, codes
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
    let plan = Plan::of_weights(&quantized.graph, policy)?;
    let (counts, nodes) = (facts::count(&plan), facts::rows(&quantized.graph, &plan)?);
    if plan.is_idle() {
        return Err(nothing_to_quantize(&nodes));
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
        let all: Vec<usize> = (0..samples.len()).collect();
        outputs = compare(&runner(&original)?, &runner(&quantized)?, samples, &all, &events)?;
    }

    let report = Report {
        qdq: env!("CARGO_PKG_VERSION"),
        target: policy.target.name,
        engine: verify.map(|(_, e)| e.name()),
        opset: (model.opset(), quantized.opset()),
        size: (model.encoded_len(), quantized.encoded_len()),
        samples: verify.map(|(s, _)| Split {
            source: s.describe(),
            calibration: 0,
            verification: s.len(),
            shared: false,
            before: false,
        }),
        counts,
        nodes,
        steps: Vec::new(),
        skipped: std::mem::take(&mut cx.skipped),
        outputs,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Quantized { model: quantized, plan, report })
}
