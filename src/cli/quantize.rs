//! `qdq quantize`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use qdq::error::{Error, ErrorKind, Place, Result};
use qdq::exec::Executor;
use qdq::model::{Model, Scratch, folder_of};
use qdq::plan::{Emit, Policy};
use qdq::quantize::{Quantized, Recipe, quantize_dynamic, quantize_from, quantize_weights};
use qdq::sample::Samples;

use super::engine::EngineArgs;
use super::gate::Gate;
use super::memory;
use super::output;
use super::policy::{Mode, PolicyArgs};
use super::print::FormArgs;
use super::progress::Progress;
use super::write::WriteArgs;

/// Quantizes a float model to INT8, or fewer bits, and proves it by running both.
///
/// Calibrates with samples, decides for each node and value whether and how to quantize, inserts
/// QuantizeLinear and DequantizeLinear, writes a standard ONNX model, runs it beside the float one on samples that were
/// held back, and says how far apart they are.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct QuantizeArgs {
    /// The float ONNX model
    model: PathBuf,

    /// Where the quantized model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// The form in which what is quantized is written
    #[arg(long, value_name = "FORM", value_enum, default_value = "qdq")]
    emit: EmitForm,

    /// With `--emit qoperator`: use operators of onnxruntime's own too, such as com.microsoft.QLinearAdd
    #[arg(long)]
    contrib: bool,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    write: WriteArgs,

    #[command(flatten)]
    gate: QuantizeGate,

    #[command(flatten)]
    form: FormArgs,
}

/// The form in which what is quantized is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EmitForm {
    /// Float operators between DequantizeLinear and QuantizeLinear; the dynamic mode writes DynamicQuantizeLinear,
    /// MatMulInteger and ConvInteger
    Qdq,
    /// Operators on codes, QLinearConv and QLinearMatMul, where they fit; QDQ elsewhere
    Qoperator,
    /// With `--mode weights`, com.microsoft MatMulNBits in the place of MatMul, for ONNX Runtime; in blocks of 32
    /// unless `--block-size` says otherwise
    #[value(name = "matmulnbits")]
    MatMulNBits,
}

/// Gates.
#[derive(Args)]
#[command(next_help_heading = "Gates")]
struct QuantizeGate {
    /// Every output must reach this SQNR in dB, or qdq exits with 1
    #[arg(long, value_name = "DB", allow_hyphen_values = true)]
    min_sqnr: Option<f64>,

    /// At most this share of samples, in percent, may change their top-1 class
    #[arg(long, value_name = "PERCENT")]
    max_drop: Option<f64>,

    /// Write nothing when a gate is missed
    #[arg(long)]
    strict: bool,
}

const AFTER: &str = "\
Examples:
  qdq quantize model.onnx --data calib.npz -o model.int8.onnx
  qdq quantize model.onnx --data images/ --resize 256 --crop 224x224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o model.int8.onnx
  qdq quantize model.onnx --data calib.npy --exclude '/head/*' --min-sqnr 20 -o model.int8.onnx
  qdq quantize model.onnx --ranges ranges.json --calibration entropy -o model.int8.onnx
  qdq quantize model.onnx --data-free --input-range -2.2,2.7 -o model.int8.onnx
  qdq quantize model.onnx --mode dynamic -o model.int8.onnx
  qdq quantize huge.onnx --mode weights -o huge.int8.onnx
  qdq quantize huge.onnx --mode weights --weights uint4 --emit matmulnbits -o huge.int4.onnx
  qdq quantize model.onnx --data calib.npz --weights uint4 -o model.int4.onnx
  qdq quantize model.onnx --data calib.npz --emit qoperator --contrib -o model.qop.onnx

Exit codes:
  0  the model was written, and every gate was met
  1  a gate was missed; the model was written, unless --strict was given
  2  an error; nothing was written";

impl QuantizeArgs {
    /// Quantizes, writes, reports.
    pub fn run(self) -> Result<ExitCode> {
        output::check(Some(&self.model), &self.output, self.force, "the float model is needed to validate")?;
        let executor = self.engine.executor()?;
        let progress = Progress::new(self.form.quiet);
        let model = Model::read(&self.model)?;
        let place = || format!("`{}`", self.model.display());
        let samples = self.policy.samples(&model, &progress)?;
        let executor = self.policy.mask.engine(executor, &model).at(place)?;
        let outcome = self.quantize(&model, samples.as_deref(), executor.as_ref(), &progress);
        progress.finish();
        let mut quantized = outcome.map_err(|e| e.at(place()))?;
        let gate = Gate {
            min_sqnr: self.gate.min_sqnr,
            min_agreement: self.gate.max_drop.map(|drop| 1.0 - drop / 100.0),
            max_top1_drop: None,
        };
        let missed = gate.missed(&quantized.report.outputs, None);
        let write = missed.is_empty() || !self.gate.strict;
        if write {
            quantized.model.write(&self.output, &self.write.options())?;
        }
        quantized.report.peak_memory = memory::peak();
        let report = &quantized.report;
        self.form.print_beside(&self.output, report, || report.tables())?;
        if write && !self.form.quiet {
            eprintln!("wrote `{}`", self.output.display());
        }
        Ok(Gate::verdict(&missed))
    }

    fn emit(&self) -> Result<Emit> {
        let usage = |what: &str, way_out: &str| Err(Error::new(ErrorKind::Usage, what).hint(way_out));
        match self.emit {
            EmitForm::Qdq | EmitForm::MatMulNBits if self.contrib => {
                usage("`--contrib` says which operators on codes may be used", "give `--emit qoperator` too")
            }
            EmitForm::Qoperator if self.policy.mode == Mode::Weights => usage(
                "operators on codes take quantized activations, and `--mode weights` leaves them float",
                "leave out `--emit qoperator`, or `--mode weights`",
            ),
            EmitForm::Qoperator if self.policy.mode == Mode::Dynamic => usage(
                "the dynamic mode has operators on codes of its own: MatMulInteger and ConvInteger",
                "leave out `--emit qoperator`, or `--mode dynamic`",
            ),
            EmitForm::Qdq => Ok(Emit::Qdq),
            EmitForm::MatMulNBits => Ok(Emit::MatMulNBits),
            EmitForm::Qoperator => Ok(Emit::QOperator { contrib: self.contrib }),
        }
    }

    fn quantize(
        &self,
        model: &Model,
        samples: Option<&dyn Samples>,
        executor: &dyn Executor,
        progress: &Progress,
    ) -> Result<Quantized> {
        let mut policy = Policy { emit: self.emit()?, ..self.policy.policy()? };
        if policy.emit == Emit::MatMulNBits {
            policy.block_size = policy.block_size.or(NonZeroUsize::new(32));
        }
        if samples.is_none() && (self.gate.min_sqnr.is_some() || self.gate.max_drop.is_some()) {
            return Err(Error::new(ErrorKind::Usage, "a gate needs samples to measure by")
                .hint("say where samples come from with `--data SOURCE`"));
        }
        if self.policy.mode != Mode::Static {
            let verify = samples.map(|s| (s, executor));
            // What is verified by running it fits memory; what is not may be larger.
            let scratch = samples.is_none().then(|| Scratch::new(folder_of(&self.output)));
            return match self.policy.mode {
                Mode::Dynamic => quantize_dynamic(model, &policy, verify, scratch, progress),
                _ => quantize_weights(model, &policy, verify, scratch, progress),
            };
        }
        if policy.emit == Emit::MatMulNBits {
            return Err(Error::new(ErrorKind::Usage, "MatMulNBits reads floats, which the static mode quantizes")
                .hint("quantize `--mode weights`, or leave out `--emit matmulnbits`"));
        }
        let known = self.policy.known(model)?;
        let source = known.source(samples).ok_or_else(|| {
            let what = "activations are quantized by what samples show, and there are none";
            Error::new(ErrorKind::Usage, what)
                .hint("say where samples come from with `--data SOURCE`, go `--data-free`, or quantize `--mode dynamic` or `--mode weights`")
        })?;
        quantize_from(model, source, &Recipe { policy }, executor, progress)
    }
}
