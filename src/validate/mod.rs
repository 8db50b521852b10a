//! Drift of a quantized model against its float original, measured by running both.

mod deployed;
mod layers;
mod outputs;
mod tables;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::events::{Events, Silent};
use crate::exec::{Executor, Runner};
use crate::model::{InputSpec, Model};
use crate::pass::{self, Context, FreezeInputs, InlineFunctions, LiftConstants, Pass, RaiseOpset};
use crate::sample::Samples;

use outputs::{Sides, compare_with};

pub use deployed::{Deployed, Rewrite};
pub use layers::{LayerDrift, compare_layers};
pub use outputs::{Accuracy, OutputDrift, compare};
pub use tables::output_table;

/// What to measure beside the drift of the outputs.
#[derive(Clone, Default)]
pub struct Questions<'a> {
    /// The drift of every layer.
    pub layers: bool,
    /// The right class of each sample, to measure the accuracy of both models by their first output of scores.
    pub labels: Option<Vec<usize>>,
    /// The engine that the quantized model is deployed on: what it makes of the model, beside what the engine that runs both
    /// makes of it. That one is taken to follow the specification, as the embedded engine does.
    pub deployed: Option<&'a dyn Executor>,
}

/// What `validate` found.
#[derive(Debug, Clone, Serialize)]
pub struct Validation {
    /// The version of this library.
    pub qdq: &'static str,
    /// The engine that ran the models.
    pub engine: String,
    /// What the samples are.
    pub source: String,
    /// How many samples were run.
    pub samples: usize,
    /// Drift of each output.
    pub outputs: Vec<OutputDrift>,
    /// Accuracy of both models, where labels were given.
    pub accuracy: Option<Accuracy>,
    /// Drift of each layer, in the graph's order, where it was asked for.
    pub layers: Option<Vec<LayerDrift>>,
    /// What the engine that the model is deployed on makes of it, where it was asked for.
    pub deployed: Option<Deployed>,
}

/// Runs both models on all samples and compares them.
///
/// Errors when the models do not take the same inputs or do not give the same outputs, when samples do not fit them,
/// and when there are labels but not one for each sample, or no output that could be scores.
pub fn validate(
    float: &Model,
    quantized: &Model,
    samples: &dyn Samples,
    questions: &Questions<'_>,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Validation> {
    same_inputs(float, quantized)?;
    let picks: Vec<usize> = (0..samples.len()).collect();
    if let Some(labels) = &questions.labels
        && labels.len() != picks.len()
    {
        let what = format!("there are {} samples and {} labels", picks.len(), labels.len());
        return Err(Error::new(ErrorKind::Data, what));
    }
    events.stage("run both models");
    let float = &modern(float);
    let a = Runner::new(executor, float, Vec::new())?;
    let b = Runner::new(executor, quantized, Vec::new())?;
    let other = questions.deployed.map(|engine| Runner::new(engine, quantized, Vec::new())).transpose()?;
    let sides = Sides { float: &a, quantized: &b, deployed: other.as_ref() };
    let compared = compare_with(&sides, samples, &picks, questions.labels.as_deref(), events)?;
    let deployed = match questions.deployed.zip(compared.deployed) {
        Some((engine, found)) => Some(Deployed::new(engine, found, quantized)?),
        None => None,
    };
    let layers = match questions.layers {
        true => {
            events.stage("compare layers");
            Some(compare_layers(float, quantized, samples, &picks, executor, events)?)
        }
        false => None,
    };
    Ok(Validation {
        qdq: env!("CARGO_PKG_VERSION"),
        engine: executor.name(),
        source: samples.describe(),
        samples: picks.len(),
        outputs: compared.outputs,
        accuracy: compared.accuracy,
        layers,
        deployed,
    })
}

/// The oldest opset whose forms of operators engines are sure to know.
const MODERN: i64 = 13;

/// The same model in operators that engines know: its functions inlined, and raised to opset 13 where it is older. What
/// cannot be done is left undone.
pub fn modern(model: &Model) -> Model {
    let mut raised = model.clone();
    let mut cx = Context::new(None, &Silent);
    for pass in [&FreezeInputs as &dyn Pass, &InlineFunctions, &LiftConstants, &RaiseOpset { to: MODERN }] {
        if pass::run(pass, &mut raised, &mut cx).is_err() {
            break;
        }
    }
    raised
}

/// Errors unless the two models take inputs of the same names and types in the same order.
fn same_inputs(float: &Model, quantized: &Model) -> Result<()> {
    let (a, b) = (InputSpec::all(&float.graph)?, InputSpec::all(&quantized.graph)?);
    let key = |s: &InputSpec| (s.name.clone(), s.dtype);
    if a.iter().map(key).eq(b.iter().map(key)) {
        return Ok(());
    }
    let list = |s: &[InputSpec]| s.iter().map(InputSpec::to_string).collect::<Vec<_>>().join(", ");
    Err(Error::new(
        ErrorKind::Data,
        format!("the models take different inputs: expected `{}`, found `{}`", list(&a), list(&b)),
    )
    .hint("give the float model that the quantized one was made from"))
}
