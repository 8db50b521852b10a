//! From float32 to float16 or bfloat16.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::calibrate::{Keep, calibrate};
use crate::dequantize::{Verified, verify};
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, Scratch, dtype_name};
use crate::pass::{self, Context, Narrow, Narrowing, Rounded, Skipped};
use crate::quantize::{Clock, Listening, Stage, read_back};
use crate::sample::Samples;
use crate::validate::modern;

/// A model in a narrow type, and what was found on the way.
#[derive(Debug, Clone)]
pub struct Narrowed {
    /// The model, to be written.
    pub model: Model,
    /// What was found.
    pub report: NarrowReport,
}

/// What came of narrowing a model.
#[derive(Debug, Clone, Serialize)]
pub struct NarrowReport {
    /// The version of this library.
    pub qdq: &'static str,
    /// The type that was asked for.
    pub to: &'static str,
    /// The opset before and after.
    pub opset: (i64, i64),
    /// Bytes of the model before and after.
    pub size: (usize, usize),
    /// Nodes before and after.
    pub nodes: (usize, usize),
    /// How many nodes compute in the type, by operator.
    pub converted: BTreeMap<String, usize>,
    /// Casts that were put in, and such as were taken out.
    pub casts: (usize, usize),
    /// The constants that were rounded: how many, and what was lost of them together.
    pub constants: (usize, Rounded),
    /// Constants with numbers past the range of the type.
    pub overflowed: Vec<Rounded>,
    /// What stays float32, and why.
    pub left: Vec<Skipped>,
    /// The drift of the converted model against the given one, where samples were given.
    pub verified: Option<Verified>,
    /// Time of each stage, in seconds.
    pub stages: Vec<Stage>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The most memory the process had, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// Brings a float32 model into float16 or bfloat16, as [`pass::narrow`] does; with samples, runs both models, and of the
/// narrow one rounds every value to its type. What gets past half of the range of float16 on the samples stays float32.
///
/// `scratch` is where constants wait to be written, if not in memory. `model` is not changed. Errors as [`pass::narrow`],
/// and with samples when the engine cannot run one of the two.
pub fn narrow(
    model: &Model,
    wish: &Narrowing,
    samples: Option<&dyn Samples>,
    scratch: Option<Scratch>,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Narrowed> {
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);

    let mut wish = wish.clone();
    if let Some(samples) = samples.filter(|_| wish.to == Narrow::Float16) {
        clock.stage("look");
        wish.seen = extremes(model, samples, executor, &events)?;
    }
    clock.stage("convert");
    let mut converted = model.clone();
    let mut cx = Context::new(Some(executor), &events);
    cx.scratch = scratch;
    let made = pass::narrow(&mut converted, &wish, &mut cx)?;
    converted.set_metadata("qdq.version", env!("CARGO_PKG_VERSION"));
    let converted = read_back(converted)?;

    let verified = match samples {
        None => None,
        Some(samples) => {
            clock.stage("verify");
            Some(verify(model, &pass::rounding(&modern(&converted))?, samples, executor, &events)?)
        }
    };
    let all = made.rounded.iter().cloned().fold(Rounded::default(), Rounded::with);
    let mut overflowed: Vec<Rounded> = made.rounded.iter().filter(|r| r.overflowed > 0).cloned().collect();
    overflowed.sort_by(|a, b| b.overflowed.cmp(&a.overflowed).then_with(|| a.name.cmp(&b.name)));
    if let Some(worst) = overflowed.first() {
        events.warn(&format!(
            "{} numbers of {} constants are past the range of {} and became its largest number ({}), {} of `{}`",
            all.overflowed,
            overflowed.len(),
            dtype_name(wish.to.dtype()),
            wish.to.largest(),
            worst.overflowed,
            worst.name,
        ));
    }
    let report = NarrowReport {
        qdq: env!("CARGO_PKG_VERSION"),
        to: dtype_name(wish.to.dtype()),
        opset: (model.opset(), converted.opset()),
        size: (model.encoded_len(), converted.encoded_len()),
        nodes: (model.graph.nodes().count(), converted.graph.nodes().count()),
        converted: made.converted,
        casts: (made.casts, made.dropped),
        constants: (made.rounded.len(), all),
        overflowed,
        left: made.wide,
        verified,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Narrowed { model: converted, report })
}

/// The least and the greatest number of every value on samples; bodies are not looked into.
fn extremes(
    model: &Model,
    samples: &dyn Samples,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<HashMap<String, (f32, f32)>> {
    let model = modern(model);
    let values = model.graph.nodes().flat_map(|(_, n)| n.output.clone()).filter(|o| !o.is_empty());
    let watch: Vec<String> = model.graph.inputs().iter().map(|v| v.name().to_owned()).chain(values).collect();
    let runner = Runner::new(executor, &model, watch)?;
    let picks: Vec<usize> = (0..samples.len()).collect();
    let ranges = calibrate(&runner, samples, &picks, Keep::Extremes, events)?;
    Ok(ranges.iter().filter_map(|(name, stats)| Some((name.to_owned(), (stats.min?, stats.max?)))).collect())
}
