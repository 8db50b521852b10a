//! `qdq convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use qdq::convert::{Form, convert};
use qdq::error::{Error, ErrorKind, Result};
use qdq::exec::Tract;
use qdq::model::Model;

use super::data::HowArgs;
use super::gate::Gate;
use super::memory;
use super::output;
use super::print::FormArgs;
use super::progress::Progress;
use super::write::WriteArgs;

/// Brings a quantized model from QDQ into QOperator form, or back.
///
/// In QDQ form, float operators stand between DequantizeLinear and QuantizeLinear; in QOperator form, operators such as
/// QLinearConv take codes, scales and zero points. Codes stay what they are, and outputs are the same up to how kernels
/// round. What has no such form stays as it is, and is listed with the reason: the model is valid, and in both forms.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct ConvertArgs {
    /// The quantized ONNX model
    model: PathBuf,

    /// Where the converted model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// The form of the converted model
    #[arg(long, value_name = "FORM", value_enum)]
    to: To,

    /// With `--to qoperator`: use operators of onnxruntime's own too, such as com.microsoft.QLinearAdd
    #[arg(long)]
    contrib: bool,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// Run samples through both models, and show how far apart they are: a .npy, .npz or .safetensors file, a folder of
    /// JPEG or PNG images, a folder of ONNX test data, or random:N
    #[arg(long, value_name = "SOURCE", help_heading = "Samples")]
    data: Option<String>,

    #[command(flatten)]
    how: HowArgs,

    /// Every output must reach this SQNR in dB, or qdq exits with 1
    #[arg(long, value_name = "DB", allow_hyphen_values = true, requires = "data", help_heading = "Gates")]
    min_sqnr: Option<f64>,

    #[command(flatten)]
    write: WriteArgs,

    #[command(flatten)]
    form: FormArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// Float operators between DequantizeLinear and QuantizeLinear
    Qdq,
    /// Operators on codes: QLinearConv and QLinearMatMul
    Qoperator,
}

const AFTER: &str = "\
Examples:
  qdq convert model.int8.onnx --to qoperator -o model.qop.onnx
  qdq convert model.int8.onnx --to qoperator --contrib --data eval.npz -o model.qop.onnx
  qdq convert model.qop.onnx --to qdq -o model.int8.onnx

Exit codes:
  0  the model was written; what stays in its form was listed
  1  a gate was missed; the model was written
  2  an error, or nothing to convert; nothing was written";

impl ConvertArgs {
    /// Converts, writes, reports.
    pub fn run(self) -> Result<ExitCode> {
        if self.contrib && self.to == To::Qdq {
            return Err(Error::new(ErrorKind::Usage, "`--contrib` says which operators on codes may be used")
                .hint("leave it out with `--to qdq`: all that can be turned back is turned back"));
        }
        let to = match self.to {
            To::Qdq => Form::Qdq,
            To::Qoperator => Form::QOperator { contrib: self.contrib },
        };
        output::check(Some(&self.model), &self.output, self.force, "what it was is not known afterwards")?;
        let progress = Progress::new(self.form.quiet);
        let model = Model::read(&self.model)?;
        let samples = match &self.data {
            Some(source) => Some(self.how.open(source, &model, &progress)?),
            None => None,
        };
        let outcome = convert(&model, to, samples.as_deref(), &Tract, &progress);
        progress.finish();
        let mut made = outcome.map_err(|e| e.at(format!("`{}`", self.model.display())))?;
        let gate = Gate { min_sqnr: self.min_sqnr, ..Gate::default() };
        let missed = made.report.verified.as_ref().map_or(Vec::new(), |v| gate.missed(&v.outputs, None));
        made.model.write(&self.output, &self.write.options())?;
        made.report.peak_memory = memory::peak();
        self.form.print_beside(&self.output, &made.report, || made.report.tables())?;
        if !self.form.quiet {
            eprintln!("wrote `{}`", self.output.display());
        }
        Ok(Gate::verdict(&missed))
    }
}
