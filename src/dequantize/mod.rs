//! The way back: from a quantized model to a float one, and what was found on the way.

mod facts;
mod tables;

use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::inspect;
use crate::model::Model;
use crate::pass::{self, Context, Ends};
use crate::quantize::{Clock, Listening, read_back};
use crate::sample::Samples;
use crate::validate::{compare, modern};

pub use facts::{Counts, Left, Report, Verified};

/// What to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recipe {
    /// What becomes of the ends of quantized ranges.
    pub ends: Ends,
}

/// A float model, and what was found on the way.
#[derive(Debug, Clone)]
pub struct Dequantized {
    /// The model, to be written.
    pub model: Model,
    /// What was found.
    pub report: Report,
}

/// Turns a quantized model back to float; with samples, runs both.
///
/// Weights become the floats that their codes stand for, operators on codes become float operators, and activations are
/// rounded no more; [`pass::dequantizing`] lists the passes. What cannot be turned back stays, and is listed with the
/// reason. Inputs and outputs of the model keep their types: where they are codes, Q and DQ stay at the border.
///
/// `model` is not changed. Errors when nothing in it is quantized, or nothing could be turned back; when a constant
/// is broken; and, with samples, when the engine cannot run one of the two.
pub fn dequantize(
    model: &Model,
    samples: Option<&dyn Samples>,
    recipe: &Recipe,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Dequantized> {
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);

    clock.stage("dequantize");
    let Some(before) = inspect::quantization(model)? else {
        return Err(Error::new(ErrorKind::Unsupported, "nothing in the model is quantized")
            .hint("`qdq inspect` shows what is in it"));
    };
    let mut float = model.clone();
    let mut cx = Context::new(Some(executor), &events);
    let mut counts = Counts::default();
    for pass in pass::dequantizing(model, recipe.ends) {
        let bounds = facts::count_bounds(&float);
        let changed = pass::run(pass.as_ref(), &mut float, &mut cx)?;
        counts.add(pass.name(), changed, facts::count_bounds(&float).saturating_sub(bounds));
    }
    let left = facts::left(&cx.skipped);
    if counts.total() == 0 {
        return Err(nothing_to_dequantize(&left));
    }
    float.set_metadata("qdq.version", env!("CARGO_PKG_VERSION"));
    float.set_metadata("qdq.recipe", "dequantized");
    let float = read_back(float)?;

    let verified = match samples {
        None => None,
        Some(samples) => {
            clock.stage("verify");
            Some(verify(&float, model, samples, executor, &events)?)
        }
    };
    let report = Report {
        qdq: env!("CARGO_PKG_VERSION"),
        styles: before.styles,
        opset: float.opset(),
        size: (model.encoded_len(), float.encoded_len()),
        nodes: (model.graph.nodes().count(), float.graph.nodes().count()),
        counts,
        left,
        verified,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Dequantized { model: float, report })
}

/// Runs samples through two models: how far the other one is from the reference.
pub(crate) fn verify(
    reference: &Model,
    other: &Model,
    samples: &dyn Samples,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Verified> {
    let (reference, other) = (modern(reference), modern(other));
    let picks: Vec<usize> = (0..samples.len()).collect();
    let runner = |model| Runner::new(executor, model, Vec::new());
    let outputs = compare(&runner(&reference)?, &runner(&other)?, samples, &picks, events)
        .map_err(|e| e.hint("leave `--data` out to write the model without running it"))?;
    Ok(Verified { engine: executor.name(), source: samples.describe(), samples: picks.len(), outputs })
}

fn nothing_to_dequantize(left: &[Left]) -> Error {
    let list: Vec<String> = left.iter().take(3).map(|l| format!("{}: {}", l.node, l.reason)).collect();
    let more = if left.len() > list.len() { format!("; and {} more", left.len() - list.len()) } else { String::new() };
    let what = format!("nothing in the model could be turned back to float ({}{more})", list.join("; "));
    Error::new(ErrorKind::Unsupported, what).hint("`qdq inspect` shows how the model is quantized")
}
