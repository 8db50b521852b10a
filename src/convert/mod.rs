//! From one form of a quantized model to the other, and from float32 to narrower floats; what was found on the way.

mod facts;
mod narrow;
mod tables;

use crate::dequantize::verify;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::exec::Executor;
use crate::inspect;
use crate::model::Model;
use crate::pass::{self, Context, FreezeInputs, LiftConstants, Pass, Skipped, ToQOperator, ToQdq};
use crate::quantize::{Clock, Listening, read_back, reformed};
use crate::sample::Samples;

pub use facts::Report;
pub use narrow::{NarrowReport, Narrowed, narrow};

/// The form of a quantized model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Float operators between DequantizeLinear and QuantizeLinear.
    Qdq,
    /// Operators that compute on codes: those of ONNX's own domain, and if `contrib` onnxruntime's too.
    QOperator {
        /// Whether onnxruntime's own operators may be used.
        contrib: bool,
    },
}

impl Form {
    /// The name users know.
    pub fn name(self) -> &'static str {
        match self {
            Form::Qdq => "QDQ",
            Form::QOperator { contrib: false } => "QOperator",
            Form::QOperator { contrib: true } => "QOperator, with operators of onnxruntime's own",
        }
    }
}

/// A converted model, and what was found on the way.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The model, to be written.
    pub model: Model,
    /// What was found.
    pub report: Report,
}

/// Brings a quantized model into another form; with samples, runs both.
///
/// Codes, scales and zero points stay what they are, so the outputs do too, but for how kernels round: an operator on codes
/// rounds the sums once, and may round a tie, or what floats cannot hold, to the neighbouring code. What has no such form
/// stays as it is, and is listed with the reason: a model may be in both forms.
///
/// `model` is not changed. Errors when nothing in it is quantized, or nothing could be converted; when a constant is broken;
/// and, with samples, when the engine cannot run one of the two.
pub fn convert(
    model: &Model,
    to: Form,
    samples: Option<&dyn Samples>,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Converted> {
    let events = Listening::new(events);
    let mut clock = Clock::new(&events);

    clock.stage("convert");
    let Some(before) = inspect::quantization(model)? else {
        return Err(Error::new(ErrorKind::Unsupported, "nothing in the model is quantized")
            .hint("`qdq quantize --emit qoperator` quantizes a float model"));
    };
    let mut converted = model.clone();
    let mut cx = Context::new(Some(executor), &events);
    // Constants are initializers, and no inputs, from here on.
    for pass in [&FreezeInputs as &dyn Pass, &LiftConstants] {
        pass::run(pass, &mut converted, &mut cx)?;
    }
    cx.skipped.clear();
    let changed = match to {
        Form::Qdq => pass::run(&ToQdq, &mut converted, &mut cx)?,
        Form::QOperator { contrib } => pass::run(&ToQOperator { contrib }, &mut converted, &mut cx)?,
    };
    if changed == 0 {
        return Err(nothing_to_convert(to, &cx.skipped));
    }
    converted.set_metadata("qdq.version", env!("CARGO_PKG_VERSION"));
    let converted = read_back(converted)?;

    let verified = match samples {
        None => None,
        Some(samples) => {
            clock.stage("verify");
            Some(verify(model, &converted, samples, executor, &events)?)
        }
    };
    let styles = inspect::quantization(&converted)?.map_or(Vec::new(), |after| after.styles);
    let report = Report {
        qdq: env!("CARGO_PKG_VERSION"),
        to: to.name(),
        styles: (before.styles, styles),
        opset: converted.opset(),
        size: (model.encoded_len(), converted.encoded_len()),
        nodes: (model.graph.nodes().count(), converted.graph.nodes().count()),
        converted: reformed(&cx.reformed),
        left: std::mem::take(&mut cx.skipped),
        verified,
        stages: clock.finish(),
        warnings: events.into_warnings(),
        peak_memory: None,
    };
    Ok(Converted { model: converted, report })
}

fn nothing_to_convert(to: Form, left: &[Skipped]) -> Error {
    let list: Vec<String> = left.iter().take(3).map(|l| format!("{}: {}", l.node, l.reason)).collect();
    let why = match left.len().saturating_sub(list.len()) {
        _ if list.is_empty() => String::new(),
        0 => format!(" ({})", list.join("; ")),
        more => format!(" ({}; and {more} more)", list.join("; ")),
    };
    let what = format!("nothing in the model could be brought into the form {}{why}", to.name());
    Error::new(ErrorKind::Unsupported, what).hint(match to {
        Form::QOperator { contrib: false } => {
            "`--contrib` allows operators of onnxruntime's own; `qdq inspect` shows how the model is quantized"
        }
        _ => "`qdq inspect` shows how the model is quantized",
    })
}
