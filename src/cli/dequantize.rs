//! `qdq dequantize`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qdq::dequantize::{Recipe, dequantize};
use qdq::error::{Place, Result};
use qdq::exec::Tract;
use qdq::model::Model;
use qdq::pass::Ends;

use super::data::{HowArgs, MaskArgs};
use super::gate::Gate;
use super::memory;
use super::output;
use super::print::FormArgs;
use super::progress::Progress;
use super::write::WriteArgs;

/// Turns a quantized model back to float.
///
/// Weights become the floats that their codes stand for, operators on codes become float operators, and activations are
/// rounded no more. The ends of their ranges stay, as Relu and Clip, since a quantizer may have put a Relu or Clip
/// into them. QDQ, QOperator, dynamic and weight-only models are read. What cannot be turned back stays quantized, and is
/// listed with the reason.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct DequantizeArgs {
    /// The quantized ONNX model
    model: PathBuf,

    /// Where the float model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// Let activations pass the ends of their ranges; ranges that begin at zero become Relu
    #[arg(long)]
    open_ranges: bool,

    /// Run samples through both models, and show how far apart they are: a .npy, .npz or .safetensors file, a folder of
    /// JPEG or PNG images, a folder of ONNX test data, or random:N
    #[arg(long, value_name = "SOURCE", help_heading = "Samples")]
    data: Option<String>,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    mask: MaskArgs,

    /// Every output must reach this SQNR in dB, or qdq exits with 1
    #[arg(long, value_name = "DB", allow_hyphen_values = true, requires = "data", help_heading = "Gates")]
    min_sqnr: Option<f64>,

    #[command(flatten)]
    write: WriteArgs,

    #[command(flatten)]
    form: FormArgs,
}

const AFTER: &str = "\
Examples:
  qdq dequantize model.int8.onnx -o model.float.onnx
  qdq dequantize model.int8.onnx --data eval.npz -o model.float.onnx
  qdq dequantize model.int8.onnx --open-ranges -o model.float.onnx

Exit codes:
  0  the model was written; what is still quantized was listed
  1  a gate was missed; the model was written
  2  an error, or nothing to turn back; nothing was written";

impl DequantizeArgs {
    /// Dequantizes, writes, reports.
    pub fn run(self) -> Result<ExitCode> {
        output::check(Some(&self.model), &self.output, self.force, "codes cannot be made again from floats")?;
        let progress = Progress::new(self.form.quiet);
        let model = Model::read(&self.model)?;
        let samples = match &self.data {
            Some(source) => Some(self.how.open(source, &model, &progress)?),
            None => None,
        };
        let recipe = Recipe { ends: if self.open_ranges { Ends::Open } else { Ends::Kept } };
        let executor = self.mask.engine(Box::new(Tract), &model).at(|| format!("`{}`", self.model.display()))?;
        let outcome = dequantize(&model, samples.as_deref(), &recipe, executor.as_ref(), &progress);
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
