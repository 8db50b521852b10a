//! Quantization without ranges: of weights alone, or of activations too by the range they have in each run. No samples,
//! no engine, and no more memory than the largest weights take.

use super::rounding::{Source, Stages, partly, reconstruct};
use super::{
    Clock, Listening, Quantized, Report, Split, StepRow, WeightFacts, check_patterns, facts, nothing_to_quantize, sign,
    split,
};
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, Scratch};
use crate::pass::{
    self, CodeNoise, Context, CorrectBias, FreezeInputs, InlineFunctions, Insert, LiftConstants, Noise, Pass,
    RaiseOpset, Smooth, UniqueNames,
};
use crate::plan::{Mode, Plan, Policy, Reconstructed, Switch, opset_of_weights};
use crate::sample::Samples;
use crate::validate::{compare, modern};

/// Stores the weights of nodes that multiply and accumulate, and tables whose rows Gather picks, as codes behind
/// DequantizeLinear; everything computes in float as before: float16 and bfloat16 weights have scales of their type,
/// for which the model is raised to opset 19. [`Emit::MatMulNBits`](crate::plan::Emit::MatMulNBits) puts that operator
/// in the place of a MatMul whose weight has blocks.
/// `model` is not changed.
///
/// With samples and an engine, the two models are run and compared; with none, nothing is run. Where the policy's rounding asks
/// for what layers read, or the steps for channels to be smoothed ([`CodeNoise`], with [`Switch::On`] alone), most of the samples
/// show it and the others are compared. With scratch space, codes wait there for being written, so that memory holds the weights
/// only that are being read.
///
/// Errors when the policy asks for what cannot be ([`Policy::check_mode`]), or for channels to be smoothed and there are no
/// samples, when the model holds operators that cannot be raised to the opset that the emitted nodes need, and when there is no
/// weight to quantize.
pub fn quantize_weights(
    model: &Model,
    policy: &Policy,
    verify: Option<(&dyn Samples, &dyn Executor)>,
    scratch: Option<Scratch>,
    events: &dyn Events,
) -> Result<Quantized> {
    without_ranges(Mode::Weights, model, policy, verify, scratch, events)
}

/// As [`quantize_weights`], and lets Conv, Gemm and MatMul compute in integers: what they read is quantized by the
/// range that it has in each run, with DynamicQuantizeLinear, and multiplied by ConvInteger or MatMulInteger. Nodes
/// that have no such form, or whose weight is not float32, compute in float.
pub fn quantize_dynamic(
    model: &Model,
    policy: &Policy,
    verify: Option<(&dyn Samples, &dyn Executor)>,
    scratch: Option<Scratch>,
    events: &dyn Events,
) -> Result<Quantized> {
    without_ranges(Mode::Dynamic, model, policy, verify, scratch, events)
}

fn without_ranges(
    mode: Mode,
    model: &Model,
    policy: &Policy,
    verify: Option<(&dyn Samples, &dyn Executor)>,
    scratch: Option<Scratch>,
    events: &dyn Events,
) -> Result<Quantized> {
    policy.check_mode(mode)?;
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);

    clock.stage("prepare");
    let mut cx = Context { scratch, ..Context::new(verify.map(|(_, executor)| executor), &events) };
    let mut quantized = prepare_weights(model, policy, &mut cx)?;
    let smooths = mode == Mode::Weights && policy.steps.smooth == Switch::On;
    let picks = match verify {
        Some((samples, _)) if smooths || policy.rounding.needs_moments() => split(samples.len()),
        Some((samples, _)) => (Vec::new(), (0..samples.len()).collect(), false),
        None => (Vec::new(), Vec::new(), false),
    };

    let mut steps = Vec::new();
    if smooths {
        let Some((samples, _)) = verify else {
            let what = "`--smooth on` looks at what layers read, and no samples show it";
            return Err(Error::new(ErrorKind::Usage, what).hint("say where samples come from with `--data SOURCE`"));
        };
        clock.stage("reshape");
        let smooth = Smooth { noise: Noise::Codes(CodeNoise { policy, samples, picks: &picks.0 }) };
        let places = pass::run(&smooth, &mut quantized, &mut cx)?;
        steps.push(StepRow { step: smooth.name(), taken: places > 0, places, gain_db: None });
    }

    clock.stage("plan");
    let mut plan = Plan::of_weights(&quantized.graph, policy, mode)?;
    let (counts, nodes) = (facts::count(&plan), facts::rows(&quantized.graph, &plan)?);
    let weights = WeightFacts::of(&quantized.graph, &plan, policy)?;
    if plan.is_idle() {
        return Err(nothing_to_quantize(&nodes));
    }

    let mut rounding = Vec::new();
    if let (Some((samples, executor)), true) = (verify, policy.rounding.needs_moments()) {
        clock.stage("round");
        let source = Source { samples, picks: &picks.0, executor, events: &events };
        let corrects = policy.steps.correct_bias != Switch::Off;
        let decide = |_: &Model, weights: &Reconstructed| {
            let mut plan = plan.clone();
            plan.take_weights(&quantized.graph, weights);
            Ok(plan)
        };
        let partly = |weights: &Reconstructed| partly(&quantized, weights, decide, &events);
        let stages = policy.stages.map(|count| Stages { count: count.get(), partly: &partly });
        let (chosen, rows) = reconstruct(&quantized, &plan, &policy.rounding, corrects, stages, &source)?;
        plan.take_weights(&quantized.graph, &chosen);
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
        target: policy.target.name.clone(),
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
        weights,
        steps,
        kept: None,
        rounding,
        reformed: Vec::new(),
        skipped: std::mem::take(&mut cx.skipped),
        outputs,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Quantized { model: quantized, plan, report })
}

/// The model as its weights are looked at: nothing is folded, and its opset is the one that the emitted nodes need.
pub(super) fn prepare_weights(model: &Model, policy: &Policy, cx: &mut Context<'_>) -> Result<Model> {
    check_patterns(model, policy, cx.events)?;
    let mut model = model.clone();
    let passes: [&dyn Pass; 4] = [&FreezeInputs, &InlineFunctions, &UniqueNames, &LiftConstants];
    for pass in passes {
        pass::run(pass, &mut model, cx)?;
    }
    let to = opset_of_weights(&model.graph, policy)?;
    pass::run(&RaiseOpset { to }, &mut model, cx)?;
    Ok(model)
}
