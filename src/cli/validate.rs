//! `qdq validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qdq::error::{Error, ErrorKind, Place, Result};
use qdq::model::Model;
use qdq::sample::labels as read_labels;
use qdq::validate::{Questions, validate};

use super::data::{DataArgs, MaskArgs};
use super::engine::EnginesArgs;
use super::gate::Gate;
use super::print::FormArgs;
use super::progress::Progress;

/// Runs a quantized model beside its float original and shows the drift.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct ValidateArgs {
    /// The float ONNX model
    float: PathBuf,

    /// The quantized ONNX model
    quantized: PathBuf,

    /// Also show the drift of every layer, worst first: its own, and all up to it
    #[arg(long)]
    layers: bool,

    /// Show only the N worst layers
    #[arg(long, value_name = "N", requires = "layers")]
    top: Option<usize>,

    /// The right class of each sample: a .npy of integers, or a .tsv of file names and classes. Measures the accuracy
    /// of both models
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    mask: MaskArgs,

    #[command(flatten)]
    engine: EnginesArgs,

    #[command(flatten)]
    gate: ValidateGate,

    #[command(flatten)]
    form: FormArgs,
}

/// Gates.
#[derive(Args)]
#[command(next_help_heading = "Gates")]
struct ValidateGate {
    /// Every output must reach this SQNR in dB, or qdq exits with 1
    #[arg(long, value_name = "DB", allow_hyphen_values = true)]
    min_sqnr: Option<f64>,

    /// At least this share of samples, in percent, must keep their top-1 class
    #[arg(long, value_name = "PERCENT")]
    min_agreement: Option<f64>,

    /// Top-1 accuracy may drop by at most this many percentage points; needs --labels
    #[arg(long, value_name = "POINTS", requires = "labels", allow_hyphen_values = true)]
    max_top1_drop: Option<f64>,
}

const AFTER: &str = "\
Examples:
  qdq validate model.onnx model.int8.onnx --data eval.npz
  qdq validate model.onnx model.int8.onnx --data eval.npz --labels eval_labels.npy --max-top1-drop 1
  qdq validate model.onnx model.int8.onnx --data eval.npz --samples 8 --layers --top 10
  qdq validate model.onnx model.int4.onnx --data eval.npz --engine both --ort-lib libonnxruntime.so

Exit codes:
  0  both models ran, and every gate was met
  1  a gate was missed
  2  an error";

impl ValidateArgs {
    /// Runs both models and reports.
    pub fn run(self) -> Result<ExitCode> {
        let (executor, deployed) = (self.engine.executor()?, self.engine.deployed()?);
        let progress = Progress::new(self.form.quiet);
        let (float, quantized) = (Model::read(&self.float)?, Model::read(&self.quantized)?);
        let samples = self.data.open(&float, &progress)?;
        let masked = |engine| self.mask.engine(engine, &float).at(|| format!("`{}`", self.float.display()));
        let (executor, deployed) = (masked(executor)?, deployed.map(masked).transpose()?);
        let labels = match &self.labels {
            Some(path) => Some(read_labels(path, samples.as_ref())?),
            None => None,
        };
        let questions = Questions { layers: self.layers, labels, deployed: deployed.as_deref() };
        let outcome = validate(&float, &quantized, samples.as_ref(), &questions, executor.as_ref(), &progress);
        progress.finish();
        let mut validation = outcome?;
        validation.worst_first(self.top);
        let gate = Gate {
            min_sqnr: self.gate.min_sqnr,
            min_agreement: self.gate.min_agreement.map(|p| p / 100.0),
            max_top1_drop: self.gate.max_top1_drop,
        };
        if gate.min_agreement.is_some() && validation.outputs.iter().all(|o| o.top1_agreement.is_none()) {
            return Err(Error::new(ErrorKind::Usage, "no output of the model is a vector of class scores")
                .hint("leave `--min-agreement` out, or use `--min-sqnr`"));
        }
        let mut missed = gate.missed(&validation.outputs, validation.accuracy.as_ref());
        if let Some(deployed) = &validation.deployed {
            let there = gate.missed(&deployed.outputs, deployed.accuracy.as_ref());
            missed.extend(there.into_iter().map(|sentence| format!("in ONNX Runtime, {sentence}")));
        }
        self.form.print(&validation, || validation.tables())?;
        Ok(Gate::verdict(&missed))
    }
}
