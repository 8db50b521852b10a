//! `qdq convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use qdq::convert::{Form, convert, narrow};
use qdq::dequantize::Verified;
use qdq::error::{Error, ErrorKind, Result};
use qdq::exec::Tract;
use qdq::model::{Model, Scratch, folder_of};
use qdq::pass::{Narrow, Narrowing};
use qdq::plan::Patterns;
use qdq::sample::Samples;

use super::data::HowArgs;
use super::gate::Gate;
use super::memory;
use super::output;
use super::print::FormArgs;
use super::progress::Progress;
use super::write::WriteArgs;

/// Brings a quantized model from QDQ into QOperator form or back, or a float32 model into float16 or bfloat16.
///
/// In QDQ form, float operators stand between DequantizeLinear and QuantizeLinear; in QOperator form, operators such as
/// QLinearConv take codes, scales and zero points. Codes stay what they are, and outputs are the same up to how kernels
/// round. What has no such form stays as it is, and is listed with the reason: the model is valid, and in both forms.
///
/// In float16 and bfloat16, constants are rounded and values have that type; inputs and outputs of the model stay float32, and
/// so does what does not take the type, with a Cast where one type meets the other. Numbers past the range become the
/// largest of the type, and are told. With samples, values that get past the range stay float32 too.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct ConvertArgs {
    /// The ONNX model
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

    #[command(flatten)]
    narrow: NarrowArgs,

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
    /// float16: 11 bits of precision, up to 65504
    Fp16,
    /// bfloat16: 8 bits of precision, the range of float32
    Bf16,
}

impl To {
    fn narrow(self) -> Option<Narrow> {
        match self {
            To::Qdq | To::Qoperator => None,
            To::Fp16 => Some(Narrow::Float16),
            To::Bf16 => Some(Narrow::Bfloat16),
        }
    }
}

/// What stays float32.
#[derive(Args)]
#[command(next_help_heading = "With --to fp16 and --to bf16")]
struct NarrowArgs {
    /// Give inputs and outputs of the model the type too
    #[arg(long)]
    convert_io: bool,

    /// Raise the opset to N first: more operators take the type (of bfloat16, convolutions from 22 on)
    #[arg(long, value_name = "N")]
    opset: Option<i64>,

    /// Keep these nodes float32: names, or globs over them
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    exclude: Vec<String>,

    /// Keep these operators float32
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    exclude_ops: Vec<String>,
}

impl NarrowArgs {
    fn is_given(&self) -> bool {
        self.convert_io || self.opset.is_some() || !self.exclude.is_empty() || !self.exclude_ops.is_empty()
    }

    fn wish(&self, to: Narrow) -> Result<Narrowing> {
        Ok(Narrowing {
            io: self.convert_io,
            exclude: Patterns::new(&self.exclude)?,
            exclude_ops: self.exclude_ops.clone(),
            opset: self.opset,
            ..Narrowing::to(to)
        })
    }
}

const AFTER: &str = "\
Examples:
  qdq convert model.int8.onnx --to qoperator -o model.qop.onnx
  qdq convert model.int8.onnx --to qoperator --contrib --data eval.npz -o model.qop.onnx
  qdq convert model.qop.onnx --to qdq -o model.int8.onnx
  qdq convert model.onnx --to fp16 -o model.fp16.onnx
  qdq convert model.onnx --to bf16 --opset 22 --exclude-ops Softmax --data eval.npz -o model.bf16.onnx

Exit codes:
  0  the model was written; what stays in its form was listed
  1  a gate was missed; the model was written
  2  an error, or nothing to convert; nothing was written";

impl ConvertArgs {
    /// Converts, writes, reports.
    pub fn run(self) -> Result<ExitCode> {
        if self.contrib && self.to != To::Qoperator {
            return Err(Error::new(ErrorKind::Usage, "`--contrib` says which operators on codes may be used")
                .hint("leave it out where there are to be none: `--to qdq` turns back all that can be turned back"));
        }
        if self.narrow.is_given() && self.to.narrow().is_none() {
            let what =
                "`--convert-io`, `--opset`, `--exclude` and `--exclude-ops` say what becomes float16 or bfloat16";
            return Err(Error::new(ErrorKind::Usage, what).hint("leave them out, or give `--to fp16` or `--to bf16`"));
        }
        output::check(Some(&self.model), &self.output, self.force, "what it was is not known afterwards")?;
        let progress = Progress::new(self.form.quiet);
        let model = Model::read(&self.model)?;
        let samples = match &self.data {
            Some(source) => Some(self.how.open(source, &model, &progress)?),
            None => None,
        };
        let samples = samples.as_deref();
        let form = match self.to {
            To::Qoperator => Form::QOperator { contrib: self.contrib },
            _ => Form::Qdq,
        };
        match self.to.narrow() {
            Some(to) => self.narrow(&model, &self.narrow.wish(to)?, samples, &progress),
            None => self.reform(&model, form, samples, &progress),
        }
    }

    fn reform(&self, model: &Model, to: Form, samples: Option<&dyn Samples>, progress: &Progress) -> Result<ExitCode> {
        let outcome = convert(model, to, samples, &Tract, progress);
        progress.finish();
        let mut made = outcome.map_err(|e| e.at(format!("`{}`", self.model.display())))?;
        made.report.peak_memory = memory::peak();
        let missed = self.missed(made.report.verified.as_ref());
        made.model.write(&self.output, &self.write.options())?;
        self.form.print_beside(&self.output, &made.report, || made.report.tables())?;
        Ok(self.wrote(&missed))
    }

    fn narrow(
        &self,
        model: &Model,
        wish: &Narrowing,
        samples: Option<&dyn Samples>,
        progress: &Progress,
    ) -> Result<ExitCode> {
        let scratch = samples.is_none().then(|| Scratch::new(folder_of(&self.output)));
        let outcome = narrow(model, wish, samples, scratch, &Tract, progress);
        progress.finish();
        let mut made = outcome.map_err(|e| e.at(format!("`{}`", self.model.display())))?;
        made.report.peak_memory = memory::peak();
        let missed = self.missed(made.report.verified.as_ref());
        made.model.write(&self.output, &self.write.options())?;
        self.form.print_beside(&self.output, &made.report, || made.report.tables())?;
        Ok(self.wrote(&missed))
    }

    fn missed(&self, verified: Option<&Verified>) -> Vec<String> {
        let gate = Gate { min_sqnr: self.min_sqnr, ..Gate::default() };
        verified.map_or(Vec::new(), |v| gate.missed(&v.outputs, None))
    }

    fn wrote(&self, missed: &[String]) -> ExitCode {
        if !self.form.quiet {
            eprintln!("wrote `{}`", self.output.display());
        }
        Gate::verdict(missed)
    }
}
